//! The null filesystem: everything from memory, with the product's flags, lifetimes, threads and
//! transport. What it costs is what FUSE costs on this machine; `scripts/bench` measures the
//! product beside it.
//!
//! ```text
//! cargo run --release --example null_fs -- /an/empty/directory
//! ```
//! It keeps what git, npm, cargo, SQLite and fio need, and forgets all of it on SIGTERM or when
//! it is unmounted. No promise of the product's holds here but speed.
#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

mod content;
mod filesystem;
mod node;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use clap::Parser;
use dormouse::fuse::{MountOptions, Scheduling, mount_other};
use dormouse::types::SystemClock;
use nix::sys::signal::{SigSet, Signal};

use crate::filesystem::NullFs;

/// Serves a filesystem from memory until SIGTERM, SIGINT or umount.
#[derive(Debug, Parser)]
struct Args {
    /// Where: an empty directory.
    mountpoint: PathBuf,
    /// Threads that read requests; 0: as the product.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Let the kernel collect writes.
    #[arg(long)]
    writeback_cache: bool,
    /// No extended attributes and no ACLs.
    #[arg(long)]
    no_xattr: bool,
    /// Largest write request, in bytes.
    #[arg(long)]
    write_bytes_max: Option<u32>,
    /// Threads that are scheduled like any others.
    #[arg(long)]
    plain: bool,
    /// Read-ahead in KiB; 0: the kernel's.
    #[arg(long)]
    read_ahead_kib: Option<u32>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut options = MountOptions::new(&args.mountpoint, "null");
    options.threads = args.threads;
    options.scheduling = if args.plain { Scheduling::Plain } else { Scheduling::Auto };
    options.writeback_cache = args.writeback_cache;
    options.xattr = !args.no_xattr;
    options.write_bytes_max = args.write_bytes_max.unwrap_or(options.write_bytes_max);
    options.read_ahead_kib = args.read_ahead_kib.unwrap_or(options.read_ahead_kib);
    // Before the first thread starts: all inherit it, and only the waiting thread takes one.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block().context("blocking signals")?;
    let make = |enlist| NullFs::new(options.clone(), enlist);
    let mounted = mount_other(make, &options, Arc::new(SystemClock::new()))?;
    println!("mounted {} (pid {})", mounted.mountpoint().display(), std::process::id());
    let mountpoint = mounted.mountpoint().to_owned();
    thread::spawn(move || {
        // Retried by the next signal if something inside is still open.
        while ends.wait().is_ok() {
            let _ = Command::new("umount").arg(&mountpoint).status();
        }
    });
    mounted.wait();
    Ok(())
}
