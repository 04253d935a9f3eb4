//! How long answers take, and how many hedges there may be, without clock and timer.

use crate::clock::Tick;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, Padded, lock};

/// Below 16 us all is one bucket, above 18 minutes as well; between them eight to each doubling.
const LOW: u32 = 14;
const BUCKETS: usize = if cfg!(buttress_loom) { 16 } else { 208 };
/// What is remembered halves after the longer of so many answers and so many nanoseconds.
const HALF_CALLS: f64 = 1000.0;
const HALF_NANOS: f64 = 10e9;
/// How often the percentile is taken anew: often until there is one.
const FIRST: u64 = 20_000_000;
const LATER: u64 = 500_000_000;
/// Calls of which the share that is missed is an average.
const MISSES: f64 = 64.0;
/// Answers after which it hardly moves.
const SETTLED: f64 = 200.0;
/// One hedge in units of the share.
pub(super) const HEDGE: u64 = 1_000_000;
const NONE: u64 = u64::MAX;
/// What most answers take at most.
const MOST: f64 = 0.9;
/// So many calls may be late whatever is done.
const FEW: f64 = 0.02;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) percentile: f64,
    pub(super) min_samples: u32,
    pub(super) min_delay: u64,
    pub(super) deposit: u64,
    pub(super) burst: u32,
    pub(super) hedges: u32,
}

/// Limits that may change.
#[derive(Debug)]
pub(super) struct LimitsCell {
    percentile: AtomicU64,
    min_samples: AtomicU32,
    min_delay: AtomicU64,
    deposit: AtomicU64,
    burst: AtomicU32,
    hedges: AtomicU32,
}

impl LimitsCell {
    fn new(limits: Limits) -> Self {
        Self {
            percentile: AtomicU64::new(limits.percentile.to_bits()),
            min_samples: AtomicU32::new(limits.min_samples),
            min_delay: AtomicU64::new(limits.min_delay),
            deposit: AtomicU64::new(limits.deposit),
            burst: AtomicU32::new(limits.burst),
            hedges: AtomicU32::new(limits.hedges),
        }
    }

    fn set(&self, limits: Limits) {
        self.percentile.store(limits.percentile.to_bits(), Ordering::Relaxed);
        self.min_samples.store(limits.min_samples, Ordering::Relaxed);
        self.min_delay.store(limits.min_delay, Ordering::Relaxed);
        self.deposit.store(limits.deposit, Ordering::Relaxed);
        self.burst.store(limits.burst, Ordering::Relaxed);
        self.hedges.store(limits.hedges, Ordering::Relaxed);
    }

    fn percentile(&self) -> f64 {
        f64::from_bits(self.percentile.load(Ordering::Relaxed))
    }

    pub(super) fn min_samples(&self) -> u32 {
        self.min_samples.load(Ordering::Relaxed)
    }

    fn min_delay(&self) -> u64 {
        self.min_delay.load(Ordering::Relaxed)
    }

    fn deposit(&self) -> u64 {
        self.deposit.load(Ordering::Relaxed)
    }

    pub(super) fn burst(&self) -> u32 {
        self.burst.load(Ordering::Relaxed)
    }

    pub(super) fn hedges(&self) -> u32 {
        self.hedges.load(Ordering::Relaxed)
    }
}

/// So many answers above a percentile show where it is.
const ENOUGH: f64 = 2.0;
/// The middle of a bucket above its lower edge, as a logarithm.
const WITHIN: f64 = 0.055;

/// So many standard deviations above the mean lies a percentile above the median, of what is normal: the approximation of
/// Abramowitz and Stegun, 26.2.23.
fn deviations(percentile: f64) -> f64 {
    let t = (-2.0 * (1.0 - percentile).ln()).sqrt();
    let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    t - above / (1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308)))
}

fn share(of: &AtomicU64) -> f64 {
    f64::from_bits(of.load(Ordering::Relaxed))
}

/// One more call, which counts or not. While none does it is only a load.
#[inline]
fn average(of: &AtomicU64, counts: bool) {
    let was = share(of);
    if counts || was > 0.0 {
        // Two at once may lose one of two: it is an estimate.
        let is = was + (f64::from(u8::from(counts)) - was) / MISSES;
        of.store(if is < 1e-4 { 0.0 } else { is }.to_bits(), Ordering::Relaxed);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to the number of buckets")]
fn bucket(nanos: u64) -> usize {
    let nanos = nanos.max(1 << LOW);
    let octave = 63 - nanos.leading_zeros();
    let step = (nanos >> (octave - 3)) & 7;
    ((u64::from(octave - LOW) * 8 + step) as usize).min(BUCKETS - 1)
}

fn lower_edge(bucket: usize) -> u64 {
    let (octave, step) = (bucket as u64 / 8, bucket as u64 % 8);
    (8 + step) << (octave + u64::from(LOW) - 3)
}

#[derive(Debug)]
struct Fresh([AtomicU32; BUCKETS]);

impl Fresh {
    fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU32::new(0)))
    }
}

/// What has been seen, the old weighing less.
#[derive(Debug)]
struct Past {
    answered: [f64; BUCKETS],
    censored: [f64; BUCKETS],
    /// Answers ever.
    seen: f64,
    at: Option<Tick>,
}

impl Past {
    /// The time that a share `percentile` of answers takes at most: the estimator of Kaplan and Meier. A call
    /// that was given up says only that its answer takes longer; to count it as an answer would make the
    /// percentile lower each time a hedge wins.
    fn percentile(&self, percentile: f64) -> u64 {
        let many = self.many();
        // Of few answers the slowest says little of what one in fifty takes.
        let few = many * (1.0 - percentile) < ENOUGH;
        let fit = if few { self.fit(percentile, many) } else { 0 };
        self.estimate(percentile).max(fit)
    }

    fn many(&self) -> f64 {
        self.answered.iter().chain(&self.censored).sum()
    }

    /// The same, if the logarithms of what they take are normal, and a little more for what so few do not show.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an estimate"
    )]
    fn fit(&self, percentile: f64, many: f64) -> u64 {
        let (mut sum, mut squares) = (0.0, 0.0);
        for (i, (answered, censored)) in self.answered.iter().zip(&self.censored).enumerate() {
            let n = answered + censored;
            if n > 0.0 {
                let ln = (lower_edge(i) as f64).ln() + WITHIN;
                (sum, squares) = (sum + n * ln, squares + n * ln * ln);
            }
        }
        if many < 2.0 {
            return 0;
        }
        let mean = sum / many;
        let deviation = ((squares - sum * mean).max(0.0) / (many - 1.0)).sqrt();
        (mean + deviations(percentile) * (1.0 + 2.0 / many) * deviation).exp() as u64
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "within one bucket"
    )]
    fn estimate(&self, percentile: f64) -> u64 {
        let mut at_risk = self.many();
        let mut later = 1.0;
        let mut last = 0;
        for (i, (answered, censored)) in self.answered.iter().zip(&self.censored).enumerate() {
            if *answered > 0.0 && at_risk > 0.0 {
                let next = later * (1.0 - answered / at_risk).max(0.0);
                let (from, to) = (lower_edge(i), lower_edge(i + 1));
                if next <= 1.0 - percentile {
                    let part = (later - (1.0 - percentile)) / (later - next);
                    return from + ((to - from) as f64 * part) as u64;
                }
                later = next;
            }
            if *answered + *censored > 0.0 {
                last = lower_edge(i + 1);
            }
            at_risk -= answered + censored;
        }
        last
    }
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) limits: LimitsCell,
    /// Read by every call, written twice a second.
    delay: Padded<AtomicU64>,
    median: AtomicU64,
    most: AtomicU64,
    refresh_at: AtomicU64,
    share: Padded<AtomicU64>,
    /// The share of calls that were not answered by their deadline, hedged or not: the bits of an `f64`.
    missed: AtomicU64,
    /// The share that a hedge answered.
    rescued: AtomicU64,
    answered: Fresh,
    censored: Fresh,
    past: Mutex<Past>,
}

impl Core {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits: LimitsCell::new(limits),
            delay: Padded(AtomicU64::new(NONE)),
            median: AtomicU64::new(NONE),
            most: AtomicU64::new(NONE),
            refresh_at: AtomicU64::new(0),
            share: Padded(AtomicU64::new(HEDGE.min(u64::from(limits.burst) * HEDGE))),
            missed: AtomicU64::new(0),
            rescued: AtomicU64::new(0),
            answered: Fresh::new(),
            censored: Fresh::new(),
            past: Mutex::new(Past {
                answered: [0.0; BUCKETS],
                censored: [0.0; BUCKETS],
                seen: 0.0,
                at: None,
            }),
        }
    }

    /// After how many nanoseconds there is a second attempt; `None` until that is known.
    #[inline]
    pub(super) fn delay(&self) -> Option<u64> {
        Some(self.delay.load(Ordering::Relaxed)).filter(|delay| *delay != NONE)
    }

    pub(super) fn median(&self) -> Option<u64> {
        Some(self.median.load(Ordering::Relaxed)).filter(|median| *median != NONE)
    }

    /// When a call that starts now is to be hedged. Earlier than after the delay, if the hedge has most of its
    /// answers in time only then; or half of them, if most calls would be hedged for that. Not at all, if even so they
    /// would be, or the hedge come too late.
    #[inline]
    pub(super) fn plan(&self, deadline: Option<Tick>, now: Tick) -> Option<Tick> {
        let delay = self.delay()?;
        let Some(deadline) = deadline else { return Some(Tick(now.0.saturating_add(delay))) };
        let left = deadline.0.saturating_sub(now.0);
        let most = self.most.load(Ordering::Relaxed);
        let mut latest = left.saturating_sub(most);
        if latest < most {
            latest = left.saturating_sub(self.median().unwrap_or(0));
            if latest < delay.min(most) {
                return None;
            }
        }
        Some(Tick(now.0.saturating_add(delay.min(latest))))
    }

    /// When there is another hedge after one that is sent now. Few calls get so far: it need not be as patient.
    pub(super) fn plan_next(&self, deadline: Option<Tick>, now: Tick) -> Option<Tick> {
        let most = self.most.load(Ordering::Relaxed);
        let needed = most.saturating_add(self.median()?);
        let due = Tick(now.0.saturating_add(most.max(self.limits.min_delay())));
        deadline.is_none_or(|by| by.0.saturating_sub(now.0) >= needed).then_some(due)
    }

    /// When to ask again for a hedge that was refused.
    pub(super) fn plan_again(&self, deadline: Option<Tick>, now: Tick) -> Option<Tick> {
        let median = self.median()?;
        let pause = median.max(self.limits.min_delay());
        let left = deadline.map_or(u64::MAX, |by| by.0.saturating_sub(now.0));
        (left >= pause.saturating_add(median)).then_some(Tick(now.0.saturating_add(pause)))
    }

    /// An answer after `nanos`, which stands for so many.
    #[inline]
    pub(super) fn answered(&self, nanos: u64, stands_for: u32, now: Tick) {
        self.answered.0[bucket(nanos)].fetch_add(stands_for, Ordering::Relaxed);
        self.look(now);
    }

    /// After `nanos` there was none yet, and nobody waited on.
    pub(super) fn censored(&self, nanos: u64, now: Tick) {
        self.censored.0[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        self.look(now);
    }

    #[inline]
    fn look(&self, now: Tick) {
        if now.0 >= self.refresh_at.load(Ordering::Relaxed) {
            self.refresh(now);
        }
    }

    #[cold]
    #[inline(never)]
    fn refresh(&self, now: Tick) {
        // Whoever comes second goes on: it is being done.
        let Ok(mut past) = self.past.try_lock() else { return };
        let mut fresh = 0.0;
        let mut take = |from: &Fresh| -> [f64; BUCKETS] {
            std::array::from_fn(|i| {
                let n = match from.0[i].load(Ordering::Relaxed) {
                    0 => 0,
                    _ => from.0[i].swap(0, Ordering::Relaxed),
                };
                fresh += f64::from(n);
                f64::from(n)
            })
        };
        let (answered, censored) = (take(&self.answered), take(&self.censored));
        past.seen += answered.iter().sum::<f64>();
        #[expect(clippy::cast_precision_loss, reason = "a weight")]
        let passed = past.at.map_or(0.0, |at| now.0.saturating_sub(at.0) as f64);
        past.at = Some(now);
        let keep = (-fresh / HALF_CALLS).exp2().max((-passed / HALF_NANOS).exp2());
        for i in 0..BUCKETS {
            past.answered[i] = past.answered[i] * keep + answered[i];
            past.censored[i] = past.censored[i] * keep + censored[i];
        }
        let warm = self.estimate(&past);
        let pause = if warm && past.seen >= SETTLED { LATER } else { FIRST };
        self.refresh_at.store(now.0.saturating_add(pause), Ordering::Relaxed);
    }

    /// Other limits, for the same answers.
    pub(super) fn reconfigure(&self, limits: Limits) {
        let past = lock(&self.past);
        self.limits.set(limits);
        if !self.estimate(&past) {
            self.delay.store(NONE, Ordering::Relaxed);
        }
        self.cut();
    }

    /// What can be saved up.
    #[inline]
    fn full(&self) -> u64 {
        u64::from(self.limits.burst()) * HEDGE
    }

    /// Lowers what exceeds the limit.
    ///
    /// Writes in any case: who writes after it has read, with acquire, what was stored before, and so the new limit.
    fn cut(&self) {
        let cut = |saved: u64| Some(saved.min(self.full()));
        let _ = self.share.fetch_update(Ordering::AcqRel, Ordering::Acquire, cut);
    }

    /// Puts so much to what is saved, up to the limit. One that was lowered meanwhile cuts that, too: its own cut was perhaps
    /// before.
    fn save(&self, more: u64) {
        let full = self.full();
        // Not below what is there: that is perhaps under a limit that is higher by now.
        let add = |saved: u64| Some((saved + more).min(full).max(saved));
        let _ = self.share.fetch_update(Ordering::AcqRel, Ordering::Relaxed, add);
        if self.full() < full {
            self.cut();
        }
    }

    /// Whether enough is known.
    fn estimate(&self, past: &Past) -> bool {
        let warm = past.seen >= f64::from(self.limits.min_samples());
        if warm {
            let delay = past.percentile(self.limits.percentile()).max(self.limits.min_delay());
            self.delay.store(delay, Ordering::Relaxed);
            self.median.store(past.percentile(0.5), Ordering::Relaxed);
            self.most.store(past.percentile(MOST), Ordering::Relaxed);
        }
        warm
    }

    /// A first attempt pays its share of a hedge. Only a load while enough is saved up.
    #[inline]
    pub(super) fn deposit(&self) {
        if self.share.load(Ordering::Relaxed) < self.full() {
            self.save(self.limits.deposit());
        }
    }

    /// A call was answered in time, by a hedge or by the first attempt.
    #[inline]
    pub(super) fn kept(&self, rescued: bool) {
        average(&self.missed, false);
        if rescued && self.is_in_vain() {
            // It was not, and few are sent to show it.
            self.missed.store((share(&self.missed) / 2.0).to_bits(), Ordering::Relaxed);
        }
        average(&self.rescued, rescued);
    }

    /// It was not.
    pub(super) fn missed(&self) {
        average(&self.missed, true);
        average(&self.rescued, false);
    }

    /// More calls miss their deadline than hedges rescue, and more than a few. That is no tail but a queue, and hedges make
    /// it longer. However many are slow by the percentile: a median says nothing of how many may be late.
    pub(super) fn is_in_vain(&self) -> bool {
        let few = (1.0 - self.limits.percentile()).min(FEW);
        share(&self.missed) > few + share(&self.rescued)
    }

    /// What a hedge costs, if that much is saved.
    pub(super) fn take(&self) -> Option<u64> {
        self.pay(HEDGE)
    }

    /// One that costs all that can be saved: while they are in vain, a few show whether they still are.
    pub(super) fn take_all(&self) -> Option<u64> {
        self.pay(self.full())
    }

    fn pay(&self, price: u64) -> Option<u64> {
        let taken = self
            .share
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(price));
        taken.is_ok().then_some(price)
    }

    /// A hedge that cost so much was not sent after all.
    pub(super) fn give_back(&self, price: u64) {
        self.save(price);
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub(super) fn saved(&self) -> f64 {
        self.share.load(Ordering::Relaxed) as f64 / HEDGE as f64
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the range is checked"
)]
pub(super) fn deposit(share: f64) -> u64 {
    (share * HEDGE as f64 + 1e-6).floor() as u64
}

#[cfg(all(test, not(buttress_loom)))]
#[path = "core_tests.rs"]
mod tests;

#[cfg(all(test, not(buttress_loom)))]
#[path = "model_tests.rs"]
mod model_tests;

#[cfg(all(test, buttress_loom))]
#[path = "loom_tests.rs"]
mod loom_tests;
