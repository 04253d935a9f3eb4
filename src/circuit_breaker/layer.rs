use tower_layer::Layer;

use crate::classify::AnyError;
use crate::reject::AsError;
use crate::slot::{Held, Seat, Slot};

use super::handle::CircuitBreaker;
use super::service::CircuitBreakerService;

/// Puts a [`CircuitBreaker`], or whichever is in a [`Slot`], around services: see the [module](super).
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
    source: Source,
    classify: C,
    reject: R,
    unready_while_open: bool,
}

/// Where the breaker comes from.
#[derive(Clone, Debug)]
enum Source {
    /// `None`: as if the layer were not there.
    Fixed(Option<CircuitBreaker>),
    Live(Slot<CircuitBreaker>),
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
        Self::of(Source::Fixed(breaker))
    }

    /// A layer with whichever breaker is in `slot` when a call is made, or none. So a breaker is installed,
    /// replaced and uninstalled while the stack runs. A call that has begun belongs to its breaker to its end: there
    /// its outcome counts, and there a probe gives its place back. While the slot is empty, calls pass as if the layer
    /// were not there.
    ///
    /// ```
    /// use buttress::Slot;
    /// use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// let slot = Slot::new();
    /// let mut service = CircuitBreakerLayer::from_slot(slot.clone())
    ///     .layer(service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) }));
    /// service.ready().await?.call(1).await?;
    ///
    /// let breaker = CircuitBreaker::new("payments");
    /// slot.install(breaker.clone());
    /// service.ready().await?.call(2).await?;
    /// assert_eq!(breaker.stats().successful_calls, 1, "the second call");
    /// breaker.force_open();
    /// assert!(service.ready().await?.call(3).await.is_err());
    /// slot.uninstall();
    /// service.ready().await?.call(4).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub const fn from_slot(slot: Slot<CircuitBreaker>) -> Self {
        Self::of(Source::Live(slot))
    }

    const fn of(source: Source) -> Self {
        Self { source, classify: AnyError, reject: AsError, unready_while_open: false }
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
            source: self.source,
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
            source: self.source,
            classify: self.classify,
            reject,
            unready_while_open: self.unready_while_open,
        }
    }

    /// Services are not ready while the circuit is open, instead of ready to refuse.
    ///
    /// Right under a load balancer that routes by readiness (`tower::balance`, `steer`), and only there:
    /// anywhere else callers would hang until the circuit closes. With a breaker [from a slot](CircuitBreakerLayer::from_slot)
    /// a service that is not ready looks again ten times a second, since nobody tells it of another breaker.
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
            match &self.source {
                Source::Fixed(breaker) => Held::Fixed(breaker.clone()),
                Source::Live(slot) => Held::Live(Seat::new(slot.clone())),
            },
            self.classify.clone(),
            self.reject.clone(),
            self.unready_while_open,
        )
    }
}
