//! The waiting room against a slow, obvious one: calls come, are polled when they were woken or their time has come,
//! end and are given up at every point in between. Nobody may be forgotten, and no place lost or given twice.

use std::collections::HashMap;
use std::mem::discriminant;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Wake, Waker};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::core::Core;
use super::tests::{ABANDONED, MS};
use super::turn::{Arrival, End, Key, Settled, Turn, Wakers};
use crate::clock::Tick;
use crate::context::Criticality;
use crate::seed::seed;

#[derive(Default)]
pub(super) struct Flag(pub(super) AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// The room of a fixed limit as one would explain it.
struct Slow {
    limit: u32,
    max_waiting: usize,
    in_flight: u32,
    /// Class (a higher number is more important), deadline, who it is.
    room: Vec<(usize, u64, u64)>,
    settled: HashMap<u64, Settled>,
}

impl Slow {
    fn arrive(&mut self, (class, deadline, id): (usize, u64, u64), now: u64) -> &'static str {
        if deadline <= now {
            return "expired";
        }
        if self.room.is_empty() && self.in_flight < self.limit {
            self.in_flight += 1;
            return "admitted";
        }
        if self.room.len() >= self.max_waiting {
            // Of the lowest class the latest deadline, and of those who came last.
            let (class_of_last, latest, last) = *self
                .room
                .iter()
                .min_by_key(|(c, d, i)| (*c, u64::MAX - d, u64::MAX - i))
                .expect("somebody is there");
            if class > class_of_last || (class == class_of_last && deadline < latest) {
                self.room.retain(|one| one.2 != last);
                self.settled.insert(last, Settled::Displaced);
            } else {
                return "full";
            }
        }
        self.room.push((class, deadline, id));
        "waits"
    }

    fn leave(&mut self, id: u64) {
        self.room.retain(|one| one.2 != id);
        if matches!(self.settled.remove(&id), Some(Settled::Granted(_))) {
            self.in_flight -= 1;
        }
    }

    /// An answer takes `typical`, and nearly all come within `enough`.
    fn hand_out(&mut self, now: u64, typical: u64, enough: u64) {
        self.room.retain(|&(_, deadline, id)| {
            let hopeless = deadline.saturating_sub(typical) <= now;
            if hopeless {
                self.settled.insert(id, Settled::Hopeless);
            }
            !hopeless
        });
        while self.in_flight < self.limit && !self.room.is_empty() {
            let highest = self.room.iter().map(|one| one.0).max().expect("somebody is there");
            let class = || self.room.iter().filter(|one| one.0 == highest);
            let sure = class().filter(|one| one.1 >= now + enough).min_by_key(|one| (one.1, one.2));
            let next = sure
                .or_else(|| class().max_by_key(|one| (one.1, one.2)))
                .expect("somebody is there")
                .2;
            self.room.retain(|one| one.2 != next);
            self.settled.insert(next, Settled::Granted(Tick(now)));
            self.in_flight += 1;
        }
    }
}

struct Waiter {
    key: Key,
    flag: Arc<Flag>,
    /// `None` until it has been polled for the first time.
    timer: Option<Tick>,
}

struct World {
    random: StdRng,
    core: Core,
    slow: Option<Slow>,
    now: u64,
    /// Since when each of the calls has been out.
    out: Vec<u64>,
    waiting: Vec<Waiter>,
    granted: u64,
    hopeless: u64,
    displaced: u64,
}

const ROOM: usize = 12;

impl World {
    fn new(seed: u64, fixed: Option<u32>) -> Self {
        let (room, settled) = (Vec::new(), HashMap::new());
        Self {
            random: StdRng::seed_from_u64(seed),
            core: Core::new(fixed, ROOM),
            slow: fixed.map(|limit| Slow { limit, max_waiting: ROOM, in_flight: 0, room, settled }),
            now: 1 << 50,
            out: Vec::new(),
            waiting: Vec::new(),
            granted: 0,
            hopeless: 0,
            displaced: 0,
        }
    }

    fn step<T>(&mut self, f: impl FnOnce(&mut Core, Tick, &mut Wakers) -> T) -> T {
        let mut wakers = Wakers::default();
        let done = f(&mut self.core, Tick(self.now), &mut wakers);
        wakers.wake();
        done
    }

    /// What the slow one does in the same step (it says whether places are handed out then), and whether both are as
    /// they should be after it.
    fn compare(&mut self, polled: Option<u64>, slow: impl FnOnce(&mut Slow, u64) -> bool) {
        let (now, latency) = (self.now, &self.core.latency);
        // Who waits is given up for no more than half of what callers wait.
        let typical = latency.typical().min(self.core.patience_nanos() / 2);
        let Some(model) = &mut self.slow else { return };
        if slow(model, now) {
            model.hand_out(now, typical, latency.enough());
        }
        assert_eq!((self.core.waiting(), self.core.in_flight), (model.room.len(), model.in_flight));
        for waiter in self.waiting.iter().filter(|waiter| Some(waiter.key.id) != polled) {
            // Who has not been polled yet will be, and needs nobody to wake it.
            let settled = model.settled.contains_key(&waiter.key.id) && waiter.timer.is_some();
            assert!(!settled || waiter.flag.0.load(Relaxed), "asleep: {:?}", waiter.key);
        }
    }

    fn arrive(&mut self) {
        let class = Criticality::ALL[self.random.random_range(0..Criticality::ALL.len())];
        let deadline = Tick(self.now + self.random.random_range(0..600) * MS / 2);
        let arrival = self.step(|core, now, wakers| core.arrive(deadline, class, now, wakers));
        let (what, id) = match arrival {
            Arrival::Admitted => {
                self.out.push(self.now);
                ("admitted", 0)
            }
            Arrival::Wait(key) => {
                self.waiting.push(Waiter { key, flag: Arc::default(), timer: None });
                ("waits", key.id)
            }
            Arrival::Expired => ("expired", 0),
            Arrival::Full => ("full", 0),
            Arrival::Throttled(_) => unreachable!("nobody has asked for less"),
        };
        // Ranks of its own, so that the model has an order of its own.
        let rank = match class {
            Criticality::CriticalPlus => 4,
            Criticality::Critical => 3,
            Criticality::SheddablePlus => 2,
            Criticality::Sheddable => 1,
        };
        self.compare(None, |slow, now| {
            assert_eq!(slow.arrive((rank, deadline.0, id), now), what);
            what == "waits" || what == "full"
        });
        // As a call does, unless somebody else comes in between.
        if what == "waits" && self.random.random_bool(0.7) {
            self.poll(self.waiting.len() - 1);
        }
    }

    fn poll(&mut self, at: usize) {
        let Waiter { key, flag, .. } = &self.waiting[at];
        let (key, flag) = (*key, Arc::clone(flag));
        flag.0.store(false, Relaxed);
        let waker = Waker::from(flag);
        let turn = self.step(|core, now, wakers| core.poll(key, &waker, now, wakers));
        let waits = |slow: &mut Slow, _| slow.room.iter().any(|one| one.2 == key.id);
        self.compare(Some(key.id), waits);
        let settled = self.slow.as_mut().map(|slow| slow.settled.remove(&key.id));
        match turn {
            Turn::At(timer) => {
                assert!(timer.0 > self.now, "it would be polled for ever");
                assert_eq!(settled.flatten(), None);
                self.waiting[at].timer = Some(timer);
                return;
            }
            Turn::Settled(how) => {
                let same = |settled: Option<Settled>| {
                    settled.map(|settled| discriminant(&settled)) == Some(discriminant(&how))
                };
                assert!(settled.is_none_or(same), "{how:?}: {settled:?}");
                match how {
                    Settled::Granted(_) => self.granted += 1,
                    Settled::Hopeless => self.hopeless += 1,
                    Settled::Displaced => self.displaced += 1,
                    Settled::Throttled(_) => unreachable!("nobody has asked for less"),
                }
                if matches!(how, Settled::Granted(_)) {
                    self.out.push(self.now);
                }
            }
        }
        self.waiting.swap_remove(at);
    }

    fn leave(&mut self, at: usize) {
        let Waiter { key, .. } = self.waiting.swap_remove(at);
        self.step(|core, now, wakers| core.leave(key, now, wakers));
        self.compare(None, |slow, _| {
            slow.leave(key.id);
            true
        });
    }

    fn finish(&mut self, at: usize, end: End) {
        let started = Tick(self.out.swap_remove(at));
        self.step(|core, now, wakers| core.finish(started, end, now, wakers));
        self.compare(None, |slow, _| {
            slow.in_flight -= 1;
            !slow.room.is_empty()
        });
    }

    /// Somebody who was woken, or whose time has come.
    fn due(&self) -> Option<usize> {
        let due = |waiter: &Waiter| {
            waiter.flag.0.load(Relaxed) || waiter.timer.is_none_or(|timer| timer.0 <= self.now)
        };
        self.waiting.iter().position(due)
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            let Some(due) = self.due() else { return };
            self.poll(due);
        }
        panic!("they wake each other for ever");
    }

    /// When everybody who was woken or is due has been polled, polling without a reason finds no place: whoever could
    /// be sent has been.
    fn nobody_is_forgotten(&mut self) {
        self.settle();
        if self.waiting.is_empty() {
            return;
        }
        let before = self.core.counts.admitted;
        let at = self.random.random_range(0..self.waiting.len());
        self.poll(at);
        assert_eq!(self.core.counts.admitted, before, "there was a place, and somebody waited");
    }

    fn turn(&mut self) {
        match self.random.random_range(0..12) {
            0..=3 => self.arrive(),
            4..=6 if !self.out.is_empty() => {
                let at = self.random.random_range(0..self.out.len());
                let ends = [
                    End::Success,
                    End::Success,
                    End::Failure,
                    ABANDONED,
                    End::Answered,
                    End::Ignored,
                ];
                let end = ends[self.random.random_range(0..ends.len())];
                self.finish(at, end);
            }
            7 if !self.waiting.is_empty() => {
                let at = self.random.random_range(0..self.waiting.len());
                self.leave(at);
            }
            8 if !self.waiting.is_empty() => {
                let at = self.random.random_range(0..self.waiting.len());
                self.poll(at);
            }
            9 => {
                if let Some(due) = self.due() {
                    self.poll(due);
                }
            }
            10 => self.nobody_is_forgotten(),
            _ => self.now += self.random.random_range(0..40) * MS / 2,
        }
    }

    /// Nothing comes any more. `answers`: what is out ends one by one; else it hangs.
    fn run_down(&mut self, answers: bool) {
        let last = self.waiting.iter().map(|waiter| waiter.key.deadline.0).max();
        // Perhaps somebody is late with polling already.
        let last = last.unwrap_or(0).max(self.now);
        loop {
            self.nobody_is_forgotten();
            if self.waiting.is_empty() {
                break;
            }
            let next = self
                .waiting
                .iter()
                .filter_map(|waiter| waiter.timer)
                .min()
                .expect("somebody is there")
                .0;
            if answers && !self.out.is_empty() && self.now + MS < next {
                self.now += MS;
                self.finish(0, End::Success);
            } else {
                self.now = self.now.max(next);
            }
        }
        assert!(self.now <= last, "somebody waited beyond its deadline");
        while !self.out.is_empty() {
            self.finish(0, End::Success);
        }
        assert!(format!("{:?}", self.core).contains("settled: []"), "nothing is left behind");
        // When no abandoned call is worked on any more, all places are free.
        self.now += 3_600_000 * MS;
        let deadline = Tick(self.now + 1000 * MS);
        let class = Criticality::Critical;
        match self.step(|core, now, wakers| core.arrive(deadline, class, now, wakers)) {
            Arrival::Admitted => {
                assert_eq!(self.core.in_flight, 1);
                self.step(|core, now, wakers| core.finish(now, End::Success, now, wakers));
            }
            other => panic!("{other:?} although nobody is there"),
        }
        assert_eq!((self.core.in_flight, self.core.waiting()), (0, 0));
    }
}

fn run(fixed: &[Option<u32>]) {
    let seed = seed();
    let (mut granted, mut hopeless, mut displaced) = (0, 0, 0);
    for (n, limit) in (0..300).zip(fixed.iter().cycle()) {
        let mut world = World::new(seed.wrapping_add(n), *limit);
        for _ in 0..400 {
            world.turn();
        }
        let answers = world.random.random_bool(0.5);
        world.run_down(answers);
        granted += world.granted;
        hopeless += world.hopeless;
        displaced += world.displaced;
    }
    println!("{granted} granted, {hopeless} hopeless, {displaced} displaced");
    assert!(granted > 1000 && hopeless > 1000 && displaced > 100, "all of it has happened");
}

#[test]
fn the_room_of_a_fixed_limit_decides_as_the_slow_one() {
    run(&[Some(1), Some(2), Some(3), Some(6)]);
}

/// What the limit is and whether the backend is down is not the room's: here only that nobody is forgotten, that
/// all are told in time, and that every place comes back.
#[test]
fn the_room_of_a_learned_limit_forgets_nobody() {
    run(&[None]);
}
