//! Operations, as values that can be drawn, printed and replayed. Names, directories and files are
//! chosen by small numbers, so that operations meet each other.

use proptest::prelude::*;

use dormouse::fs::{AllocateMode, RenameMode, XattrMode};
use dormouse::types::Kind;

/// Which inode: taken modulo how many there are when the operation runs.
pub type Pick = u8;

/// Which name, of a handful.
pub type NamePick = u8;

/// One step of a history.
#[derive(Debug, Clone)]
pub enum Op {
    Make {
        dir: Pick,
        name: NamePick,
        kind: Kind,
        mode: u32,
        root: bool,
    },
    Open {
        dir: Pick,
        name: NamePick,
        mode: u32,
        exclusive: bool,
    },
    Lookup {
        dir: Pick,
        name: NamePick,
    },
    Link {
        file: Pick,
        dir: Pick,
        name: NamePick,
    },
    Unlink {
        dir: Pick,
        name: NamePick,
    },
    Rmdir {
        dir: Pick,
        name: NamePick,
    },
    Rename {
        from: (Pick, NamePick),
        to: (Pick, NamePick),
        mode: RenameMode,
    },
    Write {
        file: Pick,
        offset: u64,
        len: u32,
        byte: u8,
        kill_priv: bool,
    },
    Read {
        file: Pick,
        offset: u64,
        len: u32,
    },
    Resize {
        file: Pick,
        size: u64,
        root: bool,
    },
    Chmod {
        file: Pick,
        mode: u32,
    },
    Chown {
        file: Pick,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Utimes {
        file: Pick,
        atime: Option<i64>,
        mtime: Option<i64>,
    },
    Allocate {
        file: Pick,
        offset: u64,
        len: u64,
        mode: AllocateMode,
    },
    Copy {
        source: Pick,
        source_offset: u64,
        target: Pick,
        target_offset: u64,
        len: u64,
    },
    Seek {
        file: Pick,
        offset: u64,
        data: bool,
    },
    SetXattr {
        file: Pick,
        name: u8,
        len: u16,
        mode: XattrMode,
    },
    RemoveXattr {
        file: Pick,
        name: u8,
    },
    List {
        dir: Pick,
        at_once: u8,
    },
    /// Asks whether a file may be read, written, executed: bits as `access` has them. The kernel
    /// decides that, by the attributes.
    #[allow(dead_code, reason = "only a mount is asked")]
    Access {
        file: Pick,
        mask: u8,
        root: bool,
    },
    /// The kernel forgets an inode.
    Forget {
        file: Pick,
    },
    Fsync {
        file: Pick,
    },
    /// The daemon is killed and started again.
    Crash,
    /// The machine loses its power and starts again.
    PowerCut(Cut),
    /// All staged bytes go to the store.
    Settle,
    /// All records go to the store; writers could go on.
    Seal,
    /// Seals while these operations go on; then perhaps the daemon is killed, which shows what
    /// the records say without what is in memory.
    SealMeanwhile {
        ops: Vec<Op>,
        crash: bool,
    },
    /// The cache is emptied of all that can be fetched again.
    Evict,
    /// Seals, and goes on on another machine.
    Move,
}

/// The bytes of the write that is a history's step of this number: no page is like another one, so
/// that one at a wrong place shows. Some writes are the same in every step, for what is stored once
/// however often it is written, and some are zeros.
pub fn written(step: u64, byte: u8, len: u32) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    let seed = match byte {
        0 => return bytes,
        1..=31 => u64::MAX - u64::from(byte % 3),
        _ => step << 8 | u64::from(byte),
    };
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// What a power cut leaves of what was written and not synced.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// How much of it is there, from the oldest on, of 255 parts.
    pub kept: u8,
    /// What is behind that.
    pub behind: Behind,
}

/// What is behind the place where power was cut.
#[derive(Debug, Clone, Copy)]
pub enum Behind {
    /// The files end, and later ones are not there.
    Missing,
    /// One file ends; later ones are whole.
    Short,
    /// The files have their length, and no content.
    Zeros,
    /// The files have their length, and the content of others.
    Garbage,
    /// One page was not written; what is behind it was.
    Hole,
}

/// Offsets near what matters: the start, piece borders, and somewhere between.
fn offset() -> impl Strategy<Value = u64> {
    const PIECE: u64 = dormouse::fs::PIECE_LEN;
    prop_oneof![
        4 => 0_u64..200,
        2 => (0_u64..3, -60_i64..60)
            .prop_map(|(piece, by)| (piece * PIECE).saturating_add_signed(by)),
        1 => 0..2 * PIECE + PIECE / 2,
    ]
}

fn len() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0_u32..120, 1 => 0_u32..600 * 1024]
}

fn rename_mode() -> impl Strategy<Value = RenameMode> {
    prop_oneof![
        3 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        1 => Just(RenameMode::Exchange),
    ]
}

fn allocate_mode() -> impl Strategy<Value = AllocateMode> {
    prop_oneof![
        Just(AllocateMode::Extend),
        Just(AllocateMode::KeepSize),
        Just(AllocateMode::PunchHole),
        any::<bool>().prop_map(|keep_size| AllocateMode::ZeroRange { keep_size }),
    ]
}

fn xattr_mode() -> impl Strategy<Value = XattrMode> {
    prop_oneof![Just(XattrMode::Set), Just(XattrMode::Create), Just(XattrMode::Replace)]
}

fn mode() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0o644), Just(0o755), Just(0o6755), Just(0o2755), Just(0o2644), 0_u32..0o10000]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => Just(Kind::Directory),
        4 => Just(Kind::File),
        2 => Just(Kind::Symlink),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::CharDevice),
    ]
}

const NAMES: u8 = 5;

fn at() -> impl Strategy<Value = (Pick, NamePick)> {
    (any::<u8>(), 0..NAMES)
}

/// Operations on names.
pub fn name_op() -> BoxedStrategy<Op> {
    prop_oneof![
        6 => (at(), kind(), mode(), any::<bool>())
            .prop_map(|((dir, name), kind, mode, root)| Op::Make { dir, name, kind, mode, root }),
        3 => (at(), mode(), any::<bool>())
            .prop_map(|((dir, name), mode, exclusive)| Op::Open { dir, name, mode, exclusive }),
        2 => at().prop_map(|(dir, name)| Op::Lookup { dir, name }),
        2 => (any::<u8>(), at()).prop_map(|(file, (dir, name))| Op::Link { file, dir, name }),
        3 => at().prop_map(|(dir, name)| Op::Unlink { dir, name }),
        2 => at().prop_map(|(dir, name)| Op::Rmdir { dir, name }),
        5 => (at(), at(), rename_mode())
            .prop_map(|(from, to, mode)| Op::Rename { from, to, mode }),
        1 => (any::<u8>(), 1_u8..6).prop_map(|(dir, at_once)| Op::List { dir, at_once }),
        2 => any::<u8>().prop_map(|file| Op::Forget { file }),
    ]
    .boxed()
}

/// Operations on content.
pub fn content_op() -> BoxedStrategy<Op> {
    prop_oneof![
        8 => (any::<u8>(), offset(), len(), any::<u8>(), any::<bool>()).prop_map(
            |(file, offset, len, byte, kill_priv)| Op::Write { file, offset, len, byte, kill_priv }
        ),
        4 => (any::<u8>(), offset(), len())
            .prop_map(|(file, offset, len)| Op::Read { file, offset, len }),
        3 => (any::<u8>(), offset(), any::<bool>())
            .prop_map(|(file, size, root)| Op::Resize { file, size, root }),
        3 => (any::<u8>(), offset(), len(), allocate_mode()).prop_map(
            |(file, offset, len, mode)| Op::Allocate { file, offset, len: len.into(), mode }
        ),
        3 => (any::<u8>(), offset(), any::<u8>(), offset(), len()).prop_map(
            |(source, source_offset, target, target_offset, len)| Op::Copy {
                source, source_offset, target, target_offset, len: len.into(),
            }
        ),
        2 => (any::<u8>(), offset(), any::<bool>())
            .prop_map(|(file, offset, data)| Op::Seek { file, offset, data }),
        1 => any::<u8>().prop_map(|file| Op::Fsync { file }),
    ]
    .boxed()
}

/// Changes of content so close to each other that they share pieces and extents.
pub fn close_op() -> BoxedStrategy<Op> {
    // Steps of 50, so that ranges often touch without overlap: then a seal makes one chunk of
    // extents that were sealed apart.
    let offset = || (0_u64..7).prop_map(|step| 50 * step);
    let range = || (offset(), (1_u32..3).prop_map(|step| 50 * step));
    prop_oneof![
        5 => (0_u8..2, range(), any::<u8>()).prop_map(|(file, (offset, len), byte)| {
            Op::Write { file, offset, len, byte, kill_priv: false }
        }),
        1 => (0_u8..2, range()).prop_map(|(file, (offset, len))| {
            Op::Allocate { file, offset, len: len.into(), mode: AllocateMode::PunchHole }
        }),
        1 => (0_u8..2, offset()).prop_map(|(file, size)| Op::Resize { file, size, root: true }),
        1 => (range(), offset()).prop_map(|((source_offset, len), target_offset)| {
            Op::Copy { source: 0, source_offset, target: 1, target_offset, len: len.into() }
        }),
    ]
    .boxed()
}

/// Operations on attributes.
pub fn attribute_op() -> BoxedStrategy<Op> {
    let id = || prop::option::of(prop_oneof![Just(0_u32), Just(1000)]);
    let time = || prop::option::of(-5_i64..2_000_000_000);
    prop_oneof![
        (any::<u8>(), mode()).prop_map(|(file, mode)| Op::Chmod { file, mode }),
        (any::<u8>(), id(), id()).prop_map(|(file, uid, gid)| Op::Chown { file, uid, gid }),
        (any::<u8>(), time(), time()).prop_map(|(file, atime, mtime)| Op::Utimes {
            file,
            atime,
            mtime
        }),
        (any::<u8>(), 0_u8..6, 0_u16..2000, xattr_mode())
            .prop_map(|(file, name, len, mode)| Op::SetXattr { file, name, len, mode }),
        (any::<u8>(), 0_u8..6).prop_map(|(file, name)| Op::RemoveXattr { file, name }),
        (any::<u8>(), 0_u8..8, any::<bool>()).prop_map(|(file, mask, root)| Op::Access {
            file,
            mask,
            root
        }),
    ]
    .boxed()
}

/// What happens to the machine.
pub fn machine_op() -> BoxedStrategy<Op> {
    let ops = [Op::Crash, Op::Settle, Op::Seal, Op::Evict, Op::Move];
    prop_oneof![
        5 => prop::sample::select(ops.to_vec()),
        1 => power_cut(),
        2 => seal_during(file_op()),
    ]
    .boxed()
}

/// A power cut.
pub fn power_cut() -> BoxedStrategy<Op> {
    use Behind::{Garbage, Hole, Missing, Short, Zeros};
    let behind = prop::sample::select(vec![Missing, Short, Zeros, Garbage, Hole]);
    let cut = (any::<u8>(), behind).prop_map(|(kept, behind)| Cut { kept, behind });
    cut.prop_map(Op::PowerCut).boxed()
}

/// A seal while such operations go on.
pub fn seal_during(op: BoxedStrategy<Op>) -> BoxedStrategy<Op> {
    (prop::collection::vec(op, 1..10), any::<bool>())
        .prop_map(|(ops, crash)| Op::SealMeanwhile { ops, crash })
        .boxed()
}

/// What a program can do.
fn file_op() -> BoxedStrategy<Op> {
    prop_oneof![10 => name_op(), 10 => content_op(), 4 => attribute_op()].boxed()
}

/// Any operation.
pub fn op() -> BoxedStrategy<Op> {
    prop_oneof![12 => file_op(), 1 => machine_op()].boxed()
}
