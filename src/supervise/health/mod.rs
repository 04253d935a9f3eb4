//! What the outside may know: is it alive, is it ready, has it started.
//!
//! Prevents restarts that help nobody and traffic that nobody can answer. A liveness probe that asks the
//! database restarts a whole fleet when the database blinks; a readiness probe that queues behind the
//! program's own load shedding fails when it is needed; and one that answers from a thread of its own
//! says "alive" while everything else is frozen.
//!
//! [`Health`] is one state that all who ask are answered from: the HTTP probes below, gRPC health,
//! systemd, a heartbeat.
//!
//! ```
//! use buttress::supervise::{Lifecycle, Phase, health::Health};
//!
//! let life = Lifecycle::new();
//! let health = Health::new(life.clone());
//! let database = health.gate("database"); // closed until told otherwise
//! life.advance(Phase::Ready, None);
//! assert!(!health.is_ready());
//! database.open();
//! assert!(health.is_ready());
//!
//! life.advance(Phase::LameDuck, None); // a shutdown has begun
//! assert!(health.is_live() && !health.is_ready());
//! ```
//!
//! Customised: a breaker that has to let calls through, a watchdog's opinion, a check that needs three
//! failures to close its gate.
//!
//! ```no_run
//! # use buttress::supervise::{Lifecycle, health::Health};
//! use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
//! use std::time::Duration;
//!
//! # async fn ping_the_database() -> std::io::Result<()> { Ok(()) }
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let health = Health::new(Lifecycle::new());
//! let breaker = CircuitBreaker::new("payments");
//! // Half-open counts as ready: without traffic it would never close.
//! health.ready_while("payments", move || breaker.state() != CircuitState::Open);
//! let check = health.check("database").every(Duration::from_secs(5)).failures(3).build()?;
//! tokio::spawn(check.run(|| ping_the_database()));
//! let probes = health.listen("0.0.0.0:9090")?; // a thread of its own
//! # drop(probes);
//! # Ok(()) }
//! ```
//!
//! # What the probes mean
//!
//! | | `/livez` | `/readyz` | `/startupz` |
//! |---|---|---|---|
//! | asks | restart me? | send me traffic? | has it booted? |
//! | 200 while | no [`LiveGate`] has failed | the phase is `Ready` and all gates are open | it was ready once |
//! | while it drains | 200 | 503 | 200 |
//!
//! Answers are 200 or 503, to `GET` and `HEAD`, with `Cache-Control: no-store`; the body is `ok` or the
//! reason, which is in `X-Health-Reason` as well. With `?verbose`, where that is allowed, the body is
//! the [`HealthReport`] as JSON.
//!
//! # Semantics
//!
//! - **Sharing**: clones of a [`Health`] share one state. Clones of a gate are one gate; when the last is
//!   dropped it stays closed, because what it stood for has gone. [`Health::forget`] withdraws it.
//! - **Cost**: a probe takes one lock for a moment and asks the closures given to it. Nothing is checked
//!   while somebody waits for an answer: checks run beside, with a timeout of their own.
//! - **Panics**: a closure that panics counts as "no".
//!
//! # Order
//!
//! Outside of everything that refuses: a rate limit or a full queue must not fail a probe.
//! [`Health::layer`] answers before the inner service is asked; [`Health::listen`] is better still.

mod check;
mod gate;
mod listener;
mod report;
mod service;
mod state;
#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests spawn what users spawn")]
mod tests;

pub use check::{HealthCheck, HealthCheckBuilder};
pub use gate::{LiveGate, ReadyGate};
pub use listener::HealthListener;
pub use report::{HealthItem, HealthReport, Probe};
pub use service::{HealthFuture, HealthLayer, HealthLayered, HealthService};
pub use state::Health;
