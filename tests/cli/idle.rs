//! A mount that nobody uses sleeps.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use nix::unistd::Pid;

use crate::support::{World, wait_for};

/// A thread's name and number.
type Task = (String, OsString);

/// How often each thread of a process went to sleep of its own accord so far.
fn sleeps(pid: Pid) -> HashMap<Task, u64> {
    let of_task = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        ((name, task.file_name()), line.map_or(0, |count| count.trim().parse().unwrap()))
    };
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.map(|task| of_task(task.unwrap())).collect()
}

#[test]
fn a_mount_with_nothing_to_do_wakes_up_less_than_once_a_second_and_asks_for_nothing() {
    let mut world = World::new();
    world.set("DORMOUSE_CHECKPOINT_INTERVAL", "1s");
    // As by default. The watchdog over requests looks four times in it, at most every 5 s.
    world.set("DORMOUSE_STORE_TIMEOUT", "60s");
    world.mount();
    for i in 0..20 {
        fs::write(world.ws().join(format!("f{i}")), format!("content {i}")).unwrap();
    }
    wait_for("the checkpoint", || {
        let status = world.status();
        status["seals"]["made"].as_u64() > Some(0) && status["unsynced"]["changed"] == false
    });
    // The store's conditions are looked at three seconds after the mount.
    sleep(Duration::from_secs(5));
    let (daemon, before) = (world.daemon(), world.status()["store"].clone());
    sleep(Duration::from_secs(1));
    let slept = sleeps(daemon);
    sleep(Duration::from_secs(10));
    // Three threads that look twice a second would be 60. One may have ended meanwhile.
    let mut woken = sleeps(daemon);
    for (task, count) in &mut woken {
        *count = count.saturating_sub(*slept.get(task).unwrap_or(&0));
    }
    woken.retain(|_, count| *count > 0);
    assert!(woken.values().sum::<u64>() < 30, "{woken:?}");
    assert_eq!(world.status()["store"], before);

    // And a write wakes it.
    fs::write(world.ws().join("late"), "late").unwrap();
    wait_for("the late checkpoint", || world.status()["seals"]["made"].as_u64() > Some(1));
    world.hibernate();
}
