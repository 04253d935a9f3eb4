use std::fmt;
use std::mem;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::ResponseFuture;
use super::layer::Parts;
use crate::classify::{AnyError, Classify};
use crate::context::{NoContext, ReadContext};
use crate::reject::{AsError, Reject};
use crate::sync::Lease;

/// A service behind a [`Throttle`](super::Throttle).
///
/// ```
/// use buttress::throttle::Throttle;
/// use tower::{Layer, ServiceExt, service_fn};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::BoxError> {
/// let double = service_fn(|n: u32| async move { Ok::<_, buttress::BoxError>(2 * n) });
/// assert_eq!(Throttle::new("double").layer().layer(double).oneshot(4).await?, 8);
/// # Ok(())
/// # }
/// ```
pub struct ThrottleService<S, C = AnyError, X = NoContext, R = AsError> {
    pub(super) inner: S,
    pub(super) parts: Lease<Parts<C, X, R>>,
}

impl<S: Clone, C, X, R> Clone for ThrottleService<S, C, X, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), parts: self.parts.clone() }
    }
}

impl<S: fmt::Debug, C, X, R> fmt::Debug for ThrottleService<S, C, X, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThrottleService")
            .field("inner", &self.inner)
            .field("throttle", &self.parts.throttle)
            .finish_non_exhaustive()
    }
}

impl<S, Req, C, X, R> Service<Req> for ThrottleService<S, C, X, R>
where
    S: Service<Req> + Clone,
    C: Classify<Req, S::Response, S::Error>,
    X: ReadContext<Req>,
    R: Reject<Req, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = R::Error;
    type Future = ResponseFuture<S, Req, C, X, R>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(R::map_err)
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        // The ready instance goes with the call: a clone of it need not be ready.
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        ResponseFuture::new(inner, req, self.parts.for_call())
    }
}
