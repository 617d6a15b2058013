//! Times commits of the local layer against plain RocksDB with its write-ahead log, for
//! `docs/decisions/0001-one-journal.md`:
//!
//! ```text
//! cargo run --release --example journal_bench -- /a/directory/on/the/disk/to/measure
//! ```
//! Both write the records of a file creation (attributes, entry, the directory's attributes), and
//! then the same with 4 KiB of content. Rounds are interleaved and the median is printed.
#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use dormouse::format::{
    EntryRecord, Extent, Key, Source, StagedAt, Tag, encode_attr, encode_entry, encode_extent,
};
use dormouse::local::{Batch, Local, LocalOptions};
use dormouse::types::{Attr, Clock, Ino, Kind, SystemClock, Time};
use rocksdb::{DB, DBCompressionType, Options, ReadOptions, WriteBatch, WriteOptions};

const COMMITS: u64 = 100_000;
const DATA_COMMITS: u64 = 40_000;
const SYNCS: u64 = 200;
const ROUNDS: usize = 5;
const THREADS: u64 = 8;

type Records = Vec<(Key, Vec<u8>)>;

fn attr(n: u64, kind: Kind) -> Vec<u8> {
    let time = Time::new(1_700_000_000, n as u32);
    encode_attr(&Attr {
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        nlink: 1,
        size: 4096,
        allocated: 4096,
        rdev: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        parent: Ino::META,
        target: Box::default(),
    })
}

/// What the creation of file `n` commits.
fn creation(n: u64) -> Records {
    let directory = Ino(2 + n / 100);
    let name = format!("file-{n}.rs");
    let hash = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1;
    let entry = encode_entry(EntryRecord { ino: Ino(n), kind: Kind::File });
    vec![
        (Key::attr(Ino(n)), attr(n, Kind::File)),
        (Key::entry(directory, hash, name.as_bytes()), entry),
        (Key::attr(directory), attr(n, Kind::Directory)),
    ]
}

fn extent(n: u64, len: u64, at: StagedAt) -> (Key, Vec<u8>) {
    (Key::extent(Ino(n), 0), encode_extent(&Extent { len, source: Source::Staged(at) }))
}

/// The entries of a directory whose 100 files were created.
fn hundred(n: u64) -> (Vec<u8>, Vec<u8>) {
    let bound = |key: Key| key.as_bytes().to_vec();
    let directory = Ino(2 + n);
    (bound(Key::tag_start(directory, Tag::Entry)), bound(Key::tag_end(directory, Tag::Entry)))
}

fn batch_of(records: Records) -> Batch {
    let mut batch = Batch::new();
    records.into_iter().for_each(|(key, value)| batch.put(key, value));
    batch
}

/// RocksDB as the design had it: log on, not synced per write; content in a file beside it.
struct Plain {
    db: DB,
    staging: File,
    staged: u64,
}

impl Plain {
    fn open(dir: &Path) -> Result<Plain> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_size(16 << 20);
        options.set_max_background_jobs(2);
        options.set_compression_type(DBCompressionType::Lz4);
        let db = DB::open(&options, dir.join("rocksdb"))?;
        Ok(Plain { db, staging: File::create(dir.join("staging"))?, staged: 0 })
    }

    fn commit(&self, records: Records, sync: bool) -> Result<()> {
        let mut batch = WriteBatch::default();
        records.iter().for_each(|(key, value)| batch.put(key.as_bytes(), value));
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        Ok(self.db.write_opt(batch, &options)?)
    }

    fn range(&self, from: &[u8], to: &[u8]) -> Result<Vec<(Key, Vec<u8>)>> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        let mut found = Vec::new();
        let mut cursor = self.db.raw_iterator_opt(options);
        cursor.seek(from);
        while let Some((key, value)) = cursor.item() {
            found.push((Key::from_bytes(key)?, value.to_vec()));
            cursor.next();
        }
        Ok(cursor.status().map(|()| found)?)
    }

    fn commit_with_data(&mut self, n: u64, data: &[u8]) -> Result<()> {
        self.staging.write_all(data)?;
        let mut records = creation(n);
        records.push(extent(n, data.len() as u64, StagedAt { segment: 0, offset: self.staged }));
        self.staged += data.len() as u64;
        self.commit(records, false)
    }
}

fn timed(clock: &SystemClock, count: u64, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = clock.monotonic();
    work()?;
    Ok(micros(clock.monotonic() - begin) / count as f64)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Microseconds per operation of one round, by row of the table.
type Row = (&'static str, f64);

fn round_local(dir: &Path, clock: &Arc<SystemClock>) -> Result<Vec<Row>> {
    let open = || anyhow::Ok(Local::open(dir, &LocalOptions::default(), clock.clone())?);
    let local = open()?;
    let records: Vec<Records> = (0..COMMITS).map(creation).collect();
    let mut rows = Vec::new();
    rows.push((
        "create",
        timed(clock, COMMITS, || {
            records.into_iter().try_for_each(|one| Ok(local.commit(batch_of(one))?))
        })?,
    ));
    rows.push((
        "get",
        timed(clock, COMMITS, || {
            (0..COMMITS).try_for_each(|n| {
                local.get(Key::attr(Ino(n)).as_bytes())?;
                Ok(())
            })
        })?,
    ));
    rows.push((
        "range of 100",
        timed(clock, COMMITS / 100, || {
            (0..COMMITS / 100).try_for_each(|n| {
                let (from, to) = hundred(n);
                anyhow::ensure!(local.range(&from, &to, 1000)?.len() == 100);
                Ok(())
            })
        })?,
    ));
    rows.push((
        "create + 4 KiB",
        timed(clock, DATA_COMMITS, || {
            let data = [7; 4096];
            (0..DATA_COMMITS).try_for_each(|n| {
                let n = COMMITS + n;
                Ok(local.commit_with_data(&[&data], &mut |at| {
                    let mut records = creation(n);
                    records.push(extent(n, 4096, at));
                    batch_of(records)
                })?)
            })
        })?,
    ));
    local.sync()?;
    rows.push((
        "synced, 1 thread",
        timed(clock, SYNCS, || {
            (0..SYNCS).try_for_each(|n| {
                local.commit(batch_of(creation(n)))?;
                Ok(local.sync()?)
            })
        })?,
    ));
    rows.push((
        "synced, 8 threads",
        timed(clock, SYNCS * THREADS, || {
            in_threads(&|n| {
                local.commit(batch_of(creation(n)))?;
                Ok(local.sync()?)
            })
        })?,
    ));
    drop(local);
    rows.push(("open after a kill", timed(clock, 1, || open().map(drop))?));
    Ok(rows)
}

fn round_plain(dir: &Path, clock: &SystemClock) -> Result<Vec<Row>> {
    let mut plain = Plain::open(dir)?;
    let records: Vec<Records> = (0..COMMITS).map(creation).collect();
    let mut rows = Vec::new();
    rows.push((
        "create",
        timed(clock, COMMITS, || records.into_iter().try_for_each(|one| plain.commit(one, false)))?,
    ));
    rows.push((
        "get",
        timed(clock, COMMITS, || {
            (0..COMMITS).try_for_each(|n| {
                plain.db.get_pinned(Key::attr(Ino(n)).as_bytes())?;
                Ok(())
            })
        })?,
    ));
    rows.push((
        "range of 100",
        timed(clock, COMMITS / 100, || {
            (0..COMMITS / 100).try_for_each(|n| {
                let (from, to) = hundred(n);
                anyhow::ensure!(plain.range(&from, &to)?.len() == 100);
                Ok(())
            })
        })?,
    ));
    rows.push((
        "create + 4 KiB",
        timed(clock, DATA_COMMITS, || {
            (0..DATA_COMMITS).try_for_each(|n| plain.commit_with_data(COMMITS + n, &[7; 4096]))
        })?,
    ));
    plain.staging.sync_data()?;
    plain.db.flush_wal(true)?;
    rows.push((
        "synced, 1 thread",
        timed(clock, SYNCS, || (0..SYNCS).try_for_each(|n| plain.commit(creation(n), true)))?,
    ));
    rows.push((
        "synced, 8 threads",
        timed(clock, SYNCS * THREADS, || in_threads(&|n| plain.commit(creation(n), true)))?,
    ));
    drop(plain);
    rows.push(("open after a kill", timed(clock, 1, || Plain::open(dir).map(drop))?));
    Ok(rows)
}

fn in_threads(work: &(impl Fn(u64) -> Result<()> + Sync)) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let mine = thread * SYNCS..(thread + 1) * SYNCS;
                scope.spawn(move || mine.into_iter().try_for_each(work))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no worker panics"))
    })
}

fn median(rounds: &[Vec<Row>], row: usize) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(|rows| rows[row].1).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<()> {
    let dir = std::env::args_os().nth(1).context("usage: journal_bench DIRECTORY")?;
    let clock = Arc::new(SystemClock::new());
    let (mut local, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir_in(&dir)?;
        local.push(round_local(dir.path(), &clock)?);
        let dir = tempfile::tempdir_in(dir.path())?;
        plain.push(round_plain(dir.path(), &clock)?);
    }
    println!("{:<20} {:>10} {:>12} {:>7}", "us per operation", "journal", "RocksDB+WAL", "ratio");
    for (row, (name, _)) in local[0].iter().enumerate() {
        let (ours, theirs) = (median(&local, row), median(&plain, row));
        println!("{name:<20} {ours:>10.2} {theirs:>12.2} {:>7.2}", ours / theirs);
    }
    Ok(())
}
