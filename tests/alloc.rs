//! What a call costs in memory while all is well: nothing. A binary of its own, because counting replaces
//! the allocator. It counts by thread, so the tests do not see each other.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::future::{Ready, ready};
use std::io;
use std::time::Duration;

use allocation_counter::measure;
use buttress::circuit_breaker::{
    CircuitBreaker, CircuitBreakerBuilder, CircuitBreakerLayer, KeyedCircuitBreaker,
};
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
fn a_breaker_in_a_slot() {
    let slot = buttress::Slot::<CircuitBreaker>::new();
    let live = CircuitBreakerLayer::from_slot(slot.clone()).layer(service_fn(ok));
    service_costs_nothing("an empty slot", live.clone());
    let mut service = live.clone();
    slot.install(CircuitBreaker::new("db"));
    service_costs_nothing("only cloned, after a change", live);
    assert!(service.ready().now_or_never().is_some());
    service_costs_nothing("that has looked", service);
}

#[test]
fn a_limiter_in_a_slot() {
    let slot = buttress::Slot::<RateLimiter>::new();
    let layer = RateLimitLayer::from_slot(slot.clone());
    let refusing = layer.clone().layer(service_fn(ok));
    let waiting = layer.wait(Duration::from_secs(1)).layer(service_fn(ok));
    service_costs_nothing("an empty slot", refusing.clone());
    service_costs_nothing("an empty slot, waiting", waiting.clone());
    slot.install(RateLimiter::new(plenty()));
    service_costs_nothing("after a change", refusing);
    service_costs_nothing("after a change, waiting", waiting);
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
    #[cfg(feature = "tracing")]
    service_costs_nothing(
        "a span that nobody looks at",
        buttress::observe::SpanLayer::new("api").layer(service_fn(ok)),
    );
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
        // Of one that is never called itself each clone sees the change anew.
        costs_nothing("a clone a call", || {
            assert_eq!(server.clone().oneshot(1).now_or_never().unwrap().unwrap(), 1);
            assert_eq!(client.clone().oneshot(1).now_or_never().unwrap().unwrap(), 1);
        });
    }
    std::fs::remove_file(file).unwrap();
    // Nobody has asked for the registry of the process, whose timeline would note refusals from then on.
    what_allocates_is_seen();
}

/// What a layer makes for each call and cannot do without: neither more nor, unnoticed, less.
#[track_caller]
fn costs(what: &str, allocations: u64, mut call: impl FnMut()) {
    for _ in 0..50 {
        call();
    }
    let counted = measure(|| {
        for _ in 0..100 {
            call();
        }
    });
    assert_eq!(counted.count_total, 100 * allocations, "{what}: allocations in 100 calls");
}

fn soon(_: &u64) -> buttress::Context {
    buttress::Context::new().with_deadline(buttress::Deadline::after(Duration::from_secs(10)))
}

#[test]
fn admission_of_a_call_that_need_not_wait() {
    use buttress::Backend;
    use buttress::admission::{Admission, AdmissionLayer};
    let backend = Backend::new("db");
    let learned = AdmissionLayer::new(Admission::of(&backend));
    service_costs_nothing("learned limit", learned.clone().layer(service_fn(ok)));
    service_costs_nothing("with a deadline", learned.context(soon).layer(service_fn(ok)));
    assert_eq!((backend.stats().in_flight, backend.stats().waited), (0, 0));
    let bulkhead = AdmissionLayer::new(Admission::bulkhead("db", 1).unwrap());
    service_costs_nothing("bulkhead", bulkhead.layer(service_fn(ok)));
}

#[test]
fn admission_without_a_service() {
    use buttress::Context;
    use buttress::admission::Admission;
    let soon = || Context::new().with_deadline(buttress::Deadline::after(Duration::from_secs(10)));
    for admission in [Admission::new("db"), Admission::bulkhead("db", 1).unwrap()] {
        costs_nothing("at once", || admission.try_acquire(soon()).unwrap().success());
        costs_nothing("blocking", || admission.acquire_blocking(soon()).unwrap().success());
        costs_nothing("async", || {
            admission.acquire(soon()).now_or_never().unwrap().unwrap().success();
        });
        costs_nothing("a call", || {
            assert_eq!(admission.run(|| ok(1)).now_or_never().unwrap().unwrap(), 1);
        });
        costs_nothing("a blocking call", || {
            assert_eq!(admission.run_blocking(|| Ok::<_, io::Error>(1)).unwrap(), 1);
        });
    }
    let full = Admission::bulkhead("db", 1).unwrap();
    let _held = full.try_acquire(soon()).unwrap();
    costs_nothing("refused", || assert!(full.try_acquire(soon()).is_err()));
}

/// Failures, too: until the backend is down nobody waits.
#[test]
fn admission_of_a_call_that_fails() {
    use buttress::admission::{Admission, AdmissionLayer};
    let admission = Admission::bulkhead("db", 1).unwrap();
    let fails = service_fn(|_: u64| ready(Err::<u64, _>(buttress::BoxError::from(Quiet))));
    let service = AdmissionLayer::new(admission.clone()).layer(fails);
    costs_nothing("a failure", || {
        assert!(service.clone().oneshot(1).now_or_never().unwrap().is_err());
    });
    let gone = service_fn(|_: u64| std::future::pending::<Result<u64, io::Error>>());
    let service = AdmissionLayer::new(admission).layer(gone);
    costs_nothing("given up", || assert!(service.clone().oneshot(1).now_or_never().is_none()));
}

/// An error whose box is empty: it costs nothing.
#[derive(Debug)]
struct Quiet;

impl std::fmt::Display for Quiet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no")
    }
}

impl std::error::Error for Quiet {}

#[test]
fn a_hedge_that_is_not_needed() {
    use buttress::hedge::Hedge;
    let cold = Hedge::new("cold");
    service_costs_nothing("cold", cold.layer().layer(service_fn(ok)));
    let warm = Hedge::builder("warm").min_samples(10).build().unwrap();
    service_costs_nothing("warm", warm.layer().layer(service_fn(ok)));
    // The percentile is taken at most every 20 ms, and there has been one at least.
    while warm.delay().is_none() {
        std::thread::yield_now();
        warm.layer().layer(service_fn(ok)).oneshot(1).now_or_never().unwrap().unwrap();
    }
    service_costs_nothing("with a delay", warm.layer().layer(service_fn(ok)));
    costs_nothing("direct", || {
        assert_eq!(warm.run(|_| ok(1)).now_or_never().unwrap().unwrap(), 1);
    });
    assert_eq!(warm.stats().sent, 0);
}

/// Each look of a call that waits took a box for another timer, and a node for the place that it left and entered again.
#[test]
fn a_throttle() {
    use buttress::throttle::Throttle;
    use buttress::{Verdict, classify_fn, downcast};
    use std::task::{Context, Waker};
    service_costs_nothing("all is taken", Throttle::new("api").layer().layer(service_fn(ok)));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let hour = Duration::from_secs(3600);
        let throttle = Throttle::builder("full").max_wait(hour).build().unwrap();
        let later = classify_fn(move |_: Result<&u64, &Quiet>| Verdict::throttled(Some(hour)));
        let refuses = service_fn(|_: u64| ready(Err::<u64, _>(buttress::BoxError::from(Quiet))));
        let service = throttle.layer().classify(downcast::<Quiet, _>(later)).layer(refuses);
        for n in 0..1000 {
            if throttle.stats().state == "stopped" {
                break;
            }
            let _ = service.clone().oneshot(n).now_or_never();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(throttle.stats().state, "stopped");
        let mut call = std::pin::pin!(service.oneshot(1));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(call.as_mut().poll(&mut cx).is_pending());
        for second in 1..10 {
            tokio::time::advance(Duration::from_secs(1)).await;
            let counted = measure(|| assert!(call.as_mut().poll(&mut cx).is_pending()));
            assert_eq!(counted.count_total, 0, "it has waited for {second} s");
        }
    });
}

#[test]
fn a_pool_of_endpoints() {
    use buttress::Context;
    use buttress::endpoints::Endpoints;
    for n in [1, 2, 5] {
        let pool = Endpoints::new("search");
        for endpoint in 0..n {
            pool.insert(endpoint.to_string(), service_fn(ok));
        }
        service_costs_nothing("plain", pool.service());
        let numbered = |_: &u64| Context::new().with_attempt(2);
        service_costs_nothing("another attempt", pool.service().context(numbered));
    }
    // One of three is out, since one of the first three calls: each endpoint is asked. Time stands: a pause of this
    // thread in the middle of a call would look like a slow answer, and eject another.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap();
    let _entered = runtime.enter();
    let pool = Endpoints::<()>::builder("search").failures_in_row(1).build().unwrap();
    for endpoint in 0..3_u64 {
        let bad = move |n: u64| {
            if endpoint == 0 { ready(Err(io::ErrorKind::Other.into())) } else { ok(n) }
        };
        pool.insert(endpoint.to_string(), service_fn(bad));
    }
    let service = pool.service();
    let mut failed = 0;
    costs_nothing("one of three is out", || {
        failed += u32::from(service.clone().oneshot(1).now_or_never().unwrap().is_err());
    });
    assert_eq!(failed, 1);
}

/// The call itself (it goes from hand to hand), what all who wait share, and the list of who waits.
#[test]
fn a_call_that_is_coalesced_costs_three() {
    use buttress::coalesce::{CloneResponse, Coalesce};
    let coalesce = Coalesce::new("users");
    let share = CloneResponse::with_errors_cloned();
    let service = coalesce
        .layer(|n: &u64| (*n > 1).then_some(*n))
        .share(share)
        .layer(service_fn(|n: u64| ready(Ok::<_, std::convert::Infallible>(n))));
    costs("alone", 3, || {
        assert_eq!(service.clone().oneshot(7).now_or_never().unwrap().unwrap(), 7);
    });
    costs_nothing("without a key", || {
        assert_eq!(service.clone().oneshot(1).now_or_never().unwrap().unwrap(), 1);
    });
    let direct = Coalesce::new("users");
    costs("direct", 3, || {
        assert_eq!(direct.run(7_u64, || ready(1_u64)).now_or_never().unwrap().unwrap(), 1);
    });
}

#[test]
fn a_fallback_that_is_not_needed() {
    use buttress::fallback::Fallback;
    let fallback = Fallback::new("prices");
    service_costs_nothing("value", fallback.layer().value(0_u64).layer(service_fn(ok)));
    let call = fallback.layer().failures(buttress::AnyError).call(|n: u64, _| ok(n));
    service_costs_nothing("call", call.layer(service_fn(ok)));
    let other = fallback.layer().service(service_fn(ok));
    service_costs_nothing("service", other.layer(service_fn(ok)));
    assert_eq!(fallback.stats().answered, 0);
}

#[test]
fn a_timeout_that_is_not_reached() {
    use buttress::timeout::Timeout;
    let timeout = Timeout::new("db", Duration::from_secs(1)).unwrap();
    service_costs_nothing("with a deadline", timeout.layer().context(soon).layer(service_fn(ok)));
    let only = Timeout::deadlines("db");
    service_costs_nothing("deadlines", only.layer().context(soon).layer(service_fn(ok)));
    service_costs_nothing("no deadline", only.layer().layer(service_fn(ok)));
    costs_nothing("direct", || {
        assert_eq!(timeout.run(ok(1)).now_or_never().unwrap().unwrap(), 1);
    });
}

/// A context of its own goes into the request's extensions, which are three boxes: the map, its table, its first entry.
#[cfg(feature = "http")]
#[test]
fn the_context_of_a_request() {
    use axum::body::Bytes;
    use buttress::http::{ContextLayer, SendContextLayer};
    use http::{HeaderValue, Request, Response};
    let inner = service_fn(|_: Request<()>| {
        ready(Ok::<_, std::convert::Infallible>(Response::new(Bytes::new())))
    });
    let server = ContextLayer::new("api").layer(inner);
    costs_nothing("says nothing", || {
        let answer = server.clone().oneshot(Request::new(())).now_or_never();
        assert_eq!(answer.unwrap().unwrap().status(), 200);
    });
    let told = |name: &'static str, value: &'static str| {
        let mut request = Request::new(());
        request.headers_mut().insert(name, HeaderValue::from_static(value));
        request
    };
    let headers = measure(|| drop(told("x-request-timeout-ms", "250"))).count_total;
    let with_context = measure(|| {
        let mut request = told("x-request-timeout-ms", "250");
        buttress::Context::new().put(request.extensions_mut());
    });
    costs("says its time", with_context.count_total, || {
        let call = server.clone().oneshot(told("x-request-timeout-ms", "250"));
        assert_eq!(call.now_or_never().unwrap().unwrap().status(), 200);
    });
    costs("cannot be read", headers, || {
        let call = server.clone().oneshot(told("x-request-timeout-ms", "soon"));
        assert_eq!(call.now_or_never().unwrap().unwrap().status(), 200);
    });
    let typed = SendContextLayer::new("db").on_reject(AsTyped).layer(inner);
    costs_nothing("nothing to send", || {
        let answer = typed.clone().oneshot(Request::new(())).now_or_never();
        assert_eq!(answer.unwrap().unwrap().status(), 200);
    });
}

/// One call after another, of a stack whose hedge does not know yet when it is due, and then of one that does: it keeps a
/// copy of each request from then on. Time stands, so that it does not get to know before.
#[track_caller]
fn stack_costs<Req, S>(
    what: &str,
    allocations: [u64; 2],
    hedge: Option<&buttress::hedge::Hedge>,
    mut service: S,
    request: fn() -> Req,
) where
    S: Service<Req>,
    S::Error: std::fmt::Debug,
{
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap();
    let _entered = runtime.enter();
    let mut call = || {
        let call = async { drop(service.ready().await.unwrap().call(request()).await.unwrap()) };
        call.now_or_never().unwrap();
    };
    costs(&format!("{what}, at first"), allocations[0], &mut call);
    let hedge = hedge.unwrap();
    assert_eq!(hedge.delay(), None);
    for _ in 0..1000 {
        runtime.block_on(tokio::time::advance(Duration::from_millis(25)));
        call();
    }
    assert!(hedge.delay().is_some());
    costs(&format!("{what}, hedged"), allocations[1], &mut call);
    assert_eq!(hedge.stats().sent, 0);
}

/// A pool around which nothing is written into requests.
#[test]
fn a_client_with_a_pool() {
    use buttress::presets::{ClientPlan, client};
    let stack = client(&ClientPlan::new("db")).unwrap();
    let pool = stack.endpoints();
    (0..3).for_each(|n| pool.insert(n.to_string(), service_fn(ok)));
    let service = stack.pool(&pool);
    stack_costs("pool", [0, 0], stack.hedge(), service.clone(), || 1);
    service_costs_nothing("pool", service);
}

/// The stack writes the deadline into the extensions of the request that is sent. Where there are none yet these are three
/// boxes: the map, its table, its first entry. A pool numbers its calls there before they are copied: three more in each copy,
/// of which the retry keeps one, and the hedge another once it knows when it is due. The layers themselves allocate nothing.
#[cfg(feature = "http")]
#[test]
fn a_client_of_http_allocates_what_the_context_of_its_requests_takes() {
    use axum::body::Bytes;
    use buttress::presets::{ClientPlan, RetryPlan, client};
    use http::{Request, Response};
    let inner =
        service_fn(|_: Request<Bytes>| ready(Ok::<_, io::Error>(Response::new(Bytes::new()))));
    let get = || Request::new(Bytes::new());
    assert_eq!(measure(|| drop(get())).count_total, 0);
    let told = || {
        let mut request = get();
        buttress::Context::new().put(request.extensions_mut());
        request
    };
    let context = measure(|| drop(told())).count_total;
    let request = told();
    assert_eq!(measure(|| drop(request.clone())).count_total, context);
    let whole = ClientPlan::new("db");
    let mut once = whole.clone();
    once.retry = RetryPlan::Never;
    let mut untold = whole.clone();
    (untold.total_timeout, untold.attempt_timeout) = (None, None);
    for (what, plan, alone, pooled) in [
        ("whole", whole, [1, 1], [2, 3]),
        // It is the retry that numbers calls.
        ("no retry", once, [1, 1], [1, 1]),
        ("no timeout", untold, [0, 0], [2, 3]),
    ] {
        let cost = alone.map(|n| n * context);
        let stack = client(&plan).unwrap().http();
        let service = stack.layer(inner);
        stack_costs(what, cost, stack.hedge(), service, get);
        let stack = client(&plan).unwrap().http();
        let pool = stack.endpoints();
        (0..3).for_each(|n| pool.insert(n.to_string(), inner));
        let service = stack.pool(&pool);
        let cost = pooled.map(|n| n * context);
        stack_costs(&format!("{what}, pool"), cost, stack.hedge(), service, get);
    }
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
