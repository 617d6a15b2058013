//! Where credentials come from, and what is said when they are wrong. The SDK reads them from
//! the process's environment, so each case is a child process.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use dormouse::remote::{PutMode, RemoteOptions};

use crate::{Server, gateway, open, options};

/// Set in a child: what it does.
const CHILD: &str = "DORMOUSE_S3_CHILD";

const SECRET: &str = "hunter2-is-not-to-be-printed";

/// The child's half: a put and some gets with the credentials of its environment.
#[test]
fn child_puts() {
    let Ok(child) = std::env::var(CHILD) else { return };
    let [endpoint, bucket, profile, times]: [&str; 4] =
        child.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let profile = (profile != "-").then(|| profile.to_owned());
    let deadline = Duration::from_secs(8);
    let options = RemoteOptions { profile, deadline, ..options(endpoint) };
    let remote = open(&options, &format!("s3://{bucket}"));
    for time in 0..times.parse().unwrap() {
        match remote.put(&format!("k{time}"), Bytes::from_static(b"x"), PutMode::Create) {
            Ok(_) => println!("STORED"),
            Err(error) => println!("FAILED {error:?} {error}"),
        }
    }
}

/// Runs a child that has nothing of our credentials but what `set` gives it. `what` is the
/// endpoint, the bucket, a profile or `-`, and how many puts.
pub fn child(what: &str, home: &Path, set: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "credentials::child_puts", "--nocapture"]);
    command.env_clear().env("HOME", home).env("AWS_EC2_METADATA_DISABLED", "true");
    command.env(CHILD, what).env("PATH", "/usr/bin:/bin");
    command.envs(set.iter().copied());
    let output = command.output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    assert!(!said.contains(SECRET), "a secret was printed: {said}");
    said
}

#[test]
fn wrong_credentials_are_denied_and_not_repeated() {
    let Some((endpoint, bucket, _guard)) = gateway() else { return };
    let home = tempfile::tempdir().unwrap();
    for user in ["testkey", "nobody"] {
        let set = [("AWS_ACCESS_KEY_ID", user), ("AWS_SECRET_ACCESS_KEY", SECRET)];
        let said = child(&format!("{endpoint} {bucket} - 1"), home.path(), &set);
        assert!(said.contains("FAILED Denied") && said.contains("403"), "{user}: {said}");
    }
}

#[test]
fn wrong_credentials_are_denied_by_s3s() {
    let Some(endpoint) = Server::S3s.endpoint() else { return };
    let home = tempfile::tempdir().unwrap();
    let set = [("AWS_ACCESS_KEY_ID", "testkey"), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let said = child(&format!("{endpoint} bucket - 1"), home.path(), &set);
    assert!(said.contains("FAILED Denied"), "{said}");
}

#[test]
fn missing_credentials_say_where_they_were_looked_for() {
    let Some((endpoint, bucket, _guard)) = gateway() else { return };
    let home = tempfile::tempdir().unwrap();
    let said = child(&format!("{endpoint} {bucket} - 1"), home.path(), &[]);
    assert!(said.contains("FAILED Denied") && said.contains("environment"), "{said}");
}

#[test]
fn a_profile_is_used() {
    let Some((endpoint, bucket, _guard)) = gateway() else { return };
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    let text = "[team]\naws_access_key_id = testkey\naws_secret_access_key = testsecret\n";
    std::fs::write(home.path().join(".aws/credentials"), text).unwrap();
    let said = child(&format!("{endpoint} {bucket} team 1"), home.path(), &[]);
    assert!(said.contains("STORED"), "{said}");
    let said = child(&format!("{endpoint} {bucket} other 1"), home.path(), &[]);
    assert!(said.contains("FAILED"), "{said}");
}

#[test]
fn credentials_of_a_process_are_refreshed_while_running() {
    let Some((endpoint, bucket, _guard)) = gateway() else { return };
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    let (log, process) = (home.path().join("log"), home.path().join("process"));
    // Hardly issued, they are about to expire: each request asks again.
    let text = format!(
        "#!/bin/sh\necho asked >> {}\nsoon=$(date -u -d '+5 seconds' +%Y-%m-%dT%H:%M:%SZ)\n\
         echo '{{\"Version\": 1, \"AccessKeyId\": \"testkey\", \"SecretAccessKey\": \
         \"testsecret\", \"Expiration\": \"'$soon'\"}}'\n",
        log.display()
    );
    std::fs::write(&process, text).unwrap();
    let text = format!("[profile team]\ncredential_process = sh {}\n", process.display());
    std::fs::write(home.path().join(".aws/config"), text).unwrap();
    let said = child(&format!("{endpoint} {bucket} team 3"), home.path(), &[]);
    assert_eq!(said.matches("STORED").count(), 3, "{said}");
    let asked = std::fs::read_to_string(log).unwrap().lines().count();
    assert!(asked >= 2, "asked {asked} times for credentials that expire at once");
}

/// A machine that slept, or whose clock was never set, signs at a time that the store refuses. The
/// store's own time stands in that very refusal.
#[test]
fn a_machine_whose_clock_is_wrong_signs_by_the_store_s() {
    let Some((endpoint, bucket, _guard)) = gateway() else { return };
    let home = tempfile::tempdir().unwrap();
    let (library, told) = (home.path().join("shim.so"), home.path().join("shim"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/torture.d/shim.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
    assert!(compiler.status().unwrap().success());
    for hours in [-30_i64, 30] {
        std::fs::write(&told, [(hours * 3600).to_le_bytes(), 0_i64.to_le_bytes()].concat())
            .unwrap();
        let set = [
            ("AWS_ACCESS_KEY_ID", "testkey"),
            ("AWS_SECRET_ACCESS_KEY", "testsecret"),
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("DORMOUSE_SHIM", told.to_str().unwrap()),
        ];
        let said = child(&format!("{endpoint} {bucket} - 2"), home.path(), &set);
        assert_eq!(said.matches("STORED").count(), if hours < 0 { 2 } else { 0 }, "{said}");
        // The second time the objects are there, which it takes a good signature to be told.
        assert_eq!(
            said.matches("FAILED Conflict").count(),
            if hours < 0 { 0 } else { 2 },
            "{said}"
        );
    }
}
