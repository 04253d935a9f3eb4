//! Single layers of buttress with their defaults: what those rows share that are put together layer by layer.

use buttress::admission::{Admission, AdmissionLayer};
use buttress::retry::{RetryLayer, RetryPolicy};
use buttress::timeout::Timeout;
use buttress::{
    Backend, BoxError, FailureClass, Rejection, RetryHint, Verdict, classify_fn, downcast,
};
use tower::{Layer, Service};

use super::attempts::Spread;
use super::preset::{Carries, judged};
use super::{Client, Known, preset};
use crate::request::{Answer, Boxed, Endpoint, Fault, Request};

fn judge(fault: &Fault) -> Verdict {
    match fault {
        Fault::Quota(after) => Verdict::throttled(Some(*after)),
        Fault::Refused | Fault::Error | Fault::TimedOut => {
            Verdict::failure(FailureClass::Transient).with_retry(RetryHint::SAFE)
        }
    }
}

pub(super) fn judge_any(result: Result<&Answer, &BoxError>) -> Verdict {
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
pub(super) struct Opaque(pub(super) Spread);

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

pub(super) fn policy(known: &Known) -> RetryPolicy {
    RetryPolicy::builder()
        .deadline(known.deadline)
        .attempt_timeout(known.attempt_timeout)
        .build()
        .expect("a valid policy")
}

pub(super) fn deadline(request: &Request) -> Option<buttress::Deadline> {
    request.context.deadline()
}

/// What the rows with a backend have in common with each other, from the inside outwards: the limit and the waiting
/// room.
pub(super) fn admitted(
    known: &Known,
    endpoints: Vec<Endpoint>,
    backend: &Backend,
) -> impl Service<Request, Response = Answer, Error = BoxError, Future: Send> + Clone + Send + use<>
{
    AdmissionLayer::new(Admission::of(backend).patience(known.deadline))
        .classify(downcast::<Fault, _>(classify_fn(judged)))
        .context(Carries)
        .layer(Spread::new(known, endpoints))
}

/// Retries that the backend's headroom pays for, by the preset's policy.
pub(super) fn paid<S>(
    known: &Known,
    backend: &Backend,
    inner: S,
) -> impl Service<Request, Response = Answer, Error = BoxError, Future: Send> + Clone + Send + use<S>
where
    S: Service<Request, Response = Answer, Error = BoxError, Future: Send> + Clone + Send,
{
    let policy = preset::plan(known).policy().expect("the default retries");
    RetryLayer::new(policy)
        .name(known.name())
        .budget(backend.retry_budget())
        .deadlines(deadline)
        .classify(downcast::<Fault, _>(classify_fn(judged)))
        .layer(inner)
}

/// The end of the whole call.
pub(super) fn timed<S>(known: &Known, backend: &Backend, inner: S) -> Client
where
    S: Service<Request, Response = Answer, Error = BoxError, Future: Send> + Clone + Send + 'static,
{
    let total = Timeout::new(known.name(), known.deadline).expect("a deadline of some length");
    let (counted, said) = (backend.clone(), backend.clone());
    Client::of_ours(total.layer().context(Carries).layer(inner))
        .counting(move || preset::counts(&counted, None))
        .saying(move || preset::says(&said))
}
