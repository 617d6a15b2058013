//! Logs: readable or JSON lines, to standard error or to a file that never grows without end.
//! Credentials never get here: no type of ours that holds one is ever formatted, and libraries
//! are not heard below `info`.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context as LayerContext, Filter, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use super::args::{LogArgs, LogFormat};
use super::exit::{Failure, Outcome};

/// Name of a daemon's log in its cache directory.
pub const FILE_NAME: &str = "dormouse.log";

/// The log is set aside as `dormouse.log.1` when it has grown to this; one such file is kept.
const FILE_LEN_MAX: u64 = 16 << 20;

/// Log lines that are kept until it is known where they go.
const EARLY_LEN_MAX: usize = 1 << 20;

/// Where log lines go.
#[derive(Debug, Clone)]
pub struct Log(Arc<Mutex<Sink>>);

#[derive(Debug)]
enum Sink {
    /// Commands, and daemons in the foreground.
    Stderr,
    /// A daemon that has not yet made sure of its cache directory.
    Early(Vec<u8>),
    /// A daemon in the background.
    File(RotatingFile),
}

/// Starts logging to standard error; once per process.
pub fn start(args: &LogArgs, default_level: &str) -> Outcome {
    begin(args, default_level, Sink::Stderr).map(drop)
}

/// Starts a background daemon's log; lines wait until [`Log::move_to`] says where they go.
pub fn start_early(args: &LogArgs, default_level: &str) -> Outcome<Log> {
    begin(args, default_level, Sink::Early(Vec::new()))
}

fn begin(args: &LogArgs, default_level: &str, sink: Sink) -> Outcome<Log> {
    let level = args.level.as_deref().unwrap_or(default_level);
    let filter = EnvFilter::builder()
        .parse(level)
        .map_err(|error| Failure::usage(format!("--log-level {level:?}: {error}")))?;
    let colours = matches!(sink, Sink::Stderr) && io::stderr().is_terminal();
    let log = Log(Arc::new(Mutex::new(sink)));
    let layer = tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(log.clone());
    let layer = match args.format.unwrap_or(LogFormat::Text) {
        LogFormat::Json => layer.json().boxed(),
        LogFormat::Text => layer.boxed(),
    };
    let told = filter.and(filter_fn(may_be_told)).and(CredentialsOnce::default());
    let layer = layer.with_filter(told);
    let started = tracing_subscriber::registry().with(layer).try_init();
    started.map_err(Failure::internal)?;
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tracing::error!("panic: {info}");
        usual(info);
    }));
    Ok(log)
}

/// Libraries say no more than what happened: below that level, those that sign requests write out
/// headers, a session token among them.
fn may_be_told(event: &Metadata<'_>) -> bool {
    let target = event.target();
    let is_ours = target == "dormouse" || target.starts_with("dormouse::");
    is_ours || *event.level() <= Level::INFO
}

/// Each request that finds no credentials has the SDK say so, at length: once is enough.
#[derive(Debug, Default)]
struct CredentialsOnce(AtomicBool);

impl<S> Filter<S> for CredentialsOnce {
    fn enabled(&self, _: &Metadata<'_>, _: &LayerContext<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &LayerContext<'_, S>) -> bool {
        let of = event.metadata();
        let is_one = of.target().starts_with("aws_config::") && *of.level() <= Level::WARN;
        !is_one || !self.0.swap(true, Ordering::Relaxed)
    }
}

impl Log {
    /// From now on, and for what was logged before, the log is a file in this directory.
    /// Gives the file's path.
    pub fn move_to(&self, dir: &Path) -> Outcome<PathBuf> {
        let failed =
            |error: io::Error| Failure::usage(format!("the log in {}: {error}", dir.display()));
        let mut file = RotatingFile::open(dir).map_err(failed)?;
        let path = file.path.clone();
        let mut sink = self.0.lock();
        if let Sink::Early(lines) = &*sink {
            file.write_all(lines).map_err(failed)?;
        }
        *sink = Sink::File(file);
        Ok(path)
    }
}

/// The log goes to the cache directory, and so does what libraries print.
pub fn redirect(log: &Log, dir: &Path) -> Outcome {
    let path = log.move_to(dir)?;
    let failed = |error: std::io::Error| Failure::internal(format!("standard error: {error}"));
    let file = OpenOptions::new().append(true).open(path).map_err(failed)?;
    nix::unistd::dup2_stderr(&file).map_err(|error| failed(error.into()))
}

/// A file that is set aside when it is full.
#[derive(Debug)]
struct RotatingFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl RotatingFile {
    fn open(dir: &Path) -> io::Result<RotatingFile> {
        let path = dir.join(FILE_NAME);
        let file = append_to(&path)?;
        let len = file.metadata()?.len();
        Ok(RotatingFile { path, file, len })
    }

    fn rotate(&mut self) -> io::Result<()> {
        std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
        self.file = append_to(&self.path)?;
        self.len = 0;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.len >= FILE_LEN_MAX {
            self.rotate()?;
        }
        let written = self.file.write(bytes)?;
        self.len += u64::try_from(written).unwrap_or(u64::MAX);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// Whole lines, since a formatter writes a line in one call.
impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.0.lock() {
            Sink::Stderr => io::stderr().write(bytes),
            Sink::Early(lines) => {
                if lines.len() + bytes.len() <= EARLY_LEN_MAX {
                    lines.extend_from_slice(bytes);
                }
                Ok(bytes.len())
            }
            Sink::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_set_aside_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = RotatingFile::open(dir.path()).unwrap();
        log.write_all(b"first\n").unwrap();
        log.len = FILE_LEN_MAX;
        log.write_all(b"second\n").unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read(FILE_NAME), "second\n");
        assert_eq!(read("dormouse.log.1"), "first\n");
        drop(log);
        let again = RotatingFile::open(dir.path()).unwrap();
        assert_eq!(again.len, 7);
    }

    #[test]
    fn what_was_logged_early_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log(Arc::new(Mutex::new(Sink::Early(Vec::new()))));
        log.write_all(b"early\n").unwrap();
        let path = log.move_to(dir.path()).unwrap();
        log.write_all(b"late\n").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "early\nlate\n");
    }

    #[test]
    fn that_there_are_no_credentials_is_said_once() {
        let log = Log(Arc::new(Mutex::new(Sink::Early(Vec::new()))));
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(log.clone());
        let layer = layer.with_filter(filter_fn(may_be_told).and(CredentialsOnce::default()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for number in 0..3 {
                tracing::warn!(target: "aws_config::meta::credentials::chain", "none {number}");
                tracing::warn!(target: "aws_config::imds::region", "none {number}");
                tracing::warn!("ours {number}");
            }
        });
        let Sink::Early(text) = &*log.0.lock() else { panic!() };
        let text = String::from_utf8_lossy(text);
        assert_eq!((text.matches("none").count(), text.matches("ours").count()), (1, 3), "{text}");
    }

    #[test]
    fn a_bad_level_is_a_usage_error() {
        let args = LogArgs { level: Some("dormouse=loud=x".into()), format: None };
        assert!(start(&args, "info").is_err());
    }
}
