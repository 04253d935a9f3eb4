//! What expires when.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::super::StoreTime;

/// A time, a place, and the number of the note, by which the record there knows whether it is its own.
pub(super) type Note = (StoreTime, u32, u32);

/// Notes, to be taken in the order of their times.
///
/// Most records are kept equally long, so most notes come in that order already: those wait in a queue, which
/// costs nothing to speak of however long it is, and only the others in a heap.
#[derive(Default)]
pub(super) struct Expiry {
    in_order: VecDeque<Note>,
    others: BinaryHeap<Reverse<Note>>,
}

impl Expiry {
    pub(super) fn add(&mut self, note: Note) {
        if self.in_order.back().is_none_or(|(last, ..)| *last <= note.0) {
            self.in_order.push_back(note);
        } else {
            self.others.push(Reverse(note));
        }
    }

    pub(super) fn first(&self) -> Option<Note> {
        let other = self.others.peek().map(|Reverse(note)| *note);
        match (self.in_order.front().copied(), other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    pub(super) fn remove_first(&mut self) {
        let first = self.first();
        if self.in_order.front().copied() == first {
            self.in_order.pop_front();
        } else {
            self.others.pop();
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(Note) -> bool) {
        self.in_order.retain(|note| keep(*note));
        self.others.retain(|Reverse(note)| keep(*note));
    }

    pub(super) fn len(&self) -> usize {
        self.in_order.len() + self.others.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn notes_come_in_the_order_of_their_times(steps in proptest::collection::vec(proptest::option::of(0_u64..50), 0..200)) {
            let mut expiry = Expiry::default();
            let mut notes = std::collections::BTreeSet::new();
            for (number, step) in (0..).zip(steps) {
                if let Some(due) = step {
                    let note = (StoreTime::from_micros(due), number % 7, number);
                    expiry.add(note);
                    notes.insert(note);
                } else {
                    expiry.remove_first();
                    notes.pop_first();
                }
                let first = notes.first().map(|note| note.0);
                prop_assert_eq!(expiry.first().map(|note| note.0), first);
                // Those of one time come in any order.
                if let Some(note) = expiry.first() {
                    prop_assert!(notes.contains(&note));
                    notes.remove(&note);
                    expiry.remove_first();
                }
                prop_assert_eq!(expiry.len(), notes.len());
            }
        }

        #[test]
        fn what_is_not_kept_does_not_come(dues in proptest::collection::vec(0_u64..50, 0..100)) {
            let mut expiry = Expiry::default();
            for (number, due) in (0..).zip(&dues) {
                expiry.add((StoreTime::from_micros(*due), 0, number));
            }
            expiry.retain(|(.., number)| number % 3 == 0);
            prop_assert_eq!(expiry.len(), dues.len().div_ceil(3));
            let mut last = StoreTime::default();
            while let Some((due, _, number)) = expiry.first() {
                prop_assert!(due >= last && number % 3 == 0);
                last = due;
                expiry.remove_first();
            }
        }
    }
}
