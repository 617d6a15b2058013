//! POSIX operations over the namespace's records and the chunks' bytes. The only place that knows
//! errno numbers (`error.rs`).
//!
//! Promises: an operation is atomic: it reads all it needs, then makes one commit, so that every
//! state that a crash or a cut can show existed; one that lacks something answers `NotLocal`
//! before anything happened; nobody waits for the store while holding a lock. `docs/semantics.md`
//! is the contract. Must not know: FUSE, leases, when a seal happens.
//!
//! How an operation runs (`mutate`): with what is on this machine only, under its inodes' locks.
//! If something is missing it ends; with `Fetch::Until` what was missing is fetched without any
//! lock, and the operation starts again from the beginning.

mod acl;
mod again;
mod ahead;
mod allocate;
mod attr;
mod copy_range;
mod create;
mod directory;
mod dirty;
mod error;
mod extents;
mod gate;
mod inode;
mod link;
mod lookups;
mod offsets;
mod orphans;
mod plan;
mod read;
mod rename;
mod request;
mod room;
mod settle_hooks;
mod statfs;
mod sweep;
mod write;
mod xattr;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::chunks::{Chunks, Fetch};
use crate::local::Local;
use crate::namespace::{Namespace, Quota};
use crate::types::Clock;

use ahead::Ahead;
use dirty::Dirty;
use gate::Gate;
use inode::InodeTable;
use lookups::Lookups;
use orphans::Orphans;
use room::Room;

pub use directory::Sink;
pub use dirty::DirtyInode;
pub use error::{FsError, Missing};
pub use extents::PIECE_LEN;
pub use link::LINKS_MAX;
pub use orphans::Reclaim;
pub use read::READ_LEN_MAX;
pub use request::{
    AllocateMode, At, Caller, CopyRange, DirEntry, Entry, FsOptions, ListFrom, NewNode, RenameMode,
    Seek, SetAttr, SetTime, StatFs, XattrMode,
};
pub use room::Lack;
pub use settle_hooks::{SettledRegion, Stale};

/// Largest file, bytes: offsets are signed 64-bit numbers.
pub const FILE_SIZE_MAX: u64 = i64::MAX as u64;

/// What `stat` shows as a directory's size.
const DIRECTORY_SIZE: u64 = 4096;

/// How often an operation starts again with what was fetched for it. More can be needed only if
/// the cache drops things as fast as they come.
const TRIES_MAX: usize = 64;

/// A mounted workspace's files.
///
/// Lock order: gate, `moves`, inodes in ascending order, the namespace's locks; the tables'
/// shards (inodes, lookups, orphans, dirty) are leaves.
#[derive(Debug)]
pub struct Filesystem {
    namespace: Arc<Namespace>,
    chunks: Arc<Chunks>,
    local: Arc<Local>,
    clock: Arc<dyn Clock>,
    gate: Gate,
    /// Held while a directory gets another parent, so that no two moves make a cycle.
    moves: Mutex<()>,
    inodes: InodeTable,
    lookups: Lookups,
    orphans: Orphans,
    dirty: Dirty,
    ahead: Arc<Ahead>,
    room: Room,
    operations: AtomicU64,
}

impl Filesystem {
    /// A filesystem over these records and chunks. Follow it with `make_root` for a new
    /// workspace, and with `recover` in the background.
    #[must_use]
    pub fn new(
        namespace: Arc<Namespace>,
        chunks: Arc<Chunks>,
        local: Arc<Local>,
        options: &FsOptions,
        clock: Arc<dyn Clock>,
    ) -> Arc<Filesystem> {
        namespace
            .set_quota(Quota { inodes_max: options.quota_inodes, bytes_max: options.quota_bytes });
        Arc::new(Filesystem {
            namespace,
            chunks,
            local,
            clock,
            gate: Gate::new(options.read_only),
            moves: Mutex::new(()),
            inodes: InodeTable::new(options.inode_cache_bytes_max),
            lookups: Lookups::new(),
            orphans: Orphans::default(),
            dirty: Dirty::default(),
            ahead: Arc::default(),
            room: Room::default(),
            operations: AtomicU64::new(0),
        })
    }

    /// The records under it.
    #[must_use]
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// From now on every change fails with `Fenced`; reads go on.
    pub fn fence(&self) {
        self.gate.fence();
    }

    /// Whether it was fenced.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.gate.is_fenced()
    }

    /// Lets no more changes in and returns when those under way have ended. Callers that may
    /// wait do so until their deadline, then get `Frozen`; others get `NotLocal`. Forgotten
    /// orphans stay until a thaw.
    pub fn freeze(&self) {
        self.gate.freeze();
    }

    /// Lets changes in again.
    pub fn thaw(&self) {
        self.gate.thaw();
    }

    /// Until the next call, slows writes of data by `delay` each (at most 100 ms), and after
    /// `credit` bytes lets none in (0: from now on, `u64::MAX`: never): they wait for room, or are
    /// refused with `NoSpace` where nobody makes it.
    pub fn set_admission(&self, delay: Duration, credit: u64) {
        self.gate.set_admission(delay, credit);
    }

    /// Operations that were asked for since the mount, about: one may count twice, and what a
    /// seal or settling does is none. What changes says how busy the mount is.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// Inodes that the kernel knows of.
    #[must_use]
    pub fn lookup_count(&self) -> usize {
        self.lookups.len()
    }

    /// Memory of the inodes held, bytes, estimated.
    #[must_use]
    pub fn inode_memory_bytes(&self) -> u64 {
        self.inodes.bytes() as u64
    }

    /// Runs an operation that changes something.
    fn mutate<T>(
        &self,
        fetch: Fetch,
        mut op: impl FnMut() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.operations.fetch_add(1, Ordering::Relaxed);
        self.with_fetch(fetch, || {
            let _admitted = self.gate.enter()?;
            op().map_err(|error| self.room.or_wait(error))
        })
    }

    /// Runs an operation that changes nothing.
    fn read_only<T>(
        &self,
        fetch: Fetch,
        op: impl FnMut() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.operations.fetch_add(1, Ordering::Relaxed);
        self.with_fetch(fetch, op)
    }

    /// Runs `op`, which uses only what is on this machine; fetches what it lacks, if that is
    /// allowed, and runs it again. `op` holds no lock any more when it returns `NotLocal`.
    fn with_fetch<T>(
        &self,
        fetch: Fetch,
        mut op: impl FnMut() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let mut refusal = FsError::TimedOut;
        for _ in 0..TRIES_MAX {
            match (op(), fetch) {
                (done, Fetch::LocalOnly) => return done,
                (Err(FsError::NotLocal(missing)), _) => {
                    if matches!(missing, Missing::Room(_)) {
                        // Others were always first.
                        refusal = missing.refusal();
                    }
                    self.bring(&missing, fetch)?;
                }
                (done, _) => return done,
            }
        }
        Err(refusal)
    }

    /// Fetches what an operation lacked that answered `NotLocal`, or waits for it, and begins
    /// nothing: who gives the operation up meanwhile leaves nothing behind.
    ///
    /// # Errors
    /// It does not come in time: what the operation is answered with.
    pub fn bring(&self, missing: &Missing, fetch: Fetch) -> Result<(), FsError> {
        match missing {
            Missing::Record(key) => {
                self.namespace.get(key, fetch)?;
            }
            Missing::Records(from, to, limit) => {
                self.namespace.range(from, to, *limit, fetch)?;
            }
            // Nothing to fetch here; the operation itself reads or waits.
            Missing::Content | Missing::Turn => {}
            Missing::Thaw => self.gate.wait_for_thaw(fetch, &*self.clock)?,
            Missing::Room(lack) => self.room.wait(*lack, fetch, &*self.clock)?,
        }
        Ok(())
    }
}
