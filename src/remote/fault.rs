//! A store that fails as it is told, for tests.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::counting::Op;
use super::jitter::Jitter;
use super::{
    ConditionStyle, Object, ObjectMeta, ObjectStore, PutMode, RemoteError, Stored, Version,
};

/// What goes wrong with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It fails before the store did anything.
    Unavailable,
    /// The store does it and the answer is lost: ambiguous for a conditional put.
    LostAnswer,
    /// The store says this instead of doing it.
    Answer(RemoteError),
    /// It takes this much longer.
    Latency(Duration),
    /// It waits until the store is healed, and is done then.
    Hold,
    /// It is never answered and not applied.
    Hang,
    /// It is applied and never answered.
    HangAfter,
    /// A GET's body ends after so many bytes.
    Truncate(usize),
    /// A bit of a GET's body at this offset (modulo its length) is flipped.
    Corrupt(usize),
    /// A PUT's condition is ignored.
    Unconditional,
    /// A PUT or GET is answered with a version that no object has.
    WrongVersion,
}

/// Which requests a fault meets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct When {
    /// Only this kind; none: all.
    pub op: Option<Op>,
    /// Only keys that contain this.
    pub key: String,
    /// So many matching requests pass before.
    pub skip: u64,
    /// So many are met; 0: all from then on.
    pub times: u64,
}

impl When {
    /// The next request of this kind whose key contains `part`.
    #[must_use]
    pub fn next(op: Op, part: &str) -> When {
        When { op: Some(op), key: part.to_owned(), skip: 0, times: 1 }
    }

    /// Every request of this kind whose key contains `part`.
    #[must_use]
    pub fn every(op: Op, part: &str) -> When {
        When { times: 0, ..When::next(op, part) }
    }
}

/// Fails as scripted. Rules are tried in the order in which they were added; each counts the
/// requests that it matches, and the first that is due decides.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    rules: Mutex<Vec<Rule>>,
    outage: AtomicBool,
    random: Jitter,
    /// Of 1,000 requests so many fail at random.
    random_per_mille: AtomicU64,
    injected: AtomicU64,
    /// Counts the heals, for those that wait for one.
    heals: watch::Sender<u64>,
}

#[derive(Debug)]
struct Rule {
    when: When,
    fault: Fault,
    seen: u64,
}

impl FaultStore {
    /// Passes everything to `inner` until told otherwise. The seed decides about the random
    /// faults only.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64) -> Arc<FaultStore> {
        Arc::new(FaultStore {
            inner,
            rules: Mutex::default(),
            outage: AtomicBool::new(false),
            random: Jitter::new(seed),
            random_per_mille: AtomicU64::new(0),
            injected: AtomicU64::new(0),
            heals: watch::Sender::new(0),
        })
    }

    /// Adds a rule.
    pub fn inject(&self, when: When, fault: Fault) {
        self.rules.lock().push(Rule { when, fault, seen: 0 });
    }

    /// Forgets all rules, random faults and the outage.
    pub fn heal(&self) {
        self.rules.lock().clear();
        self.set_random(0);
        self.set_outage(false);
        self.heals.send_modify(|heals| *heals += 1);
    }

    /// While on, every request fails before the store sees it.
    pub fn set_outage(&self, on: bool) {
        self.outage.store(on, Relaxed);
    }

    /// Lets so many of 1,000 requests fail, half before and half after the store did them.
    pub fn set_random(&self, per_mille: u64) {
        self.random_per_mille.store(per_mille, Relaxed);
    }

    /// Faults that have happened.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.injected.load(Relaxed)
    }

    fn decide(&self, op: Op, key: &str) -> Option<Fault> {
        let fault = self.outage.load(Relaxed).then_some(Fault::Unavailable);
        let fault = fault.or_else(|| self.scripted(op, key)).or_else(|| self.at_random());
        if fault.is_some() {
            self.injected.fetch_add(1, Relaxed);
        }
        fault
    }

    fn scripted(&self, op: Op, key: &str) -> Option<Fault> {
        let mut rules = self.rules.lock();
        let mut chosen = None;
        for rule in rules.iter_mut() {
            let When { op: only, key: part, skip, times } = &rule.when;
            if only.is_some_and(|only| only != op) || !key.contains(part.as_str()) {
                continue;
            }
            rule.seen += 1;
            let due = rule.seen > *skip && (*times == 0 || rule.seen <= skip + times);
            if due && chosen.is_none() {
                chosen = Some(rule.fault.clone());
            }
        }
        chosen
    }

    /// Whether a rule still holds requests of this key.
    fn is_held(&self, key: &str) -> bool {
        let rules = self.rules.lock();
        rules.iter().any(|rule| rule.fault == Fault::Hold && key.contains(rule.when.key.as_str()))
    }

    fn at_random(&self) -> Option<Fault> {
        let per_mille = self.random_per_mille.load(Relaxed);
        if per_mille == 0 || self.random.number() % 1000 >= per_mille {
            return None;
        }
        let before = self.random.number().is_multiple_of(2);
        Some(if before { Fault::Unavailable } else { Fault::LostAnswer })
    }

    /// One request with what was decided about it. `lost` is what a lost answer looks like.
    async fn faulty<T>(
        &self,
        fault: Option<Fault>,
        lost: RemoteError,
        key: &str,
        request: impl Future<Output = Result<T, RemoteError>> + Send,
    ) -> Result<T, RemoteError> {
        match fault {
            Some(Fault::Unavailable) => Err(RemoteError::transient(key, "injected failure")),
            Some(Fault::Answer(error)) => Err(error),
            Some(Fault::LostAnswer) => request.await.and(Err(lost)),
            Some(Fault::Latency(time)) => {
                tokio::time::sleep(time).await;
                request.await
            }
            Some(Fault::Hold) => {
                // From when the rule was met: a heal since then has emptied the rules before it
                // counted itself.
                let mut heals = self.heals.subscribe();
                if self.is_held(key) {
                    // The sender is this store's own.
                    let _ = heals.changed().await;
                }
                request.await
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::HangAfter) => {
                let _ = request.await;
                std::future::pending().await
            }
            None
            | Some(
                Fault::Truncate(_) | Fault::Corrupt(_) | Fault::Unconditional | Fault::WrongVersion,
            ) => request.await,
        }
    }
}

fn lost_answer(key: &str) -> RemoteError {
    RemoteError::transient(key, "injected loss of the answer")
}

fn version(found: Version, fault: Option<&Fault>) -> Version {
    match fault {
        Some(Fault::WrongVersion) => Version("of nothing".to_owned()),
        _ => found,
    }
}

fn damage(bytes: &Bytes, fault: Option<&Fault>) -> Bytes {
    match fault {
        Some(Fault::Truncate(len)) => bytes.slice(..bytes.len().min(*len)),
        Some(Fault::Corrupt(at)) if !bytes.is_empty() => {
            let mut damaged = bytes.to_vec();
            damaged[at % bytes.len()] ^= 1;
            damaged.into()
        }
        _ => bytes.clone(),
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, RemoteError> {
        let fault = self.decide(Op::Get, key);
        let request = self.inner.get(key, range);
        let object = self.faulty(fault.clone(), lost_answer(key), key, request).await?;
        let bytes = damage(&object.bytes, fault.as_ref());
        let version = version(object.meta.version.clone(), fault.as_ref());
        Ok(Object { bytes, meta: ObjectMeta { version, ..object.meta } })
    }

    async fn stat(&self, key: &str) -> Result<ObjectMeta, RemoteError> {
        let fault = self.decide(Op::Stat, key);
        self.faulty(fault, lost_answer(key), key, self.inner.stat(key)).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: &PutMode) -> Result<Stored, RemoteError> {
        let fault = self.decide(Op::Put, key);
        let lost = if mode.is_conditional() {
            let cause = "injected loss of the answer".to_owned();
            RemoteError::Ambiguous { key: key.to_owned(), cause }
        } else {
            lost_answer(key)
        };
        let mode = if fault == Some(Fault::Unconditional) { &PutMode::Any } else { mode };
        let request = self.inner.put(key, bytes, mode);
        let stored = self.faulty(fault.clone(), lost, key, request).await?;
        let version = version(stored.version().clone(), fault.as_ref());
        Ok(Stored::new(key, stored.size(), version))
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        let fault = self.decide(Op::Delete, key);
        self.faulty(fault, lost_answer(key), key, self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, RemoteError> {
        let fault = self.decide(Op::List, prefix);
        self.faulty(fault, lost_answer(prefix), prefix, self.inner.list(prefix)).await
    }

    async fn create_place(&self) -> Result<(), RemoteError> {
        self.inner.create_place().await
    }

    fn set_condition_style(&self, style: ConditionStyle) {
        self.inner.set_condition_style(style);
    }
}
