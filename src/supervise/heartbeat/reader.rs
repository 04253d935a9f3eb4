//! Is the writer of a state file alive?

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

#[cfg(unix)]
use super::super::identity::ProcessStatus;
use super::super::identity::{boot_id, namespace};
use super::place;
use super::state::{BeatState, CorruptHeartbeat, HeartbeatState};

/// What a state file says about its writer.
///
/// ```
/// use buttress::supervise::heartbeat::{Heartbeat, HeartbeatVerdict};
/// # use std::time::Duration;
/// let verdict = Heartbeat::verdict("/nowhere/at/all", Duration::from_secs(30));
/// assert_eq!(verdict, HeartbeatVerdict::Missing);
/// assert!(!verdict.is_alive());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeartbeatVerdict {
    /// It has beaten recently, and its process runs.
    Alive {
        /// The time since the beat.
        age: Duration,
    },
    /// It has beaten recently. Whether its process runs cannot be seen from here: it belongs to another
    /// namespace of process numbers, as that of another container.
    Unverified {
        /// The time since the beat.
        age: Duration,
    },
    /// Its process may run, but it has not beaten for longer than allowed.
    Stale {
        /// The time since the beat.
        age: Duration,
    },
    /// There is no file.
    Missing,
    /// The writer has ended on purpose.
    Stopped,
    /// The writer's process has gone.
    DeadPid,
    /// The writer's process has gone; another one has its number.
    PidReused,
    /// The file is from before the machine was started again.
    OtherBoot,
    /// The file is from another machine: neither its processes nor its clock can be seen.
    OtherHost {
        /// The time since the beat, if that machine's wall clock agrees with this one's.
        age: Option<Duration>,
    },
    /// There is a file, and it is no beat.
    Corrupt(CorruptHeartbeat),
    /// The beat is from the future: a clock was set, or the file was.
    ClockSkew {
        /// How far.
        ahead: Duration,
    },
    /// The file cannot be read.
    Unreadable(io::ErrorKind),
}

impl HeartbeatVerdict {
    /// Whether that is [`Alive`](Self::Alive) or [`Unverified`](Self::Unverified): a beat that is recent by
    /// a clock that cannot be set says enough.
    ///
    /// ```
    /// use buttress::supervise::heartbeat::HeartbeatVerdict;
    /// assert!(HeartbeatVerdict::Alive { age: std::time::Duration::ZERO }.is_alive());
    /// assert!(!HeartbeatVerdict::Stopped.is_alive());
    /// ```
    #[must_use]
    pub const fn is_alive(&self) -> bool {
        matches!(self, Self::Alive { .. } | Self::Unverified { .. })
    }

    /// Whether the process that wrote it is known to be gone.
    ///
    /// ```
    /// assert!(buttress::supervise::heartbeat::HeartbeatVerdict::DeadPid.is_dead());
    /// ```
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        matches!(self, Self::DeadPid | Self::PidReused | Self::OtherBoot)
    }

    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::heartbeat::HeartbeatVerdict::Missing.as_str(), "missing");
    /// ```
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Alive { .. } => "alive",
            Self::Unverified { .. } => "unverified",
            Self::Stale { .. } => "stale",
            Self::Missing => "missing",
            Self::Stopped => "stopped",
            Self::DeadPid => "dead_pid",
            Self::PidReused => "pid_reused",
            Self::OtherBoot => "other_boot",
            Self::OtherHost { .. } => "other_host",
            Self::Corrupt(_) => "corrupt",
            Self::ClockSkew { .. } => "clock_skew",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

/// What can be said of a process number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(unix), allow(dead_code, reason = "processes are not looked up there"))]
pub(super) enum Lookup {
    Running {
        started: u64,
    },
    /// There is something, no more can be seen.
    Hidden,
    Dead,
}

/// From where a state file is read: the clocks, the machine and the namespaces of the reader.
///
/// [`Heartbeat::verdict`](super::Heartbeat::verdict) uses those of this process. With others, a verdict
/// can be had for another time or place; tests do.
///
/// ```
/// use buttress::supervise::heartbeat::{HeartbeatReader, HeartbeatState, HeartbeatVerdict};
/// # use std::time::{Duration, SystemTime};
/// let beat = HeartbeatState::parse(
///     br#"{"timestamp": "1970-01-01T00:00:00Z", "pid": 1, "hostname": "h"}"#,
/// )?;
/// let reader = HeartbeatReader::here()
///     .hostname("another")
///     .wall_clock(SystemTime::UNIX_EPOCH + Duration::from_secs(7));
/// let verdict = reader.judge(&beat, Duration::from_secs(30));
/// assert_eq!(verdict, HeartbeatVerdict::OtherHost { age: Some(Duration::from_secs(7)) });
/// # Ok::<(), buttress::supervise::heartbeat::CorruptHeartbeat>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct HeartbeatReader {
    wall: SystemTime,
    boottime: Option<Duration>,
    boot_id: Option<String>,
    hostname: String,
    pid_namespace: Option<u64>,
    time_namespace: Option<u64>,
    tolerance: Duration,
    lookup: fn(u32) -> Lookup,
}

impl HeartbeatReader {
    /// This process, now.
    ///
    /// ```
    /// let reader = buttress::supervise::heartbeat::HeartbeatReader::here();
    /// ```
    pub fn here() -> Self {
        Self {
            wall: SystemTime::now(),
            boottime: place::boottime(),
            boot_id: boot_id(),
            hostname: place::hostname(),
            pid_namespace: namespace("pid"),
            time_namespace: namespace("time"),
            tolerance: Duration::from_secs(2),
            lookup: look_up,
        }
    }

    /// Reads at this wall clock. It counts where there is no better one: files of the original, and of
    /// another machine or time namespace.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::HeartbeatReader;
    /// let reader = HeartbeatReader::here().wall_clock(std::time::SystemTime::UNIX_EPOCH);
    /// ```
    pub fn wall_clock(mut self, now: SystemTime) -> Self {
        self.wall = now;
        self
    }

    /// Reads at this time since boot.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::HeartbeatReader;
    /// let reader = HeartbeatReader::here().boottime(std::time::Duration::from_secs(3600));
    /// ```
    pub fn boottime(mut self, now: Duration) -> Self {
        self.boottime = Some(now);
        self
    }

    /// Reads in this boot of the machine.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::HeartbeatReader;
    /// let reader = HeartbeatReader::here().boot_id("next");
    /// ```
    pub fn boot_id(mut self, id: impl Into<String>) -> Self {
        self.boot_id = Some(id.into());
        self
    }

    /// Reads on a machine of this name.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::HeartbeatReader;
    /// let reader = HeartbeatReader::here().hostname("web-0");
    /// ```
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = name.into();
        self
    }

    /// Reads in the namespaces of process numbers and of time with these inodes.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::HeartbeatReader;
    /// let reader = HeartbeatReader::here().namespaces(Some(4026531836), Some(4026531834));
    /// ```
    pub const fn namespaces(mut self, pid: Option<u64>, time: Option<u64>) -> Self {
        self.pid_namespace = pid;
        self.time_namespace = time;
        self
    }

    /// How far in the future a beat may be before it is [`ClockSkew`](HeartbeatVerdict::ClockSkew); default
    /// 2 s.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::HeartbeatReader;
    /// let reader = HeartbeatReader::here().tolerance(std::time::Duration::from_millis(100));
    /// ```
    pub const fn tolerance(mut self, tolerance: Duration) -> Self {
        self.tolerance = tolerance;
        self
    }

    #[cfg(test)]
    pub(super) fn processes(mut self, lookup: fn(u32) -> Lookup) -> Self {
        self.lookup = lookup;
        self
    }

    /// Reads and judges a file.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::{HeartbeatReader, HeartbeatVerdict};
    /// let verdict = HeartbeatReader::here().verdict("/nowhere", std::time::Duration::from_secs(30));
    /// assert_eq!(verdict, HeartbeatVerdict::Missing);
    /// ```
    #[must_use]
    pub fn verdict(&self, path: impl AsRef<Path>, max_age: Duration) -> HeartbeatVerdict {
        match HeartbeatState::read(path.as_ref()) {
            Ok(Some(Ok(state))) => self.judge(&state, max_age),
            Ok(Some(Err(corrupt))) => HeartbeatVerdict::Corrupt(corrupt),
            Ok(None) => HeartbeatVerdict::Missing,
            Err(error) => HeartbeatVerdict::Unreadable(error.kind()),
        }
    }

    /// Judges a beat that has been read.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::{HeartbeatReader, HeartbeatState, HeartbeatVerdict};
    /// let beat = HeartbeatState::parse(
    ///     br#"{"timestamp": "", "pid": 1, "hostname": "h", "state": "stopped"}"#,
    /// )?;
    /// let verdict = HeartbeatReader::here().judge(&beat, std::time::Duration::from_secs(30));
    /// assert_eq!(verdict, HeartbeatVerdict::Stopped);
    /// # Ok::<(), buttress::supervise::heartbeat::CorruptHeartbeat>(())
    /// ```
    #[must_use]
    pub fn judge(&self, beat: &HeartbeatState, max_age: Duration) -> HeartbeatVerdict {
        if beat.state == BeatState::Stopped {
            return HeartbeatVerdict::Stopped;
        }
        // The boot identity tells machines apart better than their names: containers on one machine differ
        // in name only.
        let boots = self.boot_id.as_ref().zip(beat.boot_id.as_ref());
        let same_boot = boots.map(|(here, there)| here == there);
        let same_name = self.hostname == beat.hostname;
        match same_boot {
            Some(false) if same_name => return HeartbeatVerdict::OtherBoot,
            None if same_name => {}
            Some(true) => {}
            _ => {
                let age = beat.time().and_then(|time| self.wall.duration_since(time).ok());
                return HeartbeatVerdict::OtherHost { age };
            }
        }
        let verified = match self.process(beat) {
            Ok(verified) => verified,
            Err(dead) => return dead,
        };
        let age = match self.age(beat, same_boot == Some(true)) {
            Ok(age) => age,
            Err(verdict) => return verdict,
        };
        if age > max_age {
            HeartbeatVerdict::Stale { age }
        } else if verified {
            HeartbeatVerdict::Alive { age }
        } else {
            HeartbeatVerdict::Unverified { age }
        }
    }

    /// Whether the process is known to be the writer, or a verdict if it is known not to be.
    fn process(&self, beat: &HeartbeatState) -> Result<bool, HeartbeatVerdict> {
        let foreign =
            self.pid_namespace.zip(beat.pid_namespace).is_some_and(|(here, there)| here != there);
        if foreign {
            return Ok(false);
        }
        match (self.lookup)(beat.pid) {
            Lookup::Dead => Err(HeartbeatVerdict::DeadPid),
            Lookup::Running { started } if beat.started.is_some_and(|then| then != started) => {
                Err(HeartbeatVerdict::PidReused)
            }
            Lookup::Running { .. } => Ok(true),
            Lookup::Hidden => Ok(false),
        }
    }

    fn age(&self, beat: &HeartbeatState, same_boot: bool) -> Result<Duration, HeartbeatVerdict> {
        let one_time = self.time_namespace == beat.time_namespace;
        let clocks = self.boottime.zip(beat.boottime).filter(|_| same_boot && one_time);
        let (age, ahead) = if let Some((now, then)) = clocks {
            (now.saturating_sub(then), then.saturating_sub(now))
        } else {
            let Some(then) = beat.time() else {
                let why = CorruptHeartbeat::new("the timestamp is no point in time");
                return Err(HeartbeatVerdict::Corrupt(why));
            };
            match self.wall.duration_since(then) {
                Ok(age) => (age, Duration::ZERO),
                Err(error) => (Duration::ZERO, error.duration()),
            }
        };
        if ahead > self.tolerance {
            return Err(HeartbeatVerdict::ClockSkew { ahead });
        }
        Ok(age)
    }
}

/// By `/proc`, and by a signal that does nothing where that shows only one's own processes.
#[cfg(unix)]
fn look_up(pid: u32) -> Lookup {
    if let Some(status) = ProcessStatus::of(pid) {
        return if status.is_dead() {
            Lookup::Dead
        } else {
            Lookup::Running { started: status.started }
        };
    }
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return Lookup::Dead;
    };
    match rustix::process::test_kill_process(pid) {
        Err(rustix::io::Errno::SRCH) => Lookup::Dead,
        _ => Lookup::Hidden,
    }
}

#[cfg(not(unix))]
fn look_up(_: u32) -> Lookup {
    Lookup::Hidden
}
