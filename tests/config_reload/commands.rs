//! Commands reach stacks from a file, and what an operator has done survives the next file.

#![expect(clippy::disallowed_methods, reason = "callers are tasks")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use buttress::Rejection;
use buttress::config::Loader;
use buttress::control::{Command, Done, InstallFailureBudget, Level, Registry, Uninstall, execute};
use buttress::failure_budget::{BreachAction, BudgetState};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt, service_fn};

use super::rig::{Boxed, Inner, Rig};

/// Fails while it is told to.
pub(crate) fn failing() -> (Inner, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&fails);
    let inner = service_fn(move |n: u32| {
        let fails = told.load(Ordering::Relaxed);
        async move { if fails { Err(io::Error::from(io::ErrorKind::Other)) } else { Ok(n) } }
    });
    (Inner::new(inner), fails)
}

pub(crate) fn server(rig: &Rig, name: &str, inner: Inner) -> Boxed {
    Boxed::new(rig.stacks.server(name).unwrap().layer(inner))
}

/// What refused it, or what it said.
pub(crate) async fn answer(service: &Boxed) -> String {
    match service.clone().oneshot(7).await {
        Ok(answer) => answer.to_string(),
        Err(error) => Rejection::find(&*error)
            .map_or_else(|| "failed".to_owned(), |it| it.kind().as_str().to_owned()),
    }
}

pub(crate) fn run(registry: &Registry, command: &Value) -> Done {
    let done = execute(registry, command).unwrap().pop().unwrap();
    done.result.unwrap_or_else(|error| panic!("{command}: {error}"))
}

fn install(target: &str) -> Value {
    json!({
        "command": "install_failure_budget", "target": target, "threshold": 0.5,
        "window_seconds": 60, "min_samples": 1, "on_breach": "reject"
    })
}

#[tokio::test(start_paused = true)]
async fn failure_budgets_come_and_go_in_servers() {
    let rig = Rig::new("servers: {api: {timeout: 60s}}");
    let (inner, fails) = failing();
    let service = server(&rig, "api", inner);
    assert_eq!(
        (answer(&service).await, answer(&service).await),
        ("failed".into(), "failed".into())
    );
    assert_eq!(run(&rig.registry, &install("servers.api")), Done::Installed("FailureBudget"));
    assert_eq!(
        (answer(&service).await, answer(&service).await),
        ("failed".into(), "budget_exhausted".into())
    );
    assert!(rig.stacks.server("api").unwrap().failure_budget().unwrap().tripped());
    assert_eq!(rig.shown(), ["failure_budget/servers.api"]);

    // A file that has none takes out only its own.
    rig.reload("servers: {api: {timeout: 50s, rate_limit: 1000/s}}");
    assert_eq!(answer(&service).await, "budget_exhausted");
    let uninstall = json!({"command": "uninstall_failure_budget", "target": "servers.api"});
    assert_eq!(run(&rig.registry, &uninstall), Done::Uninstalled { was_installed: true });
    assert_eq!(answer(&service).await, "failed");
    assert!(rig.stacks.server("api").unwrap().failure_budget().is_none());

    // One of a file is taken out by its stack's name, and stays out until the file has another one.
    let own = |more: &str, name: &str| {
        format!(
            "failure_budgets: {{{name}: {{min_samples: 1, action: reject}}}}
servers: {{api: {{timeout: 60s, failure_budget: {name}{more}}}}}"
        )
    };
    rig.reload(&own("", "one"));
    assert_eq!(
        (answer(&service).await, answer(&service).await),
        ("failed".into(), "budget_exhausted".into())
    );
    assert_eq!(run(&rig.registry, &uninstall), Done::Uninstalled { was_installed: true });
    assert_eq!(answer(&service).await, "failed");
    rig.reload(&own(", rate_limit: 1000/s", "one"));
    assert_eq!(
        (answer(&service).await, answer(&service).await),
        ("failed".into(), "failed".into())
    );
    rig.reload(&own("", "two"));
    assert_eq!(
        (answer(&service).await, answer(&service).await),
        ("failed".into(), "budget_exhausted".into())
    );
    // And a command puts another one in its place.
    fails.store(false, Ordering::Relaxed);
    run(&rig.registry, &install("servers.api"));
    assert_eq!(answer(&service).await, "7");
}

#[tokio::test(start_paused = true)]
async fn what_two_stacks_have_stays_in_the_other() {
    let rig = Rig::new(
        "failure_budgets: {both: {min_samples: 1, action: reject}}
faults: {both: {rules: [{fault: loss}]}}
servers: {a: {failure_budget: both}, b: {failure_budget: both}, c: {faults: both}, d: {faults: both}}",
    );
    let stacks = ["a", "b", "c", "d"].map(|name| {
        let (inner, fails) = failing();
        fails.store(name < "c", Ordering::Relaxed);
        server(&rig, name, inner)
    });
    let [a, b, c, d] = &stacks;
    assert_eq!((answer(a).await, answer(b).await), ("failed".into(), "budget_exhausted".into()));
    assert_eq!((answer(c).await, answer(d).await), ("injected".into(), "injected".into()));
    run(&rig.registry, &json!({"command": "uninstall_failure_budget", "target": "servers.a"}));
    run(&rig.registry, &json!({"command": "uninstall_network_conditioner", "target": "servers.c"}));
    assert_eq!((answer(a).await, answer(b).await), ("failed".into(), "budget_exhausted".into()));
    assert_eq!((answer(c).await, answer(d).await), ("7".into(), "injected".into()));
    run(&rig.registry, &json!({"command": "uninstall_failure_budget", "target": "servers.b"}));
    run(&rig.registry, &json!({"command": "uninstall_network_conditioner", "target": "servers.d"}));
    assert_eq!((answer(b).await, answer(d).await), ("failed".into(), "7".into()));
    assert_eq!(rig.row("failure_budget/both").state, "retired", "it holds no levers");
}

#[tokio::test(start_paused = true)]
async fn a_named_budget_that_has_lost_its_last_stack_is_out_of_service() {
    let text = |a: &str, b: &str| {
        format!(
            "failure_budgets: {{db: {{min_samples: 1, action: reject}}}}
servers: {{a: {{timeout: 60s{a}}}, b: {{timeout: 60s{b}}}}}"
        )
    };
    let has = ", failure_budget: db";
    let rig = Rig::new(&text(has, has));
    let (a, b) = (server(&rig, "a", failing().0), server(&rig, "b", failing().0));
    answer(&a).await;
    let budget = rig.stacks.server("a").unwrap().failure_budget().unwrap();
    assert!(budget.tripped());
    rig.reload(&text("", has));
    assert!(budget.tripped(), "the other one still has it");
    assert_eq!(answer(&b).await, "budget_exhausted");
    rig.reload(&text("", ""));
    assert_eq!(budget.state(), BudgetState::Retired);
    // It is written down, so it is shown, and nothing is wrong with it.
    assert_eq!(rig.row("failure_budget/db").level, Level::Ok);
    assert_eq!((answer(&a).await, answer(&b).await), ("failed".into(), "failed".into()));

    // Back in a stack it begins anew.
    rig.reload(&text(has, ""));
    assert_eq!(budget.state(), BudgetState::Healthy);
    assert_eq!((answer(&a).await, answer(&a).await), ("failed".into(), "budget_exhausted".into()));
    assert!(budget.tripped());
    // One that the program has asked for is its own business.
    rig.stacks.failure_budget("db").unwrap();
    rig.reload(&text("", ""));
    assert!(budget.tripped());
}

#[tokio::test(start_paused = true)]
async fn calls_that_hang_in_named_faults_go_on_when_those_go() {
    let text = |faults: &str| {
        format!(
            "faults: {{stuck: {{rules: [{{fault: hang}}]}}}}\nservers: {{api: {{timeout: 1h{faults}}}}}"
        )
    };
    let rig = Rig::new(&text(", faults: stuck"));
    let (inner, fails) = failing();
    fails.store(false, Ordering::Relaxed);
    let service = server(&rig, "api", inner);
    let hang = || tokio::spawn(service.clone().oneshot(7));
    let hanging = hang();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(!hanging.is_finished());
    rig.reload(&text(""));
    tokio::time::timeout(Duration::from_secs(1), hanging).await.unwrap().unwrap().unwrap_err();
    assert_eq!(answer(&service).await, "7");
    rig.reload(&text(", faults: stuck"));
    let hanging = hang();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(!hanging.is_finished(), "armed again");
}

#[tokio::test(start_paused = true)]
async fn faults_that_were_switched_off_stay_off_over_files() {
    let text = |faults: &str| {
        format!("servers: {{api: {{timeout: 60s{faults}}}, other: {{timeout: 60s}}}}")
    };
    let loss = ", faults: {rules: [{fault: loss}]}";
    let rig = Rig::new(&text(loss));
    let (inner, fails) = failing();
    fails.store(false, Ordering::Relaxed);
    let service = server(&rig, "api", inner);
    assert_eq!(answer(&service).await, "injected");
    // One of them.
    run(&rig.registry, &json!({"command": "disarm", "target": "conditioner/api"}));
    assert_eq!(answer(&service).await, "7");
    let named = |name: &str| {
        let faults = format!("faults: {{{name}: {{rules: [{{fault: loss}}]}}}}\n");
        faults + &text(&format!(", faults: {name}"))
    };
    rig.reload(&named("a"));
    assert_eq!(
        (answer(&service).await, rig.row("conditioner/a").state.as_str()),
        ("7".into(), "disarmed")
    );
    rig.reload(&named("b"));
    assert_eq!(answer(&service).await, "7");
    // Also when there were none for a while.
    rig.reload(&text(""));
    rig.reload(&named("b"));
    assert_eq!(answer(&service).await, "7");
    // Whoever wants them must say so.
    rig.stacks.conditioner("b").unwrap().arm().unwrap();
    assert_eq!(answer(&service).await, "injected");

    // All of them: also those that have nothing to do with any there was.
    run(&rig.registry, &json!({"command": "kill_faults"}));
    rig.try_reload(&text("")).unwrap();
    rig.reload(&(named("c") + "\n"));
    assert_eq!(
        (answer(&service).await, rig.row("conditioner/c").state.as_str()),
        ("7".into(), "disarmed")
    );
    assert!(!rig.stacks.conditioner("c").unwrap().is_injecting());
}

#[tokio::test(start_paused = true)]
async fn every_order_that_a_row_takes() {
    let rig = Rig::new(
        "clients:
  pay:
    total_timeout: 60s
    attempt_timeout: 1s
    retry: adaptive
    retry_budget: {ratio: 10%}
    rate_limit: 1000/s
    breaker: {consecutive_failures: 3}
    faults: {rules: [{fault: loss, share: 0%}]}
  learn: {total_timeout: 60s, backend: learned}
servers:
  api:
    timeout: 60s
    rate_limit: 1000/s
    failure_budget: {threshold: 5%}
    faults: {rules: [{fault: loss, share: 0%}]}
",
    );
    let inner = || failing().0;
    let pay = Boxed::new(rig.stacks.client("pay").unwrap().layer(inner()));
    let (works, fails) = failing();
    fails.store(false, Ordering::Relaxed);
    let learn = Boxed::new(rig.stacks.client("learn").unwrap().layer(works));
    let api = server(&rig, "api", inner());
    let mut orders = AtomicU32::new(0);
    for row in rig.registry.status().objects {
        for command in &row.commands {
            let order = json!({"command": command, "target": row.id, "quota": "5/s"});
            let order = match *command {
                "set_quota" => order,
                _ => json!({"command": command, "target": row.id}),
            };
            assert_eq!(run(&rig.registry, &order), Done::Operated(1), "{order}");
            *orders.get_mut() += 1;
        }
    }
    assert!(*orders.get_mut() >= 12, "{orders:?}");
    // They have reached what the services ask.
    run(&rig.registry, &json!({"command": "force_open", "target": "circuit_breaker/pay"}));
    assert_eq!(answer(&pay).await, "circuit_open");
    run(&rig.registry, &json!({"command": "reset", "target": "circuit_breaker/pay"}));
    assert_eq!(answer(&pay).await, "failed");
    run(
        &rig.registry,
        &json!({"command": "set_quota", "target": "rate_limit/api", "quota": "1/h"}),
    );
    answer(&api).await;
    assert_eq!(answer(&api).await, "rate_limited");
    assert_eq!(answer(&learn).await, "7");
    for target in ["clients.pay", "clients.learn", "servers.api"] {
        let install = json!({
            "command": "install_network_conditioner", "target": target, "loss_rate": 1
        });
        assert_eq!(run(&rig.registry, &install), Done::Installed("Conditioner"));
        let uninstall = json!({"command": "uninstall_network_conditioner", "target": target});
        assert_eq!(run(&rig.registry, &uninstall), Done::Uninstalled { was_installed: true });
    }
}

/// Either no call comes through the limit, or each is lost. One that comes through both has met the limit of one file and
/// the faults of another.
#[test]
fn faults_are_exchanged_with_the_other_parts() {
    let closed = "servers: {api: {rate_limit: none}}\nrate_limits: {none: 1/day}\nfaults: {all: {rules: [{fault: loss}]}}";
    let lossy = closed.replace("{rate_limit: none}", "{faults: all}");
    let rig = Rig::new(closed);
    rig.stacks.rate_limiter("none").unwrap().try_acquire().unwrap();
    rig.stacks.conditioner("all").unwrap();
    let inner = Inner::new(service_fn(|n: u32| async move { Ok::<_, io::Error>(n) }));
    let service = server(&rig, "api", inner);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let callers = [0; 2].map(|_| {
            let mut service = service.clone();
            let over = &over;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
                runtime.unwrap().block_on(async {
                    let mut calls = [0_u32; 2];
                    while !over.load(Ordering::Relaxed) {
                        let error = async {
                            let service = service.ready().await?;
                            tower::Service::call(service, 1).await
                        };
                        let error = error.await.unwrap_err();
                        let refused = Rejection::find(&*error).unwrap().kind().as_str();
                        calls[usize::from(refused == "injected")] += 1;
                    }
                    calls
                })
            })
        });
        for _ in 0..150 {
            rig.reload(&lossy);
            rig.reload(closed);
        }
        over.store(true, Ordering::Relaxed);
        for caller in callers {
            let calls = caller.join().unwrap();
            assert!(calls.iter().all(|n| *n > 0), "{calls:?}");
        }
    });
}

#[test]
fn commands_as_values_too() {
    let registry = Registry::new();
    let stacks = Loader::empty().set("servers.api.timeout", "5s").load().unwrap().stacks();
    let stack = stacks.register_in(&registry).server("api").unwrap();
    let mut install = InstallFailureBudget::default();
    (install.target, install.on_breach) = (Some("servers.api".to_owned()), BreachAction::Notify);
    registry.apply(&Command::InstallFailureBudget(install)).unwrap();
    assert_eq!(stack.failure_budget().unwrap().name(), "servers.api");
    let mut uninstall = Uninstall::default();
    uninstall.target = Some("servers.api".to_owned());
    registry.apply(&Command::UninstallFailureBudget(uninstall)).unwrap();
    assert!(stack.failure_budget().is_none());
}
