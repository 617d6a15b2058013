//! Which keys may be asked for. One rule for all stores, strict enough that a key is also a
//! relative path that stays inside a directory, and needs no escaping in a URL or in XML.

use super::RemoteError;

/// Longest key, in bytes: S3's limit of 1,024 less room for a store's prefix.
pub const KEY_LEN_MAX: usize = 768;

/// Longest part of a key between slashes, in bytes: a file name.
const PART_LEN_MAX: usize = 255;

/// Accepts parts of `A-Z a-z 0-9 . _ -` between single slashes, none beginning with a dot.
pub(super) fn check(key: &str) -> Result<(), RemoteError> {
    match problem(key) {
        None => Ok(()),
        Some(cause) => Err(RemoteError::BadKey { key: shorten(key), cause: cause.to_owned() }),
    }
}

/// Accepts the beginning of any key, the empty one included.
pub(super) fn check_prefix(prefix: &str) -> Result<(), RemoteError> {
    // Whatever comes after the last slash is the beginning of a part.
    match prefix.rsplit_once('/') {
        None if prefix.is_empty() => Ok(()),
        Some((folder, "")) => check(folder),
        None | Some(_) => check(prefix),
    }
}

/// What is wrong with a key, if anything is.
pub(super) fn problem(key: &str) -> Option<&'static str> {
    if key.len() > KEY_LEN_MAX {
        return Some("it is too long");
    }
    for part in key.split('/') {
        if part.is_empty() {
            return Some("a part of it is empty");
        }
        if part.len() > PART_LEN_MAX {
            return Some("a part of it is longer than a file name may be");
        }
        if part.starts_with('.') {
            return Some("a part of it begins with a dot");
        }
        if !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            return Some("only A-Z a-z 0-9 . _ - are allowed between slashes");
        }
    }
    None
}

/// A key for a message: as much as helps.
fn shorten(key: &str) -> String {
    key.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_store_layout_are_accepted() {
        let id = "ab".repeat(32);
        for good in ["format", "workspaces/a.b-c_D/head", &format!("packs/ab/{id}")] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn no_key_can_leave_the_folder_or_meet_its_hidden_files() {
        let long = "x".repeat(256);
        for bad in
            ["", "/a", "a/", "a//b", ".", "..", "a/../b", ".hidden", "a/.b", "a b", "a\0", "ü"]
                .into_iter()
                .chain([long.as_str()])
        {
            assert!(matches!(check(bad), Err(RemoteError::BadKey { .. })), "{bad:?}");
        }
        assert!(check(&"abc/".repeat(200)).is_err());
    }

    #[test]
    fn a_prefix_is_the_beginning_of_a_key() {
        for good in ["", "packs", "packs/", "packs/a"] {
            assert_eq!(check_prefix(good), Ok(()), "{good}");
        }
        for bad in ["/", "../", "packs/..", "packs//"] {
            assert!(check_prefix(bad).is_err(), "{bad}");
        }
    }
}
