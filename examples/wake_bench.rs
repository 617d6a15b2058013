//! Times waking and sleeping over a line of 25 ms and 100 MB/s each way, beside what the line and
//! one core can do with the same bytes:
//!
//! ```text
//! cargo run --release --example wake_bench -- cold|sleep|git|hot /a/directory/on/a/disk [tar]
//! ```
//! `cold`: read everything (5,000 small files and a large one) through a mount on an empty cache (a
//! further word: only what has it in its name, and what came by the line in each 100 ms);
//! `sleep`: the first hibernation of 1 GiB; `git`: `git status` of 10,000 files cold, with a hot
//! set, and on a warm cache; `hot`: how long a scattered hot set takes. Commands run in child processes.
#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dormouse::chunks::Fetch;
use dormouse::fs::{At, Caller, Filesystem};
use dormouse::fuse::{self, MountOptions};
use dormouse::remote::{
    CountingStore, MemoryStore, ObjectStore, PutMode, RateLimitStore, Remote, RemoteOptions,
};
use dormouse::types::{Clock, Ino, Name, SystemClock};
use dormouse::workspace::{ProgressView, ResumeOptions, Store, Workspace};

const LATENCY: Duration = Duration::from_millis(25);
const BYTES_PER_SEC: u64 = 100_000_000;
const MIB: u64 = 1 << 20;
const DIRECTORIES: u64 = 100;
const FILES_EACH: u64 = 50;
const LARGE_BYTES: u64 = 256 * MIB;
const ROUNDS: usize = 3;

/// A store in memory, directly and over the line.
struct World {
    clock: Arc<dyn Clock>,
    memory: Arc<MemoryStore>,
    line: Arc<CountingStore>,
    dir: PathBuf,
    /// Mounts so far: each has a place of its own.
    mounts: AtomicU64,
}

impl World {
    fn new(dir: &Path) -> Result<World> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let memory = Arc::new(MemoryStore::new(Arc::clone(&clock)));
        let slow: Arc<dyn ObjectStore> = Arc::clone(&memory) as _;
        let slow = RateLimitStore::new(slow, LATENCY, BYTES_PER_SEC, BYTES_PER_SEC);
        let line = CountingStore::new(slow);
        let mounts = AtomicU64::new(0);
        let world = World { clock, memory, line, dir: dir.to_owned(), mounts };
        Store::init(world.remote(false)?, &*world.clock)?;
        Ok(world)
    }

    fn remote(&self, over_the_line: bool) -> Result<Arc<Remote>> {
        let store: Arc<dyn ObjectStore> = match over_the_line {
            true => Arc::clone(&self.line) as _,
            false => Arc::clone(&self.memory) as _,
        };
        Ok(Remote::from_store(store, &RemoteOptions::default(), Arc::clone(&self.clock))?)
    }

    /// A directory that is empty.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    fn options(&self, cache: PathBuf) -> Result<ResumeOptions> {
        let mut options = ResumeOptions::new("w".parse().map_err(anyhow::Error::msg)?, cache);
        options.create = true;
        options.upkeep.checkpoint_interval = Duration::ZERO;
        Ok(options)
    }

    fn resume(&self, options: &ResumeOptions, over_the_line: bool) -> Result<Workspace> {
        Ok(Workspace::resume(self.remote(over_the_line)?, Arc::clone(&self.clock), options)?)
    }

    /// As `run`, and tells what came by the line in each 100 ms.
    fn run_traced(&self, workspace: &Workspace, command: &str) -> Result<f64> {
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(100));
                    let (now, ahead) = (self.line.stats().bytes_in, workspace.status().ahead);
                    print!(
                        "{:.1}({:.0}) ",
                        now.saturating_sub(last) as f64 / 1e6,
                        (ahead.reader_bytes - ahead.reader_used_bytes) as f64 / 1e6
                    );
                    last = now;
                }
                println!();
            });
            let seconds = self.run(workspace, command);
            done.store(true, Ordering::Relaxed);
            seconds
        })
    }

    /// Runs a shell command in a mount of the workspace; its seconds, without mounting.
    fn run(&self, workspace: &Workspace, command: &str) -> Result<f64> {
        let number = self.mounts.fetch_add(1, Ordering::Relaxed);
        let mountpoint = self.fresh(&format!("mount-{number}"))?;
        let options = MountOptions::new(&mountpoint, "w");
        let mounted = fuse::mount(workspace.fs(), &options, Arc::clone(&self.clock))?;
        let start = self.clock.monotonic();
        let status = Command::new("sh")
            .args(["-c", &format!("cd {} && {command}", mountpoint.display())])
            .stdin(Stdio::null())
            .status();
        let seconds = (self.clock.monotonic() - start).as_secs_f64();
        mounted.unmount(false)?;
        ensure!(status?.success(), "{command} failed");
        Ok(seconds)
    }

    /// Bytes of all packs, and how long a plain download of them takes: whole objects, four at
    /// once.
    fn download(&self) -> Result<(u64, f64)> {
        let direct = self.remote(false)?;
        let keys: Vec<_> = direct.list("packs/")?.into_iter().map(|object| object.key).collect();
        let line = self.remote(true)?;
        let start = self.clock.monotonic();
        let requests = keys.into_iter().map(|key| (key, None)).collect();
        let mut bytes = 0;
        for (_, answer) in line.spawn_get_many(requests) {
            bytes += answer?.bytes.len() as u64;
        }
        Ok((bytes, (self.clock.monotonic() - start).as_secs_f64()))
    }
}

fn watch(_: &ProgressView) -> std::ops::ControlFlow<()> {
    std::ops::ControlFlow::Continue(())
}

fn caller(clock: &dyn Clock) -> Caller {
    Caller::root(Fetch::Until(clock.monotonic() + Duration::from_secs(60)))
}

/// Writes a new file; the fs takes it as if it came from the kernel.
fn write(
    world: &World,
    fs: &Filesystem,
    (directory, name): (Ino, &str),
    parts: impl Iterator<Item = Vec<u8>>,
) -> Result<()> {
    let name = Name::new(name.as_bytes())?;
    let caller = caller(&*world.clock);
    let entry = fs.create(&caller, At { directory, name: &name }, 0o644, false)?;
    let mut offset = 0;
    for part in parts {
        fs.write(&caller, entry.ino, offset, &part, false)?;
        offset += part.len() as u64;
    }
    fs.forget(entry.ino, 1);
    Ok(())
}

fn mkdir(world: &World, fs: &Filesystem, name: &str) -> Result<Ino> {
    let name = Name::new(name.as_bytes())?;
    let at = At { directory: Ino::ROOT, name: &name };
    let entry = fs.mkdir(&caller(&*world.clock), at, 0o755)?;
    fs.forget(entry.ino, 1);
    Ok(entry.ino)
}

/// Bytes that do not compress.
fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Bytes that compress about as source code does: words of a small vocabulary.
fn text(seed: u64, len: u64) -> Vec<u8> {
    const WORDS: [&str; 64] = [
        "fn", "let", "self", "mut", "return", "if", "match", "Some", "None", "Ok", "Err", "pub",
        "use", "crate", "struct", "impl", "for", "in", "while", "loop", "async", "await", "move",
        "ref", "where", "type", "trait", "enum", "const", "static", "unsafe", "extern", "dyn",
        "Box", "Arc", "Vec", "String", "usize", "u64", "bytes", "offset", "length", "buffer",
        "reader", "writer", "cursor", "handle", "request", "response", "error", "result", "value",
        "index", "count", "total", "limit", "window", "region", "segment", "journal", "overlay",
        "snapshot", "lease", "epoch",
    ];
    let random = noise(seed, len / 5 + 16);
    let mut out = Vec::with_capacity(len as usize + 16);
    for (at, byte) in random.iter().enumerate() {
        out.extend_from_slice(WORDS[usize::from(byte & 63)].as_bytes());
        let separator: &[u8] = match byte >> 6 {
            0 => b" ",
            1 => b"(",
            2 => b";\n    ",
            _ => b".",
        };
        out.extend_from_slice(separator);
        if byte >> 6 == 3 {
            out.extend_from_slice(format!("{:x}", at as u64 * seed % 4099).as_bytes());
        }
        if out.len() >= len as usize {
            break;
        }
    }
    out.truncate(len as usize);
    out
}

fn hibernate(workspace: &Workspace) -> Result<f64> {
    let receipt = workspace.hibernate(None, &mut watch)?;
    workspace.close()?;
    Ok(receipt.seconds)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// 5,000 small files in 100 directories and a large one, hibernated.
fn fill(world: &World) -> Result<()> {
    let workspace = world.resume(&world.options(world.fresh("cache")?)?, false)?;
    let fs = workspace.fs();
    for directory in 0..DIRECTORIES {
        let parent = mkdir(world, &fs, &format!("d{directory:03}"))?;
        for file in 0..FILES_EACH {
            let seed = directory * FILES_EACH + file;
            let content = text(seed, 1000 + seed * 7919 % 15_000);
            write(world, &fs, (parent, &format!("f{file:02}")), std::iter::once(content))?;
        }
    }
    let large = (0..LARGE_BYTES / MIB).map(|part| noise(part, MIB));
    write(world, &fs, (Ino::ROOT, "large"), large)?;
    drop(fs);
    hibernate(&workspace)?;
    Ok(())
}

/// What came by the line since it was reset, and what for.
fn traffic(world: &World, workspace: &Workspace) -> String {
    let (stats, ahead) = (world.line.stats(), workspace.status().ahead);
    format!(
        "{} GETs, {:.1} MB, chain {}; ahead {:.1} MB, {:.1} read; neighbours {:.1}, {:.1}",
        stats.gets,
        stats.bytes_in as f64 / 1e6,
        stats.round_trips,
        ahead.reader_bytes as f64 / 1e6,
        ahead.reader_used_bytes as f64 / 1e6,
        ahead.neighbour_bytes as f64 / 1e6,
        ahead.neighbour_used_bytes as f64 / 1e6,
    )
}

fn cold(world: &World, only: Option<&str>) -> Result<()> {
    fill(world)?;
    let small = "find d* -type f -print0 | xargs -0 cat | cat > /dev/null";
    let contenders = [
        (
            "everything, one reader in the order of the listing (find, cat)",
            format!("{small} && cat large | cat > /dev/null"),
        ),
        ("everything, tar", String::from("tar cf - . | cat > /dev/null")),
        (
            "everything, four readers",
            String::from(
                "(cat large > /dev/null &  find d* -type f -print0 | xargs -0 -P3 -n50 cat; wait) \
             | cat > /dev/null",
            ),
        ),
        ("small files only, one reader", String::from(small)),
        ("small files only, grep -r", String::from("grep -r 'no such words' d*; test $? = 1")),
        ("large file only", String::from("cat large | cat > /dev/null")),
    ];
    let mut plain = Vec::new();
    let mut bytes = 0;
    let mut times = vec![Vec::new(); contenders.len()];
    let mut warm = vec![Vec::new(); contenders.len()];
    let mut notes = vec![String::new(); contenders.len()];
    for _ in 0..ROUNDS {
        let (packs, seconds) = world.download()?;
        (bytes, _) = (packs, plain.push(seconds));
        for (index, (name, command)) in contenders.iter().enumerate() {
            if only.is_some_and(|only| !name.contains(only)) {
                times[index].push(f64::NAN);
                warm[index].push(f64::NAN);
                continue;
            }
            let mut options = world.options(world.fresh("cache")?)?;
            options.upkeep.hot_bytes_max = 0;
            let workspace = world.resume(&options, true)?;
            world.line.reset();
            let seconds = match only {
                Some(_) => world.run_traced(&workspace, command)?,
                None => world.run(&workspace, command)?,
            };
            times[index].push(seconds);
            notes[index] = traffic(world, &workspace);
            hibernate(&workspace)?;
            drop(workspace);
            options.local_dir = world.dir.join("cache");
            let workspace = world.resume(&options, true)?;
            warm[index].push(world.run(&workspace, command)?);
            hibernate(&workspace)?;
        }
    }
    let wire = median(&mut plain);
    println!("plain download of all packs: {:.1} MB in {wire:.2} s", bytes as f64 / 1e6);
    for (index, (name, _)) in contenders.iter().enumerate() {
        let (seconds, local) = (median(&mut times[index]), median(&mut warm[index]));
        if seconds.is_nan() {
            continue;
        }
        println!(
            "{name}: {seconds:.2} s, {:.0}% of the wire (warm local cache: {local:.2} s); {}",
            wire / seconds * 100.0,
            notes[index]
        );
    }
    Ok(())
}

fn sleep(world: &World) -> Result<()> {
    const PARTS: u64 = 1024;
    for (name, make) in [("noise", noise as fn(u64, u64) -> Vec<u8>), ("text", text)] {
        // Without threads, so that nothing is uploaded before.
        let mut options = world.options(world.fresh("cache")?)?;
        options.upkeep.threads = false;
        let workspace = world.resume(&options, true)?;
        let fs = workspace.fs();
        // One large file and 4,096 of 64 KiB.
        write(world, &fs, (Ino::ROOT, name), (0..PARTS * 3 / 4).map(|part| make(part, MIB)))?;
        let parent = mkdir(world, &fs, &format!("{name} small"))?;
        for file in 0..PARTS * 4 {
            let content = make(1_000_000 + file, 64 * 1024);
            write(world, &fs, (parent, &format!("{file}")), std::iter::once(content))?;
        }
        drop(fs);
        world.line.reset();
        let seconds = hibernate(&workspace)?;
        let stats = world.line.stats();
        let sent = stats.bytes_out;

        let line = world.remote(true)?;
        let start = world.clock.monotonic();
        let body = bytes::Bytes::from(noise(7, 16 * MIB));
        let mut tickets = std::collections::VecDeque::new();
        let mut left = sent;
        while left > 0 {
            let part = body.slice(..left.min(16 * MIB) as usize);
            left -= part.len() as u64;
            if tickets.len() == 4 {
                let ticket: dormouse::remote::PutTicket = tickets.pop_front().context("four")?;
                ticket.wait()?;
            }
            tickets.push_back(line.submit_put(&format!("plain/{left}"), part, PutMode::Any));
        }
        for ticket in tickets {
            ticket.wait()?;
        }
        let wire = (world.clock.monotonic() - start).as_secs_f64();

        let mut core = 0.0;
        for part in 0..PARTS / 8 {
            let content = make(part, MIB);
            let start = world.clock.monotonic();
            for piece in content.chunks(256 * 1024) {
                std::hint::black_box(zstd::bulk::compress(piece, 1)?);
            }
            core += (world.clock.monotonic() - start).as_secs_f64() * 8.0;
        }
        let slower = wire.max(core);
        println!(
            "{name}: hibernation of 1 GiB {seconds:.2} s ({:.0} MB sent, {} PUTs, chain {}); plain upload {wire:.2} s, \
             one core of zstd -1 {core:.2} s: {:.0}% of the slower",
            sent as f64 / 1e6,
            stats.puts,
            stats.round_trips,
            slower / seconds * 100.0
        );
    }
    Ok(())
}

fn git(world: &World) -> Result<()> {
    const SETUP: &str = "export GIT_CONFIG_GLOBAL=/dev/null HOME=/nonexistent && mkdir r && cd r \
        && for d in $(seq 100); do mkdir d$d; for f in $(seq 100); do \
        echo \"$d $f some words that are here for their length only\" > d$d/f$f; done; done \
        && sleep 1.1 && git init -q . && git add -A \
        && git -c gc.auto=0 -c maintenance.auto=false -c user.name=d -c user.email=d@d commit -qm all && git status --porcelain";
    const WORK: &str =
        "cd r && GIT_OPTIONAL_LOCKS=0 git -c core.fsmonitor=false status --porcelain";
    const MORE: &str = "cd r && GIT_OPTIONAL_LOCKS=0 git status --porcelain && git log -3 > /dev/null \
        && cat d1/* d50/* > /dev/null && git grep -q words -- d7 d9";
    let prepared = world.resume(&world.options(world.fresh("prepared")?)?, false)?;
    world.run(&prepared, SETUP)?;
    hibernate(&prepared)?;
    drop(prepared);
    // The first waking is recorded; something is changed, so that there is a new snapshot.
    let first = world.resume(&world.options(world.fresh("first")?)?, true)?;
    world.line.reset();
    let seconds = world.run(&first, WORK)?;
    let stats = world.line.stats();
    println!(
        "git status, 10,000 files, cold: {seconds:.3} s; {} GETs, {:.2} MB, chain {}",
        stats.gets,
        stats.bytes_in as f64 / 1e6,
        stats.round_trips
    );
    world.run(&first, MORE)?;
    world.run(&first, "date > stamp")?;
    hibernate(&first)?;
    drop(first);
    let mut times = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    let mut notes: [String; 4] = Default::default();
    for _ in 0..ROUNDS + 2 {
        for (index, (hot, wait, keep)) in
            [(0, true, true), (0, false, false), (64 * MIB, false, false), (64 * MIB, true, false)]
                .into_iter()
                .enumerate()
        {
            let cache = if keep { world.dir.join("first") } else { world.fresh("cache")? };
            let mut options = world.options(cache)?;
            options.upkeep.hot_bytes_max = hot;
            options.read_only = true;
            let workspace = world.resume(&options, true)?;
            if wait {
                let until = world.clock.monotonic() + Duration::from_secs(20);
                std::thread::sleep(Duration::from_millis(200));
                while workspace.status().ahead.left_bytes > 0 && world.clock.monotonic() < until {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            world.line.reset();
            times[index].push(world.run(&workspace, MORE)?);
            let (stats, ahead) = (world.line.stats(), workspace.status().ahead);
            notes[index] = format!(
                "{} GETs, chain {}; hot {:.2} MB, {:.2} read",
                stats.gets,
                stats.round_trips,
                ahead.hot_bytes as f64 / 1e6,
                ahead.hot_used_bytes as f64 / 1e6
            );
            workspace.close()?;
        }
    }
    for (index, name) in
        ["warm local cache", "cold, no hot set", "cold, hot set on its way", "cold, hot set down"]
            .into_iter()
            .enumerate()
    {
        let (low, high) = (
            times[index].iter().copied().fold(f64::MAX, f64::min),
            times[index].iter().copied().fold(0.0, f64::max),
        );
        let middle = median(&mut times[index]);
        println!(
            "git status, log, grep, cat: {name}: {middle:.3} s ({low:.3}-{high:.3}); {}",
            notes[index]
        );
    }
    Ok(())
}

/// Bytes of a file that is read.
const HOT_FILE_BYTES: u64 = 16 * 1024;

/// Time until a hot set of 32 MiB is down and to read it, by how many packs it lies in and how much
/// lies between: one pack without gaps is what a boot pack would be.
fn hot(dir: &Path) -> Result<()> {
    const HOT_FILES: u64 = 2048;
    for (packs, every) in [(1, 1), (1, 4), (1, 16), (16, 4), (64, 4), (256, 4), (256, 16)] {
        let world = World::new(dir)?;
        let workspace = world.resume(&world.options(world.fresh("cache")?)?, false)?;
        let fs = workspace.fs();
        let parent = mkdir(&world, &fs, "d")?;
        let mut inos = Vec::new();
        for pack in 0..packs {
            for file in 0..HOT_FILES / packs * every {
                let name = format!("{pack}-{file}");
                let content = noise(pack << 32 | file, HOT_FILE_BYTES);
                write(&world, &fs, (parent, &name), std::iter::once(content))?;
                if file % every == 0 {
                    let name = Name::new(name.as_bytes())?;
                    inos.push(fs.lookup(&caller(&*world.clock), parent, &name)?.ino);
                }
            }
            workspace.checkpoint(&mut watch)?;
        }
        drop(fs);
        hibernate(&workspace)?;
        drop(workspace);
        let first = world.resume(&world.options(world.fresh("cache")?)?, false)?;
        for ino in &inos {
            first.fs().read(&caller(&*world.clock), *ino, 0, HOT_FILE_BYTES as u32)?;
        }
        write(&world, &first.fs(), (Ino::ROOT, "stamp"), std::iter::once(vec![1]))?;
        hibernate(&first)?;
        drop(first);
        println!("hot set of 33.6 MB in {packs} packs, one file of {every} hot:");
        for how in [Hot::Off, Hot::OnItsWay, Hot::Down] {
            read_hot(&world, &inos, how)?;
        }
    }
    Ok(())
}

/// How a hot set is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hot {
    Off,
    OnItsWay,
    Down,
}

/// Wakes on an empty cache and reads these files one after the other.
fn read_hot(world: &World, inos: &[Ino], how: Hot) -> Result<()> {
    let mut options = world.options(world.fresh("cache")?)?;
    options.read_only = true;
    if how == Hot::Off {
        options.upkeep.hot_bytes_max = 0;
    }
    world.line.reset();
    let workspace = world.resume(&options, true)?;
    let start = world.clock.monotonic();
    let down = || {
        let ahead = workspace.status().ahead;
        ahead.hot_bytes > 0 && ahead.left_bytes == 0
    };
    while how == Hot::Down && !down() {
        std::thread::sleep(Duration::from_millis(5));
        let waited = world.clock.monotonic() - start;
        ensure!(waited < Duration::from_secs(30), "{:?}", workspace.status().ahead);
    }
    let (seconds, before) = ((world.clock.monotonic() - start).as_secs_f64(), world.line.stats());
    let start = world.clock.monotonic();
    for ino in inos {
        workspace.fs().read(&caller(&*world.clock), *ino, 0, HOT_FILE_BYTES as u32)?;
    }
    let read = (world.clock.monotonic() - start).as_secs_f64();
    let stats = world.line.stats();
    println!(
        "    {how:?}: down after {seconds:.2} s ({} GETs, {:.1} MB), read in {read:.2} s (chain {}); \
         in all {} GETs, {:.1} MB",
        before.gets,
        before.bytes_in as f64 / 1e6,
        stats.round_trips - before.round_trips,
        stats.gets,
        stats.bytes_in as f64 / 1e6
    );
    Ok(workspace.close()?)
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().context("cold, sleep, git or hot?")?;
    let dir = PathBuf::from(arguments.next().context("a directory is needed")?);
    std::fs::create_dir_all(&dir)?;
    let dir = tempfile::tempdir_in(&dir)?;
    let world = World::new(dir.path())?;
    match what.as_str() {
        "cold" => cold(&world, arguments.next().as_deref()),
        "sleep" => sleep(&world),
        "git" => git(&world),
        "hot" => hot(dir.path()),
        _ => anyhow::bail!("cold, sleep, git or hot?"),
    }
}
