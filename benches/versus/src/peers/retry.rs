//! Retries: tower with and without its budget, tower-resilience.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::Duration;

use tower::Layer;
use tower::retry::budget::{Budget, TpsBudget};
use tower_resilience::retry::{RetryBudgetBuilder, RetryLayer};

use crate::case::{Case, Expect, Hold, numbers};
use crate::floor::{Answer, Fail, Oops};

/// The policy of tower's own guide: a number of attempts, with or without its budget.
#[derive(Clone)]
pub struct Attempts {
    pub left: usize,
    pub budget: Option<Arc<TpsBudget>>,
}

impl<Req: Clone, Res, Err> tower::retry::Policy<Req, Res, Err> for Attempts {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Req, result: &mut Result<Res, Err>) -> Option<Self::Future> {
        if result.is_ok() {
            if let Some(budget) = &self.budget {
                budget.deposit();
            }
            return None;
        }
        if self.left == 0 || self.budget.as_ref().is_some_and(|budget| !budget.withdraw()) {
            return None;
        }
        self.left -= 1;
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

fn tower_retry(budget: bool) -> tower::retry::RetryLayer<Attempts> {
    let budget = budget.then(|| Arc::new(TpsBudget::default()));
    tower::retry::RetryLayer::new(Attempts { left: 2, budget })
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("retry/success/tower", Expect::Allowed, || {
            numbers(tower_retry(false).layer(Answer), Hold::Reuse)
        })
        .scales(),
        Case::new("retry/success, budget/tower + TpsBudget", Expect::Allowed, || {
            numbers(tower_retry(true).layer(Answer), Hold::Reuse)
        })
        .scales(),
        Case::new("retry/3 failing attempts/tower", Expect::Refused, || {
            numbers(tower_retry(false).layer(Fail), Hold::Reuse)
        }),
        Case::new("retry/success/tower-resilience", Expect::Allowed, || {
            let layer = RetryLayer::<u64, u64, Oops>::builder()
                .max_attempts(3)
                .exponential_backoff(Duration::from_millis(100))
                .build();
            numbers(layer.layer(Answer), Hold::Reuse)
        })
        .scales(),
        Case::new("retry/success, budget/tower-resilience token bucket", Expect::Allowed, || {
            let budget = RetryBudgetBuilder::new()
                .token_bucket()
                .tokens_per_second(10.0)
                .max_tokens(100)
                .build()
                .expect("a valid configuration");
            let layer = RetryLayer::<u64, u64, Oops>::builder()
                .max_attempts(3)
                .exponential_backoff(Duration::from_millis(100))
                .budget(budget)
                .build();
            numbers(layer.layer(Answer), Hold::Reuse)
        })
        .scales(),
        Case::new("retry/3 failing attempts/tower-resilience", Expect::Refused, || {
            let layer = RetryLayer::<u64, u64, Oops>::builder()
                .max_attempts(3)
                .fixed_backoff(Duration::ZERO)
                .build();
            numbers(layer.layer(Fail), Hold::Reuse)
        })
        .max_batch(2)
        .counted_calls(2),
    ]
}
