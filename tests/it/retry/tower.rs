//! Our policies in tower's own retry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use buttress::retry::{Replay, RetryPolicy, TowerPolicy};
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

/// Of an answer that is good nothing has to be sent again: nothing is asked, and nothing copied for it.
#[tokio::test(start_paused = true)]
async fn a_success_in_towers_retry_does_not_ask_whether_it_could_be_sent_again() {
    #[derive(Clone, Default)]
    struct Counting {
        copies: Arc<AtomicU32>,
        asked: Arc<AtomicU32>,
    }
    impl Replay<u32> for Counting {
        fn try_replay(&self, n: &u32) -> Option<u32> {
            self.copies.fetch_add(1, Ordering::Relaxed);
            Some(*n)
        }
        fn can_send(&self, _: &u32) -> bool {
            self.asked.fetch_add(1, Ordering::Relaxed);
            true
        }
    }
    for (fails, expected) in [(0, (1, 0)), (1, (2, 1))] {
        let replay = Counting::default();
        let (inner, director) = script((0..fails).map(|_| reset()));
        let retry = RetryLayer::new(TowerPolicy::new(policy()).replay(replay.clone()));
        retry.layer(inner).oneshot(1).await.unwrap();
        let seen = (replay.copies.load(Ordering::Relaxed), replay.asked.load(Ordering::Relaxed));
        assert_eq!((director.calls(), seen), (fails + 1, expected));
    }
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
