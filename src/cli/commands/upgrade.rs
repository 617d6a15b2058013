//! `upgrade`: another program takes a mount over.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::cli::args::UpgradeArgs;
use crate::cli::context::{Context, STATUS_DEADLINE};
use crate::cli::exit::{Code, Failure, Outcome};
use crate::cli::facts::MountFacts;
use crate::cli::output;
use crate::control::{Client, Command, Liveness, Registration};

/// How often is looked whether the new daemon is there.
const POLL: Duration = Duration::from_millis(20);

/// Replaces the daemon of a mount; the mount goes on.
pub fn upgrade(context: &Context, args: &UpgradeArgs) -> Outcome {
    let (entry, client) = context.running(&args.target)?;
    let binary = match &args.binary {
        Some(path) => context.absolute(path)?,
        None => std::env::current_exe()
            .map_err(|error| Failure::internal(format!("/proc/self/exe: {error}")))?,
    };
    let wanted = version(&binary)?;
    let command = Command::Upgrade { binary: binary.clone() };
    let before = client.run(&command, &mut |_| {})?;
    let after = wait_for_next(context, &entry)?;
    if let Some(why) = &after.failed_upgrade {
        let message = format!("{} did not take the mount over: {why}", binary.display());
        return Err(Failure::internal(message).hint(format!(
            "version {} serves {} again; see {}",
            after.version,
            entry.mountpoint.display(),
            entry.cache_dir.join(crate::cli::logging::FILE_NAME).display()
        )));
    }
    let old = before["version"].as_str().unwrap_or(&entry.version).to_owned();
    let value = json!({
        "workspace": entry.workspace,
        "mountpoint": entry.mountpoint,
        "old_version": old,
        "new_version": after.version,
        "old_pid": entry.pid,
        "pid": after.pid,
        "keeper_pid": after.keeper_pid,
        "binary": binary,
    });
    let (mountpoint, new) = (entry.mountpoint.display(), &after.version);
    let text = format!("{mountpoint} is served by version {new} now (before: {old}; {wanted})\n");
    output::facts(context.json, &value, &text)
}

/// What the program says that it is. Asked before anything is done, as one that can't even say
/// that can't take over.
fn version(binary: &Path) -> Outcome<String> {
    let said = std::process::Command::new(binary).arg("--version").output();
    let no = |why: String| {
        let hint = "the mount was left alone";
        Failure::usage(format!("{}: {why}", binary.display())).hint(hint)
    };
    let said = said.map_err(|error| no(error.to_string()))?;
    let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    match said.status.success() && text.starts_with("dormouse ") {
        true => Ok(text),
        false => Err(no(String::from("it does not say that it is a dormouse"))),
    }
}

/// Waits until another daemon serves the mount, or nobody will.
fn wait_for_next(context: &Context, before: &Registration) -> Outcome<MountFacts> {
    loop {
        let next = match context.registry.find(&before.mountpoint)? {
            Some((entry, Liveness::Running)) => Some(entry),
            Some((_, Liveness::Stale)) | None => None,
        };
        let Some(entry) = next else {
            let mountpoint = PathBuf::from(&before.mountpoint);
            let message = format!("nobody took the mount at {} over", mountpoint.display());
            return Err(Failure::new(Code::Internal, message).hint(format!(
                "nothing that was written is lost: `dormouse mount` goes on; local data: {}",
                before.cache_dir.display()
            )));
        };
        if entry.daemon() != before.daemon() && entry.daemon().runs() {
            let facts = Client::new(&entry.socket).status(STATUS_DEADLINE)?;
            return serde_json::from_value(facts).map_err(Failure::internal);
        }
        std::thread::sleep(POLL);
    }
}
