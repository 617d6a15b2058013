//! The S3 store against real servers. `scripts/test` starts them; by hand:
//!
//! ```text
//! . scripts/lib/setup.sh; . scripts/lib/test-servers.sh; start_servers; cargo test --release --test s3; stop_servers
//! ```
//!
//! Without servers these tests say that they were left out, unless `DORMOUSE_TEST_S3=required`.

// Clippy knows `#[test]` functions, but not the functions that they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
#![allow(missing_docs, reason = "nothing here is a library")]

mod credentials;
mod issuers;
mod outage;
mod proxy;
#[path = "../contract/suite.rs"]
mod suite;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dormouse::remote::{ConditionStyle, PutMode, Remote, RemoteError, RemoteOptions};
use dormouse::types::SystemClock;
use parking_lot::{RwLock, RwLockReadGuard};
use suite::Bench;

/// Held for reading by tests that need the gateway up, for writing by those that kill it.
pub static GATEWAY: RwLock<()> = RwLock::new(());

/// A server under test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Server {
    /// Ceph's gateway: a production server.
    Rgw,
    /// A test double that keeps the rules of conditional puts.
    Moto,
    /// A small server that does not.
    S3s,
}

impl Server {
    /// Its endpoint; none where it does not run and need not.
    pub fn endpoint(self) -> Option<String> {
        let (variable, needed) = match self {
            Server::Rgw => ("DORMOUSE_TEST_S3_ENDPOINT", true),
            Server::Moto => ("DORMOUSE_TEST_S3_MOTO", true),
            Server::S3s => ("DORMOUSE_TEST_S3_S3S", false),
        };
        let found = std::env::var(variable).ok();
        if found.is_none() {
            let required = std::env::var("DORMOUSE_TEST_S3").is_ok_and(|value| value == "required");
            assert!(!(required && needed), "{variable} is not set: {self:?} must run");
            eprintln!("LEFT OUT: {variable} is not set, {self:?} was not tested");
        }
        found
    }
}

/// Settings for a server on loopback.
pub fn options(endpoint: &str) -> RemoteOptions {
    RemoteOptions {
        endpoint: Some(endpoint.to_owned()),
        region: Some("us-east-1".to_owned()),
        deadline: Duration::from_secs(20),
        ..RemoteOptions::default()
    }
}

/// A client of this address.
pub fn open(options: &RemoteOptions, url: &str) -> Arc<Remote> {
    let clock = Arc::new(SystemClock::new());
    Remote::open(&url.parse().unwrap(), options, clock).unwrap()
}

/// A new bucket's name.
pub fn new_bucket(endpoint: &str) -> String {
    let number = RandomState::new().build_hasher().finish();
    let bucket = format!("dormouse-{number:016x}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .endpoint_url(endpoint)
            .region("us-east-1")
            .load()
            .await;
        let config = aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build();
        let client = aws_sdk_s3::Client::from_conf(config);
        client.create_bucket().bucket(&bucket).send().await.expect("the server makes a bucket");
    });
    bucket
}

/// The gateway, a new bucket in it, and the promise that nobody kills it meanwhile.
pub fn gateway() -> Option<(String, String, RwLockReadGuard<'static, ()>)> {
    let endpoint = Server::Rgw.endpoint()?;
    let guard = GATEWAY.read();
    let bucket = new_bucket(&endpoint);
    Some((endpoint, bucket, guard))
}

fn keeps_the_contract(endpoint: &str, style: ConditionStyle) {
    let bucket = new_bucket(endpoint);
    let options = options(endpoint);
    let first = open(&options, &format!("s3://{bucket}/some/prefix"));
    assert_eq!(first.probe_conditions(), Ok(style));
    assert_eq!(first.list("").unwrap(), Vec::new(), "the probe left objects");
    let open_one = || {
        let remote = open(&options, &format!("s3://{bucket}/some/prefix"));
        remote.set_condition_style(style);
        remote
    };
    let sibling = Some(open(&options, &format!("s3://{bucket}/some/pre")));
    suite::run(&Bench { open: &open_one, sibling, many: 1100 });
}

#[test]
fn ceph_keeps_the_contract_with_unquoted_conditions() {
    let Some((endpoint, _, _guard)) = gateway() else { return };
    keeps_the_contract(&endpoint, ConditionStyle::Unquoted);
}

#[test]
fn moto_keeps_the_contract_with_quoted_conditions() {
    let Some(endpoint) = Server::Moto.endpoint() else { return };
    keeps_the_contract(&endpoint, ConditionStyle::Quoted);
}

#[test]
fn a_server_whose_conditions_do_not_hold_in_a_race_is_refused() {
    let Some(endpoint) = Server::S3s.endpoint() else { return };
    let bucket = new_bucket(&endpoint);
    let remote = open(&options(&endpoint), &format!("s3://{bucket}"));
    let error = remote.probe_conditions().unwrap_err();
    assert!(matches!(error, RemoteError::NoConditions { .. }), "{error}");
}

#[test]
fn a_store_at_the_root_of_a_bucket_works() {
    let Some((endpoint, bucket, _guard)) = gateway() else { return };
    let remote = open(&options(&endpoint), &format!("s3://{bucket}"));
    remote.put("packs/one", Bytes::from_static(b"x"), PutMode::Create).unwrap();
    assert_eq!(remote.list("packs/").unwrap()[0].key, "packs/one");
}

#[test]
fn a_missing_bucket_is_named() {
    let Some((endpoint, _, _guard)) = gateway() else { return };
    let remote = open(&options(&endpoint), "s3://no-such-bucket-here/prefix");
    for error in [
        remote.get("head").unwrap_err(),
        remote.list("").unwrap_err(),
        remote.put("head", Bytes::new(), PutMode::Create).unwrap_err(),
        remote.probe_conditions().unwrap_err(),
    ] {
        assert!(matches!(error, RemoteError::NoStore { .. }), "{error}");
        assert!(error.to_string().contains("no-such-bucket-here"), "{error}");
    }
}

#[test]
fn objects_that_no_key_can_name_are_not_listed() {
    let Some((endpoint, bucket, _guard)) = gateway() else { return };
    let whole = open(&options(&endpoint), &format!("s3://{bucket}"));
    whole.put("here/one", Bytes::new(), PutMode::Any).unwrap();
    whole.put("here-too/one", Bytes::new(), PutMode::Any).unwrap();
    let here = open(&options(&endpoint), &format!("s3://{bucket}/here"));
    let keys: Vec<_> = here.list("").unwrap().into_iter().map(|meta| meta.key).collect();
    assert_eq!(keys, ["one"]);
}
