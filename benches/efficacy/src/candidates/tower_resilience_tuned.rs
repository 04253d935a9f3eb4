//! tower-resilience's retry around its breaker, tuned as its guide and the textbook say: a window in time, a short
//! open time, more probes, jitter, a small budget, and neither the breaker's own refusals nor a 429 retried.

use std::time::Duration;

use tower::Layer;
use tower_resilience::circuitbreaker::{
    CircuitBreakerError, CircuitBreakerLayer, SlidingWindowType,
};
use tower_resilience::retry::{ExponentialRandomBackoff, RetryBudgetBuilder, RetryLayer};

use super::attempts::{Spread, Timed};
use super::{Candidate, Client, Known};
use crate::request::{Answer, Endpoint, Fault, Request};

type Failed = CircuitBreakerError<Fault>;

pub(crate) struct Tuned;

impl Candidate for Tuned {
    fn name(&self) -> &'static str {
        "t-r retry + breaker, tuned"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let breaker = CircuitBreakerLayer::builder()
            .sliding_window_type(SlidingWindowType::TimeBased)
            .sliding_window_duration(Duration::from_secs(2))
            .minimum_number_of_calls(20)
            .failure_rate_threshold(0.5)
            .wait_duration_in_open(Duration::from_secs(1))
            .permitted_calls_in_half_open(3)
            .failure_classifier(|result: &Result<Answer, Fault>| {
                matches!(result, Err(Fault::Refused | Fault::Error | Fault::TimedOut))
            })
            .build()
            .expect("a valid configuration");
        let budget = RetryBudgetBuilder::new()
            .token_bucket()
            .tokens_per_second(2.0)
            .max_tokens(10)
            .build()
            .expect("a valid configuration");
        let pause = ExponentialRandomBackoff::new(Duration::from_millis(50), 0.5)
            .expect("a valid configuration");
        let retry = RetryLayer::<Request, Answer, Failed>::builder()
            .max_attempts(known.attempts as usize)
            .backoff(pause)
            .retry_on(|error: &Failed| {
                !matches!(error, Failed::OpenCircuit | Failed::Inner(Fault::Quota(_)))
            })
            .budget(budget)
            .build();
        let service = Timed(Spread::new(known, endpoints), known.attempt_timeout);
        Client::of(retry.layer(breaker.layer(service)))
    }
}
