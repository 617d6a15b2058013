//! `hibernate`: through the daemon where one runs; otherwise with what a dead one left behind.

use std::ops::ControlFlow;

use clap::Parser as _;

use crate::cli::args::{Cli, CommandArgs, HibernateArgs, TuningArgs};
use crate::cli::context::{Context, Target};
use crate::cli::exit::{Code, Failure, Outcome};
use crate::cli::output::{self, Meter};
use crate::cli::paths::CacheUse;
use crate::cli::settings::{MountSettings, StoreSettings, WorkspaceSettings};
use crate::cli::{paths, receipt, wiring};
use crate::control::{Client, Command, Registration};
use crate::fuse;

/// Puts everything into the store, unmounts, gives the lease back.
pub fn hibernate(context: &Context, args: HibernateArgs) -> Outcome {
    match context.find(&args.target)? {
        Target::Running(entry) if is_of_other_data(context, &args, &entry)? => {
            left_behind(context, args)
        }
        // A mount that only looks has nothing to put anywhere; local data of a writer may have.
        Target::Running(entry) if entry.read_only && !args.target.contains('/') => {
            match left_behind(context, args.clone()) {
                Err(failure) if failure.code == Code::NotFound => running(context, &args, &entry),
                done => done,
            }
        }
        Target::Running(entry) => running(context, &args, &entry),
        Target::Stale(entry) => stale(context, &args, &entry),
        Target::Unknown => left_behind(context, args),
    }
}

/// Whether a cache directory was named, and it is not that of the mount which runs.
fn is_of_other_data(
    context: &Context,
    args: &HibernateArgs,
    entry: &Registration,
) -> Outcome<bool> {
    let Some(named) = &args.cache_dir else { return Ok(false) };
    Ok(paths::absolute(named, &context.env)? != entry.cache_dir)
}

fn running(context: &Context, args: &HibernateArgs, entry: &Registration) -> Outcome {
    let timeout_secs = args.timeout.map(|span| span.0.as_secs().max(1));
    let mut meter = Meter::new(context.clock.as_ref());
    let command = Command::Hibernate { timeout_secs };
    let done = Client::new(&entry.socket).run(&command, &mut |view| meter.show(view));
    meter.finish();
    let done = context.left(entry, done)?;
    receipt::print(context.json, &done)
}

/// The registry says what the dead daemon worked with.
fn stale(context: &Context, args: &HibernateArgs, entry: &Registration) -> Outcome {
    fuse::detach_dead(&entry.mountpoint)?;
    if entry.read_only {
        context.registry.unregister(&entry.mountpoint)?;
        return Err(context.unknown(&args.target));
    }
    let mut line = vec!["dormouse".into(), "mount".into()];
    line.extend(entry.store_flags.iter().map(std::ffi::OsString::from));
    line.extend(["--cache-dir".into(), entry.cache_dir.clone().into(), "--".into()]);
    line.extend([entry.workspace.clone().into(), entry.mountpoint.clone().into()]);
    let cli = Cli::try_parse_from(line).map_err(Failure::internal)?;
    let CommandArgs::Mount(mount) = cli.command else {
        return Err(Failure::internal("the registry's entry is not a mount"));
    };
    let settings = MountSettings::new(mount, &context.config, &context.env)?.workspace;
    recover(context, &settings, args)?;
    Ok(context.registry.unregister(&entry.mountpoint)?)
}

/// Nothing is registered: after a reboot, or in the wrong place. Local data tells which.
fn left_behind(context: &Context, args: HibernateArgs) -> Outcome {
    if args.target.contains('/') {
        return Err(context.unknown(&args.target));
    }
    let tuning = TuningArgs {
        cache_dir: args.cache_dir.clone(),
        cache_root: args.cache_root.clone(),
        ..TuningArgs::default()
    };
    let store = match StoreSettings::new(args.store.clone(), &context.config) {
        Ok(store) => store,
        Err(failure) if failure.code == Code::Usage && args.store.url.is_none() => {
            return Err(context.unknown(&args.target).also(
                "for local data that a dead daemon left, name the store as well: --store URL",
            ));
        }
        Err(failure) => return Err(failure),
    };
    let tuning = tuning.over(context.config.mount.clone());
    let name = &args.target;
    let settings = WorkspaceSettings::new(name, store, &tuning, CacheUse::Writer, &context.env)?;
    if !settings.cache_dir.is_dir() {
        let dir = settings.cache_dir.display();
        let failure = context.unknown(name).hint(format!("there is no local data either ({dir})"));
        return Err(match args.cache_dir {
            Some(_) => failure,
            None => failure.also("name it as `mount` was told to: --cache-dir or --cache-root"),
        });
    }
    recover(context, &settings, &args)
}

/// Resumes what is in the cache directory without a mount, and hibernates it.
fn recover(context: &Context, settings: &WorkspaceSettings, args: &HibernateArgs) -> Outcome {
    if !context.json {
        output::note(&format!("recovering {}", settings.cache_dir.display()));
    }
    let workspace = wiring::resume(context, settings, wiring::Kept::default())?;
    let until = args.timeout.map(|span| context.clock.monotonic() + span.0);
    let mut meter = Meter::new(context.clock.as_ref());
    let sealed = workspace.hibernate(until, &mut |view| {
        meter.show(view);
        ControlFlow::Continue(())
    });
    meter.finish();
    let closed = workspace.close();
    let sealed = sealed.map_err(Failure::of_seal)?;
    let value = serde_json::to_value(&sealed).map_err(Failure::internal)?;
    closed?;
    receipt::print(context.json, &value)
}
