use std::time::Duration;

use crate::clock::{Tick, nanos};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, Padded, lock, thread_number};

use super::{Mark, Totals};

/// Whole buckets in the window. One more is kept: the oldest leaves the window gradually.
const BUCKETS: u64 = 10;
const SLOTS: usize = 11;

/// The calls of the last `window`, in ten buckets.
///
/// A plain ring of buckets forgets a tenth of the window at once and so really covers between 90 % and
/// 100 % of it. Here the bucket that is leaving still counts, by the share of it that the window covers:
/// the window slides, and covers `window` at every instant, exact up to how calls are spread within
/// that one bucket.
///
/// Each thread writes to a stripe of its own, so that two threads do not share a cache line; a total
/// adds up stripes x buckets, a fixed number of loads.
#[derive(Debug)]
pub(crate) struct TimeWindow {
    /// Changes while all stripes are locked.
    width: AtomicU64,
    stripes: Box<[Padded<Stripe>]>,
}

#[derive(Debug, Default)]
struct Stripe {
    buckets: [Bucket; SLOTS],
    /// Serialises turning a bucket over to a new interval, and guards what turned-over buckets held.
    retired: Mutex<Retired>,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Number of the interval since tick 0. Never goes back.
    interval: AtomicU64,
    calls: AtomicU64,
    failures: AtomicU64,
    slow: AtomicU64,
}

#[derive(Debug, Default)]
struct Retired {
    calls: u64,
    failures: u64,
}

impl TimeWindow {
    /// `stripes` must be a power of two.
    pub(crate) fn new(window: Duration, stripes: usize) -> Self {
        debug_assert!(stripes.is_power_of_two());
        Self {
            width: AtomicU64::new(width(window)),
            stripes: (0..stripes).map(|_| Padded::default()).collect(),
        }
    }

    #[inline]
    pub(crate) fn record(&self, now: Tick, mark: Mark) {
        let interval = now.0 / self.width.load(Ordering::Relaxed);
        let stripe = &self.stripes[thread_number() & (self.stripes.len() - 1)];
        let mut bucket = &stripe.buckets[slot(interval)];
        // A clock read before another thread's may be an interval late: its call then counts in the
        // newer interval, which is when it is being recorded.
        if bucket.interval.load(Ordering::Acquire) < interval {
            bucket = stripe.turn_over(now, &self.width);
        }
        bucket.calls.fetch_add(1, Ordering::Relaxed);
        if mark.failed {
            bucket.failures.fetch_add(1, Ordering::Relaxed);
        }
        if mark.slow {
            bucket.slow.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn totals(&self, now: Tick) -> Totals {
        let width = self.width.load(Ordering::Relaxed);
        let interval = now.0 / width;
        // The share of the leaving bucket that is still inside, in 1/1024.
        let left = 1024 - (u128::from(now.0 % width) * 1024 / u128::from(width));
        let mut sum = Totals::default();
        let mut leaving = Totals::default();
        for bucket in self.stripes.iter().flat_map(|stripe| &stripe.buckets) {
            let at = bucket.interval.load(Ordering::Acquire);
            let into = match interval.saturating_sub(at) {
                0..BUCKETS => &mut sum,
                BUCKETS => &mut leaving,
                _ => continue,
            };
            into.calls += bucket.calls.load(Ordering::Relaxed);
            into.failures += bucket.failures.load(Ordering::Relaxed);
            into.slow += bucket.slow.load(Ordering::Relaxed);
        }
        let part = |n: u64| u64::try_from(u128::from(n) * left / 1024).unwrap_or(n);
        let calls = sum.calls + part(leaving.calls);
        Totals {
            calls,
            failures: (sum.failures + part(leaving.failures)).min(calls),
            slow: (sum.slow + part(leaving.slow)).min(calls),
        }
    }

    pub(crate) fn clear(&self) {
        for stripe in &self.stripes {
            let mut retired = lock(&stripe.retired);
            for bucket in &stripe.buckets {
                bucket.retire(&mut retired);
            }
        }
    }

    /// Covers another stretch of time from now on, with nothing in it yet.
    pub(crate) fn resize(&self, window: Duration) {
        let mut stripes: Vec<_> =
            self.stripes.iter().map(|stripe| (stripe, lock(&stripe.retired))).collect();
        self.width.store(width(window), Ordering::Relaxed);
        for (stripe, retired) in &mut stripes {
            for bucket in &stripe.buckets {
                bucket.retire(retired);
                // Intervals have other numbers now.
                bucket.interval.store(0, Ordering::Release);
            }
        }
    }

    /// Successes ever recorded, cleared ones included.
    pub(crate) fn successes_ever(&self) -> u64 {
        let mut calls = 0_u64;
        let mut failures = 0_u64;
        for stripe in &self.stripes {
            // Held so that no bucket is turned over between reading it and reading what is retired.
            let retired = lock(&stripe.retired);
            calls += retired.calls;
            failures += retired.failures;
            for bucket in &stripe.buckets {
                failures += bucket.failures.load(Ordering::Relaxed);
                calls += bucket.calls.load(Ordering::Relaxed);
            }
        }
        calls.saturating_sub(failures)
    }
}

impl Stripe {
    #[cold]
    fn turn_over(&self, now: Tick, width: &AtomicU64) -> &Bucket {
        let mut retired = lock(&self.retired);
        // Read again: by another width this interval may lie far in the future.
        let interval = now.0 / width.load(Ordering::Relaxed);
        let bucket = &self.buckets[slot(interval)];
        if bucket.interval.load(Ordering::Relaxed) < interval {
            bucket.retire(&mut retired);
            // Release: whoever sees the new interval sees the emptied counts.
            bucket.interval.store(interval, Ordering::Release);
        }
        bucket
    }
}

impl Bucket {
    /// Swaps, so that a call recorded at this very moment lands in the new interval or in the retired
    /// counts, but is never lost.
    fn retire(&self, retired: &mut Retired) {
        retired.calls += self.calls.swap(0, Ordering::Relaxed);
        retired.failures += self.failures.swap(0, Ordering::Relaxed);
        self.slow.store(0, Ordering::Relaxed);
    }
}

fn width(window: Duration) -> u64 {
    (nanos(window) / BUCKETS).max(1)
}

#[expect(clippy::cast_possible_truncation, reason = "a remainder below 11")]
fn slot(interval: u64) -> usize {
    (interval % SLOTS as u64) as usize
}
