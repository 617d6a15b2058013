//! Running this test binary as a child that can be killed.

use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// What lines to the parent begin with; the test harness prints others.
const PREFIX: &str = "@ ";

/// A child at work.
pub struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Runs the ignored test `name` of this binary, which must see `DORMOUSE_CRASH_DIR`.
    pub fn start(name: &str, dir: &Path, seed: u64, crash_point: Option<&str>) -> Worker {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
        command.env("DORMOUSE_CRASH_DIR", dir).env("DORMOUSE_CRASH_SEED", seed.to_string());
        match crash_point {
            Some(point) => command.env("DORMOUSE_CRASH_POINT", point),
            None => command.env_remove("DORMOUSE_CRASH_POINT"),
        };
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Worker { child, lines }
    }

    /// The next report; none when the child is dead.
    pub fn next(&mut self) -> Option<String> {
        loop {
            let line = self.lines.next()?.ok()?;
            if let Some(report) = line.strip_prefix(PREFIX) {
                return Some(report.to_owned());
            }
        }
    }

    /// Kills the child as `kill -9` does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Waits for its end: whether it was killed. Else it must have ended well.
    pub fn was_killed(&mut self) -> bool {
        let status = self.child.wait().unwrap();
        assert!(status.success() || status.signal() == Some(libc::SIGKILL), "{status}");
        !status.success()
    }

    /// Waits for its end; panics unless it was killed. Then all its reports have been read.
    pub fn expect_killed(&mut self, context: &str) {
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{context}: the child ended: {status}");
    }
}

/// The directory and seed given to a child; none when the test was not started as one.
pub fn task() -> Option<(std::path::PathBuf, u64)> {
    let dir = std::env::var_os("DORMOUSE_CRASH_DIR")?;
    let seed = std::env::var("DORMOUSE_CRASH_SEED").ok()?.parse().ok()?;
    Some((dir.into(), seed))
}

/// Tells the parent something. One write, so that a line arrives whole or not at all.
pub fn report(text: &str) {
    use std::io::Write;
    let line = format!("{PREFIX}{text}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    std::io::stdout().lock().flush().unwrap();
}
