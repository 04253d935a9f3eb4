//! A call beside a list of those who wait for it and of all that has happened to it, read anew each time: who polls it, who is
//! told, who gets what, and with whom it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Wake, Waker};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::core::{Core, Join, Left, Turn};
use crate::clock::Tick;
use crate::seed::seed;

#[derive(Default)]
struct Told(AtomicU32);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// Somebody who waits.
struct Person {
    seat: usize,
    leads: bool,
    told: Arc<Told>,
    /// How often it should have been told.
    times: u32,
    /// It has asked, and was told nothing since.
    listens: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// By whoever has this seat.
    Polled(usize),
    Parked,
    Woken,
    /// With an answer for all, or for one, or with none.
    Landed(u64),
    Apart(u64),
    Lost,
    /// Whoever it was for has it.
    Fetched,
}

/// What somebody who asks is told.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Drive,
    Wait,
    Landed(u64),
    Own(u64),
    Apart,
    Lost,
}

struct World {
    core: Core<&'static str, u64, u64>,
    people: Vec<Person>,
    log: Vec<Event>,
    end: Option<Tick>,
    most: usize,
    now: Tick,
    random: SmallRng,
    next: u64,
    seen: Seen,
}

/// How often what was to be tried has been.
#[derive(Debug, Default)]
struct Seen {
    handed_over: u32,
    shared: u32,
    own: u32,
    another: u32,
    full: u32,
    unmade: u32,
    ended: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let now = Tick(1 << 50);
        let end = random.random_bool(0.5).then(|| now.after(seconds(&mut random)));
        let most = random.random_range(0..6);
        let log = vec![Event::Woken, Event::Polled(0)];
        let (core, people, seen) = (Core::new(end), Vec::new(), Seen::default());
        let mut world = Self { core, people, log, end, most, now, random, next: 0, seen };
        world.sits(0, true);
        // The leader has made it; it was never polled.
        world.log.push(Event::Woken);
        world
    }

    fn sits(&mut self, seat: usize, leads: bool) {
        assert!(self.people.iter().all(|one| one.seat != seat), "somebody has seat {seat}");
        let told = Arc::new(Told::default());
        self.people.push(Person { seat, leads, told, times: 0, listens: false });
    }

    /// How it ended.
    fn over(&self) -> Option<Event> {
        let ends =
            |event: &&Event| matches!(event, Event::Landed(_) | Event::Apart(_) | Event::Lost);
        self.log.iter().find(ends).copied()
    }

    /// The seat of whoever polls it.
    fn with(&self) -> Option<usize> {
        self.log.iter().rev().find_map(|event| match event {
            Event::Polled(seat) => Some(Some(*seat)),
            Event::Woken | Event::Fetched => None,
            _ => Some(None),
        })?
    }

    /// Since it was polled last.
    fn woken(&self) -> bool {
        let last = self.log.iter().rev().take_while(|event| !matches!(event, Event::Polled(_)));
        last.copied().any(|event| event == Event::Woken)
    }

    fn tells_all(&mut self) {
        for one in self.people.iter_mut().filter(|one| one.listens) {
            one.listens = false;
            one.times += 1;
        }
    }

    fn joins(&mut self) {
        let end = self.random.random_bool(0.7).then(|| self.now.after(seconds(&mut self.random)));
        let join = self.core.join(self.most, end, self.now);
        let left = |end: Option<Tick>| end.map_or(Duration::MAX, |end| end.since(self.now));
        let enough = self.end.is_none() || left(self.end).saturating_mul(2) >= left(end);
        match join {
            Join::Another => {
                assert!(self.over().is_some() || !enough, "it could wait");
                self.seen.another += u32::from(self.over().is_none());
            }
            Join::Full => {
                assert!(self.over().is_none() && enough && self.people.len() == self.most + 1);
                self.seen.full += 1;
            }
            Join::Seat(seat) => {
                assert!(self.over().is_none() && enough && self.people.len() <= self.most);
                self.sits(seat, false);
            }
        }
    }

    /// What whoever asks now has to be told.
    fn expected(&self, person: usize) -> Said {
        match self.over() {
            Some(Event::Landed(value)) => Said::Landed(value),
            Some(Event::Apart(own)) => {
                let kept = !self.log.contains(&Event::Fetched);
                if self.people[person].leads && kept { Said::Own(own) } else { Said::Apart }
            }
            Some(_) => Said::Lost,
            None if self.with().is_none() && self.woken() => Said::Drive,
            None => Said::Wait,
        }
    }

    fn asks(&mut self, person: usize) {
        let expected = self.expected(person);
        let one = &mut self.people[person];
        one.listens = true;
        let (seat, waker) = (one.seat, Waker::from(Arc::clone(&one.told)));
        let said = match self.core.turn(seat, waker).0 {
            Turn::Drive(_) => Said::Drive,
            Turn::Wait => Said::Wait,
            Turn::Landed(value) => Said::Landed(*value),
            Turn::Own(own) => Said::Own(own),
            Turn::Apart => Said::Apart,
            Turn::Lost => Said::Lost,
        };
        assert_eq!(said, expected, "seat {seat}");
        match said {
            Said::Drive => {
                let before = |event: &Event| matches!(event, Event::Polled(by) if *by != seat);
                self.seen.handed_over += u32::from(self.log.iter().any(before));
                self.log.push(Event::Polled(seat));
            }
            Said::Own(_) => {
                self.log.push(Event::Fetched);
                self.seen.own += 1;
            }
            Said::Landed(_) => self.seen.shared += 1,
            Said::Wait | Said::Apart | Said::Lost => {}
        }
    }

    /// Whoever polls it is done with that.
    fn polled(&mut self, seat: usize) {
        self.next += 1;
        match self.random.random_range(0..20) {
            0 => {
                let (own, wakers) = self.core.land(self.next);
                let alone = self.people.len() == 1;
                assert_eq!(own.is_ok(), alone, "only one waits");
                assert_eq!(own.unwrap_or_else(|all| *all), self.next);
                // Who is alone with it takes it along.
                self.log.push(if alone { Event::Lost } else { Event::Landed(self.next) });
                if !alone {
                    self.tells_all();
                }
                wakers.wake();
            }
            1..=2 => {
                let (back, wakers) = self.core.apart(seat, self.next);
                let leader = self.people.iter().find(|one| one.leads);
                let to_leader = leader.is_some_and(|leader| leader.seat != seat);
                assert_eq!(back, (!to_leader).then_some(self.next));
                self.log.push(Event::Apart(self.next));
                if !to_leader {
                    self.log.push(Event::Fetched);
                }
                self.tells_all();
                wakers.wake();
            }
            3 => {
                self.log.push(Event::Lost);
                self.tells_all();
                self.core.lose().wake();
            }
            _ => {
                if self.woken() {
                    self.tells_all();
                }
                self.log.push(Event::Parked);
                self.core.park("call").wake();
            }
        }
    }

    fn wakes(&mut self) {
        if self.over().is_none() && self.with().is_none() {
            self.tells_all();
        }
        self.log.push(Event::Woken);
        self.core.wake().wake();
    }

    fn leaves(&mut self, person: usize) {
        let Person { seat, leads, .. } = self.people.swap_remove(person);
        let (over, with) = (self.over(), self.with());
        let last = self.people.is_empty();
        let parked = over.is_none() && with.is_none();
        let kept = !self.log.contains(&Event::Fetched);
        let unmade = over.is_none() && with == Some(seat);

        let Left { wakers, ended, unmade: was_unmade, rest } = self.core.leave(seat);
        let (call, value, own, _) = rest.expect("it had a place");
        assert_eq!(was_unmade, unmade, "it had the call");
        assert_eq!(ended, unmade || (parked && last), "the call ends with it");
        assert_eq!(call.is_some(), parked && last, "the last one takes the call with it");
        let landed = match over {
            Some(Event::Landed(landed)) if last => Some(landed),
            _ => None,
        };
        assert_eq!(value.map(|value| *value), landed, "and the answer");
        let own_left = matches!(over, Some(Event::Apart(_))) && kept && (leads || last);
        assert_eq!(own.is_some(), own_left, "the answer for it");
        if own_left {
            self.log.push(Event::Fetched);
        }
        if ended {
            self.log.push(Event::Lost);
            self.tells_all();
        }
        self.seen.unmade += u32::from(unmade && !last);
        self.seen.ended += u32::from(ended && !unmade);
        wakers.wake();
    }

    fn step(&mut self) {
        self.now = self.now.after(Duration::from_millis(self.random.random_range(0..500) * 2));
        let person = self.random.random_range(0..self.people.len());
        match self.random.random_range(0..100) {
            0..20 => self.joins(),
            20..30 => self.wakes(),
            30..35 => self.leaves(person),
            _ => match self.with() {
                Some(seat) if self.random.random_bool(0.3) => self.polled(seat),
                Some(seat) if self.people[person].seat == seat => {}
                _ => self.asks(person),
            },
        }
        self.agrees();
    }

    fn agrees(&self) {
        for one in &self.people {
            assert_eq!(one.told.0.load(Relaxed), one.times, "told: seat {}", one.seat);
        }
        // Nobody waits for good: of a call that wants to be polled somebody knows who has not asked since.
        if self.over().is_none() && self.with().is_none() && self.woken() {
            let knows = |one: &Person| !one.listens;
            assert!(self.people.is_empty() || self.people.iter().any(knows), "nobody polls it");
        }
    }
}

/// Even in nanoseconds, of which half are compared.
fn seconds(random: &mut SmallRng) -> Duration {
    Duration::from_millis(random.random_range(0..60_000) * 2)
}

#[test]
fn a_call_does_what_the_slow_model_says() {
    let seed = seed();
    let mut all = [0_u32; 7];
    for n in 0..1_000 {
        let mut world = World::new(seed.wrapping_add(n));
        for _ in 0..200 {
            if world.people.is_empty() {
                break;
            }
            world.step();
        }
        let Seen { handed_over, shared, own, another, full, unmade, ended } = world.seen;
        let seen = [handed_over, shared, own, another, full, unmade, ended];
        all.iter_mut().zip(seen).for_each(|(sum, more)| *sum += more);
    }
    println!("{all:?}");
    // It has been tried.
    assert!(all.iter().all(|many| *many > 10), "{all:?}");
}
