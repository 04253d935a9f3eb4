//! Circuit breakers of recloser, failsafe and tower-resilience.

use std::task::{Context, Poll};
use std::time::Duration;

use failsafe::futures::CircuitBreaker as _;
use recloser::{AsyncRecloser, Recloser};
use tower::{Layer, Service};
use tower_resilience::circuitbreaker::{
    CircuitBreaker, CircuitBreakerConfigBuilder, CircuitBreakerHandle, CircuitBreakerLayer,
    DefaultClassifier, SlidingWindowType,
};

use crate::case::{Batch, Callers, Case, Expect, Hold, Reuse, Runner, direct, fill, numbers};
use crate::floor::{Answer, Fail};

const HOUR: Duration = Duration::from_secs(3600);

pub fn cases() -> Vec<Case> {
    let mut all = recloser_cases();
    all.extend(failsafe_cases());
    all.extend(tower_resilience_cases());
    all
}

/// The few lines that make recloser a service.
#[derive(Clone)]
struct Reclosed<S>(S, AsyncRecloser);

impl<S: Service<u64, Response = u64>> Service<u64> for Reclosed<S> {
    type Response = u64;
    type Error = recloser::Error<S::Error>;
    type Future = recloser::RecloserFuture<S::Future, recloser::AnyError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx).map_err(recloser::Error::Inner)
    }

    fn call(&mut self, request: u64) -> Self::Future {
        self.1.call(self.0.call(request))
    }
}

fn reclosed<S>(inner: S, len: usize) -> Reclosed<S> {
    let recloser = Recloser::custom().error_rate(0.5).closed_len(len).open_wait(HOUR).build();
    Reclosed(inner, AsyncRecloser::from(recloser))
}

fn recloser_cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (label, len) in [("10", 10), ("100", 100), ("1k", 1000), ("100k", 100_000)] {
        all.push(
            Case::new(
                format!("breaker/closed count@{label}/recloser"),
                Expect::Allowed,
                move || numbers(reclosed(Answer, len), Hold::Reuse),
            )
            .scales(),
        );
    }
    all.push(Case::new("breaker/closed direct/recloser", Expect::Allowed, || {
        let recloser: &'static Recloser =
            Box::leak(Box::new(Recloser::custom().closed_len(100).build()));
        direct((), move |()| move || recloser.call(|| Ok::<_, ()>(7_u64)).is_ok())
    }));
    all.push(
        Case::new("breaker/closed, cloned each call/recloser", Expect::Allowed, || {
            numbers(reclosed(Answer, 100), Hold::CloneEach)
        })
        .scales(),
    );
    all.push(
        Case::new("breaker/open/recloser", Expect::Refused, || {
            let service = reclosed(Fail, 10);
            fill(&service, 20);
            numbers(Reclosed(Answer, service.1), Hold::Reuse)
        })
        .scales(),
    );
    all
}

/// The few lines that make failsafe a service.
struct Safe<S, P>(S, failsafe::StateMachine<P, ()>);

impl<S: Clone, P> Clone for Safe<S, P> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), self.1.clone())
    }
}

impl<S, P> Service<u64> for Safe<S, P>
where
    S: Service<u64, Response = u64>,
    P: failsafe::FailurePolicy + Send + Sync,
{
    type Response = u64;
    type Error = failsafe::Error<S::Error>;
    type Future = failsafe::futures::ResponseFuture<S::Future, P, (), failsafe::Any>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx).map_err(failsafe::Error::Inner)
    }

    fn call(&mut self, request: u64) -> Self::Future {
        self.1.call(self.0.call(request))
    }
}

fn consecutive() -> failsafe::failure_policy::ConsecutiveFailures<failsafe::backoff::Constant> {
    failsafe::failure_policy::consecutive_failures(5, failsafe::backoff::constant(HOUR))
}

fn failsafe_cases() -> Vec<Case> {
    use failsafe::Config;
    vec![
        Case::new("breaker/closed consecutive/failsafe", Expect::Allowed, || {
            let machine = Config::new().failure_policy(consecutive()).build();
            numbers(Safe(Answer, machine), Hold::Reuse)
        })
        .scales(),
        Case::new("breaker/closed time@100k/failsafe (EMA)", Expect::Allowed, || {
            numbers(Safe(Answer, Config::new().build()), Hold::Reuse)
        })
        .scales(),
        Case::new("breaker/closed, cloned each call/failsafe", Expect::Allowed, || {
            let machine = Config::new().failure_policy(consecutive()).build();
            numbers(Safe(Answer, machine), Hold::CloneEach)
        })
        .scales(),
        Case::new("breaker/open/failsafe", Expect::Refused, || {
            let service = Safe(Fail, Config::new().failure_policy(consecutive()).build());
            fill(&service, 20);
            numbers(Safe(Answer, service.1), Hold::Reuse)
        })
        .scales(),
    ]
}

fn builder() -> CircuitBreakerConfigBuilder<DefaultClassifier> {
    CircuitBreakerLayer::builder().name("payments").wait_duration_in_open(HOUR)
}

type Handled = (CircuitBreaker<Answer, DefaultClassifier>, CircuitBreakerHandle);

/// `build_with_handle` is how its documentation shares one state between services.
fn layered(builder: CircuitBreakerConfigBuilder<DefaultClassifier>) -> Handled {
    let (layer, handle) = builder.build_with_handle().expect("a valid configuration");
    (layer.layer(Answer), handle)
}

fn count(size: usize) -> CircuitBreakerConfigBuilder<DefaultClassifier> {
    builder()
        .sliding_window_type(SlidingWindowType::CountBased)
        .sliding_window_size(size)
        .failure_rate_threshold(0.5)
}

fn time() -> CircuitBreakerConfigBuilder<DefaultClassifier> {
    builder()
        .sliding_window_type(SlidingWindowType::TimeBased)
        .sliding_window_duration(HOUR)
        .failure_rate_threshold(0.5)
}

/// Holds the number of records in a time window near `fill`: each batch starts from a fresh window.
struct Refilled {
    service: CircuitBreaker<Answer, DefaultClassifier>,
    handle: CircuitBreakerHandle,
    fill: u64,
}

impl Refilled {
    fn caller(&self) -> impl Runner + use<> {
        let allowed = |answer: Result<u64, _>| answer.is_ok();
        Reuse { service: self.service.clone(), request: || 7_u64, allowed }
    }
}

impl Runner for Refilled {
    fn prepare(&mut self) -> Batch<'_> {
        Box::pin(async move {
            // `reset` leaves a closed circuit's records where they are; a change of state drops them.
            self.handle.force_open().await;
            self.handle.force_closed().await;
            let mut caller = self.caller();
            caller.run(self.fill).await
        })
    }

    fn run(&mut self, calls: u64) -> Batch<'_> {
        Box::pin(async move {
            let mut caller = self.caller();
            caller.run(calls).await
        })
    }
}

fn refilled(builder: CircuitBreakerConfigBuilder<DefaultClassifier>, fill: u64) -> Callers {
    let (service, handle) = layered(builder);
    Box::new(move || Box::new(Refilled { service: service.clone(), handle: handle.clone(), fill }))
}

fn tower_resilience_cases() -> Vec<Case> {
    let slow = |builder: CircuitBreakerConfigBuilder<_>| builder.slow_call_duration_threshold(HOUR);
    let mut all = vec![
        Case::new("breaker/closed consecutive/tower-resilience", Expect::Allowed, || {
            numbers(layered(builder().consecutive_failures(5)).0, Hold::Reuse)
        })
        .scales(),
    ];
    for (label, size) in [("10", 10), ("100", 100), ("1k", 1000), ("100k", 100_000)] {
        all.push(
            Case::new(
                format!("breaker/closed count@{label}/tower-resilience"),
                Expect::Allowed,
                move || numbers(layered(count(size)).0, Hold::Reuse),
            )
            .scales(),
        );
    }
    all.push(Case::new(
        "breaker/closed count@100 slow/tower-resilience",
        Expect::Allowed,
        move || numbers(layered(slow(count(100))).0, Hold::Reuse),
    ));
    all.push(
        Case::new("breaker/closed time@100/tower-resilience", Expect::Allowed, || {
            refilled(time(), 90)
        })
        .max_batch(20)
        .counted_calls(20),
    );
    all.push(
        Case::new("breaker/closed time@1k/tower-resilience", Expect::Allowed, || {
            refilled(time(), 900)
        })
        .max_batch(200)
        .counted_calls(200),
    );
    // Refilling these for each batch would take longer than the batch; an hour's window keeps what is
    // there, and a batch is short enough to add little.
    all.push(
        Case::new("breaker/closed time@10k/tower-resilience", Expect::Allowed, || {
            let (service, _) = layered(time());
            fill(&service, 10_000);
            numbers(service, Hold::Reuse)
        })
        .max_batch(40)
        .counted_calls(40),
    );
    all.push(
        Case::new("breaker/closed time@100k/tower-resilience", Expect::Allowed, || {
            let (service, _) = layered(time());
            fill(&service, 100_000);
            numbers(service, Hold::Reuse)
        })
        .max_batch(20)
        // Filling takes 65 billion instructions: not under an emulator.
        .counted_calls(20)
        .not_emulated(),
    );
    all.push(
        Case::new("breaker/closed time@100 slow/tower-resilience", Expect::Allowed, move || {
            refilled(slow(time()), 90)
        })
        .max_batch(20)
        .counted_calls(20),
    );
    all.push(
        Case::new("breaker/closed, cloned each call/tower-resilience", Expect::Allowed, || {
            numbers(layered(count(100)).0, Hold::CloneEach)
        })
        .scales(),
    );
    all.push(
        Case::new("breaker/open/tower-resilience", Expect::Refused, || {
            let (service, handle) = layered(count(100));
            crate::runtime().block_on(handle.force_open());
            numbers(service, Hold::Reuse)
        })
        .scales(),
    );
    all
}
