//! The async half of [`super::Remote`]: one request from its wait for a place, through its
//! attempts, to its end.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::counting::Op;
use super::jitter::Jitter;
use super::limit::{Limiter, Permit, Priority};
use super::rate::Line;
use super::stats::Counters;
use super::store::clamp;
use super::{
    OBJECT_LEN_MAX, Object, ObjectMeta, ObjectStore, PutMode, RemoteError, RemoteOptions, Stored,
    key,
};
use crate::types::Clock;

/// The slowest line that is waited for: an object's length adds to its timeouts at this rate.
const BYTES_PER_SEC_MIN: u64 = 128 * 1024;

/// Bodies up to this do not wait for the upload limit: a head's swap is not kept behind packs.
const UNLIMITED_UPLOAD_BYTES: usize = 64 * 1024;

/// An attempt shorter than this is hardly worth making.
const ATTEMPT_MIN: Duration = Duration::from_millis(10);

/// A listing may need many pages: it gets this many times the deadline of one request.
const LIST_DEADLINES: u32 = 10;

pub(super) struct Engine {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) options: RemoteOptions,
    pub(super) counters: Counters,
    pub(super) jitter: Jitter,
    limiter: Arc<Limiter>,
    upload: Line,
}

/// How one request is treated.
struct Terms<'a> {
    op: Op,
    key: &'a str,
    priority: Priority,
    /// From the call to the last attempt's end.
    budget: Duration,
    /// From the call to the last attempt's begin.
    retry_for: Duration,
    attempt_timeout: Duration,
    /// A timed-out attempt may have been applied and must not be repeated.
    once: bool,
}

impl Terms<'_> {
    /// No attempt begins with less time than this. For a conditional put it is long: one that is
    /// cut short leaves its caller in doubt, one that was not begun does not.
    fn last_attempt_min(&self) -> Duration {
        if self.once { self.attempt_timeout.min(self.budget / 2) } else { ATTEMPT_MIN }
    }
}

impl Engine {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        options: &RemoteOptions,
        clock: &dyn Clock,
    ) -> Engine {
        let now = clock.now();
        // Spreads the retries of many machines and names probes; nothing depends on its secrecy.
        let seed = (now.secs as u64).rotate_left(32)
            ^ u64::from(now.nanos).rotate_left(20)
            ^ u64::from(std::process::id());
        Engine {
            store,
            options: options.clone(),
            counters: Counters::default(),
            jitter: Jitter::new(seed),
            limiter: Limiter::new(options.concurrency_max),
            upload: Line::new(options.upload_bytes_per_sec_max),
        }
    }

    pub(super) async fn get(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        priority: Priority,
        budget: Duration,
    ) -> Result<Object, RemoteError> {
        key::check(key)?;
        let terms = self.get_terms(key, range.as_ref(), priority, budget);
        let (place, start) = self.place(&terms).await?;
        self.get_placed(terms, range, (place, start)).await
    }

    /// As [`Engine::get`], with a place that the caller has.
    pub(super) async fn get_at(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        place: Permit,
        budget: Duration,
    ) -> Result<Object, RemoteError> {
        key::check(key)?;
        let terms = self.get_terms(key, range.as_ref(), Priority::Background, budget);
        self.get_placed(terms, range, (place, Instant::now())).await
    }

    fn get_terms<'a>(
        &self,
        key: &'a str,
        range: Option<&Range<u64>>,
        priority: Priority,
        budget: Duration,
    ) -> Terms<'a> {
        let len = range.map_or(0, |range| range.end.saturating_sub(range.start));
        let attempt_timeout = self.options.attempt_timeout + transfer_time(len);
        let retry_for = budget;
        Terms { op: Op::Get, key, priority, budget, retry_for, attempt_timeout, once: false }
    }

    async fn get_placed(
        &self,
        terms: Terms<'_>,
        range: Option<Range<u64>>,
        place: (Permit, Instant),
    ) -> Result<Object, RemoteError> {
        let key = terms.key;
        let attempt = || {
            let range = range.clone();
            let attempt: BoxFuture<'_, _> = Box::pin(async move {
                let object = self.store.get(key, range.clone()).await?;
                check_len(key, &object, range)?;
                Ok(object)
            });
            attempt
        };
        let object = self.run_at(terms, place, attempt).await?;
        self.counters.received(object.bytes.len() as u64);
        Ok(object)
    }

    /// Waits for a place of the background's.
    pub(super) async fn background_place(&self) -> Permit {
        self.limiter.acquire(Priority::Background).await
    }

    pub(super) async fn stat(
        &self,
        key: &str,
        budget: Duration,
    ) -> Result<ObjectMeta, RemoteError> {
        key::check(key)?;
        let terms = self.terms(Op::Stat, key, budget);
        self.run(terms, || self.store.stat(key)).await
    }

    pub(super) async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        mode: &PutMode,
        priority: Priority,
    ) -> Result<Stored, RemoteError> {
        key::check(key)?;
        let len = bytes.len() as u64;
        if len > OBJECT_LEN_MAX {
            let cause = format!("{len} bytes are more than an object may have");
            return Err(RemoteError::Refused { key: key.to_owned(), cause });
        }
        if bytes.len() > UNLIMITED_UPLOAD_BYTES {
            self.upload.begin(len).await;
        } else {
            self.upload.charge(len);
        }
        let terms = Terms {
            op: Op::Put,
            key,
            priority,
            budget: self.options.deadline + transfer_time(len),
            // The transfer's time is for a line that is slow, not for a store that is away.
            retry_for: self.options.deadline,
            attempt_timeout: self.options.attempt_timeout + transfer_time(len),
            once: mode.is_conditional(),
        };
        let stored = self.run(terms, || self.store.put(key, bytes.clone(), mode)).await?;
        self.counters.sent(len);
        Ok(stored)
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        key::check(key)?;
        let terms = self.terms(Op::Delete, key, self.options.deadline);
        self.run(terms, || self.store.delete(key)).await
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, RemoteError> {
        key::check_prefix(prefix)?;
        let budget = self.options.deadline * LIST_DEADLINES;
        let terms = Terms { attempt_timeout: budget, ..self.terms(Op::List, prefix, budget) };
        self.run(terms, || self.store.list(prefix)).await
    }

    /// Not a request: never retried, not counted.
    pub(super) async fn create_place(&self) -> Result<(), RemoteError> {
        self.store.create_place().await
    }

    fn terms<'a>(&self, op: Op, key: &'a str, budget: Duration) -> Terms<'a> {
        let attempt_timeout = self.options.attempt_timeout;
        let (priority, retry_for) = (Priority::Foreground, budget);
        Terms { op, key, priority, budget, retry_for, attempt_timeout, once: false }
    }

    /// Waits for a place, then tries until an answer, a failure that stays, or the deadline.
    ///
    /// The waits are real time, whatever the daemon's [`Clock`] says: a deadline must end a
    /// request also where a test has stopped the clock.
    async fn run<'a, T>(
        &self,
        terms: Terms<'a>,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        let place = self.place(&terms).await?;
        self.run_at(terms, place, attempt).await
    }

    /// Waits for a place, and tells since when the request's time runs.
    async fn place(&self, terms: &Terms<'_>) -> Result<(Permit, Instant), RemoteError> {
        let start = Instant::now();
        match terms.priority {
            // It may queue for long; its time begins with its place.
            Priority::Background => {
                let permit = self.limiter.acquire(terms.priority).await;
                Ok((permit, Instant::now()))
            }
            Priority::Foreground => {
                let wait = tokio::time::timeout(terms.budget, self.limiter.acquire(terms.priority));
                let permit = wait
                    .await
                    .map_err(|_| unavailable(terms, start, "too many requests are under way"))?;
                Ok((permit, start))
            }
        }
    }

    async fn run_at<'a, T>(
        &self,
        terms: Terms<'a>,
        (_place, start): (Permit, Instant),
        attempt: impl Fn() -> BoxFuture<'a, Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        self.counters.request(terms.op);
        let _link = self.counters.chain.begin();
        let mut failures = 0;
        loop {
            let left = terms.budget.saturating_sub(start.elapsed());
            let patience = terms.attempt_timeout.min(left);
            let cause = match tokio::time::timeout(patience, attempt()).await {
                Ok(Err(RemoteError::Unavailable { cause, .. })) => cause,
                Ok(answer) => return answer,
                Err(_) => {
                    let cause = format!("no answer within {patience:.1?}");
                    if terms.once {
                        return Err(RemoteError::Ambiguous { key: terms.key.to_owned(), cause });
                    }
                    cause
                }
            };
            failures += 1;
            let left = terms.retry_for.saturating_sub(start.elapsed());
            let Some(spare) = left.checked_sub(terms.last_attempt_min()) else {
                return Err(unavailable(&terms, start, cause));
            };
            let pause = self.jitter.pause(failures).min(spare);
            tracing::debug!(key = terms.key, op = ?terms.op, failures, cause, "trying again");
            tokio::time::sleep(pause).await;
            self.counters.retry();
        }
    }
}

/// What an object's length adds to the time that its transfer may take.
fn transfer_time(len: u64) -> Duration {
    Duration::from_millis(len.saturating_mul(1000) / BYTES_PER_SEC_MIN)
}

/// A body that is not as long as it must be was cut off on its way: worth another attempt.
fn check_len(key: &str, object: &Object, range: Option<Range<u64>>) -> Result<(), RemoteError> {
    let part = clamp(range, object.meta.size);
    let (expected, found) = (part.end - part.start, object.bytes.len() as u64);
    if expected == found {
        return Ok(());
    }
    Err(RemoteError::transient(key, format!("the body has {found} bytes instead of {expected}")))
}

fn unavailable(terms: &Terms<'_>, start: Instant, cause: impl Into<String>) -> RemoteError {
    RemoteError::Unavailable {
        key: terms.key.to_owned(),
        waited: start.elapsed(),
        cause: cause.into(),
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("store", &self.store).finish_non_exhaustive()
    }
}
