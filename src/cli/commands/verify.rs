//! `verify`.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::ops::ControlFlow;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::args::VerifyArgs;
use crate::cli::context::Context;
use crate::cli::exit::{Code, Failure, Outcome};
use crate::cli::output;
use crate::cli::settings::StoreSettings;
use crate::cli::units::{ByteSize, count};
use crate::cli::wiring::open_remote;
use crate::types::WorkspaceName;
use crate::workspace::{
    Affected, Depth, Store, VerifyOptions, VerifyReport, VerifyView, WorkspaceError,
};

/// Packs read at once, and paths told for each problem and snapshot, where it is not said.
const JOBS: u16 = 4;
const PATHS: u32 = 20;

/// Snapshots that are told for each problem on a terminal; `--json` has all.
const SNAPSHOTS_SHOWN: usize = 10;

/// Verifies a workspace or all of them.
pub fn verify(context: &Context, args: VerifyArgs) -> Outcome {
    let name = args.name.as_deref().map(str::parse::<WorkspaceName>).transpose();
    let name = name.map_err(Failure::usage)?;
    let settings = StoreSettings::new(args.store.clone(), &context.config)?;
    let remote = open_remote(context, &settings)?;
    let store = match Store::open(Arc::clone(&remote)) {
        Err(WorkspaceError::NoStore) => {
            return Err(match Store::remains(&remote)? {
                Some(what) => Failure::new(Code::Damaged, what),
                None => WorkspaceError::NoStore.into(),
            });
        }
        opened => opened?,
    };
    let options = options(context, &args, name, &store)?;
    let meter = Meter::new(args.no_progress);
    let report = store.verify(&options, &mut |view| meter.show(view));
    meter.finish();
    let report = report?;
    output::facts(context.json, &report, &text(&report))?;
    if report.sound {
        return Ok(());
    }
    let problems = report.problems.len() as u64 + report.problems_left_out;
    let what = match problems {
        1 => "the store is damaged: 1 object is not as it must be".to_owned(),
        _ => format!("the store is damaged: {problems} objects are not as they must be"),
    };
    Err(Failure::new(Code::Damaged, what).hint(
        "what is not named above is sound; keep the objects, and mount an older snapshot with --at",
    ))
}

fn options(
    context: &Context,
    args: &VerifyArgs,
    workspace: Option<WorkspaceName>,
    store: &Store,
) -> Outcome<VerifyOptions> {
    let depth = match (args.quick, args.sample) {
        (true, _) => Depth::Quick,
        (false, None) => Depth::Full,
        (false, Some(percent)) => {
            let mut seed = [0; 8];
            getrandom::fill(&mut seed).map_err(Failure::internal)?;
            // Short enough to be typed again.
            let random = u64::from_le_bytes(seed) % 1_000_000_000;
            Depth::Sample { percent, seed: args.seed.unwrap_or(random) }
        }
    };
    let snapshot = match (&workspace, &args.snapshot) {
        (Some(name), Some(text)) => Some(store.find_snapshot(name, text)?),
        _ => None,
    };
    Ok(VerifyOptions {
        workspace,
        snapshot,
        depth,
        jobs: args.jobs.unwrap_or(JOBS).into(),
        paths_max: args.paths.unwrap_or(PATHS) as usize,
        scratch: context.absolute(&args.scratch_dir)?,
    })
}

/// The report for people.
fn text(report: &VerifyReport) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        add(
            &mut text,
            format_args!("{}: {}: {}", problem.object, problem.kind.name(), problem.what),
        );
        for affected in problem.affected.iter().take(SNAPSHOTS_SHOWN) {
            add_affected(&mut text, affected);
        }
        let more = problem.affected.len().saturating_sub(SNAPSHOTS_SHOWN);
        if more > 0 {
            let more = count(more as u64, "more snapshot");
            add(&mut text, format_args!("  and {more} (all with --json)"));
        }
        if problem.affected.is_empty() {
            add(&mut text, format_args!("  no file that a snapshot holds is hit"));
        }
    }
    if report.problems_left_out > 0 {
        add(&mut text, format_args!("and {} more", report.problems_left_out));
    }
    for workspace in &report.workspaces {
        let (name, snapshots) = (&workspace.name, count(workspace.snapshots, "snapshot"));
        let (files, bytes) = (count(workspace.inodes, "file"), ByteSize(workspace.bytes));
        add(&mut text, format_args!("{name}: {snapshots}; the newest has {files}, {bytes}"));
    }
    let counts = &report.counts;
    let read = ByteSize(counts.bytes_read);
    add(
        &mut text,
        format_args!(
            "looked at {} and {} in {} of metadata, {} in {}; read of these: {}, with {} that \
             are right; {read} read",
            count(counts.nodes, "node"),
            count(counts.records, "record"),
            count(counts.tree_packs, "pack"),
            count(counts.chunks, "chunk"),
            count(counts.data_packs, "pack"),
            count(counts.data_packs_read, "pack"),
            count(counts.chunks_sound, "chunk"),
        ),
    );
    if let Some(seed) = report.sample_seed {
        add(&mut text, format_args!("the sample's seed is {seed}"));
    }
    let loose = &report.unreferenced;
    if loose.packs > 0 {
        let bytes = ByteSize(loose.pack_bytes);
        add(
            &mut text,
            format_args!(
                "{} ({bytes}) in no snapshot: of a seal under way, or left by a crash",
                count(loose.packs, "pack")
            ),
        );
    }
    for key in &loose.snapshots {
        add(&mut text, format_args!("{key}: the head does not descend from it"));
    }
    for key in &loose.strangers {
        add(&mut text, format_args!("{key}: not an object of Dormouse"));
    }
    if report.sound {
        add(&mut text, format_args!("everything that was looked at is sound"));
    }
    text
}

fn add_affected(text: &mut String, affected: &Affected) {
    let Affected { workspace, snapshot, everything, files, paths } = affected;
    let place = match snapshot {
        Some(id) => format!("{workspace}, snapshot {}", id.get(..12).unwrap_or(id)),
        None => format!("{workspace}, head"),
    };
    let what = match (everything, files) {
        (true, _) => "everything".to_owned(),
        (false, 0) if paths.is_empty() => "no file".to_owned(),
        (false, files) => count(*files, "file"),
    };
    add(text, format_args!("  {place}: {what}"));
    for path in paths {
        add(text, format_args!("    {path}"));
    }
    if !everything && *files > paths.len() as u64 {
        let more = files - paths.len() as u64;
        add(text, format_args!("    and {more} more (--paths tells more)"));
    }
}

fn add(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}

/// Shows on a terminal how far it is.
struct Meter(Option<ProgressBar>);

impl Meter {
    fn new(hidden: bool) -> Meter {
        Meter(
            (!hidden && io::stderr().is_terminal())
                .then(|| ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr())),
        )
    }

    fn show(&self, view: &VerifyView) -> ControlFlow<()> {
        if let Some(bar) = &self.0 {
            let style = match (view.is_bytes, view.total) {
                (_, 0) => "{msg}",
                (true, _) => "{msg:<24} [{bar:30}] {bytes}/{total_bytes}, {eta} left",
                (false, _) => "{msg:<24} [{bar:30}] {pos}/{len}",
            };
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_length(view.total.max(view.done));
            bar.set_position(view.done);
            bar.set_message(view.step);
        }
        ControlFlow::Continue(())
    }

    fn finish(self) {
        if let Some(bar) = self.0 {
            bar.finish_and_clear();
        }
    }
}
