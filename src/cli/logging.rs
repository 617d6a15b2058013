//! Logs: readable or JSON lines, to standard error or to a file that never grows without end.
//! Credentials never get here: no type that holds one is ever formatted.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::args::{LogArgs, LogFormat};
use super::exit::{Failure, Outcome};

/// Name of a daemon's log in its cache directory.
pub const FILE_NAME: &str = "dormouse.log";

/// The log is set aside as `dormouse.log.1` when it has grown to this; one such file is kept.
const FILE_LEN_MAX: u64 = 16 << 20;

/// Where log lines go.
#[derive(Debug)]
pub enum Target {
    /// Standard error: commands, and daemons in the foreground.
    Stderr,
    /// This directory: daemons in the background.
    Directory(PathBuf),
}

/// Starts logging for the process; once.
pub fn start(args: &LogArgs, default_level: &str, target: Target) -> Outcome {
    let level = args.level.as_deref().unwrap_or(default_level);
    let filter = EnvFilter::builder()
        .parse(level)
        .map_err(|error| Failure::usage(format!("--log-level {level:?}: {error}")))?;
    let json = args.format == Some(LogFormat::Json);
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    let started = match target {
        Target::Stderr => {
            let builder = builder.with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
            if json { builder.json().try_init() } else { builder.try_init() }
        }
        Target::Directory(dir) => {
            let file = RotatingFile::open(&dir).map_err(|error| {
                Failure::usage(format!("the log in {}: {error}", dir.display()))
            })?;
            let builder = builder.with_writer(Shared(Arc::new(Mutex::new(file)))).with_ansi(false);
            if json { builder.json().try_init() } else { builder.try_init() }
        }
    };
    started.map_err(Failure::internal)?;
    std::panic::set_hook(Box::new(|info| {
        let trace = std::backtrace::Backtrace::force_capture();
        tracing::error!("panic: {info}\n{trace}");
    }));
    Ok(())
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

/// One file for all threads; whole lines, since a formatter writes a line in one call.
#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<RotatingFile>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Shared {
    type Writer = Shared;

    fn make_writer(&'a self) -> Shared {
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
    fn a_bad_level_is_a_usage_error() {
        let args = LogArgs { level: Some("dormouse=loud=x".into()), format: None };
        assert!(start(&args, "info", Target::Stderr).is_err());
    }
}
