//! What a call costs in memory while all is well: nothing. A binary of its own, because counting replaces
//! the allocator. It counts by thread, so the tests do not see each other.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::future::{Ready, ready};
use std::io;
use std::time::Duration;

use allocation_counter::measure;
use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerBuilder, KeyedCircuitBreaker};
use buttress::rate_limit::{KeyedRateLimiter, Meter, RateLimitLayer, RateLimiter};
use buttress::retry::{Retry, RetryLayer, RetryPolicy};
use buttress::{AsTyped, Quota, key_fn};
use futures_util::FutureExt;
use tower::{Layer, Service, ServiceExt, service_fn};

/// Asserts that no call allocates, once the first few have made what is made once.
#[track_caller]
fn costs_nothing(what: &str, mut call: impl FnMut()) {
    for _ in 0..50 {
        call();
    }
    let counted = measure(|| {
        for _ in 0..100 {
            call();
        }
    });
    assert_eq!(counted.count_total, 0, "{what}: allocations in 100 calls");
}

fn ok(n: u64) -> Ready<Result<u64, io::Error>> {
    ready(Ok(n))
}

/// As a client keeps a service and calls it again and again, and as a server clones it for each call.
#[track_caller]
fn service_costs_nothing<S>(what: &str, mut service: S)
where
    S: Service<u64, Response = u64> + Clone,
    S::Error: std::fmt::Debug,
{
    let client = format!("{what}, one instance");
    costs_nothing(&client, || {
        let call = async { service.ready().await.unwrap().call(1).await.unwrap() };
        assert_eq!(call.now_or_never(), Some(1));
    });
    let server = format!("{what}, a clone a call");
    costs_nothing(&server, || {
        assert_eq!(service.clone().oneshot(1).now_or_never().unwrap().unwrap(), 1);
    });
}

fn breakers() -> Vec<(&'static str, CircuitBreaker)> {
    let second = Duration::from_secs(1);
    let build = |with: fn(CircuitBreakerBuilder) -> CircuitBreakerBuilder| {
        with(CircuitBreaker::builder("db")).build().unwrap()
    };
    vec![
        ("default", CircuitBreaker::new("db")),
        ("count window", build(|b| b.failure_rate(0.5).window_calls(10))),
        ("time window", build(|b| b.failure_rate(0.5).window(Duration::from_millis(10)))),
        ("slow calls", CircuitBreaker::builder("db").slow_calls(second, 0.5).build().unwrap()),
        ("disabled", {
            let breaker = CircuitBreaker::new("db");
            breaker.disable();
            breaker
        }),
    ]
}

#[test]
fn a_closed_breaker() {
    for (kind, breaker) in breakers() {
        service_costs_nothing(kind, breaker.layer().layer(service_fn(ok)));
        costs_nothing(kind, || {
            assert_eq!(breaker.call(|| ok(1)).now_or_never().unwrap().unwrap(), 1);
        });
        costs_nothing(kind, || {
            assert_eq!(breaker.call_blocking(|| Ok::<_, io::Error>(1)).unwrap(), 1);
        });
        costs_nothing(kind, || breaker.try_acquire().unwrap().success());
    }
}

/// Failures, too, as long as they do not open it.
#[test]
fn a_closed_breaker_that_sees_failures() {
    let breaker = CircuitBreaker::builder("db").consecutive_failures(1_000_000).build().unwrap();
    costs_nothing("a failure", || breaker.try_acquire().unwrap().failure());
    costs_nothing("a call given up", || drop(breaker.try_acquire().unwrap()));
}

#[test]
fn an_open_breaker_refusing() {
    let breaker = CircuitBreaker::new("db");
    breaker.force_open();
    costs_nothing("direct", || assert!(breaker.try_acquire().is_err()));
    let service = breaker.layer().on_reject(AsTyped).layer(service_fn(ok));
    costs_nothing("service", || {
        assert!(service.clone().oneshot(1).now_or_never().unwrap().is_err());
    });
}

#[test]
fn a_breaker_per_key() {
    let keyed: KeyedCircuitBreaker<u64> =
        CircuitBreaker::builder("hosts").failure_rate(0.5).build_keyed(16).unwrap();
    service_costs_nothing("keyed", keyed.layer(key_fn(|n: &u64| *n)).layer(service_fn(ok)));
    costs_nothing("direct", || keyed.get(&7).try_acquire().unwrap().success());
}

fn plenty() -> Quota {
    Quota::per_second(1_000_000).unwrap()
}

#[test]
fn a_limiter_with_tokens() {
    let limiter = RateLimiter::new(plenty());
    let layer = RateLimitLayer::new(limiter.clone());
    service_costs_nothing("refusing", layer.clone().layer(service_fn(ok)));
    service_costs_nothing("waiting", layer.wait(Duration::from_secs(1)).layer(service_fn(ok)));
    costs_nothing("at once", || limiter.try_acquire().unwrap());
    costs_nothing("acquire", || limiter.acquire().now_or_never().unwrap().unwrap());
    let both = limiter.and(RateLimiter::new(plenty()));
    costs_nothing("combined", || both.try_acquire().unwrap());
}

#[test]
fn a_limiter_refusing() {
    let limiter = RateLimiter::new(Quota::per_minute(1).unwrap());
    limiter.try_acquire().unwrap();
    costs_nothing("at once", || assert!(limiter.try_acquire().is_err()));
    let service = RateLimitLayer::new(limiter).on_reject(AsTyped).layer(service_fn(ok));
    costs_nothing("service", || {
        assert!(service.clone().oneshot(1).now_or_never().unwrap().is_err());
    });
}

#[test]
fn a_limiter_per_key() {
    let keyed: KeyedRateLimiter<u64> = RateLimiter::keyed(plenty(), 1000).unwrap();
    let layer = RateLimitLayer::new(keyed.clone()).key(key_fn(|n: &u64| *n));
    service_costs_nothing("keyed", layer.layer(service_fn(ok)));
    costs_nothing("known key", || keyed.try_acquire(&7).unwrap());
    let mut key = 0;
    costs_nothing("new key", || {
        key += 1;
        keyed.try_acquire(&key).unwrap();
    });
}

#[test]
fn a_call_that_needs_no_retry() {
    service_costs_nothing("default", RetryLayer::new(RetryPolicy::DEFAULT).layer(service_fn(ok)));
    let slot = buttress::Slot::with(RetryPolicy::DEFAULT);
    let live = RetryLayer::from_slot(slot.clone()).layer(service_fn(ok));
    service_costs_nothing("from a slot", live.clone());
    slot.install(RetryPolicy::FLOW_NODE_DEFAULT);
    service_costs_nothing("from a slot, after a change", live);
    let retry = Retry::new(RetryPolicy::DEFAULT);
    costs_nothing("direct", || {
        assert_eq!(retry.run(|_| ok(1)).now_or_never().unwrap().unwrap(), 1);
    });
    costs_nothing("blocking", || {
        assert_eq!(retry.run_blocking(|_| Ok::<_, io::Error>(1)).unwrap(), 1);
    });
}

#[test]
fn all_three_together() {
    let limiter = RateLimiter::new(plenty());
    let breaker = CircuitBreaker::builder("db").failure_rate(0.5).build().unwrap();
    let stack = tower::ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::DEFAULT))
        .layer(RateLimitLayer::new(limiter))
        .layer(breaker.layer())
        .service(service_fn(ok));
    service_costs_nothing("stack", stack);
}

#[cfg(feature = "http")]
#[test]
fn all_three_over_http() {
    use axum::body::Bytes;
    use buttress::http::{problem, standard};
    use http::{Request, Response};
    let limiter = RateLimiter::new(plenty());
    let breaker = CircuitBreaker::builder("db").failure_rate(0.5).build().unwrap();
    let service = tower::ServiceBuilder::new()
        .layer(
            RetryLayer::new(RetryPolicy::DEFAULT)
                .classify(standard())
                .replay(buttress::retry::HttpRequest::new()),
        )
        .layer(RateLimitLayer::new(limiter).on_reject(problem()))
        .layer(breaker.layer().classify(standard()).on_reject(problem()))
        .service(service_fn(|_: Request<()>| {
            ready(Ok::<_, std::convert::Infallible>(Response::new(Bytes::new())))
        }));
    costs_nothing("stack", || {
        let call = service.clone().oneshot(Request::new(()));
        assert_eq!(call.now_or_never().unwrap().unwrap().status(), 200);
    });
}

#[test]
fn what_idempotency_lets_through_and_what_it_answers_from_memory() {
    use buttress::idempotency::{Idempotency, IdempotencyLayer, Identity, Scope};
    use buttress::store::{Fingerprint, MemoryStore};
    let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    let layer = IdempotencyLayer::new(gate.clone(), |_: &u64| None::<Identity>);
    service_costs_nothing("without a key", layer.on_reject(AsTyped).layer(service_fn(ok)));
    costs_nothing("from the record", || {
        let run = gate.run("order-1", Fingerprint::NONE, || ready(Ok::<_, io::Error>(())));
        assert!(run.now_or_never().unwrap().is_ok());
    });
}

#[test]
fn the_timeout_and_the_presets() {
    use buttress::presets::{ClientPlan, RateLimitPlan, ServerPlan, client, server};
    use buttress::timeout::Timeout;
    let timeout = Timeout::new("db", Duration::from_secs(1)).unwrap();
    service_costs_nothing("timeout", timeout.layer().layer(service_fn(ok)));
    let quota = Quota::per_second(1_000_000).unwrap().burst(1_000_000).unwrap();
    let mut plan = ClientPlan::new("db");
    plan.rate_limit = Some(RateLimitPlan::new(quota));
    let slot = buttress::Slot::<buttress::conditioner::Conditioner>::new();
    let stack = client(&plan).unwrap().conditioner(slot);
    service_costs_nothing("client", stack.layer(service_fn(ok)));
    let mut plan = ServerPlan::new("api");
    plan.rate_limit = Some(RateLimitPlan::new(quota));
    service_costs_nothing("server", server(&plan).unwrap().layer(service_fn(ok)));
}

/// Also after a change, as soon as it has been seen.
#[cfg(feature = "config")]
#[test]
fn stacks_whose_parts_are_exchanged() {
    use buttress::config::{Loader, Reloader};
    let text = |time: u32, more: &str| {
        format!(
            "clients: {{pay: {{total_timeout: {time}s, rate_limit: 1000000/s{more}}}}}
servers: {{api: {{timeout: {time}s, rate_limit: 1000000/s, failure_budget: {{}}}}}}"
        )
    };
    let file = std::env::temp_dir().join(format!("buttress-alloc-{}.yml", std::process::id()));
    std::fs::write(&file, text(5, "")).unwrap();
    let loader = Loader::empty().file(&file);
    let stacks = loader.load().unwrap().stacks();
    let reloader = Reloader::new(loader, &stacks);
    let client = stacks.client("pay").unwrap().layer(service_fn(ok));
    let server = stacks.server("api").unwrap().layer(service_fn(ok));
    for (time, more) in [(5, ""), (6, ", breaker: {}, retry: adaptive, backend: learned"), (7, "")]
    {
        std::fs::write(&file, text(time, more)).unwrap();
        reloader.reload().unwrap();
        service_costs_nothing("client", client.clone());
        service_costs_nothing("server", server.clone());
    }
    std::fs::remove_file(file).unwrap();
}

/// However often it judges: here before each call, as if they came ten seconds apart.
#[test]
fn a_failure_budget_with_an_objective() {
    use buttress::failure_budget::FailureBudget;
    let day = Duration::from_secs(86_400);
    let budget = FailureBudget::builder("api").slo(0.999, day).build().unwrap();
    let mut service = budget.layer().layer(service_fn(ok));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let mut counted = 0;
        for n in 0..10_000 {
            tokio::time::advance(Duration::from_secs(10)).await;
            let call = measure(|| {
                let call = async { service.ready().await.unwrap().call(1).await.unwrap() };
                assert_eq!(call.now_or_never(), Some(1));
            });
            counted += if n < 50 { 0 } else { call.count_total };
        }
        assert_eq!(counted, 0);
    });
    assert!(budget.snapshot().slo.unwrap().samples > 8_000);
}

/// The counter counts.
#[test]
fn what_allocates_is_seen() {
    let counted = measure(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!(counted.count_total, 1);
    let limiter = RateLimiter::new(Quota::per_minute(1).unwrap());
    let service = RateLimitLayer::new(limiter).layer(service_fn(ok));
    let _ = service.clone().oneshot(1).now_or_never();
    let boxed = measure(|| drop(service.oneshot(1).now_or_never()));
    assert_eq!(boxed.count_total, 1, "the default answer to a refusal is a boxed error");
}
