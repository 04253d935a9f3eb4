//! What is asked of it.

use crate::clock::Tick;

use super::{Core, End, Mode, State, Why};

impl Core {
    /// All end, in order; those that still run at `deadline` are killed then. A later one can only make
    /// it sooner.
    pub(in crate::supervise::process) fn request_stop(&mut self, deadline: Option<Tick>) {
        let (end, deadline) = match self.mode {
            Mode::Running | Mode::Regroup { .. } => (End::Stopped, deadline),
            Mode::Ending { end, deadline: other } => (end, deadline.into_iter().chain(other).min()),
            Mode::Ended(_) => return,
        };
        self.mode = Mode::Ending { end, deadline };
    }

    /// Stops it and starts it again, which is no failure. False if it does not run, or all end.
    pub(in crate::supervise::process) fn restart(&mut self, index: usize, now: Tick) -> bool {
        let runs = matches!(self.kids[index].state, State::Starting { .. } | State::Up { .. });
        let can = runs && self.mode == Mode::Running && self.kids[index].pid.is_some();
        if can {
            self.stop(index, Why::Asked, now);
        }
        can
    }
}
