//! A server's stack whose parts are exchanged.

use tower_layer::Layer;

use super::live::{Live, LiveService, Parts};
#[cfg(feature = "http")]
use super::part::ForHttp;
use super::part::{Absent, Gate, Part};
use super::server::{Server, ServerLayer};
use super::server_parts::ServerParts;
use crate::backend::Backend;
use crate::failure_budget::FailureBudget;
use crate::idempotency::IdempotencyLayer;
use crate::rate_limit::RateLimiter;

impl<C, X, R, I, F> Live<ServerLayer<C, X, R, I, F>> {
    fn parts(&self) -> Option<ServerParts> {
        match self.slot.get()? {
            Parts::Server(parts) => Some(parts),
            Parts::Client(_) => None,
        }
    }

    /// The rate limiter in force, if there is one.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let stacks = Loader::empty().set("servers.api.rate_limit", "5/s").load()?.stacks();
    /// assert_eq!(stacks.server("api")?.rate_limiter().unwrap().quota().capacity(), 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn rate_limiter(&self) -> Option<RateLimiter> {
        self.parts()?.limiter.map(|(limiter, _)| limiter)
    }

    /// The failure budget in force, if there is one.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let stacks = Loader::empty().set("servers.api.failure_budget.threshold", 0.1).load()?.stacks();
    /// assert_eq!(stacks.server("api")?.failure_budget().unwrap().name(), "api");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn failure_budget(&self) -> Option<FailureBudget> {
        self.parts()?.budget.get()
    }

    /// What is known of the handlers, if there is a part for it.
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let stacks = Loader::empty().set("servers.api.backend.limit", 256).load()?.stacks();
    /// assert_eq!(stacks.server("api")?.backend().unwrap().stats().limit, 256);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn backend(&self) -> Option<Backend> {
        self.parts()?.admission.map(|admission| admission.backend().clone())
    }

    /// For HTTP: see [`ServerLayer::http`].
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// let stacks = Loader::empty().set("servers.api.timeout", "5s").load()?.stacks();
    /// let stack = stacks.server("api")?.http();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "http")]
    #[must_use]
    #[expect(clippy::type_complexity, reason = "that of the layer")]
    pub fn http(
        self,
    ) -> Live<
        ServerLayer<
            crate::http::Standard<crate::Typed>,
            crate::http::Extensions,
            crate::http::Problem,
            I,
            F::Http,
        >,
    >
    where
        F: ForHttp,
    {
        self.map(ServerLayer::http)
    }

    /// What the failure budget and the admission make of answers: see [`ServerLayer::classify`].
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// # let stacks = Loader::empty().set("servers.api.timeout", "5s").load()?.stacks();
    /// let stack = stacks.server("api")?.classify(buttress::AnyError);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn classify<C2>(self, classify: C2) -> Live<ServerLayer<C2, X, R, I, F>> {
        self.map(|layer| layer.classify(classify))
    }

    /// Where requests carry their deadline and their criticality: see [`ServerLayer::context`].
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// # let stacks = Loader::empty().set("servers.api.timeout", "5s").load()?.stacks();
    /// let stack = stacks.server("api")?.context(buttress::NoContext);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn context<X2>(self, context: X2) -> Live<ServerLayer<C, X2, R, I, F>> {
        self.map(|layer| layer.context(context))
    }

    /// What becomes of calls that the stack refuses: see [`ServerLayer::on_reject`].
    ///
    /// ```
    /// # use buttress::config::Loader;
    /// # let stacks = Loader::empty().set("servers.api.timeout", "5s").load()?.stacks();
    /// let stack = stacks.server("api")?.on_reject(buttress::AsError);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn on_reject<R2>(self, reject: R2) -> Live<ServerLayer<C, X, R2, I, F>> {
        self.map(|layer| layer.on_reject(reject))
    }
}

impl<C, X, R, F> Live<ServerLayer<C, X, R, Absent, F>> {
    /// Executes calls with a key once: see [`ServerLayer::idempotency`]. A store and what is recorded in it are no matter of the
    /// configuration, and stay what they are.
    ///
    /// ```
    /// # #[cfg(feature = "http")] {
    /// use buttress::config::Loader;
    /// use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// use buttress::store::MemoryStore;
    /// let stacks = Loader::empty().set("servers.payments.timeout", "5s").load()?.stacks();
    /// let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// let once = IdempotencyLayer::http(gate).single_tenant().required().build()?;
    /// let stack = stacks.server("payments")?.http().idempotency(once);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    #[expect(clippy::type_complexity, reason = "that of the layer")]
    pub fn idempotency<G, P, J>(
        self,
        layer: IdempotencyLayer<G, P, J>,
    ) -> Live<ServerLayer<C, X, R, Gate<G, P>, F>> {
        self.map(|stack| stack.idempotency(layer))
    }
}

#[cfg(feature = "http")]
impl<C, X, R, F> Live<ServerLayer<C, X, R, Absent, F>> {
    /// Executes HTTP calls with an `Idempotency-Key` once, on record in `store`: see [`ServerLayer::idempotent`].
    ///
    /// # Errors
    /// If the layer cannot be built.
    ///
    /// ```
    /// use buttress::config::Loader;
    /// use buttress::idempotency::Scope;
    /// use buttress::store::MemoryStore;
    /// let stacks = Loader::empty().set("servers.payments.timeout", "5s").load()?.stacks();
    /// let stack = stacks
    ///     .server("payments")?
    ///     .http()
    ///     .idempotent(MemoryStore::default(), |_| Some(Scope::global()))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[expect(clippy::type_complexity, reason = "that of the layer")]
    pub fn idempotent<G: crate::store::Store>(
        self,
        store: G,
        tenant: impl Fn(&::http::request::Parts) -> Option<crate::idempotency::Scope>
        + Send
        + Sync
        + 'static,
    ) -> Result<
        Live<ServerLayer<C, X, R, Gate<G, crate::idempotency::HttpExchange>, F>>,
        crate::error::ConfigError,
    > {
        let layer = self.layer.idempotent(store, tenant)?;
        Ok(Live { layer, slot: self.slot })
    }
}

impl<S, C, X, R, I, F> Layer<S> for Live<ServerLayer<C, X, R, I, F>>
where
    S: Clone,
    C: Clone + Send + Sync + 'static,
    X: Clone + Send + Sync + 'static,
    R: Clone + Send + Sync + 'static,
    I: Part<R> + Clone + Send + Sync + 'static,
    F: Part<R> + Clone + Send + Sync + 'static,
    Server<C, X, R, I::Layer, F::Layer>: Layer<S>,
{
    type Service = LiveService<S, Server<C, X, R, I::Layer, F::Layer>>;

    fn layer(&self, inner: S) -> Self::Service {
        let layer = self.layer.clone();
        LiveService::new(inner, self.slot.clone(), move |parts| match parts {
            Some(Parts::Server(parts)) => layer.clone().with(parts).layers(),
            _ => layer.layers(),
        })
    }
}
