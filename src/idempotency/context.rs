use std::future::Future;
use std::sync::Arc;

use crate::store::{Domain, Fields, Hex, RecordId, domain};
use crate::sync::atomic::{AtomicBool, Ordering};

static DERIVED: Domain = Domain::new(|| domain("buttress/derived/1"));

tokio::task_local! {
    static CURRENT: EffectContext;
}

/// What the executed code may know of its execution, and what it can say of it. Cheap to clone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use buttress::idempotency::{Idempotency, Scope};
/// use buttress::store::{Fingerprint, MemoryStore};
///
/// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
/// let sent = gate.run_with("order-1", Fingerprint::NONE, |effect| async move {
///     // The bank drops duplicates by this key, so even a run after a crash pays once.
///     Ok::<_, std::io::Error>(effect.derive_key("transfer"))
/// });
/// assert_eq!(sent.await.unwrap().value.len(), 64);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct EffectContext(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: RecordId,
    generation: u64,
    runs: u16,
    not_applied: AtomicBool,
}

impl EffectContext {
    pub(super) fn new(id: RecordId, generation: u64, runs: u16) -> Self {
        Self(Arc::new(Inner { id, generation, runs, not_applied: AtomicBool::new(false) }))
    }

    /// A key for a call further down that drops duplicates: the same for every run of this execution, and
    /// different for each label. No secret: whoever knows the caller's key, its scope and the gate's name can make
    /// it, too.
    ///
    /// ```
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin_blocking("k", Fingerprint::NONE) else { panic!() };
    /// let effect = permit.context();
    /// assert_ne!(effect.derive_key("debit"), effect.derive_key("credit"));
    /// ```
    #[must_use]
    pub fn derive_key(&self, label: &str) -> String {
        let fields = Fields::new(&DERIVED);
        Hex(&fields.with(self.0.id.as_bytes()).with(label.as_bytes()).finish()).to_string()
    }

    /// See [`Permit::generation`](super::Permit::generation).
    ///
    /// ```
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin_blocking("k", Fingerprint::NONE) else { panic!() };
    /// assert_eq!(permit.context().generation(), permit.generation());
    /// ```
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// See [`Permit::runs`](super::Permit::runs).
    ///
    /// ```
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin_blocking("k", Fingerprint::NONE) else { panic!() };
    /// assert_eq!(permit.context().runs(), 1);
    /// ```
    #[must_use]
    pub fn runs(&self) -> u16 {
        self.0.runs
    }

    /// Says that the effect surely did not happen, so that a failure is not recorded and the key is given back,
    /// see [`Permit::fail_before_effect`](super::Permit::fail_before_effect). Counts only if the run fails, and under a [retry](super::Idempotency::run_retry) only if every
    /// attempt has said so before it ended.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # use buttress::idempotency::{Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// let failed = gate.run_with("k", Fingerprint::NONE, |effect| async move {
    ///     effect.not_applied();
    ///     Err::<(), _>("out of stock")
    /// });
    /// assert!(failed.await.is_err());
    /// let again = gate.run("k", Fingerprint::NONE, || async { Ok::<_, &str>(()) }).await;
    /// assert!(again.is_ok());
    /// # }
    /// ```
    pub fn not_applied(&self) {
        self.0.not_applied.store(true, Ordering::Relaxed);
    }

    /// Whether that was said.
    ///
    /// ```
    /// # use buttress::idempotency::{Begin, Idempotency, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let Ok(Begin::Execute(permit)) = gate.begin_blocking("k", Fingerprint::NONE) else { panic!() };
    /// assert!(!permit.context().is_not_applied());
    /// ```
    #[must_use]
    pub fn is_not_applied(&self) -> bool {
        self.0.not_applied.load(Ordering::Relaxed)
    }

    /// That of the call which the running code is part of: of the handler behind an
    /// [`IdempotencyLayer`](super::IdempotencyLayer), whatever its request looks like. Not in tasks that it
    /// spawns.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use buttress::idempotency::{EffectContext, Idempotency, IdempotencyLayer, Identity, Scope};
    /// use buttress::store::{Fingerprint, MemoryStore};
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    ///
    /// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// let orders = ServiceBuilder::new()
    ///     .layer(IdempotencyLayer::new(gate, |order: &u64| {
    ///         Some(Identity::new(&Scope::global(), order.to_le_bytes(), Fingerprint::NONE))
    ///     }))
    ///     .service(service_fn(|_order: u64| async {
    ///         let effect = EffectContext::current().unwrap();
    ///         Ok::<_, std::io::Error>(effect.derive_key("transfer"))
    ///     }));
    /// assert_eq!(orders.oneshot(7).await.unwrap().len(), 64);
    /// assert!(EffectContext::current().is_none());
    /// # }
    /// ```
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// `work`, as the code that this is the context of.
    pub(super) fn around<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }

    /// For one attempt of several: what it says of itself is not said of the others.
    pub(crate) fn of_attempt(&self) -> Self {
        Self::new(self.0.id, self.0.generation, self.0.runs)
    }

    /// For a run that has no record.
    pub(super) fn ungated(id: RecordId) -> Self {
        Self::new(id, 0, 1)
    }
}
