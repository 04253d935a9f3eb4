#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

//! What a call through the default client costs in looks at the clock, and that it is not paid for elsewhere.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use futures_util::FutureExt;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{ClientPlan, RateLimitPlan, client};
use crate::BoxError;
use crate::clock::{READS, handed_down, now, park};

fn reads(during: impl FnOnce()) -> u32 {
    let before = READS.get();
    during();
    READS.get() - before
}

fn at_once<S: Service<u32, Response = u32, Error = BoxError>>(service: &mut S) {
    let call = async { service.ready().await.unwrap().call(1).await.unwrap() };
    assert_eq!(call.now_or_never(), Some(1));
}

fn echo(n: u32) -> Ready<Result<u32, Infallible>> {
    ready(Ok(n))
}

#[tokio::test(start_paused = true)]
async fn a_call_looks_at_the_clock_once_and_one_of_eight_twice_more() {
    let stack = client(&ClientPlan::new("db")).unwrap();
    let mut service = stack.layer(service_fn(echo));
    (0..64).for_each(|_| at_once(&mut service));
    // The backend and the hedge measure it.
    assert_eq!(reads(|| (0..64).for_each(|_| at_once(&mut service))), 64 + 2 * 8);
    let stats = stack.backend().unwrap().stats();
    assert_eq!((stats.admitted, stats.in_flight), (128, 0));
}

/// It is copied before it is polled, and has room for what the default plan lacks.
#[test]
fn what_a_call_is_copied_in_stays_small() {
    let mut service = client(&ClientPlan::new("db")).unwrap().layer(service_fn(echo));
    let call = service.call(1);
    assert!(size_of_val(&call) <= 840, "{}", size_of_val(&call));
}

#[tokio::test(start_paused = true)]
async fn a_pool_looks_at_it_once_more_for_its_endpoints() {
    let stack = client(&ClientPlan::new("db")).unwrap();
    let endpoints = stack.endpoints();
    endpoints.extend([("one", service_fn(echo)), ("two", service_fn(echo))]);
    let mut service = stack.pool(&endpoints);
    (0..64).for_each(|_| at_once(&mut service));
    assert_eq!(reads(|| (0..64).for_each(|_| at_once(&mut service))), 64 * 2 + 2 * 8);
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_and_a_timeout_of_attempts_look_at_it_no_more() {
    let mut plan = ClientPlan::new("db");
    plan.rate_limit = Some(RateLimitPlan::new("1000000/s".parse().unwrap()));
    plan.attempt_timeout = Some(Duration::from_secs(1));
    let mut service = client(&plan).unwrap().layer(service_fn(echo));
    (0..64).for_each(|_| at_once(&mut service));
    assert_eq!(reads(|| (0..64).for_each(|_| at_once(&mut service))), 64 + 2 * 8);
}

/// One that is answered at once and measured stands for the seven that are not: the hedge of calls that take longer would
/// come too late if those were forgotten, and too early if each of it counted as often.
#[tokio::test(start_paused = true)]
async fn what_is_not_measured_is_counted_all_the_same() {
    let stack = client(&ClientPlan::new("db")).unwrap();
    let mut service = stack.layer(service_fn(|n: u32| async move {
        if n > 0 {
            tokio::time::sleep(Duration::from_millis(n.into())).await;
        }
        Ok::<_, Infallible>(n)
    }));
    for n in 0..6000_u32 {
        // Nine in ten of the cache, and what is not in it takes 101 to 200 ms.
        let n = if n % 10 == 9 { 101 + n / 10 * 7 % 100 } else { 0 };
        assert_eq!(service.ready().await.unwrap().call(n).await.unwrap(), n);
    }
    // Two in a hundred of all are the slowest fifth of those.
    let delay = stack.hedge().unwrap().delay().unwrap().as_millis();
    assert!((165..195).contains(&delay), "{delay} ms");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_has_its_time_from_when_it_is_sent() {
    let mut plan = ClientPlan::new("db");
    plan.total_timeout = Some(Duration::from_secs(20));
    plan.attempt_timeout = Some(Duration::from_secs(1));
    plan.retry = super::RetryPlan::Never;
    plan.backend.as_mut().unwrap().in_flight = Some(1);
    let mut service = client(&plan).unwrap().layer(service_fn(|_: u32| {
        // The reading is the attempt timeout's only.
        assert_eq!(handed_down(), now());
        std::future::pending::<Result<u32, Infallible>>()
    }));
    let begun = tokio::time::Instant::now();
    let first = service.ready().await.unwrap().call(1);
    let second = service.ready().await.unwrap().call(2);
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_err() && second.is_err());
    assert_eq!(begun.elapsed(), Duration::from_secs(2), "one after the other, a second each");
}

#[tokio::test]
async fn what_keeps_the_processor_busy_is_measured_each_time() {
    let slow = Arc::new(AtomicBool::new(false));
    let blocking = slow.clone();
    let stack = client(&ClientPlan::new("db")).unwrap();
    let mut service = stack.layer(service_fn(move |n: u32| {
        if blocking.load(Relaxed) {
            park(Duration::from_millis(2));
        }
        echo(n)
    }));
    (0..64).for_each(|_| at_once(&mut service));
    slow.store(true, Relaxed);
    // It is noticed once one of eight was measured. A thousand times as slow, it gets less: calls may wait.
    for _ in 0..8 {
        service.ready().await.unwrap().call(1).await.unwrap();
    }
    let before = READS.get();
    for _ in 0..24 {
        service.ready().await.unwrap().call(1).await.unwrap();
    }
    // Whoever waits, and a change of state, look at it, too.
    let reads = READS.get() - before;
    assert!(reads >= 48, "{reads}");
    let latency = stack.backend().unwrap().stats().latency;
    assert!(latency > Duration::from_micros(500), "{latency:?}");
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_call_counts_from_its_first_poll() {
    let mut plan = ClientPlan::new("db");
    plan.total_timeout = Some(Duration::from_secs(1));
    let stuck = service_fn(|_: u32| std::future::pending::<Result<u32, Infallible>>());
    let mut service = client(&plan).unwrap().layer(stuck);
    let call = service.ready().await.unwrap().call(1);
    tokio::time::advance(Duration::from_secs(10)).await;
    let first = tokio::time::Instant::now();
    assert!(call.await.is_err());
    assert_eq!(first.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_reading_is_handed_down_within_a_poll_only() {
    let stack = client(&ClientPlan::new("db")).unwrap();
    let mut service = stack.layer(service_fn(|n: u32| async move {
        // The service has the time that it is, not that of the layers.
        let at = now();
        assert_eq!(handed_down(), at);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(handed_down(), now());
        Ok::<_, Infallible>(n)
    }));
    assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_nobody_took_is_gone_after_the_poll() {
    let mut plan = ClientPlan::new("db");
    plan.rate_limit = Some(RateLimitPlan {
        quota: "1/s".parse().unwrap(),
        max_wait: plan.total_timeout.unwrap(),
    });
    let mut service = client(&plan).unwrap().layer(service_fn(echo));
    at_once(&mut service);
    // It waits for its turn before it comes to the backend.
    let mut waits = std::pin::pin!(service.call(1));
    assert!(futures_util::poll!(waits.as_mut()).is_pending());
    assert_eq!(reads(|| assert_eq!(handed_down(), now())) - 1, 1);
    assert_eq!(waits.await.unwrap(), 1);
}
