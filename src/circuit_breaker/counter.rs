//! What a breaker counts: the outcomes in its window, or only successes where it has none.

use crate::clock::Tick;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Padded, thread_number};
use crate::window::{CountWindow, Mark, TimeWindow, Totals};

use super::config::{Config, Window};

#[derive(Debug)]
pub(super) enum Counter {
    /// Without rates only the number of successes is kept, one counter a stripe of threads.
    Successes(Box<[Padded<AtomicU64>]>),
    Calls(CountWindow),
    Time(TimeWindow),
}

impl Counter {
    pub(super) fn new(config: &Config, stripe_count: usize) -> Self {
        match config.window {
            None => Self::Successes(stripes(stripe_count)),
            Some(Window::Calls(calls)) => Self::Calls(CountWindow::new(calls)),
            Some(Window::Time(window)) => Self::Time(TimeWindow::new(window, stripe_count)),
        }
    }

    #[inline]
    pub(super) fn record(&self, now: Tick, mark: Mark) {
        match self {
            Self::Calls(window) => window.record(mark),
            Self::Time(window) => window.record(now, mark),
            Self::Successes(stripes) if !mark.failed => add_one(stripes),
            Self::Successes(_) => {}
        }
    }

    pub(super) fn totals(&self, now: Tick) -> Totals {
        match self {
            Self::Successes(_) => Totals::default(),
            Self::Calls(window) => window.totals(),
            Self::Time(window) => window.totals(now),
        }
    }

    pub(super) fn clear(&self) {
        match self {
            Self::Successes(_) => {}
            Self::Calls(window) => window.clear(),
            Self::Time(window) => window.clear(),
        }
    }

    pub(super) fn successes_ever(&self) -> u64 {
        match self {
            Self::Successes(stripes) => sum(stripes),
            Self::Calls(window) => window.successes_ever(),
            Self::Time(window) => window.successes_ever(),
        }
    }
}

#[inline]
pub(super) fn add_one(stripes: &[Padded<AtomicU64>]) {
    stripes[thread_number() & (stripes.len() - 1)].fetch_add(1, Ordering::Relaxed);
}

pub(super) fn sum(stripes: &[Padded<AtomicU64>]) -> u64 {
    stripes.iter().map(|stripe| stripe.load(Ordering::Relaxed)).sum()
}

pub(super) fn stripes(count: usize) -> Box<[Padded<AtomicU64>]> {
    (0..count).map(|_| Padded(AtomicU64::new(0))).collect()
}
