//! Addresses of stores.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{RemoteError, key};

/// Longest prefix inside a bucket, in bytes: with [`super::KEY_LEN_MAX`] within S3's 1,024.
const PREFIX_LEN_MAX: usize = 255;

/// Where a store is. Holds no credentials, so that it can be printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `file:///absolute/path`: a directory. The path is taken as it stands, without `%` codes.
    Directory(PathBuf),
    /// `s3://bucket[/prefix]`.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// Folder inside it, without slashes at its ends; may be empty.
        prefix: String,
    },
    /// `mem:name`: this process's memory, shared by all that open the same name. For tests.
    Memory(String),
}

impl FromStr for StoreUrl {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<StoreUrl, RemoteError> {
        parse(text).map_err(|cause| RemoteError::BadUrl { url: redact(text), cause })
    }
}

fn parse(text: &str) -> Result<StoreUrl, String> {
    if let Some(path) = text.strip_prefix("file://") {
        return directory(path);
    }
    if let Some(rest) = text.strip_prefix("s3://") {
        return bucket(rest);
    }
    if let Some(name) = text.strip_prefix("mem:") {
        let plain = key::problem(name).is_none() && !name.contains('/');
        return if plain { Ok(StoreUrl::Memory(name.to_owned())) } else { Err(no("name")) };
    }
    Err("not a store address: use s3://BUCKET/PREFIX or file:///DIRECTORY".to_owned())
}

fn directory(path: &str) -> Result<StoreUrl, String> {
    let path = Path::new(path);
    if !path.is_absolute() {
        return Err("a directory is written with three slashes: file:///DIRECTORY".to_owned());
    }
    let is_plain =
        |part| matches!(part, std::path::Component::RootDir | std::path::Component::Normal(_));
    if path.as_os_str().as_encoded_bytes().contains(&0) || !path.components().all(is_plain) {
        return Err(no("directory"));
    }
    // Collected anew, it has one spelling: no double or trailing slashes.
    Ok(StoreUrl::Directory(path.components().collect()))
}

fn bucket(rest: &str) -> Result<StoreUrl, String> {
    if rest.contains('@') {
        return Err("credentials do not belong in the address; they come from the environment, a \
                    profile or the machine's role"
            .to_owned());
    }
    if rest.contains(['?', '#']) {
        return Err("settings such as the endpoint and region are options, not part of the \
                    address"
            .to_owned());
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() || bucket.contains(':') || key::problem(bucket).is_some() {
        return Err(no("bucket name"));
    }
    let prefix = prefix.trim_matches('/');
    if prefix.len() > PREFIX_LEN_MAX {
        return Err(format!("the prefix is longer than {PREFIX_LEN_MAX} bytes"));
    }
    if !prefix.is_empty()
        && let Some(cause) = key::problem(prefix)
    {
        return Err(format!("the prefix {prefix:?} is not usable: {cause}"));
    }
    Ok(StoreUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

fn no(what: &str) -> String {
    format!("this is no usable {what}")
}

/// The address without what could be a credential: user information and query.
pub(super) fn redact(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or("");
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}"),
        (None, Some((_, host))) => format!("***@{host}"),
        (_, None) => text.to_owned(),
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::Directory(path) => write!(f, "file://{}", path.display()),
            StoreUrl::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            StoreUrl::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            StoreUrl::Memory(name) => write!(f, "mem:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(text: &str) -> String {
        text.parse::<StoreUrl>().unwrap_err().to_string()
    }

    #[test]
    fn an_address_reads_back_what_it_prints() {
        for text in ["file:///srv/store", "s3://bucket", "s3://my-bucket/a/b", "mem:test"] {
            assert_eq!(text.parse::<StoreUrl>().unwrap().to_string(), text);
        }
        assert_eq!("s3://b/p/".parse::<StoreUrl>(), "s3://b/p".parse());
        assert_eq!("file:///a//b/".parse::<StoreUrl>(), "file:///a/b".parse());
    }

    #[test]
    fn a_malformed_address_says_what_to_write() {
        assert!(cause("http://host/x").contains("s3://BUCKET/PREFIX"));
        assert!(cause("file://relative/x").contains("file:///"));
        for bad in ["", "s3://", "s3:///x", "s3://a b", "s3://b/../c", "s3://b:80/x", "mem:a/b"] {
            assert!(bad.parse::<StoreUrl>().is_err(), "{bad}");
        }
        assert!("file:///a/../b".parse::<StoreUrl>().is_err());
    }

    #[test]
    fn a_secret_in_an_address_is_refused_and_not_repeated() {
        for text in ["s3://AKIA:hunter2@bucket/x", "s3://bucket/x?secret=hunter2", "a:hunter2@b"] {
            assert!(!cause(text).contains("hunter2"), "{}", cause(text));
        }
    }
}
