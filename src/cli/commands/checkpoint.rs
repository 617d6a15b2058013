//! `checkpoint`.

use crate::cli::args::TargetArgs;
use crate::cli::context::Context;
use crate::cli::exit::Outcome;
use crate::cli::output::Meter;
use crate::cli::receipt;
use crate::control::Command;

/// Has the daemon seal a restore point.
pub fn checkpoint(context: &Context, args: &TargetArgs) -> Outcome {
    let (_, client) = context.running(&args.target)?;
    let mut meter = Meter::new(context.clock.as_ref());
    let done = client.run(&Command::Checkpoint, &mut |view| meter.show(view));
    meter.finish();
    receipt::print(context.json, &done?)
}
