//! Pure bytes to values and back: record keys and values, frames, packs, tree nodes, snapshots,
//! heads, the store's format object. No I/O, no clock.
//!
//! Promises: every decoder bounds every length before it allocates, never panics on any input,
//! and names what is wrong; a newer version is told from damage. Integers are little-endian, but
//! in keys, where order matters, they are big-endian. `docs/format.md` tells the same to another
//! implementer.
//!
//! Must not know: where bytes come from or go to.

mod bytes;
mod error;
mod frame;
mod hash;
mod head;
mod key;
mod layout;
mod manifest;
mod node;
mod pack;
mod record;
mod snapshot;
mod store;

pub use error::FormatError;
pub use frame::{
    CHUNK_LEN_MAX, FRAME_HEADER_LEN, FRAME_MAGIC, FrameHeader, FrameKind, NODE_LEN_MAX, ZSTD_LEVEL,
    decode_frame, decode_frame_into, encode_frame, encode_frame_at, parse_header,
};
pub use hash::HashKeys;
pub use head::{HEAD_NODES_BYTES_MAX, HEAD_RECORDS_BYTES_MAX, Head, Lease, SnapshotRef};
pub use key::{KEY_LEN_MAX, Key, KeyError, KeyParts, Tag};
pub use layout::{
    FORMAT_KEY, PACKS_PREFIX, SnapshotName, WORKSPACES_PREFIX, head_key, pack_key, snapshot_key,
    snapshots_prefix,
};
pub use node::{
    Child, Inner, LEVEL_MAX, Leaf, NODE_HEADER_LEN, Node, NodeRef, OWN_PACK, VALUE_LEN_MAX,
    child_len, decode_node, encode_node, record_len,
};
pub use pack::{
    PACK_ENTRY_LEN, PACK_FOOTER_LEN, PACK_HEADER_LEN, PACK_LEN_MAX, PackBuilder, PackIndex,
    PackIndexEntry, PackInfo, PackKind, decode_pack_header, decode_pack_index, frames, pack_id,
};
pub use record::{
    EntryRecord, Extent, PackSlot, Source, StagedAt, decode_attr, decode_entry, decode_extent,
    encode_attr, encode_entry, encode_extent,
};
pub use snapshot::{HOT_SET_LEN_MAX, Snapshot};
pub use store::StoreFormat;
