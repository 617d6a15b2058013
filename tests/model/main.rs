//! The filesystem against a plain one in memory: random histories of operations, with kills,
//! power cuts, settling, seals and moves to another machine among them. After each of those, and at the end,
//! everything that can be seen is compared. A failing history is shrunk and printed.
//!
//! The long form runs for as long as `drive.rs` is told: `scripts/torture model`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(clippy::print_stdout, reason = "figures of a long run")]

mod content;
mod drive;
mod life;
mod machine;
mod model;
mod ops;
mod power;
mod run;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use ops::Op;
use run::Run;

/// Runs a history and tells how many operations it had.
fn replay(history: &[Op]) -> u64 {
    let mut run = Run::new();
    history.iter().for_each(|op| run.apply(op));
    run.compare_all();
    run.steps()
}

/// Replays with three files to work on.
fn replay_on_files(history: &[Op]) -> u64 {
    let files = (0..3).map(|name| Op::Open { dir: 0, name, mode: 0o6755, exclusive: true });
    let all: Vec<Op> = files.chain(history.iter().cloned()).collect();
    replay(&all)
}

/// Histories of such operations: mostly short ones, since many of them meet more in a minute; some
/// of up to `longest`, for what only many steps lead to.
fn of(op: BoxedStrategy<Op>, longest: usize) -> BoxedStrategy<Vec<Op>> {
    let short = prop::collection::vec(op.clone(), 1..longest / 4);
    prop_oneof![3 => short, 1 => prop::collection::vec(op, 1..longest)].boxed()
}

/// Histories of everything.
fn histories() -> BoxedStrategy<Vec<Op>> {
    of(ops::op(), 150)
}

/// Histories of names.
fn name_histories() -> BoxedStrategy<Vec<Op>> {
    of(prop_oneof![12 => ops::name_op(), 1 => ops::machine_op()].boxed(), 200)
}

/// Histories of seals, each with writers beside it.
fn seal_histories() -> BoxedStrategy<Vec<Op>> {
    let op = prop_oneof![
        12 => ops::close_op(),
        4 => ops::seal_during(ops::close_op()),
        1 => ops::power_cut(),
    ];
    of(op.boxed(), 40)
}

/// Histories of content.
fn content_histories() -> BoxedStrategy<Vec<Op>> {
    of(prop_oneof![12 => ops::content_op(), 1 => ops::machine_op()].boxed(), 120)
}

fn config(cases: u32) -> ProptestConfig {
    // PROPTEST_CASES multiplies the work for a long run.
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    // Seeds of failures are kept there, and run first from then on.
    let seeds = FileFailurePersistence::Direct("tests/model/seeds.txt");
    ProptestConfig {
        cases,
        max_shrink_iters: 2000,
        failure_persistence: Some(Box::new(seeds)),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn any_history_reads_as_on_a_plain_filesystem(history in histories()) {
        replay(&history);
    }

    #[test]
    fn any_history_of_names_reads_as_on_a_plain_filesystem(history in name_histories()) {
        replay(&history);
    }

    #[test]
    fn a_seal_among_writers_changes_nothing_that_they_see(history in seal_histories()) {
        replay_on_files(&history);
    }

    #[test]
    fn any_history_of_content_reads_as_on_a_plain_filesystem(history in content_histories()) {
        replay_on_files(&history);
    }
}

fn kinds() -> Vec<drive::Kind> {
    vec![
        ("all operations", histories(), replay),
        ("names", name_histories(), replay),
        ("seals among writers", seal_histories(), replay_on_files),
        ("content", content_histories(), replay_on_files),
    ]
}

#[test]
#[ignore = "the long form of the four above: scripts/torture model"]
fn for_as_long_as_asked() {
    let test = ("model", "for_as_long_as_asked");
    drive::drive(test, drive::cores(), kinds, &drive::Asked::read(400));
}
