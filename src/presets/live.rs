//! Stacks whose parts are exchanged while they run.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::client_parts::ClientParts;
use super::server::ServerParts;
use crate::slot::{Made, Slot};
use crate::sync::Lease;

/// The layers of a stack from a configuration, a [`ClientLayer`](super::ClientLayer) or a
/// [`ServerLayer`](super::ServerLayer): its services go by what is loaded later, too. Made by
/// [`Stacks`](crate::config::Stacks).
///
/// All parts of a stack are exchanged at one point in time: a call is made by those of one configuration, to its end. A service looks
/// when it is asked whether it is ready, which costs one load; after a change it puts the new layers around a clone of
/// the inner service and drives that one to readiness. Calls in flight go on as they began.
///
/// ```
/// use buttress::config::{Loader, Reloader};
/// use std::time::Duration;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let file = std::env::temp_dir().join(format!("live-{}.yml", std::process::id()));
/// std::fs::write(&file, "clients: {pay: {total_timeout: 1ms}}")?;
/// let loader = Loader::empty().file(&file);
/// let stacks = loader.load()?.stacks();
/// let service = ServiceBuilder::new().layer(stacks.client("pay")?).service(service_fn(|n: u32| async move {
///     tokio::time::sleep(Duration::from_millis(20)).await;
///     Ok::<_, std::io::Error>(n)
/// }));
/// assert!(service.clone().oneshot(1).await.is_err());
///
/// std::fs::write(&file, "clients: {pay: {total_timeout: 1min, rate_limit: 100/s}}")?;
/// Reloader::new(loader, &stacks).reload()?;
/// assert!(service.oneshot(1).await.is_ok());
/// assert_eq!(stacks.client("pay")?.rate_limiter().unwrap().stats().acquired, 1);
/// # std::fs::remove_file(&file)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Live<L> {
    /// Everything but the parts.
    pub(super) layer: L,
    pub(super) slot: Slot<Parts>,
}

/// What a configuration decides of a stack.
#[derive(Clone, Debug)]
pub(crate) enum Parts {
    Client(ClientParts),
    Server(ServerParts),
}

impl<L: fmt::Debug> fmt::Debug for Live<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("parts", &self.slot).field("layer", &self.layer).finish()
    }
}

impl<L> Live<L> {
    pub(super) fn map<M>(self, change: impl FnOnce(L) -> M) -> Live<M> {
        Live { layer: change(self.layer), slot: self.slot }
    }
}

/// Layers of which there are others after a change.
struct Source<L> {
    slot: Slot<Parts>,
    compose: Box<dyn Fn(Option<Parts>) -> L + Send + Sync>,
    made: Made<Arc<L>>,
}

impl<L> Source<L> {
    #[cold]
    #[inline(never)]
    fn look(&self) -> (u64, Arc<L>) {
        self.made.of(&self.slot, |parts| Arc::new((self.compose)(parts)))
    }
}

/// A service in a stack that is [`Live`], which made it. Clones of one that has not been called since a change
/// each see the change for themselves.
///
/// Needs an inner service that can be cloned; it holds one clone that is never called.
///
/// ```
/// use buttress::config::Loader;
/// use tower::{Layer, ServiceExt, service_fn};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let stacks = Loader::empty().set("servers.api.timeout", "5s").load()?.stacks();
/// let inner = service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n + 1) });
/// assert_eq!(stacks.server("api")?.layer(inner).oneshot(1).await.unwrap(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct LiveService<S, L: Layer<S>> {
    service: L::Service,
    /// The version of the parts that it is of.
    seen: u64,
    source: Lease<Source<L>>,
    inner: S,
}

impl<S: Clone, L: Layer<S>> LiveService<S, L> {
    pub(super) fn new(
        inner: S,
        slot: Slot<Parts>,
        compose: impl Fn(Option<Parts>) -> L + Send + Sync + 'static,
    ) -> Self {
        let source = Source { slot, compose: Box::new(compose), made: Made::new() };
        let (seen, layers) = source.look();
        let service = layers.layer(inner.clone());
        Self { service, seen, source: Lease::new(Arc::new(source)), inner }
    }

    #[cold]
    #[inline(never)]
    fn renew(&mut self) {
        let (seen, layers) = self.source.look();
        // All that can panic comes first.
        let service = layers.layer(self.inner.clone());
        self.seen = seen;
        self.service = service;
    }
}

impl<S: Clone, L: Layer<S>> Clone for LiveService<S, L>
where
    L::Service: Clone,
{
    #[inline]
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            seen: self.seen,
            source: self.source.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<S, L: Layer<S>> fmt::Debug for LiveService<S, L>
where
    L::Service: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveService")
            .field("version", &self.seen)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl<S, Req, L> Service<Req> for LiveService<S, L>
where
    S: Clone,
    L: Layer<S>,
    L::Service: Service<Req>,
{
    type Response = <L::Service as Service<Req>>::Response;
    type Error = <L::Service as Service<Req>>::Error;
    type Future = <L::Service as Service<Req>>::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Only here: what has been reserved belongs to the layers that are asked for it. With those that are dropped
        // it is given back.
        if self.source.slot.version() != self.seen {
            self.renew();
        }
        self.service.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        self.service.call(req)
    }
}
