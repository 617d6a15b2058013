//! What a mount knows of its head, kept in the local directory: a daemon that takes the mount over
//! goes on as the same writer, under the same epoch, and asks the store for nothing.
//!
//! Before each swap the nonce that it will write is noted. So whoever takes over in the middle of
//! one finds out by the nonce whether a head that it did not write is its predecessor's.
//!
//! ```text
//! "head"   version len u16 | version | format len u16 | store format | head
//! "tried"  nonces, 16 bytes each
//! ```

use super::WorkspaceError;
use super::head::Nonce;
use super::local_state::value;
use crate::format::{Head, Key, StoreFormat};
use crate::local::{Batch, Local, LocalError};
use crate::remote::Version;

/// A head as a mount knows it.
#[derive(Debug, Clone)]
pub struct KnownHead {
    /// The store's format.
    pub format: StoreFormat,
    /// The head as it was last written or read.
    pub head: Head,
    /// For the next swap; none for a mount that only looks.
    pub version: Option<Version>,
    /// What swaps since then may have written.
    pub tried: Vec<Nonce>,
}

impl KnownHead {
    /// Reads it; none where no mount kept it.
    pub fn load(local: &Local) -> Result<Option<KnownHead>, WorkspaceError> {
        let Some(bytes) = value(local, "head")? else { return Ok(None) };
        let damaged = || LocalError::Corrupt { what: String::from("the head that is known") };
        let (version, rest) = field(&bytes).ok_or_else(damaged)?;
        let (format, head) = field(rest).ok_or_else(damaged)?;
        let version = std::str::from_utf8(version).map_err(|_| damaged())?;
        let tried = value(local, "tried")?.unwrap_or_default();
        let (nonces, rest) = tried.as_chunks::<16>();
        if !rest.is_empty() {
            return Err(damaged().into());
        }
        Ok(Some(KnownHead {
            format: StoreFormat::decode(format).map_err(|_| damaged())?,
            head: Head::decode(head).map_err(|_| damaged())?,
            version: (!version.is_empty()).then(|| Version(version.to_owned())),
            tried: nonces.to_vec(),
        }))
    }

    /// Keeps it; nothing was tried since.
    pub fn save(
        local: &Local,
        format: &StoreFormat,
        head: &Head,
        version: Option<&Version>,
    ) -> Result<(), WorkspaceError> {
        let malformed = |cause| WorkspaceError::format("the head that is known", cause);
        let mut value = Vec::new();
        put(&mut value, version.map_or("", |version| &version.0).as_bytes());
        put(&mut value, &format.encode().map_err(malformed)?);
        value.extend(head.encode().map_err(malformed)?);
        let mut batch = Batch::for_upkeep();
        batch.put(Key::local("head"), value);
        batch.put(Key::local("tried"), Vec::new());
        Ok(local.commit(batch)?)
    }

    /// Notes what the next swap may write, and what earlier ones may have.
    pub fn note_tried(local: &Local, tried: &[Nonce]) -> Result<(), WorkspaceError> {
        let mut batch = Batch::for_upkeep();
        batch.put(Key::local("tried"), tried.concat());
        Ok(local.commit(batch)?)
    }
}

/// Versions and formats are short: a longer one is cut off, and is then found to be damaged.
fn put(out: &mut Vec<u8>, field: &[u8]) {
    let field = &field[..field.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&(field.len() as u16).to_le_bytes());
    out.extend_from_slice(field);
}

fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))
}
