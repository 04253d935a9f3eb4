//! The parts that a stack gets after its plan.

use std::fmt;
use std::marker::PhantomData;

use tower_layer::Identity;

use crate::conditioner::{Conditioner, ConditionerLayer, Plain, Unnamed};
use crate::idempotency::IdempotencyLayer;
use crate::slot::Slot;

/// A part that is not there. `M` is what a conditioner in its place would be for.
///
/// ```
/// use buttress::presets::{Absent, ClientLayer, ClientPlan, client};
/// let plain: ClientLayer<_, _, _, _, Absent> = client(&ClientPlan::new("db"))?;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Absent<M = Plain> {
    marker: PhantomData<fn() -> M>,
}

impl<M> Absent<M> {
    pub(super) const fn new() -> Self {
        Self { marker: PhantomData }
    }
}

/// What a stack has for its conditioner: a slot, innermost.
///
/// ```
/// use buttress::Slot;
/// use buttress::presets::{ClientLayer, ClientPlan, Faults, client};
/// // A type that is written out says that faults can come and go.
/// type Stack = ClientLayer<
///     buttress::AnyError,
///     buttress::retry::CloneRequest,
///     buttress::NoContext,
///     buttress::AsError,
///     Faults,
/// >;
/// let stack: Stack = client(&ClientPlan::new("db"))?.conditioner(Slot::new());
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Faults<M = Plain> {
    pub(super) slot: Slot<Conditioner>,
    marker: PhantomData<fn() -> M>,
}

impl<M> Faults<M> {
    pub(super) fn new(slot: Slot<Conditioner>) -> Self {
        Self { slot, marker: PhantomData }
    }
}

/// What a server has for its idempotency: a layer, outside of the conditioner only.
///
/// ```
/// use buttress::AsError;
/// use buttress::presets::{Gate, Part};
/// fn is_a_part<P: Part<AsError>>() {}
/// fn is_one_of_a_server<G, P>() where Gate<G, P>: Part<AsError> {
///     is_a_part::<Gate<G, P>>();
/// }
/// ```
pub struct Gate<G, P> {
    pub(super) layer: IdempotencyLayer<G, P>,
}

impl<G, P> Clone for Gate<G, P> {
    fn clone(&self) -> Self {
        Self { layer: self.layer.clone() }
    }
}

impl<G, P> fmt::Debug for Gate<G, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&self.layer).finish()
    }
}

/// A part of a stack: [`Absent`], [`Faults`], [`Gate`]. Sealed.
///
/// ```
/// use buttress::AsError;
/// use buttress::presets::{Absent, Faults, Part};
/// // Whatever a stack has in a place: nothing, or something.
/// fn is_a_part<P: Part<AsError>>() {}
/// is_a_part::<Absent>();
/// is_a_part::<Faults>();
/// ```
pub trait Part<R>: sealed::Sealed {
    /// Its layer, with refusals by `R`.
    type Layer;

    #[doc(hidden)]
    fn layer(&self, reject: &R) -> Self::Layer;

    /// The same, looking there for faults.
    #[doc(hidden)]
    #[must_use]
    #[cfg(feature = "config")]
    fn with_faults(&self, _: &Slot<Conditioner>) -> Self
    where
        Self: Clone,
    {
        self.clone()
    }
}

/// A part that can be had for HTTP. Sealed.
///
/// ```
/// use buttress::presets::{Absent, Faults, ForHttp};
/// // The types that a plan's parts have once the stack is one for HTTP.
/// type NoFaults = <Absent as ForHttp>::Http;
/// type SomeFaults = <Faults as ForHttp>::Http;
/// fn is<A: 'static, B: 'static>() -> bool {
///     std::any::TypeId::of::<A>() == std::any::TypeId::of::<B>()
/// }
/// assert!(is::<NoFaults, Absent<buttress::conditioner::Http>>());
/// assert!(is::<SomeFaults, Faults<buttress::conditioner::Http>>());
/// ```
#[cfg(feature = "http")]
pub trait ForHttp: sealed::Sealed {
    /// The same part for HTTP.
    type Http;

    #[doc(hidden)]
    fn for_http(self) -> Self::Http;
}

mod sealed {
    pub trait Sealed {}
    impl<M> Sealed for super::Absent<M> {}
    impl<M> Sealed for super::Faults<M> {}
    impl<G, P> Sealed for super::Gate<G, P> {}
}

impl<M, R> Part<R> for Absent<M> {
    type Layer = Identity;

    fn layer(&self, _: &R) -> Identity {
        Identity::new()
    }
}

impl<R: Clone> Part<R> for Faults<Plain> {
    type Layer = ConditionerLayer<Unnamed, R>;

    fn layer(&self, reject: &R) -> Self::Layer {
        ConditionerLayer::from_slot(self.slot.clone()).on_reject(reject.clone())
    }

    #[cfg(feature = "config")]
    fn with_faults(&self, slot: &Slot<Conditioner>) -> Self {
        Self::new(slot.clone())
    }
}

#[cfg(feature = "http")]
impl<R: Clone> Part<R> for Faults<crate::conditioner::Http> {
    type Layer = ConditionerLayer<crate::conditioner::HttpCalls, R, crate::conditioner::Http>;

    fn layer(&self, reject: &R) -> Self::Layer {
        ConditionerLayer::from_slot(self.slot.clone()).http().on_reject(reject.clone())
    }

    #[cfg(feature = "config")]
    fn with_faults(&self, slot: &Slot<Conditioner>) -> Self {
        Self::new(slot.clone())
    }
}

impl<G, P, R: Clone> Part<R> for Gate<G, P> {
    type Layer = IdempotencyLayer<G, P, R>;

    fn layer(&self, reject: &R) -> Self::Layer {
        self.layer.clone().on_reject(reject.clone())
    }
}

#[cfg(feature = "http")]
impl<M> ForHttp for Absent<M> {
    type Http = Absent<crate::conditioner::Http>;

    fn for_http(self) -> Self::Http {
        Absent::new()
    }
}

#[cfg(feature = "http")]
impl<M> ForHttp for Faults<M> {
    type Http = Faults<crate::conditioner::Http>;

    fn for_http(self) -> Self::Http {
        Faults::new(self.slot)
    }
}
