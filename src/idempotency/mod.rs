//! Runs an effect at most once *on record* for each key, and answers duplicates from the record. What that
//! does not promise: that the effect itself happens exactly once. Between an effect outside and the record of
//! it, a process can die, and then nobody knows. Exactly once is possible only where the effect and the record
//! share one SQL transaction, or where the callee drops duplicates by the key that
//! [`derive_key`](EffectContext::derive_key) makes. In all other cases you choose which mistake you prefer:
//! at most once ([`OnInterrupted::Fail`], the default), or at least once ([`OnInterrupted::Rerun`]).
//!
//! A payment is asked for, the answer is lost on the way, the client asks again, and the customer pays twice.
//! To look whether the order is known and then to pay is not enough: the second request comes while the first
//! is under way, and finds nothing. Nor is a lock with a time limit: when the limit passes it is taken again,
//! whether or not the money has gone.
//!
//! # Default
//!
//! A lease of 30 s, renewed while the effect runs; records kept for 24 h; duplicates of a run in flight are
//! refused; what was interrupted is not run again.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use buttress::idempotency::{Idempotency, Scope, Status};
//! use buttress::store::{Fingerprint, MemoryStore};
//!
//! let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
//! let pay = || async { Ok::<_, std::io::Error>(String::from("receipt 42")) };
//!
//! let first = gate.run("order-1", Fingerprint::of(b"10 EUR"), pay).await.unwrap();
//! let second = gate.run("order-1", Fingerprint::of(b"10 EUR"), pay).await.unwrap();
//! assert_eq!((first.status, second.status), (Status::Stored, Status::Replayed));
//! assert_eq!(first.value, second.value);
//! # }
//! ```
//!
//! # Customised
//!
//! Keys of a tenant, a duplicate waits for the first, interrupted runs are repeated with a key by which the
//! bank drops duplicates.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use buttress::idempotency::{Idempotency, InFlight, Scope};
//! use buttress::store::{Fingerprint, MemoryStore, OnInterrupted};
//! use std::time::Duration;
//!
//! let gate = Idempotency::builder("payments", MemoryStore::default())
//!     .scope(Scope::global())
//!     .lease(Duration::from_secs(10))
//!     .retention(Duration::from_secs(7 * 24 * 60 * 60))
//!     .in_flight(InFlight::Wait(Duration::from_secs(5)))
//!     .on_interrupted(OnInterrupted::Rerun(3))
//!     .build()
//!     .unwrap();
//! let theirs = gate.in_scope(Scope::tenant("account-7"));
//! let ran = theirs
//!     .run_with("order-1", Fingerprint::of(b"10 EUR"), |effect| async move {
//!         let key = effect.derive_key("transfer");
//!         Ok::<_, std::io::Error>(format!("transfer {key}"))
//!     })
//!     .await;
//! # assert!(ran.is_ok());
//! # }
//! ```
//!
//! # As a layer
//!
//! [`IdempotencyLayer`] wraps any service. For servers that honour `Idempotency-Key` it is made with
//! `IdempotencyLayer::http`, where the table of its answers is:
//!
//! ```
//! # #[cfg(feature = "http")] {
//! use axum::{Router, routing::post};
//! use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
//! use buttress::store::MemoryStore;
//!
//! #[derive(Clone)]
//! struct Account(u64); // put there by a layer further out, which authenticates
//!
//! let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
//! let layer = IdempotencyLayer::http(gate)
//!     .tenant(|request| Some(Scope::tenant(request.extensions.get::<Account>()?.0.to_le_bytes())))
//!     .required()
//!     .build()?;
//! let app: Router = Router::new().route("/payments", post(|| async { "paid" })).layer(layer);
//! # }
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! A client makes its calls repeatable with `IdempotencyKeyLayer`.
//!
//! # How it decides
//!
//! A key is hashed with its [`Scope`] and the name of the gate, and names a record in a [store](crate::store).
//! Claiming it is one atomic operation there, and has one winner.
//!
//! | the record | the caller gets |
//! |---|---|
//! | absent, or its retention is over | [`Begin::Execute`] |
//! | of another [`Fingerprint`](crate::store::Fingerprint), whatever its state | [`Begin::Mismatch`] |
//! | pending, its lease holds | [`Begin::InFlight`], or the answer if it is told to [wait](InFlight::Wait) |
//! | completed | [`Begin::Replay`] |
//! | pending, its lease has ended | by [`OnInterrupted`]: [`Begin::Interrupted`], `Execute` or [`Begin::Probe`] |
//! | interrupted | [`Begin::Interrupted`] |
//!
//! Lease and retention are different clocks. A lease that ends says that the owner has gone, and never by
//! itself that somebody else may run: that is for [`OnInterrupted`] to say, for the retention after it, however
//! short that is. An owner who was given up and comes back is fenced off if somebody has run it again; if nobody
//! has, he sets the record right. One that took over and did not begin says nothing of those before him: the key
//! is theirs again, and not free.
//!
//! [`OnInterrupted`]: crate::store::OnInterrupted
//! [`OnInterrupted::Fail`]: crate::store::OnInterrupted::Fail
//! [`OnInterrupted::Probe`]: crate::store::OnInterrupted::Probe
//! [`OnInterrupted::Rerun`]: crate::store::OnInterrupted::Rerun
//!
//! # Semantics
//!
//! **Failures** are recorded and answered like values, since the effect may have happened before the failure.
//! [`EffectContext::not_applied`] says that it has not.
//!
//! **Cancellation.** Dropping a run, or a [`Permit`], or a panic, leaves it open whether the effect happened:
//! the key is then treated like one whose owner has gone, at once if the store can. Spawn what must not
//! depend on its caller. A run that is dropped while it is still asking for its claim, or that gets no answer, has
//! not begun: what the store may have granted is taken back by a task, so in a tokio runtime only. A claim that the
//! store does not have yet, since it hangs in a commit or a buffer, is looked for ever less often for five minutes,
//! or for a lease if that is longer, and so long is a store asked that does not answer: a few of at most 10 000 such
//! claims at a time. Without a runtime, beyond that number, or if the process ends first, the claim stays until its lease
//! ends.
//!
//! **An owner whose lease is lost**, because the store did not answer for so long or somebody has decided the
//! record, is stopped where others may run it ([`OnInterrupted::Rerun`], [`OnInterrupted::Probe`]), before its
//! next step. One whose process stood still for longer than the lease asks the store before that step, and goes on
//! if nobody has taken over. Under [`OnInterrupted::Fail`] nobody does, and it goes on.
//!
//! **The layer's calls are detached.** A server drops its handler when the client hangs up, or only closes its
//! half of the connection, and a timeout further out drops it, too: the effect is then left half done. So from
//! the moment that its request has been read, a call that has a key goes on without its caller, as a task if
//! it has to wait. Dropping the future gives up the answer and nothing else. A caller gets no part of an answer
//! before its record is durable. If the process ends first, the record says so
//! ([`Detached`] lets it wait); if the store does not take the record, the answer is given, marked as
//! unconfirmed, and recording is tried for five more minutes, while duplicates are told to come back. A panic
//! goes on to the caller and is recorded by [`OnPanic`].
//!
//! A handler that never ends holds its key for ever, whatever timeout is further out: give it one further in, or
//! the gate a [longest run](IdempotencyBuilder::max_run).
//!
//! Task-locals of middleware further out are there until the handler waits for the first time and not after that:
//! the call begins in the caller's task and goes on in one of its own. Hand on in the request's extensions what
//! the handler has to know. (The current span of `tracing` goes with it.)
//!
//! **Readiness.** The layer is as ready as the service it wraps, and the ready instance goes with the call. A
//! duplicate that waits for another's run exchanges it for a fresh one, which holds no place. Of the contract
//! in `buttress::testing` one property does not hold, and must not: that a call dropped in flight stops.
//!
//! **The store is down.** A claim that is not confirmed is not run ([`Outage`] changes that). A run whose
//! record is not confirmed returns its value all the same, with [`Status::Unconfirmed`].
//!
//! **Sharing.** Clones share the store and the settings; [`in_scope`](Idempotency::in_scope) changes the
//! scope only. Gates of the same name on one store share their records, in one process or in many: give the gate
//! the same name in all servers of a service, and another for each thing that keys stand for, so that key 7 of
//! the orders is not key 7 of the refunds. A gate that is renamed knows none of its records, and derives other
//! keys: wait for the retention before, or what is asked for again runs again.
//!
//! **Secrets.** Neither keys nor payloads are stored, only hashes; outcomes are stored as they are.
//!
//! **Cost.** In memory, a claim and a record are a SHA-256 of the key and two short locks. A run makes a timer
//! only if it has to wait. In the layer, a call without a key costs nothing; one with a key costs a box, two if
//! it is executed, and a task if it has to wait.
//!
//! # Order
//!
//! Around all attempts of a retry, so that the key is claimed once for all of them
//! ([`run_retry`](Idempotency::run_retry)); inside of whatever may refuse the call, so that refusals are not
//! recorded. For the layer: inside of authentication, limits and load shedding, CORS and compression; outside of
//! retry, timeout and breaker, and of whatever keeps something in task-locals for the handler. On the client, `IdempotencyKeyLayer` is outside of the retry.
//!
//! # Comparison
//!
//! `axum-idempotent` looks and then writes, so two that come together both run. `rustango` frees a key when
//! its handler is dropped, which is what a server does when the client hangs up. Powertools for Lambda lets
//! an owner whose time was over overwrite the record of his successor, and deletes the record when the
//! handler fails.
//!
//! # Events
//!
//! [`Rejected`](crate::observe::EventKind::Rejected), [`Replayed`](crate::observe::EventKind::Replayed),
//! [`TakenOver`](crate::observe::EventKind::TakenOver) and
//! [`Unrecorded`](crate::observe::EventKind::Unrecorded).

#[cfg(feature = "serde")]
mod action;
mod asking;
mod config;
mod context;
mod detached;
#[cfg(feature = "serde")]
mod effect;
mod exchange;
mod future;
mod handle;
#[cfg(feature = "http")]
mod http;
mod layer;
mod managed;
mod pace;
mod pending;
mod permit;
mod ran;
mod run;
mod scope;
mod service;
mod value;
mod work;

#[cfg(feature = "serde")]
pub use action::{ActionIdError, compute_action_id};
pub use config::{IdempotencyBuilder, InFlight, Outage};
pub use context::EffectContext;
pub use detached::Detached;
#[cfg(feature = "serde")]
pub use effect::{EffectClaim, EffectError, EffectRecord, EffectStatus, EffectStore, EffectTicket};
pub use exchange::{Identified, Identity};
pub use future::ResponseFuture;
pub use handle::{Begin, Idempotency};
#[cfg(feature = "http")]
#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
pub use http::{
    HttpExchange, HttpIdempotencyBuilder, IdempotencyKey, IdempotencyKeyLayer,
    IdempotencyKeyService, KeyError, NotExecuted, OverSize, Unsized,
};
pub use layer::{IdempotencyLayer, OnPanic};
pub use permit::Permit;
pub use ran::{Earlier, Probed, Ran, RunError, Status};
pub use scope::Scope;
pub use service::IdempotencyService;
#[cfg(feature = "serde")]
pub use value::Json;
pub use value::Replayable;
