//! What was out of service and is in a stack or in somebody's hands again: it works, unless somebody has switched it off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use buttress::config::{Loader, Stacks};
use buttress::control::{Done, Registry, execute};
use buttress::failure_budget::BudgetState;
use serde_json::{Value, json};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::rig::Rig;

fn run(registry: &Registry, command: &Value) -> Done {
    let done = execute(registry, command).unwrap().pop().unwrap();
    done.result.unwrap_or_else(|error| panic!("{command}: {error}"))
}

fn disarm(rig: &Rig, name: &str) {
    run(&rig.registry, &json!({"command": "disarm", "target": format!("conditioner/{name}")}));
}

fn state(rig: &Rig, id: &str) -> String {
    rig.row(id).state
}

/// Runs something in each event of `buttress`.
struct Hears<F>(F);

impl<F: Fn() + 'static> Subscriber for Hears<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == "buttress"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        (self.0)();
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn hearing<T>(hears: impl Fn() + Send + Sync + 'static, then: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(Hears(hears), then)
}

/// In a thread of its own: whoever waits for a lock for ever fails after a while.
fn ends(test: impl FnOnce() + Send + 'static) {
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        tell.send(()).unwrap();
    });
    let end = told.recv_timeout(Duration::from_secs(20));
    assert_ne!(end, Err(mpsc::RecvTimeoutError::Timeout), "it hangs");
    thread.join().unwrap();
}

const LOSS: &str = "{rules: [{fault: loss}]}";

fn faults(of: &str) -> String {
    format!("faults: {{a: {LOSS}, b: {LOSS}}}\nservers: {{api: {{timeout: 60s{of}}}}}")
}

#[test]
fn faults_that_were_there_before_stay_off_in_place_of_disarmed_ones() {
    let rig = Rig::new(&faults(", faults: a"));
    rig.stacks.server("api").unwrap();
    rig.reload(&faults(", faults: b"));
    assert_eq!(state(&rig, "conditioner/b"), "injecting");
    rig.reload(&faults(", faults: a"));
    assert_eq!(
        (state(&rig, "conditioner/a"), state(&rig, "conditioner/b")),
        ("injecting".into(), "disarmed".into())
    );
    disarm(&rig, "a");
    rig.reload(&faults(", faults: b"));
    assert_eq!(state(&rig, "conditioner/b"), "disarmed");
    // And from there, too.
    rig.reload(&faults(""));
    rig.reload(&faults(", faults: b"));
    assert_eq!(state(&rig, "conditioner/b"), "disarmed");
}

#[test]
fn faults_that_were_switched_off_while_nobody_had_them_stay_off() {
    for kill in [false, true] {
        let rig = Rig::new(&faults(", faults: a"));
        rig.stacks.server("api").unwrap();
        rig.reload(&faults(""));
        match kill {
            true => drop(run(&rig.registry, &json!({"command": "kill_faults"}))),
            false => disarm(&rig, "a"),
        }
        rig.reload(&faults(", faults: a"));
        assert_eq!(state(&rig, "conditioner/a"), "disarmed", "{kill}");
        let asked = rig.stacks.conditioner("a").unwrap();
        assert!(!asked.is_injecting(), "{kill}");
        asked.arm().unwrap();
        rig.reload(&faults(", faults: a, rate_limit: 5/s"));
        assert!(asked.is_injecting(), "by hand: {kill}");
    }
}

#[test]
fn a_kill_within_a_reload_is_not_undone() {
    // Faults that there were, and new ones.
    for other in ["a", "c"] {
        let text = |of: &str| {
            format!(
                "{}\nfailure_budgets: {{x: {{}}}}",
                faults(of).replace("faults: {a", &format!("faults: {{c: {LOSS}, a"))
            )
        };
        let rig = Rig::new(&text(", faults: a, failure_budget: x"));
        rig.stacks.server("api").unwrap();
        rig.reload(&text(""));
        let registry = rig.registry.clone();
        // The budget is in service again, which is an event. The last one would come after all that.
        let first = AtomicBool::new(true);
        let kill = move || {
            if first.swap(false, Ordering::Relaxed) {
                run(&registry, &json!({"command": "kill_faults"}));
            }
        };
        let next = text(&format!(", faults: {other}, failure_budget: x"));
        hearing(kill, || rig.reload(&next));
        assert_eq!(state(&rig, "failure_budget/x"), "healthy");
        assert_eq!(state(&rig, &format!("conditioner/{other}")), "disarmed");
    }
}

#[test]
fn a_kill_holds_where_faults_become_allowed() {
    let text = |place: &str| {
        format!(
            "faults: {{a: {{allow_in: [{place}], environment: here, rules: [{{fault: loss}}]}}}}
servers: {{api: {{timeout: 60s, faults: a}}}}"
        )
    };
    let rig = Rig::new(&text("elsewhere"));
    rig.stacks.server("api").unwrap();
    assert_eq!(state(&rig, "conditioner/a"), "disarmed");
    rig.reload(&text("here"));
    assert_eq!(state(&rig, "conditioner/a"), "injecting");
    rig.reload(&text("elsewhere"));
    run(&rig.registry, &json!({"command": "kill_faults"}));
    rig.reload(&text("here"));
    assert_eq!(state(&rig, "conditioner/a"), "disarmed");
}

#[test]
fn what_the_program_asks_for_after_its_last_stack_works() {
    let text = |of: &str| {
        format!(
            "failure_budgets: {{shop: {{min_samples: 1}}}}\nfaults: {{slow: {LOSS}}}
servers: {{api: {{timeout: 60s{of}}}}}"
        )
    };
    let rig = Rig::new(&text(", failure_budget: shop, faults: slow"));
    rig.stacks.server("api").unwrap();
    rig.reload(&text(""));
    assert_eq!(
        (state(&rig, "failure_budget/shop"), state(&rig, "conditioner/slow")),
        ("retired".into(), "disarmed".into())
    );
    let budget = rig.stacks.failure_budget("shop").unwrap();
    assert_eq!(budget.state(), BudgetState::Healthy);
    budget.record(true);
    assert!(budget.tripped(), "it counts");
    assert!(rig.stacks.conditioner("slow").unwrap().is_injecting());
    // They are the program's now.
    rig.reload(&text(", rate_limit: 5/s"));
    assert!(budget.tripped() && rig.stacks.conditioner("slow").unwrap().is_injecting());
}

#[test]
fn a_server_that_is_gone_does_not_refuse_an_objective() {
    let x = |slo: &str| format!("failure_budgets: {{x: {{min_samples: 1{slo}}}}}\n");
    let both = "servers: {a: {failure_budget: x}, b: {failure_budget: x}}";
    let rig = Rig::new(&(x("") + both));
    let budget = |name: &str| rig.stacks.server(name).unwrap().failure_budget().unwrap();
    let first = budget("a");
    budget("b");
    let done = rig
        .try_reload(
            &(x(", slo: {objective: 99%, period: 7d}") + "servers: {a: {failure_budget: x}}"),
        )
        .unwrap();
    // The one that is gone runs on as it was, and so does its budget.
    let waiting: Vec<_> = done.waiting().iter().map(|change| change.key().to_owned()).collect();
    assert!(waiting.contains(&"failure_budgets.x.slo.period".to_owned()), "{waiting:?}");
    assert_eq!(first.state(), BudgetState::Healthy);
    for name in ["a", "b"] {
        first.reset();
        budget(name).record(true);
        assert!(first.tripped(), "{name}");
    }
    assert_eq!(rig.shown(), ["failure_budget/x"]);
}

#[test]
fn a_budget_that_a_command_retired_works_in_the_next_stack() {
    let text = |b: &str| {
        format!(
            "failure_budgets: {{x: {{min_samples: 1}}}}
servers: {{a: {{failure_budget: x{b}}}, b: {{timeout: 60s{b}, failure_budget: x}}, c: {{timeout: 60s{b}}}}}"
        )
    };
    let uninstall = json!({"command": "uninstall_failure_budget", "target": "servers.a"});
    let rig = Rig::new(&text(""));
    rig.stacks.server("a").unwrap();
    rig.stacks.server("c").unwrap();
    run(&rig.registry, &uninstall);
    assert_eq!(state(&rig, "failure_budget/x"), "retired");
    // Nobody gets it by another change.
    rig.reload(&text(", rate_limit: 5/s"));
    assert_eq!(state(&rig, "failure_budget/x"), "retired");
    let budget = rig.stacks.server("b").unwrap().failure_budget().unwrap();
    assert_eq!(budget.state(), BudgetState::Healthy);
    assert!(rig.stacks.server("a").unwrap().failure_budget().is_none());

    // By a file.
    let uninstall = json!({"command": "uninstall_failure_budget", "target": "servers.b"});
    run(&rig.registry, &uninstall);
    assert_eq!(budget.state(), BudgetState::Retired);
    rig.reload(&text("").replace("c: {timeout: 60s", "c: {timeout: 60s, failure_budget: x"));
    assert_eq!(budget.state(), BudgetState::Healthy);
    let stack = rig.stacks.server("c").unwrap();
    stack.failure_budget().unwrap().record(true);
    assert!(budget.tripped());
}

fn slo(period: &str, of: &str) -> String {
    let slo = format!("{{objective: 90%, period: {period}}}");
    format!(
        "failure_budgets: {{x: {{slo: {slo}}}, y: {{}}}}
servers: {{api: {{timeout: 60s{of}}}, other: {{timeout: 60s}}}}"
    )
}

/// Looks at the stacks in each event.
fn looking<T>(stacks: &Stacks, then: impl FnOnce() -> T) -> (T, u32) {
    let heard = Arc::new(AtomicU32::new(0));
    let (stacks, count) = (stacks.clone(), heard.clone());
    let look = move || {
        drop(stacks.config());
        count.fetch_add(1, Ordering::Relaxed);
    };
    let done = hearing(look, then);
    (done, heard.load(Ordering::Relaxed))
}

#[test]
fn who_hears_events_may_look_at_the_stacks() {
    ends(|| {
        let rig = Rig::new(&slo("7d", ", failure_budget: x"));
        let budget = || rig.stacks.server("api").unwrap().failure_budget().unwrap();
        budget().trip();
        // Another one takes its place, tripped: that, the one before, and the reload.
        let next = slo("1d", ", failure_budget: x");
        let ((), heard) = looking(&rig.stacks, || rig.reload(&next));
        assert!(budget().tripped());
        assert_eq!(heard, 3);

        let shared =
            slo("1d", ", failure_budget: x").replace("other: {", "other: {failure_budget: y, ");
        rig.reload(&shared);
        rig.stacks.server("other").unwrap();
        for command in ["api", "other"] {
            let target = format!("servers.{command}");
            run(&rig.registry, &json!({"command": "uninstall_failure_budget", "target": target}));
        }
        // One that a stack or the program gets is in service again, which is an event.
        let (budget, heard) = looking(&rig.stacks, || rig.stacks.failure_budget("x").unwrap());
        assert_eq!((budget.state(), heard), (BudgetState::Healthy, 1));
        rig.reload(&shared.replace("api:", "third: {failure_budget: y}, api:"));
        let (stack, heard) = looking(&rig.stacks, || rig.stacks.server("third").unwrap());
        assert_eq!((stack.failure_budget().unwrap().state(), heard), (BudgetState::Healthy, 1));
    });
}

#[test]
fn a_name_is_one_stack_of_a_registry() {
    let registry = Registry::new();
    let stacks = || {
        let loader = Loader::empty().set("servers.api.failure_budget", "x");
        let loader = loader.set("clients.api.total_timeout", "5s");
        let config = loader.set("failure_budgets.x.min_samples", 1).load().unwrap();
        config.stacks().register_in(&registry)
    };
    let (first, second) = (stacks().server("api").unwrap(), stacks());
    let uninstall = json!({"command": "uninstall_failure_budget", "target": "servers.api"});
    let error = second.server("api").unwrap_err();
    assert_eq!(error.field(), "servers.api", "{error}");
    // Commands still reach the one that there is.
    assert_eq!(run(&registry, &uninstall), Done::Uninstalled { was_installed: true });
    assert!(first.failure_budget().is_none());
    // The name of a client is another one.
    second.client("api").unwrap();
    assert!(stacks().client("api").is_err());
    // Without a registry nobody can mix them up.
    second.config().stacks().server("api").unwrap();

    drop(first);
    let next = second.server("api").unwrap();
    assert!(next.failure_budget().is_some());
    assert_eq!(run(&registry, &uninstall), Done::Uninstalled { was_installed: true });
    assert!(next.failure_budget().is_none());
    second.server("api").unwrap();
}

/// A file that is refused when its last stack has been looked at: of all that the others would have done, nothing is heard.
#[test]
fn a_refused_file_is_one_event_in_which_all_is_as_it_was() {
    ends(|| {
        let client = "\nclients: {z: {total_timeout: 5s, attempt_timeout: 1s, retry: adaptive}}";
        let rig = Rig::new(&(slo("7d", ", failure_budget: x") + client));
        rig.stacks.client("z").unwrap();
        rig.stacks.server("api").unwrap().failure_budget().unwrap().trip();
        let (stacks, before) = (rig.stacks.clone(), rig.stacks.config());
        let heard = Arc::new(AtomicU32::new(0));
        let (hears, api) = (Arc::clone(&heard), rig.stacks.server("api").unwrap());
        let as_it_was = move || {
            assert!(Arc::ptr_eq(&stacks.config(), &before) && stacks.generation() == 1);
            assert!(api.failure_budget().unwrap().tripped());
            hears.fetch_add(1, Ordering::Relaxed);
        };
        // Another budget would take the place of this one, which is two events.
        let bad = slo("1d", ", failure_budget: x") + &client.replace("1s", "7s");
        let error = hearing(as_it_was, || rig.try_reload(&bad).unwrap_err());
        assert!(error.to_string().contains("attempt_not_below_total"), "{error}");
        assert_eq!(heard.load(Ordering::Relaxed), 1, "that it was refused");
    });
}

/// Whoever comes first has the name, and commands reach that one.
#[test]
fn of_two_that_want_a_name_at_the_same_time_one_gets_it() {
    let config = Loader::empty().set("clients.api.total_timeout", "5s").load().unwrap();
    for _ in 0..200 {
        let registry = Registry::new();
        let meet = std::sync::Barrier::new(2);
        let made = std::thread::scope(|scope| {
            let make = || {
                let stacks = config.stacks().register_in(&registry);
                meet.wait();
                stacks.client("api")
            };
            let two = [scope.spawn(make), scope.spawn(make)];
            two.map(|thread| thread.join().unwrap())
        });
        let [one, two] = &made;
        assert_ne!(one.is_ok(), two.is_ok(), "{one:?} {two:?}");
        let stack = one.as_ref().or(two.as_ref()).unwrap();
        run(&registry, &json!({"command": "install_circuit_breaker", "target": "clients.api"}));
        assert!(stack.breaker().is_some());
    }
}

#[test]
fn what_must_stay_off_in_one_of_two_stacks_that_get_it_does_so_in_both() {
    // Faults that there were, and new ones.
    for before in [", b: {timeout: 60s, faults: b}", ""] {
        let text = |first: &str, last: &str| {
            format!(
                "faults: {{a: {LOSS}, b: {LOSS}}}
servers: {{a: {{timeout: 60s{first}}}, z: {{timeout: 60s{last}}}{before}}}"
            )
        };
        let rig = Rig::new(&text("", ", faults: a"));
        let _stacks = ["a", "z"].map(|name| rig.stacks.server(name).unwrap());
        if !before.is_empty() {
            rig.reload(&text("", ", faults: b"));
            rig.reload(&text("", ", faults: a"));
        }
        disarm(&rig, "a");
        rig.reload(&text(", faults: b", ", faults: b"));
        assert_eq!(state(&rig, "conditioner/b"), "disarmed", "{before}");
    }
}
