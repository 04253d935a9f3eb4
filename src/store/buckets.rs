//! Buckets of tokens in the memory of this process.

use std::collections::HashMap;
use std::hash::RandomState;

use super::{RecordId, StoreError, StoreErrorKind, Taken};
use crate::clock::{self, Tick};
use crate::quota::{Quota, UNITS_PER_NANO};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, Padded, lock};

const SHARDS: usize = 16;
/// A shard below this size is not worth looking through.
const FEW: usize = 64;

/// A bounded number of them. A bucket that is full again is as good as none and makes room.
pub(super) struct Buckets {
    shards: Box<[Padded<Mutex<Shard>>]>,
    capacity: usize,
    count: AtomicUsize,
    /// When the first bucket is full again, as of the last time that all were looked through in vain.
    no_room_until: AtomicU64,
}

/// When each bucket is full again, in sixteenths of a nanosecond.
struct Shard {
    full_at: HashMap<RecordId, u64, RandomState>,
    /// The size at which it is looked through next.
    crowded: usize,
}

impl Shard {
    /// Forgets what is full again; how many, and when the next will be.
    fn clear(&mut self, now: u64) -> (usize, u64) {
        let before = self.full_at.len();
        let mut next = u64::MAX;
        self.full_at.retain(|_, full_at| {
            let stays = *full_at > now;
            if stays {
                next = next.min(*full_at);
            }
            stays
        });
        self.crowded = (self.full_at.len() * 2).max(FEW);
        (before - self.full_at.len(), next)
    }
}

fn units(now: Tick) -> u64 {
    now.0.saturating_mul(UNITS_PER_NANO)
}

impl Buckets {
    pub(super) fn new(capacity: usize) -> Self {
        let shard = || Mutex::new(Shard { full_at: HashMap::default(), crowded: FEW });
        Self {
            shards: (0..SHARDS).map(|_| Padded(shard())).collect(),
            capacity,
            count: AtomicUsize::new(0),
            no_room_until: AtomicU64::new(0),
        }
    }

    /// As [`RateStore::take`](super::RateStore::take) tells.
    pub(super) fn take(
        &self,
        id: &RecordId,
        quota: &Quota,
        at_least: u64,
        at_most: u64,
    ) -> Result<Taken, StoreError> {
        let now = units(clock::now());
        let mut may_look = true;
        loop {
            // Ids are hashes, but of texts that callers choose: whoever makes one shard long only slows himself.
            let mut shard = lock(&self.shards[usize::from(id.as_bytes()[0]) % SHARDS]);
            if let Some(full_at) = shard.full_at.get_mut(id) {
                return Ok(taken(full_at, now, quota, at_least, at_most));
            }
            if shard.full_at.len() >= shard.crowded {
                let (gone, _) = shard.clear(now);
                self.count.fetch_sub(gone, Ordering::Relaxed);
            }
            let room = |count| (count < self.capacity).then_some(count + 1);
            if self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok() {
                let full_at = shard.full_at.entry(*id).or_insert(now);
                return Ok(taken(full_at, now, quota, at_least, at_most));
            }
            drop(shard);
            if !may_look || !self.make_room(now) {
                return Err(StoreErrorKind::Full.into());
            }
            may_look = false;
        }
    }

    #[cold]
    fn make_room(&self, now: u64) -> bool {
        if now < self.no_room_until.load(Ordering::Relaxed) {
            return false;
        }
        let (mut any, mut soonest) = (false, u64::MAX);
        for shard in &self.shards {
            let (gone, next) = lock(shard).clear(now);
            self.count.fetch_sub(gone, Ordering::Relaxed);
            any |= gone > 0;
            soonest = soonest.min(next);
        }
        if !any {
            self.no_room_until.store(soonest, Ordering::Relaxed);
        }
        any
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// The generic cell rate algorithm, see `rate_limit::core`, for as many tokens as there are.
fn taken(full_at: &mut u64, now: u64, quota: &Quota, at_least: u64, at_most: u64) -> Taken {
    let interval = quota.interval_units();
    // At most 2^62.
    let full = interval.saturating_mul(quota.capacity());
    // The quota may have been made smaller: then the bucket is empty, not overdrawn.
    let debt = full_at.saturating_sub(now).min(full);
    let there = (full - debt) / interval;
    let granted = if there < at_least { 0 } else { there.min(at_most) };
    let debt = debt + granted * interval;
    *full_at = now.saturating_add(debt);
    Taken::new(granted, std::time::Duration::from_nanos(debt.div_ceil(UNITS_PER_NANO)))
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    fn id(n: usize) -> RecordId {
        RecordId::of(b"bucket", &n.to_le_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_that_rested_holds_no_more_than_its_burst() {
        let (buckets, quota) = (Buckets::new(10), "10/s burst 5".parse().unwrap());
        let take = |at_least, at_most| buckets.take(&id(0), &quota, at_least, at_most).unwrap();
        assert_eq!(take(1, 1), Taken::new(1, Duration::from_millis(100)));
        advance(Duration::from_secs(3600)).await;
        assert_eq!(take(1, 5).granted, 5);
        assert_eq!(take(1, 5), Taken::new(0, Duration::from_millis(500)));
        advance(Duration::from_millis(299)).await;
        assert_eq!(take(3, 5).granted, 0, "2 are not 3");
        assert_eq!(take(1, 5), Taken::new(2, Duration::from_millis(401)));
    }

    #[tokio::test(start_paused = true)]
    async fn buckets_are_bounded_and_full_ones_make_room() {
        let (buckets, quota) = (Buckets::new(1_000), "1/s burst 3".parse().unwrap());
        for n in 0..1_000 {
            assert_eq!(buckets.take(&id(n), &quota, 1, 1).unwrap().granted, 1);
        }
        for n in 1_000..1_100 {
            let error = buckets.take(&id(n), &quota, 1, 1).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Full);
        }
        // What is there goes on.
        assert_eq!(buckets.take(&id(7), &quota, 1, 1).unwrap().granted, 1);
        advance(Duration::from_millis(1_001)).await;
        // All but one are full again.
        assert!(buckets.take(&id(1_000), &quota, 1, 1).is_ok());
        assert_eq!(buckets.count(), 2);
        assert_eq!(buckets.take(&id(7), &quota, 3, 3).unwrap().granted, 0, "it is still known");
    }

    #[tokio::test(start_paused = true)]
    async fn buckets_that_nobody_asks_for_again_do_not_pile_up() {
        let (buckets, quota) = (Buckets::new(1 << 20), "1000/s burst 1".parse().unwrap());
        for n in 0..20_000 {
            buckets.take(&id(n), &quota, 1, 1).unwrap();
            advance(Duration::from_micros(100)).await;
        }
        assert!(buckets.count() <= SHARDS * FEW, "{}", buckets.count());
    }
}
