use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

use super::core::Phase;
use super::*;
use crate::classify::classify_fn;
use crate::context::Context;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::managed::{Level, Managed};
use crate::name::LayerKind;
use crate::outcome::Verdict;
use crate::reject::AsTyped;
use crate::rejection::RejectionKind;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Ten calls a second are accepted.
async fn limiting() -> Throttle {
    let throttle = Throttle::new("t");
    throttle.acquire(None).await.unwrap().throttled(None);
    for _ in 0..16 {
        let (one, other) = (throttle.acquire(None).await, throttle.acquire(None).await);
        tokio::time::sleep(ms(100)).await;
        one.unwrap().accepted();
        drop(other);
    }
    assert!((10.0..20.0).contains(&throttle.rate().unwrap()), "{throttle:?}");
    throttle
}

async fn drain(throttle: &Throttle) {
    while let Some(Ok(permit)) = throttle.acquire(None).now_or_never() {
        drop(permit);
    }
}

fn judge(result: Result<&u32, &u16>) -> Verdict {
    match result {
        Err(429) => Verdict::throttled(Some(Duration::from_secs(1))),
        Err(503) => {
            let after = crate::RetryHint::Unknown { after: Some(Duration::from_secs(1)) };
            Verdict::failure(crate::FailureClass::Transient).with_retry(after)
        }
        Err(_) => Verdict::failure(crate::FailureClass::Transient),
        Ok(_) => Verdict::success(),
    }
}

#[tokio::test(start_paused = true)]
async fn waits_its_turn_and_refuses_at_once_what_comes_too_late() {
    let throttle = limiting().await;
    drain(&throttle).await;
    let start = Instant::now();
    throttle.acquire(None).await.unwrap().accepted();
    let waited = start.elapsed();
    assert!((ms(20)..ms(120)).contains(&waited), "{waited:?}");
    drain(&throttle).await;
    let start = Instant::now();
    let why = throttle.acquire(Deadline::after(ms(100))).await.unwrap_err();
    assert_eq!((why.kind(), why.layer()), (RejectionKind::RateLimited, LayerKind::Throttle));
    assert!(why.retry_after().unwrap() > ms(10));
    assert_eq!(start.elapsed(), ms(0));
    let status = throttle.shared.describe();
    assert_eq!((status.state.as_str(), status.level), ("limiting", Level::Warn));
    assert!(status.rejects.contains(&("rate_limited", 1)));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_gives_its_place_back() {
    let throttle = limiting().await;
    drain(&throttle).await;
    let wait = async || {
        let start = Instant::now();
        drop(throttle.acquire(None).await.unwrap());
        start.elapsed()
    };
    for _ in 0..50 {
        assert!(throttle.acquire(None).now_or_never().is_none());
    }
    assert!(wait().await < ms(120));
}

/// In smithy-rs retries went past the bucket (its issue 4749).
#[tokio::test(start_paused = true)]
async fn retries_do_not_get_around_it() {
    use crate::Backoff;
    use crate::retry::{RetryLayer, RetryPolicy};

    let throttle = limiting().await;
    let sent = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&sent);
    let inner = service_fn(move |_: u32| {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Err::<u32, u16>(500))
    });
    let policy = RetryPolicy::builder().max_attempts(100).backoff(Backoff::none()).build().unwrap();
    let layer = throttle.layer().classify(classify_fn(judge)).on_reject(AsTyped);
    let retry = RetryLayer::new(policy).without_budget().on_reject(AsTyped);
    let service = retry.layer(layer.layer(inner));
    let start = Instant::now();
    drop(service.oneshot(1).await);
    let (sent, took) = (f64::from(sent.load(Ordering::Relaxed)), start.elapsed().as_secs_f64());
    let rate = throttle.rate().unwrap();
    assert!(sent > 3.0 && sent <= 4.0 + rate * took, "{sent} in {took} s at {rate}");
}

#[tokio::test(start_paused = true)]
async fn what_is_throttled_is_told_by_the_classifier() {
    for (answer, throttled) in [(Ok(1), 0), (Err(500), 0), (Err(429), 1), (Err(503), 1)] {
        let throttle = Throttle::new("t");
        let inner = service_fn(move |_: u32| std::future::ready(answer));
        let layer = throttle.layer().classify(classify_fn(judge)).on_reject(AsTyped);
        let result = layer.layer(inner).oneshot(1).await;
        assert_eq!(result.is_ok(), answer.is_ok());
        assert_eq!(throttle.stats().throttled, throttled);
    }
}

#[tokio::test(start_paused = true)]
async fn the_layer_waits_refuses_and_gives_back_as_the_handle_does() {
    let throttle = limiting().await;
    let inner = service_fn(|n: u32| async move { Ok::<_, u16>(n) });
    let read = |left: &u32| {
        let left = Duration::from_millis(u64::from(*left));
        Context::new().with_deadline(Deadline::after(left))
    };
    let layer = throttle.layer().classify(classify_fn(judge)).context(read).on_reject(AsTyped);
    let service = layer.layer(inner);
    drain(&throttle).await;
    for _ in 0..50 {
        assert!(service.clone().oneshot(10_000).now_or_never().is_none());
    }
    assert!(matches!(service.clone().oneshot(100).await, Err(Error::Rejected(_))));
    let start = Instant::now();
    assert!(service.oneshot(10_000).await.is_ok());
    assert!((ms(1)..ms(120)).contains(&start.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_call_leaves_it_usable() {
    let throttle = limiting().await;
    let inner = service_fn(|_: u32| async { panic!("inner") as Result<u32, u16> });
    let service = throttle.layer().classify(classify_fn(judge)).on_reject(AsTyped).layer(inner);
    assert!(tokio::spawn(service.oneshot(1)).await.unwrap_err().is_panic());
    tokio::time::sleep(ms(1000)).await;
    assert!(throttle.acquire(None).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn changes_are_told() {
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let throttle = Throttle::builder("t")
        .observe(move |event: &crate::observe::Event<'_>| {
            if let crate::observe::EventKind::StateChanged { from, to, .. } = event.kind {
                sink.lock().unwrap().push((from, to));
            }
        })
        .build()
        .unwrap();
    for _ in 0..17 {
        throttle.acquire(None).await.unwrap().throttled(None);
    }
    tokio::time::sleep(Duration::from_secs(61)).await;
    throttle.acquire(None).await.unwrap().accepted();
    assert_eq!(*told.lock().unwrap(), [("up", "limiting"), ("limiting", "up")]);
    assert_eq!(throttle.stats().rate, None);
    let _ = Phase::Free;
}
