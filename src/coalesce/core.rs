//! One call and those who wait for it: no lock, no user code, no future.

use std::sync::Arc;
use std::task::Waker;

use crate::caught::caught;
use crate::clock::Tick;

/// `C`: the call; `V`: what all get; `O`: what only one can get.
#[derive(Debug)]
pub(super) struct Core<C, V, O> {
    stage: Stage<C, V, O>,
    seats: Vec<Place>,
    free: Vec<usize>,
    taken: usize,
    /// The call wants to be polled.
    woken: bool,
    /// Whether the leader still waits.
    led: bool,
    /// By when the call has to end: the leader's deadline.
    end: Option<Tick>,
}

#[derive(Debug)]
enum Stage<C, V, O> {
    /// With one of those who wait, who polls it.
    Out(usize),
    Parked(C),
    Landed(Arc<V>),
    /// The answer is for one alone: for the leader, until it fetches it.
    Apart(Option<O>),
    Lost,
}

#[derive(Debug)]
enum Place {
    Free,
    Taken(Option<Waker>),
}

/// Whoever made the call.
const LEADER: usize = 0;

/// What somebody who waits is to do.
#[derive(Debug)]
pub(super) enum Turn<C, V, O> {
    Drive(C),
    Wait,
    Landed(Arc<V>),
    Own(O),
    Apart,
    Lost,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Join {
    Seat(usize),
    /// It has ended, or has too little time.
    Another,
    Full,
}

/// Nearly always none or one.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    first: Option<Waker>,
    more: Vec<Waker>,
}

impl Wakers {
    fn push(&mut self, waker: Option<Waker>) {
        match (waker, &self.first) {
            (Some(waker), None) => self.first = Some(waker),
            (Some(waker), Some(_)) => self.more.push(waker),
            (None, _) => {}
        }
    }

    pub(super) fn wake(self) {
        for waker in self.first.into_iter().chain(self.more) {
            // One that panics must not keep the others asleep.
            caught(|| waker.wake());
        }
    }
}

/// What users gave: dropped outside of all locks.
type Rest<C, V, O> = (Option<C>, Option<Arc<V>>, Option<O>, Option<Waker>);

/// What is left of somebody who has gone: to be woken or dropped outside of all locks.
#[derive(Debug)]
pub(super) struct Left<C, V, O> {
    pub(super) wakers: Wakers,
    /// The call ended with it, now.
    pub(super) ended: bool,
    /// It had the call, which it can only lose by a panic.
    pub(super) unmade: bool,
    pub(super) rest: Option<Rest<C, V, O>>,
}

impl<C, V, O> Core<C, V, O> {
    /// A call that is being made by the leader, who has seat 0.
    pub(super) fn new(end: Option<Tick>) -> Self {
        let seats = vec![Place::Taken(None)];
        let (stage, free) = (Stage::Out(LEADER), Vec::new());
        Self { stage, seats, free, taken: 1, woken: true, led: true, end }
    }

    /// Another one who waits until `end`. The call must leave at least half of the time that there is from `now`.
    pub(super) fn join(&mut self, most: usize, end: Option<Tick>, now: Tick) -> Join {
        let over = !matches!(self.stage, Stage::Out(_) | Stage::Parked(_));
        let too_short = match (self.end, end) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(call), Some(own)) => call.since(now) < own.since(now) / 2,
        };
        if over || too_short {
            return Join::Another;
        }
        if self.taken > most {
            return Join::Full;
        }
        self.taken += 1;
        Join::Seat(match self.free.pop() {
            Some(free) => {
                self.seats[free] = Place::Taken(None);
                free
            }
            None => {
                self.seats.push(Place::Taken(None));
                self.seats.len() - 1
            }
        })
    }

    /// Whoever comes first after the call was woken polls it. The waker that was there before is to be dropped
    /// outside of all locks.
    pub(super) fn turn(&mut self, seat: usize, waker: Waker) -> (Turn<C, V, O>, Option<Waker>) {
        let before = match self.seats.get_mut(seat) {
            Some(Place::Taken(place)) => place.replace(waker),
            _ => Some(waker),
        };
        let turn = match &mut self.stage {
            Stage::Parked(_) if self.woken => {
                self.woken = false;
                match std::mem::replace(&mut self.stage, Stage::Out(seat)) {
                    Stage::Parked(call) => Turn::Drive(call),
                    other => {
                        self.stage = other;
                        Turn::Wait
                    }
                }
            }
            Stage::Parked(_) | Stage::Out(_) => Turn::Wait,
            Stage::Landed(value) => Turn::Landed(Arc::clone(value)),
            Stage::Apart(own) => match own.take_if(|_| seat == LEADER) {
                Some(own) => Turn::Own(own),
                None => Turn::Apart,
            },
            Stage::Lost => Turn::Lost,
        };
        (turn, before)
    }

    /// The call has to wait. If it was woken meanwhile, all are told, not only the one who polled it: that one may
    /// not be polled any more.
    pub(super) fn park(&mut self, call: C) -> Wakers {
        self.stage = Stage::Parked(call);
        if self.woken { self.wakers() } else { Wakers::default() }
    }

    /// The call was woken.
    pub(super) fn wake(&mut self) -> Wakers {
        self.woken = true;
        // Out, those who wait are told when it is parked.
        if matches!(self.stage, Stage::Parked(_)) { self.wakers() } else { Wakers::default() }
    }

    /// An answer for all. `Ok` if the one who polled is the only one.
    pub(super) fn land(&mut self, value: V) -> (Result<V, Arc<V>>, Wakers) {
        if self.taken == 1 {
            self.stage = Stage::Lost;
            return (Ok(value), Wakers::default());
        }
        let value = Arc::new(value);
        self.stage = Stage::Landed(Arc::clone(&value));
        (Err(value), self.wakers())
    }

    /// An answer for one: the leader if it is still there, else `seat`, who polled.
    pub(super) fn apart(&mut self, seat: usize, own: O) -> (Option<O>, Wakers) {
        let leader_waits = seat != LEADER && self.led;
        let (kept, back) = if leader_waits { (Some(own), None) } else { (None, Some(own)) };
        self.stage = Stage::Apart(kept);
        (back, self.wakers())
    }

    /// There will be no answer.
    pub(super) fn lose(&mut self) -> Wakers {
        self.stage = Stage::Lost;
        self.wakers()
    }

    /// Somebody has gone, with an answer or without.
    pub(super) fn leave(&mut self, seat: usize) -> Left<C, V, O> {
        let mut left = Left { wakers: Wakers::default(), ended: false, unmade: false, rest: None };
        let place = self.seats.get_mut(seat).map(|place| std::mem::replace(place, Place::Free));
        let Some(Place::Taken(waker)) = place else { return left };
        self.taken -= 1;
        if seat == LEADER {
            self.led = false;
        } else {
            self.free.push(seat);
        }
        let last = self.taken == 0;
        left.unmade = matches!(self.stage, Stage::Out(with) if with == seat);
        left.ended = left.unmade || (last && matches!(self.stage, Stage::Parked(_)));
        if left.ended || last {
            let (call, value, own) = match std::mem::replace(&mut self.stage, Stage::Lost) {
                Stage::Parked(call) => (Some(call), None, None),
                Stage::Landed(value) => (None, Some(value), None),
                Stage::Apart(own) => (None, None, own),
                Stage::Out(_) | Stage::Lost => (None, None, None),
            };
            left.rest = Some((call, value, own, waker));
            left.wakers = self.wakers();
        } else {
            // If the call was woken, all were told, so another one polls it.
            let own = match &mut self.stage {
                Stage::Apart(own) if seat == LEADER => own.take(),
                _ => None,
            };
            left.rest = Some((None, None, own, waker));
        }
        left
    }

    fn wakers(&mut self) -> Wakers {
        let mut all = Wakers::default();
        for seat in &mut self.seats {
            if let Place::Taken(waker) = seat {
                all.push(waker.take());
            }
        }
        all
    }
}
