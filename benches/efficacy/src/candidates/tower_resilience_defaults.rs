//! tower-resilience's retry around its breaker, with the defaults of both.

use tower::Layer;
use tower_resilience::circuitbreaker::{CircuitBreakerError, CircuitBreakerLayer};
use tower_resilience::retry::RetryLayer;

use super::attempts::{Spread, Timed};
use super::{Candidate, Client, Known};
use crate::request::{Answer, Endpoint, Fault, Request};

pub(crate) struct Defaults;

impl Candidate for Defaults {
    fn name(&self) -> &'static str {
        "t-r retry + breaker, defaults"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let breaker = CircuitBreakerLayer::builder().build().expect("its defaults");
        let retry = RetryLayer::<Request, Answer, CircuitBreakerError<Fault>>::builder()
            .max_attempts(known.attempts as usize)
            .build();
        let service = Timed(Spread::new(known, endpoints), known.attempt_timeout);
        Client::of(retry.layer(breaker.layer(service)))
    }
}
