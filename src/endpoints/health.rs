//! What is known of one endpoint: counters and estimates that calls write without a lock.
#![expect(clippy::cast_possible_truncation, reason = "estimates")]

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Tick;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Weight of one call in the latency of its endpoint. Answers of equal endpoints differ by as much as queues make them: what
/// is in flight says more than the last few of them.
const OWN: f64 = 0.05;
/// After so many times the memory nothing is known any more of an endpoint that got no call, and it is asked.
pub(super) const FORGOTTEN: u32 = 3;

/// So many calls that never end are not taken for work.
const FEW: u32 = 3;

pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;

/// What is known of one endpoint.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) label: Arc<str>,
    /// For the trails; never 0.
    pub(super) id: u64,
    pub(super) in_flight: AtomicU32,
    /// Nanoseconds as `f64`; 0 while nothing is known.
    pub(super) latency: AtomicU64,
    /// When `latency` was last learned.
    pub(super) learned: AtomicU64,
    /// When it last answered, or got its first call after none; 0: it never had one.
    pub(super) progress: AtomicU64,
    /// Failures since the last success, and calls that lost to a hedge so late that they count here.
    pub(super) in_row: AtomicU32,
    /// Calls and failures that are remembered, together: `calls << 32 | failures`.
    pub(super) counted: AtomicU64,
    pub(super) state: AtomicU32,
    /// Since when it is back or there, for the slow start; 0: for long enough.
    pub(super) back: AtomicU64,
    pub(super) calls: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Of the calls in flight: those that were there at the last check, and at the one before.
    checked: AtomicU32,
    long: AtomicU32,
    /// When a call began that was answered well.
    answered: AtomicU64,
}

impl Health {
    pub(super) fn new(label: Arc<str>, id: u64) -> Self {
        Self {
            label,
            id,
            in_flight: AtomicU32::new(0),
            latency: AtomicU64::new(0),
            learned: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            in_row: AtomicU32::new(0),
            counted: AtomicU64::new(0),
            state: AtomicU32::new(IN),
            back: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            checked: AtomicU32::new(0),
            long: AtomicU32::new(0),
            answered: AtomicU64::new(0),
        }
    }

    pub(super) fn is_out(&self) -> bool {
        self.state.load(Relaxed) == OUT
    }

    /// Average time of a call, in nanoseconds, as far as it is still known.
    pub(super) fn known(&self, typical: f64, memory: f64, now: Tick) -> f64 {
        let known = f64::from_bits(self.latency.load(Relaxed));
        if known <= 0.0 {
            typical
        } else if typical > 0.0 {
            typical + (known - typical) * self.fresh(memory, now)
        } else {
            known
        }
    }

    /// What the next call would wait for: those that are there, and itself. One that hangs takes as long as it has.
    pub(super) fn load(&self, typical: f64, memory: f64, last: Tick, now: Tick) -> f64 {
        let expected = self.known(typical, memory, now).max(1.0);
        let there = self.counting(self.in_flight.load(Relaxed), last);
        if there == 0 {
            return expected;
        }
        let stalled = now.since(Tick(self.progress.load(Relaxed))).as_nanos() as f64;
        f64::from(there + 1) * expected.max(stalled)
    }

    /// How many of those in flight say something of a call that would be sent now: not the ones from before the `last`
    /// check but one, if a later one was answered. That goes for a few: many are work, however long it takes.
    fn counting(&self, in_flight: u32, last: Tick) -> u32 {
        match self.long.load(Relaxed) {
            0 => in_flight,
            long if self.answered.load(Relaxed) > last.0 => in_flight.saturating_sub(long.min(FEW)),
            _ => in_flight,
        }
    }

    /// A call goes there.
    pub(super) fn begin(&self, last: Tick, now: Tick) {
        let before = self.in_flight.fetch_add(1, Relaxed);
        if self.counting(before, last) == 0 {
            self.progress.store(now.0, Relaxed);
        }
    }

    /// Of those in flight it is remembered that they were there.
    pub(super) fn check(&self) {
        let there = self.in_flight.load(Relaxed);
        self.long.store(self.checked.swap(there, Relaxed), Relaxed);
    }

    /// A call from before the last check is over.
    #[cold]
    pub(super) fn was_checked(&self, long: bool) {
        let less = |n: u32| n.checked_sub(1);
        let _ = self.checked.fetch_update(Relaxed, Relaxed, less);
        if long {
            let _ = self.long.fetch_update(Relaxed, Relaxed, less);
        }
    }

    pub(super) fn answered(&self, started: Tick) {
        self.answered.store(started.0, Relaxed);
    }

    pub(super) fn latency(&self) -> Duration {
        Duration::from_nanos(f64::from_bits(self.latency.load(Relaxed)) as u64)
    }

    /// What still counts of what was learned last.
    pub(super) fn fresh(&self, memory: f64, now: Tick) -> f64 {
        let age = now.since(Tick(self.learned.load(Relaxed))).as_nanos() as f64;
        // Most calls find it fresh.
        if age < memory / 16.0 {
            1.0
        } else if age < f64::from(FORGOTTEN) * memory {
            (-age / memory).exp()
        } else {
            // A twentieth of ten seconds would still be dear beside microseconds.
            0.0
        }
    }

    /// A call weighs the more the longer it is since the one before it: after a long time it is all that is known.
    pub(super) fn learn(&self, took: f64, memory: f64, now: Tick) {
        // Two at once may lose one of two: it is an estimate.
        let known = f64::from_bits(self.latency.load(Relaxed));
        let old = (1.0 - OWN) * self.fresh(memory, now);
        let latency = if known > 0.0 { took + old * (known - took) } else { took.max(1.0) };
        self.latency.store(latency.to_bits(), Relaxed);
        self.learned.store(now.0, Relaxed);
    }

    pub(super) fn counts(&self) -> (f64, f64) {
        let both = self.counted.load(Relaxed);
        ((both >> 32) as f64, (both & 0xffff_ffff) as f64)
    }

    pub(super) fn count(&self, failed: bool) {
        let both = self.counted.fetch_add(1 << 32 | u64::from(failed), Relaxed);
        if both >> 32 >= 1000 {
            self.halve();
        }
    }

    pub(super) fn halve(&self) {
        let _ = self.counted.fetch_update(Relaxed, Relaxed, |both| {
            Some((both >> 33) << 32 | ((both & 0xffff_ffff) >> 1))
        });
    }
}
