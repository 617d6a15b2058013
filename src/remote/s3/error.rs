//! From the SDK's errors to ours. The one question that matters: was the request applied?

use std::error::Error;
use std::io;

use aws_config::imds::client::error::TokenError;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::remote::{PutMode, RemoteError};

/// Longest text of a server that is repeated, in characters.
const WORDS_MAX: usize = 300;

/// What stores say of credentials that were good once: a look for newer ones may help.
const STALE_KEYS: [&str; 4] =
    ["ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"];

/// What was asked for.
pub(super) struct Asked<'a> {
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
    /// `Any` for everything but conditional puts.
    pub(super) mode: &'a PutMode,
}

/// How a request ended, for who may make it again at once.
#[derive(Debug)]
pub(super) enum Failure {
    /// As it is.
    Other(RemoteError),
    /// Refused: the credentials that it was signed with are not, or no longer, good.
    Credentials(RemoteError),
    /// Refused: it was signed at another time than the store's.
    Clock(RemoteError),
    /// Refused without a word, as the answer to a HEAD is: it may be any of the two.
    Unsaid(RemoteError),
}

impl Failure {
    pub(super) fn into_error(self) -> RemoteError {
        match self {
            Failure::Other(error)
            | Failure::Credentials(error)
            | Failure::Clock(error)
            | Failure::Unsaid(error) => error,
        }
    }
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Failure {
        Failure::Other(error)
    }
}

/// The HTTP status, where an answer came.
pub(super) fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

impl Asked<'_> {
    pub(super) fn classify<E>(&self, error: &SdkError<E, HttpResponse>) -> Failure
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let meaning = self.meaning(error);
        if !matches!(meaning, RemoteError::Denied { .. }) || status(error).is_none() {
            return Failure::Other(meaning);
        }
        match error.code().unwrap_or("") {
            "RequestTimeTooSkewed" => Failure::Clock(meaning),
            code if STALE_KEYS.contains(&code) => Failure::Credentials(meaning),
            "" => Failure::Unsaid(meaning),
            _ => Failure::Other(meaning),
        }
    }

    fn meaning<E>(&self, error: &SdkError<E, HttpResponse>) -> RemoteError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        if let Some(refusal) = self.credentials(error) {
            return refusal;
        }
        match status(error) {
            Some(status) if (300..=599).contains(&status) => {
                self.answered(status, error.code().unwrap_or(""), error.message().unwrap_or(""))
            }
            // No answer, or one that can't be read: nobody knows whether it was applied, unless
            // it never left.
            _ if never_sent(error) => RemoteError::transient(self.key, chain(error)),
            _ => self.unknown(chain(error)),
        }
    }

    /// What an error answer means.
    fn answered(&self, status: u16, code: &str, message: &str) -> RemoteError {
        let cause = words(&format!("{status} {code}: {message}"));
        let key = self.key.to_owned();
        let conditional = self.mode.is_conditional();
        match (status, code) {
            (_, "NoSuchBucket") => {
                RemoteError::NoStore { what: format!("the bucket {}", self.bucket), cause }
            }
            (_, "QuotaExceeded" | "XMinioStorageFull") | (507, _) => RemoteError::Full { cause },
            // Damaged on its way, cut off, or (409) met by another request: not applied.
            (400, "BadDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody")
            | (400 | 408, "RequestTimeout")
            | (409 | 429, _) => RemoteError::transient(self.key, cause),
            (412, _) if conditional => RemoteError::Conflict { key },
            // AWS answers 404 to a swap of nothing.
            (404, _) if conditional => RemoteError::Conflict { key },
            (404, _) => RemoteError::Absent { key },
            (501, _) if conditional => RemoteError::NoConditions { cause },
            (403, "AccessDenied") => RemoteError::Denied {
                cause: format!(
                    "{cause} (AWS says this of an absent object too, where s3:ListBucket is not \
                     granted)"
                ),
            },
            (401 | 403, _) => RemoteError::Denied { cause },
            (400, code) if STALE_KEYS.contains(&code) => RemoteError::Denied { cause },
            (301 | 307, _) | (400, "AuthorizationHeaderMalformed") => RemoteError::Refused {
                key,
                cause: format!("{cause} (is it the right region and endpoint?)"),
            },
            (500..=599, _) => self.unknown(cause),
            _ => RemoteError::Refused { key, cause },
        }
    }

    /// The request may have been applied.
    fn unknown(&self, cause: String) -> RemoteError {
        if self.mode.is_conditional() {
            RemoteError::Ambiguous { key: self.key.to_owned(), cause }
        } else {
            RemoteError::transient(self.key, cause)
        }
    }

    /// Where the request was not sent for want of credentials. Their providers' own words are
    /// left out: an external process may print anything.
    fn credentials(&self, error: &(dyn Error + 'static)) -> Option<RemoteError> {
        let found = causes(error).find_map(|cause| cause.downcast_ref::<CredentialsError>())?;
        Some(match found {
            CredentialsError::CredentialsNotLoaded(_) => RemoteError::Denied {
                cause: "no credentials were found in the environment, the profile, or the \
                        machine's role"
                    .to_owned(),
            },
            CredentialsError::InvalidConfiguration(_) => RemoteError::Denied {
                cause: "the configuration of the credentials is not valid".to_owned(),
            },
            // The last to be asked, so nobody else has any either. It does not change its mind.
            found if is_refused_by_machine(found) => RemoteError::Denied {
                cause: "no credentials were found in the environment or the profile, and the \
                        instance metadata refuses them (403: switched off, or not for this \
                        container)"
                    .to_owned(),
            },
            // A role or token service that is down for a moment.
            _ => RemoteError::transient(self.key, format!("the credentials: {found}")),
        })
    }
}

/// An error, what caused it, what caused that, and so on.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    // A closure can't say that what it returns lives as long as what it borrows from.
    fn source<'a>(error: &&'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
        let error: &'a (dyn Error + 'static) = *error;
        error.source()
    }
    std::iter::successors(Some(error), source)
}

/// True where the instance metadata service was there and said no.
fn is_refused_by_machine(error: &CredentialsError) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<SdkError<TokenError, HttpResponse>>())
        .any(|error| status(error) == Some(403))
}

/// True where no connection was made, so that nothing can have been applied.
fn never_sent(error: &(dyn Error + 'static)) -> bool {
    causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|cause| {
        matches!(
            cause.kind(),
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::AddrNotAvailable
        )
    })
}

/// All causes in one line, without repetitions.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    words(&text)
}

/// A server's text, fit for a terminal.
fn words(text: &str) -> String {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.trim_end_matches([':', ' ']).chars().take(WORDS_MAX).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::Version;

    fn answered(mode: &PutMode, status: u16, code: &str) -> RemoteError {
        Asked { bucket: "b", key: "k", mode }.answered(status, code, "words")
    }

    #[test]
    fn a_server_error_is_ambiguous_for_conditional_puts_only() {
        let swap = PutMode::Swap(Version("v".to_owned()));
        for status in [500, 502, 503, 504] {
            for mode in [&PutMode::Create, &swap] {
                let error = answered(mode, status, "InternalError");
                assert!(matches!(error, RemoteError::Ambiguous { .. }), "{status}: {error}");
            }
            assert!(answered(&PutMode::Any, status, "SlowDown").is_transient());
        }
    }

    #[test]
    fn what_was_surely_not_applied_may_be_repeated() {
        for (status, code) in [
            (400, "BadDigest"),
            (409, "ConditionalRequestConflict"),
            (429, ""),
            (408, "RequestTimeout"),
        ] {
            assert!(answered(&PutMode::Create, status, code).is_transient(), "{status} {code}");
        }
    }

    #[test]
    fn a_lost_race_is_a_conflict_and_an_absent_object_is_absent() {
        let swap = PutMode::Swap(Version("v".to_owned()));
        assert!(matches!(answered(&swap, 412, ""), RemoteError::Conflict { .. }));
        assert!(matches!(answered(&swap, 404, "NoSuchKey"), RemoteError::Conflict { .. }));
        assert!(matches!(answered(&PutMode::Any, 404, "NoSuchKey"), RemoteError::Absent { .. }));
        for mode in [&swap, &PutMode::Any] {
            assert!(matches!(answered(mode, 404, "NoSuchBucket"), RemoteError::NoStore { .. }));
            assert!(matches!(answered(mode, 403, "X"), RemoteError::Denied { .. }));
            assert!(matches!(answered(mode, 403, "QuotaExceeded"), RemoteError::Full { .. }));
            assert!(matches!(answered(mode, 301, "X"), RemoteError::Refused { .. }));
        }
        assert!(matches!(answered(&swap, 501, ""), RemoteError::NoConditions { .. }));
    }

    #[test]
    fn a_servers_words_are_cut_and_cannot_drive_the_terminal() {
        let text = words(&format!("403 X: \x1b[2J{}", "y".repeat(1000)));
        assert!(text.chars().count() <= WORDS_MAX && !text.contains('\x1b'));
        assert_eq!(words("404 : "), "404");
    }
}
