//! Backends that are played, with time of its own, behind a core and everybody who waits for it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;

use super::core::Core;
use super::model_tests::Flag;
use super::tests::{MS, at};
use super::turn::{Arrival, End, Key, Settled, Turn, Wakers};
use crate::clock::Tick;
use crate::context::Criticality;

pub(super) const SECOND: u64 = 1000 * MS;
/// What a sink has not got an answer for it sends again after so long.
const BACKOFF: u64 = SECOND;

/// How a request ends that comes with so many in service, itself among them.
pub(super) enum Answer {
    After(u64),
    /// "Too many", after so long.
    Refused(u64),
    /// Never; it is not worked on.
    Never,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// Of a request that was sent then.
    Ends(u64, How, u32),
    /// Nobody works on it any more.
    Done,
    Comes(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum How {
    Answered,
    Refused,
    Forgotten,
}

/// A number over the time that it has been so.
#[derive(Debug, Default)]
struct Level {
    now: u64,
    since: u64,
    sum: u128,
    max: u64,
}

impl Level {
    fn set(&mut self, level: u64, now: u64) {
        self.sum += u128::from(self.now) * u128::from(now - self.since);
        (self.now, self.since, self.max) = (level, now, self.max.max(level));
    }

    fn mean(&self, from: u64) -> f64 {
        self.sum as f64 / (self.since - from) as f64
    }
}

/// What was seen of it.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) limit_mean: f64,
    pub(super) limit_max: u64,
    pub(super) in_service_mean: f64,
    pub(super) in_service_max: u64,
    /// Requests within a second.
    pub(super) rate_mean: f64,
    pub(super) rate_max: u64,
    pub(super) seconds: f64,
    /// In each second.
    pub(super) answered: Vec<u32>,
    /// Of each class, from the lowest to the highest.
    pub(super) by_class: [u32; 4],
    pub(super) refused: u32,
    /// Sent, and not answered in time.
    pub(super) forgotten: u32,
    /// Not even sent.
    pub(super) unsent: u32,
    /// Milliseconds.
    pub(super) typical: u64,
    pub(super) baseline: u64,
    /// It is over then.
    pub(super) end: u64,
}

impl Ran {
    /// Answered a second, from one second to another.
    pub(super) fn goodput(&self, from: usize, until: usize) -> f64 {
        let many = self.answered.iter().take(until).skip(from).sum::<u32>();
        f64::from(many) / (until - from) as f64
    }
}

/// Who sends.
pub(super) struct Source {
    pub(super) requests: u32,
    /// A caller waits so long, for its turn and the answer together.
    pub(super) patience: u64,
    /// It makes no request while one waits, and sends again what was not answered. Else requests come whatever becomes of
    /// those before, a quarter of each class if that is asked for.
    pub(super) sink: bool,
    pub(super) classes: bool,
}

struct Waiter {
    key: Key,
    n: u32,
    woken: Arc<Flag>,
    timer: u64,
}

struct Play<'a> {
    source: &'a Source,
    core: &'a mut Core,
    start: u64,
    now: u64,
    answer: &'a mut dyn FnMut(u64, u64, u64) -> Answer,
    next: BinaryHeap<Reverse<(u64, What)>>,
    waiting: Vec<Waiter>,
    sent: VecDeque<u64>,
    limit: Level,
    in_service: Level,
    rate: Level,
    answered: Vec<u32>,
    by_class: [u32; 4],
    refused: u32,
    forgotten: u32,
    unsent: u32,
    over: u32,
}

impl Play<'_> {
    fn step<T>(&mut self, f: impl FnOnce(&mut Core, Tick, &mut Wakers) -> T) -> T {
        let mut wakers = Wakers::default();
        let done = f(self.core, Tick(self.now), &mut wakers);
        wakers.wake();
        done
    }

    fn class(&self, n: u32) -> usize {
        if self.source.classes { n as usize % 4 } else { 2 }
    }

    fn admitted(&mut self, deadline: u64, n: u32) {
        let now = self.now;
        self.sent.push_back(now);
        while self.sent.front().is_some_and(|at| at + SECOND <= now) {
            self.sent.pop_front();
        }
        let rate = self.sent.len() as u64;
        self.rate.set(rate, now);
        let level = self.in_service.now + 1;
        let (how, ends, done) = match (self.answer)(level, rate, now - self.start) {
            // Sent for its whole time, as if it had not waited for its turn.
            Answer::Never => (How::Forgotten, now + self.source.patience, None),
            Answer::Refused(after) => (How::Refused, now + after, Some(now + after)),
            Answer::After(after) if now + after > deadline && !self.source.sink => {
                (How::Forgotten, deadline, Some(now + after))
            }
            Answer::After(after) => (How::Answered, now + after, Some(now + after)),
        };
        if let Some(done) = done {
            self.in_service.set(level, now);
            self.next.push(Reverse((done, What::Done)));
        }
        self.next.push(Reverse((ends, What::Ends(now, how, n))));
    }

    fn comes(&mut self, n: u32) {
        let deadline = self.now + self.source.patience;
        let class = Criticality::ALL[self.class(n)];
        match self.step(|core, now, wakers| core.arrive(Tick(deadline), class, now, wakers)) {
            Arrival::Admitted => self.admitted(deadline, n),
            // It is polled at once.
            Arrival::Wait(key) => {
                self.waiting.push(Waiter { key, n, woken: Arc::default(), timer: 0 });
            }
            Arrival::Full | Arrival::Throttled(_) => self.is_not_sent(n),
            other @ Arrival::Expired => panic!("{other:?}"),
        }
    }

    fn is_not_sent(&mut self, n: u32) {
        self.unsent += 1;
        self.is_over(n, false);
    }

    fn is_over(&mut self, n: u32, answered: bool) {
        if answered || !self.source.sink {
            self.over += 1;
        } else {
            self.next.push(Reverse((self.now + BACKOFF, What::Comes(n))));
        }
    }

    fn ends(&mut self, sent: u64, how: How, n: u32) {
        let now = self.now;
        let end = match how {
            How::Answered => {
                let second = usize::try_from((now - self.start) / SECOND).expect("not so many");
                self.answered.resize(self.answered.len().max(second + 1), 0);
                self.answered[second] += 1;
                self.by_class[self.class(n)] += 1;
                End::Success
            }
            How::Refused => {
                self.refused += 1;
                End::TooMany
            }
            How::Forgotten => {
                self.forgotten += 1;
                End::Abandoned { deadline: Tick(now) }
            }
        };
        self.step(|core, now, wakers| core.finish(Tick(sent), end, now, wakers));
        self.is_over(n, how == How::Answered);
    }

    /// Whoever was woken or is due looks; when the next is.
    fn turns(&mut self) -> u64 {
        let due = |play: &Self| {
            play.waiting.iter().position(|one| one.timer <= play.now || one.woken.0.load(Relaxed))
        };
        while let Some(at) = due(self) {
            let Waiter { key, n, ref woken, .. } = self.waiting[at];
            woken.0.store(false, Relaxed);
            let waker = Waker::from(Arc::clone(woken));
            match self.step(|core, now, wakers| core.poll(key, &waker, now, wakers)) {
                Turn::At(Tick(timer)) => {
                    assert!(timer > self.now, "it would look for ever");
                    self.waiting[at].timer = timer;
                    continue;
                }
                Turn::Settled(Settled::Granted(_)) => self.admitted(key.deadline.0, n),
                Turn::Settled(_) => self.is_not_sent(n),
            }
            self.waiting.remove(at);
        }
        self.waiting.iter().map(|one| one.timer).min().unwrap_or(u64::MAX)
    }

    fn happens(&mut self, what: What) {
        match what {
            What::Comes(n) => self.comes(n),
            What::Ends(sent, how, n) => self.ends(sent, how, n),
            What::Done => self.in_service.set(self.in_service.now - 1, self.now),
        }
    }
}

impl Source {
    /// The time in nanoseconds from one request to the next is asked for with the time since the start; the answer with how
    /// many are in service, how many were sent within a second, and the time.
    pub(super) fn play(
        &self,
        core: &mut Core,
        from: u64,
        mut gap: impl FnMut(u64) -> u64,
        mut answer: impl FnMut(u64, u64, u64) -> Answer,
    ) -> Ran {
        let start = at(from).0;
        let level = || Level { since: start, ..Level::default() };
        let mut play = Play {
            source: self,
            core,
            start,
            now: start,
            answer: &mut answer,
            next: BinaryHeap::new(),
            waiting: Vec::new(),
            sent: VecDeque::new(),
            limit: level(),
            in_service: level(),
            rate: level(),
            answered: Vec::new(),
            by_class: [0; 4],
            refused: 0,
            forgotten: 0,
            unsent: 0,
            over: 0,
        };
        let (mut made, mut due) = (0, start);
        while play.over < self.requests {
            let makes = |play: &Play<'_>, made, due| {
                let held = self.sink && !play.waiting.is_empty();
                made < self.requests && due <= play.now && !held
            };
            while makes(&play, made, due) {
                play.comes(made);
                made += 1;
                due = if self.sink { play.now } else { due } + gap(play.now - start);
            }
            let again = play.turns();
            let (now, limit) = (play.now, play.core.limit());
            play.limit.set(u64::from(limit), now);
            if makes(&play, made, due) {
                continue;
            }
            let next = play.next.peek().map_or(u64::MAX, |Reverse((next, _))| *next);
            let made_next = if made < self.requests && due > now { due } else { u64::MAX };
            play.now = next.min(made_next).min(again);
            if play.over == self.requests {
                break;
            }
            assert!(play.now > now && play.now < start + 600 * SECOND, "it gets nowhere");
            while let Some(&Reverse((_, what))) =
                play.next.peek().filter(|Reverse((next, _))| *next <= play.now)
            {
                play.next.pop();
                play.happens(what);
            }
        }
        let ran = Ran {
            limit_mean: play.limit.mean(start),
            limit_max: play.limit.max,
            in_service_mean: play.in_service.mean(start),
            in_service_max: play.in_service.max,
            rate_mean: play.rate.mean(start),
            rate_max: play.rate.max,
            seconds: (play.now - start) as f64 / SECOND as f64,
            answered: play.answered,
            by_class: play.by_class,
            refused: play.refused,
            forgotten: play.forgotten,
            unsent: play.unsent,
            typical: play.core.latency.typical() / MS,
            baseline: play.core.latency.baseline() / MS,
            end: from + (play.now - start) / MS + 1,
        };
        println!("{ran:?}");
        ran
    }
}
