//! `mount`: checks, then the daemon, here or in the background.

use std::ffi::OsString;

use crate::cli::args::{LogArgs, MountArgs};
use crate::cli::context::Context;
use crate::cli::exit::{Code, Failure, Outcome};
use crate::cli::settings::{MountSettings, WorkspaceSettings};
use crate::cli::units::ByteSize;
use crate::cli::{daemon, keeper, logging, output, paths, spawn, wiring};
use crate::control::Liveness;
use crate::fuse::{self, FuseError};
use crate::local::{self, LocalOptions};

/// Mounts a workspace. In the background it returns when the mount is usable; in the foreground
/// when it is over.
pub fn mount(context: &Context, args: MountArgs, log: &LogArgs, line: &[OsString]) -> Outcome {
    let mut settings = MountSettings::new(args, &context.config, &context.env)?;
    if let Some(descriptors) = &context.env.kept {
        // Its keeper has looked at the place; and what is taken over lies there.
        return daemon::run(context, settings, log, Some(descriptors));
    }
    if let Some(state) = &context.env.keeper_state {
        return keeper::resume(context, &settings, log, (line, state));
    }
    check_place(context, &mut settings)?;
    check_room(context, &settings.workspace)?;
    if context.env.ready_on_stdout || settings.foreground {
        return match wiring::wants_keeper(&settings) {
            true => keeper::run(context, &settings, log, line),
            false => daemon::run(context, settings, log, None),
        };
    }
    logging::start(log, "warn")?;
    let facts = spawn::daemon(line)?;
    let text = format!(
        "{} is mounted at {}{}\n",
        settings.workspace.name,
        settings.mountpoint.display(),
        if settings.workspace.read_only() { ", read-only" } else { "" }
    );
    output::facts(context.json, &facts, &text)
}

/// Free bytes of the disk, beyond its reserve, below which a mount is of no use: local data takes
/// some before anything is written.
const ROOM_BYTES_MIN: u64 = 16 << 20;

/// Refuses a disk on which nothing could be written. Where there is local data already, it is used
/// all the same: what it holds is to get into the store, and to be read.
fn check_room(context: &Context, workspace: &WorkspaceSettings) -> Outcome {
    let dir = &workspace.cache_dir;
    let reserve = LocalOptions::default().disk_reserve_bytes;
    let wanted = reserve + ROOM_BYTES_MIN;
    let Some(free) = paths::disk_free(dir).filter(|&free| free < wanted) else { return Ok(()) };
    let (reserve, wanted) = (ByteSize(reserve), ByteSize(wanted));
    let message = format!(
        "the disk of the cache directory {} has {} free: {reserve} of a disk are left free for \
         metadata and removals, so hardly anything could be written",
        dir.display(),
        ByteSize(free)
    );
    let advice = format!(
        "make room there ({wanted} at least), or name another disk: --cache-dir or --cache-root"
    );
    if !workspace.read_only() && !local::is_there(dir) {
        return Err(Failure::new(Code::NoSpace, message).hint(advice));
    }
    // The daemon's process comes by here as well.
    if !workspace.read_only() && !context.env.ready_on_stdout {
        output::note(&format!("dormouse: {message}\n  {advice}"));
    }
    Ok(())
}

/// Refuses a place that can't be mounted on before anything is asked of the store. What a dead
/// daemon left there is taken away first.
fn check_place(context: &Context, settings: &mut MountSettings) -> Outcome {
    let mountpoint = &settings.mountpoint;
    match context.registry.find(mountpoint)? {
        Some((entry, Liveness::Running)) => {
            let message = format!(
                "{}: workspace {} is mounted there by process {}",
                mountpoint.display(),
                entry.workspace,
                entry.pid
            );
            return Err(Failure::new(Code::Busy, message).hint("`dormouse status` shows it"));
        }
        Some((_, Liveness::Stale)) => {
            fuse::detach_dead(mountpoint)?;
            // On a busy machine it shows late that nobody answers there any more.
            if matches!(fuse::check_mountpoint(mountpoint), Err(FuseError::Dead(_))) {
                fuse::detach_dead(mountpoint)?;
            }
        }
        None => {}
    }
    settings.mountpoint = fuse::check_mountpoint(mountpoint)?;
    Ok(())
}
