use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use super::core::Asked;
use super::future::{Chosen, ResponseFuture};
use super::handle::{Endpoints, List};
use super::shared::no_endpoint;
use crate::classify::{AnyError, Classify};
use crate::clock;
use crate::context::{NoContext, ReadContext};
use crate::guarded::Guarding;
use crate::name::Name;
use crate::reject::{AsError, Reject};
use crate::slot::Seat;

/// Sends each request to one of the [`Endpoints`]: see the [module](super).
///
/// ```
/// use buttress::endpoints::{Endpoints, EndpointsService};
/// // By name, in a client of our own.
/// struct Client<S> {
///     service: EndpointsService<S>,
/// }
/// let pool = Endpoints::new("search");
/// pool.extend([("10.0.0.1", 7), ("10.0.0.2", 8)]);
/// let client = Client { service: pool.service() };
/// ```
pub struct EndpointsService<S, C = AnyError, X = NoContext, R = AsError> {
    list: Seat<Arc<List<S>>>,
    name: Name,
    classify: C,
    context: X,
    reject: R,
}

impl<S> EndpointsService<S> {
    pub(super) fn new(pool: &Endpoints<S>) -> Self {
        Self {
            list: Seat::new(pool.list.clone()),
            name: pool.shared.name,
            classify: AnyError,
            context: NoContext,
            reject: AsError,
        }
    }
}

impl<S, C, X, R> EndpointsService<S, C, X, R> {
    /// Judges calls with `classify`.
    ///
    /// ```
    /// let pool = buttress::endpoints::Endpoints::<u8>::new("db");
    /// let service = pool.service().classify(buttress::AnyError);
    /// ```
    #[must_use]
    pub fn classify<C2>(self, classify: C2) -> EndpointsService<S, C2, X, R> {
        let Self { list, name, context, reject, .. } = self;
        EndpointsService { list, name, classify, context, reject }
    }

    /// Where requests keep their [`Context`](crate::Context): it tells a retry from a first attempt.
    ///
    /// ```
    /// let pool = buttress::endpoints::Endpoints::<u8>::new("db");
    /// let service = pool.service().context(buttress::NoContext);
    /// ```
    #[must_use]
    pub fn context<X2>(self, context: X2) -> EndpointsService<S, C, X2, R> {
        let Self { list, name, classify, reject, .. } = self;
        EndpointsService { list, name, classify, context, reject }
    }

    /// What becomes of a call while there is no endpoint.
    ///
    /// ```
    /// let pool = buttress::endpoints::Endpoints::<u8>::new("db");
    /// let service = pool.service().on_reject(buttress::AsTyped);
    /// ```
    #[must_use]
    pub fn on_reject<R2>(self, reject: R2) -> EndpointsService<S, C, X, R2> {
        let Self { list, name, classify, context, .. } = self;
        EndpointsService { list, name, classify, context, reject }
    }
}

impl<S, C: Clone, X: Clone, R: Clone> Clone for EndpointsService<S, C, X, R> {
    #[inline]
    fn clone(&self) -> Self {
        Self {
            list: self.list.clone(),
            name: self.name,
            classify: self.classify.clone(),
            context: self.context.clone(),
            reject: self.reject.clone(),
        }
    }
}

impl<S, C, X, R> fmt::Debug for EndpointsService<S, C, X, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointsService").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<S, C, X, R, Req> Service<Req> for EndpointsService<S, C, X, R>
where
    S: Service<Req> + Clone,
    C: Classify<Req, S::Response, S::Error> + Clone,
    X: ReadContext<Req>,
    R: Reject<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = R::Error;
    type Future = ResponseFuture<S, Req, C, R>;

    /// Always ready: which endpoint has to be ready is known when it is chosen, in the future.
    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        let context = self.context.context(&req);
        let asked = Asked { attempt: context.attempt(), call: context.call().unwrap_or(0) };
        let now = clock::handed_down();
        if let Some(list) = self.list.current() {
            let members = &list.members;
            let place =
                list.shared.core.pick(members.len(), |place| &members[place].health, asked, now);
            if let Some(place) = place {
                let mut chosen = Chosen::new(Arc::clone(list), place, now);
                // User code: should it panic, the endpoint has failed.
                let parts = chosen.run(|| {
                    let service = S::clone(&list.members[place].service);
                    (service, self.classify.clone())
                });
                return ResponseFuture::readying(chosen, parts.0, req, parts.1);
            }
        }
        let list = self.list.current();
        let why = list.map_or_else(|| no_endpoint(self.name), |list| list.shared.refuse());
        ResponseFuture::refused(self.reject.reject(req, why))
    }
}
