//! What objects begin with waits for a restart, and is told; an objective comes and goes with another budget.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use buttress::config::Change;
use buttress::failure_budget::BudgetState;
use buttress::observe::Severity;
use tower::{Layer, ServiceExt, service_fn};

use super::rig::{Boxed, Inner, Rig};

fn keys(changes: &[Change]) -> Vec<&str> {
    changes.iter().map(Change::key).collect()
}

#[test]
fn they_wait_and_the_answer_says_so() {
    let text = |n: u32| {
        format!(
            "clients:
  pay:
    total_timeout: 60s
    retry: adaptive
    breaker: {{seed: {n}, open_for: {n}s}}
    rate_limit: {{rate: 100/s, initial_tokens: {n}, max_waiting: {n}}}
    retry_budget: {{floor: {n}, initial_tokens: {n}, burst: {}}}
",
            10 + n
        )
    };
    let rig = Rig::new(&text(1));
    rig.stacks.client("pay").unwrap();
    let done = rig.try_reload(&text(2)).unwrap();
    assert_eq!(
        keys(done.waiting()),
        [
            "clients.pay.breaker.seed",
            "clients.pay.rate_limit.initial_tokens",
            "clients.pay.retry_budget.floor",
            "clients.pay.retry_budget.initial_tokens",
        ]
    );
    assert_eq!(
        keys(done.applied()),
        [
            "clients.pay.breaker.open_for",
            "clients.pay.rate_limit.max_waiting",
            "clients.pay.retry_budget.burst",
        ]
    );
    let told = done.to_string();
    assert!(told.contains("waits for a restart: clients.pay.breaker.seed 1 -> 2, "), "{told}");
    let events = rig.registry.events_since(0).events;
    let event = events.iter().find(|event| event.event == "reloaded").unwrap();
    assert_eq!(event.severity, Severity::Warning);
    assert!(event.detail.len() > 200 && told.starts_with(&*event.detail), "{event:?}");
    // What is new begins with them.
    let fresh = text(2).replace("pay:", "new:") + &text(2).replace("clients:\n", "");
    let done = rig.try_reload(&fresh).unwrap();
    assert!(done.waiting().is_empty(), "{done}");
    let new = rig.stacks.client("new").unwrap();
    assert!(new.rate_limiter().unwrap().tokens() < 2.5);
    assert!((new.retry_budget().unwrap().stats().credit - 2.0).abs() < 1e-9);
}

#[tokio::test(start_paused = true)]
async fn an_objective_comes_and_goes() {
    let rig = Rig::new(&slo(""));
    let fails = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&fails);
    let inner = Inner::new(service_fn(move |n: u32| {
        let fails = told.load(Ordering::Relaxed);
        async move { if fails { Err(io::Error::from(io::ErrorKind::Other)) } else { Ok(n) } }
    }));
    let service = Boxed::new(rig.stacks.server("api").unwrap().layer(inner));
    let budget = || rig.stacks.server("api").unwrap().failure_budget().unwrap();
    let call = || service.clone().oneshot(1);
    call().await.unwrap_err();
    let first = budget();
    assert_eq!((first.sample_count(), first.tripped()), (1, false));

    rig.reload(&slo(", slo: {objective: 99%, period: 7d}"));
    let snapshot = budget().snapshot();
    assert!((snapshot.slo.unwrap().objective - 0.99).abs() < 1e-9);
    assert_eq!(rig.shown(), ["failure_budget/db"], "one of them");
    assert_eq!(first.state(), BudgetState::Retired);
    call().await.unwrap_err();
    assert_eq!((budget().snapshot().slo.unwrap().samples, first.sample_count()), (1, 1));

    // The same period: in place.
    rig.reload(&slo(", slo: {objective: 90%, period: 7d}"));
    assert_eq!(budget().snapshot().slo.unwrap().samples, 1);
    // Another one: a new budget, which is tripped if this one is.
    budget().trip();
    rig.reload(&slo(", slo: {objective: 90%, period: 1d}"));
    assert_eq!(budget().snapshot().slo.unwrap().samples, 0);
    assert!(budget().tripped());
    call().await.unwrap_err();
    budget().reset();
    fails.store(false, Ordering::Relaxed);
    call().await.unwrap();
    // Gone, with the window it had.
    let samples = budget().sample_count();
    rig.reload(&slo(""));
    assert_eq!((budget().snapshot().slo.is_none(), budget().sample_count()), (true, samples));
    call().await.unwrap();
    assert_eq!(budget().sample_count(), samples + 1);

    // Whoever has asked for it by its name would be left with the old one: so it waits.
    let asked = rig.stacks.failure_budget("db").unwrap();
    let done = rig.try_reload(&slo(", slo: {objective: 99%, period: 7d}")).unwrap();
    assert_eq!(
        keys(done.waiting()),
        ["failure_budgets.db.slo.objective", "failure_budgets.db.slo.period"]
    );
    assert_eq!(asked.state(), BudgetState::Healthy);
    call().await.unwrap();
    assert_eq!(asked.sample_count(), samples + 2);
}

fn slo(more: &str) -> String {
    format!(
        "failure_budgets: {{db: {{min_samples: 5, action: reject{more}}}}}
servers: {{api: {{timeout: 60s, failure_budget: db}}}}"
    )
}
