//! Settings of a store's client.

use std::time::Duration;

/// Settings of a store's client. Addresses may not hold credentials: those come from the
/// standard chain (environment, profile, web identity, process, instance metadata).
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Endpoint instead of AWS's own.
    pub endpoint: Option<String>,
    /// Region; by default the standard chain's, else `us-east-1` where an endpoint is given.
    pub region: Option<String>,
    /// `http://host/bucket/key` rather than `http://bucket.host/key`. Default: with an endpoint.
    pub path_style: Option<bool>,
    /// Profile of the shared AWS configuration.
    pub profile: Option<String>,
    /// A request, its retries included, fails after this long. A put's last attempt gets a second
    /// more per 128 KiB, and its time starts when the upload limit lets it pass; a listing gets ten
    /// times as long.
    pub deadline: Duration,
    /// One attempt of a request is given up after this long, plus a second per 128 KiB.
    pub attempt_timeout: Duration,
    /// Requests at once; at least 1. Three quarters of them at most are background's.
    pub concurrency_max: usize,
    /// Upload limit, bytes per second; 0: none. Bodies up to 64 KiB are counted but do not wait.
    pub upload_bytes_per_sec_max: u64,
}

impl Default for RemoteOptions {
    fn default() -> RemoteOptions {
        RemoteOptions {
            endpoint: None,
            region: None,
            path_style: None,
            profile: None,
            deadline: Duration::from_secs(30),
            attempt_timeout: Duration::from_secs(10),
            concurrency_max: 32,
            upload_bytes_per_sec_max: 0,
        }
    }
}
