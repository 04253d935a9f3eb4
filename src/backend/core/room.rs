//! Who waits, who is next, and who wakes for that.

use std::cmp::Reverse;
use std::task::Waker;

use super::Core;
use crate::backend::turn::{Arrival, Key, Settled, State, Turn, Wakers};
use crate::clock::Tick;
use crate::context::Criticality;

/// What a waiter has been told and has not seen yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    id: u64,
    how: Settled,
    /// Of the pace, then.
    change: u32,
}

impl Core {
    pub(super) fn enter(&mut self, key: Key, now: Tick, wakers: &mut Wakers) -> Arrival {
        self.crowd(now);
        if self.room.len() >= self.max_waiting {
            match self.room.last_key_value() {
                Some((&last, _)) if last > key => {
                    self.settle(last, Settled::Displaced, wakers);
                }
                _ => {
                    self.counts.full += 1;
                    // What has come in has changed how far each class may go.
                    self.dispatch(now, wakers);
                    return Arrival::Full;
                }
            }
        }
        self.next_id += 1;
        self.counts.waited += 1;
        self.room.insert(key, None);
        self.dispatch(now, wakers);
        Arrival::Wait(key)
    }

    /// A call comes that does not wait.
    pub(in crate::backend) fn arrive_at_once(
        &mut self,
        deadline: Tick,
        class: Criticality,
        now: Tick,
        wakers: &mut Wakers,
    ) -> Arrival {
        if self.has_expired(deadline, class, now) {
            return Arrival::Expired;
        }
        // Of those who wait none can go after that: who still can is more important than all of them.
        self.dispatch(now, wakers);
        if self.admit_one(class, now) {
            return Arrival::Admitted;
        }
        let turn = self.pace.next(now);
        if turn > now && !self.is_down() && !self.is_beyond(class, now) {
            self.counts.throttled += 1;
            return Arrival::Throttled(turn);
        }
        self.counts.full += 1;
        Arrival::Full
    }

    fn settle(&mut self, key: Key, how: Settled, wakers: &mut Wakers) {
        if let Some(waker) = self.room.remove(&key) {
            match how {
                Settled::Granted(_) => {}
                Settled::Hopeless => {
                    self.counts.hopeless += 1;
                    self.worth.lost();
                }
                Settled::Displaced => self.counts.full += 1,
                Settled::Throttled(_) => self.counts.throttled += 1,
            }
            let change = self.pace.change();
            self.settled.push(Told { id: key.id, how, change });
            wakers.add(waker);
            self.leave_watch(key.id);
        }
    }

    /// The best waiter: of the highest class the earliest deadline that will probably be met, else the newest.
    fn best(&self, now: Tick) -> Option<Key> {
        let (first, _) = self.room.first_key_value()?;
        let class = first.class;
        let enough = self.latency.enough();
        // What the quota is spent on should not be lost to one slow answer.
        let enough = match self.pace.rate() {
            Some(_) => enough.saturating_mul(2).min(self.patience_nanos() / 2).max(enough),
            None => enough,
        };
        let safe = Tick(now.0.saturating_add(enough));
        let lowest = Key { class, deadline: safe, id: 0 };
        let highest = Key { class, deadline: Tick(u64::MAX), id: u64::MAX };
        let mut safe = self.room.range(lowest..=highest);
        safe.next().or_else(|| self.room.range(..=highest).next_back()).map(|(key, _)| *key)
    }

    /// Hands out what is free. Who cannot make it any more is sent away.
    pub(super) fn dispatch(&mut self, now: Tick, wakers: &mut Wakers) {
        self.look(now);
        self.begin(now);
        self.drop_hopeless(now, wakers);
        while let Some(key) = self.best(now) {
            if !self.admit_one(key.class.0, now) {
                break;
            }
            self.settle(key, Settled::Granted(now), wakers);
        }
        self.watch(now, wakers);
    }

    fn gives_up_at(&self, key: Key) -> Tick {
        // No more than half of what callers wait, or a slow backend would get nothing at all.
        let typical = self.latency.typical().min(self.patience_nanos() / 2);
        Tick(key.deadline.0.saturating_sub(typical))
    }

    fn drop_hopeless(&mut self, now: Tick, wakers: &mut Wakers) {
        for class in Criticality::ALL {
            let class = Reverse(class);
            let from = Key { class, deadline: Tick(0), id: 0 };
            let to = Key { class, deadline: Tick(u64::MAX), id: u64::MAX };
            while let Some((&key, _)) = self.room.range(from..=to).next() {
                if self.gives_up_at(key) > now {
                    break;
                }
                let how = match self.pace.rate() {
                    // It is the quota that it waited for.
                    Some(_) if f64::from(self.in_flight) + 1.0 <= self.limit && !self.is_down() => {
                        Settled::Throttled(key.deadline.max(self.pace.due()))
                    }
                    _ => Settled::Hopeless,
                };
                self.settle(key, how, wakers);
            }
        }
    }

    /// When the core itself has something to do next.
    fn next_due(&self, now: Tick) -> Tick {
        self.due_of_all().min(self.begins_at(now))
    }

    fn due_of_all(&self) -> Tick {
        let zombie = self.zombies.peek().map_or(Tick(u64::MAX), |Reverse(due)| *due);
        // With a place free it is the pace that is waited for; the most important has more of them.
        let first = self.room.first_key_value().map(|(key, _)| key.class.0);
        let zombie = match self.pace.rate() {
            Some(_) if first.is_some_and(|class| !self.is_beyond(class, self.pace.due())) => {
                zombie.min(self.pace.due())
            }
            _ => zombie,
        };
        let zombie = match first {
            Some(class) if self.in_flight == 0 && self.limit < 1.0 => {
                zombie.min(self.turn(class).max(self.pace.due()))
            }
            _ => zombie,
        };
        match self.state {
            State::Down { next, .. } => next.max(self.not_before()),
            _ if !self.listens() => zombie,
            _ => zombie.min(Tick(self.quiet_since.0.saturating_add(self.silence()))),
        }
    }

    /// Somebody must be awake when it has.
    fn watch(&mut self, now: Tick, wakers: &mut Wakers) {
        let due = self.next_due(now);
        match self.keeper {
            Some((_, at)) if at <= due => {}
            Some((id, _)) => {
                let found = self.room.iter_mut().find(|(key, _)| key.id == id);
                wakers.add(found.and_then(|(_, waker)| waker.take()));
                self.keeper = Some((id, due));
            }
            None => {
                if let Some((key, waker)) = self.room.last_key_value() {
                    let (id, waker) = (key.id, waker.clone());
                    self.keeper = Some((id, due));
                    wakers.add(waker);
                }
            }
        }
    }

    fn leave_watch(&mut self, id: u64) {
        if self.keeper.is_some_and(|(keeper, _)| keeper == id) {
            self.keeper = None;
        }
    }

    /// Once.
    fn told(&mut self, key: Key) -> Option<Told> {
        let at = self.settled.iter().position(|told| told.id == key.id)?;
        Some(self.settled.swap_remove(at))
    }

    /// Who has got a turn of what is over has none to give back, and no probe.
    fn seen(&self, told: Told, now: Tick) -> Settled {
        match told.how {
            Settled::Granted(at) if told.change == self.pace.change() && at >= self.down_since => {
                Settled::Granted(now)
            }
            how => how,
        }
    }

    /// A waiter asks.
    pub(in crate::backend) fn poll(
        &mut self,
        key: Key,
        waker: &Waker,
        now: Tick,
        wakers: &mut Wakers,
    ) -> Turn {
        if let Some(slot) = self.room.get_mut(&key) {
            match slot {
                Some(there) if there.will_wake(waker) => {}
                _ => wakers.discard(slot.replace(waker.clone())),
            }
            self.dispatch(now, wakers);
        }
        if let Some(told) = self.told(key) {
            return Turn::Settled(self.seen(told, now));
        }
        let own = self.gives_up_at(key);
        match self.keeper {
            Some((id, _)) if id == key.id => {
                let due = self.next_due(now);
                self.keeper = Some((id, due));
                Turn::At(own.min(due))
            }
            _ => Turn::At(own),
        }
    }

    /// A waiter has gone, perhaps with a grant that it has not seen.
    pub(in crate::backend) fn leave(&mut self, key: Key, now: Tick, wakers: &mut Wakers) {
        if let Some(waker) = self.room.remove(&key) {
            wakers.discard(waker);
            self.leave_watch(key.id);
        } else if let Some(Told { how: Settled::Granted(at), change, .. }) = self.told(key) {
            self.in_flight -= 1;
            self.sends_none(0);
            self.pace.give_back(change, now);
            self.unask(at, now);
        }
        self.dispatch(now, wakers);
    }
}
