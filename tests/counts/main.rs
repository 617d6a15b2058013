//! What an operation costs, counted exactly: allocations and system calls that read or write, in
//! the thread that serves it. Times are too noisy to guard; these are not. FUSE requests are
//! counted in `tests/fuse/requests.rs`, requests to the store in `tests/workspace/bounds.rs`.
//!
//! The bounds are what was measured when they were written, rounded up a little for the splits of
//! ordered maps. Lower one when the code gets better; raise one only with a reason.

// Clippy knows `#[test]` functions, but not the functions that they call.
#![allow(clippy::unwrap_used, clippy::print_stderr)]
#![allow(missing_docs, reason = "nothing here is a library")]

mod allocations;
#[path = "../workspace/world.rs"]
#[allow(dead_code, reason = "shared with another test binary")]
mod world;

use dormouse::fs::At;
use dormouse::types::Ino;
use world::{Files, World, checkpoint, name, noise};

/// Operations of a kind; the bounds are on their mean.
const TIMES: u64 = 1000;

/// Mean cost of one operation.
#[derive(Debug)]
struct Cost {
    allocations: f64,
    /// `read`, `pread` and the like.
    reads: f64,
    /// `write`, `pwritev` and the like.
    writes: f64,
}

/// This thread's system calls that read and that wrote, up to now.
fn system_calls() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let field = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().parse().unwrap()
    };
    (field("syscr:"), field("syscw:"))
}

fn cost(mut operation: impl FnMut(u64)) -> Cost {
    // What reading the counters costs is taken off.
    let idle = (system_calls(), system_calls());
    let own = (idle.1.0 - idle.0.0, idle.1.1 - idle.0.1);
    let before = system_calls();
    let allocated = allocations::of_this_thread();
    (0..TIMES).for_each(&mut operation);
    let allocations = allocations::of_this_thread() - allocated;
    let after = system_calls();
    let mean = |count: u64| count as f64 / TIMES as f64;
    Cost {
        allocations: mean(allocations),
        reads: mean(after.0 - before.0 - own.0),
        writes: mean(after.1 - before.1 - own.1),
    }
}

#[track_caller]
fn check(what: &str, cost: &Cost, (allocations, reads, writes): (f64, f64, f64)) {
    eprintln!("{what}: {cost:?}");
    assert!(cost.allocations <= allocations, "{what}: {cost:?}, at most {allocations} allocations");
    assert!(cost.reads <= reads, "{what}: {cost:?}, at most {reads} reads");
    assert!(cost.writes <= writes, "{what}: {cost:?}, at most {writes} writes");
}

fn files_in(files: &Files, directory: &str, count: u64) -> (Ino, Vec<Ino>) {
    let parent = files.mkdir(directory);
    (parent, (0..count).map(|number| files.create_in(parent, &format!("f{number}"))).collect())
}

#[test]
fn a_change_is_one_write_and_a_look_at_what_is_in_memory_none() {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    let (fs, caller) = (&files.fs, files.caller());
    let (parent, made) = files_in(&files, "d", TIMES);
    let of = |number: u64| made[number as usize];
    let names: Vec<_> = (0..TIMES).map(|number| name(&format!("f{number}"))).collect();
    let absent: Vec<_> = (0..TIMES).map(|number| name(&format!("no{number}"))).collect();
    let data = noise(1, 4096);

    let cost_of = cost(|number| {
        let at = At { directory: parent, name: &absent[number as usize] };
        fs.lookup(&caller, at.directory, at.name).unwrap_err();
    });
    check("look up an absent name", &cost_of, (0.1, 0.0, 0.0));
    let cost_of = cost(|number| {
        fs.lookup(&caller, parent, &names[number as usize]).unwrap();
    });
    check("look up a name", &cost_of, (1.5, 0.0, 0.0));
    let cost_of = cost(|number| {
        fs.getattr(&caller, of(number)).unwrap();
    });
    check("getattr", &cost_of, (0.1, 0.0, 0.0));
    let cost_of = cost(|number| {
        fs.write(&caller, of(number), 0, &data, false).unwrap();
    });
    check("write 4 KiB to an empty file", &cost_of, (16.0, 0.0, 1.0));
    let cost_of = cost(|number| {
        fs.write(&caller, of(number), 4096, &data, false).unwrap();
    });
    check("append 4 KiB", &cost_of, (17.0, 0.0, 1.0));
    let cost_of = cost(|number| {
        fs.read(&caller, of(number), 0, 4096).unwrap();
    });
    check("read 4 KiB from the journal", &cost_of, (2.5, 1.0, 0.0));
    let cost_of = cost(|number| {
        let new = name(&format!("new{number}"));
        fs.create(&caller, At { directory: parent, name: &new }, 0o644, true).unwrap();
    });
    check("create", &cost_of, (12.0, 0.0, 1.01));
    let cost_of = cost(|number| {
        fs.unlink(&caller, At { directory: parent, name: &names[number as usize] }).unwrap();
    });
    check("unlink", &cost_of, (10.0, 0.0, 1.01));
    assert_eq!(fs.orphan_count() as u64, TIMES, "each was looked up");
    let cost_of = cost(|number| {
        if number == 0 {
            fs.forget_all(made.iter().map(|ino| (*ino, 1)));
        }
    });
    check("forget an unlinked file, all at once", &cost_of, (20.0, 0.0, 0.01));
    assert_eq!(fs.orphan_count(), 0);
}

#[test]
fn a_settled_file_is_read_from_memory_or_with_one_read() {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    let (_, made) = files_in(&files, "d", TIMES);
    for (number, ino) in made.iter().enumerate() {
        files.write_at(*ino, 0, &noise(number as u64, 4096));
    }
    checkpoint(&workspace).unwrap();
    drop(files);
    let workspace = world.move_to(workspace, "a");
    let files = world.files(&workspace);
    let (fs, caller) = (&files.fs, files.caller());
    let cost_of = cost(|number| {
        fs.read(&caller, made[number as usize], 0, 4096).unwrap();
    });
    check("first read of a settled file", &cost_of, (33.0, 1.2, 0.0));
    let cost_of = cost(|number| {
        fs.read(&caller, made[number as usize], 0, 4096).unwrap();
    });
    check("second read of a settled file", &cost_of, (6.5, 0.0, 0.0));
}
