//! The calls that are under way, by key.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::config::Limits;
use super::core::{Core, Join, Turn};
use crate::clock::{Parked, Tick, hand_end_down};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};
use crate::sync::{Mutex, Padded, lock, stripe_count};

pub(super) type Call<V, O> = Pin<Box<dyn Future<Output = Result<V, O>> + Send>>;

/// How a call is made. Calls made in one way are not joined by callers who make theirs in the other: a thread that waits
/// cannot poll a call whose other callers go, which may need their runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// Polled by any of those who wait.
    Polled,
    /// By the leader, whose thread does nothing else meanwhile.
    Blocking,
}

pub(super) struct Flight<K, V, O> {
    key: K,
    hash: u64,
    made: Made,
    core: Mutex<Core<Call<V, O>, V, O>>,
}

/// The flights by the hash of their keys, which is taken once, when they are entered: what goes wrong in a key's
/// code goes wrong there, and not in a drop.
type Shard<K, V, O> = HashMap<u64, Bucket<K, V, O>, BuildHasherDefault<Hashed>>;
type Shards<K, V, O> = Box<[Padded<Mutex<Shard<K, V, O>>>]>;

/// Flights whose keys have the same hash: nearly always one.
struct Bucket<K, V, O> {
    first: Arc<Flight<K, V, O>>,
    more: Vec<Arc<Flight<K, V, O>>>,
}

/// What is hashed is a hash.
#[derive(Default)]
pub(super) struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

fn find<'a, K: Eq, V, O>(
    shard: &'a Shard<K, V, O>,
    hash: u64,
    key: &K,
    made: Made,
) -> Option<&'a Arc<Flight<K, V, O>>> {
    let bucket = shard.get(&hash)?;
    let mut flights = std::iter::once(&bucket.first).chain(&bucket.more);
    flights.find(|flight| flight.made == made && flight.key == *key)
}

fn put<K, V, O>(shard: &mut Shard<K, V, O>, flight: Arc<Flight<K, V, O>>) {
    match shard.entry(flight.hash) {
        Entry::Occupied(bucket) => bucket.into_mut().more.push(flight),
        Entry::Vacant(place) => {
            place.insert(Bucket { first: flight, more: Vec::new() });
        }
    }
}

/// The flight that was there, to be dropped outside of all locks.
fn take<K, V, O>(
    shard: &mut Shard<K, V, O>,
    flight: &Arc<Flight<K, V, O>>,
) -> Option<Arc<Flight<K, V, O>>> {
    let Entry::Occupied(mut bucket) = shard.entry(flight.hash) else { return None };
    let Bucket { first, more } = bucket.get_mut();
    if !Arc::ptr_eq(first, flight) {
        let place = more.iter().position(|one| Arc::ptr_eq(one, flight))?;
        return Some(more.swap_remove(place));
    }
    match more.pop() {
        Some(next) => Some(std::mem::replace(first, next)),
        None => Some(bucket.remove().first),
    }
}

pub(super) struct Table<K, V, O> {
    pub(super) name: Name,
    pub(super) limits: Limits,
    pub(super) observers: Observers,
    pub(super) counts: Counts,
    hasher: RandomState,
    shards: Shards<K, V, O>,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Calls under way.
    pub(super) flights: AtomicU32,
    pub(super) led: AtomicU64,
    pub(super) followed: AtomicU64,
    pub(super) crowded: AtomicU64,
    pub(super) full: AtomicU64,
    pub(super) apart: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) expired: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(super) enum Entered<K: Hash + Eq, V, O> {
    Lead(Seat<K, V, O>),
    Follow(Seat<K, V, O>),
    /// There is no room for another key.
    Full,
    /// As many wait for this call as may.
    Crowded,
}

/// What came of a call for one who waits.
pub(super) enum Landing<V, O> {
    Shared(V),
    Own(O),
    /// The answer was for another one alone.
    Apart,
    /// It panicked.
    Lost,
}

impl<K: Hash + Eq, V, O> Table<K, V, O> {
    pub(super) fn new(name: Name, limits: Limits, observers: Observers) -> Self {
        let hasher = RandomState::new();
        let shard = || Padded(Mutex::new(Shard::default()));
        let shards = (0..stripe_count()).map(|_| shard()).collect();
        Self { name, limits, observers, counts: Counts::default(), hasher, shards }
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard<K, V, O>> {
        // The map inside uses the low bits.
        &self.shards[(hash >> 48) as usize & (self.shards.len() - 1)].0
    }

    /// Joins the call for `key`, or begins one.
    pub(super) fn enter(
        self: &Arc<Self>,
        key: K,
        end: Option<Tick>,
        now: Tick,
        made: Made,
    ) -> Entered<K, V, O> {
        let Counts { led, followed, crowded, full, flights, .. } = &self.counts;
        let hash = self.hasher.hash_one(&key);
        let mut shard = lock(self.shard(hash));
        let there = find(&shard, hash, &key, made).cloned();
        if let Some(flight) = &there {
            let join = lock(&flight.core).join(self.limits.followers, end, now);
            match join {
                Join::Seat(index) => {
                    drop(shard);
                    add(followed);
                    return Entered::Follow(Seat::new(self, Arc::clone(flight), index));
                }
                Join::Full => {
                    drop(shard);
                    add(crowded);
                    return Entered::Crowded;
                }
                Join::Another => {}
            }
        }
        let room = |n: u32| (n < self.limits.keys).then_some(n + 1);
        if flights.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            drop(shard);
            add(full);
            if self.observers.see_refusals() {
                let full = EventKind::TableFull { capacity: self.limits.keys as usize };
                self.observers.emit(LayerKind::Coalesce, self.name, full);
            }
            return Entered::Full;
        }
        let flight = Arc::new(Flight { key, hash, made, core: Mutex::new(Core::new(end)) });
        // Who waits for the one that was there still gets its answer.
        let before = there.as_ref().and_then(|there| take(&mut shard, there));
        put(&mut shard, Arc::clone(&flight));
        drop(shard);
        drop((before, there));
        add(led);
        Entered::Lead(Seat::new(self, flight, 0))
    }

    /// The call has ended: who comes now begins another.
    fn retire(&self, flight: &Arc<Flight<K, V, O>>) {
        self.counts.flights.fetch_sub(1, Ordering::Relaxed);
        let taken = take(&mut lock(self.shard(flight.hash)), flight);
        drop(taken);
    }
}

/// Wakes all who wait, not only the one who polled last: it may be one that is not polled any more, and the
/// others must not depend on it.
impl<K, V, O> Wake for Flight<K, V, O>
where
    K: Send + Sync + 'static,
    V: Send + Sync + 'static,
    O: Send + 'static,
{
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let wakers = lock(&self.core).wake();
        wakers.wake();
    }
}

/// A place among those who wait for one call, given back when it is dropped. The last one to go takes the call
/// with it.
pub(super) struct Seat<K: Hash + Eq, V, O> {
    table: Arc<Table<K, V, O>>,
    flight: Arc<Flight<K, V, O>>,
    index: usize,
}

impl<K: Hash + Eq, V, O> Seat<K, V, O> {
    fn new(table: &Arc<Table<K, V, O>>, flight: Arc<Flight<K, V, O>>, index: usize) -> Self {
        Self { table: Arc::clone(table), flight, index }
    }

    /// The leader has made the call.
    pub(super) fn begin(&self, call: Call<V, O>) {
        let wakers = lock(&self.flight.core).park(call);
        wakers.wake();
    }

    fn leave(&self) {
        let left = lock(&self.flight.core).leave(self.index);
        if left.unmade {
            add(&self.table.counts.lost);
        }
        if left.ended {
            self.table.retire(&self.flight);
        }
        left.wakers.wake();
        drop(left.rest);
    }
}

impl<K: Hash + Eq, V, O> Drop for Seat<K, V, O> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<K, V, O> Seat<K, V, O>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    O: Send + 'static,
{
    /// Once it is ready, it is to be dropped.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Landing<V, O>> {
        // Before the lock: the clone is the executor's code.
        let waker = cx.waker().clone();
        let (turn, before) = lock(&self.flight.core).turn(self.index, waker);
        drop(before);
        Poll::Ready(match turn {
            Turn::Drive(call) => return self.drive(call),
            Turn::Wait => return Poll::Pending,
            Turn::Landed(value) => {
                // First, so that the last one need not clone.
                self.leave();
                Landing::Shared(Arc::unwrap_or_clone(value))
            }
            Turn::Own(own) => Landing::Own(own),
            Turn::Apart => {
                add(&self.table.counts.apart);
                Landing::Apart
            }
            Turn::Lost => Landing::Lost,
        })
    }

    /// The same on a thread, of a call that is made on one.
    pub(super) fn block(&self) -> Landing<V, O> {
        let parked = Arc::new(Parked::default());
        let waker = Waker::from(Arc::clone(&parked));
        loop {
            match self.poll(&Context::from_waker(&waker)) {
                Poll::Ready(landing) => return landing,
                Poll::Pending => parked.wait(Duration::MAX),
            }
        }
    }

    /// The leader makes the call on its thread.
    pub(super) fn make(&self, call: impl FnOnce() -> V) -> V {
        let driving = Driving { seat: self, over: false };
        // Others wait for it, too.
        let ends = hand_end_down(None);
        let value = call();
        drop(ends);
        driving.over();
        self.table.retire(&self.flight);
        self.land(value)
    }

    /// An answer for all, and for who made it.
    fn land(&self, value: V) -> V {
        let (value, wakers) = lock(&self.flight.core).land(value);
        wakers.wake();
        value.unwrap_or_else(|shared| {
            self.leave();
            Arc::unwrap_or_clone(shared)
        })
    }

    fn drive(&self, mut call: Call<V, O>) -> Poll<Landing<V, O>> {
        let waker = Waker::from(Arc::clone(&self.flight));
        let driving = Driving { seat: self, over: false };
        // It does not end with the one who polls it.
        let ends = hand_end_down(None);
        let result = call.as_mut().poll(&mut Context::from_waker(&waker));
        drop(ends);
        let Poll::Ready(result) = result else {
            driving.over();
            let wakers = lock(&self.flight.core).park(call);
            wakers.wake();
            return Poll::Pending;
        };
        drop(call);
        driving.over();
        self.table.retire(&self.flight);
        Poll::Ready(match result {
            Ok(value) => Landing::Shared(self.land(value)),
            Err(own) => {
                let (own, wakers) = lock(&self.flight.core).apart(self.index, own);
                wakers.wake();
                match own {
                    Some(own) => Landing::Own(own),
                    None => {
                        // The leader has it.
                        add(&self.table.counts.apart);
                        Landing::Apart
                    }
                }
            }
        })
    }
}

/// The call is being polled. If that panics, those who wait are told.
struct Driving<'a, K: Hash + Eq, V, O> {
    seat: &'a Seat<K, V, O>,
    over: bool,
}

impl<K: Hash + Eq, V, O> Driving<'_, K, V, O> {
    fn over(mut self) {
        self.over = true;
    }
}

impl<K: Hash + Eq, V, O> Drop for Driving<'_, K, V, O> {
    fn drop(&mut self) {
        if !self.over {
            let Seat { table, flight, .. } = self.seat;
            add(&table.counts.lost);
            table.retire(flight);
            let wakers = lock(&flight.core).lose();
            wakers.wake();
        }
    }
}

impl<K, V, O> fmt::Debug for Table<K, V, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(all(test, buttress_loom))]
#[path = "loom_tests.rs"]
mod loom_tests;
