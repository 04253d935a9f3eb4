use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::cause::{Cause, Refusals};
use super::config::FallbackBuilder;
use super::layer::FallbackLayer;
use crate::clock::{self, Tick};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};
use crate::replay::CloneRequest;

/// The count and the bound of the answers that are given in place of others: see the [module](super). Clones are
/// the same object.
///
/// ```
/// use buttress::fallback::Fallback;
/// let fallback = Fallback::new("recommendations");
/// let layer = fallback.layer::<buttress::Boxed>().value(Vec::<u32>::new());
/// assert_eq!(fallback.stats().answered, 0);
/// ```
#[derive(Clone)]
pub struct Fallback {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) name: Name,
    pub(super) max_in_flight: u32,
    observers: Observers,
    pub(super) in_flight: AtomicU32,
    /// When there was an answer last; 0: never.
    pub(super) last: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    pub(super) full: AtomicU64,
    pub(super) not_kept: AtomicU64,
}

/// A fallback under way, until it is dropped.
pub(super) struct Entered {
    shared: Arc<Shared>,
    settled: bool,
}

impl Entered {
    pub(super) fn settle(&mut self, cause: &'static str, answered: bool) {
        self.settled = true;
        let Shared { name, observers, last, .. } = &*self.shared;
        if answered {
            last.store(clock::now().0.max(1), Ordering::Relaxed);
        }
        let counter = if answered { &self.shared.answered } else { &self.shared.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        if observers.see_refusals() {
            observers.emit(LayerKind::Fallback, *name, EventKind::FellBack { cause, answered });
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.settled {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// `None` if as many are under way as may be.
    #[cold]
    pub(super) fn enter(self: &Arc<Self>) -> Option<Entered> {
        let room = |n: u32| (n < self.max_in_flight).then_some(n + 1);
        match self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
            Ok(_) => Some(Entered { shared: Arc::clone(self), settled: false }),
            Err(_) => {
                self.full.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    #[cold]
    pub(super) fn not_kept(&self, _: &Cause) {
        self.not_kept.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn last(&self) -> Option<Tick> {
        Some(self.last.load(Ordering::Relaxed)).filter(|&at| at != 0).map(Tick)
    }

    pub(super) fn stats(&self) -> FallbackStats {
        FallbackStats {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            answered: self.answered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            full: self.full.load(Ordering::Relaxed),
            not_kept: self.not_kept.load(Ordering::Relaxed),
        }
    }
}

impl Fallback {
    /// A fallback with the defaults.
    ///
    /// ```
    /// assert_eq!(buttress::fallback::Fallback::new("db").name(), "db");
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        Self::from_parts(FallbackBuilder::new(name.into()))
    }

    /// A fallback with other numbers.
    ///
    /// ```
    /// let fallback = buttress::fallback::Fallback::builder("db").max_in_flight(20).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> FallbackBuilder {
        FallbackBuilder::new(name.into())
    }

    pub(super) fn from_parts(config: FallbackBuilder) -> Self {
        let shared = Arc::new(Shared {
            name: config.name,
            max_in_flight: config.max_in_flight,
            observers: config.observers,
            in_flight: AtomicU32::new(0),
            last: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            full: AtomicU64::new(0),
            not_kept: AtomicU64::new(0),
        });
        shared.observers.register(&shared);
        Self { shared }
    }

    /// As a layer. What it answers is still to be said: [`value`](FallbackLayer::value),
    /// [`respond`](FallbackLayer::respond), [`call`](FallbackLayer::call) or
    /// [`service`](FallbackLayer::service). The marker is inferred from the error of the inner service.
    ///
    /// ```
    /// let layer = buttress::fallback::Fallback::new("db").layer::<buttress::Typed>().value(0);
    /// ```
    #[must_use]
    pub fn layer<M>(&self) -> FallbackLayer<(), Refusals<M>, CloneRequest> {
        FallbackLayer::new(self.clone())
    }

    /// Its name.
    ///
    /// ```
    /// assert_eq!(buttress::fallback::Fallback::new("db").name(), "db");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.shared.name.as_str()
    }

    /// What it has done.
    ///
    /// ```
    /// assert_eq!(buttress::fallback::Fallback::new("db").stats().answered, 0);
    /// ```
    #[must_use]
    pub fn stats(&self) -> FallbackStats {
        self.shared.stats()
    }
}

impl fmt::Debug for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fallback").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// What a [`Fallback`] has done.
///
/// ```
/// assert_eq!(buttress::fallback::Fallback::new("db").stats().failed, 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FallbackStats {
    /// Fallbacks under way.
    pub in_flight: u32,
    /// Calls answered in place of the inner service.
    pub answered: u64,
    /// Fallbacks without an answer: the original result was given.
    pub failed: u64,
    /// Fallbacks whose callers went, or that panicked.
    pub dropped: u64,
    /// Calls that got their original result because as many fallbacks were under way as may be.
    pub full: u64,
    /// Calls that got their original result because nothing could be kept of the request.
    pub not_kept: u64,
}
