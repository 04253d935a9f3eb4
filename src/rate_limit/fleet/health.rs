//! Whether the store is worth asking. After some errors in a row nobody asks for a while; then one does.

use std::time::Duration;

use crate::clock::Tick;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Errors in a row after which the store is left alone.
pub(super) const ERRORS: u32 = 5;
/// For how long.
pub(super) const REST: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Health {
    errors: AtomicU32,
    /// When it is asked again. 0: it is asked.
    rests_until: AtomicU64,
}

impl Health {
    /// Whether to ask now. While it rests, one caller per second may.
    pub(super) fn may_ask(&self, now: Tick) -> bool {
        let until = self.rests_until.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        let next = now.after(REST).0;
        now.0 >= until
            && self
                .rests_until
                .compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    pub(super) fn is_resting(&self) -> bool {
        self.rests_until.load(Ordering::Relaxed) != 0
    }

    /// It answered. Whether it had been resting.
    pub(super) fn answered(&self) -> bool {
        // Mostly nothing is to be written.
        if self.errors.load(Ordering::Relaxed) != 0 {
            self.errors.store(0, Ordering::Relaxed);
        }
        self.is_resting() && self.rests_until.swap(0, Ordering::Relaxed) != 0
    }

    /// It did not. Whether it rests from now on.
    pub(super) fn failed(&self, now: Tick) -> bool {
        let errors = self.errors.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let until = now.after(REST).0;
        errors >= ERRORS
            && self
                .rests_until
                .compare_exchange(0, until, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}
