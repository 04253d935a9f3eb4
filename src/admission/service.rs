use std::fmt;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::ResponseFuture;
use super::layer::Parts;
use crate::classify::{AnyError, Classify};
use crate::clock::hand_end_down;
use crate::context::{NoContext, ReadContext};
use crate::reject::{AsError, Reject};
use crate::sync::Lease;

/// A service behind an [`Admission`](super::Admission).
///
/// ```
/// use buttress::admission::{Admission, AdmissionLayer};
/// use tower::{Layer, Service, ServiceExt, service_fn};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::BoxError> {
/// let double = service_fn(|n: u32| async move { Ok::<_, buttress::BoxError>(2 * n) });
/// let service = AdmissionLayer::new(Admission::new("double")).layer(double);
/// assert_eq!(service.oneshot(4).await?, 8);
/// # Ok(())
/// # }
/// ```
pub struct AdmissionService<S, C = AnyError, X = NoContext, R = AsError> {
    inner: S,
    /// `None`: as if the layer were not there.
    parts: Option<Lease<Parts<C, X, R>>>,
}

impl<S, C, X, R> AdmissionService<S, C, X, R> {
    pub(super) fn new(inner: S, parts: Option<Lease<Parts<C, X, R>>>) -> Self {
        Self { inner, parts }
    }
}

impl<S: Clone, C, X, R> Clone for AdmissionService<S, C, X, R> {
    // The inner service last, and not by `new`: made in its place, or all of it is copied for each layer of a stack.
    #[inline(always)]
    fn clone(&self) -> Self {
        Self { parts: self.parts.clone(), inner: self.inner.clone() }
    }
}

impl<S: fmt::Debug, C, X, R> fmt::Debug for AdmissionService<S, C, X, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionService")
            .field("inner", &self.inner)
            .field("admission", &self.parts.as_ref().map(|parts| &parts.admission))
            .finish_non_exhaustive()
    }
}

impl<S, Req, C, X, R> Service<Req> for AdmissionService<S, C, X, R>
where
    S: Service<Req> + Clone,
    C: Classify<Req, S::Response, S::Error>,
    X: ReadContext<Req>,
    R: Reject<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = R::Error;
    type Future = ResponseFuture<S, Req, C, X, R>;

    /// Always ready: who has to wait does so in the future, where a deadline can end it.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.parts.is_none() {
            return self.inner.poll_ready(cx).map_err(R::map_err);
        }
        Poll::Ready(Ok(()))
    }

    #[inline(always)]
    fn call(&mut self, req: Req) -> Self::Future {
        let Some(parts) = &mut self.parts else {
            // Before this call is polled, and perhaps by another task than the one that polls now.
            let none = hand_end_down(None);
            let future = self.inner.call(req);
            drop(none);
            return ResponseFuture::through(future);
        };
        let parts = parts.for_call();
        // Neither instance was asked whether it is ready: the clone will be.
        ResponseFuture::new(parts, req, self.inner.clone())
    }
}
