//! Keeps an overload from outliving its cause: as many calls in flight as a backend can take, and a waiting room that
//! knows deadlines.
//!
//! A backend loses half of its capacity for ten seconds. Requests pile up in its queue until each of them waits
//! longer there than its caller does. From then on it works at full capacity on requests whose callers have gone,
//! also after the capacity is back: nobody is answered in time although nothing is broken any more.
//!
//! # Default
//!
//! ```
//! use buttress::admission::{Admission, AdmissionLayer};
//! use tower::ServiceBuilder;
//! let stack = ServiceBuilder::new().layer(AdmissionLayer::new(Admission::new("search")));
//! ```
//!
//! # Customised
//!
//! ```
//! use buttress::admission::{Admission, AdmissionLayer};
//! use buttress::{AsTyped, Context};
//! use std::time::Duration;
//! // A bulkhead: never more than eight at a time. Who has no deadline waits for 200 ms at most.
//! let admission = Admission::bulkhead("db", 8)?.patience(Duration::from_millis(200));
//! let layer = AdmissionLayer::new(admission).context(|with: &Context| *with).on_reject(AsTyped);
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # Without a service
//!
//! ```
//! use buttress::admission::Admission;
//! use buttress::{Context, Deadline};
//! use std::time::Duration;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), buttress::BoxError> {
//! let admission = Admission::new("search");
//! // A call at its turn, async or on a thread …
//! let answer = admission.run(|| async { Ok::<_, std::io::Error>("found") }).await?;
//! let answer = admission.run_blocking(|| Ok::<_, std::io::Error>("found"))?;
//! // … or the place alone, for code that fits neither.
//! let context = Context::new().with_deadline(Deadline::after(Duration::from_millis(300)));
//! let permit = admission.acquire(context).await?;
//! permit.success();
//! # Ok(())
//! # }
//! ```
//!
//! # How it decides
//!
//! *What callers wait* is the time that they leave for an answer: what remains of their deadlines when they come, or
//! [`patience`](Admission::patience) of those who have none. *The baseline* is what an answer takes when nothing is
//! wrong. The learned limit has no settings, on purpose: what follows is nearly all a share of one of the two, so it
//! fits a cache and a batch job alike, and stays right when the backend changes. A number told once would be right on
//! the day it was measured. Who knows a number that must never be exceeded (connections of a database, say) makes a
//! [`bulkhead`](Admission::bulkhead) of it.
//!
//! **Start**
//!
//! - It starts with 4 in flight, and doubles with each round of answers until they take longer.
//! - If the first answer takes more than an eighth of what callers wait, and calls wait for it, it starts at what is
//!   there: with up to 8 then, 16 a sixteenth later and 32 at a quarter. What comes in the meantime waits, and is not
//!   refused.
//!
//! **Limit**
//!
//! - It grows while it is reached and answers take less than three quarters of the target. The target is a tenth of
//!   what callers wait, from 2 to 4 times the baseline; a third for a [pool](crate::presets::ClientLayer::pool),
//!   where calls wait at one endpoint while others have nothing to do.
//! - It falls, to no less than three quarters of what is usually in flight, when answers take longer than the target
//!   and even the quickest but one of the last sixteen wait in a queue. Where few come, of those only what came
//!   within twice what callers wait counts, or while calls wait came within that before they began to, and the last
//!   four.
//! - Failures say nothing about latency, and a limit that is not used does not grow.
//! - As long as nothing is known of what answers take, it is halved when a call is given up after a quarter of what
//!   callers wait, or later.
//!
//! **More only for more**
//!
//! - Windows of answers, each as long as one takes or longer, show how many a second so many in flight bring.
//! - Growth has to bring a quarter of its share: twice as many in flight a fifth more answers. If it has brought
//!   less, by more than chance, and answers took longer for it, they wait for each other: the limit goes back to what
//!   was worth it. What chance is, windows of the same in flight show.
//! - Then a sixth less is tried, again and again as long as no answer is lost by it; and so it is while answers are
//!   slow but not too slow. A try is followed by sixteen times as many answers without one, or by more answers with
//!   no more in flight, which are another backend.
//! - Until it is known what they bring, no more than half again as many are in flight as is known, or as were before.
//!
//! **Whose queue**
//!
//! - Answers that take longer with no more in flight than before are no queue of ours: no window counts them against
//!   the limit, and it does not fall below three quarters of what is usual.
//! - With others in front of a backend, fewer of ours are fewer answers for us, and the latency alone decides: it is
//!   the same for all.
//!
//! **Too late**
//!
//! - A client that begins in an overload takes the queue for normal. So the limit falls, whatever the baseline says,
//!   when more than one in eight of what was sent is given up at its deadline, or without one after its
//!   [patience](Admission::patience), and even the quickest answers take an eighth of what callers wait.
//! - It falls below one in flight, too: then there is a pause after each call, of no more than what callers wait.
//!   Where nothing is known of how many are usually in flight, there is no other floor.
//!
//! **Criticality**
//!
//! - A more important call goes beyond the limit by the share of what is less important, which waits for it; by one
//!   at least if that is most of it and the limit is no pause.
//! - Where those as important as it are the lesser part, as many may be out as they had when nothing was wrong, and
//!   half again, whoever else fills the backend; not while it recovers.
//!
//! **Baseline**
//!
//! - A geometric mean of what answers take while less than half of the limit is used. It stays within a quarter of
//!   the lowest it has been, so that it cannot follow a queue.
//! - If answers stay slow with the limit at its floor, what is slow is the service, and the baseline starts anew.
//! - It does so eight times later if answers differ less among each other than usual, as they do when there is a
//!   queue that others have made. Then the limit stays what it was before until answers come as quickly as before, or
//!   that has lasted for some minutes (32 times what it took to start the baseline anew): a delay that stays.
//!
//! **Waiting room**
//!
//! - Highest criticality first; within a class the earliest deadline that will probably be met, and if none will, the
//!   newest. Who could not be answered in time any more is refused unsent.
//! - There is room for 10,000, so that a crowd takes a bounded amount of memory. When it is full, who comes takes the
//!   place of the last in line if that is less important, or as important with a later deadline; else it is refused.
//!   Both are `Overloaded`. It is no setting either: where calls wait for a second, it fills only if 10,000 a second
//!   come and none is answered.
//!
//! **Down**
//!
//! - After a row of failures that chance does not explain at the usual rate of failures, or after no answer for
//!   longer than nearly all take, requests wait for as long as they can and single ones probe: in at most three of
//!   ten requests, at least once in the time that callers wait. With the first success the limit starts small, and
//!   doubles with what is answered; an answer that takes twice as long as the baseline lets half as many more through.
//! - *Unavailable until then.* An answer that throttles, or a failure that says when to come again (503 with a
//!   `Retry-After` above zero), is no sign of an outage where the backend [learns its
//!   quota](crate::Backend::learn_quota), as in [`presets::client`](crate::presets::client). If all are answered like
//!   that, single calls ask when it says, but at least every 30 s, also while it is down, and who could not be
//!   answered in time is refused at once. Elsewhere such a failure is one as all others.
//!
//! **Calls without an answer**
//!
//! - *Lost among quick answers.* Calls that are never answered while others are, as quickly as ever, lower no limit:
//!   a share that hangs whatever is in flight is not helped by fewer. A backend that silently drops what is beyond
//!   its capacity is taken for such a one, and only a fixed limit keeps calls from being lost there.
//! - *Abandoned* calls keep their place for as long as they were waited for: the backend may still work on them.
//!
//! The limit is a gradient on latency, as Netflix's [concurrency-limits] has it, and doubles at first as TCP's slow
//! start does; it stops where [BBR] finds the pipe full. The guard by correlation of what is in flight with what is
//! answered, and with how long that takes, is that of Uber's [Cinnamon] and of [failsafe-go]; here it is a test of
//! two windows, which moves the limit in order to know, instead of a correlation over fifty of them.
//!
//! [concurrency-limits]: https://github.com/Netflix/concurrency-limits
//! [BBR]: https://queue.acm.org/detail.cfm?id=3022184
//! [Cinnamon]: https://www.uber.com/blog/cinnamon-auto-tuner-adaptive-concurrency-in-the-wild/
//! [failsafe-go]: https://failsafe-go.dev/adaptive-limiter/
//!
//! # Semantics
//!
//! **Readiness.** Always ready. The inner service is asked when it is a call's turn, with the instance that is
//! called. If it fails then, so does that call alone: while the backend is down it was the probe, and the others wait
//! for the next.
//!
//! **Cancellation.** A waiter that is dropped leaves no trace; a place that was its own already goes to the next.
//! A call that is dropped counts as abandoned, and so does a [`Permit`] of which nothing was told.
//!
//! **Sharing.** Clones of an [`Admission`], and all in front of one [`Backend`](crate::Backend), share everything:
//! services, tasks and threads wait in one room.
//!
//! **Cost.** Two short locks and two readings of the clock for a call that need not wait, and no allocation. Who
//! waits has a timer.
//!
//! - Of calls that the service answers in the poll in which they are sent, one in 32 is read the clock for a second
//!   time while those took less than 10 µs; once one takes longer all are, until they are as quick again. A call that
//!   is not answered in that poll counts its time from the first look at the clock in it, at the latest its end.
//! - Those that are not measured take no lock, only two atomic operations, if they are
//!   [`Critical`](crate::Criticality::Critical), as is the default, nothing is out of the ordinary, and less than
//!   half of the limit is in flight.
//! - Inside of the total timeout of [`presets::client`](crate::presets::client), as it is by default, these do not
//!   look at the clock at all, or, where a request is told when it has to be answered, once.
//!
//! # Order
//!
//! Of a client inside of retries, so that each attempt is admitted; of a server inside of what refuses at once, and
//! outside of what counts failures. [`presets::client`](crate::presets::client) and
//! [`presets::server`](crate::presets::server) put them together.
//!
//! # Comparison
//!
//! tower's `ConcurrencyLimit` is a fixed number, under axum one for each connection (`GlobalConcurrencyLimitLayer` is
//! one for all); who is above it waits in `poll_ready`, first come, first served, for ever, or with `LoadShed` not at
//! all. tower-resilience's bulkhead is a fixed number with at most a longest wait, too; its adaptive limits, AIMD and
//! Vegas, let callers wait in `poll_ready` for ever, and know no priorities. Netflix's let callers wait, the newest
//! first, and give each kind of call a share. failsafe-go refuses by priority, more and more from twice the limit on.
//! Envoy's lets nobody wait, and from time to time, usually once a minute, only three calls at a time go through, to
//! measure its baseline. None of them asks by whose deadline an answer could still come: who waits there may be sent
//! when it is too late.
//!
//! # Refusals
//!
//! Each says how the backend was, as a [`RejectionDetail::Backend`](crate::RejectionDetail::Backend): a deadline that
//! has passed while everything failed is told from one that was too short. So does that of a
//! [timeout](crate::timeout) that gives up a call which was sent or waited here.
//!
//! ```
//! use buttress::admission::Admission;
//! use buttress::{BackendState, Context, RejectionDetail};
//! let admission = Admission::new("search");
//! for _ in 0..12 {
//!     admission.try_acquire(Context::new())?.failure();
//! }
//! let _probe = admission.try_acquire(Context::new())?;
//! let why = admission.try_acquire(Context::new()).unwrap_err();
//! assert_eq!(why.detail(), RejectionDetail::Backend { state: BackendState::Down, failures: 12 });
//! assert_eq!(why.to_string(), "overloaded (admission `search`), backend down, 12 failures in a row");
//! # Ok::<(), buttress::Rejection>(())
//! ```
//!
//! # Events
//!
//! `StateChanged` of the backend, `Rejected` and `Waited`, to the observers of
//! [`Backend::observe`](crate::Backend::observe). Refusals are counted in [`BackendStats`](crate::BackendStats).

mod future;
mod handle;
mod layer;
mod permit;
mod place;
mod service;

pub use future::ResponseFuture;
pub use handle::Admission;
pub use layer::AdmissionLayer;
pub use permit::{Acquire, Permit};
pub use service::AdmissionService;
