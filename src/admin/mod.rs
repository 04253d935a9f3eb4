//! What a running program decides, on one page, and commands that change it.
//!
//! Prevents incidents in which everybody guesses: which breaker is open, since when and why, what is refused,
//! whether faults are still being injected. And it prevents that the page which answers this becomes a hole:
//! it tells nothing to other sites, and changes nothing without a token.
//!
//! [`Admin`] is one service. Mount it anywhere, or let it [listen](Admin::listen) by itself.
//!
//! # Default
//!
//! ```
//! use buttress::admin::Admin;
//! use buttress::control::Registry;
//!
//! // Everything in this process that has a name; read-only.
//! let admin = Admin::builder(&Registry::global()).build()?;
//! # let _: axum::Router =
//! axum::Router::new().nest_service("/admin", admin.clone());
//!
//! let page = admin.listen("127.0.0.1:0")?; // or on a port of its own, from a thread of its own
//! println!("http://{}/", page.addr());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Customised
//!
//! ```
//! use buttress::admin::Admin;
//! use buttress::control::Registry;
//! use serde_json::json;
//!
//! let token = std::env::var("ADMIN_TOKEN").unwrap_or_else(|_| "u4zQ0nPBJx5m2yGk".into());
//! let admin = Admin::builder(&Registry::new())
//!     .token(token) // commands, for who knows it
//!     .allow_origin("https://admin.example.com") // behind a proxy that changes `Host`
//!     .config(|| json!({"database": {"url": "postgres://api:hunter2@db/api", "pool": 8}}))
//!     .build()?;
//! # Ok::<(), buttress::ConfigError>(())
//! ```
//!
//! # Routes
//!
//! | | |
//! |---|---|
//! | `GET /` | the page: one file, nothing is loaded from elsewhere |
//! | `GET /status.json` | the status of the registry, each object with `spark`: the last two minutes |
//! | `GET /events` | the same as server-sent events: `status` again and again, `event` for each of the timeline |
//! | `GET /metrics` | for Prometheus: see [below](#metrics) |
//! | `GET /config` | the configuration in effect, secrets hidden; `null` if none was given |
//! | `POST /commands` | a document for [`execute`](crate::control::execute); the answer is its list of results |
//!
//! The page asks for relative addresses, so any prefix works that is stripped before the service sees the
//! request, as `nest_service` of axum does; one that is not stripped is given to
//! [`prefix`](AdminBuilder::prefix). `HEAD` works where `GET` does.
//!
//! # Who may do what
//!
//! - **Reading** is for everybody who can reach it: so [`listen`](Admin::listen) binds loopback addresses only,
//!   unless [`allow_remote`](AdminBuilder::allow_remote) was called, and answers requests for other host names
//!   with 421, or a web page could read it through a name that resolves to 127.0.0.1. Mounted in a server of
//!   yours, put your authentication in front of it, and name your [hosts](AdminBuilder::allow_host).
//! - **Commands** are off (403) until there is a [token](AdminBuilder::token). Then they need it as
//!   `Authorization: Bearer`; it is compared by digests in a time that depends on neither. A browser's request
//!   must come from the page itself (`Sec-Fetch-Site`, `Origin`; else 403), its type must be
//!   `application/json` (415), its body small (413) and in time (408).
//! - **Answers** are never stored (`no-store`), framed, sniffed, or read by another origin. The page's policy
//!   allows its own script and style by their hashes and connections to itself, and nothing else.
//! - Nothing is read from disk, so no path leads there.
//!
//! # Events
//!
//! `GET /events` sends the whole status, without its timeline, every [interval](AdminBuilder::interval) while
//! somebody is connected. It is made once for all of them. Each entry of the timeline comes once, with an id:
//! who comes back with `Last-Event-ID` gets what is newer, and all there is when the id is from another process
//! or not known. What was lost in between is a `gap` with the number in `missed`. Comments keep quiet
//! connections open.
//!
//! At most 1,000 may be connected ([`max_viewers`](AdminBuilder::max_viewers)), the next gets a 503. Nothing is
//! kept for one of them: who is slow skips statuses, and who takes nothing for 30 seconds loses its place.
//!
//! # Metrics
//!
//! In Prometheus' text format 0.0.4, or OpenMetrics 1.0.0 for who accepts that: what is pulled in the
//! [table](crate::observe#metrics). At most 32 series per family and object and 20,000 in all; what is over that
//! is left out and counted. Label values are cut after 128 characters.
//!
//! # Semantics
//!
//! - **History**: the sparklines and the timeline must be there when somebody looks for the first time, so
//!   the counters are read every two seconds from [`build`](AdminBuilder::build) on, by a thread of its own.
//!   It does not keep the service alive: it ends when the last clone of the [`Admin`] is dropped.
//! - **Readiness**: always ready; never fails.
//! - **Cancellation**: a command whose request is dropped before its body is complete is not executed.
//! - **Sharing**: clones share history and viewers.
//! - **Cost**: nothing on the path of calls; every two seconds (every interval with viewers) one status.
//! - **Panics** of closures in the registry or the configuration are a 500, and the history has a hole.
//!
//! # Order
//!
//! Outside of everything that refuses: the page is needed when all else is overloaded. On a listener of its own
//! it is answered even while the program's runtime is blocked.
//!
//! # Comparison
//!
//! Hystrix's dashboard is a server of its own that needs a stream from each instance; Envoy's admin port shows
//! counters and changes them for everybody who reaches it. Here each instance explains itself, and changes
//! need a token.

mod answer;
mod body;
mod builder;
mod document;
mod gate;
#[cfg(test)]
mod grammar;
mod hub;
mod listener;
mod metrics;
mod redact;
mod sampler;
mod service;
mod spark;
#[cfg(test)]
mod tests;

pub use body::AdminBody;
pub use builder::{Admin, AdminBuilder};
pub use listener::AdminListener;
pub use service::AdminFuture;
