//! What a day costs: every request counted, hours passed by hand. `docs/cost.md` prices them;
//! `cargo test --release --test workspace day:: -- --nocapture` prints them.

use std::time::Duration;

use dormouse::remote::{Op, RemoteStats};
use dormouse::types::{Clock, Ino, ManualClock};
use dormouse::workspace::{ResumeOptions, Workspace};

use crate::world::{Files, World, checkpoint, hibernate, noise};

/// The threads of a mount look twice a second.
const TICK: Duration = Duration::from_millis(500);

const MINUTE: Duration = Duration::from_secs(60);

/// Does what a mount's threads do, for so long.
fn pass(workspace: &Workspace, clock: &ManualClock, time: Duration) {
    let until = clock.monotonic() + time;
    while clock.monotonic() < until {
        clock.advance(TICK);
        workspace.settle(false).unwrap();
        workspace.upkeep().unwrap();
    }
}

/// 2,000 source files of 8 KiB in 40 directories, and what a build made of them.
fn make_tree(world: &World) {
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    for directory in 0..40 {
        let parent = files.mkdir(&format!("src{directory:02}"));
        for file in 0..50 {
            let ino = files.create_in(parent, &format!("f{file:02}.rs"));
            files.write_at(ino, 0, &noise(directory * 50 + file, 8192));
        }
    }
    files.mkdir("target");
    files.write("target/binary", &noise(1 << 40, 2 << 20));
    hibernate(&workspace).unwrap();
    workspace.close().unwrap();
}

/// Somebody who works: saves a file every quarter of a minute, and builds every five minutes.
struct Work {
    files: Files,
    sources: Vec<Ino>,
    binary: Ino,
    spells: u64,
}

impl Work {
    /// Looks at everything and reads every source, as the first build of a day does.
    fn begin(world: &World, workspace: &Workspace) -> Work {
        let files = world.files(workspace);
        let mut sources = Vec::new();
        for directory in 0..40 {
            let parent = files.ino(&format!("src{directory:02}"));
            let mut entries = files.list(parent, true);
            entries.sort_by(|(one, ..), (other, ..)| one.cmp(other));
            sources.extend(entries.into_iter().map(|(_, ino, _)| ino));
        }
        assert!(sources.iter().all(|&ino| files.read_ino(ino).len() == 8192));
        let binary = files.ino("target/binary");
        Work { files, sources, binary, spells: 0 }
    }

    /// A quarter of a minute: 2,000 bytes in the middle of a file, and for each build 2 MiB.
    fn spell(&mut self, day: u64) {
        let seed = day * 1_000_000 + self.spells;
        let ino = self.sources[(self.spells * 37) as usize % self.sources.len()];
        self.files.write_at(ino, 4096, &noise(10_000 + seed, 2000));
        if self.spells.is_multiple_of(20) {
            self.files.write_at(self.binary, 0, &noise(500_000 + seed, 2 << 20));
        }
        self.spells += 1;
    }
}

/// With a checkpoint when the test wants one, and only then.
fn without_checkpoints(world: &World, cache: &str) -> ResumeOptions {
    let mut options = world.options(cache);
    options.upkeep.checkpoint_interval = Duration::ZERO;
    options
}

fn print(what: &str, stats: &RemoteStats) {
    eprintln!(
        "{what}: {} requests ({} PUT, {} GET, {} HEAD, {} LIST, {} DELETE), \
         {} bytes sent, {} received",
        stats.requests(),
        stats.puts,
        stats.gets,
        stats.stats,
        stats.lists,
        stats.deletes,
        stats.bytes_out,
        stats.bytes_in
    );
}

/// Number and bytes of what was put since the last reset: data packs, tree packs, snapshots, heads.
fn puts_by_kind(world: &World) -> [(u64, u64); 4] {
    let mut kinds = [(0, 0); 4];
    for call in world.counts.log().iter().filter(|call| call.op == Op::Put) {
        let kind = match call.key.split('/').next_back() {
            Some("head") => 3,
            _ if call.key.contains("/snapshots/") => 2,
            // The kind stands in a pack's sixth byte (docs/format.md).
            _ => usize::from(world.remote().get_range(&call.key, 6..7).unwrap().bytes[0]) - 1,
        };
        kinds[kind].0 += 1;
        kinds[kind].1 += call.bytes;
    }
    let [data, tree, snapshots, heads] = kinds;
    eprintln!(
        "  puts and bytes: data {data:?}, tree {tree:?}, snapshots {snapshots:?}, heads {heads:?}"
    );
    kinds
}

/// A day of 8 hours on a mount that is there, a checkpoint at the end of each minute.
fn work_a_day(workspace: &Workspace, work: &mut Work, day: u64, mut pass: impl FnMut()) {
    for _ in 0..8 * 60 {
        for _ in 0..4 {
            work.spell(day);
            pass();
        }
        assert!(checkpoint(workspace).unwrap().changed);
    }
}

#[test]
fn eight_hours_of_work_with_a_checkpoint_every_minute_cost_four_puts_each() {
    let (world, clock) = World::in_slow_motion();
    make_tree(&world);
    world.counts.reset();
    let workspace = world.try_resume(&without_checkpoints(&world, "b")).unwrap();
    let mut work = Work::begin(&world, &workspace);
    let morning = world.counts.stats();
    print("waking on an empty machine, and reading all", &morning);
    assert_eq!((morning.puts, morning.stats), (1, 0));
    assert!(morning.gets <= 60, "{morning:?}");

    world.counts.reset();
    work_a_day(&workspace, &mut work, 0, || pass(&workspace, &clock, MINUTE / 4));
    let day = world.counts.stats();
    print("8 hours of work, 480 checkpoints", &day);
    let kinds = puts_by_kind(&world);
    // Data pack, tree pack, snapshot, head. Nothing else: no second tree pack, no renewal.
    assert_eq!(kinds.map(|(puts, _)| puts), [480; 4]);
    assert_eq!(day.requests(), 4 * 480, "{day:?}");

    world.counts.reset();
    work.spell(0);
    hibernate(&workspace).unwrap();
    let evening = world.counts.stats();
    print("hibernation after a small edit", &evening);
    // Both packs are asked for once more.
    assert_eq!((evening.puts, evening.stats, evening.requests()), (4, 2, 6));
    let all = morning.requests() + day.requests() + evening.requests();
    assert!(all <= 2000, "{all}");
}

#[test]
fn by_default_a_checkpoint_comes_a_minute_after_the_first_change() {
    let (world, clock) = World::in_slow_motion();
    make_tree(&world);
    let workspace = world.resume("b");
    let mut work = Work::begin(&world, &workspace);
    world.counts.reset();
    for _ in 0..4 * 60 {
        work.spell(0);
        pass(&workspace, &clock, MINUTE / 4);
    }
    // A change is noticed within half a second, and the next one comes a quarter of a minute later.
    let made = workspace.status().seals.made;
    assert_eq!(made, 48);
    assert_eq!(world.counts.stats().requests(), 4 * made);
}

/// Twenty-two days of work: what they leave in the store. Five minutes; `docs/cost.md` has it.
#[test]
#[ignore = "takes minutes"]
fn a_month_of_work_and_what_it_leaves_in_the_store() {
    let (world, clock) = World::in_slow_motion();
    make_tree(&world);
    for day in 0..22 {
        world.counts.reset();
        let cache = if day % 2 == 0 { "even" } else { "odd" };
        let workspace = world.try_resume(&without_checkpoints(&world, cache)).unwrap();
        let mut work = Work::begin(&world, &workspace);
        let quarter = || {
            clock.advance(MINUTE / 4);
            workspace.settle(false).unwrap();
        };
        work_a_day(&workspace, &mut work, day, quarter);
        hibernate(&workspace).unwrap();
        print(&format!("day {day}"), &world.counts.stats());
        puts_by_kind(&world);
        workspace.close().unwrap();
    }
}

#[test]
fn an_idle_day_costs_288_renewals_of_the_lease_and_no_checkpoint() {
    let (world, clock) = World::in_slow_motion();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    files.write("f", b"x");
    pass(&workspace, &clock, MINUTE * 2);
    let made = workspace.status().seals.made;
    assert_eq!(made, 1);
    world.counts.reset();
    pass(&workspace, &clock, MINUTE * 60 * 24);
    let stats = world.counts.stats();
    print("an idle day", &stats);
    puts_by_kind(&world);
    // The lease of ten minutes is renewed at half its life: one put each, of the head.
    assert_eq!((stats.requests(), stats.puts), (288, 288), "{stats:?}");
    assert_eq!(workspace.status().seals.made, made);
}
