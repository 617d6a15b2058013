//! What the background puts on the line, as the store sees it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use parking_lot::{Condvar, Mutex};

use super::*;
use crate::remote::{
    ConditionStyle, Object, ObjectMeta, ObjectStore, PutMode, RemoteError, Stored,
};

/// Notes how many bytes are asked for at once, and holds back every answer until told.
#[derive(Debug)]
struct Line {
    inner: Arc<dyn ObjectStore>,
    is_open: Mutex<bool>,
    opened: tokio::sync::Notify,
    changed: Condvar,
    bytes: AtomicU64,
    most_bytes: AtomicU64,
    asked: Mutex<Vec<Range<u64>>>,
}

impl Line {
    fn open(&self) {
        *self.is_open.lock() = true;
        self.opened.notify_waiters();
    }

    /// Waits until so many ranges were asked for.
    fn wait_for(&self, count: usize) {
        let mut asked = self.asked.lock();
        let too_few = |asked: &mut Vec<Range<u64>>| asked.len() < count;
        let patience = Duration::from_secs(20);
        let waited = self.changed.wait_while_for(&mut asked, too_few, patience);
        assert!(!waited.timed_out(), "{count} requests were expected: {asked:?}");
    }
}

#[async_trait]
impl ObjectStore for Line {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, RemoteError> {
        let range = range.unwrap_or(0..0);
        let len = range.end - range.start;
        let bytes = self.bytes.fetch_add(len, Ordering::SeqCst) + len;
        self.most_bytes.fetch_max(bytes, Ordering::SeqCst);
        self.asked.lock().push(range.clone());
        self.changed.notify_all();
        let opened = self.opened.notified();
        if !*self.is_open.lock() {
            opened.await;
        }
        let answer = self.inner.get(key, Some(range)).await;
        self.bytes.fetch_sub(len, Ordering::SeqCst);
        answer
    }

    async fn stat(&self, key: &str) -> Result<ObjectMeta, RemoteError> {
        self.inner.stat(key).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: &PutMode) -> Result<Stored, RemoteError> {
        self.inner.put(key, bytes, mode).await
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, RemoteError> {
        self.inner.list(prefix).await
    }

    async fn create_place(&self) -> Result<(), RemoteError> {
        self.inner.create_place().await
    }

    fn set_condition_style(&self, style: ConditionStyle) {
        self.inner.set_condition_style(style);
    }
}

/// 60 MiB in one pack, and a machine behind a line.
fn behind_a_line() -> (Vec<(ChunkId, PackSlot)>, Arc<Line>, Machine) {
    let store = Store::new();
    let large = ChunkOptions { pack_bytes: 128 * MIB, ..options() };
    let slots = store.machine_with(large).store_all(&noises(240, 256 * KIB));
    let line = Arc::new(Line {
        inner: Arc::clone(&store.memory) as _,
        is_open: Mutex::new(false),
        opened: tokio::sync::Notify::new(),
        changed: Condvar::new(),
        bytes: AtomicU64::new(0),
        most_bytes: AtomicU64::new(0),
        asked: Mutex::default(),
    });
    let counting = CountingStore::new(Arc::clone(&line) as _);
    let cold = Store { counting, ..store }.machine_with(ChunkOptions {
        // Nothing but what is asked for.
        first_window_bytes: 0,
        ..options()
    });
    (slots, line, cold)
}

#[test]
fn little_of_the_hot_set_is_on_the_line_at_once_and_what_waits_is_nobodys() {
    let (slots, line, cold) = behind_a_line();
    cold.chunks.prefetch_chunks(&slots, 1 << 30);
    // Six pieces of three frames: 4.7 MB; a seventh does not fit.
    line.wait_for(6);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(line.asked.lock().len(), 6);
    std::thread::scope(|scope| {
        // Far behind what is on its way: the reader asks for itself, at once.
        let reader = scope.spawn(|| cold.chunks.read(&slots[200].0, &slots[200].1, cold.fetch()));
        line.wait_for(7);
        let own = line.asked.lock()[6].clone();
        assert_eq!(own.start, u64::from(slots[200].1.offset));
        // And what is on its way is not asked for again.
        let joiner = scope.spawn(|| cold.chunks.read(&slots[1].0, &slots[1].1, cold.fetch()));
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(line.asked.lock().len(), 7);
        line.open();
        reader.join().unwrap().unwrap();
        joiner.join().unwrap().unwrap();
    });
    assert!(cold.chunks.wait_for_prefetch(Duration::from_secs(20)));
    assert!(slots.iter().all(|(id, _)| cold.chunks.is_local(id)));
    let frame = u64::from(slots[0].1.len);
    assert!(line.most_bytes.load(Ordering::SeqCst) <= 5_000_000 + frame);
    assert_eq!(cold.chunks.stats().prefetch_bytes_left, 0);
}

#[test]
fn while_somebody_waits_for_the_store_half_as_much_is_put_on_the_line() {
    let (slots, line, cold) = behind_a_line();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| cold.chunks.read(&slots[200].0, &slots[200].1, cold.fetch()));
        line.wait_for(1);
        cold.chunks.prefetch_chunks(&slots, 1 << 30);
        // Three pieces of three frames: 2.4 MB.
        line.wait_for(4);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(line.asked.lock().len(), 4);
        // What a reader is on its way to is not held back.
        let list = slots[100..160].to_vec();
        cold.chunks.prefetch_ahead(move || list);
        line.wait_for(7);
        let ahead = u64::from(slots[100].1.offset);
        assert!(line.asked.lock()[4..].iter().all(|range| range.start >= ahead));
        line.open();
        reader.join().unwrap().unwrap();
    });
    assert!(cold.chunks.wait_for_prefetch(Duration::from_secs(20)));
}
