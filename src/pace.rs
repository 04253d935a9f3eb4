//! How many calls a callee takes, learned from those that it throttles; without clock and timer.

use std::time::Duration;

use self::saved::Saved;
use crate::clock::{Tick, nanos};

#[cfg(all(test, not(buttress_loom)))]
mod measure_tests;
mod saved;
#[cfg(all(test, not(buttress_loom)))]
mod tests;

const SECOND: f64 = 1e9;
/// Taken in a row until the next step up is four times as large: a quota ten times as large is found after
/// two hundred calls, whatever the rate.
const RUN: f64 = 96.0;
/// The first step up, at one call a second. It falls with the square root of the rate: who sends less grows
/// faster, so that those who share a quota come to equal parts.
const STEP: f64 = 0.008;
/// Who sends less than so many a second grows as one who does.
const SLOW: f64 = 4.0;
/// Not throttled for so many seconds: as after a run.
const LONG: f64 = 3.0;
/// A step up until the first is throttled: what was taken of all that came is a rate for calls that come one by one.
const START: f64 = 0.1;
/// The step down for a call that was throttled.
const DOWN: f64 = 0.97;
/// The part of a turn after which the callee is asked again.
const SOON: u64 = 8;
const FLOOR: f64 = 1.01;
/// No more than so many times what was taken of the last ones.
const MOST: f64 = 1.25;
const COUNTED: f64 = 32.0;
/// A rate of which less is taken is wrong.
const WRONG: f64 = 0.6;
/// ... if so many were throttled.
const SURE: f64 = 8.0;
const CERTAIN: f64 = 32.0;
/// Answers after which those before count half.
const MEMORY: f64 = 64.0;
/// Answers before there is a rate, and the time they must be spread over.
const ENOUGH: f64 = 16.0;
const SPREAD: u64 = 5_000_000;
/// Of fewer than one in so many throttled no rate is made, unless it says when to come again: without one little is sent
/// for nothing.
const FEW: f64 = 8.0;
/// Throttled in a row: nothing is taken at all.
const ROW: u32 = 8;
/// Timers wake this much too late, or less.
const LATE: u64 = 50_000_000;
/// The callee is asked at least so often, whatever it says; and if it says nothing.
const LONGEST: u64 = 30_000_000_000;
const LONGEST_GUESS: u64 = 5_000_000_000;
/// Nobody waited and nothing was throttled for so long, and for so many turns: no rate is needed.
const QUIET: u64 = 30_000_000_000;
const QUIET_TURNS: u64 = 64;
/// Nothing was throttled for so long, and for as many turns: what was learned is old, whoever waits.
const OLD: u64 = 300_000_000_000;
/// A call every half minute, and one every nanosecond.
const RATES: (f64, f64) = (1.0 / 30.0, 1e9);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing is throttled.
    Free,
    /// Throttled: everything is sent a little longer, so that a rate can be set.
    Measuring,
    /// Calls go at a rate.
    Limiting,
    /// Nothing is taken: single calls ask.
    Stopped,
}

/// The rate at which one callee takes calls, and whose turn is when.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    phase: Phase,
    /// Calls a second.
    rate: f64,
    /// When the next call goes.
    next: u64,
    saved: Saved,
    /// Turns that were given before the last large change are void.
    change: u32,
    /// What was answered since then, a throttled call only if it was sent since then, too.
    since: Tick,
    /// While it is measured: sent since then.
    asked: f64,
    taken: f64,
    throttled: f64,
    /// One that was throttled said when to come again.
    hinted: bool,
    counted: f64,
    counted_at: Tick,
    measured: f64,
    /// Taken since the last one that was throttled.
    run: f64,
    /// None was throttled since there is a rate.
    starting: bool,
    /// Somebody waits: the rate is what is in the way.
    pressed: bool,
    pressed_at: Tick,
    throttled_at: Tick,
    raised_at: Tick,
    lowered_at: Tick,
    /// Sent since the last one that was taken, of which each that is throttled forgets an eighth: what is never answered
    /// says little for long.
    tried: f64,
    /// Throttled since then, and the rate before; zero if nothing was taken ever since it throttles.
    row: u32,
    before: f64,
    taken_at: Tick,
    /// What an answer takes.
    latency: f64,
    /// What one that refuses took when it was measured.
    refusal: f64,
    pause: u64,
    /// The turn to ask that was given last, while nothing is taken and it has not been answered.
    asking: Option<u64>,
}

impl Pace {
    pub(crate) const fn new() -> Self {
        Self {
            phase: Phase::Free,
            rate: RATES.1,
            next: 0,
            saved: Saved::new(),
            change: 0,
            since: Tick(0),
            asked: 0.0,
            taken: 0.0,
            throttled: 0.0,
            hinted: false,
            counted: 0.0,
            counted_at: Tick(0),
            measured: RATES.1,
            run: 0.0,
            starting: false,
            pressed: false,
            pressed_at: Tick(0),
            throttled_at: Tick(0),
            raised_at: Tick(0),
            lowered_at: Tick(0),
            tried: 0.0,
            row: 0,
            before: 0.0,
            taken_at: Tick(0),
            latency: 0.0,
            refusal: 0.0,
            pause: 0,
            asking: None,
        }
    }

    /// As new, but turns given before are void.
    pub(crate) fn reset(&mut self) {
        *self = Self { change: self.change.wrapping_add(1), ..Self::new() };
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) const fn change(&self) -> u32 {
        self.change
    }

    /// Sent then, it had a turn of the rate as it is.
    pub(crate) fn is_since_change(&self, sent: Tick) -> bool {
        sent >= self.since
    }

    /// When the next turn is.
    pub(crate) const fn due(&self) -> Tick {
        Tick(self.next)
    }

    /// Calls a second that are sent.
    pub(crate) fn rate(&self) -> Option<f64> {
        matches!(self.phase, Phase::Limiting | Phase::Stopped).then_some(self.rate)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 ns to 30 s")]
    fn interval(&self) -> u64 {
        (SECOND / self.rate) as u64
    }

    /// A rate that nobody has needed for long is none.
    #[inline]
    pub(crate) fn forget(&mut self, now: Tick) {
        if self.phase == Phase::Limiting {
            let turns = self.interval().saturating_mul(QUIET_TURNS);
            let needed = self.pressed_at.max(self.throttled_at);
            let old = now.0.saturating_sub(self.throttled_at.0) > OLD.max(turns);
            if old || now.0.saturating_sub(needed.0) > QUIET.max(turns) {
                self.phase = Phase::Free;
                self.change = self.change.wrapping_add(1);
            }
        }
    }

    /// When the next call may go: at once, if that has passed.
    #[inline]
    pub(crate) fn next(&mut self, now: Tick) -> Tick {
        self.forget(now);
        match self.phase {
            Phase::Free | Phase::Measuring => return Tick(0),
            Phase::Limiting => {
                let earliest = now.0.saturating_sub(self.saved.span());
                if self.next < earliest {
                    // Turns that nobody took say nothing of how many it takes.
                    self.counted_at.0 = self.counted_at.0.saturating_add(earliest - self.next);
                    self.next = earliest;
                }
            }
            Phase::Stopped => {}
        }
        Tick(self.next)
    }

    /// When a call may go that waits behind so many others.
    pub(crate) fn turn(&mut self, before: u64, now: Tick) -> Tick {
        let next = self.next(now);
        Tick(next.0.saturating_add(self.each().saturating_mul(before)))
    }

    /// Whether the next turn has come so long ago that the one after it has come as well, or that it is saved no more.
    pub(crate) fn is_lost(&self, now: Tick) -> bool {
        let late = self.interval().min(self.saved.span().max(LATE));
        self.phase == Phase::Limiting && self.next.saturating_add(late) <= now.0
    }

    /// The time between two turns.
    fn each(&self) -> u64 {
        match self.phase {
            Phase::Free | Phase::Measuring => 0,
            Phase::Limiting => self.interval(),
            Phase::Stopped => self.pause,
        }
    }

    /// How many turns that have come are still those of who was to ask then, whom a timer may have woken late.
    pub(crate) fn kept(&self) -> u64 {
        self.saved.span().max(LATE).checked_div(self.each()).map_or(1, |turns| turns + 1)
    }

    /// What is too old to count is forgotten, also if nobody calls.
    pub(crate) fn age(&mut self, now: Tick) {
        self.forget_single(now);
        let _ = self.next(now);
    }

    /// The next turn is given to a call.
    #[inline]
    pub(crate) fn take(&mut self, now: Tick) {
        self.tried += 1.0;
        match self.phase {
            Phase::Free => {}
            Phase::Measuring => self.asked += 1.0,
            Phase::Limiting => {
                let interval = self.interval();
                self.saved.spend(now.0.saturating_sub(self.next), interval, now);
                self.next = self.next.saturating_add(interval);
            }
            Phase::Stopped => {
                self.asking = Some(self.next);
                self.next = self.next.max(now.0).saturating_add(self.pause);
            }
        }
    }

    /// Somebody waits for a turn.
    pub(crate) fn wait(&mut self, now: Tick) {
        self.pressed = true;
        self.pressed_at = now;
        self.saved.wait(now);
    }

    /// A turn was not used, and is nobody's any more.
    pub(crate) fn unsent(&mut self) {
        self.tried = (self.tried - 1.0).max(0.0);
    }

    /// A turn was not used. The next call gets one earlier.
    pub(crate) fn give_back(&mut self, change: u32, now: Tick) {
        if self.change != change {
            return;
        }
        self.unsent();
        match self.phase {
            Phase::Free => {}
            // Perhaps it was asked for before.
            Phase::Measuring => self.asked = (self.asked - 1.0).max(0.0),
            Phase::Limiting => {
                let earliest = now.0.saturating_sub(self.saved.span());
                self.next = self.next.saturating_sub(self.interval()).max(earliest);
            }
            Phase::Stopped => self.next = self.asking.take().unwrap_or(self.next),
        }
    }

    /// The callee took a call.
    #[inline]
    #[expect(clippy::cast_precision_loss, reason = "a time")]
    pub(crate) fn taken(&mut self, sent: Tick, now: Tick) {
        let took = now.0.saturating_sub(sent.0) as f64;
        self.latency += (took - self.latency) / if self.latency == 0.0 { 1.0 } else { 16.0 };
        self.failed(sent, now);
    }

    /// A call failed. It was taken, too: it is no quota that it met. How long that took is not what answers take.
    #[inline]
    pub(crate) fn failed(&mut self, sent: Tick, now: Tick) {
        self.forget_single(now);
        if self.phase != Phase::Free {
            self.answered(sent, now);
        }
    }

    /// One that was throttled long ago, and none since: few calls over a long time are no rate.
    fn forget_single(&mut self, now: Tick) {
        let since = now.0.saturating_sub(self.throttled_at.0);
        if self.phase == Phase::Measuring && since > QUIET {
            self.phase = Phase::Free;
        }
    }

    fn answered(&mut self, sent: Tick, now: Tick) {
        self.taken_at = now;
        (self.tried, self.row) = (0.0, 0);
        self.run += 1.0;
        if sent < self.since && self.phase == Phase::Measuring {
            return;
        }
        self.taken += 1.0;
        self.counted += 1.0;
        self.fade();
        let short = now.0.saturating_sub(self.counted_at.0) < SPREAD;
        if self.counted >= COUNTED && !short && self.phase == Phase::Limiting {
            self.measured = rate(self.counted, self.counted_at, now);
            (self.counted, self.counted_at) = (0.0, now);
        }
        match self.phase {
            Phase::Stopped if sent >= self.since => {
                // It takes calls again: to begin with half of what it took before, if that is known.
                let known = self.before > 0.0;
                self.phase = if known { Phase::Limiting } else { Phase::Measuring };
                self.rate = (self.before / 2.0).clamp(RATES.0, RATES.1);
                self.next = now.0;
                self.change = self.change.wrapping_add(1);
                self.begin(now);
                self.starting = true;
            }
            Phase::Measuring => self.measure(now),
            Phase::Limiting if self.pressed => self.raise(now),
            _ => {}
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "times")]
    fn raise(&mut self, now: Tick) {
        self.pressed = false;
        let since = now.0.saturating_sub(self.raised_at.0) as f64;
        let quiet = now.0.saturating_sub(self.throttled_at.0);
        let longer = (self.run / RUN).max(quiet as f64 / SECOND / LONG).max(1.0);
        let step = (STEP / self.rate.sqrt()).min(STEP / 2.0);
        let step = (step * longer * longer * (since / SECOND * SLOW).max(1.0)).min(0.1);
        // Not before it could be seen what the last ones have brought.
        let seen = (since / self.latency.max(self.interval() as f64)).min(1.0);
        let step = if self.starting { step.max(START * seen) } else { step };
        self.raised_at = now;
        // What the callee has saved up hides that it is too much.
        let free = self.starting || quiet > QUIET;
        let most = if free { RATES.1 } else { self.measured * MOST };
        let most = most.max(self.rate).min(RATES.1);
        self.rate = (self.rate * (1.0 + step)).min(most);
    }

    /// The callee refused one, and perhaps said for how long.
    #[expect(clippy::cast_precision_loss, reason = "a time")]
    pub(crate) fn refused(&mut self, sent: Tick, hint: Option<Duration>, now: Tick) {
        self.forget_single(now);
        // What is less than a second is often said as none.
        let hint = hint.filter(|hint| !hint.is_zero());
        self.throttled_at = now;
        self.tried -= self.tried / f64::from(ROW);
        let took = now.0.saturating_sub(sent.0) as f64;
        match self.phase {
            Phase::Free => {
                self.phase = Phase::Measuring;
                self.refusal = took;
                self.hinted = hint.is_some();
                (self.tried, self.row, self.taken_at) = (0.0, 0, now);
                self.begin(now);
            }
            _ if sent < self.since => {}
            Phase::Measuring => {
                self.throttled += 1.0;
                // The first of them, which may have been an exception, is forgotten.
                self.refusal += (took - self.refusal) / self.throttled;
                self.hinted |= hint.is_some();
                self.row += 1;
                self.measure(now);
                if self.phase == Phase::Limiting {
                    self.stop(hint, now);
                }
            }
            Phase::Limiting => {
                self.lower(sent, now);
                self.stop(hint, now);
            }
            Phase::Stopped => {
                let pause = self.pause_for(hint, self.pause.saturating_mul(2));
                // What it has said holds also if it says no more.
                self.pause = if hint.is_some() { pause } else { pause.max(self.pause) };
                self.next = now.0.saturating_add(self.pause);
                self.asking = None;
                // Nobody is to ask before then, also if it was to be somebody's turn.
                self.change = self.change.wrapping_add(1);
            }
        }
    }

    fn begin(&mut self, now: Tick) {
        (self.asked, self.taken, self.throttled) = (0.0, 0.0, 0.0);
        (self.counted, self.run) = (0.0, 0.0);
        (self.since, self.raised_at, self.counted_at) = (now, now, now);
        self.measured = RATES.1;
    }

    fn fade(&mut self) {
        if self.phase == Phase::Limiting && self.taken + self.throttled >= MEMORY {
            (self.taken, self.throttled) = (self.taken / 2.0, self.throttled / 2.0);
        }
    }

    /// Refusals come sooner than answers: those had time to come, as far as it is known what they take.
    #[expect(clippy::cast_precision_loss, reason = "times")]
    fn is_heard(&self, now: Tick) -> bool {
        self.latency > 0.0 && now.0.saturating_sub(self.since.0) as f64 > 1.5 * self.latency
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time")]
    fn measure(&mut self, now: Tick) {
        // Of those that were sent since the first refusals were known by then.
        let heard = Tick(self.since.0.saturating_add(self.refusal as u64));
        let short = now.0.saturating_sub(heard.0) < SPREAD;
        let answers = self.taken + self.throttled;
        // All that was sent was refused: there is nothing to wait for.
        let all = self.throttled >= CERTAIN.max(self.asked);
        if answers < ENOUGH || (short && !all) {
            return;
        }
        let sent = rate(self.asked.max(answers), self.since, now);
        let refused = rate(self.throttled, heard, now);
        let (enough, sure) = match self.hinted {
            true => (ENOUGH, self.throttled > 0.0),
            false => (MEMORY, self.throttled >= SURE && refused >= sent / FEW),
        };
        if !sure {
            if answers >= enough && self.throttled > 0.0 {
                self.begin(now);
            } else if answers >= enough {
                self.phase = Phase::Free;
            }
            return;
        }
        // What is not refused is taken: to wait for the answers would take as long as they do.
        let known = rate(self.taken + 0.5, self.since, now);
        self.rate = known.max(sent - refused).clamp(RATES.0, RATES.1);
        self.before = if self.taken > 0.0 { self.rate } else { 0.0 };
        self.phase = Phase::Limiting;
        self.saved = Saved::new();
        // Of one that was throttled just now nothing is left.
        self.next = now.0.saturating_add(if self.row > 0 { self.interval() } else { 0 });
        self.change = self.change.wrapping_add(1);
        self.begin(now);
        self.starting = true;
    }

    fn lower(&mut self, sent: Tick, now: Tick) {
        if self.row == 0 {
            self.before = self.rate;
        }
        self.row += 1;
        self.run = 0.0;
        self.raised_at = now;
        self.starting = false;
        // It had nothing left, and did not count this one: most often little was missing.
        let interval = self.interval();
        let soon = ((interval / SOON) << (self.row - 1).min(SOON.ilog2())).min(interval);
        let at = sent.0.saturating_add(soon).max(now.0);
        self.next = self.next.saturating_sub(interval - soon).max(at);
        if self.saved.throttled(sent) {
            self.lowered_at = now;
            return;
        }
        self.throttled += 1.0;
        if sent >= self.lowered_at {
            self.lowered_at = now;
            let least = if self.measured < self.rate { self.measured * FLOOR } else { RATES.0 };
            self.rate = (self.rate * DOWN).max(least);
        }
        self.fade();
        let share = self.taken / (self.taken + self.throttled);
        if share < WRONG && self.throttled >= if self.is_heard(now) { SURE } else { CERTAIN } {
            let least = (self.rate / 4.0).max(self.before / 32.0).max(RATES.0);
            // What is taken of turns that cannot be saved is less of what is sent than of what it takes.
            let known = rate(self.counted, self.counted_at, now).min(self.measured) * 0.9;
            let least = if self.measured < RATES.1 { least.max(known) } else { least };
            self.rate = (self.rate * share).max(least).min(self.rate);
            self.next = now.0.saturating_add(self.interval());
            self.change = self.change.wrapping_add(1);
            self.begin(now);
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a latency")]
    fn stop(&mut self, hint: Option<Duration>, now: Tick) {
        let silent = now.0.saturating_sub(self.taken_at.0);
        let long = (3.0 * self.latency) as u64 + self.interval().saturating_mul(4);
        // As long as most are not throttled, they may have been taken, and only not be answered yet: or some, for as long as
        // it may be that none has been answered yet.
        let unknown = self.latency == 0.0 && silent <= LONGEST_GUESS;
        let most = if unknown { 1.0 } else { 2.0 };
        let open = self.tried > most * f64::from(ROW);
        if self.row < ROW || silent < long || open {
            return;
        }
        self.phase = Phase::Stopped;
        self.rate = if self.before > 0.0 { self.before } else { self.rate };
        self.pause = self.pause_for(hint, self.interval().saturating_mul(8));
        self.next = now.0.saturating_add(self.pause);
        self.asking = None;
        self.change = self.change.wrapping_add(1);
        self.begin(now);
    }

    fn pause_for(&self, hint: Option<Duration>, guess: u64) -> u64 {
        let longest = hint.map_or(LONGEST_GUESS, |_| LONGEST);
        let pause = hint.map_or(guess, nanos);
        pause.max(self.interval()).clamp(1_000_000, longest)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a time")]
fn rate(calls: f64, from: Tick, to: Tick) -> f64 {
    calls / to.0.saturating_sub(from.0).max(SPREAD) as f64 * SECOND
}
