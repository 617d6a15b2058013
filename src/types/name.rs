//! Names of directory entries and of workspaces, checked once.

use std::fmt;
use std::str::FromStr;

use smallvec::SmallVec;

/// Longest directory entry name, in bytes (Linux `NAME_MAX`).
pub const NAME_LEN_MAX: usize = 255;

/// Longest workspace name, in bytes.
const WORKSPACE_NAME_LEN_MAX: usize = 128;

/// Names up to this length need no memory of their own.
const INLINE_LEN: usize = 24;

/// A directory entry's name: 1 to 255 bytes, any but `/` and NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(SmallVec<[u8; INLINE_LEN]>);

/// Why bytes are not a [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Over 255 bytes: `ENAMETOOLONG`.
    #[error("name is longer than 255 bytes")]
    TooLong,
    /// Empty, `.`, `..`, or with `/` or NUL: `EINVAL`.
    #[error("name is empty, '.' or '..', or contains '/' or NUL")]
    Invalid,
}

impl Name {
    /// Checks and takes a name.
    pub fn new(bytes: &[u8]) -> Result<Name, NameError> {
        Name::check(bytes)?;
        Ok(Name(SmallVec::from_slice(bytes)))
    }

    /// Whether these bytes are a name.
    pub fn check(bytes: &[u8]) -> Result<(), NameError> {
        if bytes.len() > NAME_LEN_MAX {
            return Err(NameError::TooLong);
        }
        let reserved = matches!(bytes, b"" | b"." | b"..");
        if reserved || bytes.iter().any(|&byte| byte == b'/' || byte == 0) {
            return Err(NameError::Invalid);
        }
        Ok(())
    }

    /// The name's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

/// A workspace's name: 1 to 128 of `A-Z a-z 0-9 . _ -`, beginning with a letter or digit.
/// It is a folder name in the store, so it can hold nothing that a path could misread.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct WorkspaceName(String);

/// Why a text is not a [`WorkspaceName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "workspace name {0:?} is not allowed: use 1 to 128 of A-Z a-z 0-9 . _ - and begin with a \
     letter or digit"
)]
pub struct WorkspaceNameError(String);

impl WorkspaceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkspaceName {
    type Err = WorkspaceNameError;

    fn from_str(text: &str) -> Result<Self, WorkspaceNameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if first && text.len() <= WORKSPACE_NAME_LEN_MAX && text.bytes().all(allowed) {
            Ok(WorkspaceName(text.to_owned()))
        } else {
            Err(WorkspaceNameError(text.to_owned()))
        }
    }
}

impl fmt::Display for WorkspaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_a_directory_are_refused() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            assert_eq!(Name::new(bad), Err(NameError::Invalid), "{bad:?}");
        }
        assert_eq!(Name::new(&[b'x'; 256]), Err(NameError::TooLong));
        assert!(Name::new(&[0xff; 255]).is_ok());
        assert!(Name::new(b"...").is_ok());
    }

    #[test]
    fn workspace_names_are_plain_path_components() {
        for good in ["a", "agent-7", "Team.x_1"] {
            assert!(good.parse::<WorkspaceName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".x", "-x", "a/b", "a b", "ü", &"x".repeat(129)] {
            assert!(bad.parse::<WorkspaceName>().is_err(), "{bad}");
        }
    }
}
