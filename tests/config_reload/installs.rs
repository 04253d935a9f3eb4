//! Breakers and limits that commands put into stacks from a file and take out again.

#![expect(clippy::disallowed_methods, reason = "callers are threads")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
use buttress::control::{
    Command, Done, InstallCircuitBreaker, InstallRateLimit, Level, Uninstall, execute,
};
use buttress::failure_budget::BudgetState;
use buttress::observe::Event;
use buttress::rate_limit::RateLimiter;
use buttress::{Quota, Rejection};
use serde_json::{Value, json};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::commands::{answer, failing, run, server};
use super::rig::{Boxed, Inner, Rig};

fn client(rig: &Rig, name: &str, inner: Inner) -> Boxed {
    Boxed::new(rig.stacks.client(name).unwrap().layer(inner))
}

fn breaker(target: &str) -> Value {
    json!({
        "command": "install_circuit_breaker", "target": target,
        "breaker": {"consecutive_failures": 1, "open_for": "1h"},
    })
}

fn uninstall(what: &str, target: &str) -> Value {
    json!({"command": format!("uninstall_{what}"), "target": target})
}

const PATIENCE: Duration = Duration::from_secs(30);
const WAS_THERE: Done = Done::Uninstalled { was_installed: true };

#[tokio::test(start_paused = true)]
async fn breakers_come_and_go_in_clients() {
    let rig = Rig::new("clients: {pay: {total_timeout: 60s}}");
    let service = client(&rig, "pay", failing().0);
    assert_eq!([answer(&service).await, answer(&service).await], ["failed", "failed"]);
    assert_eq!(run(&rig.registry, &breaker("clients.pay")), Done::Installed("CircuitBreaker"));
    assert_eq!([answer(&service).await, answer(&service).await], ["failed", "circuit_open"]);
    let there = rig.stacks.client("pay").unwrap().breaker().unwrap();
    assert_eq!((there.name(), there.state()), ("clients.pay", CircuitState::Open));
    assert_eq!(rig.shown(), ["circuit_breaker/clients.pay"]);
    run(&rig.registry, &json!({"command": "reset", "target": "circuit_breaker/clients.pay"}));
    assert_eq!([answer(&service).await, answer(&service).await], ["failed", "circuit_open"]);

    // Another one in its place begins anew, and only that is shown.
    run(&rig.registry, &breaker("clients.pay"));
    assert_eq!(rig.row("circuit_breaker/clients.pay").state, "closed");
    assert_eq!([answer(&service).await, answer(&service).await], ["failed", "circuit_open"]);
    assert_eq!(rig.shown(), ["circuit_breaker/clients.pay"]);

    // A file that has none takes out only its own.
    rig.reload("clients: {pay: {total_timeout: 50s, attempt_timeout: 5s}}");
    assert_eq!(answer(&service).await, "circuit_open");
    assert_eq!(run(&rig.registry, &uninstall("circuit_breaker", "clients.pay")), WAS_THERE);
    assert_eq!(answer(&service).await, "failed");
    assert!(rig.stacks.client("pay").unwrap().breaker().is_none() && rig.shown().is_empty());
    let again = run(&rig.registry, &uninstall("circuit_breaker", "clients.pay"));
    assert_eq!(again, Done::Uninstalled { was_installed: false });
}

#[tokio::test(start_paused = true)]
async fn a_file_and_commands_take_turns_at_a_breaker() {
    let own = |name: &str, more: &str| {
        format!(
            "breakers: {{{name}: {{consecutive_failures: 1}}}}
clients: {{pay: {{total_timeout: 60s, breaker: {name}{more}}}}}"
        )
    };
    let rig = Rig::new(&own("one", ""));
    let service = client(&rig, "pay", failing().0);
    assert_eq!([answer(&service).await, answer(&service).await], ["failed", "circuit_open"]);
    // One of a file is taken out by its stack's name, and stays out until the file has another one.
    assert_eq!(run(&rig.registry, &uninstall("circuit_breaker", "clients.pay")), WAS_THERE);
    assert_eq!([answer(&service).await, answer(&service).await], ["failed", "failed"]);
    let row = rig.row("circuit_breaker/one");
    assert_eq!(
        (&*row.state, row.level),
        ("open", Level::Ok),
        "it is written down, and no call meets it"
    );
    assert!(
        row.facts.iter().any(|fact| (fact.label, &*fact.value) == ("taken_out_of", "clients.pay"))
    );
    rig.reload(&own("one", ", attempt_timeout: 5s"));
    assert_eq!([answer(&service).await, answer(&service).await], ["failed", "failed"]);
    rig.reload(&own("two", ""));
    assert_eq!([answer(&service).await, answer(&service).await], ["failed", "circuit_open"]);
    // A command's stays, too; and goes when the file brings another one.
    run(&rig.registry, &breaker("clients.pay"));
    assert_eq!([answer(&service).await, answer(&service).await], ["failed", "circuit_open"]);
    rig.reload(&own("two", ", attempt_timeout: 5s"));
    assert_eq!(rig.stacks.client("pay").unwrap().breaker().unwrap().name(), "clients.pay");
    rig.reload(&own("three", ""));
    assert_eq!(rig.stacks.client("pay").unwrap().breaker().unwrap().name(), "three");
    assert_eq!(rig.shown(), ["circuit_breaker/three"]);
    assert_eq!(answer(&service).await, "failed");
}

#[tokio::test(start_paused = true)]
async fn limits_come_and_go_in_clients_and_servers() {
    let text = "clients: {pay: {total_timeout: 60s}}\nservers: {api: {timeout: 60s}}";
    let rig = Rig::new(text);
    let works = || {
        let (inner, fails) = failing();
        fails.store(false, Ordering::Relaxed);
        inner
    };
    let stacks = [
        ("clients.pay", client(&rig, "pay", works())),
        ("servers.api", server(&rig, "api", works())),
    ];
    for (target, service) in &stacks {
        assert_eq!([answer(service).await, answer(service).await], ["7", "7"]);
        let install =
            json!({"command": "install_rate_limit", "target": target, "rate_limit": "1/h"});
        assert_eq!(run(&rig.registry, &install), Done::Installed("RateLimiter"));
        assert_eq!([answer(service).await, answer(service).await], ["7", "rate_limited"]);
        let id = format!("rate_limit/{target}");
        run(&rig.registry, &json!({"command": "reset", "target": id}));
        assert_eq!([answer(service).await, answer(service).await], ["7", "rate_limited"]);
        let install = json!([["LD_install_rate_limit", {
            "target": target, "rate_limit": {"rate": "2/h", "initial_tokens": 1, "shadow": true}
        }]]);
        run(&rig.registry, &install);
        assert_eq!([answer(service).await, answer(service).await], ["7", "7"]);
        let row = rig.row(&id);
        assert!(row.counters.contains(&("would_reject", 1)), "{row:?}");
        assert_eq!(run(&rig.registry, &uninstall("rate_limit", target)), WAS_THERE);
        assert!(!rig.shown().contains(&id));
        assert_eq!([answer(service).await, answer(service).await], ["7", "7"]);
    }
    assert!(rig.stacks.client("pay").unwrap().rate_limiter().is_none());
    // The file's own.
    rig.reload(
        "clients: {pay: {total_timeout: 60s}}\nservers: {api: {timeout: 60s, rate_limit: 1/h}}",
    );
    let service = &stacks[1].1;
    assert_eq!([answer(service).await, answer(service).await], ["7", "rate_limited"]);
    run(&rig.registry, &uninstall("rate_limit", "servers.api"));
    assert_eq!(answer(service).await, "7");
    assert_eq!(rig.shown(), ["rate_limit/api"]);
}

#[tokio::test(start_paused = true)]
async fn retry_policies_come_and_go_in_clients() {
    let attempts = Arc::new(AtomicU32::new(0));
    let inner = || {
        let attempts = Arc::clone(&attempts);
        Inner::new(service_fn(move |n: u32| {
            attempts.fetch_add(1, Ordering::Relaxed);
            async move {
                if n == 0 {
                    std::future::pending::<()>().await;
                }
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        }))
    };
    let made = async |service: &Boxed, n: u32| {
        let start = tokio::time::Instant::now();
        service.clone().oneshot(n).await.unwrap_err();
        (attempts.swap(0, Ordering::Relaxed), start.elapsed().as_secs())
    };
    let text = |more: &str| format!("clients: {{pay: {{total_timeout: 60s{more}}}}}");
    let timeout = ", attempt_timeout: 1s";
    let policy = |most: u32| {
        json!({"command": "install_retry_policy", "target": "clients.pay", "policy":
            {"max_attempts": most, "backoff": {"base": 0}, "transient": null}})
    };
    let off = uninstall("retry_policy", "clients.pay");

    // Where the file has none; the attempt timeout goes with either.
    let rig = Rig::new(&text(timeout));
    let service = client(&rig, "pay", inner());
    assert_eq!((made(&service, 1).await, made(&service, 0).await), ((1, 0), (1, 1)));
    assert_eq!(run(&rig.registry, &policy(3)), Done::Installed("RetryPolicy"));
    assert_eq!((made(&service, 1).await, made(&service, 0).await), ((3, 0), (3, 3)));
    assert_eq!(rig.row("retry/pay").state, "active");
    rig.reload(&text(", attempt_timeout: 2s"));
    assert_eq!((made(&service, 1).await, made(&service, 0).await), ((3, 0), (3, 6)));
    assert_eq!(run(&rig.registry, &off), WAS_THERE);
    assert_eq!((made(&service, 1).await, made(&service, 0).await), ((1, 0), (1, 2)));
    assert!(rig.shown().is_empty());

    // One of the file stays out until it has another one.
    let own = |most: u32, timeout: &str| {
        text(&format!(
            "{timeout}, retry: {{like: default, max_attempts: {most}, backoff: {{base: 0}}}}"
        ))
    };
    rig.reload(&own(2, timeout));
    assert_eq!((made(&service, 1).await, made(&service, 0).await), ((2, 0), (2, 2)));
    run(&rig.registry, &off);
    assert_eq!((made(&service, 1).await, made(&service, 0).await), ((1, 0), (1, 1)));
    assert_eq!(rig.row("retry/pay").state, "off");
    rig.reload(&own(2, ", attempt_timeout: 3s"));
    assert_eq!((made(&service, 1).await, made(&service, 0).await), ((1, 0), (1, 3)));
    run(&rig.registry, &policy(3));
    rig.reload(&own(2, timeout));
    assert_eq!(made(&service, 1).await, (3, 0));
    rig.reload(&own(4, timeout));
    assert_eq!(made(&service, 1).await, (4, 0));
    let counted = rig.row("retry/pay").counters;
    assert!(counted.contains(&("retried", 7)), "since the file has had one: {counted:?}");
    rig.reload(&text(""));
    assert!(rig.shown().is_empty());

    // One that follows from the backend is still the same with another timeout.
    let paced =
        |seconds: u32| format!("clients: {{pay: {{total_timeout: {seconds}s, backend: learned}}}}");
    rig.reload(&paced(60));
    assert!(made(&service, 1).await.0 > 1);
    run(&rig.registry, &off);
    rig.reload(&paced(50));
    assert_eq!(made(&service, 1).await.0, 1);
}

/// A breaker that does not count what its stack cuts off never opens on a callee that hangs; nor is such a budget spent.
#[tokio::test(start_paused = true)]
async fn what_is_installed_counts_calls_that_its_stack_cuts_off() {
    let text = |ms: u32| {
        format!(
            "clients: {{pay: {{total_timeout: 60s, attempt_timeout: {ms}ms}}}}
servers: {{api: {{timeout: {ms}ms}}}}"
        )
    };
    let rig = Rig::new(&text(1500));
    let hangs = || Inner::new(service_fn(|_: u32| std::future::pending::<io::Result<u32>>()));
    let (pay, api) = (client(&rig, "pay", hangs()), server(&rig, "api", hangs()));
    // The time in force counts.
    rig.reload(&text(200));
    run(&rig.registry, &breaker("clients.pay"));
    let budget = json!({
        "command": "install_failure_budget", "target": "servers.api", "min_samples": 1
    });
    run(&rig.registry, &budget);
    assert_eq!(answer(&pay).await, "deadline_exceeded");
    assert_eq!(answer(&pay).await, "circuit_open");
    assert_eq!(answer(&api).await, "deadline_exceeded");
    assert_eq!(answer(&api).await, "budget_exhausted");
    // Unless the command says how it is to be.
    let never = json!({
        "command": "install_circuit_breaker", "target": "clients.pay",
        "breaker": {"consecutive_failures": 1, "cancelled_after": "never"},
    });
    run(&rig.registry, &never);
    assert_eq!([answer(&pay).await, answer(&pay).await], ["deadline_exceeded"; 2]);
}

/// What is in a stack already follows a file that changes its timeouts.
#[tokio::test(start_paused = true)]
async fn what_is_installed_goes_by_the_timeouts_in_force() {
    let text = |time: &str| {
        format!(
            "clients: {{pay: {{total_timeout: 60s, attempt_timeout: {time}}}}}
servers: {{api: {{timeout: {time}}}}}"
        )
    };
    let budget = json!({
        "command": "install_failure_budget", "target": "servers.api", "min_samples": 1
    });
    let hangs = || Inner::new(service_fn(|_: u32| std::future::pending::<io::Result<u32>>()));
    let rig = Rig::new(&text("5s"));
    let (pay, api) = (client(&rig, "pay", hangs()), server(&rig, "api", hangs()));
    run(&rig.registry, &breaker("clients.pay"));
    run(&rig.registry, &budget);
    rig.reload(&text("200ms"));
    assert_eq!([answer(&pay).await, answer(&pay).await], ["deadline_exceeded", "circuit_open"]);
    assert_eq!([answer(&api).await, answer(&api).await], ["deadline_exceeded", "budget_exhausted"]);

    // Who hangs up after a moment is no sign of a callee that hangs once there is more time.
    run(&rig.registry, &breaker("clients.pay"));
    run(&rig.registry, &budget);
    rig.reload(&text("50s"));
    for service in [&pay, &api] {
        let hung_up = tokio::time::timeout(Duration::from_millis(150), answer(service)).await;
        assert!(hung_up.is_err());
    }
    assert_eq!(rig.row("circuit_breaker/clients.pay").state, "closed");
    let budget = rig.stacks.server("api").unwrap().failure_budget().unwrap();
    assert_eq!(budget.state(), BudgetState::Healthy);

    // Unless the command has said how it is to be.
    let own = json!({
        "command": "install_circuit_breaker", "target": "clients.pay",
        "breaker": {"consecutive_failures": 1, "cancelled_after": "1s"},
    });
    run(&rig.registry, &own);
    rig.reload(&text("200ms"));
    assert_eq!([answer(&pay).await, answer(&pay).await], ["deadline_exceeded"; 2]);
}

/// Attempts that a policy cuts off are to count as those that the stack does.
#[tokio::test(start_paused = true)]
async fn no_command_brings_a_timeout_that_a_breaker_does_not_know() {
    let rig = Rig::new(
        "clients:
  pay: {total_timeout: 60s, breaker: {consecutive_failures: 1}}
  own: {total_timeout: 60s, breaker: {consecutive_failures: 1}, retry: {like: default, deadline: 500ms}}",
    );
    let hangs = || Inner::new(service_fn(|_: u32| std::future::pending::<io::Result<u32>>()));
    let (pay, own) = (client(&rig, "pay", hangs()), client(&rig, "own", hangs()));
    let policy = |field: &str, seconds: f64| {
        json!({"command": "install_retry_policy", "target": "clients.pay",
            "policy": {"max_attempts": 2, field: seconds}})
    };
    for field in ["attempt_timeout", "deadline"] {
        let done = execute(&rig.registry, &policy(field, 1.5)).unwrap().remove(0);
        let error = done.result.unwrap_err().to_string();
        let expected = format!("invalid policy.{field}: 1.5s, expected none below 2s");
        assert!(error.contains(&expected), "{error}");
    }
    assert!(rig.registry.retry_policy("clients.pay").get().is_none());
    run(&rig.registry, &policy("attempt_timeout", 2.0));
    assert_eq!(answer(&pay).await, "circuit_open");
    assert_eq!(answer(&own).await, "deadline_exceeded");
    assert_eq!(rig.row("circuit_breaker/own").state, "open");
    // A slot of a program's own layers takes any.
    rig.registry.retry_policy("mine");
    let mut mine = policy("attempt_timeout", 0.1);
    mine["target"] = "mine".into();
    assert_eq!(run(&rig.registry, &mine), Done::Installed("RetryPolicy"));
}

/// Whoever edits what a command has taken out or replaced means it to be in force.
#[tokio::test(start_paused = true)]
async fn an_edit_of_the_file_brings_back_what_it_is_about_and_nothing_else() {
    let text = |rate: u32, failures: u32, share: u32, timeout: u32| {
        format!(
            "rate_limits: {{shared: {rate}/h}}
breakers: {{one: {{consecutive_failures: {failures}}}}}
faults: {{lost: {{rules: [{{fault: loss, share: {share}%}}]}}}}
failure_budgets: {{few: {{min_samples: {failures}, action: reject}}}}
clients: {{pay: {{total_timeout: {timeout}s, breaker: one}}}}
servers:
  api: {{timeout: {timeout}s, rate_limit: shared}}
  own: {{timeout: {timeout}s, rate_limit: {rate}/h}}
  bad: {{timeout: {timeout}s, faults: lost, failure_budget: few}}"
        )
    };
    let rig = Rig::new(&text(5, 1, 100, 60));
    let works = || {
        let (inner, fails) = failing();
        fails.store(false, Ordering::Relaxed);
        inner
    };
    let pay = client(&rig, "pay", failing().0);
    let [api, own, bad] = ["api", "own", "bad"].map(|name| server(&rig, name, works()));
    let four =
        async || [answer(&pay).await, answer(&api).await, answer(&own).await, answer(&bad).await];
    let refused = ["circuit_open", "rate_limited", "rate_limited", "budget_exhausted"];
    let nothing = ["failed", "7", "7", "7"];
    for _ in 0..5 {
        four().await;
    }
    assert_eq!(four().await, refused);
    let out = [
        ("circuit_breaker", "clients.pay"),
        ("rate_limit", "servers.api"),
        ("rate_limit", "servers.own"),
        ("failure_budget", "servers.bad"),
        ("network_conditioner", "servers.bad"),
    ];
    for (what, target) in out {
        assert_eq!(run(&rig.registry, &uninstall(what, target)), WAS_THERE);
    }
    assert_eq!(four().await, nothing);
    // Another timeout, by which the breaker and the budget go, is no edit of theirs.
    rig.reload(&text(5, 1, 100, 1));
    assert_eq!(four().await, nothing);
    rig.reload(&text(6, 1, 100, 1));
    assert_eq!(four().await, ["failed", "rate_limited", "rate_limited", "7"]);
    rig.reload(&text(6, 2, 100, 1));
    assert_eq!(four().await[0], "circuit_open", "it has been open");
    assert_eq!(four().await[3], "7");
    assert!(rig.registry.conditioner("servers.bad").get().is_none(), "they are as they were");
    rig.reload(&text(6, 2, 99, 1));
    let server = rig.stacks.server("bad").unwrap();
    assert_eq!(server.failure_budget().unwrap().state(), BudgetState::Healthy);
    let faults = rig.registry.conditioner("servers.bad").get().unwrap();
    assert!(!faults.is_injecting(), "the command has disarmed them, too");
    assert!(rig.row("circuit_breaker/one").facts.iter().all(|fact| fact.label != "taken_out_of"));

    // And in place of what a command has put there.
    run(&rig.registry, &breaker("clients.pay"));
    rig.reload(&text(6, 3, 99, 1));
    assert_eq!(rig.stacks.client("pay").unwrap().breaker().unwrap().name(), "one");
    assert!(!rig.shown().contains(&"circuit_breaker/clients.pay".to_owned()));
}

/// Ends the threads beside a test, also if that fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An order by a name is for what has it now.
#[test]
fn of_what_a_command_replaces_never_two_are_shown() {
    let rig = Rig::new("clients: {pay: {total_timeout: 60s}}");
    let _stack = rig.stacks.client("pay").unwrap();
    let limit =
        json!({"command": "install_rate_limit", "target": "clients.pay", "rate_limit": "1/h"});
    let over = AtomicBool::new(false);
    let shown = std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut most = 0;
            loop {
                let last = over.load(Ordering::Relaxed);
                most = most.max(rig.shown().len());
                if last {
                    return most;
                }
            }
        });
        let ended = Over(&over);
        for _ in 0..2_000 {
            run(&rig.registry, &breaker("clients.pay"));
            run(&rig.registry, &limit);
        }
        drop(ended);
        looks.join().unwrap()
    });
    assert_eq!(shown, 2, "a breaker and a limit");
}

/// The program, or a stack that is made later, puts something else where a command had put its own.
#[test]
fn what_a_command_has_made_is_shown_no_more_once_anybody_has_taken_it_out() {
    let rig = Rig::new("breakers: {one: {}}\nclients: {pay: {breaker: one, rate_limit: 5/s}}");
    let places =
        (rig.registry.circuit_breaker("clients.pay"), rig.registry.rate_limiter("clients.pay"));
    let limit =
        json!({"command": "install_rate_limit", "target": "clients.pay", "rate_limit": "1/h"});
    let install = || {
        run(&rig.registry, &breaker("clients.pay"));
        run(&rig.registry, &limit);
    };
    install();
    assert_eq!(rig.shown(), ["circuit_breaker/clients.pay", "rate_limit/clients.pay"]);
    let kept = (places.0.get().unwrap(), RateLimiter::new("1/h".parse().unwrap()));
    let stack = rig.stacks.client("pay").unwrap();
    assert_eq!(stack.breaker().unwrap().name(), "one");
    assert_eq!(rig.shown(), ["circuit_breaker/one", "rate_limit/pay"]);
    install();
    places.0.uninstall();
    places.1.install(kept.1.clone());
    assert_eq!(rig.shown(), ["circuit_breaker/one", "rate_limit/pay"]);
    install();
    let kept = places.0.uninstall();
    let reset = json!([{"command": "reset", "target": "circuit_breaker/clients.pay"}]);
    assert!(execute(&rig.registry, &reset).unwrap().remove(0).result.is_err(), "it is in no stack");
    drop(kept);
}

/// A service that is not called again has what was there at its last call: an order by the name met that one, or was refused
/// as one for two.
#[tokio::test(start_paused = true)]
async fn of_faults_and_budgets_that_commands_replace_the_last_is_shown() {
    let rig = Rig::new("servers: {api: {timeout: 60s}}");
    let mut service = server(&rig, "api", failing().0);
    let budget = json!({"command": "install_failure_budget", "target": "servers.api"});
    let faults =
        json!({"command": "install_network_conditioner", "target": "servers.api", "loss_rate": 1});
    for _ in 0..3 {
        run(&rig.registry, &budget);
        run(&rig.registry, &faults);
        let _ = service.ready().await.unwrap().call(7).await.unwrap_err();
    }
    run(&rig.registry, &budget);
    run(&rig.registry, &faults);
    assert_eq!(rig.shown(), ["conditioner/servers.api", "failure_budget/servers.api"]);
    let last = (
        rig.registry.failure_budget("servers.api").get().unwrap(),
        rig.registry.conditioner("servers.api").get().unwrap(),
    );
    run(&rig.registry, &json!({"command": "engage", "target": "failure_budget/servers.api"}));
    run(&rig.registry, &json!({"command": "disarm", "target": "conditioner/servers.api"}));
    assert!(last.0.tripped() && !last.1.is_injecting());
    // A command that is refused leaves what there is.
    for (mut wrong, key) in [(budget, "threshold"), (faults, "loss_rate")] {
        wrong[key] = 7.into();
        assert!(execute(&rig.registry, &wrong).unwrap().remove(0).result.is_err());
    }
    assert_eq!(rig.row("failure_budget/servers.api").state, "tripped");
    assert_eq!(rig.row("conditioner/servers.api").state, "disarmed");
    for what in ["failure_budget", "network_conditioner"] {
        assert_eq!(run(&rig.registry, &uninstall(what, "servers.api")), WAS_THERE);
    }
    assert!(rig.shown().is_empty());
    drop(service);
}

/// It would have no row for the rest of its life, and no timeouts to go by.
#[tokio::test(start_paused = true)]
async fn what_the_program_takes_out_for_a_moment_is_back_with_its_row_and_its_timeouts() {
    let rig = Rig::new("clients: {pay: {total_timeout: 60s}}");
    let _stack = rig.stacks.client("pay").unwrap();
    run(&rig.registry, &breaker("clients.pay"));
    run(
        &rig.registry,
        &json!({"command": "install_rate_limit", "target": "clients.pay", "rate_limit": "1/h"}),
    );
    let both = ["circuit_breaker/clients.pay", "rate_limit/clients.pay"];
    assert_eq!(rig.shown(), both);
    let places =
        (rig.registry.circuit_breaker("clients.pay"), rig.registry.rate_limiter("clients.pay"));
    let out = (places.0.uninstall().unwrap(), places.1.uninstall().unwrap());
    assert!(rig.shown().is_empty(), "somebody asks meanwhile");
    places.0.install(out.0.clone());
    places.1.install(out.1);
    assert_eq!(rig.shown(), both);
    rig.reload("clients: {pay: {total_timeout: 60s, attempt_timeout: 200ms}}");
    let permit = out.0.try_acquire().unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    drop(permit);
    assert_eq!(out.0.state(), CircuitState::Open, "cut off after more than half of the timeout");
}

/// An object of the program has other users than the stack that it is taken out of.
#[tokio::test(start_paused = true)]
async fn what_is_taken_out_and_met_elsewhere_is_as_well_as_it_says() {
    let rig = Rig::new("clients: {pay: {total_timeout: 60s}, other: {total_timeout: 60s}}");
    let _stacks = [rig.stacks.client("pay").unwrap(), rig.stacks.client("other").unwrap()];
    let own = CircuitBreaker::builder("own").register_in(&rig.registry).build().unwrap();
    let limit = RateLimiter::builder("own").quota("1/h".parse().unwrap());
    let limit = limit.register_in(&rig.registry).build().unwrap();
    rig.registry.circuit_breaker("clients.pay").install(own.clone());
    rig.registry.rate_limiter("clients.pay").install(limit.clone());
    own.force_open();
    limit.try_acquire().unwrap();
    run(&rig.registry, &uninstall("circuit_breaker", "clients.pay"));
    run(&rig.registry, &uninstall("rate_limit", "clients.pay"));
    let rows = || [rig.row("circuit_breaker/own"), rig.row("rate_limit/own")];
    let levels = || rows().map(|row| row.level);
    assert_eq!(levels(), [Level::Ok; 2], "nobody meets them");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(own.try_acquire().is_err() && limit.try_acquire().is_err());
    assert_eq!(levels(), [Level::Bad, Level::Warn], "callers are refused");
    for row in rows() {
        let told: Vec<_> = row.facts.iter().map(|fact| (fact.label, &*fact.value)).collect();
        assert!(told.contains(&("taken_out_of", "clients.pay")), "{told:?}");
        assert!(told.contains(&("in_use", "by another way than its slot")), "{told:?}");
    }
    tokio::time::sleep(Duration::from_secs(299)).await;
    assert_eq!(levels(), [Level::Bad, Level::Warn]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(levels(), [Level::Ok; 2], "for five minutes nobody has met them");

    // An order is carried out, and it is told that no stack feels it. The name is that of what a stack has.
    let order = |target: &str| {
        let before = rig.registry.events_since(0).last;
        let order = json!({"command": "force_closed", "target": target});
        assert_eq!(run(&rig.registry, &order), Done::Operated(1));
        rig.registry.events_since(before).events
    };
    let events = order("own");
    let warning = events.iter().find(|event| event.event == "taken_out").unwrap();
    assert_eq!(
        warning.detail,
        "force_closed: circuit_breaker/own is taken out of clients.pay, where it holds once it is back"
    );
    assert_eq!(own.state(), CircuitState::ForcedClosed);
    let new = CircuitBreaker::builder("own").register_in(&rig.registry).build().unwrap();
    rig.registry.circuit_breaker("clients.other").install(new.clone());
    let by_id = order("circuit_breaker/own");
    assert!(by_id.iter().any(|event| event.event == "taken_out"), "an id is exact");
    let by_name = json!({"command": "force_open", "target": "own"});
    let ids = rig.shown();
    assert_eq!(ids, ["circuit_breaker/own", "circuit_breaker/own#2", "rate_limit/own"]);
    assert_eq!(run(&rig.registry, &by_name), Done::Operated(1));
    assert_eq!((new.state(), own.state()), (CircuitState::ForcedOpen, CircuitState::ForcedClosed));
}

/// The thread that watches ended with the panic, and no change was seen any more.
#[test]
fn a_watch_outlives_user_code_that_panics() {
    struct Fragile;
    impl Drop for Fragile {
        fn drop(&mut self) {
            panic!("it is the user's own");
        }
    }
    let text =
        |name: &str| format!("breakers: {{{name}: {{}}}}\nclients: {{pay: {{breaker: {name}}}}}");
    let rig = Rig::new(&text("one"));
    let _stack = rig.stacks.client("pay").unwrap();
    let fragile = Fragile;
    let own = CircuitBreaker::builder("own").unregistered().observe(move |_: &Event<'_>| {
        let _ = &fragile;
    });
    let place = rig.registry.circuit_breaker("clients.pay");
    place.install(own.build().unwrap());
    let _watch = rig.watch();
    let told = |event: &str| {
        let events = rig.registry.events_since(0).events;
        events.iter().any(|it| it.event == event)
    };
    let begun = tokio::time::Instant::now();
    for name in ["two", "three"] {
        rig.write(&text(name));
        while place.get().unwrap().name() != name || !told("reload_panicked") {
            assert!(begun.elapsed() < PATIENCE, "{name} is not in force");
            std::thread::yield_now();
        }
    }
}

/// What a new stack takes the place of ends with user code, which may ask for what it likes.
#[test]
fn a_breaker_whose_end_asks_for_stacks_holds_up_nothing() {
    struct Asks(buttress::config::Stacks);
    impl Drop for Asks {
        fn drop(&mut self) {
            assert_eq!(self.0.generation(), 1);
        }
    }
    let rig = Rig::new("clients: {pay: {breaker: {}}}");
    let asks = Asks(rig.stacks.clone());
    let own = CircuitBreaker::builder("own").unregistered().observe(move |_: &Event<'_>| {
        let _ = &asks;
    });
    rig.registry.circuit_breaker("clients.pay").install(own.build().unwrap());
    let (done, is_done) = std::sync::mpsc::channel();
    let stacks = rig.stacks.clone();
    let thread = std::thread::spawn(move || done.send(stacks.client("pay").is_ok()));
    assert!(is_done.recv_timeout(Duration::from_secs(20)).unwrap(), "it waits for itself");
    thread.join().unwrap().unwrap();
}

#[test]
fn commands_as_values_and_the_events_they_are() {
    let rig = Rig::new("clients: {pay: {total_timeout: 60s}}");
    let stack = rig.stacks.client("pay").unwrap();
    let mut install = InstallCircuitBreaker::default();
    install.target = Some("clients.pay".to_owned());
    install.breaker.failure_rate = Some(0.5);
    rig.registry.apply(&Command::InstallCircuitBreaker(install)).unwrap();
    let mut install = InstallRateLimit::new("5/s".parse::<Quota>().unwrap());
    install.target = Some("clients.pay".to_owned());
    rig.registry.apply(&Command::InstallRateLimit(install)).unwrap();
    assert_eq!(stack.breaker().unwrap().name(), "clients.pay");
    assert_eq!(stack.rate_limiter().unwrap().quota().capacity(), 5);
    let mut uninstall = Uninstall::default();
    uninstall.target = Some("clients.pay".to_owned());
    rig.registry.apply(&Command::UninstallCircuitBreaker(uninstall.clone())).unwrap();
    rig.registry.apply(&Command::UninstallRateLimit(uninstall)).unwrap();
    assert!(stack.breaker().is_none() && stack.rate_limiter().is_none());
    let events = rig.registry.events_since(0).events;
    let told: Vec<_> = events.iter().filter(|it| it.event == "command").collect();
    let told: Vec<_> = told.iter().map(|it| (it.name.as_str(), it.detail.as_str())).collect();
    let expected = ["install_circuit_breaker", "install_rate_limit"];
    assert_eq!(told[..2], expected.map(|command| ("clients.pay", command)));
    assert_eq!(told.len(), 4);
}

#[test]
fn what_is_wrong_is_named_and_changes_nothing() {
    let rig = Rig::new("clients: {pay: {}}\nservers: {api: {}}");
    let (stack, _api) = (rig.stacks.client("pay").unwrap(), rig.stacks.server("api").unwrap());
    let breaker = |block: Value| json!(["install_circuit_breaker", {"breaker": block}]);
    let limit = |block: Value| json!(["install_rate_limit", {"target": "servers.api", "rate_limit": block}]);
    let cases = [
        (
            breaker(json!({"failure_rate": 2})),
            "breaker.failure_rate: 2, expected a number from 0 to 1",
        ),
        (breaker(json!({"open_for": "soon"})), "breaker.open_for: \"soon\", expected a time"),
        (breaker(json!({"open_for": 0})), "breaker.open_for: 0ns, expected"),
        (breaker(json!({"fail_rate": 1})), "breaker.fail_rate: 1, expected one of the keys consec"),
        (
            breaker(json!({"slow_calls": {"after": "1s"}})),
            "breaker.slow_calls.rate: missing, expected",
        ),
        (
            breaker(json!({"slow_calls": {"after": "soon", "rate": 1}})),
            "breaker.slow_calls.after: \"soon\", expected a time",
        ),
        (
            breaker(json!({"slow_calls": {"after": 1, "rate": 1, "more": 1}})),
            "breaker.slow_calls.more: 1, expected one of the keys after, rate",
        ),
        (
            breaker(json!({"cancelled_after": "always"})),
            "breaker.cancelled_after: \"always\", expected a time: seconds, or such as \"1m 30s\", or \"never\"",
        ),
        (limit(json!({"rate": 5})), "rate_limit.rate: 5, expected a quota such as"),
        (
            json!(["set_quota", {"target": "servers.api", "quota": 5}]),
            "quota: 5, expected a quota such as",
        ),
        (breaker(json!("db")), "breaker: \"db\", expected the keys of an entry of `breakers`"),
        (limit(json!("fast")), "rate_limit: \"fast\", expected a quota"),
        (limit(json!({"shadow": true})), "rate_limit.rate: missing, expected a rate"),
        (
            limit(json!({"rate": "1/s", "initial_tokens": 9})),
            "rate_limit.initial_tokens: 9, expected",
        ),
        (limit(json!(7)), "rate_limit: 7, expected a rate"),
        (
            json!(["install_rate_limit", {"target": "servers.api"}]),
            "rate_limit: none, expected a rate",
        ),
        (json!(["install_rate_limit", ["1/s"]]), "target: none, expected one of"),
        (
            json!(["install_circuit_breaker", {"target": "servers.api"}]),
            "target: \"servers.api\", expected one of \"clients.pay\"",
        ),
        (json!(["uninstall_rate_limit", {"target": "x"}]), "target: \"x\", expected one of"),
        (json!(["uninstall_circuit_breaker", [1]]), "argument 1: 1, expected no arguments"),
    ];
    for (action, expected) in cases {
        let done = execute(&rig.registry, &json!([action])).unwrap().remove(0);
        let error = done.result.unwrap_err().to_string();
        let command = action[0].as_str().unwrap();
        assert!(error.starts_with(&format!("{command}: invalid {expected}")), "{action}: {error}");
    }
    assert!(stack.breaker().is_none() && rig.shown().is_empty(), "{:?}", rig.shown());
}

#[tokio::test(start_paused = true)]
async fn faults_that_were_killed_are_armed_again() {
    let text = |name: &str| {
        format!(
            "faults: {{{name}: {{rules: [{{fault: loss}}]}}, here: {{rules: [{{fault: loss}}], allow_in: [test], environment: production}}}}
servers: {{api: {{faults: {name}}}, prod: {{faults: here}}}}"
        )
    };
    let rig = Rig::new(&text("a"));
    let works = || {
        let (inner, fails) = failing();
        fails.store(false, Ordering::Relaxed);
        inner
    };
    let (api, prod) = (server(&rig, "api", works()), server(&rig, "prod", works()));
    assert_eq!([answer(&api).await, answer(&prod).await], ["injected", "7"]);
    run(&rig.registry, &json!({"command": "kill_faults"}));
    rig.reload(&text("b"));
    assert_eq!(answer(&api).await, "7");
    assert_eq!(run(&rig.registry, &json!({"command": "arm_faults"})), Done::Operated(1));
    assert_eq!([answer(&api).await, answer(&prod).await], ["injected", "7"]);
    // Those that a file brings from now on are armed, too.
    rig.reload(&text("c"));
    assert_eq!(answer(&api).await, "injected");
}

/// Callers call without a pause while breakers and limits come and go in their stack, by commands and by files.
#[test]
fn under_load_no_call_is_lost() {
    const CALLERS: usize = 3;
    let text = |more: &str| format!("clients: {{pay: {{total_timeout: 60s{more}}}}}");
    let rig = Rig::new(&text(""));
    let inner = Inner::new(service_fn(|n: u32| async move { Ok::<_, io::Error>(n) }));
    let service = client(&rig, "pay", inner);
    let (over, calls) = (AtomicBool::new(false), AtomicU32::new(0));
    let plenty = |number: u32| match number % 8 {
        0 => breaker("clients.pay"),
        1 | 5 => json!({
            "command": "install_rate_limit", "target": "clients.pay", "rate_limit": "1000000/s"
        }),
        2 => json!({"command": "install_circuit_breaker", "target": "clients.pay"}),
        3 | 6 => uninstall("circuit_breaker", "clients.pay"),
        _ => uninstall("rate_limit", "clients.pay"),
    };
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let mut service = service.clone();
            let (over, calls) = (&over, &calls);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
                runtime.unwrap().block_on(async {
                    while !over.load(Ordering::Relaxed) {
                        let answer = match caller {
                            0 => service.clone().oneshot(7).await,
                            _ => {
                                let ready = service.ready().await.unwrap();
                                tower::Service::call(ready, 7).await
                            }
                        };
                        let refused = |error: &buttress::BoxError| {
                            Rejection::find(&**error).map(|it| it.kind().as_str())
                        };
                        assert_eq!(
                            answer.as_ref().ok(),
                            Some(&7),
                            "{:?}",
                            answer.as_ref().err().map(refused)
                        );
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        // Also when a check fails: the callers must end.
        let over = Over(&over);
        for number in 0..400 {
            run(&rig.registry, &plenty(number));
            if number % 10 == 9 {
                rig.reload(&text(&format!(", rate_limit: {}/s", 1_000_000 + number)));
                rig.reload(&text(""));
            }
            // Each change is to be met.
            let before = calls.load(Ordering::Relaxed);
            let start = tokio::time::Instant::now();
            while calls.load(Ordering::Relaxed) < before + 5 {
                assert!(start.elapsed() < PATIENCE, "the calls have stopped");
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        drop(over);
    });
    run(&rig.registry, &uninstall("circuit_breaker", "clients.pay"));
    run(&rig.registry, &uninstall("rate_limit", "clients.pay"));
    assert!(rig.shown().is_empty(), "{:?}", rig.shown());
}
