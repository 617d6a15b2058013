//! Record keys: the whole key space of a workspace, overlay and tree alike.
//!
//! ```text
//! 0        8     9
//! | inode  | tag | suffix ...
//! | u64 BE | u8  |
//!
//! tag 1 Attr    -
//!     2 Entry   name hash (u64 BE) | name
//!     3 Xattr   name
//!     4 Extent  file offset (u64 BE)
//!     5 Orphan  inode (u64 BE)     only under inode 0: unlinked, but still open at the time
//!     6 Local   name               only under inode 0: this mount's own state, never sealed
//! ```
//! Keys compare as bytes; records of one inode lie together, attributes first.

use std::borrow::Borrow;
use std::fmt;

use smallvec::SmallVec;

use crate::types::Ino;

/// Longest key that a decoder accepts: 9 bytes, a hash and the longest name or xattr name.
pub const KEY_LEN_MAX: usize = 9 + 8 + 255;

/// Record kinds. The numbers are part of the store format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tag {
    /// Attributes; every inode has exactly one.
    Attr = 1,
    /// A directory entry, under the directory's inode.
    Entry = 2,
    /// An extended attribute.
    Xattr = 3,
    /// A range of a file's content.
    Extent = 4,
    /// An unlinked inode that was still open.
    Orphan = 5,
    /// Local mount state.
    Local = 6,
}

/// Keys up to this length need no memory of their own: all but those of longer names.
const INLINE_LEN: usize = 32;

/// A record's key; see the module's diagram.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(SmallVec<[u8; INLINE_LEN]>);

/// What a key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyParts<'a> {
    /// Attributes of the inode.
    Attr(Ino),
    /// Entry of directory `.0` with name hash `.1` and name `.2`.
    Entry(Ino, u64, &'a [u8]),
    /// Extended attribute `.1` of inode `.0`.
    Xattr(Ino, &'a [u8]),
    /// Extent of inode `.0` that begins at byte `.1`.
    Extent(Ino, u64),
    /// Inode `.0` is an orphan.
    Orphan(Ino),
    /// Local state with this name.
    Local(&'a [u8]),
}

/// Bytes that are not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a record key")]
pub struct KeyError;

impl Key {
    /// Key of an inode's attributes.
    #[must_use]
    pub fn attr(ino: Ino) -> Key {
        Key::build(ino, Tag::Attr, &[])
    }

    /// Key of an entry; `hash` is [`super::HashKeys::name`] of the name.
    #[must_use]
    pub fn entry(directory: Ino, hash: u64, name: &[u8]) -> Key {
        Key::build(directory, Tag::Entry, &[&hash.to_be_bytes(), name])
    }

    /// Key of an extended attribute.
    #[must_use]
    pub fn xattr(ino: Ino, name: &[u8]) -> Key {
        Key::build(ino, Tag::Xattr, &[name])
    }

    /// Key of the extent that begins at `offset`.
    #[must_use]
    pub fn extent(ino: Ino, offset: u64) -> Key {
        Key::build(ino, Tag::Extent, &[&offset.to_be_bytes()])
    }

    /// Key that says that `ino` is an orphan.
    #[must_use]
    pub fn orphan(ino: Ino) -> Key {
        Key::build(Ino::META, Tag::Orphan, &[&ino.0.to_be_bytes()])
    }

    /// Key of local mount state.
    #[must_use]
    pub fn local(name: &str) -> Key {
        Key::build(Ino::META, Tag::Local, &[name.as_bytes()])
    }

    /// First possible key of the inode's records with this tag; the end of the range is
    /// [`Key::tag_end`]. Not itself a record's key for tags with a suffix.
    #[must_use]
    pub fn tag_start(ino: Ino, tag: Tag) -> Key {
        Key::build(ino, tag, &[])
    }

    /// Exclusive end of the inode's records with this tag.
    #[must_use]
    pub fn tag_end(ino: Ino, tag: Tag) -> Key {
        let mut bytes = SmallVec::from_slice(&ino.0.to_be_bytes());
        bytes.push(tag as u8 + 1);
        Key(bytes)
    }

    /// The least bytes greater than this key: where a scan goes on. Not a record's key.
    #[must_use]
    pub fn successor(&self) -> Key {
        let mut bytes = SmallVec::with_capacity(self.0.len() + 1);
        bytes.extend_from_slice(&self.0);
        bytes.push(0);
        Key(bytes)
    }

    /// Checks and takes bytes from a node or a journal.
    pub fn from_bytes(bytes: &[u8]) -> Result<Key, KeyError> {
        KeyParts::parse(bytes)?;
        Ok(Key(SmallVec::from_slice(bytes)))
    }

    /// Takes bytes that [`KeyParts::parse`] has accepted.
    pub(super) fn from_checked(bytes: &[u8]) -> Key {
        Key(SmallVec::from_slice(bytes))
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key taken apart.
    #[must_use]
    pub fn parts(&self) -> Option<KeyParts<'_>> {
        KeyParts::parse(&self.0).ok()
    }

    /// The inode whose record this is.
    #[must_use]
    pub fn ino(&self) -> Ino {
        let mut number = [0; 8];
        number.copy_from_slice(&self.0[..8]);
        Ino(u64::from_be_bytes(number))
    }

    fn build(ino: Ino, tag: Tag, suffix: &[&[u8]]) -> Key {
        let len = 9 + suffix.iter().map(|part| part.len()).sum::<usize>();
        let mut bytes = SmallVec::with_capacity(len);
        bytes.extend_from_slice(&ino.0.to_be_bytes());
        bytes.push(tag as u8);
        suffix.iter().for_each(|part| bytes.extend_from_slice(part));
        Key(bytes)
    }
}

impl<'a> KeyParts<'a> {
    /// Takes a key apart. Refuses unknown tags, wrong suffix lengths and names that could not
    /// be a [`crate::types::Name`].
    pub fn parse(bytes: &'a [u8]) -> Result<KeyParts<'a>, KeyError> {
        let (ino, rest) = bytes.split_first_chunk::<8>().ok_or(KeyError)?;
        let ino = Ino(u64::from_be_bytes(*ino));
        let (&tag, suffix) = rest.split_first().ok_or(KeyError)?;
        if bytes.len() > KEY_LEN_MAX {
            return Err(KeyError);
        }
        match tag {
            1 if suffix.is_empty() => Ok(KeyParts::Attr(ino)),
            2 => {
                let (hash, name) = suffix.split_first_chunk::<8>().ok_or(KeyError)?;
                crate::types::Name::check(name).map_err(|_| KeyError)?;
                Ok(KeyParts::Entry(ino, u64::from_be_bytes(*hash), name))
            }
            3 if (1..=255).contains(&suffix.len()) => Ok(KeyParts::Xattr(ino, suffix)),
            4 => Ok(KeyParts::Extent(ino, be_u64(suffix)?)),
            5 if ino == Ino::META => Ok(KeyParts::Orphan(Ino(be_u64(suffix)?))),
            6 if ino == Ino::META => Ok(KeyParts::Local(suffix)),
            _ => Err(KeyError),
        }
    }
}

fn be_u64(bytes: &[u8]) -> Result<u64, KeyError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| KeyError)
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            Some(parts) => parts.fmt(f),
            None => write!(f, "Key({:02x?})", &self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_s_records_lie_together_attributes_first() {
        let mut keys = [
            Key::attr(Ino(8)),
            Key::extent(Ino(7), 1 << 40),
            Key::extent(Ino(7), 5),
            Key::xattr(Ino(7), b"user.x"),
            Key::entry(Ino(7), 9, b"name"),
            Key::attr(Ino(7)),
            Key::orphan(Ino(9)),
        ];
        keys.sort();
        let parts: Vec<_> = keys.iter().map(|key| key.parts().unwrap()).collect();
        assert_eq!(
            parts,
            [
                KeyParts::Orphan(Ino(9)),
                KeyParts::Attr(Ino(7)),
                KeyParts::Entry(Ino(7), 9, b"name"),
                KeyParts::Xattr(Ino(7), b"user.x"),
                KeyParts::Extent(Ino(7), 5),
                KeyParts::Extent(Ino(7), 1 << 40),
                KeyParts::Attr(Ino(8)),
            ]
        );
    }

    #[test]
    fn a_tag_s_range_holds_just_its_records() {
        let start = Key::tag_start(Ino(7), Tag::Entry);
        let end = Key::tag_end(Ino(7), Tag::Entry);
        let inside = |key: &Key| *key >= start && *key < end;
        assert!(inside(&Key::entry(Ino(7), 0, b"a")));
        assert!(inside(&Key::entry(Ino(7), u64::MAX, &[0xff; 255])));
        assert!(!inside(&Key::attr(Ino(7))));
        assert!(!inside(&Key::xattr(Ino(7), b"user.a")));
        assert!(!inside(&Key::entry(Ino(8), 0, b"a")));
    }

    #[test]
    fn names_that_escape_are_no_keys() {
        for name in [&b".."[..], b"a/b", b""] {
            let key = Key::entry(Ino(7), 1, name);
            assert_eq!(Key::from_bytes(key.as_bytes()), Err(KeyError));
        }
    }
}
