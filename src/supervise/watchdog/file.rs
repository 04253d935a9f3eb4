//! Watches the state file of another process, and the process.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::time::Duration;

use super::super::heartbeat::{BeatState, HeartbeatReader, HeartbeatState, HeartbeatVerdict};
use super::super::identity::{ProcessIdentity, ProcessStatus};
use super::core::Seen;
use super::error::FreezeCause;

/// What the file says now, and which process of this machine wrote it, if it runs. An error is one of looking: no
/// descriptor is left, the disk fails.
///
/// No clock is compared: a beat is new if it is another one than before. So no step of a clock, and no
/// forged time, makes a process dead or immortal.
pub(super) fn look(path: &Path) -> io::Result<(Seen, Option<ProcessIdentity>)> {
    let state = match HeartbeatState::read(path)? {
        None => return Ok((Seen::Nothing(FreezeCause::Missing), None)),
        Some(Ok(state)) => state,
        Some(Err(_)) => return Ok((Seen::Nothing(FreezeCause::Corrupt), None)),
    };
    if state.state == BeatState::Stopped {
        return Ok((Seen::Ended, None));
    }
    let mut hasher = DefaultHasher::new();
    (state.pid, state.started, &state.boot_id, state.sequence, &state.timestamp).hash(&mut hasher);
    let value = hasher.finish();
    Ok(match HeartbeatReader::here().judge(&state, Duration::MAX) {
        verdict if verdict.is_dead() => (Seen::Nothing(FreezeCause::Dead), None),
        HeartbeatVerdict::Corrupt(_) => (Seen::Nothing(FreezeCause::Corrupt), None),
        // Only this says that the number means something here.
        HeartbeatVerdict::Alive { .. } => {
            let halted = ProcessStatus::of(state.pid).is_some_and(|status| status.is_stopped());
            let seen = if halted { Seen::Halted(value) } else { Seen::Value(value) };
            (seen, Some(state.identity()))
        }
        _ => (Seen::Value(value), None),
    })
}

#[cfg(target_os = "linux")]
mod wait {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::ProcessIdentity;

    /// Sleeps until the next look, until somebody wakes it, or until the process ends.
    #[derive(Debug)]
    pub(crate) struct Waker(OwnedFd);

    impl Waker {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
        }

        pub(crate) fn wake(&self) {
            let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        }

        pub(crate) fn sleep(&self, timeout: Duration, process: Option<&Process>) {
            let timeout = Timespec::try_from(timeout).ok();
            let mut all = vec![PollFd::new(&self.0, PollFlags::IN)];
            all.extend(process.map(|process| PollFd::new(&process.fd, PollFlags::IN)));
            let _ = poll(&mut all, timeout.as_ref());
        }
    }

    /// A process that can be waited for, whatever its number comes to mean.
    #[derive(Debug)]
    pub(crate) struct Process {
        pub(crate) identity: ProcessIdentity,
        fd: OwnedFd,
    }

    impl Process {
        pub(crate) fn open(identity: ProcessIdentity) -> Option<Self> {
            let pid = Pid::from_raw(i32::try_from(identity.pid).ok()?)?;
            let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            // It may have been another by then.
            identity.is_running().then_some(Self { identity, fd })
        }

        pub(crate) fn has_ended(&self) -> bool {
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let mut fd = [PollFd::new(&self.fd, PollFlags::IN)];
            poll(&mut fd, Some(&now)).is_ok_and(|ready| ready > 0)
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod wait {
    use std::io;
    use std::sync::{Condvar, Mutex, PoisonError};
    use std::time::Duration;

    use super::ProcessIdentity;

    #[derive(Debug, Default)]
    pub(crate) struct Waker(Mutex<bool>, Condvar);

    impl Waker {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self::default())
        }

        pub(crate) fn wake(&self) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.1.notify_all();
        }

        pub(crate) fn sleep(&self, timeout: Duration, _: Option<&Process>) {
            let woken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            drop(self.1.wait_timeout_while(woken, timeout, |woken| !*woken));
        }
    }

    /// Not to be had here: death is seen at the next look.
    #[derive(Debug)]
    pub(crate) struct Process {
        pub(crate) identity: ProcessIdentity,
    }

    impl Process {
        pub(crate) fn open(_: ProcessIdentity) -> Option<Self> {
            None
        }

        pub(crate) fn has_ended(&self) -> bool {
            !self.identity.is_running()
        }
    }
}

pub(super) use wait::{Process, Waker};
