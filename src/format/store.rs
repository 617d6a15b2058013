//! The store's format object: written once by `init`, read by every mount.
//!
//! ```text
//! manifest (see manifest.rs), magic DMST, version 1, body:
//! store id         16 random bytes
//! secret           32 random bytes: every keyed hash of the store derives from it
//! condition style  u8: how `If-Match` is written (1 quoted, 2 unquoted)
//! created          secs i64, nanos u32
//! ```
//! A newer version of this object means that anything in the store may be different.

use crate::types::Time;

use super::bytes::Writer;
use super::manifest::Manifest;
use super::{FormatError, HashKeys};

const STORE: Manifest =
    Manifest { what: "store format", magic: *b"DMST", version: 1, body_len_max: 64 * 1024 };

/// What one must know of a store to use it.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreFormat {
    /// Format version that it was made with.
    pub version: u16,
    /// Random; tells stores apart.
    pub store_id: [u8; 16],
    /// Random; the keyed hashes derive from it.
    pub secret: [u8; 32],
    /// Number of the `remote` layer's condition style; not interpreted here.
    pub condition_style: u8,
    /// When it was made, by the maker's clock.
    pub created: Time,
}

impl StoreFormat {
    /// The version that this program writes.
    pub const VERSION: u16 = STORE.version;

    /// Encodes it, always as [`StoreFormat::VERSION`].
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = Writer::default();
        out.bytes(&self.store_id).bytes(&self.secret).u8(self.condition_style);
        out.time(self.created);
        STORE.seal(out)
    }

    /// Decodes one; all or nothing.
    pub fn decode(bytes: &[u8]) -> Result<StoreFormat, FormatError> {
        let (version, mut reader) = STORE.open(bytes)?;
        let format = StoreFormat {
            version,
            store_id: reader.array()?,
            secret: reader.array()?,
            condition_style: reader.u8()?,
            created: reader.time()?,
        };
        reader.end()?;
        Ok(format)
    }

    /// The store's keyed hashes.
    #[must_use]
    pub fn keys(&self) -> HashKeys {
        HashKeys::new(&self.secret)
    }
}

impl std::fmt::Debug for StoreFormat {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreFormat")
            .field("version", &self.version)
            .field("condition_style", &self.condition_style)
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}
