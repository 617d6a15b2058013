//! `unmount`.

use serde_json::json;

use crate::cli::args::UnmountArgs;
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::output::{self, Meter};
use crate::cli::receipt;
use crate::control::Command;

/// Unmounts if nothing is in use; hibernates unless told to keep the data here.
pub fn unmount(context: &Context, args: &UnmountArgs) -> Outcome {
    let (entry, client) = context.running(&args.target)?;
    let command = Command::Unmount {
        keep_local: args.keep_local,
        timeout_secs: args.timeout.map(|span| span.0.as_secs().max(1)),
    };
    let mut meter = Meter::new(context.clock.as_ref());
    let done = client.run(&command, &mut |view| meter.show(view));
    meter.finish();
    let done = context.left(&entry, done)?;
    if args.keep_local || entry.read_only {
        let value = json!({
            "workspace": entry.workspace,
            "mountpoint": entry.mountpoint,
            "cache_dir": entry.cache_dir,
            "kept_local": args.keep_local,
        });
        let text = format!("unmounted {}\n", entry.mountpoint.display());
        return output::facts(context.json, &value, &text);
    }
    receipt::print(context.json, &done)
}
