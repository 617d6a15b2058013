//! The configuration file: TOML, with the same names as the flags.

use std::io;
use std::path::Path;

use serde::Deserialize;

use super::args::{LogArgs, StoreArgs, TuningArgs};
use super::exit::{Failure, Outcome};

/// Read where it exists.
pub const DEFAULT_PATH: &str = "/etc/dormouse.toml";

/// Longest configuration that is read.
const LEN_MAX: u64 = 1024 * 1024;

/// What the file may say. Unknown names are errors: a typing mistake must not go unseen.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[store]`: `url`, `endpoint`, `region`, ...
    pub store: StoreArgs,
    /// `[mount]`: `cache-size`, `lease-ttl`, ...
    pub mount: TuningArgs,
    /// `[log]`: `level`, `format`.
    pub log: LogArgs,
}

impl Config {
    /// Understands a file's text. An error tells the line, with the line itself.
    pub fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }
}

/// Reads the file that was named, or the default one if there is one.
pub fn load(named: Option<&Path>) -> Outcome<Config> {
    let path = named.unwrap_or(Path::new(DEFAULT_PATH));
    let text = match read(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            return Ok(Config::default());
        }
        Err(error) => return Err(failure(path, &error)),
    };
    Config::parse(&text).map_err(|error| failure(path, &error))
}

fn failure(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("the configuration file {}: {error}", path.display()))
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(LEN_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LEN_MAX {
        return Err(io::Error::other(format!("longer than {LEN_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{SchedulingArg, TransportArg};
    use crate::cli::exit::Code;
    use crate::cli::units::{ByteSize, Span};
    use std::time::Duration;

    fn loaded(text: &str) -> Outcome<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        load(Some(&path))
    }

    #[test]
    fn names_and_values_are_those_of_the_flags() {
        let text = "[store]\nurl = \"s3://b/p\"\npath-style = true\ntimeout = 30\n\
                    [mount]\ncache-size = \"20G\"\nlease-ttl = \"5m\"\nallow-dev = false\n\
                    scheduling = \"plain\"\ntransport = \"dev\"\n\
                    [log]\nlevel = \"debug\"\nformat = \"json\"\n";
        let config = loaded(text).unwrap();
        assert_eq!(config.store.url.as_deref(), Some("s3://b/p"));
        assert_eq!(config.store.path_style, Some(true));
        assert_eq!(config.store.timeout, Some(Span(Duration::from_secs(30))));
        assert_eq!(config.mount.cache_size, Some(ByteSize(20 << 30)));
        assert_eq!(config.mount.lease_ttl, Some(Span(Duration::from_secs(300))));
        assert_eq!(config.mount.allow_dev, Some(false));
        assert_eq!(config.mount.scheduling, Some(SchedulingArg::Plain));
        assert_eq!(config.mount.transport, Some(TransportArg::Dev));
        assert_eq!(config.log.level.as_deref(), Some("debug"));
    }

    #[test]
    fn a_mistake_is_named_with_file_and_line() {
        for bad in ["[store]\nulr = \"x\"\n", "[mount]\ncache-size = \"big\"\n", "[stoer]\n", "x"] {
            let failure = loaded(bad).unwrap_err();
            assert_eq!(failure.code, Code::Usage);
            let both = failure.message.contains("c.toml") && failure.message.contains("line");
            assert!(both, "{}", failure.message);
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read_in_part() {
        let len = usize::try_from(LEN_MAX).unwrap();
        assert!(loaded(&" ".repeat(len)).is_ok());
        let failure = loaded(&" ".repeat(len + 1)).unwrap_err();
        assert!(failure.message.contains("longer than"), "{}", failure.message);
    }

    #[test]
    fn a_named_file_must_exist() {
        let failure = load(Some(Path::new("/nonexistent/x.toml"))).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.message.contains("/nonexistent/x.toml"));
    }
}
