//! placeholder

mod arm;
#[cfg(feature = "http")]
mod body;
mod call;
mod config;
mod core;
mod draw;
mod fault;
mod future;
mod handle;
mod ignore;
mod injection;
mod latency;
mod layer;
mod matcher;
mod mode;
mod plan;
mod rule;
mod schedule;
mod service;
mod shared;
mod stats;
#[cfg(feature = "serde")]
mod wire;

pub use arm::ArmError;
#[cfg(feature = "http")]
pub use body::FaultyBody;
#[cfg(feature = "http")]
pub use call::HttpCalls;
pub use call::{Call, Describe, DescribeFn, Unnamed, WithId, request_id};
pub use config::ConditionerBuilder;
pub use fault::Fault;
pub use future::ResponseFuture;
pub use handle::{Applied, Conditioner};
pub use ignore::{IgnoreInjected, ignore_injected};
#[cfg(feature = "http")]
pub use ignore::{IgnoreInjectedHttp, ignore_injected_http};
pub use latency::Latency;
pub use layer::ConditionerLayer;
pub use matcher::Matcher;
#[cfg(feature = "http")]
pub use mode::Http;
pub use mode::Plain;
pub use plan::{CallKey, Decision, Plan};
pub use rule::Rule;
pub use schedule::Schedule;
pub use service::ConditionerService;
pub use stats::{ConditionerStats, RuleStats};

pub use crate::injected::{FaultKind, Injected};

#[cfg(all(test, not(buttress_loom)))]
mod tests;
