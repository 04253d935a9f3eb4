//! How a run of a child ended.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// How a run of a child ended.
///
/// ```
/// use buttress::supervise::process::Exit;
/// assert_eq!(Exit::Code(3).to_string(), "exit code 3");
/// assert_eq!(Exit::Signal { number: 11, core_dumped: true }.as_str(), "signal");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal {
        /// Its number.
        number: i32,
        /// Whether the kernel wrote a core file.
        core_dumped: bool,
    },
    /// The kernel killed it because memory ran out: it died of `SIGKILL`, which nobody here sent, and the
    /// count of such kills in our control group has grown. Linux only.
    OutOfMemory,
    /// It was stopped because it no longer gave signs of life.
    Frozen,
    /// It was stopped because it did not become ready in time.
    StartTimeout,
    /// It could not be started at all.
    NotStarted(io::ErrorKind),
    /// It ended, but somebody else in this process took its status: a `waitpid(-1)`, or `SIGCHLD` ignored.
    Unknown,
}

impl Exit {
    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::process::Exit::OutOfMemory.as_str(), "out_of_memory");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Code(_) => "code",
            Self::Signal { .. } => "signal",
            Self::OutOfMemory => "out_of_memory",
            Self::Frozen => "frozen",
            Self::StartTimeout => "start_timeout",
            Self::NotStarted(_) => "not_started",
            Self::Unknown => "unknown",
        }
    }

    pub(super) fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(number)) => Self::Signal { number, core_dumped: status.core_dumped() },
            (None, None) => Self::Unknown,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { number, core_dumped: false } => write!(f, "signal {number}"),
            Self::Signal { number, core_dumped: true } => write!(f, "signal {number}, core dumped"),
            Self::OutOfMemory => f.write_str("killed for want of memory"),
            Self::Frozen => f.write_str("frozen"),
            Self::StartTimeout => f.write_str("not ready in time"),
            Self::NotStarted(why) => write!(f, "not started: {why}"),
            Self::Unknown => f.write_str("unknown: its status was taken by somebody else"),
        }
    }
}

/// How often the kernel has killed for want of memory in our control group, or on the machine if there is
/// none. Children are born into the group of their parent.
pub(super) struct OomKills(Vec<String>);

impl OomKills {
    pub(super) fn of_own_group() -> Self {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut files = Vec::new();
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(kind), Some(path)) = (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            let path = path.trim_end_matches('/');
            if kind.is_empty() {
                files.push(format!("/sys/fs/cgroup{path}/memory.events"));
                files.push(format!("/sys/fs/cgroup/unified{path}/memory.events"));
            } else if kind.split(',').any(|kind| kind == "memory") {
                // In a container without a namespace for groups the path is the host's.
                files.push(format!("/sys/fs/cgroup/memory{path}/memory.oom_control"));
                files.push("/sys/fs/cgroup/memory/memory.oom_control".to_owned());
            }
        }
        files.push("/proc/vmstat".to_owned());
        Self(files)
    }

    /// `None` where no file tells.
    pub(super) fn count(&self) -> Option<u64> {
        self.0.iter().find_map(|file| Self::parse(&std::fs::read_to_string(file).ok()?))
    }

    fn parse(text: &str) -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_code_or_a_signal_with_or_without_a_core() {
        assert_eq!(Exit::of(ExitStatus::from_raw(3 << 8)), Exit::Code(3));
        let signal = |number, core_dumped| Exit::Signal { number, core_dumped };
        assert_eq!(Exit::of(ExitStatus::from_raw(9)), signal(9, false));
        assert_eq!(Exit::of(ExitStatus::from_raw(11 | 0x80)), signal(11, true));
    }

    #[test]
    fn the_count_of_kills_is_read_from_either_kind_of_group() {
        assert_eq!(OomKills::parse("low 0\nhigh 0\nmax 3\noom 2\noom_kill 7\n"), Some(7));
        assert_eq!(OomKills::parse("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), Some(2));
        assert_eq!(OomKills::parse("oom 2\n"), None);
    }
}
