//! Writing tree packs: nodes bottom-up into packs, which go to the store while more are written.

use std::collections::VecDeque;

use crate::format::{
    FrameKind, NewNode, OpenRef, PackBuilder, PackInfo, PackKind, encode_frame,
    pack_key,
};
use crate::remote::{Durable, PutMode, PutTicket};
use crate::types::PackId;

use super::ChunkError;
use super::fetch::Below;
use super::fetch::Fetcher;
use super::window::tree_windows;
use std::sync::Arc;

/// Uploads of one writer at once; with the open pack, what a seal holds in memory.
const UPLOADS_AT_ONCE: usize = 3;

/// Writes the nodes of one seal. Nothing that it wrote may be referred to before
/// [`PackWriter::finish`]; dropping it before leaves packs in the store that nobody names.
#[derive(Debug)]
pub struct PackWriter {
    fetcher: Arc<Fetcher>,
    target_bytes: usize,
    open: PackBuilder,
    /// Ids of the closed packs, by number.
    closed: Vec<PackId>,
    uploading: VecDeque<(PackInfo, PutTicket)>,
    stored: Vec<(PackInfo, Durable<PackId>)>,
}

impl PackWriter {
    pub(super) fn new(fetcher: Arc<Fetcher>, target_bytes: usize) -> PackWriter {
        PackWriter {
            fetcher,
            target_bytes,
            open: PackBuilder::new(PackKind::Tree),
            closed: Vec::new(),
            uploading: VecDeque::new(),
            stored: Vec::new(),
        }
    }

    fn below(&self) -> &Below {
        &self.fetcher.below
    }

    /// Writes a node, whose children were written before. The reference is resolved with what
    /// [`PackWriter::finish`] returns. Fails with [`ChunkError::Invalid`] for a node that the
    /// format does not allow, and with the store's error when an upload of an earlier pack
    /// failed: the writer is of no use then.
    pub fn add_node(&mut self, node: NewNode) -> Result<OpenRef, ChunkError> {
        // Before the node is encoded: its references depend on the pack that it goes to.
        if self.open.len() >= self.target_bytes {
            self.close_open()?;
        }
        let plain = node.into_plain(&self.closed)?;
        let id = self.below().keys.node(&plain);
        let frame = encode_frame(FrameKind::Node, &id.0, &plain);
        let offset = self.open.push(&frame)?;
        self.below().cache(&id.0, &frame);
        // There are at most as many packs as nodes, and a pack's frames are counted in u32.
        let pack = u32::try_from(self.closed.len()).unwrap_or(u32::MAX);
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        Ok(OpenRef { pack, id, offset, len })
    }

    /// Uploads what is open and waits for all packs. They are in the order of their numbers,
    /// for [`crate::format::ChildRef::resolve`]. No node, no pack.
    pub fn finish(mut self) -> Result<Vec<(PackInfo, Durable<PackId>)>, ChunkError> {
        self.close_open()?;
        while !self.uploading.is_empty() {
            self.wait_for_oldest()?;
        }
        Ok(std::mem::take(&mut self.stored))
    }

    fn close_open(&mut self) -> Result<(), ChunkError> {
        if self.open.is_empty() {
            return Ok(());
        }
        if self.uploading.len() >= UPLOADS_AT_ONCE {
            self.wait_for_oldest()?;
        }
        let builder = std::mem::replace(&mut self.open, PackBuilder::new(PackKind::Tree));
        let (id, bytes) = builder.finish();
        let info = PackInfo { id, len: bytes.len() as u64 };
        let ticket = self.below().remote.submit_put(&pack_key(&id), bytes, PutMode::Any);
        self.closed.push(id);
        self.uploading.push_back((info, ticket));
        Ok(())
    }

    fn wait_for_oldest(&mut self) -> Result<(), ChunkError> {
        let Some((info, ticket)) = self.uploading.pop_front() else { return Ok(()) };
        let stored = ticket.wait()?;
        let counters = &self.below().counters;
        counters.tree_packs_stored.add(1);
        counters.tree_pack_bytes_stored.add(info.len);
        // All its nodes were cached as they were written: nothing to prefetch.
        for number in 0..tree_windows(info.len) {
            self.fetcher.note_tree_window(&info.id, number);
        }
        self.stored.push((info, Durable::new(info.id, stored)));
        Ok(())
    }
}
