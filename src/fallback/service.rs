use std::fmt;
use std::task::{Context, Poll};

use tower_service::Service;

use super::answer::Answer;
use super::cause::Covers;
use super::future::ResponseFuture;
use super::keep::Keep;
use super::layer::Parts;
use crate::replay::CloneRequest;
use crate::sync::Lease;

/// Made by a [`FallbackLayer`](super::FallbackLayer). Ready when the inner service is.
///
/// ```
/// use tower::Layer;
/// let layer = buttress::fallback::Fallback::new("db").layer::<buttress::Typed>().value(0);
/// assert_eq!(*layer.layer(7).get_ref(), 7);
/// ```
pub struct FallbackService<S, A, V, K = CloneRequest> {
    pub(super) inner: S,
    pub(super) parts: Lease<Parts<A, V, K>>,
}

impl<S, A, V, K> FallbackService<S, A, V, K> {
    /// The inner service.
    ///
    /// ```
    /// use tower::Layer;
    /// let layer = buttress::fallback::Fallback::new("db").layer::<buttress::Typed>().value(0);
    /// assert_eq!(*layer.layer(7).get_ref(), 7);
    /// ```
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: Clone, A, V, K> Clone for FallbackService<S, A, V, K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), parts: self.parts.clone() }
    }
}

impl<S: fmt::Debug, A, V, K> fmt::Debug for FallbackService<S, A, V, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackService")
            .field("name", &self.parts.fallback.name())
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, Req, A, V, K> Service<Req> for FallbackService<S, A, V, K>
where
    S: Service<Req>,
    K: Keep<Req>,
    V: Covers<Req, S::Response, S::Error>,
    A: Answer<K::Kept, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, Req, A, V, K>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        let parts = self.parts.for_call();
        let kept = parts.keep.keep(&req);
        let ticket = parts.covers.start(&req);
        ResponseFuture::new(self.inner.call(req), kept, ticket, parts)
    }
}
