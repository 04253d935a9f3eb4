//! A subscriber that panics: calls end as they would without it, and nothing is held for ever.

use std::io;
use std::time::Duration;

use buttress::admission::{Admission, AdmissionLayer};
use buttress::coalesce::Coalesce;
use buttress::idempotency::{Idempotency, InFlight, Scope};
use buttress::observe::SpanLayer;
use buttress::rate_limit::{RateLimitLayer, RateLimiter};
use buttress::retry::{RetryLayer, RetryPolicy};
use buttress::store::{Fingerprint, MemoryStore};
use buttress::throttle::Throttle;
use buttress::{Backoff, BoxError, Context, Deadline, Quota, Verdict, classify_fn};
use futures_util::FutureExt;
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

const SECOND: Duration = Duration::from_secs(1);

/// When it panics.
#[derive(Clone, Copy, PartialEq)]
enum On {
    New,
    Record,
    Enter,
    Exit,
    Close,
}

struct Panics(On);

impl Panics {
    fn on(&self, what: On) {
        assert!(self.0 != what, "the subscriber's own");
    }
}

impl Subscriber for Panics {
    fn enabled(&self, about: &Metadata<'_>) -> bool {
        about.is_span() && about.target() == "buttress"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        self.on(On::New);
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {
        self.on(On::Record);
    }

    fn try_close(&self, _: Id) -> bool {
        self.on(On::Close);
        true
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {
        self.on(On::Enter);
    }

    fn exit(&self, _: &Id) {
        self.on(On::Exit);
    }
}

/// With one that panics at each of these.
async fn under_each(test: impl AsyncFn()) {
    for on in [On::New, On::Record, On::Enter, On::Exit, On::Close] {
        let _guard = tracing::subscriber::set_default(Panics(on));
        test().await;
    }
}

/// A place that a waiter was handed was nobody's any more: it was given up with the grant in hand.
#[tokio::test(start_paused = true)]
async fn a_place_is_not_lost() {
    under_each(async || {
        let admission = Admission::bulkhead("db", 1).unwrap();
        let patient = |(): &()| Context::new().with_deadline(Deadline::after(60 * SECOND));
        let layer = AdmissionLayer::new(admission.clone()).context(patient);
        let service = layer.layer(service_fn(|()| async {
            sleep(SECOND).await;
            Ok::<_, BoxError>(())
        }));
        let call = || service.clone().oneshot(());
        let (first, second) = tokio::join!(call(), call());
        assert!(first.is_ok() && second.is_ok());
        let mut first = Box::pin(call());
        assert!((&mut first).now_or_never().is_none());
        assert!(call().now_or_never().is_none(), "it leaves while it waits");
        first.await.unwrap();
        let stats = admission.backend().stats();
        assert_eq!((stats.in_flight, stats.waiting, stats.admitted), (0, 0, 3));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_token_and_a_turn_are_not_lost() {
    under_each(async || {
        let quota = Quota::per_second(1).unwrap();
        let limiter = RateLimiter::builder("api").quota(quota).max_waiting(2).build().unwrap();
        let service = RateLimitLayer::new(limiter.clone())
            .wait(10 * SECOND)
            .layer(service_fn(|n: u32| async move { Ok::<_, BoxError>(n) }));
        let call = || service.clone().oneshot(1);
        call().await.unwrap();
        assert!(call().now_or_never().is_none());
        let (one, two) = tokio::join!(call(), limiter.acquire());
        assert!(one.is_ok() && two.is_ok(), "who left has left both places in the row");

        let throttle = Throttle::builder("api").max_wait(10 * SECOND).build().unwrap();
        let takes = classify_fn(|_: Result<&(), &()>| Verdict::success());
        let full = classify_fn(|_: Result<&(), &()>| Verdict::throttled(None));
        for n in 0..40 {
            sleep(SECOND / 10).await;
            let sent = throttle.run_with(async { Ok::<_, ()>(()) }, &takes, None);
            if n % 2 == 0 {
                throttle.run_with(async { Ok::<_, ()>(()) }, &full, None).await.unwrap();
            } else {
                sent.await.unwrap();
            }
        }
        assert_eq!(throttle.stats().state, "limiting");
        let before = throttle.stats();
        let mut gone = 0;
        for _ in 0..20 {
            let call = throttle.run_with(async { Ok::<_, ()>(()) }, &takes, None);
            gone += u32::from(call.now_or_never().is_none());
        }
        assert!(gone > 10, "{gone} left before their turn");
        let began = tokio::time::Instant::now();
        throttle.run_with(async { Ok::<_, ()>(()) }, &takes, None).await.unwrap();
        assert!(began.elapsed() < SECOND, "their turns are the next one's");
        assert_eq!(throttle.stats().no_room, before.no_room);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_retry_or_for_the_call_of_another_is_answered() {
    under_each(async || {
        let backoff = Backoff::constant(SECOND);
        let policy = RetryPolicy::builder().max_attempts(2).backoff(backoff).build().unwrap();
        let mut fails = true;
        let flaky = service_fn(move |()| {
            let result = if std::mem::take(&mut fails) {
                Err(io::Error::from(io::ErrorKind::ConnectionRefused))
            } else {
                Ok(())
            };
            async move { result }
        });
        RetryLayer::new(policy).layer(flaky).oneshot(()).await.unwrap();

        let reads = Coalesce::new("reads").layer(|n: &u32| Some(*n)).layer(service_fn(
            |n: u32| async move {
                sleep(SECOND).await;
                Ok::<_, io::Error>(n)
            },
        ));
        let call = || reads.clone().oneshot(1);
        let (led, followed) = tokio::join!(call(), call());
        assert_eq!((led.unwrap(), followed.unwrap()), (1, 1));

        let gate = Idempotency::builder("orders", MemoryStore::default())
            .scope(Scope::global())
            .in_flight(InFlight::Wait(10 * SECOND))
            .build()
            .unwrap();
        let run = || {
            gate.run("1", Fingerprint::NONE, || async {
                sleep(SECOND).await;
                Ok::<_, io::Error>(())
            })
        };
        let (first, second) = tokio::join!(run(), run());
        assert!(first.is_ok() && second.is_ok());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_server_is_answered() {
    under_each(async || {
        let inner = service_fn(|n: u32| async move {
            sleep(SECOND).await;
            if n == 0 { Err(BoxError::from("broken")) } else { Ok(n) }
        });
        let service = SpanLayer::new("jobs").layer(inner);
        let call = |n| service.oneshot(n);
        assert_eq!(call(1).await.unwrap(), 1);
        assert_eq!(call(0).await.unwrap_err().to_string(), "broken");
        assert!(call(1).now_or_never().is_none());
    })
    .await;
}

/// Whoever ends a call, its place was lost with a panic on the way.
#[tokio::test(start_paused = true)]
async fn what_a_call_holds_comes_back() {
    under_each(async || {
        let admission = Admission::bulkhead("db", 1).unwrap();
        let inner = AdmissionLayer::new(admission.clone()).layer(service_fn(|n: u32| async move {
            sleep(n * SECOND).await;
            if n == 1 {
                Err(BoxError::from(io::Error::from(io::ErrorKind::ConnectionRefused)))
            } else {
                Ok(n)
            }
        }));
        let pause = Backoff::constant(Duration::from_millis(1));
        let policy = RetryPolicy::builder().max_attempts(3).backoff(pause).build().unwrap();
        let layer = RetryLayer::new(policy).without_budget();
        let service = SpanLayer::new("jobs").layer(layer.layer(inner));
        assert_eq!(service.clone().oneshot(0).await.unwrap(), 0);
        assert_eq!(service.clone().oneshot(1).await.unwrap_err().to_string(), "connection refused");
        // In its first attempt, and in its second.
        for after in [SECOND / 2, 3 * SECOND / 2] {
            let _ = tokio::time::timeout(after, service.clone().oneshot(1)).await.unwrap_err();
        }
        let stats = admission.backend().stats();
        assert_eq!((stats.in_flight, stats.waiting, stats.admitted), (0, 0, 1 + 3 + 1 + 2));
    })
    .await;
}
