//! Records in memory: many small tables, each under a lock of its own.

mod expiry;
mod shard;
mod slab;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use self::shard::Shard;
use self::slab::Spread;
use super::buckets::Buckets;
use super::{
    Attempt, Begun, Claim, Entry, Finish, Outcome, RateStore, Record, RecordId, Renewed,
    Resolution, State, Step, Store, StoreError, StoreErrorKind, StoreTime, Taken,
};
use crate::clock;
use crate::error::ConfigError;
use crate::quota::Quota;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, Padded, lock};

const SHARDS: usize = 64;
const MAX_CAPACITY: usize = 1 << 28;
/// Expired records that a claim of a new key removes on its way. More than one, so that a store of short
/// retention shrinks again.
const ON_THE_WAY: usize = 2;

/// Records in the memory of this process: for one process, and gone with it.
///
/// It holds a bounded number of records. None is given up before its retention is over, since that would
/// let its effect happen again: a store that is full refuses new keys with [`StoreErrorKind::Full`].
/// Outcomes have a bound of their own, in bytes of heads and bodies; where an outcome would pass it, its body is
/// left out, and its head, too, if there is no room even for that. That is worse for whoever asks again, but
/// not wrong.
///
/// It also keeps buckets of tokens ([`RateStore`]), as many as records. One that is full again is as good as none
/// and makes room; a store that has no room refuses with [`StoreErrorKind::Full`].
///
/// Clones share all of that. No operation waits, so it needs no runtime, and its time is tokio's. A record
/// takes about 250 bytes and its outcome.
///
/// ```
/// use buttress::store::MemoryStore;
/// let store = MemoryStore::builder().capacity(10_000).max_bytes(1 << 20).build()?;
/// assert!(store.is_empty());
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

struct Inner {
    shards: Box<[Padded<Mutex<Shard>>]>,
    spread: Spread,
    capacity: usize,
    max_bytes: usize,
    records: Padded<AtomicUsize>,
    bytes: Padded<AtomicUsize>,
    /// When the first record can expire, in microseconds, as far as anybody has looked: there is no use in
    /// looking for room before.
    full_until: AtomicU64,
    /// Held by who looks for room.
    looking: Mutex<()>,
    buckets: Buckets,
}

/// Makes a [`MemoryStore`].
///
/// | setter | range | default |
/// |---|---|---|
/// | [`capacity`](Self::capacity) | 1 to 2^28 | 100 000 |
/// | [`max_bytes`](Self::max_bytes) | any | 64 MiB |
///
/// ```
/// assert!(buttress::store::MemoryStore::builder().capacity(0).build().is_err());
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct MemoryStoreBuilder {
    capacity: usize,
    max_bytes: usize,
}

impl MemoryStoreBuilder {
    /// For how many records there is room: choose the number of new keys within the retention, with a
    /// margin.
    ///
    /// ```
    /// let store = buttress::store::MemoryStore::builder().capacity(1_000_000).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub const fn capacity(mut self, records: usize) -> Self {
        self.capacity = records;
        self
    }

    /// For how many bytes of outcomes there is room.
    ///
    /// ```
    /// let store = buttress::store::MemoryStore::builder().max_bytes(1 << 30).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub const fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// The store.
    ///
    /// # Errors
    /// If the capacity is out of range.
    ///
    /// ```
    /// let error = buttress::store::MemoryStore::builder().capacity(0).build().unwrap_err();
    /// assert_eq!(error.field(), "capacity");
    /// ```
    pub fn build(self) -> Result<MemoryStore, ConfigError> {
        if !(1..=MAX_CAPACITY).contains(&self.capacity) {
            return Err(ConfigError::new(
                "capacity",
                self.capacity,
                format!("1 to {MAX_CAPACITY} records"),
            ));
        }
        Ok(MemoryStore::of(self.capacity, self.max_bytes))
    }
}

/// What remains to be done when the lock has been given back.
#[derive(Default)]
struct After {
    wake: Option<Arc<Notify>>,
    /// Records and bytes that are gone.
    removed: usize,
    freed: usize,
    /// When a record expires that is new, or expires sooner than before.
    due: Option<StoreTime>,
}

impl MemoryStore {
    const CAPACITY: usize = 100_000;
    const MAX_BYTES: usize = 64 << 20;

    /// With the default settings.
    ///
    /// ```
    /// assert_eq!(buttress::store::MemoryStore::new().capacity(), 100_000);
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::of(Self::CAPACITY, Self::MAX_BYTES)
    }

    /// With other settings.
    ///
    /// ```
    /// let store = buttress::store::MemoryStore::builder().capacity(10).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub const fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder { capacity: Self::CAPACITY, max_bytes: Self::MAX_BYTES }
    }

    fn of(capacity: usize, max_bytes: usize) -> Self {
        let random = RandomState::new();
        let spread = Spread([random.hash_one(0), random.hash_one(1)]);
        let shards = (0..SHARDS).map(|_| Padded(Mutex::new(Shard::new()))).collect();
        Self(Arc::new(Inner {
            shards,
            spread,
            capacity,
            max_bytes,
            records: Padded(AtomicUsize::new(0)),
            bytes: Padded(AtomicUsize::new(0)),
            full_until: AtomicU64::new(0),
            looking: Mutex::new(()),
            buckets: Buckets::new(capacity),
        }))
    }

    /// For how many records there is room.
    ///
    /// ```
    /// assert_eq!(buttress::store::MemoryStore::default().capacity(), 100_000);
    /// ```
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// How many records there are, expired ones that nobody has removed yet included.
    ///
    /// ```
    /// assert_eq!(buttress::store::MemoryStore::default().len(), 0);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.records.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    ///
    /// ```
    /// assert!(buttress::store::MemoryStore::default().is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all outcomes.
    ///
    /// ```
    /// assert_eq!(buttress::store::MemoryStore::default().bytes(), 0);
    /// ```
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn expiry_entries(&self) -> usize {
        self.0.shards.iter().map(|shard| lock(shard).expiry_entries()).sum()
    }

    /// How often the uppermost seven bits of a hash come in the first table.
    #[cfg(test)]
    pub(super) fn bits_of_a_table(
        &self,
        ids: impl Iterator<Item = RecordId>,
    ) -> std::collections::BTreeMap<u64, usize> {
        let mut counts = std::collections::BTreeMap::new();
        for id in ids {
            let (shard, hash) = self.0.shard(&id);
            if std::ptr::eq(shard, &*self.0.shards[0]) {
                *counts.entry(hash >> 57).or_default() += 1;
            }
        }
        counts
    }

    fn now() -> StoreTime {
        StoreTime::from_micros(clock::now().0 / 1_000)
    }
}

impl Inner {
    /// The table that an id belongs to, and its hash.
    fn shard(&self, id: &RecordId) -> (&Mutex<Shard>, u64) {
        let hash = self.spread.of(id);
        // Bits in the middle: the tables look with the lowest and then tell with the uppermost.
        (&self.shards[(hash >> 40) as usize % SHARDS], hash)
    }

    fn settle(&self, after: After) {
        if after.removed > 0 {
            self.records.fetch_sub(after.removed, Ordering::Relaxed);
        }
        if after.freed > 0 {
            self.bytes.fetch_sub(after.freed, Ordering::Relaxed);
        }
        if let Some(due) = after.due {
            self.expires_at(due);
        }
        if let Some(waiters) = after.wake {
            waiters.notify_waiters();
        }
    }

    fn expires_at(&self, due: StoreTime) {
        // Mostly it is long past, and is not written.
        if due.as_micros() < self.full_until.load(Ordering::Relaxed) {
            self.full_until.fetch_min(due.as_micros(), Ordering::Relaxed);
        }
    }

    fn reserve_record(&self) -> bool {
        let room = |records| (records < self.capacity).then_some(records + 1);
        self.records.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    fn reserve_bytes(&self, more: usize) -> bool {
        let room = |bytes: usize| bytes.checked_add(more).filter(|bytes| *bytes <= self.max_bytes);
        more == 0 || self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    fn begin(&self, id: &RecordId, claim: &Claim) -> Result<Begun, StoreError> {
        let now = MemoryStore::now();
        let (shard, hash) = self.shard(id);
        let mut looked_everywhere = false;
        loop {
            let mut after = After::default();
            let mut shard = lock(shard);
            let generation = shard.next_generation(now);
            let begin = |entry: &mut Entry| entry.begin(claim, now, generation);
            let mut answer = shard.change(hash, id, &mut after, begin);
            if answer.is_none() {
                (after.removed, after.freed) =
                    shard.expire(now, ON_THE_WAY, |id| self.spread.of(id));
                answer = self.reserve_record().then(|| {
                    let entry = Entry::claimed(claim, now, generation);
                    after.due = Some(entry.expires_at);
                    shard.insert(hash, *id, entry);
                    Begun::Run { generation, runs: 1 }
                });
            }
            drop(shard);
            let removed = after.removed;
            self.settle(after);
            match answer {
                Some(begun) => return Ok(begun),
                // What went on the way made room.
                None if removed > 0 => {}
                None if !looked_everywhere && self.make_room(now) => looked_everywhere = true,
                None => return Err(StoreErrorKind::Full.into()),
            }
        }
    }

    /// Removes what has expired anywhere. Whether there is any use in trying again.
    #[cold]
    fn make_room(&self, now: StoreTime) -> bool {
        let _looking = lock(&self.looking);
        if self.records.load(Ordering::Relaxed) < self.capacity {
            // Somebody else has looked.
            return true;
        }
        if now.as_micros() < self.full_until.load(Ordering::Relaxed) {
            return false;
        }
        // From here on everybody notes what expires sooner, also in a shard that was looked at already.
        self.full_until.store(u64::MAX, Ordering::Relaxed);
        let mut any = false;
        for shard in &self.shards {
            let mut shard = lock(shard);
            let (removed, freed) = shard.expire(now, usize::MAX, |id| self.spread.of(id));
            let due = shard.next_expiry();
            drop(shard);
            any |= removed > 0;
            self.settle(After { removed, freed, due, wake: None });
        }
        any
    }

    /// An operation of an owner or an operator; `None` if there is no such record.
    fn with<T>(
        &self,
        id: &RecordId,
        operation: impl FnOnce(&mut Entry, StoreTime) -> Step<T>,
    ) -> Option<T> {
        let now = MemoryStore::now();
        let mut after = After::default();
        let (shard, hash) = self.shard(id);
        let answer = lock(shard).change(hash, id, &mut after, |entry| operation(entry, now));
        self.settle(after);
        answer
    }

    fn decide(
        &self,
        id: &RecordId,
        outcome: &Arc<Outcome>,
        operation: impl FnOnce(&mut Entry, Arc<Outcome>, StoreTime) -> Step<Finish>,
    ) -> Finish {
        // Counted before anybody can see it, so that neither the bound is passed nor somebody subtracts what
        // has not been added yet.
        let mut kept = Arc::clone(outcome);
        if !self.reserve_bytes(kept.len()) {
            kept = Arc::new(outcome.without_body());
            if !self.reserve_bytes(kept.len()) {
                kept = Arc::new(outcome.status_only());
            }
        }
        let (size, is_whole) = (kept.len(), Arc::ptr_eq(&kept, outcome));
        let finish = self.with(id, |entry, now| operation(entry, kept, now));
        let finish = finish.unwrap_or(Finish::Fenced);
        if finish != Finish::Applied {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            return finish;
        }
        if is_whole { finish } else { Finish::Trimmed }
    }

    fn get(&self, id: &RecordId) -> Option<Record> {
        let now = MemoryStore::now();
        let (shard, hash) = self.shard(id);
        let shard = lock(shard);
        shard.entry(hash, id).filter(|entry| !entry.is_expired(now)).map(|entry| entry.record(now))
    }

    fn purge(&self, limit: usize) -> usize {
        let now = MemoryStore::now();
        let mut all = 0;
        for shard in &self.shards {
            if all >= limit {
                break;
            }
            let (removed, freed) = lock(shard).expire(now, limit - all, |id| self.spread.of(id));
            all += removed;
            self.settle(After { removed, freed, ..After::default() });
        }
        all
    }

    fn waiters(&self, id: &RecordId, generation: u64) -> Option<Arc<Notify>> {
        let (shard, hash) = self.shard(id);
        lock(shard).waiters(hash, id, generation)
    }

    fn is_pending(&self, id: &RecordId, generation: u64) -> bool {
        let (shard, hash) = self.shard(id);
        let shard = lock(shard);
        shard
            .entry(hash, id)
            .is_some_and(|entry| entry.state == State::Pending && entry.generation == generation)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("capacity", &self.0.capacity)
            .field("records", &self.len())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl Store for MemoryStore {
    fn attempt(&self) -> Attempt {
        Attempt::in_process()
    }

    async fn begin(&self, id: &RecordId, claim: &Claim) -> Result<Begun, StoreError> {
        self.0.begin(id, claim)
    }

    async fn renew(
        &self,
        id: &RecordId,
        attempt: Attempt,
        lease: Duration,
        retention: Duration,
    ) -> Result<Renewed, StoreError> {
        let renewed = self.0.with(id, |entry, now| entry.renew(attempt, lease, retention, now));
        Ok(renewed.unwrap_or(Renewed::Fenced))
    }

    async fn complete(
        &self,
        id: &RecordId,
        attempt: Attempt,
        outcome: &Arc<Outcome>,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        Ok(self.0.decide(id, outcome, |entry, outcome, now| {
            entry.complete(attempt, outcome, retention, now)
        }))
    }

    async fn release(&self, id: &RecordId, attempt: Attempt) -> Result<Finish, StoreError> {
        let released = self.0.with(id, |entry, now| entry.release(attempt, now));
        Ok(released.unwrap_or(Finish::Already))
    }

    async fn interrupt(
        &self,
        id: &RecordId,
        attempt: Attempt,
        retention: Duration,
    ) -> Result<Finish, StoreError> {
        let interrupted = self.0.with(id, |entry, now| entry.interrupt(attempt, retention, now));
        Ok(interrupted.unwrap_or(Finish::Fenced))
    }

    async fn resolve(
        &self,
        id: &RecordId,
        generation: u64,
        resolution: Resolution,
    ) -> Result<Finish, StoreError> {
        Ok(match resolution {
            Resolution::Completed(outcome) => self.0.decide(id, &outcome, |entry, outcome, now| {
                entry.resolve(generation, Resolution::Completed(outcome), now)
            }),
            Resolution::Forget => self
                .0
                .with(id, |entry, now| entry.resolve(generation, Resolution::Forget, now))
                .unwrap_or(Finish::Fenced),
        })
    }

    async fn get(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        Ok(self.0.get(id))
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        Ok(self.0.purge(limit))
    }

    fn abandon(&self, id: &RecordId, attempt: Attempt) {
        let _ = self.0.with(id, |entry, now| entry.abandon(attempt, now));
    }

    async fn changed(&self, id: &RecordId, generation: u64) {
        let Some(waiters) = self.0.waiters(id, generation) else { return };
        // Notices every change from here on, also before it is polled.
        let change = waiters.notified();
        if self.0.is_pending(id, generation) {
            change.await;
        }
    }
}

impl RateStore for MemoryStore {
    async fn take(
        &self,
        bucket: &RecordId,
        quota: &Quota,
        at_least: u64,
        at_most: u64,
    ) -> Result<Taken, StoreError> {
        self.0.buckets.take(bucket, quota, at_least, at_most)
    }
}
