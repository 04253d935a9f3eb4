//! The stack that stands through a storm: retries paid from headroom, around admission, around a service.
//!
//! A server that loses half of its capacity for ten seconds, and clients that send everything three times, never
//! come to rest again. Here all that is in front of one backend shares what it knows of it ([`Backend`]): requests
//! wait on this side, the most important and most urgent first; what can no longer be answered in time is not
//! sent; while the backend is down single requests probe it; and retries stop as soon as there is no headroom.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use tower_layer::Layer;

use crate::admission::{Admission, AdmissionLayer, AdmissionService};
use crate::backend::Backend;
use crate::backoff::Backoff;
use crate::classify::{Classify, judge_error};
use crate::context::{ReadContext, next_call};
use crate::deadline::Deadline;
use crate::endpoints::{Endpoints, EndpointsService};
use crate::error::BoxError;
use crate::hedge::{Hedge, HedgeService};
use crate::outcome::Verdict;
use crate::reject::AsError;
use crate::retry::{Attempt, Replay, RetryLayer, RetryPolicy, RetryService};

/// What [`client`] makes.
///
/// ```
/// use buttress::storm::Client;
/// fn is_clone<S: Clone>(client: &Client<S, buttress::AnyError, buttress::NoContext, buttress::BoxError>) {}
/// ```
pub type Client<S, C, X, E> =
    RetryService<AdmissionService<S, C, X, AsError>, Inside<C, E>, Carried<X>, AsError>;

/// `service` behind `backend`: for callers who wait for `patience` (where `context` does not say so for a request),
/// with `classify` to judge what `service` answers. Requests are sent again after a failure that may be retried,
/// for as long as their deadline and the backend's headroom allow: give it only what may be repeated.
///
/// ```
/// use buttress::{AnyError, Backend, NoContext, storm};
/// use std::time::Duration;
/// use tower::{ServiceExt, service_fn};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::BoxError> {
/// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
/// let backend = Backend::new("double");
/// // The last of the types is the service's error.
/// let client: storm::Client<_, _, _, std::io::Error> =
///     storm::client(&backend, Duration::from_secs(1), AnyError, NoContext, double);
/// assert_eq!(client.oneshot(4).await?, 8);
/// # Ok(())
/// # }
/// ```
pub fn client<S, C, X, E>(
    backend: &Backend,
    patience: Duration,
    classify: C,
    context: X,
    service: S,
) -> Client<S, C, X, E>
where
    C: Clone,
    X: Clone,
{
    let admission = Admission::of(backend).patience(patience);
    let admission =
        AdmissionLayer::new(admission).classify(classify.clone()).context(context.clone());
    RetryLayer::new(policy(patience))
        .name(backend.label())
        .budget(backend.retry_budget())
        .classify(Inside { classify, marker: PhantomData })
        .replay(Carried { context })
        .layer(admission.layer(service))
}

/// What [`pool`] makes.
pub type PoolClient<S, C, X, E> = RetryService<
    AdmissionService<
        HedgeService<EndpointsService<S, C, X, AsError>, Inside<C, E>, Carried<X>>,
        Inside<C, E>,
        X,
        AsError,
    >,
    Inside<C, E>,
    Carried<X>,
    AsError,
>;

/// As [`client`], over several servers that do the same: a retry goes to another one than the attempt before it,
/// where `context` keeps what is written into it, and so does a [hedge](crate::hedge) of a call that takes long
/// while the backend has headroom.
///
/// ```
/// use buttress::{AnyError, Backend, NoContext, endpoints::Endpoints, storm};
/// use std::time::Duration;
/// use tower::{ServiceExt, service_fn};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::BoxError> {
/// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
/// let pool = Endpoints::new("double");
/// pool.extend([("one", double), ("two", double)]);
/// let backend = Backend::new("double");
/// let client: storm::PoolClient<_, _, _, std::io::Error> =
///     storm::pool(&backend, Duration::from_secs(1), AnyError, NoContext, &pool);
/// assert_eq!(client.oneshot(4).await?, 8);
/// # Ok(())
/// # }
/// ```
pub fn pool<S, C, X, E>(
    backend: &Backend,
    patience: Duration,
    classify: C,
    context: X,
    endpoints: &Endpoints<S>,
) -> PoolClient<S, C, X, E>
where
    C: Clone,
    X: Clone,
{
    let service = endpoints.service().classify(classify.clone()).context(context.clone());
    let classify = Inside { classify, marker: PhantomData };
    let admission = AdmissionLayer::new(Admission::of(backend).patience(patience))
        .classify(classify.clone())
        .context(context.clone());
    let replay = Carried { context };
    let headroom = backend.clone();
    let hedge = Hedge::builder(backend.label())
        .gate(move || headroom.has_headroom())
        .budget(backend.retry_budget())
        .build();
    let hedge = hedge.unwrap_or_else(|_| Hedge::new(backend.label()));
    let hedge = hedge.layer().classify(classify.clone()).replay(replay.clone());
    RetryLayer::new(policy(patience))
        .name(backend.label())
        .budget(backend.retry_budget())
        .classify(classify)
        .replay(replay)
        .layer(admission.layer(hedge.layer(service)))
}

fn policy(patience: Duration) -> RetryPolicy {
    // Shares of what callers wait: the first retry at once where answers are quick.
    let backoff = Backoff::exponential(patience / 200, patience / 20);
    let policy = RetryPolicy::builder().max_attempts(ATTEMPTS).backoff(backoff).build();
    policy.unwrap_or_default()
}

/// More than a deadline leaves time for.
const ATTEMPTS: u32 = 100;

/// Judges what came through admission as what is inside of it judges.
///
/// ```
/// fn takes(_: buttress::storm::Inside<buttress::AnyError, std::io::Error>) {}
/// ```
pub struct Inside<C, E> {
    classify: C,
    marker: PhantomData<fn() -> E>,
}

impl<C: Clone, E> Clone for Inside<C, E> {
    fn clone(&self) -> Self {
        Self { classify: self.classify.clone(), marker: PhantomData }
    }
}

impl<C, E> fmt::Debug for Inside<C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inside").finish_non_exhaustive()
    }
}

impl<Req, Res, C, E> Classify<Req, Res, BoxError> for Inside<C, E>
where
    C: Classify<Req, Res, E>,
    E: std::error::Error + 'static,
{
    type Ticket = C::Ticket;

    fn start(&self, req: &Req) -> Self::Ticket {
        self.classify.start(req)
    }

    fn finish(&self, ticket: Self::Ticket, result: Result<&Res, &BoxError>) -> Verdict {
        match result {
            Ok(response) => self.classify.finish(ticket, Ok(response)),
            Err(error) => match error.downcast_ref::<E>() {
                Some(error) => self.classify.finish(ticket, Err(error)),
                None => judge_error(&**error),
            },
        }
    }

    fn expired(&self, ticket: Self::Ticket) -> Verdict {
        self.classify.expired(ticket)
    }
}

/// Sends clones, with the deadline that the context says.
///
/// ```
/// fn takes(_: buttress::storm::Carried<buttress::NoContext>) {}
/// ```
#[derive(Clone)]
pub struct Carried<X> {
    context: X,
}

impl<X> fmt::Debug for Carried<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried").finish_non_exhaustive()
    }
}

impl<Req: Clone, X: ReadContext<Req>> Replay<Req> for Carried<X> {
    fn try_replay(&self, req: &Req) -> Option<Req> {
        Some(req.clone())
    }

    fn deadline(&self, req: &Req) -> Option<Deadline> {
        self.context.context(req).deadline()
    }

    fn attempt(&self, req: &Req) -> Attempt {
        Attempt(self.context.context(req).attempt())
    }

    fn begin(&self, req: &mut Req) {
        let context = self.context.context(req);
        if context.call().is_none() {
            self.context.set_context(req, context.with_call(next_call()));
        }
    }

    fn mark(&self, req: &mut Req, Attempt(attempt): Attempt) {
        let context = self.context.context(req).with_attempt(attempt);
        self.context.set_context(req, context);
    }
}
