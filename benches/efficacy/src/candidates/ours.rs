//! buttress: what its layers do with their defaults, composed by the book, and layer by layer.

use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
use buttress::retry::{RetryLayer, RetryPolicy};
use buttress::{BoxError, FailureClass, Rejection, RetryBudget, RetryHint, Verdict, classify_fn};
use tower::{Layer, Service};

use super::{Candidate, Client, Known, Spread};
use crate::request::{Answer, Boxed, Endpoint, Fault, Request};

fn judge(fault: &Fault) -> Verdict {
    match fault {
        Fault::Quota(after) => Verdict::throttled(Some(*after)),
        Fault::Refused | Fault::Error | Fault::TimedOut => {
            Verdict::failure(FailureClass::Transient).with_retry(RetryHint::SAFE)
        }
    }
}

fn judge_any(result: Result<&Answer, &BoxError>) -> Verdict {
    match result {
        Ok(_) => Verdict::success(),
        Err(error) => match error.downcast_ref::<Fault>() {
            Some(fault) => judge(fault),
            None if Rejection::find(&**error).is_some() => Verdict::ignored(),
            None => Verdict::failure(FailureClass::Transient),
        },
    }
}

/// Errors boxed, as the layers' defaults have them.
#[derive(Clone)]
struct Opaque(Spread);

impl Service<Request> for Opaque {
    type Response = Answer;
    type Error = BoxError;
    type Future = Boxed<Result<Answer, BoxError>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let attempt = self.0.call(request);
        Box::pin(async move { attempt.await.map_err(BoxError::from) })
    }
}

fn policy(known: &Known) -> RetryPolicy {
    RetryPolicy::builder()
        .deadline(known.deadline)
        .attempt_timeout(known.attempt_timeout)
        .jitter_seed(known.seed)
        .build()
        .expect("a valid policy")
}

fn deadline(request: &Request) -> Option<buttress::Deadline> {
    request.context.deadline()
}

/// Retries without the budget: what the budget adds is the difference to the next.
pub(crate) struct Retry;

impl Candidate for Retry {
    fn name(&self) -> &'static str {
        "ours: retry alone"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let retry =
            RetryLayer::new(policy(known)).without_budget().classify(classify_fn(judge_any));
        Client::of(retry.layer(Opaque(Spread::new(known, endpoints))))
    }
}

pub(crate) struct Budget;

impl Candidate for Budget {
    fn name(&self) -> &'static str {
        "ours: + budget"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let retry =
            RetryLayer::new(policy(known)).deadlines(deadline).classify(classify_fn(judge_any));
        Client::of(retry.layer(Opaque(Spread::new(known, endpoints))))
    }
}

/// Retry, budget, breaker, timeouts: the layers of today with their defaults.
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
        let retry =
            RetryLayer::new(policy(known)).budget(budget.clone()).classify(classify_fn(judge_any));
        let inner = CircuitBreakerLayer::new(breaker.clone())
            .classify(classify_fn(judge_any))
            .layer(Opaque(Spread::new(known, endpoints)));
        Client::of(retry.layer(inner)).saying(move || {
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
