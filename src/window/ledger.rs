use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::{Tick, nanos};
use crate::sync::atomic::{AtomicU64, Ordering, fence};
use crate::sync::{Mutex, MutexGuard, Padded, lock, thread_number};

use super::Totals;

/// One call in a packed count: calls (32 bits) | failures (32 bits).
const CALL: u64 = 1 << 32;

/// Pages a stripe keeps while each holds the calls of one tick only.
const SPARSE: usize = 128;

/// Pages that the window is cut into when there are more calls than that.
const DENSE: u64 = SPARSE as u64;

/// Pages that a stripe has room for from its first call on: the most that there can be, see [`Ledger`].
const MOST: usize = 2 * SPARSE + 2;

/// How often a page that is filling up looks whether its count is about to overflow, in calls.
const CHECK: u64 = (1 << 20) - 1;

/// At this many calls a page's count is carried over to a wider one.
const FULL: u64 = 1 << 30;

/// The calls of the last `window`, exactly: a call leaves when it is older than the window.
///
/// A stripe keeps pages: when a page begins, and what was counted on it. While there are few of them a
/// page is for the calls of one tick, so that each call leaves at its own time, as from a list of all
/// calls. When there are many (above some four calls a second in 30 s) a page is for a 128th of the
/// window, and its calls leave together, when the first of them must: the window is then between
/// 127/128 of its length and all of it. Either way a stripe has at most 258 pages.
///
/// Recording on an open page is one load and one `fetch_add`. The counter of a stripe is never emptied:
/// what a page holds is the difference to what the counter was when it was opened. So a call that was
/// late to look at the page is counted on the next one, and none is lost or counted twice.
#[derive(Debug)]
pub(crate) struct Ledger {
    window: AtomicU64,
    /// Length of a page when there are many.
    width: AtomicU64,
    stripes: Box<[Padded<Stripe>]>,
}

#[derive(Debug)]
struct Stripe {
    /// Calls before this tick go on the open page.
    open_until: AtomicU64,
    /// Everything ever counted here, packed, modulo 2^64.
    count: AtomicU64,
    /// The rest is guarded by the mutex, and read without it under `version`, which is odd while they
    /// change.
    version: AtomicU64,
    /// `count` at the time up to which `calls` and `failures` have been brought.
    carried: AtomicU64,
    calls: AtomicU64,
    failures: AtomicU64,
    /// When the oldest page began, with the past.
    oldest: AtomicU64,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    /// Oldest first; the last one is open.
    live: VecDeque<Page>,
    /// What has left, ever.
    gone: Totals,
}

/// What lies between `carried` and `count` belongs to the open page, too.
#[derive(Clone, Copy, Debug)]
struct Page {
    /// With the past: what was restored may be older than the process.
    start: u64,
    calls: u64,
    failures: u64,
}

impl Page {
    fn opened(start: u64) -> Self {
        Self { start, calls: 0, failures: 0 }
    }
}

/// What lies between two readings of a packed count. Exact while both are below 2^32: what the failures
/// carry over into the calls cancels out.
fn between(earlier: u64, later: u64) -> (u64, u64) {
    let difference = later.wrapping_sub(earlier);
    (difference >> 32, difference & (CALL - 1))
}

impl Ledger {
    /// `stripes` must be a power of two.
    pub(crate) fn new(window: Duration, stripes: usize) -> Self {
        debug_assert!(stripes.is_power_of_two());
        let window = nanos(window);
        Self {
            window: AtomicU64::new(window),
            width: AtomicU64::new((window / DENSE).max(1)),
            stripes: (0..stripes).map(|_| Padded(Stripe::new())).collect(),
        }
    }

    #[inline]
    pub(crate) fn record(&self, now: Tick, failed: bool) {
        let stripe = &self.stripes[thread_number() & (self.stripes.len() - 1)];
        if now.0 >= stripe.open_until.load(Ordering::Relaxed) {
            stripe.turn(now, self);
        }
        let before = stripe.count.fetch_add(CALL | u64::from(failed), Ordering::Relaxed);
        if before >> 32 & CHECK == CHECK {
            stripe.check();
        }
    }

    /// What began before this has left.
    fn since(&self, now: Tick) -> u64 {
        now.with_past().saturating_sub(self.window.load(Ordering::Relaxed))
    }

    /// What the window holds now.
    pub(crate) fn totals(&self, now: Tick) -> Totals {
        // Of two threads that each record on a stripe and then add up, one sees both.
        fence(Ordering::SeqCst);
        let since = self.since(now);
        let mut sum = Totals::default();
        for stripe in &self.stripes {
            let (calls, failures) = stripe.read(now, since);
            sum.calls += calls;
            sum.failures += failures;
        }
        sum
    }

    /// What has been recorded since `seen`, which is brought up to now. `seen` starts as zeros, one for
    /// each stripe; less than 2^32 calls a stripe may lie between two of these.
    pub(crate) fn news(&self, seen: &mut [u64]) -> Totals {
        let mut sum = Totals::default();
        for (stripe, seen) in self.stripes.iter().zip(seen) {
            let count = stripe.count.load(Ordering::Acquire);
            let (calls, failures) = between(*seen, count);
            *seen = count;
            sum.calls += calls;
            sum.failures += failures;
        }
        sum
    }

    /// Everything ever recorded, cleared calls included.
    pub(crate) fn ever(&self) -> Totals {
        let mut sum = Totals::default();
        for stripe in &self.stripes {
            let pages = lock(&stripe.pages);
            let (calls, failures) = stripe.sums();
            sum.calls += pages.gone.calls + calls;
            sum.failures += pages.gone.failures + failures;
        }
        sum
    }

    /// Looks back as far as `window` from now on. Calls that it has let go of do not come back, so a longer
    /// one fills up as time passes; of a shorter one calls that shared a page leave together.
    pub(crate) fn resize(&self, window: Duration, now: Tick) {
        let window = nanos(window);
        self.window.store(window, Ordering::Relaxed);
        self.width.store((window / DENSE).max(1), Ordering::Relaxed);
        for stripe in &self.stripes {
            let mut pages = lock(&stripe.pages);
            let change = stripe.change();
            stripe.carry(&mut pages);
            // The open page may be longer than all of a shorter window.
            stripe.open(&mut pages, now, 1);
            drop(change);
        }
    }

    pub(crate) fn clear(&self, now: Tick) {
        for stripe in &self.stripes {
            let mut pages = lock(&stripe.pages);
            let change = stripe.change();
            stripe.carry(&mut pages);
            while stripe.pop(&mut pages) {}
            stripe.open(&mut pages, now, 1);
            drop(change);
        }
    }

    /// Ages and counts of what the window holds, oldest first.
    pub(crate) fn pages(&self, now: Tick) -> Vec<(Duration, u64, u64)> {
        let since = self.since(now);
        let age = |page: &Page| Duration::from_nanos(now.with_past().saturating_sub(page.start));
        let mut all = Vec::new();
        for stripe in &self.stripes {
            let mut pages = lock(&stripe.pages);
            let change = stripe.change();
            stripe.carry(&mut pages);
            drop(change);
            let live = pages.live.iter().filter(|page| page.start >= since && page.calls > 0);
            all.extend(live.map(|page| (age(page), page.calls, page.failures)));
        }
        all.sort_by_key(|&(age, ..)| std::cmp::Reverse(age));
        all
    }

    /// Puts in what [`pages`](Self::pages) gave, `older` ago. For a ledger that nobody writes to yet.
    pub(crate) fn put(&self, now: Tick, older: Duration, saved: &[(Duration, u64, u64)]) {
        let Some(stripe) = self.stripes.first() else { return };
        let (since, width) = (self.since(now), self.width.load(Ordering::Relaxed));
        let mut pages = lock(&stripe.pages);
        let change = stripe.change();
        let mut last: Option<Page> = None;
        for &(age, calls, failures) in saved {
            let start = now.with_past().saturating_sub(nanos(age.saturating_add(older)));
            if start < since {
                continue;
            }
            stripe.calls.fetch_add(calls, Ordering::Relaxed);
            stripe.failures.fetch_add(failures, Ordering::Relaxed);
            match &mut last {
                Some(page) if start < page.start.saturating_add(width) => {
                    page.calls += calls;
                    page.failures += failures;
                }
                _ => {
                    pages.live.extend(last.take());
                    last = Some(Page { start, calls, failures });
                }
            }
        }
        pages.live.extend(last);
        stripe.open(&mut pages, now, 0);
        drop(change);
    }
}

/// While it lives, who reads without the mutex must take it.
struct Change<'a>(&'a Stripe);

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.version.fetch_add(1, Ordering::Release);
    }
}

// All but `record` and the first half of `read` run under the mutex of `pages`.
impl Stripe {
    fn new() -> Self {
        Self {
            open_until: AtomicU64::new(0),
            count: AtomicU64::new(0),
            version: AtomicU64::new(0),
            carried: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            oldest: AtomicU64::new(u64::MAX),
            pages: Mutex::new(Pages::default()),
        }
    }

    fn change(&self) -> Change<'_> {
        self.version.fetch_add(1, Ordering::Relaxed);
        // What follows must not be seen before the odd number.
        fence(Ordering::Release);
        Change(self)
    }

    /// The page is full or there is none: opens the next.
    #[cold]
    #[inline(never)]
    fn turn(&self, now: Tick, ledger: &Ledger) {
        let mut pages = lock(&self.pages);
        if now.0 < self.open_until.load(Ordering::Relaxed) {
            return;
        }
        let change = self.change();
        self.carry(&mut pages);
        let since = ledger.since(now);
        while pages.live.front().is_some_and(|page| page.start < since) && self.pop(&mut pages) {}
        let sparse = pages.live.len() < SPARSE;
        self.open(&mut pages, now, if sparse { 1 } else { ledger.width.load(Ordering::Relaxed) });
        drop(change);
    }

    /// A total and what the window has lost since.
    fn read(&self, now: Tick, since: u64) -> (u64, u64) {
        let version = self.version.load(Ordering::Acquire);
        if version.is_multiple_of(2) && self.oldest.load(Ordering::Relaxed) >= since {
            let sums = self.sums();
            fence(Ordering::Acquire);
            if self.version.load(Ordering::Relaxed) == version {
                return sums;
            }
        }
        self.read_locked(now, since)
    }

    #[cold]
    #[inline(never)]
    fn read_locked(&self, now: Tick, since: u64) -> (u64, u64) {
        let mut pages = lock(&self.pages);
        if self.oldest.load(Ordering::Relaxed) < since {
            let change = self.change();
            self.carry(&mut pages);
            while pages.live.front().is_some_and(|page| page.start < since) && self.pop(&mut pages)
            {
            }
            if pages.live.is_empty() {
                // A page is kept open, for calls that have looked and not counted yet.
                self.open(&mut pages, now, 1);
            }
            self.oldest.store(self.front(&pages), Ordering::Relaxed);
            drop(change);
        }
        self.sums()
    }

    fn sums(&self) -> (u64, u64) {
        let carried = self.carried.load(Ordering::Relaxed);
        let (calls, failures) = between(carried, self.count.load(Ordering::Acquire));
        (
            self.calls.load(Ordering::Relaxed) + calls,
            self.failures.load(Ordering::Relaxed) + failures,
        )
    }

    /// Writes the count of the open page into it.
    fn carry(&self, pages: &mut MutexGuard<'_, Pages>) {
        let count = self.count.load(Ordering::Relaxed);
        // Before the first page there is nothing to carry it to: it stays for the next.
        let Some(page) = pages.live.back_mut() else { return };
        let (calls, failures) = between(self.carried.load(Ordering::Relaxed), count);
        page.calls += calls;
        page.failures += failures;
        self.carried.store(count, Ordering::Relaxed);
        self.calls.fetch_add(calls, Ordering::Relaxed);
        self.failures.fetch_add(failures, Ordering::Relaxed);
    }

    /// The oldest page leaves.
    fn pop(&self, pages: &mut MutexGuard<'_, Pages>) -> bool {
        let Some(page) = pages.live.pop_front() else { return false };
        pages.gone.calls += page.calls;
        pages.gone.failures += page.failures;
        self.calls.fetch_sub(page.calls, Ordering::Relaxed);
        self.failures.fetch_sub(page.failures, Ordering::Relaxed);
        true
    }

    /// A page for so many nanoseconds from now on.
    fn open(&self, pages: &mut MutexGuard<'_, Pages>, now: Tick, length: u64) {
        let start = now.with_past();
        match pages.live.back_mut() {
            Some(page) if page.calls == 0 => page.start = start,
            _ => {
                if pages.live.capacity() == 0 {
                    // At once, so that no later call has to make more room.
                    pages.live.reserve_exact(MOST);
                }
                pages.live.push_back(Page::opened(start));
            }
        }
        self.oldest.store(self.front(pages), Ordering::Relaxed);
        self.open_until.store(now.0.saturating_add(length), Ordering::Relaxed);
    }

    fn front(&self, pages: &MutexGuard<'_, Pages>) -> u64 {
        pages.live.front().map_or(u64::MAX, |page| page.start)
    }

    /// Before the count of the open page overflows, carries it over.
    #[cold]
    #[inline(never)]
    fn check(&self) {
        let mut pages = lock(&self.pages);
        let carried = self.carried.load(Ordering::Relaxed);
        if between(carried, self.count.load(Ordering::Relaxed)).0 >= FULL {
            let change = self.change();
            self.carry(&mut pages);
            drop(change);
        }
    }
}

#[cfg(test)]
impl Ledger {
    pub(crate) fn stripe_pages(&self) -> usize {
        self.stripes.iter().map(|stripe| lock(&stripe.pages).live.len()).max().unwrap_or(0)
    }

    /// Counts many calls on the first stripe at once, and looks whether it overflows.
    pub(crate) fn grow(&self, calls: u64, failures: u64) {
        self.stripes[0].count.fetch_add(calls * CALL + failures, Ordering::Relaxed);
        self.stripes[0].check();
    }
}
