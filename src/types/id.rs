//! Identifiers, one newtype per kind, so that a chunk's id can't be passed for a pack's.

use std::fmt;
use std::str::FromStr;

/// A text that is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind}: expected {len} lower-case hexadecimal digits")]
pub struct IdError {
    kind: &'static str,
    len: usize,
}

/// Inode number. 1 is the root directory; 0 is never a file and holds the mount's own records.
/// Numbers are never reused and survive hibernation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// Home of records that belong to no file: local mount state, the orphan list.
    pub const META: Ino = Ino(0);
    /// The workspace's root directory.
    pub const ROOT: Ino = Ino(1);
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Fencing token of a workspace's writer: each acquisition of the lease raises it by one, and an
/// older epoch can never move the head again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:expr, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The id's bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Eight digits tell ids apart in a log; the whole is what Display prints.
                let head = u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]]);
                write!(f, "{}({head:08x})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex(text).map($name).ok_or(IdError { kind: $kind, len: 2 * $len })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    };
}

byte_id!(
    /// A piece of file content: BLAKE3 of the plaintext, keyed by the store's chunk key.
    ChunkId, 32, "chunk id"
);
byte_id!(
    /// A tree node: BLAKE3 of its plaintext, keyed by the store's node key.
    NodeId, 32, "node id"
);
byte_id!(
    /// A pack object: BLAKE3 of all its bytes.
    PackId, 32, "pack id"
);
byte_id!(
    /// A sealed snapshot: BLAKE3 of its manifest's bytes.
    SnapshotId, 32, "snapshot id"
);
byte_id!(
    /// One local state directory. Random; it lets a restarted daemon take its own lease back.
    CacheId, 16, "cache id"
);

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (hex_digit(pair[0])? << 4) | hex_digit(pair[1])?;
    }
    Some(out)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_prints() {
        let id = ChunkId(std::array::from_fn(|i| (i * 7) as u8));
        assert_eq!(id.to_string().parse::<ChunkId>(), Ok(id));
    }

    #[test]
    fn a_wrong_length_or_digit_is_refused() {
        assert!("abc".parse::<PackId>().is_err());
        assert!("g".repeat(64).parse::<PackId>().is_err());
        assert!("A".repeat(64).parse::<PackId>().is_err(), "upper case has a second spelling");
    }
}
