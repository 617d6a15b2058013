//! Histories from numbered seeds, for as many or as long as is asked: each number is one history,
//! of one kind, and the same one each time. Shared by the model and by the mounted one.
//!
//! | variable | says |
//! |---|---|
//! | `DORMOUSE_MODEL_SEED` | the first number |
//! | `DORMOUSE_MODEL_HISTORIES` | how many |
//! | `DORMOUSE_MODEL_SECONDS` | for how long, instead |

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use dormouse::types::{Clock, SystemClock};

use crate::ops::Op;

/// One kind of histories: what it is called, what it is drawn from, and what runs it and tells
/// how many operations it had.
pub type Kind = (&'static str, BoxedStrategy<Vec<Op>>, fn(&[Op]) -> u64);

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

/// Runs histories, kind after kind. A failing one is shrunk, and its number is told. `binary` and
/// `test` say how.
pub fn drive((binary, test): (&str, &str), kinds: &[Kind], asked: &Asked) {
    let clock = SystemClock::new();
    let over = |done: u64| match asked.seconds {
        Some(seconds) => clock.monotonic() >= Duration::from_secs(seconds),
        None => done >= asked.histories,
    };
    let (mut histories, mut operations) = (0, 0);
    while !over(histories) {
        let seed = asked.seed + histories;
        let (kind, strategy, run) = &kinds[(seed % kinds.len() as u64) as usize];
        operations += one((binary, test), kind, strategy, *run, seed);
        histories += 1;
    }
    let seconds = clock.monotonic().as_secs_f64();
    let per_minute = histories as f64 / seconds * 60.0;
    println!(
        "{binary}: {histories} histories, {operations} operations, from seed {}, {seconds:.0} s, \
         {per_minute:.0} histories a minute",
        asked.seed
    );
}

fn one(
    (binary, test): (&str, &str),
    kind: &str,
    strategy: &BoxedStrategy<Vec<Op>>,
    run: fn(&[Op]) -> u64,
    seed: u64,
) -> u64 {
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
    if let Err(error) = tried {
        panic!(
            "{error}\n{kind}, seed {seed}; the same again: DORMOUSE_MODEL_SEED={seed} \
             DORMOUSE_MODEL_HISTORIES=1 cargo test --release --test {binary} {test} -- \
             --include-ignored --nocapture"
        );
    }
    operations.get()
}
