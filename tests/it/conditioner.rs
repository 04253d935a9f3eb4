//! The conditioner.

#[cfg(feature = "http")]
mod body;
mod config;
#[cfg(feature = "testing")]
mod contract;
mod direct;
mod golden;
#[cfg(feature = "http")]
mod grpc;
#[cfg(feature = "http")]
mod http;
mod layer;
mod replay;
mod stack;

use std::time::Duration;

use buttress::conditioner::{Conditioner, Fault, Rule};

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// An armed conditioner of one rule.
pub(crate) fn armed(rule: Rule) -> Conditioner {
    let conditioner = Conditioner::builder("test").rule(rule).build().unwrap();
    conditioner.arm().unwrap();
    conditioner
}

pub(crate) fn always(fault: Fault) -> Conditioner {
    armed(Rule::new(fault))
}
