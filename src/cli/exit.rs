//! Exit codes, and failures that carry one. The table of `docs/cli.md` is made of this.

use std::fmt;

use crate::control::Refusal;

/// How a command ends. The numbers are stable: scripts depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// A fault of dormouse or of this machine.
    Internal = 1,
    /// The command line, the configuration, or a path it names.
    Usage = 2,
    /// The store did not answer in time, or was there before and is not now.
    Unreachable = 3,
    /// The store refused the credentials.
    Denied = 4,
    /// No such store, workspace, snapshot or mount.
    NotFound = 5,
    /// Another machine holds the lease.
    LeaseHeld = 6,
    /// Another writer took over.
    Fenced = 7,
    /// Already mounted, in use, or locked by another process.
    Busy = 8,
    /// Something is damaged, or written by a newer version.
    Damaged = 9,
    /// No room on the disk, in the cache or in the store.
    NoSpace = 10,
    /// The store ignores conditional writes.
    NoConditions = 11,
    /// The cache directory does not belong to this store and workspace, or to its history.
    Diverged = 12,
    /// This machine or user can't mount.
    CannotMount = 13,
}

/// One row of the documented table: code, short name (as in `--json`), meaning, what to do.
pub type Row = (Code, &'static str, &'static str, &'static str);

/// All codes. `docs/cli.md`, `dormouse exit-codes` and the man page show this table.
pub const TABLE: [Row; 14] = [
    (Code::Ok, "ok", "done", ""),
    (Code::Internal, "internal", "unexpected failure", "see the message and the daemon's log"),
    (
        Code::Usage,
        "usage",
        "a flag, the configuration or a path it names can't be used",
        "correct it; nothing was done",
    ),
    (
        Code::Unreachable,
        "unreachable",
        "the store does not answer, or is gone; or not all is in it yet",
        "nothing is lost: try again; `hibernate` and `mount` go on from the local data",
    ),
    (Code::Denied, "denied", "the store refused the credentials", "correct them, try again"),
    (
        Code::NotFound,
        "not-found",
        "no such store, workspace, snapshot or mount",
        "`dormouse init`, `mount --create`, or correct the name",
    ),
    (
        Code::LeaseHeld,
        "lease-held",
        "another machine has the workspace mounted",
        "hibernate it there, wait for its lease to expire, or `--steal` if it is dead",
    ),
    (
        Code::Fenced,
        "fenced",
        "another writer took the workspace over; this one can't write any more",
        "its unsynced data is still in its cache directory",
    ),
    (
        Code::Busy,
        "busy",
        "already mounted, in use, or the cache directory is another process's",
        "the message says whose",
    ),
    (
        Code::Damaged,
        "damaged",
        "the store or the local data is damaged or from a newer version",
        "the message says what; use an older snapshot (`--at`) or a newer dormouse",
    ),
    (
        Code::NoSpace,
        "no-space",
        "no room on the local disk, in the cache or in the store",
        "make room or raise `--cache-size`",
    ),
    (
        Code::NoConditions,
        "no-conditions",
        "the store ignores conditional writes, so two writers could not be kept apart",
        "use a store that honours If-Match and If-None-Match",
    ),
    (
        Code::Diverged,
        "diverged",
        "the cache directory belongs to another store, workspace or history",
        "name another `--cache-dir`; this one keeps its data",
    ),
    (
        Code::CannotMount,
        "cannot-mount",
        "this machine or user can't mount: no /dev/fuse, no permission, no fusermount3",
        "see the message",
    ),
];

impl Code {
    /// The number as the process returns it.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The short name, as `--json` shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        TABLE[usize::from(self.number())].1
    }

    /// The code with this number; unknown ones are internal.
    #[must_use]
    pub fn from_number(number: u8) -> Code {
        TABLE.get(usize::from(number)).map_or(Code::Internal, |row| row.0)
    }
}

/// The table as plain text, for `dormouse exit-codes` and the man page.
#[must_use]
pub fn table_text() -> String {
    let mut text = String::new();
    for (code, name, meaning, remedy) in TABLE {
        text.push_str(&format!("{:>3}  {name:<14} {meaning}\n", code.number()));
        if !remedy.is_empty() {
            text.push_str(&format!("{:19} -> {remedy}\n", ""));
        }
    }
    text
}

/// Why a command did not do what it was told, for a person and for a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the process ends with.
    pub code: Code,
    /// What happened, to what.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// It was told to whoever waits for it: only the exit code is left to give.
    pub is_said: bool,
}

/// What commands return.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure without a hint.
    pub fn new(code: Code, message: impl fmt::Display) -> Failure {
        Failure { code, message: message.to_string(), hint: None, is_said: false }
    }

    /// The command line or configuration is at fault.
    pub fn usage(message: impl fmt::Display) -> Failure {
        Failure::new(Code::Usage, message)
    }

    /// Something that should not fail did.
    pub fn internal(message: impl fmt::Display) -> Failure {
        Failure::new(Code::Internal, message)
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Failure {
        self.hint = Some(hint.to_string());
        self
    }

    /// Adds one more thing to know.
    #[must_use]
    pub fn also(self, more: impl fmt::Display) -> Failure {
        match self.hint.clone() {
            Some(hint) => self.hint(format!("{hint}\n  {more}")),
            None => self.hint(more),
        }
    }

    /// Marks it as told.
    #[must_use]
    pub fn said(mut self) -> Failure {
        self.is_said = true;
        self
    }

    /// As it goes over the control socket.
    #[must_use]
    pub fn to_refusal(&self) -> Refusal {
        let (message, hint) = (self.message.clone(), self.hint.clone());
        Refusal { code: self.code.number(), message, hint }
    }

    /// As `--json` prints it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({"error": {
            "code": self.code.number(),
            "name": self.code.name(),
            "message": self.message,
            "hint": self.hint,
        }})
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let Refusal { code, message, hint } = refusal;
        Failure { code: Code::from_number(code), message, hint, is_said: false }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  {hint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_code_at_its_number() {
        for (number, (code, ..)) in TABLE.iter().enumerate() {
            assert_eq!(usize::from(code.number()), number);
            assert_eq!(Code::from_number(code.number()), *code);
        }
    }

    #[test]
    fn the_manual_shows_the_same_table() {
        let manual = include_str!("../../docs/cli.md");
        for (code, name, meaning, remedy) in TABLE {
            let row = format!("| {} | `{name}` | {meaning} | {remedy} |", code.number());
            assert!(manual.contains(&row), "docs/cli.md lacks this row:\n{row}");
        }
    }

    #[test]
    fn a_failure_comes_back_from_the_socket_as_it_was() {
        let failure = Failure::new(Code::LeaseHeld, "held").hint("wait");
        assert_eq!(Failure::from(failure.to_refusal()), failure);
    }
}
