//! What scripts and other programs rely on: JSON, metrics, the control socket, mount(8),
//! configuration, documents.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::support::{World, dormouse, http_server, is_mounted};

/// Of `status` and `mount` (docs/cli.md).
const STATUS_KEYS: &[&str] = &[
    "mountpoint",
    "pid",
    "version",
    "store_url",
    "cache_dir",
    "uptime_secs",
    "fuse_requests",
    "promotions",
    "workspace",
    "store_id",
    "state",
    "read_only",
    "epoch",
    "fenced",
    "lease",
    "snapshot",
    "snapshot_created",
    "inodes",
    "bytes",
    "unsynced",
    "hibernate_estimate_secs",
    "upload_bytes_per_sec",
    "local",
    "store",
    "seals",
    "progress",
    "chunks",
    "ahead",
];

/// Of `hibernate`, `checkpoint` and `unmount` (docs/cli.md).
const RECEIPT_KEYS: &[&str] = &[
    "workspace",
    "snapshot",
    "changed",
    "reason",
    "created",
    "epoch",
    "released",
    "inodes",
    "bytes",
    "data_packs",
    "tree_packs",
    "bytes_uploaded",
    "chunks_added",
    "chunks_deduplicated",
    "leaves_written",
    "packs_confirmed",
    "seconds",
    "requests",
];

/// Every documented key of an object is there.
fn assert_keys(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value.get(key).is_some(), "no {key} in {value:#}");
    }
}

#[test]
fn json_has_the_documented_keys() {
    let world = World::bare();
    let made = world.ok(&["init", "--json"]).json();
    assert_keys(&made, &["store", "store_id", "created"]);
    assert_eq!(made["created"], true);
    assert_eq!(world.ok(&["init", "--json"]).json()["created"], false);
    let mounted = world.ok(&["mount", "--json", "--create", "w", &world.text("ws")]).json();
    assert_keys(&mounted, STATUS_KEYS);
    fs::write(world.ws().join("f"), "x").unwrap();
    let status = world.status();
    assert_keys(&status, STATUS_KEYS);
    assert_keys(
        &status["unsynced"],
        &["changed", "bytes", "files", "age_secs", "bytes_max", "age_secs_max", "throttled"],
    );
    assert_keys(&status["store"], &["gets", "puts", "stats", "bytes_in", "bytes_out"]);
    assert_eq!(status["unsynced"]["changed"], true);
    assert_eq!(status["local"]["budget"], 512 << 20);
    let all = world.ok(&["status", "--json"]).json();
    assert_keys(&all["mounts"][0], STATUS_KEYS);
    assert_keys(&world.ok(&["checkpoint", "--json", "w"]).json(), RECEIPT_KEYS);
    assert_keys(&world.hibernate(), RECEIPT_KEYS);
    let workspaces = world.ok(&["workspaces", "--json"]).json();
    let keys =
        ["name", "snapshot", "sealed_at", "epoch", "holder", "lease_expired", "inodes", "bytes"];
    assert_keys(&workspaces["workspaces"][0], &keys);
    assert_eq!(workspaces["workspaces"][0]["holder"], Value::Null);
    let snapshots = world.ok(&["snapshots", "--json", "w"]).json();
    let keys = ["id", "created", "reason", "inodes", "bytes", "bytes_added", "parents", "newest"];
    assert_keys(&snapshots["snapshots"][0], &keys);
    assert_eq!(world.ok(&["status", "--json"]).json()["mounts"], serde_json::json!([]));
    let failed = world.run(&["status", "--json", "w"]);
    let said: Value = serde_json::from_str(&failed.err).unwrap();
    assert_eq!((failed.code, &said["error"]["name"]), (5, &"not-found".into()));
}

#[test]
fn people_get_text_and_metrics_are_metrics() {
    let world = World::new();
    assert!(world.ok(&["status"]).out.contains("nothing is mounted"));
    world.mount();
    fs::write(world.ws().join("f"), "x").unwrap();
    let status = world.ok(&["status", "w"]).out;
    assert!(status.contains("unsynced") && status.contains("512.0 MiB"), "{status}");
    let metrics = world.ok(&["status", "--metrics", "w"]).out;
    assert!(metrics.contains("dormouse_inodes{workspace=\"w\"} 2\n"), "{metrics}");
    assert!(world.ok(&["checkpoint", "w"]).out.contains("sealed snapshot"));
    assert!(world.ok(&["workspaces"]).out.contains("NAME"));
    assert!(world.ok(&["snapshots", "w"]).out.contains("newest"));
    assert!(world.ok(&["hibernate", "w"]).out.contains("everything is in the store"));
}

#[test]
fn the_control_socket_is_the_owner_s_and_speaks_plain_http() {
    let world = World::new();
    world.mount();
    let run = fs::metadata(world.path("run")).unwrap().permissions().mode();
    assert_eq!(run & 0o777, 0o700);
    let entries = fs::read_dir(world.path("run")).unwrap();
    let socket = entries
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|it| it == "sock"))
        .unwrap();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let curl = |args: &[&str]| {
        let line = [&["-sS", "--unix-socket", socket.to_str().unwrap()], args].concat();
        let ran = world.command(Path::new("curl"), &line).output().unwrap();
        String::from_utf8(ran.stdout).unwrap()
    };
    let status: Value = serde_json::from_str(&curl(&["http://d/v1/status"])).unwrap();
    assert_eq!(status["workspace"], "w");
    let answer = curl(&["-X", "POST", "http://d/v1/checkpoint"]);
    let last: Value = serde_json::from_str(answer.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "done", "{answer}");
    // What is in the store too can be dropped here, and is fetched again.
    let content = vec![7; 5_000];
    fs::write(world.ws().join("file"), &content).unwrap();
    curl(&["-X", "POST", "http://d/v1/checkpoint"]);
    let evict = || -> u64 {
        let answer: Value =
            serde_json::from_str(&curl(&["-X", "POST", "http://d/v1/evict"])).unwrap();
        assert_eq!(answer["event"], "done", "{answer}");
        answer["receipt"]["evicted_bytes"].as_u64().unwrap()
    };
    assert!(evict() > 0);
    assert_eq!(evict(), 0, "the cache is empty");
    assert_eq!(fs::read(world.ws().join("file")).unwrap(), content);
    assert!(curl(&["http://d/metrics"]).ends_with("# EOF\n"));
}

#[test]
fn mount_8_mounts_by_the_helper_s_name() {
    let world = World::new();
    let helper = world.path("mount.dormouse");
    std::os::unix::fs::symlink(dormouse(), &helper).unwrap();
    let ws = world.text("ws");
    let run = |args: &[&str]| world.command(&helper, args).output().unwrap();
    let bad = run(&["w", &ws, "-o", "rw,cachesize=1G"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("unknown mount option \"cachesize\""));
    assert!(run(&["w", &ws, "-f", "-o", "create"]).status.success());
    assert!(!is_mounted(&world.ws()), "-f only checks");
    let store = format!("store=file://{}", world.text("store"));
    let options = format!("rw,nosuid,_netdev,create,cache_size=256M,{store}");
    let good = run(&["w", &ws, "-o", &options]);
    assert!(good.status.success(), "{good:?}");
    assert_eq!(world.status()["local"]["budget"], 256 << 20);
    let table = fs::read_to_string("/proc/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(&ws)).unwrap();
    assert!(line.starts_with(&format!("w {ws} fuse.dormouse ")), "{line}");
    assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let mut world = World::new();
    let text = "[mount]\ncache-size = \"200M\"\ncreate = true\nlease-ttl = \"5m\"\n\
                [log]\nlevel = \"debug\"\nformat = \"json\"\n";
    fs::write(world.path("c.toml"), text).unwrap();
    world.set("DORMOUSE_CONFIG", world.text("c.toml"));
    world.set("DORMOUSE_CACHE_SIZE", "300M");
    world.ok(&["mount", "w", &world.text("ws")]);
    let status = world.status();
    assert_eq!(status["local"]["budget"], 300 << 20);
    assert_eq!(status["lease"]["ttl_secs"], 300);
    world.hibernate();
    world.ok(&["mount", "--cache-size=400M", "--lease-ttl=1m", "w", &world.text("ws")]);
    let status = world.status();
    assert_eq!(status["local"]["budget"], 400 << 20);
    assert_eq!(status["lease"]["ttl_secs"], 60);
    let log = Path::new(status["cache_dir"].as_str().unwrap()).join("dormouse.log");
    let log = fs::read_to_string(log).unwrap();
    // The daemon goes on: the last line may be only half there.
    let (whole, _) = log.rsplit_once('\n').unwrap();
    for line in whole.lines() {
        let line: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_keys(&line, &["timestamp", "level", "fields"]);
    }
    assert!(log.contains("\"ready\""), "{log}");
}

#[test]
fn a_mount_that_nobody_waits_for_does_not_appear() {
    // A store that takes its time: the starter is killed meanwhile.
    let mut world = World::bare();
    world.set("DORMOUSE_STORE", "s3://bucket/prefix");
    world.set("AWS_ACCESS_KEY_ID", "a");
    world.set("AWS_SECRET_ACCESS_KEY", "b");
    world.set(
        "DORMOUSE_ENDPOINT",
        http_server(|_| {
            std::thread::sleep(std::time::Duration::from_secs(1));
            (503, Vec::new(), Vec::new())
        }),
    );
    let line = ["mount", "--create", "w", &world.text("ws")];
    let mut starter = world.command(dormouse(), &line).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    starter.kill().unwrap();
    starter.wait().unwrap();
    let ours = |entry: &fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let place = world.text("ws");
        line.windows(place.len()).any(|part| part == place.as_bytes())
    };
    crate::support::wait_for("the daemon's end", || {
        !fs::read_dir("/proc").unwrap().flatten().any(|entry| ours(&entry))
    });
    assert!(!is_mounted(&world.ws()));
}

#[test]
fn documents_are_made_by_the_binary() {
    let world = World::bare();
    for shell in ["bash", "zsh", "fish"] {
        assert!(world.ok(&["completions", shell]).out.contains("hibernate"), "{shell}");
    }
    assert!(world.ok(&["man"]).out.contains("EXIT STATUS"));
    world.ok(&["man", "--out", &world.text("man")]);
    for page in ["dormouse", "dormouse-mount", "dormouse-hibernate", "dormouse-status"] {
        let text = fs::read_to_string(world.path("man").join(format!("{page}.1"))).unwrap();
        assert!(text.contains("Examples"), "{page}");
    }
    let codes = world.ok(&["exit-codes", "--json"]).json();
    assert_eq!(codes.as_array().unwrap().len(), 14);
    for command in ["init", "mount", "hibernate", "status", "verify"] {
        let help = world.ok(&[command, "--help"]).out;
        assert!(help.contains("Examples:"), "{command}");
    }
    assert!(world.ok(&["help", "exit-codes"]).out.contains("lease-held"));
    assert!(world.ok(&["--version"]).out.starts_with("dormouse "));
}

#[test]
fn without_xattr_there_are_none_and_files_keep_theirs() {
    let world = World::new();
    world.mount();
    let attribute = |args: &[&str]| {
        let file = world.ws().join("f");
        let line = [args, &[file.to_str().unwrap()]].concat();
        let program = if args[0] == "-n" { "setfattr" } else { "getfattr" };
        let ran = world.command(Path::new(program), &line).output().unwrap();
        String::from_utf8(ran.stdout).unwrap() + &String::from_utf8(ran.stderr).unwrap()
    };
    fs::write(world.ws().join("f"), "x").unwrap();
    assert_eq!(attribute(&["-n", "user.a", "-v", "kept"]), "");
    world.hibernate();
    world.ok(&["mount", "--no-xattr", "w", &world.text("ws")]);
    let refused = attribute(&["-n", "user.b", "-v", "x"]);
    assert!(refused.contains("not supported"), "{refused}");
    world.hibernate();
    world.mount();
    assert!(attribute(&["--dump"]).contains("user.a=\"kept\""));
}
