//! What the layer must know of requests and responses, and the form of it for any of them.

use std::fmt;
use std::sync::Arc;

use super::context::EffectContext;
use super::pending::Tag;
use super::ran::{Earlier, Status};
use super::run::{outcome_of, value_of};
use super::scope::Scope;
use super::value::Replayable;
use crate::rejection::RejectionKind;
use crate::store::{Fingerprint, Outcome, RecordId};

use sealed::{Asked, Exchange, Keep, Look, Record, Recorded};

/// How requests are told apart, and how answers are kept. Closed, so that it can change.
pub(crate) mod sealed {
    use std::error::Error as StdError;
    use std::future::Future;
    use std::sync::Arc;

    use super::{
        Earlier, EffectContext, Fingerprint, Outcome, RecordId, RejectionKind, Status, Tag,
    };

    /// Why a request is refused before anything is claimed.
    #[derive(Debug)]
    pub struct Refusal {
        pub(crate) kind: RejectionKind,
        pub(crate) source: Option<Arc<dyn StdError + Send + Sync>>,
        pub(crate) advice: Option<String>,
    }

    /// What is known before anything is waited for.
    #[derive(Debug)]
    pub enum Look<I, H> {
        /// Not a call that is kept from running twice.
        Pass(I),
        Refuse(I, Refusal),
        Gate(H),
    }

    /// What is known when the request has been read.
    #[derive(Debug)]
    pub enum Asked<I> {
        Pass(Box<I>),
        Refuse(Box<I>, Refusal),
        /// The id is that of scope and key; the gate makes it its own.
        Gate(RecordId, Tag, Fingerprint, Box<I>),
    }

    pub trait Exchange<Req>: Send + Sync + 'static {
        /// What the wrapped service gets.
        type Inner: Send + 'static;
        /// A request on its way between the two.
        type Held: Send + 'static;
        /// What is kept of a request for refusing it when it is gone.
        type Spare: Send + 'static;

        fn look(&self, req: Req) -> Look<Self::Inner, Self::Held>;
        fn read(&self, held: Self::Held) -> impl Future<Output = Asked<Self::Inner>> + Send;
        fn tell(&self, req: &mut Self::Inner, effect: &EffectContext);
        fn spare(&self, req: &Self::Inner) -> Self::Spare;
        fn revive(&self, spare: Self::Spare) -> Self::Inner;
        /// Whether an answer of which nothing but the number was kept must be one of gRPC.
        fn is_grpc(&self, req: &Self::Inner) -> bool;
    }

    /// What becomes of the claim.
    #[derive(Debug)]
    pub(crate) enum Keep {
        Complete(Outcome),
        /// The effect has not happened.
        Release,
        /// Nobody knows.
        #[cfg_attr(
            not(feature = "http"),
            expect(dead_code, reason = "other services' errors can be recorded")
        )]
        Interrupt,
    }

    #[derive(Debug)]
    pub struct Recorded<A, E> {
        pub(crate) result: Result<A, E>,
        pub(crate) keep: Keep,
    }

    pub trait Record<Res, Err>: Send + Sync + 'static {
        /// What the caller gets.
        type Answer: Send + 'static;

        fn pass(res: Res) -> Self::Answer;
        /// `room` is how large an outcome may be.
        fn record(
            &self,
            result: Result<Res, Err>,
            effect: &EffectContext,
            room: usize,
        ) -> impl Future<Output = Box<Recorded<Self::Answer, Err>>> + Send;
        fn mark(&self, answer: &mut Self::Answer, status: Status);
        fn replay(&self, outcome: &Arc<Outcome>, grpc: bool) -> Result<Self::Answer, Earlier>;
    }
}

/// What makes a call the same call: its key, whose key it is, and what it asks for.
///
/// ```
/// use buttress::idempotency::{Identity, Scope};
/// use buttress::store::Fingerprint;
/// let identity = Identity::new(&Scope::tenant("account-7"), "order-1", Fingerprint::of(b"10 EUR"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    id: RecordId,
    tag: Tag,
    fingerprint: Fingerprint,
}

impl Identity {
    /// Of these, among the calls of the layer's gate. The scope of the gate does not count: each call has its
    /// own.
    ///
    /// ```
    /// use buttress::idempotency::{Identity, Scope};
    /// use buttress::store::Fingerprint;
    /// let of = |tenant| Identity::new(&Scope::tenant(tenant), "order-1", Fingerprint::NONE);
    /// assert_ne!(of("account-7"), of("account-8"));
    /// ```
    #[must_use]
    pub fn new(scope: &Scope, key: impl AsRef<[u8]>, fingerprint: Fingerprint) -> Self {
        let id = RecordId::of(scope.as_bytes(), key.as_ref());
        Self { id, tag: Tag::of(scope), fingerprint }
    }
}

/// Calls of any kind, told apart by a closure; see [`IdempotencyLayer::new`](super::IdempotencyLayer::new).
///
/// ```
/// use buttress::idempotency::{Idempotency, IdempotencyLayer, Identified, Identity, Scope};
/// use buttress::store::{Fingerprint, MemoryStore};
/// // With a function instead of a closure the type can be written.
/// struct Server {
///     once: IdempotencyLayer<MemoryStore, Identified<fn(&(String, u64)) -> Option<Identity>>>,
/// }
/// fn identify(order: &(String, u64)) -> Option<Identity> {
///     Some(Identity::new(&Scope::tenant(&order.0), order.1.to_le_bytes(), Fingerprint::NONE))
/// }
/// let identify: fn(&(String, u64)) -> Option<Identity> = identify;
/// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
/// let server = Server { once: IdempotencyLayer::new(gate, identify) };
/// # let _ = server.once;
/// ```
#[derive(Clone, Copy)]
pub struct Identified<F> {
    pub(super) identify: F,
}

impl<F> fmt::Debug for Identified<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identified")
    }
}

impl<Req, F> Exchange<Req> for Identified<F>
where
    Req: Clone + Send + 'static,
    F: Fn(&Req) -> Option<Identity> + Send + Sync + 'static,
{
    type Inner = Req;
    type Held = (Identity, Req);
    type Spare = Req;

    fn look(&self, req: Req) -> Look<Req, Self::Held> {
        match (self.identify)(&req) {
            Some(identity) => Look::Gate((identity, req)),
            None => Look::Pass(req),
        }
    }

    async fn read(&self, (identity, req): Self::Held) -> Asked<Req> {
        Asked::Gate(identity.id, identity.tag, identity.fingerprint, Box::new(req))
    }

    fn tell(&self, _: &mut Req, _: &EffectContext) {}

    fn spare(&self, req: &Req) -> Req {
        req.clone()
    }

    fn revive(&self, spare: Req) -> Req {
        spare
    }

    fn is_grpc(&self, _: &Req) -> bool {
        false
    }
}

/// As [`Idempotency::run`](super::Idempotency::run) records them, so that both can share a store.
impl<Res, Err, F> Record<Res, Err> for Identified<F>
where
    Res: Replayable + Send + 'static,
    Err: fmt::Display + Send + 'static,
    F: Send + Sync + 'static,
{
    type Answer = Res;

    fn pass(res: Res) -> Res {
        res
    }

    async fn record(
        &self,
        result: Result<Res, Err>,
        effect: &EffectContext,
        _: usize,
    ) -> Box<Recorded<Res, Err>> {
        let keep = if result.is_err() && effect.is_not_applied() {
            Keep::Release
        } else {
            Keep::Complete(outcome_of(result.as_ref()))
        };
        Box::new(Recorded { result, keep })
    }

    fn mark(&self, _: &mut Res, _: Status) {}

    fn replay(&self, outcome: &Arc<Outcome>, _: bool) -> Result<Res, Earlier> {
        value_of(outcome)
    }
}
