use crate::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};

use super::{Mark, Totals};

/// The last `n` calls, exactly: a ring with one byte a call.
///
/// A record takes the next place with one `fetch_add` and touches its byte only if it changes it; a place
/// not yet taken looks like a plain success, and how many are taken is a matter of the numbers. The
/// totals follow the bytes: whoever replaces a byte adjusts them by the difference, so after every
/// record has finished they equal the fold of the ring, whatever the interleaving.
#[derive(Debug)]
pub(crate) struct CountWindow {
    next: AtomicU64,
    /// `next` at the latest `clear`.
    base: AtomicU64,
    failures: AtomicI64,
    slow: AtomicI64,
    /// Failures ever recorded.
    failed_ever: AtomicU64,
    /// How many places are in use.
    len: AtomicU64,
    ring: Box<[AtomicU8]>,
}

const FAILED: u8 = 1;
const SLOW: u8 = 2;

impl CountWindow {
    pub(crate) fn new(calls: u32) -> Self {
        Self {
            next: AtomicU64::new(0),
            base: AtomicU64::new(0),
            failures: AtomicI64::new(0),
            slow: AtomicI64::new(0),
            failed_ever: AtomicU64::new(0),
            len: AtomicU64::new(u64::from(calls.max(1))),
            ring: (0..calls.max(1)).map(|_| AtomicU8::new(0)).collect(),
        }
    }

    /// Whether it can hold that many.
    pub(crate) fn has_room_for(&self, calls: u32) -> bool {
        calls as usize <= self.ring.len()
    }

    /// Holds the last `calls` from now on, of which there are none yet. For one caller at a time, who has
    /// asked whether there [is room](Self::has_room_for).
    ///
    /// A call that has taken its place by the old length and not marked it yet may mark one that another
    /// has by the new: where all such calls are plain successes, that takes back one mark at most.
    pub(crate) fn resize(&self, calls: u32) {
        let len = u64::from(calls.max(1)).min(self.ring.len() as u64);
        self.len.store(len, Relaxed);
        self.clear();
    }

    #[inline]
    pub(crate) fn record(&self, mark: Mark) {
        let code = if mark.failed { FAILED } else { 0 } | if mark.slow { SLOW } else { 0 };
        let place = self.next.fetch_add(1, Relaxed) % self.len.load(Relaxed);
        #[expect(clippy::cast_possible_truncation, reason = "below the length of a slice")]
        let cell = &self.ring[place as usize];
        if mark.failed {
            self.failed_ever.fetch_add(1, Relaxed);
        }
        if cell.load(Relaxed) != code {
            let old = cell.swap(code, Relaxed);
            adjust(&self.failures, old, code, FAILED);
            adjust(&self.slow, old, code, SLOW);
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        let calls = self.next.load(Relaxed).saturating_sub(self.base.load(Relaxed));
        let calls = calls.min(self.len.load(Relaxed));
        // An eviction can overtake the record it evicts: below zero for an instant.
        let failures = u64::try_from(self.failures.load(Relaxed)).unwrap_or(0);
        let slow = u64::try_from(self.slow.load(Relaxed)).unwrap_or(0);
        Totals { calls, failures: failures.min(calls), slow: slow.min(calls) }
    }

    /// One load a place; only those that count as failed or slow are written. Of the others `base` tells
    /// that they are gone.
    pub(crate) fn clear(&self) {
        self.base.store(self.next.load(Relaxed), Relaxed);
        for cell in &self.ring {
            if cell.load(Relaxed) != 0 {
                let old = cell.swap(0, Relaxed);
                adjust(&self.failures, old, 0, FAILED);
                adjust(&self.slow, old, 0, SLOW);
            }
        }
    }

    /// Successes ever recorded, cleared ones included.
    pub(crate) fn successes_ever(&self) -> u64 {
        let failed = self.failed_ever.load(Relaxed);
        self.next.load(Relaxed).saturating_sub(failed)
    }
}

#[inline]
fn adjust(total: &AtomicI64, old: u8, new: u8, bit: u8) {
    match (old & bit != 0, new & bit != 0) {
        (false, true) => total.fetch_add(1, Relaxed),
        (true, false) => total.fetch_sub(1, Relaxed),
        _ => 0,
    };
}
