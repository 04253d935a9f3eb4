//! The calls to the system that the compiler cannot check. The only `unsafe` code of the crate.
#![allow(unsafe_code)]

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

/// The signal with this number, if it has a name here.
pub(super) fn signal(number: i32) -> Option<Signal> {
    Signal::from_named_raw(number)
}

pub(super) fn pid_of(number: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(number).ok()?)
}

/// Wakes a thread that polls.
pub(super) struct Waker {
    reader: PipeReader,
    writer: PipeWriter,
}

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        Ok(Self { reader, writer })
    }

    pub(super) fn wake(&self) {
        // Full: it is awake.
        let _ = (&self.writer).write(&[0]);
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    pub(super) fn clear(&self) {
        let mut buffer = [0; 256];
        while matches!((&self.reader).read(&mut buffer), Ok(count) if count == buffer.len()) {}
    }
}

/// What a new process does to itself before it becomes the program.
#[derive(Clone, Copy)]
pub(super) struct Birth {
    /// Sent to it when the thread that starts it has ended, Linux only.
    pub(super) death_signal: Option<i32>,
    /// A descriptor that it keeps.
    pub(super) lifeline: Option<RawFd>,
}

/// Starts `command` in a group of its own. The calling thread must live as long as the child is to: the
/// kernel takes its end for the parent's.
pub(super) fn spawn(command: &mut Command, birth: Birth) -> io::Result<Child> {
    let parent = std::process::id();
    command.process_group(0);
    // SAFETY: `born` runs in the forked child, where only what is async-signal-safe may be called. It calls
    // prctl, getppid, _exit, fcntl, signal, sigemptyset and sigprocmask, allocates nothing and takes no lock.
    unsafe { command.pre_exec(move || born(birth, parent)) };
    let blocked = BlockedSignals::new();
    let child = command.spawn();
    drop(blocked);
    child
}

fn born(birth: Birth, parent: u32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if let Some(signal) = birth.death_signal.and_then(signal) {
        rustix::process::set_parent_process_death_signal(Some(signal))?;
        // It may have died before that, and then nobody would tell. Compared with its own number: who has
        // taken us over is process 1, or a subreaper. A parent in an outer namespace has number 0 here.
        let now = rustix::process::getppid().map_or(0, Pid::as_raw_pid) as u32;
        if now != parent && now != 0 {
            // SAFETY: `_exit` is async-signal-safe and runs nothing of this process.
            unsafe { libc::_exit(127) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (birth.death_signal, parent);
    if let Some(fd) = birth.lifeline {
        // SAFETY: F_SETFD takes an integer; a wrong `fd` is an error, and it is ours: the supervisor keeps
        // it open.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    // What was ignored stays ignored in the new program, unlike what was handled. Then nothing is blocked:
    // what came meanwhile arrives now, and ends it, as it should.
    let last = if cfg!(target_os = "linux") { 64 } else { 31 };
    for number in 1..=last {
        // SAFETY: SIG_DFL is a valid disposition; numbers that cannot be set are refused, which is fine.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    // SAFETY: a zeroed set is valid memory for sigemptyset to write, and no pointer outlives the calls.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Children do not inherit it. Nothing if there is no such descriptor.
pub(in crate::supervise) fn close_on_exec(fd: RawFd) {
    // SAFETY: F_SETFD takes an integer; a wrong `fd` is an error.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
}

/// No signal is handled on this thread while it lives. A forked child that still has our handlers would
/// otherwise run them, and wake *us* through the pipes they write to.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        // SAFETY: both sets are valid memory, written by the calls before they are read; blocking all
        // signals on the calling thread is always allowed.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set was written by `pthread_sigmask`, on this thread: the guard does not leave it.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut());
        }
    }
}

/// Whether a child of this process has ended. It is not collected: its number, and that of its group,
/// stay taken.
pub(super) fn has_ended(pid: Pid) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(pid), options)?.is_some())
}

/// The descriptor of a pipe's end, for a child to inherit.
pub(super) fn number_of(fd: &PipeReader) -> RawFd {
    fd.as_raw_fd()
}

/// A descriptor that is readable when the process has ended, and that stays its own. None where the system has
/// no such thing, or no such process.
pub(super) fn end_of(pid: Pid) -> Option<OwnedFd> {
    #[cfg(target_os = "linux")]
    return rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok();
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pid;
        None
    }
}

/// Sends a signal to the process that a descriptor of [`end_of`] is about, and to no other.
pub(super) fn send(process: &OwnedFd, signal: Signal) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return Ok(rustix::process::pidfd_send_signal(process, signal)?);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (process, signal);
        Err(io::ErrorKind::Unsupported.into())
    }
}
