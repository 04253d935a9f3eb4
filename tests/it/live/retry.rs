#![expect(clippy::disallowed_methods, reason = "callers are tasks")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use buttress::retry::{Retry, RetryLayer, RetryPolicy};
use buttress::{Backoff, Error, RetryBudget, Slot};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{CALLS, under_load};

/// So many attempts in all, a second apart.
fn attempts(most: u32) -> RetryPolicy {
    let second = Backoff::constant(Duration::from_secs(1));
    RetryPolicy::builder().max_attempts(most).backoff(second).build().unwrap()
}

/// As many, at once.
fn quick(most: u32) -> RetryPolicy {
    RetryPolicy::builder().max_attempts(most).backoff(Backoff::none()).build().unwrap()
}

fn down() -> std::io::Error {
    std::io::ErrorKind::ConnectionReset.into()
}

/// A service that is down, and how often it was asked.
fn asked() -> (
    Arc<AtomicU32>,
    impl Service<(), Response = (), Error = std::io::Error, Future: Send> + Clone + Send,
) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    let service = service_fn(move |()| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Err(down()))
    });
    (count, service)
}

#[tokio::test(start_paused = true)]
async fn a_call_that_runs_keeps_its_policy_and_the_next_has_the_new_one() {
    let slot = Slot::with(attempts(5));
    let (count, inner) = asked();
    let mut service = RetryLayer::from_slot(slot.clone()).without_budget().layer(inner);
    let call = tokio::spawn(service.ready().await.unwrap().call(()));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(count.load(Ordering::Relaxed), 2);
    slot.install(attempts(2));
    assert!(call.await.unwrap().is_err());
    assert_eq!(count.swap(0, Ordering::Relaxed), 5, "begun with five");
    for (policy, made) in [(None, 2), (Some(attempts(3)), 3)] {
        if let Some(policy) = policy {
            slot.install(policy);
        }
        assert!(service.ready().await.unwrap().call(()).await.is_err());
        assert_eq!(count.swap(0, Ordering::Relaxed), made);
    }
    slot.uninstall();
    assert!(service.ready().await.unwrap().call(()).await.is_err());
    assert_eq!(count.swap(0, Ordering::Relaxed), 1, "nothing is tried again");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_only_cloned_hands_on_the_new_policy() {
    let slot = Slot::with(quick(2));
    let (count, inner) = asked();
    let service = RetryLayer::from_slot(slot.clone()).without_budget().layer(inner);
    for (policy, made) in [(quick(3), 3), (quick(4), 4)] {
        slot.install(policy);
        for _ in 0..3 {
            assert!(service.clone().oneshot(()).await.is_err());
            assert_eq!(count.swap(0, Ordering::Relaxed), made);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_keeps_its_level() {
    let budget = RetryBudget::builder("db").tokens(300).initial_tokens(300).build().unwrap();
    let slot = Slot::with(quick(3));
    let (count, inner) = asked();
    let mut service = RetryLayer::from_slot(slot.clone()).budget(budget.clone()).layer(inner);
    assert!(service.ready().await.unwrap().call(()).await.is_err());
    let before = budget.stats();
    assert_eq!(before.allowed, 2);
    slot.install(quick(2));
    assert_eq!(budget.stats(), before);
    assert!(service.ready().await.unwrap().call(()).await.is_err());
    assert_eq!((budget.stats().allowed, count.load(Ordering::Relaxed)), (3, 5));
}

#[tokio::test(start_paused = true)]
async fn direct_runs_too() {
    let slot = Slot::with(attempts(4));
    let retry = Retry::from_slot(slot.clone()).without_budget();
    let made = Arc::new(AtomicU32::new(0));
    let run = {
        let (retry, made) = (retry.clone(), Arc::clone(&made));
        tokio::spawn(async move {
            let fail = |attempt| {
                made.store(attempt, Ordering::Relaxed);
                std::future::ready(Err::<(), _>(down()))
            };
            retry.run(fail).await
        })
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    slot.install(attempts(2));
    assert!(matches!(run.await.unwrap(), Err(Error::Inner(_))));
    assert_eq!(made.load(Ordering::Relaxed), 4);
    let mut blocking = 0;
    let fail = |attempt| {
        blocking = attempt;
        Err::<(), _>(down())
    };
    retry.run_blocking_with(|_| {}, fail).unwrap_err();
    assert_eq!(blocking, 2);
}

/// Each call makes as many attempts as one policy says, and pays with the cost of that.
#[test]
fn under_load_no_call_is_lost_and_none_has_half_of_two_policies() {
    let slot = Slot::with(quick(1));
    let layer = RetryLayer::from_slot(slot.clone()).without_budget();
    let seen: Vec<_> = (0..=4).map(|_| AtomicUsize::new(0)).collect();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    under_load(
        |_| {
            let (count, inner) = asked();
            let service = layer.layer(inner);
            assert!(runtime().block_on(service.oneshot(())).is_err());
            seen[count.load(Ordering::Relaxed) as usize].fetch_add(1, Ordering::Relaxed);
        },
        |number| {
            // Never two of the same in a row.
            let most = u32::try_from(number % 3).unwrap() + 2;
            assert!(slot.install(quick(most)).is_some_and(|before| before != quick(most)));
        },
    );
    let seen: Vec<_> = seen.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    assert_eq!(seen.iter().sum::<usize>(), CALLS);
    assert_eq!(seen[0], 0);
    assert!(seen[1..].iter().all(|count| *count > 0), "{seen:?}");
}
