//! Broken lines, killed servers, damage on the way.

use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use dormouse::remote::{ConditionStyle, PutMode, RemoteError};

use crate::credentials::child;
use crate::proxy::{Break, Proxy};
use crate::suite::pattern;
use crate::{GATEWAY, Server, gateway, new_bucket, open, options};

#[test]
fn a_lost_answer_after_an_applied_put_is_ambiguous_if_conditional_and_else_repeated() {
    let Some((endpoint, bucket, _guard)) = gateway() else { return };
    let proxy = Proxy::start(&endpoint);
    let remote = open(&options(&proxy.endpoint), &format!("s3://{bucket}"));
    remote.set_condition_style(ConditionStyle::Unquoted);

    proxy.arm(Break::DropAnswer, "created");
    let error = remote.put("created", Bytes::from_static(b"x"), PutMode::Create).unwrap_err();
    assert!(matches!(error, RemoteError::Ambiguous { .. }), "{error}");
    assert!(proxy.fired());
    let object = remote.get("created").unwrap();
    assert_eq!(object.bytes, "x", "it was applied");

    proxy.arm(Break::DropAnswer, "created");
    let swap = PutMode::Swap(object.meta.version);
    let error = remote.put("created", Bytes::from_static(b"y"), swap).unwrap_err();
    assert!(matches!(error, RemoteError::Ambiguous { .. }), "{error}");
    assert_eq!(remote.get("created").unwrap().bytes, "y", "it was applied");

    proxy.arm(Break::DropAnswer, "repeated");
    remote.put("repeated", Bytes::from_static(b"z"), PutMode::Any).unwrap();
    assert!(proxy.fired());
    assert_eq!(remote.stats().retries, 1);
}

#[test]
fn an_upload_that_is_cut_off_is_repeated_and_leaves_nothing_half_done() {
    let Some((endpoint, bucket, _guard)) = gateway() else { return };
    let proxy = Proxy::start(&endpoint);
    let remote = open(&options(&proxy.endpoint), &format!("s3://{bucket}"));
    let body = pattern(3_000_000);
    proxy.arm(Break::CutBody, "pack");
    remote.put("pack", body.clone(), PutMode::Any).unwrap();
    assert!(proxy.fired() && remote.stats().retries >= 1);
    assert!(remote.get("pack").unwrap().bytes == body);

    proxy.arm(Break::CutBody, "swapped");
    let error = remote.put("swapped", body, PutMode::Create).unwrap_err();
    assert!(matches!(error, RemoteError::Ambiguous { .. }), "{error}");
    assert!(matches!(remote.get("swapped"), Err(RemoteError::Absent { .. })), "half an object");
}

#[test]
fn a_body_damaged_on_its_way_is_refused_by_the_server_and_sent_again() {
    let Some((endpoint, bucket, _guard)) = gateway() else { return };
    let proxy = Proxy::start(&endpoint);
    let remote = open(&options(&proxy.endpoint), &format!("s3://{bucket}"));
    let body = pattern(200_000);
    for (key, mode) in [("pack", PutMode::Any), ("head", PutMode::Create)] {
        proxy.arm(Break::FlipBit, key);
        let before = remote.stats().retries;
        remote.put(key, body.clone(), mode).unwrap();
        assert!(proxy.fired());
        assert_eq!(remote.stats().retries, before + 1, "{key}: the damage was not noticed");
        assert!(remote.get(key).unwrap().bytes == body, "{key}");
    }
}

#[test]
fn a_server_that_is_not_there_is_unavailable_and_nothing_is_in_doubt() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let home = tempfile::tempdir().unwrap();
    let set = [("AWS_ACCESS_KEY_ID", "testkey"), ("AWS_SECRET_ACCESS_KEY", "testsecret")];
    let said = child(&format!("http://127.0.0.1:{port} bucket - 1"), home.path(), &set);
    // Not `Ambiguous`: a conditional put that never left the machine was not applied.
    assert!(said.contains("FAILED Unavailable") && said.contains("refused"), "{said}");
}

fn script(command: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/s3-server");
    let done = Command::new(script).arg(command).status().unwrap();
    assert!(done.success(), "s3-server {command}");
}

#[test]
fn a_server_killed_during_puts_costs_retries_only() {
    let Some(endpoint) = Server::Rgw.endpoint() else { return };
    // The script must know which of the machine's gateways is ours.
    if std::env::var_os("DORMOUSE_S3_DATA").is_none() {
        eprintln!("LEFT OUT: DORMOUSE_S3_DATA is not set, the gateway was not killed");
        assert!(std::env::var_os("DORMOUSE_TEST_S3").is_none(), "it is required");
        return;
    }
    let _guard = GATEWAY.write();
    let bucket = new_bucket(&endpoint);
    let remote = open(&options(&endpoint), &format!("s3://{bucket}"));
    let key = |number: usize| format!("packs/{number}");
    let body = |number: usize| pattern(8_000_000 + number);
    let uploads: Vec<_> =
        (0..12).map(|number| remote.submit_put(&key(number), body(number), PutMode::Any)).collect();
    thread::sleep(Duration::from_millis(60));
    script("kill");
    let doubtful = remote.submit_put("head", Bytes::from_static(b"x"), PutMode::Create);
    thread::sleep(Duration::from_millis(300));
    script("revive");
    for upload in uploads {
        upload.wait().unwrap();
    }
    assert!(remote.stats().retries > 0, "the server was not gone");
    for number in 0..12 {
        assert!(remote.get(&key(number)).unwrap().bytes == body(number), "{number}");
    }
    match doubtful.wait() {
        // Nothing was sent to the dead server: it was sent again, to the living one.
        Ok(_) => assert_eq!(remote.get("head").unwrap().bytes, "x"),
        Err(error) => assert!(matches!(error, RemoteError::Ambiguous { .. }), "{error}"),
    }
}
