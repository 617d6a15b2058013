//! Named crash points: how the crash tests kill the process at a chosen step.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// `NAME` or `NAME:N`: die at the first or N-th pass of that point.
const VARIABLE: &str = "DORMOUSE_CRASH_POINT";

struct Armed {
    name: String,
    passes_left: AtomicU32,
}

/// Kills this process, as `kill -9` would, if the environment variable `DORMOUSE_CRASH_POINT`
/// named this point when the first point was passed. For tests; otherwise it costs one load.
#[doc(hidden)]
pub fn crash_point(name: &str) {
    crash_point_after(name, || ());
}

/// As [`crash_point`], but does something before it kills: what a step leaves that is cut in half.
#[doc(hidden)]
pub fn crash_point_after(name: &str, last_act: impl FnOnce()) {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let value = std::env::var(VARIABLE).ok()?;
        let (name, passes) = match value.split_once(':') {
            Some((name, passes)) => (name.to_owned(), passes.parse().ok()?),
            None => (value, 1),
        };
        Some(Armed { name, passes_left: AtomicU32::new(passes) })
    });
    if let Some(armed) = armed
        && armed.name == name
        && armed.passes_left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        last_act();
        // SAFETY: a signal to ourselves; nothing of this process runs on.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}
