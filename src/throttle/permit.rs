use std::sync::Arc;

use super::core::{Answer, End};
use super::handle::Shared;
use crate::clock::{Tick, now};
use crate::name::LayerKind;
use crate::observe::{LET_THROUGH, REFUSED, WaitSpan};
use crate::rejection::Rejection;

/// What a call is told that wants to be sent.
pub(super) enum Asked {
    Granted(Permit),
    Wait(Waiting),
    Refused(Rejection),
}

/// A turn, and later a call: told how it ended once, at the latest when it is dropped.
pub(super) struct Permit {
    /// `None` once it was told.
    shared: Option<Arc<Shared>>,
    turn: Tick,
    change: u32,
    /// When it was granted: it is sent at once then.
    granted: Tick,
    sent: Option<Tick>,
}

/// A turn that has not come.
pub(super) struct Waiting {
    permit: Permit,
    deadline: Option<Tick>,
    arrived: Tick,
    span: WaitSpan,
}

impl Permit {
    pub(super) fn ask(shared: Arc<Shared>, deadline: Option<Tick>) -> Asked {
        let now = now();
        let answer = shared.step(|core| core.admit(deadline, now));
        Self::told(shared, answer, deadline, now, now, WaitSpan::NONE)
    }

    fn told(
        shared: Arc<Shared>,
        answer: Answer,
        deadline: Option<Tick>,
        arrived: Tick,
        now: Tick,
        mut span: WaitSpan,
    ) -> Asked {
        match answer {
            Answer::Go { at, change } => {
                let permit =
                    Self { shared: Some(shared), turn: at, change, granted: now, sent: None };
                let Some(shared) = &permit.shared else { return Asked::Granted(permit) };
                if at <= now {
                    if arrived < now {
                        span.end(LET_THROUGH);
                        shared.waited(now.since(arrived));
                    }
                    Asked::Granted(permit)
                } else {
                    if arrived == now {
                        span = WaitSpan::begin(LayerKind::Throttle, shared.name);
                    }
                    Asked::Wait(Waiting { permit, deadline, arrived, span })
                }
            }
            refused => {
                span.end(REFUSED);
                Asked::Refused(shared.refuse(refused, now))
            }
        }
    }

    /// The call is made now.
    pub(super) fn sent(&mut self) {
        if let Some(shared) = &self.shared {
            self.sent = Some(self.granted);
            shared.step(|core| core.sent(self.granted));
        }
    }

    pub(super) fn finish(&mut self, end: End) {
        if let Some(shared) = self.shared.take() {
            let now = now();
            match self.sent {
                Some(sent) => shared.step(|core| core.finish(sent, end, now)),
                None => shared.step(|core| core.give_back(self.change, self.turn, now)),
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.finish(End::Ignored);
    }
}

impl Waiting {
    pub(super) const fn at(&self) -> Tick {
        self.permit.turn
    }

    /// The turn has come, if it was not moved meanwhile.
    pub(super) fn again(self) -> Asked {
        self.again_at(now())
    }

    pub(super) fn again_at(mut self, now: Tick) -> Asked {
        let Some(shared) = self.permit.shared.take() else { return Asked::Granted(self.permit) };
        if now < self.permit.turn {
            self.permit.shared = Some(shared);
            return Asked::Wait(self);
        }
        let had = (self.permit.turn, self.permit.change);
        let (deadline, arrived) = (self.deadline, self.arrived);
        match shared.step(|core| core.again(had, deadline, arrived, now)) {
            None => {
                self.span.end(LET_THROUGH);
                shared.waited(now.since(arrived));
                (self.permit.shared, self.permit.granted) = (Some(shared), now);
                Asked::Granted(self.permit)
            }
            Some(answer) => Permit::told(shared, answer, deadline, arrived, now, self.span),
        }
    }
}
