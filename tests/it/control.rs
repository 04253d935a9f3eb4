//! Commands against the recorded actions of the load tester, and against what they cannot carry out.

use buttress::circuit_breaker::CircuitBreakerLayer;
use buttress::conditioner::{Conditioner, ConditionerLayer};
use buttress::control::{
    Command, Done, Executed, InstallCircuitBreaker, InstallFailureBudget,
    InstallNetworkConditioner, InstallRateLimit, InstallRetryPolicy, Registry, Uninstall, execute,
};
use buttress::failure_budget::{BreachAction, FailureBudgetLayer};
use buttress::rate_limit::{RateLimitLayer, RateLimiter};
use buttress::retry::{RetryLayer, RetryPolicy};
use buttress::{Quota, Rejection, RejectionKind, RetryBudget, RetryCost};
use serde_json::{Value, json};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

/// What we answer differently on purpose: title of the case, index of the action, and our error.
const INTENDED: [(&str, usize, &str); 4] = [
    // Ours names the argument and what it might have been, instead of Python's exception.
    (
        "bad arguments are recorded and the next action runs",
        0,
        "LD_install_failure_budget: invalid bad: 1, expected one of the arguments threshold, \
         window_seconds, min_samples, target, on_breach, levers, runner_quit_callback",
    ),
    // Likewise.
    (
        "three elements",
        0,
        "action: invalid action: [\"LD_install_network_conditioner\",{\"latency_ms\":1},{}], expected a \
         name, and an object or a list of arguments or nothing",
    ),
    // Likewise: the recorded one is an index error of the implementation.
    (
        "documents",
        0,
        "action: invalid action: [], expected a name, and an object or a list of arguments or nothing",
    ),
    // BUG of the recorded system: it installs a budget that can only be nonsense.
    (
        "no value checks",
        0,
        "LD_install_failure_budget: invalid min_samples: -5, expected a whole number from 0 to 4294967295",
    ),
];

#[test]
fn recorded_actions_do_what_they_did() {
    let file: Value = serde_json::from_str(include_str!("../golden/ld_actions.json")).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() >= 10);
    for case in cases {
        let title = case["title"].as_str().unwrap();
        let registry = Registry::new();
        let budget = registry.failure_budget("default");
        let conditioner = registry.conditioner("default");
        let executed = match execute(&registry, &case["document"]) {
            Ok(executed) => executed,
            Err(error) => {
                assert!(!case["raised"].is_null(), "{title}: {error}");
                assert_eq!(error.expected(), "a list of at least one action", "{title}");
                continue;
            }
        };
        assert!(case["raised"].is_null(), "{title}: went through");
        // The recorded results are keyed by the action's text, so that of two identical actions only the
        // last is kept (a bug); these cases have none.
        let records: Vec<_> = case["records"].as_object().unwrap().values().collect();
        assert_eq!(records.len(), executed.len(), "{title}");
        let known =
            executed.iter().map(|executed| recorded_form(title, executed)).collect::<Vec<_>>();
        for (at, result) in known.iter().enumerate() {
            let intended = INTENDED.iter().find(|(t, n, ours)| {
                (*t, *n) == (title, at) && result.as_ref().is_err_and(|error| error == ours)
            });
            match (result, intended) {
                (Ok(result), _) => assert!(records.contains(&result), "{title}: {result}"),
                (Err(_), Some(_)) => {}
                (Err(error), None) => panic!("{title}: {error}"),
            }
        }
        let installed = |what: &str| {
            let nonsense = title == "no value checks";
            !case[what].is_null() && !nonsense
        };
        assert_eq!(budget.get().is_some(), installed("budget_after"), "{title}");
        assert_eq!(conditioner.get().is_some(), installed("conditioner_after"), "{title}");
        if let (Some(network), Some(after)) =
            (conditioner.get(), case["conditioner_after"].as_object())
        {
            let ms = |key: &str| Duration::from_secs_f64(after[key].as_f64().unwrap() / 1e3);
            let loss = after["loss_rate"].as_f64().unwrap();
            let filter = after["name_filter"].as_str();
            let expected = Conditioner::builder("default")
                .network(ms("latency_ms"), ms("jitter_ms"), loss, filter)
                .build()
                .unwrap();
            expected.arm().unwrap();
            assert_eq!(format!("{network:?}"), format!("{expected:?}"), "{title}");
        }
        if let (Some(budget), Some(after)) = (budget.get(), case["budget_after"].as_object()) {
            assert_eq!(json!(budget.threshold()), as_float(&after["threshold"]), "{title}");
            let window = json!(budget.window().as_secs_f64());
            assert_eq!(window, as_float(&after["window_seconds"]), "{title}");
            assert_eq!(json!(budget.min_samples()), after["min_samples"], "{title}");
        }
    }
}

fn recorded_form(title: &str, executed: &Executed) -> Result<Value, String> {
    match &executed.result {
        Ok(Done::Installed("Conditioner")) => Ok(json!("NetworkConditioner")),
        Ok(Done::Installed(what)) => Ok(json!(what)),
        Ok(Done::Uninstalled { .. }) => Ok(Value::Null),
        Ok(other) => panic!("{title}: {other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

fn as_float(number: &Value) -> Value {
    json!(number.as_f64().unwrap())
}

#[test]
fn two_identical_actions_have_a_result_each() {
    let registry = Registry::new();
    registry.conditioner("backend");
    let action = json!(["LD_uninstall_network_conditioner"]);
    let executed = execute(&registry, &json!([action, action])).unwrap();
    assert_eq!(executed.len(), 2);
    assert!(executed.iter().all(|one| one.action == action && one.result.is_ok()));
}

/// As a file has them.
#[test]
fn a_budget_takes_values_with_units() {
    let registry = Registry::new();
    let slot = registry.failure_budget("api");
    let install = |threshold: Value, window: Value| {
        let arguments = json!({"threshold": threshold, "window_seconds": window});
        execute(&registry, &json!([["install_failure_budget", arguments]]))
            .unwrap()
            .remove(0)
            .result
    };
    install(json!("5%"), json!("1m 30s")).unwrap();
    let budget = slot.get().unwrap();
    assert_eq!((budget.threshold(), budget.window()), (0.05, Duration::from_secs(90)));
    for (threshold, window, expected) in [
        (json!("few"), json!(30), "threshold: \"few\", expected a number, or such as \"5%\""),
        (json!("150%"), json!(30), "threshold: 1.5, expected"),
        (json!(0.1), json!("soon"), "window_seconds: \"soon\", expected a time"),
        (json!(0.1), json!("0s"), "window_seconds: 0ns, expected"),
    ] {
        let error = install(threshold, window).unwrap_err().to_string();
        assert!(error.contains(&format!("invalid {expected}")), "{error}");
    }
}

#[test]
fn a_document_that_is_none_changes_nothing() {
    let registry = Registry::new();
    let slot = registry.conditioner("backend");
    let install = json!(["LD_install_network_conditioner", [50]]);
    for (document, field) in [
        (json!(null), "document"),
        (json!("LD_install_network_conditioner"), "document"),
        (json!([]), "document"),
        (json!({}), "document"),
        (json!({"load_density": []}), "load_density"),
        (json!({"commands": "all"}), "commands"),
        (json!({"load_density": [install], "more": 1}), "document"),
        (json!({"load_densities": [install]}), "document"),
    ] {
        let error = execute(&registry, &document).unwrap_err();
        assert_eq!(error.field(), field, "{document}");
        assert!(slot.get().is_none(), "{document}");
    }
}

#[test]
fn an_action_that_is_wrong_changes_nothing_and_says_what_is() {
    let registry = Registry::new();
    let (budget, conditioner) = (registry.failure_budget("api"), registry.conditioner("a"));
    registry.conditioner("b");
    for (action, field) in [
        (json!(7), "action"),
        (json!({}), "action"),
        (json!({"command": 7}), "action"),
        (json!(["LD_install_failure_budget", 7]), "action"),
        (json!(["LD_add_package_to_executor", ["os"]]), "command"),
        (json!({"command": "install"}), "command"),
        (json!(["LD_install_failure_budget", [0.1, 30, 50, null]]), "argument 4"),
        (json!(["LD_install_failure_budget", {"threshold": "0.1"}]), "threshold"),
        (json!(["LD_install_failure_budget", {"threshold": true}]), "threshold"),
        (json!(["LD_install_failure_budget", {"threshold": 1.5}]), "threshold"),
        (json!(["LD_install_failure_budget", {"window_seconds": -1}]), "window_seconds"),
        (json!(["LD_install_failure_budget", {"window_seconds": 1e300}]), "window_seconds"),
        (json!(["LD_install_failure_budget", {"min_samples": 2.5}]), "min_samples"),
        (json!(["LD_install_failure_budget", {"min_samples": 0}]), "min_samples"),
        (
            json!(["LD_install_failure_budget", {"runner_quit_callback": "quit"}]),
            "runner_quit_callback",
        ),
        (json!({"command": "install_failure_budget", "on_breach": "panic"}), "on_breach"),
        (json!({"command": "install_failure_budget", "levers": ["quit"]}), "levers"),
        (json!({"command": "install_failure_budget", "levers": "quit"}), "levers"),
        (json!({"command": "install_failure_budget", "target": "apis"}), "target"),
        // Two slots, and it does not say which.
        (json!(["LD_install_network_conditioner", [50]]), "target"),
        (
            json!({"command": "install_network_conditioner", "target": "a", "loss_rate": 7}),
            "loss_rate",
        ),
        (
            json!({"command": "install_network_conditioner", "target": "a", "latency_ms": -1}),
            "latency_ms",
        ),
        (
            json!({"command": "install_network_conditioner", "target": "a", "jitter_ms": 1e308}),
            "jitter_ms",
        ),
        (json!({"command": "uninstall_failure_budget", "threshold": 1}), "threshold"),
        // Numbers that are in range and mean too long a time.
        (json!(["LD_install_failure_budget", {"window_seconds": 1e8}]), "window_seconds"),
        (
            json!({"command": "install_network_conditioner", "target": "a", "latency_ms": 1e8}),
            "latency_ms",
        ),
        (
            json!({"command": "install_network_conditioner", "target": "a", "jitter_ms": 1e8}),
            "jitter_ms",
        ),
        // Only one of the two can be meant.
        (json!(["LD_uninstall_failure_budget", {"command": "install_failure_budget"}]), "command"),
    ] {
        let executed =
            execute(&registry, &json!([action, ["LD_uninstall_failure_budget"]])).unwrap();
        let error = executed[0].result.as_ref().unwrap_err();
        assert_eq!(error.config().field(), field, "{action}: {error}");
        assert!(executed[1].result.is_ok(), "the rest goes on after {action}");
        assert!(budget.get().is_none() && conditioner.get().is_none(), "{action}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_installed_budget_acts_on_a_stack_that_was_there_before() {
    let registry = Registry::new();
    let quits = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&quits);
    registry.add_lever("quit", move |engaged: bool| {
        seen.fetch_add(u32::from(engaged), Ordering::Relaxed);
    });
    let service = FailureBudgetLayer::from_slot(registry.failure_budget("api")).layer(
        ConditionerLayer::from_slot(registry.conditioner("backend"))
            .layer(service_fn(|_: &'static str| async { Ok::<_, io::Error>("fine") })),
    );
    assert_eq!(service.clone().oneshot("/").await.unwrap(), "fine");

    let document = json!({"load_density": [
        ["LD_install_failure_budget", {"threshold": 0.1, "min_samples": 10}],
        ["LD_install_network_conditioner", {"loss_rate": 1.0}],
    ]});
    assert!(execute(&registry, &document).unwrap().iter().all(|one| one.result.is_ok()));
    for _ in 0..10 {
        let lost = service.clone().oneshot("/").await.unwrap_err();
        let why = buttress::Rejection::find(&*lost).unwrap();
        assert_eq!(why.kind(), buttress::RejectionKind::Injected);
    }
    assert_eq!(quits.load(Ordering::Relaxed), 1, "the callback of a breach runs once");
    let refused = service.clone().oneshot("/").await.unwrap_err();
    let why = buttress::Rejection::find(&*refused).unwrap();
    assert_eq!(why.kind(), buttress::RejectionKind::BudgetExhausted, "it does not merely count");

    let document = json!([["LD_uninstall_network_conditioner"], ["LD_uninstall_failure_budget"]]);
    execute(&registry, &document).unwrap();
    assert_eq!(service.oneshot("/").await.unwrap(), "fine");
}

#[test]
fn a_command_is_read_back_as_it_was_written() {
    let mut budget = InstallFailureBudget::default();
    budget.target = Some("api".into());
    budget.threshold = 0.25;
    budget.on_breach = BreachAction::Shed;
    budget.levers = Some(vec!["retries".into()]);
    let mut network = InstallNetworkConditioner::default();
    network.latency_ms = 0.5;
    network.name_filter = Some(String::new());
    let mut retries = InstallRetryPolicy::default();
    retries.target = Some("pay".into());
    retries.policy = RetryPolicy::adaptive();
    let mut breaker = InstallCircuitBreaker::default();
    breaker.target = Some("pay".into());
    let settings = &mut breaker.breaker;
    let time = |ms| Some(Duration::from_millis(ms));
    settings.consecutive_failures = Some(7);
    settings.failure_rate = Some(0.25);
    settings.slow_calls = Some((Duration::from_millis(1500), 0.5));
    (settings.window, settings.window_calls, settings.min_calls) = (time(2500), Some(9), Some(3));
    (settings.open_for, settings.open_for_max) = (time(100), time(9000));
    (settings.half_open_calls, settings.half_open_for) = (Some(2), time(7000));
    (settings.probe_lease, settings.ramp) = (time(4000), time(8000));
    (settings.cancelled_after, settings.shadow, settings.seed) = (time(300), true, Some(5));
    let mut deaf = InstallCircuitBreaker::default();
    deaf.breaker.ignore_cancelled = true;
    let mut limit = InstallRateLimit::new("100/s burst 20".parse::<Quota>().unwrap());
    limit.target = Some("api".into());
    let limits = &mut limit.rate_limit;
    (limits.initial_tokens, limits.max_waiting, limits.shadow) = (Some(1.5), Some(9), true);
    for command in [
        Command::InstallCircuitBreaker(breaker),
        Command::InstallCircuitBreaker(deaf),
        Command::InstallCircuitBreaker(InstallCircuitBreaker::default()),
        Command::UninstallCircuitBreaker(Uninstall::default()),
        Command::InstallRateLimit(limit),
        Command::InstallRateLimit(InstallRateLimit::new("1/min".parse::<Quota>().unwrap())),
        Command::UninstallRateLimit(Uninstall::default()),
        Command::KillFaults,
        Command::ArmFaults,
        Command::InstallFailureBudget(budget),
        Command::InstallFailureBudget(InstallFailureBudget::default()),
        Command::InstallNetworkConditioner(network),
        Command::UninstallFailureBudget(Uninstall::default()),
        Command::UninstallNetworkConditioner(Uninstall::default()),
        Command::InstallRetryPolicy(retries),
        Command::InstallRetryPolicy(InstallRetryPolicy::default()),
        Command::UninstallRetryPolicy(Uninstall::default()),
    ] {
        let text = serde_json::to_string(&command).unwrap();
        assert_eq!(serde_json::from_str::<Command>(&text).unwrap(), command, "{text}");
    }
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "callers are tasks")]
async fn breakers_and_limits_come_and_go_in_layers_of_a_program() {
    let registry = Registry::new();
    let service = RateLimitLayer::from_slot(registry.rate_limiter("api"))
        .wait(Duration::from_secs(3600))
        .layer(CircuitBreakerLayer::from_slot(registry.circuit_breaker("db")).layer(service_fn(
            |n: u32| async move { if n > 0 { Ok(n) } else { Err(io::Error::other("down")) } },
        )));
    let run = |action: Value| {
        let done = execute(&registry, &json!([action])).unwrap().remove(0);
        done.result.unwrap_or_else(|error| panic!("{action}: {error}"))
    };
    run(json!(["install_circuit_breaker", [{"consecutive_failures": 1}]]));
    assert!(service.clone().oneshot(0).await.is_err());
    let refused = service.clone().oneshot(1).await.unwrap_err();
    assert_eq!(Rejection::find(&*refused).unwrap().kind(), RejectionKind::CircuitOpen);
    run(json!(["uninstall_circuit_breaker"]));
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);

    run(json!(["install_rate_limit", ["1/h"]]));
    let start = Instant::now();
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    let waits = tokio::spawn(service.clone().oneshot(2));
    tokio::task::yield_now().await;
    // Another limit serves its own calls; who waits keeps its place.
    run(json!(["install_rate_limit", ["1/min"]]));
    assert_eq!(service.clone().oneshot(3).await.unwrap(), 3);
    let other = tokio::spawn(service.clone().oneshot(4));
    tokio::task::yield_now().await;
    let limiter = registry.rate_limiter("api").get().unwrap();
    assert_eq!(limiter.waiting(), 1);
    // Once there is none any more, nobody is held up.
    run(json!(["uninstall_rate_limit"]));
    assert_eq!((other.await.unwrap().unwrap(), waits.await.unwrap().unwrap()), (4, 2));
    assert_eq!((start.elapsed(), limiter.stats().released), (Duration::ZERO, 1));
}

/// Who waits at the same limiter by another way has nothing to do with the stack that loses it.
#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "callers are tasks")]
async fn a_limit_that_is_taken_out_of_a_slot_lets_go_only_who_waits_by_that() {
    let registry = Registry::new();
    let limiter = RateLimiter::new("1/min".parse().unwrap());
    let by_slot = |name| {
        registry.rate_limiter(name).install(limiter.clone());
        RateLimitLayer::from_slot(registry.rate_limiter(name))
    };
    let layers = [by_slot("api"), by_slot("other")];
    let [api, other] = layers.map(|layer| {
        let inner = service_fn(|n: u64| async move { Ok::<_, io::Error>(n) });
        layer.wait(Duration::from_secs(3600)).layer(inner)
    });
    limiter.try_acquire().unwrap();
    let start = Instant::now();
    let mut waits = Vec::new();
    for n in 0..8 {
        let (limiter, api, other) = (limiter.clone(), api.clone(), other.clone());
        waits.push(tokio::spawn(async move {
            let n = match n % 4 {
                0 => limiter.acquire().await.map(|()| n).unwrap(),
                1 => other.oneshot(n).await.unwrap(),
                _ => api.oneshot(n).await.unwrap(),
            };
            (n, start.elapsed().as_secs() / 60)
        }));
        tokio::task::yield_now().await;
    }
    assert_eq!(limiter.waiting(), 8);
    let uninstall = json!([["uninstall_rate_limit", {"target": "api"}]]);
    execute(&registry, &uninstall).unwrap().remove(0).result.unwrap();
    assert_eq!((limiter.waiting(), limiter.stats().released), (4, 4));
    let mut ended = Vec::new();
    for wait in waits {
        ended.push(wait.await.unwrap());
    }
    // The others as if those had never been there.
    let expected = [(0, 1), (1, 2), (2, 0), (3, 0), (4, 3), (5, 4), (6, 0), (7, 0)];
    assert_eq!(ended, expected);
    let stats = limiter.stats();
    assert_eq!((stats.acquired, stats.waits), (5, 4));
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_exchanged_under_the_calls_of_a_layer() {
    let registry = Registry::new();
    let calls = Arc::new(AtomicU32::new(0));
    let seen = calls.clone();
    let service = RetryLayer::from_slot(registry.retry_policy("pay")).without_budget().layer(
        service_fn(move |()| {
            seen.fetch_add(1, Ordering::Relaxed);
            async { Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused)) }
        }),
    );
    let attempts = async || {
        calls.store(0, Ordering::Relaxed);
        service.clone().oneshot(()).await.unwrap_err();
        calls.load(Ordering::Relaxed)
    };
    assert_eq!(attempts().await, 1, "nothing is installed");
    let mut policy = serde_json::to_value(RetryPolicy::default()).unwrap();
    for wanted in [5, 2] {
        policy["max_attempts"] = json!(wanted);
        let install = json!({"command": "install_retry_policy", "target": "pay", "policy": policy});
        let done = execute(&registry, &install).unwrap();
        assert_eq!(done[0].result, Ok(Done::Installed("RetryPolicy")));
        assert_eq!(attempts().await, wanted);
    }
    policy["max_attempts"] = json!("many");
    let wrong = json!([["install_retry_policy", [policy]]]);
    let error = execute(&registry, &wrong).unwrap()[0].result.clone().unwrap_err().to_string();
    assert!(error.starts_with("install_retry_policy: invalid policy: {"), "{error}");
    assert_eq!(attempts().await, 2, "and changes nothing");
    for was_installed in [true, false] {
        let done = execute(&registry, &json!([["uninstall_retry_policy"]])).unwrap();
        assert_eq!(done[0].result, Ok(Done::Uninstalled { was_installed }));
        assert_eq!(attempts().await, 1);
    }
}

/// A budget that is replaced while it is spent must not hold its levers for ever.
#[test]
fn a_budget_lets_go_of_its_levers_when_it_is_replaced_or_taken_out() {
    let registry = Registry::new();
    let (budget, retries) = (registry.failure_budget("api"), RetryBudget::new("api"));
    registry.add_lever("retries", retries.clone());
    registry.add_lever("other", |_: bool| panic!("not named by the command"));
    let held = |retries: &RetryBudget| retries.withdraw(RetryCost::Failed).is_none();

    let install = json!({"command": "install_failure_budget", "levers": ["retries"]});
    execute(&registry, &install).unwrap();
    budget.get().unwrap().trip();
    assert!(held(&retries));
    execute(&registry, &install).unwrap();
    assert!(!held(&retries), "replaced");
    budget.get().unwrap().trip();
    assert!(held(&retries));
    execute(&registry, &json!([["LD_uninstall_failure_budget"]])).unwrap();
    assert!(!held(&retries), "taken out");
}

/// A day of latency by mistake must be possible to take back.
#[tokio::test(start_paused = true)]
async fn calls_that_are_held_up_go_on_when_their_conditioner_is_taken_out() {
    let registry = Registry::new();
    let layer = ConditionerLayer::from_slot(registry.conditioner("backend"));
    let service = layer.layer(service_fn(|_: &'static str| async { Ok::<_, io::Error>("fine") }));
    for end in [
        json!([["LD_uninstall_network_conditioner"]]),
        json!([["LD_install_network_conditioner", [1]]]),
    ] {
        execute(&registry, &json!([["LD_install_network_conditioner", [86_400_000]]])).unwrap();
        let begun = tokio::time::Instant::now();
        let mut call = pin!(service.clone().oneshot("/"));
        assert!(futures_util::poll!(&mut call).is_pending());
        execute(&registry, &end).unwrap();
        assert_eq!(call.await.unwrap(), "fine");
        assert!(begun.elapsed() < Duration::from_secs(1), "{end}");
    }
}

#[test]
fn a_spent_budget_stops_the_faults_that_are_in_a_slot() {
    let registry = Registry::new();
    let (budget, faults) = (registry.failure_budget("api"), registry.conditioner("backend"));
    registry.add_lever("faults", faults.clone());
    let document = json!([["LD_install_network_conditioner", [50]], ["LD_install_failure_budget"]]);
    execute(&registry, &document).unwrap();
    assert!(faults.get().unwrap().is_injecting());
    budget.get().unwrap().trip();
    assert!(!faults.get().unwrap().is_injecting());
    budget.get().unwrap().reset();
    assert!(faults.get().unwrap().is_injecting());
}

/// Dropping a lever that is replaced runs the program's code, which may ask the registry for something.
#[test]
fn a_lever_may_use_the_registry_when_it_is_dropped() {
    struct Asks(Registry);
    impl Drop for Asks {
        fn drop(&mut self) {
            let _ = self.0.conditioner("backend");
        }
    }
    impl buttress::Lever for Asks {
        fn engage(&self) {}
        fn release(&self) {}
    }
    let registry = Registry::new();
    registry.add_lever("asks", Asks(registry.clone()));
    let (done, ended) = std::sync::mpsc::channel();
    // On a thread of its own: without the mend it never comes back.
    std::thread::spawn(move || {
        registry.add_lever("asks", |_: bool| {});
        let _ = done.send(());
    });
    assert!(ended.recv_timeout(Duration::from_secs(10)).is_ok(), "deadlock");
}
