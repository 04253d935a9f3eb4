//! How many may be in flight: it grows, falls, and reaches further for what is more important.

use super::{Core, FLOOR, MAX_LIMIT, START, TARGET};
use crate::backend::turn::State;
use crate::clock::Tick;
use crate::context::Criticality;

const ALWAYS: f64 = 16.0;
/// What is slower for so many times as long as it took to believe it is no queue of others: a delay that stays.
const LASTING: u64 = 32;
/// Without an answer for an eighth of what callers wait, and for each sixteenth more, it doubles: until it is a quarter.
const PARTS: u64 = 16;
const DOUBLINGS: u64 = 3;
/// A throttled answer leaves so much of the limit.
const ASKED_FOR_LESS: f64 = 0.9;
/// What is in flight is sometimes half again as much as on average.
const SPARE: f64 = 1.5;
/// So many not answered in time are more than chance.
const MISSED: f64 = 0.125;
/// ... and so many more than slow ones among quick ones.
const MANY: f64 = 0.25;
/// The quickest but one of sixteen takes so much of the baseline if there is a queue, or if they hardly differ.
const QUICKEST: f64 = 0.75;
/// A queue that is to blame for it takes so much of what callers wait.
const QUEUED: f64 = 0.125;
/// Answers may take one in so many parts of what callers wait: in one queue, and where several answer and each has its own.
const PART: f64 = 10.0;
const PART_OF_SEVERAL: f64 = 3.0;
/// More than this share is most of it.
const MOST: f64 = 0.5;

impl Core {
    /// How many may be in flight before one of this class has to wait. A more important one goes beyond the limit by
    /// the share of what is less important, which waits for it: the more of that there is, the less it matters
    /// which of it is sent; and by one at least if that is most of it, as there is no share of a limit of one. And if
    /// those as important as it are the lesser part, as many may be out as they need when nothing is wrong, however
    /// many others have taken the backend for themselves.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds")]
    pub(super) fn limit_for(&self, class: Criticality) -> f64 {
        if self.fixed {
            return self.limit;
        }
        let slow = self.latency.ratio().clamp(1.0, self.target());
        let rate = SPARE * slow * self.latency.baseline() as f64 / self.gap.max(1.0);
        // A cold backend gets little of everything.
        let rate = if self.state == State::Recovering { 0.0 } else { rate };
        let (mut below, mut most) = (0.0, self.limit);
        for (one, share) in Criticality::ALL.into_iter().zip(self.shares) {
            if one > class {
                break;
            }
            let lesser = f64::min(2.0 * below, 1.0);
            let one = if below > MOST && self.limit >= 1.0 { self.limit + 1.0 } else { 0.0 };
            most = most.max(self.limit * (1.0 + below)).max(one).max(rate * (1.0 - below) * lesser);
            below += share;
        }
        most
    }

    /// How many times the baseline answers may take: twice, or a tenth of what callers wait. The second is the
    /// same for all who share the backend, whatever each has taken for its baseline. Of several it is a third: with a queue
    /// before each of them calls wait at one while others have nothing to do, and are not too many for all that.
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    fn target(&self) -> f64 {
        let part = if self.several { PART_OF_SEVERAL } else { PART };
        let part = self.patience / part / (self.latency.baseline().max(1) as f64);
        part.clamp(TARGET, 4.0)
    }

    /// Answers take longer than this share of the target, and a queue can be the cause.
    pub(super) fn is_slower_than(&self, share: f64) -> bool {
        // Three quarters of the least target is half again the baseline.
        if self.latency.is_near() {
            return false;
        }
        let target = self.target();
        self.latency.ratio() > share * target && self.latency.queue() > share * (target - 1.0)
    }

    /// What is out is all that was ever sent, and nothing of it has ended.
    fn begins(&self) -> bool {
        !self.fixed
            && self.starting
            && self.state == State::Up
            // Below that it was set.
            && self.limit >= START
            && self.in_flight > 0
            && self.failures == 0
            && self.throttled == 0
            && self.settled_at == Tick(0)
            && self.latency.is_empty()
    }

    /// How often that has doubled, and in how long it does for the next time.
    fn doublings(&self, now: Tick) -> (u64, u64) {
        let part = (self.patience_nanos() / PARTS).max(1);
        let out = now.0.saturating_sub(self.quiet_since.0);
        let done = (out / part).saturating_sub(1).min(DOUBLINGS);
        let next = if done < DOUBLINGS { (done + 2) * part - out } else { u64::MAX };
        (done, next)
    }

    /// Its first answer takes long, and to wait for that would be to lose who waits: as many as come, with a bound that
    /// doubles.
    #[expect(clippy::cast_precision_loss, reason = "at most a million")]
    pub(super) fn begin(&mut self, now: Tick) {
        if self.room.is_empty() || !self.begins() {
            return;
        }
        let there = f64::from(self.in_flight) + self.room.len() as f64;
        let most = START * (1_u64 << self.doublings(now).0) as f64;
        self.limit = self.limit.max(there.min(most));
    }

    /// When that bound doubles for the next time.
    pub(super) fn begins_at(&self, now: Tick) -> Tick {
        let next = if self.begins() { self.doublings(now).1 } else { u64::MAX };
        Tick(now.0.saturating_add(next))
    }

    pub(super) fn grow(&mut self, reached: bool) {
        if self.fixed || self.is_down() || self.is_slower_than(0.75) {
            return;
        }
        self.floored = None;
        if self.state == State::Congested {
            self.state = State::Up;
        }
        // Where few come it is never reached, and is enough after as many answers.
        self.answered = if reached { 0 } else { self.answered.saturating_add(1) };
        if self.state == State::Recovering && f64::from(self.answered) >= self.before {
            self.state = State::Up;
        }
        let vain = self.worth.is_vain();
        if !reached || vain || self.throttled > 0 || self.misses(MISSED / 2.0) {
            return;
        }
        let most = if self.state == State::Up {
            self.gain.most(self.starting, self.before).max(self.limit)
        } else {
            f64::INFINITY
        };
        if self.starting {
            self.limit += self.limit.min(1.0);
        } else if self.state == State::Recovering {
            // What was sent while it was down is perhaps before this one, or it can do less than it could.
            self.limit += self.limit.min(1.0 / self.latency.last_ratio());
            if self.limit >= self.before {
                self.state = State::Up;
            }
        } else {
            self.limit += (1.0 / self.limit.sqrt()).min(self.limit / 2.0);
        }
        self.limit = self.limit.min(self.most_used()).min(most);
    }

    /// Never far beyond what was in use.
    pub(super) fn most_used(&self) -> f64 {
        (f64::from(self.peak) * 5.0).max(ALWAYS).min(f64::from(MAX_LIMIT))
    }

    /// It says so itself, and says it quickly: no answer would ever take longer.
    pub(super) fn ask_for_less(&mut self, now: Tick) {
        let pause = self.latency.typical();
        if self.fixed || self.is_down() || now.0.saturating_sub(self.settled_at.0) < pause {
            return;
        }
        self.settled_at = now;
        self.starting = false;
        self.lowered = self.lowered.saturating_add(1);
        // It answers, and quickly: what is below one is for queues.
        self.limit = (self.limit * ASKED_FOR_LESS).max(self.limit.min(1.0));
    }

    /// Below one: a call is followed by a pause.
    pub(in crate::backend) fn pauses(&self) -> bool {
        self.limit < 1.0
    }

    /// The share that is given up at its deadline, if that is more than chance.
    pub(in crate::backend) fn late(&self) -> Option<f64> {
        self.misses(MISSED / 2.0).then_some(self.missed)
    }

    fn floor(&self) -> f64 {
        // Less than one in flight is for queues that callers feel.
        let least = if self.waits_long() { FLOOR } else { self.limit.min(1.0) };
        (self.usual * 0.75).max(least).min(self.before)
    }

    /// Even the quickest answers, which wait as all do in one queue, take much of what callers wait.
    fn waits_long(&self) -> bool {
        self.latency.quickest_nanos() > self.patience * QUEUED
    }

    /// More than this share is not answered in time, and a queue can be the cause: even the quickest wait in one.
    fn misses(&self, share: f64) -> bool {
        self.missed > share
            && self.latency.is_warm()
            && self.waits_long()
            && (self.latency.queue() > QUICKEST || self.missed > MANY)
    }

    /// Sent, and not answered in time. If that happens to more than a few, fewer in flight would be answered sooner,
    /// whatever the baseline says.
    pub(super) fn came_late(&mut self, started: Tick, now: Tick) {
        // Then the baseline says it already.
        if self.is_slower_than(1.0) {
            return;
        }
        self.missed += (1.0 - self.missed) / 16.0;
        if self.fixed || started < self.settled_at || !self.misses(MISSED) {
            return;
        }
        self.settled_at = now;
        self.starting = false;
        if self.state == State::Up {
            self.before = self.limit.min(f64::from(self.peak.max(4)));
        }
        self.state = State::Congested;
        self.peak = self.in_flight;
        self.limit = (self.limit * 0.7).max(self.floor());
    }

    /// When the next of this class may go as far as a limit below one is concerned: with a half, a call is followed by
    /// a pause as long as it takes.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds")]
    pub(super) fn turn(&self, class: Criticality) -> Tick {
        let most = self.limit.max(self.limit_for(class));
        if most >= 1.0 {
            return Tick(0);
        }
        let typical = self.latency.typical() as f64;
        let takes = if self.latency.is_warm() { typical } else { self.patience };
        // One in the time that callers wait finds out when there is room again.
        Tick(self.sent_at.0.saturating_add((takes / most).min(self.patience) as u64))
    }

    /// At most once in the time that an answer takes.
    pub(super) fn shrink(&mut self, now: Tick) {
        if self.is_down() || !self.is_slower_than(1.0) {
            return;
        }
        let (ratio, target) = (self.latency.ratio(), self.target());
        if now.0.saturating_sub(self.settled_at.0) < self.latency.typical() {
            return;
        }
        self.settled_at = now;
        self.starting = false;
        if self.state == State::Up {
            self.limit = self.limit.min(f64::from(self.peak.max(4)));
            // In doubt it is what holds the limit down, and would do so more with each small trouble.
            let least = if self.gain.is_in_doubt() { self.before } else { 0.0 };
            self.before = self.limit.max(least);
        }
        self.state = State::Congested;
        self.peak = self.in_flight;
        let floor = self.floor();
        self.limit = (self.limit * (target / ratio).max(0.7)).max(floor);
        if self.limit > floor {
            self.floored = None;
            return;
        }
        // So few cannot be the cause, once what was sent before is done. It is slow by itself, unless answers hardly
        // differ: then it is others' queue, or something that adds the same to all, and only time can tell.
        let since = *self.floored.get_or_insert(now);
        let long = self.patience_nanos().saturating_add(self.latency.typical().saturating_mul(8));
        let alone = self.usual > 0.0 && self.latency.differs_as_usual();
        let long = if alone { long } else { long.saturating_mul(8) };
        if now.0.saturating_sub(since.0) >= long {
            self.floored = None;
            if !alone {
                self.gain
                    .doubt(&self.latency, Tick(now.0.saturating_add(long.saturating_mul(LASTING))));
            }
            self.latency.rebase();
        }
    }
}
