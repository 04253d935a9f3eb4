//! Our circuit breaker.

use std::time::Duration;

use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerBuilder, CircuitBreakerLayer};
use buttress::{AsTyped, error_chain};
use tower::Layer;

use crate::case::{Callers, Case, Expect, Hold, direct, fill, numbers};
use crate::floor::Answer;

const HOUR: Duration = Duration::from_secs(3600);
const WINDOW: Duration = Duration::from_secs(10);

fn builder() -> CircuitBreakerBuilder {
    CircuitBreaker::builder("payments").open_for(HOUR)
}

fn consecutive() -> CircuitBreakerBuilder {
    builder().consecutive_failures(5)
}

fn count(calls: u32) -> CircuitBreakerBuilder {
    builder().failure_rate(0.5).window_calls(calls).min_calls(calls.min(20))
}

fn time() -> CircuitBreakerBuilder {
    builder().failure_rate(0.5).window(WINDOW)
}

fn slow(builder: CircuitBreakerBuilder) -> CircuitBreakerBuilder {
    builder.slow_calls(HOUR / 2, 0.5)
}

/// The layer as it is by default, with `filled` calls already in the window.
fn layered(builder: CircuitBreakerBuilder, filled: u64, hold: Hold) -> Callers {
    let breaker = builder.build().expect("a valid configuration");
    let service = CircuitBreakerLayer::new(breaker).layer(Answer);
    fill(&service, filled);
    numbers(service, hold)
}

/// With the error types of the call kept.
fn typed(builder: CircuitBreakerBuilder, hold: Hold) -> Callers {
    let breaker = builder.build().expect("a valid configuration");
    let layer = CircuitBreakerLayer::new(breaker).classify(error_chain()).on_reject(AsTyped);
    numbers(layer.layer(Answer), hold)
}

fn open() -> CircuitBreaker {
    // Trips as it would in service, so that a refusal knows the time left.
    let breaker = consecutive().build().expect("a valid configuration");
    for _ in 0..5 {
        let _ = breaker.call_blocking(|| Err::<(), _>(crate::floor::Oops));
    }
    breaker
}

pub(super) fn cases() -> Vec<Case> {
    let closed = |what: &str, make: fn() -> Callers| {
        Case::new(format!("breaker/closed {what}/us"), Expect::Allowed, make).no_alloc().scales()
    };
    let cloned = |what: &str, make: fn() -> Callers| {
        Case::new(format!("breaker/closed, cloned each call/us {what}"), Expect::Allowed, make)
            .no_alloc()
            .scales()
            .against("breaker/closed, cloned each call/recloser")
    };
    use Hold::{CloneEach, Reuse};
    vec![
        closed("consecutive", || layered(consecutive(), 0, Reuse))
            .against("breaker/closed count@100/recloser"),
        Case::new("breaker/closed consecutive/us typed", Expect::Allowed, || {
            typed(consecutive(), Reuse)
        })
        .no_alloc()
        .against("breaker/closed count@100/recloser"),
        closed("count@10", || layered(count(10), 0, Reuse))
            .against("breaker/closed count@10/tower-resilience"),
        closed("count@100", || layered(count(100), 0, Reuse))
            .against("breaker/closed count@100/recloser"),
        closed("count@1k", || layered(count(1000), 0, Reuse))
            .against("breaker/closed count@1k/recloser"),
        closed("count@100k", || layered(count(100_000), 0, Reuse))
            .against("breaker/closed count@100k/recloser"),
        closed("count@100 slow", || layered(slow(count(100)), 0, Reuse))
            .against("breaker/closed count@100 slow/tower-resilience"),
        closed("time@100", || layered(time(), 100, Reuse))
            .against("breaker/closed time@100/tower-resilience"),
        closed("time@1k", || layered(time(), 1000, Reuse))
            .against("breaker/closed time@1k/tower-resilience"),
        closed("time@10k", || layered(time(), 10_000, Reuse))
            .against("breaker/closed time@10k/tower-resilience"),
        closed("time@100k", || layered(time(), 100_000, Reuse))
            .against("breaker/closed time@100k/tower-resilience"),
        closed("time@100 slow", || layered(slow(time()), 100, Reuse))
            .against("breaker/closed time@100 slow/tower-resilience"),
        cloned("consecutive", || layered(consecutive(), 0, CloneEach)),
        cloned("count@100", || layered(count(100), 0, CloneEach)),
        cloned("time", || layered(time(), 100, CloneEach)),
        Case::new("breaker/closed direct/us", Expect::Allowed, || {
            let breaker = count(100).build().expect("a valid configuration");
            direct(breaker, |breaker| {
                let breaker = breaker.clone();
                move || breaker.call_blocking(|| Ok::<_, crate::floor::Oops>(7_u64)).is_ok()
            })
        })
        .no_alloc()
        .scales()
        .against("breaker/closed direct/recloser"),
        Case::new("breaker/open/us", Expect::Refused, || {
            numbers(CircuitBreakerLayer::new(open()).layer(Answer), Reuse)
        })
        .scales()
        .against("breaker/open/recloser"),
        Case::new("breaker/open/us typed", Expect::Refused, || {
            numbers(CircuitBreakerLayer::new(open()).on_reject(AsTyped).layer(Answer), Reuse)
        })
        .no_alloc()
        .scales()
        .against("breaker/open/recloser"),
    ]
}
