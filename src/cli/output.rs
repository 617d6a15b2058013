//! What commands print: facts for people or as JSON on standard output, progress and failures on
//! standard error.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::exit::{Failure, Outcome};
use super::units::{ByteSize, Span, count};
use crate::types::{Clock, Time};
use crate::workspace::{Phase, ProgressView};

/// Plain progress lines are at least this far apart, unless the phase changes.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Prints facts: the value as JSON, or the text for people.
pub fn facts(json: bool, value: &impl Serialize, text: &str) -> Outcome {
    if json {
        let line = serde_json::to_string_pretty(value).map_err(Failure::internal)?;
        print(&format!("{line}\n"))
    } else {
        print(text)
    }
}

/// Writes to standard output. A reader that has gone away (`| head`) is not a failure.
pub fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::internal(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Says why a command failed. Nothing can be done if even that can't be written.
pub fn failure(json: bool, failure: &Failure) {
    let text = if json { failure.to_json().to_string() } else { format!("dormouse: {failure}") };
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// A note for people that is not part of the result.
pub fn note(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Rows under a heading, columns as wide as their widest cell; columns of numbers to the right.
#[must_use]
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heading[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut text = String::new();
    let heading: Vec<String> = heading.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&heading).chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `2026-11-20T13:02:11Z`.
#[must_use]
pub fn timestamp(unix_secs: i64) -> String {
    humantime::format_rfc3339_seconds(Time::new(unix_secs, 0).into()).to_string()
}

/// What a step of a seal is called.
#[must_use]
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Idle => "waiting",
        Phase::Settling => "compressing",
        Phase::Uploading => "uploading",
        Phase::Tree => "writing metadata",
        Phase::Confirming => "confirming",
        Phase::Head => "sealing",
        Phase::Done => "done",
    }
}

/// Shows how far a seal is: a bar on a terminal, otherwise a line now and then.
pub struct Meter<'a> {
    clock: &'a dyn Clock,
    bar: Option<ProgressBar>,
    last: Option<(Phase, Duration)>,
}

impl std::fmt::Debug for Meter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").field("last", &self.last).finish_non_exhaustive()
    }
}

impl<'a> Meter<'a> {
    /// A meter on standard error.
    #[must_use]
    pub fn new(clock: &'a dyn Clock) -> Meter<'a> {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = "{msg:<18} [{bar:30}] {bytes}/{total_bytes} {prefix}";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Meter { clock, bar, last: None }
    }

    /// Shows one look.
    pub fn show(&mut self, view: &ProgressView) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(view.bytes_total.max(view.bytes_done));
                bar.set_position(view.bytes_done);
                bar.set_message(phase_name(view.phase));
                bar.set_prefix(aside(view));
            }
            None => self.line(view),
        }
    }

    fn line(&mut self, view: &ProgressView) {
        let now = self.clock.monotonic();
        let due = self
            .last
            .is_none_or(|(phase, at)| phase != view.phase || now.saturating_sub(at) >= LINE_EVERY);
        if due && view.phase != Phase::Idle {
            self.last = Some((view.phase, now));
            note(&plain_line(view));
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn plain_line(view: &ProgressView) -> String {
    let (done, total) = (ByteSize(view.bytes_done), ByteSize(view.bytes_total));
    let phase = phase_name(view.phase);
    format!("{phase}: {done} of {total}, {}", aside(view))
}

fn aside(view: &ProgressView) -> String {
    let packs = count(view.packs_done, "pack");
    match view.remaining_secs {
        Some(left) => format!("{packs}, {} left", Span(Duration::from_secs(left))),
        None => packs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_its_columns_up() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), String::new()]];
        assert_eq!(table(&["N", "COUNT"], &rows), "N     COUNT\na     1\nlong\n");
    }

    #[test]
    fn a_line_of_progress_says_phase_bytes_packs_and_time() {
        let view = ProgressView {
            phase: Phase::Uploading,
            bytes_total: 2 << 20,
            bytes_done: 1 << 20,
            packs_done: 3,
            remaining_secs: Some(75),
        };
        assert_eq!(plain_line(&view), "uploading: 1.0 MiB of 2.0 MiB, 3 packs, 1m 15s left");
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
    }
}
