//! Pure bytes to values and back: record keys and values, frames, packs, tree nodes, snapshots,
//! heads, the store's format object. No I/O, no clock.
//!
//! Promises: every decoder bounds every length before it allocates, never panics on any input,
//! and names what is wrong. Integers are little-endian, but in keys, where order matters, they
//! are big-endian. `docs/format.md` tells the same to another implementer.
//!
//! Must not know: where bytes come from or go to.

mod hash;
mod key;
mod record;

pub use hash::HashKeys;
pub use key::{Key, KeyError, KeyParts, Tag};
pub use record::{
    EntryRecord, Extent, PackSlot, RecordError, Source, StagedAt, decode_attr, decode_entry,
    decode_extent, encode_attr, encode_entry, encode_extent,
};
