//! Sizes and durations as people write and read them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

/// A number of bytes, written as `4096`, `64k`, `100M`, `1.5GiB`. Suffixes are powers of 1024,
/// with or without `B` or `iB`, in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: write a number of bytes, or one with K, M, G or T, such as 64G")]
pub struct ByteSizeError(String);

const SUFFIXES: [(&str, u32); 5] = [("T", 40), ("G", 30), ("M", 20), ("K", 10), ("", 0)];

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<ByteSize, ByteSizeError> {
        let wrong = || ByteSizeError(text.to_owned());
        let upper = text.trim().to_ascii_uppercase();
        let bare = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
        let (digits, shift) = SUFFIXES
            .iter()
            .find_map(|(suffix, shift)| Some((bare.strip_suffix(suffix)?, *shift)))
            .ok_or_else(wrong)?;
        parse_scaled(digits.trim_end(), shift).map(ByteSize).ok_or_else(wrong)
    }
}

/// `digits` is `12` or `1.5`; the product with two to the `shift`, without floating point.
fn parse_scaled(digits: &str, shift: u32) -> Option<u64> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !plain(whole) || !plain(fraction) || fraction.len() > 9 {
        return None;
    }
    if digits.contains('.') && (fraction.is_empty() || shift == 0) {
        return None;
    }
    let unit = 1_u64 << shift;
    let base = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if fraction.is_empty() {
        return Some(base);
    }
    let denominator = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = fraction.parse::<u128>().ok()? * u128::from(unit) / denominator;
    base.checked_add(u64::try_from(part).ok()?)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        let unit = SUFFIXES.iter().find(|(_, shift)| bytes >= 1 << shift && *shift > 0);
        match unit {
            None => write!(f, "{bytes} B"),
            Some((suffix, shift)) => {
                let tenths = u128::from(bytes) * 10 / (1_u128 << shift);
                write!(f, "{}.{} {suffix}iB", tenths / 10, tenths % 10)
            }
        }
    }
}

/// So many of something: `1 file`, `2 files`.
#[must_use]
pub fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A duration, written as `90s`, `10m`, `1h 30m`, or a plain number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write seconds, or a number with s, m, h or d, such as 10m")]
pub struct SpanError(String);

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Span, SpanError> {
        let trimmed = text.trim();
        if let Ok(seconds) = trimmed.parse::<u64>() {
            return Ok(Span(Duration::from_secs(seconds)));
        }
        let parsed = humantime::parse_duration(trimmed);
        parsed.map(Span).map_err(|_| SpanError(text.to_owned()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Below a second milliseconds tell something; above, they only make noise.
        let rounded = if self.0 >= Duration::from_secs(1) {
            Duration::from_secs(self.0.as_secs())
        } else {
            Duration::from_millis(u64::from(self.0.subsec_millis()))
        };
        humantime::format_duration(rounded).fmt(f)
    }
}

/// A value of a configuration file that may be written as a number or as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

macro_rules! deserialize_as_flag {
    ($kind:ty) => {
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: serde::Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
                let text = match NumberOrText::deserialize(source)? {
                    NumberOrText::Number(number) => number.to_string(),
                    NumberOrText::Text(text) => text,
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

deserialize_as_flag!(ByteSize);
deserialize_as_flag!(Span);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("64k", 64 << 10),
            ("64 KiB", 64 << 10),
            ("100M", 100 << 20),
            ("1.5GiB", 3 << 29),
            ("2tb", 2 << 40),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse(), Ok(ByteSize(want)), "{text}");
        }
        for bad in
            ["", "x", "-1", "1.5", "1.", ".5G", "1 2", "1e9", "18446744073709551616", "16777216T"]
        {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_with_one_decimal() {
        let cases = [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (64 << 30, "64.0 GiB")];
        for (bytes, want) in cases {
            assert_eq!(ByteSize(bytes).to_string(), want);
        }
        assert_eq!(ByteSize(u64::MAX).to_string(), "16777215.9 TiB");
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!([0, 1, 2].map(|n| count(n, "file")), ["0 files", "1 file", "2 files"]);
    }

    #[test]
    fn durations_are_read_and_shown() {
        assert_eq!("90".parse(), Ok(Span(Duration::from_secs(90))));
        assert_eq!("1h 30m".parse(), Ok(Span(Duration::from_secs(5400))));
        for bad in ["", "soon", "-5s", "5 parsecs"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        assert_eq!(Span(Duration::from_millis(90_250)).to_string(), "1m 30s");
        assert_eq!(Span(Duration::from_millis(250)).to_string(), "250ms");
    }
}
