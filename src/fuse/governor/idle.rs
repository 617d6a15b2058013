//! For how long each core has been idle: `/proc/stat`.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// As much of the file as is read: the cores stand first, a line of some 60 bytes for each.
const STAT_BYTES_MAX: usize = 64 * 1024;

/// The cores' idle times, read at most once for each look.
#[derive(Debug, Default)]
pub(super) struct IdleTimes {
    file: Option<File>,
    ticks_per_sec: u64,
    read_at: Cell<Option<Duration>>,
    text: RefCell<Vec<u8>>,
}

impl IdleTimes {
    /// Where `/proc/stat` can't be read, nothing is known.
    pub(super) fn open() -> IdleTimes {
        // SAFETY: no pointers.
        let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        let ticks_per_sec = u64::try_from(ticks).unwrap_or(0);
        IdleTimes { file: File::open("/proc/stat").ok(), ticks_per_sec, ..IdleTimes::default() }
    }

    /// Mean of these cores, as of the look at time `at`.
    pub(super) fn mean(&self, cores: &[usize], at: Duration) -> Option<Duration> {
        if self.read_at.replace(Some(at)) != Some(at) {
            self.read();
        }
        let text = self.text.borrow();
        let text = std::str::from_utf8(&text).ok()?;
        let ticks = mean_ticks(text, cores)?;
        let ticks_per_sec = u32::try_from(self.ticks_per_sec).ok()?;
        Duration::from_millis(ticks.saturating_mul(1_000)).checked_div(ticks_per_sec)
    }

    fn read(&self) {
        let mut text = self.text.borrow_mut();
        text.resize(STAT_BYTES_MAX, 0);
        let len = self.file.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
        let len = text[..len.unwrap_or(0)].iter().rposition(|&byte| byte == b'\n').unwrap_or(0);
        text.truncate(len);
    }
}

/// Of lines `cpuN user nice system idle iowait ...`: idle and iowait, when a core has nothing to
/// run. `None` if a core has no line: it is gone.
fn mean_ticks(text: &str, cores: &[usize]) -> Option<u64> {
    let mut sum = 0_u64;
    let mut found = 0;
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("cpu") else { break };
        let mut fields = rest.split_ascii_whitespace();
        let core = fields.next().filter(|_| !rest.starts_with(' ')).and_then(|n| n.parse().ok());
        if core.is_some_and(|core| cores.contains(&core)) {
            let idle = fields.nth(3)?.parse::<u64>().ok()?;
            let waiting = fields.next()?.parse::<u64>().ok()?;
            sum = sum.checked_add(idle)?.checked_add(waiting)?;
            found += 1;
        }
    }
    if found == cores.len() { sum.checked_div(found as u64) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 400 5 6 7 0 0 0\n\
                        cpu1 1 2 3 200 7 6 7 0 0 0\ncpu10 1 2 3 1 1 6 7 0 0 0\nintr 5 1\n";

    #[test]
    fn a_cores_idle_time_is_found_in_its_line() {
        assert_eq!(mean_ticks(TEXT, &[0]), Some(405));
        assert_eq!(mean_ticks(TEXT, &[10]), Some(2));
        assert_eq!(mean_ticks(TEXT, &[0, 1]), Some(306));
        assert_eq!(mean_ticks(TEXT, &[2]), None);
        assert_eq!(mean_ticks(TEXT, &[]), None);
        assert_eq!(mean_ticks("cpu0 1 2", &[0]), None);
    }

    #[test]
    fn the_machine_tells_and_time_does_not_go_back() {
        let times = IdleTimes::open();
        let at = Duration::from_millis;
        let first = times.mean(&[0], at(1)).unwrap();
        assert_eq!(times.mean(&[0], at(1)), Some(first), "read once for a look");
        assert!(times.mean(&[0], at(2)).unwrap() >= first);
    }
}
