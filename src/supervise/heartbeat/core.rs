//! When to beat, and what is worth telling. Knows no file and no clock.

use std::time::Duration;

use crate::clock::Tick;

/// What to do in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// Write, then tell [`Core::written`].
    Beat,
    /// Do not: this source made no progress.
    Withheld(usize),
}

/// What happened, in the order in which it is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told<E> {
    Beat,
    Late(Duration),
    Failed(E),
    NoProgress(usize),
    /// Beats are written and on time again.
    Resumed,
    TargetDead,
    TargetBack,
}

/// The schedule is fixed: a beat is due every interval from the start on, however long the last one took.
/// Beats that were missed are not made up for.
#[derive(Debug)]
pub(super) struct Core {
    interval: Duration,
    late_after: Duration,
    /// The round that is due next, or is under way.
    due: Tick,
    /// When the sources were asked for the last beat that was written, and their counts then.
    beat: Option<(Tick, Vec<u64>)>,
    /// The same of the round that is under way.
    round: (Tick, Vec<u64>),
    failing: bool,
    withheld: bool,
    late: bool,
    target_dead: bool,
}

impl Core {
    /// The first beat is due at once.
    pub(super) fn new(now: Tick, interval: Duration, late_after: Duration) -> Self {
        Self {
            interval,
            late_after,
            due: now,
            beat: None,
            round: (now, Vec::new()),
            failing: false,
            withheld: false,
            late: false,
            target_dead: false,
        }
    }

    /// How long until there is something to do.
    pub(super) fn wait(&self, now: Tick) -> Duration {
        self.due.since(now)
    }

    /// Begins the round that is due. `counts` are those of the sources now: all must have changed since the last beat
    /// that was written. The first one shows that the process is there; there is nothing to compare. A round right
    /// after a beat that was late is too soon to ask for progress again.
    pub(super) fn begin(&mut self, now: Tick, counts: Vec<u64>) -> Round {
        let stuck = self.beat.as_ref().and_then(|(at, before)| {
            let too_soon = now.since(*at) < self.interval / 2;
            let stuck = before.iter().zip(&counts).position(|(before, now)| before == now);
            stuck.filter(|_| !too_soon)
        });
        self.round = (now, counts);
        stuck.map_or(Round::Beat, Round::Withheld)
    }

    /// Ends it at `now`.
    pub(super) fn end<E>(&mut self, now: Tick, outcome: Result<(), Told<E>>) -> Vec<Told<E>> {
        let mut told = Vec::new();
        let was_missing = self.failing || self.withheld || self.late;
        let late = now.since(self.due);
        let is_late = late > self.late_after;
        match outcome {
            Ok(()) => {
                self.beat = Some(std::mem::take(&mut self.round));
                self.failing = false;
                self.withheld = false;
                told.push(Told::Beat);
            }
            Err(Told::NoProgress(source)) => {
                if !std::mem::replace(&mut self.withheld, true) {
                    told.push(Told::NoProgress(source));
                }
            }
            Err(failure) => {
                if !std::mem::replace(&mut self.failing, true) {
                    told.push(failure);
                }
            }
        }
        if is_late && !self.late {
            told.push(Told::Late(late));
        }
        self.late = is_late;
        if was_missing && !self.failing && !self.withheld && !self.late {
            told.push(Told::Resumed);
        }
        let intervals = now.since(self.due).as_nanos() / self.interval.as_nanos().max(1);
        let skipped = u32::try_from(intervals).unwrap_or(u32::MAX);
        self.due = self.due.after(self.interval.saturating_mul(skipped)).after(self.interval);
        told
    }

    /// Whether the round that is due, or under way, is late by now; told once. Asked from outside: a
    /// writer that hangs cannot tell.
    pub(super) fn overdue(&mut self, now: Tick) -> Option<Duration> {
        let by = now.since(self.due);
        let late = by > self.late_after;
        (late && !std::mem::replace(&mut self.late, true)).then_some(by)
    }

    /// Looks at the target.
    pub(super) fn target<E>(&mut self, dead: bool) -> Option<Told<E>> {
        match (std::mem::replace(&mut self.target_dead, dead), dead) {
            (false, true) => Some(Told::TargetDead),
            (true, false) => Some(Told::TargetBack),
            _ => None,
        }
    }
}
