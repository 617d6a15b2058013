//! What a store is: the trait, and the values that go through it.

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use super::{RemoteError, Stored};
use crate::types::Time;

/// Longest object that is sent or taken in whole, in bytes. Packs are 16 MiB.
pub const OBJECT_LEN_MAX: u64 = 256 * 1024 * 1024;

/// One version of one object, as the store names it (an ETag, without quotes). Opaque.
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
    /// When it was last written, by the store's clock. S3 tells whole seconds.
    pub last_modified: Option<Time>,
    /// The same clock when the store answered (HTTP `Date`; a file system's time of change for
    /// `file:`). None where the store does not tell, and for ranges and listings of `file:`.
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
    /// Overwrite whatever is there. For immutable, content-named objects only: it is repeated
    /// after a lost answer.
    Any,
    /// Only if nothing is there (`If-None-Match: *`).
    Create,
    /// Only if this version is there (`If-Match`).
    Swap(Version),
}

impl PutMode {
    /// True where a put must not be repeated blindly: the repetition would meet its own result.
    #[must_use]
    pub fn is_conditional(&self) -> bool {
        !matches!(self, PutMode::Any)
    }
}

/// How a server wants `If-Match` written; found by [`super::Remote::probe_conditions`], kept in
/// the store's format object. Ceph RGW compares the ETag without quotes, AWS and moto with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ConditionStyle {
    /// `If-Match: "etag"`, as HTTP has it.
    Quoted = 1,
    /// `If-Match: etag`.
    Unquoted = 2,
}

impl ConditionStyle {
    /// The style with this stored number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<ConditionStyle> {
        match number {
            1 => Some(ConditionStyle::Quoted),
            2 => Some(ConditionStyle::Unquoted),
            _ => None,
        }
    }
}

/// A flat space of immutable or compare-and-swapped objects. Each call is one attempt, without
/// retries or deadline. Keys are checked by the caller.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug {
    /// The object, or `range` of it, clamped to its end (empty where it starts at the end or
    /// beyond).
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, RemoteError>;
    /// Facts about the object.
    async fn stat(&self, key: &str) -> Result<ObjectMeta, RemoteError>;
    /// Stores the object whole or not at all; durable when it returns. A swap of an absent
    /// object is a conflict.
    async fn put(&self, key: &str, bytes: Bytes, mode: &PutMode) -> Result<Stored, RemoteError>;
    /// Removes the object; absent is fine.
    async fn delete(&self, key: &str) -> Result<(), RemoteError>;
    /// Objects whose key begins with `prefix`, in byte order of the keys, all pages.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, RemoteError>;
    /// Makes the place for the objects where that is a mere `mkdir`; nothing otherwise.
    async fn create_place(&self) -> Result<(), RemoteError> {
        Ok(())
    }
    /// Sets how `If-Match` is written; stores without the question ignore it.
    fn set_condition_style(&self, _style: ConditionStyle) {}
}

/// The part of `range` that an object of `size` bytes has, as indices into its bytes.
pub(super) fn clamp(range: Option<Range<u64>>, size: u64) -> Range<u64> {
    let range = range.unwrap_or(0..size);
    let start = range.start.min(size);
    start..range.end.min(size).max(start)
}
