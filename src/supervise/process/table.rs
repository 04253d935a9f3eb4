//! The processes of this machine, as a sweep needs them: a small trait, so that tests have a machine of
//! their own.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::supervise::identity::namespace;
use crate::supervise::{ProcessIdentity, ProcessStatus};

use super::sys;

pub(super) trait Table {
    /// Keeps a process apart from any later one with its number.
    type Handle;

    fn own(&self) -> ProcessIdentity;
    fn own_user(&self) -> u32;
    fn pids(&self) -> io::Result<Vec<u32>>;
    fn status(&self, pid: u32) -> Option<ProcessStatus>;
    /// Its real user.
    fn user(&self, pid: u32) -> Option<u32>;
    fn environ(&self, pid: u32) -> io::Result<Vec<u8>>;
    /// Whether it sees the same numbers of processes, and the same time since boot, as this process.
    fn shares_namespaces(&self, pid: u32) -> io::Result<bool>;
    /// Whether there is a process with this number, though it may not be shown.
    fn exists(&self, pid: u32) -> bool;
    /// Its command line.
    fn command(&self, pid: u32) -> String;
    fn open(&self, pid: u32) -> io::Result<Self::Handle>;
    fn send(&self, process: &Self::Handle, signal: Signal) -> io::Result<()>;
    /// Whether it has ended, waiting for at most `timeout`.
    fn ended(&self, process: &Self::Handle, timeout: Duration) -> bool;
    fn now(&self) -> Duration;
}

/// Whether `/proc` shows processes under the numbers that they have for us. It does not if it was mounted in
/// another namespace; nothing there is then about the process that is meant.
pub(super) fn proc_is_ours() -> bool {
    let own = std::process::id().to_string();
    fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() == own.as_str())
}

/// The real one. Linux only.
pub(super) struct System;

impl Table for System {
    type Handle = OwnedFd;

    fn own(&self) -> ProcessIdentity {
        ProcessIdentity::own()
    }

    fn own_user(&self) -> u32 {
        rustix::process::getuid().as_raw()
    }

    fn pids(&self) -> io::Result<Vec<u32>> {
        let names =
            fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }

    fn status(&self, pid: u32) -> Option<ProcessStatus> {
        ProcessStatus::of(pid)
    }

    fn user(&self, pid: u32) -> Option<u32> {
        let status = fs::read(format!("/proc/{pid}/status")).ok()?;
        let line =
            status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
        std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
    }

    fn environ(&self, pid: u32) -> io::Result<Vec<u8>> {
        fs::read(format!("/proc/{pid}/environ"))
    }

    fn shares_namespaces(&self, pid: u32) -> io::Result<bool> {
        for kind in ["pid", "time"] {
            match fs::metadata(format!("/proc/{pid}/ns/{kind}")) {
                Ok(its) if Some(its.ino()) == namespace(kind) => {}
                Ok(_) => return Ok(false),
                // A kernel without this kind.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && namespace(kind).is_none() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn exists(&self, pid: u32) -> bool {
        let Some(pid) = sys::pid_of(pid) else { return false };
        rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
    }

    fn command(&self, pid: u32) -> String {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = line.strip_suffix(b"\0").unwrap_or(&line);
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words.join(" ")
    }

    fn open(&self, pid: u32) -> io::Result<OwnedFd> {
        #[cfg(target_os = "linux")]
        {
            let pid = sys::pid_of(pid).ok_or(io::ErrorKind::InvalidInput)?;
            let flags = rustix::process::PidfdFlags::empty();
            Ok(rustix::process::pidfd_open(pid, flags)?)
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = pid;
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    fn send(&self, process: &OwnedFd, signal: Signal) -> io::Result<()> {
        sys::send(process, signal)
    }

    fn ended(&self, process: &OwnedFd, timeout: Duration) -> bool {
        let end = crate::clock::now().after(timeout);
        loop {
            let left = end.since(crate::clock::now());
            let Ok(left) = Timespec::try_from(left) else { return false };
            let mut fds = [PollFd::new(process, PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(crate::clock::now().0)
    }
}
