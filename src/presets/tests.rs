#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use super::*;
use crate::backoff::{Backoff, Jitter};
use crate::retry::RetryPolicy;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn rules(plan: &dyn Plan) -> Vec<&'static str> {
    lint(plan).iter().map(|lint| lint.rule).collect()
}

/// The six layers, each with its own numbers.
fn client(change: impl FnOnce(&mut ClientPlan)) -> ClientPlan {
    let mut plan = ClientPlan {
        total_timeout: Some(ms(10_000)),
        retry: RetryPolicy::DEFAULT.into(),
        retry_budget: Some(RetryBudgetPlan::default()),
        attempt_timeout: Some(ms(3_000)),
        breaker: Some(BreakerPlan::default()),
        ..ClientPlan::bare("six")
    };
    change(&mut plan);
    plan
}

#[test]
fn each_rule_finds_its_plan_and_not_the_one_beside_it() {
    let constant = |time| {
        let backoff = Backoff::constant(time).jitter(Jitter::None);
        RetryPolicy::builder().max_attempts(2).backoff(backoff).build().unwrap().into()
    };
    let limited =
        |text: &str, max_wait| Some(RateLimitPlan { quota: text.parse().unwrap(), max_wait });
    type Change = Box<dyn Fn(&mut ClientPlan, bool)>;
    let cases: Vec<(&str, Change)> = vec![
        (
            "attempt_not_below_total",
            Box::new(|p, bad| {
                p.retry = RetryPlan::Never;
                p.attempt_timeout = Some(if bad { ms(5000) } else { ms(4999) });
                p.total_timeout = Some(ms(5000));
            }),
        ),
        (
            "attempts_do_not_fit",
            Box::new(move |p, bad| {
                p.retry = constant(ms(100));
                p.total_timeout = Some(if bad { ms(6099) } else { ms(6100) });
            }),
        ),
        (
            "window_below_min_calls",
            Box::new(|p, bad| {
                let breaker = p.breaker.as_mut().unwrap();
                breaker.window_calls = Some(if bad { 19 } else { 20 });
            }),
        ),
        (
            "breaker_never_judges",
            Box::new(move |p, bad| {
                p.rate_limit = limited(if bad { "1/s burst 9" } else { "1/s burst 10" }, ms(0));
            }),
        ),
        (
            "breaker_window_short",
            Box::new(|p, bad| {
                p.breaker.as_mut().unwrap().window = if bad { ms(5999) } else { ms(6000) };
            }),
        ),
        (
            "open_below_attempt",
            Box::new(|p, bad| {
                p.breaker.as_mut().unwrap().open_for = if bad { ms(2999) } else { ms(3000) };
            }),
        ),
        (
            "hedge_above_attempt",
            Box::new(|p, bad| {
                let min_delay = if bad { ms(3000) } else { ms(2999) };
                p.hedge = Some(HedgePlan { min_delay, ..HedgePlan::default() });
            }),
        ),
        (
            "wait_cannot_fit",
            Box::new(move |p, bad| {
                p.retry = RetryPlan::Never;
                p.attempt_timeout = None;
                p.rate_limit = limited("100/s", if bad { ms(10_000) } else { ms(9_999) });
            }),
        ),
        (
            "wait_above_attempt",
            Box::new(move |p, bad| {
                p.retry = RetryPlan::Never;
                p.rate_limit = limited("100/s", if bad { ms(3000) } else { ms(2999) });
            }),
        ),
        (
            "retry_without_budget",
            Box::new(|p, bad| if bad { p.retry_budget = None } else { p.retry = RetryPlan::Never }),
        ),
        (
            "breaker_beside_backend",
            Box::new(|p, bad| {
                p.backend = bad.then(BackendPlan::default);
            }),
        ),
        (
            "patience_above_total",
            Box::new(|p, bad| {
                let patience = Some(if bad { ms(10_001) } else { ms(10_000) });
                p.backend = Some(BackendPlan { patience, ..BackendPlan::default() });
                p.breaker = None;
            }),
        ),
        (
            "timeout_twice",
            Box::new(|p, bad| {
                let own = if bad { ms(3000) } else { ms(2999) };
                p.retry = RetryPolicy::builder().attempt_timeout(own).build().unwrap().into();
            }),
        ),
        (
            "timeout_twice",
            Box::new(|p, bad| {
                let own = if bad { ms(10_000) } else { ms(9_999) };
                p.retry = RetryPolicy::builder().deadline(own).build().unwrap().into();
            }),
        ),
    ];
    for (rule, change) in cases {
        assert_eq!(rules(&client(|p| change(p, true))), [rule]);
        assert_eq!(rules(&client(|p| change(p, false))), Vec::<&str>::new(), "{rule}");
    }
    // A pause that cannot fit also makes the attempts too long.
    let pause = |time| client(|p| p.retry = constant(time));
    assert!(rules(&pause(ms(10_000))).contains(&"backoff_cannot_fit"));
    assert!(!rules(&pause(ms(9_999))).contains(&"backoff_cannot_fit"));
}

#[test]
fn a_servers_rules() {
    let plan = |text: &str, wait| {
        let rate_limit = Some(RateLimitPlan { quota: text.parse().unwrap(), max_wait: wait });
        ServerPlan { rate_limit, ..ServerPlan::default() }
    };
    assert_eq!(rules(&plan("1/s burst 19", ms(0))), ["budget_never_judges"]);
    assert_eq!(rules(&plan("1/s burst 20", ms(0))), Vec::<&str>::new());
    assert_eq!(rules(&plan("100/s", ms(30_000))), ["wait_cannot_fit"]);
    assert_eq!(rules(&plan("100/s", ms(29_999))), Vec::<&str>::new());
}

#[test]
fn without_retries_an_attempt_as_long_as_the_call_is_a_warning() {
    let plan = |retry| client(|p| (p.retry, p.attempt_timeout) = (retry, p.total_timeout));
    let severity = |plan: &ClientPlan| {
        lint(plan).iter().find(|l| l.rule == "attempt_not_below_total").unwrap().severity
    };
    assert_eq!(severity(&plan(RetryPlan::Never)), LintSeverity::Warning);
    assert_eq!(severity(&plan(RetryPolicy::DEFAULT.into())), LintSeverity::Error);
}

#[test]
fn the_worst_case_is_computed_and_printed() {
    let report = client(|_| ()).report();
    assert_eq!(report.worst_attempts, Some(3));
    // 3 times 3 s, 50 ms, 100 ms.
    assert_eq!(report.worst_latency, Some(ms(9_150)));
    assert_eq!(
        report.to_string(),
        "worst case: 3 attempts a call, 1.10 times the load while all fails, an answer within 9.15s"
    );
    // Each of the three attempts can be hedged twice; without retries only the share of hedges is more load.
    let hedge = Some(HedgePlan::default());
    assert_eq!(client(|p| p.hedge = hedge).report().worst_attempts, Some(9));
    let report = client(|p| (p.hedge, p.retry) = (hedge, RetryPlan::Never)).report();
    assert_eq!((report.worst_attempts, report.amplification), (Some(3), Some(1.1)));
    let unbounded = client(|p| {
        p.retry_budget = None;
        p.retry =
            RetryPolicy::builder().unlimited_attempts().deadline(ms(900)).build().unwrap().into();
        p.total_timeout = None;
    });
    let report = unbounded.report();
    assert_eq!((report.worst_attempts, report.amplification), (None, None));
}

#[cfg(feature = "serde")]
#[test]
fn plans_are_what_was_written() {
    let text = r#"{"name":"pay","total_timeout":5,"attempt_timeout":null,"rate_limit":{"quota":"10/s","max_wait":0.5}}"#;
    let plan: ClientPlan = serde_json::from_str(text).unwrap();
    assert_eq!((plan.total_timeout, plan.attempt_timeout), (Some(ms(5000)), None));
    assert_eq!(plan.rate_limit.unwrap().max_wait, ms(500));
    assert_eq!(plan.backend, Some(BackendPlan::default()));
    let again: ClientPlan = serde_json::from_value(serde_json::to_value(&plan).unwrap()).unwrap();
    assert_eq!(again, plan);
    let server = ServerPlan::default();
    assert_eq!(
        serde_json::from_value::<ServerPlan>(serde_json::to_value(&server).unwrap()).unwrap(),
        server
    );
    assert!(serde_json::from_str::<ClientPlan>(r#"{"retries":3}"#).is_err());
    assert!(serde_json::from_str::<ClientPlan>(r#"{"total_timeout":-1}"#).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_clients_services_share_its_objects() {
    use tower::{Layer, ServiceExt, service_fn};

    let stack = client_of(|p| p.retry = RetryPlan::Never);
    let down = service_fn(|()| async { Err::<(), _>(std::io::Error::other("down")) });
    for _ in 0..20 {
        assert!(stack.layer(down).oneshot(()).await.is_err());
    }
    let error = stack.layer(down).oneshot(()).await.unwrap_err();
    let refusal = crate::Rejection::find(&*error).unwrap();
    assert_eq!(refusal.kind(), crate::RejectionKind::CircuitOpen);
    assert_eq!(stack.breaker().unwrap().stats().rejected_calls, 1);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_hang_are_cut_off_tried_again_and_counted() {
    use tower::{Layer, ServiceExt, service_fn};

    let hangs = service_fn(|()| std::future::pending::<Result<(), std::io::Error>>());
    let retried =
        client_of(|p| (p.attempt_timeout, p.total_timeout) = (Some(ms(300)), Some(ms(5000))));
    assert!(retried.layer(hangs).oneshot(()).await.is_err());
    let stats = retried.breaker().unwrap().stats();
    assert!(stats.failed_calls > 1, "{stats:?}");
    let once = client_of(|p| (p.attempt_timeout, p.retry) = (Some(ms(300)), RetryPlan::Never));
    let start = tokio::time::Instant::now();
    assert!(once.layer(hangs).oneshot(()).await.is_err());
    assert_eq!(start.elapsed(), ms(300));
    assert_eq!(once.breaker().unwrap().stats().failed_calls, 1);
    let total = client_of(|p| (p.attempt_timeout, p.total_timeout) = (None, Some(ms(2000))));
    let start = tokio::time::Instant::now();
    let error = total.layer(hangs).oneshot(()).await.unwrap_err();
    assert!(crate::Rejection::find(&*error).is_some());
    assert_eq!(start.elapsed(), ms(2000));
}

fn client_of(change: impl FnOnce(&mut ClientPlan)) -> ClientLayer {
    super::client(&client(change)).unwrap()
}

#[test]
fn a_plan_that_cannot_work_is_not_built() {
    let error = super::client(&client(|p| p.attempt_timeout = Some(ms(10_000)))).unwrap_err();
    assert_eq!(error.field(), "attempt_timeout");
}

/// What `breaker_beside_backend` warns of: all is back long before the calls have to end, and those that were sent as probes
/// of the backend are lost for an open breaker.
#[tokio::test(start_paused = true)]
async fn beside_a_backend_an_open_breaker_ends_the_calls_that_probe() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use tower::{Layer, ServiceExt, service_fn};

    let lost = |breaker: Option<BreakerPlan>| async move {
        let plan = ClientPlan { breaker, hedge: None, ..ClientPlan::new("db") };
        let fails = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&fails);
        let service = super::client(&plan).unwrap().layer(service_fn(move |()| {
            let fails = asked.load(Relaxed);
            async move { if fails { Err(std::io::Error::other("down")) } else { Ok(()) } }
        }));
        for _ in 0..8 {
            service.clone().oneshot(()).await.unwrap();
        }
        fails.store(true, Relaxed);
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..100 {
            calls.spawn(service.clone().oneshot(()));
            tokio::time::sleep(ms(10)).await;
        }
        tokio::time::sleep(ms(2000)).await;
        fails.store(false, Relaxed);
        let lost: Vec<_> = calls.join_all().await.into_iter().filter_map(Result::err).collect();
        for error in &lost {
            let why = crate::Rejection::find(&**error).expect("a refusal");
            assert_eq!(why.kind(), crate::RejectionKind::CircuitOpen);
        }
        lost.len()
    };
    assert_eq!(lost(None).await, 0);
    let lost = lost(Some(BreakerPlan::default())).await;
    assert!((1..=20).contains(&lost), "{lost} of 100, the others wait");
}

/// What the breaker counts of a call that hangs.
async fn failed_of_one_that_hangs(change: impl FnOnce(&mut ClientPlan)) -> u64 {
    use tower::{Layer, ServiceExt, service_fn};

    let stack = client_of(change);
    let hangs = service_fn(|()| std::future::pending::<Result<(), std::io::Error>>());
    assert!(stack.layer(hangs).oneshot(()).await.is_err());
    stack.breaker().unwrap().stats().failed_calls
}

#[tokio::test(start_paused = true)]
async fn whatever_cuts_an_attempt_off_the_breaker_counts_it() {
    let own =
        |time| RetryPolicy::builder().max_attempts(1).attempt_timeout(time).build().unwrap().into();
    assert_eq!(failed_of_one_that_hangs(|p| p.retry = own(ms(300))).await, 1, "the policy's own");
    let only = failed_of_one_that_hangs(|p| (p.retry, p.attempt_timeout) = (own(ms(300)), None));
    assert_eq!(only.await, 1, "only the policy's own");
    let total = failed_of_one_that_hangs(|p| {
        (p.retry, p.attempt_timeout, p.total_timeout) = (RetryPlan::Never, None, Some(ms(500)));
    });
    assert_eq!(total.await, 1, "the whole call's");
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_servers_budget_counts_handlers_that_hang() {
    use ::http::{Request, Response};
    use tower::{Layer, ServiceExt, service_fn};

    for time in [ms(200), ms(5_000)] {
        let plan = ServerPlan { timeout: Some(time), ..ServerPlan::default() };
        let stack = server(&plan).unwrap().http();
        let hangs = service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<axum::body::Body>, std::convert::Infallible>>()
        });
        let Ok(answer) = stack.layer(hangs).oneshot(Request::new(())).await;
        assert_eq!(answer.status(), 504);
        let stats = stack.failure_budget().unwrap().stats();
        assert_eq!(stats.failures, 1, "{stats:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn faults_come_and_go_inside_of_everything() {
    use tower::{Layer, ServiceExt, service_fn};

    use crate::conditioner::Conditioner;

    let slot = crate::Slot::new();
    let stack = client_of(|p| p.retry = RetryPlan::Never)
        .conditioner(slot.clone())
        .on_reject(crate::AsTyped);
    let service = stack.layer(service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) }));
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    slot.install(Conditioner::network(ms(0), ms(0), 1.0, None).unwrap());
    assert!(service.clone().oneshot(1).await.is_err());
    slot.uninstall();
    assert_eq!(service.oneshot(1).await.unwrap(), 1);
    let stats = stack.breaker().unwrap().stats();
    assert_eq!((stats.successful_calls, stats.failed_calls), (2, 1), "the breaker saw the loss");
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_server_executes_a_key_once_and_longer_than_its_caller_waits() {
    use std::sync::atomic::{AtomicU32, Ordering};

    use ::http::{Request, Response};
    use axum::body::Body;
    use tower::{Layer, ServiceExt, service_fn};

    use crate::conditioner::Conditioner;
    use crate::idempotency::Scope;
    use crate::store::MemoryStore;

    static RUNS: AtomicU32 = AtomicU32::new(0);
    let slot = crate::Slot::<Conditioner>::new();
    let mut plan = ServerPlan::new("pay");
    plan.timeout = Some(ms(100));
    let stack = server(&plan)
        .unwrap()
        .http()
        .idempotent(MemoryStore::default(), |_| Some(Scope::global()))
        .unwrap()
        .conditioner(slot.clone());
    let service = stack.layer(service_fn(|_: Request<_>| async {
        tokio::time::sleep(ms(300)).await;
        RUNS.fetch_add(1, Ordering::Relaxed);
        Ok::<_, std::convert::Infallible>(Response::new(Body::from("paid")))
    }));
    let call = |key: &str| {
        let body = Body::empty();
        Request::post("/").header("idempotency-key", format!("key-of-a-payment-{key}")).body(body)
    };
    let Ok(late) = service.clone().oneshot(call("1").unwrap()).await;
    assert_eq!(late.status(), 504);
    tokio::time::sleep(ms(300)).await;
    let Ok(answer) = service.clone().oneshot(call("1").unwrap()).await;
    assert_eq!((answer.status().as_u16(), RUNS.load(Ordering::Relaxed)), (200, 1));
    assert_eq!(answer.headers()["idempotency-replayed"], "true");
    // After `http()` a conditioner is for HTTP, with statuses.
    let faulty = Conditioner::builder("pay")
        .rule(crate::conditioner::Rule::new(crate::conditioner::Fault::status(418)))
        .build()
        .unwrap();
    faulty.arm().unwrap();
    slot.install(faulty);
    let Ok(answer) = service.oneshot(call("2").unwrap()).await;
    assert_eq!(answer.status(), 418);
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_client_of_http_judges_statuses_and_keeps_to_the_requests_deadline() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use ::http::{Request, Response};
    use tower::{Layer, ServiceExt, service_fn};

    use crate::Deadline;
    use crate::conditioner::Conditioner;

    let calls = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&calls);
    let down = service_fn(move |req: Request<String>| {
        seen.fetch_add(1, Ordering::Relaxed);
        async move {
            if req.uri() == "/hangs" {
                std::future::pending::<()>().await;
            }
            let status = if req.uri() == "/down" { 503 } else { 200 };
            Response::builder().status(status).body(axum::body::Body::empty())
        }
    });
    let get = |path: &str| Request::get(path).body(String::new()).unwrap();
    // Faults first or HTTP first is the same.
    let stack = client_of(|_| ()).conditioner(crate::Slot::<Conditioner>::new()).http();
    let service = stack.layer(down);
    assert_eq!(service.clone().oneshot(get("/down")).await.unwrap().status(), 503);
    assert_eq!(calls.swap(0, Ordering::Relaxed), 3, "tried again");
    assert_eq!(service.clone().oneshot(get("/")).await.unwrap().status(), 200);
    let mut hangs = get("/hangs");
    Deadline::after(ms(70)).put(hangs.extensions_mut());
    let start = tokio::time::Instant::now();
    assert!(service.oneshot(hangs).await.is_err());
    assert_eq!(start.elapsed(), ms(70));
}

#[test]
fn parts_of_a_plan_have_the_defaults_of_their_builders() {
    let name: crate::Name = "db".into();
    let hedge = crate::hedge::Hedge::builder(name);
    assert_eq!(format!("{:?}", HedgePlan::default().builder(name)), format!("{hedge:?}"));
    let pool = crate::endpoints::Endpoints::<()>::builder(name);
    assert_eq!(format!("{:?}", EndpointsPlan::default().builder(name)), format!("{pool:?}"));
}

#[test]
fn a_pace_is_a_pace_whatever_callers_wait() {
    for patience in [Duration::ZERO, Duration::from_nanos(1), ms(1), ms(10_000), Duration::MAX] {
        let mut plan = ClientPlan::new("db");
        (plan.total_timeout, plan.backend) = (None, None);
        plan.backend = Some(BackendPlan { patience: Some(patience), ..BackendPlan::default() });
        assert_eq!(plan.policy().unwrap().max_attempts(), Some(100), "{patience:?}");
        let made = super::client(&plan);
        assert!(made.is_ok(), "{patience:?}: {made:?}");
    }
}

#[test]
fn no_plan_takes_numbers_that_are_none() {
    type Change = Box<dyn Fn(&mut ClientPlan)>;
    let hedge = |change: fn(&mut HedgePlan)| -> Change {
        Box::new(move |plan| change(plan.hedge.as_mut().unwrap()))
    };
    let pool = |change: fn(&mut EndpointsPlan)| -> Change {
        Box::new(move |plan| change(&mut plan.endpoints))
    };
    let backend = |in_flight| -> Change {
        Box::new(move |plan| plan.backend.as_mut().unwrap().in_flight = Some(in_flight))
    };
    let ratio = |ratio| -> Change {
        Box::new(move |plan| plan.retry_budget = Some(RetryBudgetPlan { ratio }))
    };
    let breaker = |change: fn(&mut BreakerPlan)| -> Change {
        Box::new(move |plan| change(plan.breaker.insert(BreakerPlan::default())))
    };
    let cases: Vec<(&str, Change)> = vec![
        ("in_flight", backend(0)),
        ("in_flight", backend(u32::MAX)),
        ("percentile", hedge(|p| p.percentile = f64::NAN)),
        ("percentile", hedge(|p| p.percentile = 1.0)),
        ("min_delay", hedge(|p| p.min_delay = Duration::ZERO)),
        ("min_delay", hedge(|p| p.min_delay = Duration::MAX)),
        ("extra_load", hedge(|p| p.extra_load = f64::NAN)),
        ("extra_load", hedge(|p| p.extra_load = 0.0)),
        ("max_ejected", pool(|p| p.max_ejected = f64::NAN)),
        ("max_ejected", pool(|p| p.max_ejected = -1.0)),
        ("failures_in_row", pool(|p| p.failures_in_row = 0)),
        ("probe_after", pool(|p| p.probe_after = Duration::ZERO)),
        ("probe_after_max", pool(|p| p.probe_after_max = ms(1))),
        ("memory", pool(|p| p.memory = Duration::ZERO)),
        ("ratio", ratio(f64::NAN)),
        ("ratio", ratio(0.0)),
        ("failure_rate", breaker(|p| p.failure_rate = Some(f64::NAN))),
        ("failure_rate", breaker(|p| p.failure_rate = Some(0.0))),
        ("open_for", breaker(|p| p.open_for = Duration::ZERO)),
        (
            "timeout",
            Box::new(|plan| {
                (plan.retry, plan.total_timeout) = (RetryPlan::Never, Some(Duration::ZERO));
            }),
        ),
    ];
    for (n, (field, change)) in cases.into_iter().enumerate() {
        let mut plan = ClientPlan::new("db");
        change(&mut plan);
        let error = super::client(&plan).expect_err(field);
        assert_eq!(error.field(), field, "{n}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_longest_times_are_as_good_as_none() {
    use tower::{Layer, ServiceExt, service_fn};

    let mut plan = ClientPlan::new("db");
    plan.total_timeout = Some(Duration::MAX);
    plan.attempt_timeout = Some(Duration::MAX - ms(1));
    plan.backend.as_mut().unwrap().patience = Some(Duration::MAX);
    plan.endpoints.slow_start = Duration::MAX;
    plan.endpoints.probe_after = Duration::MAX;
    plan.endpoints.probe_after_max = Duration::MAX;
    plan.endpoints.memory = Duration::MAX;
    let stack = super::client(&plan).unwrap();
    let broken = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(3));
    let service = stack.layer(service_fn(move |n: u32| {
        let left = broken.load(std::sync::atomic::Ordering::Relaxed);
        broken.store(left.saturating_sub(1), std::sync::atomic::Ordering::Relaxed);
        async move {
            tokio::time::sleep(ms(5)).await;
            if left > 0 { Err(std::io::Error::other("down")) } else { Ok(n) }
        }
    }));
    assert_eq!(service.oneshot(7).await.unwrap(), 7);
}
