use std::fmt;
use std::hash::Hash;
use std::mem;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::ResponseFuture;
use super::layer::Parts;
use super::share::{CloneResponse, Share};
use crate::context::{NoContext, ReadContext};
use crate::key::Key;
use crate::reject::{AsError, Reject, Remember};
use crate::sync::Lease;

/// Made by a [`CoalesceLayer`](super::CoalesceLayer). Always ready.
///
/// ```
/// use buttress::coalesce::Coalesce;
/// use tower::Layer;
/// let layer = Coalesce::<u32, u32>::new("users").layer(|id: &u32| Some(*id));
/// assert_eq!(*layer.layer(7).get_ref(), 7);
/// ```
pub struct CoalesceService<S, K, V, O, X, P = CloneResponse, C = NoContext, R = AsError> {
    pub(super) inner: S,
    pub(super) parts: Lease<Parts<K, V, O, X, P, C, R>>,
}

impl<S, K, V, O, X, P, C, R> CoalesceService<S, K, V, O, X, P, C, R> {
    /// The inner service.
    ///
    /// ```
    /// use buttress::coalesce::Coalesce;
    /// use tower::Layer;
    /// let layer = Coalesce::<u32, u32>::new("users").layer(|id: &u32| Some(*id));
    /// assert_eq!(*layer.layer(7).get_ref(), 7);
    /// ```
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: Clone, K, V, O, X, P, C, R> Clone for CoalesceService<S, K, V, O, X, P, C, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), parts: self.parts.clone() }
    }
}

impl<S: fmt::Debug, K, V, O, X, P, C, R> fmt::Debug for CoalesceService<S, K, V, O, X, P, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoalesceService")
            .field("coalesce", &self.parts.coalesce)
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, Req, K, V, Res, Err, X, P, C, R> Service<Req>
    for CoalesceService<S, K, V, Result<Res, Err>, X, P, C, R>
where
    S: Service<Req, Future: Send> + Clone + Send + 'static,
    Req: Send + 'static,
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    Res: Send + 'static,
    Err: Send + 'static,
    X: Key<Req, Key = K>,
    P: Share<S::Response, S::Error, Shared = V, Response = Res, Error = Err, Future: Send>
        + Clone
        + Send
        + 'static,
    C: ReadContext<Req>,
    R: Reject<(), Res, Err> + Remember<Req>,
{
    type Response = Res;
    type Error = R::Error;
    type Future = ResponseFuture<S, Req, K, V, Res, Err, X, P, C, R>;

    /// Always ready: who waits for the call of another one needs no room of its own.
    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let parts = self.parts.for_call();
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        ResponseFuture::new(inner, req, parts)
    }
}
