//! One admitted call, until it is known what came of it.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use crate::clock::{self, Tick};
use crate::guarded::Guarding;
use crate::outcome::Outcome;

use super::shared::Shared;

/// Dropped before [`report`](Self::report), it reports the call as cancelled.
pub(super) struct Guard<D: Deref<Target = Shared>> {
    /// `None` once the call is reported.
    shared: Option<D>,
    /// Zero: has not been found pending.
    start: Tick,
}

impl<D: Deref<Target = Shared>> Guard<D> {
    #[inline]
    pub(super) fn new(shared: D) -> Self {
        Self { shared: Some(shared), start: Tick(0) }
    }

    #[inline]
    pub(super) fn report(&mut self, outcome: Outcome) {
        let start = (self.start != Tick(0)).then_some(self.start);
        if let Some(shared) = self.shared.take() {
            shared.observe(outcome, start);
        }
    }
}

impl<D: Deref<Target = Shared>> Guarding for Guard<D> {
    fn failed(&mut self) {
        self.report(Outcome::FAILURE);
    }

    #[inline]
    fn stamp(&mut self) {
        if self.start == Tick(0) && self.shared.is_some() {
            self.start = clock::now();
        }
    }
}

impl<D: Deref<Target = Shared>> Drop for Guard<D> {
    #[inline]
    fn drop(&mut self) {
        if self.shared.is_some() {
            self.report(Outcome::Cancelled { elapsed: Duration::ZERO });
        }
    }
}

impl<D: Deref<Target = Shared>> fmt::Debug for Guard<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("open", &self.shared.is_some()).finish()
    }
}
