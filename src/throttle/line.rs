//! Who waits for a turn, in order; without clock and timer.

use std::collections::{BTreeSet, VecDeque};

/// Places, and not times: when a turn comes is known only when it has come, since the rate changes meanwhile.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Ascending.
    places: VecDeque<u64>,
    /// Those that were left, but never the last.
    vacant: BTreeSet<u64>,
    last: u64,
}

impl Line {
    /// So many are before it.
    pub(super) fn before(&self, place: u64) -> usize {
        self.places.partition_point(|other| *other < place)
    }

    /// Where a call comes in: at the place of one who has left, since whoever is behind that sleeps until a later turn; else
    /// at the end.
    pub(super) fn entrance(&self) -> u64 {
        self.vacant.first().copied().unwrap_or(self.last + 1)
    }

    /// It waits there.
    pub(super) fn enter(&mut self, place: u64) {
        if place > self.last {
            self.last = place;
            self.places.push_back(place);
        } else {
            self.vacant.remove(&place);
        }
    }

    /// It does not wait any more; its turn is that of whoever comes next.
    pub(super) fn leave(&mut self, place: u64) {
        self.vacant.insert(place);
        while let Some(last) = self.places.back()
            && self.vacant.remove(last)
        {
            self.places.pop_back();
        }
    }

    /// It has had its turn.
    pub(super) fn go(&mut self, place: u64) {
        self.vacant.remove(&place);
        if let Ok(at) = self.places.binary_search(&place) {
            self.places.remove(at);
        }
    }

    /// Whether the first place was left; it is nobody's any more.
    pub(super) fn pass(&mut self) -> bool {
        let passes = self.places.front().is_some_and(|first| self.vacant.remove(first));
        if passes {
            self.places.pop_front();
        }
        passes
    }
}
