use tower_layer::{Layer, Stack};

#[cfg(feature = "http")]
use super::part::ForHttp;
use super::part::{Absent, Faults, Gate, Part};
use super::plan::ServerPlan;
use super::shared::{Limited, checked, limited};
use crate::classify::AnyError;
use crate::conditioner::Conditioner;
use crate::context::NoContext;
use crate::error::ConfigError;
use crate::failure_budget::{FailureBudget, FailureBudgetLayer};
use crate::idempotency::IdempotencyLayer;
use crate::name::Name;
use crate::rate_limit::RateLimiter;
use crate::reject::AsError;
use crate::slot::Slot;
use crate::timeout::{Timeout, TimeoutLayer};

pub(super) type Server<C, X, R, I, F> =
    Stack<F, Stack<I, Stack<FailureBudgetLayer<C, R>, Stack<TimeoutLayer<X, R>, Limited<R>>>>>;

/// A server's layers as one, from the outside in: rate limit, timeout, failure budget, idempotency,
/// conditioner. Made by [`server`]; every service it wraps shares its objects.
///
/// The timeout is outside of the failure budget, which sees a call that was given up and counts it; a refusal
/// from inside would not count.
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
    name: Name,
    limiter: Option<(RateLimiter, std::time::Duration)>,
    budget: Budget,
    timeout: Option<Timeout>,
    classify: C,
    context: X,
    reject: R,
    idempotency: I,
    faults: F,
}

/// A failure budget, where the layers look for it.
#[derive(Clone, Debug, Default)]
struct Budget {
    planned: Option<FailureBudget>,
    slot: Slot<FailureBudget>,
}

impl From<FailureBudget> for Budget {
    fn from(budget: FailureBudget) -> Self {
        Self { slot: Slot::with(budget.clone()), planned: Some(budget) }
    }
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
    let name = Name::from(plan.name.clone());
    let limiter = plan.rate_limit.map(|limit| limit.build(name).map(|made| (made, limit.max_wait)));
    let budget = plan.failure_budget.map(|budget| budget.build(name, plan.timeout)).transpose()?;
    Ok(ServerLayer {
        name,
        limiter: limiter.transpose()?,
        budget: budget.map(Budget::from).unwrap_or_default(),
        timeout: plan.timeout.map(|after| Timeout::new(name, after)).transpose()?,
        classify: AnyError,
        context: NoContext,
        reject: AsError,
        idempotency: Absent::new(),
        faults: Absent::new(),
    })
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
        self.limiter.as_ref().map(|(limiter, _)| limiter)
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
        self.budget.planned.as_ref()
    }

    /// For `http::Request` and `http::Response`: refusals are responses and the error type stays what it
    /// is; requests are bounded by the deadline in their extensions.
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

    /// What the failure budget makes of answers, a [`Classify`](crate::Classify).
    ///
    /// ```
    /// use buttress::presets::{ServerPlan, server};
    /// let stack = server(&ServerPlan::new("api"))?.classify(buttress::AnyError);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn classify<C2>(self, classify: C2) -> ServerLayer<C2, X, R, I, F> {
        ServerLayer {
            name: self.name,
            limiter: self.limiter,
            budget: self.budget,
            timeout: self.timeout,
            classify,
            context: self.context,
            reject: self.reject,
            idempotency: self.idempotency,
            faults: self.faults,
        }
    }

    /// Where requests carry their deadline, a [`ReadContext`](crate::ReadContext).
    ///
    /// ```
    /// use buttress::presets::{ServerPlan, server};
    /// let stack = server(&ServerPlan::new("api"))?.context(buttress::NoContext);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn context<X2>(self, context: X2) -> ServerLayer<C, X2, R, I, F> {
        ServerLayer {
            name: self.name,
            limiter: self.limiter,
            budget: self.budget,
            timeout: self.timeout,
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
            name: self.name,
            limiter: self.limiter,
            budget: self.budget,
            timeout: self.timeout,
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
            name: self.name,
            limiter: self.limiter,
            budget: self.budget,
            timeout: self.timeout,
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
        let gate = Idempotency::new(self.name, store, Scope::global());
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
        let timeout = TimeoutLayer::maybe(self.timeout);
        let timeout = timeout.context(self.context.clone()).on_reject(self.reject.clone());
        let budget = FailureBudgetLayer::from_slot(self.budget.slot.clone());
        let budget = budget.classify(self.classify.clone()).on_reject(self.reject.clone());
        let outer = limited(self.limiter.as_ref(), &self.reject);
        let outer = Stack::new(timeout, outer);
        let outer = Stack::new(budget, outer);
        let outer = Stack::new(self.idempotency.layer(&self.reject), outer);
        Stack::new(self.faults.layer(&self.reject), outer)
    }
}

/// The objects of a server that were made elsewhere.
#[cfg(feature = "config")]
#[derive(Clone, Debug)]
pub(crate) struct ServerParts {
    pub(crate) limiter: Option<RateLimiter>,
    /// As long as these are the parts, they have what a command or the configuration puts there.
    pub(crate) budget: Slot<FailureBudget>,
    pub(crate) faults: Slot<Conditioner>,
    pub(crate) timeout: Option<Timeout>,
}

#[cfg(feature = "config")]
impl ServerLayer {
    pub(super) fn empty(name: Name) -> Self {
        Self {
            name,
            limiter: None,
            budget: Budget::default(),
            timeout: None,
            classify: AnyError,
            context: NoContext,
            reject: AsError,
            idempotency: Absent::new(),
            faults: Absent::new(),
        }
    }
}

#[cfg(feature = "config")]
impl<C, X, R, I, F: Part<R> + Clone> ServerLayer<C, X, R, I, F> {
    pub(super) fn with(self, parts: ServerParts) -> Self {
        let limiter = parts.limiter.map(|limiter| (limiter, std::time::Duration::ZERO));
        let budget = Budget { planned: None, slot: parts.budget };
        let faults = self.faults.with_faults(&parts.faults);
        Self { limiter, budget, timeout: parts.timeout, faults, ..self }
    }
}
