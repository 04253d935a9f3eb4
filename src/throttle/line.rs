//! Who waits for a turn, in order; without clock and timer.

use std::collections::BTreeSet;

use crate::clock::Tick;
use crate::pace::Pace;

/// A turn is kept for so long after whoever has it was told to ask.
const KEPT: u64 = 50_000_000;

/// Who waits longer than this looks again half-way, since its turn may come earlier.
const SOON: u64 = 50_000_000;

/// When its turn comes, as far as is known, and its number.
pub(super) type Place = (Tick, u64);

/// When who waits for that is to ask again.
pub(super) const fn asks(place: Place, now: Tick) -> Tick {
    let (turn, _) = place;
    let wait = turn.0.saturating_sub(now.0);
    if wait > SOON { Tick(turn.0 - wait / 2) } else { turn }
}

/// Turns have numbers and no times: they come at the rate as it is meanwhile, whether or not anybody asks, so that who does
/// not ask keeps nobody from theirs.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The first turn that has not come, and the first behind all who wait.
    first: u64,
    end: u64,
    /// Turns before the end that were left. The next who asks gets the first of them: at the end all would again wait too
    /// long for those who leave early, and nobody would ever come to a turn.
    vacant: BTreeSet<u64>,
    /// Who waits, and has not asked since its turn came.
    waiting: BTreeSet<Place>,
}

impl Line {
    /// Turns come, and those that were not taken when they had come are another's.
    pub(super) fn advance(&mut self, pace: &mut Pace, now: Tick) {
        self.forget(Tick(now.0.saturating_sub(KEPT)));
        while self.first < self.end && pace.next(now) <= now {
            pace.take(now);
            self.first += 1;
        }
        while let Some(&left) = self.vacant.first()
            && left < self.first.saturating_sub(pace.saved())
        {
            self.vacant.pop_first();
        }
        if self.first == self.end {
            for _ in std::mem::take(&mut self.vacant) {
                pace.give_back(pace.change(), now);
            }
        }
    }

    /// Its turn has come: it waits no more.
    pub(super) fn take(&mut self, place: Place) -> bool {
        place.1 < self.first && self.waiting.remove(&place)
    }

    /// Who was to ask before then waits no more.
    pub(super) fn forget(&mut self, then: Tick) {
        while let Some(&place) = self.waiting.first()
            && place.0 < then
        {
            self.leave(place);
        }
    }

    /// The first turn that is nobody's, and perhaps has come.
    pub(super) fn next(&self, pace: &mut Pace, now: Tick) -> Place {
        let number = self.vacant.first().copied().unwrap_or(self.end);
        let at = match number.checked_sub(self.first) {
            Some(before) => pace.turn(before, now),
            None => now,
        };
        (at, number)
    }

    /// It goes to one who asks, and has come.
    pub(super) fn go(&mut self, place: Place, pace: &mut Pace, now: Tick) {
        if !self.vacant.remove(&place.1) {
            pace.take(now);
        }
    }

    /// It waits for a turn that was nobody's.
    pub(super) fn enter(&mut self, place: Place) {
        if !self.vacant.remove(&place.1) {
            self.end = place.1 + 1;
        }
        self.waiting.insert(place);
    }

    /// It waits no more.
    pub(super) fn leave(&mut self, place: Place) {
        if self.waiting.remove(&place) {
            self.vacant.insert(place.1);
            while self.end > self.first && self.vacant.remove(&(self.end - 1)) {
                self.end -= 1;
            }
        }
    }

    /// Turns that have come and were not taken are nobody's any more.
    pub(super) fn void(&mut self) {
        self.waiting.retain(|(_, number)| *number >= self.first);
        self.vacant = self.vacant.split_off(&self.first);
    }

    /// Nobody waits, whoever sleeps: they ask anew when they wake.
    pub(super) fn clear(&mut self) {
        self.first = self.end;
        self.vacant.clear();
        self.waiting.clear();
    }
}
