//! Writing tree packs: nodes bottom-up into packs, which go to the store while more are written.

use std::collections::VecDeque;

use crate::format::{
    FrameKind, Node, NodeRef, OWN_PACK, PackBuilder, PackInfo, PackKind, PackSlot, encode_frame,
    encode_node, pack_key,
};
use crate::remote::{Durable, PutMode, PutTicket};
use crate::types::PackId;

use super::ChunkError;
use super::fetch::Below;
use super::fetch::Fetcher;
use super::window::tree_windows;
use std::sync::Arc;

/// How a provisional pack id begins; the pack's number follows. Real ids are hashes: one that
/// begins like this can't be met by chance, and one that was made up leads to a node whose hash
/// does not match.
const PROVISIONAL: &[u8; 24] = b"dormouse pack still open";

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

    /// Writes a node, whose children were written before. The pack in the reference is
    /// provisional: good as a child's in later calls, and to read the node as long as the local
    /// cache has it; made real by [`FinishedTree::resolve`]. Fails with [`ChunkError::Invalid`] for
    /// a node that the format does not allow, and with the store's error when the upload of an
    /// earlier pack failed: the writer is of no use then.
    pub fn add_node(&mut self, node: &Node) -> Result<NodeRef, ChunkError> {
        // Before the node is encoded: its references depend on the pack that it goes to.
        if self.open.len() >= self.target_bytes {
            self.close_open()?;
        }
        let open = self.closed.len() as u64;
        let plain = encode_node(node, |pack| match number_of(pack) {
            Some(number) if number == open => OWN_PACK,
            _ => real_id(&self.closed, pack),
        })?;
        let id = self.below().keys.node(&plain);
        let frame = encode_frame(FrameKind::Node, &id.0, &plain);
        let offset = self.open.push(&frame)?;
        self.below().cache(&id.0, &frame);
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        Ok(NodeRef { id, slot: PackSlot { pack: provisional(open), offset, len } })
    }

    /// Packs so far, the open one included, and their bytes.
    #[must_use]
    pub fn size(&self) -> (u64, u64) {
        let stored = self.stored.iter().map(|(info, _)| info.len);
        let uploading = self.uploading.iter().map(|(info, _)| info.len);
        let open = (!self.open.is_empty()).then_some(self.open.len() as u64);
        let bytes: u64 = stored.chain(uploading).chain(open).sum();
        ((self.closed.len() + usize::from(open.is_some())) as u64, bytes)
    }

    /// Uploads what is open and waits for all packs. No node, no pack, no request.
    pub fn finish(self) -> Result<FinishedTree, ChunkError> {
        self.close()?.wait()
    }

    /// Begins to upload what is open and waits for nothing: the nodes have their places.
    pub fn close(mut self) -> Result<ClosedTree, ChunkError> {
        self.close_open()?;
        Ok(ClosedTree { writer: self })
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

/// The packs of one writer, on their way to the store. Their nodes can be read from the local
/// cache; from the store only after [`ClosedTree::wait`].
#[derive(Debug)]
pub struct ClosedTree {
    writer: PackWriter,
}

impl ClosedTree {
    /// The packs, in the order in which they were written.
    #[must_use]
    pub fn packs(&self) -> Vec<PackInfo> {
        let stored = self.writer.stored.iter().map(|(info, _)| *info);
        stored.chain(self.writer.uploading.iter().map(|(info, _)| *info)).collect()
    }

    /// The reference with its real pack. References that are not this writer's stay as they are.
    #[must_use]
    pub fn resolve(&self, node: NodeRef) -> NodeRef {
        resolve(&self.writer.closed, node)
    }

    /// The pack that this id of a reference stands for.
    #[must_use]
    pub fn real_id(&self, pack: &PackId) -> PackId {
        real_id(&self.writer.closed, pack)
    }

    /// Waits until the store has acknowledged all packs.
    pub fn wait(mut self) -> Result<FinishedTree, ChunkError> {
        self.wait_for_all()?;
        Ok(FinishedTree { packs: std::mem::take(&mut self.writer.stored) })
    }

    /// As [`ClosedTree::wait`], with the answer left for later. For who has to read the nodes
    /// and did not find them in the cache.
    pub fn wait_for_all(&mut self) -> Result<(), ChunkError> {
        while !self.writer.uploading.is_empty() {
            self.writer.wait_for_oldest()?;
        }
        Ok(())
    }
}

/// The packs of one writer, all acknowledged by the store.
#[derive(Debug, Clone)]
pub struct FinishedTree {
    /// In the order in which they were written.
    pub packs: Vec<(PackInfo, Durable<PackId>)>,
}

impl FinishedTree {
    /// The reference with its real pack. References that are not this writer's stay as they are.
    #[must_use]
    pub fn resolve(&self, node: NodeRef) -> NodeRef {
        let ids: Vec<PackId> = self.packs.iter().map(|(info, _)| info.id).collect();
        resolve(&ids, node)
    }
}

fn resolve(closed: &[PackId], node: NodeRef) -> NodeRef {
    let slot = PackSlot { pack: real_id(closed, &node.slot.pack), ..node.slot };
    NodeRef { slot, ..node }
}

/// Stands for the id of the writer's pack with this number.
fn provisional(number: u64) -> PackId {
    let mut id = [0; 32];
    id[..24].copy_from_slice(PROVISIONAL);
    id[24..].copy_from_slice(&number.to_le_bytes());
    PackId(id)
}

/// Whether this id stands for a pack that the store can't have under it.
pub(super) fn is_provisional(pack: &PackId) -> bool {
    number_of(pack).is_some()
}

/// The number that a provisional id stands for.
fn number_of(pack: &PackId) -> Option<u64> {
    let (prefix, number) = pack.0.split_last_chunk::<8>()?;
    (prefix == PROVISIONAL).then(|| u64::from_le_bytes(*number))
}

/// The id itself, or for a provisional one that of the closed pack.
fn real_id(closed: &[PackId], pack: &PackId) -> PackId {
    let number = number_of(pack).and_then(|number| usize::try_from(number).ok());
    number.and_then(|number| closed.get(number)).copied().unwrap_or(*pack)
}
