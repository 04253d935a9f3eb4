//! One table of records, and the order in which they expire.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use tokio::sync::Notify;

use super::super::{Change, Entry, RecordId, State, Step, StoreTime};
use super::After;

/// Places ids. They are hashes already, but of texts that callers choose, who could look for texts whose
/// hashes meet in one bucket: hence two secret words, and one multiplication that mixes them in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread(pub(super) [u64; 2]);

impl Spread {
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

impl BuildHasher for Spread {
    type Hasher = Spreader;

    fn build_hasher(&self) -> Spreader {
        Spreader { spread: *self, hash: 0 }
    }
}

pub(super) struct Spreader {
    spread: Spread,
    hash: u64,
}

impl Hasher for Spreader {
    fn write(&mut self, bytes: &[u8]) {
        // An id hashes itself as a length and its bytes.
        if let Ok(bytes) = bytes.try_into() {
            self.hash = self.spread.of(&RecordId::from_bytes(bytes));
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.hash
    }
}

struct Held {
    entry: Entry,
    /// Whoever waits for a change, if anybody does.
    waiters: Option<Arc<Notify>>,
}

pub(super) struct Shard {
    records: HashMap<RecordId, Held, Spread>,
    /// One entry for each record, at the latest when the record expires: a record that lives longer than
    /// it says is put back when its turn comes. Entries of removed records stay until theirs.
    expiry: BinaryHeap<Reverse<(StoreTime, RecordId)>>,
    last_generation: u64,
}

impl Shard {
    pub(super) fn new(spread: Spread) -> Self {
        Self {
            records: HashMap::with_hasher(spread),
            expiry: BinaryHeap::new(),
            last_generation: 0,
        }
    }

    pub(super) fn entry(&self, id: &RecordId) -> Option<&Entry> {
        self.records.get(id).map(|held| &held.entry)
    }

    /// Grows even where the clock stands, also from one record of an id to the next.
    pub(super) fn next_generation(&mut self, now: StoreTime) -> u64 {
        self.last_generation = now.as_micros().max(self.last_generation + 1);
        self.last_generation
    }

    pub(super) fn insert(&mut self, id: RecordId, entry: Entry) {
        self.note(id, &entry);
        self.records.insert(id, Held { entry, waiters: None });
    }

    /// Notes when a new record expires.
    fn note(&mut self, id: RecordId, entry: &Entry) {
        // Entries of records that were removed early must not pile up.
        if self.expiry.len() > 64 + 2 * self.records.len() {
            let due = |(id, held): (&RecordId, &Held)| Reverse((held.entry.expires_at, *id));
            self.expiry = self.records.iter().map(due).collect();
        }
        self.expiry.push(Reverse((entry.expires_at, id)));
    }

    /// Makes an operation on a record, if it is there.
    pub(super) fn change<T>(
        &mut self,
        id: &RecordId,
        after: &mut After,
        operation: impl FnOnce(&mut Entry) -> Step<T>,
    ) -> Option<T> {
        let held = self.records.get_mut(id)?;
        let (generation, due, size) =
            (held.entry.generation, held.entry.expires_at, size(&held.entry));
        let step = operation(&mut held.entry);
        match step.change {
            Change::Keep => {}
            Change::Put => {
                let entry = &held.entry;
                if entry.state != State::Pending || entry.generation != generation {
                    after.wake = held.waiters.take();
                }
                if entry.state.outcome().is_none() {
                    after.freed = size;
                }
                // Only a shorter time has to be noted: the old entry may come too early, not too late.
                if entry.expires_at < due {
                    after.due = Some(entry.expires_at);
                    let entry = entry.clone();
                    self.note(*id, &entry);
                }
            }
            Change::Remove => {
                after.removed = 1;
                after.freed = size;
                after.wake = self.records.remove(id).and_then(|held| held.waiters);
            }
        }
        Some(step.answer)
    }

    /// Removes up to `at_most` expired records; how many, and the bytes of their outcomes.
    pub(super) fn expire(&mut self, now: StoreTime, at_most: usize) -> (usize, usize) {
        let (mut removed, mut freed) = (0, 0);
        while removed < at_most {
            let Some(Reverse((due, id))) = self.expiry.peek().copied() else { break };
            if due > now {
                break;
            }
            self.expiry.pop();
            let Some(held) = self.records.get(&id) else { continue };
            if held.entry.is_expired(now) {
                freed += size(&held.entry);
                removed += 1;
                self.records.remove(&id);
            } else {
                let next = held.entry.expires_at.max(held.entry.lease_until);
                self.expiry.push(Reverse((next, id)));
            }
        }
        (removed, freed)
    }

    /// No record expires before.
    pub(super) fn next_expiry(&self) -> Option<StoreTime> {
        self.expiry.peek().map(|Reverse((due, _))| *due)
    }

    #[cfg(test)]
    pub(super) fn expiry_entries(&self) -> usize {
        self.expiry.len()
    }

    pub(super) fn waiters(&mut self, id: &RecordId, generation: u64) -> Option<Arc<Notify>> {
        let held = self.records.get_mut(id)?;
        let pending = held.entry.state == State::Pending && held.entry.generation == generation;
        pending.then(|| Arc::clone(held.waiters.get_or_insert_default()))
    }
}

/// What an entry's outcome counts for.
fn size(entry: &Entry) -> usize {
    entry.state.outcome().map_or(0, |outcome| outcome.len())
}
