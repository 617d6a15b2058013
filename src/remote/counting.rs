//! Counts what reaches a store, exactly, for tests that bound it.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::stats::Counters;
use super::{ConditionStyle, Object, ObjectMeta, ObjectStore, PutMode};
use super::{RemoteError, RemoteStats, Stored};

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// GET.
    Get = 0,
    /// HEAD.
    Stat = 1,
    /// PUT.
    Put = 2,
    /// DELETE.
    Delete = 3,
    /// LIST.
    List = 4,
}

impl Op {
    pub(super) const ALL: [Op; 5] = [Op::Get, Op::Stat, Op::Put, Op::Delete, Op::List];
}

/// One request as it reached the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What was asked.
    pub op: Op,
    /// Of which object (the prefix of a listing).
    pub key: String,
    /// Which bytes of a GET.
    pub range: Option<Range<u64>>,
    /// Object bytes that went either way; 0 where it failed.
    pub bytes: u64,
    /// What the store or the way to it said where it failed.
    pub error: Option<RemoteError>,
    /// Its place in the longest chain: 1 for a request that nothing had to end before.
    pub round_trip: u64,
}

/// Counts and logs every request. The log grows without bound: for tests.
#[derive(Debug)]
pub struct CountingStore {
    inner: Arc<dyn ObjectStore>,
    book: Mutex<Arc<Book>>,
}

/// What was counted from one reset to the next. A request stays with the book that it began in.
#[derive(Debug, Default)]
struct Book {
    counters: Counters,
    log: Mutex<Vec<Call>>,
}

impl CountingStore {
    /// Counts what goes to `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<CountingStore> {
        Arc::new(CountingStore { inner, book: Mutex::default() })
    }

    /// Totals since the start or the last [`CountingStore::reset`]. `retries` is always 0: here
    /// every attempt is a request.
    #[must_use]
    pub fn stats(&self) -> RemoteStats {
        self.book().counters.totals()
    }

    /// The requests that have ended, in the order in which they did.
    #[must_use]
    pub fn log(&self) -> Vec<Call> {
        self.book().log.lock().clone()
    }

    /// Ended requests of one kind whose key contains `part`.
    #[must_use]
    pub fn count(&self, op: Op, part: &str) -> usize {
        let matches = |call: &&Call| call.op == op && call.key.contains(part);
        self.book().log.lock().iter().filter(matches).count()
    }

    /// Begins anew with everything at 0. Requests under way belong to what was before.
    pub fn reset(&self) {
        *self.book.lock() = Arc::default();
    }

    fn book(&self) -> Arc<Book> {
        Arc::clone(&self.book.lock())
    }

    /// Runs one request between its count and its log line.
    async fn counted<T>(
        &self,
        mut call: Call,
        len: fn(&T) -> u64,
        request: impl Future<Output = Result<T, RemoteError>> + Send,
    ) -> Result<T, RemoteError> {
        let book = self.book();
        let counters = &book.counters;
        counters.request(call.op);
        let link = counters.chain.begin();
        call.round_trip = link.place;
        let answer = request.await;
        drop(link);
        match &answer {
            Ok(answer) => {
                call.bytes = len(answer);
                match call.op {
                    Op::Put => counters.sent(call.bytes),
                    _ => counters.received(call.bytes),
                }
            }
            Err(error) => call.error = Some(error.clone()),
        }
        book.log.lock().push(call);
        answer
    }
}

fn call(op: Op, key: &str, range: Option<Range<u64>>) -> Call {
    Call { op, key: key.to_owned(), range, bytes: 0, error: None, round_trip: 0 }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, RemoteError> {
        let call = call(Op::Get, key, range.clone());
        self.counted(call, |object| object.bytes.len() as u64, self.inner.get(key, range)).await
    }

    async fn stat(&self, key: &str) -> Result<ObjectMeta, RemoteError> {
        self.counted(call(Op::Stat, key, None), |_| 0, self.inner.stat(key)).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: &PutMode) -> Result<Stored, RemoteError> {
        let put = self.inner.put(key, bytes, mode);
        self.counted(call(Op::Put, key, None), Stored::size, put).await
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        self.counted(call(Op::Delete, key, None), |()| 0, self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, RemoteError> {
        self.counted(call(Op::List, prefix, None), |_| 0, self.inner.list(prefix)).await
    }

    async fn create_place(&self) -> Result<(), RemoteError> {
        self.inner.create_place().await
    }

    fn set_condition_style(&self, style: ConditionStyle) {
        self.inner.set_condition_style(style);
    }
}
