use tower_layer::Layer;

use crate::classify::AnyError;
use crate::reject::AsError;

use super::handle::CircuitBreaker;
use super::service::CircuitBreakerService;

/// Puts a [`CircuitBreaker`] around services: see the [module](super).
///
/// All services it makes share the one breaker, however often `layer` is called.
///
/// ```
/// use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
/// use buttress::{AsTyped, error_chain};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let breaker = CircuitBreaker::new("payments");
/// let service = ServiceBuilder::new()
///     .layer(CircuitBreakerLayer::new(breaker).classify(error_chain()).on_reject(AsTyped))
///     .service(service_fn(|request: u32| async move { Ok::<_, std::io::Error>(request + 1) }));
/// assert_eq!(service.oneshot(1).await.unwrap(), 2);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CircuitBreakerLayer<C = AnyError, R = AsError> {
    /// `None`: as if the layer were not there.
    breaker: Option<CircuitBreaker>,
    classify: C,
    reject: R,
    unready_while_open: bool,
}

impl CircuitBreakerLayer {
    /// A view of `breaker` as a layer. Errors are judged by [`AnyError`]; refusals become a
    /// [`BoxError`](crate::BoxError).
    ///
    /// ```
    /// use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
    /// let layer = CircuitBreakerLayer::new(CircuitBreaker::new("db"));
    /// ```
    #[must_use]
    pub fn new(breaker: CircuitBreaker) -> Self {
        Self::maybe(Some(breaker))
    }

    /// A layer that may be absent from its stack, in a type that is the same with it and without.
    pub(crate) const fn maybe(breaker: Option<CircuitBreaker>) -> Self {
        Self { breaker, classify: AnyError, reject: AsError, unready_while_open: false }
    }
}

impl<C, R> CircuitBreakerLayer<C, R> {
    /// Judges calls with `classify`.
    ///
    /// ```
    /// # use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
    /// # let breaker = CircuitBreaker::new("db");
    /// let layer = CircuitBreakerLayer::new(breaker).classify(buttress::AnyError);
    /// ```
    #[must_use]
    pub fn classify<C2>(self, classify: C2) -> CircuitBreakerLayer<C2, R> {
        CircuitBreakerLayer {
            breaker: self.breaker,
            classify,
            reject: self.reject,
            unready_while_open: self.unready_while_open,
        }
    }

    /// Answers refused calls with `reject`.
    ///
    /// ```
    /// # use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
    /// # let breaker = CircuitBreaker::new("db");
    /// let layer = CircuitBreakerLayer::new(breaker).on_reject(buttress::AsTyped);
    /// ```
    #[must_use]
    pub fn on_reject<R2>(self, reject: R2) -> CircuitBreakerLayer<C, R2> {
        CircuitBreakerLayer {
            breaker: self.breaker,
            classify: self.classify,
            reject,
            unready_while_open: self.unready_while_open,
        }
    }

    /// Services are not ready while the circuit is open, instead of ready to refuse.
    ///
    /// Right under a load balancer that routes by readiness (`tower::balance`, `steer`), and only there:
    /// anywhere else callers would hang until the circuit closes.
    ///
    /// ```
    /// # use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
    /// # let breaker = CircuitBreaker::new("db");
    /// let endpoint = CircuitBreakerLayer::new(breaker).unready_while_open();
    /// ```
    #[must_use]
    pub fn unready_while_open(mut self) -> Self {
        self.unready_while_open = true;
        self
    }
}

impl<S, C: Clone, R: Clone> Layer<S> for CircuitBreakerLayer<C, R> {
    type Service = CircuitBreakerService<S, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        CircuitBreakerService::new(
            inner,
            self.breaker.as_ref().map(|breaker| breaker.lease.clone()),
            self.classify.clone(),
            self.reject.clone(),
            self.unready_while_open,
        )
    }
}
