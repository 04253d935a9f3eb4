//! The calls that are under way, by key.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::config::Limits;
use super::core::{Core, Join, Turn};
use crate::clock::Tick;
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};
use crate::sync::{Mutex, Padded, lock, stripe_count};

pub(super) type Call<V, O> = Pin<Box<dyn Future<Output = Result<V, O>> + Send>>;

pub(super) struct Flight<K, V, O> {
    key: K,
    core: Mutex<Core<Call<V, O>, V, O>>,
}

/// A flight in the set, found by its key.
struct Entry<K, V, O>(Arc<Flight<K, V, O>>);

impl<K, V, O> Borrow<K> for Entry<K, V, O> {
    fn borrow(&self) -> &K {
        &self.0.key
    }
}

impl<K: Hash, V, O> Hash for Entry<K, V, O> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl<K: PartialEq, V, O> PartialEq for Entry<K, V, O> {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl<K: Eq, V, O> Eq for Entry<K, V, O> {}

type Shard<K, V, O> = HashSet<Entry<K, V, O>, RandomState>;
type Shards<K, V, O> = Box<[Padded<Mutex<Shard<K, V, O>>>]>;

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

/// A call that is counted as under way, until it is dropped.
struct Counted<'a>(&'a AtomicU32);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
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
        let shard = || Padded(Mutex::new(Shard::with_hasher(hasher.clone())));
        let shards = (0..stripe_count()).map(|_| shard()).collect();
        Self { name, limits, observers, counts: Counts::default(), hasher, shards }
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K, V, O>> {
        // The set inside uses the low bits.
        let hash = self.hasher.hash_one(key) >> 48;
        &self.shards[hash as usize & (self.shards.len() - 1)].0
    }

    /// Joins the call for `key`, or begins one.
    pub(super) fn enter(
        self: &Arc<Self>,
        key: K,
        end: Option<Tick>,
        now: Tick,
    ) -> Entered<K, V, O> {
        let Counts { led, followed, crowded, full, flights, .. } = &self.counts;
        let mut shard = lock(self.shard(&key));
        if let Some(Entry(flight)) = shard.get(&key) {
            let flight = Arc::clone(flight);
            let join = lock(&flight.core).join(self.limits.followers, end, now);
            match join {
                Join::Seat(index) => {
                    drop(shard);
                    add(followed);
                    return Entered::Follow(Seat::new(self, flight, index));
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
        let counted = Counted(flights);
        let flight = Arc::new(Flight { key, core: Mutex::new(Core::new(end)) });
        let before = shard.replace(Entry(Arc::clone(&flight)));
        std::mem::forget(counted);
        drop(shard);
        drop(before);
        add(led);
        Entered::Lead(Seat::new(self, flight, 0))
    }

    /// The call has ended: who comes now begins another.
    fn retire(&self, flight: &Arc<Flight<K, V, O>>) {
        let mut shard = lock(self.shard(&flight.key));
        let ours = shard.get(&flight.key).is_some_and(|Entry(there)| Arc::ptr_eq(there, flight));
        let entry = if ours { shard.take(&flight.key) } else { None };
        // Last: if the hash of a key panics, whoever drops the seat comes here again.
        drop(Counted(&self.counts.flights));
        drop(shard);
        drop(entry);
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

    fn drive(&self, mut call: Call<V, O>) -> Poll<Landing<V, O>> {
        let waker = Waker::from(Arc::clone(&self.flight));
        let driving = Driving { seat: self, over: false };
        let result = call.as_mut().poll(&mut Context::from_waker(&waker));
        let Poll::Ready(result) = result else {
            driving.over();
            let wakers = lock(&self.flight.core).park(call);
            wakers.wake();
            return Poll::Pending;
        };
        drop(call);
        driving.over();
        self.table.retire(&self.flight);
        let mut core = lock(&self.flight.core);
        Poll::Ready(match result {
            Ok(value) => {
                let (value, wakers) = core.land(value);
                drop(core);
                wakers.wake();
                Landing::Shared(value.unwrap_or_else(|shared| {
                    self.leave();
                    Arc::unwrap_or_clone(shared)
                }))
            }
            Err(own) => {
                let (own, wakers) = core.apart(self.index, own);
                drop(core);
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
