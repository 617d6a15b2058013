//! The command line: arguments, settings, wiring, commands, output. The only layer that builds
//! across layers, and the only one that reads the process's environment.
//!
//! Promises: every failure ends with a message that says what happened, to what, and what to do,
//! and with the exit code that `docs/cli.md` gives it; with `--json`, standard output holds one
//! JSON document and nothing else; no secret is ever printed or logged.

mod allocator;
mod args;
mod commands;
mod config;
mod context;
mod daemon;
mod exit;
mod facts;
mod failures;
mod help;
mod keeper;
mod leave;
mod logging;
mod mount_helper;
mod output;
mod parse;
mod paths;
mod receipt;
mod settings;
mod signals;
mod spawn;
mod throw_away;
mod units;
mod wiring;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

pub use self::config::Config;

use self::args::{Cli, CommandArgs};
use self::context::Context;
use self::exit::{Code, Failure, Outcome};
use self::settings::Environment;
use crate::control::Registry;
use crate::types::SystemClock;

/// Runs the command line; the exit code is documented in `docs/cli.md`.
#[must_use]
pub fn main() -> ExitCode {
    let mut line: Vec<OsString> = std::env::args_os().collect();
    if line.first().is_some_and(|program| mount_helper::is_helper(program)) {
        line = match mount_helper::translate(line) {
            Ok(Some(line)) => line,
            Ok(None) => return ExitCode::SUCCESS,
            Err(failure) => return ended(false, Err(failure)),
        };
    }
    let cli = match parse::parse(&line) {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error, &line),
    };
    let json = cli.json;
    ended(json, run(cli, &line))
}

/// Help and version go to standard output and are no failure; mistakes are usage errors.
fn not_understood(error: &clap::Error, line: &[OsString]) -> ExitCode {
    if error.use_stderr() && parse::wants_json(line) {
        return ended(true, Err(parse::failure(error, line)));
    }
    // Nothing can be done if even that can't be written.
    drop(error.print());
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if let Some(note) = parse::variable_at_fault(error, line) {
        output::note(&note);
    }
    ExitCode::from(Code::Usage.number())
}

fn ended(json: bool, outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_said {
                output::failure(json, &failure);
            }
            ExitCode::from(failure.code.number())
        }
    }
}

fn run(cli: Cli, line: &[OsString]) -> Outcome {
    let config = config::load(cli.config.as_deref())?;
    let log = cli.log.over(config.log.clone());
    let env = Environment::read()?;
    let registry = Registry::new(paths::runtime_dir(&env));
    let clock = Arc::new(SystemClock::new());
    let context = Context { json: cli.json, config, env, registry, clock };
    if let CommandArgs::Mount(args) = cli.command {
        // Decides itself where its log goes.
        return commands::mount(&context, args, &log, line);
    }
    logging::start(&log, "warn")?;
    match cli.command {
        CommandArgs::Init(args) => commands::init(&context, args),
        CommandArgs::Mount(_) => Err(Failure::internal("mount was dealt with above")),
        CommandArgs::Hibernate(args) => commands::hibernate(&context, args),
        CommandArgs::Checkpoint(args) => commands::checkpoint(&context, &args),
        CommandArgs::Unmount(args) => commands::unmount(&context, &args),
        CommandArgs::Upgrade(args) => commands::upgrade(&context, &args),
        CommandArgs::Status(args) => commands::status(&context, &args),
        CommandArgs::Workspaces(args) => commands::workspaces(&context, args),
        CommandArgs::Snapshots(args) => commands::snapshots(&context, args),
        CommandArgs::Verify(args) => commands::verify(&context, args),
        CommandArgs::Completions { shell } => commands::completions(shell),
        CommandArgs::Man { out } => commands::man(&context, out.as_deref()),
        CommandArgs::ExitCodes => commands::exit_codes(&context),
    }
}
