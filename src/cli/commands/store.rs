//! `init`, `workspaces`, `snapshots`: what needs a store and no mount.

use serde_json::json;

use crate::cli::args::{InitArgs, SnapshotsArgs};
use crate::cli::context::Context;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::output::{self, table, timestamp};
use crate::cli::settings::StoreSettings;
use crate::cli::units::ByteSize;
use crate::cli::wiring::open_remote;
use crate::types::WorkspaceName;
use crate::workspace::{SnapshotInfo, Store, WorkspaceInfo};

/// Digits of an id that are shown to people: enough to tell snapshots apart and to name one.
const ID_DIGITS_SHOWN: usize = 12;

/// Makes a store; where there is one, says so and succeeds.
pub fn init(context: &Context, args: InitArgs) -> Outcome {
    let settings = StoreSettings::new(args.store, &context.config)?;
    let remote = open_remote(context, &settings)?;
    remote.create_place()?;
    let (store, made) = Store::init(remote, context.clock.as_ref())?;
    let url = settings.url.to_string();
    let text = if made {
        format!("made store {} at {url}\n", store.id())
    } else {
        format!("store {} is at {url} already; nothing was changed\n", store.id())
    };
    let value = json!({"store": url, "store_id": store.id(), "created": made});
    output::facts(context.json, &value, &text)
}

/// Lists the workspaces of a store.
pub fn workspaces(context: &Context, args: InitArgs) -> Outcome {
    let settings = StoreSettings::new(args.store, &context.config)?;
    let store = Store::open(open_remote(context, &settings)?)?;
    let list = store.workspaces()?;
    let heading = ["NAME", "SEALED", "FILES", "SIZE", "HELD BY", "SNAPSHOT"];
    let rows: Vec<_> = list.iter().map(workspace_row).collect();
    let value = json!({
        "store": settings.url.to_string(),
        "store_id": store.id(),
        "workspaces": list,
    });
    output::facts(context.json, &value, &table(&heading, &rows))
}

fn workspace_row(info: &WorkspaceInfo) -> Vec<String> {
    let holder = match (&info.holder, info.lease_expired) {
        (None, _) => "-".to_owned(),
        (Some(host), false) => host.clone(),
        (Some(host), true) => format!("{host} (expired)"),
    };
    vec![
        info.name.clone(),
        info.sealed_at.map_or_else(|| "never".to_owned(), timestamp),
        info.inodes.to_string(),
        ByteSize(info.bytes).to_string(),
        holder,
        info.snapshot.as_deref().map_or("-", short).to_owned(),
    ]
}

/// Lists the restore points of a workspace, newest first.
pub fn snapshots(context: &Context, args: SnapshotsArgs) -> Outcome {
    let name: WorkspaceName = args.name.parse().map_err(Failure::usage)?;
    let settings = StoreSettings::new(args.store, &context.config)?;
    let store = Store::open(open_remote(context, &settings)?)?;
    let mut list = store.snapshots(&name)?;
    list.reverse();
    let heading = ["SNAPSHOT", "SEALED", "BY", "FILES", "SIZE", "ADDED", ""];
    let rows: Vec<_> = list.iter().map(snapshot_row).collect();
    let value = json!({"workspace": name, "snapshots": list});
    output::facts(context.json, &value, &table(&heading, &rows))
}

fn snapshot_row(info: &SnapshotInfo) -> Vec<String> {
    vec![
        short(&info.id).to_owned(),
        timestamp(info.created),
        info.reason.clone(),
        info.inodes.to_string(),
        ByteSize(info.bytes).to_string(),
        ByteSize(info.bytes_added).to_string(),
        if info.newest { "newest" } else { "" }.to_owned(),
    ]
}

fn short(id: &str) -> &str {
    id.get(..ID_DIGITS_SHOWN).unwrap_or(id)
}
