//! Telling systemd: ready, alive, stopping; and taking the sockets it hands over.
//!
//! Prevents a service that counts as started when it has only been spawned, a watchdog that is fed by a
//! timer while the work stands still, and a stop that systemd cuts short although the drain was going well.
//!
//! ```no_run
//! use buttress::supervise::{Lifecycle, health::Health, systemd::Systemd};
//!
//! let life = Lifecycle::new();
//! let health = Health::new(life.clone());
//! // Nothing to do where systemd is not: `None`.
//! let told = Systemd::from_env()?.map(|systemd| systemd.follow(&health)).transpose()?;
//! # drop(told);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Customised: the watchdog is fed only when the main loop has gone round since the last time, and by hand
//! where there is no [`Lifecycle`](super::Lifecycle).
//!
//! ```no_run
//! use buttress::supervise::{Lifecycle, Pulse, health::Health, systemd::{Notify, Systemd}};
//! # let health = Health::new(Lifecycle::new());
//! let main_loop = Pulse::new();
//! if let Some(systemd) = Systemd::from_env()? {
//!     let told = systemd.progress(main_loop.clone()).follow(&health)?;
//!     std::mem::forget(told); // for as long as the process lives
//! }
//! if let Some(notify) = Notify::from_env()? {
//!     notify.status("3 of 7 shards loaded")?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is sent
//!
//! | when | what |
//! |---|---|
//! | the phase is `Ready` | `READY=1` |
//! | a shutdown begins | `STOPPING=1` |
//! | while it goes on | `EXTEND_TIMEOUT_USEC`, at most 10 s at a time and never past the phase's own deadline |
//! | every half of `WATCHDOG_USEC` | `WATCHDOG=1`, if the process is [live](super::health) and every source of progress went on |
//!
//! # Semantics
//!
//! - Sending never blocks: a full or vanished socket is an error (and an event), not a wait.
//! - The environment is read, never changed, but for [`Sockets::from_env`]. Children should not inherit
//!   `NOTIFY_SOCKET`; remove it from their `Command`.
//! - Unix only. Names in the abstract namespace (`@…`) are Linux only, `vsock:` addresses are not supported;
//!   both are an error that says so.
//!
//! The protocol is that of `sd_notify(3)`, `sd_watchdog_enabled(3)` and `sd_listen_fds(3)`.

mod follow;
mod notify;
mod sockets;
#[cfg(test)]
mod tests;

pub use follow::{Systemd, SystemdGuard};
pub use notify::Notify;
pub use sockets::Sockets;
