//! Stacks whose parts are exchanged while they run.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::client_parts::ClientParts;
use super::server_parts::ServerParts;
use crate::slot::Slot;
use crate::sync::{Lease, Mutex, Padded, lock, stripe_count, thread_number};

/// The layers of a stack from a configuration, a [`ClientLayer`](super::ClientLayer) or a
/// [`ServerLayer`](super::ServerLayer): its services go by what is loaded later, too. Made by
/// [`Stacks`](crate::config::Stacks).
///
/// All parts of a stack are exchanged at one point in time: a call is made by those of one configuration, to its end. A service looks
/// when it is asked whether it is ready, which costs one load; after a change it puts the new layers around a clone of
/// the inner service and drives that one to readiness. Calls in flight go on as they began, and one that has been found
/// ready makes its next call as it is.
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
    Client(Box<ClientParts>),
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

/// Where services find the layers of other parts.
struct Source<T, L> {
    slot: Slot<Parts>,
    compose: Box<dyn Fn(Option<Parts>) -> L + Send + Sync>,
    /// Services to clone, by threads. One that is never called itself, only cloned for each call, does not see changes: its
    /// clones do, and need not build anything each time.
    known: Box<[Padded<Known<T>>]>,
}

/// With the version of its parts. Never called.
type Known<T> = Mutex<Option<Box<(u64, T)>>>;

impl<T: Clone, L> Source<T, L> {
    #[cold]
    #[inline(never)]
    fn look<S: Clone>(&self, inner: &S) -> (u64, T)
    where
        L: Layer<S, Service = T>,
    {
        let place = &*self.known[thread_number() & (self.known.len() - 1)];
        // Taken out while it is cloned, which is user code.
        let known = lock(place).take();
        let known = known.filter(|known| known.0 == self.slot.version()).unwrap_or_else(|| {
            let (version, parts) = self.slot.versioned();
            Box::new((version, (self.compose)(parts).layer(inner.clone())))
        });
        let service = (*known).clone();
        let before = lock(place).replace(known);
        // Outside of the lock, too.
        drop(before);
        service
    }
}

/// A service in a stack that is [`Live`], which made it. Clones of one that has not been called since a change
/// each see the change for themselves.
///
/// Needs an inner service that can be cloned; it holds one clone that is never called, and after a change there is
/// one more for each few threads.
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
    /// It has said so, and has not been called since.
    ready: bool,
    source: Lease<Source<L::Service, L>>,
    inner: S,
}

impl<S: Clone, L: Layer<S>> LiveService<S, L> {
    pub(super) fn new(
        inner: S,
        slot: Slot<Parts>,
        compose: impl Fn(Option<Parts>) -> L + Send + Sync + 'static,
    ) -> Self {
        let (seen, parts) = slot.versioned();
        let service = compose(parts).layer(inner.clone());
        let known = (0..stripe_count()).map(|_| Padded(Mutex::new(None))).collect();
        let source = Arc::new(Source { slot, compose: Box::new(compose), known });
        Self { service, seen, ready: false, source: Lease::new(source), inner }
    }
}

impl<S: Clone, L: Layer<S>> LiveService<S, L>
where
    L::Service: Clone,
{
    #[cold]
    #[inline(never)]
    fn renew(&mut self) {
        // All that can panic comes first.
        let (seen, service) = self.source.look(&self.inner);
        (self.seen, self.service) = (seen, service);
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
            ready: false,
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
    L::Service: Service<Req> + Clone,
{
    type Response = <L::Service as Service<Req>>::Response;
    type Error = <L::Service as Service<Req>>::Error;
    type Future = <L::Service as Service<Req>>::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Not once it has said that it is: what has been reserved belongs to these layers and the next call. What they wait for
        // is given back with them.
        if !self.ready && self.source.slot.version() != self.seen {
            self.renew();
        }
        let ready = self.service.poll_ready(cx);
        self.ready = matches!(ready, Poll::Ready(Ok(())));
        ready
    }

    // Else the future would be made elsewhere and copied.
    #[inline(always)]
    fn call(&mut self, req: Req) -> Self::Future {
        self.ready = false;
        self.service.call(req)
    }
}
