//! Writes where the fuzzer begins: `seeds DIR` makes one folder per target, of the golden files
//! and of what a person or a client would send. Fails where one is not accepted, since a target
//! that refuses good bytes would find nothing.

use std::fs;
use std::path::{Path, PathBuf};

use dormouse_fuzz::control::{Command, Event, Refusal};
use dormouse_fuzz::properties::{Check, STRUCTURES};
use dormouse_fuzz::{local, run, samples, types::Kind};

type Seed = (&'static str, Vec<u8>);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("fuzz/ is in the project").to_owned()
}

fn read(path: &str) -> Vec<u8> {
    fs::read(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn golden() -> Vec<Seed> {
    let files = [
        ("frame", "frame-raw.v1"),
        ("frame", "frame-zstd.v1"),
        ("head", "head.v1"),
        ("head", "head-first.v1"),
        ("node", "node-inner.v1"),
        ("node", "node-leaf.v1"),
        ("pack", "pack.v1"),
        ("snapshot", "snapshot.v1"),
        ("store-format", "store-format.v1"),
    ];
    let read = |(target, file)| (target, read(&format!("tests/formats/golden/{file}")));
    files.into_iter().map(read).collect()
}

fn records() -> Vec<Seed> {
    use dormouse_fuzz::format::{EntryRecord, encode_attr, encode_entry, encode_extent};
    use dormouse_fuzz::types::Ino;

    let mut seeds: Vec<Seed> = [Kind::File, Kind::Directory, Kind::Symlink, Kind::CharDevice]
        .map(|kind| ("attr", encode_attr(&samples::attr(kind))))
        .into();
    seeds.push(("entry", encode_entry(EntryRecord { ino: Ino(9), kind: Kind::Fifo })));
    seeds.push(("extent", encode_extent(&samples::extent())));
    let keys = samples::records().into_iter().map(|(key, _)| ("key", key.as_bytes().to_vec()));
    seeds.extend(keys);
    seeds.push(("journal", local::journal::sample()));
    seeds
}

/// The documentation's own example has every setting.
fn config() -> Vec<Seed> {
    let page = String::from_utf8(read("docs/cli.md")).expect("text");
    let example = page.split("```toml\n").nth(1).expect("an example");
    let example = example.split("```").next().expect("its end").as_bytes().to_vec();
    vec![("config", example), ("config", b"[store]\nurl = \"s3://b/p\"\n".to_vec())]
}

fn control() -> Vec<Seed> {
    let commands = [
        Command::Checkpoint,
        Command::Evict,
        Command::Hibernate { timeout_secs: Some(60) },
        Command::Unmount { keep_local: true, timeout_secs: None },
    ];
    let request = |command: &Command| [command.path().as_bytes(), b"\n", &json(command)].concat();
    let refusal = Refusal { code: 7, message: "fenced".into(), hint: Some("see".into()) };
    let events = [
        Event::Progress(Default::default()),
        Event::Done { receipt: serde_json::json!({"snapshot": "00", "bytes": 5}) },
        Event::Failed(refusal),
    ];
    let bare = commands.iter().map(|command| format!("{}\n", command.path()).into_bytes());
    let requests = commands.iter().map(request).chain(bare);
    requests.chain(events.iter().map(json)).map(|seed| ("control", seed)).collect()
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain values")
}

fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).expect("seeds DIR"));
    let mut targets: Vec<(&str, Check)> = STRUCTURES.to_vec();
    targets.push(("journal", local::journal::check));
    let seeds = [golden(), records(), config(), control()].concat();
    for (target, check) in targets {
        let folder = folder.join(target);
        fs::create_dir_all(&folder).expect("a folder for the seeds");
        let own: Vec<_> = seeds.iter().filter(|(name, _)| *name == target).collect();
        assert!(!own.is_empty(), "no seed for {target}");
        for (number, (_, bytes)) in own.into_iter().enumerate() {
            assert!(check(bytes), "{target}: seed {number} is not accepted");
            run(check, bytes);
            fs::write(folder.join(format!("seed-{number}")), bytes).expect("a seed");
        }
    }
    // Built from any bytes: the longer, the more is in it.
    let folder = folder.join("written");
    fs::create_dir_all(&folder).expect("a folder for the seeds");
    for kind in 0..7_u8 {
        let mut bytes = samples::noise(6000);
        bytes[0] = kind;
        fs::write(folder.join(format!("seed-{kind}")), &bytes).expect("a seed");
    }
}
