//! Limits of bandwidth: the upload limit of a client, and a store made slow for tests and
//! benchmarks.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{ConditionStyle, Object, ObjectMeta, ObjectStore, PutMode, RemoteError, Stored};

/// A line of so many bytes per second that is used by one sender after the other.
#[derive(Debug)]
pub(super) struct Line {
    bytes_per_sec: u64,
    /// When what was promised so far will have been sent.
    free_at: Mutex<Option<Instant>>,
}

impl Line {
    /// A line; 0 bytes per second: without limit.
    pub(super) fn new(bytes_per_sec: u64) -> Line {
        Line { bytes_per_sec, free_at: Mutex::default() }
    }

    /// Takes the line for so many bytes after those who asked before. Returns when it begins to
    /// be free for them, and when they are through.
    fn take(&self, bytes: u64, now: Instant) -> (Instant, Instant) {
        if self.bytes_per_sec == 0 {
            return (now, now);
        }
        let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_sec as f64);
        let mut free_at = self.free_at.lock();
        let begin = free_at.map_or(now, |at| at.max(now));
        *free_at = Some(begin + time);
        (begin, begin + time)
    }

    /// Waits until the line is free, and takes it for so many bytes.
    pub(super) async fn begin(&self, bytes: u64) {
        let now = Instant::now();
        let (begin, _) = self.take(bytes, now);
        if begin > now {
            tokio::time::sleep_until(begin).await;
        }
    }

    /// Takes the line for so many bytes without waiting: those who come later wait.
    pub(super) fn charge(&self, bytes: u64) {
        self.take(bytes, Instant::now());
    }

    /// Waits until so many bytes are through.
    async fn send(&self, bytes: u64) {
        let now = Instant::now();
        let (_, end) = self.take(bytes, now);
        if end > now {
            tokio::time::sleep_until(end).await;
        }
    }
}

/// A store behind a slow line: so long for each request, so many bytes per second each way.
#[derive(Debug)]
pub struct RateLimitStore {
    inner: Arc<dyn ObjectStore>,
    latency: Duration,
    up: Line,
    down: Line,
}

impl RateLimitStore {
    /// Puts a line before `inner`; 0 bytes per second: without limit.
    #[must_use]
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        latency: Duration,
        up_bytes_per_sec: u64,
        down_bytes_per_sec: u64,
    ) -> Arc<RateLimitStore> {
        let (up, down) = (Line::new(up_bytes_per_sec), Line::new(down_bytes_per_sec));
        Arc::new(RateLimitStore { inner, latency, up, down })
    }
}

#[async_trait]
impl ObjectStore for RateLimitStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, RemoteError> {
        tokio::time::sleep(self.latency).await;
        let object = self.inner.get(key, range).await?;
        self.down.send(object.bytes.len() as u64).await;
        Ok(object)
    }

    async fn stat(&self, key: &str) -> Result<ObjectMeta, RemoteError> {
        tokio::time::sleep(self.latency).await;
        self.inner.stat(key).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: &PutMode) -> Result<Stored, RemoteError> {
        tokio::time::sleep(self.latency).await;
        self.up.send(bytes.len() as u64).await;
        self.inner.put(key, bytes, mode).await
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        tokio::time::sleep(self.latency).await;
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, RemoteError> {
        tokio::time::sleep(self.latency).await;
        self.inner.list(prefix).await
    }

    async fn create_place(&self) -> Result<(), RemoteError> {
        self.inner.create_place().await
    }

    fn set_condition_style(&self, style: ConditionStyle) {
        self.inner.set_condition_style(style);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_serves_one_after_the_other_and_forgets_idle_time() {
        let start = Instant::now();
        let line = Line::new(1000);
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(line.take(500, start), (start, after(500)));
        assert_eq!(line.take(500, start), (after(500), after(1000)));
        assert_eq!(line.take(100, after(5000)), (after(5000), after(5100)));
        assert_eq!(Line::new(0).take(u64::MAX, start), (start, start));
    }
}
