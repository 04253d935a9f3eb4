//! Our policies in tower's own retry.

use std::time::Duration;

use buttress::retry::{RetryPolicy, TowerPolicy};
use buttress::{Backoff, RetryBudget};
use tokio::time::Instant;
use tower::{Layer, ServiceExt, retry::RetryLayer};

use super::script::{Step, reset, script};

fn policy() -> RetryPolicy {
    RetryPolicy::builder().backoff(Backoff::constant(Duration::from_millis(100))).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn towers_retry_keeps_our_limits_and_budget() {
    let budget = RetryBudget::new("b");
    let layer = RetryLayer::new(TowerPolicy::new(policy()).budget(budget.clone()));
    let (inner, director) = script([reset(), Step::Ok(200), reset(), reset(), reset(), reset()]);
    let service = layer.layer(inner);
    let start = Instant::now();
    assert_eq!(service.clone().oneshot(1).await.unwrap().status, 200);
    assert_eq!((start.elapsed(), director.calls()), (Duration::from_millis(100), 2));
    assert_eq!((budget.stats().succeeded, budget.stats().tokens), (1, 28));
    // A run of its own for each call: three attempts again.
    service.clone().oneshot(1).await.unwrap_err();
    assert_eq!(director.calls(), 5);
    // And the budget is spent.
    service.clone().oneshot(1).await.unwrap_err();
    assert_eq!((director.calls(), budget.stats().denied), (6, 1));
}

#[tokio::test(start_paused = true)]
async fn towers_retry_does_not_wait_beyond_our_deadline() {
    let policy = policy().to_builder().deadline(Duration::from_millis(150)).build().unwrap();
    let (inner, director) = script([reset(), reset(), reset()]);
    let service = RetryLayer::new(TowerPolicy::new(policy).without_budget()).layer(inner);
    let start = Instant::now();
    service.oneshot(1).await.unwrap_err();
    assert_eq!((start.elapsed(), director.calls()), (Duration::from_millis(100), 2));
}
