//! The filesystem against a plain one in memory: random histories of operations, with kills,
//! settling, seals and moves to another machine among them. After each of those, and at the end,
//! everything that can be seen is compared. A failing history is shrunk and printed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod content;
mod life;
mod machine;
mod model;
mod ops;
mod run;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use ops::Op;
use run::Run;

fn replay(history: &[Op]) {
    let mut run = Run::new();
    history.iter().for_each(|op| run.apply(op));
    run.compare_all();
}

/// Replays with three files to work on.
fn replay_on_files(history: &[Op]) {
    let files = (0..3).map(|name| Op::Open { dir: 0, name, mode: 0o6755, exclusive: true });
    let all: Vec<Op> = files.chain(history.iter().cloned()).collect();
    replay(&all);
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
    #![proptest_config(config(40))]

    #[test]
    fn any_history_reads_as_on_a_plain_filesystem(
        history in prop::collection::vec(ops::op(), 1..150)
    ) {
        replay(&history);
    }

    #[test]
    fn any_history_of_names_reads_as_on_a_plain_filesystem(
        history in prop::collection::vec(
            prop_oneof![12 => ops::name_op(), 1 => ops::machine_op()], 1..200
        )
    ) {
        replay(&history);
    }

    #[test]
    fn a_seal_among_writers_changes_nothing_that_they_see(
        history in prop::collection::vec(
            prop_oneof![3 => ops::close_op(), 1 => ops::seal_during(ops::close_op())], 1..40
        )
    ) {
        replay_on_files(&history);
    }

    #[test]
    fn any_history_of_content_reads_as_on_a_plain_filesystem(
        history in prop::collection::vec(
            prop_oneof![12 => ops::content_op(), 1 => ops::machine_op()], 1..120
        )
    ) {
        replay_on_files(&history);
    }
}
