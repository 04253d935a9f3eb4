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

/// So many milliseconds; none are an answer at once.
async fn takes(n: u32) -> Result<u32, Infallible> {
    if n > 0 {
        tokio::time::sleep(Duration::from_millis(n.into())).await;
    }
    Ok(n)
}

#[tokio::test(start_paused = true)]
async fn of_calls_that_are_answered_at_once_one_in_32_looks_at_the_clock() {
    let stack = client(&ClientPlan::new("db")).unwrap();
    let mut service = stack.layer(service_fn(echo));
    (0..64).for_each(|_| at_once(&mut service));
    // As it begins, and for the backend and the hedge when it ends.
    assert_eq!(reads(|| (0..64).for_each(|_| at_once(&mut service))), 3 * 2);
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
async fn a_pool_looks_at_it_twice_for_its_endpoints() {
    let stack = client(&ClientPlan::new("db")).unwrap();
    let endpoints = stack.endpoints();
    endpoints.extend([("one", service_fn(echo)), ("two", service_fn(echo))]);
    let mut service = stack.pool(&endpoints);
    (0..64).for_each(|_| at_once(&mut service));
    assert_eq!(reads(|| (0..64).for_each(|_| at_once(&mut service))), 64 * 2 + 2 * 2);
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_and_a_timeout_of_attempts_look_at_it_once() {
    let mut plan = ClientPlan::new("db");
    plan.rate_limit = Some(RateLimitPlan::new("1000000/s".parse().unwrap()));
    plan.attempt_timeout = Some(Duration::from_secs(1));
    let mut service = client(&plan).unwrap().layer(service_fn(echo));
    (0..64).for_each(|_| at_once(&mut service));
    assert_eq!(reads(|| (0..64).for_each(|_| at_once(&mut service))), 64 + 2 * 2);
}

/// One that is answered at once and measured stands for those that are not: the hedge of calls that take longer would
/// come too late if those were forgotten, and too early if each of it counted as often.
#[tokio::test(start_paused = true)]
async fn what_is_not_measured_is_counted_all_the_same() {
    let stack = client(&ClientPlan::new("db")).unwrap();
    let mut service = stack.layer(service_fn(takes));
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
    // It is noticed once one of 32 was measured. A thousand times as slow, it gets less: calls may wait.
    for _ in 0..32 {
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
    from_its_first_poll(service.ready().await.unwrap().call(1)).await;
    #[cfg(feature = "http")]
    {
        use http::{Request, Response};
        type Answer = Result<Response<()>, Infallible>;
        let stuck = service_fn(|_: Request<()>| std::future::pending::<Answer>());
        let mut service = client(&plan).unwrap().http().layer(stuck);
        from_its_first_poll(service.ready().await.unwrap().call(Request::default())).await;
    }
}

/// It has a second.
async fn from_its_first_poll<T>(call: impl Future<Output = Result<T, BoxError>>) {
    tokio::time::advance(Duration::from_secs(10)).await;
    let first = tokio::time::Instant::now();
    assert!(call.await.is_err());
    assert_eq!(first.elapsed(), Duration::from_secs(1));
}

/// The layers share one look at the clock, and both timeouts count from it.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_answered_at_once_looks_at_it_once() {
    let stack = client(&ClientPlan::new("db")).unwrap();
    let mut service = stack.layer(service_fn(takes));
    (0..64).for_each(|_| assert_eq!(service.call(0).now_or_never().unwrap().unwrap(), 0));
    let mut call = std::pin::pin!(service.call(50));
    let before = READS.get();
    assert!(futures_util::poll!(call.as_mut()).is_pending());
    assert_eq!(READS.get() - before, 1);
    let begun = tokio::time::Instant::now();
    assert_eq!(call.await.unwrap(), 50);
    assert_eq!(begun.elapsed(), Duration::from_millis(50));
    // One of 50 ms after those that took nothing, as geometric means have it.
    let latency = stack.backend().unwrap().stats().latency.as_nanos();
    assert!((5..20).contains(&latency), "{latency} ns");
}

/// A hedge is planned when the first attempt is not answered at once, and its delay counts from then.
#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_has_looked_at_the_clock_for_is_hedged() {
    let stack = client(&ClientPlan::new("db")).unwrap();
    let mut service = stack.layer(service_fn(takes));
    for n in 0..400_u32 {
        // The slow ones come in a row: after the quick ones the next goes past the lock again.
        let n = if (100..200).contains(&n) { 20 } else { 0 };
        assert_eq!(service.call(n).await.unwrap(), n);
    }
    let hedge = stack.hedge().unwrap();
    let (delay, sent) = (hedge.delay().unwrap(), hedge.stats().sent);
    let mut call = std::pin::pin!(service.call(2000));
    let before = READS.get();
    assert!(futures_util::poll!(call.as_mut()).is_pending());
    assert_eq!(READS.get() - before, 1, "it went past the lock");
    let wait = |span| async move { tokio::time::sleep(span).await };
    let early = delay.saturating_sub(Duration::from_millis(2));
    assert!(tokio::time::timeout(early, call.as_mut()).await.is_err());
    assert_eq!(hedge.stats().sent, sent);
    wait(Duration::from_millis(4)).await;
    assert!(futures_util::poll!(call.as_mut()).is_pending());
    assert_eq!(hedge.stats().sent, sent + 1);
}

/// A stack around a stack: what is inside of both ends when the outer one does, though nobody had looked at the clock yet.
#[tokio::test(start_paused = true)]
async fn a_stack_within_a_stack_knows_when_the_outer_one_ends() {
    let mut plan = ClientPlan::new("outer");
    plan.retry = super::RetryPlan::Never;
    let outer = client(&plan).unwrap();
    plan.name = "inner".into();
    plan.total_timeout = Some(Duration::from_secs(3600));
    plan.backend.as_mut().unwrap().in_flight = Some(1);
    let inner = client(&plan).unwrap();
    let one = inner.layer(service_fn(takes));
    let mut service = outer.layer(one.clone());
    (0..64).for_each(|_| assert!(service.call(0).now_or_never().unwrap().is_ok()));
    let mut busy = std::pin::pin!(one.oneshot(3_000_000));
    assert!(futures_util::poll!(busy.as_mut()).is_pending());
    let begun = tokio::time::Instant::now();
    assert!(service.call(0).await.is_err());
    // Unsent: it is not let wait for longer than the outer one gives it.
    assert_eq!(begun.elapsed(), Duration::from_secs(10));
    let stats = inner.backend().unwrap().stats();
    assert_eq!(stats.waiting, 0);
    assert!(stats.hopeless >= 1, "the inner one knew: {stats:?}");
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

/// The end of the call is told inside of all that keeps copies of the request: an empty map of extensions is not copied.
#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_call_of_http_looks_at_it_once_and_copies_no_extensions() {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU32;

    use http::{Request, Response};

    use crate::{Context, Deadline};

    let copies = Arc::new(AtomicU32::new(0));
    let copied = copies.clone();
    let replay = move |request: &Request<u32>| {
        assert!(request.extensions().is_empty());
        copied.fetch_add(1, Relaxed);
        Some(request.clone())
    };
    let plan = ClientPlan::new("db");
    let total = plan.total_timeout.unwrap();
    let stack = client(&plan).unwrap().http().replay(replay);
    let ends = Arc::new(Mutex::new(Vec::new()));
    let told = ends.clone();
    let mut service = stack.layer(service_fn(move |request: Request<u32>| {
        told.lock().unwrap().push(Context::of(request.extensions()).deadline());
        async move { takes(*request.body()).await.map(Response::new) }
    }));
    for n in 0..400_u32 {
        // The slow ones come in a row: after the quick ones the next goes past the lock again.
        let n = if (100..200).contains(&n) { 20 } else { 0 };
        service.call(Request::new(n)).await.unwrap();
    }
    assert!(stack.hedge().unwrap().delay().is_some());
    ends.lock().unwrap().clear();
    let (reads, before) = (READS.get(), copies.load(Relaxed));
    for _ in 0..64 {
        service.call(Request::new(0)).now_or_never().unwrap().unwrap();
    }
    // The one in 32 that is measured looks at it twice more, when it ends.
    assert_eq!(READS.get() - reads, 64 + 2 * 2);
    assert_eq!(copies.load(Relaxed) - before, 2 * 64, "for the retry and for the hedge");
    assert_eq!(*ends.lock().unwrap(), [Some(Deadline::after(total)); 64]);
}
