//! One object of every kind, each with something to tell.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

use buttress::admission::{Admission, AdmissionLayer};
use buttress::circuit_breaker::{CircuitBreaker, KeyedCircuitBreaker};
use buttress::coalesce::Coalesce;
use buttress::conditioner::{Conditioner, Fault, Latency, Rule};
use buttress::control::Registry;
use buttress::endpoints::Endpoints;
use buttress::failure_budget::FailureBudget;
use buttress::fallback::Fallback;
use buttress::hedge::Hedge;
use buttress::idempotency::{Begin, Idempotency, Scope};
use buttress::rate_limit::{KeyedRateLimiter, RateLimiter, WhenDown};
use buttress::retry::{Retry, RetryPolicy};
use buttress::store::{Fingerprint, MemoryStore, Outcome};
use buttress::supervise::Lifecycle;
use buttress::supervise::heartbeat::Heartbeat;
use buttress::supervise::process::{Child, ProcessSupervisor};
use buttress::supervise::watchdog::Watchdog;
use buttress::throttle::Throttle;
use buttress::{Backend, Backoff, BoxError, Context, Deadline, Name, Quota, RetryBudget};

pub(crate) const KINDS: [&str; 16] = [
    "backend",
    "circuit_breaker",
    "coalesce",
    "conditioner",
    "endpoints",
    "failure_budget",
    "fallback",
    "heartbeat",
    "hedge",
    "idempotency",
    "process_supervisor",
    "rate_limit",
    "retry",
    "retry_budget",
    "throttle",
    "watchdog",
];

pub(crate) type Kept = Vec<Arc<dyn std::any::Any>>;

fn failing() -> impl tower::Service<u32, Response = u32, Error = BoxError, Future: Send> + Clone {
    service_fn(|n: u32| async move { if n == 0 { Err(BoxError::from("broken")) } else { Ok(n) } })
}

/// Builds all of them, makes some calls, and gives what keeps them alive.
pub(crate) async fn everything(registry: &Registry, name: impl Into<Name>) -> Kept {
    let name = name.into();
    let mut kept: Kept = Vec::new();
    let mut keep = |object: Arc<dyn std::any::Any>| kept.push(object);
    calls(registry, name, &mut keep).await;
    limits(registry, name, &mut keep).await;
    backends(registry, name, &mut keep).await;
    process(registry, name, &mut keep);
    kept
}

async fn calls(registry: &Registry, name: Name, keep: &mut impl FnMut(Arc<dyn std::any::Any>)) {
    let breaker = CircuitBreaker::builder(name)
        .failure_rate(0.5)
        .window_calls(10)
        .min_calls(4)
        .register_in(registry)
        .build()
        .unwrap();
    for _ in 0..4 {
        breaker.try_acquire().unwrap().failure();
    }
    breaker.try_acquire().unwrap_err();
    let table: KeyedCircuitBreaker<u8> =
        CircuitBreaker::builder(name).register_in(registry).build_keyed(8).unwrap();
    table.get(&1).force_open();
    let spent = FailureBudget::builder(name)
        .slo(0.9, Duration::from_secs(24 * 3600))
        .register_in(registry)
        .build()
        .unwrap();
    (0..100).for_each(|n| spent.record(n % 20 == 0));
    let breached = FailureBudget::builder(name)
        .threshold(0.1)
        .min_samples(10)
        .register_in(registry)
        .build()
        .unwrap();
    (0..20).for_each(|_| breached.record(true));
    let faults = Conditioner::builder(name)
        .rule(Rule::new(Fault::loss()))
        .rule(Rule::new(Fault::latency(Latency::fixed(Duration::from_millis(1)).unwrap())))
        .register_in(registry)
        .build()
        .unwrap();
    faults.arm().unwrap();
    let retry = Retry::new(RetryPolicy::builder().backoff(Backoff::none()).build().unwrap())
        .budget(RetryBudget::builder(name).register_in(registry).build().unwrap())
        .name(name)
        .register_in(registry);
    retry.run_blocking(|_| Err::<(), _>(io::Error::other("no"))).unwrap_err();
    let gate = Idempotency::builder(name, MemoryStore::default())
        .scope(Scope::global())
        .register_in(registry)
        .build()
        .unwrap();
    let ten = Fingerprint::of(b"10 EUR");
    let Begin::Execute(mut permit) = gate.begin("1", ten).await.unwrap() else { panic!() };
    assert!(matches!(gate.begin("1", ten).await.unwrap(), Begin::InFlight { .. }));
    permit.complete(Outcome::new(200, vec![], vec![])).await.unwrap();
    assert!(matches!(gate.begin("1", ten).await.unwrap(), Begin::Replay(_)));
    for object in [
        Arc::new(breaker) as Arc<dyn std::any::Any>,
        Arc::new(table),
        Arc::new((spent, breached)),
        Arc::new(faults),
        Arc::new((retry, gate)),
    ] {
        keep(object);
    }
}

async fn limits(registry: &Registry, name: Name, keep: &mut impl FnMut(Arc<dyn std::any::Any>)) {
    let one = Quota::per_second(1).unwrap();
    let limiter = RateLimiter::builder(name).quota(one).register_in(registry).build().unwrap();
    limiter.try_acquire().unwrap();
    limiter.try_acquire().unwrap_err();
    let users: KeyedRateLimiter<str> = KeyedRateLimiter::builder(name)
        .quota(one)
        .capacity(8)
        .register_in(registry)
        .build()
        .unwrap();
    users.try_acquire("a").unwrap();
    let fleet = RateLimiter::shared(MemoryStore::default(), name, WhenDown::Deny)
        .quota(one)
        .register_in(registry)
        .build()
        .unwrap();
    fleet.try_acquire().await.unwrap();
    keep(Arc::new((limiter, users, fleet)));
}

/// A backend whose calls are late so often that less than one is in flight.
pub(crate) async fn pausing(registry: &Registry, name: &'static str) -> Backend {
    let backend = Backend::new(name).register_in(registry);
    let patience = Duration::from_millis(60);
    let by = move |_: &bool| Context::new().with_deadline(Deadline::after(patience));
    let service = AdmissionLayer::new(Admission::of(&backend)).context(by).layer(service_fn(
        move |answers: bool| async move {
            tokio::time::sleep(if answers { patience * 2 / 3 } else { patience * 1000 }).await;
            Ok::<_, BoxError>(())
        },
    ));
    for _ in 0..20 {
        service.clone().oneshot(true).await.unwrap();
    }
    for _ in 0..60 {
        if registry.status().objects.iter().any(|row| row.why.ends_with("limit 1, then a pause")) {
            return backend;
        }
        let began = tokio::time::Instant::now();
        let call = service.clone().oneshot(false);
        tokio::time::timeout(patience + Duration::from_millis(2), call).await.unwrap_err();
        // For as long as it was waited for, it is taken to be worked on.
        tokio::time::sleep(began.elapsed() + Duration::from_millis(5)).await;
    }
    panic!("no pause: {:#?}", registry.status().objects);
}

async fn backends(registry: &Registry, name: Name, keep: &mut impl FnMut(Arc<dyn std::any::Any>)) {
    let learned = Backend::new(name).register_in(registry);
    let budget = learned.retry_budget();
    let service = AdmissionLayer::new(Admission::of(&learned)).layer(failing());
    service.clone().oneshot(1).await.unwrap();
    for _ in 0..50 {
        service.clone().oneshot(0).await.unwrap_err();
        if learned.state() == buttress::BackendState::Down {
            break;
        }
    }
    let bulkhead = Admission::bulkhead(name, 1).unwrap().register_in(registry);
    let hedge = Hedge::builder(name).register_in(registry).build().unwrap();
    hedge.layer().layer(failing()).oneshot(1).await.unwrap();
    let pool = Endpoints::<BoxCloneSyncService<u32, u32, BoxError>>::builder(name)
        .register_in(registry)
        .build()
        .unwrap();
    pool.service().oneshot(1).await.unwrap_err();
    pool.insert("a", BoxCloneSyncService::new(failing()));
    pool.insert("b", BoxCloneSyncService::new(failing()));
    pool.service().oneshot(1).await.unwrap();
    let fallback = Fallback::builder(name).register_in(registry).build().unwrap();
    let reads: Coalesce<u8, u8> = Coalesce::builder(name).register_in(registry).build().unwrap();
    reads.run(1, || async { 2 }).await.unwrap();
    keep(Arc::new((service, budget, bulkhead, hedge, pool, fallback, reads)));
    throttles(registry, name, keep).await;
}

/// One that refuses because too much failed, and one that has just been throttled.
async fn throttles(registry: &Registry, name: Name, keep: &mut impl FnMut(Arc<dyn std::any::Any>)) {
    let sheds = Throttle::builder(name).seed(7).register_in(registry).build().unwrap();
    for _ in 0..40 {
        sheds.run(async { Err::<(), _>("broken") }).await.unwrap_err();
    }
    let limited = Throttle::builder(name).register_in(registry).build().unwrap();
    let throttled =
        buttress::classify_fn(|_: Result<&(), &&str>| buttress::Verdict::throttled(None));
    limited.run_with(async { Err::<(), _>("slowly") }, &throttled, None).await.unwrap_err();
    keep(Arc::new((sheds, limited)));
}

fn process(registry: &Registry, name: Name, keep: &mut impl FnMut(Arc<dyn std::any::Any>)) {
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("everything-{}-{number}", std::process::id()));
    let heart = Heartbeat::builder(name).file(&file).register_in(registry).build().unwrap();
    heart.start().unwrap();
    heart.stop();
    let _ = std::fs::remove_file(file);
    let dog = Watchdog::builder(name).register_in(registry).build().unwrap();
    // It refuses a zero byte in its name.
    let children = ProcessSupervisor::builder(name.as_str().replace('\0', "0"))
        .register_in(registry)
        .child(Child::new("one", "sleep").arg("60"))
        .child(Child::new("two", "sleep").arg("60"))
        .build()
        .unwrap();
    let life = Lifecycle::new();
    registry.set_lifecycle(&life);
    keep(Arc::new((heart, dog, children, life)));
}
