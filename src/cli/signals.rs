//! Signals as events of one thread, instead of handlers that may do almost nothing.

use std::thread;

use nix::sys::signal::{SigSet, Signal};

use super::exit::{Failure, Outcome};

/// Signals that mean: put everything into the store and end.
const LEAVE: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Blocks the signals in this thread and all that it starts from now on. Call it before any
/// other thread exists; else one of those would take the signal and end the process.
pub fn block() -> Outcome<SigSet> {
    let mut set = SigSet::empty();
    for signal in LEAVE {
        set.add(signal);
    }
    set.thread_block().map_err(|error| Failure::internal(format!("blocking signals: {error}")))?;
    Ok(set)
}

/// Calls `on_signal` for each signal, one at a time, on a thread of its own.
pub fn listen(set: SigSet, mut on_signal: impl FnMut(Signal) + Send + 'static) -> Outcome {
    let wait = move || {
        loop {
            match set.wait() {
                Ok(signal) => on_signal(signal),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "signals can't be waited for any more");
                    return;
                }
            }
        }
    };
    let started = thread::Builder::new().name("signals".into()).spawn(wait);
    started.map(drop).map_err(|error| Failure::internal(format!("starting a thread: {error}")))
}
