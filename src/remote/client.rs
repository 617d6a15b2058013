//! The blocking face of a store.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use super::engine::Engine;
use super::limit::Priority;
use super::ticket::{Brake, Turn, join};
use super::{
    ConditionStyle, DirectoryStore, Fetches, MemoryStore, Object, ObjectMeta, ObjectStore, PutMode,
};
use super::{PutTicket, RemoteError, RemoteOptions, RemoteStats, S3Store, StoreUrl, Stored, probe};
use crate::types::Clock;

/// Threads that drive the requests. They wait for sockets: two are plenty.
const WORKER_THREADS: usize = 2;

/// Threads for blocking file operations of a directory store.
const BLOCKING_THREADS_MAX: usize = 16;

/// Background GETs of one list at once, and answers kept for its reader.
const FETCHES_AT_ONCE: usize = 4;

/// A key, and the range of it that is wanted (none: all).
pub type GetRequest = (String, Option<Range<u64>>);

/// A store with its runtime, retries, limits and counters. All calls block, also the caller's
/// thread if it drives another runtime.
#[derive(Debug)]
pub struct Remote {
    engine: Arc<Engine>,
    clock: Arc<dyn Clock>,
    /// Taken out when dropped: that must not wait for requests under way.
    runtime: Option<Runtime>,
}

impl Remote {
    /// The store at this address. Makes no request.
    pub fn open(
        url: &StoreUrl,
        options: &RemoteOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Remote>, RemoteError> {
        let store: Arc<dyn ObjectStore> = match url {
            StoreUrl::Memory(name) => Arc::new(MemoryStore::named(name, Arc::clone(&clock))),
            StoreUrl::Directory(path) => Arc::new(DirectoryStore::new(path)),
            StoreUrl::S3 { bucket, prefix } => Arc::new(S3Store::new(bucket, prefix, options)?),
        };
        Remote::from_store(store, options, clock)
    }

    /// A client of this store, which may be a stack of decorators.
    pub fn from_store(
        store: Arc<dyn ObjectStore>,
        options: &RemoteOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Remote>, RemoteError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("dormouse-remote")
            .enable_all()
            .build()
            .map_err(|error| RemoteError::transient("client", format!("no threads: {error}")))?;
        let engine = Arc::new(Engine::new(store, options, clock.as_ref()));
        Ok(Arc::new(Remote { engine, clock, runtime: Some(runtime) }))
    }

    /// The whole object.
    pub fn get(&self, key: &str) -> Result<Object, RemoteError> {
        self.fetch(key, None, self.engine.options.deadline)
    }

    /// A range of the object, clamped to its end.
    pub fn get_range(&self, key: &str, range: Range<u64>) -> Result<Object, RemoteError> {
        self.fetch(key, Some(range), self.engine.options.deadline)
    }

    /// As [`Remote::get`] or [`Remote::get_range`], but ends at `deadline` on the clock's
    /// monotonic time if that is sooner.
    pub fn get_until(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        deadline: Duration,
    ) -> Result<Object, RemoteError> {
        self.fetch(key, range, self.budget(deadline))
    }

    /// Many at once. The answers are in the order of the requests.
    pub fn get_many(&self, requests: Vec<GetRequest>) -> Vec<Result<Object, RemoteError>> {
        self.fetch_many(requests, self.engine.options.deadline)
    }

    /// As [`Remote::get_many`], but ends at `deadline` on the clock's monotonic time if that is
    /// sooner.
    pub fn get_many_until(
        &self,
        requests: Vec<GetRequest>,
        deadline: Duration,
    ) -> Vec<Result<Object, RemoteError>> {
        self.fetch_many(requests, self.budget(deadline))
    }

    /// Fetches many in the background, for a prefetch. The foreground never waits behind them.
    #[must_use]
    pub fn spawn_get_many(&self, requests: Vec<GetRequest>) -> Fetches {
        let (sender, answers) = mpsc::channel(FETCHES_AT_ONCE);
        let engine = Arc::clone(&self.engine);
        self.spawn(async move {
            let budget = engine.options.deadline;
            let engine = &engine;
            let one = |(place, (key, range)): (usize, GetRequest)| async move {
                (place, engine.get(&key, range, Priority::Background, budget).await)
            };
            let requests = futures::stream::iter(requests.into_iter().enumerate());
            let mut fetched = requests.map(one).buffer_unordered(FETCHES_AT_ONCE);
            while let Some(answer) = fetched.next().await {
                if sender.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Fetches { answers }
    }

    /// Waits for a place among the requests of the background, which begin behind everybody
    /// else's. None: the brake was pulled.
    #[must_use]
    pub fn wait_for_turn(&self, brake: &Brake) -> Option<Turn> {
        let engine = Arc::clone(&self.engine);
        self.wait_or_brake(brake, async move { Turn(engine.background_place().await) })
    }

    /// Fetches for the background, at once. None: the brake was pulled; the request is given up.
    #[must_use]
    pub fn get_in_turn(
        &self,
        Turn(place): Turn,
        (key, range): GetRequest,
        brake: &Brake,
    ) -> Option<Result<Object, RemoteError>> {
        let engine = Arc::clone(&self.engine);
        let budget = engine.options.deadline;
        self.wait_or_brake(brake, async move { engine.get_at(&key, range, place, budget).await })
    }

    /// Stores an object and waits: it is durable when this returns.
    pub fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<Stored, RemoteError> {
        PutTicket { task: self.start_put(key, bytes, mode, Priority::Foreground) }.wait()
    }

    /// Begins to store an object in the background. The caller bounds how many are under way.
    #[must_use]
    pub fn submit_put(&self, key: &str, bytes: Bytes, mode: PutMode) -> PutTicket {
        PutTicket { task: self.start_put(key, bytes, mode, Priority::Background) }
    }

    /// Facts about an object.
    pub fn stat(&self, key: &str) -> Result<ObjectMeta, RemoteError> {
        let (engine, key) = (Arc::clone(&self.engine), key.to_owned());
        self.wait(async move { engine.stat(&key, engine.options.deadline).await })
    }

    /// Facts about many objects, asked for at once. The answers are in the order of the keys.
    pub fn stat_many(&self, keys: Vec<String>) -> Vec<Result<ObjectMeta, RemoteError>> {
        let one = |key: String| {
            let engine = Arc::clone(&self.engine);
            self.spawn(async move { engine.stat(&key, engine.options.deadline).await })
        };
        let tasks: Vec<_> = keys.into_iter().map(one).collect();
        tasks.into_iter().map(join).collect()
    }

    /// Removes an object; absent is fine.
    pub fn delete(&self, key: &str) -> Result<(), RemoteError> {
        let (engine, key) = (Arc::clone(&self.engine), key.to_owned());
        self.wait(async move { engine.delete(&key).await })
    }

    /// Objects whose key begins with `prefix`, in byte order of the keys.
    pub fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, RemoteError> {
        let (engine, prefix) = (Arc::clone(&self.engine), prefix.to_owned());
        self.wait(async move { engine.list(&prefix).await })
    }

    /// Makes the directory of a `file:` store if it is missing; nothing for other stores. For
    /// `init` only: otherwise a missing directory is a wrong address.
    pub fn create_place(&self) -> Result<(), RemoteError> {
        let engine = Arc::clone(&self.engine);
        self.wait(async move { engine.create_place().await })
    }

    /// Finds out whether the store honours conditional puts, and how it wants them written.
    /// Writes a few small objects under `probe/` and removes them. Sets the style that it found.
    pub fn probe_conditions(&self) -> Result<ConditionStyle, RemoteError> {
        let engine = Arc::clone(&self.engine);
        self.wait(async move { probe::probe(&engine).await })
    }

    /// Sets how `If-Match` is written, as remembered from a probe.
    pub fn set_condition_style(&self, style: ConditionStyle) {
        self.engine.store.set_condition_style(style);
    }

    /// Totals since this client was opened.
    #[must_use]
    pub fn stats(&self) -> RemoteStats {
        self.engine.counters.totals()
    }

    fn fetch(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        budget: Duration,
    ) -> Result<Object, RemoteError> {
        join(self.start_get((key.to_owned(), range), budget))
    }

    fn fetch_many(
        &self,
        requests: Vec<GetRequest>,
        budget: Duration,
    ) -> Vec<Result<Object, RemoteError>> {
        let start = |request| self.start_get(request, budget);
        let tasks: Vec<_> = requests.into_iter().map(start).collect();
        tasks.into_iter().map(join).collect()
    }

    /// What is left until `deadline`, at most the usual.
    fn budget(&self, deadline: Duration) -> Duration {
        deadline.saturating_sub(self.clock.monotonic()).min(self.engine.options.deadline)
    }

    fn start_get(&self, (key, range): GetRequest, budget: Duration) -> Task<Object> {
        let engine = Arc::clone(&self.engine);
        self.spawn(async move { engine.get(&key, range, Priority::Foreground, budget).await })
    }

    fn start_put(
        &self,
        key: &str,
        bytes: Bytes,
        mode: PutMode,
        priority: Priority,
    ) -> Task<Stored> {
        let (engine, key) = (Arc::clone(&self.engine), key.to_owned());
        self.spawn(async move { engine.put(&key, bytes, &mode, priority).await })
    }

    fn wait_or_brake<T: Send + 'static>(
        &self,
        brake: &Brake,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let pulled = brake.pulled();
        let task = self.spawn(async move {
            tokio::select! {
                biased;
                () = pulled => None,
                done = work => Some(done),
            }
        });
        match futures::executor::block_on(task) {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The client was closed under it.
                Err(_) => None,
            },
        }
    }

    fn wait<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, RemoteError>> + Send + 'static,
    ) -> Result<T, RemoteError> {
        join(self.spawn(request))
    }

    fn spawn<T: Send + 'static>(
        &self,
        request: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        let runtime = self.runtime.as_ref().expect("there until dropped");
        runtime.spawn(request)
    }
}

type Task<T> = tokio::task::JoinHandle<Result<T, RemoteError>>;

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
