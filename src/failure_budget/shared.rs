//! What clones of a budget share, and the user code around it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::caught::caught;
use crate::clock::{self, Tick};
use crate::lever::Lever;
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};
use crate::outcome::Outcome;
use crate::rejection::{Rejection, RejectionDetail, RejectionKind};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::config::{Hooks, OnAlert, OnBreach};
use super::core::{Change, Core, Refusal};
use super::state::{BreachReason, BudgetState};

pub(super) struct Shared {
    pub(super) core: Core,
    pub(super) name: Name,
    levers: Levers,
    on_breach: Box<[OnBreach]>,
    on_alert: Box<[OnAlert]>,
    observers: Observers,
}

impl Shared {
    /// Enters it into its registry.
    pub(super) fn register(&self, this: &std::sync::Arc<Self>) {
        self.observers.register(this);
    }

    pub(super) fn new(core: Core, name: Name, hooks: Hooks) -> Self {
        Self {
            core,
            name,
            levers: Levers::new(hooks.levers),
            on_breach: hooks.breach.into(),
            on_alert: hooks.alert.into(),
            observers: hooks.observers,
        }
    }

    /// Lets a call through or says why not.
    #[inline]
    pub(super) fn admit(&self) -> Result<(), Refusal> {
        if self.core.passes() { Ok(()) } else { self.admit_acting() }
    }

    #[inline(never)]
    fn admit_acting(&self) -> Result<(), Refusal> {
        let (result, change) = self.core.admit(clock::now());
        self.tell(change);
        result
    }

    /// Counts a refusal, reports it, and makes of it what leaves the budget.
    #[inline]
    pub(super) fn refused(&self, refusal: Refusal) -> Rejection {
        self.core.count_refusal();
        let why = self.rejection(refusal);
        if self.observers.see_refusals() {
            self.observers.emit(LayerKind::FailureBudget, self.name, EventKind::Rejected(&why));
        }
        why
    }

    fn rejection(&self, refusal: Refusal) -> Rejection {
        let Refusal { what, measured, threshold, retry_after } = refusal;
        let kind = RejectionKind::BudgetExhausted;
        let mut why = Rejection::new(kind, LayerKind::FailureBudget, self.name);
        if what != BreachReason::Operator {
            let what = what.as_str();
            why = why.with_detail(RejectionDetail::Threshold { what, measured, threshold });
        }
        match retry_after {
            Some(wait) => why.with_retry_after(Duration::from_nanos(wait)),
            None => why,
        }
    }

    #[inline]
    pub(super) fn record(&self, failed: bool) {
        let change = self.core.record(clock::now(), failed, false);
        if change.is_some() {
            self.tell(change);
        }
    }

    /// What the layer and direct calls see. `start`: when the call was first found pending.
    #[inline]
    pub(super) fn observe(&self, outcome: Outcome, start: Option<Tick>) {
        let failed = match outcome {
            Outcome::Success => false,
            Outcome::Failure(_) => true,
            Outcome::Cancelled { .. } => return self.cancelled(outcome, start),
            _ => return,
        };
        self.count(clock::now(), failed);
    }

    #[inline]
    fn count(&self, now: Tick, failed: bool) {
        let change = self.core.record(now, failed, true);
        if change.is_some() {
            self.tell(change);
        }
    }

    #[cold]
    fn cancelled(&self, outcome: Outcome, start: Option<Tick>) {
        let now = clock::now();
        let measured = start.map_or(Duration::ZERO, |start| now.since(start));
        let elapsed = match outcome {
            Outcome::Cancelled { elapsed } => elapsed.max(measured),
            _ => measured,
        };
        if self.core.cancelled_after().is_some_and(|after| elapsed > after) {
            self.count(now, true);
        }
    }

    /// Runs what hangs on a change. Outside all locks.
    #[cold]
    #[inline(never)]
    pub(super) fn tell(&self, change: Option<Change>) {
        let Some(change) = change else { return };
        self.levers.settle(|| self.core.state().is_acting());
        if let Some(breach) = &change.breach {
            for f in &self.on_breach {
                caught(|| f(breach));
            }
        }
        for alert in &change.alerts {
            for f in &self.on_alert {
                caught(|| f(alert));
            }
        }
        if change.from == change.to {
            return;
        }
        let event = |reason: fmt::Arguments<'_>| {
            let (from, to) = (change.from.as_str(), change.to.as_str());
            let kind = EventKind::StateChanged { from, to, reason };
            self.observers.emit(LayerKind::FailureBudget, self.name, kind);
        };
        match (&change.breach, change.to) {
            (Some(breach), _) => event(format_args!("{breach}")),
            (None, _) if change.by_hand => event(format_args!("operator")),
            (None, BudgetState::Healthy) => event(format_args!("recovered")),
            (None, _) => event(format_args!("burn rate")),
        }
    }

    /// Engages the levers of a budget that was made acting.
    pub(super) fn settle(&self) {
        self.levers.settle(|| self.core.state().is_acting());
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureBudget")
            .field("name", &self.name)
            .field("state", &self.core.state())
            .finish_non_exhaustive()
    }
}

/// The levers, brought to where they should be by one thread at a time, without a lock.
pub(super) struct Levers {
    all: Box<[Arc<dyn Lever>]>,
    /// How often somebody asked since the thread at work last looked; above zero while one is at work.
    asked: AtomicU64,
    engaged: AtomicBool,
}

impl Levers {
    pub(super) fn new(all: Vec<Arc<dyn Lever>>) -> Self {
        let (asked, engaged) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { all: all.into(), asked, engaged }
    }

    /// Engages or releases until they are as `wanted` says. If another thread is at it, it will look
    /// again: two changes in quick succession end as the later one wants, whoever is faster.
    pub(super) fn settle(&self, wanted: impl Fn() -> bool) {
        if self.all.is_empty() || self.asked.fetch_add(1, Ordering::AcqRel) != 0 {
            return;
        }
        let mut seen = 1;
        loop {
            let engage = wanted();
            if self.engaged.swap(engage, Ordering::AcqRel) != engage {
                self.pull(engage);
            }
            match self.asked.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(more) => seen = more,
            }
        }
    }

    fn pull(&self, engage: bool) {
        for lever in &self.all {
            caught(|| if engage { lever.engage() } else { lever.release() });
        }
    }
}

impl Drop for Levers {
    fn drop(&mut self) {
        // Nobody holds the budget any more: nobody could release them later.
        if self.engaged.load(Ordering::Acquire) {
            self.pull(false);
        }
    }
}
