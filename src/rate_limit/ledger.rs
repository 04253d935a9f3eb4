//! Who a limiter is, what it has counted and who listens: the same for one bucket and for many.

use std::time::Duration;

#[cfg(feature = "http")]
use super::core::duration;
use super::core::{Denied, Rule, nanos};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};
#[cfg(feature = "http")]
use crate::rejection::RejectionDetail;
use crate::rejection::{Rejection, RejectionKind};
use crate::sync::atomic::AtomicU64;
use crate::sync::{Striped, stripe_count};

#[derive(Debug, Default)]
struct Stripe {
    acquired: AtomicU64,
    rejected: AtomicU64,
    would_reject: AtomicU64,
}

/// What a limiter has done so far.
///
/// Each number is exact; numbers read while calls are running may be a moment apart.
///
/// ```
/// use buttress::rate_limit::RateLimiter;
/// use buttress::Quota;
/// let limiter = RateLimiter::new(Quota::per_second(1)?);
/// let _ = limiter.try_acquire();
/// let _ = limiter.try_acquire();
/// let stats = limiter.stats();
/// assert_eq!((stats.acquired, stats.rejected), (1, 1));
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimitStats {
    /// Calls let through and charged, whatever their cost.
    pub acquired: u64,
    /// Calls refused, at once or after a wait that could no longer succeed.
    pub rejected: u64,
    /// Calls let through in shadow mode that would have been refused or would have had to wait.
    pub would_reject: u64,
    /// Calls that had to wait and were then let through (they count as acquired, too).
    pub waits: u64,
    /// How long these have waited, added up.
    pub waited: Duration,
    /// Calls that were let go without a token while they waited, by
    /// [`release_waiting`](super::RateLimiter::release_waiting) or because the limiter was taken out of its slot. They count
    /// nowhere else.
    pub released: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) name: Name,
    counters: Striped<Stripe>,
    observers: Observers,
}

impl Ledger {
    pub(crate) fn new(name: Name, observers: Observers) -> Self {
        Self { name, counters: Striped::new(stripe_count()), observers }
    }

    /// Enters the object that this is the ledger of into its registry.
    pub(crate) fn register<T: crate::managed::Managed>(&self, object: &std::sync::Arc<T>) {
        self.observers.register(object);
    }

    #[inline]
    pub(crate) fn acquired(&self) {
        self.counters.add_one(|stripe| &stripe.acquired);
    }

    pub(crate) fn emit(&self, kind: EventKind<'_>) {
        self.observers.emit(LayerKind::RateLimit, self.name, kind);
    }

    /// Counts and tells a refusal that is not the quota's. Must be called outside all locks.
    pub(crate) fn refused(&self, rejection: Rejection) -> Rejection {
        self.counters.add_one(|stripe| &stripe.rejected);
        if self.observers.see_refusals() {
            self.emit(EventKind::Rejected(&rejection));
        }
        rejection
    }

    /// The same of one that is over before it could begin to wait.
    #[cold]
    pub(crate) fn refuse_expired(&self) -> Rejection {
        let kind = RejectionKind::DeadlineExceeded;
        self.refused(Rejection::new(kind, LayerKind::RateLimit, self.name))
    }

    /// Counts and tells what would have been one. Must be called outside all locks.
    pub(crate) fn would_refuse(&self, rejection: &Rejection) {
        self.counters.add_one(|stripe| &stripe.would_reject);
        self.emit(EventKind::WouldReject(rejection));
    }

    pub(crate) fn stats(&self) -> RateLimitStats {
        RateLimitStats {
            acquired: self.counters.sum(|stripe| &stripe.acquired),
            rejected: self.counters.sum(|stripe| &stripe.rejected),
            would_reject: self.counters.sum(|stripe| &stripe.would_reject),
            ..RateLimitStats::default()
        }
    }
}

/// A refusal on its way to its caller: not yet counted, not yet told.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    pub(crate) ledger: &'a Ledger,
    pub(crate) denied: Denied,
    /// A queue or table had no room: not the quota's fault.
    pub(crate) no_room: bool,
}

impl<'a> Refusal<'a> {
    pub(crate) fn quota(ledger: &'a Ledger, denied: Denied) -> Self {
        Self { ledger, denied, no_room: false }
    }

    /// The order in which refusals of several limiters are preferred: never, then the longest wait.
    pub(crate) fn weight(&self) -> (bool, u64) {
        (self.denied.never(), self.denied.wait())
    }

    pub(crate) fn level(&self) -> Level {
        let Denied { rule, tat, now, .. } = self.denied;
        Level { name: self.ledger.name, rule, tat, now }
    }

    #[inline(always)]
    pub(crate) fn rejection(self) -> Rejection {
        let Denied { rule, tat, now, cost } = self.denied;
        let never = self.denied.never();
        let kind = if never {
            RejectionKind::ExceedsBurst
        } else if self.no_room {
            RejectionKind::Overloaded
        } else {
            RejectionKind::RateLimited
        };
        // A call of cost 1 was refused: then there is no whole token left, and nothing to divide.
        let remaining = if cost == rule.interval { 0 } else { self.level().remaining() };
        Rejection::over_quota(
            kind,
            self.ledger.name,
            (!never).then(|| nanos(self.denied.wait())),
            (rule.burst, remaining),
            (nanos(tat.saturating_sub(now)), nanos(rule.tolerance)),
        )
    }

    /// What a direct caller gets: the refusal, or nothing in shadow mode. Counted and told. Must be called
    /// outside all locks.
    ///
    /// Inlined, so that a caller who only asks whether it was refused does not pay for the explanation.
    #[inline(always)]
    pub(crate) fn answer(self) -> Result<(), Rejection> {
        if self.denied.rule.shadow || self.ledger.observers.see_refusals() {
            return self.answer_aloud();
        }
        self.ledger.counters.add_one(|stripe| &stripe.rejected);
        Err(self.rejection())
    }

    #[cold]
    fn answer_aloud(self) -> Result<(), Rejection> {
        if self.denied.rule.shadow {
            self.pass();
            return Ok(());
        }
        Err(self.finish())
    }

    /// Counts it, tells the observers, and returns what the caller gets. Must be called outside all locks.
    #[inline]
    pub(crate) fn finish(self) -> Rejection {
        self.ledger.counters.add_one(|stripe| &stripe.rejected);
        if self.ledger.observers.see_refusals() {
            return self.tell();
        }
        self.rejection()
    }

    /// Counts and reports that it would have been a refusal. Must be called outside all locks.
    #[cold]
    pub(crate) fn pass(self) {
        self.ledger.counters.add_one(|stripe| &stripe.would_reject);
        self.ledger.emit(EventKind::WouldReject(&self.rejection()));
    }

    #[cold]
    fn tell(self) -> Rejection {
        let rejection = self.rejection();
        self.ledger.emit(EventKind::Rejected(&rejection));
        rejection
    }
}

/// How full a bucket is after a decision.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only header fields show it"))]
    pub(crate) name: Name,
    pub(crate) rule: Rule,
    pub(crate) tat: u64,
    pub(crate) now: u64,
}

impl Level {
    /// Where there is no limit. No quota has such a burst.
    pub(crate) fn unlimited() -> Self {
        let rule = Rule { interval: 1, tolerance: u64::MAX, burst: u64::MAX, shadow: false };
        Self { name: "none".into(), rule, tat: 0, now: 0 }
    }

    #[cfg(feature = "http")]
    pub(crate) const fn is_unlimited(&self) -> bool {
        self.rule.burst == u64::MAX
    }

    pub(crate) fn remaining(&self) -> u64 {
        self.rule.room(self.tat, self.now) / self.rule.interval
    }

    #[cfg(feature = "http")]
    pub(crate) fn detail(&self) -> RejectionDetail {
        RejectionDetail::Quota {
            limit: self.rule.burst,
            remaining: self.remaining(),
            reset: duration(self.tat.saturating_sub(self.now)),
            window: duration(self.rule.tolerance),
        }
    }

    /// The tighter of two.
    pub(crate) fn tighter(self, other: Self) -> Self {
        if other.remaining() < self.remaining() { other } else { self }
    }
}
