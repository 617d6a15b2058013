//! Runs a history on the filesystem and on the model, and compares all that can be seen.

use std::collections::{BTreeMap, HashMap};

use std::sync::Arc;
use std::time::Duration;

use dormouse::chunks::Fetch;
use dormouse::fs::{At, Caller, CopyRange, FsError, ListFrom, NewNode, Seek, SetAttr, SetTime};
use dormouse::types::{Clock, Ino, Kind, Name, Time};

use crate::machine::{Machine, WAIT};
use crate::model::{Model, Node, Who};
use crate::ops::{Op, written};

const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"\xff\x01 odd", &[b'n'; 255]];
const XATTRS: [&[u8]; 6] =
    [b"user.a", b"user.b", b"trusted.t", b"security.capability", b"security.s", b"other.x"];
const TARGET: &[u8] = b"../some/where";
const USER: u32 = 1000;

/// What an operation answered, in one shape for both.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Number(u64),
    Bytes(Vec<u8>),
    Fails(i32),
}

/// A history under way.
pub struct Run {
    pub machine: Option<Machine>,
    pub model: Model,
    /// What the kernel knows: lookups per inode.
    lookups: HashMap<Ino, u64>,
    /// What a power cut may leave, oldest first.
    past: Vec<Past>,
    step: u64,
}

/// The model after a step.
struct Past {
    /// Records in the journal by then.
    seq: u64,
    model: Model,
}

impl Run {
    pub fn new() -> Run {
        let machine = Machine::new();
        let model = Model::new(machine.clock.now());
        let past = Vec::new();
        let mut run = Run { machine: Some(machine), model, lookups: HashMap::new(), past, step: 0 };
        run.synced(run.appended());
        run
    }

    /// How many operations it had until now.
    pub fn steps(&self) -> u64 {
        self.step
    }

    fn machine(&self) -> &Machine {
        self.machine.as_ref().expect("a machine is running between operations")
    }

    fn any(&self, pick: u8) -> Ino {
        let nth = usize::from(pick) % self.model.nodes.len();
        *self.model.nodes.keys().nth(nth).expect("less than the length")
    }

    /// A directory, linked or not; now and then something else.
    fn dir(&self, pick: u8) -> Ino {
        if pick == u8::MAX {
            return self.any(pick);
        }
        let is_dir = |ino: &&Ino| self.model.nodes[ino].kind() == Kind::Directory;
        let dirs: Vec<_> = self.model.nodes.keys().filter(is_dir).collect();
        *dirs[usize::from(pick) % dirs.len()]
    }

    /// A regular file if there is one; now and then something else.
    fn file(&self, pick: u8) -> Ino {
        let is_file = |ino: &&Ino| self.model.nodes[ino].kind() == Kind::File;
        let files: Vec<_> = self.model.nodes.keys().filter(is_file).collect();
        match files.len() {
            0 => self.any(pick),
            _ if pick % 16 == 15 => self.any(pick / 16),
            len => *files[usize::from(pick) % len],
        }
    }

    fn who(&self, root: bool) -> (Caller, Who) {
        let who = match root {
            true => Who { uid: 0, gid: 0, umask: 0o022 },
            false => Who { uid: USER, gid: USER, umask: 0o077 },
        };
        let Who { uid, gid, umask } = who;
        (Caller { uid, gid, umask, fetch: WAIT, request: None }, who)
    }

    fn looked_up(&mut self, ino: Ino) {
        *self.lookups.entry(ino).or_insert(0) += 1;
    }

    /// Runs one operation on both sides and compares the answers.
    pub fn apply(&mut self, op: &Op) {
        self.step += 1;
        self.machine().clock.advance(Duration::from_millis(7));
        self.model.now = self.machine().clock.now();
        let (real, model) = self.both(op);
        assert_eq!(real, model, "step {}, {op:?}: left is the filesystem", self.step);
        let lookups = &self.lookups;
        self.model.reclaim(|ino| lookups.contains_key(&ino));
        self.past.push(Past { seq: self.appended(), model: self.model.clone() });
    }

    /// Records in the journal.
    fn appended(&self) -> u64 {
        self.machine().local.journal_ends().appended.seq
    }

    /// From now on no power cut takes the model's state, which is that after `seq` records.
    fn synced(&mut self, seq: u64) {
        self.past = vec![Past { seq, model: self.model.clone() }];
    }

    /// The model as it was when the journal had as many records as the machine found.
    fn after_cut(&self, machine: &Machine) -> Model {
        let (synced, left) = (self.past[0].seq, machine.recovered);
        assert!(synced <= left, "of {synced} records that were synced {left} are left");
        let last = self.past.iter().rposition(|past| past.seq <= left).expect("the first is");
        let mut past = &self.past[last];
        // A step may have several records, only one of which changes what is seen.
        if let (true, Some(next)) = (past.seq < left, self.past.get(last + 1))
            && fits(machine, &next.model)
        {
            past = next;
        }
        let mut model = past.model.clone();
        model.reclaim(|_| false);
        Model { now: self.model.now, ..model }
    }

    fn both(&mut self, op: &Op) -> (Answer, Answer) {
        match op {
            Op::Make { .. } | Op::Open { .. } | Op::Lookup { .. } | Op::Link { .. } => {
                self.naming(op)
            }
            Op::Unlink { .. } | Op::Rmdir { .. } | Op::Rename { .. } => self.removing(op),
            Op::Write { .. } | Op::Read { .. } | Op::Resize { .. } => self.content(op),
            Op::Allocate { .. } | Op::Copy { .. } | Op::Seek { .. } => self.ranges(op),
            Op::Chmod { .. } | Op::Chown { .. } | Op::Utimes { .. } => self.attributes(op),
            Op::SetXattr { .. } | Op::RemoveXattr { .. } => self.xattrs(op),
            Op::List { dir, at_once } => {
                let dir = self.dir(*dir);
                if self.model.nodes[&dir].kind() == Kind::Directory
                    && self.model.nodes[&dir].is_linked()
                {
                    self.compare_listing(dir, usize::from(*at_once));
                }
                (Answer::Done, Answer::Done)
            }
            Op::Access { file, .. } => {
                let ino = self.any(*file);
                let real = self.machine().fs.getattr(&Caller::root(WAIT), ino);
                assert_eq!(real.unwrap(), self.model.nodes[&ino].attr(), "inode {ino}");
                (Answer::Done, Answer::Done)
            }
            Op::Forget { file } => {
                let ino = self.any(*file);
                if let Some(count) = self.lookups.remove(&ino) {
                    self.machine().fs.forget(ino, count);
                }
                (Answer::Done, Answer::Done)
            }
            Op::Fsync { file } => {
                let synced = self.machine().fs.fsync(&Caller::root(WAIT), self.file(*file));
                self.synced(self.appended());
                (answer(synced, |()| Answer::Done), Answer::Done)
            }
            Op::SealMeanwhile { ops, crash } => {
                self.synced(self.appended());
                let sealer = self.machine().sealer();
                let sealed = sealer.seal(&mut || ops.iter().for_each(|op| self.apply(op)));
                self.machine.as_mut().expect("a machine is running").sealed = sealed;
                match crash {
                    true => self.machine_op(&Op::Crash),
                    false => self.compare_all(),
                }
                (Answer::Done, Answer::Done)
            }
            Op::Crash | Op::PowerCut(_) | Op::Settle | Op::Seal | Op::Evict | Op::Move => {
                self.machine_op(op);
                (Answer::Done, Answer::Done)
            }
        }
    }

    fn machine_op(&mut self, op: &Op) {
        if matches!(op, Op::Seal) {
            // It begins with a cut, which is synced.
            self.synced(self.appended());
        }
        let mut machine = self.machine.take().expect("a machine is running");
        match op {
            Op::Settle => machine.settle(),
            Op::Seal => machine.seal(),
            Op::Evict => machine.evict(),
            Op::Crash => machine = machine.crash(),
            Op::PowerCut(cut) => {
                machine = machine.power_cut(*cut);
                self.model = self.after_cut(&machine);
            }
            _ => {
                machine.reclaim_all();
                machine.seal();
                machine = machine.resume_elsewhere();
            }
        }
        if matches!(op, Op::Crash | Op::PowerCut(_) | Op::Move) {
            self.lookups.clear();
            self.synced(machine.recovered);
        }
        self.machine = Some(machine);
        let lookups = &self.lookups;
        self.model.reclaim(|ino| lookups.contains_key(&ino));
        if !matches!(op, Op::Settle | Op::Evict) {
            self.compare_all();
        }
    }

    fn naming(&mut self, op: &Op) -> (Answer, Answer) {
        let (dir, name) = match op {
            Op::Make { dir, name, .. } | Op::Open { dir, name, .. } => (dir, name),
            Op::Lookup { dir, name } | Op::Link { dir, name, .. } => (dir, name),
            _ => unreachable!("not an operation that names"),
        };
        let directory = self.dir(*dir);
        let bytes = NAMES[usize::from(*name)];
        let name = Name::new(bytes).unwrap();
        let at = At { directory, name: &name };
        let fs = Arc::clone(&self.machine().fs);
        let (root, root_who) = self.who(true);
        let (real, model) = match op {
            Op::Make { kind, mode, root, .. } => {
                let (caller, who) = self.who(*root);
                let rdev = if *kind == Kind::CharDevice { 0x103 } else { 0 };
                let real = match kind {
                    Kind::Symlink => fs.symlink(&caller, at, TARGET),
                    _ => fs.mknod(&caller, at, NewNode { kind: *kind, mode: *mode, rdev }),
                };
                let fresh = real.as_ref().map_or(Ino::META, |entry| entry.ino);
                let made = (directory, bytes, fresh);
                (real, self.model.make(made, (*kind, *mode), who, TARGET))
            }
            Op::Open { mode, exclusive, .. } => {
                let real = fs.create(&root, at, *mode, *exclusive);
                let fresh = real.as_ref().map_or(Ino::META, |entry| entry.ino);
                let model = match self.model.lookup(directory, bytes) {
                    Ok(ino) if !exclusive => Ok(ino),
                    _ => {
                        let made = (directory, bytes, fresh);
                        self.model.make(made, (Kind::File, *mode), root_who, &[])
                    }
                };
                (real, model)
            }
            Op::Link { file, .. } => {
                let ino = self.any(*file);
                (fs.link(&root, ino, at), self.model.link(ino, directory, bytes))
            }
            _ => (fs.lookup(&root, directory, &name), self.model.lookup(directory, bytes)),
        };
        if let Ok(entry) = &real {
            self.looked_up(entry.ino);
            let expected = self.model.node(entry.ino).expect("both found it").attr();
            assert_eq!(entry.attr, expected, "attributes in the answer to {op:?}");
        }
        let number = |ino: Ino| Answer::Number(ino.0);
        (answer(real, |entry| number(entry.ino)), model.map_or_else(Answer::Fails, number))
    }

    fn removing(&mut self, op: &Op) -> (Answer, Answer) {
        let fs = Arc::clone(&self.machine().fs);
        let (caller, _) = self.who(true);
        let name = |pick: u8| NAMES[usize::from(pick)];
        let (real, model) = match op {
            Op::Rename { from, to, mode } => {
                let (from_dir, to_dir) = (self.dir(from.0), self.dir(to.0));
                let (from_name, to_name) = (name(from.1), name(to.1));
                let names = [from_name, to_name].map(|name| Name::new(name).unwrap());
                let from = At { directory: from_dir, name: &names[0] };
                let to = At { directory: to_dir, name: &names[1] };
                let real = fs.rename(&caller, from, to, *mode);
                (real, self.model.rename((from_dir, from_name), (to_dir, to_name), *mode))
            }
            Op::Unlink { dir, name: pick } => {
                let (directory, bytes) = (self.dir(*dir), name(*pick));
                let name = Name::new(bytes).unwrap();
                let real = fs.unlink(&caller, At { directory, name: &name });
                (real, self.model.unlink(directory, bytes))
            }
            Op::Rmdir { dir, name: pick } => {
                let (directory, bytes) = (self.dir(*dir), name(*pick));
                let name = Name::new(bytes).unwrap();
                let real = fs.rmdir(&caller, At { directory, name: &name });
                (real, self.model.rmdir(directory, bytes))
            }
            _ => unreachable!("not an operation that removes"),
        };
        (answer(real, |()| Answer::Done), done(model))
    }

    fn content(&mut self, op: &Op) -> (Answer, Answer) {
        let fs = Arc::clone(&self.machine().fs);
        let (root, _) = self.who(true);
        match *op {
            Op::Write { file, offset, len, byte, kill_priv } => {
                let ino = self.file(file);
                let data = written(self.step, byte, len);
                let real = fs.write(&root, ino, offset, &data, kill_priv).map(u64::from);
                (
                    answer(real, Answer::Number),
                    number(self.model.write(ino, offset, &data, kill_priv)),
                )
            }
            Op::Read { file, offset, len } => {
                let ino = self.file(file);
                let real = fs.read(&root, ino, offset, len);
                let model = self.model.read(ino, offset, len);
                (
                    answer(real, |bytes| Answer::Bytes(bytes.to_vec())),
                    model.map_or_else(Answer::Fails, Answer::Bytes),
                )
            }
            Op::Resize { file, size, root } => {
                let ino = self.file(file);
                let (caller, _) = self.who(root);
                let set = SetAttr { size: Some(size), ..SetAttr::default() };
                let real = fs.setattr(&caller, ino, &set);
                (answer(real, |_| Answer::Done), done(self.model.resize(ino, size, !root)))
            }
            _ => unreachable!("not an operation on content"),
        }
    }

    fn ranges(&mut self, op: &Op) -> (Answer, Answer) {
        let fs = Arc::clone(&self.machine().fs);
        let (caller, _) = self.who(true);
        let (user, _) = self.who(false);
        match *op {
            Op::Allocate { file, offset, len, mode } => {
                let ino = self.file(file);
                let real = fs.fallocate(&user, ino, (offset, len), mode);
                let model = self.model.allocate(ino, (offset, len), mode, true);
                (answer(real, |()| Answer::Done), done(model))
            }
            Op::Copy { source, source_offset, target, target_offset, len } => {
                let (source, target) = (self.file(source), self.file(target));
                let copy = CopyRange { source, source_offset, target, target_offset, len };
                let real = fs.copy_range(&user, &copy);
                let from = (source, source_offset);
                let model = self.model.copy(from, (target, target_offset), len, true);
                (answer(real, Answer::Number), number(model))
            }
            Op::Seek { file, offset, data } => {
                let ino = self.file(file);
                let seek = if data { Seek::Data } else { Seek::Hole };
                let real = fs.lseek(&caller, ino, offset, seek);
                (answer(real, Answer::Number), number(self.model.seek(ino, offset, data)))
            }
            _ => unreachable!("not an operation on ranges"),
        }
    }

    fn attributes(&mut self, op: &Op) -> (Answer, Answer) {
        let fs = Arc::clone(&self.machine().fs);
        let (caller, _) = self.who(true);
        let (ino, set, model) = match *op {
            Op::Chmod { file, mode } => {
                let ino = self.any(file);
                let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
                (ino, set, self.model.chmod(ino, mode))
            }
            Op::Chown { file, uid, gid } => {
                let ino = self.any(file);
                let set = SetAttr { uid, gid, ..SetAttr::default() };
                (ino, set, self.model.chown(ino, uid, gid))
            }
            Op::Utimes { file, atime, mtime } => {
                let ino = self.any(file);
                let [atime, mtime] = [atime, mtime].map(|secs| secs.map(|s| Time::new(s, 123)));
                let [at, mt] = [atime, mtime].map(|time| time.map(SetTime::At));
                let set = SetAttr { atime: at, mtime: mt, ..SetAttr::default() };
                (ino, set, self.model.utimes(ino, atime, mtime))
            }
            _ => unreachable!("not an operation on attributes"),
        };
        (answer(fs.setattr(&caller, ino, &set), |_| Answer::Done), done(model))
    }

    fn xattrs(&mut self, op: &Op) -> (Answer, Answer) {
        let fs = Arc::clone(&self.machine().fs);
        let (caller, _) = self.who(true);
        match *op {
            Op::SetXattr { file, name, len, mode } => {
                let (ino, name) = (self.any(file), XATTRS[usize::from(name)]);
                let value = vec![len as u8; usize::from(len)];
                let real = fs.setxattr(&caller, ino, (name, &value), mode);
                let model = self.model.set_xattr(ino, name, &value, mode);
                (answer(real, |()| Answer::Done), done(model))
            }
            Op::RemoveXattr { file, name } => {
                let (ino, name) = (self.any(file), XATTRS[usize::from(name)]);
                let real = fs.removexattr(&caller, ino, name);
                (answer(real, |()| Answer::Done), done(self.model.remove_xattr(ino, name)))
            }
            _ => unreachable!("not an operation on extended attributes"),
        }
    }

    /// Lists a directory in portions; each entry must come exactly once.
    fn compare_listing(&mut self, dir: Ino, at_once: usize) {
        let fs = Arc::clone(&self.machine().fs);
        let caller = Caller::root(WAIT);
        let mut listed = BTreeMap::new();
        let mut cookie = 0;
        let mut seen = Vec::new();
        loop {
            let mut taken = 0;
            let from = ListFrom { cookie, plus: true };
            fs.readdir(&caller, dir, from, &mut |entry| {
                if taken == at_once {
                    return true;
                }
                taken += 1;
                cookie = entry.cookie;
                let is_dot = entry.name == b"." || entry.name == b"..";
                if !is_dot {
                    let attr = entry.attr.expect("asked for, and may be waited for");
                    assert_eq!(attr.kind, entry.kind);
                    seen.push(entry.ino);
                    assert_eq!(attr, self.model.nodes[&entry.ino].attr(), "{:?}", entry.name);
                }
                assert!(listed.insert(entry.name.to_vec(), entry.ino).is_none(), "listed twice");
                false
            })
            .unwrap();
            if taken == 0 {
                break;
            }
        }
        let node = &self.model.nodes[&dir];
        assert_eq!(listed.remove(&b"."[..]), Some(dir));
        assert_eq!(listed.remove(&b".."[..]), Some(node.attr().parent));
        assert_eq!(listed, node.entries, "entries of {dir}");
        seen.into_iter().for_each(|ino| self.looked_up(ino));
    }

    /// Compares everything that can be seen.
    pub fn compare_all(&mut self) {
        let caller = Caller::root(WAIT);
        let linked_dirs: Vec<Ino> = self
            .model
            .nodes
            .iter()
            .filter(|(_, node)| node.kind() == Kind::Directory && node.is_linked())
            .map(|(&ino, _)| ino)
            .collect();
        linked_dirs.into_iter().for_each(|dir| self.compare_listing(dir, 3));
        let fs = Arc::clone(&self.machine().fs);
        for (&ino, node) in &self.model.nodes {
            assert_eq!(fs.getattr(&caller, ino).unwrap(), node.attr(), "inode {ino}");
            if node.kind() == Kind::File {
                let real = fs.read(&caller, ino, 0, u32::MAX).unwrap();
                assert!(real == node.content, "content of inode {ino}");
            }
            let target = fs.readlink(&caller, ino).map_err(|error| error.errno());
            let is_link = node.kind() == Kind::Symlink;
            let expected = is_link.then(|| TARGET.to_vec()).ok_or(libc::EINVAL);
            assert_eq!(target, expected, "target of inode {ino}");
            let mut names = fs.listxattr(&caller, ino).unwrap();
            names.pop();
            let names: Vec<_> =
                names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
            assert_eq!(names, node.xattrs.keys().collect::<Vec<_>>(), "xattrs of inode {ino}");
            for (name, value) in &node.xattrs {
                assert_eq!(&fs.getxattr(&caller, ino, name).unwrap()[..], &value[..]);
            }
        }
        let counters = fs.namespace().counters();
        let (inodes, bytes) = self.model.totals();
        assert_eq!((counters.inodes, counters.bytes), (inodes, bytes), "totals");
        let stat = fs.statfs(&caller).unwrap();
        let used = bytes.div_ceil(u64::from(stat.block_bytes));
        assert_eq!(stat.blocks - stat.blocks_free, used, "blocks that are used");
        assert_eq!(stat.inodes - stat.inodes_free, inodes, "inodes that are used");
        assert_eq!(stat.name_len_max, 255);
        let local = Caller::root(Fetch::LocalOnly);
        let gone = Ino(fs.namespace().next_ino().0 + 5);
        assert!(matches!(fs.getattr(&local, gone), Err(FsError::NotFound)));
    }
}

/// Whether all attributes of inodes with a name, and the totals, are those of the model.
fn fits(machine: &Machine, model: &Model) -> bool {
    let (fs, caller) = (&machine.fs, Caller::root(WAIT));
    let counters = fs.namespace().counters();
    let same = |ino: Ino, node: &Node| fs.getattr(&caller, ino).is_ok_and(|is| is == node.attr());
    (counters.inodes, counters.bytes) == model.totals()
        && model.nodes.iter().all(|(&ino, node)| !node.is_linked() || same(ino, node))
}

fn answer<T>(real: Result<T, FsError>, ok: impl FnOnce(T) -> Answer) -> Answer {
    match real {
        Ok(value) => ok(value),
        Err(error) if error.is_unexpected() => panic!("a fault: {error:?}"),
        Err(error) => Answer::Fails(error.errno()),
    }
}

fn done(model: Result<(), i32>) -> Answer {
    model.map_or_else(Answer::Fails, |()| Answer::Done)
}

fn number(model: Result<u64, i32>) -> Answer {
    model.map_or_else(Answer::Fails, Answer::Number)
}
