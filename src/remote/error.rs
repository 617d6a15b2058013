//! What can go wrong, by what the caller does about it.

use std::time::Duration;

/// What went wrong with a request. The causes are the store's words, never a secret.
///
/// A store's single attempt answers [`RemoteError::Unavailable`] for whatever may be repeated
/// without harm, and [`RemoteError::Ambiguous`] for a conditional put that may have been applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// There is no such object.
    #[error("{key}: not in the store")]
    Absent {
        /// The object.
        key: String,
    },
    /// A conditional put lost: another version is there, or none where one was expected.
    #[error("{key}: changed by another writer")]
    Conflict {
        /// The object.
        key: String,
    },
    /// The answer to a conditional put is unknown (5xx, timeout, reset): read and decide. It may
    /// even be applied later, while the server still works on it.
    #[error("{key}: the store did not say whether the write was applied: {cause}")]
    Ambiguous {
        /// The object.
        key: String,
        /// What happened.
        cause: String,
    },
    /// Credentials or rights are missing or were refused.
    #[error("the store refused access: {cause}")]
    Denied {
        /// The store's words.
        cause: String,
    },
    /// The operating system lets nobody, or not this user, write to the store's directory.
    #[error("access to the store's directory was refused: {cause}")]
    NotPermitted {
        /// The system's words.
        cause: String,
    },
    /// What lies at the address, or the file system there, can't hold a store.
    #[error("the store's directory can't be used: {cause}")]
    BadDirectory {
        /// What was tried, and the system's words.
        cause: String,
    },
    /// The bucket or directory does not exist.
    #[error("{what} does not exist: {cause}")]
    NoStore {
        /// Bucket or directory.
        what: String,
        /// The store's words.
        cause: String,
    },
    /// Still failing when the deadline came (after retries): worth trying later.
    #[error("{key}: {}: {cause}", no_answer(.waited))]
    Unavailable {
        /// The object.
        key: String,
        /// How long was tried.
        waited: Duration,
        /// The last failure.
        cause: String,
    },
    /// The store has no room (507, quota, `ENOSPC`).
    #[error("the store is full: {cause}")]
    Full {
        /// The store's words.
        cause: String,
    },
    /// The bytes or the answer are not what they must be.
    #[error("{key}: damaged: {cause}")]
    Corrupt {
        /// The object.
        key: String,
        /// What is wrong.
        cause: String,
    },
    /// The store understood the request and will not serve it: a wrong setting (region,
    /// endpoint), or something it lacks. Trying again does not help.
    #[error("{key}: the store refused the request: {cause}")]
    Refused {
        /// The object.
        key: String,
        /// The store's words.
        cause: String,
    },
    /// The store does not honour conditional writes; nothing may be entrusted to it.
    #[error(
        "the store ignores conditional writes ({cause}); two writers could overwrite each other \
         unseen"
    )]
    NoConditions {
        /// What the probe saw.
        cause: String,
    },
    /// The address is not understood.
    #[error("{url}: {cause}")]
    BadUrl {
        /// As given, without credentials.
        url: String,
        /// Why.
        cause: String,
    },
    /// A key that no store may be asked for: it could escape the store's folder.
    #[error("{key:?} is no object key: {cause}")]
    BadKey {
        /// The key.
        key: String,
        /// Why.
        cause: String,
    },
}

/// How long was waited, to the millisecond; nothing where nothing was waited for.
fn no_answer(waited: &Duration) -> String {
    match u64::try_from(waited.as_millis()) {
        Ok(0) => String::from("the store failed"),
        millis => {
            let waited = millis.map_or(*waited, Duration::from_millis);
            format!("no answer from the store in {waited:?}")
        }
    }
}

impl RemoteError {
    /// An attempt that failed and may be repeated without harm.
    pub(super) fn transient(key: &str, cause: impl Into<String>) -> RemoteError {
        RemoteError::Unavailable {
            key: key.to_owned(),
            waited: Duration::ZERO,
            cause: cause.into(),
        }
    }

    /// True where the same request may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, RemoteError::Unavailable { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_how_long_was_waited_if_it_was() {
        let failed = |waited| {
            let (key, cause) = ("k".to_owned(), "why".to_owned());
            RemoteError::Unavailable { key, waited, cause }.to_string()
        };
        assert_eq!(failed(Duration::ZERO), "k: the store failed: why");
        let waited = failed(Duration::from_nanos(59_994_218_554));
        assert_eq!(waited, "k: no answer from the store in 59.994s: why");
    }
}
