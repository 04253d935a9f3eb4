use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use super::detached::Detached;
use super::exchange::{Identified, Identity};
use super::handle::Idempotency;
use super::service::IdempotencyService;
use crate::reject::AsError;

/// What a panic of the wrapped service says of its call. The panic itself goes on to the caller, in both
/// cases, and does no harm to anybody else.
///
/// ```
/// assert_eq!(buttress::idempotency::OnPanic::default(), buttress::idempotency::OnPanic::Interrupt);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnPanic {
    /// That its outcome is unknown, and that nobody shall run it again: what panicked once mostly panics
    /// again. The default.
    #[default]
    Interrupt,
    /// That its owner has gone: the gate's [`OnInterrupted`](crate::store::OnInterrupted) decides.
    Abandon,
}

/// Wraps services so that a call is executed at most once on record, and its duplicates are answered from
/// the record. See the [module](super) for what that promises.
///
/// The state is in the [gate](Idempotency) that the layer is made from: all services of the layer share it,
/// and so does code that uses the gate directly. [`OnInterrupted::Probe`](crate::store::OnInterrupted::Probe)
/// has nobody to ask here and is treated like `Fail`.
///
/// For HTTP and gRPC see `IdempotencyLayer::http`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use buttress::idempotency::{Idempotency, IdempotencyLayer, Identity, Scope};
/// use buttress::store::{Fingerprint, MemoryStore};
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// #[derive(Clone)]
/// struct Transfer { account: &'static str, number: u64, cents: u64 }
///
/// static PAID: AtomicU32 = AtomicU32::new(0);
/// let gate = Idempotency::new("transfers", MemoryStore::default(), Scope::global());
/// let bank = ServiceBuilder::new()
///     .layer(IdempotencyLayer::new(gate, |transfer: &Transfer| {
///         let fingerprint = Fingerprint::of(&transfer.cents.to_le_bytes());
///         Some(Identity::new(&Scope::tenant(transfer.account), transfer.number.to_le_bytes(), fingerprint))
///     }))
///     .service(service_fn(|transfer: Transfer| async move {
///         PAID.fetch_add(1, Ordering::Relaxed);
///         Ok::<_, std::io::Error>(format!("paid {} cents", transfer.cents))
///     }));
///
/// let transfer = Transfer { account: "account-7", number: 1, cents: 1000 };
/// let first = bank.clone().oneshot(transfer.clone()).await.unwrap();
/// let second = bank.clone().oneshot(transfer.clone()).await.unwrap();
/// assert_eq!((first.as_str(), first == second), ("paid 1000 cents", true));
/// assert_eq!(PAID.load(Ordering::Relaxed), 1);
///
/// assert!(bank.oneshot(Transfer { cents: 9999, ..transfer }).await.is_err(), "another transfer");
/// # }
/// ```
pub struct IdempotencyLayer<G, P, R = AsError> {
    parts: Arc<Parts<G, P>>,
    reject: R,
}

/// What all services of one layer share.
pub(super) struct Parts<G, P> {
    pub(super) gate: Idempotency<G>,
    pub(super) exchange: P,
    pub(super) on_panic: OnPanic,
    pub(super) detached: Detached,
}

impl<G, F> IdempotencyLayer<G, Identified<F>> {
    /// A layer for calls of any kind. `identify` says what makes a call the same call; `None` lets it
    /// through to be executed each time.
    ///
    /// Answers must be [`Replayable`](super::Replayable); errors are recorded as their text. A duplicate of
    /// a call that failed, or whose answer was not kept, is refused as `IdempotencyOutcomeUnknown`, with
    /// [`Earlier`](super::Earlier) as the [source](std::error::Error::source) that says more. A call that
    /// failed surely without effect says so with
    /// [`EffectContext::not_applied`](super::EffectContext::not_applied).
    ///
    /// ```
    /// use buttress::idempotency::{Idempotency, IdempotencyLayer, Identity, Scope};
    /// use buttress::store::{Fingerprint, MemoryStore};
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// let layer = IdempotencyLayer::new(gate, |order: &(String, u64)| {
    ///     Some(Identity::new(&Scope::tenant(&order.0), order.1.to_le_bytes(), Fingerprint::NONE))
    /// });
    /// ```
    pub fn new<Req>(gate: Idempotency<G>, identify: F) -> Self
    where
        F: Fn(&Req) -> Option<Identity>,
    {
        Self::from_parts(gate, Identified { identify }, OnPanic::default(), AsError)
    }
}

impl<G, P, R> IdempotencyLayer<G, P, R> {
    pub(super) fn from_parts(
        gate: Idempotency<G>,
        exchange: P,
        on_panic: OnPanic,
        reject: R,
    ) -> Self {
        let detached = Detached::default();
        Self { parts: Arc::new(Parts { gate, exchange, on_panic, detached }), reject }
    }

    /// What a refused caller gets; see [`Reject`](crate::Reject).
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Identity, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// use buttress::respond_with;
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// let layer = IdempotencyLayer::new(gate, |order: &u64| {
    ///     Some(Identity::new(&Scope::global(), order.to_le_bytes(), Fingerprint::NONE))
    /// })
    /// .on_reject(respond_with(|_: u64, why| format!("not now: {why}")));
    /// ```
    #[must_use]
    pub fn on_reject<T>(self, reject: T) -> IdempotencyLayer<G, P, T> {
        IdempotencyLayer { parts: self.parts, reject }
    }

    /// The calls that go on when their callers go, to be waited for before the process ends.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Identity, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let layer = IdempotencyLayer::new(gate, |order: &u64| {
    /// #     Some(Identity::new(&Scope::global(), order.to_le_bytes(), Fingerprint::NONE))
    /// # });
    /// let executions = layer.detached();
    /// // … the server has stopped …
    /// executions.idle().await;
    /// # }
    /// ```
    #[must_use]
    pub fn detached(&self) -> Detached {
        self.parts.detached.clone()
    }

    /// The gate.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Identity, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let layer = IdempotencyLayer::new(gate, |order: &u64| {
    /// #     Some(Identity::new(&Scope::global(), order.to_le_bytes(), Fingerprint::NONE))
    /// # });
    /// assert_eq!(layer.gate().name(), "orders");
    /// ```
    #[must_use]
    pub fn gate(&self) -> &Idempotency<G> {
        &self.parts.gate
    }
}

impl<G, P, R: Clone> IdempotencyLayer<G, P, R>
where
    P: Clone,
{
    /// What a panic of the wrapped service says of its call.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Identity, OnPanic, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// let layer = IdempotencyLayer::new(gate, |order: &u64| {
    ///     Some(Identity::new(&Scope::global(), order.to_le_bytes(), Fingerprint::NONE))
    /// })
    /// .on_panic(OnPanic::Abandon);
    /// ```
    #[must_use]
    pub fn on_panic(self, on_panic: OnPanic) -> Self {
        let (gate, exchange) = (self.parts.gate.clone(), self.parts.exchange.clone());
        let detached = self.parts.detached.clone();
        let parts = Parts { gate, exchange, on_panic, detached };
        Self { parts: Arc::new(parts), reject: self.reject }
    }
}

impl<G, P, R: Clone> Clone for IdempotencyLayer<G, P, R> {
    fn clone(&self) -> Self {
        Self { parts: Arc::clone(&self.parts), reject: self.reject.clone() }
    }
}

impl<G, P, R> fmt::Debug for IdempotencyLayer<G, P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer").field("gate", &self.parts.gate).finish_non_exhaustive()
    }
}

impl<S, G, P, R: Clone> Layer<S> for IdempotencyLayer<G, P, R> {
    type Service = IdempotencyService<S, G, P, R>;

    fn layer(&self, inner: S) -> Self::Service {
        IdempotencyService::new(inner, Arc::clone(&self.parts), self.reject.clone())
    }
}
