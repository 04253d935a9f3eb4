//! A client's stack whose parts are exchanged.

use tower_layer::Layer;

use super::client::ClientLayer;
use super::client_parts::ClientParts;
use super::live::{Live, LiveService, Parts};
#[cfg(feature = "http")]
use super::part::ForHttp;
use super::part::Part;
use super::pool::Client;
use crate::backend::Backend;
use crate::budget::RetryBudget;
use crate::circuit_breaker::CircuitBreaker;
use crate::endpoints::{Endpoints, EndpointsService};
use crate::hedge::Hedge;
use crate::rate_limit::RateLimiter;

/// What [`Live::pool`] makes of the endpoints `S`, of a client with the types that follow.
///
/// ```
/// use buttress::config::{ClientStack, Loader};
/// use buttress::presets::{Faults, LivePool, Part};
/// use buttress::retry::CloneRequest;
/// use buttress::{AnyError, AsError, BoxError, NoContext};
/// use tower::{service_fn, util::BoxCloneSyncService};
/// type Server = BoxCloneSyncService<u32, u32, BoxError>;
/// type Drill = <Faults as Part<AsError>>::Layer;
/// // By name, in a type of our own.
/// struct Doubles {
///     service: LivePool<Server, AnyError, CloneRequest, NoContext, AsError, Drill>,
/// }
/// let stacks = Loader::empty().set("clients.double.backend", "learned").load()?.stacks();
/// let stack: ClientStack = stacks.client("double")?;
/// let pool = stack.endpoints();
/// pool.insert("one", Server::new(service_fn(|n: u32| async move { Ok(2 * n) })));
/// let doubles = Doubles { service: stack.pool(&pool) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type LivePool<S, C, P, X, R, F> =
    LiveService<EndpointsService<S, C, X, R>, Client<C, P, X, R, F>>;

impl<C, P, X, R, F> Live<ClientLayer<C, P, X, R, F>> {
    fn parts(&self) -> Option<ClientParts> {
        match self.slot.get()? {
            Parts::Client(parts) => Some(*parts),
            Parts::Server(_) => None,
        }
    }

    /// The breaker in force, if there is one.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let stacks = Loader::empty().set("clients.db.breaker.open_for", "5s").load()?.stacks();
    /// assert_eq!(stacks.client("db")?.breaker().unwrap().name(), "db");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn breaker(&self) -> Option<CircuitBreaker> {
        self.parts()?.breaker
    }

    /// The retry budget in force, if there is one.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let stacks = Loader::empty().set("clients.db.retry_budget.ratio", 0.1).load()?.stacks();
    /// assert_eq!(stacks.client("db")?.retry_budget().unwrap().name(), "db");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn retry_budget(&self) -> Option<RetryBudget> {
        self.parts()?.budget
    }

    /// The rate limiter in force, if there is one.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let stacks = Loader::empty().set("clients.db.rate_limit", "5/s").load()?.stacks();
    /// assert_eq!(stacks.client("db")?.rate_limiter().unwrap().quota().capacity(), 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn rate_limiter(&self) -> Option<RateLimiter> {
        self.parts()?.limiter.map(|(limiter, _)| limiter)
    }

    /// What is known of the backend, if there is a part for it.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let stacks = Loader::empty().set("clients.db.backend.limit", 8).load()?.stacks();
    /// assert_eq!(stacks.client("db")?.backend().unwrap().stats().limit, 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn backend(&self) -> Option<Backend> {
        self.parts()?.admission.map(|admission| admission.backend().clone())
    }

    /// The hedge, if there is one: from the first service or pool on.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let stacks = Loader::empty().set("clients.db.backend", "learned").load()?.stacks();
    /// assert!(stacks.client("db")?.hedge().is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn hedge(&self) -> Option<Hedge> {
        self.parts()?.hedge?.made.get().cloned()
    }

    /// For HTTP: see [`ClientLayer::http`].
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let stacks = Loader::empty().set("clients.db.total_timeout", "5s").load()?.stacks();
    /// let stack = stacks.client("db")?.http();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "http")]
    #[must_use]
    pub fn http(
        self,
    ) -> Live<
        ClientLayer<
            super::http::AnyHttp,
            crate::retry::HttpRequest,
            crate::http::Extensions,
            R,
            F::Http,
        >,
    >
    where
        F: ForHttp,
    {
        self.map(ClientLayer::http)
    }

    /// What the retry and the breaker make of answers: see [`ClientLayer::classify`].
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// # let stacks = Loader::empty().set("clients.db.total_timeout", "5s").load()?.stacks();
    /// let stack = stacks.client("db")?.classify(buttress::AnyError);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn classify<C2>(self, classify: C2) -> Live<ClientLayer<C2, P, X, R, F>> {
        self.map(|layer| layer.classify(classify))
    }

    /// How a request is sent again: see [`ClientLayer::replay`].
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// # let stacks = Loader::empty().set("clients.db.total_timeout", "5s").load()?.stacks();
    /// let small = |upload: &Vec<u8>| (upload.len() <= 1024).then(|| upload.clone());
    /// let stack = stacks.client("db")?.replay(small);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn replay<P2>(self, replay: P2) -> Live<ClientLayer<C, P2, X, R, F>> {
        self.map(|layer| layer.replay(replay))
    }

    /// Where requests carry their deadline: see [`ClientLayer::context`].
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// # let stacks = Loader::empty().set("clients.db.total_timeout", "5s").load()?.stacks();
    /// let stack = stacks.client("db")?.context(buttress::NoContext);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn context<X2>(self, context: X2) -> Live<ClientLayer<C, P, X2, R, F>> {
        self.map(|layer| layer.context(context))
    }

    /// What becomes of calls that the stack refuses: see [`ClientLayer::on_reject`].
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// # let stacks = Loader::empty().set("clients.db.total_timeout", "5s").load()?.stacks();
    /// let stack = stacks.client("db")?.on_reject(buttress::AsError);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn on_reject<R2>(self, reject: R2) -> Live<ClientLayer<C, P, X, R2, F>> {
        self.map(|layer| layer.on_reject(reject))
    }

    /// An empty pool with the settings in force.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// # let stacks = Loader::empty().set("clients.db.total_timeout", "5s").load()?.stacks();
    /// let pool = stacks.client("db")?.endpoints();
    /// pool.insert("10.0.0.1", 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn endpoints<S>(&self) -> Endpoints<S> {
        match self.parts() {
            Some(parts) => {
                let pool = parts.endpoints.make();
                parts.pools.add(&pool);
                pool
            }
            None => self.layer.endpoints(),
        }
    }
}

impl<C, P, X, R, F> Live<ClientLayer<C, P, X, R, F>>
where
    C: Clone + Send + Sync + 'static,
    P: Clone + Send + Sync + 'static,
    X: Clone + Send + Sync + 'static,
    R: Clone + Send + Sync + 'static,
    F: Part<R> + Clone + Send + Sync + 'static,
{
    /// Layers of these settings and the parts that there are then.
    fn composer<L>(
        &self,
        layers: impl Fn(&ClientLayer<C, P, X, R, F>) -> L + Send + Sync + 'static,
    ) -> impl Fn(Option<Parts>) -> L + Send + Sync + 'static {
        let layer = self.layer.clone();
        move |parts| match parts {
            Some(Parts::Client(parts)) => {
                let faults = layer.faults.with_faults(&parts.faults);
                layers(&ClientLayer { parts: *parts, faults, ..layer.clone() })
            }
            _ => layers(&layer),
        }
    }

    /// The layers around a pool: see [`ClientLayer::pool`].
    ///
    /// ```
    /// use buttress::config::Loader;
    /// use tower::{ServiceExt, service_fn};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// let stacks = Loader::empty().set("clients.double.backend", "learned").load()?.stacks();
    /// let stack = stacks.client("double")?;
    /// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
    /// let pool = stack.endpoints();
    /// pool.extend([("one", double), ("two", double)]);
    /// assert_eq!(stack.pool(&pool).oneshot(4).await?, 8);
    /// # Ok(())
    /// # }
    /// ```
    pub fn pool<S>(&self, endpoints: &Endpoints<S>) -> LivePool<S, C, P, X, R, F::Layer>
    where
        EndpointsService<S, C, X, R>: Clone,
        Client<C, P, X, R, F::Layer>: Layer<EndpointsService<S, C, X, R>>,
    {
        let inner = self.layer.pool_service(endpoints);
        LiveService::new(inner, self.slot.clone(), self.composer(|layer| layer.layers(true)))
    }
}

impl<S, C, P, X, R, F> Layer<S> for Live<ClientLayer<C, P, X, R, F>>
where
    S: Clone,
    C: Clone + Send + Sync + 'static,
    P: Clone + Send + Sync + 'static,
    X: Clone + Send + Sync + 'static,
    R: Clone + Send + Sync + 'static,
    F: Part<R> + Clone + Send + Sync + 'static,
    Client<C, P, X, R, F::Layer>: Layer<S>,
{
    type Service = LiveService<S, Client<C, P, X, R, F::Layer>>;

    fn layer(&self, inner: S) -> Self::Service {
        LiveService::new(inner, self.slot.clone(), self.composer(|layer| layer.layers(false)))
    }
}
