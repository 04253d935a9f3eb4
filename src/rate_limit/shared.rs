//! The state behind a `RateLimiter`: one bucket, its rule, its waiters. Glue between the core and the
//! queue; the only place that holds the queue's lock.

use std::task::Waker;

use super::core::{Bucket, Denied, Receipt, Rule, RuleCell, different, units};
use super::ledger::{Ledger, Level, RateLimitStats};
use super::queue::{Leaving, Queue, Turn, Wakers, scale};
use super::wait::Grant;
use crate::clock::{self, Tick};
use crate::quota::Quota;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, Padded, lock};

#[derive(Debug)]
pub(crate) struct Shared {
    /// Alone on its line: the only word that admitted calls of all threads write.
    bucket: Padded<Bucket>,
    rule: RuleCell,
    /// Units given back so far, by refunds and by waiters that left. Written under the queue's lock, after
    /// the bucket: who reads it before charging counts too much rather than too little.
    refunded: AtomicU64,
    pub(crate) ledger: Ledger,
    queue: Mutex<Queue>,
    /// What was asked for; `rule` is what is enforced.
    quota: Mutex<Quota>,
}

/// How an attempt to join the queue ended.
#[derive(Debug)]
pub(crate) enum Joined {
    /// There was room after all.
    Granted(Receipt),
    Queued {
        id: u64,
    },
    /// The quota refuses it, and is on trial.
    Shadow(Denied),
    /// It cannot be granted in time.
    TooLate(Denied),
    /// Too many wait already.
    Full(Denied),
}

#[inline]
pub(crate) fn now() -> u64 {
    units(clock::now())
}

/// Reads the clock once: a fast clock calibrates itself at its first reading, which takes up to 0.2 s and
/// should not happen in the first call.
pub(crate) fn wind_up() {
    let _ = now();
}

impl Shared {
    pub(crate) fn new(
        quota: Quota,
        shadow: bool,
        bucket: Bucket,
        ledger: Ledger,
        max_waiting: usize,
    ) -> Self {
        wind_up();
        Self {
            bucket: Padded(bucket),
            rule: RuleCell::new(Rule::from(quota).in_shadow(shadow)),
            refunded: AtomicU64::new(0),
            ledger,
            queue: Mutex::new(Queue::of(max_waiting)),
            quota: Mutex::new(quota),
        }
    }

    #[inline]
    pub(crate) fn rule(&self) -> (Rule, u64) {
        self.rule.read().unwrap_or_else(|| self.rule_after_change())
    }

    #[cold]
    fn rule_after_change(&self) -> (Rule, u64) {
        loop {
            // The writer holds the lock for as long as the rule cannot be read.
            drop(lock(&self.queue));
            if let Some(read) = self.rule.read() {
                return read;
            }
        }
    }

    /// The rule, for whoever holds the lock and so cannot meet a writer.
    fn rule_locked(&self, _: &MutexGuard<'_, Queue>) -> (Rule, u64) {
        loop {
            if let Some(read) = self.rule.read() {
                return read;
            }
        }
    }

    /// The hot path: one clock read by the caller, one exchange here.
    #[inline]
    pub(crate) fn charge(&self, n: u64, now: u64) -> Result<Level, Denied> {
        loop {
            let (rule, version) = self.rule();
            if n == 0 {
                return Ok(self.level_with(rule, now));
            }
            let in_force = || self.rule.is(version);
            match self.bucket.charge_while(in_force, rule, now, rule.cost(n)) {
                Ok(tat) => return Ok(Level { name: self.ledger.name, rule, tat, now }),
                Err(Some(denied)) => return Err(denied),
                Err(None) => {}
            }
        }
    }

    /// The same with a receipt.
    pub(crate) fn charge_refundably(&self, n: u64, now: u64) -> Result<(Level, Receipt), Denied> {
        loop {
            let refunded = self.refunded.load(Ordering::Acquire);
            let (rule, version) = self.rule();
            let cost = rule.cost(n);
            let in_force = || self.rule.is(version);
            let charged = match n {
                0 => Ok(self.bucket.load()),
                _ => self.bucket.charge_while(in_force, rule, now, cost),
            };
            match charged {
                Ok(after) => {
                    let level = Level { name: self.ledger.name, rule, tat: after, now };
                    return Ok((level, Receipt { after, cost, version, refunded }));
                }
                Err(Some(denied)) => return Err(denied),
                Err(None) => {}
            }
        }
    }

    /// Whether a call would be admitted. Changes nothing.
    pub(crate) fn probe(&self, n: u64, now: u64) -> Result<(), Denied> {
        let (rule, _) = self.rule();
        if n == 0 {
            return Ok(());
        }
        rule.admit(self.bucket.load(), now, rule.cost(n)).map(drop)
    }

    /// For a call that is made if that is granted, and has its token back if it comes to nothing.
    #[inline]
    pub(super) fn take_refundably(&self, n: u64, now: Tick) -> Result<Grant, Denied> {
        if n == 0 {
            return Ok(None);
        }
        let (_, receipt) = self.charge_refundably(n, units(now))?;
        self.ledger.acquired();
        Ok(Some(receipt))
    }

    pub(crate) fn level(&self, now: u64) -> Level {
        self.level_with(self.rule().0, now)
    }

    fn level_with(&self, rule: Rule, now: u64) -> Level {
        Level { name: self.ledger.name, rule, tat: self.bucket.load(), now }
    }

    pub(crate) fn waiting(&self) -> usize {
        lock(&self.queue).len()
    }

    pub(crate) fn stats(&self) -> RateLimitStats {
        let queue = lock(&self.queue);
        let mut stats = self.ledger.stats();
        stats.waits = queue.waits;
        stats.waited = queue.waited;
        stats.released = queue.released;
        stats
    }

    /// Gives a charge back, if that is still sound; those who wait move up.
    pub(crate) fn refund(&self, receipt: Receipt) {
        let mut wakers = Wakers::default();
        self.refund_locked(&mut lock(&self.queue), receipt, &mut wakers);
        wakers.wake();
    }

    fn refund_locked(
        &self,
        queue: &mut MutexGuard<'_, Queue>,
        receipt: Receipt,
        wakers: &mut Wakers,
    ) {
        let (rule, version) = self.rule_locked(queue);
        if receipt.version != version || receipt.cost == 0 {
            return;
        }
        let refunded = self.refunded.load(Ordering::Relaxed);
        let clock = || {
            let now = now();
            // Whoever is left in the queue is not due: its charge came after the one given back.
            queue.settle(rule, version, refunded, now, wakers);
            now
        };
        let given = self.bucket.refund(receipt, refunded, clock);
        if given > 0 {
            self.refunded.store(refunded.wrapping_add(given), Ordering::Release);
            queue.move_up(given, rule, wakers);
        }
    }

    #[cfg(test)]
    pub(crate) fn given_back(&self) -> u64 {
        self.refunded.load(Ordering::Relaxed)
    }

    /// Queues a call of cost `n` that came by the slot `via` (0: by none), or says why it is pointless.
    pub(crate) fn join(&self, n: u64, deadline: u64, via: usize, waker: Waker) -> Joined {
        let mut wakers = Wakers::default();
        // Kept here if nobody queues: dropped after the lock is released.
        let mut waker = Some(waker);
        let joined =
            self.join_locked(&mut lock(&self.queue), n, (deadline, via), &mut waker, &mut wakers);
        wakers.wake();
        joined
    }

    fn join_locked(
        &self,
        queue: &mut MutexGuard<'_, Queue>,
        n: u64,
        (deadline, via): (u64, usize),
        waker: &mut Option<Waker>,
        wakers: &mut Wakers,
    ) -> Joined {
        let (rule, version) = self.rule_locked(queue);
        let refunded = self.refunded.load(Ordering::Relaxed);
        let cost = rule.cost(n);
        loop {
            let tat = self.bucket.load();
            let now = now();
            queue.settle(rule, version, refunded, now, wakers);
            let base = tat.max(now);
            let after = base.saturating_add(cost);
            let due = after.saturating_sub(rule.tolerance);
            let denied = Denied { rule, tat, now, cost };
            if rule.shadow && due > now {
                return Joined::Shadow(denied);
            }
            if denied.never() || (due > now && due > deadline) {
                return Joined::TooLate(denied);
            }
            // Places end with the time that can be told: one beyond would be given back for more than it took.
            let beyond = base.checked_add(cost).is_none();
            if due > now && (queue.len() >= queue.max_waiting || beyond) {
                return Joined::Full(denied);
            }
            if self.bucket.replace(tat, after).is_err() {
                continue;
            }
            if due <= now {
                return Joined::Granted(Receipt { after, cost, version, refunded });
            }
            let id = queue.push(n, base, cost, due, (deadline, via), waker.take());
            return Joined::Queued { id };
        }
    }

    /// A waiter looks whether its turn has come. `since`: when it began to wait.
    pub(crate) fn look(
        &self,
        id: u64,
        since: clock::Tick,
        timer_fired: bool,
        waker: Waker,
    ) -> Turn {
        let mut wakers = Wakers::default();
        let turn = {
            let mut queue = lock(&self.queue);
            let (rule, version) = self.rule_locked(&queue);
            let refunded = self.refunded.load(Ordering::Relaxed);
            let now = clock::now();
            queue.settle(rule, version, refunded, units(now), &mut wakers);
            let turn = queue.look(id, rule, timer_fired, waker, &mut wakers);
            if matches!(turn, Some(Turn::Granted(_))) {
                queue.waits += 1;
                queue.waited = queue.waited.saturating_add(now.since(since));
            }
            turn
        };
        wakers.wake();
        // A waiter asks only for its own id and only until it is settled, so it is always known.
        turn.unwrap_or(Turn::At(u64::MAX))
    }

    /// A waiter leaves. Its place, or what it was granted and did not use, goes to those behind it. Says whether it had been let go.
    pub(crate) fn leave(&self, id: u64) -> bool {
        let mut wakers = Wakers::default();
        let released = self.leave_locked(&mut lock(&self.queue), id, &mut wakers);
        wakers.wake();
        released
    }

    fn leave_locked(
        &self,
        queue: &mut MutexGuard<'_, Queue>,
        id: u64,
        wakers: &mut Wakers,
    ) -> bool {
        let (rule, version) = self.rule_locked(queue);
        let refunded = self.refunded.load(Ordering::Relaxed);
        loop {
            let tat = self.bucket.load();
            queue.settle(rule, version, refunded, now(), wakers);
            let cost = match queue.leaving(id) {
                Leaving::Nothing => return false,
                Leaving::Released => return true,
                Leaving::Granted(receipt) => {
                    self.refund_locked(queue, receipt, wakers);
                    return false;
                }
                Leaving::Waiting { cost } => cost,
            };
            // It is not due at a time read after TAT, so its place lies more than a full bucket ahead and is
            // worth its whole cost: see `Receipt::worth`.
            if self.bucket.replace(tat, tat.saturating_sub(cost)).is_ok() {
                self.refunded.store(refunded.wrapping_add(cost), Ordering::Release);
                queue.remove(id, rule, wakers);
                return false;
            }
        }
    }

    /// Lets those who wait go on uncharged: all, or those who came by this slot.
    pub(crate) fn release_waiting(&self, via: Option<usize>) {
        let mut wakers = Wakers::default();
        self.release_locked(&mut lock(&self.queue), via, &mut wakers);
        wakers.wake();
    }

    /// One that was to wait, and would at a limit that is not there any more.
    pub(crate) fn pass(&self) {
        lock(&self.queue).released += 1;
    }

    fn release_locked(
        &self,
        queue: &mut MutexGuard<'_, Queue>,
        via: Option<usize>,
        wakers: &mut Wakers,
    ) {
        let (rule, version) = self.rule_locked(queue);
        let refunded = self.refunded.load(Ordering::Relaxed);
        loop {
            let tat = self.bucket.load();
            queue.settle(rule, version, refunded, now(), wakers);
            // As if they left, from the last to the first: each place is worth its whole cost.
            let cost = queue.reserved(via);
            if self.bucket.replace(tat, tat.saturating_sub(cost)).is_ok() {
                self.refunded.store(refunded.wrapping_add(cost), Ordering::Release);
                return queue.release(via, rule, wakers);
            }
        }
    }

    /// Exchanges the rule. The number of tokens in the bucket stays (up to the new capacity), and so
    /// does the order of those who wait; who can no longer be served in time is told at once.
    pub(crate) fn set_quota(&self, quota: Quota) {
        // Held over both, so that what is shown is what is enforced.
        let mut shown = lock(&self.quota);
        self.rebuild(|old| Rule::from(quota).in_shadow(old.shadow), None, Rule::rescale);
        *shown = quota;
    }

    /// The same with everything else that can change, at one point in time.
    pub(crate) fn reconfigure(&self, quota: Quota, shadow: bool, max_waiting: usize) {
        let mut shown = lock(&self.quota);
        let new = Rule::from(quota).in_shadow(shadow);
        self.rebuild(|_| new, Some(max_waiting), Rule::rescale);
        *shown = quota;
    }

    pub(crate) fn set_shadow(&self, on: bool) {
        let _one_at_a_time = lock(&self.queue);
        self.rule.set_shadow(on);
    }

    pub(crate) fn quota(&self) -> Quota {
        *lock(&self.quota)
    }

    /// Fills the bucket. Those who wait are served from it first.
    pub(crate) fn reset(&self) {
        self.rebuild(|old| old, None, |_, _, _, now| now);
    }

    /// `change`: the new rule, from the old one. `level`: the TAT of the bucket afterwards, from the old rule,
    /// the new one and the TAT, without those who wait.
    fn rebuild(
        &self,
        change: impl FnOnce(Rule) -> Rule,
        max_waiting: Option<usize>,
        level: impl Fn(Rule, Rule, u64, u64) -> u64,
    ) {
        let mut wakers = Wakers::default();
        {
            let mut queue = lock(&self.queue);
            let (old, version) = self.rule_locked(&queue);
            let new = change(old);
            let refunded = self.refunded.load(Ordering::Relaxed);
            // From here to `end` direct calls wait for the lock, so none pairs one rule with the TAT of
            // the other. One that has read the old rule before finds that it is no longer in force,
            // fails its exchange, or came first: see `Bucket::charge_while`.
            self.rule.begin();
            loop {
                let tat = self.bucket.load();
                let now = now();
                queue.settle(old, version, refunded, now, &mut wakers);
                let (plan, after) = if queue.is_empty() {
                    (None, level(old, new, tat, now))
                } else {
                    let plan = queue.plan(old, new, level(old, new, queue.front(), now), now);
                    let behind = scale(tat.saturating_sub(queue.tail()), old, new);
                    let after = plan.tail.saturating_add(behind);
                    (Some(plan), after)
                };
                // Another value in any case, or who has read both before would not notice.
                let after = different(after, tat, now);
                if self.bucket.replace(tat, after).is_err() {
                    continue;
                }
                if let Some(plan) = plan {
                    queue.adopt(plan, new, &mut wakers);
                }
                break;
            }
            queue.max_waiting = max_waiting.unwrap_or(queue.max_waiting);
            self.rule.end(new);
            let (_, version) = self.rule_locked(&queue);
            queue.settle(new, version, refunded, now(), &mut wakers);
        }
        wakers.wake();
    }
}
