//! The throttle as a layer: the contract, quotas over HTTP, what a registry shows.
#![expect(clippy::disallowed_methods, reason = "callers are tasks")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io;
use std::time::Duration;

use buttress::control::Registry;
use buttress::testing::{Subject, check_all};
use buttress::throttle::{Throttle, ThrottleLayer};
use buttress::{AsTyped, Rejection, RejectionKind, Verdict, classify_fn};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

#[tokio::test(start_paused = true)]
async fn a_throttle_keeps_the_contract() {
    let throttle = Throttle::new("contract");
    let seen = throttle.clone();
    let layer = move || ThrottleLayer::new(throttle.clone()).on_reject(AsTyped);
    let subject = Subject::new(layer, || 7_u32, Ok)
        .ready_error(|| io::Error::other("broke"))
        .shared_state(move |one, two, _probe| {
            let seen = seen.clone();
            async move {
                let before = seen.stats().sent;
                one.oneshot(7).await.map_err(|e| format!("{e:?}"))?;
                two.oneshot(7).await.map_err(|e| format!("{e:?}"))?;
                match seen.stats().sent - before {
                    2 => Ok(()),
                    n => Err(format!("{n} of two calls were seen")),
                }
            }
        });
    check_all(&subject).await.unwrap();
}

/// Takes one in 50 ms, and says when to come again.
async fn quota(last: std::sync::Arc<std::sync::Mutex<Instant>>) -> Result<(), Duration> {
    let now = Instant::now();
    let mut last = last.lock().unwrap();
    if now < *last + Duration::from_millis(50) {
        return Err(Duration::from_secs(1));
    }
    *last = now;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_learned_and_the_rest_is_refused_unsent() {
    let registry = Registry::new();
    let throttle = Throttle::builder("api").seed(7).register_in(&registry).build().unwrap();
    let last = std::sync::Arc::new(std::sync::Mutex::new(Instant::now()));
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = sent.clone();
    let classify = classify_fn(|result: Result<&(), &Wait>| match result {
        Ok(()) => Verdict::success(),
        Err(wait) => Verdict::throttled(Some(wait.0)),
    });
    let service = throttle.layer().classify(classify).layer(service_fn(move |()| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let call = quota(last.clone());
        async move { call.await.map_err(Wait) }
    }));
    let mut refused = 0;
    for _ in 0..4000 {
        sleep(Duration::from_millis(5)).await;
        let call = service.clone().oneshot(());
        tokio::spawn(call);
    }
    sent.store(0, std::sync::atomic::Ordering::Relaxed);
    for _ in 0..2000 {
        sleep(Duration::from_millis(5)).await;
        let mut service = service.clone();
        let call = service.ready().await.unwrap().call(());
        let answer = tokio::time::timeout(Duration::from_millis(1), call).await;
        if let Ok(Err(error)) = answer
            && let Some(why) = Rejection::find(&*error)
        {
            assert_eq!(why.kind(), RejectionKind::RateLimited);
            assert!(why.retry_after().unwrap() > Duration::ZERO);
            refused += 1;
        }
    }
    let sent = sent.load(std::sync::atomic::Ordering::Relaxed);
    assert!((100..400).contains(&sent), "{sent} sent in 10 s, 200 would be taken");
    assert!(refused > 0, "some are refused");
    let status = registry.status();
    let row = status.objects.iter().find(|row| row.id == "throttle/api").unwrap();
    assert!(row.state == "limiting" || row.state == "stopped", "{}", row.state);
    assert!(row.why.starts_with(if row.state == "limiting" {
        "it takes about"
    } else {
        "nothing"
    }));
    assert_eq!(
        row.next.is_some(),
        row.state == "stopped",
        "when it is asked again: {:?}",
        row.next
    );
    let rate = row.gauges.iter().find(|gauge| gauge.id == "rate").unwrap();
    assert_eq!(rate.unit, "1/s");
    throttle.reset();
    assert_eq!(throttle.quota(), None);
}

#[derive(Debug)]
struct Wait(Duration);

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "come again in {:?}", self.0)
    }
}

impl std::error::Error for Wait {}
