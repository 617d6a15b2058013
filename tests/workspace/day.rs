//! What a day costs: every request counted, hours passed by hand. `docs/cost.md` prices them;
//! `cargo test --release --test workspace day:: -- --nocapture` prints them.

use std::time::Duration;

use dormouse::remote::RemoteStats;
use dormouse::types::{Clock, Ino, ManualClock};
use dormouse::workspace::Workspace;

use crate::world::{Files, World, hibernate, noise};

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

/// 2,000 source files of 8 KiB in 40 directories.
fn make_sources(files: &Files) -> Vec<Ino> {
    let mut sources = Vec::new();
    for directory in 0..40 {
        let parent = files.mkdir(&format!("src{directory:02}"));
        for file in 0..50 {
            let ino = files.create_in(parent, &format!("f{file:02}.rs"));
            files.write_at(ino, 0, &noise(directory * 50 + file, 8192));
            sources.push(ino);
        }
    }
    sources
}

fn print(what: &str, stats: &RemoteStats) {
    eprintln!(
        "{what}: {} requests ({} PUT, {} GET, {} HEAD, {} LIST, {} DELETE), {} bytes sent, {} received",
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

#[test]
fn eight_hours_of_work_with_a_checkpoint_a_minute_cost_at_most_2000_requests() {
    let (world, clock) = World::in_slow_motion();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    let sources = make_sources(&files);
    let build = files.mkdir("target");
    let output = files.create_in(build, "binary");
    hibernate(&workspace).unwrap();
    workspace.close().unwrap();
    drop((files, workspace));

    world.counts.reset();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    for spell in 0..8 * 60 * 4_u64 {
        // A file saved every quarter of a minute, and every five minutes a build that writes 2 MiB.
        let ino = sources[(spell * 37) as usize % sources.len()];
        files.write_at(ino, 4096, &noise(10_000 + spell, 2000));
        if spell % 20 == 0 {
            files.write_at(output, 0, &noise(50_000 + spell, 2 << 20));
        }
        pass(&workspace, &clock, MINUTE / 4);
    }
    assert!(workspace.status().seals.made >= 380, "{:?}", workspace.status().seals);
    hibernate(&workspace).unwrap();
    let stats = world.counts.stats();
    print("8 hours of work", &stats);
    assert!(stats.requests() <= 2000, "{stats:?}");
    assert_eq!((stats.lists, stats.deletes), (0, 0));
}

#[test]
fn an_idle_day_costs_at_most_300_requests_and_no_checkpoint() {
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
    assert!(stats.requests() <= 300, "{stats:?}");
    assert_eq!(stats.requests(), stats.puts, "renewals of the lease, one put each");
    assert_eq!(workspace.status().seals.made, made);
}
