use std::sync::Arc;
use std::time::Duration;

use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
use buttress::conditioner::{Conditioner, Fault, Rule};
use buttress::control::{
    Command, Done, Level, Managed, ObjectStatus, Operate, Operation, Registry,
};
use buttress::failure_budget::FailureBudget;
use buttress::rate_limit::RateLimiter;
use buttress::{LayerKind, Lever, Quota, RetryBudget};

fn breaker(registry: &Registry, name: &'static str) -> CircuitBreaker {
    CircuitBreaker::builder(name).register_in(registry).build().unwrap()
}

fn row(registry: &Registry, id: &str) -> ObjectStatus {
    let status = registry.status();
    status.objects.into_iter().find(|object| object.id == id).unwrap_or_else(|| panic!("no {id}"))
}

fn ids(registry: &Registry) -> Vec<String> {
    registry.status().objects.into_iter().map(|object| object.id).collect()
}

fn operate(registry: &Registry, target: &str, operation: Operation) -> Result<Done, String> {
    registry.apply(&Operate::on(target, operation).into()).map_err(|error| error.to_string())
}

#[test]
fn objects_come_sorted_share_names_and_vanish() {
    let registry = Registry::new();
    let b = breaker(&registry, "b");
    let first = breaker(&registry, "a");
    let second = breaker(&registry, "a");
    let limiter = RateLimiter::builder("a")
        .quota(Quota::per_second(1).unwrap())
        .register_in(&registry)
        .build()
        .unwrap();
    let hidden = CircuitBreaker::builder("hidden").unregistered().build().unwrap();
    assert_eq!(
        ids(&registry),
        ["circuit_breaker/a", "circuit_breaker/a#2", "circuit_breaker/b", "rate_limit/a"]
    );
    second.force_open();
    assert_eq!(row(&registry, "circuit_breaker/a#2").state, "forced_open");
    operate(&registry, "circuit_breaker/a#2", Operation::Reset).unwrap();
    assert_eq!(second.state(), CircuitState::Closed);
    let all = Registry::global().status();
    assert!(all.objects.iter().all(|object| object.name != "hidden"));
    drop((b, first, limiter, hidden));
    assert_eq!(ids(&registry), ["circuit_breaker/a"]);
    drop(second);
    assert!(ids(&registry).is_empty());
    assert_eq!(registry.status().verdict.text, "all is well");
}

#[test]
fn threads_that_build_drop_and_look_agree() {
    let registry = Registry::new();
    let kept = breaker(&registry, "kept");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let breaker = breaker(&registry, "short");
                    breaker.force_open();
                    assert!(operate(&registry, "circuit_breaker/kept", Operation::Reset).is_ok());
                }
            });
        }
        for _ in 0..50 {
            assert!(ids(&registry).contains(&"circuit_breaker/kept".to_owned()));
        }
    });
    assert_eq!(ids(&registry), ["circuit_breaker/kept"]);
    let news = registry.events_since(0);
    assert_eq!(news.events.len(), 500);
    assert_eq!(news.missed + 500, news.last);
    let mut seqs = news.events.iter().map(|event| event.seq);
    let first = seqs.next().unwrap();
    assert!(seqs.eq(first + 1..=news.last), "no gap");
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_tells_why_since_when_and_what_next() {
    let registry = Registry::new();
    let breaker = CircuitBreaker::builder("db")
        .failure_rate(0.5)
        .min_calls(4)
        .open_for(Duration::from_secs(10))
        .register_in(&registry)
        .build()
        .unwrap();
    let closed = row(&registry, "circuit_breaker/db");
    assert_eq!((closed.state.as_str(), closed.level), ("closed", Level::Ok));
    for _ in 0..4 {
        breaker.try_acquire().unwrap().failure();
    }
    assert!(breaker.try_acquire().is_err());
    let open = row(&registry, "circuit_breaker/db");
    assert_eq!((open.state.as_str(), open.level), ("open", Level::Bad));
    assert_eq!(open.why, "100.0 % of the last 4 calls failed, threshold 50.0 %");
    assert!(open.next.is_some_and(|next| next.what == "probe" && next.in_s > 5.0));
    assert_eq!(open.rejects, [("circuit_open", 1)]);
    assert!(open.counters.contains(&("failed", 4)));
    #[cfg(feature = "testing")]
    {
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(row(&registry, "circuit_breaker/db").since_s, Some(3.0));
    }
    let status = registry.status();
    assert_eq!(status.verdict.text, "1 circuit breaker open");
    assert_eq!(status.verdict.causes, ["circuit_breaker/db"]);
    let events: Vec<_> = status.events.iter().map(|event| event.event).collect();
    assert_eq!(events, ["state_changed", "rejected"]);
}

#[test]
fn every_order_does_what_it_says() {
    let registry = Registry::new();
    let breaker = breaker(&registry, "db");
    for (operation, state) in [
        (Operation::ForceOpen, CircuitState::ForcedOpen),
        (Operation::Enable, CircuitState::Closed),
        (Operation::ForceClosed, CircuitState::ForcedClosed),
        (Operation::Disable, CircuitState::Disabled),
        (Operation::Reset, CircuitState::Closed),
    ] {
        operate(&registry, "db", operation).unwrap();
        assert_eq!(breaker.state(), state);
    }
    let ten = Quota::per_second(10).unwrap();
    let limiter = RateLimiter::builder("api").quota(ten).register_in(&registry).build().unwrap();
    operate(&registry, "rate_limit/api", Operation::SetQuota(Quota::per_second(99).unwrap()))
        .unwrap();
    assert_eq!(limiter.quota(), Quota::per_second(99).unwrap());
    while limiter.try_acquire().is_ok() {}
    operate(&registry, "rate_limit/api", Operation::Reset).unwrap();
    limiter.try_acquire().unwrap();

    let retries = RetryBudget::builder("db").register_in(&registry).build().unwrap();
    operate(&registry, "retry_budget/db", Operation::Engage).unwrap();
    assert_eq!(row(&registry, "retry_budget/db").state, "engaged");
    operate(&registry, "retry_budget/db", Operation::Release).unwrap();
    assert_eq!(row(&registry, "retry_budget/db").state, "granting");
    drop(retries);

    let budget = FailureBudget::builder("api").register_in(&registry).build().unwrap();
    operate(&registry, "failure_budget/api", Operation::Engage).unwrap();
    assert!(budget.tripped());
    let shown = row(&registry, "failure_budget/api");
    assert_eq!((shown.state.as_str(), shown.level), ("tripped", Level::Bad));
    operate(&registry, "failure_budget/api", Operation::Reset).unwrap();
    assert!(!budget.tripped());

    let faults = Conditioner::builder("api")
        .rule(Rule::new(Fault::loss()))
        .register_in(&registry)
        .build()
        .unwrap();
    operate(&registry, "conditioner/api", Operation::Enable).unwrap();
    assert_eq!(row(&registry, "conditioner/api").state, "injecting");
    assert_eq!(registry.apply(&Command::KillFaults).unwrap(), Done::Operated(1));
    assert!(!faults.is_injecting());

    let pulled = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = Arc::clone(&pulled);
    registry
        .add_lever("quit", move |on: bool| seen.store(on, std::sync::atomic::Ordering::Relaxed));
    operate(&registry, "quit", Operation::Engage).unwrap();
    assert!(pulled.load(std::sync::atomic::Ordering::Relaxed));
    operate(&registry, "quit", Operation::Release).unwrap();
    assert!(!pulled.load(std::sync::atomic::Ordering::Relaxed));

    let events = registry.events_since(0).events;
    assert_eq!(events.iter().filter(|event| event.event == "command").count(), 15);
    assert!(events.iter().all(|event| event.event != "command_refused"));
}

#[test]
fn orders_that_cannot_be_carried_out_say_why() {
    let registry = Registry::new();
    let none = operate(&registry, "db", Operation::ForceOpen).unwrap_err();
    assert_eq!(
        none,
        "force_open: invalid target: \"db\", expected an object that takes force_open, and there is none"
    );
    let first = breaker(&registry, "db");
    let second = breaker(&registry, "db");
    let limiter = RateLimiter::builder("db")
        .quota(Quota::per_second(10).unwrap())
        .register_in(&registry)
        .build()
        .unwrap();
    let several = operate(&registry, "db", Operation::ForceOpen).unwrap_err();
    assert_eq!(
        several,
        "force_open: invalid target: \"db\", expected one of circuit_breaker/db, circuit_breaker/db#2"
    );
    let wrong = operate(&registry, "rate_limit/db", Operation::ForceOpen).unwrap_err();
    assert_eq!(wrong, "force_open: invalid command: force_open, expected one of set_quota, reset");
    assert_eq!(first.state(), CircuitState::Closed);
    let refused = registry.events_since(0).events;
    assert!(refused.iter().all(|event| event.event == "command_refused") && refused.len() == 3);
    drop((second, limiter));
}

#[cfg(feature = "serde")]
#[test]
fn commands_are_the_same_in_json() {
    use buttress::control::execute;
    use serde_json::json;
    let registry = Registry::new();
    let breaker = breaker(&registry, "db");
    let limiter = RateLimiter::builder("api")
        .quota(Quota::per_second(10).unwrap())
        .register_in(&registry)
        .build()
        .unwrap();
    let document = json!([
        {"command": "force_open", "target": "db"},
        ["set_quota", ["api", "5/s burst 7"]],
        ["set_quota", {"target": "api", "quota": "fast"}],
        {"command": "set_quota", "target": "api"},
        ["kill_faults", [1]],
        ["melt"],
    ]);
    let executed = execute(&registry, &document).unwrap();
    assert!(executed[0].result.is_ok() && executed[1].result.is_ok());
    assert_eq!(breaker.state(), CircuitState::ForcedOpen);
    assert_eq!(limiter.quota(), Quota::per_second(5).unwrap().burst(7).unwrap());
    let error = |n: usize| executed[n].result.as_ref().unwrap_err().to_string();
    assert!(error(2).starts_with("set_quota: invalid quota: \"fast\", expected"), "{}", error(2));
    assert!(error(3).starts_with("set_quota: invalid quota: none, expected"), "{}", error(3));
    assert!(error(4).contains("argument 1"), "{}", error(4));
    assert!(error(5).contains("force_closed"), "{}", error(5));
    for command in [
        Command::from(Operate::on("db", Operation::ForceOpen)),
        Operate::on("api", Operation::SetQuota(Quota::per_second(3).unwrap())).into(),
        Command::KillFaults,
    ] {
        let text = serde_json::to_string(&command).unwrap();
        assert_eq!(serde_json::from_str::<Command>(&text).unwrap(), command, "{text}");
    }
    let status = serde_json::to_value(registry.status()).unwrap();
    assert_eq!(status["verdict"]["level"], "bad");
    assert_eq!(status["process"], json!(null));
    assert_eq!(status["objects"][0]["counters"][0], json!({"id": "calls", "value": 0}));
    assert_eq!(status["objects"][0]["rejects"][0]["reason"], "circuit_open");
    assert_eq!(status["events"][0]["severity"], "warning");
}

#[tokio::test]
async fn followers_are_woken_and_panicking_observers_change_nothing() {
    let registry = Registry::new();
    let breaker = CircuitBreaker::builder("db")
        .observe(|_: &buttress::observe::Event<'_>| panic!("an observer"))
        .register_in(&registry)
        .build()
        .unwrap();
    let waiting = registry.changed(0);
    breaker.force_open();
    waiting.await;
    for _ in 0..10 {
        assert!(breaker.try_acquire().is_err());
    }
    let news = registry.events_since(0);
    let refusals: Vec<_> = news.events.iter().filter(|event| event.event == "rejected").collect();
    assert!((1..=2).contains(&refusals.len()), "folded: {refusals:?}");
    assert!(refusals[0].detail.contains("times within a second"), "{refusals:?}");
}

#[test]
fn a_description_that_panics_spoils_no_other() {
    struct Bad;
    impl Managed for Bad {
        fn kind(&self) -> LayerKind {
            LayerKind::Custom("bad")
        }
        fn name(&self) -> &str {
            "x"
        }
        fn describe(&self) -> ObjectStatus {
            panic!("a description")
        }
    }
    let (registry, bad) = (Registry::new(), Arc::new(Bad));
    registry.add(&bad);
    let breaker = breaker(&registry, "db");
    assert_eq!(row(&registry, "bad/x").state, "unknown");
    assert_eq!(row(&registry, "circuit_breaker/db").state, "closed");
    drop(breaker);
}

#[test]
fn a_budget_that_is_held_is_shown_with_its_reason() {
    let registry = Registry::new();
    let retries = RetryBudget::builder("db").register_in(&registry).build().unwrap();
    retries.engage();
    let shown = row(&registry, "retry_budget/db");
    assert_eq!((shown.level, shown.why.as_str()), (Level::Warn, "1 hold it back: no retries"));
}

#[test]
fn the_document_has_what_the_program_tells_it() {
    use buttress::control::Lint;
    use buttress::observe::Severity;

    let registry = Registry::new();
    let empty = registry.status();
    assert_eq!((empty.service.as_str(), empty.generation, empty.lint.len()), ("", 0, 0));
    registry.set_service("orders");
    registry.set_generation(3);
    let warning = Lint::new(Severity::Warning, "w", "may be meant", ["a"]);
    let error = Lint::new(Severity::Error, "e", "cannot be meant", ["b"]);
    registry.set_lint(std::iter::repeat_n(warning.clone(), 300).chain([error.clone()]));
    let status = registry.status();
    assert_eq!((status.service.as_str(), status.generation), ("orders", 3));
    assert_eq!((&status.lint[0], &status.lint[1], status.lint.len()), (&error, &warning, 200));
    registry.set_lint([]);
    assert!(registry.clone().status().lint.is_empty());
}

#[cfg(all(feature = "supervise", feature = "testing"))]
#[tokio::test(start_paused = true)]
async fn the_process_tells_its_phase_since_when_and_what_holds_it() {
    use buttress::supervise::{Lifecycle, Phase};

    let (registry, life) = (Registry::new(), Lifecycle::new());
    assert_eq!(registry.status().process, None);
    registry.set_lifecycle(&life);
    tokio::time::advance(Duration::from_secs(2)).await;
    let process = || registry.status().process.unwrap();
    assert_eq!((process().phase.as_str(), process().since_s), ("starting", Some(2.0)));
    life.advance(Phase::Ready, None);
    assert_eq!((process().phase.as_str(), process().since_s), ("ready", Some(0.0)));
    assert_eq!(process().status, None);
    let holds: Vec<_> = (0..10).map(|n| life.hold(format!("job {n}"))).collect();
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    life.advance(Phase::Draining, Some(end));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!((process().phase.as_str(), process().since_s), ("draining", Some(1.0)));
    let told = process().status.unwrap();
    assert!(told.starts_with("held by job 0, job 1, "), "{told}");
    assert!(told.ends_with(" and 2 more, ends within 4.0 s"), "{told}");
    drop(holds);
    assert_eq!(process().status.unwrap(), "ends within 4.0 s");
    life.advance(Phase::Exited, None);
    assert_eq!((process().phase.as_str(), process().status), ("exited", None));
}
