//! Every decoder against bytes that were right once, and were changed: it answers, in bounded
//! memory, and whatever it accepts it writes the same way again.

use bytes::Bytes;
use dormouse::format::{
    FrameKind, Head, Key, Node, OWN_PACK, PackBuilder, PackKind, Snapshot, StoreFormat,
    decode_attr, decode_entry, decode_extent, decode_frame, decode_node, decode_pack_header,
    decode_pack_index, encode_attr, encode_entry, encode_extent, encode_frame, encode_node, frames,
    parse_header,
};
use dormouse::types::PackId;

use crate::memory::{alone, peak_of};
use crate::support::Objects;
use crate::world::{World, hibernate, noise};

/// How many mutants of each structure; `DORMOUSE_TEST_MUTANTS` asks for more.
const MUTANTS: u64 = 20_000;

fn mutants() -> u64 {
    std::env::var("DORMOUSE_TEST_MUTANTS").map_or(MUTANTS, |text| text.parse().unwrap())
}

fn seed() -> u64 {
    std::env::var("DORMOUSE_TEST_SEED").map_or(0xf0cc, |text| text.parse().unwrap())
}

/// Random numbers, quickly.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Numbers that decoders stumble over.
const EDGES: [u64; 12] =
    [0, 1, 2, 3, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 60, u64::MAX];

/// Changes a few things.
fn mutate(bytes: &mut Vec<u8>, donors: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => {
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                let len = [1, 2, 4, 8][random.below(4)];
                let end = bytes.len().min(at + len);
                bytes[at..end].copy_from_slice(&edge[..end - at]);
            }
            4 => {
                let more = noise(random.next(), random.below(40));
                bytes.splice(at..at, more);
            }
            5 => {
                let end = bytes.len().min(at + random.below(60));
                bytes.drain(at..end);
            }
            6 => {
                let donor = &donors[random.below(donors.len())];
                let from = random.below(donor.len());
                let part = donor[from..donor.len().min(from + random.below(100))].to_vec();
                let end = bytes.len().min(at + part.len());
                bytes.splice(at..end, part);
            }
            _ => {
                let end = bytes.len().min(at + random.below(60));
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
        bytes.truncate(600_000);
    }
}

/// Makes the checksums of an envelope, a frame or a pack's end right again, so that a mutant gets
/// beyond them.
fn mend(bytes: &mut [u8]) {
    let len = bytes.len();
    if len >= 28
        && (bytes.starts_with(b"DMST") || bytes.starts_with(b"DMSN") || bytes.starts_with(b"DMHD"))
    {
        bytes[8..12].copy_from_slice(&((len - 28) as u32).to_le_bytes());
        let hash = blake3::hash(&bytes[..len - 16]);
        bytes[len - 16..].copy_from_slice(&hash.as_bytes()[..16]);
    } else if len >= 52 && bytes.starts_with(b"DMFR") {
        let stored = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        let end = len.min(52_usize.saturating_add(stored));
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..48]), &bytes[52..end]);
        bytes[48..52].copy_from_slice(&crc.to_le_bytes());
    } else if len >= 28 && bytes.ends_with(b"DMPE") {
        let index = u32::from_le_bytes(bytes[len - 20..len - 16].try_into().unwrap()) as usize;
        let crc = crc32c::crc32c(&bytes[index.min(len - 20)..len - 8]);
        bytes[len - 8..len - 4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Everything that decodes stored bytes, on these. What is accepted must come back the same.
fn decode_all(bytes: &[u8]) -> u32 {
    let mut accepted = 0;
    let mut same = |again: Option<Vec<u8>>| {
        accepted += 1;
        if let Some(again) = again {
            assert!(again == bytes, "it is written another way");
        }
    };
    if let Ok(format) = StoreFormat::decode(bytes) {
        same(Some(format.encode().unwrap()));
    }
    if let Ok(snapshot) = Snapshot::decode(bytes) {
        same(Some(snapshot.encode().unwrap()));
    }
    if let Ok(head) = Head::decode(bytes) {
        same(Some(head.encode().unwrap()));
    }
    if let Ok(attr) = decode_attr(bytes) {
        same(Some(encode_attr(&attr)));
    }
    if let Ok(entry) = decode_entry(bytes) {
        same(Some(encode_entry(entry)));
    }
    if let Ok(extent) = decode_extent(bytes) {
        same(Some(encode_extent(&extent)));
    }
    if let Ok(key) = Key::from_bytes(bytes) {
        same(Some(key.as_bytes().to_vec()));
        assert!(key.parts().is_some());
    }
    let pack = PackId([0x77; 32]);
    if let Ok(node) = decode_node(Bytes::copy_from_slice(bytes), pack) {
        for at in 0..node.len() {
            assert_eq!(node.search(node.key(at)), Ok(at));
        }
        // A child in a pack that happens to have our id is written as in the own one.
        let is_own = matches!(&node, Node::Inner(inner)
            if inner.children.iter().any(|child| child.node.slot.pack == pack));
        let again = encode_node(&node, |id| if *id == pack { OWN_PACK } else { *id }).unwrap();
        same((!is_own).then(|| again.to_vec()));
    }
    if let Ok((header, plain)) = decode_frame(bytes) {
        assert_eq!(header.plain_len as usize, plain.len());
        assert_eq!(parse_header(bytes), Ok(header));
        same(None);
    }
    let _ = decode_pack_header(bytes);
    for tail in [bytes, &bytes[bytes.len() / 2..]] {
        if let Ok(index) = decode_pack_index(tail, bytes.len() as u64) {
            let ends =
                index.entries.iter().map(|entry| u64::from(entry.offset) + u64::from(entry.len));
            assert!(ends.max().unwrap_or(0) <= bytes.len() as u64);
            same(None);
        }
    }
    for (at, header) in frames(bytes) {
        assert!(at + header.frame_len as usize <= bytes.len());
    }
    accepted
}

/// One of everything, as a real workspace has them.
fn originals() -> Vec<Vec<u8>> {
    let world = World::new();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    files.mkdir("dir");
    for i in 0..400_u64 {
        let ino = files.write(&format!("dir/file{i}"), &noise(i, 20 + i as usize));
        files.set_xattr(ino, "user.x", &i.to_le_bytes());
    }
    hibernate(&workspace).unwrap();
    workspace.close().unwrap();
    let objects = Objects::of(&world);
    let mut all: Vec<Vec<u8>> = Vec::new();
    for key in objects.list() {
        let bytes = objects.get(&key).to_vec();
        if let Ok(index) = decode_pack_index(&bytes, bytes.len() as u64) {
            for entry in index.entries.iter().take(12) {
                let frame = &bytes[entry.offset as usize..][..entry.len as usize];
                all.push(frame.to_vec());
                if index.kind == PackKind::Tree {
                    let plain = decode_frame(frame).unwrap().1;
                    if let Ok(Node::Leaf(leaf)) = decode_node(plain.clone().into(), OWN_PACK) {
                        for (key, value) in leaf.records().take(8) {
                            all.extend([key.to_vec(), value.to_vec()]);
                        }
                    }
                    all.push(plain);
                }
            }
            // A short pack, so that its end is met often.
            let mut short = PackBuilder::new(PackKind::Data);
            for text in [&b"first"[..], b"second"] {
                short.push(&encode_frame(FrameKind::Chunk, &[5; 32], text)).unwrap();
            }
            all.push(short.finish().1.to_vec());
        } else {
            all.push(bytes);
        }
    }
    all
}

#[test]
fn no_mutant_of_a_stored_structure_panics_a_decoder_or_takes_much_memory() {
    let _alone = alone();
    let originals = originals();
    assert!(originals.len() > 40, "{}", originals.len());
    assert!(originals.iter().map(|bytes| decode_all(bytes)).sum::<u32>() > 40);
    let seed = seed();
    let rounds = mutants();
    let ((), peak) = peak_of(|| {
        let mut accepted = 0;
        for number in 0..rounds {
            // Each from its own number, so that one can be tried again alone.
            let mut random =
                Random(seed.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            random.next();
            let mut bytes = originals[random.below(originals.len())].clone();
            mutate(&mut bytes, &originals, &mut random);
            if random.below(4) > 0 {
                mend(&mut bytes);
            }
            let tried = std::panic::catch_unwind(|| decode_all(&bytes));
            let Ok(count) = tried else { panic!("seed {seed}, mutant {number}: {bytes:02x?}") };
            accepted += u64::from(count > 0);
        }
        // Otherwise nothing got beyond the checksums.
        assert!(accepted > rounds / 50, "{accepted} of {rounds} were accepted");
        eprintln!("{rounds} mutants of {} structures, {accepted} accepted", originals.len());
    });
    assert!(peak < 96 << 20, "{peak}");
}
