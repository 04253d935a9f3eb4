//! Callers that wait, in order of arrival.
//!
//! A waiter *reserves*: it charges the bucket beyond what it holds, so TAT lies so far ahead that nobody
//! who comes later can be admitted before it, and the one word stays the whole truth about the quota.
//! The waiter is *due* when `TAT right after its charge - tolerance` has passed. What the word cannot
//! say is who would move up if a waiter left. That is what this queue is for: it knows, under a lock
//! that only waiters take, the order and the costs. A place given up is subtracted from TAT and simply
//! missing in the sum by which the places behind it are computed, so all of them move up.
//!
//! While somebody waits and is not due, no direct charge can succeed: TAT is beyond `now + tolerance`.
//! So between two waiters in the queue there is no charge of anybody else. (Clocks of two processors
//! may disagree by some nanoseconds; `gap` carries what slips in then.)
//!
//! Timers: each waiter sleeps until its own turn as computed when it queued, an upper bound since places
//! only move up. When a waiter reaches the head and its turn is earlier than its timer, it is woken
//! once to set it anew. Whoever wakes settles *all* waiters that are due, as does whoever joins or
//! leaves. So nobody depends on the waiter ahead being polled, nobody is woken in vain, and leaving
//! costs one wake-up at most. What it does depend on: behind a head that is kept but not polled, a
//! place that has moved up is only noticed by the next of those; at the latest by its own timer, at the
//! time that it was promised when it queued. A change of the quota can move everybody far, so it wakes
//! everybody whose turn is earlier.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use super::core::{Denied, Receipt, Rule};

#[derive(Debug)]
struct Entry {
    id: u64,
    n: u64,
    cost: u64,
    /// Charged by others between the place ahead and this one; practically always 0.
    gap: u64,
    deadline: u64,
    /// The slot that it came by, or 0.
    via: usize,
    /// The instant its timer is set to.
    armed: u64,
    waker: Option<Waker>,
}

impl Entry {
    fn units(&self) -> u64 {
        self.gap.saturating_add(self.cost)
    }
}

#[derive(Debug)]
enum Settled {
    Granted(Receipt),
    Refused(Denied),
    Released,
}

/// What there is of a waiter that leaves.
pub(crate) enum Leaving {
    Nothing,
    Released,
    /// It has been granted meanwhile.
    Granted(Receipt),
    /// It still waits, in a place of this cost.
    Waiting {
        cost: u64,
    },
}

/// What a waiter learns when it looks.
#[derive(Debug)]
pub(crate) enum Turn {
    Granted(Receipt),
    /// The quota was changed and the wait can no longer succeed.
    Refused(Denied),
    /// It goes on without a token.
    Released,
    /// Not before this instant.
    At(u64),
}

/// Wakers to call, and old ones to drop, after the lock is released: both run foreign code, which may
/// come back to this queue.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    wake: Vec<Waker>,
    drop: Vec<Waker>,
}

impl Wakers {
    fn wake_later(&mut self, waker: Option<Waker>) {
        self.wake.extend(waker);
    }

    fn drop_later(&mut self, waker: Option<Waker>) {
        self.drop.extend(waker);
    }

    pub(crate) fn wake(self) {
        for waker in self.wake {
            waker.wake();
        }
        drop(self.drop);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// How many may wait at a time.
    pub(crate) max_waiting: usize,
    entries: VecDeque<Entry>,
    /// TAT without the entries, as of the last one that was settled.
    front: u64,
    /// TAT including the last entry.
    tail: u64,
    /// Decided, but the waiter has not looked yet.
    settled: Vec<(u64, Settled)>,
    next_id: u64,
    pub(crate) waits: u64,
    pub(crate) waited: Duration,
    pub(crate) released: u64,
}

impl Queue {
    pub(crate) fn of(max_waiting: usize) -> Self {
        Self { max_waiting, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a waiter whose charge moved TAT from `base` to `base + cost`.
    pub(crate) fn push(
        &mut self,
        n: u64,
        base: u64,
        cost: u64,
        due: u64,
        (deadline, via): (u64, usize),
        waker: Option<Waker>,
    ) -> u64 {
        let gap = if self.entries.is_empty() {
            self.front = base;
            0
        } else {
            base.saturating_sub(self.tail)
        };
        self.tail = base.saturating_add(cost);
        let id = self.next_id;
        self.next_id += 1;
        self.entries.push_back(Entry { id, n, cost, gap, deadline, via, armed: due, waker });
        id
    }

    /// Grants all that are due.
    pub(crate) fn settle(
        &mut self,
        rule: Rule,
        version: u64,
        refunded: u64,
        now: u64,
        wakers: &mut Wakers,
    ) {
        while let Some(head) = self.entries.front() {
            let after = self.front.saturating_add(head.units());
            if after.saturating_sub(rule.tolerance) > now {
                break;
            }
            let Some(head) = self.entries.pop_front() else { break };
            self.front = after;
            let receipt = Receipt { after, cost: head.cost, version, refunded };
            self.settled.push((head.id, Settled::Granted(receipt)));
            wakers.wake_later(head.waker);
        }
        self.rouse_head(rule, wakers);
    }

    /// Wakes the head if its turn comes before its timer.
    fn rouse_head(&mut self, rule: Rule, wakers: &mut Wakers) {
        let front = self.front;
        if let Some(head) = self.entries.front_mut() {
            let due = front.saturating_add(head.units()).saturating_sub(rule.tolerance);
            if due < head.armed {
                wakers.wake_later(head.waker.take());
            }
        }
    }

    /// What became of `id`. `timer_fired`: compute its turn anew even if it is not the head.
    pub(crate) fn look(
        &mut self,
        id: u64,
        rule: Rule,
        timer_fired: bool,
        waker: Waker,
        wakers: &mut Wakers,
    ) -> Option<Turn> {
        if let Some(settled) = self.take_settled(id) {
            wakers.drop_later(Some(waker));
            return Some(match settled {
                Settled::Granted(receipt) => Turn::Granted(receipt),
                Settled::Refused(denied) => Turn::Refused(denied),
                Settled::Released => Turn::Released,
            });
        }
        let place = self.place(id)?;
        if place == 0 || timer_fired {
            let ahead = self
                .entries
                .iter()
                .take(place + 1)
                .fold(0_u64, |sum, e| sum.saturating_add(e.units()));
            let due = self.front.saturating_add(ahead).saturating_sub(rule.tolerance);
            self.entries[place].armed = due;
        }
        let entry = &mut self.entries[place];
        wakers.drop_later(entry.waker.replace(waker));
        Some(Turn::At(entry.armed))
    }

    fn place(&self, id: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&id, |entry| entry.id).ok()
    }

    fn take_settled(&mut self, id: u64) -> Option<Settled> {
        let at = self.settled.iter().position(|(settled, _)| *settled == id)?;
        Some(self.settled.swap_remove(at).1)
    }

    /// For a waiter that leaves.
    pub(crate) fn leaving(&mut self, id: u64) -> Leaving {
        match self.take_settled(id) {
            Some(Settled::Granted(receipt)) => Leaving::Granted(receipt),
            Some(Settled::Released) => Leaving::Released,
            Some(Settled::Refused(_)) => Leaving::Nothing,
            None => self.place(id).map_or(Leaving::Nothing, |place| Leaving::Waiting {
                cost: self.entries[place].cost,
            }),
        }
    }

    /// Takes a waiter out, after its cost was subtracted from TAT. All behind it move up.
    pub(crate) fn remove(&mut self, id: u64, rule: Rule, wakers: &mut Wakers) {
        let Some(entry) = self.place(id).and_then(|place| {
            if place + 1 == self.entries.len() {
                self.tail = self.tail.saturating_sub(self.entries[place].units());
            } else {
                self.tail = self.tail.saturating_sub(self.entries[place].cost);
                let gap = self.entries[place].gap;
                self.entries[place + 1].gap += gap;
            }
            self.entries.remove(place)
        }) else {
            return;
        };
        wakers.drop_later(entry.waker);
        self.rouse_head(rule, wakers);
    }

    /// What the places cost of those who came by this slot, or of all.
    pub(crate) fn reserved(&self, via: Option<usize>) -> u64 {
        let those = self.entries.iter().filter(|entry| via.is_none_or(|via| entry.via == via));
        those.fold(0, |sum, entry| sum.saturating_add(entry.cost))
    }

    /// Lets them go, after what their places cost was subtracted from TAT. Those behind them move up.
    pub(crate) fn release(&mut self, via: Option<usize>, rule: Rule, wakers: &mut Wakers) {
        let mut gap = 0;
        for mut entry in std::mem::take(&mut self.entries) {
            entry.gap += std::mem::take(&mut gap);
            if via.is_none_or(|via| entry.via == via) {
                gap = entry.gap;
                self.tail = self.tail.saturating_sub(entry.cost);
                self.released += 1;
                self.settled.push((entry.id, Settled::Released));
                wakers.wake_later(entry.waker);
            } else {
                self.entries.push_back(entry);
            }
        }
        self.tail = self.tail.saturating_sub(gap);
        self.rouse_head(rule, wakers);
    }

    /// Moves everybody up by `cost` units that were given back ahead of them.
    pub(crate) fn move_up(&mut self, cost: u64, rule: Rule, wakers: &mut Wakers) {
        self.front = self.front.saturating_sub(cost);
        self.tail = self.tail.saturating_sub(cost);
        self.rouse_head(rule, wakers);
    }

    pub(crate) fn front(&self) -> u64 {
        self.front
    }

    pub(crate) fn tail(&self) -> u64 {
        self.tail
    }

    /// Works out what becomes of everybody if the rule changes to `new` and the first place starts at
    /// `front`. Nothing is changed until [`adopt`](Self::adopt).
    pub(crate) fn plan(&self, old: Rule, new: Rule, front: u64, now: u64) -> Plan {
        let mut tail = front;
        let fates = self
            .entries
            .iter()
            .map(|entry| {
                let cost = new.cost(entry.n);
                let gap = scale(entry.gap, old, new);
                let denied = Denied { rule: new, tat: tail, now, cost };
                // `None`: beyond the time that can be told.
                let after = tail.checked_add(gap).and_then(|after| after.checked_add(cost));
                match after {
                    Some(after)
                        if !denied.never()
                            && after.saturating_sub(new.tolerance) <= entry.deadline =>
                    {
                        tail = after;
                        Ok((gap, cost))
                    }
                    _ => Err(denied),
                }
            })
            .collect();
        Plan { front, tail, fates }
    }

    pub(crate) fn adopt(&mut self, plan: Plan, rule: Rule, wakers: &mut Wakers) {
        self.front = plan.front;
        self.tail = plan.tail;
        let entries = std::mem::take(&mut self.entries);
        let mut after = plan.front;
        for (mut entry, fate) in entries.into_iter().zip(plan.fates) {
            match fate {
                Ok((gap, cost)) => {
                    (entry.gap, entry.cost) = (gap, cost);
                    after = after.saturating_add(entry.units());
                    let due = after.saturating_sub(rule.tolerance);
                    if due < entry.armed {
                        wakers.wake_later(entry.waker.take());
                    }
                    entry.armed = due;
                    self.entries.push_back(entry);
                }
                Err(denied) => {
                    self.settled.push((entry.id, Settled::Refused(denied)));
                    wakers.wake_later(entry.waker);
                }
            }
        }
    }
}

/// See [`Queue::plan`].
#[derive(Debug)]
pub(crate) struct Plan {
    front: u64,
    pub(crate) tail: u64,
    fates: Vec<Result<(u64, u64), Denied>>,
}

/// Units of one rule in units of another, rounded up.
pub(crate) fn scale(units: u64, old: Rule, new: Rule) -> u64 {
    let scaled = (u128::from(units) * u128::from(new.interval)).div_ceil(u128::from(old.interval));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}
