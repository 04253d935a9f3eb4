use tower_layer::{Layer, Stack};

use super::lint::{LintSeverity, Plan, lint};
use super::optional::Optional;
use super::plan::{ClientPlan, ServerPlan};
use crate::budget::RetryBudget;
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
use crate::classify::AnyError;
use crate::context::NoContext;
use crate::error::ConfigError;
use crate::failure_budget::{FailureBudget, FailureBudgetLayer};
use crate::name::Name;
use crate::rate_limit::{RateLimitLayer, RateLimiter, Wait};
use crate::reject::AsError;
use crate::retry::{CloneRequest, RetryLayer, RetryPolicy};
use crate::timeout::{Timeout, TimeoutLayer};

fn checked<P: Plan>(plan: &P) -> Result<(), ConfigError> {
    match lint(plan).into_iter().find(|lint| lint.severity == LintSeverity::Error) {
        Some(lint) => Err(ConfigError::new(lint.field, lint.text, format!("no {}", lint.rule))),
        None => Ok(()),
    }
}

type Limited<R> = Optional<RateLimitLayer<RateLimiter, R, Wait>, R>;
type Client<C, P, X, R> = Stack<
    Optional<CircuitBreakerLayer<C, R>, R>,
    Stack<
        Optional<TimeoutLayer<X, R>, R>,
        Stack<Limited<R>, Stack<Optional<RetryLayer<C, P, R>, R>, Optional<TimeoutLayer<X, R>, R>>>,
    >,
>;
type Server<C, X, R> = Stack<
    Optional<TimeoutLayer<X, R>, R>,
    Stack<Optional<FailureBudgetLayer<C, R>, R>, Limited<R>>,
>;

/// A client's layers as one, from the outside in: total timeout, retry, rate limit, attempt timeout, breaker.
/// Made by [`client`]; every service it wraps shares its objects.
///
/// With retries it is the retry that ends an attempt: a refusal of a timeout would be final, an attempt
/// that it cut off itself is tried again. Either way the breaker inside sees a call that was given up, and
/// counts it.
#[derive(Clone, Debug)]
pub struct ClientLayer<C = AnyError, P = CloneRequest, X = NoContext, R = AsError> {
    name: Name,
    total: Option<Timeout>,
    policy: Option<RetryPolicy>,
    budget: Option<RetryBudget>,
    limiter: Option<(RateLimiter, std::time::Duration)>,
    breaker: Option<CircuitBreaker>,
    attempt: Option<Timeout>,
    classify: C,
    replay: P,
    context: X,
    reject: R,
}

/// The layers of a plan.
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
/// assert_eq!(stack.breaker().unwrap().stats().successful_calls, 1);
/// # Ok::<(), buttress::ConfigError>(())
/// # }).unwrap();
/// ```
pub fn client(plan: &ClientPlan) -> Result<ClientLayer, ConfigError> {
    checked(plan)?;
    let name = Name::from(plan.name.clone());
    let limiter = plan.rate_limit.map(|limit| limit.build(name).map(|made| (made, limit.max_wait)));
    let (policy, attempt) = match (plan.retry, plan.attempt_timeout) {
        (Some(policy), Some(after)) => {
            let after = policy.attempt_timeout().map_or(after, |own| own.min(after));
            (Some(policy.to_builder().attempt_timeout(after).build()?), None)
        }
        (policy, attempt) => (policy, attempt),
    };
    Ok(ClientLayer {
        name,
        total: plan.total_timeout.map(|after| Timeout::new(name, after)).transpose()?,
        policy,
        budget: plan.retry_budget.map(|budget| budget.build(name)).transpose()?,
        limiter: limiter.transpose()?,
        breaker: plan
            .breaker
            .map(|plan_of| plan_of.build(name, plan.attempt_timeout))
            .transpose()?,
        attempt: attempt.map(|after| Timeout::new(name, after)).transpose()?,
        classify: AnyError,
        replay: CloneRequest,
        context: NoContext,
        reject: AsError,
    })
}

impl<C, P, X, R> ClientLayer<C, P, X, R> {
    /// The breaker, if the plan has one.
    ///
    /// ```
    /// use buttress::presets::{ClientPlan, client};
    /// assert_eq!(client(&ClientPlan::new("db"))?.breaker().unwrap().name(), "db");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub const fn breaker(&self) -> Option<&CircuitBreaker> {
        self.breaker.as_ref()
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
        self.budget.as_ref()
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
        self.limiter.as_ref().map(|(limiter, _)| limiter)
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
        crate::http::Standard<crate::AnyError>,
        crate::retry::HttpRequest,
        crate::http::Extensions,
        R,
    > {
        ClientLayer {
            name: self.name,
            total: self.total,
            policy: self.policy,
            budget: self.budget,
            limiter: self.limiter,
            breaker: self.breaker,
            attempt: self.attempt,
            classify: crate::http::standard(),
            replay: crate::retry::HttpRequest::new(),
            context: crate::http::extensions(),
            reject: self.reject,
        }
    }
}

impl<S, C: Clone, P: Clone, X: Clone, R: Clone> Layer<S> for ClientLayer<C, P, X, R>
where
    Client<C, P, X, R>: Layer<S>,
{
    type Service = <Client<C, P, X, R> as Layer<S>>::Service;

    fn layer(&self, inner: S) -> Self::Service {
        let timeout = |timeout: Option<Timeout>| {
            Optional::new(timeout.map(|timeout| {
                timeout.layer().context(self.context.clone()).on_reject(self.reject.clone())
            }))
        };
        let retry = self.policy.map(|policy| {
            let layer = RetryLayer::new(policy).name(self.name);
            let layer = match &self.budget {
                Some(budget) => layer.budget(budget.clone()),
                None => layer.without_budget(),
            };
            let layer = layer.classify(self.classify.clone()).replay(self.replay.clone());
            layer.on_reject(self.reject.clone())
        });
        let breaker = self.breaker.clone().map(|breaker| {
            let layer = CircuitBreakerLayer::new(breaker).classify(self.classify.clone());
            layer.on_reject(self.reject.clone())
        });
        let outer = Stack::new(Optional::new(retry), timeout(self.total));
        let outer = Stack::new(limited(self.limiter.as_ref(), &self.reject), outer);
        let outer = Stack::new(timeout(self.attempt), outer);
        Stack::new(Optional::new(breaker), outer).layer(inner)
    }
}

fn limited<R: Clone>(
    limiter: Option<&(RateLimiter, std::time::Duration)>,
    reject: &R,
) -> Limited<R> {
    Optional::new(limiter.map(|(limiter, wait)| {
        RateLimitLayer::new(limiter.clone()).wait(*wait).on_reject(reject.clone())
    }))
}

/// A server's layers as one, from the outside in: rate limit, failure budget, timeout. Made by [`server`];
/// every service it wraps shares its objects.
#[derive(Clone, Debug)]
pub struct ServerLayer<C = AnyError, X = NoContext, R = AsError> {
    limiter: Option<(RateLimiter, std::time::Duration)>,
    budget: Option<FailureBudget>,
    timeout: Option<Timeout>,
    classify: C,
    context: X,
    reject: R,
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
    Ok(ServerLayer {
        limiter: limiter.transpose()?,
        budget: plan.failure_budget.map(|budget| budget.build(name)).transpose()?,
        timeout: plan.timeout.map(|after| Timeout::new(name, after)).transpose()?,
        classify: AnyError,
        context: NoContext,
        reject: AsError,
    })
}

impl<C, X, R> ServerLayer<C, X, R> {
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
        self.budget.as_ref()
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
    > {
        ServerLayer {
            limiter: self.limiter,
            budget: self.budget,
            timeout: self.timeout,
            classify: crate::http::standard(),
            context: crate::http::extensions(),
            reject: crate::http::problem(),
        }
    }
}

impl<S, C: Clone, X: Clone, R: Clone> Layer<S> for ServerLayer<C, X, R>
where
    Server<C, X, R>: Layer<S>,
{
    type Service = <Server<C, X, R> as Layer<S>>::Service;

    fn layer(&self, inner: S) -> Self::Service {
        let timeout = self.timeout.map(|timeout| {
            timeout.layer().context(self.context.clone()).on_reject(self.reject.clone())
        });
        let budget = self.budget.clone().map(|budget| {
            let layer = FailureBudgetLayer::new(budget).classify(self.classify.clone());
            layer.on_reject(self.reject.clone())
        });
        let outer = Stack::new(Optional::new(budget), limited(self.limiter.as_ref(), &self.reject));
        Stack::new(Optional::new(timeout), outer).layer(inner)
    }
}

/// The objects of a client that were made elsewhere.
#[cfg(feature = "config")]
pub(crate) struct ClientParts {
    pub(crate) name: Name,
    pub(crate) total: Option<Timeout>,
    pub(crate) policy: Option<RetryPolicy>,
    pub(crate) budget: Option<RetryBudget>,
    pub(crate) limiter: Option<RateLimiter>,
    pub(crate) breaker: Option<CircuitBreaker>,
    pub(crate) attempt: Option<Timeout>,
}

#[cfg(feature = "config")]
impl From<ClientParts> for ClientLayer {
    fn from(parts: ClientParts) -> Self {
        Self {
            name: parts.name,
            total: parts.total,
            policy: parts.policy,
            budget: parts.budget,
            limiter: parts.limiter.map(|limiter| (limiter, std::time::Duration::ZERO)),
            breaker: parts.breaker,
            attempt: parts.attempt,
            classify: AnyError,
            replay: CloneRequest,
            context: NoContext,
            reject: AsError,
        }
    }
}

/// The objects of a server that were made elsewhere.
#[cfg(feature = "config")]
pub(crate) struct ServerParts {
    pub(crate) limiter: Option<RateLimiter>,
    pub(crate) budget: Option<FailureBudget>,
    pub(crate) timeout: Option<Timeout>,
}

#[cfg(feature = "config")]
impl From<ServerParts> for ServerLayer {
    fn from(parts: ServerParts) -> Self {
        Self {
            limiter: parts.limiter.map(|limiter| (limiter, std::time::Duration::ZERO)),
            budget: parts.budget,
            timeout: parts.timeout,
            classify: AnyError,
            context: NoContext,
            reject: AsError,
        }
    }
}
