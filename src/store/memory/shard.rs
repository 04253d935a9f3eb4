//! One table of records, and the order in which they expire.

use std::sync::Arc;

use tokio::sync::Notify;

use super::super::{Change, Entry, RecordId, State, Step, StoreTime};
use super::After;
use super::expiry::Expiry;
use super::slab::{Held, Slab};

pub(super) struct Shard {
    records: Slab,
    /// One note for each record, at the latest when the record expires: a record that lives longer than it
    /// says is noted again when its turn comes. Notes of removed records stay until theirs.
    expiry: Expiry,
    /// The number of the last note. May begin anew: a note that is taken for a record's own is early at worst.
    last_note: u32,
    last_generation: u64,
}

impl Shard {
    pub(super) fn new() -> Self {
        Self {
            records: Slab::default(),
            expiry: Expiry::default(),
            last_note: 0,
            last_generation: 0,
        }
    }

    /// `hash` is that of `id`, here and below.
    pub(super) fn entry(&self, hash: u64, id: &RecordId) -> Option<&Entry> {
        self.records.find(hash, id).map(|at| &self.records.get(at).entry)
    }

    /// Grows even where the clock stands, also from one record of an id to the next.
    pub(super) fn next_generation(&mut self, now: StoreTime) -> u64 {
        self.last_generation = now.as_micros().max(self.last_generation + 1);
        self.last_generation
    }

    /// Of an id that has no record.
    pub(super) fn insert(&mut self, hash: u64, id: RecordId, entry: Entry) {
        let due = entry.expires_at;
        let held = Held { id, entry, noted: due, note: 0, waiters: None };
        let at = self.records.insert(hash, held);
        self.note(due, at);
    }

    /// Notes when the record there expires.
    fn note(&mut self, due: StoreTime, at: u32) {
        self.last_note = self.last_note.wrapping_add(1);
        let held = self.records.get_mut(at);
        (held.noted, held.note) = (due, self.last_note);
        // Notes of records that were removed early must not pile up.
        if self.expiry.len() > 64 + 2 * self.records.len() {
            let records = &self.records;
            self.expiry
                .retain(|(_, at, number)| records.at(at).is_some_and(|held| held.note == number));
        }
        self.expiry.add((due, at, self.last_note));
    }

    /// Makes an operation on a record, if it is there.
    pub(super) fn change<T>(
        &mut self,
        hash: u64,
        id: &RecordId,
        after: &mut After,
        operation: impl FnOnce(&mut Entry) -> Step<T>,
    ) -> Option<T> {
        let at = self.records.find(hash, id)?;
        let held = self.records.get_mut(at);
        let (generation, size) = (held.entry.generation, size(&held.entry));
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
                // Only a shorter time has to be noted: the old note may come too early, not too late.
                if entry.expires_at < held.noted {
                    let due = entry.expires_at;
                    after.due = Some(due);
                    self.note(due, at);
                }
            }
            Change::Remove => {
                after.removed = 1;
                after.freed = size;
                after.wake = self.records.remove(hash, at).waiters;
            }
        }
        Some(step.answer)
    }

    /// Removes up to `at_most` expired records; how many, and the bytes of their outcomes. `hash` is asked
    /// for that of an id.
    pub(super) fn expire(
        &mut self,
        now: StoreTime,
        at_most: usize,
        hash: impl Fn(&RecordId) -> u64,
    ) -> (usize, usize) {
        let (mut removed, mut freed) = (0, 0);
        while removed < at_most {
            let Some((due, at, number)) = self.expiry.first() else { break };
            if due > now {
                break;
            }
            self.expiry.remove_first();
            // The place may be empty by now, or another record's.
            let Some(held) = self.records.at(at).filter(|held| held.note == number) else {
                continue;
            };
            if held.entry.is_expired(now) {
                let hash = hash(&held.id);
                freed += size(&held.entry);
                removed += 1;
                self.records.remove(hash, at);
            } else {
                let due = held.entry.expires_at.max(held.entry.lease_until);
                self.note(due, at);
            }
        }
        (removed, freed)
    }

    /// No record expires before.
    pub(super) fn next_expiry(&self) -> Option<StoreTime> {
        self.expiry.first().map(|(due, ..)| due)
    }

    #[cfg(test)]
    pub(super) fn expiry_entries(&self) -> usize {
        self.expiry.len()
    }

    pub(super) fn waiters(
        &mut self,
        hash: u64,
        id: &RecordId,
        generation: u64,
    ) -> Option<Arc<Notify>> {
        let at = self.records.find(hash, id)?;
        let held = self.records.get_mut(at);
        let pending = held.entry.state == State::Pending && held.entry.generation == generation;
        pending.then(|| Arc::clone(held.waiters.get_or_insert_default()))
    }
}

/// What an entry's outcome counts for.
fn size(entry: &Entry) -> usize {
    entry.state.outcome().map_or(0, |outcome| outcome.len())
}
