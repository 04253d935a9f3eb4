//! Limit, state, waiting room and retry tokens of one backend, without clock and timer. All of it is behind one
//! short lock: a permit that comes back is handed to the best waiter in the same step.

mod gain;
mod lane;
mod limit;
mod luck;
mod outcome;
mod room;
mod worth;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::task::Waker;

use self::gain::Gain;
pub(super) use self::lane::Calm;
use self::lane::share;
use self::luck::Luck;
pub(super) use self::outcome::is_due;
use self::room::Told;
use self::worth::Worth;
use super::latency::Latency;
use super::turn::{Arrival, Counts, Key, State, Wakers};
use crate::clock::Tick;
use crate::context::Criticality;
use crate::pace::{Pace, Phase};

/// Answers take this much longer before the limit falls: a queue as long as what is being worked on.
const TARGET: f64 = 2.0;
/// Answers take so many times as long as those for which a limit that is learned falls, and it does not fall quickly enough.
const TOO_SLOW: f64 = 1.5;
/// The smallest limit. Many processes share a backend: below one in flight is one with a pause after it.
const FLOOR: f64 = 1.0 / 64.0;
/// Few, so that the first answers show how long one takes without a queue; doubled until answers take longer.
const START: f64 = 4.0;
/// With more than one out and none answered for so many times what an answer takes, all of them are late.
const STALL: f64 = 1.25;
const MAX_TOKENS: u32 = 3;
/// So many arrivals for each probe: one that fails is tried again and arrives once more, and of what is new three of
/// ten are sent.
const PROBED: f64 = 4.4;
/// What callers wait is not taken to be longer when only the first has come: a minute, in nanoseconds.
const FIRST_PATIENCE: f64 = 60e9;
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
    /// Of the calls that were out at the first of them so many still are.
    older: u32,
    /// The share of failures before them.
    failing: f64,
    down_since: Tick,
    /// Down, it has said not to come before then.
    shut_until: Tick,
    /// It was down for as long as callers wait: all that has gathered at all of its callers comes at once.
    cold: bool,
    /// Since when calls have been out without any answer.
    quiet_since: Tick,
    /// Successes that it takes until the backend is not taken to ask for less any more.
    throttled: u32,
    /// How often the limit was lowered for that since it was not.
    lowered: u32,
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
    gain: Gain,
    worth: Worth,
    room: BTreeMap<Key, Option<Waker>>,
    /// Since when somebody has been waiting, but for short times, and when somebody last did.
    crowded_since: Tick,
    crowded_at: Tick,
    max_waiting: usize,
    settled: Vec<Told>,
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
    luck: Luck,
    /// The last answer that was measured came at once, in the processor's sense.
    quick: bool,
    /// Admitted since the last that was measured.
    unmeasured: u32,
    /// Those of them that were not answered at once.
    not_at_once: u32,
    /// Calls have come of which nobody has seen when.
    unseen: u32,
    /// There was an answer since the last look, of which nobody knows when.
    heard: bool,
    /// How many calls a second it takes, once it has asked for less.
    pub(super) pace: Pace,
    /// Off, a callee that throttles some callers does not hold back the others.
    pub(super) learns_quota: bool,
    /// It answers in this process, and lives: that there is no answer is that all take long.
    pub(super) local: bool,
    /// Several answer, and each has a queue of its own.
    pub(super) several: bool,
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
            older: 0,
            failing: 0.0,
            down_since: Tick(0),
            shut_until: Tick(0),
            cold: false,
            quiet_since: Tick(0),
            throttled: 0,
            lowered: 0,
            settled_at: Tick(0),
            peak: 0,
            answered: 0,
            usual: 0.0,
            missed: 0.0,
            sent_at: Tick(0),
            floored: None,
            gain: Gain::default(),
            worth: Worth::default(),
            room: BTreeMap::new(),
            crowded_since: Tick(0),
            crowded_at: Tick(0),
            max_waiting,
            settled: Vec::new(),
            next_id: 0,
            keeper: None,
            last_arrival: Tick(0),
            shares: [0.0; 4],
            gap: 0.0,
            patience: 0.0,
            tokens: MAX_TOKENS,
            luck: Luck::default(),
            quick: false,
            unmeasured: 0,
            not_at_once: 0,
            unseen: 0,
            heard: false,
            pace: Pace::new(),
            learns_quota: false,
            local: false,
            several: false,
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
        self.gain = Gain::default();
        self.worth = Worth::default();
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
    pub(super) fn has_headroom(&self, now: Tick) -> bool {
        !self.stalls(now)
            && self.room.is_empty()
            && f64::from(self.in_flight) + 1.0 <= self.limit
            && !self.is_down()
            && self.latency.is_near()
            && self.throttled == 0
            && !(self.cold && self.state == State::Recovering)
    }

    /// More than one is out, and none has been answered for so long that most would have been. Whoever is late then is not
    /// late alone: it waits behind what the others wait behind, and another attempt would wait there, too.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds")]
    fn stalls(&self, now: Tick) -> bool {
        self.in_flight as usize > self.zombies.len() + 1
            && !self.heard
            && self.latency.is_warm()
            && now.0.saturating_sub(self.quiet_since.0) as f64
                > STALL * self.latency.typical() as f64
    }

    fn earns(&self) -> bool {
        !self.is_down()
            && self.throttled == 0
            && (self.latency.is_near() || self.latency.ratio() < TARGET || self.follows())
    }

    /// A limit that is learned keeps answers about as quick as they are to be.
    fn follows(&self) -> bool {
        !self.fixed && !self.is_slower_than(TOO_SLOW)
    }

    /// A retry of a call of which so many attempts have failed in a row, or another attempt beside one, that is paid with what
    /// answers have earned. While others wait only what may succeed goes before them: calls that never do would fill the room,
    /// as the most urgent there.
    pub(super) fn take_retry(&mut self, failed: Option<u32>) -> bool {
        if self.grants_all() {
            self.worth.retry();
            return true;
        }
        if failed == Some(1) {
            self.luck.first_failed();
        }
        let free = self.room.is_empty() && f64::from(self.in_flight) + 1.0 <= self.limit;
        // To ask for more than the cap would be in vain.
        let paid = self.tokens > 0
            && (free || failed.is_some_and(|failed| self.luck.may_be_chance(failed)));
        if paid {
            self.worth.retry();
            self.tokens -= 1;
        } else if failed.is_some() {
            self.luck.given_up();
        }
        paid
    }

    /// While the backend is down a retry costs nothing: it will wait as everybody does.
    fn grants_all(&self) -> bool {
        self.is_down() && self.worth.is_free()
    }

    /// As far as what succeeds shows.
    pub(super) fn retries_are_vain(&self) -> bool {
        self.worth.is_vain()
    }

    pub(super) fn retries(&self) -> Option<(u32, u32)> {
        (!self.grants_all()).then_some((self.tokens, MAX_TOKENS))
    }

    pub(super) fn give_retry_back(&mut self) {
        self.worth.give_back();
        if !self.grants_all() {
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
        if self.has_expired(deadline, class, now) {
            return Arrival::Expired;
        }
        self.look(now);
        if self.room.is_empty() && self.admit_one(class, now) {
            return Arrival::Admitted;
        }
        if self.not_before() >= deadline {
            self.counts.throttled += 1;
            self.dispatch(now, wakers);
            return Arrival::Throttled(self.not_before());
        }
        self.enter(Key { class: Reverse(class), deadline, id: self.next_id }, now, wakers)
    }

    /// Whoever comes in time counts as come, whatever becomes of it.
    #[inline]
    pub(super) fn has_expired(&mut self, deadline: Tick, class: Criticality, now: Tick) -> bool {
        let expired = deadline <= now;
        if expired {
            self.counts.expired += 1;
        } else {
            self.observe_arrival(deadline, class, now);
        }
        expired
    }

    #[expect(clippy::cast_precision_loss, reason = "a mean needs no 53 bits")]
    fn observe_arrival(&mut self, deadline: Tick, class: Criticality, now: Tick) {
        self.see_class(class, 1);
        let remaining = deadline.0.saturating_sub(now.0) as f64;
        let gap = now.0.saturating_sub(self.last_arrival.0) as f64;
        if self.patience == 0.0 {
            self.patience = remaining.min(FIRST_PATIENCE);
            self.gap = self.patience / 25.0;
        } else {
            // Who waits for ever does so in its own name only.
            self.patience += (remaining.min(2.0 * self.patience) - self.patience) / 32.0;
            let came = self.unseen + 1;
            let gap = (gap / f64::from(came)).min(self.patience);
            self.gap += (gap - self.gap) * share::<32>(came);
        }
        self.last_arrival = now;
        self.unseen = 0;
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
        if self.heard {
            self.heard = false;
            self.quiet_since = now;
        }
        if self.is_down() || !self.listens() {
            return;
        }
        let quiet = now.0.saturating_sub(self.quiet_since.0);
        if quiet >= self.least_silence() && quiet >= self.silence() {
            self.go_down(true, now);
        }
    }

    /// A silence would mean something. Not where answers are late anyway, and nobody waits for those that are out.
    fn listens(&self) -> bool {
        let late = self.limit < 1.0 && self.in_flight as usize == self.zombies.len();
        !self.fixed && !self.local && self.latency.is_warm() && self.in_flight > 0 && !late
    }

    /// The last to be admitted was not sent: with `left` in flight nobody is, and there is no pause to keep.
    fn sends_none(&mut self, left: u32) {
        if self.in_flight == left {
            self.sent_at = Tick(0);
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
        self.undo_try();
        if self.state == State::Up {
            self.before = self.limit;
        }
        if !silent && !self.worth.is_free() {
            // Fewer are sent again.
            self.before = (self.before / 2.0).max(self.before.min(1.0));
        }
        // What has gathered in a long outage is still there if it fails again before it has recovered.
        self.cold &= self.state == State::Recovering;
        self.counts.downs += 1;
        self.down_since = now;
        // What it has said of an outage before says nothing of this one.
        self.shut_until = Tick(0);
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

    /// For so long what was abandoned is perhaps worked on, all of it; but no longer than callers wait. Half of that at least:
    /// what is done next makes room for one more that perhaps only lengthens a queue.
    fn next_done(&self, now: Tick) -> u64 {
        let next = self.zombies.peek().map_or(u64::MAX, |Reverse(due)| due.0.saturating_sub(now.0));
        let patience = self.patience_nanos();
        next.clamp(patience / 2, patience)
    }

    /// It has said that it takes nothing before then.
    fn not_before(&self) -> Tick {
        let stopped = if self.pace.phase() == Phase::Stopped { self.pace.due() } else { Tick(0) };
        if self.is_down() { stopped.max(self.shut_until) } else { stopped }
    }

    /// A probe was not sent: the next one finds out instead.
    fn unask(&mut self, granted: Tick, now: Tick) {
        if let State::Down { next, .. } = &mut self.state
            && granted >= self.down_since
        {
            *next = now.min(*next);
        }
    }

    fn admit_one(&mut self, class: Criticality, now: Tick) -> bool {
        match self.state {
            State::Down { silent, next } => {
                if now < next.max(self.not_before()) {
                    return false;
                }
                // Perhaps it is only slow, and still works on what was sent: not more than is usual.
                let many = silent && f64::from(self.in_flight) >= self.usual.max(2.0);
                let done = if many { self.next_done(now) } else { 0 };
                let pause = self.probe_interval(silent).max(done);
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
}
