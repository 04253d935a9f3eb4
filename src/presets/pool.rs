//! The layers of a client in their order, around one service or a pool.

use tower_layer::{Layer, Stack};

use super::attempts::{Attempts, Sends};
use super::client::ClientLayer;
use super::part::Part;
use super::shared::{Limited, limited};
use super::tell_end::TellEndLayer;
use crate::admission::{Admission, AdmissionLayer};
use crate::backend::Backend;
use crate::circuit_breaker::CircuitBreakerLayer;
use crate::classify::AnyError;
use crate::context::NoContext;
use crate::endpoints::{Endpoints, EndpointsService};
use crate::hedge::{Hedge, HedgeLayer};
use crate::reject::AsError;
use crate::retry::{CloneRequest, RetryLayer, SparingLayer};
use crate::timeout::{Timeout, TimeoutLayer};
use crate::wide::Flag;

/// Around what is sent.
type Outer<C, P, X, R> = Stack<
    HedgeLayer<Attempts<C>, Sends<P, X>>,
    Stack<
        AdmissionLayer<Attempts<C>, X, R>,
        Stack<Limited<X, R>, Stack<SparingLayer<Attempts<C>, Sends<P, X>, R>, TimeoutLayer<X, R>>>,
    >,
>;

/// Around one attempt.
type Inner<C, X, R, F> =
    Stack<F, Stack<CircuitBreakerLayer<C, R>, Stack<TimeoutLayer<X, R>, TellEndLayer<X>>>>;

pub(super) type Client<C, P, X, R, F> = Stack<Inner<C, X, R, F>, Outer<C, P, X, R>>;

/// What [`ClientLayer::pool`] makes of the endpoints `S`, of a [`ClientLayer`] with the types that follow.
///
/// ```
/// use buttress::BoxError;
/// use buttress::presets::{ClientPlan, PoolService, client};
/// use tower::{service_fn, util::BoxCloneSyncService};
/// type Server = BoxCloneSyncService<u32, u32, BoxError>;
/// // By name, in a type of our own.
/// struct Doubles {
///     service: PoolService<Server>,
/// }
/// let stack = client(&ClientPlan::new("double"))?;
/// let pool = stack.endpoints();
/// pool.insert("one", Server::new(service_fn(|n: u32| async move { Ok(2 * n) })));
/// let doubles = Doubles { service: stack.pool(&pool) };
/// # Ok::<(), buttress::ConfigError>(())
/// ```
pub type PoolService<
    S,
    C = AnyError,
    P = CloneRequest,
    X = NoContext,
    R = AsError,
    F = tower_layer::Identity,
> = <Client<C, P, X, R, F> as Layer<EndpointsService<S, C, X, R>>>::Service;

impl<C, P, X, R, F> ClientLayer<C, P, X, R, F> {
    /// What is known of the backend, if the plan has one.
    ///
    /// ```
    /// use buttress::presets::{ClientPlan, client};
    /// assert!(client(&ClientPlan::new("db"))?.backend().unwrap().has_headroom());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn backend(&self) -> Option<&Backend> {
        self.parts.admission.as_ref().map(Admission::backend)
    }

    /// The hedge, if the plan has one: from the first service or pool on.
    ///
    /// ```
    /// use buttress::presets::{ClientPlan, client};
    /// use tower::Layer;
    /// let stack = client(&ClientPlan::new("db"))?;
    /// assert!(stack.hedge().is_none());
    /// let service = stack.layer(7);
    /// assert_eq!(stack.hedge().unwrap().stats().sent, 0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn hedge(&self) -> Option<&Hedge> {
        self.parts.hedge.as_ref()?.made.get()
    }

    /// An empty pool with the settings of the plan.
    ///
    /// ```
    /// use buttress::presets::{ClientPlan, client};
    /// let pool = client(&ClientPlan::new("db"))?.endpoints();
    /// pool.insert("10.0.0.1", 7);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn endpoints<S>(&self) -> Endpoints<S> {
        self.parts.endpoints.clone().make()
    }

    /// The layers around a pool: a retry goes to another endpoint than the attempt before it, and so does a
    /// [hedge](crate::hedge). That takes a [`context`](Self::context) that keeps what is written into it, as that of
    /// `http` does. From then on answers may take longer before the limit of the layer's [backend](Self::backend) falls,
    /// for all its services: see [`admission`](crate::admission).
    ///
    /// ```
    /// # #[cfg(feature = "http")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::presets::{ClientPlan, client};
    /// use http::{Request, Response};
    /// use tower::{ServiceExt, service_fn};
    /// let server = |status: u16| {
    ///     service_fn(move |_: Request<String>| async move { Response::builder().status(status).body(()) })
    /// };
    /// let stack = client(&ClientPlan::new("search"))?.http();
    /// let pool = stack.endpoints();
    /// pool.extend([("ill", server(503)), ("well", server(200))]);
    /// // Whichever is asked first: if that is the one that is ill, the retry goes to the other.
    /// let answer = stack.pool(&pool).oneshot(Request::default()).await?;
    /// assert_eq!(answer.status(), 200);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "http"))]
    /// # fn main() {}
    /// ```
    pub fn pool<S>(&self, endpoints: &Endpoints<S>) -> PoolService<S, C, P, X, R, F::Layer>
    where
        C: Clone,
        P: Clone,
        X: Clone,
        R: Clone,
        F: Part<R>,
        Client<C, P, X, R, F::Layer>: Layer<EndpointsService<S, C, X, R>>,
    {
        self.layers(true).layer(self.pool_service(endpoints))
    }
}

impl<C: Clone, P: Clone, X: Clone, R: Clone, F: Part<R>> ClientLayer<C, P, X, R, F> {
    pub(super) fn pool_service<S>(&self, endpoints: &Endpoints<S>) -> EndpointsService<S, C, X, R> {
        let service = endpoints.service().classify(self.classify.clone());
        service.context(self.context.clone()).on_reject(self.reject.clone())
    }

    /// Around one service, or around a `pool`.
    pub(super) fn layers(&self, pool: bool) -> Client<C, P, X, R, F::Layer> {
        Stack::new(self.inner(), self.outer(pool))
    }

    fn attempts(&self) -> Attempts<C> {
        Attempts { classify: self.classify.clone(), name: self.parts.name }
    }

    fn sends(&self, numbered: bool) -> Sends<P, X> {
        let (replay, context) = (self.replay.clone(), self.context.clone());
        Sends { replay, context, numbered: Flag::of(numbered) }
    }

    fn timeout(&self, timeout: Option<Timeout>) -> TimeoutLayer<X, R> {
        TimeoutLayer::maybe(timeout).context(self.context.clone()).on_reject(self.reject.clone())
    }

    fn outer(&self, pool: bool) -> Outer<C, P, X, R> {
        let parts = &self.parts;
        if let Some(backend) = self.backend().filter(|_| pool) {
            backend.be_several();
        }
        let retry = parts.policy.map_or_else(RetryLayer::absent, |policy| parts.retry(policy));
        let retry = retry.classify(self.attempts()).replay(self.sends(pool));
        let retry = retry.on_reject(self.reject.clone());
        let admission = AdmissionLayer::maybe(parts.admission.clone()).classify(self.attempts());
        let admission = admission.context(self.context.clone()).on_reject(self.reject.clone());
        // The reading of the clock that it begins with is also that of the call's arrival at the backend.
        let total = parts.total.map(|total| match &parts.admission {
            Some(_) => total.counted_from_poll(),
            None => total,
        });
        let outer = Stack::new(retry.sparing(), self.timeout(total));
        let hedge = parts.hedge.as_ref();
        let hedge = hedge.map(|hedge| hedge.get(self.backend(), self.retry_budget()));
        // So does what is inside of it and asks for the time as it begins.
        let inside = hedge.is_some() || parts.attempt.is_some() || pool;
        let admission = admission.hands_down(inside);
        let hedge = HedgeLayer::maybe(hedge).classify(self.attempts()).replay(self.sends(pool));
        let outer = Stack::new(limited(parts.limiter.as_ref(), &self.context, &self.reject), outer);
        Stack::new(hedge, Stack::new(admission, outer))
    }

    fn inner(&self) -> Inner<C, X, R, F::Layer> {
        let breaker = CircuitBreakerLayer::maybe(self.parts.breaker.clone());
        let breaker = breaker.classify(self.classify.clone()).on_reject(self.reject.clone());
        let attempt = self.timeout(self.parts.attempt.map(Timeout::of_attempts));
        // Inside of all that keeps copies of the request: an empty context is not copied.
        let tell = TellEndLayer { context: self.context.clone() };
        let inner = Stack::new(breaker, Stack::new(attempt, tell));
        Stack::new(self.faults.layer(&self.reject), inner)
    }
}
