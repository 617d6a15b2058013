//! A store in an S3 bucket, through the AWS SDK.
//!
//! The SDK's own retries and checksum trailers are off: ours decide about retries, and not every
//! server takes the trailers. Instead each body is sent with its MD5, which AWS, Ceph and most
//! others check, and the ETag that comes back is compared where the server's ETags are MD5s.

mod answer;
mod connect;
mod error;
mod http;

use std::fmt::Write;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use md5::{Digest, Md5};
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::answer::DateTap;
use self::error::{Asked, Failure};
use super::store::clamp;
use super::{ConditionStyle, Object, ObjectMeta, ObjectStore, PutMode};
use super::{RemoteError, RemoteOptions, Stored, Version, key};

/// Bodies over this are hashed on a thread that may block.
const HASH_INLINE_BYTES_MAX: usize = 256 * 1024;

/// Pages of one listing: 100 million objects.
const LIST_PAGES_MAX: usize = 100_000;

/// A refused request is signed anew so often: with other credentials, then by the store's time.
const RESIGNED_MAX: u32 = 2;

/// Credentials that were just looked up are not looked up again within this, however many requests
/// are refused: an external process that gives them is not run in a loop.
const RENEW_PAUSE: Duration = Duration::from_secs(1);

/// What is known of a server's ETags.
const ETAG_UNKNOWN: u8 = 0;
const ETAG_IS_MD5: u8 = 1;
const ETAG_IS_OPAQUE: u8 = 2;

/// A store in a bucket. The client is made, and credentials are looked for, at the first request.
#[derive(Debug)]
pub struct S3Store {
    bucket: String,
    /// Empty, or ends with a slash.
    prefix: String,
    options: RemoteOptions,
    client: Mutex<Option<Connected>>,
    style: AtomicU8,
    etags: AtomicU8,
}

/// A client with the credentials that were found when it was made.
#[derive(Debug, Clone)]
struct Connected {
    client: Client,
    /// Counts the clients of this store.
    number: u64,
    /// When it took the place of one whose credentials were refused.
    renewed_at: Option<Instant>,
}

impl S3Store {
    /// The store in this bucket under this prefix. Makes no request.
    pub fn new(
        bucket: &str,
        prefix: &str,
        options: &RemoteOptions,
    ) -> Result<S3Store, RemoteError> {
        if let Some(endpoint) = &options.endpoint {
            connect::check_endpoint(endpoint)?;
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(S3Store {
            bucket: bucket.to_owned(),
            prefix,
            options: options.clone(),
            client: Mutex::default(),
            style: AtomicU8::new(ConditionStyle::Quoted as u8),
            etags: AtomicU8::new(ETAG_UNKNOWN),
        })
    }

    async fn client(&self) -> Connected {
        let mut client = self.client.lock().await;
        match client.as_ref() {
            Some(connected) => connected.clone(),
            None => {
                let first = connect::connect(&self.options).await;
                client.insert(Connected { client: first, number: 0, renewed_at: None }).clone()
            }
        }
    }

    /// A client with credentials newer than those of `refused`; none if they are as new as can be.
    /// The SDK itself renews them by the time of expiry that they came with, and only then: keys
    /// that were revoked or exchanged earlier, or whose time a wrong clock misjudges, it would
    /// keep.
    async fn renewed(&self, refused: &Connected) -> Option<Connected> {
        let mut client = self.client.lock().await;
        if let Some(newer) = client.as_ref().filter(|current| current.number > refused.number) {
            return Some(newer.clone());
        }
        if refused.renewed_at.is_some_and(|then| then.elapsed() < RENEW_PAUSE) {
            return None;
        }
        tracing::info!("the store refused the credentials: looking for new ones");
        let newer = Connected {
            client: connect::connect(&self.options).await,
            number: refused.number + 1,
            renewed_at: Some(Instant::now()),
        };
        Some(client.insert(newer).clone())
    }

    /// Makes a request, and makes it again where it was refused, and so not carried out, for a
    /// reason that may be over by then.
    async fn signed<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, RemoteError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut connected = self.client().await;
        for _ in 0..RESIGNED_MAX {
            match request(connected.client.clone()).await {
                // The SDK has learnt the store's time from this very answer.
                Err(Failure::Clock(_)) => {}
                Err(Failure::Credentials(refusal)) => match self.renewed(&connected).await {
                    Some(newer) => connected = newer,
                    None => return Err(refusal),
                },
                Err(Failure::Unsaid(_)) => {
                    if let Some(newer) = self.renewed(&connected).await {
                        connected = newer;
                    }
                }
                answer => return answer.map_err(Failure::into_error),
            }
        }
        request(connected.client).await.map_err(Failure::into_error)
    }

    fn asked<'a>(&'a self, key: &'a str, mode: &'a PutMode) -> Asked<'a> {
        Asked { bucket: &self.bucket, key, mode }
    }

    fn full_key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// An ETag as this server wants it in `If-Match`.
    fn condition(&self, Version(etag): &Version) -> String {
        match ConditionStyle::from_u8(self.style.load(Relaxed)) {
            Some(ConditionStyle::Unquoted) => etag.clone(),
            Some(ConditionStyle::Quoted) | None => format!("\"{etag}\""),
        }
    }

    /// Compares the ETag of a put with the MD5 of its body, where that means something: the
    /// first put shows whether this server's ETags are MD5s (with some encryptions they are not).
    fn check_etag(&self, key: &str, etag: &str, md5: [u8; 16]) -> Result<(), RemoteError> {
        let same = etag.eq_ignore_ascii_case(&hex(md5));
        let found = if same { ETAG_IS_MD5 } else { ETAG_IS_OPAQUE };
        let known = self
            .etags
            .compare_exchange(ETAG_UNKNOWN, found, Relaxed, Relaxed)
            .unwrap_or_else(|known| known);
        if known == ETAG_IS_MD5 && !same {
            let cause = "the store acknowledged other bytes than were sent".to_owned();
            return Err(RemoteError::Corrupt { key: key.to_owned(), cause });
        }
        Ok(())
    }

    /// GET of a range that a server may answer: not empty.
    async fn get_some(
        &self,
        client: Client,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<Option<Object>, Failure> {
        let header = range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let date = DateTap::default();
        let request = client.get_object();
        let request = request.bucket(&self.bucket).key(self.full_key(key)).set_range(header);
        match request.customize().interceptor(date.clone()).send().await {
            Ok(output) => Ok(Some(answer::object(key, output, range, &date).await?)),
            Err(error) if error::status(&error) == Some(416) => Ok(None),
            Err(error) => Err(self.asked(key, &PutMode::Any).classify(&error)),
        }
    }

    async fn page(
        &self,
        client: Client,
        prefix: &str,
        token: Option<String>,
    ) -> Result<(ListObjectsV2Output, DateTap), Failure> {
        let date = DateTap::default();
        let request = client.list_objects_v2().bucket(&self.bucket);
        let request = request.prefix(self.full_key(prefix)).set_continuation_token(token);
        let page = request.customize().interceptor(date.clone()).send().await;
        let page = page.map_err(|error| self.asked(prefix, &PutMode::Any).classify(&error))?;
        Ok((page, date))
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Object, RemoteError> {
        let is_empty = range.as_ref().is_some_and(|range| range.start >= range.end);
        if !is_empty {
            let found = self.signed(|client| self.get_some(client, key, range.clone())).await?;
            if let Some(object) = found {
                return Ok(object);
            }
        }
        // HTTP has no word for an empty range, and refuses one that begins at the end.
        Ok(Object { meta: self.stat(key).await?, bytes: Bytes::new() })
    }

    async fn stat(&self, key: &str) -> Result<ObjectMeta, RemoteError> {
        let request = |client: Client| async move {
            let date = DateTap::default();
            let request = client.head_object().bucket(&self.bucket).key(self.full_key(key));
            match request.customize().interceptor(date.clone()).send().await {
                Ok(output) => Ok(answer::stat(key, &output, &date)?),
                Err(error) => Err(self.asked(key, &PutMode::Any).classify(&error)),
            }
        };
        self.signed(request).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: &PutMode) -> Result<Stored, RemoteError> {
        let size = bytes.len() as u64;
        let md5 = md5_of(&bytes).await;
        let request = |client: Client| {
            let request = client.put_object().bucket(&self.bucket).key(self.full_key(key));
            let request = request
                .content_md5(base64_simd::STANDARD.encode_to_string(md5))
                .body(ByteStream::from(bytes.clone()));
            let request = match mode {
                PutMode::Any => request,
                PutMode::Create => request.if_none_match("*"),
                PutMode::Swap(version) => request.if_match(self.condition(version)),
            };
            let sent = request.send();
            async move { sent.await.map_err(|error| self.asked(key, mode).classify(&error)) }
        };
        let output = self.signed(request).await?;
        let version = answer::version(key, output.e_tag())?;
        self.check_etag(key, &version.0, md5)?;
        Ok(Stored::new(key, size, version))
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        let request = |client: Client| async move {
            let request = client.delete_object().bucket(&self.bucket).key(self.full_key(key));
            let done = request.send().await;
            done.map_err(|error| self.asked(key, &PutMode::Any).classify(&error))
        };
        match self.signed(request).await {
            Ok(_) | Err(RemoteError::Absent { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, RemoteError> {
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..LIST_PAGES_MAX {
            let request = |client| self.page(client, prefix, token.clone());
            let (page, date) = self.signed(request).await?;
            for object in page.contents() {
                // Objects that no key of ours can name are not ours.
                let inside = object.key().and_then(|full| full.strip_prefix(&self.prefix));
                let Some(key) = inside.filter(|key| key::problem(key).is_none()) else { continue };
                found.push(answer::listed(key, object, &date)?);
            }
            token = page.next_continuation_token().map(str::to_owned);
            if page.is_truncated() != Some(true) || token.is_none() {
                found.sort_by(|a, b| a.key.cmp(&b.key));
                return Ok(found);
            }
        }
        let cause = format!("the listing has more than {LIST_PAGES_MAX} pages");
        Err(RemoteError::Refused { key: prefix.to_owned(), cause })
    }

    fn set_condition_style(&self, style: ConditionStyle) {
        self.style.store(style as u8, Relaxed);
    }
}

async fn md5_of(bytes: &Bytes) -> [u8; 16] {
    if bytes.len() <= HASH_INLINE_BYTES_MAX {
        return Md5::digest(bytes).into();
    }
    let (copy, bytes) = (bytes.clone(), bytes);
    match tokio::task::spawn_blocking(move || Md5::digest(&copy).into()).await {
        Ok(md5) => md5,
        // The runtime is closing: nobody will read what comes of it.
        Err(_) => Md5::digest(bytes).into(),
    }
}

fn hex(bytes: [u8; 16]) -> String {
    bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> S3Store {
        S3Store::new("bucket", "a/b", &RemoteOptions::default()).unwrap()
    }

    #[test]
    fn a_condition_is_written_as_the_probe_found() {
        let (store, version) = (store(), Version("abc".to_owned()));
        assert_eq!(store.condition(&version), "\"abc\"");
        store.set_condition_style(ConditionStyle::Unquoted);
        assert_eq!(store.condition(&version), "abc");
        assert_eq!(store.full_key("head"), "a/b/head");
    }

    #[test]
    fn a_wrong_etag_is_damage_only_where_etags_are_md5s() {
        let md5 = Md5::digest(b"x").into();
        let other = Md5::digest(b"y").into();
        let plain = store();
        assert_eq!(plain.check_etag("k", &hex(md5).to_uppercase(), md5), Ok(()));
        assert!(matches!(
            plain.check_etag("k", &hex(other), md5),
            Err(RemoteError::Corrupt { .. })
        ));
        let encrypted = store();
        assert_eq!(encrypted.check_etag("k", "opaque", md5), Ok(()));
        assert_eq!(encrypted.check_etag("k", &hex(other), md5), Ok(()));
    }
}
