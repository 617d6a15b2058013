//! Makes a workspace of any number of empty files in seconds, by writing its sealed tree straight
//! into the store, for `scripts/scale`:
//!
//! ```text
//! cargo run --release --example synthetic -- STORE_DIRECTORY WORKSPACE FILES
//! ```
//! `/top/sub/file`: 1,000 files in a folder, 100 folders in a folder above. The head has nothing
//! inline: mount it once, change something and hibernate, then it is like any other.
#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use dormouse::chunks::{ChunkOptions, Chunks, Fetch};
use dormouse::format::{
    EntryRecord, FORMAT_KEY, HashKeys, Head, Key, NodeRef, PackInfo, Snapshot, SnapshotRef,
    StoreFormat, encode_attr, encode_entry, head_key,
};
use dormouse::local::{Local, LocalOptions};
use dormouse::remote::{PutMode, Remote, RemoteOptions, StoreUrl};
use dormouse::tree::{Tree, TreeError};
use dormouse::types::{Attr, Clock, Epoch, Ino, Kind, SystemClock, Time, WorkspaceName};
use dormouse::workspace::Store;

const FILES_PER_FOLDER: u64 = 1000;
const FOLDERS_PER_TOP: u64 = 100;

/// Who is where. Inodes are numbered depth first, so that records come in the order of keys.
#[derive(Debug, Clone, Copy)]
struct Shape {
    files: u64,
}

impl Shape {
    fn folders(self) -> u64 {
        self.files.div_ceil(FILES_PER_FOLDER)
    }

    fn tops(self) -> u64 {
        self.folders().div_ceil(FOLDERS_PER_TOP)
    }

    fn inodes(self) -> u64 {
        1 + self.tops() + self.folders() + self.files
    }

    fn top(self, top: u64) -> Ino {
        Ino(Ino::ROOT.0 + 1 + top * (1 + FOLDERS_PER_TOP * (1 + FILES_PER_FOLDER)))
    }

    fn folder(self, folder: u64) -> Ino {
        let in_top = folder % FOLDERS_PER_TOP;
        Ino(self.top(folder / FOLDERS_PER_TOP).0 + 1 + in_top * (1 + FILES_PER_FOLDER))
    }

    fn next_ino(self) -> Ino {
        Ino(self.folder(self.folders() - 1).0 + 1 + FILES_PER_FOLDER)
    }
}

fn attr(kind: Kind, parent: Ino, nlink: u64) -> Bytes {
    let time = Time::new(1_700_000_000, 123_456_789);
    let is_dir = kind == Kind::Directory;
    encode_attr(&Attr {
        kind,
        mode: if is_dir { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        nlink: nlink as u32,
        size: if is_dir { 4096 } else { 0 },
        allocated: 0,
        rdev: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        parent: if is_dir { parent } else { Ino::META },
        target: Box::default(),
    })
    .into()
}

type Record = (Key, Bytes);

/// A directory's own records: its attributes and its entries.
fn directory(
    keys: &HashKeys,
    (ino, parent): (Ino, Ino),
    entries: impl Iterator<Item = (String, Ino, Kind)>,
) -> Vec<Record> {
    let mut folders = 0;
    let mut records = vec![(Key::attr(ino), Bytes::new())];
    for (name, child, kind) in entries {
        folders += u64::from(kind == Kind::Directory);
        let key = Key::entry(ino, keys.name(name.as_bytes()), name.as_bytes());
        records.push((key, encode_entry(EntryRecord { ino: child, kind }).into()));
    }
    records[0].1 = attr(Kind::Directory, parent, 2 + folders);
    records.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    records
}

/// All records, in the order of their keys, a directory's worth at a time.
fn records(shape: Shape, keys: &HashKeys) -> impl Iterator<Item = Record> + '_ {
    let tops = (0..shape.tops()).map(move |top| (format!("top{top}"), shape.top(top)));
    let tops = tops.map(|(name, ino)| (name, ino, Kind::Directory));
    let root = directory(keys, (Ino::ROOT, Ino::ROOT), tops);
    let below = (0..shape.tops()).flat_map(move |top| {
        let ino = shape.top(top);
        let last = ((top + 1) * FOLDERS_PER_TOP).min(shape.folders());
        let folders = top * FOLDERS_PER_TOP..last;
        let names = folders
            .clone()
            .map(move |folder| (format!("folder{folder}"), shape.folder(folder), Kind::Directory));
        let own = directory(keys, (ino, Ino::ROOT), names);
        let content = folders.flat_map(move |folder| in_folder(shape, keys, folder, ino));
        own.into_iter().chain(content)
    });
    root.into_iter().chain(below)
}

fn in_folder(shape: Shape, keys: &HashKeys, folder: u64, parent: Ino) -> Vec<Record> {
    let ino = shape.folder(folder);
    let count = FILES_PER_FOLDER.min(shape.files - folder * FILES_PER_FOLDER);
    let child = |file: u64| Ino(ino.0 + 1 + file);
    let entries = (0..count).map(|file| (format!("file{file}.txt"), child(file), Kind::File));
    let mut records = directory(keys, (ino, parent), entries);
    let file = attr(Kind::File, Ino::META, 1);
    records.extend((0..count).map(|number| (Key::attr(child(number)), file.clone())));
    records
}

fn write_tree(
    remote: &Arc<Remote>,
    keys: &HashKeys,
    shape: Shape,
) -> Result<(Option<NodeRef>, Vec<PackInfo>)> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let scratch = tempfile::tempdir()?;
    let local = Local::open(scratch.path(), &LocalOptions::default(), Arc::clone(&clock))?;
    let chunks = Chunks::new(
        Arc::new(local),
        Arc::clone(remote),
        keys.clone(),
        ChunkOptions::default(),
        Arc::clone(&clock),
    );
    let mut writer = chunks.tree_writer();
    let mut changes =
        records(shape, keys).map(|(key, value)| Ok::<_, TreeError>((key, Some(value))));
    let fetch = Fetch::Until(clock.monotonic() + Duration::from_secs(3600));
    let merged = Tree::empty(chunks.clone()).merge(&mut changes, &mut writer, fetch)?;
    let finished = writer.finish()?;
    let root = merged.root.map(|root| finished.resolve(root));
    Ok((root, finished.packs.into_iter().map(|(info, _)| info).collect()))
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().with_context(|| format!("{what} is missing"));
    let (store, name) = (next("the store's directory")?, next("the workspace's name")?);
    let shape = Shape { files: next("the number of files")?.parse()? };
    anyhow::ensure!(
        shape.files > 0,
        "a workspace of no files is made by `dormouse mount --create`"
    );
    let workspace: WorkspaceName = name.parse()?;

    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let url = StoreUrl::Directory(Path::new(&store).to_owned());
    let remote = Remote::open(&url, &RemoteOptions::default(), Arc::clone(&clock))?;
    Store::init(Arc::clone(&remote), &*clock)?;
    let format = StoreFormat::decode(&remote.get(FORMAT_KEY)?.bytes)?;

    let (root, tree_packs) = write_tree(&remote, &format.keys(), shape)?;
    let snapshot = Snapshot {
        workspace: workspace.clone(),
        parents: Vec::new(),
        created: clock.now(),
        epoch: Epoch(1),
        root,
        tree_packs: tree_packs.clone(),
        next_ino: shape.next_ino(),
        inodes: shape.inodes(),
        bytes: 0,
        data_packs_added: Vec::new(),
        hot_set: Vec::new(),
        reason: String::from("checkpoint"),
    };
    let bytes = snapshot.encode()?;
    let id = Snapshot::id(&bytes);
    let key = snapshot.key(&id);
    remote.put(&key, bytes.into(), PutMode::Any)?;
    let head = Head {
        nonce: [0; 16],
        workspace: workspace.clone(),
        epoch: Epoch(1),
        lease: None,
        snapshot: Some(SnapshotRef { id, key }),
        root,
        nodes: Vec::new(),
        records: Vec::new(),
        tree_packs: tree_packs.clone(),
        next_ino: shape.next_ino(),
        inodes: shape.inodes(),
        bytes: 0,
    };
    remote.put(&head_key(&workspace), head.encode()?.into(), PutMode::Create)?;
    let bytes: u64 = tree_packs.iter().map(|pack| pack.len).sum();
    println!(
        "{workspace}: {} inodes in {} tree packs, {bytes} bytes",
        shape.inodes(),
        tree_packs.len()
    );
    Ok(())
}
