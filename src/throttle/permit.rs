use std::sync::Arc;

use super::core::{Answer, End};
use super::handle::Shared;
use super::line::Place;
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
    change: u32,
    /// When it was granted: it is sent at once then.
    granted: Tick,
    sent: Option<Tick>,
}

/// A place in the line, which is left when it is dropped.
struct Held {
    /// `None` once it has no place any more.
    shared: Option<Arc<Shared>>,
    place: Place,
}

/// A turn that has not come.
pub(super) struct Waiting {
    held: Held,
    /// When it is to ask again.
    asks: Tick,
    deadline: Option<Tick>,
    arrived: Tick,
    span: WaitSpan,
}

impl Permit {
    pub(super) fn ask(shared: Arc<Shared>, deadline: Option<Tick>) -> Asked {
        let now = now();
        match shared.step(|core| core.admit(deadline, now)) {
            Answer::Go { change } => Asked::Granted(Self::new(shared, change, now)),
            Answer::Wait(place) => Asked::Wait(Waiting::new(shared, place, deadline, now)),
            refused => Asked::Refused(shared.refuse(refused, now)),
        }
    }

    const fn new(shared: Arc<Shared>, change: u32, granted: Tick) -> Self {
        Self { shared: Some(shared), change, granted, sent: None }
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
                None => shared.step(|core| core.give_back(self.change, now)),
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.finish(End::Ignored);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.step(|core| core.leave(self.place));
        }
    }
}

impl Waiting {
    pub(super) fn new(
        shared: Arc<Shared>,
        place: Place,
        deadline: Option<Tick>,
        now: Tick,
    ) -> Self {
        let name = shared.name;
        let held = Held { shared: Some(shared), place };
        let (asks, span) = (place.asks(now), WaitSpan::NONE);
        let mut waiting = Self { held, asks, deadline, arrived: now, span };
        // Should that panic, the place is left.
        waiting.span = WaitSpan::begin(LayerKind::Throttle, name);
        waiting
    }

    pub(super) const fn at(&self) -> Tick {
        self.asks
    }

    /// When its turn comes, as far as is known.
    #[cfg(all(test, buttress_loom))]
    pub(super) const fn turn(&self) -> Tick {
        self.held.place.turn
    }

    /// Perhaps its turn has come.
    pub(super) fn again(self) -> Asked {
        self.again_at(now())
    }

    pub(super) fn again_at(mut self, now: Tick) -> Asked {
        let Some(shared) = self.held.shared.take_if(|_| now >= self.asks) else {
            return Asked::Wait(self);
        };
        let place = self.held.place;
        match shared.step(|core| core.again(place, self.deadline, now)) {
            Answer::Go { change } => {
                let permit = Permit::new(shared, change, now);
                self.span.end(LET_THROUGH);
                if let Some(shared) = &permit.shared {
                    shared.waited(now.since(self.arrived));
                }
                Asked::Granted(permit)
            }
            Answer::Wait(place) => {
                (self.held.shared, self.held.place) = (Some(shared), place);
                let asks = place.asks(now);
                self.asks = self.deadline.map_or(asks, |at| asks.min(at));
                Asked::Wait(self)
            }
            refused => {
                self.span.end(REFUSED);
                Asked::Refused(shared.refuse(refused, now))
            }
        }
    }
}
