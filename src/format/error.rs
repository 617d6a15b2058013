//! Why bytes are not what they should be.

/// A stored structure that can't be decoded (or, from an encoder, could not be decoded again).
/// The text names the structure; the caller knows the object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The magic number is another one.
    #[error("not a {what}")]
    WrongMagic {
        /// What was expected.
        what: &'static str,
    },
    /// Written by a newer Dormouse: upgrade; the bytes may well be intact.
    #[error("{what} has format version {found}; this program reads up to version {supported}")]
    NewerVersion {
        /// The structure.
        what: &'static str,
        /// Its version.
        found: u16,
        /// The newest version that this program reads.
        supported: u16,
    },
    /// The bytes end too early.
    #[error("{what} is cut short: {needed} bytes are needed")]
    Truncated {
        /// The structure.
        what: &'static str,
        /// Bytes that would have been enough to go on.
        needed: u64,
    },
    /// A length or count is over its limit.
    #[error("{what}: {len} is over the limit of {max}")]
    TooLong {
        /// The structure.
        what: &'static str,
        /// Length or count found.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// The checksum does not match: the bytes were changed.
    #[error("{what}: the checksum does not match")]
    Checksum {
        /// The structure.
        what: &'static str,
    },
    /// The compressed bytes do not unpack to the length that the header says.
    #[error("{what}: the compressed bytes are damaged")]
    Compression {
        /// The structure.
        what: &'static str,
    },
    /// A field holds what it can't.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// The structure.
        what: &'static str,
        /// The field or the rule.
        why: &'static str,
    },
}
