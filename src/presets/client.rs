use tower_layer::Layer;

use super::client_parts::ClientParts;
#[cfg(feature = "http")]
use super::part::ForHttp;
use super::part::{Absent, Faults, Part};
use super::plan::ClientPlan;
use super::pool::Client;
use super::shared::checked;
use crate::budget::RetryBudget;
use crate::circuit_breaker::CircuitBreaker;
use crate::classify::AnyError;
use crate::conditioner::Conditioner;
use crate::context::NoContext;
use crate::error::ConfigError;
use crate::name::Name;
use crate::rate_limit::RateLimiter;
use crate::reject::AsError;
use crate::retry::CloneRequest;
use crate::slot::Slot;
use crate::timeout::Timeout;

/// A client's layers as one; [the module](super) has their order. Made by [`client`]; every service it wraps
/// shares its objects.
///
/// At first its `context` is [`NoContext`]: `http` or [`context`](Self::context) tells it where requests carry their
/// deadline and their criticality, see [`client`].
///
/// ```
/// use buttress::presets::{ClientLayer, ClientPlan, client};
/// use buttress::BoxError;
/// use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
/// // Kept with its objects, to ask them later; the service by a short name.
/// struct Client {
///     stack: ClientLayer,
///     service: BoxCloneSyncService<u32, u32, BoxError>,
/// }
/// let stack = client(&ClientPlan::new("double"))?;
/// let double = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(2 * n) });
/// let service = BoxCloneSyncService::new(stack.layer(double));
/// let client = Client { stack, service };
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// assert_eq!(client.service.oneshot(4).await.unwrap(), 8);
/// assert_eq!(client.stack.backend().unwrap().stats().admitted, 1);
/// # });
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClientLayer<C = AnyError, P = CloneRequest, X = NoContext, R = AsError, F = Absent> {
    pub(super) parts: ClientParts,
    pub(super) classify: C,
    pub(super) replay: P,
    pub(super) context: X,
    pub(super) reject: R,
    pub(super) faults: F,
}

/// The layers of a plan.
///
/// They know nothing of what a request carries until `http` (for `http::Request`) or [`context`](ClientLayer::context)
/// tells them where it is. Until then the plan's times are the only deadlines, all calls are
/// [`Critical`](crate::Criticality::Critical), so that none goes before another, and what is sent inside does not know
/// which attempt it is: in a [pool](ClientLayer::pool) a retry may go to the endpoint that has just failed.
///
/// # Errors
/// If a value is out of range, or the plan has a lint that is an error.
///
/// ```
/// use buttress::presets::{ClientPlan, client};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let stack = client(&ClientPlan::new("db"))?;
/// let service = ServiceBuilder::new()
///     .layer(stack.clone())
///     .service(service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n + 1) }));
/// assert_eq!(service.oneshot(1).await.unwrap(), 2);
/// assert_eq!(stack.backend().unwrap().stats().admitted, 1);
/// # Ok::<(), buttress::ConfigError>(())
/// # }).unwrap();
/// ```
pub fn client(plan: &ClientPlan) -> Result<ClientLayer, ConfigError> {
    checked(plan)?;
    let name = Name::from(plan.name.clone());
    let limiter = plan.rate_limit.map(|limit| limit.build(name).map(|made| (made, limit.max_wait)));
    let own = plan.policy().and_then(|policy| policy.attempt_timeout());
    // What ends an attempt at the latest.
    let end = [own, plan.attempt_timeout, plan.total_timeout].into_iter().flatten().min();
    let mut parts = ClientParts {
        total: plan.total_timeout.map(|after| Timeout::new(name, after)).transpose()?,
        limiter: limiter.transpose()?,
        attempt: plan.attempt_timeout.map(|after| Timeout::new(name, after)).transpose()?,
        breaker: plan.breaker.map(|breaker| breaker.build(name, end)).transpose()?,
        ..ClientParts::of(plan, None)?
    };
    if let Some(budget) = plan.retry_budget {
        parts.budget = Some(budget.build(name)?);
    }
    Ok(ClientLayer::of(parts.settled()?))
}

impl ClientLayer {
    pub(super) fn of(parts: ClientParts) -> Self {
        Self {
            parts,
            classify: AnyError,
            replay: CloneRequest,
            context: NoContext,
            reject: AsError,
            faults: Absent::new(),
        }
    }
}

impl<C, P, X, R, F> ClientLayer<C, P, X, R, F> {
    /// The breaker, if the plan has one.
    ///
    /// ```
    /// use buttress::presets::{BreakerPlan, ClientPlan, client};
    /// let mut plan = ClientPlan::new("db");
    /// assert!(client(&plan)?.breaker().is_none());
    /// plan.breaker = Some(BreakerPlan::default());
    /// assert_eq!(client(&plan)?.breaker().unwrap().name(), "db");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub const fn breaker(&self) -> Option<&CircuitBreaker> {
        self.parts.breaker.as_ref()
    }

    /// The retry budget, if the plan has one.
    ///
    /// ```
    /// use buttress::presets::{ClientPlan, client};
    /// assert!(client(&ClientPlan::new("db"))?.retry_budget().is_some());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub const fn retry_budget(&self) -> Option<&RetryBudget> {
        self.parts.budget.as_ref()
    }

    /// The rate limiter, if the plan has one.
    ///
    /// ```
    /// use buttress::presets::{ClientPlan, client};
    /// assert!(client(&ClientPlan::new("db"))?.rate_limiter().is_none());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn rate_limiter(&self) -> Option<&RateLimiter> {
        self.parts.limiter.as_ref().map(|(limiter, _)| limiter)
    }

    /// For `http::Request` and `http::Response`: judged by status, copied with their extensions, bounded by
    /// the deadline in them. Refusals stay errors.
    ///
    /// ```
    /// use buttress::presets::{ClientPlan, client};
    /// let stack = client(&ClientPlan::new("db"))?.http();
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[cfg(feature = "http")]
    #[must_use]
    pub fn http(
        self,
    ) -> ClientLayer<
        super::http::AnyHttp,
        crate::retry::HttpRequest,
        crate::http::Extensions,
        R,
        F::Http,
    >
    where
        F: ForHttp,
    {
        self.classify(super::http::AnyHttp::default())
            .replay(crate::retry::HttpRequest::new())
            .context(crate::http::extensions())
            .with_faults(F::for_http)
    }

    /// What the retry, the breaker and the backend make of answers, a [`Classify`](crate::Classify). Inside of the layers
    /// errors have the type of the service, outside that of the refusals: one that knows one type only is told by
    /// [`downcast`](crate::downcast), or the service's is made a [`BoxError`](crate::BoxError).
    ///
    /// ```
    /// use buttress::presets::{ClientPlan, client};
    /// use buttress::{FailureClass, Verdict, classify_fn, downcast};
    /// use std::io::Error;
    /// use tower::{Layer, ServiceExt, service_fn};
    /// let judge = classify_fn(|result: Result<&u32, &Error>| match result {
    ///     Ok(_) => Verdict::success(),
    ///     Err(_) => Verdict::failure(FailureClass::Permanent),
    /// });
    /// let stack = client(&ClientPlan::new("db"))?.classify(downcast::<Error, _>(judge));
    /// let service = stack.layer(service_fn(|n: u32| async move { Ok::<_, Error>(n) }));
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// assert_eq!(service.oneshot(7).await.unwrap(), 7);
    /// # });
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn classify<C2>(self, classify: C2) -> ClientLayer<C2, P, X, R, F> {
        ClientLayer {
            parts: self.parts,
            classify,
            replay: self.replay,
            context: self.context,
            reject: self.reject,
            faults: self.faults,
        }
    }

    /// How a request is sent again, a [`Replay`](crate::retry::Replay).
    ///
    /// ```
    /// use buttress::presets::{ClientPlan, client};
    /// let small = |upload: &Vec<u8>| (upload.len() <= 1024).then(|| upload.clone());
    /// let stack = client(&ClientPlan::new("db"))?.replay(small);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn replay<P2>(self, replay: P2) -> ClientLayer<C, P2, X, R, F> {
        ClientLayer {
            parts: self.parts,
            classify: self.classify,
            replay,
            context: self.context,
            reject: self.reject,
            faults: self.faults,
        }
    }

    /// Where requests carry their deadline and criticality, a [`ReadContext`](crate::ReadContext). A closure reads them;
    /// what the stack writes for the layers inside (which attempt it is, of which call) needs a type with
    /// [`set_context`](crate::ReadContext::set_context).
    ///
    /// ```
    /// use buttress::presets::{ClientPlan, client};
    /// use buttress::{Context, Deadline};
    /// struct Query { by: Deadline }
    /// let read = |query: &Query| Context::new().with_deadline(query.by);
    /// let stack = client(&ClientPlan::new("db"))?.context(read);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn context<X2>(self, context: X2) -> ClientLayer<C, P, X2, R, F> {
        ClientLayer {
            parts: self.parts,
            classify: self.classify,
            replay: self.replay,
            context,
            reject: self.reject,
            faults: self.faults,
        }
    }

    /// What becomes of calls that the stack refuses, a [`Reject`](crate::Reject) for the request and, where it
    /// is gone, for `()`.
    ///
    /// The default box errors, so that each layer recognises the refusals of those inside. With
    /// [`AsTyped`](crate::AsTyped) they are nested in types that only
    /// [`error_chain`](crate::error_chain), or for HTTP `standard`, looks through: give the stack one of them.
    ///
    /// ```
    /// use buttress::presets::{ClientPlan, client};
    /// use buttress::{AsTyped, Typed, error_chain};
    /// let stack = client(&ClientPlan::new("db"))?.classify(error_chain::<Typed>()).on_reject(AsTyped);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn on_reject<R2>(self, reject: R2) -> ClientLayer<C, P, X, R2, F> {
        ClientLayer {
            parts: self.parts,
            classify: self.classify,
            replay: self.replay,
            context: self.context,
            reject,
            faults: self.faults,
        }
    }

    fn with_faults<F2>(self, change: impl FnOnce(F) -> F2) -> ClientLayer<C, P, X, R, F2> {
        ClientLayer {
            parts: self.parts,
            classify: self.classify,
            replay: self.replay,
            context: self.context,
            reject: self.reject,
            faults: change(self.faults),
        }
    }
}

impl<C, P, X, R, M> ClientLayer<C, P, X, R, Absent<M>> {
    /// Faults, inside of everything else: a [`Conditioner`], or a [`Slot`] in which one comes and goes. For
    /// HTTP bodies become `conditioner::FaultyBody`s.
    ///
    /// ```
    /// use buttress::Slot;
    /// use buttress::conditioner::Conditioner;
    /// use buttress::presets::{ClientPlan, client};
    /// use std::time::Duration;
    /// let slot = Slot::<Conditioner>::new();
    /// let stack = client(&ClientPlan::new("db"))?.conditioner(slot.clone());
    /// slot.install(Conditioner::network(Duration::from_millis(80), Duration::ZERO, 0.1, None)?);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn conditioner(
        self,
        conditioner: impl Into<Slot<Conditioner>>,
    ) -> ClientLayer<C, P, X, R, Faults<M>> {
        self.with_faults(|_| Faults::new(conditioner.into()))
    }
}

impl<S, C: Clone, P: Clone, X: Clone, R: Clone, F: Part<R>> Layer<S> for ClientLayer<C, P, X, R, F>
where
    Client<C, P, X, R, F::Layer>: Layer<S>,
{
    type Service = <Client<C, P, X, R, F::Layer> as Layer<S>>::Service;

    fn layer(&self, inner: S) -> Self::Service {
        self.layers(false).layer(inner)
    }
}
