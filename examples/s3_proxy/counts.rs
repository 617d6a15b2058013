//! What passed: requests by kind, bytes, and how many round trips had to wait for each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::{HeaderMap, Method, Uri};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Requests of which more than their number is kept.
const REQUESTS_KEPT_MAX: usize = 200_000;

/// Kinds of request, as S3 prices and throttles them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Get,
    Head,
    List,
    Put,
    PutPart,
    Copy,
    Delete,
    Multipart,
    Other,
}

impl Kind {
    pub fn of(method: &Method, uri: &Uri, headers: &HeaderMap) -> Kind {
        let query = uri.query().unwrap_or("");
        let asks = |name| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        let names_object = uri.path().trim_matches('/').contains('/');
        match *method {
            Method::GET if asks("uploads") || !names_object => Kind::List,
            Method::GET => Kind::Get,
            Method::HEAD => Kind::Head,
            Method::PUT if asks("partNumber") => Kind::PutPart,
            Method::PUT if headers.contains_key("x-amz-copy-source") => Kind::Copy,
            Method::PUT => Kind::Put,
            Method::DELETE => Kind::Delete,
            Method::POST if asks("delete") => Kind::Delete,
            Method::POST if asks("uploads") || asks("uploadId") => Kind::Multipart,
            _ => Kind::Other,
        }
    }
}

/// One request, as far as it has come.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    pub kind: Kind,
    pub path: String,
    pub range: Option<String>,
    pub status: Option<u16>,
    /// Times since the counts were reset.
    pub begin_millis: f64,
    pub end_millis: Option<f64>,
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// Its place in the longest chain of requests that ends with it: 1 for one that began before
    /// any other had ended.
    pub depth: u64,
}

/// The counts as JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Counts {
    pub requests: u64,
    pub by_kind: BTreeMap<Kind, u64>,
    /// Bodies only, from the client to the server.
    pub bytes_up: u64,
    /// Bodies only, from the server to the client.
    pub bytes_down: u64,
    /// Longest chain of requests of which each began after the one before it had ended.
    pub chain: u64,
    pub in_flight: u64,
    /// Answers of 500 and above, 429, and connections that broke.
    pub failed: u64,
    /// Largest number of requests under way at once.
    pub parallel_max: u64,
}

#[derive(Debug)]
struct Period {
    begin: Instant,
    counts: Counts,
    /// Longest chain among the requests that have ended.
    ended_depth: u64,
    kept: Vec<Record>,
}

/// Counts since the last reset. A request belongs to the period in which it began.
#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Period>>);

impl Default for Shared {
    fn default() -> Shared {
        let period = Period {
            begin: Instant::now(),
            counts: Counts::default(),
            ended_depth: 0,
            kept: Vec::new(),
        };
        Shared(Arc::new(Mutex::new(period)))
    }
}

/// Where requests are entered.
#[derive(Debug, Default)]
pub struct Ledger {
    current: Mutex<Shared>,
}

impl Ledger {
    /// A request's head has arrived.
    pub fn begin(&self, kind: Kind, path: String, range: Option<String>) -> Flight {
        let shared = self.current.lock().clone();
        let mut period = shared.0.lock();
        let depth = period.ended_depth + 1;
        let record = Record {
            kind,
            path,
            range,
            status: None,
            begin_millis: period.begin.elapsed().as_secs_f64() * 1e3,
            end_millis: None,
            bytes_up: 0,
            bytes_down: 0,
            depth,
        };
        let counts = &mut period.counts;
        counts.requests += 1;
        *counts.by_kind.entry(kind).or_default() += 1;
        counts.in_flight += 1;
        counts.parallel_max = counts.parallel_max.max(counts.in_flight);
        counts.chain = counts.chain.max(depth);
        let number = period.kept.len();
        if number < REQUESTS_KEPT_MAX {
            period.kept.push(record);
        }
        drop(period);
        let entry = Entry { shared, number, depth, has_ended: Mutex::new(false) };
        Flight(Arc::new(entry))
    }

    pub fn counts(&self) -> Counts {
        self.current.lock().0.lock().counts.clone()
    }

    pub fn requests(&self) -> Vec<Record> {
        self.current.lock().0.lock().kept.clone()
    }

    /// Begins a new period, and gives the counts of the old one.
    pub fn reset(&self) -> Counts {
        let old = std::mem::take(&mut *self.current.lock());
        old.0.lock().counts.clone()
    }
}

/// A request under way; it ends when it is told so, or when nobody holds it any more.
#[derive(Debug, Clone)]
pub struct Flight(Arc<Entry>);

#[derive(Debug)]
struct Entry {
    shared: Shared,
    number: usize,
    depth: u64,
    has_ended: Mutex<bool>,
}

impl Flight {
    pub fn answered(&self, status: u16) {
        self.0.update(|period, number| {
            period.counts.failed += u64::from(status >= 500 || status == 429);
            if let Some(record) = period.kept.get_mut(number) {
                record.status = Some(status);
            }
        });
    }

    pub fn broke(&self) {
        self.0.update(|period, _| period.counts.failed += 1);
    }

    pub fn sent_up(&self, bytes: u64) {
        self.0.update(|period, number| {
            period.counts.bytes_up += bytes;
            if let Some(record) = period.kept.get_mut(number) {
                record.bytes_up += bytes;
            }
        });
    }

    pub fn sent_down(&self, bytes: u64) {
        self.0.update(|period, number| {
            period.counts.bytes_down += bytes;
            if let Some(record) = period.kept.get_mut(number) {
                record.bytes_down += bytes;
            }
        });
    }

    /// The last byte is about to be handed to the client: what it asks next depends on this.
    pub fn end(&self) {
        self.0.end();
    }
}

impl Entry {
    fn update(&self, change: impl FnOnce(&mut Period, usize)) {
        change(&mut self.shared.0.lock(), self.number);
    }

    fn end(&self) {
        if std::mem::replace(&mut *self.has_ended.lock(), true) {
            return;
        }
        self.update(|period, number| {
            period.counts.in_flight -= 1;
            period.ended_depth = period.ended_depth.max(self.depth);
            let now = period.begin.elapsed().as_secs_f64() * 1e3;
            if let Some(record) = period.kept.get_mut(number) {
                record.end_millis = Some(now);
            }
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    fn kind(method: Method, uri: &str) -> Kind {
        Kind::of(&method, &uri.parse().unwrap(), &HeaderMap::new())
    }

    #[test]
    fn kinds_follow_from_method_and_query() {
        assert_eq!(kind(Method::GET, "/bucket/a/b"), Kind::Get);
        assert_eq!(kind(Method::GET, "/bucket/?list-type=2&prefix=a/b"), Kind::List);
        assert_eq!(kind(Method::GET, "/bucket"), Kind::List);
        assert_eq!(kind(Method::HEAD, "/bucket/a"), Kind::Head);
        assert_eq!(kind(Method::PUT, "/bucket/a?x-id=PutObject"), Kind::Put);
        assert_eq!(kind(Method::PUT, "/bucket/a?partNumber=3&uploadId=x"), Kind::PutPart);
        assert_eq!(kind(Method::POST, "/bucket/a?uploads"), Kind::Multipart);
        assert_eq!(kind(Method::POST, "/bucket/a?uploadId=x"), Kind::Multipart);
        assert_eq!(kind(Method::POST, "/bucket/?delete"), Kind::Delete);
        assert_eq!(kind(Method::DELETE, "/bucket/a"), Kind::Delete);
        assert_eq!(kind(Method::OPTIONS, "/bucket/a"), Kind::Other);
    }

    fn begin(ledger: &Ledger) -> Flight {
        ledger.begin(Kind::Get, "/b/k".to_owned(), None)
    }

    #[test]
    fn the_chain_counts_what_had_to_wait() {
        let ledger = Ledger::default();
        let (a, b) = (begin(&ledger), begin(&ledger));
        assert_eq!(ledger.counts().chain, 1, "two at once");
        a.end();
        let c = begin(&ledger);
        assert_eq!(ledger.counts().chain, 2, "c may depend on a");
        b.end();
        let d = begin(&ledger);
        assert_eq!(ledger.counts().chain, 2, "d may depend on a and b, not on c");
        c.end();
        d.end();
        drop(begin(&ledger));
        let counts = ledger.counts();
        assert_eq!((counts.chain, counts.requests, counts.in_flight), (3, 5, 0));
        assert_eq!(counts.parallel_max, 2);
    }

    #[test]
    fn a_request_counts_where_it_began() {
        let ledger = Ledger::default();
        let old = begin(&ledger);
        assert_eq!(ledger.reset().requests, 1);
        old.sent_down(7);
        old.end();
        assert_eq!(ledger.counts(), Counts::default());
        begin(&ledger).end();
        assert_eq!(ledger.counts().chain, 1, "what ended before does not count");
    }
}
