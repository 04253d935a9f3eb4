//! Our retry.

use std::time::Duration;

use buttress::retry::{RetryLayer, RetryPolicy};
use buttress::{Backoff, RetryBudget, RetryCost};
use tower::Layer;

use crate::case::{Case, Expect, Hold, direct, numbers};
use crate::floor::{Answer, Fail};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("retry/success/us", Expect::Allowed, || {
            let layer = RetryLayer::new(RetryPolicy::default()).without_budget();
            numbers(layer.layer(Answer), Hold::Reuse)
        })
        .no_alloc()
        .scales()
        .against("retry/success/tower"),
        // The layer as it is by default.
        Case::new("retry/success, budget/us", Expect::Allowed, || {
            numbers(RetryLayer::new(RetryPolicy::default()).layer(Answer), Hold::Reuse)
        })
        .no_alloc()
        .scales()
        .against("retry/success, budget/tower + TpsBudget"),
        Case::new("retry/success, budget/us, cloned each call", Expect::Allowed, || {
            numbers(RetryLayer::new(RetryPolicy::default()).layer(Answer), Hold::CloneEach)
        })
        .no_alloc()
        .scales()
        .against("retry/success, budget/tower + TpsBudget"),
        Case::new("retry/3 failing attempts/us", Expect::Refused, || {
            let policy = RetryPolicy::builder()
                .max_attempts(3)
                .backoff(Backoff::constant(Duration::ZERO))
                .build()
                .expect("a valid policy");
            numbers(RetryLayer::new(policy).without_budget().layer(Fail), Hold::Reuse)
        })
        .against("retry/3 failing attempts/tower"),
        // A first attempt failed, its retry is paid, and put back unsent.
        Case::new("budget/failed/us", Expect::Allowed, || {
            direct(RetryBudget::new("db"), |budget| {
                let budget = budget.clone();
                move || budget.failed(RetryCost::Failed).is_some()
            })
        })
        .no_alloc(),
    ]
}
