//! Ends processes, and no others.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::oneshot;

use crate::supervise::ProcessIdentity;

use super::table::{System, Table, proc_is_ours};

/// What became of a process that was to end.
///
/// ```
/// use buttress::supervise::process::KillResult;
/// assert!(KillResult::Killed.is_gone() && !KillResult::Denied.is_gone());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KillResult {
    /// It ended after `SIGTERM`, within the grace.
    Terminated,
    /// It ended after `SIGKILL`.
    Killed,
    /// It had ended already.
    Gone,
    /// The number is another process's by now, or the process is no longer what it was found to be. It
    /// was left alone.
    IdentityChanged,
    /// The system does not allow it; or it is this process, an ancestor of it, or process 1.
    Denied,
    /// It has not died of `SIGKILL` in time. It waits for a device, commonly, and dies when that answers.
    Unkillable,
}

impl KillResult {
    /// Lower-case name, for labels.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::process::KillResult::IdentityChanged.as_str(), "identity_changed");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Terminated => "terminated",
            Self::Killed => "killed",
            Self::Gone => "gone",
            Self::IdentityChanged => "identity_changed",
            Self::Denied => "denied",
            Self::Unkillable => "unkillable",
        }
    }

    /// Whether the process that was meant runs no more.
    ///
    /// ```
    /// assert!(buttress::supervise::process::KillResult::Gone.is_gone());
    /// ```
    #[must_use]
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::Terminated | Self::Killed | Self::Gone)
    }
}

/// This process and those above it, and those that are no business of anybody's.
pub(super) fn spared(table: &impl Table, own: u32) -> HashSet<u32> {
    let mut spared = HashSet::from([0, 1]);
    let mut pid = own;
    // A parent outside of our namespace has number 0.
    while spared.insert(pid) {
        let Some(status) = table.status(pid) else { break };
        pid = status.parent;
    }
    spared
}

pub(super) fn supported() -> io::Result<System> {
    let why = if cfg!(target_os = "linux") {
        if proc_is_ours() {
            return Ok(System);
        }
        "/proc is not there or is that of another namespace"
    } else {
        "processes can be told apart by their owner on Linux only"
    };
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}

pub(super) async fn on_thread<T: Send + 'static>(
    f: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new().name("buttress-sweep".into()).spawn(move || {
        let _ = done.send(f());
    })?;
    result.await.map_err(|_| io::Error::other("the thread of the sweep panicked"))
}

/// A process that is being ended.
enum Target<H> {
    Open(H),
    Over(KillResult),
}

/// Ends them all at once: signals to all, then one wait for all.
pub(super) fn end_all<'a, T: Table>(
    table: &T,
    processes: impl Iterator<Item = &'a ProcessIdentity>,
    still: impl Fn(usize) -> bool,
    grace: Duration,
    kill_wait: Duration,
) -> Vec<KillResult> {
    let spared = spared(table, table.own().pid);
    let mut targets: Vec<_> = processes
        .enumerate()
        .map(|(index, process)| {
            if spared.contains(&process.pid) {
                return Target::Over(KillResult::Denied);
            }
            let opened = open(table, process, || still(index));
            opened.map_or_else(Target::Over, Target::Open)
        })
        .collect();
    if !grace.is_zero() {
        // One that is stopped would not see the first before the second.
        send_all(table, &mut targets, &[Signal::TERM, Signal::CONT]);
        wait_all(table, &mut targets, grace, KillResult::Terminated);
    }
    send_all(table, &mut targets, &[Signal::KILL]);
    wait_all(table, &mut targets, kill_wait, KillResult::Killed);
    let results = targets.into_iter().map(|target| match target {
        Target::Over(result) => result,
        Target::Open(_) => KillResult::Unkillable,
    });
    results.collect()
}

/// A handle on the very process that was meant. What is read after it has been opened is about the process
/// that it is open on: as long as that has not been collected, nothing else has its number.
fn open<T: Table>(
    table: &T,
    process: &ProcessIdentity,
    still: impl Fn() -> bool,
) -> Result<T::Handle, KillResult> {
    let own = table.own();
    if process.boot_id.is_some() && process.boot_id != own.boot_id {
        return Err(KillResult::Gone);
    }
    if process.pid_namespace.is_some() && process.pid_namespace != own.pid_namespace {
        return Err(KillResult::IdentityChanged);
    }
    let handle = table.open(process.pid).map_err(|error| match error.raw_os_error() {
        Some(libc::ESRCH) => KillResult::Gone,
        _ => KillResult::Denied,
    })?;
    let Some(status) = table.status(process.pid) else { return Err(KillResult::Gone) };
    if process.started.is_none_or(|started| started != status.started) {
        return Err(KillResult::IdentityChanged);
    }
    if status.is_dead() {
        return Err(KillResult::Gone);
    }
    if still() { Ok(handle) } else { Err(KillResult::IdentityChanged) }
}

fn send_all<T: Table>(table: &T, targets: &mut [Target<T::Handle>], signals: &[Signal]) {
    for target in targets {
        for signal in signals {
            let Target::Open(handle) = &*target else { break };
            if let Err(error) = table.send(handle, *signal) {
                // One that ended by an earlier signal is told by its handle.
                if error.raw_os_error() != Some(libc::ESRCH) {
                    *target = Target::Over(KillResult::Denied);
                }
            }
        }
    }
}

fn wait_all<T: Table>(
    table: &T,
    targets: &mut [Target<T::Handle>],
    time: Duration,
    result: KillResult,
) {
    let start = table.now();
    for target in targets {
        if let Target::Open(handle) = &*target {
            let left = time.saturating_sub(table.now().saturating_sub(start));
            if table.ended(handle, left) {
                *target = Target::Over(result);
            }
        }
    }
}

/// Ends a process: `SIGTERM`, then after `grace` `SIGKILL`, waiting for two seconds more. Blocks the thread.
///
/// It is the very process that `process` names, whatever has that number now: one without a
/// [start](ProcessIdentity::started) is not ended. Never this process, an ancestor of it, or process 1. Linux
/// only; elsewhere the result is [`Denied`](KillResult::Denied).
///
/// ```
/// # if cfg!(target_os = "linux") {
/// use buttress::supervise::{ProcessIdentity, process::{KillResult, kill_process_blocking}};
/// use std::time::Duration;
///
/// let mut sleeper = std::process::Command::new("sleep").arg("60").spawn()?;
/// let process = ProcessIdentity::of(sleeper.id()).unwrap();
/// assert_eq!(kill_process_blocking(&process, Duration::from_secs(5)), KillResult::Terminated);
/// sleeper.wait()?;
/// assert_eq!(kill_process_blocking(&process, Duration::from_secs(5)), KillResult::Gone);
/// assert_eq!(
///     kill_process_blocking(&ProcessIdentity::own(), Duration::ZERO),
///     KillResult::Denied
/// );
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "kill_pid")]
#[must_use]
pub fn kill_process_blocking(process: &ProcessIdentity, grace: Duration) -> KillResult {
    if supported().is_err() {
        return KillResult::Denied;
    }
    let process = std::iter::once(process);
    let results = end_all(&System, process, |_| true, grace, Duration::from_secs(2));
    results.into_iter().next().unwrap_or(KillResult::Denied)
}

/// As [`kill_process_blocking`], on a thread of its own. Dropping the future does not stop it.
///
/// # Errors
/// If there is no thread left.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use buttress::supervise::{ProcessIdentity, process::{KillResult, kill_process}};
/// let own = ProcessIdentity::own();
/// assert_eq!(kill_process(&own, std::time::Duration::ZERO).await?, KillResult::Denied);
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap()
/// # }
/// ```
#[doc(alias = "kill_pid")]
pub async fn kill_process(process: &ProcessIdentity, grace: Duration) -> io::Result<KillResult> {
    let process = process.clone();
    on_thread(move || kill_process_blocking(&process, grace)).await
}
