//! What is.

use crate::clock::Tick;

use super::super::exit::Exit;
use super::{Core, End, Mode, Seen, State, Step, Totals};

impl Core {
    pub(in crate::supervise::process) const fn ended(&self) -> Option<End> {
        match self.mode {
            Mode::Ended(end) => Some(end),
            _ => None,
        }
    }

    pub(in crate::supervise::process) const fn has_escalated(&self) -> bool {
        let (Mode::Ending { end, .. } | Mode::Ended(end)) = self.mode else { return false };
        matches!(end, End::Escalated { .. })
    }

    /// Whether all that are to run are up.
    pub(in crate::supervise::process) fn all_ready(&self) -> bool {
        self.mode == Mode::Running
            && self.kids.iter().all(|kid| matches!(kid.state, State::Up { .. } | State::Done))
    }

    pub(in crate::supervise::process) const fn totals(&self) -> Totals {
        self.totals
    }

    pub(in crate::supervise::process) fn run(&self, index: usize) -> u64 {
        self.kids[index].run
    }

    pub(in crate::supervise::process) fn pid(&self, index: usize) -> Option<u32> {
        self.kids[index].pid
    }

    pub(in crate::supervise::process) fn restarts(&self, index: usize) -> u64 {
        self.kids[index].restarts
    }

    pub(in crate::supervise::process) fn last_exit(&self, index: usize) -> Option<Exit> {
        self.kids[index].last
    }

    pub(in crate::supervise::process) fn seen(&self, index: usize, now: Tick) -> Seen {
        match self.kids[index].state {
            State::Waiting => Seen::Waiting,
            State::Backoff { until } => Seen::Backoff(until.since(now)),
            State::Starting { .. } => Seen::Starting,
            State::Up { since } => Seen::Up(now.since(since)),
            State::Stopping { step: Step::Stuck, .. } => Seen::Unkillable,
            State::Stopping { .. } => Seen::Stopping,
            State::Stopped => Seen::Stopped,
            State::Done => Seen::Finished,
        }
    }
}
