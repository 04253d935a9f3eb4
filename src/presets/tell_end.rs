//! Where a request is told by when its call has to end.

use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use crate::context::{ReadContext, tell_end};

/// The context of a request that goes on says when its call ends at the latest, as far as the layers outside have handed
/// that down.
#[derive(Clone, Copy, Debug)]
pub struct TellEndLayer<X> {
    pub(super) context: X,
}

impl<S, X: Clone> Layer<S> for TellEndLayer<X> {
    type Service = TellEnd<S, X>;

    fn layer(&self, inner: S) -> Self::Service {
        TellEnd { inner, context: self.context.clone() }
    }
}

/// Made by a [`TellEndLayer`].
#[derive(Debug)]
pub struct TellEnd<S, X> {
    inner: S,
    context: X,
}

impl<S: Clone, X: Clone> Clone for TellEnd<S, X> {
    // The inner service last: made in its place, or all of it is copied for each layer of a stack.
    #[inline(always)]
    fn clone(&self) -> Self {
        Self { context: self.context.clone(), inner: self.inner.clone() }
    }
}

impl<S: Service<Req>, X: ReadContext<Req>, Req> Service<Req> for TellEnd<S, X> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline(always)]
    fn call(&mut self, mut req: Req) -> S::Future {
        tell_end(&self.context, &mut req);
        self.inner.call(req)
    }
}
