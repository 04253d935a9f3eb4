//! Who waits for a turn, in order; without clock and timer.

use std::collections::BTreeSet;

use crate::clock::Tick;
use crate::pace::Pace;

/// Who waits longer than this looks again half-way, and each second, since its turn may come earlier.
const SOON: u64 = 50_000_000;
const SECOND: u64 = 1_000_000_000;

/// A turn that one waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// When it comes, as far as is known.
    pub(super) turn: Tick,
    /// When it came it was to wait until then at most.
    pub(super) latest: Tick,
    number: u64,
    /// It is void once the pace has changed.
    change: u32,
}

impl Place {
    /// When whoever has it is to ask again.
    pub(super) fn asks(self, now: Tick) -> Tick {
        match self.turn.0.saturating_sub(now.0) {
            wait if wait > SOON => Tick(now.0 + SECOND.min(wait / 2)),
            _ => self.turn,
        }
    }
}

/// What has become of a turn that one waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    Came,
    /// It has not, or so long ago that it is over.
    Waits,
    /// All were lost.
    Void,
}

/// Turns have numbers and no times: they come at the rate as it is meanwhile, whether or not anybody
/// asks, so that who does not ask holds up the others for no longer than its turn. A large change of the pace voids them all.
#[derive(Debug, Default)]
pub(super) struct Line {
    change: u32,
    /// The first turn that has not come, and the first behind all who wait.
    first: u64,
    end: u64,
    /// Turns before the end that were left. The next who asks gets the first of them: at the end all
    /// would again wait too long for those who leave early, and nobody would ever come to a turn.
    vacant: BTreeSet<u64>,
}

impl Line {
    /// Turns come. Whoever asks perhaps has its `own` already.
    pub(super) fn advance(&mut self, own: Option<Place>, pace: &mut Pace, now: Tick) {
        // That may change it.
        pace.forget(now);
        if self.change != pace.change() {
            *self = Self { change: pace.change(), ..Self::default() };
        }
        // Before its own: what nobody can take any more has come when it was due, and not now.
        let own = own.filter(|own| own.change == self.change).map_or(self.end, |own| own.number);
        while self.first < own.min(self.end) && pace.is_lost(now) {
            pace.take(pace.due());
            self.first += 1;
        }
        while self.first < self.end && pace.next(now) <= now {
            pace.take(now);
            self.first += 1;
        }
        while self.vacant.first().is_some_and(|left| self.is_over(*left, pace)) {
            self.vacant.pop_first();
            pace.unsent();
        }
        if self.first == self.end {
            for _ in std::mem::take(&mut self.vacant) {
                pace.give_back(self.change, now);
            }
        }
    }

    /// It has come so long ago that it is nobody's any more.
    fn is_over(&self, number: u64, pace: &Pace) -> bool {
        number < self.first.saturating_sub(pace.kept())
    }

    /// What has become of it. If it has not come it is nobody's from now on: the next one that is may be earlier, and is this
    /// one at the latest. If it is over, the next one that is nobody's comes later.
    pub(super) fn stand(&mut self, place: Place, pace: &mut Pace) -> Stand {
        if place.change != self.change {
            return Stand::Void;
        }
        if place.number >= self.first {
            self.leave(place);
        } else if self.is_over(place.number, pace) {
            pace.unsent();
        } else {
            return Stand::Came;
        }
        Stand::Waits
    }

    /// The first turn that is nobody's, and perhaps has come.
    pub(super) fn next(&self, latest: Tick, pace: &mut Pace, now: Tick) -> Place {
        let number = self.vacant.first().copied().unwrap_or(self.end);
        let turn = match number.checked_sub(self.first) {
            Some(before) => pace.turn(before, now),
            None => now,
        };
        Place { turn, latest, number, change: self.change }
    }

    /// It goes to one who asks, and has come.
    pub(super) fn go(&mut self, place: Place, pace: &mut Pace, now: Tick) {
        if !self.vacant.remove(&place.number) {
            pace.take(now);
            (self.first, self.end) = (place.number + 1, place.number + 1);
        }
    }

    /// One waits for it.
    pub(super) fn enter(&mut self, place: Place) {
        if !self.vacant.remove(&place.number) {
            self.end = place.number + 1;
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn leave(&mut self, place: Place) {
        if place.change == self.change {
            if self.end > self.first && place.number + 1 == self.end {
                self.end -= 1;
            } else {
                self.vacant.insert(place.number);
            }
            while self.end > self.first && self.vacant.remove(&(self.end - 1)) {
                self.end -= 1;
            }
        }
    }
}
