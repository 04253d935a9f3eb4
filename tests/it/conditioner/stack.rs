//! Inside the other layers, where faults are for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, CircuitState};
use buttress::conditioner::{Conditioner, Fault, Rule, ignore_injected};
use buttress::retry::{RetryLayer, RetryPolicy};
use buttress::{AnyError, Backoff, FailureClass, Rejection, RejectionKind, RetryBudget};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::{always, armed, ms};

/// The program this replaces put its conditioner outside of the retry: a drop was neither retried nor
/// counted.
#[tokio::test(start_paused = true)]
async fn drops_are_retried_counted_and_trip() {
    let calls = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&calls);
    let lossy = Conditioner::network(ms(0), ms(0), 0.5, None).unwrap();
    let breaker = CircuitBreaker::builder("db").consecutive_failures(100).build().unwrap();
    let policy = RetryPolicy::builder()
        .max_attempts(20)
        .class_budget(FailureClass::Transient, 20)
        .backoff(Backoff::none());
    let retry = RetryLayer::new(policy.build().unwrap()).budget(RetryBudget::unlimited("db"));
    let client = ServiceBuilder::new()
        .layer(retry.clone())
        .layer(breaker.layer())
        .layer(lossy.layer())
        .service(service_fn(move |()| {
            seen.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, io::Error>(()) }
        }));
    for _ in 0..100 {
        client.clone().oneshot(()).await.unwrap();
    }
    let lost = lossy.stats().rules[0].injected;
    assert!((60..160).contains(&lost), "{lost}");
    assert_eq!(calls.load(Ordering::Relaxed), 100, "each request reached the callee once");
    assert_eq!(breaker.stats().failed_calls, lost, "each drop was counted");
    assert_eq!(breaker.stats().successful_calls, 100);

    let dead = Conditioner::network(ms(0), ms(0), 1.0, None).unwrap();
    let breaker = CircuitBreaker::builder("db").consecutive_failures(5).build().unwrap();
    let client = ServiceBuilder::new()
        .layer(retry)
        .layer(breaker.layer())
        .layer(dead.layer())
        .service(service_fn(|()| async { Ok::<_, io::Error>(()) }));
    let error = client.oneshot(()).await.unwrap_err();
    assert_eq!(Rejection::find(&*error).unwrap().kind(), RejectionKind::CircuitOpen);
    assert_eq!(dead.stats().rules[0].injected, 5, "drops tripped it, and the retry stopped there");
    assert_eq!(breaker.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_can_be_told_to_count_real_failures_only() {
    let dead = always(Fault::loss());
    let breaker = CircuitBreaker::builder("db").consecutive_failures(1).build().unwrap();
    let layer = CircuitBreakerLayer::new(breaker.clone()).classify(ignore_injected(AnyError));
    let client = ServiceBuilder::new()
        .layer(layer)
        .layer(dead.layer())
        .service(service_fn(|()| async { Err::<(), _>(io::Error::other("real")) }));
    for _ in 0..5 {
        assert!(client.clone().oneshot(()).await.is_err());
    }
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert_eq!(breaker.stats().failed_calls, 0);
    dead.disarm();
    assert!(client.oneshot(()).await.is_err());
    assert_eq!(breaker.state(), CircuitState::Open);
}

/// Latency inside an attempt's timeout is a timeout of the attempt.
#[tokio::test(start_paused = true)]
async fn a_hang_is_cut_off_by_the_attempts_timeout() {
    let silent = armed(Rule::new(Fault::hang()).max_active(1));
    let policy = RetryPolicy::builder().attempt_timeout(ms(50)).backoff(Backoff::none());
    let client = ServiceBuilder::new()
        .layer(RetryLayer::new(policy.build().unwrap()))
        .layer(silent.layer())
        .service(service_fn(|()| async { Ok::<_, io::Error>(()) }));
    let start = tokio::time::Instant::now();
    assert!(client.oneshot(()).await.is_err());
    assert_eq!(start.elapsed(), ms(150), "three attempts, each cut off");
    let rule = &silent.stats().rules[0];
    assert_eq!((rule.injected, rule.skipped_active, rule.active), (3, 0, 0));
}
