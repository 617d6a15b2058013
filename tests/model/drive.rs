//! Histories from numbered seeds, for as many or as long as is asked: each number is one history,
//! of one kind, and the same one each time. Shared by the model and by the mounted one.
//!
//! | variable | says |
//! |---|---|
//! | `DORMOUSE_MODEL_SEED` | the first number |
//! | `DORMOUSE_MODEL_HISTORIES` | how many |
//! | `DORMOUSE_MODEL_SECONDS` | for how long, instead |

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use dormouse::types::{Clock, SystemClock};

use crate::ops::Op;

/// One kind of histories: what it is called, what it is drawn from, and what runs it and tells
/// how many operations it had.
pub type Kind = (&'static str, BoxedStrategy<Vec<Op>>, fn(&[Op]) -> u64);

/// The name of the binary and of the test in it.
pub type Test = (&'static str, &'static str);

/// As many threads as there are cores.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What the environment asks for.
pub struct Asked {
    seed: u64,
    histories: u64,
    seconds: Option<u64>,
}

impl Asked {
    /// `histories` of them, from the first number, unless something else is asked for.
    pub fn read(histories: u64) -> Asked {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
        };
        Asked {
            seed: number("DORMOUSE_MODEL_SEED").unwrap_or(1),
            histories: number("DORMOUSE_MODEL_HISTORIES").unwrap_or(histories),
            seconds: number("DORMOUSE_MODEL_SECONDS"),
        }
    }
}

/// Runs histories, kind after kind, as many at once as there are threads. A failing one is shrunk,
/// and its number is told. `binary` and `test` say how.
pub fn drive(test: Test, threads: usize, kinds: fn() -> Vec<Kind>, asked: &Asked) {
    let clock = SystemClock::new();
    let (next, operations) = (AtomicU64::new(0), AtomicU64::new(0));
    let failure = Mutex::new(None);
    let is_over = |begun: u64| match asked.seconds {
        Some(seconds) => clock.monotonic() >= Duration::from_secs(seconds),
        None => begun >= asked.histories,
    };
    let work = || {
        // A thread's own umask: operations of others have theirs.
        unshare(CloneFlags::CLONE_FS).unwrap();
        let kinds = kinds();
        loop {
            // In this order, so that what is counted is run.
            let number = next.load(Ordering::Relaxed);
            if is_over(number) || failure.lock().unwrap().is_some() {
                return;
            }
            if next
                .compare_exchange(number, number + 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
            {
                continue;
            }
            let seed = asked.seed + number;
            match one(test, &kinds[(seed % kinds.len() as u64) as usize], seed) {
                Ok(done) => _ = operations.fetch_add(done, Ordering::Relaxed),
                Err(text) => *failure.lock().unwrap() = Some(text),
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(work)));
    if let Some(text) = failure.into_inner().unwrap() {
        panic!("{text}");
    }
    let (histories, operations) = (next.into_inner(), operations.into_inner());
    let seconds = clock.monotonic().as_secs_f64();
    let per_minute = histories as f64 / seconds * 60.0;
    println!(
        "{}: {histories} histories, {operations} operations, from seed {}, {seconds:.0} s, \
         {per_minute:.0} histories a minute",
        test.0, asked.seed
    );
}

/// The history of one number; how many operations it had, or what is wrong.
fn one((binary, test): Test, (kind, strategy, run): &Kind, seed: u64) -> Result<u64, String> {
    let config = Config {
        cases: 1,
        max_shrink_iters: 2000,
        // A mount takes its time: after so long, what was found is told as short as it is by then.
        max_shrink_time: 120_000,
        failure_persistence: None,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let operations = std::cell::Cell::new(0);
    let tried = TestRunner::new_with_rng(config, rng).run(strategy, |history| {
        operations.set(run(&history));
        Ok(())
    });
    let told = |error| {
        format!(
            "{error}\n{kind}, seed {seed}; the same again: DORMOUSE_MODEL_SEED={seed} \
             DORMOUSE_MODEL_HISTORIES=1 cargo test --release --test {binary} {test} -- \
             --include-ignored --nocapture"
        )
    };
    tried.map(|()| operations.get()).map_err(told)
}
