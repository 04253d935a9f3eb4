//! Whole stacks as plain data, and what is wrong with them.
//!
//! Each layer can be right and the stack wrong: an attempt that may take as long as the whole call is never
//! retried, a breaker that needs more calls than its window holds never opens, three attempts without a
//! budget triple the load on a backend that is down. A plan says everything in one place, and [`lint`]
//! finds what contradicts itself before it meets an outage.
//!
//! ```
//! use buttress::presets::{ClientPlan, LintSeverity, Plan};
//! use std::time::Duration;
//! let mut plan = ClientPlan::new("payments");
//! plan.attempt_timeout = Some(Duration::from_secs(30));
//! let report = plan.report();
//! assert_eq!(report.lints[0].severity, LintSeverity::Error);
//! println!("{report}");
//! ```
//!
//! # The stacks
//!
//! A server that loses half of its capacity for ten seconds, and clients that send everything three times, never come to
//! rest again. So all that is in front of one backend shares what it knows of it ([`Backend`](crate::Backend)): requests
//! wait on this side, the most important and most urgent first; what can no longer be answered in time is not sent; while
//! the backend is down single requests probe it; and retries stop as soon as there is no place for them, or answers are so
//! slow that fewer should be in flight. From the outside in, with the parts of the default in bold:
//!
//! | [`client`] | why there |
//! |---|---|
//! | **total timeout** | bounds the retries and their pauses, too; with a backend all inside go by it, and what is inside of the hedge sees it in the context of the request |
//! | **retry**, with a budget: **the backend's headroom** | each attempt below is one call |
//! | rate limit | retries are limited like first attempts; waiting for it takes no place in flight; whose token would come too late does not wait |
//! | **admission** | each attempt is admitted, a retry too; inside of the limit, so that nobody who waits for that is counted as sent |
//! | **hedge** | a call that waits for admission is not slow: only what was sent is sent again |
//! | attempt timeout | inside of admission, where waiting does not count; outside of the breaker, which sees a call that was given up and counts it |
//! | breaker | judges attempts; a refusal of it ends the retries |
//! | conditioner, if it [has one](ClientLayer::conditioner) | everything else sees the faults |
//! | **endpoints**, of a [pool](ClientLayer::pool) | attempts and hedges each go to one of them |
//!
//! An attempt that took too long is judged by the classifier's [`expired`](crate::Classify::expired), and tried again where
//! that says safe. Without admission, it is the retry itself that ends an attempt; the wait for the rate limit is then
//! part of it. With [`AsTyped`](crate::AsTyped) and admission an attempt that took too long is final. Retries are made by
//! new clones of the service that the stack was put around; a call that works clones nothing for them.
//!
//! Only what may be repeated is sent more than once: for HTTP that is what is idempotent by its method or has a key; other
//! requests are repeated after every failure that may be retried, unless [`classify`](ClientLayer::classify) says
//! otherwise. A hedge is sent beside an attempt that may still succeed: where calls of such a service must not be made twice,
//! let [`replay`](ClientLayer::replay) copy none of them, or leave the plan's `hedge` out. It goes with the place and the token of
//! its call, so it is also what may be above a fixed limit of calls in flight, and above a rate limit by its `extra_load`.
//!
//! | [`server`] | why there |
//! |---|---|
//! | rate limit | refuses before anything was done |
//! | timeout | outside of the failure budget, for the same reason; bounds the wait for a place, too |
//! | admission, if the plan has a [`backend`](ServerPlan::backend) | whoever waits is in nobody's way; inside of the limit, so that what that refuses takes no place |
//! | failure budget | does not count what the limit and the admission refuse |
//! | idempotency, if it [has one](ServerLayer::idempotency) | refusals are not recorded; a call goes on when its caller has gone |
//! | conditioner, if it [has one](ServerLayer::conditioner) | everything else sees the faults |
//!
//! For HTTP a `http::ContextLayer` goes outside of a server's stack, a `http::SendContextLayer` inside of a
//! client's. They are no part of the stacks: how long callers are believed, and how important, is a matter of who they are.
//!
//! # A server under overload
//!
//! A plan with a `backend` has so many requests in the handlers at a time, a number that is [set](BackendPlan::fixed) or
//! learned from how long answers take. The others wait, up to 10,000, the most critical first and of those the one whose
//! deadline is next. A request without a deadline of its own waits as one that has as long as the `patience` of the plan, or
//! its timeout; the timeout ends the wait in any case. Who finds the room full, or is displaced by a more important one,
//! is refused as [`Overloaded`](crate::RejectionKind::Overloaded) (503); who could not be answered in time any more as
//! [`DeadlineExceeded`](crate::RejectionKind::DeadlineExceeded) (504), unsent. Neither has a `Retry-After`: when there will be
//! a place is not known. Of a caller that goes while it waits nothing is left. A handler that is dropped has left its place
//! at once if the number is set; if it is learned, in up to as long as it took, since what it has begun elsewhere goes on. An
//! execution that the idempotency lets go on after its caller has gone has no place.
//!
//! Failures are answers: a handler that fails is not down, and nobody waits for it as clients do ([`Handled`]). Nor are
//! they when all of them are slow.
//!
//! ```
//! # #[cfg(feature = "http")] {
//! use axum::{Router, routing::get};
//! use buttress::http::ContextLayer;
//! use buttress::presets::{BackendPlan, ServerPlan, server};
//! use std::time::Duration;
//! use tower::ServiceBuilder;
//!
//! let mut plan = ServerPlan::new("api");
//! plan.timeout = Some(Duration::from_secs(5));
//! plan.backend = Some(BackendPlan::fixed(256));
//! let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(
//!     ServiceBuilder::new()
//!         .layer(ContextLayer::new("api")) // outside: reads the deadline and the criticality that callers send
//!         .layer(server(&plan)?.http()), // goes by them
//! );
//! # }
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # Around real clients
//!
//! hyper's client and everything that takes an `http::Request` whose body is `Clone`. `BoxCloneSyncService` gives the
//! whole a short name; it is `Clone`, `Send` and `Sync` if the client is.
//!
//! ```
//! # #[cfg(feature = "http")] {
//! use buttress::BoxError;
//! use buttress::http::SendContextLayer;
//! use buttress::presets::{ClientPlan, client};
//! use http_body_util::Full;
//! use hyper::body::{Bytes, Incoming};
//! use hyper::{Request, Response};
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::{ServiceBuilder, util::BoxCloneSyncService};
//!
//! type Orders = BoxCloneSyncService<Request<Full<Bytes>>, Response<Incoming>, BoxError>;
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let orders = Orders::new(
//!     ServiceBuilder::new()
//!         .layer(client(&ClientPlan::new("orders"))?.http())
//!         .layer(SendContextLayer::new("orders")) // tells the callee what time is left
//!         .service(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>()),
//! );
//! # Ok::<(), buttress::ConfigError>(())
//! # }).unwrap();
//! # }
//! ```
//!
//! The code that tonic generates: its body is no `Clone`, and what the stack refuses is to be a status. Errors then keep their
//! type, too, without which calls of a generated client cannot be spawned.
//!
//! ```
//! # #[cfg(feature = "http")] {
//! use buttress::http::{ReplayBody, replay_up_to, status_only};
//! use buttress::presets::{ClientPlan, client};
//! use buttress::retry::HttpRequest;
//! use tonic::body::Body;
//! use tonic::transport::{Channel, Endpoint};
//! use tonic_health::pb::health_client::HealthClient;
//! use tower::ServiceBuilder;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let stack = client(&ClientPlan::new("health"))?.http();
//! let stack = stack.replay(HttpRequest::new()).on_reject(status_only().grpc());
//! let channel: Channel = Endpoint::from_static("http://localhost:50051").connect_lazy();
//! let health = HealthClient::new(
//!     ServiceBuilder::new()
//!         .layer(replay_up_to(64 * 1024))
//!         .layer(stack)
//!         .map_request(|request: http::Request<ReplayBody<Body>>| request.map(Body::new))
//!         .service(channel),
//! );
//! # Ok::<(), buttress::ConfigError>(())
//! # }).unwrap();
//! # }
//! ```
//!
//! Requests of a kind of their own, here reqwest's: how they are sent again, and how answers are judged. All layers see one
//! error type if the inner one is a [`BoxError`](crate::BoxError).
//!
//! ```
//! use buttress::presets::{ClientPlan, client};
//! use buttress::{BoxError, FailureClass, RetryHint, Verdict, classify_fn, judge_error};
//! use tower::{Layer, ServiceExt};
//!
//! fn judge(result: Result<&reqwest::Response, &BoxError>) -> Verdict {
//!     match result {
//!         Ok(answer) if answer.status().is_server_error() => {
//!             Verdict::failure(FailureClass::Transient).with_retry(RetryHint::Safe { after: None })
//!         }
//!         Ok(_) => Verdict::success(),
//!         Err(error) => judge_error(&**error),
//!     }
//! }
//! let reads = client(&ClientPlan::new("reads"))?
//!     .replay(reqwest::Request::try_clone)
//!     .classify(classify_fn(judge))
//!     .layer(reqwest::Client::new().map_err(BoxError::from));
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! A call is over when the head of its answer is there: no timeout of the stack ends the body, which nobody's place in
//! flight waits for.
//!
//! # Semantics
//!
//! Each layer keeps its own: see [`timeout`](crate::timeout), [`retry`](crate::retry),
//! [`rate_limit`](crate::rate_limit), [`circuit_breaker`](crate::circuit_breaker),
//! [`failure_budget`](crate::failure_budget), [`idempotency`](crate::idempotency),
//! [`conditioner`](crate::conditioner). *Readiness.* As ready as the inner service; with a rate limit or a
//! backend always, since those wait inside of the call. *Sharing.* All services of one layer and its clones share its objects.
//! *Time.* That of a call counts from its first poll if there is a backend, which has the same reading of the clock, and the
//! request has no deadline of its own; else from `call`. The clock is looked at when a layer
//! needs it in that poll, or else at its end; not at all, if the call has been answered by then.
//! *Refusals.* Of a client with a backend, they say how that was: whose deadline passes while everything fails learns that the
//! backend is down ([`RejectionDetail::Backend`](crate::RejectionDetail::Backend)).
//! *Cost.* That of the layers; a part that is absent costs a branch.

mod attempts;
mod client;
mod client_parts;
#[cfg(all(test, not(buttress_loom)))]
mod cost_tests;
#[cfg(all(test, not(buttress_loom)))]
mod deadline_tests;
mod handled;
#[cfg(feature = "http")]
mod http;
#[cfg(all(test, not(buttress_loom)))]
mod kept_tests;
mod lint;
#[cfg(feature = "config")]
mod live;
#[cfg(feature = "config")]
mod live_client;
#[cfg(feature = "config")]
mod live_parts;
#[cfg(feature = "config")]
mod live_server;
mod objects;
mod part;
mod plan;
mod pool;
#[cfg(all(test, not(buttress_loom)))]
mod quota_tests;
#[cfg(all(test, not(buttress_loom)))]
mod random_tests;
mod server;
mod server_parts;
#[cfg(all(test, not(buttress_loom)))]
mod server_tests;
mod shared;
#[cfg(all(test, feature = "config", not(buttress_loom)))]
mod stress_tests;
mod tell_end;
#[cfg(all(test, not(buttress_loom)))]
mod tests;
#[cfg(all(test, not(buttress_loom)))]
mod vain_tests;
#[cfg(feature = "serde")]
mod wire;

pub use attempts::{Attempts, Sends};
pub use client::{ClientLayer, client};
#[cfg(feature = "config")]
pub(crate) use client_parts::ClientParts;
pub use handled::Handled;
#[cfg(feature = "http")]
pub use http::AnyHttp;
pub use lint::{Lint, LintSeverity, Plan, Report, lint, lint_order};
#[cfg(feature = "config")]
pub(crate) use live::Parts;
#[cfg(feature = "config")]
pub use live::{Live, LiveService};
#[cfg(feature = "config")]
pub use live_client::LivePool;
#[cfg(feature = "config")]
pub(crate) use live_parts::PartsChange;
pub(crate) use objects::cancelled_after;
pub use objects::{
    BackendPlan, BreakerPlan, EndpointsPlan, FailureBudgetPlan, HedgePlan, RateLimitPlan,
    RetryBudgetPlan,
};
#[cfg(feature = "http")]
pub use part::ForHttp;
pub use part::{Absent, Faults, Gate, Part};
pub use plan::{ClientPlan, RetryPlan, ServerPlan};
pub use pool::PoolService;
pub use server::{ServerLayer, server};
#[cfg(feature = "config")]
pub(crate) use server_parts::ServerParts;
