//! POSIX access control lists, as the bytes of `system.posix_acl_access` and `_default`.
//!
//! ```text
//! 0         4
//! | version | entries ...                   version 2
//! | u32     | tag u16 | perm u16 | id u32   little-endian
//! ```
//! The kernel checks permissions; here is what it leaves to the filesystem: an ACL and the mode's
//! permission bits agree, and new files inherit their directory's default ACL (posix_acl(5),
//! and `posix_acl_create` and `posix_acl_equiv_mode` in Linux).

/// Extended attribute with the ACL that governs access.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// Extended attribute of a directory with the ACL that new entries inherit.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const UNDEFINED_ID: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AclEntry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A valid list: owner, group and others exactly once each, in canonical order, and a mask if
/// there are named users or groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl(Vec<AclEntry>);

impl Acl {
    /// Parses and checks; `None` if these are not a valid list's bytes.
    pub fn parse(bytes: &[u8]) -> Option<Acl> {
        let (version, rest) = bytes.split_first_chunk::<4>()?;
        let (entries, tail) = rest.as_chunks::<8>();
        if u32::from_le_bytes(*version) != VERSION || !tail.is_empty() {
            return None;
        }
        let parse = |entry: &[u8; 8]| AclEntry {
            tag: u16::from_le_bytes([entry[0], entry[1]]),
            perm: u16::from_le_bytes([entry[2], entry[3]]),
            id: u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]),
        };
        let acl = Acl(entries.iter().map(parse).collect());
        acl.is_valid().then_some(acl)
    }

    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|entry| entry.tag == tag).count();
        let once = [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|&tag| count(tag) == 1);
        let named = count(USER) + count(GROUP) > 0;
        let masked = count(MASK) == 1 || (count(MASK) == 0 && !named);
        let known = |entry: &AclEntry| {
            let named = matches!(entry.tag, USER | GROUP);
            let tag = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER].contains(&entry.tag);
            tag && entry.perm <= 7 && (!named || entry.id != UNDEFINED_ID)
        };
        let sorted = self.0.windows(2).all(|pair| pair[0].tag <= pair[1].tag);
        once && masked && sorted && self.0.iter().all(known)
    }

    /// The attribute's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            bytes.extend_from_slice(&entry.tag.to_le_bytes());
            bytes.extend_from_slice(&entry.perm.to_le_bytes());
            let id = if matches!(entry.tag, USER | GROUP) { entry.id } else { UNDEFINED_ID };
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes
    }

    /// Whether the nine permission bits say all that the list says.
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(|entry| matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// The nine permission bits that `stat` shows with this list.
    pub fn mode_bits(&self) -> u32 {
        let perm = |tag| self.0.iter().find(|entry| entry.tag == tag).map(|e| u32::from(e.perm));
        let group = perm(MASK).or(perm(GROUP_OBJ)).unwrap_or(0);
        perm(USER_OBJ).unwrap_or(0) << 6 | group << 3 | perm(OTHER).unwrap_or(0)
    }

    /// The list after `chmod` to these permission bits.
    pub fn with_mode(mut self, mode: u32) -> Acl {
        let masked = self.0.iter().any(|entry| entry.tag == MASK);
        for entry in &mut self.0 {
            match entry.tag {
                USER_OBJ => entry.perm = (mode >> 6 & 7) as u16,
                MASK => entry.perm = (mode >> 3 & 7) as u16,
                GROUP_OBJ if !masked => entry.perm = (mode >> 3 & 7) as u16,
                OTHER => entry.perm = (mode & 7) as u16,
                _ => {}
            }
        }
        self
    }

    /// What a new file gets whose directory has this as its default list: the mode it was asked
    /// for, less what the list does not grant, and the list, less what the mode does not grant.
    /// The umask plays no part.
    pub fn inherit(mut self, mode: u32) -> (u32, Acl) {
        let masked = self.0.iter().any(|entry| entry.tag == MASK);
        for entry in &mut self.0 {
            match entry.tag {
                USER_OBJ => entry.perm &= (mode >> 6 & 7) as u16,
                MASK => entry.perm &= (mode >> 3 & 7) as u16,
                GROUP_OBJ if !masked => entry.perm &= (mode >> 3 & 7) as u16,
                OTHER => entry.perm &= (mode & 7) as u16,
                _ => {}
            }
        }
        (mode & !0o777 | self.mode_bits(), self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entry = |&(tag, perm, id)| AclEntry { tag, perm, id };
        Acl(entries.iter().map(entry).collect()).encode()
    }

    #[test]
    fn a_list_reads_back_and_a_broken_one_is_refused() {
        let bytes =
            acl(&[(USER_OBJ, 7, 0), (USER, 5, 9), (GROUP_OBJ, 5, 0), (MASK, 5, 0), (OTHER, 0, 0)]);
        let parsed = Acl::parse(&bytes).unwrap();
        assert_eq!(parsed.encode(), bytes);
        assert!(!parsed.is_plain());
        assert_eq!(parsed.mode_bits(), 0o750);
        assert_eq!(Acl::parse(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Acl::parse(&[]), None);
        let unmasked = acl(&[(USER_OBJ, 7, 0), (USER, 5, 9), (GROUP_OBJ, 5, 0), (OTHER, 0, 0)]);
        assert_eq!(Acl::parse(&unmasked), None, "named users need a mask");
    }

    #[test]
    fn chmod_changes_the_mask_and_not_the_group_where_there_is_a_mask() {
        let bytes =
            acl(&[(USER_OBJ, 7, 0), (USER, 7, 9), (GROUP_OBJ, 5, 0), (MASK, 7, 0), (OTHER, 0, 0)]);
        let changed = Acl::parse(&bytes).unwrap().with_mode(0o640);
        let want =
            acl(&[(USER_OBJ, 6, 0), (USER, 7, 9), (GROUP_OBJ, 5, 0), (MASK, 4, 0), (OTHER, 0, 0)]);
        assert_eq!(changed.encode(), want);
    }

    #[test]
    fn a_new_file_gets_no_more_than_both_mode_and_default_list_grant() {
        let bytes =
            acl(&[(USER_OBJ, 7, 0), (USER, 7, 9), (GROUP_OBJ, 7, 0), (MASK, 7, 0), (OTHER, 5, 0)]);
        let (mode, inherited) = Acl::parse(&bytes).unwrap().inherit(0o2664);
        assert_eq!(mode, 0o2664 & !0o777 | 0o664 & 0o775);
        let want =
            acl(&[(USER_OBJ, 6, 0), (USER, 7, 9), (GROUP_OBJ, 7, 0), (MASK, 6, 0), (OTHER, 4, 0)]);
        assert_eq!(inherited.encode(), want);
    }
}
