//! `status`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::args::StatusArgs;
use crate::cli::context::{Context, STATUS_DEADLINE};
use crate::cli::exit::{Failure, Outcome};
use crate::cli::facts::MountFacts;
use crate::cli::output;
use crate::cli::units::{ByteSize, Span, count};
use crate::control::{Client, ClientError, Liveness};
use crate::workspace::AheadCounts;

/// Between two questions to a mount whose daemon has died.
const PAUSE: Duration = Duration::from_millis(20);

/// Shows one mount or all of this machine.
pub fn status(context: &Context, args: &StatusArgs) -> Outcome {
    let Some(target) = &args.target else { return all(context) };
    if args.metrics {
        return output::print(&ask(context, target, &|client| client.metrics(STATUS_DEADLINE))?);
    }
    let value = ask(context, target, &|client| client.status(STATUS_DEADLINE))?;
    output::facts(context.json, &value, &describe(&value)?)
}

/// Asks the daemon; where it dies meanwhile, the one that takes over.
fn ask<T>(
    context: &Context,
    target: &str,
    question: &dyn Fn(&Client) -> Result<T, ClientError>,
) -> Outcome<T> {
    loop {
        let (entry, client) = context.running(target)?;
        let is_kept = entry.keeper.is_some_and(|keeper| keeper.runs());
        match question(&client) {
            Err(ClientError::Gone { .. } | ClientError::Broken { .. }) if is_kept => {
                // It is looked for again, and what became of the mount.
                std::thread::sleep(PAUSE);
            }
            // Between the entry and the question it may end: then nothing is mounted there.
            Err(ClientError::Gone { .. }) => return Err(context.died(&entry)),
            answer => return Ok(answer?),
        }
    }
}

fn all(context: &Context) -> Outcome {
    let mut mounts = Vec::new();
    let mut text = String::new();
    for (entry, liveness) in context.registry.list()? {
        let asked = match liveness {
            Liveness::Running => {
                Client::new(&entry.socket).status(STATUS_DEADLINE).map_err(Failure::from)
            }
            Liveness::Stale => Err(context.died(&entry)),
        };
        if !text.is_empty() {
            text.push('\n');
        }
        match asked {
            Ok(value) => {
                text.push_str(&describe(&value)?);
                mounts.push(value);
            }
            Err(failure) => {
                text.push_str(&format!("{failure}\n"));
                mounts.push(json!({
                    "mountpoint": entry.mountpoint,
                    "workspace": entry.workspace,
                    "cache_dir": entry.cache_dir,
                    "state": "dead",
                    "error": failure.message,
                }));
            }
        }
    }
    if mounts.is_empty() {
        text.push_str("nothing is mounted on this machine\n");
    }
    output::facts(context.json, &json!({"mounts": mounts}), &text)
}

fn describe(value: &Value) -> Outcome<String> {
    let facts: MountFacts = serde_json::from_value(value.clone())
        .map_err(|error| Failure::internal(format!("the daemon's status: {error}")))?;
    Ok(text(&facts))
}

fn span(secs: u64) -> Span {
    Span(Duration::from_secs(secs))
}

/// A line of the text: what it is, and what there is to say.
fn text(facts: &MountFacts) -> String {
    let status = &facts.status;
    let mut text = format!(
        "{}  {} ({}, process {})\n",
        facts.mountpoint.display(),
        status.workspace,
        status.state,
        facts.pid
    );
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<12} {value}\n"));
    if let Some(reason) = &status.fenced {
        line("FENCED", reason.clone());
    }
    if let Some(cause) = &status.local.failure {
        line("DISK FAILED", format!("{cause}; changes are refused until it is mounted again"));
    }
    line("store", facts.store_url.clone());
    line("content", format!("{}, {}", count(status.inodes, "file"), ByteSize(status.bytes)));
    line("snapshot", status.snapshot.clone().unwrap_or_else(|| "none yet".to_owned()));
    line("unsynced", unsynced(facts));
    if let Some(seconds) = status.hibernate_estimate_secs {
        let whole = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        line("hibernation", format!("would take about {}", Span(whole)));
    }
    if let Some(error) = &status.seals.last_error {
        line("last seal", format!("FAILED: {error}"));
    }
    let local = &status.local;
    line(
        "local data",
        format!(
            "{} of at most {}; journal {}, cache {}; disk has {} free",
            ByteSize(local.total),
            ByteSize(local.budget),
            ByteSize(local.journal),
            ByteSize(local.cache),
            ByteSize(local.disk_free)
        ),
    );
    line("transport", transport(&facts.transport).to_owned());
    if let Some(keeper) = facts.keeper_pid {
        let times = count(u64::from(facts.adoptions), "time");
        let text = format!("process {keeper}; taken over {times}");
        line("keeper", text);
    }
    line("cache dir", facts.cache_dir.display().to_string());
    if let Some(lease) = &status.lease {
        let (age, ttl) = (span(lease.age_secs), span(lease.ttl_secs));
        line("lease", format!("epoch {}, renewed {age} ago, lasts {ttl}", status.epoch));
    }
    let store = &status.store;
    line(
        "requests",
        format!(
            "{} GET ({}), {} PUT ({}), {} HEAD",
            store.gets,
            ByteSize(store.bytes_in),
            store.puts,
            ByteSize(store.bytes_out),
            store.stats
        ),
    );
    line("read ahead", ahead(&status.ahead));
    text
}

/// What was fetched before it was asked for, and what of it was read.
fn ahead(counts: &AheadCounts) -> String {
    let part =
        |name: &str, bytes, used| format!("{name} {} ({} read)", ByteSize(bytes), ByteSize(used));
    let mut text = [
        part("hot set", counts.hot_bytes, counts.hot_used_bytes),
        part("files", counts.reader_bytes, counts.reader_used_bytes),
        part("sweep", counts.sweep_bytes, counts.sweep_used_bytes),
        part("neighbours", counts.neighbour_bytes, counts.neighbour_used_bytes),
    ]
    .join(", ");
    if counts.left_bytes > 0 {
        text.push_str(&format!("; {} still to come", ByteSize(counts.left_bytes)));
    }
    text
}

fn transport(name: &str) -> &str {
    match name {
        "uring" => "io_uring",
        "dev" => "/dev/fuse",
        // A daemon of another version.
        _ => "unknown",
    }
}

fn unsynced(facts: &MountFacts) -> String {
    let unsynced = &facts.status.unsynced;
    if !unsynced.changed {
        return "nothing: everything is in the store".to_owned();
    }
    let mut text = format!(
        "{} in {}, oldest {}",
        ByteSize(unsynced.bytes),
        count(unsynced.files, "file"),
        span(unsynced.age_secs)
    );
    if unsynced.bytes == 0 {
        text.push_str("; but there are changes that no snapshot holds");
    }
    if unsynced.bytes_max > 0 {
        text.push_str(&format!(" (at most {})", ByteSize(unsynced.bytes_max)));
    }
    if unsynced.throttled {
        text.push_str("; writers are being slowed");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_is_not_in_the_store_yet() {
        let mut facts = MountFacts::default();
        assert!(text(&facts).contains("everything is in the store"));
        facts.status.unsynced.changed = true;
        let uploaded = text(&facts);
        assert!(
            uploaded.contains("0 B in 0 files, oldest 0s; but there are changes"),
            "{uploaded}"
        );
        facts.status.unsynced.bytes = 3 << 20;
        facts.status.unsynced.files = 2;
        facts.status.unsynced.age_secs = 61;
        let text = text(&facts);
        assert!(text.contains("3.0 MiB in 2 files, oldest 1m 1s"), "{text}");
    }
}
