//! What a signal comes to, whichever way it came.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::Phase;
use super::guard;
use super::report::{ForcedExit, ShutdownCause};
use super::shared::Shared;
use super::signals::{OnSignal, Signal, Step};

/// Lives on the thread that hears the signals.
pub(super) struct Listener {
    shared: Arc<Shared>,
    /// A signal has come that ends the process: not later than at the deadline.
    armed: bool,
}

impl Listener {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, armed: false }
    }

    /// Until the process has to [end](Self::end).
    pub(super) fn left(&self) -> Option<Duration> {
        let deadline = if self.armed { self.shared.deadline() } else { None };
        deadline.map(|end| end.saturating_duration_since(Instant::now()))
    }

    pub(super) fn end(&self) -> ! {
        guard::force(&self.shared, ForcedExit::Deadline)
    }

    /// For the `count`th time, from 1.
    pub(super) fn came(&mut self, signal: Signal, does: OnSignal, count: u32) {
        match does.step(count) {
            Step::Nothing => {}
            Step::Begin => {
                self.armed = true;
                self.shared.begin(ShutdownCause::Signal(signal), false);
            }
            Step::Hurry => {
                let deadline = self.shared.deadline();
                self.shared.life.advance(Phase::Cleanup, deadline);
            }
            Step::Exit => guard::force(&self.shared, ForcedExit::Escalated(signal)),
        }
    }
}
