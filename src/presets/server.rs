use tower_layer::{Layer, Stack};

use super::handled::Handled;
#[cfg(feature = "http")]
use super::part::ForHttp;
use super::part::{Absent, Faults, Gate, Part};
use super::plan::ServerPlan;
use super::server_parts::ServerParts;
use super::shared::{Limited, checked, limited};
use crate::admission::{Admission, AdmissionLayer};
use crate::backend::Backend;
use crate::classify::AnyError;
use crate::conditioner::Conditioner;
use crate::context::NoContext;
use crate::error::ConfigError;
use crate::failure_budget::{FailureBudget, FailureBudgetLayer};
use crate::idempotency::IdempotencyLayer;
use crate::rate_limit::RateLimiter;
use crate::reject::AsError;
use crate::slot::Slot;
use crate::timeout::{Timeout, TimeoutLayer};

/// Around the handlers.
type Outer<C, X, R> =
    Stack<AdmissionLayer<Handled<C>, X, R>, Stack<TimeoutLayer<X, R>, Limited<X, R>>>;

pub(super) type Server<C, X, R, I, F> =
    Stack<F, Stack<I, Stack<FailureBudgetLayer<C, R>, Outer<C, X, R>>>>;

/// A server's layers as one, from the outside in: rate limit, timeout, admission, failure budget, idempotency,
/// conditioner. Made by [`server`]; every service it wraps shares its objects.
///
/// The timeout is outside of the failure budget, which sees a call that was given up and counts it; a refusal
/// from inside would not count. It is outside of the admission, too: it bounds the wait for a place and the handler
/// together, and the admission learns of handlers that it ends.
///
/// ```
/// use buttress::presets::{ServerLayer, ServerPlan, server};
/// // Kept with its objects, to ask them later.
/// struct Server {
///     stack: ServerLayer,
/// }
/// let server = Server { stack: server(&ServerPlan::new("api"))? };
/// assert_eq!(server.stack.failure_budget().unwrap().stats().samples, 0);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ServerLayer<C = AnyError, X = NoContext, R = AsError, I = Absent, F = Absent> {
    parts: ServerParts,
    classify: C,
    context: X,
    reject: R,
    idempotency: I,
    faults: F,
}

/// The layers of a plan.
///
/// # Errors
/// If a value is out of range, or the plan has a lint that is an error.
///
/// ```
/// # #[cfg(feature = "http")] {
/// use axum::{Router, routing::get};
/// use buttress::presets::{ServerPlan, server};
/// let stack = server(&ServerPlan::new("api"))?.http();
/// let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(stack);
/// # }
/// # Ok::<(), buttress::ConfigError>(())
/// ```
pub fn server(plan: &ServerPlan) -> Result<ServerLayer, ConfigError> {
    checked(plan)?;
    let mut parts = ServerParts::of(plan, None)?;
    let limiter =
        plan.rate_limit.map(|limit| limit.build(parts.name).map(|it| (it, limit.max_wait)));
    parts.limiter = limiter.transpose()?;
    let budget = plan.failure_budget.map(|budget| budget.build(parts.name, plan.timeout));
    if let Some(budget) = budget.transpose()? {
        parts.budget = Slot::with(budget.clone());
        parts.planned = Some(budget);
    }
    Ok(ServerLayer::of(parts))
}

impl ServerLayer {
    pub(super) fn of(parts: ServerParts) -> Self {
        Self {
            parts,
            classify: AnyError,
            context: NoContext,
            reject: AsError,
            idempotency: Absent::new(),
            faults: Absent::new(),
        }
    }
}

impl<C, X, R, I, F> ServerLayer<C, X, R, I, F> {
    /// The rate limiter, if the plan has one.
    ///
    /// ```
    /// use buttress::presets::{ServerPlan, server};
    /// assert!(server(&ServerPlan::new("api"))?.rate_limiter().is_none());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn rate_limiter(&self) -> Option<&RateLimiter> {
        self.parts.limiter.as_ref().map(|(limiter, _)| limiter)
    }

    /// The failure budget, if the plan has one.
    ///
    /// ```
    /// use buttress::presets::{ServerPlan, server};
    /// assert_eq!(server(&ServerPlan::new("api"))?.failure_budget().unwrap().name(), "api");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub const fn failure_budget(&self) -> Option<&FailureBudget> {
        self.parts.planned.as_ref()
    }

    /// What is known of the handlers, if the plan has a `backend`.
    ///
    /// ```
    /// use buttress::presets::{BackendPlan, ServerPlan, server};
    /// let mut plan = ServerPlan::new("api");
    /// assert!(server(&plan)?.backend().is_none());
    /// plan.backend = Some(BackendPlan::fixed(256));
    /// assert_eq!(server(&plan)?.backend().unwrap().stats().limit, 256);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn backend(&self) -> Option<&Backend> {
        self.parts.admission.as_ref().map(Admission::backend)
    }

    /// For `http::Request` and `http::Response`: refusals are responses and the error type stays what it
    /// is; requests wait in the order of the criticality and the deadline in their extensions, and are bounded by that
    /// deadline. A [`ContextLayer`](crate::http::ContextLayer) outside of the stack puts there what their headers say.
    ///
    /// ```
    /// use buttress::presets::{ServerPlan, server};
    /// let stack = server(&ServerPlan::new("api"))?.http();
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[cfg(feature = "http")]
    #[must_use]
    pub fn http(
        self,
    ) -> ServerLayer<
        crate::http::Standard<crate::Typed>,
        crate::http::Extensions,
        crate::http::Problem,
        I,
        F::Http,
    >
    where
        F: ForHttp,
    {
        self.classify(crate::http::standard())
            .context(crate::http::extensions())
            .on_reject(crate::http::problem())
            .with_parts(|gate| gate, F::for_http)
    }

    /// What the failure budget and the admission make of answers, a [`Classify`](crate::Classify). To the admission errors
    /// have the type of the refusals already: one that knows the service's only is told by [`downcast`](crate::downcast).
    ///
    /// ```
    /// use buttress::presets::{ServerPlan, server};
    /// let stack = server(&ServerPlan::new("api"))?.classify(buttress::AnyError);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn classify<C2>(self, classify: C2) -> ServerLayer<C2, X, R, I, F> {
        ServerLayer {
            parts: self.parts,
            classify,
            context: self.context,
            reject: self.reject,
            idempotency: self.idempotency,
            faults: self.faults,
        }
    }

    /// Where requests carry their deadline and their criticality, a [`ReadContext`](crate::ReadContext).
    ///
    /// ```
    /// use buttress::presets::{ServerPlan, server};
    /// let stack = server(&ServerPlan::new("api"))?.context(buttress::NoContext);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn context<X2>(self, context: X2) -> ServerLayer<C, X2, R, I, F> {
        ServerLayer {
            parts: self.parts,
            classify: self.classify,
            context,
            reject: self.reject,
            idempotency: self.idempotency,
            faults: self.faults,
        }
    }

    /// What becomes of calls that the stack refuses, a [`Reject`](crate::Reject) for the request and, where it
    /// is gone, for `()`.
    ///
    /// ```
    /// # #[cfg(feature = "http")] {
    /// use buttress::http::problem;
    /// use buttress::presets::{ServerPlan, server};
    /// // Nothing about the inside for strangers.
    /// let stack = server(&ServerPlan::new("api"))?.http().on_reject(problem().detail(false));
    /// # }
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn on_reject<R2>(self, reject: R2) -> ServerLayer<C, X, R2, I, F> {
        ServerLayer {
            parts: self.parts,
            classify: self.classify,
            context: self.context,
            reject,
            idempotency: self.idempotency,
            faults: self.faults,
        }
    }

    fn with_parts<I2, F2>(
        self,
        idempotency: impl FnOnce(I) -> I2,
        faults: impl FnOnce(F) -> F2,
    ) -> ServerLayer<C, X, R, I2, F2> {
        ServerLayer {
            parts: self.parts,
            classify: self.classify,
            context: self.context,
            reject: self.reject,
            idempotency: idempotency(self.idempotency),
            faults: faults(self.faults),
        }
    }
}

impl<C, X, R, F> ServerLayer<C, X, R, Absent, F> {
    /// Executes calls with a key once, inside of everything but the faults. Refusals are those of the stack.
    ///
    /// A call that is executed goes on when its time is over: the caller gets the refusal, and with the same
    /// key later the answer. A refusal from inside of it would be recorded in place of that. It goes on for as long
    /// as it takes: where that may be for ever, give the gate a
    /// [longest run](crate::idempotency::IdempotencyBuilder::max_run).
    ///
    /// ```
    /// # #[cfg(feature = "http")] {
    /// use axum::{Router, routing::post};
    /// use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// use buttress::presets::{ServerPlan, server};
    /// use buttress::store::MemoryStore;
    /// let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// let once = IdempotencyLayer::http(gate).single_tenant().required().build()?;
    /// let stack = server(&ServerPlan::new("payments"))?.http().idempotency(once);
    /// let app: Router = Router::new().route("/pay", post(|| async { "paid" })).layer(stack);
    /// # }
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn idempotency<G, P, J>(
        self,
        layer: IdempotencyLayer<G, P, J>,
    ) -> ServerLayer<C, X, R, Gate<G, P>, F> {
        let layer = layer.on_reject(AsError);
        self.with_parts(|_| Gate { layer }, |faults| faults)
    }

    /// Executes HTTP calls with an `Idempotency-Key` once, on record in `store`: the gate has the name of the
    /// stack and the defaults. `tenant` says whose key it is; see
    /// [`tenant`](crate::idempotency::HttpIdempotencyBuilder::tenant). For other settings see
    /// [`idempotency`](Self::idempotency).
    ///
    /// # Errors
    /// If the layer cannot be built.
    ///
    /// ```
    /// use axum::{Router, routing::post};
    /// use buttress::idempotency::Scope;
    /// use buttress::presets::{ServerPlan, server};
    /// use buttress::store::MemoryStore;
    /// let stack = server(&ServerPlan::new("payments"))?
    ///     .http()
    ///     .idempotent(MemoryStore::default(), |_| Some(Scope::global()))?;
    /// let app: Router = Router::new().route("/pay", post(|| async { "paid" })).layer(stack);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[cfg(feature = "http")]
    #[expect(clippy::type_complexity, reason = "the parts that it has")]
    pub fn idempotent<G: crate::store::Store>(
        self,
        store: G,
        tenant: impl Fn(&::http::request::Parts) -> Option<crate::idempotency::Scope>
        + Send
        + Sync
        + 'static,
    ) -> Result<ServerLayer<C, X, R, Gate<G, crate::idempotency::HttpExchange>, F>, ConfigError>
    {
        use crate::idempotency::{Idempotency, Scope};
        let gate = Idempotency::new(self.parts.name, store, Scope::global());
        let layer = IdempotencyLayer::http(gate).tenant(tenant).build()?;
        Ok(self.idempotency(layer))
    }
}

impl<C, X, R, I, M> ServerLayer<C, X, R, I, Absent<M>> {
    /// Faults, inside of everything else: a [`Conditioner`], or a [`Slot`] in which one comes and goes. For
    /// HTTP bodies become `conditioner::FaultyBody`s.
    ///
    /// ```
    /// use buttress::Slot;
    /// use buttress::conditioner::Conditioner;
    /// use buttress::presets::{ServerPlan, server};
    /// let slot = Slot::<Conditioner>::new();
    /// let stack = server(&ServerPlan::new("api"))?.conditioner(slot.clone());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn conditioner(
        self,
        conditioner: impl Into<Slot<Conditioner>>,
    ) -> ServerLayer<C, X, R, I, Faults<M>> {
        self.with_parts(|gate| gate, |_| Faults::new(conditioner.into()))
    }
}

impl<S, C, X, R, I, F> Layer<S> for ServerLayer<C, X, R, I, F>
where
    C: Clone,
    X: Clone,
    R: Clone,
    I: Part<R>,
    F: Part<R>,
    Server<C, X, R, I::Layer, F::Layer>: Layer<S>,
{
    type Service = <Server<C, X, R, I::Layer, F::Layer> as Layer<S>>::Service;

    fn layer(&self, inner: S) -> Self::Service {
        self.layers().layer(inner)
    }
}

impl<C: Clone, X: Clone, R: Clone, I: Part<R>, F: Part<R>> ServerLayer<C, X, R, I, F> {
    pub(super) fn layers(&self) -> Server<C, X, R, I::Layer, F::Layer> {
        let parts = &self.parts;
        // With an admission the deadline that it reads is the caller's own; it tells those inside when the timeout ends.
        let timeout = match &parts.admission {
            Some(_) => parts.timeout.map(Timeout::counted_from_poll),
            None => parts.timeout,
        };
        let timeout = TimeoutLayer::maybe(timeout);
        let timeout = timeout.context(self.context.clone()).on_reject(self.reject.clone());
        let admission = AdmissionLayer::maybe(parts.admission.clone()).tells_end();
        let admission = admission.classify(Handled { classify: self.classify.clone() });
        let admission = admission.context(self.context.clone()).on_reject(self.reject.clone());
        let budget = FailureBudgetLayer::from_slot(parts.budget.clone());
        let budget = budget.classify(self.classify.clone()).on_reject(self.reject.clone());
        let outer = limited(parts.limiter.as_ref(), &self.context, &self.reject);
        let outer = Stack::new(timeout, outer);
        let outer = Stack::new(admission, outer);
        let outer = Stack::new(budget, outer);
        let outer = Stack::new(self.idempotency.layer(&self.reject), outer);
        Stack::new(self.faults.layer(&self.reject), outer)
    }
}

#[cfg(feature = "config")]
impl<C, X, R, I, F: Part<R> + Clone> ServerLayer<C, X, R, I, F> {
    pub(super) fn with(self, parts: ServerParts) -> Self {
        let faults = self.faults.with_faults(&parts.faults);
        Self { parts, faults, ..self }
    }
}
