use std::sync::mpsc;
use std::time::Duration;

use fuser::{Errno, InitFlags, RenameFlags, WriteFlags};
use proptest::collection::vec;
use proptest::prelude::*;

use super::reply::{ListedInode, Listing};
use super::request::{fixed_len, opcodes};
use super::*;
use crate::fs::{DirEntry, SetAttr, SetTime, StatFs};
use crate::fuse::answer::{Answer, AnswerData, AnswerListing, FOREVER};
use crate::fuse::convert::bare_attr;
use crate::types::{Attr, Ino, Kind, Time};

/// A message as the kernel would write it, made field by field.
#[derive(Debug, Default, Clone)]
struct Message(Vec<u8>);

impl Message {
    fn u16(mut self, value: u16) -> Message {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Message {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Message {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn text(mut self, value: &[u8]) -> Message {
        self.0.extend(value);
        self.0.push(0);
        self
    }

    fn bytes(mut self, value: &[u8]) -> Message {
        self.0.extend(value);
        self
    }
}

fn fixed() -> Message {
    Message::default()
}

/// One message of `/dev/fuse`.
fn message(opcode: u32, fixed: &Message, rest: &Message) -> Vec<u8> {
    let len = HEADER_LEN + fixed.0.len() + rest.0.len();
    Message::default()
        .u32(u32::try_from(len).unwrap())
        .u32(opcode)
        .u64(1 << 40)
        .u64(77)
        .u32(1000)
        .u32(1001)
        .u32(4242)
        .u32(0)
        .bytes(&fixed.0)
        .bytes(&rest.0)
        .0
}

/// Values for the fields of one request of each kind.
#[derive(Debug, Clone)]
struct Values {
    name: Vec<u8>,
    other: Vec<u8>,
    data: Vec<u8>,
    small: [u32; 4],
    large: [u64; 4],
}

fn values() -> impl Strategy<Value = Values> {
    let name = || vec(1_u8..=255, 0..300);
    (name(), name(), vec(any::<u8>(), 0..5000), any::<[u32; 4]>(), any::<[u64; 4]>())
        .prop_map(|(name, other, data, small, large)| Values { name, other, data, small, large })
}

type Case<'a> = (u32, Message, Message, Operation<'a>);

/// Requests about names, and what they must be read as.
fn name_cases(v: &Values) -> Vec<Case<'_>> {
    let ([a, b, c, _], [x, ..]) = (v.small, v.large);
    let (name, other) = (&v.name[..], &v.other[..]);
    let named = || Message::default().text(name);
    let both = || named().text(other);
    let (open_flags, to_directory) = (c.cast_signed(), Ino(x));
    vec![
        (opcodes::LOOKUP, fixed(), named(), Operation::Lookup { name }),
        (opcodes::SYMLINK, fixed(), both(), Operation::SymLink { name, target: other }),
        (
            opcodes::MKNOD,
            fixed().u32(a).u32(b).u32(c).u32(0),
            named(),
            Operation::MkNod { name, mode: a, rdev: b, umask: c },
        ),
        (
            opcodes::MKDIR,
            fixed().u32(a).u32(b),
            named(),
            Operation::MkDir { name, mode: a, umask: b },
        ),
        (opcodes::UNLINK, fixed(), named(), Operation::Unlink { name }),
        (opcodes::RMDIR, fixed(), named(), Operation::RmDir { name }),
        (
            opcodes::RENAME,
            fixed().u64(x),
            both(),
            Operation::Rename { name, to_directory, to_name: other, flags: RenameFlags::empty() },
        ),
        (
            opcodes::RENAME2,
            fixed().u64(x).u32(a).u32(0),
            both(),
            Operation::Rename {
                name,
                to_directory,
                to_name: other,
                flags: RenameFlags::from_bits_retain(a),
            },
        ),
        (opcodes::LINK, fixed().u64(x), named(), Operation::Link { ino: Ino(x), name }),
        (
            opcodes::CREATE,
            fixed().u32(c).u32(a).u32(b).u32(0),
            named(),
            Operation::Create { name, mode: a, umask: b, open_flags },
        ),
    ]
}

/// Requests about attributes, ordinary and extended.
fn attribute_cases(v: &Values) -> Vec<Case<'_>> {
    let ([a, b, ..], [x, ..]) = (v.small, v.large);
    let name = &v.name[..];
    let data_len = u32::try_from(v.data.len()).unwrap();
    let named = || Message::default().text(name);
    vec![
        (opcodes::GETATTR, fixed().u32(a).u32(0).u64(x), Message::default(), Operation::GetAttr),
        (opcodes::READLINK, fixed(), Message::default(), Operation::ReadLink),
        (
            opcodes::SETXATTR,
            fixed().u32(data_len).u32(a),
            named().bytes(&v.data),
            Operation::SetXattr { name, value: &v.data, flags: a.cast_signed() },
        ),
        (opcodes::GETXATTR, fixed().u32(b).u32(0), named(), Operation::GetXattr { name, room: b }),
        (
            opcodes::LISTXATTR,
            fixed().u32(b).u32(0),
            Message::default(),
            Operation::ListXattr { room: b },
        ),
        (opcodes::REMOVEXATTR, fixed(), named(), Operation::RemoveXattr { name }),
    ]
}

/// Requests about content and listings.
fn content_cases(v: &Values) -> Vec<Case<'_>> {
    let ([a, b, c, d], [x, y, z, w]) = (v.small, v.large);
    let data_len = u32::try_from(v.data.len()).unwrap();
    let window = |len| fixed().u64(x).u64(y).u32(len).u32(a).u64(z).u32(b).u32(0);
    let nothing = Message::default;
    vec![
        (opcodes::READ, window(d), nothing(), Operation::Read { offset: y, len: d }),
        (
            opcodes::WRITE,
            window(data_len),
            Message::default().bytes(&v.data),
            Operation::Write {
                offset: y,
                data: &v.data,
                flags: WriteFlags::from_bits_retain(a),
                open_flags: b.cast_signed(),
            },
        ),
        (opcodes::READDIR, window(d), nothing(), Operation::ReadDir { cookie: y, room: d }),
        (opcodes::READDIRPLUS, window(d), nothing(), Operation::ReadDirPlus { cookie: y, room: d }),
        (
            opcodes::FALLOCATE,
            fixed().u64(x).u64(y).u64(z).u32(a).u32(0),
            nothing(),
            Operation::FAllocate { offset: y, len: z, mode: a.cast_signed() },
        ),
        (
            opcodes::LSEEK,
            fixed().u64(x).u64(y).u32(c).u32(0),
            nothing(),
            Operation::LSeek { offset: y.cast_signed(), whence: c.cast_signed() },
        ),
        (
            opcodes::COPY_FILE_RANGE,
            fixed().u64(1).u64(x).u64(y).u64(2).u64(z).u64(w).u64(0),
            nothing(),
            Operation::CopyFileRange { offset: x, target: Ino(y), target_offset: z, len: w },
        ),
        (opcodes::FORGET, fixed().u64(x), nothing(), Operation::Forget { lookups: x }),
        (opcodes::INTERRUPT, fixed().u64(x), nothing(), Operation::Interrupt { unique: x }),
        (opcodes::STATFS, fixed(), nothing(), Operation::StatFs),
        (opcodes::DESTROY, fixed(), nothing(), Operation::Destroy),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(values in values(), garbage in vec(any::<u8>(), 0..128)) {
        let mut cases = name_cases(&values);
        cases.extend(attribute_cases(&values));
        cases.extend(content_cases(&values));
        for (opcode, fixed, rest, expected) in cases {
            prop_assert_eq!(fixed_len(opcode), Some(fixed.0.len()));
            let bytes = message(opcode, &fixed, &rest);
            let (header, own, others) = Header::split(&bytes).unwrap();
            prop_assert_eq!((header.unique, header.ino), (1 << 40, Ino(77)));
            prop_assert_eq!((header.uid, header.gid, header.pid), (1000, 1001, 4242));
            prop_assert_eq!(Operation::decode(opcode, own, others), Ok(expected));
            // io_uring's place for the fixed part is longer, and not cleared between requests.
            let place = fixed.clone().bytes(&garbage);
            prop_assert_eq!(Operation::decode(opcode, &place.0, &rest.0), Ok(expected));
            // A message that was cut short is no request, wherever the cut is.
            for len in 0..bytes.len() {
                prop_assert!(Header::split(&bytes[..len]).is_err());
            }
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(
        bytes in vec(any::<u8>(), 0..300),
        place in vec(any::<u8>(), 0..140),
        number in any::<u32>(),
    ) {
        let _ = Header::decode(&bytes);
        if let Ok((header, fixed, rest)) = Header::split(&bytes) {
            let _ = Operation::decode(header.opcode, fixed, rest);
        }
        for &opcode in opcodes::ALL.iter().chain(&[number]) {
            // A length that is right brings the decoder beyond the header.
            let mut whole = message(opcode, &Message::default(), &Message(bytes.clone()));
            if let Ok((header, fixed, rest)) = Header::split(&whole)
                && let Ok(Operation::BatchForget(forgets)) =
                    Operation::decode(header.opcode, fixed, rest)
            {
                prop_assert!(forgets.iter().count() <= bytes.len() / 16);
            }
            whole.truncate(HEADER_LEN);
            let _ = Header::split(&whole);
            let _ = Operation::decode(opcode, &place, &bytes);
        }
    }

    #[test]
    fn lengths_beyond_the_message_are_refused(len in 11_u32.., data in vec(any::<u8>(), 0..=10)) {
        let window = fixed().u64(0).u64(0).u32(len).u32(0).u64(0).u32(0).u32(0);
        prop_assert!(Operation::decode(opcodes::WRITE, &window.0, &data).is_err());
        let value = Message::default().text(b"user.x").bytes(&data);
        let own = fixed().u32(len).u32(0);
        prop_assert!(Operation::decode(opcodes::SETXATTR, &own.0, &value.0).is_err());
        let own = fixed().u32(len).u32(0);
        prop_assert!(Operation::decode(opcodes::BATCH_FORGET, &own.0, &data).is_err());
    }

    #[test]
    fn listings_read_back_and_keep_to_their_room(
        names in vec(vec(1_u8..=255, 1..=255), 0..40),
        room in 0_u32..6000,
        plus in any::<bool>(),
    ) {
        let attr = attr();
        let mut listing = Listing::default();
        let mut taken = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let number = number as u64;
            let entry = DirEntry {
                name,
                ino: Ino(number + 10),
                kind: Kind::Symlink,
                cookie: number + 1,
                attr: None,
            };
            let inode = match (plus, number % 3) {
                (false, _) => ListedInode::NotAsked,
                (true, 1) => ListedInode::Unknown,
                (true, _) => ListedInode::Known(&attr),
            };
            if listing.add(room, &entry, inode) {
                break;
            }
            taken.push((number + 10, number + 1, name.clone()));
        }
        let body = listing.into_body();
        let bytes = body.as_bytes();
        prop_assert!(bytes.len() <= room as usize);
        let (read, rest) = read_listing(bytes, plus);
        prop_assert!(rest.is_empty());
        prop_assert_eq!(&read, &taken);
        if let Some(missed) = names.get(taken.len()) {
            let entry = 24 + if plus { 128 } else { 0 };
            let len = (entry + missed.len()).next_multiple_of(8);
            prop_assert!(bytes.len() + len > room as usize, "it would have fitted");
        }
    }
}

/// Inode, cookie and name.
type Listed = (u64, u64, Vec<u8>);

/// The entries, as a reader who only knows the layout finds them, and what is left.
fn read_listing(mut bytes: &[u8], plus: bool) -> (Vec<Listed>, &[u8]) {
    let mut read = Vec::new();
    let number =
        |bytes: &[u8], at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    while !bytes.is_empty() {
        let (entry, dirent) = bytes.split_at(if plus { 128 } else { 0 });
        let len = u32::from_ne_bytes(dirent[16..20].try_into().unwrap()) as usize;
        let kind = u32::from_ne_bytes(dirent[20..24].try_into().unwrap());
        assert_eq!(kind, u32::from(libc::DT_LNK));
        let ino = number(dirent, 0);
        if plus && ino % 3 == 2 {
            assert_eq!(entry, [0; 128], "node 0: nothing but the name");
        } else if plus {
            assert_eq!(number(entry, 0), ino, "the entry's own number");
            assert_eq!(number(entry, 16), FOREVER.as_secs());
        }
        read.push((ino, number(dirent, 8), dirent[24..24 + len].to_vec()));
        bytes = &dirent[(24 + len).next_multiple_of(8)..];
    }
    (read, bytes)
}

fn attr() -> Attr {
    Attr {
        mode: 0o4755,
        uid: 7,
        gid: 8,
        nlink: 3,
        size: 1000,
        allocated: 513,
        rdev: 0x0103,
        atime: Time::new(-5, 1),
        mtime: Time::new(1, 999_999_999),
        ctime: Time::new(2, 3),
        ..bare_attr(Kind::File)
    }
}

fn expected_attr() -> Message {
    Message::default()
        .u64(9)
        .u64(1000)
        .u64(2)
        .u64((-5_i64).cast_unsigned())
        .u64(1)
        .u64(2)
        .u32(1)
        .u32(999_999_999)
        .u32(3)
        .u32(libc::S_IFREG | 0o4755)
        .u32(3)
        .u32(7)
        .u32(8)
        .u32(0x0103)
        .u32(4096)
        .u32(0)
}

#[test]
fn answers_have_the_kernels_layout() {
    let attributes = expected_attr().0;
    let ttl = Duration::new(5, 6);
    let entry = Message::default().u64(9).u64(0).u64(5).u64(5).u32(6).u32(6).bytes(&attributes);
    assert_eq!(Body::entry(ttl, Ino(9), &attr()).as_bytes(), entry.0);
    let alone = Message::default().u64(5).u32(6).u32(0).bytes(&attributes);
    assert_eq!(Body::attr(ttl, Ino(9), &attr()).as_bytes(), alone.0);
    let created = Body::created(Ino(9), &attr());
    assert_eq!(created.as_bytes().len(), 144);
    // FOPEN_KEEP_CACHE and FOPEN_NOFLUSH behind the file handle.
    let open = Message::default().u64(0).u32((1 << 1) | (1 << 5)).u32(0);
    assert_eq!(created.as_bytes()[128..], open.0);
    assert_eq!(Body::length(4096).as_bytes(), Message::default().u32(4096).u32(0).0);
    assert_eq!(Body::offset(-1).as_bytes(), Message::default().u64(u64::MAX).0);
    let stat = StatFs {
        block_bytes: 4096,
        blocks: 10,
        blocks_free: 9,
        inodes: 8,
        inodes_free: 7,
        name_len_max: 255,
    };
    let statfs = Message::default().u64(10).u64(9).u64(9).u64(8).u64(7);
    let statfs = statfs.u32(4096).u32(255).u32(4096).bytes(&[0; 28]);
    assert_eq!(Body::statfs(&stat).as_bytes(), statfs.0);
    let header = Message::default().u32(20).u32((-libc::ENOENT).cast_unsigned()).u64(6);
    assert_eq!(out_header(6, libc::ENOENT, 4).as_slice(), header.0);
    assert_eq!(out_header(6, 0, 4)[4..8], [0; 4]);
}

#[test]
fn changes_of_attributes_are_read_as_they_are_meant() {
    let request = |valid| {
        let secs = (-3_i64).cast_unsigned();
        fixed()
            .u32(valid)
            .u32(0)
            .u64(1)
            .u64(4096)
            .u64(2)
            .u64(secs)
            .u64(11)
            .u64(12)
            .u32(1)
            .u32(2)
            .u32(3)
            .u32(libc::S_IFREG | 0o4644)
            .u32(0)
            .u32(20)
            .u32(30)
            .u32(0)
    };
    let read = |valid| match Operation::decode(opcodes::SETATTR, &request(valid).0, &[]) {
        Ok(Operation::SetAttr(change)) => change,
        other => panic!("{other:?}"),
    };
    assert_eq!(fixed_len(opcodes::SETATTR), Some(request(0).0.len()));
    assert_eq!(read(0), SetAttr::default());
    // Mode, uid, gid, size, atime and mtime at a time, ctime, KILL_SUIDGID.
    let all = read(0b1100_0011_1111);
    let times = (SetTime::At(Time::new(-3, 1)), SetTime::At(Time::new(11, 2)));
    assert_eq!((all.mode, all.uid, all.gid), (Some(0o4644), Some(20), Some(30)));
    assert_eq!((all.size, all.kill_priv), (Some(4096), true));
    assert_eq!((all.atime, all.mtime), (Some(times.0), Some(times.1)));
    assert_eq!(all.ctime, Some(Time::new(12, 3)));
    let now = read(0b1_1011_0000);
    assert_eq!((now.atime, now.mtime), (Some(SetTime::Now), Some(SetTime::Now)));
    assert!(!read(0b1000_0000_0010).kill_priv, "a change of owner alone");
}

#[test]
fn forgets_come_one_by_one() {
    let pairs = Message::default().u64(2).u64(1).u64(3).u64(5);
    let bytes = message(opcodes::BATCH_FORGET, &fixed().u32(2).u32(0), &pairs);
    let (header, own, rest) = Header::split(&bytes).unwrap();
    let Ok(Operation::BatchForget(forgets)) = Operation::decode(header.opcode, own, rest) else {
        panic!("not a BATCH_FORGET");
    };
    assert_eq!(forgets.iter().collect::<Vec<_>>(), [(Ino(2), 1), (Ino(3), 5)]);
}

#[test]
fn flags_have_two_halves() {
    let high = InitFlags::FUSE_OVER_IO_URING | InitFlags::FUSE_ASYNC_READ;
    let bits = (high | InitFlags::FUSE_INIT_EXT).bits();
    let low_half = (bits & u64::from(u32::MAX)) as u32;
    let own = fixed().u32(7).u32(44).u32(131_072).u32(low_half);
    let rest = Message::default().u32((bits >> 32) as u32).bytes(&[0; 44]);
    let bytes = message(opcodes::INIT, &own, &rest);
    let (header, own, rest) = Header::split(&bytes).unwrap();
    let Ok(Operation::Init(offered)) = Operation::decode(header.opcode, own, rest) else {
        panic!("not an INIT");
    };
    assert!(offered.is_known() && offered.flags.contains(high));
    let answer = InitOut {
        read_ahead_bytes: 131_072,
        flags: high,
        background_max: 64,
        write_bytes_max: 1 << 20,
        pages_max: 256,
    };
    let expected = Message::default().u32(7).u32(42).u32(131_072).u32(low_half);
    let expected = expected.u16(64).u16(48).u32(1 << 20).u32(1).u16(256).u16(0);
    let expected = expected.u32((bits_high(high)) as u32).bytes(&[0; 28]);
    assert_eq!(answer.encode(), expected.0);
    let old = InitIn { minor: 41, ..offered };
    assert!(!old.is_known());
}

fn bits_high(flags: InitFlags) -> u64 {
    flags.bits() >> 32
}

#[test]
fn an_inode_is_said_to_have_changed_without_its_content() {
    let expected = Message::default().u32(40).u32(2).u64(0).u64(9).u64(u64::MAX).u64(0);
    assert_eq!(attributes_changed(Ino(9)), expected.0);
}

/// What was answered: number, errno, bytes.
struct Probe(mpsc::Sender<(u64, i32, Vec<u8>)>);

impl Outlet for Probe {
    fn send(self, unique: u64, error: i32, body: Body) {
        self.0.send((unique, error, body.as_bytes().to_vec())).unwrap();
    }
}

#[test]
fn each_answer_is_sent_once_however_it_ends() {
    let (sender, answers) = mpsc::channel();
    let answer = |unique| WireAnswer::new(unique, Probe(sender.clone()));
    answer(2).data(b"abc".to_vec().into());
    answer(4).fail(Errno::ENOENT);
    drop(answer(6));
    AnswerListing::listed(answer(8).room(100));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _kept = answer(10);
        panic!("expected by this test");
    }));
    assert!(panicked.is_err());
    drop(sender);
    let all: Vec<_> = answers.iter().collect();
    let nothing = Vec::new;
    assert_eq!(
        all,
        [
            (2, 0, b"abc".to_vec()),
            (4, libc::ENOENT, nothing()),
            (6, libc::EIO, nothing()),
            (8, 0, nothing()),
            (10, libc::EIO, nothing()),
        ]
    );
}
