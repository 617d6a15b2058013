//! From a name to a mounted workspace: two dependent round trips.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;

use crate::chunks::{ChunkOptions, Chunks, Fetch};
use crate::format::{
    FORMAT_KEY, Head, Key, KeyParts, Snapshot, SnapshotRef, StoreFormat, Tag, head_key,
};
use crate::fs::{Caller, Filesystem, FsOptions};
use crate::local::{Local, crash_point};
use crate::namespace::{Base, Counters, Namespace};
use crate::remote::{Brake, Object, PutMode, Remote, RemoteError, Version};
use crate::tree::Tree;
use crate::types::{Clock, Epoch, Ino, SnapshotId};

use super::active::{Active, Mount, Tally, lease};
use super::head::{self, Nonce, ReadHead};
use super::known_head::KnownHead;
use super::lease::Acquire;
use super::local_state::LocalState;
use super::pace::Hurry;
use super::{Progress, ResumeOptions, WorkspaceError, store};

/// Overlay records dropped by one commit.
const PAGE_SLOTS: usize = 4096;

/// Permissions of a new workspace's root directory.
const ROOT_MODE: u32 = 0o755;

/// What a mount starts from.
struct Start {
    format: StoreFormat,
    head: Head,
    version: Option<Version>,
    stale: Option<PutMode>,
    /// What swaps of a daemon before may have written.
    tried: Vec<Nonce>,
    /// Taken over from that daemon, as it was.
    is_known: bool,
}

impl Start {
    /// What the mount knows of its head from now on.
    fn into_mount(self, state: LocalState, now: Duration, writable: bool) -> Mount {
        Mount {
            base_packs: self.head.tree_packs.clone(),
            base_created: self.head.snapshot.as_ref().and_then(store::created),
            head: self.head,
            version: self.version,
            tried: self.tried,
            stale: self.stale,
            state,
            renewed_at: now,
            renew_now: self.is_known && writable,
            unlisted: Vec::new(),
            fenced: None,
        }
    }
}

/// How the local directory goes with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// The overlay lies on it.
    Same,
    /// There is no overlay, or none that is wanted: begin on the head.
    Anew,
}

/// Opens the local directory, reads head and format at the same time, takes the lease.
pub fn resume(
    remote: Arc<Remote>,
    clock: Arc<dyn Clock>,
    options: &ResumeOptions,
) -> Result<Active, WorkspaceError> {
    if options.local.connection.is_some() {
        let local = Local::open(&options.local_dir, &options.local, Arc::clone(&clock))?;
        if let Some(known) = KnownHead::load(&local)?
            && is_of_last_mount(&known, &local, options)?
        {
            return take_over(known, (remote, clock, options), Arc::new(local));
        }
        // Given back, or not kept: as after any crash.
        drop(local);
    }
    let wanted = vec![(head_key(&options.name), None), (FORMAT_KEY.to_owned(), None)];
    let (answers, local) = std::thread::scope(|scope| {
        let answers = scope.spawn(|| remote.get_many(wanted));
        let local = Local::open(&options.local_dir, &options.local, Arc::clone(&clock));
        (answers.join().unwrap_or_default(), local)
    });
    let local = Arc::new(local?);
    let mut answers = answers.into_iter();
    let (head, format) = (answers.next(), answers.next());
    let format = match store::decode_format(required(format)) {
        // On its way only, perhaps.
        Err(WorkspaceError::Corrupt { .. }) => store::decode_format(remote.get(FORMAT_KEY)),
        other => other,
    };
    let format = format.map_err(|error| if_known(&local, error, options))?;
    remote.set_condition_style(store::condition_style(&format)?);
    let found = head::found(&remote, &options.name, required(head))?;
    let state = own_state(&local, &format, options)?;
    let begin = Begin { remote, clock, options, local, format, state };
    if options.writable() { begin.for_writing(found) } else { begin.read_only(found) }
}

/// Whether the mount before kept this head: it was not given back, and no later mount took the
/// lease without a note of it.
fn is_of_last_mount(
    known: &KnownHead,
    local: &Local,
    options: &ResumeOptions,
) -> Result<bool, WorkspaceError> {
    if !options.writable() {
        return Ok(true);
    }
    let epoch = LocalState::load(local)?.map(|state| state.epoch);
    Ok(known.head.lease.is_some() && epoch == Some(known.head.epoch))
}

/// Goes on as the daemon before, without a request.
fn take_over(
    known: KnownHead,
    (remote, clock, options): (Arc<Remote>, Arc<dyn Clock>, &ResumeOptions),
    local: Arc<Local>,
) -> Result<Active, WorkspaceError> {
    remote.set_condition_style(store::condition_style(&known.format)?);
    let state = own_state(&local, &known.format, options)?;
    let begin = Begin { remote, clock, options, local, format: known.format.clone(), state };
    let snapshot = known.head.snapshot.as_ref().map(|snapshot| snapshot.id);
    begin.fit(snapshot, None)?;
    begin.mount(Start {
        format: known.format,
        head: known.head,
        version: known.version,
        stale: None,
        tried: known.tried,
        is_known: true,
    })
}

/// Where there is no store: that there was one, if the local directory knows it.
fn if_known(local: &Local, error: WorkspaceError, options: &ResumeOptions) -> WorkspaceError {
    let cause = match &error {
        WorkspaceError::NoStore => String::from("no store is at its address"),
        WorkspaceError::Remote(cause @ RemoteError::NoStore { .. }) => cause.to_string(),
        _ => return error,
    };
    match LocalState::load(local) {
        Ok(Some(_)) => {
            WorkspaceError::StoreGone { dir: options.local_dir.display().to_string(), cause }
        }
        Ok(None) | Err(_) => error,
    }
}

/// An answer that `get_many` owes.
fn required(answer: Option<Result<Object, RemoteError>>) -> Result<Object, RemoteError> {
    answer.unwrap_or_else(|| {
        Err(RemoteError::Unavailable {
            key: String::from("head"),
            waited: Duration::ZERO,
            cause: String::from("the request was dropped"),
        })
    })
}

/// The directory's memory, if it is of this workspace in this store; none in a new directory.
fn own_state(
    local: &Local,
    format: &StoreFormat,
    options: &ResumeOptions,
) -> Result<Option<LocalState>, WorkspaceError> {
    let state = LocalState::load(local)?;
    let ours = format!("workspace {} of store {}", options.name, store_id(&format.store_id));
    match &state {
        Some(state) => {
            let theirs =
                format!("workspace {} of store {}", state.workspace, store_id(&state.store));
            if theirs == ours {
                return Ok(Some(state.clone()));
            }
            let dir = options.local_dir.display().to_string();
            Err(WorkspaceError::WrongDirectory { dir, theirs, ours })
        }
        None => Ok(None),
    }
}

/// A store's id as text.
pub fn store_id(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the overlay has records other than the mount's own state.
pub fn has_changes(local: &Local) -> Result<bool, WorkspaceError> {
    let orphans = (Key::orphan(Ino(0)), Key::tag_end(Ino::META, Tag::Orphan));
    let files = (Key::attr(Ino::ROOT), Key::tag_end(Ino(u64::MAX), Tag::Local));
    for (from, to) in [orphans, files] {
        if !local.range(from.as_bytes(), to.as_bytes(), 1)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Begin<'a> {
    remote: Arc<Remote>,
    clock: Arc<dyn Clock>,
    options: &'a ResumeOptions,
    local: Arc<Local>,
    format: StoreFormat,
    state: Option<LocalState>,
}

impl Begin<'_> {
    fn for_writing(self, found: Option<ReadHead>) -> Result<Active, WorkspaceError> {
        let stale = match &found {
            Some(found) => PutMode::Swap(found.version.clone()),
            None => PutMode::Create,
        };
        let acquire = Acquire {
            name: &self.options.name,
            lease: lease(self.options, &self.local),
            steal: self.options.steal,
            create: self.options.create,
        };
        if found.is_none() {
            self.fit(None, None)?;
        }
        let accept = |head: &Head| self.fit_head(head).map(|_| ());
        let acquired = acquire.run(&self.remote, found, &accept)?;
        crash_point("resume.acquired");
        let start = Start {
            format: self.format.clone(),
            head: acquired.head,
            version: Some(acquired.version),
            stale: Some(stale),
            tried: Vec::new(),
            is_known: false,
        };
        self.mount(start)
    }

    fn read_only(self, found: Option<ReadHead>) -> Result<Active, WorkspaceError> {
        let name = &self.options.name;
        let found = found.ok_or_else(|| WorkspaceError::NoWorkspace { name: name.clone() })?;
        if has_changes(&self.local)? {
            let dir = self.options.local_dir.display().to_string();
            return Err(WorkspaceError::Unsynced { dir });
        }
        let newest = found.head.snapshot.as_ref().map(|snapshot| snapshot.id);
        let head = match self.options.at {
            Some(at) if Some(at) != newest => self.head_at(&found.head, at)?,
            _ => found.head,
        };
        let format = self.format.clone();
        let tried = Vec::new();
        self.mount(Start { format, head, version: None, stale: None, tried, is_known: false })
    }

    /// What the head was when this snapshot was the newest.
    fn head_at(&self, head: &Head, id: SnapshotId) -> Result<Head, WorkspaceError> {
        let name = &self.options.name;
        let absent = || WorkspaceError::NoSnapshot { name: name.clone(), id: id.to_string() };
        let list = store::snapshot_keys(&self.remote, name)?;
        let (key, _) = list.into_iter().find(|(_, known)| known.id == id).ok_or_else(absent)?;
        let object = self.remote.get(&key)?;
        let snapshot = decode_snapshot(&key, id, &object.bytes)?;
        Ok(Head {
            snapshot: Some(SnapshotRef { id, key }),
            root: snapshot.root,
            nodes: Vec::new(),
            records: Vec::new(),
            tree_packs: snapshot.tree_packs,
            next_ino: snapshot.next_ino,
            inodes: snapshot.inodes,
            bytes: snapshot.bytes,
            ..head.clone()
        })
    }

    /// Whether the overlay may be laid on this head.
    fn fit_head(&self, head: &Head) -> Result<Fit, WorkspaceError> {
        let others = head.lease.as_ref().filter(|l| l.holder != self.local.cache_id());
        let snapshot = head.snapshot.as_ref().map(|snapshot| snapshot.id);
        self.fit(snapshot, others.map(|lease| lease.host.clone()))
    }

    fn fit(
        &self,
        snapshot: Option<SnapshotId>,
        host: Option<String>,
    ) -> Result<Fit, WorkspaceError> {
        match &self.state {
            Some(state) if state.fits(snapshot) => Ok(Fit::Same),
            // What the kernel remembers of a mount that is taken over lies on our base.
            _ if self.options.local.connection.is_none()
                && (self.options.discard_local || !has_changes(&self.local)?) =>
            {
                Ok(Fit::Anew)
            }
            _ => Err(WorkspaceError::Diverged {
                name: self.options.name.clone(),
                dir: self.options.local_dir.display().to_string(),
                host: host.unwrap_or_else(|| String::from("another machine")),
            }),
        }
    }

    /// Brings the local directory in line with the head, and notes so there.
    fn remember(&self, start: &Start) -> Result<LocalState, WorkspaceError> {
        if self.fit_head(&start.head)? == Fit::Anew {
            drop_overlay(&self.local)?;
        }
        let state = LocalState {
            workspace: self.options.name.to_string(),
            store: start.format.store_id,
            epoch: if self.options.writable() { start.head.epoch } else { Epoch(0) },
            base: start.head.snapshot.as_ref().map(|snapshot| snapshot.id),
            // A swap of the daemon before may still turn out to be won.
            pending: match &self.state {
                Some(state) if start.is_known => state.pending.clone(),
                _ => Vec::new(),
            },
        };
        if self.state.as_ref() != Some(&state) {
            state.save(&self.local)?;
        }
        Ok(state)
    }

    /// Builds the layers on the local directory and the head.
    fn mount(self, start: Start) -> Result<Active, WorkspaceError> {
        let state = self.remember(&start)?;
        crash_point("resume.remembered");
        let keys = start.format.keys();
        let (local, clock) = (Arc::clone(&self.local), Arc::clone(&self.clock));
        let chunks = Chunks::new(
            Arc::clone(&local),
            Arc::clone(&self.remote),
            keys.clone(),
            ChunkOptions {
                hot_bytes_max: self.options.upkeep.hot_bytes_max,
                ..self.options.chunks.clone()
            },
            Arc::clone(&clock),
        );
        chunks.seed_nodes(&start.head.nodes);
        let hints = start.head.records.iter().cloned().collect();
        let tree = Tree::new(Arc::clone(&chunks), start.head.root).with_hints(Arc::new(hints));
        let base = Base { tree, next_ino: start.head.next_ino };
        let counters = Counters { inodes: start.head.inodes, bytes: start.head.bytes };
        let namespace = Arc::new(Namespace::open(Arc::clone(&local), base, keys, counters)?);
        let writable = self.options.writable();
        let fs_options = FsOptions { read_only: !writable, ..self.options.fs.clone() };
        let fs = Filesystem::new(
            Arc::clone(&namespace),
            Arc::clone(&chunks),
            Arc::clone(&local),
            &fs_options,
            clock,
        );
        if self.options.local.connection.is_some() {
            fs.inherit();
            crash_point("resume.inherited");
        }
        if writable && start.head.root.is_none() {
            make_root(&fs, &namespace, self.options)?;
        }
        let (epoch, is_known) = (state.epoch, start.is_known);
        let format = start.format.clone();
        let mount = start.into_mount(state, self.clock.monotonic(), writable);
        let active = Active {
            options: self.options.clone(),
            store_id: format.store_id,
            format,
            epoch,
            clock: self.clock,
            remote: self.remote,
            local,
            chunks,
            namespace,
            fs,
            progress: Arc::new(Progress::default()),
            sealing: Mutex::default(),
            settling: Mutex::default(),
            swapping: Mutex::default(),
            brake: Brake::default(),
            mount: Mutex::new(mount),
            tally: Mutex::new(Tally::default()),
            closed: AtomicBool::new(false),
            hurry: Hurry::default(),
        };
        if !is_known {
            active.keep_head(&active.mount.lock());
        }
        Ok(active)
    }
}

/// The root directory of a new workspace, unless an earlier mount made it already.
fn make_root(
    fs: &Filesystem,
    namespace: &Namespace,
    options: &ResumeOptions,
) -> Result<(), WorkspaceError> {
    if namespace.get(&Key::attr(Ino::ROOT), Fetch::LocalOnly)?.is_some() {
        return Ok(());
    }
    let (uid, gid) = options.root_owner;
    let caller = Caller { uid, gid, ..Caller::root(Fetch::LocalOnly) };
    fs.make_root(&caller, ROOT_MODE)?;
    Ok(())
}

/// Decodes a snapshot whose bytes must have this id.
pub fn decode_snapshot(
    key: &str,
    id: SnapshotId,
    bytes: &[u8],
) -> Result<Snapshot, WorkspaceError> {
    if Snapshot::id(bytes) != id {
        let cause = String::from("its bytes do not have the hash in its name");
        return Err(WorkspaceError::Corrupt { what: key.to_owned(), cause });
    }
    Snapshot::decode(bytes).map_err(|cause| WorkspaceError::format(key, cause))
}

/// Takes every record out of the overlay, and the counters that went with it. The inode numbers
/// that were given out stay given out.
fn drop_overlay(local: &Local) -> Result<(), WorkspaceError> {
    let end = Key::tag_end(Ino(u64::MAX), Tag::Local);
    let mut from = Vec::new();
    loop {
        let slots = local.range(&from, end.as_bytes(), PAGE_SLOTS)?;
        let Some((last, _)) = slots.last() else { return Ok(()) };
        from = last.successor().as_bytes().to_vec();
        let counters = Key::local("namespace/counters");
        let dropped =
            |key: &Key| *key == counters || !matches!(key.parts(), Some(KeyParts::Local(_)));
        let slots: Vec<_> = slots.into_iter().filter(|(key, _)| dropped(key)).collect();
        local.drop_clean(&slots)?;
    }
}
