//! How a daemon leaves: which wishes end it, what is sealed, what is unmounted when, and what
//! happens when the store can't be reached.
//!
//! - `hibernate`: seal first, then unmount, whoever is inside. On failure the mount goes on.
//! - `unmount`: unmount first, and only if nobody is inside; then seal.
//! - a signal: as `unmount`; if somebody is inside, as `hibernate`. The daemon ends either way.
//! - `umount` from outside: seal.
//!
//! Where a seal fails and the mount is gone, everything stays in the cache directory, the lease
//! stays taken, and the process ends with the failure's exit code. A signal during a seal that
//! is to end the daemon breaks it off.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use sd_notify::NotifyState;
use serde_json::Value;

use super::daemon::{Daemon, Wish};
use super::exit::{Code, Failure, Outcome};
use super::keeper::HANDED_OVER;
use super::output::phase_name;
use super::settings::{MountSettings, WorkspaceSettings};
use crate::control::{Command, Event, Server};
use crate::fuse::{FuseError, Mounted};
use crate::workspace::{ProgressView, Receipt, Workspace};

/// How long the kernel may take to hand over pages that programs have changed in memory.
const FLUSH_DEADLINE: Duration = Duration::from_secs(30);

/// How long a seal may take to end when it was broken off.
const PATIENCE: Duration = Duration::from_secs(3);

/// Name of the last hibernation's receipt in the cache directory.
const RECEIPT_NAME: &str = "receipt.json";

/// What is left to say after the last wish.
#[derive(Debug)]
pub struct Leaving {
    /// Who asked for it, and the answer.
    pub answer: Option<(Sender<Event>, Event)>,
    /// The process's own outcome.
    pub outcome: Outcome,
    /// Another program takes the mount over, which stays.
    pub is_handed_over: bool,
}

/// Waits for wishes until one of them ends the daemon.
pub fn serve(daemon: &Daemon) -> Leaving {
    loop {
        let Ok(wish) = daemon.wishes.recv() else {
            let failure = Failure::internal("nobody can tell the daemon anything any more");
            return quiet(Err(undo(daemon, failure)));
        };
        let left = match wish {
            Wish::Signal => Some(on_signal(daemon)),
            Wish::Unmounted => Some(quiet(seal_and_close(daemon, None, &mut |_| {}))),
            Wish::Command(command, events) => on_command(daemon, &command, events),
        };
        if let Some(left) = left {
            return left;
        }
    }
}

fn quiet(sealed: Outcome<Value>) -> Leaving {
    Leaving { answer: None, outcome: sealed.map(drop), is_handed_over: false }
}

/// Carries a command out; gives the end if there is one.
fn on_command(daemon: &Daemon, command: &Command, events: Sender<Event>) -> Option<Leaving> {
    let mut tell = |event| drop(events.send(event));
    let refuse = |failure: &Failure| drop(events.send(Event::Failed(failure.to_refusal())));
    let sealed = match command {
        Command::Checkpoint => {
            checkpoint(daemon, &mut tell);
            return None;
        }
        Command::Evict => {
            evict(daemon, &mut tell);
            return None;
        }
        Command::Upgrade { binary } => match upgrade(daemon, binary) {
            Ok(receipt) => {
                let answer = Some((events, Event::Done { receipt }));
                return Some(Leaving { answer, outcome: Ok(()), is_handed_over: true });
            }
            Err(failure) => {
                refuse(&failure);
                return None;
            }
        },
        Command::Hibernate { timeout_secs } => match hibernate(daemon, *timeout_secs, &mut tell) {
            Ok(receipt) => Ok(receipt),
            Err(failure) if daemon.mounted.has_ended() => Err(failure),
            // A signal broke it off, and a signal ends the daemon.
            Err(failure) if daemon.is_interrupted() => Err(undo(daemon, failure)),
            Err(failure) => {
                refuse(&failure);
                return None;
            }
        },
        Command::Unmount { keep_local, timeout_secs } => {
            flush(daemon);
            if let Err(error) = daemon.mounted.unmount(false) {
                refuse(&Failure::from(error));
                return None;
            }
            match keep_local {
                true => close(&daemon.workspace).map(|()| Value::Null),
                false => seal_and_close(daemon, *timeout_secs, &mut tell),
            }
        }
    };
    let (event, outcome) = match sealed {
        Ok(receipt) => (Event::Done { receipt }, Ok(())),
        Err(failure) => (Event::Failed(failure.to_refusal()), Err(failure)),
    };
    Some(Leaving { answer: Some((events, event)), outcome, is_handed_over: false })
}

/// Gets ready to end, for another program to take the mount over: what was begun is finished,
/// what comes now waits for the next daemon.
fn upgrade(daemon: &Daemon, binary: &Path) -> Outcome<Value> {
    let keeper = daemon.keeper.as_ref().filter(|keeper| keeper.holds()).ok_or_else(|| {
        let mountpoint = daemon.settings.mountpoint.display();
        let how = daemon.mounted.transport();
        Failure::usage(format!("the mount at {mountpoint} ends with its daemon (transport {how})"))
            .hint(
                "only a mount by /dev/fuse with a keeper can be upgraded (`mount --transport dev`, \
                 not `--keeper off`): hibernate and mount it again",
            )
    })?;
    tracing::info!(binary = %binary.display(), "handing over to another program");
    keeper.hand_over(binary.to_owned())?;
    daemon.workspace.fs().freeze();
    daemon.mounted.hold();
    // What could not be closed is recovered, as after a crash.
    if let Err(error) = daemon.workspace.close() {
        tracing::warn!(%error, "closing the local data");
    }
    Ok(serde_json::json!({
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

/// Ends this process and leaves the mount alone. The registry's entry stays: the keeper lives.
pub fn hand_over(left: Leaving, server: Server, deadline: Duration) -> ! {
    drop(left.tell());
    server.finish(deadline);
    tracing::info!("ended, for another program");
    // SAFETY: ends the process; nothing is to be destroyed that threads may still use.
    unsafe { libc::_exit(HANDED_OVER) }
}

/// Seals a restore point beside everything else.
pub fn checkpoint(daemon: &Daemon, report: &mut dyn FnMut(Event)) {
    flush(daemon);
    let sealed = daemon.workspace.checkpoint(&mut |view| {
        report(Event::Progress(*view));
        ControlFlow::Continue(())
    });
    let sealed = sealed.map_err(Failure::of_seal);
    match sealed.and_then(|receipt| to_value(&receipt)) {
        Ok(receipt) => report(Event::Done { receipt }),
        Err(failure) => report(Event::Failed(failure.to_refusal())),
    }
}

/// Empties the cache beside everything else.
pub fn evict(daemon: &Daemon, report: &mut dyn FnMut(Event)) {
    match daemon.workspace.evict() {
        Ok(bytes) => report(Event::Done { receipt: serde_json::json!({"evicted_bytes": bytes}) }),
        Err(error) => report(Event::Failed(Failure::from(error).to_refusal())),
    }
}

fn to_value(receipt: &Receipt) -> Outcome<Value> {
    serde_json::to_value(receipt).map_err(Failure::internal)
}

/// Seals, then unmounts whoever is inside. On failure everything is as before.
fn hibernate(
    daemon: &Daemon,
    timeout_secs: Option<u64>,
    report: &mut dyn FnMut(Event),
) -> Outcome<Value> {
    if daemon.settings.workspace.read_only() {
        take_away(&daemon.mounted);
        close(&daemon.workspace)?;
        return Ok(read_only_receipt(daemon));
    }
    flush(daemon);
    let sealed = seal(daemon, timeout_secs, report);
    let receipt = sealed.map_err(|failure| match daemon.mounted.has_ended() {
        true => close_after(&daemon.workspace, failure),
        false => {
            let more = stays_mounted(&daemon.settings.mountpoint, failure.code);
            failure.also(more)
        }
    })?;
    take_away(&daemon.mounted);
    close_sealed(&daemon.workspace);
    Ok(receipt)
}

/// What a mount is good for that could not be hibernated, and what may help.
fn stays_mounted(mountpoint: &Path, code: Code) -> String {
    let mountpoint = mountpoint.display();
    match code {
        Code::Fenced => format!(
            "{mountpoint} stays mounted, read-only: copy out what was not sealed, then `dormouse \
             unmount --keep-local {mountpoint}`"
        ),
        Code::Unreachable | Code::Denied | Code::NoSpace | Code::Busy => {
            format!("{mountpoint} stays mounted; give the same command again")
        }
        _ => format!("{mountpoint} stays mounted"),
    }
}

/// Where what could not be sealed is, once the mount is gone, and what goes on with it.
fn kept_here(settings: &WorkspaceSettings, code: Code) -> String {
    let (dir, name) = (settings.cache_dir.display(), &settings.name);
    let flags = settings.cache_flags();
    match code {
        Code::Fenced => format!(
            "what was not sealed before is kept in {dir}: `dormouse mount --cache-dir ANOTHER \
             {name}` shows what the other writer made, and --discard-local drops what is here"
        ),
        _ => format!(
            "not everything is in the store: it is kept in {dir}; `dormouse hibernate {flags}\
             {name}` or `dormouse mount {flags}{name}` on this machine goes on"
        ),
    }
}

/// There is nothing to seal: says so in the receipt's words.
fn read_only_receipt(daemon: &Daemon) -> Value {
    let receipt = Receipt {
        workspace: daemon.settings.workspace.name.to_string(),
        snapshot: daemon.workspace.status().snapshot,
        reason: "hibernate".to_owned(),
        ..Receipt::default()
    };
    to_value(&receipt).unwrap_or(Value::Null)
}

/// The mount is to go: politely, else out of sight at once, its users getting errors.
fn take_away(mounted: &Mounted) {
    match mounted.unmount(false) {
        Ok(()) => return,
        Err(FuseError::Busy(_)) => tracing::warn!("files are still in use: they get errors now"),
        Err(error) => tracing::warn!(%error, "unmounting"),
    }
    if let Err(error) = mounted.unmount(true) {
        tracing::error!(%error, "the mount stays in the table");
    }
    if let Err(error) = mounted.abort() {
        tracing::error!(%error, "the connection lives until this process ends");
    }
}

/// A signal: leave, whoever is inside; a seal if the store can be reached.
fn on_signal(daemon: &Daemon) -> Leaving {
    daemon.notify(&[NotifyState::Stopping, NotifyState::Status("hibernating")]);
    flush(daemon);
    match daemon.mounted.unmount(false) {
        Ok(()) => quiet(seal_and_close(daemon, None, &mut |_| {})),
        Err(error) => {
            tracing::warn!(%error, "sealing under open files");
            let sealed = seal_and_close(daemon, None, &mut |_| {});
            take_away(&daemon.mounted);
            quiet(sealed)
        }
    }
}

/// Seals; if that fails, closes what is kept here. For when the mount is gone or will be.
fn seal_and_close(
    daemon: &Daemon,
    timeout_secs: Option<u64>,
    report: &mut dyn FnMut(Event),
) -> Outcome<Value> {
    if daemon.settings.workspace.read_only() {
        close(&daemon.workspace)?;
        return Ok(read_only_receipt(daemon));
    }
    let settings = &daemon.settings.workspace;
    let receipt = seal(daemon, timeout_secs, report).map_err(|failure| {
        let code = failure.code;
        close_after(&daemon.workspace, failure).also(kept_here(settings, code))
    })?;
    close_sealed(&daemon.workspace);
    Ok(receipt)
}

/// The seal itself, with its deadline, its progress, and an ear for signals.
fn seal(
    daemon: &Daemon,
    timeout_secs: Option<u64>,
    report: &mut dyn FnMut(Event),
) -> Outcome<Value> {
    let until = timeout_secs.map(|secs| daemon.clock.monotonic() + Duration::from_secs(secs));
    let mut told = None;
    let sealed = daemon.workspace.hibernate(until, &mut |view: &ProgressView| {
        report(Event::Progress(*view));
        if told.replace(view.phase) != Some(view.phase) {
            daemon.notify(&[NotifyState::Status(phase_name(view.phase))]);
        }
        if !daemon.is_interrupted() && was_signalled(daemon) {
            daemon.interrupt();
            leave_soon(daemon);
        }
        match daemon.is_interrupted() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    let receipt = sealed.map_err(Failure::of_seal)?;
    keep_receipt(&daemon.settings.workspace.cache_dir, &receipt);
    to_value(&receipt)
}

/// The receipt stays where nobody waited for it: after a signal or an `umount` from outside.
fn keep_receipt(cache_dir: &Path, receipt: &Receipt) {
    let path = cache_dir.join(RECEIPT_NAME);
    let draft = cache_dir.join(format!("{RECEIPT_NAME}.new"));
    let keep = || -> std::io::Result<()> {
        std::fs::write(&draft, serde_json::to_vec_pretty(receipt)?)?;
        std::fs::rename(&draft, &path)
    };
    match keep() {
        Ok(()) => tracing::info!(snapshot = ?receipt.snapshot, "everything is in the store"),
        Err(error) => tracing::warn!(%error, ?receipt, "the receipt could not be kept"),
    }
}

/// Whether a signal came meanwhile. Commands that wait are refused; an unmount is known anyway.
fn was_signalled(daemon: &Daemon) -> bool {
    let mut signalled = false;
    for wish in daemon.wishes.try_iter() {
        match wish {
            Wish::Signal => signalled = true,
            Wish::Unmounted => {}
            Wish::Command(_, events) => {
                let failure = Failure::new(Code::Busy, "the workspace is being hibernated");
                drop(events.send(Event::Failed(failure.to_refusal())));
            }
        }
    }
    signalled
}

/// Ends the process a little later, unless it has ended by then: an upload under way may take
/// its time to stop. Nothing is lost by it, as nothing is by a crash: the next mount recovers.
fn leave_soon(daemon: &Daemon) {
    tracing::warn!("broken off: what is not in the store stays in the cache directory");
    let mounted = Arc::clone(&daemon.mounted);
    let end = move || {
        std::thread::sleep(PATIENCE);
        take_away(&mounted);
        tracing::warn!("left in the middle of an upload");
        std::process::exit(i32::from(Code::Unreachable.number()));
    };
    if let Err(error) = std::thread::Builder::new().name("leave-soon".into()).spawn(end) {
        tracing::error!(%error, "starting a thread: uploads under way are waited for");
    }
}

/// Pages that programs changed in memory reach the workspace before its cut.
fn flush(daemon: &Daemon) {
    if daemon.settings.workspace.read_only() {
        return;
    }
    if let Err(error) = daemon.mounted.flush(FLUSH_DEADLINE) {
        tracing::warn!(%error, "pages of mapped files may be missing in this snapshot");
    }
}

fn close(workspace: &Workspace) -> Outcome {
    workspace.close().map_err(Failure::from)
}

/// Closes what is kept here when the store has everything: what goes wrong now costs the cache
/// at most, and the hibernation did not fail.
fn close_sealed(workspace: &Workspace) {
    if let Err(error) = workspace.close() {
        tracing::warn!(%error, "everything is in the store, but the local data did not close well");
    }
}

/// Closes what is kept here after a failure, which stays the one that is reported.
pub fn close_after(workspace: &Workspace, failure: Failure) -> Failure {
    if let Err(error) = workspace.close() {
        tracing::error!(%error, "closing the local data");
    }
    failure
}

/// The workspace was resumed and can't be mounted: nothing was written, so its lease is given
/// back where the store answers.
pub fn abandon(workspace: &Workspace, settings: &MountSettings, failure: Failure) -> Failure {
    if !settings.workspace.read_only() {
        let until = Some(settings.workspace.store.remote.deadline);
        match workspace.hibernate(until, &mut |_| ControlFlow::Continue(())) {
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the lease could not be given back"),
        }
    }
    close_after(workspace, failure)
}

/// The mount was made and can't be used: takes it away and keeps the data here.
pub fn undo(daemon: &Daemon, failure: Failure) -> Failure {
    take_away(&daemon.mounted);
    close_after(&daemon.workspace, failure)
}
