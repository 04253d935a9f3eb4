//! How long an answer takes now and how long it takes when nothing is wrong, as geometric means: one answer in
//! a hundred that takes fifty times as long moves them by 4 %, not by half.

use std::cell::Cell;

use crate::clock::Tick;

/// Answers until the baseline says something.
const WARM_UP: u32 = 16;
/// Until so many have come, what answers take apart from a queue corrects the baseline: each by so much of the way.
const YOUNG: u32 = 8 * WARM_UP;
const CORRECTED: f64 = 1.0 / 32.0;
/// Answers of which the quickest but one says how long a queue can be.
const RECENT: usize = 16;
/// Where few come, those of a while ago say nothing of a queue: but so many always count, and of fewer than so many it is
/// the quickest.
const LEAST: usize = 4;
const SOME: usize = 8;
/// So little of the baseline in which the quickest come that there is hardly a queue: the logarithm of 0.4.
const FREE: f64 = -0.916_290_731_874_155;

/// So much of the usual variance is left where all is slow alike, whatever chance adds.
const ALIKE: f64 = 0.75;

/// What answers take, in logarithms of nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Latency {
    seen: u32,
    short: f64,
    spread: f64,
    /// The spread while answers took about as long as the baseline.
    usual: f64,
    base: f64,
    /// The lowest baseline since it began.
    anchor: f64,
    /// The last ones, each where it came in.
    recent: [f64; RECENT],
    came: [Tick; RECENT],
    now: Tick,
    /// For so long they say something of a queue.
    lately: u64,
    /// Not all of them do.
    partly: bool,
    /// The lowest two of them.
    first: f64,
    second: f64,
    /// What is known, once somebody has asked. While all is well nobody does.
    known: Cell<Option<Known>>,
}

/// In nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    typical: f64,
    baseline: f64,
    enough: f64,
}

impl Latency {
    pub(super) const fn is_warm(&self) -> bool {
        self.seen >= WARM_UP
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.seen == 0
    }

    /// When the next answer comes, and how long those before count.
    #[inline]
    pub(super) const fn at(&mut self, now: Tick, lately: u64) {
        (self.now, self.lately) = (now, lately);
    }

    /// An answer after `nanos`. `quiet` means that what it took is not our doing: far fewer in flight than
    /// allowed, and nobody waiting.
    pub(super) fn record(&mut self, nanos: u64, quiet: bool) {
        self.take(nanos, quiet, true);
    }

    fn known(&self) -> Known {
        if !self.is_warm() {
            return Known::default();
        }
        self.known.get().unwrap_or_else(|| {
            let typical = self.short.exp();
            let enough = typical * (2.0 * self.spread.sqrt().min(1.5)).exp();
            let known = Known { typical, baseline: self.base.exp(), enough };
            self.known.set(Some(known));
            known
        })
    }

    /// Among the last ones.
    fn remember(&mut self, ln: f64) {
        let at = self.seen as usize % RECENT;
        let before = std::mem::replace(&mut self.recent[at], ln);
        self.came[at] = self.now;
        let from = self.now.0.saturating_sub(self.lately);
        if self.came[(at + 1) % RECENT].0 < from && self.is_warm() {
            return self.remember_few(at, from);
        }
        if before > self.second && !std::mem::take(&mut self.partly) {
            self.second = self.second.min(ln.max(self.first));
            self.first = self.first.min(ln);
            return;
        }
        let (mut first, mut second) = (f64::INFINITY, f64::INFINITY);
        for &ln in &self.recent {
            second = second.min(ln.max(first));
            first = first.min(ln);
        }
        (self.first, self.second) = (first, second);
    }

    /// The last one is at `at`, and not all are since `from`.
    #[cold]
    fn remember_few(&mut self, at: usize, from: u64) {
        let (mut first, mut second, mut many) = (f64::INFINITY, f64::INFINITY, 0);
        for i in (0..RECENT).map(|back| (at + RECENT - back) % RECENT) {
            if many >= LEAST && self.came[i].0 < from {
                break;
            }
            second = second.min(self.recent[i].max(first));
            first = first.min(self.recent[i]);
            many += 1;
        }
        self.first = first;
        self.second = if many < SOME { first } else { second };
        self.partly = true;
    }

    #[expect(clippy::cast_precision_loss, reason = "a mean needs no 53 bits")]
    fn take(&mut self, nanos: u64, quiet: bool, answered: bool) {
        self.known.set(None);
        let ln = (nanos.max(1) as f64).ln();
        self.remember(ln);
        self.seen = if self.seen == u32::MAX { YOUNG + 1 } else { self.seen + 1 };
        if self.seen <= WARM_UP {
            // Plain means first.
            let share = 1.0 / f64::from(self.seen);
            let off = ln - self.short;
            self.short += off * share;
            self.spread += (off * (ln - self.short) - self.spread) * share;
            (self.base, self.anchor) = (self.short, self.short);
            self.usual = self.spread;
            return;
        }
        let off = ln - self.short;
        self.short += off / 8.0;
        // An outlier as an outlier: a step of the whole level is not a spread.
        let off = off.clamp(-2.0, 2.0);
        self.spread += (off * off - self.spread) / 64.0;
        // Compared as logarithms.
        let free = self.is_free();
        if free {
            // Not slow because of a queue, whatever is in flight.
            self.anchor = self.anchor.max(self.base - DRIFT);
        }
        if (quiet || free) && self.short < self.base + NEAR {
            self.base += (self.short - self.base) / 64.0;
            let off = self.spread - self.usual;
            self.usual += off / if off < 0.0 { 1024.0 } else { 64.0 };
        } else if self.short < self.base - NEAR {
            self.base += (self.short - self.base) / 16.0;
        } else if answered && self.seen <= YOUNG {
            self.correct(ln);
        }
        // Under steady overload it would follow the queue, each time a little.
        self.base = self.base.min(self.anchor + DRIFT);
        self.anchor = self.anchor.min(self.base);
    }

    /// Of many calls that are sent at the start the quickest are answered first. Where answers differ much the baseline begins
    /// far below what they take, and all others are taken for a queue. But a queue adds to the quickest as well: what answers
    /// take beyond those they take without it. Where several answer, each with its own, that is less than exact. A queue that
    /// has just formed is not in the quickest yet, which came before it: an answer that takes hardly longer than those does
    /// not count, and with all that do the baseline goes only part of the way.
    fn correct(&mut self, ln: f64) {
        let quickest = self.quickest();
        let slow = self.short > self.base + NEAR && self.short > quickest;
        if !slow || quickest - ln > FREE {
            return;
        }
        let own = self.short + (1.0 - (quickest - self.short).exp()).ln();
        let up = CORRECTED * (own - self.base).max(0.0);
        (self.base, self.anchor) = (self.base + up, self.anchor + up);
    }

    /// At least `nanos` went by without an answer.
    #[expect(clippy::cast_precision_loss, reason = "a mean needs no 53 bits")]
    pub(super) fn censored(&mut self, nanos: u64) {
        if self.is_warm() && (nanos.max(1) as f64).ln() > self.short {
            self.take(nanos, false, false);
        }
    }

    /// How many times the baseline answers take.
    pub(super) fn ratio(&self) -> f64 {
        let known = self.known();
        if self.is_warm() { known.typical / known.baseline.max(QUICK) } else { 1.0 }
    }

    /// How many times the baseline a queue can be at most: in one queue even the quickest wait. Where answers
    /// differ much it is far below `ratio` as long as there is none.
    pub(super) fn queue(&self) -> f64 {
        (self.quickest() - self.base.max(NOISE)).exp()
    }

    /// What the last answer took, as a logarithm.
    pub(super) fn last(&self) -> f64 {
        self.recent[self.seen.wrapping_sub(1) as usize % RECENT]
    }

    /// How many times the baseline that was, and 1 if it was less.
    pub(super) fn last_ratio(&self) -> f64 {
        match self.is_warm() {
            true => (self.last() - self.base.max(NOISE)).exp().max(1.0),
            false => 1.0,
        }
    }

    /// What answers take without a queue, as a logarithm.
    pub(super) const fn base(&self) -> f64 {
        self.base
    }

    /// They take no longer than that, or hardly.
    pub(super) fn is_based_near(&self, base: f64) -> bool {
        self.base < base + NEAR
    }

    /// The quickest come so soon that there is no queue.
    pub(super) fn is_free(&self) -> bool {
        self.quickest() - self.base < FREE
    }

    /// How much they differ one from the next, as the variance of logarithms: not as the level moves. What they have in
    /// common because they wait in one queue counts for nothing.
    pub(super) fn variance(&self) -> f64 {
        let many = (self.seen as usize).min(RECENT);
        let (mut sum, mut count) = (0.0, 0.0);
        for i in 1..many {
            let at = self.seen as usize + RECENT - i;
            let off = self.recent[at % RECENT] - self.recent[(at - 1) % RECENT];
            sum += off * off;
            count += 2.0;
        }
        let queue = self.ratio().max(1.0);
        if count > 0.0 { sum / count * queue * queue } else { 1.0 }
    }

    pub(super) fn quickest_nanos(&self) -> f64 {
        self.quickest().exp()
    }

    /// The quickest but one of the last answers.
    fn quickest(&self) -> f64 {
        self.second
    }

    /// Answers differ among each other by as many times as when nothing is wrong, as they do where all is slow alike. A
    /// queue adds the same to the quick and the slow, and they differ less.
    pub(super) fn differs_as_usual(&self) -> bool {
        self.spread >= ALIKE * self.usual
    }

    /// Less than half again as long as the baseline.
    pub(super) fn is_near(&self) -> bool {
        self.short < self.base.max(NOISE) + NEAR || !self.is_warm()
    }

    /// What is slow now is so without our doing: the baseline starts anew.
    pub(super) fn rebase(&mut self) {
        self.base = self.short;
        self.anchor = self.base;
        self.known.set(None);
    }

    pub(super) fn typical(&self) -> u64 {
        nanos(self.known().typical)
    }

    pub(super) fn baseline(&self) -> u64 {
        nanos(self.known().baseline)
    }

    /// Within which about 98 in 100 answers come.
    pub(super) fn enough(&self) -> u64 {
        nanos(self.known().enough)
    }
}

/// What is as quick differs by what the processor does, a cold cache or another thread, and not by a queue. In nanoseconds,
/// and the logarithm of that.
const QUICK: f64 = 10_000.0;
const NOISE: f64 = 9.210_340_371_976_184;
/// Half again as long is still near the baseline: 8 answers of a heavy tail differ by that.
const NEAR: f64 = 0.4;
/// A quarter above the lowest.
const DRIFT: f64 = 0.22;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
fn nanos(many: f64) -> u64 {
    many as u64
}
