//! The object store: S3, a local directory, memory, and decorators over them. The only async
//! code of the daemon is in here; everything above blocks on [`Remote`].
//!
//! Promises: an acknowledged `put` is durable and whole; a conditional put has one winner; every
//! call ends by its deadline. Must not know: what the objects mean.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::types::Time;

/// One version of one object, as the store names it (an ETag). Opaque.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(pub String);

/// What is known of an object without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Full key, with the store's prefix taken off.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// The version, for a conditional put.
    pub version: Version,
    /// When it was last written, by the store's clock.
    pub last_modified: Option<Time>,
    /// The store's clock when it answered (HTTP `Date`; the directory's own clock for `file:`).
    pub store_now: Option<Time>,
}

/// An object, or the range of it that was asked for.
#[derive(Debug, Clone)]
pub struct Object {
    /// Facts about the whole object (`size` is the whole object's).
    pub meta: ObjectMeta,
    /// The bytes asked for.
    pub bytes: Bytes,
}

/// Condition of a put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutMode {
    /// Overwrite whatever is there. For immutable, content-named objects only.
    Any,
    /// Only if nothing is there (`If-None-Match: *`).
    Create,
    /// Only if this version is there (`If-Match`).
    Swap(Version),
}

/// How a server wants `If-Match` written; found by [`Remote::probe_conditions`], kept in the
/// store's format object. Ceph RGW compares the ETag without quotes, AWS and moto with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ConditionStyle {
    /// `If-Match: "etag"`, as HTTP has it.
    Quoted = 1,
    /// `If-Match: etag`.
    Unquoted = 2,
}

/// Proof that the store acknowledged an object. Only this layer makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    key: String,
    size: u64,
    version: Version,
}

/// A value whose object, and all that it refers to, is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable<T> {
    value: T,
    evidence: Stored,
}

/// What went wrong with a request, by what the caller will do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RemoteError {
    /// There is no such object.
    #[error("{key}: not in the store")]
    Absent {
        /// The object.
        key: String,
    },
    /// A conditional put lost: another version is there.
    #[error("{key}: changed by another writer")]
    Conflict {
        /// The object.
        key: String,
    },
    /// The answer to a conditional put is unknown (5xx, timeout, reset): read and decide.
    #[error("{key}: the store did not say whether the write was applied: {cause}")]
    Ambiguous {
        /// The object.
        key: String,
        /// What happened.
        cause: String,
    },
    /// Credentials were refused.
    #[error("the store refused the credentials: {cause}")]
    Denied {
        /// The store's words.
        cause: String,
    },
    /// The bucket or directory does not exist.
    #[error("{what} does not exist: {cause}")]
    NoStore {
        /// Bucket or directory.
        what: String,
        /// The store's words.
        cause: String,
    },
    /// Still failing when the deadline came (after retries): worth trying later.
    #[error("{key}: no answer from the store in {waited:?}: {cause}")]
    Unavailable {
        /// The object.
        key: String,
        /// How long was tried.
        waited: Duration,
        /// The last failure.
        cause: String,
    },
    /// The store has no room (507, quota, `ENOSPC`).
    #[error("the store is full: {cause}")]
    Full {
        /// The store's words.
        cause: String,
    },
    /// The bytes or the answer are not what they must be.
    #[error("{key}: damaged: {cause}")]
    Corrupt {
        /// The object.
        key: String,
        /// What is wrong.
        cause: String,
    },
    /// The store does not honour conditional writes; nothing may be entrusted to it.
    #[error(
        "the store ignores conditional writes ({cause}); two writers could overwrite each \
             other unseen"
    )]
    NoConditions {
        /// What the probe saw.
        cause: String,
    },
    /// The address is not understood.
    #[error("{url}: {cause}")]
    BadUrl {
        /// As given, without credentials.
        url: String,
        /// Why.
        cause: String,
    },
}

/// A flat space of immutable or compare-and-swapped objects.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug {
    /// The object, or `range` of it (clamped to its end).
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, RemoteError>;
    /// Facts about the object.
    async fn stat(&self, key: &str) -> Result<ObjectMeta, RemoteError>;
    /// Stores the object whole or not at all.
    async fn put(&self, key: &str, bytes: Bytes, mode: &PutMode) -> Result<Stored, RemoteError>;
    /// Removes the object; absent is fine.
    async fn delete(&self, key: &str) -> Result<(), RemoteError>;
    /// Objects whose key begins with `prefix`, in key order, all pages.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, RemoteError>;
    /// Sets how `If-Match` is written; stores without the question ignore it.
    fn set_condition_style(&self, _style: ConditionStyle) {}
}

/// Totals since the start, for receipts, metrics and tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct RemoteStats {
    /// GET requests.
    pub gets: u64,
    /// HEAD requests.
    pub stats: u64,
    /// PUT requests.
    pub puts: u64,
    /// DELETE requests.
    pub deletes: u64,
    /// LIST requests.
    pub lists: u64,
    /// Attempts repeated after a failure (not counted above).
    pub retries: u64,
    /// Object bytes received.
    pub bytes_in: u64,
    /// Object bytes sent.
    pub bytes_out: u64,
    /// Longest chain of requests each started after the one before it had ended.
    pub round_trips: u64,
}

/// The blocking face of a store, with its runtime, retries, limits and counters.
#[derive(Debug)]
pub struct Remote {
    store: Arc<dyn ObjectStore>,
}

/// A put under way.
#[derive(Debug)]
pub struct PutTicket {}

/// Settings of a store's client.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Endpoint instead of AWS's own.
    pub endpoint: Option<String>,
    /// Region; by default the standard chain's, else `us-east-1` where an endpoint is given.
    pub region: Option<String>,
    /// `http://host/bucket/key` rather than `http://bucket.host/key`. Default: with an endpoint.
    pub path_style: Option<bool>,
    /// Profile of the shared AWS configuration.
    pub profile: Option<String>,
    /// A request, its retries included, fails after this long.
    pub deadline: Duration,
    /// Requests at once.
    pub concurrency_max: usize,
    /// Upload limit, bytes per second; 0: none.
    pub upload_bytes_per_sec_max: u64,
}
