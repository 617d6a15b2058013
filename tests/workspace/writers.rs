//! Writers that take each other's place: random histories of three machines on one store, which
//! work, pause, seal, die, and mount whether or not another has the lease. A plain model says what
//! each step must answer. After each step the head is the last winner's, whatever the losers do;
//! at the end every snapshot that was acknowledged is there, whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dormouse::fs::{At, FsError};
use dormouse::types::{Clock, Ino, ManualClock};
use dormouse::workspace::{Receipt, Store, Workspace, WorkspaceError};
use proptest::prelude::*;

use crate::crash::assert_sound;
use crate::world::{Files, World, checkpoint, hibernate, name, noise};

const MACHINES: [&str; 3] = ["a", "b", "c"];
const NAMES: [&str; 4] = ["one", "two", "three", "four"];
const TTL: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
enum Step {
    /// Changes of files.
    Work(usize, Vec<Edit>),
    /// A checkpoint, or a hibernation.
    Seal(usize, bool),
    /// Written bytes go to the store.
    Settle(usize),
    /// What a mount does twice a second: renews its lease if that is due.
    Upkeep(usize),
    Mount(usize, How),
    /// The daemon ends without a seal; by a kill or in order.
    End(usize, bool),
    /// All machines pause for so many seconds.
    Pass(u64),
}

#[derive(Debug, Clone, Copy)]
enum Edit {
    Write { name: usize, offset: usize, len: usize },
    Remove { name: usize },
}

#[derive(Debug, Clone, Copy)]
struct How {
    steal: bool,
    discard_local: bool,
}

/// Content by name.
type Tree = BTreeMap<&'static str, Vec<u8>>;

/// What the head must say.
#[derive(Debug, Default)]
struct Head {
    epoch: u64,
    holder: Option<usize>,
    snapshot: Option<String>,
    tree: Tree,
    /// By the store's clock.
    written_at: Duration,
}

/// A local directory.
#[derive(Debug)]
struct Disk {
    /// Snapshot that it began on, or made last.
    base: Option<String>,
    tree: Tree,
    /// Whether it has anything that no snapshot has.
    is_dirty: bool,
}

struct Mounted {
    workspace: Workspace,
    epoch: u64,
    renewed_at: Duration,
    /// Whether it has noticed that it lost.
    is_fenced: bool,
}

#[derive(Default)]
struct Machine {
    disk: Option<Disk>,
    mounted: Option<Mounted>,
}

struct History {
    world: World,
    clock: Arc<ManualClock>,
    head: Head,
    machines: [Machine; 3],
    acknowledged: Vec<(String, Tree)>,
    /// How many writers found out that they had lost.
    fenced: u64,
    writes: u64,
}

fn is_fenced<T: std::fmt::Debug>(result: &Result<T, WorkspaceError>) -> bool {
    matches!(result, Err(WorkspaceError::Fenced { .. }))
}

impl History {
    fn new() -> History {
        let (world, clock) = World::in_slow_motion();
        History {
            world,
            clock,
            head: Head::default(),
            machines: Default::default(),
            acknowledged: Vec::new(),
            fenced: 0,
            writes: 0,
        }
    }

    fn apply(&mut self, step: &Step) {
        self.pass(Duration::from_millis(7));
        match step {
            Step::Work(machine, edits) => self.work(*machine, edits),
            Step::Seal(machine, ends) => self.seal(*machine, *ends),
            Step::Settle(machine) => {
                if let Some(mounted) = &self.machines[*machine].mounted {
                    // Bytes may go to the store whoever has the head: nothing names them.
                    let settled = mounted.workspace.settle(true);
                    assert!(settled.is_ok() || is_fenced(&settled), "{settled:?}");
                }
            }
            Step::Upkeep(machine) => self.upkeep(*machine),
            Step::Mount(machine, how) => self.mount(*machine, *how),
            Step::End(machine, in_order) => {
                if let Some(mounted) = self.machines[*machine].mounted.take()
                    && *in_order
                {
                    mounted.workspace.close().unwrap();
                }
            }
            Step::Pass(secs) => self.pass(Duration::from_secs(*secs)),
        }
        self.check_head();
        self.machines.iter().for_each(|machine| self.check_machine(machine));
    }

    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.world.store_clock.advance(time);
    }

    fn mount(&mut self, number: usize, how: How) {
        let Machine { disk, mounted } = &mut self.machines[number];
        // A mount that has lost ends first.
        drop(mounted.take_if(|mounted| mounted.is_fenced));
        if mounted.is_some() {
            return;
        }
        let mut options = self.world.options(MACHINES[number]);
        options.lease_ttl = TTL;
        options.steal = how.steal;
        options.discard_local = how.discard_local;
        options.upkeep.checkpoint_interval = Duration::ZERO;
        options.upkeep.unsynced_age_max = Duration::ZERO;
        let result = self.world.resume_free(&options);
        let now = self.world.store_clock.monotonic();
        let ran_out = now - self.head.written_at >= TTL;
        let is_free = self.head.holder.is_none_or(|holder| holder == number) || ran_out;
        if !is_free && !how.steal {
            assert!(matches!(result, Err(WorkspaceError::LeaseHeld { .. })), "{result:?}");
            return;
        }
        let fits = disk.as_ref().is_some_and(|disk| disk.base == self.head.snapshot);
        let is_dirty = disk.as_ref().is_some_and(|disk| disk.is_dirty);
        if !fits && is_dirty && !how.discard_local {
            assert!(matches!(result, Err(WorkspaceError::Diverged { .. })), "{result:?}");
            return;
        }
        let workspace = result.unwrap();
        let Machine { disk, mounted } = &mut self.machines[number];
        if !fits {
            let (base, tree) = (self.head.snapshot.clone(), self.head.tree.clone());
            // A workspace without a snapshot gets its root directory.
            *disk = Some(Disk { is_dirty: base.is_none(), base, tree });
        }
        self.head.epoch += 1;
        self.head.holder = Some(number);
        self.head.written_at = now;
        let (epoch, renewed_at) = (self.head.epoch, self.clock.monotonic());
        *mounted = Some(Mounted { workspace, epoch, renewed_at, is_fenced: false });
    }

    fn work(&mut self, number: usize, edits: &[Edit]) {
        let Machine { disk: Some(disk), mounted: Some(mounted) } = &mut self.machines[number]
        else {
            return;
        };
        let files = self.world.files(&mounted.workspace);
        for edit in edits {
            self.clock.advance(Duration::from_millis(1));
            self.writes += 1;
            let mut tree = disk.tree.clone();
            let Some(done) = attempt(&files, &mut tree, *edit, self.writes) else { continue };
            if mounted.is_fenced {
                assert!(matches!(done, Err(FsError::Fenced)), "{done:?}");
            } else {
                done.unwrap();
                (disk.tree, disk.is_dirty) = (tree, true);
            }
        }
    }

    fn seal(&mut self, number: usize, ends: bool) {
        let Machine { disk: Some(disk), mounted: Some(mounted) } = &mut self.machines[number]
        else {
            return;
        };
        let seal = if ends { hibernate } else { checkpoint };
        let result = seal(&mounted.workspace);
        if mounted.is_fenced || mounted.epoch != self.head.epoch {
            // With nothing to seal, nothing was asked of the head.
            if !mounted.is_fenced && !disk.is_dirty && !ends {
                assert!(matches!(result, Ok(Receipt { changed: false, .. })), "{result:?}");
                return;
            }
            assert!(is_fenced(&result), "{result:?}");
            self.fenced += u64::from(!mounted.is_fenced);
            mounted.is_fenced = true;
            return;
        }
        let receipt = result.unwrap();
        assert_eq!((receipt.changed, receipt.released), (disk.is_dirty, ends));
        if receipt.changed {
            let id = receipt.snapshot.unwrap();
            self.acknowledged.push((id.clone(), disk.tree.clone()));
            self.head.tree = disk.tree.clone();
            (self.head.snapshot, disk.base, disk.is_dirty) = (Some(id.clone()), Some(id), false);
        }
        if receipt.changed || ends {
            self.head.written_at = self.world.store_clock.monotonic();
            mounted.renewed_at = self.clock.monotonic();
        }
        if ends {
            self.head.holder = None;
            self.machines[number].mounted = None;
        }
    }

    fn upkeep(&mut self, number: usize) {
        let Some(mounted) = &mut self.machines[number].mounted else { return };
        let result = mounted.workspace.upkeep();
        let is_due = self.clock.monotonic() - mounted.renewed_at >= TTL / 2;
        if mounted.is_fenced || (is_due && mounted.epoch != self.head.epoch) {
            assert!(is_fenced(&result), "{result:?}");
            self.fenced += u64::from(!mounted.is_fenced);
            mounted.is_fenced = true;
            return;
        }
        result.unwrap();
        if is_due {
            self.head.written_at = self.world.store_clock.monotonic();
            mounted.renewed_at = self.clock.monotonic();
        }
    }

    /// The head is that of the last writer who took it, and says what that one put there.
    fn check_head(&self) {
        let heads = Store::open(self.world.remote()).unwrap().workspaces().unwrap();
        let Some(found) = heads.first() else {
            assert_eq!(self.head.epoch, 0);
            return;
        };
        let holder = self.head.holder.map(|number| format!("host-{}", MACHINES[number]));
        assert_eq!(
            (found.epoch, &found.holder, &found.snapshot),
            (self.head.epoch, &holder, &self.head.snapshot)
        );
    }

    /// A machine reads what it wrote, also after it has lost.
    fn check_machine(&self, machine: &Machine) {
        let Machine { disk: Some(disk), mounted: Some(mounted) } = machine else { return };
        let status = mounted.workspace.status();
        assert_eq!((status.epoch, status.fenced.is_some()), (mounted.epoch, mounted.is_fenced));
        assert_eq!(status.state == "fenced", mounted.is_fenced);
        assert!(read(&self.world.files(&mounted.workspace)) == disk.tree);
    }

    /// Each snapshot that was acknowledged is listed and has what it was made of; somebody who
    /// comes from elsewhere gets the newest; nothing in the store is damaged.
    fn end(mut self) -> u64 {
        let store = Store::open(self.world.remote()).unwrap();
        let workspace = "w".parse().unwrap();
        let acknowledged = std::mem::take(&mut self.acknowledged);
        if !acknowledged.is_empty() {
            let listed = store.snapshots(&workspace).unwrap();
            let newest = listed.iter().find(|info| info.newest).map(|info| &info.id);
            assert_eq!(newest, self.head.snapshot.as_ref());
            for (id, _) in &acknowledged {
                assert!(listed.iter().any(|info| info.id == *id), "{id} is not listed");
            }
        }
        for (number, (id, tree)) in acknowledged.into_iter().enumerate() {
            let mut options = self.world.options(&format!("reader-{number}"));
            options.at = Some(store.find_snapshot(&workspace, &id).unwrap());
            let reader = self.world.try_resume(&options).unwrap();
            assert!(read(&self.world.files(&reader)) == tree, "snapshot {id}");
        }
        if self.head.epoch > 0 {
            let mut options = self.world.options("elsewhere");
            options.steal = true;
            let last = self.world.try_resume(&options).unwrap();
            assert!(read(&self.world.files(&last)) == self.head.tree);
        }
        assert_sound(&store, self.world.dirs.path(), "at the end");
        self.fenced
    }
}

/// Does this in the tree and in the mount; none: there is nothing to be removed.
fn attempt(files: &Files, tree: &mut Tree, edit: Edit, seed: u64) -> Option<Result<(), FsError>> {
    let (fs, caller) = (&files.fs, files.caller());
    match edit {
        Edit::Write { name: which, offset, len } => {
            let data = noise(seed, len);
            let content = tree.entry(NAMES[which]).or_default();
            content.resize(content.len().max(offset + len), 0);
            content[offset..offset + len].copy_from_slice(&data);
            let at = At { directory: Ino::ROOT, name: &name(NAMES[which]) };
            Some(fs.create(&caller, at, 0o640, false).and_then(|entry| {
                let written = fs.write(&caller, entry.ino, offset as u64, &data, false);
                fs.forget(entry.ino, 1);
                written.map(|count| assert_eq!(count as usize, len))
            }))
        }
        Edit::Remove { name: which } => {
            tree.remove(NAMES[which])?;
            Some(fs.unlink(&caller, At { directory: Ino::ROOT, name: &name(NAMES[which]) }))
        }
    }
}

fn read(files: &Files) -> Tree {
    let entries = files.list(Ino::ROOT, false);
    let content = |(bytes, ino, _): (Vec<u8>, Ino, _)| {
        let name = NAMES.into_iter().find(|name| name.as_bytes() == bytes).unwrap();
        (name, files.read_ino(ino))
    };
    entries.into_iter().map(content).collect()
}

fn edit() -> impl Strategy<Value = Edit> {
    let name = || 0..NAMES.len();
    prop_oneof![
        4 => (name(), prop_oneof![3 => 0_usize..300, 1 => 0_usize..300_000], 1_usize..40_000)
            .prop_map(|(name, offset, len)| Edit::Write { name, offset, len }),
        1 => name().prop_map(|name| Edit::Remove { name }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    // Two that meet often, and one more.
    let machine = || prop_oneof![4 => 0..2_usize, 1 => Just(2_usize)];
    let how = (any::<bool>(), prop::bool::weighted(0.3))
        .prop_map(|(steal, discard_local)| How { steal, discard_local });
    prop_oneof![
        6 => (machine(), prop::collection::vec(edit(), 1..5))
            .prop_map(|(machine, edits)| Step::Work(machine, edits)),
        6 => (machine(), prop::bool::weighted(0.15))
            .prop_map(|(machine, ends)| Step::Seal(machine, ends)),
        1 => machine().prop_map(Step::Settle),
        2 => machine().prop_map(Step::Upkeep),
        5 => (machine(), how).prop_map(|(machine, how)| Step::Mount(machine, how)),
        1 => (machine(), any::<bool>()).prop_map(|(machine, in_order)| Step::End(machine, in_order)),
        2 => prop_oneof![1_u64..200, 200_u64..700].prop_map(Step::Pass),
    ]
}

fn replay(history: &[Step]) -> u64 {
    let mut run = History::new();
    history.iter().for_each(|step| run.apply(step));
    run.end()
}

fn config(cases: u32) -> ProptestConfig {
    // PROPTEST_CASES multiplies the work for a long run.
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    ProptestConfig {
        cases,
        max_shrink_iters: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(16))]

    #[test]
    fn whoever_took_the_head_last_has_it_and_nothing_acknowledged_is_lost(
        history in prop::collection::vec(step(), 20..80),
    ) {
        replay(&history);
    }
}

/// The shortest of the histories above, so that it is run each time.
#[test]
fn a_writer_that_pauses_while_another_takes_over_is_fenced_at_its_next_word_to_the_store() {
    let write = |name| vec![Edit::Write { name, offset: 0, len: 5000 }];
    let [steal, plain] = [true, false].map(|steal| How { steal, discard_local: false });
    let paused = [
        Step::Mount(0, plain),
        Step::Work(0, write(0)),
        Step::Seal(0, false),
        Step::Work(0, write(1)),
        Step::Mount(1, plain),
        Step::Mount(1, steal),
        Step::Work(1, write(2)),
        Step::Seal(1, false),
        // Local work goes on until then, and nobody gets it.
        Step::Work(0, write(3)),
        Step::Upkeep(0),
        Step::Pass(301),
    ];
    for word in [Step::Upkeep(0), Step::Seal(0, false), Step::Seal(0, true)] {
        let rest = [word, Step::Work(0, write(0)), Step::Seal(0, true), Step::Seal(1, true)];
        let again = [Step::End(0, false), Step::Mount(0, plain), Step::Mount(2, plain)];
        let all = [&paused[..], &rest, &again].concat();
        assert_eq!(replay(&all), 1);
    }
}
