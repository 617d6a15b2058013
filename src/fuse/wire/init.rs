//! INIT: what is agreed when a mount begins.
//!
//! ```text
//! fuse_init_in   0 major | 4 minor | 8 max_readahead | 12 flags | 16 flags2 | 20 unused[11]
//! fuse_init_out  0 major | 4 minor | 8 max_readahead | 12 flags | 16 max_background u16
//!               18 congestion_threshold u16 | 20 max_write | 24 time_gran | 28 max_pages u16
//!               30 map_alignment u16 | 32 flags2 | 36 max_stack_depth | 40 unused to 64
//! ```

use fuser::InitFlags;

use super::fields::{Fields, Malformed, Put};

/// The protocol's major version. Another one is another protocol.
pub(in crate::fuse) const MAJOR: u32 = 7;

/// The minor version that we speak: the first with io_uring.
const MINOR: u32 = 42;

/// Length of the answer, bytes.
const OUT_LEN: usize = 64;

/// What the kernel offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fuse) struct InitIn {
    pub(in crate::fuse) major: u32,
    pub(in crate::fuse) minor: u32,
    pub(in crate::fuse) read_ahead_bytes: u32,
    pub(in crate::fuse) flags: InitFlags,
}

impl InitIn {
    pub(super) fn decode(bytes: &[u8]) -> Result<InitIn, Malformed> {
        let mut fields = Fields::new(bytes);
        let (major, minor) = (fields.u32()?, fields.u32()?);
        let read_ahead_bytes = fields.u32()?;
        let mut bits = u64::from(fields.u32()?);
        if InitFlags::from_bits_retain(bits).contains(InitFlags::FUSE_INIT_EXT) {
            bits |= u64::from(fields.u32()?) << 32;
        }
        Ok(InitIn { major, minor, read_ahead_bytes, flags: InitFlags::from_bits_retain(bits) })
    }

    /// Whether the kernel speaks our protocol, at least in the version that brought io_uring.
    pub(in crate::fuse) fn is_known(&self) -> bool {
        self.major == MAJOR && self.minor >= MINOR
    }
}

/// What we take of it.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) struct InitOut {
    pub(in crate::fuse) read_ahead_bytes: u32,
    pub(in crate::fuse) flags: InitFlags,
    pub(in crate::fuse) background_max: u16,
    pub(in crate::fuse) write_bytes_max: u32,
    pub(in crate::fuse) pages_max: u16,
}

impl InitOut {
    pub(in crate::fuse) fn encode(&self) -> Vec<u8> {
        let bits = (self.flags | InitFlags::FUSE_INIT_EXT).bits();
        let mut out = Vec::with_capacity(OUT_LEN);
        out.u32(MAJOR);
        out.u32(MINOR);
        out.u32(self.read_ahead_bytes);
        // The lower and the upper half.
        out.u32((bits & u64::from(u32::MAX)) as u32);
        out.u16(self.background_max);
        // Congested at three quarters, as fuser has it.
        out.u16(self.background_max / 4 * 3);
        out.u32(self.write_bytes_max);
        // Times count in single nanoseconds.
        out.u32(1);
        out.u16(self.pages_max);
        out.u16(0);
        out.u32((bits >> 32) as u32);
        out.resize(OUT_LEN, 0);
        out
    }
}
