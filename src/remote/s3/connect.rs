//! Builds the SDK's client.

use std::time::Duration;

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::StalledStreamProtectionConfig;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder, RequestChecksumCalculation, ResponseChecksumValidation};

use super::http::LazyTls;
use crate::remote::url::redact;
use crate::remote::{RemoteError, RemoteOptions};

/// A server that does not take a connection within this is tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The region of servers that have none.
const REGION_DEFAULT: &str = "us-east-1";

/// A client with the standard credential chain, which refreshes what expires while running.
/// Reads the environment and the shared configuration files.
pub(super) async fn connect(options: &RemoteOptions) -> Client {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(LazyTls::client())
        .region(region(options));
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    let shared = loader.load().await;
    let path_style = options.path_style.unwrap_or(shared.endpoint_url().is_some());
    // Set for S3 alone: the credential chain keeps the SDK's own retries and timeouts.
    let config = Builder::from(&shared)
        .force_path_style(path_style)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    Client::from_conf(config)
}

/// As given, else of the environment, else of the profile. Only without an endpoint the machine
/// is asked as well: elsewhere than on EC2 that takes seconds to fail.
fn region(options: &RemoteOptions) -> RegionProviderChain {
    let given = options.region.clone().map(Region::new);
    let mut profile = ProfileFileRegionProvider::builder();
    if let Some(name) = &options.profile {
        profile = profile.profile_name(name);
    }
    let known = RegionProviderChain::first_try(given)
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(profile.build());
    if options.endpoint.is_some() {
        known.or_else(REGION_DEFAULT)
    } else {
        known.or_default_provider().or_else(REGION_DEFAULT)
    }
}

/// Accepts `http(s)://host[:port][/path]`.
pub(super) fn check_endpoint(endpoint: &str) -> Result<(), RemoteError> {
    let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    let cause = match rest {
        None => "an endpoint begins with http:// or https://",
        Some(rest) if rest.contains('@') => "credentials do not belong in an endpoint",
        Some(rest) if rest.contains(['?', '#']) || !rest.bytes().all(|b| b.is_ascii_graphic()) => {
            "an endpoint is a plain address without settings"
        }
        Some(rest) if rest.is_empty() || rest.starts_with(['/', ':']) => "the host is missing",
        Some(_) => return Ok(()),
    };
    Err(RemoteError::BadUrl { url: redact(endpoint), cause: cause.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_plain_http_address() {
        for good in ["http://127.0.0.1:8000", "https://s3.example.org", "http://h/path"] {
            assert_eq!(check_endpoint(good), Ok(()), "{good}");
        }
        for bad in ["", "ftp://h", "127.0.0.1:8000", "http://", "http:///x", "http://a b"] {
            assert!(check_endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_in_an_endpoint_is_not_repeated() {
        for bad in ["http://user:hunter2@host", "https://host/?key=hunter2"] {
            let message = check_endpoint(bad).unwrap_err().to_string();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
