//! Stores that break the contract, to see that the probe refuses them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dormouse::remote::{
    ConditionStyle, MemoryStore, Object, ObjectMeta, ObjectStore, PutMode, Remote, RemoteError,
    RemoteOptions, Stored,
};
use dormouse::types::SystemClock;
use parking_lot::Mutex;

/// What is wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    /// Every put succeeds.
    IgnoresAll,
    /// Swaps succeed whatever is there.
    IgnoresSwap,
    /// Looks first and writes later.
    NotAtomic,
    /// No swap ever succeeds.
    RefusesSwap,
    /// None, but swaps are understood unquoted only.
    Unquoted,
}

#[derive(Debug)]
struct Flawed {
    inner: MemoryStore,
    flaw: Flaw,
    style: Mutex<ConditionStyle>,
}

#[async_trait]
impl ObjectStore for Flawed {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, RemoteError> {
        self.inner.get(key, range).await
    }

    async fn stat(&self, key: &str) -> Result<ObjectMeta, RemoteError> {
        self.inner.stat(key).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: &PutMode) -> Result<Stored, RemoteError> {
        let conflict = || RemoteError::Conflict { key: key.to_owned() };
        let style = *self.style.lock();
        match (self.flaw, mode) {
            (Flaw::IgnoresAll, _) | (Flaw::IgnoresSwap, PutMode::Swap(_)) => {
                self.inner.put(key, bytes, &PutMode::Any).await
            }
            (Flaw::NotAtomic, _) => {
                let here = self.inner.stat(key).await.ok().map(|meta| meta.version);
                tokio::time::sleep(Duration::from_millis(5)).await;
                match mode {
                    PutMode::Create if here.is_some() => return Err(conflict()),
                    PutMode::Swap(version) if here.as_ref() != Some(version) => {
                        return Err(conflict());
                    }
                    _ => {}
                }
                self.inner.put(key, bytes, &PutMode::Any).await
            }
            (Flaw::RefusesSwap, PutMode::Swap(_)) => Err(conflict()),
            (Flaw::Unquoted, PutMode::Swap(_)) if style == ConditionStyle::Quoted => {
                Err(conflict())
            }
            _ => self.inner.put(key, bytes, mode).await,
        }
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, RemoteError> {
        self.inner.list(prefix).await
    }

    fn set_condition_style(&self, style: ConditionStyle) {
        *self.style.lock() = style;
    }
}

fn flawed(flaw: Flaw) -> Arc<Remote> {
    let clock = Arc::new(SystemClock::new());
    let inner = MemoryStore::new(clock.clone());
    let style = Mutex::new(ConditionStyle::Quoted);
    let store = Arc::new(Flawed { inner, flaw, style });
    Remote::from_store(store, &RemoteOptions::default(), clock).unwrap()
}

#[test]
fn a_store_that_ignores_conditions_is_refused() {
    for flaw in [Flaw::IgnoresAll, Flaw::IgnoresSwap, Flaw::NotAtomic, Flaw::RefusesSwap] {
        let remote = flawed(flaw);
        let error = remote.probe_conditions().unwrap_err();
        assert!(matches!(error, RemoteError::NoConditions { .. }), "{flaw:?}: {error}");
        assert_eq!(remote.list("").unwrap(), Vec::new(), "{flaw:?}: the probe left objects");
    }
}

#[test]
fn the_probe_finds_the_style_that_works_and_sets_it() {
    let remote = flawed(Flaw::Unquoted);
    assert_eq!(remote.probe_conditions(), Ok(ConditionStyle::Unquoted));
    let stored = remote.put("k", Bytes::from_static(b"1"), PutMode::Create).unwrap();
    let swap = PutMode::Swap(stored.version().clone());
    remote.put("k", Bytes::from_static(b"2"), swap.clone()).unwrap();
    assert!(remote.put("k", Bytes::from_static(b"3"), swap).is_err());
}
