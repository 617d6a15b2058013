//! Evidence that something is in the store. Values of these types can be made in this layer
//! only, so that the compiler checks the order of writes: packs, then snapshot, then head.

use super::Version;

/// Proof that the store acknowledged an object. Only this layer makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    key: String,
    size: u64,
    version: Version,
}

impl Stored {
    /// Called by a store's `put` after the acknowledgement.
    pub(super) fn new(key: &str, size: u64, version: Version) -> Stored {
        Stored { key: key.to_owned(), size, version }
    }

    /// The object's key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The version that was written, for the next conditional put.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }
}

/// A value whose object, and all that it refers to, is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable<T> {
    value: T,
    evidence: Stored,
}

impl<T> Durable<T> {
    /// Ties `value` to the proof that its object was acknowledged.
    #[must_use]
    pub fn new(value: T, evidence: Stored) -> Durable<T> {
        Durable { value, evidence }
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The proof.
    #[must_use]
    pub fn evidence(&self) -> &Stored {
        &self.evidence
    }
}
