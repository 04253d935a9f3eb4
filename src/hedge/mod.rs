//! Keeps the one slow answer in a hundred from being the one that is waited for: makes a second attempt when the first
//! takes longer than nearly all answers do, and takes whichever answers first.
//!
//! One answer in a hundred is slow although nothing is wrong: a pause of a collector, a cold page, a busy
//! neighbour. A page that asks a hundred times nearly always meets one. Another attempt would most likely be
//! quick; made for every call it would double the load, made for the slowest two in a hundred it costs
//! two per cent and takes the tail away.
//!
//! # Default
//!
//! ```
//! use buttress::hedge::Hedge;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let service = ServiceBuilder::new()
//!     .layer(Hedge::new("search").layer())
//!     .service(service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n + 1) }));
//! assert_eq!(service.oneshot(1).await.unwrap(), 2);
//! # });
//! ```
//!
//! # Customised
//!
//! ```
//! # #[cfg(feature = "http")] {
//! use buttress::{RetryBudget, http::standard, retry::HttpRequest, hedge::Hedge};
//!
//! // One budget for all extra attempts to this backend, and no hedge of a POST.
//! let budget = RetryBudget::new("search");
//! let hedge = Hedge::builder("search").percentile(0.95).budget(budget.clone()).build()?;
//! let layer = hedge.layer().classify(standard::<buttress::Typed>()).replay(HttpRequest::new());
//! # }
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # How it decides
//!
//! **When.** After the 98th percentile of the answers of the last 10 seconds, or of the last thousand if those took
//! longer; not before 24 answers, not before 1 ms. While there are fewer than 100, of which the slowest says little, it
//! is at least what it would be if the logarithms of the answers' times were normal. The time of a first attempt counts
//! whether it succeeds first or not: one that was given up, because the hedge won or the caller left, counts as "at
//! least so long" (the estimator of Kaplan and Meier). Otherwise each hedge that wins would make the percentile lower,
//! and the next hedges more. Failures do not count: they may be quick.
//!
//! **Whether.** Only if
//! - the request can be copied, and may be sent twice: the classifier, asked about a call that was cut
//!   off, says that it is safe;
//! - the [gate](HedgeBuilder::gate) says that there is headroom;
//! - not more calls miss their deadline than hedges rescue, and two in a hundred: that is no tail but a queue, and each
//!   hedge makes it longer. (Calls without a deadline, or that cannot have a hedge, miss none; in a [client's
//!   stack](crate::presets::client) the total timeout is one. Meanwhile a hedge costs all that can be saved up, so that
//!   a few show whether it is still so.)
//! - the calls so far have paid for it, a tenth of a hedge each, at most 5 saved up: when all calls are slow at once,
//!   hedges are the last thing that helps. (Two in a hundred ask where there is time enough. What is paid is more,
//!   because slow calls come in groups, and because more ask where the deadline comes soon after the delay.);
//! - the [retry budget](HedgeBuilder::budget), if there is one, grants it;
//! - a [lever](crate::Lever) does not hold it back.
//!
//! What gate, share or budget refuse is asked for again up to four times, each time after the median of an
//! answer, while the deadline leaves room.
//!
//! **By when.** Where the deadline leaves less time after the delay than nine of ten answers take, the hedge goes
//! out so much earlier; not earlier than after what nine of ten answers take. Where that leaves no time, it goes out
//! while half of its answers are in time: after a bad patch the delay may be longer than any caller waits, and nobody
//! would have a hedge until that was forgotten.
//!
//! **Again.** The hedge may meet the same pause. If it does not answer either within what nine of ten answers
//! take, there is another, up to [two](HedgeBuilder::hedges) for a call; all attempts stay out.
//!
//! **Where.** The second attempt carries its number in the [`Context`](crate::Context); an inner service that
//! knows several endpoints sends it to another.
//!
//! **Which.** The first answer that is not a failure. If one attempt fails while another is out, that is
//! waited for; if all fail, the last failure is the answer. The losers are dropped. A failure before there is
//! a second attempt is the answer: to try again is a retry's.
//!
//! # Semantics
//!
//! **Readiness.** Ready when the inner service is; never hedges from there. The instance that was found ready
//! makes the first attempt; a clone of it is asked before each other, for as long as that was waited for; then there
//! is none.
//!
//! **Cancellation.** Dropping the future drops all attempts. A hedge that was granted and not sent is given
//! back.
//!
//! **Blocking.** There is no form for threads: an attempt that has lost cannot be dropped there, and would hold its
//! thread until it is answered.
//!
//! **Sharing.** All services of all layers of one [`Hedge`] share latencies and budgets.
//!
//! **Cost.** Two looks at the clock, two atomic additions and the copy of the request; tokio's timer, inside of the
//! future, once a call has to wait. No lock, and no allocation before there is a hedge. Twice a second one call takes
//! the percentile anew (a few microseconds).
//!
//! # Order
//!
//! Inside of the retry and its deadline, outside of what chooses an endpoint, so that the hedge goes elsewhere;
//! outside of the breaker and the limits, which then count both attempts.
//!
//! # Comparison
//!
//! tower's `Hedge` has no budget (in an overload every call is hedged), counts hedges that win as answers, and is
//! not `Clone`. tower-resilience's hedges after a fixed time. Neither asks for headroom or knows deadlines.
//!
//! # Events
//!
//! [`Hedged`](crate::observe::EventKind::Hedged) for each hedge sent. Those withheld are counted, by reason.

mod config;
mod core;
mod future;
mod handle;
mod layer;
mod managed;
mod service;
#[cfg(all(test, not(buttress_loom)))]
mod tests;

pub use config::HedgeBuilder;
pub use future::ResponseFuture;
pub use handle::{Hedge, HedgeStats};
pub use layer::HedgeLayer;
pub use service::HedgeService;
