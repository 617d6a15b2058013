//! Every decoder against bytes that were right once, and were changed: it answers, in bounded
//! memory, and whatever it accepts it writes the same way again.

use std::collections::BTreeMap;

use bytes::Bytes;
use dormouse::control::{Command, Event, Refusal};
use dormouse::format::{
    FrameKind, KeyParts, Node, OWN_PACK, PackBuilder, PackKind, decode_frame, decode_node,
    decode_pack_index, encode_attr, encode_extent, encode_frame,
};
use dormouse::types::Kind;
use dormouse::workspace::ProgressView;

use crate::memory::{alone, own_peak_of};
use crate::properties::{STRUCTURES, memory_max};
use crate::samples;
use crate::sealing::seal;
use crate::support::{Objects, same_nonces, seed, seeded_world};
use crate::world::{World, checkpoint, hibernate, noise};

/// How many mutants of all structures together; `DORMOUSE_TEST_MUTANTS` asks for more.
const MUTANTS: u64 = 20_000;

fn mutants() -> u64 {
    std::env::var("DORMOUSE_TEST_MUTANTS").map_or(MUTANTS, |text| text.parse().unwrap())
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

/// Good ones of each structure, as a real workspace has them and a person or a client sends them.
fn originals() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    let mut all = Originals::default();
    let world = a_real_store();
    let objects = Objects::of(&world);
    for key in objects.list() {
        let bytes = objects.get(&key);
        match &key[..] {
            "format" => all.add("store-format", &bytes),
            key if key.ends_with("/head") => all.add("head", &bytes),
            key if key.contains("/snapshots/") => all.add("snapshot", &bytes),
            _ => all.pack(&bytes),
        }
    }
    // What so small a workspace does not have.
    all.add("node", &samples::plain(&samples::inner()));
    all.add("extent", &encode_extent(&samples::extent()));
    for kind in [Kind::Symlink, Kind::CharDevice] {
        all.add("attr", &encode_attr(&samples::attr(kind)));
    }
    let page = include_str!("../../docs/cli.md");
    let example = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    all.add("config", example.as_bytes());
    all.add("config", b"[store]\nurl = \"s3://b/p\"\n[log]\nformat = \"json\"\n");
    let commands = [
        Command::Checkpoint,
        Command::Evict,
        Command::Hibernate { timeout_secs: Some(60) },
        Command::Unmount { keep_local: true, timeout_secs: None },
    ];
    for command in commands {
        let json = serde_json::to_vec(&command).unwrap();
        all.add("control", &[command.path().as_bytes(), b"\n", &json].concat());
        all.add("control", command.path().as_bytes());
    }
    let refusal = Refusal { code: 7, message: "fenced".into(), hint: None };
    for event in [Event::Failed(refusal), Event::Progress(ProgressView::default())] {
        all.add("control", &serde_json::to_vec(&event).unwrap());
    }
    all.0
}

#[derive(Default)]
struct Originals(BTreeMap<&'static str, Vec<Vec<u8>>>);

impl Originals {
    fn add(&mut self, structure: &'static str, bytes: &[u8]) {
        self.0.entry(structure).or_default().push(bytes.to_vec());
    }

    fn pack(&mut self, bytes: &[u8]) {
        let index = decode_pack_index(bytes, bytes.len() as u64).unwrap();
        for entry in index.entries.iter().take(12) {
            let frame = &bytes[entry.offset as usize..][..entry.len as usize];
            self.add("frame", frame);
            if index.kind == PackKind::Tree {
                let plain = decode_frame(frame).unwrap().1;
                self.node(&plain);
            }
        }
        self.add("pack", bytes);
        // Short ones, so that an end is met often.
        for count in [0, 1, 3] {
            let mut short = PackBuilder::new(PackKind::Data);
            for text in &[&b"first"[..], b"second", b""][..count] {
                short.push(&encode_frame(FrameKind::Chunk, &[5; 32], text)).unwrap();
            }
            self.add("pack", &short.finish().1);
        }
    }

    fn node(&mut self, plain: &[u8]) {
        self.add("node", plain);
        let node = decode_node(Bytes::copy_from_slice(plain), OWN_PACK).unwrap();
        let Node::Leaf(leaf) = node else { return };
        for (key, value) in leaf.records().take(40) {
            self.add("key", key);
            match KeyParts::parse(key).unwrap() {
                KeyParts::Attr(_) => self.add("attr", value),
                KeyParts::Entry(..) => self.add("entry", value),
                KeyParts::Extent(..) => self.add("extent", value),
                _ => {}
            }
        }
    }
}

/// A store of one workspace, the same bytes each time.
fn a_real_store() -> World {
    let world = seeded_world();
    let workspace = world.resume("a");
    let files = world.files(&workspace);
    files.mkdir("dir");
    for i in 0..400_u64 {
        let ino = files.write(&format!("dir/file{i}"), &noise(i, 20 + i as usize));
        files.set_xattr(ino, "user.x", &i.to_le_bytes());
    }
    // A hibernation settles on several threads, in any order.
    checkpoint(&workspace).unwrap();
    hibernate(&workspace).unwrap();
    workspace.close().unwrap();
    same_nonces(&world);
    world
}

#[test]
fn the_same_seed_makes_the_same_store() {
    let _alone = alone();
    let [one, two] = [a_real_store(), a_real_store()].map(|world| Objects::of(&world));
    assert_eq!(one.list(), two.list());
    for key in one.list() {
        assert!(one.get(&key) == two.get(&key), "{key} has other bytes each time");
    }
}

/// Each structure gets as many mutants as any other, however many originals it has.
#[test]
fn no_mutant_of_a_structure_panics_a_decoder_or_takes_much_memory() {
    let _alone = alone();
    let originals = originals();
    let donors: Vec<Vec<u8>> = originals.values().flatten().cloned().collect();
    for (structure, check) in STRUCTURES {
        let own = originals.get(structure).unwrap_or_else(|| panic!("no original {structure}"));
        assert!(own.iter().all(|bytes| check(bytes)), "an original {structure} is refused");
    }
    let (seed, rounds) = (seed(), mutants());
    let mut accepted = [0; STRUCTURES.len()];
    for number in 0..rounds {
        // Each from its own number, so that one can be tried again alone.
        let mut random = Random(seed.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        let which = (number % STRUCTURES.len() as u64) as usize;
        let (structure, check) = STRUCTURES[which];
        let own = &originals[structure];
        let mut bytes = own[random.below(own.len())].clone();
        mutate(&mut bytes, &donors, &mut random);
        if random.below(4) > 0 {
            seal(&mut bytes);
        }
        let (tried, peak) = own_peak_of(|| std::panic::catch_unwind(|| check(&bytes)));
        let again = || format!("{structure}, seed {seed}, mutant {number}: {bytes:02x?}");
        accepted[which] += u64::from(tried.unwrap_or_else(|_| panic!("{}", again())));
        assert!(peak <= memory_max(bytes.len()), "{peak} bytes of memory: {}", again());
        // A mutant of one structure is nothing to the others, and they have to say so.
        if number % 16 == 0 {
            STRUCTURES.iter().for_each(|(_, check)| _ = check(&bytes));
        }
    }
    for ((structure, _), accepted) in STRUCTURES.iter().zip(accepted) {
        let own = rounds / STRUCTURES.len() as u64;
        eprintln!("{structure}: {own} mutants, {accepted} accepted");
        // Otherwise nothing gets beyond the checksums.
        assert!(accepted > own / 400, "{structure}: {accepted} of {own} were accepted");
    }
}
