use crate::classify::Classify;
use crate::outcome::{FailureClass, Outcome, Verdict};

/// The same classifier, except that what it ignores is a transient failure: for a budget that measures what callers get.
/// Whether it is retried stays as `classifier` says.
///
/// The classifiers ignore the refusals of other layers, since they say nothing about the callee. A caller has no answer all
/// the same: behind a breaker that is open a budget that ignores them sees no calls at all, and recovers in the midst of an
/// outage. What is to be ignored nevertheless, [`exclude`](crate::exclude) names, put around this. The refusals of a rate
/// limit count, too, if it is inside.
///
/// ```
/// use buttress::circuit_breaker::CircuitBreaker;
/// use buttress::failure_budget::{FailureBudget, count_refusals};
/// use buttress::AnyError;
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::BoxError> {
/// let (budget, breaker) = (FailureBudget::new("orders"), CircuitBreaker::new("db"));
/// let service = ServiceBuilder::new()
///     .layer(budget.layer().classify(count_refusals(AnyError)))
///     .layer(breaker.layer())
///     .service_fn(async |n: u32| Ok::<_, std::io::Error>(n));
/// breaker.force_open();
/// assert!(service.oneshot(1).await.is_err());
/// assert_eq!(budget.stats().failures, 1);
/// # Ok(()) }
/// ```
pub const fn count_refusals<C>(classifier: C) -> CountRefusals<C> {
    CountRefusals { classifier }
}

/// See [`count_refusals`].
///
/// ```
/// use buttress::AnyError;
/// use buttress::failure_budget::{CountRefusals, FailureBudgetLayer, count_refusals};
/// struct Client {
///     budget: FailureBudgetLayer<CountRefusals<AnyError>>,
/// }
/// # use buttress::failure_budget::FailureBudget;
/// let client = Client { budget: FailureBudget::new("orders").layer().classify(count_refusals(AnyError)) };
/// # let _ = client.budget;
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct CountRefusals<C> {
    classifier: C,
}

impl<Req, Res, Err, C: Classify<Req, Res, Err>> Classify<Req, Res, Err> for CountRefusals<C> {
    type Ticket = C::Ticket;

    #[inline]
    fn start(&self, req: &Req) -> C::Ticket {
        self.classifier.start(req)
    }

    #[inline]
    fn finish(&self, ticket: C::Ticket, result: Result<&Res, &Err>) -> Verdict {
        counted(self.classifier.finish(ticket, result))
    }

    fn expired(&self, ticket: C::Ticket) -> Verdict {
        counted(self.classifier.expired(ticket))
    }
}

#[inline]
fn counted(verdict: Verdict) -> Verdict {
    match verdict.outcome {
        Outcome::Ignored => Verdict::failure(FailureClass::Transient).with_retry(verdict.retry),
        _ => verdict,
    }
}
