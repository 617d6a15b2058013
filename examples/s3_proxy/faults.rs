//! What goes wrong, and for which requests: rules that are told over the control port.
//!
//! Which of its requests a rule meets follows from the seed and their number alone, so that a run
//! with the same order of requests is the same run.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::counts::Kind;

/// Bodies up to this are remembered for [`Fault::Stale`]: heads are smaller.
pub const REMEMBERED_BYTES_MAX: u64 = 1 << 20;

/// Most objects that are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// What goes wrong with one request.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The proxy answers so, and the server sees nothing.
    Answer { status: u16, code: String },
    /// The server does it, and the proxy answers so.
    AnswerAfter { status: u16, code: String },
    /// The connection is reset before the server sees anything.
    Reset,
    /// The server does it, and the connection is reset instead of an answer.
    LostAnswer,
    /// It is never answered, and the server sees nothing.
    Hang,
    /// The answer comes so much later.
    Latency { millis: u64 },
    /// The bodies of the request and of its answer pass at this rate.
    Slow { bytes_per_sec: u64 },
    /// The connection is reset after so many bytes of the answer's body.
    CutAnswer { after: u64 },
    /// The answer's body ends after so many bytes, and its length says so.
    TruncateAnswer { after: u64 },
    /// A bit of the answer's byte at this offset (modulo its length) is flipped.
    FlipAnswer { at: u64 },
    /// The connection is reset after so many bytes of the request's body.
    CutUpload { after: u64 },
    /// A bit of the request's byte at this offset (modulo its length) is flipped.
    FlipUpload { at: u64 },
    /// The answer has the ETag of another body.
    WrongEtag,
    /// The server gets the request twice: again at once, and the second answer is the client's;
    /// or so much later, when the client has the first one's.
    Twice { later_millis: u64 },
    /// For so long after its PUT an object reads as it was before. Only a request that such a
    /// past is there for is met.
    Stale { millis: u64 },
}

/// Which requests a fault meets.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Of these kinds; none: of all.
    #[serde(default)]
    pub kinds: Vec<Kind>,
    /// Whose path holds this.
    #[serde(default)]
    pub path: String,
    /// Signed with this access key; empty: with any.
    #[serde(default)]
    pub access_key: String,
    /// So many that match pass before.
    #[serde(default)]
    pub skip: u64,
    /// So many are met; 0: no limit.
    #[serde(default)]
    pub times: u64,
    /// Of 1,000 that are due so many are met.
    #[serde(default = "always")]
    pub per_mille: u64,
    pub fault: Fault,
}

fn always() -> u64 {
    1000
}

/// A request, as far as rules look at it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub kind: Kind,
    pub path: &'a str,
    pub access_key: &'a str,
}

/// What a rule has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    pub matched: u64,
    pub met: u64,
}

/// The rules in force, and whether the server is there at all.
#[derive(Debug)]
pub struct Faults {
    rules: Mutex<Rules>,
    away: watch::Sender<bool>,
    memory: Mutex<HashMap<String, Remembered>>,
}

#[derive(Debug, Default)]
struct Rules {
    seed: u64,
    list: Vec<(Rule, Seen)>,
}

/// An object that was put while its past was wanted.
#[derive(Debug)]
struct Remembered {
    at: Instant,
    now: Option<Version>,
    before: Option<Version>,
}

/// An object's content, its ETag, and when it was put by the server's clock, as HTTP has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    pub bytes: Bytes,
    pub etag: String,
    pub date: String,
}

/// How an object reads that was changed a moment ago.
#[derive(Debug, PartialEq)]
pub enum Past {
    /// Not there.
    Absent,
    /// As it was.
    Was(Version),
}

impl Default for Faults {
    fn default() -> Faults {
        let away = watch::Sender::new(false);
        Faults { rules: Mutex::default(), away, memory: Mutex::default() }
    }
}

impl Faults {
    /// These rules instead of all others.
    pub fn set(&self, seed: u64, rules: Vec<Rule>) {
        let list = rules.into_iter().map(|rule| (rule, Seen::default())).collect();
        *self.rules.lock() = Rules { seed, list };
        self.memory.lock().clear();
    }

    /// What each rule has seen, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.rules.lock().list.iter().map(|(_, seen)| *seen).collect()
    }

    /// While away nothing listens, and connections that there were are reset.
    pub fn set_away(&self, away: bool) {
        self.away.send_replace(away);
    }

    pub fn away(&self) -> watch::Receiver<bool> {
        self.away.subscribe()
    }

    /// What happens to this request: what the first rule says that is due.
    pub fn decide(&self, asked: Asked<'_>) -> Option<Fault> {
        let rules = &mut *self.rules.lock();
        let mut chosen = None;
        for (number, (rule, seen)) in rules.list.iter_mut().enumerate() {
            if !rule.matches(asked) {
                continue;
            }
            seen.matched += 1;
            let is_due = seen.matched > rule.skip && (rule.times == 0 || seen.met < rule.times);
            let lot = scatter(rules.seed ^ scatter((number as u64) << 32 | seen.matched)) % 1000;
            let is_possible = match rule.fault {
                Fault::Stale { millis } => self.past(asked.path, millis).is_some(),
                _ => true,
            };
            if chosen.is_none() && is_due && lot < rule.per_mille && is_possible {
                seen.met += 1;
                chosen = Some(rule.fault.clone());
            }
        }
        chosen
    }

    /// Whether puts are to be remembered.
    pub fn remembers(&self) -> bool {
        let rules = self.rules.lock();
        rules.list.iter().any(|(rule, _)| matches!(rule.fault, Fault::Stale { .. }))
    }

    /// An object was put; without its version if it was too large to be kept.
    pub fn remember(&self, path: &str, version: Option<Version>) {
        let mut memory = self.memory.lock();
        let before = memory.remove(path).and_then(|old| old.now);
        if memory.len() < REMEMBERED_MAX {
            let at = Instant::now();
            memory.insert(path.to_owned(), Remembered { at, now: version, before });
        }
    }

    /// How an object reads for somebody who is `millis` late; none: as it is.
    pub fn past(&self, path: &str, millis: u64) -> Option<Past> {
        let memory = self.memory.lock();
        let found = memory.get(path)?;
        if found.at.elapsed() >= Duration::from_millis(millis) {
            return None;
        }
        Some(found.before.clone().map_or(Past::Absent, Past::Was))
    }
}

impl Rule {
    fn matches(&self, asked: Asked<'_>) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&asked.kind))
            && asked.path.contains(&self.path)
            && (self.access_key.is_empty() || self.access_key == asked.access_key)
    }
}

/// SplitMix64 (Steele et al., OOPSLA 2014).
fn scatter(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod unit {
    use super::*;

    fn rule(text: &str) -> Rule {
        serde_json::from_str(text).unwrap()
    }

    fn get(path: &str) -> Asked<'_> {
        Asked { kind: Kind::Get, path, access_key: "old" }
    }

    #[test]
    fn rules_count_what_they_match_and_the_first_that_is_due_decides() {
        let faults = Faults::default();
        faults.set(
            1,
            vec![
                rule(
                    r#"{"kinds": ["get"], "path": "packs/", "skip": 1, "times": 2,
                         "fault": {"answer": {"status": 503, "code": "SlowDown"}}}"#,
                ),
                rule(r#"{"access_key": "old", "fault": "reset"}"#),
            ],
        );
        let slow_down = Fault::Answer { status: 503, code: "SlowDown".to_owned() };
        assert_eq!(faults.decide(get("/b/packs/1")), Some(Fault::Reset), "skipped by the first");
        assert_eq!(faults.decide(get("/b/head")), Some(Fault::Reset));
        assert_eq!(faults.decide(get("/b/packs/1")), Some(slow_down.clone()));
        assert_eq!(faults.decide(get("/b/packs/2")), Some(slow_down));
        assert_eq!(faults.decide(get("/b/packs/3")), Some(Fault::Reset), "twice is enough");
        let other = Asked { kind: Kind::Put, path: "/b/packs/1", access_key: "new" };
        assert_eq!(faults.decide(other), None);
        let seen = faults.seen();
        assert_eq!(seen, [Seen { matched: 4, met: 2 }, Seen { matched: 5, met: 3 }]);
        faults.set(1, Vec::new());
        assert_eq!(faults.decide(get("/b/packs/1")), None);
    }

    #[test]
    fn a_share_of_requests_is_met_as_the_seed_says() {
        let met = |seed| {
            let faults = Faults::default();
            faults.set(seed, vec![rule(r#"{"per_mille": 300, "fault": "hang"}"#)]);
            (0..1000).map(|_| faults.decide(get("/b/k")).is_some()).collect::<Vec<_>>()
        };
        let count = met(7).iter().filter(|met| **met).count();
        assert!((250..350).contains(&count), "{count}");
        assert_eq!(met(7), met(7));
        assert_ne!(met(7), met(8));
    }

    #[test]
    fn an_object_reads_as_it_was_for_a_while() {
        let faults = Faults::default();
        faults.set(1, vec![rule(r#"{"kinds": ["get"], "fault": {"stale": {"millis": 5}}}"#)]);
        assert!(faults.remembers());
        let version = |text: &'static str| Version {
            bytes: Bytes::from_static(text.as_bytes()),
            etag: text.to_owned(),
            date: String::new(),
        };
        const LATE: u64 = 3_600_000;
        assert_eq!(faults.past("/b/head", LATE), None, "nothing was put");
        faults.set(1, vec![rule(r#"{"fault": {"stale": {"millis": 3600000}}}"#)]);
        assert_eq!(faults.decide(get("/b/head")), None, "it has no past");
        assert_eq!(faults.seen(), [Seen { matched: 1, met: 0 }]);
        faults.remember("/b/head", Some(version("one")));
        assert_eq!(faults.decide(get("/b/head")), Some(Fault::Stale { millis: LATE }));
        assert_eq!(faults.seen(), [Seen { matched: 2, met: 1 }]);
        assert_eq!(faults.past("/b/head", LATE), Some(Past::Absent));
        faults.remember("/b/head", Some(version("two")));
        assert_eq!(faults.past("/b/head", LATE), Some(Past::Was(version("one"))));
        assert_eq!(faults.past("/b/head", 0), None, "long ago");
    }
}
