//! A slot that changes whenever a service looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tower::{Layer, Service};

/// A layer around another whose services call `change` with a number, each time that they are asked whether they are ready
/// for the `every`th time.
#[derive(Clone)]
pub(super) struct Toggled<L> {
    layer: L,
    every: u64,
    asked: Arc<AtomicU64>,
    change: Arc<dyn Fn(u64) + Send + Sync>,
}

impl<L> Toggled<L> {
    pub(super) fn new(layer: L, every: u64, change: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { layer, every, asked: Arc::default(), change: Arc::new(change) }
    }
}

impl<S, L: Layer<S> + Clone> Layer<S> for Toggled<L> {
    type Service = ToggledService<L::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        let Self { layer, every, asked, change } = self.clone();
        ToggledService { inner: layer.layer(inner), every, asked, change }
    }
}

#[derive(Clone)]
pub(super) struct ToggledService<S> {
    inner: S,
    every: u64,
    asked: Arc<AtomicU64>,
    change: Arc<dyn Fn(u64) + Send + Sync>,
}

impl<S: Service<Req>, Req> Service<Req> for ToggledService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        if asked.is_multiple_of(self.every) {
            (self.change)(asked);
        }
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> S::Future {
        self.inner.call(req)
    }
}
