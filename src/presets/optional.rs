use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::reject::Reject;

/// A layer that may be absent; either way errors are those of `R`.
#[derive(Clone, Debug)]
pub struct Optional<L, R> {
    layer: Option<L>,
    marker: PhantomData<fn() -> R>,
}

impl<L, R> Optional<L, R> {
    pub(super) const fn new(layer: Option<L>) -> Self {
        Self { layer, marker: PhantomData }
    }
}

impl<S, L: Layer<S>, R> Layer<S> for Optional<L, R> {
    type Service = Maybe<L::Service, S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        let part = match &self.layer {
            Some(layer) => Part::Present(layer.layer(inner)),
            None => Part::Absent(inner),
        };
        Maybe { part, marker: PhantomData }
    }
}

/// A service inside of a layer, or without it.
pub struct Maybe<A, B, R> {
    part: Part<A, B>,
    marker: PhantomData<fn() -> R>,
}

#[derive(Clone, Debug)]
enum Part<A, B> {
    Present(A),
    Absent(B),
}

impl<A: Clone, B: Clone, R> Clone for Maybe<A, B, R> {
    fn clone(&self) -> Self {
        Self { part: self.part.clone(), marker: PhantomData }
    }
}

impl<A: fmt::Debug, B: fmt::Debug, R> fmt::Debug for Maybe<A, B, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.part.fmt(f)
    }
}

impl<Req, A, B, R> Service<Req> for Maybe<A, B, R>
where
    A: Service<Req>,
    B: Service<Req, Response = A::Response>,
    R: Reject<(), A::Response, B::Error, Error = A::Error>,
{
    type Response = A::Response;
    type Error = A::Error;
    type Future = MaybeFuture<A::Future, B::Future, R>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        match &mut self.part {
            Part::Present(service) => service.poll_ready(cx),
            Part::Absent(service) => service.poll_ready(cx).map_err(R::map_err),
        }
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        match &mut self.part {
            Part::Present(service) => {
                MaybeFuture::Present { call: service.call(req), marker: PhantomData }
            }
            Part::Absent(service) => MaybeFuture::Absent { call: service.call(req) },
        }
    }
}

pin_project! {
    /// The answer of a [`Maybe`].
    #[project = Proj]
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    #[allow(clippy::exhaustive_enums, missing_docs)]
    pub enum MaybeFuture<A, B, R> {
        /// The layer is there.
        Present {
            #[pin]
            call: A,
            marker: PhantomData<fn() -> R>,
        },
        /// It is not.
        Absent {
            #[pin]
            call: B,
        },
    }
}

impl<A, B, R, Res, E1, E2> Future for MaybeFuture<A, B, R>
where
    A: Future<Output = Result<Res, E1>>,
    B: Future<Output = Result<Res, E2>>,
    R: Reject<(), Res, E2, Error = E1>,
{
    type Output = Result<Res, E1>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Proj::Present { call, .. } => call.poll(cx),
            Proj::Absent { call } => call.poll(cx).map(|result| result.map_err(R::map_err)),
        }
    }
}
