//! Bad stores: gone, refusing, without conditions, damaged, newer.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use dormouse::format::{
    OWN_PACK, PackKind, decode_frame, decode_node, decode_pack_header, decode_pack_index,
};

use crate::support::{Ran, World, http_server, is_mounted};

const SECRET: &str = "wJalrXUtnFEMIdormouseSECRETkey";
const TOKEN: &str = "IQoJb3JpZ2luX2VjdormouseTOKEN";

fn assert_no_secret(line: &[&str], ran: &Ran) {
    for secret in [SECRET, TOKEN] {
        let told = ran.err.contains(secret) || ran.out.contains(secret);
        assert!(!told, "{line:?}: {ran:?}");
    }
}

/// A world whose store is at this S3 endpoint.
fn s3_world(endpoint: String) -> World {
    let mut world = World::bare();
    world.set("DORMOUSE_STORE", "s3://bucket/prefix");
    world.set("DORMOUSE_ENDPOINT", endpoint);
    world.set("AWS_ACCESS_KEY_ID", "AKIADORMOUSE");
    world.set("AWS_SECRET_ACCESS_KEY", SECRET);
    world.set("AWS_SESSION_TOKEN", TOKEN);
    world.set("AWS_REGION", "us-east-1");
    world
}

fn s3_error(status: u16, code: &str) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
    (status, vec![("content-type".into(), "application/xml".into())], body.into_bytes())
}

#[test]
fn a_store_that_is_gone_at_the_start_is_unreachable_and_no_secret_is_told() {
    // A port that nobody listens on.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let world = s3_world(endpoint);
    let ws = world.text("ws");
    for line in [
        &["mount", "--create", "w", &ws][..],
        &["mount", "--foreground", "--log-level=trace", "w", &ws],
        &["mount", "--read-only", "w", &ws],
        &["init"],
        &["workspaces"],
        &["--log-level=trace", "--log-format=json", "snapshots", "w"],
    ] {
        let ran = world.fails(line, 3, "");
        assert_no_secret(line, &ran);
    }
    assert!(!is_mounted(&world.ws()));
}

#[test]
fn refused_credentials_have_a_code_of_their_own() {
    let world = s3_world(http_server(|_| s3_error(403, "InvalidAccessKeyId")));
    let ws = world.text("ws");
    for line in [
        &["mount", "w", &ws][..],
        &["mount", "--foreground", "--log-level=trace", "w", &ws],
        &["init"],
        &["--log-level=trace,aws_sigv4=trace", "--log-format=json", "workspaces"],
    ] {
        // Requests were signed here, at the most talkative level.
        let ran = world.fails(line, 4, "credentials");
        assert_no_secret(line, &ran);
    }
}

#[test]
fn a_missing_bucket_is_not_found() {
    let world = s3_world(http_server(|_| s3_error(404, "NoSuchBucket")));
    let ws = world.text("ws");
    for line in [&["mount", "w", &ws][..], &["init"], &["workspaces"]] {
        world.fails(line, 5, "does not exist");
    }
}

#[test]
fn a_store_that_ignores_conditions_is_refused() {
    // Stores what it is given, whatever the conditions.
    let objects: Mutex<HashMap<String, (Vec<u8>, u64)>> = Mutex::new(HashMap::new());
    let world = s3_world(http_server(move |request| {
        let mut objects = objects.lock().unwrap();
        let path = request.path.split('?').next().unwrap_or("").to_owned();
        let etag = |version: u64| ("etag".to_owned(), format!("\"{version:032x}\""));
        match request.method.as_str() {
            "PUT" => {
                let version = objects.get(&path).map_or(1, |(_, version)| version + 1);
                objects.insert(path, (request.body.clone(), version));
                (200, vec![etag(version)], Vec::new())
            }
            "GET" | "HEAD" => match objects.get(&path) {
                Some((body, version)) => (200, vec![etag(*version)], body.clone()),
                None => s3_error(404, "NoSuchKey"),
            },
            _ => (204, Vec::new(), Vec::new()),
        }
    }));
    world.fails(&["init"], 11, "ignores conditional writes");
    // And nothing was begun there.
    world.fails(&["mount", "--create", "w", &world.text("ws")], 5, "dormouse init");
}

/// All files below a folder of the store.
fn objects(world: &World, folder: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&world.path("store").join(folder), &mut found);
    found.sort();
    found
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0xff], at).unwrap();
}

/// A hibernated workspace with one file of `big` incompressible bytes and one small one.
fn hibernated() -> World {
    let world = World::new();
    world.mount();
    let mut big = vec![0; 1 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut big);
    fs::write(world.ws().join("big"), big).unwrap();
    world.ok(&["checkpoint", "w"]);
    fs::write(world.ws().join("small"), "small").unwrap();
    world.hibernate();
    world.lose_caches();
    world
}

#[test]
fn a_damaged_head_snapshot_or_format_is_told_apart_from_a_newer_one() {
    let world = hibernated();
    let ws = world.text("ws");
    let head = world.path("store/workspaces/w/head");
    let format = world.path("store/format");
    let line = &["mount", "w", &ws];
    for path in [&head, &format] {
        let whole = fs::read(path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0xff;
        fs::write(path, &flipped).unwrap();
        world.fails(line, 9, "damaged");
        fs::write(path, &whole[..whole.len() / 2]).unwrap();
        world.fails(line, 9, "damaged");
        fs::write(path, b"").unwrap();
        world.fails(line, 9, "damaged");
        // Bytes 4 and 5 are the version.
        let mut newer = whole.clone();
        newer[4..6].copy_from_slice(&99_u16.to_le_bytes());
        fs::write(path, &newer).unwrap();
        world.fails(line, 9, "update it");
        fs::write(path, &whole).unwrap();
    }
    let snapshots = objects(&world, "workspaces/w/snapshots");
    // The newest one is in the head.
    let older = snapshots.first().unwrap();
    let whole = fs::read(older).unwrap();
    flip(older, whole.len() as u64 / 2);
    let id = older.file_name().unwrap().to_str().unwrap().rsplit_once('-').unwrap().1;
    world.fails(&["mount", "--at", id, "w", &ws], 9, "damaged");
    fs::write(older, &whole).unwrap();
    world.ok(line);
    assert_eq!(fs::read_to_string(world.ws().join("small")).unwrap(), "small");
}

/// What the daemon of the usual place has logged, of requests that it answered with an error.
fn logged(world: &World) -> String {
    let cache = PathBuf::from(world.status()["cache_dir"].as_str().unwrap());
    let log = fs::read_to_string(cache.join("dormouse.log")).unwrap();
    log.lines().filter(|line| line.contains("answered with EIO")).collect::<Vec<_>>().join("\n")
}

/// The pack's id, as an error names it.
fn id_of(pack: &Path) -> &str {
    pack.file_name().unwrap().to_str().unwrap()
}

#[test]
fn a_damaged_data_pack_is_eio_for_its_files_and_nothing_else_and_the_log_names_it() {
    let mut world = hibernated();
    world.set("DORMOUSE_HOT_SET_SIZE", "0");
    let packs = objects(&world, "packs");
    let big = packs.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let whole = fs::read(big).unwrap();
    let damage: [&dyn Fn(); 4] = [
        &|| (0..whole.len() as u64).step_by(50_000).for_each(|at| flip(big, at)),
        &|| {
            let mut garbage = whole.clone();
            blake3::Hasher::new_derive_key("garbage").finalize_xof().fill(&mut garbage[9..65_545]);
            fs::write(big, garbage).unwrap();
        },
        &|| fs::write(big, &whole[..1000]).unwrap(),
        &|| fs::remove_file(big).unwrap(),
    ];
    for apply in damage {
        apply();
        world.mount();
        let error = fs::read(world.ws().join("big")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        let log = logged(&world);
        assert!(log.contains(id_of(big)), "{log:?} does not name {big:?}");
        assert_eq!(fs::read_to_string(world.ws().join("small")).unwrap(), "small");
        fs::write(world.ws().join("new"), "work goes on").unwrap();
        fs::write(big, &whole).unwrap();
        assert_eq!(fs::metadata(world.ws().join("big")).unwrap().len(), 1 << 20);
        world.hibernate();
        world.lose_caches();
    }
    world.mount();
    assert!(fs::read(world.ws().join("big")).is_ok(), "it was repaired in the store");
}

/// Directories of a workspace with more records than one node holds; what each file contains
/// follows from its name.
fn many_directories() -> World {
    let mut world = World::new();
    world.set("DORMOUSE_HOT_SET_SIZE", "0");
    world.mount();
    for n in 0..3000 {
        let path = world.ws().join(format!("d{}/a-file-with-a-long-name-{n}", n / 100));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, n.to_string()).unwrap();
    }
    world.hibernate();
    world.lose_caches();
    world
}

/// Reads each directory and file; those that gave `EIO`, from the root.
fn unreadable(world: &World) -> Vec<String> {
    let mut failed = Vec::new();
    let mut is_read = |path: String, result: std::io::Result<()>| match result {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{path}");
            failed.push(path);
            false
        }
    };
    for d in 0..30 {
        let list = fs::read_dir(world.ws().join(format!("d{d}")))
            .and_then(|mut entries| entries.try_fold(0, |count, entry| entry.map(|_| count + 1)));
        if is_read(format!("/d{d}"), list.as_ref().map(drop).map_err(copied)) {
            assert_eq!(list.unwrap(), 100, "/d{d} is listed in part");
        }
        for n in d * 100..(d + 1) * 100 {
            let path = format!("/d{d}/a-file-with-a-long-name-{n}");
            let content = fs::read_to_string(world.ws().join(&path[1..]));
            if is_read(path.clone(), content.as_ref().map(drop).map_err(copied)) {
                assert_eq!(content.unwrap(), n.to_string(), "{path}");
            }
        }
    }
    failed
}

/// Where the leaves of a tree pack are in it, in the order of their keys.
fn leaves(pack: &[u8]) -> Vec<Range<usize>> {
    let index = decode_pack_index(pack, pack.len() as u64).unwrap();
    let places = index.entries.iter().map(|entry| {
        let from = entry.offset as usize;
        from..from + entry.len as usize
    });
    let is_leaf = |place: &Range<usize>| {
        let (_, plain) = decode_frame(&pack[place.clone()]).unwrap();
        decode_node(plain.into(), OWN_PACK).unwrap().level() == 0
    };
    places.filter(is_leaf).collect()
}

fn copied(error: &std::io::Error) -> std::io::Error {
    error.raw_os_error().map_or(std::io::ErrorKind::Other.into(), std::io::Error::from_raw_os_error)
}

#[test]
fn damaged_metadata_is_eio_for_no_more_than_verify_tells_and_the_log_names_its_pack() {
    let world = many_directories();
    let is_tree = |path: &&PathBuf| {
        matches!(decode_pack_header(&fs::read(path).unwrap()), Ok(PackKind::Tree))
    };
    let packs = objects(&world, "packs");
    let pack = packs.iter().filter(is_tree).max_by_key(|path| fs::metadata(path).unwrap().len());
    let pack = pack.unwrap();
    let whole = fs::read(pack).unwrap();
    // The head has copies of the nodes above and of the first leaves: what is damaged of those is
    // told by verify and missed by no reader.
    let leaves = leaves(&whole);
    assert!(leaves.len() > 10, "{} leaves", leaves.len());
    let mut garbage = whole.clone();
    let hit = leaves[leaves.len() / 3].start..leaves[leaves.len() / 2].end;
    blake3::Hasher::new().finalize_xof().fill(&mut garbage[hit]);
    let mut flipped = whole.clone();
    flipped[leaves[leaves.len() / 2].end - 1] ^= 4;
    for damaged in [garbage, flipped] {
        fs::write(pack, damaged).unwrap();
        let verdict = world.run(&["verify", "--json", "--paths", "100000", "w"]);
        assert_eq!(verdict.code, 9, "{verdict:?}");
        let problems = verdict.json()["problems"].clone();
        assert_eq!(problems.as_array().unwrap().len(), 1, "{problems}");
        assert!(problems[0]["object"].as_str().unwrap().ends_with(id_of(pack)), "{problems}");
        let affected = problems[0]["affected"].as_array().unwrap();
        let paths: Vec<&str> = affected
            .iter()
            .flat_map(|affected| affected["paths"].as_array().unwrap())
            .map(|path| path.as_str().unwrap())
            .collect();
        world.mount();
        let failed = unreadable(&world);
        let is_told = |path: &String| {
            let above = |told: &&str| path.strip_prefix(told.trim_end_matches('/'));
            // Not what lists them: names need no attributes.
            let hit = |told: &&str| {
                matches!(above(told).map(|rest| rest.bytes().next()), Some(None | Some(b'/')))
            };
            paths.iter().any(hit)
        };
        for path in &failed {
            assert!(is_told(path), "{path} is EIO and not among {paths:?}");
        }
        assert!(!failed.is_empty() && failed.len() < 3000, "{failed:?} of 3,030, {verdict:?}");
        let log = logged(&world);
        assert!(log.contains(id_of(pack)), "{log:?} does not name {pack:?}");
        fs::write(world.ws().join("new"), "work goes on").unwrap();
        fs::write(pack, &whole).unwrap();
        assert_eq!(unreadable(&world), Vec::<String>::new(), "it was repaired in the store");
        world.hibernate();
        world.lose_caches();
    }
}

#[test]
fn a_store_that_goes_away_while_running_is_eio_for_what_is_not_here_and_nothing_else() {
    let mut world = hibernated();
    world.set("DORMOUSE_HOT_SET_SIZE", "0");
    world.mount();
    assert_eq!(fs::read_to_string(world.ws().join("small")).unwrap(), "small");
    world.take_store_away();
    let error = fs::read(world.ws().join("big")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_eq!(fs::read_to_string(world.ws().join("small")).unwrap(), "small");
    fs::write(world.ws().join("new"), "local").unwrap();
    assert_eq!(fs::read_to_string(world.ws().join("new")).unwrap(), "local");
    world.fails(&["checkpoint", "w"], 3, "");
    world.put_store_back();
    assert_eq!(fs::read(world.ws().join("big")).unwrap().len(), 1 << 20);
    world.hibernate();
}
