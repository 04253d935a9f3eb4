//! Records in places that do not move, and where each is.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use tokio::sync::Notify;

use super::super::{Entry, RecordId, StoreTime};

/// Places ids. They are hashes already, but of texts that callers choose, who could look for texts whose
/// hashes meet in one bucket: hence two secret words, and one multiplication that mixes them in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread(pub(super) [u64; 2]);

impl Spread {
    #[inline]
    pub(super) fn of(self, id: &RecordId) -> u64 {
        let word = |at: usize| {
            id.as_bytes()[at..at + 8].iter().rev().fold(0, |word, b| word << 8 | u64::from(*b))
        };
        let product = u128::from(word(0) ^ self.0[0]) * u128::from(word(8) ^ self.0[1]);
        #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
        let folded = product as u64 ^ (product >> 64) as u64;
        folded
    }
}

/// For what is hashed already.
#[derive(Clone, Copy, Default)]
struct Hashed(u64);

impl BuildHasher for Hashed {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for Hashed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a hash is one word")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

pub(super) struct Held {
    pub(super) id: RecordId,
    pub(super) entry: Entry,
    /// When its note comes, and the number of it: other notes of this place are of records that were here
    /// before, or out of date.
    pub(super) noted: StoreTime,
    pub(super) note: u32,
    /// Whoever waits for a change, if anybody does.
    pub(super) waiters: Option<Arc<Notify>>,
}

/// A place, and the next in its list: of records whose ids have one hash, or of free places.
struct Slot {
    held: Option<Held>,
    next: u32,
}

/// No place.
const NONE: u32 = u32::MAX;
/// Places are made by so many, so that a growing table never moves a record: few enough for a box of less
/// than 1 KiB, since allocators take their time for larger ones.
const CHUNK: usize = 4;

/// The table that has to be made anew when it grows has sixteen bytes for each record, and is not asked for
/// the ids to do so.
#[derive(Default)]
pub(super) struct Slab {
    /// The first place of those whose id has this hash.
    index: HashMap<u64, u32, Hashed>,
    #[expect(clippy::vec_box, reason = "a record does not move when there are more of them")]
    chunks: Vec<Box<[Slot; CHUNK]>>,
    /// How many places were ever used: those behind are empty.
    used: usize,
    free: Option<u32>,
    len: usize,
}

impl Slab {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn slot(&self, at: u32) -> &Slot {
        &self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    fn slot_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    /// The record there, if there is any.
    pub(super) fn at(&self, at: u32) -> Option<&Held> {
        self.slot(at).held.as_ref()
    }

    pub(super) fn at_mut(&mut self, at: u32) -> Option<&mut Held> {
        self.slot_mut(at).held.as_mut()
    }

    /// Where [`find`](Self::find) has found one.
    pub(super) fn get(&self, at: u32) -> &Held {
        let Some(held) = self.at(at) else { unreachable!("a record was found there") };
        held
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Held {
        let Some(held) = self.at_mut(at) else { unreachable!("a record was found there") };
        held
    }

    pub(super) fn find(&self, hash: u64, id: &RecordId) -> Option<u32> {
        let mut at = *self.index.get(&hash)?;
        while at != NONE {
            let slot = self.slot(at);
            if slot.held.as_ref().is_some_and(|held| held.id == *id) {
                return Some(at);
            }
            at = slot.next;
        }
        None
    }

    /// Of an id that has no record.
    pub(super) fn insert(&mut self, hash: u64, held: Held) -> u32 {
        let at = match self.free {
            Some(at) => {
                let next = self.slot(at).next;
                self.free = (next != NONE).then_some(next);
                at
            }
            None => self.new_place(),
        };
        let next = match self.index.entry(hash) {
            Place::Occupied(mut first) => first.insert(at),
            Place::Vacant(place) => {
                place.insert(at);
                NONE
            }
        };
        *self.slot_mut(at) = Slot { held: Some(held), next };
        self.len += 1;
        at
    }

    /// Behind the last.
    fn new_place(&mut self) -> u32 {
        if self.used == self.chunks.len() * CHUNK {
            self.chunks.push(Box::new([const { Slot { held: None, next: NONE } }; CHUNK]));
        }
        self.used += 1;
        // A store has no room for so many records.
        u32::try_from(self.used - 1).unwrap_or(NONE)
    }

    pub(super) fn remove(&mut self, hash: u64, at: u32) -> Held {
        let next = self.slot(at).next;
        match self.index.get(&hash).copied() {
            Some(first) if first != at => {
                let mut before = first;
                while self.slot(before).next != at {
                    before = self.slot(before).next;
                }
                self.slot_mut(before).next = next;
            }
            _ if next == NONE => {
                self.index.remove(&hash);
            }
            _ => {
                self.index.insert(hash, next);
            }
        }
        self.len -= 1;
        let free = self.free.replace(at).unwrap_or(NONE);
        let slot = std::mem::replace(self.slot_mut(at), Slot { held: None, next: free });
        let Some(held) = slot.held else { unreachable!("a record was found there") };
        held
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::{Attempt, Claim, Fingerprint};
    use super::*;

    fn held(number: u8) -> Held {
        let claim = Claim::new(Fingerprint::NONE, Attempt::from_bytes([number; 16]));
        let entry = Entry::claimed(&claim, StoreTime::default(), 1);
        Held { id: id(number), entry, noted: StoreTime::default(), note: 0, waiters: None }
    }

    fn id(number: u8) -> RecordId {
        RecordId::from_bytes([number; 32])
    }

    proptest! {
        /// Three hashes for many ids, so that lists are long, and enough ids for more than one chunk.
        #[test]
        fn ids_of_one_hash_are_told_apart(steps in proptest::collection::vec((any::<bool>(), 0_u8..80), 0..400)) {
            let hash = |number: u8| u64::from(number % 3);
            let mut slab = Slab::default();
            let mut places = std::collections::BTreeMap::new();
            for (add, number) in steps {
                let found = slab.find(hash(number), &id(number));
                prop_assert_eq!(found, places.get(&number).copied());
                match found {
                    None if add => {
                        let at = slab.insert(hash(number), held(number));
                        prop_assert!(places.values().all(|other| *other != at), "it was taken");
                        places.insert(number, at);
                    }
                    Some(at) if !add => {
                        prop_assert_eq!(slab.remove(hash(number), at).id, id(number));
                        prop_assert!(slab.at(at).is_none());
                        places.remove(&number);
                    }
                    _ => {}
                }
                prop_assert_eq!(slab.len(), places.len());
                for (number, at) in &places {
                    prop_assert_eq!(slab.find(hash(*number), &id(*number)), Some(*at));
                    prop_assert_eq!(slab.get(*at).id, id(*number));
                }
            }
            prop_assert_eq!(slab.index.is_empty(), places.is_empty());
        }
    }
}
