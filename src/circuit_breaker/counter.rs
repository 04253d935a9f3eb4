//! What a breaker counts: the outcomes in its window, or only successes where it has none.

use crate::clock::Tick;
use crate::sync::Striped;
use crate::sync::atomic::AtomicU64;
use crate::window::{CountWindow, Mark, TimeWindow, Totals};

use super::config::{Config, Window};

#[derive(Debug)]
pub(super) enum Counter {
    /// Without rates only the number of successes is kept.
    Successes(Striped<AtomicU64>),
    Calls(CountWindow),
    Time(TimeWindow),
}

impl Counter {
    pub(super) fn new(config: &Config, stripe_count: usize) -> Self {
        match config.window {
            None => Self::Successes(Striped::new(stripe_count)),
            Some(Window::Calls(calls)) => Self::Calls(CountWindow::new(calls)),
            Some(Window::Time(window)) => Self::Time(TimeWindow::new(window, stripe_count)),
        }
    }

    #[inline]
    pub(super) fn record(&self, now: Tick, mark: Mark) {
        match self {
            Self::Calls(window) => window.record(mark),
            Self::Time(window) => window.record(now, mark),
            Self::Successes(count) if !mark.failed => count.add_one(|count| count),
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
            Self::Successes(count) => count.sum(|count| count),
            Self::Calls(window) => window.successes_ever(),
            Self::Time(window) => window.successes_ever(),
        }
    }
}
