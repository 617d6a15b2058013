//! A store in this process's memory, for tests.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::store::clamp;
use super::{Object, ObjectMeta, ObjectStore, PutMode, RemoteError, Stored, Version};
use crate::types::{Clock, Time};

/// Objects of a `mem:name` store live as long as the process: what was hibernated into it can be
/// resumed from it. Lock order: this before a store's objects; neither is held across a wait.
static NAMED: LazyLock<Mutex<HashMap<String, Arc<Mutex<Objects>>>>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct Objects {
    by_key: BTreeMap<String, Held>,
    /// Rises with every put, so that no version comes twice.
    last_version: u64,
}

#[derive(Debug, Clone)]
struct Held {
    bytes: Bytes,
    version: u64,
    modified: Time,
}

/// A store in memory. Its clock is the one it was given.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    objects: Arc<Mutex<Objects>>,
    clock: Arc<dyn Clock>,
}

impl MemoryStore {
    /// A new, empty store.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> MemoryStore {
        MemoryStore { objects: Arc::default(), clock }
    }

    /// The store of this name in this process.
    #[must_use]
    pub fn named(name: &str, clock: Arc<dyn Clock>) -> MemoryStore {
        let objects = Arc::clone(NAMED.lock().entry(name.to_owned()).or_default());
        MemoryStore { objects, clock }
    }

    /// Replaces an object's bytes behind every writer's back: damage, for tests.
    pub fn overwrite(&self, key: &str, bytes: Bytes) {
        let modified = self.clock.now();
        self.objects.lock().insert(key, bytes, modified);
    }

    fn meta(&self, key: &str, held: &Held) -> ObjectMeta {
        ObjectMeta {
            key: key.to_owned(),
            size: held.bytes.len() as u64,
            version: version(held.version),
            last_modified: Some(held.modified),
            store_now: Some(self.clock.now()),
        }
    }

    fn held(&self, key: &str) -> Result<Held, RemoteError> {
        let held = self.objects.lock().by_key.get(key).cloned();
        held.ok_or_else(|| RemoteError::Absent { key: key.to_owned() })
    }
}

impl Objects {
    fn insert(&mut self, key: &str, bytes: Bytes, modified: Time) -> u64 {
        self.last_version += 1;
        let held = Held { bytes, version: self.last_version, modified };
        self.by_key.insert(key.to_owned(), held);
        self.last_version
    }
}

fn version(number: u64) -> Version {
    Version(format!("{number:x}"))
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, RemoteError> {
        let held = self.held(key)?;
        let part = clamp(range, held.bytes.len() as u64);
        let bytes = held.bytes.slice(part.start as usize..part.end as usize);
        Ok(Object { meta: self.meta(key, &held), bytes })
    }

    async fn stat(&self, key: &str) -> Result<ObjectMeta, RemoteError> {
        Ok(self.meta(key, &self.held(key)?))
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: &PutMode) -> Result<Stored, RemoteError> {
        let modified = self.clock.now();
        let size = bytes.len() as u64;
        let mut objects = self.objects.lock();
        let here = objects.by_key.get(key).map(|held| version(held.version));
        let wins = match mode {
            PutMode::Any => true,
            PutMode::Create => here.is_none(),
            PutMode::Swap(expected) => here.as_ref() == Some(expected),
        };
        if !wins {
            return Err(RemoteError::Conflict { key: key.to_owned() });
        }
        let number = objects.insert(key, bytes, modified);
        Ok(Stored::new(key, size, version(number)))
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        self.objects.lock().by_key.remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, RemoteError> {
        let objects = self.objects.lock();
        let from = objects.by_key.range(prefix.to_owned()..);
        let under = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(under.map(|(key, held)| self.meta(key, held)).collect())
    }
}
