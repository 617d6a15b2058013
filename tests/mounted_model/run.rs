//! Runs a history on both sides and compares.

use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use dormouse::control::{Client, Command, Registry};

use crate::differences::{is_left_out, is_same};
use crate::facts::{self, Tree};
use crate::ops::Op;
use crate::side::{Answer, Chosen, Side, Target};
use crate::support::World;

/// Most files that are held open.
const HELD_MAX: usize = 3;

/// A history under way, on a workspace of its own.
pub struct Run {
    // Before the world, whose end unmounts.
    mount: Side,
    plain: Side,
    world: World,
    step: u64,
}

impl Run {
    pub fn new() -> Run {
        let world = World::new();
        // As long as the mountpoint's, so that a path that is too long is so on both sides.
        let plain = world.path("pl");
        std::fs::create_dir(&plain).unwrap();
        let mut run = Run {
            mount: Side { base: world.ws(), held: Vec::new() },
            plain: Side { base: plain, held: Vec::new() },
            world,
            step: 0,
        };
        run.start();
        for base in [&run.mount.base, &run.plain.base] {
            use std::os::unix::fs::PermissionsExt as _;
            let open = |path: &Path, mode| {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
            };
            open(base, 0o777);
            // Otherwise nobody but root would get to it, on either side.
            open(base.parent().expect("it is in the world's directory"), 0o755);
        }
        let chosen = Chosen { targets: vec![Target::Path("".into())], dirs: vec![], step: 0 };
        for side in [&mut run.mount, &mut run.plain] {
            let all = Op::Access { file: 0, mask: 7, root: false };
            assert_eq!(side.apply(&all, &chosen), Answer::Done, "{:?}", side.base);
        }
        run
    }

    fn start(&self) {
        let mountpoint = self.world.text("ws");
        let flags = [
            "mount",
            "--keeper",
            "off",
            "--create",
            "--allow-dev",
            "--allow-suid",
            "w",
            &mountpoint,
        ];
        self.world.ok(&flags);
    }

    /// Compares once more, leaves, and tells how many operations there were.
    pub fn end(mut self) -> u64 {
        self.let_go();
        self.compare("at the end");
        self.world.hibernate();
        self.step
    }

    pub fn apply(&mut self, op: &Op) {
        self.step += 1;
        match op {
            // A power cut can't be had here: `scripts/torture power`.
            Op::PowerCut(_) => self.machine_op(&Op::Crash),
            Op::Crash | Op::Settle | Op::Seal | Op::Evict | Op::Move => self.machine_op(op),
            Op::SealMeanwhile { ops, crash } => self.seal_meanwhile(ops, *crash),
            Op::Forget { file } => self.forget(*file),
            _ if is_left_out(op) => {}
            _ => self.both(op),
        }
    }

    fn both(&mut self, op: &Op) {
        let chosen = self.choose(op);
        let mount = self.mount.apply(op, &chosen);
        let plain = self.plain.apply(op, &chosen);
        let step = self.step;
        assert!(
            is_same(op, &mount, &plain),
            "step {step}, {op:?} of {chosen:?}:\n    mount {mount:?}\n    plain {plain:?}"
        );
        assert_eq!(self.mount.held.len(), self.plain.held.len());
        if self.mount.held.len() > HELD_MAX {
            self.forget(0);
        }
    }

    /// Closes one of the files that are held open.
    fn forget(&mut self, pick: u8) {
        if !self.mount.held.is_empty() {
            let index = usize::from(pick) % self.mount.held.len();
            self.mount.held.remove(index);
            self.plain.held.remove(index);
        }
    }

    fn let_go(&mut self) {
        self.mount.held.clear();
        self.plain.held.clear();
    }

    /// Paths below the plain side, its own directory first.
    fn paths(&self) -> Vec<(PathBuf, std::fs::FileType)> {
        let mut found = Vec::new();
        let mut todo = vec![PathBuf::new()];
        while let Some(relative) = todo.pop() {
            let path = self.plain.base.join(&relative);
            let meta = std::fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                let entries = std::fs::read_dir(&path).unwrap();
                let names = entries.map(|entry| entry.unwrap().file_name());
                todo.extend(names.map(|name| relative.join(name)));
            }
            found.push((relative, meta.file_type()));
        }
        found.sort_by(|one, two| one.0.cmp(&two.0));
        found
    }

    /// What an operation's small numbers mean here and now: as in `tests/model`, a file is now
    /// and then something else.
    fn choose(&self, op: &Op) -> Chosen {
        let paths = self.paths();
        let nth = |pick: u8, len: usize| usize::from(pick) % len;
        let any = |pick: u8| paths[nth(pick, paths.len())].0.clone();
        let dirs: Vec<&PathBuf> =
            paths.iter().filter(|(_, kind)| kind.is_dir()).map(|(path, _)| path).collect();
        let dir = |pick: u8| match pick {
            u8::MAX => any(pick),
            pick => dirs[nth(pick, dirs.len())].clone(),
        };
        let named = paths.iter().filter(|(_, kind)| kind.is_file());
        let mut files: Vec<Target> = named.map(|(path, _)| Target::Path(path.clone())).collect();
        files.extend((0..self.mount.held.len()).map(Target::Held));
        let file = |pick: u8| match files.len() {
            0 => Target::Path(any(pick)),
            _ if pick % 16 == 15 => Target::Path(any(pick / 16)),
            len => files[nth(pick, len)].clone(),
        };
        // Attributes of what has no name any more, too.
        let anything = |pick: u8| match self.mount.held.len() {
            0 => Target::Path(any(pick)),
            len if pick % 8 == 7 => Target::Held(nth(pick / 8, len)),
            _ => Target::Path(any(pick)),
        };
        let (targets, dirs) = match *op {
            Op::Make { dir: pick, .. }
            | Op::Open { dir: pick, .. }
            | Op::Lookup { dir: pick, .. }
            | Op::Unlink { dir: pick, .. }
            | Op::Rmdir { dir: pick, .. }
            | Op::List { dir: pick, .. } => (vec![], vec![dir(pick)]),
            Op::Link { file, dir: pick, .. } => (vec![anything(file)], vec![dir(pick)]),
            Op::Rename { from, to, .. } => (vec![], vec![dir(from.0), dir(to.0)]),
            Op::Copy { source, target, .. } => (vec![file(source), file(target)], vec![]),
            Op::Chmod { file, .. }
            | Op::Chown { file, .. }
            | Op::Utimes { file, .. }
            | Op::Access { file, .. }
            | Op::SetXattr { file, .. }
            | Op::RemoveXattr { file, .. } => (vec![anything(file)], vec![]),
            Op::Write { file: pick, .. }
            | Op::Read { file: pick, .. }
            | Op::Resize { file: pick, .. }
            | Op::Allocate { file: pick, .. }
            | Op::Seek { file: pick, .. }
            | Op::Fsync { file: pick } => (vec![file(pick)], vec![]),
            _ => unreachable!("{op:?} is about no file"),
        };
        Chosen { targets, dirs, step: self.step }
    }

    fn machine_op(&mut self, op: &Op) {
        let before = facts::tree(&self.mount.base);
        let mountpoint = self.world.text("ws");
        match op {
            Op::Evict => self.evict(),
            Op::Seal => _ = self.world.ok(&["checkpoint", &mountpoint]),
            // The same machine with nothing in memory, and what was written still on its disk.
            Op::Settle => {
                self.let_go();
                self.world.ok(&["unmount", "--keep-local", &mountpoint]);
                self.start();
            }
            Op::Crash => {
                self.let_go();
                self.world.crash();
                self.start();
            }
            Op::Move => {
                self.let_go();
                self.world.hibernate();
                self.world.lose_caches();
                self.start();
            }
            _ => unreachable!("not an operation of the machine"),
        }
        self.compare_kept(op, &before);
    }

    /// Drops what the store has from the daemon's cache, and clean pages from the kernel's.
    fn evict(&self) {
        let registry = Registry::new(self.world.path("run"));
        let client = Client::new(registry.socket_path(&self.mount.base));
        client.run(&Command::Evict, &mut |_| {}).unwrap();
        for (path, kind) in self.paths() {
            if kind.is_file() {
                let file = std::fs::File::open(self.mount.base.join(path)).unwrap();
                let all = (0, 0);
                // SAFETY: takes numbers only.
                unsafe {
                    libc::posix_fadvise(file.as_raw_fd(), all.0, all.1, libc::POSIX_FADV_DONTNEED);
                }
            }
        }
    }

    /// A checkpoint while these operations go on, then perhaps the daemon's death.
    fn seal_meanwhile(&mut self, ops: &[Op], crash: bool) {
        let mountpoint = self.world.text("ws");
        let args = ["checkpoint", &mountpoint];
        let dormouse = crate::support::dormouse();
        let mut command = self.world.command(dormouse, &args);
        let mut sealing = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        ops.iter().for_each(|op| self.apply(op));
        if crash {
            self.machine_op(&Op::Crash);
            // It may have been in the middle of it.
            sealing.wait().unwrap();
        } else {
            assert!(sealing.wait().unwrap().success(), "the checkpoint failed");
            self.compare("after a checkpoint among writers");
        }
    }

    /// What happens to a machine changes nothing, not even a time.
    fn compare_kept(&self, op: &Op, before: &Tree) {
        let after = facts::tree(&self.mount.base);
        for (path, kept) in before {
            assert_eq!(after.get(path), Some(kept), "step {}: {path:?} after {op:?}", self.step);
        }
        assert_eq!(after.len(), before.len(), "step {}: more after {op:?}", self.step);
        self.compare_trees(&after, "after that");
    }

    fn compare(&self, when: &str) {
        self.compare_trees(&facts::tree(&self.mount.base), when);
    }

    fn compare_trees(&self, mount: &Tree, when: &str) {
        let plain = facts::tree(&self.plain.base);
        let (mount, plain) = (facts::shared(mount), facts::shared(&plain));
        let paths: std::collections::BTreeSet<&Path> =
            mount.keys().chain(plain.keys()).copied().collect();
        for path in paths {
            let (mount, plain) = (mount.get(path), plain.get(path));
            assert_eq!(mount, plain, "step {}, {when}: {path:?}, left is the mount", self.step);
        }
    }
}
