//! A server process that starts, stays alive, and dies without losing a request.
//!
//! Prevents requests lost at the edges of a deployment, cleanup that never ran, processes that are there and do
//! nothing, and those that a dead one has left behind.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use buttress::supervise::Supervisor;
//! use std::process::ExitCode;
//!
//! fn main() -> Result<ExitCode, buttress::ConfigError> {
//!     let supervisor = Supervisor::builder("orders").probes("0.0.0.0:9090").build()?;
//!     Ok(supervisor.run(async |process| {
//!         let app = Router::new().route("/", get(|| async { "hello" }));
//!         let listener = tokio::net::TcpListener::bind("0.0.0.0:8080").await?;
//!         process.serve(listener, app).await; // ready until a signal, then drained
//!         Ok(())
//!     }))
//! }
//! ```
//!
//! # The parts
//!
//! Each works alone, with a runtime or without: take the heartbeat without the watchdog, the drain without the
//! signals. [`Supervisor`] puts them together.
//!
//! | | what it is | what it prevents |
//! |---|---|---|
//! | [`shutdown`] | signals, the order of the end, cleanup callbacks, an exit in time | cleanup that is skipped, an end that hangs |
//! | [`serve`] | a server, and a layer, with the complete drain | requests lost while an instance goes away |
//! | [`health`] | gates, checks, probes | traffic nobody can answer, restarts that help nobody |
//! | [`heartbeat`] | a file that proves work, and its readers | a frozen process that looks alive |
//! | [`watchdog`] | for threads, tasks, the runtime's workers, other processes | freezes nobody notices |
#![cfg_attr(
    unix,
    doc = "| [`process`] | child processes, restarted and stopped in order; the orphans of dead ones | children that outlive their parent, restart storms |",
    doc = "| [`systemd`] | ready, alive, stopping; sockets handed over | a stop that is cut short although it goes well |"
)]
//!
//! They know of each other only through [`Lifecycle`], the [`Phase`]s of the process on one deadline, which
//! a [`Hold`] can prolong and everybody can see; [`Progress`], proof that work goes on, of which [`Pulse`] is the
//! simplest; and [`health::Health`].
//!
//! # The course of a process
//!
//! | phase | begins | meanwhile |
//! |---|---|---|
//! | [`Starting`](Phase::Starting) | with the process | live, not ready |
//! | [`Ready`](Phase::Ready) | when the program says so | requests come |
//! | [`LameDuck`](Phase::LameDuck) | with a signal | still served, but not ready; answers say `Connection: close` |
//! | [`Draining`](Phase::Draining) | after the lame duck's time | nothing is accepted, what is in flight is finished |
//! | [`Cleanup`](Phase::Cleanup) | when nothing is held any more, or the drain's time is over | callbacks, in order of priority |
//! | [`Exited`](Phase::Exited) | at the end, by the deadline | |

mod alert;
pub(crate) mod beside;
pub mod health;
pub mod heartbeat;
mod identity;
mod lifecycle;
mod monitor;
#[cfg(unix)]
pub mod process;
mod progress;
pub mod serve;
pub mod shutdown;
mod supervised;
mod supervisor;
#[cfg(unix)]
pub mod systemd;
mod teller;
pub mod watchdog;
mod words;

pub use alert::Alert;
pub use identity::{ProcessIdentity, ProcessStatus};
pub use lifecycle::{Hold, Lifecycle, Phase};
pub use progress::{Progress, Pulse};
pub use supervised::Process;
pub use supervisor::{Supervisor, SupervisorBuilder};
