//! `dormouse verify` as scripts and people use it.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::World;

/// Of the report, of a problem, of what it hits, of the counts (docs/cli.md).
const REPORT_KEYS: &[&str] = &[
    "store_id",
    "sound",
    "depth",
    "sample_seed",
    "workspaces",
    "problems",
    "problems_left_out",
    "unreferenced",
    "counts",
];
const PROBLEM_KEYS: &[&str] = &["object", "kind", "what", "affected"];
const AFFECTED_KEYS: &[&str] = &["workspace", "snapshot", "everything", "files", "paths"];
const COUNT_KEYS: &[&str] = &[
    "nodes",
    "records",
    "tree_packs",
    "data_packs",
    "data_packs_read",
    "chunks",
    "chunks_sound",
    "bytes_read",
];

fn assert_keys(value: &Value, expected: &[&str]) {
    let mut found: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = expected.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

/// The largest pack: that of the file's content.
fn data_pack(world: &World) -> PathBuf {
    let folders = fs::read_dir(world.path("store/packs")).unwrap();
    let packs = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    packs
        .map(|pack| pack.unwrap().path())
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap()
}

fn filled() -> World {
    let world = World::new();
    world.mount();
    let content: Vec<u8> = (0..300_000_u32).flat_map(|i| i.wrapping_mul(i).to_le_bytes()).collect();
    fs::create_dir(world.ws().join("dir")).unwrap();
    fs::write(world.ws().join("dir/big\nname"), content).unwrap();
    fs::write(world.ws().join("small"), "small").unwrap();
    world
}

#[test]
fn a_store_in_use_is_sound_and_nobody_is_disturbed() {
    let world = filled();
    world.ok(&["checkpoint", "w"]);
    let before = world.status();
    for line in [
        &["verify", "w"][..],
        &["verify", "--all"],
        &["verify", "--quick", "w"],
        &["verify", "--sample", "50", "--jobs", "1", "w"],
        &["verify", "--snapshot", "latest", "--no-progress", "w"],
    ] {
        let ran = world.ok(line);
        assert!(ran.out.contains("everything that was looked at is sound"), "{ran:?}");
        assert_eq!(ran.err, "", "no progress where there is no terminal");
    }
    let report = world.ok(&["verify", "--json", "--all"]).json();
    assert_keys(&report, REPORT_KEYS);
    assert_keys(&report["counts"], COUNT_KEYS);
    assert_eq!(report["sound"], true);
    assert_eq!(report["depth"], "full");
    assert_eq!(report["workspaces"][0]["name"], "w");
    assert_eq!(report["counts"]["chunks"], report["counts"]["chunks_sound"]);
    let sample = world.ok(&["verify", "--json", "--sample", "1", "--seed", "5", "w"]).json();
    assert_eq!(sample["sample_seed"], 5);
    let after = world.status();
    assert_eq!(before["epoch"], after["epoch"]);
    assert_eq!(before["snapshot"], after["snapshot"]);
    fs::write(world.ws().join("more"), "goes on").unwrap();
    world.hibernate();
}

#[test]
fn damage_ends_with_9_and_says_what_is_wrong_and_whom_it_hits() {
    let world = filled();
    world.hibernate();
    let pack = data_pack(&world);
    let whole = fs::read(&pack).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 4;
    fs::write(&pack, &damaged).unwrap();
    world.ok(&["verify", "--quick", "w"]);
    let ran = world.fails(&["verify", "w"], 9, "1 object is not as it must be");
    assert!(ran.out.contains("/dir/big\\x0aname"), "{ran:?}");
    assert!(!ran.out.contains("/small"), "{ran:?}");
    let ran = world.run(&["verify", "--json", "w"]);
    assert_eq!(ran.code, 9);
    let error: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(error["error"]["name"], "damaged");
    let report = ran.json();
    assert_keys(&report, REPORT_KEYS);
    assert_eq!(report["sound"], false);
    let problem = &report["problems"][0];
    assert_keys(problem, PROBLEM_KEYS);
    assert_eq!(problem["kind"], "damaged");
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert_eq!(problem["object"], format!("packs/{}/{name}", &name[..2]));
    assert_keys(&problem["affected"][0], AFFECTED_KEYS);
    assert_eq!(problem["affected"][0]["paths"][0], "/dir/big\\x0aname");

    fs::remove_file(&pack).unwrap();
    for depth in ["--quick", "--json"] {
        world.fails(&["verify", depth, "w"], 9, "");
    }
    fs::write(&pack, &whole).unwrap();
    world.ok(&["verify", "w"]);
    let format = fs::read(world.path("store/format")).unwrap();
    fs::remove_file(world.path("store/format")).unwrap();
    world.fails(&["verify", "w"], 9, "format: it is not in the store, and there are workspaces");
    fs::write(world.path("store/format"), format).unwrap();
    world.ok(&["verify", "w"]);
}

#[test]
fn what_can_t_be_looked_at_has_the_usual_codes() {
    let world = World::new();
    world.fails(&["verify", "nobody"], 5, "no workspace nobody");
    world.fails(&["verify"], 2, "required");
    world.fails(&["verify", "--all", "w"], 2, "cannot be used");
    world.fails(&["verify", "--quick", "--sample", "5", "w"], 2, "cannot be used");
    world.fails(&["verify", "a/b"], 2, "not allowed");
    world.mount();
    world.hibernate();
    world.fails(&["verify", "--scratch-dir", &world.text("nowhere"), "w"], 2, "scratch-dir");
    world.fails(&["verify", "--snapshot", "ffff", "w"], 5, "no snapshot");
    let none = World::bare();
    none.fails(&["verify", "w"], 5, "");
}
