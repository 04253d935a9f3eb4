// The README's examples need HTTP.
#![cfg_attr(feature = "http", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "http"),
    doc = "Tower layers and plain objects that keep services standing."
)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(buttress_loom, allow(dead_code, unused_imports))]

mod backend;
mod backoff;
mod budget;
mod caught;
mod classify;
mod clock;
mod context;
mod deadline;
mod error;
mod guarantee;
mod guarded;
mod injected;
mod key;
mod lever;
mod managed;
mod name;
mod outcome;
mod pace;
mod quota;
mod reject;
mod rejection;
mod replay;
#[cfg(all(test, not(buttress_loom)))]
mod seed;
mod single;
mod slot;
mod superseded;
mod sync;
#[cfg(feature = "serde")]
mod units;
mod wide;
mod window;

#[cfg(feature = "admin")]
pub mod admin;
pub mod admission;
pub mod circuit_breaker;
pub mod coalesce;
pub mod conditioner;
#[cfg(feature = "config")]
pub mod config;
pub mod control;
pub mod endpoints;
pub mod failure_budget;
pub mod fallback;
pub mod hedge;
#[cfg(feature = "http")]
pub mod http;
pub mod idempotency;
pub mod observe;
pub mod presets;
pub mod rate_limit;
pub mod retry;
pub mod store;
#[cfg(feature = "supervise")]
pub mod supervise;
#[cfg(feature = "testing")]
pub mod testing;
pub mod throttle;
pub mod timeout;

pub use backend::{Backend, BackendState, BackendStats};
pub use backoff::{Backoff, Delays, Jitter};
pub use budget::{
    RetryBudget, RetryBudgetBuilder, RetryBudgetStats, RetryCost, RetryToken, SentRetry,
};
pub use classify::{
    AnyError, Boxed, Classify, ClassifyFn, Downcast, ErrorChain, Exclude, Typed, classify_fn,
    downcast, error_chain, exclude, judge_error,
};
pub use context::{Context, Criticality, NoContext, ReadContext};
pub use deadline::Deadline;
pub use error::{BoxError, ConfigError, Error};
pub use key::{Key, KeyFn, key_fn};
pub use lever::Lever;
pub use name::{LayerKind, Name};
pub use outcome::{FailureClass, Outcome, RetryHint, Verdict};
pub use quota::Quota;
pub use reject::{AsError, AsTyped, Reject, Remember, RespondWith, respond_with};
pub use rejection::{Rejection, RejectionDetail, RejectionKind};
pub use slot::Slot;
