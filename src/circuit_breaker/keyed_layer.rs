//! The layer of keyed breakers, and its service.

use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use crate::classify::{AnyError, Classify};
use crate::key::Key;
use crate::reject::{AsError, Reject};

use super::future::ResponseFuture;
use super::keyed::KeyedCircuitBreaker;
use super::service::call;

/// Guards each request with the breaker of its key: see [`KeyedCircuitBreaker::layer`].
///
/// ```
/// use buttress::circuit_breaker::{CircuitBreaker, KeyedCircuitBreaker, KeyedCircuitBreakerLayer};
/// use buttress::key_fn;
/// let shards: KeyedCircuitBreaker<u64> = CircuitBreaker::builder("shards").build_keyed(64)?;
/// let layer: KeyedCircuitBreakerLayer<u64, _> = shards.layer(key_fn(|user: &u64| user % 10));
/// # let _ = layer;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct KeyedCircuitBreakerLayer<K, X, C = AnyError, R = AsError> {
    pub(super) breakers: KeyedCircuitBreaker<K>,
    pub(super) key: X,
    pub(super) classify: C,
    pub(super) reject: R,
}

impl<K, X, C, R> KeyedCircuitBreakerLayer<K, X, C, R> {
    /// Judges calls with `classify`.
    ///
    /// ```
    /// # use buttress::circuit_breaker::{CircuitBreaker, KeyedCircuitBreaker};
    /// let shards: KeyedCircuitBreaker<u8> = CircuitBreaker::builder("shards").build_keyed(10)?;
    /// let layer = shards.layer(buttress::key_fn(|request: &u8| *request)).classify(buttress::AnyError);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn classify<C2>(self, classify: C2) -> KeyedCircuitBreakerLayer<K, X, C2, R> {
        let Self { breakers, key, reject, .. } = self;
        KeyedCircuitBreakerLayer { breakers, key, classify, reject }
    }

    /// Answers refused calls with `reject`.
    ///
    /// ```
    /// # use buttress::circuit_breaker::{CircuitBreaker, KeyedCircuitBreaker};
    /// let shards: KeyedCircuitBreaker<u8> = CircuitBreaker::builder("shards").build_keyed(10)?;
    /// let layer = shards.layer(buttress::key_fn(|request: &u8| *request)).on_reject(buttress::AsTyped);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn on_reject<R2>(self, reject: R2) -> KeyedCircuitBreakerLayer<K, X, C, R2> {
        let Self { breakers, key, classify, .. } = self;
        KeyedCircuitBreakerLayer { breakers, key, classify, reject }
    }
}

impl<K, X, C, R> fmt::Debug for KeyedCircuitBreakerLayer<K, X, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCircuitBreakerLayer")
            .field("breakers", &self.breakers)
            .finish_non_exhaustive()
    }
}

impl<S, K, X: Clone, C: Clone, R: Clone> Layer<S> for KeyedCircuitBreakerLayer<K, X, C, R> {
    type Service = KeyedCircuitBreakerService<S, K, X, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        KeyedCircuitBreakerService {
            inner,
            breakers: self.breakers.clone(),
            key: self.key.clone(),
            classify: self.classify.clone(),
            reject: self.reject.clone(),
            marker: PhantomData,
        }
    }
}

/// A service whose requests are guarded by the breaker of their key: see [`KeyedCircuitBreaker::layer`].
///
/// Which breaker decides is only known with the request, so readiness is the inner service's.
///
/// ```
/// use buttress::circuit_breaker::{CircuitBreaker, KeyedCircuitBreaker};
/// use buttress::key_fn;
/// use tower::{Layer, Service, service_fn};
/// let shards: KeyedCircuitBreaker<u64> = CircuitBreaker::builder("shards").build_keyed(64)?;
/// let layer = shards.layer(key_fn(|user: &u64| user % 10));
/// let mut service = layer.layer(service_fn(|user: u64| async move { Ok::<_, std::io::Error>(user) }));
/// drop(service.call(7)); // never polled: nothing was sent
/// # Ok::<(), buttress::ConfigError>(())
/// ```
pub struct KeyedCircuitBreakerService<S, K, X, C = AnyError, R = AsError> {
    inner: S,
    breakers: KeyedCircuitBreaker<K>,
    key: X,
    classify: C,
    reject: R,
    marker: PhantomData<fn() -> K>,
}

impl<S: Clone, K, X: Clone, C: Clone, R: Clone> Clone
    for KeyedCircuitBreakerService<S, K, X, C, R>
{
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            breakers: self.breakers.clone(),
            key: self.key.clone(),
            classify: self.classify.clone(),
            reject: self.reject.clone(),
            marker: PhantomData,
        }
    }
}

impl<S: fmt::Debug, K, X, C, R> fmt::Debug for KeyedCircuitBreakerService<S, K, X, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCircuitBreakerService")
            .field("inner", &self.inner)
            .field("breakers", &self.breakers)
            .finish_non_exhaustive()
    }
}

impl<S, K, X, C, R, Req> Service<Req> for KeyedCircuitBreakerService<S, K, X, C, R>
where
    S: Service<Req>,
    K: Hash + Eq + Clone,
    X: Key<Req, Key = K>,
    C: Classify<Req, S::Response, S::Error> + Clone,
    R: Reject<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = R::Error;
    type Future = ResponseFuture<S, Req, C, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(R::map_err)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let mut breaker = match self.key.key(&req) {
            Some(key) => self.breakers.get(&key),
            None => self.breakers.table.unguarded(),
        };
        let admitted = breaker.lease.admit();
        call(&mut self.inner, req, &mut breaker.lease, admitted, &self.classify, &self.reject)
    }
}
