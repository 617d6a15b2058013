//! The local disk: the staging log, the overlay of changed records, the chunk cache, known chunk
//! locations. One directory per mounted workspace, locked by its owner.
//!
//! Promises: what `sync` returned for survives a power cut; without it a crash loses at most a
//! suffix of the commits, never one from the middle; a commit is handed to the kernel before it
//! returns, so that a killed process loses none. Must not know: what the records mean, or that
//! there is a remote store.

mod applier;
mod batch;
mod bell;
mod cache;
mod crash;
mod cut;
mod directory;
mod error;
mod journal;
mod known;
mod lock;
mod marker;
mod memtable;
mod merge;
mod options;
mod overlay;
mod remove;
mod requests;
mod rocks;
mod sweep;
mod usage;

pub use batch::{Batch, CarriedOut, Slot};
#[doc(hidden)]
pub use crash::crash_point;
use crash::crash_point_after;
pub use cut::Cut;
pub use directory::Local;
pub use error::LocalError;
pub use journal::{JournalEnds, Position as JournalPosition};
pub use marker::{id_of, is_there};
pub use options::{LocalOptions, Usage};
pub use remove::{remove, remove_unused};

#[cfg(test)]
mod tests;
