//! The records of one leaf, each for itself and beside its neighbours: values that can be
//! decoded, names at their hashes, extents that do not overlap. And what they need of packs.

use crate::format::{
    Extent, HashKeys, Key, KeyParts, Leaf, PackKind, Source, decode_attr, decode_entry,
    decode_extent,
};
use crate::fs::PIECE_LEN;
use crate::types::{Attr, Ino, Kind, PackId};

use super::packs::{ChunkRef, Needed, Packs, id_start, is_chunk_frame_len};

/// A record whose value makes sense.
#[derive(Debug)]
pub enum Record<'a> {
    Attr(Ino, Attr),
    /// Directory, child, its kind, name.
    Entry(Ino, Ino, Kind, &'a [u8]),
    Xattr(Ino),
    Extent(Ino, Extent),
    Orphan(Ino),
}

/// The records of a leaf in order; for one that makes no sense its inode, and why.
pub fn records<'a>(
    leaf: &'a Leaf,
    keys: &'a HashKeys,
) -> impl Iterator<Item = Result<Record<'a>, (Ino, &'static str)>> + 'a {
    let mut free_from = (Ino::META, 0);
    leaf.records().map(move |(key, value)| {
        let Ok(parts) = KeyParts::parse(key) else { return Err((Ino::META, "its key is none")) };
        if let KeyParts::Attr(Ino::META)
        | KeyParts::Entry(Ino::META, ..)
        | KeyParts::Xattr(Ino::META, _)
        | KeyParts::Extent(Ino::META, _) = parts
        {
            return Err((Ino::META, "a record of inode 0"));
        }
        match parts {
            KeyParts::Attr(ino) => {
                let attr = decode_attr(value).ok().filter(is_possible);
                attr.map(|attr| Record::Attr(ino, attr)).ok_or((ino, "its attributes"))
            }
            KeyParts::Entry(directory, hash, name) => match decode_entry(value) {
                Ok(entry) if keys.name(name) == hash => {
                    Ok(Record::Entry(directory, entry.ino, entry.kind, name))
                }
                Ok(entry) => Err((entry.ino, "a name that is not where its hash says")),
                Err(_) => Err((directory, "an entry")),
            },
            KeyParts::Xattr(ino, _) => Ok(Record::Xattr(ino)),
            KeyParts::Extent(ino, offset) => {
                let extent = extent(offset, value).ok_or((ino, "an extent"))?;
                if (ino, offset) < free_from {
                    return Err((ino, "extents that overlap"));
                }
                free_from = (ino, offset + extent.len);
                Ok(Record::Extent(ino, extent))
            }
            KeyParts::Orphan(ino) if value.is_empty() => Ok(Record::Orphan(ino)),
            KeyParts::Orphan(ino) => Err((ino, "an orphan's record")),
            KeyParts::Local(_) => Err((Ino::META, "a mount's own record")),
        }
    })
}

fn is_possible(attr: &Attr) -> bool {
    let is_device = matches!(attr.kind, Kind::CharDevice | Kind::BlockDevice);
    let target_fits = attr.kind != Kind::Symlink || attr.size == attr.target.len() as u64;
    let has_content = attr.kind == Kind::File || attr.allocated == 0;
    attr.size <= i64::MAX as u64 && target_fits && has_content && (is_device || attr.rdev == 0)
}

fn extent(offset: u64, value: &[u8]) -> Option<Extent> {
    let extent = decode_extent(value).ok()?;
    let end = offset.checked_add(extent.len).filter(|&end| end <= i64::MAX as u64)?;
    let in_one_piece = offset / PIECE_LEN == (end - 1) / PIECE_LEN;
    let is_stored = match &extent.source {
        Source::Chunk { slot, .. } => {
            is_chunk_frame_len(slot.len) && slot.offset.checked_add(slot.len).is_some()
        }
        Source::Staged(_) => false,
    };
    (in_one_piece && is_stored).then_some(extent)
}

/// The pack and chunk that an extent needs. None: its pack is not known.
pub fn need(extent: &Extent, packs: &Packs) -> Option<(u32, Needed)> {
    let (pack, needed) = needed(extent)?;
    Some((packs.find(&pack, PackKind::Data)?, needed))
}

/// As [`need`]; the pack is known from then on.
pub fn need_named(extent: &Extent, packs: &mut Packs) -> Option<(u32, Needed)> {
    let (pack, needed) = needed(extent)?;
    Some((packs.name(pack, PackKind::Data), needed))
}

fn needed(extent: &Extent) -> Option<(PackId, Needed)> {
    let Source::Chunk { id, within, slot } = &extent.source else { return None };
    let chunk = ChunkRef { offset: slot.offset, len: slot.len, id: id_start(id) };
    // At most the longest chunk, as the decoder sees to.
    let plain_len = within.saturating_add(u32::try_from(extent.len).unwrap_or(u32::MAX));
    Some((slot.pack, Needed { chunk, plain_len }))
}

/// Last inode that a part of the tree may tell of which ends before this key.
pub fn last_ino_before(key: &Key) -> u64 {
    // The first possible key of an inode is that of its attributes.
    match key.parts() {
        Some(KeyParts::Attr(ino)) => ino.0.saturating_sub(1),
        _ => key.ino().0,
    }
}
