//! Many buckets of one rule in a table of fixed size, without a lock on the hot path.
//!
//! A slot is two words: the *print* of a key (a seeded 64-bit hash; the key itself is not kept) and its
//! bucket's TAT. Four slots fill a cache line, a *group*. The print determines a sequence of
//! [`REACH`] groups; the key lives in one slot of those, preferably of the first. There are two slots
//! per promised key, so nearly all keys are found in one line.
//!
//! **Eviction is exact.** A bucket whose TAT has passed is full, and a full bucket is what an unknown key
//! has. So a slot with `TAT <= now` is *dead*: it may be given to another key and nobody can tell. Dead
//! slots are not swept; an insertion takes the first one in its sequence that is empty or has been dead
//! for a second, so that keys in steady use need not be inserted again and again, and failing that the
//! one that has been dead longest.
//!
//! **Lookup** of key A: find a slot with print A; read its TAT; read the print *again*; exchange TAT.
//! **Insertion** of B, under a lock that excludes other insertions of B: claim a dead slot in the order
//!
//! 1. exchange its print, A (or EMPTY) for BUSY;
//! 2. read TAT, see that it is still dead, exchange it for `now + cost` (B's first charge at once);
//!    if it is alive or the exchange fails, A was charged meanwhile: put A's print back, look elsewhere;
//! 3. store print B.
//!
//! Why no charge of A can land in B's bucket: it exchanges a value `v` that was read *before* its second
//! look at the print, which still showed A. If `v` was written by step 2 or later, the reader
//! synchronised with that write and must see BUSY or B at the second look. So `v` is from before step 2.
//! TAT in a slot only grows: charges add, and step 2 goes from a value `<= now` to one `> now`. So `v` is
//! gone, the exchange fails, and A looks itself up anew. (Only a refund, a reset
//! or another quota makes TAT smaller. For a value to recur, one of those would have to meet a stale value
//! to the sixteenth of a nanosecond while a thread sleeps between two instructions; the price would be one
//! call charged to a wrong key.)
//!
//! Why no key gets two slots: insertions of one key exclude each other. A scan that meets BUSY waits for
//! its outcome before it concludes that the key is absent (nobody waits while holding BUSY). And a
//! scan may stop at the first group that contains EMPTY: slots are never emptied again, so at the time
//! the key was inserted that group had room as well and the key would not have gone further.
//!
//! **Capacity.** With two slots per key a group is full with probability q < 0.12 when all promised keys
//! are alive at once, and an insertion fails if all `REACH` groups are: below 2e-15 per key.
//! In tables of up to [`WINDOW`] groups the sequence is a contiguous window, which cannot fail at all.
//!
//! **Collisions.** Two keys with one print share a bucket. Among `n` live keys that happens with
//! probability `n^2 / 2^65`: 3e-8 for a million.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::core::{Bucket, Denied, Receipt, Rule};
use crate::sync::atomic::AtomicU64;
use crate::sync::{Mutex, Padded, lock};

const SLOTS: usize = 4;
const REACH: usize = 16;
/// Up to this many groups the sequence of a key is a window. `REACH` groups hold 64 keys, which is all
/// that is promised here.
const WINDOW: usize = 32;
const MAX_SHARDS: usize = 64;

/// A second: who was dead for so long is not in steady use.
const GRACE: u64 = 16 * 1_000_000_000;

const EMPTY: u64 = 0;
const BUSY: u64 = 1;

/// A hash of a key that is neither of the two marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Print(u64);

impl Print {
    #[inline]
    pub(crate) fn new(hash: u64) -> Self {
        Self(if hash <= BUSY { hash + 2 } else { hash })
    }
}

#[derive(Debug)]
pub(crate) struct Slot {
    print: AtomicU64,
    bucket: Bucket,
}

#[derive(Debug)]
#[repr(align(64))]
struct Group([Slot; SLOTS]);

impl Group {
    fn new() -> Self {
        Self(std::array::from_fn(|_| Slot { print: AtomicU64::new(EMPTY), bucket: Bucket::full() }))
    }
}

/// Why a charge did not happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Miss {
    Denied(Denied),
    /// Every slot the key could have belongs to a live key. The first of them dies at this instant.
    Full(u64),
    /// The rule is no longer in force.
    Outdated,
}

/// A slot an insertion could take.
struct Free<'a> {
    group: usize,
    /// 0 and 1 for slots nobody misses, else the instant since when it is dead.
    rank: u64,
    slot: &'a Slot,
    seen: u64,
}

impl Free<'_> {
    fn beats(&self, other: &Self) -> bool {
        match (self.rank <= 1, other.rank <= 1) {
            (true, true) => (self.group, self.rank) < (other.group, other.rank),
            (false, false) => self.rank < other.rank,
            (nobody_misses_it, _) => nobody_misses_it,
        }
    }
}

/// The slot is no longer the key's.
struct Gone;

#[derive(Debug)]
pub(crate) struct Table {
    groups: Box<[Group]>,
    shards: Box<[Padded<Mutex<()>>]>,
}

impl Table {
    /// Room for at least `capacity` live keys.
    pub(crate) fn new(capacity: usize) -> Self {
        let groups = match capacity.div_ceil(SLOTS / 2).max(1) {
            few if few <= WINDOW => few,
            many => prime_from(many),
        };
        let shards = (groups / 64).next_power_of_two().clamp(1, MAX_SHARDS);
        Self {
            groups: (0..groups).map(|_| Group::new()).collect(),
            shards: (0..shards).map(|_| Padded(Mutex::new(()))).collect(),
        }
    }

    pub(super) fn shard(&self, print: Print) -> usize {
        (print.0 >> 16) as usize & (self.shards.len() - 1)
    }

    /// One group of which only the first `slots` can be used: the others belong to keys that live for ever.
    #[cfg(all(test, buttress_loom))]
    pub(crate) fn with_slots(slots: usize) -> Self {
        let mut table = Self::new(1);
        // As in a large table, where two keys rarely share a lock.
        table.shards = (0..16).map(|_| Padded(Mutex::new(()))).collect();
        for (i, slot) in table.groups[0].0.iter().enumerate().skip(slots) {
            slot.print.store(u64::MAX - i as u64, Release);
            let _ = slot.bucket.replace(0, u64::MAX);
        }
        table
    }

    /// The groups a key may live in: all different, since the number of groups is prime where the step is
    /// not 1. (A step added to the hash itself would, for one key in some ten thousand, hardly leave the
    /// first group or alternate between two.)
    #[inline]
    fn sequence(&self, print: Print) -> impl Iterator<Item = &Group> {
        let len = self.groups.len();
        let step = if len <= WINDOW { 1 } else { 1 + scale(print.0.rotate_left(32), len - 1) };
        let mut index = scale(print.0, len);
        (0..REACH.min(len)).map(move |_| {
            let group = &self.groups[index];
            index += step;
            if index >= len {
                index -= len;
            }
            group
        })
    }

    /// The slot of a key, if it is where nearly all are: in its first group.
    #[inline(always)]
    fn find_near(&self, print: Print) -> Option<&Slot> {
        let Group(slots) = &self.groups[scale(print.0, self.groups.len())];
        // All four are looked at and the place is computed, not jumped to: which of them it is cannot be
        // predicted, and a wrong guess costs more than the other three loads from the same line.
        let mut hits = 0_u32;
        for (i, slot) in slots.iter().enumerate() {
            hits |= u32::from(slot.print.load(Acquire) == print.0) << i;
        }
        slots.get(hits.trailing_zeros() as usize)
    }

    fn find(&self, print: Print) -> Option<&Slot> {
        for group in self.sequence(print) {
            let mut last = false;
            for slot in &group.0 {
                match slot.print.load(Acquire) {
                    found if found == print.0 => return Some(slot),
                    EMPTY => last = true,
                    _ => {}
                }
            }
            if last {
                return None;
            }
        }
        None
    }

    /// The TAT of a key. Unknown and dead keys have full buckets, TAT 0.
    pub(crate) fn tat(&self, print: Print) -> u64 {
        self.find(print).and_then(|slot| slot.tat(print).ok()).unwrap_or(0)
    }

    /// One try at what nearly always succeeds: the key is near, has tokens, and nobody interferes. Returns the
    /// bucket's new TAT. If it is `None`, nothing has happened.
    #[inline(always)]
    pub(crate) fn charge_near(
        &self,
        in_force: impl Fn() -> bool,
        print: Print,
        rule: Rule,
        now: u64,
        cost: u64,
    ) -> Option<u64> {
        let slot = self.find_near(print)?;
        let tat = slot.tat(print).ok().filter(|_| in_force())?;
        let after = rule.admit(tat, now, cost).ok()?;
        slot.bucket.replace(tat, after).ok().map(|_| after)
    }

    /// Charges the bucket of a key and returns its new TAT. `in_force`: see [`Bucket::charge_while`].
    pub(crate) fn charge_while(
        &self,
        in_force: &impl Fn() -> bool,
        print: Print,
        rule: Rule,
        now: u64,
        cost: u64,
    ) -> Result<u64, Miss> {
        loop {
            let Some(slot) = self.find(print) else {
                return self.charge_new(in_force, print, rule, now, cost);
            };
            if let Ok(result) = slot.charge(in_force, print, rule, now, cost) {
                return result;
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn charge(
        &self,
        print: Print,
        rule: Rule,
        now: u64,
        cost: u64,
    ) -> Result<u64, Miss> {
        self.charge_near(|| true, print, rule, now, cost)
            .map_or_else(|| self.charge_while(&|| true, print, rule, now, cost), Ok)
    }

    /// Whether a charge would be admitted; changes nothing. Says nothing about room in the table.
    pub(crate) fn probe(
        &self,
        print: Print,
        rule: Rule,
        now: u64,
        cost: u64,
    ) -> Result<(), Denied> {
        rule.admit(self.tat(print), now, cost).map(drop)
    }

    /// Takes a charge back and returns how many units it gave back; see [`Receipt::worth`].
    pub(crate) fn refund(
        &self,
        print: Print,
        receipt: Receipt,
        refunded: u64,
        mut clock: impl FnMut() -> u64,
    ) -> u64 {
        // A slot that was given to another key was dead: nothing left to give back.
        let Some(slot) = self.find(print) else { return 0 };
        while let Ok(tat) = slot.tat(print) {
            let worth = receipt.worth(refunded, clock());
            if worth == 0 {
                return 0;
            }
            if slot.bucket.replace(tat, tat.saturating_sub(worth)).is_ok() {
                return worth;
            }
        }
        0
    }

    /// Fills the bucket of a key and returns how many units that gave back.
    pub(crate) fn reset(&self, print: Print, now: u64) -> u64 {
        let Some(slot) = self.find(print) else { return 0 };
        while let Ok(tat) = slot.tat(print) {
            if tat <= now {
                return 0;
            }
            if slot.bucket.replace(tat, now).is_ok() {
                return tat - now;
            }
        }
        0
    }

    /// Replaces the TAT of every live key by what `change` makes of it; see [`Bucket::rebuild`].
    pub(crate) fn rebuild(&self, now: u64, change: impl Fn(u64) -> u64) {
        for slot in self.groups.iter().flat_map(|group| &group.0) {
            slot.bucket.rebuild(now, &change);
        }
    }

    /// Keys whose buckets are not full. Walks the whole table.
    pub(crate) fn live(&self, now: u64) -> usize {
        self.groups
            .iter()
            .flat_map(|group| &group.0)
            .filter(|slot| slot.bucket.load() > now)
            .count()
    }

    #[cold]
    fn charge_new(
        &self,
        in_force: &impl Fn() -> bool,
        print: Print,
        rule: Rule,
        now: u64,
        cost: u64,
    ) -> Result<u64, Miss> {
        // Nothing is inserted for a call that can never be admitted.
        let after = rule.admit(0, now, cost).map_err(Miss::Denied)?;
        let _guard = lock(&self.shards[self.shard(print)]);
        'scan: loop {
            if !in_force() {
                return Err(Miss::Outdated);
            }
            let mut free: Option<Free<'_>> = None;
            let mut first_to_die = u64::MAX;
            let mut busy = false;
            for (i, group) in self.sequence(print).enumerate() {
                let mut last = false;
                for slot in &group.0 {
                    match slot.print.load(Acquire) {
                        found if found == print.0 => {
                            match slot.charge(in_force, print, rule, now, cost) {
                                Ok(result) => return result,
                                Err(Gone) => continue 'scan,
                            }
                        }
                        BUSY => busy = true,
                        seen => {
                            last |= seen == EMPTY;
                            let tat = slot.bucket.load();
                            if tat > now {
                                first_to_die = first_to_die.min(tat);
                            } else {
                                let rank = match tat.saturating_add(GRACE) <= now {
                                    // Not before: an empty slot ends searches, so it is worth keeping.
                                    true if seen == EMPTY => 1,
                                    true => 0,
                                    false => tat,
                                };
                                let better = Free { group: i, rank, slot, seen };
                                if free.as_ref().is_none_or(|free| better.beats(free)) {
                                    free = Some(better);
                                }
                            }
                        }
                    }
                }
                if last {
                    break;
                }
            }
            if busy {
                pause();
                continue;
            }
            let Some(Free { slot, seen, .. }) = free else { return Err(Miss::Full(first_to_die)) };
            if slot.claim(in_force, seen, print, now, after) {
                return Ok(after);
            }
        }
    }
}

impl Slot {
    /// TAT, if it is this key's.
    #[inline]
    fn tat(&self, print: Print) -> Result<u64, Gone> {
        let tat = self.bucket.load();
        if self.print.load(Acquire) == print.0 { Ok(tat) } else { Err(Gone) }
    }

    #[inline]
    fn charge(
        &self,
        in_force: &impl Fn() -> bool,
        print: Print,
        rule: Rule,
        now: u64,
        cost: u64,
    ) -> Result<Result<u64, Miss>, Gone> {
        loop {
            let tat = self.tat(print)?;
            if !in_force() {
                return Ok(Err(Miss::Outdated));
            }
            match rule.admit(tat, now, cost) {
                Err(denied) => return Ok(Err(Miss::Denied(denied))),
                Ok(after) => {
                    if self.bucket.replace(tat, after).is_ok() {
                        return Ok(Ok(after));
                    }
                }
            }
        }
    }

    /// Steps 1 to 3 of the module's description.
    fn claim(
        &self,
        in_force: &impl Fn() -> bool,
        seen: u64,
        print: Print,
        now: u64,
        after: u64,
    ) -> bool {
        if self.print.compare_exchange(seen, BUSY, AcqRel, Relaxed).is_err() {
            return false;
        }
        let tat = self.bucket.load();
        let claimed = tat <= now && in_force() && self.bucket.replace(tat, after).is_ok();
        self.print.store(if claimed { print.0 } else { seen }, Release);
        claimed
    }
}

/// The first prime that is at least `n`.
fn prime_from(n: usize) -> usize {
    let prime = |n: usize| n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
    (n..).find(|n| prime(*n)).unwrap_or(n)
}

/// A number below `len`, from the high bits of `hash`.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "below `len`")]
fn scale(hash: u64, len: usize) -> usize {
    ((u128::from(hash) * len as u128) >> 64) as usize
}

fn pause() {
    #[cfg(not(buttress_loom))]
    std::thread::yield_now();
    #[cfg(buttress_loom)]
    loom::thread::yield_now();
}
