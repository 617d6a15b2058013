//! From the SDK's answers to ours. Nothing in an answer is trusted.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use bytes::{Bytes, BytesMut};

use super::clamp;
use crate::remote::{OBJECT_LEN_MAX, Object, ObjectMeta, RemoteError, Version};
use crate::types::Time;

/// Catches the `Date` of an answer, which the SDK does not hand on: the store's clock.
#[derive(Debug, Clone, Default)]
pub(super) struct DateTap(Arc<OnceLock<Time>>);

impl Intercept for DateTap {
    fn name(&self) -> &'static str {
        "DateTap"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        if let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) {
            // Set once: there is one attempt.
            let _ = self.0.set(date.into());
        }
        Ok(())
    }
}

impl DateTap {
    fn time(&self) -> Option<Time> {
        self.0.get().copied()
    }
}

/// The version that an ETag names.
pub(super) fn version(key: &str, etag: Option<&str>) -> Result<Version, RemoteError> {
    let etag = etag.unwrap_or("").trim_matches('"');
    // What goes back in a header must be able to stand in one.
    if etag.is_empty() || !etag.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') {
        let cause = "the store sent no usable ETag".to_owned();
        return Err(RemoteError::Refused { key: key.to_owned(), cause });
    }
    Ok(Version(etag.to_owned()))
}

pub(super) fn stat(
    key: &str,
    output: &HeadObjectOutput,
    date: &DateTap,
) -> Result<ObjectMeta, RemoteError> {
    Ok(ObjectMeta {
        key: key.to_owned(),
        size: length(key, output.content_length())?,
        version: version(key, output.e_tag())?,
        last_modified: output.last_modified().map(time),
        store_now: date.time(),
    })
}

pub(super) fn listed(
    key: &str,
    object: &aws_sdk_s3::types::Object,
    date: &DateTap,
) -> Result<ObjectMeta, RemoteError> {
    Ok(ObjectMeta {
        key: key.to_owned(),
        size: length(key, object.size())?,
        version: version(key, object.e_tag())?,
        last_modified: object.last_modified().map(time),
        store_now: date.time(),
    })
}

pub(super) async fn object(
    key: &str,
    output: GetObjectOutput,
    range: Option<Range<u64>>,
    date: &DateTap,
) -> Result<Object, RemoteError> {
    let length = length(key, output.content_length())?;
    let part = output.content_range().map(|text| content_range(key, text)).transpose()?;
    let size = part.as_ref().map_or(length, |(_, size)| *size);
    let wanted = clamp(range, size);
    let meta = ObjectMeta {
        key: key.to_owned(),
        size,
        version: version(key, output.e_tag())?,
        last_modified: output.last_modified().map(time),
        store_now: date.time(),
    };
    let bytes = body(key, output.body, length).await?;
    match part {
        Some((part, _)) if part == wanted => Ok(Object { meta, bytes }),
        Some((part, _)) => Err(RemoteError::transient(
            key,
            format!("asked for the bytes {wanted:?}, the store sent {part:?}"),
        )),
        // A server may ignore the range and send everything.
        None if bytes.len() as u64 == size => {
            let bytes = bytes.slice(wanted.start as usize..wanted.end as usize);
            Ok(Object { meta, bytes })
        }
        None => Ok(Object { meta, bytes }),
    }
}

async fn body(
    key: &str,
    mut stream: aws_sdk_s3::primitives::ByteStream,
    length: u64,
) -> Result<Bytes, RemoteError> {
    if length > OBJECT_LEN_MAX {
        let cause = format!("a body of {length} bytes is longer than any of ours");
        return Err(RemoteError::Corrupt { key: key.to_owned(), cause });
    }
    let mut bytes = BytesMut::with_capacity(length as usize);
    loop {
        match stream.next().await {
            None => return Ok(bytes.freeze()),
            Some(Ok(part)) => bytes.extend_from_slice(&part),
            Some(Err(error)) => {
                let cause = format!("the body broke off: {error}");
                return Err(RemoteError::transient(key, cause));
            }
        }
        if bytes.len() as u64 > length {
            return Err(RemoteError::transient(key, "the body is longer than announced"));
        }
    }
}

fn length(key: &str, length: Option<i64>) -> Result<u64, RemoteError> {
    length.and_then(|length| u64::try_from(length).ok()).ok_or_else(|| {
        let cause = "the store sent no usable length".to_owned();
        RemoteError::Refused { key: key.to_owned(), cause }
    })
}

/// `bytes 0-9/100` is the range `0..10` of 100.
fn content_range(key: &str, text: &str) -> Result<(Range<u64>, u64), RemoteError> {
    let parsed = || {
        let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let size: u64 = size.parse().ok()?;
        (first <= last && last < size).then(|| (first..last + 1, size))
    };
    parsed().ok_or_else(|| {
        let cause = "the store sent an unusable Content-Range".to_owned();
        RemoteError::Refused { key: key.to_owned(), cause }
    })
}

fn time(time: &DateTime) -> Time {
    Time::new(time.secs(), time.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read_exactly_or_not_at_all() {
        assert_eq!(content_range("k", "bytes 0-9/100"), Ok((0..10, 100)));
        for bad in ["", "bytes */100", "bytes 9-0/100", "bytes 0-100/100", "bytes 0-9/*", "0-9/9"] {
            assert!(content_range("k", bad).is_err(), "{bad}");
        }
        let most = format!("bytes 0-{max}/{max}", max = u64::MAX);
        assert!(content_range("k", &most).is_err());
    }

    #[test]
    fn an_etag_that_could_not_be_sent_back_is_refused() {
        assert_eq!(version("k", Some("\"abc-1\"")), Ok(Version("abc-1".to_owned())));
        for bad in [None, Some(""), Some("\"\""), Some("a\r\nb"), Some("a\"b")] {
            assert!(version("k", bad).is_err(), "{bad:?}");
        }
    }
}
