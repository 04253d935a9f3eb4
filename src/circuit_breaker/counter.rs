//! What a breaker counts: the outcomes in its window, or only successes where it has none.

use std::sync::OnceLock;

use crate::clock::{Tick, nanos};
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
    fn new(window: Option<Window>, stripe_count: usize) -> Self {
        match window {
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

    pub(super) fn is_window(&self) -> bool {
        !matches!(self, Self::Successes(_))
    }

    fn successes_ever(&self) -> u64 {
        match self {
            Self::Successes(count) => count.sum(|count| count),
            Self::Calls(window) => window.successes_ever(),
            Self::Time(window) => window.successes_ever(),
        }
    }

    fn resize(&self, window: Window) {
        match (self, window) {
            (Self::Calls(counted), Window::Calls(calls)) => counted.resize(calls),
            (Self::Time(counted), Window::Time(window)) => counted.resize(window),
            _ => debug_assert!(false, "a counter is chosen by the kind of its window"),
        }
    }
}

/// One for windows in time, and one for each power of two that holds a number of calls up to a million.
const LATER: usize = 22;

/// All counters that a breaker has had. None goes away: a success may be about to count in it. A window of
/// another kind or a larger one gets a counter of its own when it is first asked for, so there are only
/// so many, whatever is asked for.
#[derive(Debug)]
pub(super) struct Counters {
    first: Counter,
    later: OnceLock<Box<[OnceLock<Counter>; LATER]>>,
    stripe_count: usize,
}

impl Counters {
    pub(super) fn new(window: Option<Window>, stripe_count: usize) -> Self {
        Self { first: Counter::new(window, stripe_count), later: OnceLock::new(), stripe_count }
    }

    #[inline]
    pub(super) fn at(&self, place: Place) -> &Counter {
        match place.0.checked_sub(1) {
            None => &self.first,
            Some(later) => self.later_at(later),
        }
    }

    #[inline(never)]
    fn later_at(&self, later: usize) -> &Counter {
        let later = self.later.get().and_then(|later_ones| later_ones.get(later)?.get());
        // A place is only told once there is a counter in it.
        later.unwrap_or(&self.first)
    }

    /// The counter for `window`, with nothing in it. Under the machine's lock.
    pub(super) fn change_to(&self, window: Option<Window>, now: Place) -> Place {
        let place = match (window, &self.first) {
            (None, Counter::Successes(_)) | (Some(Window::Time(_)), Counter::Time(_)) => 0,
            // It may go on counting; nobody asks it.
            (None, _) => return now,
            (Some(Window::Calls(calls)), Counter::Calls(first)) if first.has_room_for(calls) => 0,
            (Some(Window::Time(_)), _) => 1,
            (Some(Window::Calls(calls)), _) => 2 + calls.next_power_of_two().ilog2() as usize,
        };
        if place > 0 {
            let later = self.later.get_or_init(|| Box::new([const { OnceLock::new() }; LATER]));
            let window = window.map(|window| match window {
                Window::Calls(calls) => Window::Calls(calls.next_power_of_two()),
                time @ Window::Time(_) => time,
            });
            later[place - 1].get_or_init(|| Counter::new(window, self.stripe_count));
        }
        let place = Place(place);
        if let Some(window) = window {
            self.at(place).resize(window);
        }
        place
    }

    pub(super) fn successes_ever(&self) -> u64 {
        let later = self.later.get().into_iter().flat_map(|later| later.iter());
        let later = later.filter_map(OnceLock::get);
        std::iter::once(&self.first).chain(later).map(Counter::successes_ever).sum()
    }
}

/// Which of its counters a breaker counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(usize);

impl Place {
    pub(super) const FIRST: Self = Self(0);
}

/// What a success needs to know of the settings, in one word: so it sees all of a change or nothing.
///
/// Slow after so many nanoseconds (58 bits, all ones for never) | place of the counter (5 bits) | whether
/// counting a success needs the time (1 bit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule(pub(super) u64);

const PLACE: u32 = 1;
const SLOW_AFTER: u32 = 6;
const NEVER: u64 = u64::MAX >> SLOW_AFTER;

impl Rule {
    pub(super) fn new(config: &Config, counters: &Counters, place: Place) -> Self {
        let slow_after = config.slow.map_or(NEVER, |slow| nanos(slow.after).min(NEVER - 1));
        let timed = config.slow.is_some() || matches!(counters.at(place), Counter::Time(_));
        Self(slow_after << SLOW_AFTER | (place.0 as u64) << PLACE | u64::from(timed))
    }

    #[inline]
    pub(super) fn place(self) -> Place {
        Place((self.0 >> PLACE & 31) as usize)
    }

    /// Whether recording a plain success needs the time.
    #[inline]
    pub(super) fn times_successes(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether a call has to be timed from its very start.
    #[inline]
    pub(super) fn times_calls(self) -> bool {
        self.0 < NEVER << SLOW_AFTER
    }

    /// Whether a call from `start` to `now` was slow; false where that is not asked.
    #[inline]
    pub(super) fn is_slow(self, start: Tick, now: Tick) -> bool {
        self.times_calls() && now.0.saturating_sub(start.0) > self.0 >> SLOW_AFTER
    }
}
