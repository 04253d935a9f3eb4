//! The numbers behind the latest trip, where a refusal finds them without the lock.

use crate::sync::atomic::{AtomicU64, Ordering};

use super::config::Config;
use super::state::TripReason;
use super::transitions::least;

/// By their codes.
const WHAT: [&str; 5] = ["", "consecutive_failures", "failure_rate", "slow_rate", "probe_failures"];
const CODE: u64 = 7;
const NONE: u64 = 0;
const BEING_WRITTEN: u64 = 7;

/// A sequence lock; there is one writer at a time, under the machine's lock.
#[derive(Debug, Default)]
pub(super) struct Trip {
    /// Number of the trip (61 bits) | which threshold was crossed (3 bits).
    crossed: AtomicU64,
    /// Bits of `f64`s.
    measured: AtomicU64,
    threshold: AtomicU64,
}

impl Trip {
    /// Which number, measured, against which threshold. Nothing while it is being written.
    #[inline]
    pub(super) fn read(&self) -> Option<(&'static str, f64, f64)> {
        // Each load is `Acquire`, so none moves before an earlier one; and each store of a number is
        // `Release`, so who sees a new number also sees that it was being written.
        let crossed = self.crossed.load(Ordering::Acquire);
        let what = match crossed & CODE {
            NONE => return None,
            #[expect(clippy::cast_possible_truncation, reason = "three bits")]
            code => *WHAT.get(code as usize)?,
        };
        let measured = f64::from_bits(self.measured.load(Ordering::Acquire));
        let threshold = f64::from_bits(self.threshold.load(Ordering::Acquire));
        let same = self.crossed.load(Ordering::Relaxed) == crossed;
        same.then_some((what, measured, threshold))
    }

    pub(super) fn remember(&self, config: &Config, reason: TripReason) {
        let (code, measured, threshold) = match reason {
            TripReason::ConsecutiveFailures { count, threshold } => {
                (1, f64::from(count), f64::from(threshold))
            }
            TripReason::FailureRate { rate, threshold, .. } => (2, rate, threshold),
            TripReason::SlowCallRate { rate, threshold, .. } => (3, rate, threshold),
            TripReason::ProbesFailed { failures, probes } => {
                let least = config.failure_rate.map_or(1, |rate| least(rate, probes));
                (4, f64::from(failures), f64::from(least))
            }
            _ => return self.forget(),
        };
        let next = (self.crossed.load(Ordering::Relaxed) | CODE).wrapping_add(1);
        self.crossed.store(next | BEING_WRITTEN, Ordering::Relaxed);
        self.measured.store(measured.to_bits(), Ordering::Release);
        self.threshold.store(threshold.to_bits(), Ordering::Release);
        self.crossed.store(next | code, Ordering::Release);
    }

    pub(super) fn forget(&self) {
        let next = (self.crossed.load(Ordering::Relaxed) | CODE).wrapping_add(1);
        self.crossed.store(next | NONE, Ordering::Relaxed);
    }
}
