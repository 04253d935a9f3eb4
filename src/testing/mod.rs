//! A contract kit for tower layers: prove that yours keeps the promises of `Service`.
//!
//! tower's contract has parts that no compiler and no ordinary test sees. A layer may call an inner
//! service that was never ready, because it called a fresh clone. It may keep a permit when a caller
//! gives up. It may answer pending after ready, swallow an error, wake one of four waiters, or start
//! with new state on every connection. All of these pass every test whose inner service is always
//! ready, and all of them have happened in widely used crates.
//!
//! The kit has two halves. [`Probe`] is an inner service that reserves, counts and checks who calls
//! it. [`check_all`] drives a layer around it through every [`Property`] of the contract. Both work
//! without a runtime and without real time.
//!
//! # Test your own layer
//!
//! ```
//! use buttress::testing::{check_all, Subject};
//! use std::io;
//! use std::task::{Context, Poll};
//! use tower_layer::{layer_fn, Layer};
//! use tower_service::Service;
//!
//! /// Counts calls.
//! #[derive(Clone)]
//! struct Counted<S> {
//!     inner: S,
//!     calls: std::sync::Arc<std::sync::atomic::AtomicUsize>,
//! }
//!
//! impl<S: Service<Req>, Req> Service<Req> for Counted<S> {
//!     type Response = S::Response;
//!     type Error = S::Error;
//!     type Future = S::Future;
//!     fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
//!         self.inner.poll_ready(cx)
//!     }
//!     fn call(&mut self, req: Req) -> S::Future {
//!         self.calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
//!         self.inner.call(req)
//!     }
//! }
//!
//! // In yours: #[tokio::test(start_paused = true)]
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let subject = Subject::new(
//!     || {
//!         let calls = std::sync::Arc::default();
//!         layer_fn(move |inner| Counted { inner, calls: std::sync::Arc::clone(&calls) })
//!     },
//!     || "ping",                                        // a request
//!     |_: &str| Ok::<_, io::Error>("pong"),             // the inner service's answer
//! )
//! .ready_error(|| io::Error::other("inner broke"))
//! .shared_state(|mut one, mut two: Counted<_>, _probe| async move {
//!     one.call("ping").await.map_err(|e: io::Error| e.to_string())?;
//!     let seen = two.calls.load(std::sync::atomic::Ordering::Relaxed);
//!     (seen == 1).then_some(()).ok_or(format!("the second counter says {seen}"))
//! });
//! check_all(&subject).await.unwrap();
//! # }
//! ```
//!
//! # Exceptions
//!
//! Some layers wait before they call, some need a timer for each call. A [`Subject`] says so with
//! [`polls_inner_in_ready`](Subject::polls_inner_in_ready),
//! [`reserves_in_ready`](Subject::reserves_in_ready) or
//! [`needs_runtime`](Subject::needs_runtime), in sight of the reader; everything else must still hold.
//!
//! # What is not here
//!
//! `Send + Sync + Clone + 'static` is checked by the compiler: a [`Subject`] of a layer without them
//! does not compile, and [`contract::send_sync_clone_static`] asks for it alone. That state survives
//! several connections of a real server cannot be shown without a server;
//! [`layer_twice_shares_state`](contract::layer_twice_shares_state) shows its cause.

mod check;
pub mod contract;
mod handle;
mod probe;
mod ready;
mod release;
mod rig;
pub mod store;
mod subject;
mod violation;
mod wake;
mod waking;

pub use check::{check, check_all};
pub use handle::{Answer, Counts, ProbeEvent, ProbeHandle, Violation};
pub use probe::{Probe, ProbeFuture};
pub use subject::{Subject, TestableLayer};
pub use violation::{ContractViolation, ContractViolations, Property};
pub use wake::{ByHand, CountWaker};
