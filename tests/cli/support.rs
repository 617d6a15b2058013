//! A machine's worth of directories, the real binary, and guards that leave nothing mounted.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

/// What a finished command said.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn new(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// Standard output as one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Stores, mountpoints, caches and a registry of a test's own. Ends and unmounts everything
/// when it is dropped.
pub struct World {
    dir: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

/// Of each daemon's log, when a test has failed.
const LOG_LINES_SHOWN: usize = 60;

impl World {
    /// Empty: no store yet.
    pub fn bare() -> World {
        assert!(nix::unistd::geteuid().is_root(), "these tests mount: run them as root");
        assert!(Path::new("/dev/fuse").exists(), "these tests need /dev/fuse");
        let world = World { dir: tempfile::tempdir().unwrap(), variables: Vec::new() };
        for name in ["ws", "home"] {
            fs::create_dir(world.path(name)).unwrap();
        }
        world
    }

    /// With a store at `store`.
    pub fn new() -> World {
        let world = World::bare();
        world.ok(&["init"]);
        world
    }

    /// Adds a variable to the environment of every command.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.variables.push((name.to_owned(), value.into()));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// A filesystem of its own in the world, a tmpfs with these options.
    pub fn disk(&self, name: &str, options: &str) -> PathBuf {
        let place = self.path(name);
        fs::create_dir(&place).unwrap();
        let (kind, flags) = (Some("tmpfs"), nix::mount::MsFlags::empty());
        nix::mount::mount(Some("tmpfs"), &place, kind, flags, Some(options)).unwrap();
        place
    }

    /// The usual mountpoint.
    pub fn ws(&self) -> PathBuf {
        self.path("ws")
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    /// The program with an environment of its own: nothing of the caller's gets in.
    pub fn command<S: AsRef<OsStr>>(&self, program: &Path, args: &[S]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env_clear().current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", self.path("home")).env("DORMOUSE_RUNTIME_DIR", self.path("run"));
        command.env("DORMOUSE_STORE", format!("file://{}", self.text("store")));
        command.env("DORMOUSE_CACHE_ROOT", self.path("caches"));
        command.env("DORMOUSE_CACHE_SIZE", "512M").env("DORMOUSE_STORE_TIMEOUT", "2s");
        command.env("DORMOUSE_CHECKPOINT_INTERVAL", "0");
        command.env("DORMOUSE_TRANSPORT", transport());
        // By which scripts/torture finds again what it started.
        command.envs(
            std::env::var("DORMOUSE_TORTURE_FOLDER").map(|it| ("DORMOUSE_TORTURE_FOLDER", it)),
        );
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs `dormouse`.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        Ran::new(self.command(dormouse(), args).output().unwrap())
    }

    /// Runs `dormouse`, which must succeed.
    pub fn ok<S: AsRef<OsStr> + std::fmt::Debug>(&self, args: &[S]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "dormouse {args:?}: {ran:?}");
        ran
    }

    /// Runs `dormouse`, which must fail with this code and say this.
    pub fn fails(&self, args: &[&str], code: i32, says: &str) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, code, "dormouse {args:?}: {ran:?}");
        assert!(ran.err.contains(says), "dormouse {args:?} does not say {says:?}: {}", ran.err);
        ran
    }

    /// Mounts workspace `w`, making it if need be, at the usual place.
    pub fn mount(&self) {
        self.ok(&["mount", "--create", "w", &self.text("ws")]);
    }

    /// Hibernates what is at the usual place, and gives the receipt.
    pub fn hibernate(&self) -> Value {
        self.ok(&["hibernate", "--json", &self.text("ws")]).json()
    }

    /// The machine is gone: nothing local is left.
    pub fn lose_caches(&self) {
        fs::remove_dir_all(self.path("caches")).unwrap();
    }

    /// The status of what is at the usual place.
    pub fn status(&self) -> Value {
        self.ok(&["status", "--json", &self.text("ws")]).json()
    }

    /// The daemon's process at the usual place.
    pub fn daemon(&self) -> nix::unistd::Pid {
        let pid = self.status()["pid"].as_i64().unwrap();
        nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap())
    }

    /// Kills that daemon as a crash of everything would, its keeper included: the mount is dead.
    pub fn crash(&self) {
        let status = self.status();
        for process in ["keeper_pid", "pid"] {
            let Some(pid) = status[process].as_i64() else { continue };
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
            wait_for("the process's end", || !is_alive(pid));
        }
    }

    /// Kills the daemon, and returns at once.
    pub fn kill_daemon(&self) -> nix::unistd::Pid {
        let pid = self.daemon();
        nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
        pid
    }

    /// A daemon in the foreground that is ready. `socket` is where it notified.
    pub fn foreground(&self, args: &[&str]) -> Foreground {
        let notify = self.path("notify");
        drop(fs::remove_file(&notify));
        let socket = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let line = [&["mount", "--foreground", "--create"], args].concat();
        let mut command = self.command(dormouse(), &line);
        command.env("NOTIFY_SOCKET", &notify);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut foreground = Foreground { child: Some(child), socket };
        foreground.expect("READY=1");
        foreground
    }

    /// Moves the store away: every request fails until it is put back.
    pub fn take_store_away(&self) {
        fs::rename(self.path("store"), self.path("store.away")).unwrap();
    }

    pub fn put_store_back(&self) {
        fs::rename(self.path("store.away"), self.path("store")).unwrap();
    }

    /// What the daemons said last, for whoever reads how a test failed.
    #[allow(clippy::print_stderr, reason = "the test harness shows it with the failure")]
    fn show_logs(&self) {
        for cache in fs::read_dir(self.path("caches")).into_iter().flatten().flatten() {
            let log = cache.path().join("dormouse.log");
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("{}:\n{}", log.display(), last.join("\n"));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let inside = self.path("");
        if std::thread::panicking() {
            self.show_logs();
        }
        for entry in fs::read_dir(self.path("run")).into_iter().flatten().flatten() {
            let text = fs::read(entry.path()).unwrap_or_default();
            let Ok(entry) = serde_json::from_slice::<Value>(&text) else { continue };
            // The keeper first, or there would be another daemon.
            for pid in [&entry["keeper"]["pid"], &entry["pid"]] {
                let Some(pid) = pid.as_i64().and_then(|pid| i32::try_from(pid).ok()) else {
                    continue;
                };
                let pid = nix::unistd::Pid::from_raw(pid);
                let runs = fs::read_link(format!("/proc/{pid}/exe"));
                if runs.is_ok_and(|exe| exe == dormouse() || exe.starts_with(&inside)) {
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
                }
            }
        }
        for mountpoint in mountpoints().iter().filter(|path| path.starts_with(&inside)).rev() {
            let flags = nix::mount::MntFlags::MNT_DETACH;
            let _ = nix::mount::umount2(mountpoint, flags);
        }
    }
}

/// The transport that the tests use: `dev`, or what `DORMOUSE_TEST_TRANSPORT` names.
pub fn transport() -> String {
    std::env::var("DORMOUSE_TEST_TRANSPORT").unwrap_or_else(|_| "dev".to_owned())
}

/// A daemon that is a child of the test.
pub struct Foreground {
    child: Option<Child>,
    socket: std::os::unix::net::UnixDatagram,
}

impl Foreground {
    /// Waits until the supervisor is told this.
    pub fn expect(&mut self, line: &str) {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(len) if String::from_utf8_lossy(&buffer[..len]).lines().any(|it| it == line) => {
                    return;
                }
                Ok(_) => {}
                Err(error) => panic!("no {line}: {error}; {:?}", self.finish_by_force()),
            }
        }
    }

    fn finish_by_force(&mut self) -> Ran {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        Ran::new(child.wait_with_output().unwrap())
    }

    /// The process that was started.
    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.as_ref().unwrap().id() as i32)
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(self.pid(), signal).unwrap();
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ran {
        Ran::new(self.child.take().unwrap().wait_with_output().unwrap())
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The binary under test.
pub fn dormouse() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_dormouse"))
}

pub fn is_alive(pid: nix::unistd::Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// All mountpoints of this machine, oldest first.
pub fn mountpoints() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

/// Bytes that `df` says can be written.
pub fn available(path: &Path) -> u64 {
    let stat = nix::sys::statvfs::statvfs(path).unwrap();
    stat.blocks_available() * stat.fragment_size()
}

pub fn is_mounted(path: &Path) -> bool {
    mountpoints().iter().any(|mountpoint| mountpoint == path)
}

/// Waits up to 20 seconds.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        sleep(Duration::from_millis(10));
    }
    panic!("waited in vain for {what}");
}

/// A server that answers HTTP requests with what `answer` makes of method, path, headers and
/// body: status, headers, body. It ends with the test.
pub fn http_server(
    answer: impl Fn(&Request) -> (u16, Vec<(String, String)>, Vec<u8>) + Send + Sync + 'static,
) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = std::sync::Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = std::sync::Arc::clone(&answer);
            std::thread::spawn(move || while serve_one(&stream, answer.as_ref()).is_some() {});
        }
    });
    url
}

/// One HTTP request, as far as these tests need it.
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

type Answer = dyn Fn(&Request) -> (u16, Vec<(String, String)>, Vec<u8>);

fn serve_one(mut stream: &std::net::TcpStream, answer: &Answer) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut request = Request { method, path, headers, body: Vec::new() };
    let len = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    request.body.resize(len, 0);
    if request.header("expect").is_some() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    stream.read_exact(&mut request.body).ok()?;
    let (status, headers, body) = answer(&request);
    let mut text = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n", body.len());
    for (key, value) in headers {
        text.push_str(&format!("{key}: {value}\r\n"));
    }
    stream.write_all(text.as_bytes()).ok()?;
    stream.write_all(b"\r\n").ok()?;
    if request.method != "HEAD" {
        stream.write_all(&body).ok()?;
    }
    Some(())
}
