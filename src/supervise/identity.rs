//! Which process is meant: a number alone is reused.

use std::fs;

/// A process, told apart from any later one with the same number.
///
/// Linux has all fields (`/proc`); elsewhere only the number is known, and a comparison says no more
/// than that says.
///
/// ```
/// use buttress::supervise::ProcessIdentity;
/// let own = ProcessIdentity::own();
/// assert_eq!(own.pid, std::process::id());
/// assert!(own.is_running());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ProcessIdentity {
    /// The number.
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot (field 22 of `/proc/PID/stat`).
    pub started: Option<u64>,
    /// Which boot of the machine that counts from.
    pub boot_id: Option<String>,
    /// The inode of the process-number namespace in which `pid` is a number.
    pub pid_namespace: Option<u64>,
}

impl ProcessIdentity {
    /// This process.
    ///
    /// ```
    /// let own = buttress::supervise::ProcessIdentity::own();
    /// assert_eq!(own, buttress::supervise::ProcessIdentity::own());
    /// ```
    #[must_use]
    pub fn own() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            started: ProcessStatus::of(pid).map(|status| status.started),
            boot_id: boot_id(),
            pid_namespace: namespace("pid"),
        }
    }

    /// The process that has this number now, if there is one that can be seen.
    ///
    /// ```
    /// use buttress::supervise::ProcessIdentity;
    /// # if cfg!(target_os = "linux") {
    /// assert_eq!(ProcessIdentity::of(std::process::id()), Some(ProcessIdentity::own()));
    /// # }
    /// ```
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let status = ProcessStatus::of(pid)?;
        Some(Self {
            pid,
            started: Some(status.started),
            boot_id: boot_id(),
            pid_namespace: namespace("pid"),
        })
    }

    /// Whether this very process runs: a zombie does not, nor does a later process with the same number,
    /// nor anything of an earlier boot. False where `/proc` cannot be read.
    ///
    /// ```
    /// assert!(buttress::supervise::ProcessIdentity::own().is_running());
    /// ```
    #[must_use]
    pub fn is_running(&self) -> bool {
        if self.boot_id.is_some() && self.boot_id != boot_id() {
            return false;
        }
        ProcessStatus::of(self.pid).is_some_and(|status| {
            !status.is_dead() && self.started.is_none_or(|started| started == status.started)
        })
    }
}

/// What `/proc/PID/stat` says of a process.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// let own = buttress::supervise::ProcessStatus::of(std::process::id()).unwrap();
/// assert!(!own.is_dead() && !own.is_stopped());
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessStatus {
    /// The kernel's letter: `R`unning, `S`leeping, `D`isk, s`T`opped, `t`raced, `Z`ombie, …
    pub state: char,
    /// The parent's number.
    pub parent: u32,
    /// The process group's number.
    pub group: u32,
    /// The start, in ticks since boot.
    pub started: u64,
}

impl ProcessStatus {
    /// Reads it. `None` if there is no such process, or no `/proc`.
    ///
    /// ```
    /// assert!(buttress::supervise::ProcessStatus::of(u32::MAX).is_none());
    /// ```
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        // Bytes, not text: a program may call itself anything.
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name is in parentheses and may hold any, so what counts begins after the *last* one.
    fn parse(stat: &[u8]) -> Option<Self> {
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?; // field 3
        let parent = fields.next()?.parse().ok()?;
        // A kernel thread's group is 0, that of a process from outside this namespace too.
        let group = fields.next()?.parse().ok()?;
        let started = fields.nth(16)?.parse().ok()?; // field 22
        Some(Self { state, parent, group, started })
    }

    /// Ended, but not collected by its parent yet.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// assert!(!buttress::supervise::ProcessStatus::of(std::process::id()).unwrap().is_dead());
    /// # }
    /// ```
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Stopped by a signal or by a debugger.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// assert!(!buttress::supervise::ProcessStatus::of(std::process::id()).unwrap().is_stopped());
    /// # }
    /// ```
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// Which boot of the machine this is. Linux only.
pub(crate) fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

/// The inode of a namespace of this process: `pid`, `time`. Linux only.
#[cfg(unix)]
pub(crate) fn namespace(kind: &str) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(fs::metadata(format!("/proc/self/ns/{kind}")).ok()?.ino())
}

#[cfg(not(unix))]
pub(crate) fn namespace(_: &str) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_any_bytes_is_read() {
        let stat =
            b"77 (a) R 1 (\xff) b) T 5 6 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        let status = ProcessStatus::parse(stat).unwrap();
        assert_eq!(status, ProcessStatus { state: 'T', parent: 5, group: 6, started: 987_654 });
        assert!(status.is_stopped() && !status.is_dead());
    }

    #[test]
    fn half_a_line_is_no_status() {
        let stat = b"77 (a) T 5 6 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654";
        for end in 0..stat.len() - 6 {
            assert_eq!(ProcessStatus::parse(&stat[..end]), None, "cut after {end} bytes");
        }
    }

    #[test]
    fn another_start_or_boot_is_another_process() {
        if !cfg!(target_os = "linux") {
            return;
        }
        let own = ProcessIdentity::own();
        let reused = ProcessIdentity { started: own.started.map(|ticks| ticks + 1), ..own.clone() };
        let rebooted = ProcessIdentity { boot_id: Some("another".into()), ..own.clone() };
        assert!(own.is_running() && !reused.is_running() && !rebooted.is_running());
    }
}
