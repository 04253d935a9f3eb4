//! Requests while settings are read again: none is lost, and none sees half of a change.

#![expect(clippy::disallowed_methods, reason = "callers are tasks")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use buttress::RejectionDetail;
use buttress::circuit_breaker::CircuitBreaker;
use buttress::config::{Loader, Reloader, Stacks};
use buttress::control::{Gauge, Registry};
use buttress::rate_limit::RateLimiter;
use serde::Deserialize;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

/// The first file is number 50, and the last that may come into force is number 100.
const FIRST: u64 = 50;
const LAST: u64 = 100;

/// Of numbers that no valid file has.
const INVALID: u64 = 500;

/// Everything in the file comes from one number, so that whoever sees two values can say whether they are of one file.
fn numbered(n: u64) -> String {
    let (rate, burst) = (10_000 * n, 10_000 * n * n);
    let (window, other) = (1_000 + n, 20_000 * n);
    // Of the invalid ones nothing is wrong with the limits, only with how long an attempt may take.
    let attempt = if n < INVALID { 20 } else { 90 };
    format!(
        "app: {{number: {n}}}
rate_limits: {{other: {other}/s burst {other}}}
clients:
  pay:
    total_timeout: 60s
    attempt_timeout: {attempt}s
    retry: adaptive
    retry_budget: {{ratio: {}%}}
    rate_limit: {rate}/s burst {burst}
    breaker: {{failure_rate: {}%, window_calls: {window}, min_calls: {n}, consecutive_failures: {n}, half_open_calls: {n}, open_for: 30s}}
",
        n.min(100),
        n.min(100),
    )
}

#[derive(Deserialize)]
struct App {
    number: u64,
}

/// What a request sees of the objects that it goes through.
#[derive(Clone)]
struct Eyes {
    stacks: Stacks,
    registry: Registry,
    limiter: RateLimiter,
    other: RateLimiter,
    breaker: CircuitBreaker,
}

impl Eyes {
    /// The number of the file that the configuration in force is from.
    fn file(&self) -> u64 {
        self.stacks.config().read::<App>("app").unwrap().number
    }

    /// The number of the file that the limiter goes by: it says so in its refusals, in two values that it reads
    /// one after the other from what it enforces.
    fn enforced(&self) -> u64 {
        let refused = self.limiter.try_acquire_n(1 << 40).unwrap_err();
        let RejectionDetail::Quota { limit, window, .. } = refused.detail() else {
            panic!("{refused:?}");
        };
        let n = window.as_secs_f64().round() as u64;
        assert_eq!(
            limit,
            10_000 * n * n,
            "the burst of another file than the {n} s of {refused:?}"
        );
        n
    }

    /// The number of the file of the quota that it shows.
    fn shown(&self) -> u64 {
        let quota = self.limiter.quota();
        let n = (quota.rate_per_second() / 10_000.0).round() as u64;
        assert_eq!(quota.capacity(), 10_000 * n * n, "{quota}");
        n
    }

    /// The number of the file that the breaker goes by, of which its row has five values.
    fn judged(&self) -> u64 {
        let status = self.registry.status();
        let row = status.objects.iter().find(|row| row.id == "circuit_breaker/pay").unwrap();
        let gauge = |id: &str| -> &Gauge { row.gauges.iter().find(|it| it.id == id).unwrap() };
        let whole = |value: Option<f64>| value.unwrap().round() as u64;
        let window = gauge("window_fill");
        let n = whole(window.threshold);
        let seen = [
            whole(window.max) - 1_000,
            whole(gauge("failure_rate").threshold.map(|share| share * 100.0)),
            whole(gauge("consecutive_failures").threshold),
            whole(gauge("probes_in_flight").max),
        ];
        assert_eq!(seen, [n; 4], "the breaker has settings of two files: {row:?}");
        n
    }

    /// Looks at everything. The last file that something was seen of.
    fn look(&self) -> u64 {
        let before = self.file();
        let other = |limiter: &RateLimiter| limiter.quota().capacity() / 20_000;
        let seen = [self.enforced(), self.shown(), self.judged(), other(&self.other)];
        let after = self.file();
        for n in seen {
            // A file is in force only when every object goes by it, and they are changed one file after the other.
            assert!(
                n >= before,
                "an object is at {n} after the configuration was at {before}: {seen:?}"
            );
            assert!(n <= after + 1, "an object is at {n} before {} came: {seen:?}", after + 1);
            assert!((FIRST..=LAST).contains(&n), "an object goes by an invalid file: {seen:?}");
        }
        after
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_requests_across_fifty_reloads() {
    let file = std::env::temp_dir().join(format!("buttress-load-{}.yml", std::process::id()));
    let write = |file: &Path, n| std::fs::write(file, numbered(n)).unwrap();
    write(&file, FIRST);
    let loader = Loader::empty().file(&file).section("app");
    let registry = Registry::new();
    let stacks = loader.load().unwrap().stacks().register_in(&registry);
    let reloader = Reloader::new(loader, &stacks);
    let layer = stacks.client("pay").unwrap();
    let eyes = Eyes {
        stacks: stacks.clone(),
        registry: registry.clone(),
        limiter: layer.rate_limiter().unwrap().clone(),
        other: stacks.rate_limiter("other").unwrap(),
        breaker: layer.breaker().unwrap().clone(),
    };
    let served = Arc::new(AtomicU64::new(0));
    let (stop, during) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let inner = {
        let (eyes, served, during) = (eyes.clone(), served.clone(), during.clone());
        service_fn(move |n: u64| {
            let (eyes, served, during) = (eyes.clone(), served.clone(), during.clone());
            async move {
                let file = eyes.look();
                during.fetch_add(u64::from((FIRST + 1..LAST).contains(&file)), Ordering::Relaxed);
                tokio::task::yield_now().await;
                served.fetch_add(1, Ordering::Relaxed);
                Ok::<_, std::io::Error>(n)
            }
        })
    };
    let service = ServiceBuilder::new().layer(layer).service(inner);
    let tasks: Vec<_> = (0..8u64)
        .map(|task| {
            let (mut service, stop) = (service.clone(), stop.clone());
            tokio::spawn(async move {
                let mut made = 0;
                // At least the 10,000 in all, and until the last reload.
                while made < 1_250 || !stop.load(Ordering::Relaxed) {
                    let n = task * 1_000_000 + made;
                    assert_eq!(service.ready().await.unwrap().call(n).await.unwrap(), n);
                    made += 1;
                }
                made
            })
        })
        .collect();
    let reloads = tokio::task::spawn_blocking(move || {
        for n in FIRST + 1..=LAST {
            write(&file, INVALID + n);
            let refused = reloader.reload().unwrap_err().to_string();
            assert!(
                refused.contains("no attempt_not_below_total") && refused.starts_with("1 problem "),
                "{refused}"
            );
            write(&file, n);
            let done = reloader.reload().unwrap();
            assert!(done.waiting().is_empty(), "{done}");
            assert_eq!(done.applied().len(), 8, "{done}");
        }
        stop.store(true, Ordering::Relaxed);
        std::fs::remove_file(file).unwrap();
    });
    reloads.await.unwrap();
    let mut made = 0;
    for task in tasks {
        made += task.await.unwrap();
    }
    assert!(made >= 10_000);
    assert_eq!(served.load(Ordering::Relaxed), made);
    assert!(during.load(Ordering::Relaxed) > 100, "requests ran while it was reloaded");
    assert_eq!(eyes.look(), LAST);
    let (breaker, limiter) = (eyes.breaker.stats(), eyes.limiter.stats());
    assert_eq!((breaker.successful_calls, breaker.rejected_calls), (made, 0), "no count is lost");
    assert_eq!(
        (limiter.acquired, limiter.rejected),
        (made, made + 1),
        "each has asked for too much once"
    );
    assert_eq!((stacks.generation(), registry.status().generation), (51, 51));
    let events = registry.events_since(0).events;
    let count = |what| events.iter().filter(|event| event.event == what).count();
    assert_eq!((count("reloaded"), count("reload_refused")), (50, 50));
}
