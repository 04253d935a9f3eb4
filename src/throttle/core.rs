//! How many calls the callee accepts, learned from those it throttles, without clock and timer.

use std::time::Duration;

use crate::clock::{Tick, nanos};

const SECOND: f64 = 1e9;
/// Sent beyond what is accepted, so that a quota never goes unused: so many of what is sent are throttled.
const OVER: f64 = 0.03;
/// Accepted in a row until that doubles; twice as many, and it is four times as much: a quota that was raised is
/// found after a few hundred calls, whatever the rate.
const GROW: f64 = 100.0;
/// Calls that may go at once.
const BURST: f64 = 3.0;
/// Answers of a kind before a rate is set.
const ENOUGH: u32 = 16;
/// ... and so long, lest it be one batch.
const SOON: f64 = 100e6;
/// What is remembered fades over the longer of so many nanoseconds and so many calls.
const MEMORY: f64 = 5e9;
const MEMORY_CALLS: f64 = 50.0;
/// Below this share of the last calls accepted the rate is wrong. Refusals come sooner than answers, and in
/// batches: not of a few.
const WRONG: f64 = 0.6;
const SHARE: f64 = 48.0;
/// Throttled in a row, with a rate: nothing is accepted at all.
const ROW: u32 = 8;
/// ... and for so long.
const QUARTER: u64 = 250_000_000;
/// Once in so long the callee is asked, whatever it has said.
const LONGEST: u64 = 30_000_000_000;
/// Nothing held back for so long: no rate is needed any more.
const QUIET: u64 = 30_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is throttled.
    Free,
    /// Throttled; so that a rate can be set everything is sent a little longer.
    Measuring,
    Limiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admit {
    /// To be sent after so many nanoseconds. A place that is not used is given back.
    After(u64),
    /// Not within the time it has: it would be sent after so many.
    Refused(u64),
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) phase: Phase,
    /// Calls a second that are accepted.
    pub(super) accepted_rate: f64,
    /// Calls accepted in so many nanoseconds, fading.
    sums: (f64, f64),
    /// Since the last call that was throttled.
    span_start: Tick,
    span_accepted: f64,
    span_throttled: u32,
    /// More could have been sent in it: it says nothing of the quota.
    span_idle: bool,
    in_a_row: f64,
    /// When the next call goes.
    next: u64,
    paused_until: u64,
    /// Of what was sent at this rate.
    share: f64,
    row: u32,
    /// What was accepted before the row.
    before_row: f64,
    accepted_at: Tick,
    changed_at: Tick,
    needed_at: Tick,
}

impl Core {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Free,
            accepted_rate: 0.0,
            sums: (0.0, 0.0),
            span_start: Tick(0),
            span_accepted: 0.0,
            span_throttled: 0,
            span_idle: false,
            in_a_row: 0.0,
            next: 0,
            paused_until: 0,
            share: 1.0,
            row: 0,
            before_row: 0.0,
            accepted_at: Tick(0),
            changed_at: Tick(0),
            needed_at: Tick(0),
        }
    }

    /// Calls a second that are sent.
    pub(super) fn rate(&self) -> f64 {
        let grown = 1.0 + self.in_a_row / GROW;
        // Never so low that it would not be found out for a minute.
        (self.accepted_rate * (1.0 + OVER * grown * grown)).clamp(1.0 / 30.0, 1e9)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 ns to 30 s")]
    fn interval(&self) -> u64 {
        (SECOND / self.rate()) as u64
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "three intervals"
    )]
    fn earliest(&self, now: Tick) -> u64 {
        now.0.saturating_sub((self.interval() as f64 * (BURST - 1.0)) as u64)
    }

    /// A call that has `left`. It waits for a tenth of that, or for two turns if they are further apart, but not
    /// for more than half of it: the rest is the callee's.
    pub(super) fn admit(&mut self, left: u64, max_wait: u64, now: Tick) -> Admit {
        if self.phase != Phase::Limiting {
            return Admit::After(0);
        }
        if now.0.saturating_sub(self.needed_at.0) > QUIET {
            self.phase = Phase::Free;
            return Admit::After(0);
        }
        let earliest = self.earliest(now);
        if self.next < earliest {
            self.next = earliest;
            self.span_idle = true;
        }
        let interval = self.interval();
        let patience = (left / 10).max(interval.saturating_mul(2).min(left / 2)).min(max_wait);
        // A turn that was far away when the rate was low is not, once it is not.
        let line = patience.max(interval).saturating_add(interval);
        self.next = self.next.min(self.paused_until.max(now.0.saturating_add(line)));
        let wait = self.next.saturating_sub(now.0);
        if wait > 0 {
            self.needed_at = now;
        }
        if wait > patience {
            return Admit::Refused(wait);
        }
        self.next = self.next.saturating_add(self.interval());
        Admit::After(wait)
    }

    /// A place was not used. Those behind keep theirs; the next call gets one earlier.
    pub(super) fn give_back(&mut self, now: Tick) {
        if self.phase == Phase::Limiting {
            let earliest = self.earliest(now);
            self.next = self.next.saturating_sub(self.interval()).max(earliest);
        }
    }

    /// The callee took a call.
    pub(super) fn accepted(&mut self, sent: Tick, now: Tick) {
        match self.phase {
            Phase::Free => {}
            Phase::Measuring => {
                self.span_accepted += 1.0;
                self.measure(None, now);
            }
            Phase::Limiting => {
                self.span_accepted += 1.0;
                self.in_a_row += 1.0;
                self.accepted_at = now;
                if sent >= self.changed_at {
                    if self.row >= ROW {
                        // It takes calls again: as before, to begin with half of it.
                        self.accepted_rate = self.accepted_rate.max(self.before_row / 2.0);
                        self.sums = (self.accepted_rate, SECOND);
                        self.change(now);
                    }
                    self.row = 0;
                    self.share += (1.0 - self.share) / SHARE;
                }
            }
        }
    }

    /// The callee refused one, and perhaps said for how long.
    pub(super) fn throttled(&mut self, sent: Tick, hint: Option<Duration>, now: Tick) {
        let hint = hint.map(|hint| nanos(hint).min(LONGEST));
        self.needed_at = now;
        match self.phase {
            Phase::Free => {
                self.phase = Phase::Measuring;
                self.begin_span(now);
            }
            Phase::Measuring => {
                self.span_throttled += 1;
                self.measure(hint, now);
            }
            Phase::Limiting => self.learn(sent, hint, now),
        }
    }

    fn begin_span(&mut self, now: Tick) {
        self.span_start = now;
        self.span_accepted = 0.0;
        self.span_throttled = 0;
        self.span_idle = false;
        self.in_a_row = 0.0;
    }

    #[expect(clippy::cast_precision_loss, reason = "a time")]
    fn span(&self, now: Tick) -> f64 {
        now.0.saturating_sub(self.span_start.0).max(1_000_000) as f64
    }

    fn measure(&mut self, hint: Option<u64>, now: Tick) {
        let span = self.span(now);
        let accepted = self.span_accepted >= f64::from(ENOUGH) && span >= SOON;
        let none = self.span_accepted == 0.0 && self.span_throttled >= ENOUGH;
        if !accepted && !none && self.span_throttled < 4 * ENOUGH {
            return;
        }
        // Rather too much: what is throttled corrects it at once, what is not sent is lost.
        let many = self.span_accepted + 2.0 * self.span_accepted.sqrt();
        self.accepted_rate = many / span * SECOND;
        self.sums = (self.span_accepted, span);
        self.phase = Phase::Limiting;
        self.next = now.0;
        if self.span_accepted == 0.0 {
            self.pause(hint, now);
        }
        self.change(now);
        self.begin_span(now);
    }

    fn change(&mut self, now: Tick) {
        self.changed_at = now;
        self.share = 1.0;
        self.row = 0;
    }

    fn pause(&mut self, hint: Option<u64>, now: Tick) {
        let pause = hint.unwrap_or_else(|| self.interval()).min(LONGEST);
        self.paused_until = now.0.saturating_add(pause);
        self.next = self.next.max(self.paused_until);
    }

    /// Whenever a call is throttled the callee has nothing left. So what it took since the last one that was is
    /// what it allows in that time, to the call, whatever was saved up before.
    fn learn(&mut self, sent: Tick, hint: Option<u64>, now: Tick) {
        let before = self.rate();
        if self.row == 0 {
            self.before_row = self.accepted_rate;
        }
        let span = self.span(now);
        let seen = self.span_accepted / span * SECOND;
        if self.span_idle {
            if seen > self.accepted_rate {
                self.accepted_rate = seen;
                self.sums = (seen, SECOND);
            }
        } else {
            let memory = MEMORY.max(MEMORY_CALLS * SECOND / self.accepted_rate.max(1e-3));
            let keep = (-span / memory).exp();
            self.sums = (self.sums.0 * keep + self.span_accepted, self.sums.1 * keep + span);
            self.accepted_rate = self.sums.0 / self.sums.1 * SECOND;
        }
        // A row that nothing interrupts is for the pause: from nothing no rate grows again.
        self.accepted_rate = self.accepted_rate.max(self.before_row / 20.0);
        self.begin_span(now);
        if sent < self.changed_at {
            return;
        }
        if self.rate() < 0.95 * before {
            // It has been lowered for all that was sent until now.
            let row = self.row + 1;
            self.change(now);
            self.row = row;
            return;
        }
        self.share -= self.share / SHARE;
        self.row += 1;
        if self.share < WRONG {
            // What was sent, times the share of it that was accepted.
            self.accepted_rate = self.accepted_rate.min(before * self.share);
            self.sums = (self.accepted_rate, SECOND);
            let row = self.row;
            self.change(now);
            self.row = row;
        }
        // Refusals come sooner than answers: not before those had time to come.
        let silent = now.0.saturating_sub(self.accepted_at.0);
        if self.row >= ROW && silent >= QUARTER {
            self.pause(hint, now);
        }
    }
}

#[cfg(all(test, not(buttress_loom)))]
#[path = "core_tests.rs"]
mod tests;
