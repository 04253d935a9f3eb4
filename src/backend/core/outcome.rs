//! What the end of a call says.

use std::cmp::Reverse;
use std::time::Duration;

use super::worth::Change;
use super::{Core, MAX_TOKENS, STALL};
use crate::backend::turn::{End, State, Wakers};
use crate::clock::Tick;
use crate::pace::Phase;

/// After an answer that asks for less, so many successes pass before extra attempts are sent again and the limit
/// grows.
const THROTTLED: u32 = 100;
/// A limit that was lowered so often for that is half of what it was.
const HALVED: u32 = 7;
/// Failures in a row that no success of a later call interrupts. With 70 % errors one in 70 such rows.
const DOWN_AFTER: u32 = 12;
/// ... and as many as would come by chance, at the rate that was usual before, once in so many rows.
const CHANCE: f64 = 1e-5;
const NO_CHANCE: u32 = 100;
/// For so many that have failed one is out that may succeed. With 70 % errors there are two for five of them.
const STILL_OUT: u32 = 4;
/// Who has waited this part of what callers wait has waited for the answer, and not gone for reasons of its own.
const IN_VAIN: f64 = 4.0;
/// Measuring an answer that takes longer than this many nanoseconds costs less than one in a hundred of them. Of those
/// that come sooner, and need not even be waited for, one in so many is measured.
const QUICK: u64 = 10_000;
/// Down, it is asked at least so often, whatever it says.
const LONGEST: Duration = Duration::from_secs(30);
/// Answers say something of a queue for so many times what callers wait, where that is few of them.
const LATELY: f64 = 2.0;
/// One of so many answers that come at once is measured...
const MEASURED: u32 = 32;
/// ... but as soon as calls are not answered at once they count for more: nobody may answer them any more.
const NOT_AT_ONCE: u32 = 4;

/// Whether the next call is to be measured after so many that were not.
#[inline]
pub(in crate::backend) const fn is_due(unmeasured: u32, not_at_once: u32) -> bool {
    unmeasured + (NOT_AT_ONCE - 1) * not_at_once >= MEASURED - 1
}

impl Core {
    /// Admitted, and then not sent.
    pub(in crate::backend) fn finish_unsent(
        &mut self,
        started: Tick,
        now: Tick,
        wakers: &mut Wakers,
    ) {
        self.unask(started, now);
        self.finish_unready(started, now, wakers);
    }

    /// The same, since it cannot be sent: if it was to ask whether the backend is back, that is an answer. Before the last
    /// change of the pace it had no turn, or one that is void.
    pub(in crate::backend) fn finish_unready(
        &mut self,
        started: Tick,
        now: Tick,
        wakers: &mut Wakers,
    ) {
        if self.pace.is_since_change(started) {
            self.pace.give_back(self.pace.change(), now);
        }
        self.sends_none(1);
        self.finish(started, End::Ignored, now, wakers);
    }

    /// A call that was admitted has ended.
    #[inline]
    pub(in crate::backend) fn finish(
        &mut self,
        started: Tick,
        end: End,
        now: Tick,
        wakers: &mut Wakers,
    ) {
        let end = self.judge(end);
        if self.failures > 0 && started < self.failing_since {
            self.older = self.older.saturating_sub(1);
        }
        let took = now.0.saturating_sub(started.0);
        let reached = self.is_reached();
        let lately = self.lately(now);
        self.latency.at(now, lately);
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
                self.gain.settle_doubt(&self.latency, now);
                if self.quick || self.fixed {
                    self.stop_weighing();
                } else if self.gain.note(self.in_flight + 1, self.latency.last(), started, now) {
                    self.weigh(now);
                }
            }
            End::Failure => {
                // Who asks whether it is up says nothing of how many are sent, but may end a trial.
                if !self.is_down() || started < self.down_since || !self.worth.is_free() {
                    let change = self.worth.failed(&self.latency, now);
                    self.change_for_failures(change);
                }
                self.failed(now);
                self.pace.failed(started, now);
            }
            End::Throttled(after) => {
                self.throttled = THROTTLED;
                if self.learns_quota {
                    self.pace.refused(started, Some(after), now);
                    if self.is_down() && started >= self.down_since {
                        self.shut_until = now.after(after.min(LONGEST));
                    }
                }
            }
            End::TooMany => {
                self.lowered = if self.throttled == 0 { 0 } else { self.lowered };
                self.throttled = THROTTLED;
                self.ask_for_less(now);
                // Of half as many in flight it refuses some as well: what is too much is the rate. A limit that is
                // fixed is never lowered, and nothing is known.
                let in_vain = self.lowered >= HALVED;
                if self.learns_quota && (in_vain || self.pace.phase() != Phase::Free) {
                    self.pace.refused(started, None, now);
                }
            }
            End::Answered => {
                self.worth.all_succeeded(1);
                self.succeeded(started, now);
                self.pace.taken(started, now);
            }
            End::Unavailable(_) | End::Ignored | End::Abandoned { .. } => {}
        }
        if end != End::Ignored && !self.fixed {
            self.shrink(now);
        }
        self.earn(end);
        if !self.room.is_empty() {
            self.dispatch(now, wakers);
        }
    }

    /// That it says when to come again is its quota, if that is learned: then it is held to it. Else nothing would be, and
    /// it is the failure that it is.
    const fn judge(&self, end: End) -> End {
        match end {
            End::Unavailable(after) if self.learns_quota => End::Throttled(after),
            End::Unavailable(_) => End::Failure,
            end => end,
        }
    }

    /// For how many the time of the call that has just been admitted stands, if it is answered in the poll in which it
    /// is sent. None, if its like are answered so quickly that some of them say enough, and nothing is out of the
    /// ordinary: it need not be measured then.
    #[inline]
    pub(in crate::backend) fn stands_for(&mut self) -> u32 {
        if !self.all_is_well() {
            return 1;
        }
        if !is_due(self.unmeasured, self.not_at_once) {
            self.unmeasured += 1;
            return 0;
        }
        // For all of them: that it is answered at once is as likely of this one as of any.
        let many = self.unmeasured + 1;
        (self.unmeasured, self.not_at_once) = (0, 0);
        many
    }

    /// Such a call has succeeded.
    #[inline]
    pub(in crate::backend) fn finish_at_once(&mut self, started: Tick, wakers: &mut Wakers) {
        let reached = self.is_reached();
        self.in_flight -= 1;
        self.heard = true;
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
        let crowded = !self.room.is_empty() && f64::from(self.in_flight) + 2.0 > self.limit;
        let change = self.worth.succeeded(crowded, &self.latency, now);
        if change != Change::None {
            self.change_for_failures(change);
        }
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
        let earns = if self.worth.is_free() {
            answered && self.earns()
        } else {
            end == End::Success && self.throttled == 0 && self.worth.pays()
        };
        if earns {
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
        // A pause is for what is known to be late: nothing is known of how long it would have to be.
        self.limit = (self.limit / 2.0).max(self.limit.min(1.0));
    }

    /// Whose callers would be gone by now says nothing of a queue. While calls wait few answers come because few are sent:
    /// as many count as when they began to.
    fn lately(&mut self, now: Tick) -> u64 {
        if self.patience == 0.0 {
            return u64::MAX;
        }
        if self.room.is_empty() {
            return self.long();
        }
        self.crowd(now);
        now.0.saturating_sub(self.crowded_since.0).saturating_add(self.long())
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds")]
    fn long(&self) -> u64 {
        (LATELY * self.patience) as u64
    }

    /// Somebody waits.
    pub(super) fn crowd(&mut self, now: Tick) {
        if now.0.saturating_sub(self.crowded_at.0) > self.long() {
            self.crowded_since = now;
        }
        self.crowded_at = now;
    }

    /// Half of it is in use: what is measured then says something about it.
    fn is_reached(&self) -> bool {
        f64::from(self.in_flight) * 2.0 >= self.limit || !self.room.is_empty()
    }

    #[expect(clippy::cast_precision_loss, reason = "at most a million")]
    fn succeeded(&mut self, started: Tick, now: Tick) {
        self.luck.succeeded(1);
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
            self.cold |= now.0.saturating_sub(self.down_since.0) >= self.patience_nanos();
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
            self.older = self.unanswered();
        }
        self.failures = self.failures.saturating_add(1);
        let many = self.failures >= self.down_after();
        if many && !self.is_down() && !self.fixed && !self.may_yet_succeed(now) {
            self.go_down(false, now);
        }
    }

    /// Errors come sooner than answers: of what was sent since the first of them much is still out, and no answer to it can
    /// have come.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
    fn may_yet_succeed(&self, now: Tick) -> bool {
        let newer = self.unanswered().saturating_sub(self.older);
        let since = now.0.saturating_sub(self.failing_since.0);
        newer > self.failures / STILL_OUT && (since as f64) < STALL * self.latency.typical() as f64
    }

    #[expect(clippy::cast_possible_truncation, reason = "no more than are in flight")]
    fn unanswered(&self) -> u32 {
        self.in_flight - self.zombies.len() as u32
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    fn down_after(&self) -> u32 {
        let row = CHANCE.ln() / self.failing.clamp(1e-9, 0.99).ln();
        (row.ceil() as u32).clamp(DOWN_AFTER, NO_CHANCE)
    }
}
