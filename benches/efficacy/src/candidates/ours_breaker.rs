//! Retries with a budget around a breaker: single layers with their defaults, without a backend that they share.

use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
use buttress::retry::RetryLayer;
use buttress::{RetryBudget, classify_fn};
use tower::Layer;

use super::attempts::Spread;
use super::layers::{Opaque, deadline, judge_any, policy};
use super::{Candidate, Client, Known};
use crate::request::Endpoint;

pub(crate) struct Breaker;

impl Candidate for Breaker {
    fn name(&self) -> &'static str {
        "ours: + breaker"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let budget = RetryBudget::new("backend");
        let breaker = CircuitBreaker::builder("backend")
            .seed(known.seed)
            .build()
            .expect("a valid configuration");
        let retry = RetryLayer::new(policy(known))
            .budget(budget.clone())
            .deadlines(deadline)
            .classify(classify_fn(judge_any));
        let inner = CircuitBreakerLayer::new(breaker.clone())
            .classify(classify_fn(judge_any))
            .layer(Opaque(Spread::new(known, endpoints)));
        Client::of_ours(retry.layer(inner)).saying(move || {
            let (circuit, tokens) = (breaker.snapshot(), budget.stats());
            format!(
                "breaker {:?} ({:?}, {:.0} % of {} failed), budget {}/{} allowed {} denied {}",
                circuit.state,
                circuit.reason,
                circuit.failure_rate * 100.0,
                circuit.window_calls,
                tokens.tokens,
                tokens.max_tokens,
                tokens.allowed,
                tokens.denied,
            )
        })
    }
}
