//! Limit, state, waiting room and retry tokens of one backend, without clock and timer. All of it is behind one
//! short lock: a permit that comes back is handed to the best waiter in the same step.

mod limit;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::task::Waker;

use super::latency::Latency;
use super::turn::{Arrival, Counts, End, Key, Settled, State, Turn, Wakers};
use crate::clock::Tick;
use crate::context::Criticality;
use crate::pace::{Pace, Phase};

/// After an answer that asks for less, so many successes pass before extra attempts are sent again and the limit
/// grows.
const THROTTLED: u32 = 100;
/// Answers take this much longer before the limit falls: a queue as long as what is being worked on.
const TARGET: f64 = 2.0;
/// The smallest limit. Many processes share a backend: below one in flight is one with a pause after it.
const FLOOR: f64 = 1.0 / 64.0;
/// Few, so that the first answers show how long one takes without a queue; doubled until answers take longer.
const START: f64 = 4.0;
const ALWAYS: f64 = 16.0;
/// Failures in a row that no success of a later call interrupts. With 70 % errors one in 70 such rows.
const DOWN_AFTER: u32 = 12;
/// ... and as many as would come by chance, at the rate that was usual before, once in so many rows.
const CHANCE: f64 = 1e-5;
const NO_CHANCE: u32 = 100;
const MAX_TOKENS: u32 = 3;
/// So many arrivals for each probe: one that fails is tried again and arrives once more, and of what is new three of
/// ten are sent.
const PROBED: f64 = 4.4;
/// What callers wait is not taken to be longer when only the first has come: a minute, in nanoseconds.
const FIRST_PATIENCE: f64 = 60e9;
/// Who has waited this part of what callers wait has waited for the answer, and not gone for reasons of its own.
const IN_VAIN: f64 = 4.0;
/// A throttled answer leaves so much of the limit.
const ASKED_FOR_LESS: f64 = 0.9;
/// Measuring an answer that takes longer than this many nanoseconds costs less than one in a hundred of them. Of those
/// that come sooner, and need not even be waited for, one in so many is measured.
const QUICK: u64 = 10_000;
const MEASURED: u32 = 8;
pub(super) const MAX_LIMIT: u32 = 1_000_000;

#[derive(Debug)]
pub(super) struct Core {
    fixed: bool,
    limit: f64,
    /// What it was when congestion or an outage began.
    pub(super) before: f64,
    /// It has not met congestion yet.
    starting: bool,
    pub(super) in_flight: u32,
    /// When slots of abandoned calls come back. They count in `in_flight`.
    zombies: BinaryHeap<Reverse<Tick>>,
    pub(super) latency: Latency,
    pub(super) state: State,
    /// Failures since the last success, and the first of them.
    pub(super) failures: u32,
    failing_since: Tick,
    /// The share of failures before them.
    failing: f64,
    /// Since when calls have been out without any answer.
    quiet_since: Tick,
    /// Successes that it takes until the backend is not taken to ask for less any more.
    throttled: u32,
    /// The limit was changed for what was seen until then.
    settled_at: Tick,
    peak: u32,
    /// Answers in a row while the limit was not reached.
    answered: u32,
    /// In flight on average when nothing was wrong; zero until that is known.
    usual: f64,
    /// The share of what was sent that was not answered in time.
    missed: f64,
    /// When the last one was admitted.
    sent_at: Tick,
    /// Since when the limit has been at its floor.
    floored: Option<Tick>,
    room: BTreeMap<Key, Option<Waker>>,
    max_waiting: usize,
    settled: Vec<(u64, Settled)>,
    next_id: u64,
    /// Who wakes for the core's own times, and when.
    keeper: Option<(u64, Tick)>,
    /// Mean time between arrivals, mean remaining time at arrival.
    last_arrival: Tick,
    /// The shares of the classes among what arrives.
    shares: [f64; 4],
    gap: f64,
    patience: f64,
    tokens: u32,
    /// The last answer that was measured came at once, in the processor's sense.
    quick: bool,
    unmeasured: u32,
    /// How many calls a second it takes, once it has asked for less.
    pub(super) pace: Pace,
    /// Off, a callee that throttles some callers does not hold back the others.
    pub(super) learns_quota: bool,
    pub(super) counts: Counts,
}

impl Core {
    pub(super) fn new(fixed: Option<u32>, max_waiting: usize) -> Self {
        let limit = fixed.map_or(START, f64::from);
        Self {
            fixed: fixed.is_some(),
            limit,
            before: limit,
            starting: true,
            in_flight: 0,
            zombies: BinaryHeap::new(),
            latency: Latency::default(),
            state: State::Up,
            failures: 0,
            failing_since: Tick(0),
            failing: 0.0,
            quiet_since: Tick(0),
            throttled: 0,
            settled_at: Tick(0),
            peak: 0,
            answered: 0,
            usual: 0.0,
            missed: 0.0,
            sent_at: Tick(0),
            floored: None,
            room: BTreeMap::new(),
            max_waiting,
            settled: Vec::new(),
            next_id: 0,
            keeper: None,
            last_arrival: Tick(0),
            shares: [0.0; 4],
            gap: 0.0,
            patience: 0.0,
            tokens: MAX_TOKENS,
            quick: false,
            unmeasured: 0,
            pace: Pace::new(),
            learns_quota: false,
            counts: Counts::default(),
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 1 to a million"
    )]
    pub(super) fn limit(&self) -> u32 {
        (self.limit as u32).max(1)
    }

    /// The limit, if it is not learned.
    pub(super) fn fixed_limit(&self) -> Option<u32> {
        self.fixed.then(|| self.limit())
    }

    /// Another fixed limit; or from now on it is learned, beginning with what it was. What is known of answers stays.
    #[cfg(feature = "config")]
    pub(super) fn fix(&mut self, fixed: Option<u32>, now: Tick, wakers: &mut Wakers) {
        self.fixed = fixed.is_some();
        if let Some(limit) = fixed {
            // With a limit of our own there is neither congestion nor an outage.
            (self.limit, self.before) = (f64::from(limit), f64::from(limit));
            (self.state, self.failures) = (State::Up, 0);
        }
        self.dispatch(now, wakers);
    }

    pub(super) fn waiting(&self) -> usize {
        self.room.len()
    }

    /// Nobody has been given an answer that nobody has taken.
    #[cfg(all(test, buttress_loom))]
    pub(super) fn has_settled_all(&self) -> bool {
        self.settled.is_empty()
    }

    #[cfg(all(test, buttress_loom))]
    pub(super) fn has_keeper(&self) -> bool {
        self.keeper.is_some()
    }

    fn is_down(&self) -> bool {
        matches!(self.state, State::Down { .. })
    }

    /// More could be sent without anybody having to wait longer for it.
    pub(super) fn has_headroom(&self) -> bool {
        self.room.is_empty()
            && f64::from(self.in_flight) + 1.0 <= self.limit
            && !self.is_down()
            && self.latency.is_near()
            && self.throttled == 0
    }

    fn earns(&self) -> bool {
        self.room.is_empty()
            && f64::from(self.in_flight) + 1.0 <= self.limit
            && !self.is_down()
            && self.throttled == 0
            && (self.latency.is_near() || self.latency.ratio() < TARGET)
    }

    /// A retry that is paid from headroom. While the backend is down it will wait as everybody does.
    pub(super) fn take_retry(&mut self) -> bool {
        if self.is_down() {
            return true;
        }
        // They were earned by headroom a moment ago; to ask for more of it than the cap would be in vain.
        let paid = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        paid
    }

    pub(super) fn retries(&self) -> Option<(u32, u32)> {
        (!self.is_down()).then_some((self.tokens, MAX_TOKENS))
    }

    pub(super) fn give_retry_back(&mut self) {
        // While it is down they cost nothing.
        if !self.is_down() {
            self.tokens = (self.tokens + 1).min(MAX_TOKENS);
        }
    }

    #[inline]
    pub(super) fn arrive(
        &mut self,
        deadline: Tick,
        class: Criticality,
        now: Tick,
        wakers: &mut Wakers,
    ) -> Arrival {
        if deadline <= now {
            self.counts.expired += 1;
            return Arrival::Expired;
        }
        self.observe_arrival(deadline, class, now);
        self.look(now);
        if self.room.is_empty() && self.admit_one(class, now) {
            return Arrival::Admitted;
        }
        if self.pace.phase() == Phase::Stopped && self.pace.next(now) >= deadline {
            self.counts.throttled += 1;
            self.dispatch(now, wakers);
            return Arrival::Throttled(self.pace.next(now));
        }
        self.enter(Key { class: Reverse(class), deadline, id: self.next_id }, now, wakers)
    }

    #[expect(clippy::cast_precision_loss, reason = "a mean needs no 53 bits")]
    fn observe_arrival(&mut self, deadline: Tick, class: Criticality, now: Tick) {
        for (one, share) in Criticality::ALL.into_iter().zip(&mut self.shares) {
            *share += (if one == class { 1.0 } else { 0.0 } - *share) / 64.0;
        }
        let remaining = deadline.0.saturating_sub(now.0) as f64;
        let gap = now.0.saturating_sub(self.last_arrival.0) as f64;
        if self.patience == 0.0 {
            self.patience = remaining.min(FIRST_PATIENCE);
            self.gap = self.patience / 25.0;
        } else {
            // Who waits for ever does so in its own name only.
            self.patience += (remaining.min(2.0 * self.patience) - self.patience) / 32.0;
            self.gap += (gap.min(self.patience) - self.gap) / 32.0;
        }
        self.last_arrival = now;
    }

    fn enter(&mut self, key: Key, now: Tick, wakers: &mut Wakers) -> Arrival {
        if self.room.len() >= self.max_waiting {
            match self.room.last_key_value() {
                Some((&last, _)) if last > key => self.settle(last, Settled::Displaced, wakers),
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

    fn settle(&mut self, key: Key, how: Settled, wakers: &mut Wakers) {
        if let Some(waker) = self.room.remove(&key) {
            match how {
                Settled::Granted => {}
                Settled::Hopeless => self.counts.hopeless += 1,
                Settled::Displaced => self.counts.full += 1,
                Settled::Throttled(_) => self.counts.throttled += 1,
            }
            self.settled.push((key.id, how));
            wakers.add(waker);
            self.leave_watch(key.id);
        }
    }

    /// Slots of the abandoned come back.
    #[inline]
    pub(super) fn reap(&mut self, now: Tick) {
        while self.zombies.peek().is_some_and(|Reverse(due)| *due <= now) {
            self.zombies.pop();
            self.in_flight -= 1;
        }
    }

    /// They do, and an outage is noticed.
    fn look(&mut self, now: Tick) {
        self.reap(now);
        if self.fixed || self.is_down() || !self.latency.is_warm() || self.in_flight == 0 {
            return;
        }
        let quiet = now.0.saturating_sub(self.quiet_since.0);
        if quiet >= self.least_silence() && quiet >= self.silence() {
            self.go_down(true, now);
        }
    }

    /// Without any answer for so long nothing answers: longer than nearly every answer takes.
    fn silence(&self) -> u64 {
        let patience = self.patience_nanos();
        let enough = self.latency.enough();
        (enough * 2).min((patience / 2).max(enough + enough / 4)).max(self.least_silence())
    }

    fn least_silence(&self) -> u64 {
        self.patience_nanos() / 10
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds")]
    pub(super) fn patience_nanos(&self) -> u64 {
        self.patience as u64
    }

    fn go_down(&mut self, silent: bool, now: Tick) {
        if self.state == State::Up {
            self.before = self.limit;
        }
        self.counts.downs += 1;
        self.starting = false;
        self.state = State::Down { silent, next: now };
    }

    /// Often enough to notice at once, in at most three of ten requests, and at least once in the time that
    /// callers wait.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds")]
    fn probe_interval(&self, silent: bool) -> u64 {
        let share = if silent { 10.0 } else { 25.0 };
        (self.gap * PROBED).max(self.patience / share).min(self.patience) as u64
    }

    fn admit_one(&mut self, class: Criticality, now: Tick) -> bool {
        match self.state {
            State::Down { silent, next } => {
                if now < next {
                    return false;
                }
                // Perhaps it is only slow, and still works on what was sent: not more than is usual.
                let many = silent && f64::from(self.in_flight) >= self.usual.max(2.0);
                let pause = if many { self.patience_nanos() } else { self.probe_interval(silent) };
                let next = Tick(now.0.saturating_add(pause));
                self.state = State::Down { silent, next };
                self.counts.probes += 1;
            }
            _ if self.is_beyond(class, now) => return false,
            _ if self.pace.next(now) > now => {
                self.pace.wait(now);
                return false;
            }
            _ => {}
        }
        self.pace.take(now);
        self.sent_at = now;
        if self.in_flight as usize == self.zombies.len() {
            self.quiet_since = now;
        }
        self.in_flight += 1;
        self.peak = self.peak.max(self.in_flight);
        self.counts.admitted += 1;
        true
    }

    /// One more of this class would be more than may be in flight.
    fn is_beyond(&self, class: Criticality, now: Tick) -> bool {
        let more = f64::from(self.in_flight) + 1.0;
        // Nobody's limit is below that of all.
        more > self.limit
            && more > self.limit_for(class)
            && (self.in_flight > 0 || now < self.turn(class))
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
    fn dispatch(&mut self, now: Tick, wakers: &mut Wakers) {
        self.look(now);
        self.drop_hopeless(now, wakers);
        while let Some(key) = self.best(now) {
            if !self.admit_one(key.class.0, now) {
                break;
            }
            self.settle(key, Settled::Granted, wakers);
        }
        self.watch(wakers);
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
                    Some(_) if self.in_flight < self.limit() && !self.is_down() => {
                        Settled::Throttled(key.deadline.max(self.pace.due()))
                    }
                    _ => Settled::Hopeless,
                };
                self.settle(key, how, wakers);
            }
        }
    }

    /// When the core itself has something to do next.
    fn next_due(&self) -> Tick {
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
            State::Down { next, .. } => next,
            _ if self.fixed || !self.latency.is_warm() || self.in_flight == 0 => zombie,
            _ => zombie.min(Tick(self.quiet_since.0.saturating_add(self.silence()))),
        }
    }

    /// Somebody must be awake when it has.
    fn watch(&mut self, wakers: &mut Wakers) {
        let due = self.next_due();
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

    /// A waiter asks.
    pub(super) fn poll(&mut self, key: Key, waker: &Waker, now: Tick, wakers: &mut Wakers) -> Turn {
        if let Some(slot) = self.room.get_mut(&key) {
            match slot {
                Some(there) if there.will_wake(waker) => {}
                _ => wakers.discard(slot.replace(waker.clone())),
            }
            self.dispatch(now, wakers);
        }
        if let Some(at) = self.settled.iter().position(|(id, _)| *id == key.id) {
            return Turn::Settled(self.settled.swap_remove(at).1);
        }
        let own = self.gives_up_at(key);
        match self.keeper {
            Some((id, _)) if id == key.id => {
                let due = self.next_due();
                self.keeper = Some((id, due));
                Turn::At(own.min(due))
            }
            _ => Turn::At(own),
        }
    }

    /// A waiter has gone, perhaps with a grant that it has not seen.
    pub(super) fn leave(&mut self, key: Key, now: Tick, wakers: &mut Wakers) {
        if let Some(waker) = self.room.remove(&key) {
            wakers.discard(waker);
            self.leave_watch(key.id);
        } else if let Some(at) = self.settled.iter().position(|(id, _)| *id == key.id)
            && self.settled.swap_remove(at).1 == Settled::Granted
        {
            self.in_flight -= 1;
            self.pace.give_back(self.pace.change(), now);
        }
        self.dispatch(now, wakers);
    }

    /// Admitted, and then not sent. Before the last change of the pace it had no turn, or one that is void.
    pub(super) fn finish_unsent(&mut self, started: Tick, now: Tick, wakers: &mut Wakers) {
        if self.pace.is_since_change(started) {
            self.pace.give_back(self.pace.change(), now);
        }
        self.finish(started, End::Ignored, now, wakers);
    }

    /// A call that was admitted has ended.
    #[inline]
    pub(super) fn finish(&mut self, started: Tick, end: End, now: Tick, wakers: &mut Wakers) {
        let took = now.0.saturating_sub(started.0);
        let reached = self.is_reached();
        if let End::Abandoned { deadline } = end {
            // Nothing answers: that says nothing of how long an answer takes.
            if !self.is_down() {
                self.latency.censored(took);
                self.begin_smaller(started, took, now);
                if deadline <= now {
                    self.came_late(started, now);
                }
            }
            // As long as it was waited for it is perhaps still worked on.
            if took > self.latency.baseline() / 2 && !self.fixed {
                self.zombies.push(Reverse(Tick(now.0.saturating_add(took))));
            } else {
                self.in_flight -= 1;
            }
        } else {
            self.in_flight -= 1;
            if end != End::Ignored {
                self.quiet_since = now;
            }
        }
        match end {
            End::Success => {
                self.latency.record(took, !reached);
                self.quick = took < QUICK && self.latency.is_warm();
                self.went_well(reached, started, now);
            }
            End::Failure => {
                self.failed(now);
                self.pace.taken(started, now);
            }
            End::Throttled(after) => {
                self.throttled = THROTTLED;
                if self.learns_quota {
                    self.pace.refused(started, Some(after), now);
                }
            }
            End::TooMany => {
                self.throttled = THROTTLED;
                self.ask_for_less(now);
            }
            End::Answered => {
                self.succeeded(started, now);
                self.pace.taken(started, now);
            }
            End::Ignored | End::Abandoned { .. } => {}
        }
        if end != End::Ignored && !self.fixed {
            self.shrink(now);
        }
        self.earn(end);
        if !self.room.is_empty() {
            self.dispatch(now, wakers);
        }
    }

    /// The call that has just been admitted need not be measured, if it is answered in the poll in which it is sent:
    /// its like are answered so quickly that some of them say enough, and nothing is out of the ordinary.
    #[inline]
    pub(super) fn needs_no_time(&mut self) -> bool {
        let all_is_well = self.quick
            && self.state == State::Up
            && self.pace.phase() == Phase::Free
            && self.latency.is_near();
        if all_is_well {
            self.unmeasured = (self.unmeasured + 1) % MEASURED;
        }
        all_is_well && self.unmeasured != 0
    }

    /// Such a call has succeeded.
    #[inline]
    pub(super) fn finish_at_once(&mut self, started: Tick, wakers: &mut Wakers) {
        let reached = self.is_reached();
        self.in_flight -= 1;
        self.quiet_since = self.quiet_since.max(started);
        self.went_well(reached, started, started);
        self.earn(End::Success);
        if !self.room.is_empty() {
            self.dispatch(started, wakers);
        }
    }

    #[inline]
    fn went_well(&mut self, reached: bool, started: Tick, now: Tick) {
        self.throttled = self.throttled.saturating_sub(1);
        self.missed -= self.missed / 16.0;
        if !reached && self.latency.is_warm() && self.latency.is_near() {
            let many = f64::from(self.in_flight) + 1.0;
            self.usual += if self.usual == 0.0 { many } else { (many - self.usual) / 64.0 };
        }
        self.succeeded(started, now);
        self.grow(reached);
        self.pace.taken(started, now);
    }

    #[inline]
    fn earn(&mut self, end: End) {
        // A failure only where failures lead to being down: else retries would pay for themselves.
        let answered = match end {
            End::Success | End::Answered => true,
            End::Failure => !self.fixed,
            _ => false,
        };
        if answered && self.earns() {
            self.tokens = (self.tokens + 1).min(MAX_TOKENS);
        }
    }

    /// Not one answer yet, and callers have waited in vain: it may be too many for all that is known. Each halving
    /// is for calls sent after the last one.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
    fn begin_smaller(&mut self, started: Tick, took: u64, now: Tick) {
        let in_vain = took as f64 >= self.patience / IN_VAIN;
        if self.fixed || self.latency.is_warm() || !in_vain || started < self.settled_at {
            return;
        }
        self.settled_at = now;
        self.limit = (self.limit / 2.0).max(FLOOR);
    }

    /// Half of it is in use: what is measured then says something about it.
    fn is_reached(&self) -> bool {
        f64::from(self.in_flight) * 2.0 >= self.limit || !self.room.is_empty()
    }

    #[expect(clippy::cast_precision_loss, reason = "at most a million")]
    fn succeeded(&mut self, started: Tick, now: Tick) {
        // What was sent before the first failure says nothing about what is after it.
        if started >= self.failing_since {
            for _ in 0..self.failures.min(NO_CHANCE) {
                self.failing += (1.0 - self.failing) / 64.0;
            }
            self.failing -= self.failing / 64.0;
            self.failures = 0;
        }
        if let State::Down { silent, .. } = self.state
            && (silent || started >= self.failing_since)
        {
            self.failures = 0;
            self.state = State::Recovering;
            self.answered = 0;
            self.settled_at = now;
            if !self.fixed {
                // What was abandoned may still be worked on; two more find out.
                let gone = self.zombies.len() as f64;
                let few = self.before / 4.0;
                self.limit = few.max(gone + self.before.min(2.0)).min(self.before.max(2.0));
            }
        }
    }

    fn failed(&mut self, now: Tick) {
        if self.failures == 0 {
            self.failing_since = now;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.down_after() && !self.is_down() && !self.fixed {
            self.go_down(false, now);
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    fn down_after(&self) -> u32 {
        let row = CHANCE.ln() / self.failing.clamp(1e-9, 0.99).ln();
        (row.ceil() as u32).clamp(DOWN_AFTER, NO_CHANCE)
    }
}
