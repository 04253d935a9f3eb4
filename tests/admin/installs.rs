//! What is installed and uninstalled over HTTP while calls are made: none is lost.

#![expect(clippy::disallowed_methods, reason = "callers are threads")]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use buttress::circuit_breaker::CircuitBreakerLayer;
use buttress::conditioner::ConditionerLayer;
use buttress::failure_budget::FailureBudgetLayer;
use buttress::rate_limit::RateLimitLayer;
use buttress::retry::RetryLayer;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

use super::*;

type Boxed = BoxCloneSyncService<u32, u32, buttress::BoxError>;

fn command(at: SocketAddr, document: &Value) -> Value {
    let (status, body) = post(at, "/commands", &token(), &document.to_string());
    assert_eq!(status, 200, "{document}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Everything that commands can install, with settings by which no call is refused, and how it is taken out.
fn all(target: &Value) -> [(Value, Value); 5] {
    [
        ("circuit_breaker", json!({"breaker": {"failure_rate": "100%", "open_for": "1s"}})),
        ("rate_limit", json!({"rate_limit": "1000000/s"})),
        ("failure_budget", json!({"threshold": 1})),
        ("network_conditioner", json!({"latency_ms": 0})),
        ("retry_policy", json!({})),
    ]
    .map(|(what, arguments)| {
        let mut install = arguments;
        install["target"] = target.clone();
        let uninstall = json!([format!("uninstall_{what}"), {"target": target}]);
        (json!([format!("install_{what}"), install]), uninstall)
    })
}

/// Calls `service` on two threads, as one instance and as clones of one, while `run` goes on.
fn under_load(service: &Boxed, run: impl FnOnce(&AtomicU64)) {
    let (over, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    /// Also when a check fails: the callers must end.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        for cloned in [false, true] {
            let mut service = service.clone();
            let (over, calls) = (&over, &calls);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
                runtime.unwrap().block_on(async {
                    while !over.load(Ordering::Relaxed) {
                        let answer = match cloned {
                            true => service.clone().oneshot(7).await,
                            false => {
                                let ready = service.ready().await.unwrap();
                                tower::Service::call(ready, 7).await
                            }
                        };
                        assert_eq!(answer.unwrap(), 7);
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        let over = Over(&over);
        run(&calls);
        drop(over);
    });
}

fn some_more(calls: &AtomicU64) {
    let before = calls.load(Ordering::Relaxed);
    let start = tokio::time::Instant::now();
    while calls.load(Ordering::Relaxed) < before + 20 {
        assert!(start.elapsed() < PATIENCE, "the calls have stopped");
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn rows(at: SocketAddr) -> Vec<String> {
    let document: Value = serde_json::from_str(&get(at, "/status.json", "").2).unwrap();
    let objects = document["objects"].as_array().unwrap();
    objects.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

/// What is installed sees the calls.
fn sees_calls(at: SocketAddr, id: &str) {
    let document: Value = serde_json::from_str(&get(at, "/status.json", "").2).unwrap();
    let row = document["objects"].as_array().unwrap().iter().find(|row| row["id"] == id).unwrap();
    let counters = row["counters"].as_array().unwrap();
    let counter = if id.starts_with("rate_limit") { "acquired" } else { "calls" };
    let counted = counters.iter().find(|it| it["id"] == counter).unwrap();
    assert!(counted["value"].as_u64().unwrap() > 0, "{row}");
}

#[test]
fn into_layers_of_a_program() {
    let (registry, page) = alone();
    let at = page.addr();
    let inner = service_fn(|n: u32| async move { Ok::<_, io::Error>(n) });
    let inner = ConditionerLayer::from_slot(registry.conditioner("it")).layer(inner);
    let inner = CircuitBreakerLayer::from_slot(registry.circuit_breaker("it")).layer(inner);
    let inner =
        Boxed::new(FailureBudgetLayer::from_slot(registry.failure_budget("it")).layer(inner));
    let retry = RetryLayer::from_slot(registry.retry_policy("it")).register_in(&registry);
    let inner = Boxed::new(retry.without_budget().layer(inner));
    let service = Boxed::new(RateLimitLayer::from_slot(registry.rate_limiter("it")).layer(inner));
    let target = json!("it");
    under_load(&service, |calls| {
        for _ in 0..10 {
            for (install, _) in all(&target) {
                let done = command(at, &json!([install]));
                assert!(done[0]["result"].is_string(), "{done}");
                some_more(calls);
            }
            let there = rows(at);
            for id in ["circuit_breaker/it", "rate_limit/it"] {
                assert!(there.iter().any(|row| row == id), "{there:?}");
                sees_calls(at, id);
            }
            let retries = registry.retry_policy("it").get();
            assert!(retries.is_some_and(|policy| policy.can_retry()), "{retries:?}");
            let budget = registry.failure_budget("it").get().unwrap();
            assert!(budget.stats().samples > 0, "{budget:?}");
            for (install, uninstall) in all(&target) {
                let done = command(at, &json!([install, uninstall]));
                assert!(done[1].get("error").is_none(), "{done}");
                some_more(calls);
            }
            let there = rows(at);
            for id in ["circuit_breaker/it", "rate_limit/it"] {
                assert!(!there.iter().any(|row| row == id), "{there:?}");
            }
        }
    });
    // Each of them is in the timeline.
    let events = registry.events_since(0).events;
    assert!(events.iter().any(|event| event.detail == "uninstall_rate_limit"));
    assert!(!events.iter().any(|event| event.event == "command_refused"));
}

#[cfg(feature = "config")]
#[test]
fn into_stacks_from_a_configuration() {
    let (registry, page) = alone();
    let at = page.addr();
    let loader = buttress::config::Loader::empty();
    let loader = loader.set("clients.pay.total_timeout", "60s").set("servers.api.timeout", "60s");
    let stacks = loader.load().unwrap().stacks().register_in(&registry);
    let inner = service_fn(|n: u32| async move { Ok::<_, io::Error>(n) });
    type Inner = BoxCloneSyncService<u32, u32, io::Error>;
    let client = Boxed::new(stacks.client("pay").unwrap().layer(Inner::new(inner)));
    let server = Boxed::new(stacks.server("api").unwrap().layer(Inner::new(inner)));
    for (target, service) in [("clients.pay", client), ("servers.api", server)] {
        under_load(&service, |calls| {
            for _ in 0..10 {
                let mut installed = 0;
                for (install, uninstall) in all(&json!(target)) {
                    let done = command(at, &json!([install, uninstall, install]));
                    // A stack has no place for some; that is said, and changes nothing.
                    match done[0]["error"].as_str() {
                        None => installed += 1,
                        Some(error) => assert!(error.contains("invalid target"), "{error}"),
                    }
                    some_more(calls);
                }
                sees_calls(at, &format!("rate_limit/{target}"));
                if target == "clients.pay" {
                    sees_calls(at, "circuit_breaker/clients.pay");
                } else {
                    let budget = registry.failure_budget(target).get().unwrap();
                    assert!(budget.stats().samples > 0, "{budget:?}");
                }
                assert_eq!(installed, if target == "clients.pay" { 4 } else { 3 }, "{target}");
                for (_, uninstall) in all(&json!(target)) {
                    command(at, &json!([uninstall]));
                    some_more(calls);
                }
            }
        });
    }
    assert!(stacks.client("pay").unwrap().breaker().is_none());
    assert!(stacks.server("api").unwrap().rate_limiter().is_none());
}
