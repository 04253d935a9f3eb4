//! Where and when this process is.

use std::time::Duration;

/// The machine's name for itself.
#[cfg(unix)]
pub(super) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
pub(super) fn hostname() -> String {
    let name = std::env::var("COMPUTERNAME").or_else(|_| std::env::var("HOSTNAME"));
    name.unwrap_or_default()
}

/// The time since boot, suspends included: nobody can set it. Linux only.
#[cfg(target_os = "linux")]
pub(super) fn boottime() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn boottime() -> Option<Duration> {
    None
}
