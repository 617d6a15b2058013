//! Fuzz targets for everything that is read from a store, from a file that a person wrote, or
//! from a socket. `scripts/torture fuzz` builds and runs them; docs/testing.md tells more.
//!
//! The sources under test are taken in by their paths instead of by a dependency on `dormouse`,
//! for three reasons. A dependency would compile RocksDB and the AWS SDK, instrumented, for
//! a quarter of an hour. Instrumenting only what decodes makes the fuzzer faster and its coverage mean
//! something. And a crate of its own for the lower layers, the other way, would turn folders into
//! packages for the sake of a test. The price is the list below; a file that begins to import
//! more does not compile here until the list says so.
//!
//! Libfuzzer needs neither nightly Rust nor cargo-fuzz: `scripts/torture.d/fuzz.py` passes the flags
//! of coverage to the stable compiler. There is no address sanitizer: what is taken in
//! is free of `unsafe`, and memory is bounded by an allocator that counts. The layout is that of
//! cargo-fuzz, so `cargo +nightly fuzz run NAME` works too, and has the sanitizer.

#![allow(missing_docs, dead_code, unused_imports, reason = "nothing here is a library")]

// Shared files say `dormouse::`, as the tests do that use them.
extern crate self as dormouse;

#[path = "../../src/format/mod.rs"]
pub mod format;

#[path = "."]
pub mod types {
    #[path = "../../src/types/attr.rs"]
    mod attr;
    #[path = "../../src/types/id.rs"]
    mod id;
    #[path = "../../src/types/name.rs"]
    mod name;
    #[path = "../../src/types/request.rs"]
    mod request;

    pub use attr::{Attr, Kind, Time};
    pub use id::{CacheId, ChunkId, Epoch, IdError, Ino, NodeId, PackId, SnapshotId};
    pub use name::{NAME_LEN_MAX, Name, NameError, WorkspaceName, WorkspaceNameError};
    pub use request::{ConnectionId, RequestId};
}

#[path = "."]
pub mod remote {
    #[path = "../../src/remote/error.rs"]
    mod error;
    #[path = "../../src/remote/key.rs"]
    mod key;
    #[path = "../../src/remote/url.rs"]
    mod url;

    pub use error::RemoteError;
    pub use key::KEY_LEN_MAX;
    pub use url::StoreUrl;
}

#[path = "."]
pub mod workspace {
    #[path = "../../src/workspace/progress.rs"]
    mod progress;

    pub use progress::ProgressView;

    /// All that `progress` knows of it.
    pub enum WorkspaceError {
        Stopped,
    }
}

#[path = "."]
pub mod control {
    #[path = "../../src/control/wire.rs"]
    mod wire;

    pub use wire::{Command, Event, Refusal};
}

#[path = "."]
pub mod cli {
    #[path = "../../src/cli/args.rs"]
    mod args;
    #[path = "../../src/cli/config.rs"]
    mod config;
    #[path = "../../src/cli/exit.rs"]
    mod exit;
    #[path = "../../src/cli/help.rs"]
    mod help;
    #[path = "../../src/cli/units.rs"]
    mod units;

    pub use config::Config;
}

pub mod local {
    /// As in `src/local/batch.rs`, which needs the journal.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct CarriedOut {
        pub request: crate::types::RequestId,
        pub result: u64,
    }

    pub mod memtable {
        /// As in `src/local/memtable.rs`, which needs the journal.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum State {
            Value(bytes::Bytes),
            Tombstone,
            Base,
        }
    }

    pub mod journal;
}

#[path = "../../tests/codecs/properties.rs"]
pub mod properties;
#[path = "../../tests/formats/samples.rs"]
pub mod samples;
#[path = "../../tests/codecs/sealing.rs"]
pub mod sealing;

pub mod journal {
    pub use crate::local::journal::check;
}

#[path = "../../tests/codecs/memory.rs"]
mod memory;
pub mod written;

/// Runs a check in bounded memory.
pub fn run(check: properties::Check, bytes: &[u8]) {
    let (_, peak) = memory::peak_of(|| check(bytes));
    let max = properties::memory_max(bytes.len());
    assert!(peak <= max, "{peak} bytes of memory for {} bytes, at most {max}", bytes.len());
}

/// Libfuzzer's own changes; three times of four the checksums are right again afterwards.
pub fn mutate(data: &mut [u8], len: usize, len_max: usize, seed: u32) -> usize {
    let len = libfuzzer_sys::fuzzer_mutate(data, len, len_max);
    if !seed.is_multiple_of(4) {
        sealing::seal(&mut data[..len]);
    }
    len
}

/// A target: one check.
#[macro_export]
macro_rules! target {
    ($check:path) => {
        use dormouse_fuzz::*;

        libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            dormouse_fuzz::run($check, data);
        });

        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], len: usize, len_max: usize, seed: u32| {
            dormouse_fuzz::mutate(data, len, len_max, seed)
        });
    };
}
