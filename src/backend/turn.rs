//! What a backend and its callers say to each other: how a call arrives, waits and ends, and who is to be woken.

use std::cmp::Reverse;
use std::task::Waker;
use std::time::Duration;

use crate::caught::caught;
use crate::clock::Tick;
use crate::context::Criticality;

/// How a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Up,
    Congested,
    Down { silent: bool, next: Tick },
    Recovering,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Success,
    Failure,
    /// It asks for less, by a quota that says when to come again: what is too much is the rate.
    Throttled(Duration),
    /// It cannot, and says when to come again.
    Unavailable(Duration),
    /// It asks for less and says nothing of when: what is too much is what is in flight, or else the rate.
    TooMany,
    /// It lives, but how long it took says nothing: a refusal for what is wrong with the request.
    Answered,
    /// Says nothing.
    Ignored,
    /// Nobody waits for it any longer, the backend may still work on it.
    Abandoned {
        deadline: Tick,
    },
}

/// Highest class first, then the earliest deadline, then who came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(super) class: Reverse<Criticality>,
    pub(super) deadline: Tick,
    pub(super) id: u64,
}

impl Key {
    pub(crate) const fn deadline(self) -> Tick {
        self.deadline
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Since now; or since then, if the pace has changed or it has gone down after that: it is no turn of now's.
    Granted(Tick),
    /// It cannot be answered in time any more.
    Hopeless,
    /// Somebody more important needed the place.
    Displaced,
    /// There is no turn for it in the quota: not before then.
    Throttled(Tick),
}

#[derive(Debug)]
pub(crate) enum Arrival {
    Admitted,
    Wait(Key),
    Expired,
    Full,
    /// Nothing is taken before then, which is too late for it.
    Throttled(Tick),
}

#[derive(Debug)]
pub(crate) enum Turn {
    Settled(Settled),
    /// To be polled again then at the latest.
    At(Tick),
}

/// To wake, or only to drop, once the lock is gone: both are somebody else's code.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    wake: Vec<Waker>,
    drop: Vec<Waker>,
}

impl Wakers {
    pub(super) fn add(&mut self, waker: Option<Waker>) {
        self.wake.extend(waker);
    }

    pub(super) fn discard(&mut self, waker: Option<Waker>) {
        self.drop.extend(waker);
    }

    #[inline]
    pub(super) fn wake(self) {
        if !self.wake.is_empty() {
            self.wake_all();
        }
    }

    #[cold]
    fn wake_all(self) {
        for waker in self.wake {
            // One that panics must not keep the others asleep, nor lose what the step has decided.
            caught(|| waker.wake());
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) admitted: u64,
    pub(super) waited: u64,
    pub(super) hopeless: u64,
    pub(super) full: u64,
    pub(super) expired: u64,
    pub(super) probes: u64,
    pub(super) downs: u64,
    pub(super) throttled: u64,
}
