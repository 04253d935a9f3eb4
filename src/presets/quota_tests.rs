//! Callees that take so many calls a second, and say of the others only that they are too many.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

use super::{ClientPlan, client};
use crate::throttle::Throttle;
use crate::{BoxError, Verdict, classify_fn, downcast};

const MS: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct TooMany;

impl std::fmt::Display for TooMany {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("too many")
    }
}

impl std::error::Error for TooMany {}

type Api = BoxCloneSyncService<(), (), BoxError>;

/// A token bucket.
struct Quota {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    taken: AtomicU64,
}

/// What it refuses is refused at once.
fn api(rate: f64, burst: f64, took: Duration, counts: &Arc<Counts>) -> Api {
    let quota = Quota { rate, burst, tokens: burst, at: Instant::now() };
    let quota = Arc::new(Mutex::new(quota));
    let counts = Arc::clone(counts);
    BoxCloneSyncService::new(service_fn(move |()| {
        let taken = {
            let mut quota = quota.lock().unwrap();
            let now = Instant::now();
            let passed = (now - quota.at).as_secs_f64();
            quota.at = now;
            quota.tokens = (quota.tokens + passed * quota.rate).min(quota.burst);
            let taken = quota.tokens >= 1.0;
            quota.tokens -= f64::from(u8::from(taken));
            taken
        };
        counts.sent.fetch_add(1, Relaxed);
        counts.taken.fetch_add(u64::from(taken), Relaxed);
        async move {
            if taken && !took.is_zero() {
                sleep(took).await;
            }
            if taken { Ok(()) } else { Err(TooMany.into()) }
        }
    }))
}

/// Two come for each that is taken, which are `per_ms` in a millisecond. How much of the quota is used,
/// and how many are sent for each that is taken, once it has had two seconds to learn.
async fn run(service: &Api, counts: &Counts, per_ms: u64) -> (f64, f64) {
    let mut calls = tokio::task::JoinSet::new();
    for ms in 0..4000 {
        if ms == 2000 {
            counts.sent.store(0, Relaxed);
            counts.taken.store(0, Relaxed);
        }
        for _ in 0..2 * per_ms {
            calls.spawn(service.clone().oneshot(()));
        }
        sleep(MS).await;
        while calls.try_join_next().is_some() {}
    }
    let (sent, taken) = (counts.sent.load(Relaxed), counts.taken.load(Relaxed));
    #[expect(clippy::cast_precision_loss, reason = "counts")]
    let (sent, taken, quota) = (sent as f64, taken as f64, (2000 * per_ms) as f64);
    (taken / quota, sent / taken)
}

fn judge(result: Result<&(), &TooMany>) -> Verdict {
    match result {
        Ok(()) => Verdict::success(),
        Err(TooMany) => Verdict::throttled(None),
    }
}

/// Of 1000 calls 940 were refused by the throttle; and the client sent all that came, for half of them to be refused.
#[tokio::test(start_paused = true)]
async fn a_quota_of_thousands_a_second_is_used_and_little_is_sent_beyond_it() {
    for (per_ms, took) in [(1_u32, 50), (5, 5)] {
        for throttles in [true, false] {
            let rate = 1000.0 * f64::from(per_ms);
            let counts = Arc::new(Counts::default());
            let api = api(rate, rate / 10.0, took * MS, &counts);
            let classify = downcast::<TooMany, _>(classify_fn(judge));
            let service: Api = if throttles {
                let layer =
                    Throttle::builder("api").seed(7).build().unwrap().layer().classify(classify);
                BoxCloneSyncService::new(layer.layer(api))
            } else {
                let stack = client(&ClientPlan::new("api")).unwrap().classify(classify);
                BoxCloneSyncService::new(stack.layer(api))
            };
            let (used, attempts) = run(&service, &counts, u64::from(per_ms)).await;
            let what = format!("throttle {throttles}, {rate} a second, in {took} ms");
            assert!((0.9..=1.1).contains(&used), "{what}: {used:.3} used");
            assert!(attempts <= 1.15, "{what}: {attempts:.3} sent for each that was taken");
        }
    }
}
