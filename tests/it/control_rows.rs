//! What each kind of object shows in a registry, and what it can be ordered to do there.

#![allow(clippy::float_cmp, reason = "they are copied, not computed")]
#![allow(clippy::disallowed_methods, reason = "heartbeats and children go by real time")]

use std::time::Duration;

use buttress::Backoff;
use buttress::circuit_breaker::{CircuitBreaker, KeyedCircuitBreaker};
use buttress::control::{Level, ObjectStatus, Operate, Operation, Registry};
use buttress::failure_budget::FailureBudget;
use buttress::idempotency::{Begin, Idempotency, Scope};
use buttress::rate_limit::{KeyedRateLimiter, RateLimiter, WhenDown};
use buttress::retry::{Retry, RetryLayer, RetryPolicy};
use buttress::store::{Fingerprint, MemoryStore, Outcome};
use buttress::{Quota, RetryBudget};

fn row(registry: &Registry, id: &str) -> ObjectStatus {
    let status = registry.status();
    status.objects.into_iter().find(|object| object.id == id).unwrap_or_else(|| panic!("no {id}"))
}

fn gauge(row: &ObjectStatus, id: &str) -> f64 {
    row.gauges.iter().find(|gauge| gauge.id == id).unwrap_or_else(|| panic!("no {id}")).value
}

fn counter(row: &ObjectStatus, id: &str) -> u64 {
    row.counters.iter().find(|(name, _)| *name == id).unwrap_or_else(|| panic!("no {id}")).1
}

fn at_once() -> RetryPolicy {
    RetryPolicy::builder().backoff(Backoff::none()).build().unwrap()
}

#[test]
fn a_retry_is_there_by_its_name_and_counts_what_came_of_failures() {
    let registry = Registry::new();
    let retry = Retry::new(at_once()).name("payments").register_in(&registry);
    let budget = RetryBudget::builder("payments").register_in(&registry).build().unwrap();
    let retry = retry.budget(budget);
    let mut left = 2;
    let worked = retry.run_blocking(|_| {
        left -= 1;
        if left == 0 { Ok(()) } else { Err(std::io::Error::other("late")) }
    });
    worked.unwrap();
    retry.run_blocking(|_| Err::<(), _>(std::io::Error::other("never"))).unwrap_err();
    let ids: Vec<_> = registry.status().objects.into_iter().map(|object| object.id).collect();
    assert_eq!(ids, ["retry/payments", "retry_budget/payments"], "once, as it is now");
    let shown = row(&registry, "retry/payments");
    assert_eq!((shown.state.as_str(), shown.level), ("active", Level::Ok));
    assert_eq!((counter(&shown, "retried"), counter(&shown, "recovered")), (3, 1));
    assert_eq!(counter(&shown, "abandoned"), 1);
    let budget = shown.facts.iter().find(|fact| fact.label == "budget").unwrap();
    assert_eq!(budget.value, "payments");
    // A run by the policy alone is nobody's object.
    at_once().run_blocking(|_| Ok::<_, std::io::Error>(())).unwrap();
    drop(retry);
    assert!(registry.status().objects.is_empty());
}

#[tokio::test]
async fn a_retry_layer_is_there_as_long_as_its_services() {
    use tower::{Layer, ServiceExt, service_fn};

    let registry = Registry::new();
    let layer = RetryLayer::new(at_once()).without_budget().name("db").register_in(&registry);
    let failing = service_fn(|(): ()| async { Err::<(), _>(std::io::Error::other("no")) });
    let service = layer.layer(failing);
    drop(layer);
    service.clone().oneshot(()).await.unwrap_err();
    let shown = row(&registry, "retry/db");
    assert_eq!((counter(&shown, "retried"), counter(&shown, "abandoned")), (2, 1));
    drop(service);
    assert!(registry.status().objects.is_empty());
    let hidden = RetryLayer::new(at_once()).name("hidden_retry").unregistered();
    let all = Registry::global().status();
    assert!(all.objects.iter().all(|object| object.name != "hidden_retry"));
    drop(hidden);
}

#[test]
fn a_table_of_breakers_tells_counts_and_no_key() {
    let registry = Registry::new();
    let hosts: KeyedCircuitBreaker<String> = CircuitBreaker::builder("hosts")
        .consecutive_failures(1)
        .register_in(&registry)
        .build_keyed(1_000)
        .unwrap();
    for n in 0..600 {
        let _ = hosts.get(&format!("secret-{n}"));
    }
    let quiet = row(&registry, "circuit_breaker/hosts");
    assert_eq!((quiet.state.as_str(), quiet.level), ("closed", Level::Ok));
    for n in 0..7 {
        hosts.get(&format!("secret-{n}")).try_acquire().unwrap().failure();
    }
    hosts.get(&"secret-9".to_owned()).force_open();
    let shown = row(&registry, "circuit_breaker/hosts");
    assert_eq!((shown.state.as_str(), shown.level), ("partly_open", Level::Warn));
    assert_eq!(shown.why, "8 of 600 keys are not closed");
    assert_eq!(
        (gauge(&shown, "keys"), gauge(&shown, "open"), gauge(&shown, "set")),
        (600.0, 7.0, 1.0)
    );
    assert!(!format!("{:?}", registry.status().objects).contains("secret"));
    assert!(registry.status().events.iter().all(|event| !event.detail.contains("secret")));

    let full: KeyedCircuitBreaker<u8> =
        CircuitBreaker::builder("full").register_in(&registry).build_keyed(1).unwrap();
    full.get(&1).force_open();
    let _ = (full.get(&2), full.get(&3));
    assert_eq!(counter(&row(&registry, "circuit_breaker/full"), "unguarded"), 2);
    drop((hosts, full));
    assert!(registry.status().objects.is_empty());
}

#[tokio::test]
async fn limiters_per_key_and_shared_show_what_they_do() {
    let registry = Registry::new();
    let one = Quota::per_second(1).unwrap();
    let keyed: KeyedRateLimiter<str> = KeyedRateLimiter::builder("users")
        .quota(one)
        .capacity(64)
        .register_in(&registry)
        .build()
        .unwrap();
    keyed.try_acquire("secret-a").unwrap();
    keyed.try_acquire("secret-a").unwrap_err();
    let shown = row(&registry, "rate_limit/users");
    assert_eq!((shown.state.as_str(), shown.level), ("admitting", Level::Ok));
    assert_eq!((gauge(&shown, "keys"), gauge(&shown, "rate")), (1.0, 1.0));
    assert_eq!((counter(&shown, "acquired"), &shown.rejects), (1, &vec![("rate_limited", 1)]));
    assert!(!format!("{shown:?}").contains("secret"));
    let set = Operate::on("users", Operation::SetQuota(Quota::per_second(9).unwrap()));
    registry.apply(&set.into()).unwrap();
    assert_eq!(gauge(&row(&registry, "rate_limit/users"), "rate"), 9.0);
    let reset = Operate::on("rate_limit/users", Operation::Reset);
    let refused = registry.apply(&reset.into()).unwrap_err().to_string();
    assert_eq!(refused, "reset: invalid command: reset, expected one of set_quota");

    let store = MemoryStore::default();
    let fleet = RateLimiter::shared(store, "fleet", WhenDown::Deny)
        .quota(one)
        .register_in(&registry)
        .build()
        .unwrap();
    fleet.try_acquire().await.unwrap();
    fleet.try_acquire().await.unwrap_err();
    let shown = row(&registry, "rate_limit/fleet");
    assert_eq!((shown.state.as_str(), shown.level), ("admitting", Level::Ok));
    assert!(counter(&shown, "questions") >= 1);
    assert_eq!(shown.rejects, [("rate_limited", 1)]);
    assert!(shown.commands.is_empty());
}

#[tokio::test]
async fn a_gate_counts_hits_conflicts_and_mismatches() {
    let registry = Registry::new();
    let gate = Idempotency::builder("orders", MemoryStore::default())
        .scope(Scope::global())
        .register_in(&registry)
        .build()
        .unwrap();
    let ten = Fingerprint::of(b"10 EUR");
    let Begin::Execute(mut permit) = gate.begin("1", ten).await.unwrap() else { panic!() };
    assert!(matches!(gate.begin("1", ten).await.unwrap(), Begin::InFlight { .. }));
    permit.complete(Outcome::new(200, vec![], vec![])).await.unwrap();
    assert!(matches!(gate.begin("1", ten).await.unwrap(), Begin::Replay(_)));
    assert!(matches!(gate.begin("1", ten).await.unwrap(), Begin::Replay(_)));
    let other = Fingerprint::of(b"11 EUR");
    assert!(matches!(gate.begin("1", other).await.unwrap(), Begin::Mismatch));
    let shown = row(&registry, "idempotency/orders");
    let seen = ["executed", "hits", "conflicts", "mismatches"].map(|id| counter(&shown, id));
    assert_eq!(seen, [1, 2, 1, 1]);
    let order = Operate::on("idempotency/orders", Operation::Reset);
    let refused = registry.apply(&order.into()).unwrap_err().to_string();
    assert_eq!(
        refused,
        "reset: invalid command: reset, expected no command: this object takes none"
    );
}

#[cfg(feature = "testing")]
#[tokio::test(start_paused = true)]
async fn a_budget_counts_calls_that_have_left_its_window() {
    let registry = Registry::new();
    let budget = FailureBudget::builder("api")
        .window(Duration::from_secs(10))
        .register_in(&registry)
        .build()
        .unwrap();
    for _ in 0..5 {
        budget.record(false);
    }
    tokio::time::advance(Duration::from_secs(60)).await;
    budget.record(false);
    let shown = row(&registry, "failure_budget/api");
    assert_eq!((counter(&shown, "calls"), gauge(&shown, "window_fill")), (6, 1.0));
    budget.reset();
    assert_eq!(counter(&row(&registry, "failure_budget/api"), "calls"), 6);
}

#[test]
fn a_budget_with_an_objective_shows_what_is_left_of_it() {
    let registry = Registry::new();
    let budget = FailureBudget::builder("api")
        .slo(0.9, Duration::from_secs(24 * 3600))
        .register_in(&registry)
        .build()
        .unwrap();
    let fresh = row(&registry, "failure_budget/api");
    assert_eq!((gauge(&fresh, "budget_remaining"), gauge(&fresh, "burn_rate")), (1.0, 0.0));
    assert!(gauge(&fresh, "time_to_exhaustion").is_nan());
    for n in 0..100 {
        budget.record(n % 20 == 0);
    }
    let shown = row(&registry, "failure_budget/api");
    assert!((gauge(&shown, "budget_remaining") - 0.5).abs() < 1e-9, "{shown:?}");
    assert!((gauge(&shown, "burn_rate") - 0.5).abs() < 1e-9, "{shown:?}");
    assert!(shown.facts.iter().any(|fact| fact.label == "objective" && fact.value == "90 %"));
}

#[cfg(feature = "supervise")]
mod supervise {
    use super::*;
    use buttress::conditioner::{Conditioner, Fault, Rule};
    use buttress::control::{Command, Done};
    use buttress::supervise::heartbeat::Heartbeat;
    use buttress::supervise::shutdown::{CleanupCallback, GracefulShutdown};
    use buttress::supervise::watchdog::Watchdog;
    use buttress::supervise::{Lifecycle, Phase};

    #[test]
    fn a_heartbeat_and_a_watchdog_tell_whether_they_run() {
        let registry = Registry::new();
        let file = std::env::temp_dir().join(format!("control-rows-{}", std::process::id()));
        let heart =
            Heartbeat::builder("worker").file(&file).register_in(&registry).build().unwrap();
        let (froze, freezes) = std::sync::mpsc::channel();
        let dog = Watchdog::builder("worker")
            .timeout(Duration::from_secs(1))
            .on_timeout(move |_| froze.send(()).unwrap_or_default())
            .register_in(&registry)
            .build()
            .unwrap();
        assert_eq!(row(&registry, "heartbeat/worker").state, "stopped");
        assert_eq!(row(&registry, "watchdog/worker").state, "stopped");
        heart.start().unwrap();
        dog.start().unwrap();
        let shown = row(&registry, "heartbeat/worker");
        assert_eq!((shown.state.as_str(), shown.level), ("beating", Level::Ok));
        assert!(counter(&shown, "beats") >= 1);
        freezes.recv_timeout(Duration::from_secs(60)).unwrap();
        let shown = row(&registry, "watchdog/worker");
        assert_eq!((shown.state.as_str(), shown.level), ("triggered", Level::Bad));
        assert_eq!((shown.why.as_str(), counter(&shown, "timeouts")), ("no progress within 1s", 1));
        assert!(gauge(&shown, "silent") >= 1.0);
        heart.stop();
        dog.stop();
        assert_eq!(row(&registry, "heartbeat/worker").level, Level::Warn);
        let _ = std::fs::remove_file(file);
    }

    #[test]
    fn a_drain_begins_the_shutdown_with_its_callbacks() {
        let registry = Registry::new();
        let drain = || registry.apply(&Operate::on("process", Operation::Drain).into());
        assert!(drain().unwrap_err().to_string().starts_with("drain: invalid command: drain"));
        let shutdown = GracefulShutdown::new("orders");
        let (send, receive) = std::sync::mpsc::channel();
        shutdown
            .register(CleanupCallback::blocking("db", move || send.send(()).unwrap_or_default()))
            .unwrap();
        registry.set_shutdown(&shutdown);
        assert_eq!(registry.status().process.unwrap().phase, "starting");
        assert_eq!(drain().unwrap(), Done::Operated(1));
        let report = shutdown.wait_blocking(Duration::from_secs(60)).unwrap();
        assert!(report.is_clean() && report.callbacks.len() == 1);
        receive.try_recv().unwrap();
        assert_eq!(drain().unwrap(), Done::Operated(0), "it has begun");
        assert_eq!(registry.status().process.unwrap().phase, "exited");

        let life = Lifecycle::new();
        registry.set_lifecycle(&life);
        assert_eq!(drain().unwrap(), Done::Operated(1));
        assert_eq!(life.phase(), Phase::Draining);
    }

    #[test]
    fn one_conditioner_is_disarmed_and_the_other_goes_on() {
        let registry = Registry::new();
        let faults = |name| {
            Conditioner::builder(name)
                .rule(Rule::new(Fault::loss()))
                .register_in(&registry)
                .build()
                .unwrap()
        };
        let (a, b) = (faults("a"), faults("b"));
        a.arm().unwrap();
        b.arm().unwrap();
        registry.apply(&Operate::on("a", Operation::Disarm).into()).unwrap();
        assert!(!a.is_injecting() && b.is_injecting());
        let unnamed = Command::from({
            let mut order = Operate::on("", Operation::Disarm);
            order.target = None;
            order
        });
        let several = registry.apply(&unnamed).unwrap_err().to_string();
        assert!(several.ends_with("expected one of conditioner/a, conditioner/b"), "{several}");
        a.kill();
        let dead = registry.apply(&Operate::on("conditioner/a", Operation::Enable).into());
        assert!(dead.unwrap_err().to_string().starts_with("enable: invalid command: enable"));
    }
}

#[cfg(all(feature = "supervise", unix))]
#[tokio::test]
async fn a_supervisor_of_processes_tells_its_children() {
    use buttress::supervise::process::{Child, ProcessSupervisor};

    let registry = Registry::new();
    let supervisor = ProcessSupervisor::builder("workers")
        .register_in(&registry)
        .child(Child::new("sleeper", "sleep").arg("60"))
        .build()
        .unwrap();
    let shown = row(&registry, "process_supervisor/workers");
    assert_eq!(shown.level, Level::Ok);
    assert_eq!(gauge(&shown, "up"), 0.0);
    drop(supervisor);
    assert!(registry.status().objects.is_empty());
}

#[cfg(feature = "serde")]
#[test]
fn every_command_in_json_says_what_is_wrong_with_it() {
    use buttress::control::execute;
    use serde_json::json;

    let registry = Registry::new();
    for (command, error) in [
        (
            "force_open",
            "force_open: invalid target: \"x\", expected an object that takes force_open, and there is none",
        ),
        (
            "force_closed",
            "force_closed: invalid target: \"x\", expected an object that takes force_closed, and there is none",
        ),
        (
            "reset",
            "reset: invalid target: \"x\", expected an object that takes reset, and there is none",
        ),
        (
            "enable",
            "enable: invalid target: \"x\", expected an object that takes enable, and there is none",
        ),
        (
            "disable",
            "disable: invalid target: \"x\", expected an object that takes disable, and there is none",
        ),
        (
            "disarm",
            "disarm: invalid target: \"x\", expected an object that takes disarm, and there is none",
        ),
        (
            "engage",
            "engage: invalid target: \"x\", expected an object that takes engage, and there is none",
        ),
        (
            "release",
            "release: invalid target: \"x\", expected an object that takes release, and there is none",
        ),
        (
            "drain",
            "drain: invalid command: drain, expected a process whose lifecycle the registry has been given",
        ),
        (
            "install_failure_budget",
            "install_failure_budget: invalid target: \"x\", expected one that the program has made, and it has made none; stacks from a configuration bring theirs when they are registered in this registry",
        ),
        (
            "uninstall_failure_budget",
            "uninstall_failure_budget: invalid target: \"x\", expected one that the program has made, and it has made none; stacks from a configuration bring theirs when they are registered in this registry",
        ),
        (
            "install_network_conditioner",
            "install_network_conditioner: invalid target: \"x\", expected one that the program has made, and it has made none; stacks from a configuration bring theirs when they are registered in this registry",
        ),
        (
            "uninstall_network_conditioner",
            "uninstall_network_conditioner: invalid target: \"x\", expected one that the program has made, and it has made none; stacks from a configuration bring theirs when they are registered in this registry",
        ),
        (
            "install_retry_policy",
            "install_retry_policy: invalid target: \"x\", expected one that the program has made, and it has made none; stacks from a configuration bring theirs when they are registered in this registry",
        ),
        (
            "uninstall_retry_policy",
            "uninstall_retry_policy: invalid target: \"x\", expected one that the program has made, and it has made none; stacks from a configuration bring theirs when they are registered in this registry",
        ),
        (
            "install_circuit_breaker",
            "install_circuit_breaker: invalid target: \"x\", expected one that the program has made, and it has made none; stacks from a configuration bring theirs when they are registered in this registry",
        ),
        (
            "uninstall_circuit_breaker",
            "uninstall_circuit_breaker: invalid target: \"x\", expected one that the program has made, and it has made none; stacks from a configuration bring theirs when they are registered in this registry",
        ),
        (
            "install_rate_limit",
            "install_rate_limit: invalid rate_limit: none, expected a rate such as \"100/s burst 20\", or the keys of an entry of `rate_limits`",
        ),
        (
            "uninstall_rate_limit",
            "uninstall_rate_limit: invalid target: \"x\", expected one that the program has made, and it has made none; stacks from a configuration bring theirs when they are registered in this registry",
        ),
        ("arm_faults", "arm_faults: invalid target: \"x\", expected one of the arguments "),
        ("kill_faults", "kill_faults: invalid target: \"x\", expected one of the arguments "),
        (
            "set_quota",
            "set_quota: invalid quota: none, expected a quota such as \"100/s burst 20\"",
        ),
    ] {
        let executed = execute(&registry, &json!({"command": command, "target": "x"})).unwrap();
        assert_eq!(executed[0].result.as_ref().unwrap_err().to_string(), error);
        let more = execute(&registry, &json!({"command": command, "melt": true})).unwrap();
        let more = more[0].result.as_ref().unwrap_err().to_string();
        assert!(more.starts_with(&format!("{command}: invalid melt: true")), "{more}");
    }
    assert_eq!(
        execute(&registry, &json!({"command": "kill_faults"})).unwrap()[0].result,
        Ok(buttress::control::Done::Operated(0))
    );
}

#[cfg(feature = "metrics")]
#[test]
fn a_status_is_published_as_metrics() {
    use buttress::observe::Metrics;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let registry = Registry::new();
    let breaker = CircuitBreaker::builder("db").register_in(&registry).build().unwrap();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let published = || {
        metrics::with_local_recorder(&recorder, || Metrics::publish(&registry.status()));
        let mut lines: Vec<_> = snapshotter
            .snapshot()
            .into_vec()
            .into_iter()
            .map(|(key, _, _, value)| {
                let labels =
                    key.key().labels().map(|label| format!("{}={}", label.key(), label.value()));
                let labels = labels.collect::<Vec<_>>().join(",");
                let value = match value {
                    DebugValue::Counter(value) => value.to_string(),
                    DebugValue::Gauge(value) => value.to_string(),
                    DebugValue::Histogram(_) => "histogram".into(),
                };
                format!("{}{{{labels}}} {value}", key.key().name())
            })
            .collect();
        lines.sort();
        lines
    };
    let of = "layer=circuit_breaker,name=db,object=circuit_breaker/db";
    breaker.try_acquire().unwrap().success();
    let lines = published();
    for line in [
        format!("buttress.object.state{{{of},state=closed}} 1"),
        format!("buttress.object.level{{{of}}} 0"),
        format!("buttress.object.count{{{of},counter=calls}} 1"),
        format!("buttress.object.count{{{of},counter=succeeded}} 1"),
        "buttress.verdict{level=ok} 1".into(),
    ] {
        assert!(lines.contains(&line), "{line} in {lines:#?}");
    }
    let known = |line: &String| {
        let name = line.split('{').next().unwrap();
        buttress::observe::INSTRUMENTS.iter().any(|i| i.name == name && i.pulled)
    };
    assert!(lines.iter().all(known), "{lines:#?}");
    breaker.force_open();
    breaker.try_acquire().unwrap_err();
    let lines = published();
    for line in [
        format!("buttress.object.state{{{of},state=closed}} 0"),
        format!("buttress.object.state{{{of},state=forced_open}} 1"),
        format!("buttress.object.level{{{of}}} 2"),
        format!("buttress.object.rejections{{{of},reason=circuit_open}} 1"),
        "buttress.verdict{level=bad} 1".into(),
        "buttress.verdict{level=ok} 0".into(),
    ] {
        assert!(lines.contains(&line), "{line} in {lines:#?}");
    }
}
