//! The histories of `tests/model`, as system calls, on a real mount and beside it in a plain
//! directory on the local disk (ext4): every result is compared, errno or value, and after each
//! history all that can be seen of both trees. The mount's daemon is killed, checkpoints, evicts,
//! hibernates and resumes on an empty cache meanwhile; none of that may change anything that
//! can be seen, inode numbers and times to the nanosecond included. Run as root.
//!
//! What may differ stands in `differences.rs`, with reasons.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(clippy::print_stdout, reason = "figures of a long run")]
#![allow(dead_code, reason = "what is shared with other tests is not all used here")]

mod differences;
#[path = "../model/drive.rs"]
mod drive;
mod facts;
#[path = "../model/ops.rs"]
mod ops;
mod run;
mod side;
#[path = "../cli/support.rs"]
mod support;

use dormouse::fs::XattrMode;
use dormouse::types::Kind;
use proptest::prelude::*;

use ops::Op;
use run::Run;

/// Histories of one command; more by `DORMOUSE_MODEL_HISTORIES` or `_SECONDS`.
const HISTORIES: u64 = 6;

fn replay(history: &[Op]) -> u64 {
    let mut run = Run::new();
    history.iter().for_each(|op| run.apply(op));
    run.end()
}

/// Replays with three files to work on, one of them held open.
fn replay_on_files(history: &[Op]) -> u64 {
    let files = (0..3).map(|name| Op::Open { dir: 0, name, mode: 0o6755, exclusive: true });
    let all: Vec<Op> = files.chain(history.iter().cloned()).collect();
    replay(&all)
}

fn kinds() -> Vec<drive::Kind> {
    let machine = || prop_oneof![4 => ops::machine_op(), 1 => Just(Op::Evict)];
    let any = prop_oneof![
        14 => ops::name_op(), 12 => ops::content_op(), 6 => ops::attribute_op(), 1 => machine(),
    ];
    let names = prop_oneof![6 => ops::name_op(), 2 => ops::attribute_op()];
    let names = prop_oneof![30 => names, 1 => machine()];
    let content = prop_oneof![30 => ops::content_op(), 1 => machine()];
    vec![
        ("all operations", prop::collection::vec(any, 1..150).boxed(), replay),
        ("names and attributes", prop::collection::vec(names, 1..150).boxed(), replay),
        ("content", prop::collection::vec(content, 1..120).boxed(), replay_on_files),
    ]
}

#[test]
fn histories_give_the_same_as_on_the_local_disk() {
    let test = ("mounted_model", "histories_give_the_same_as_on_the_local_disk");
    drive::drive(test, drive::cores(), kinds, &drive::Asked::read(HISTORIES));
}

#[test]
fn an_attribute_that_can_be_set_and_not_read_is_one_on_both_sides() {
    let name = 3; // security.capability
    replay(&[
        Op::Make { dir: 0, name: 0, kind: Kind::File, mode: 0o644, root: true },
        Op::SetXattr { file: 1, name, len: 0, mode: XattrMode::Set },
        Op::Crash,
        Op::Move,
    ]);
}
