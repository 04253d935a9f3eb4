//! The settings that calls go by, exchanged while they are read.

use std::time::Duration;

use crate::clock::nanos;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::window::Totals;

use super::config::{BreachAction, Config};
use super::slo::Severity;
use super::state::BudgetState;

/// The longest time between two looks at the window while there are calls.
const LONGEST: u64 = 10_000_000_000;

/// A few words that are read all together or not: a sequence lock. Readers write nothing.
#[derive(Debug)]
pub(super) struct Words<const N: usize> {
    /// Odd while a writer is at work.
    version: AtomicU64,
    words: [AtomicU64; N],
}

impl<const N: usize> Words<N> {
    pub(super) fn new(words: [u64; N]) -> Self {
        Self { version: AtomicU64::new(0), words: words.map(AtomicU64::new) }
    }

    /// `None` while a writer is at work.
    #[inline]
    pub(super) fn read(&self) -> Option<[u64; N]> {
        // Each load is `Acquire`, so none moves before an earlier one; and each store of a word is
        // `Release`, so who sees a new word also sees the odd version that was stored before it.
        let version = self.version.load(Ordering::Acquire);
        let mut words = [0; N];
        for (word, from) in words.iter_mut().zip(&self.words) {
            *word = from.load(Ordering::Acquire);
        }
        let same = self.version.load(Ordering::Relaxed) == version;
        (same && version & 1 == 0).then_some(words)
    }

    /// For one writer at a time.
    pub(super) fn write(&self, words: [u64; N]) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Release);
        for (word, to) in words.into_iter().zip(&self.words) {
            to.store(word, Ordering::Release);
        }
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }
}

/// What a budget judges by, and what it does then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) threshold: f64,
    pub(super) window: Duration,
    pub(super) min_samples: u64,
    /// The failure rate at which it has recovered, or in SLO mode the share of an alert's factor.
    pub(super) recovery: f64,
    pub(super) probes: f64,
    pub(super) cancelled_after: Option<Duration>,
    pub(super) latch: bool,
    pub(super) action: BreachAction,
    pub(super) act_on: Severity,
    /// Between two judgements that no failure asks for, in nanoseconds.
    pub(super) interval: u64,
}

/// No duration that is in range has as many nanoseconds.
const NONE: u64 = u64::MAX;

impl Settings {
    /// With the interval of a budget without an SLO.
    pub(super) fn new(config: &Config) -> Self {
        Self {
            threshold: config.threshold,
            window: config.window,
            min_samples: config.min_samples,
            recovery: config.recovery,
            probes: config.probes,
            cancelled_after: config.cancelled_after,
            latch: config.latch,
            action: config.action,
            act_on: config.act_on,
            interval: (nanos(config.window) / 100).clamp(1, LONGEST),
        }
    }

    pub(super) fn exceeded_by(&self, totals: Totals) -> bool {
        totals.calls >= self.min_samples && totals.failure_rate() > self.threshold
    }

    pub(super) fn acting(&self) -> BudgetState {
        if self.latch { BudgetState::Tripped } else { BudgetState::Breached }
    }

    /// The share of calls refused at a burn.
    pub(super) fn refused_share(&self, burn: f64) -> f64 {
        let most = 1.0 - self.probes;
        match self.action {
            BreachAction::Notify => 0.0,
            BreachAction::Reject => most,
            // Not a number: a threshold of zero and nothing failing.
            BreachAction::Shed if burn > 1.0 => (1.0 - 1.0 / burn).min(most),
            BreachAction::Shed => 0.0,
        }
    }

    pub(super) fn to_words(self) -> [u64; 8] {
        let action = match self.action {
            BreachAction::Notify => 0,
            BreachAction::Reject => 1,
            BreachAction::Shed => 2,
        };
        let flags = action << 2 | u64::from(self.act_on == Severity::Page) << 1;
        [
            self.threshold.to_bits(),
            nanos(self.window),
            self.min_samples,
            self.recovery.to_bits(),
            self.probes.to_bits(),
            self.cancelled_after.map_or(NONE, nanos),
            flags | u64::from(self.latch),
            self.interval,
        ]
    }

    #[inline]
    pub(super) fn from_words(words: [u64; 8]) -> Self {
        let [threshold, window, min_samples, recovery, probes, cancelled, flags, interval] = words;
        Self {
            threshold: f64::from_bits(threshold),
            window: Duration::from_nanos(window),
            min_samples,
            recovery: f64::from_bits(recovery),
            probes: f64::from_bits(probes),
            cancelled_after: (cancelled != NONE).then_some(Duration::from_nanos(cancelled)),
            latch: flags & 1 != 0,
            action: match flags >> 2 {
                0 => BreachAction::Notify,
                1 => BreachAction::Reject,
                _ => BreachAction::Shed,
            },
            act_on: if flags & 2 != 0 { Severity::Page } else { Severity::Ticket },
            interval,
        }
    }
}

/// What refusals tell of the judgement that they go back to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) value: f64,
    pub(super) threshold: f64,
    /// How long what is measured now stays in its window, in nanoseconds.
    pub(super) horizon: u64,
}

impl Measured {
    pub(super) fn to_words(self) -> [u64; 3] {
        [self.value.to_bits(), self.threshold.to_bits(), self.horizon]
    }

    pub(super) fn from_words([value, threshold, horizon]: [u64; 3]) -> Self {
        let (value, threshold) = (f64::from_bits(value), f64::from_bits(threshold));
        Self { value, threshold, horizon }
    }
}
