//! Callees that take so many calls a second, and callers who want more.

use std::collections::{BinaryHeap, VecDeque};

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECONDS: u64 = 1_000;
/// What callers wait, in milliseconds.
const PATIENCE: u64 = 500;

/// A token bucket.
pub(super) struct Callee {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: u64,
}

impl Callee {
    pub(super) fn new(rate: f64, burst: f64) -> Self {
        Self { rate, burst, tokens: burst, at: 0 }
    }

    #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
    fn takes(&mut self, ms: u64) -> bool {
        self.tokens = (self.tokens + (ms - self.at) as f64 / 1e3 * self.rate).min(self.burst);
        self.at = ms;
        let takes = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(takes));
        takes
    }

    fn becomes(&mut self, rate: f64) {
        (self.rate, self.burst) = (rate, (rate / 7.0).max(1.0));
        self.tokens = self.tokens.min(self.burst);
    }
}

/// Answers by the millisecond at which they come: when, when sent, whether taken.
pub(super) type Answers = BinaryHeap<std::cmp::Reverse<(u64, u64, bool)>>;

pub(super) struct Client {
    pub(super) pace: Pace,
    /// Calls a second that it wants to make, and how many come at once.
    offered: f64,
    pub(super) batch: f64,
    waiting: VecDeque<u64>,
    answers: Answers,
    pub(super) wanted: u64,
    pub(super) sent: u64,
    pub(super) taken: u64,
}

pub(super) struct World {
    callee: Callee,
    pub(super) clients: Vec<Client>,
    pub(super) hint: Option<Duration>,
    rng: SmallRng,
    /// Milliseconds.
    pub(super) now: u64,
}

pub(super) fn tick(ms: u64) -> Tick {
    Tick((1 << 50) + ms * MS)
}

impl World {
    pub(super) fn new(callee: Callee, clients: usize, offered: f64) -> Self {
        let client = || Client {
            pace: Pace::new(),
            offered: offered / f64::from(u32::try_from(clients).expect("a few")),
            batch: 1.0,
            waiting: VecDeque::new(),
            answers: Answers::new(),
            wanted: 0,
            sent: 0,
            taken: 0,
        };
        Self {
            callee,
            clients: std::iter::repeat_with(client).take(clients).collect(),
            hint: Some(Duration::from_secs(1)),
            rng: SmallRng::seed_from_u64(7),
            now: 0,
        }
    }

    fn step(&mut self) {
        let now = self.now;
        for client in &mut self.clients {
            while client.answers.peek().is_some_and(|answer| answer.0.0 <= now) {
                let std::cmp::Reverse((_, sent, taken)) = client.answers.pop().expect("one is due");
                if taken {
                    client.pace.taken(tick(sent), tick(now));
                } else {
                    client.pace.refused(tick(sent), self.hint, tick(now));
                }
            }
            // At most one batch in a millisecond.
            if self.rng.random::<f64>() < client.offered / client.batch / 1e3 {
                loop {
                    client.waiting.push_back(now);
                    client.wanted += 1;
                    if self.rng.random::<f64>() < 1.0 / client.batch {
                        break;
                    }
                }
            }
            client.waiting.retain(|came| now - came < PATIENCE);
            while !client.waiting.is_empty() {
                if client.pace.next(tick(now)) > tick(now) {
                    client.pace.wait(tick(now));
                    break;
                }
                client.pace.take(tick(now));
                client.waiting.pop_front();
                let taken = self.callee.takes(now);
                client.sent += 1;
                client.taken += u64::from(taken);
                let took = if taken { self.rng.random_range(20..80) } else { 10 };
                client.answers.push(std::cmp::Reverse((now + took, now, taken)));
            }
        }
        self.now += 1;
    }

    /// The share of the quota that was used, and attempts for each call that was taken.
    #[expect(clippy::cast_precision_loss, reason = "counts")]
    pub(super) fn run(&mut self, ms: u64) -> (f64, f64) {
        for client in &mut self.clients {
            (client.wanted, client.sent, client.taken) = (0, 0, 0);
        }
        for _ in 0..ms {
            self.step();
        }
        let sum = |f: fn(&Client) -> u64| self.clients.iter().map(f).sum::<u64>() as f64;
        let (sent, taken) = (sum(|client| client.sent), sum(|client| client.taken));
        (taken / (self.callee.rate * ms as f64 / 1e3), sent / taken.max(1.0))
    }

    pub(super) fn rate(&self) -> Option<f64> {
        self.clients[0].pace.rate()
    }
}

#[track_caller]
pub(super) fn within(what: &str, value: f64, least: f64, most: f64) {
    assert!((least..=most).contains(&value), "{what}: {value:.3} is not within {least}..={most}");
}

#[test]
fn a_quota_is_learned_whatever_its_size_and_load() {
    for (rate, burst, load) in [
        (70.0, 10.0, 2.0),
        (70.0, 10.0, 1.2),
        (70.0, 10.0, 6.0),
        (7.0, 2.0, 3.0),
        (300.0, 40.0, 3.0),
    ] {
        let mut world = World::new(Callee::new(rate, burst), 1, rate * load);
        world.run(3 * SECONDS);
        within(
            &format!("the rate after 3 s, {rate} x {load}"),
            world.rate().unwrap() / rate,
            0.5,
            1.5,
        );
        let (used, attempts) = world.run(30 * SECONDS);
        within(&format!("used of {rate} x {load}"), used, 0.9, 1.05);
        within(&format!("attempts, {rate} x {load}"), attempts, 1.0, 1.3);
    }
}

#[test]
fn a_quota_that_rises_is_found_again() {
    let mut world = World::new(Callee::new(70.0, 10.0), 1, 700.0);
    world.run(10 * SECONDS);
    world.callee.becomes(300.0);
    world.run(10 * SECONDS);
    let (used, attempts) = world.run(10 * SECONDS);
    within("used", used, 0.85, 1.05);
    within("attempts", attempts, 1.0, 1.3);
}

#[test]
fn a_quota_that_falls_is_followed() {
    let mut world = World::new(Callee::new(300.0, 40.0), 1, 700.0);
    world.run(10 * SECONDS);
    world.callee.becomes(70.0);
    let (_, first) = world.run(SECONDS);
    within("attempts in the first second", first, 1.0, 4.5);
    world.run(5 * SECONDS);
    let (used, attempts) = world.run(10 * SECONDS);
    within("used", used, 0.85, 1.05);
    within("attempts", attempts, 1.0, 1.3);
}

#[test]
fn who_is_never_throttled_is_never_held_back() {
    let mut world = World::new(Callee::new(1e6, 1e6), 1, 900.0);
    world.clients[0].batch = 5.0;
    world.run(20 * SECONDS);
    let client = &world.clients[0];
    assert_eq!((client.pace.phase(), client.pace.rate()), (Phase::Free, None));
    assert_eq!(client.sent, client.wanted);
    assert!(client.wanted > 10_000);
}

#[test]
fn calls_in_batches_get_no_less() {
    let mut world = World::new(Callee::new(70.0, 10.0), 1, 140.0);
    world.clients[0].batch = 4.0;
    world.run(5 * SECONDS);
    let (used, attempts) = world.run(30 * SECONDS);
    within("used", used, 0.9, 1.05);
    within("attempts", attempts, 1.0, 1.3);
}

/// What is measured while everything is sent is the rate of calls that come one by one; a burst that the callee does
/// not have costs turns after each pause; and who asks late after a call was throttled loses a part of a turn each time.
#[test]
fn a_quota_of_a_few_a_second_is_used() {
    for (rate, batch) in [(5.0, 1.0), (5.0, 2.6), (3.0, 1.8), (10.0, 2.6)] {
        let mut world = World::new(Callee::new(rate, (rate / 7.0).max(1.0)), 1, rate * 2.0);
        world.clients[0].batch = batch;
        world.run(10 * SECONDS);
        let (used, attempts) = world.run(120 * SECONDS);
        // In batches there are times without anybody.
        let least = if batch > 1.0 { 0.8 } else { 0.92 };
        within(&format!("used of {rate} in batches of {batch}"), used, least, 1.02);
        within(&format!("attempts, {rate} in batches of {batch}"), attempts, 1.0, 1.3);
    }
}

#[test]
fn what_the_callee_has_not_saved_says_nothing_of_its_rate() {
    let mut world = World::new(Callee::new(7.0, 2.0), 1, 14.0);
    world.run(20 * SECONDS);
    let pace = &mut world.clients[0].pace;
    let span = pace.saved.span();
    let ms = world.now + 2 * SECONDS;
    // Nobody came for two seconds; of two that come together the second is too many.
    pace.next(tick(ms));
    pace.take(tick(ms));
    pace.taken(tick(ms), tick(ms + 20));
    let due = pace.next(tick(ms + 20));
    pace.take(due);
    let rate = pace.rate();
    pace.refused(due, world.hint, Tick(due.0 + 10 * MS));
    assert_eq!(pace.rate(), rate);
    assert!(pace.saved.span() < span);
    // One that was sent in its turn does.
    let ms = ms + 2 * SECONDS;
    while pace.next(tick(ms)) <= tick(ms) {
        pace.take(tick(ms));
    }
    for _ in 0..4 {
        let due = pace.due();
        pace.take(due);
        pace.taken(due, Tick(due.0 + 20 * MS));
    }
    let due = pace.due();
    pace.take(due);
    let rate = pace.rate().unwrap();
    pace.refused(due, world.hint, Tick(due.0 + 10 * MS));
    assert!(pace.rate().unwrap() < rate);
}

#[test]
fn those_who_share_a_quota_each_learn_their_part() {
    let mut world = World::new(Callee::new(100.0, 15.0), 5, 300.0);
    // One was there before the others.
    for client in &mut world.clients[1..] {
        client.offered = 2.0;
    }
    world.clients[0].offered = 200.0;
    world.run(10 * SECONDS);
    for client in &mut world.clients {
        client.offered = 60.0;
    }
    world.run(240 * SECONDS);
    let (used, attempts) = world.run(30 * SECONDS);
    within("used", used, 0.85, 1.05);
    within("attempts", attempts, 1.0, 1.4);
    let parts: Vec<u64> = world.clients.iter().map(|client| client.taken / 30).collect();
    let (least, most) = (parts.iter().min().unwrap(), parts.iter().max().unwrap());
    assert!(*least >= 8 && *most <= 45, "20 would be equal parts: {parts:?}");
}

#[test]
fn without_a_time_to_come_again_the_quota_is_learned_as_well() {
    let mut world = World::new(Callee::new(70.0, 10.0), 1, 140.0);
    world.hint = None;
    world.run(5 * SECONDS);
    within("used", world.run(20 * SECONDS).0, 0.9, 1.05);
}

#[test]
fn a_callee_that_takes_nothing_is_asked_at_the_times_it_names() {
    let mut world = World::new(Callee::new(70.0, 10.0), 1, 140.0);
    world.run(10 * SECONDS);
    world.hint = Some(Duration::from_secs(5));
    world.callee.becomes(1e-9);
    world.callee.tokens = 0.0;
    world.run(2 * SECONDS);
    assert_eq!(world.clients[0].pace.phase(), Phase::Stopped);
    world.run(20 * SECONDS);
    let asked = world.clients[0].sent;
    assert!((3..=5).contains(&asked), "{asked} times in 20 s");
    // It takes calls again, and is given what it takes.
    world.callee.becomes(70.0);
    world.hint = Some(Duration::from_secs(1));
    world.run(10 * SECONDS);
    within("used", world.run(20 * SECONDS).0, 0.85, 1.05);
}

/// Refused whatever is sent, from the first on.
fn stopped(hint: Option<Duration>) -> (Pace, u64) {
    let mut pace = Pace::new();
    let mut ms = 0;
    while pace.phase() != Phase::Stopped {
        ms += 20;
        if pace.next(tick(ms)) <= tick(ms) {
            pace.take(tick(ms));
            ms += 10;
            pace.refused(tick(ms - 10), hint, tick(ms));
        }
        assert!(ms < 600_000, "it goes on sending");
    }
    (pace, ms)
}

#[test]
fn however_long_it_says_it_is_asked_every_half_minute_and_if_it_says_nothing_sooner() {
    for (hint, least, most) in [
        (Some(Duration::from_secs(10)), 10_000, 10_000),
        (Some(Duration::from_secs(3600)), 30_000, 30_000),
        (Some(Duration::MAX), 30_000, 30_000),
        (None, 1, 5_000),
    ] {
        let (mut pace, now) = stopped(hint);
        let wait = (pace.next(tick(now)).0 - tick(now).0) / MS;
        assert!((least..=most).contains(&wait), "{hint:?}: {wait} ms");
        // Only one asks.
        let due = pace.next(tick(now));
        pace.take(due);
        assert!(pace.next(due) > due);
    }
}

/// An answer of a call from before the quota had everything sent again.
#[test]
fn a_late_answer_of_a_call_from_before_the_quota_says_nothing_of_it() {
    let (mut pace, now) = stopped(None);
    let due = pace.due();
    pace.taken(tick(0), tick(now));
    assert_eq!((pace.phase(), pace.due()), (Phase::Stopped, due));
}

/// Most of what was sent might still be answered: a thousand were refused first.
#[test]
fn what_was_never_answered_does_not_hide_for_long_that_nothing_is_taken() {
    let mut world = World::new(Callee::new(70.0, 10.0), 1, 140.0);
    world.run(10 * SECONDS);
    let (mut pace, mut now) = (world.clients[0].pace.clone(), world.now);
    pace.refused(tick(now), None, tick(now));
    for _ in 0..2000 {
        now += 15;
        pace.take(tick(now));
    }
    let mut refused = 0;
    while pace.phase() == Phase::Limiting {
        now += 15;
        pace.take(tick(now));
        pace.refused(tick(now), None, tick(now));
        refused += 1;
        assert!(refused <= 50, "{refused} refused, and it is not seen");
    }
    within("refused", f64::from(refused), 8.0, 50.0);
}

/// Turns that nobody used counted as sent: of what is sent most might still be answered, for ever.
#[test]
fn turns_that_are_given_back_do_not_hide_that_nothing_is_taken() {
    let mut world = World::new(Callee::new(70.0, 10.0), 1, 140.0);
    world.run(10 * SECONDS);
    let (mut pace, mut now, mut refused) = (world.clients[0].pace.clone(), world.now, 0);
    while pace.phase() == Phase::Limiting {
        now += 15;
        for back in [true, true, true, false] {
            pace.take(tick(now));
            if back {
                pace.give_back(pace.change(), tick(now));
            }
        }
        pace.refused(tick(now), None, tick(now));
        refused += 1;
        assert!(refused <= 50, "{refused} refused, and it is not seen");
    }
}

#[test]
fn after_silence_it_forgets() {
    let mut world = World::new(Callee::new(70.0, 10.0), 1, 140.0);
    world.run(10 * SECONDS);
    let pace = &mut world.clients[0].pace;
    let soon = tick(world.now + 20 * SECONDS);
    pace.next(soon);
    assert_eq!(pace.phase(), Phase::Limiting);
    let later = tick(world.now + 120 * SECONDS);
    assert!(pace.next(later) <= later);
    assert_eq!((pace.phase(), pace.rate()), (Phase::Free, None));
}

#[test]
fn a_turn_that_is_given_back_goes_to_the_next() {
    let mut world = World::new(Callee::new(70.0, 10.0), 1, 140.0);
    world.run(10 * SECONDS);
    let pace = &mut world.clients[0].pace;
    let due = pace.next(tick(world.now));
    pace.take(due);
    let next = pace.next(due);
    assert!(next > due);
    pace.give_back(pace.change(), due);
    assert!(pace.next(due) <= due, "as if it had not been taken");
    pace.take(due);
    pace.give_back(pace.change().wrapping_sub(1), due);
    assert_eq!(pace.next(due), next, "a turn of another rate is void");
}

/// So many calls at once each `every` milliseconds, for `ms`; the share that was sent.
#[expect(clippy::cast_precision_loss, reason = "counts")]
pub(super) fn crowds(world: &mut World, calls: u64, every: u64, ms: u64) -> f64 {
    (world.clients[0].sent, world.clients[0].wanted) = (0, 0);
    for _ in 0..ms {
        if world.now.is_multiple_of(every) {
            let now = world.now;
            let client = &mut world.clients[0];
            client.waiting.extend((0..calls).map(|_| now));
            client.wanted += calls;
        }
        world.step();
    }
    world.clients[0].sent as f64 / world.clients[0].wanted as f64
}

#[test]
fn a_single_refusal_holds_no_crowd_back_for_ever() {
    for (calls, every) in [(50, SECONDS), (200, 10 * SECONDS)] {
        let mut world = World::new(Callee::new(1e6, 1e6), 1, 0.0);
        world.clients[0].pace.refused(tick(0), world.hint, tick(0));
        // What is measured is a call now and then.
        for i in 1..20 {
            world.clients[0].pace.taken(tick(i * 500), tick(i * 500 + 20));
        }
        world.now = 10 * SECONDS;
        crowds(&mut world, calls, every, 600 * SECONDS);
        let share = crowds(&mut world, calls, every, 60 * SECONDS);
        within(&format!("sent of {calls} each {every} ms"), share, 0.97, 1.0);
    }
}

#[test]
fn a_turn_to_ask_that_is_given_back_is_anothers() {
    let (mut pace, now) = stopped(Some(Duration::from_secs(20)));
    let due = pace.next(tick(now));
    pace.take(due);
    pace.give_back(pace.change(), due);
    assert!(pace.next(due) <= due, "nobody has asked");
    pace.take(due);
    pace.refused(due, Some(Duration::from_secs(20)), due);
    pace.give_back(pace.change(), due);
    assert_eq!(pace.next(due), Tick(due.0 + 20_000 * MS), "this one has");
}

#[test]
fn to_come_again_at_once_is_no_time() {
    let (mut pace, _) = stopped(Some(Duration::ZERO));
    for _ in 0..20 {
        let due = pace.due();
        pace.take(due);
        pace.refused(due, Some(Duration::ZERO), due);
    }
    let before = pace.due();
    pace.take(before);
    assert!(pace.next(before).0 - before.0 >= 1_000 * MS, "as if it had said nothing");
}

/// It was asked again after 5 s.
#[test]
fn who_says_no_more_when_to_come_again_is_not_asked_sooner() {
    let (mut pace, _) = stopped(Some(Duration::from_secs(20)));
    let due = pace.due();
    pace.take(due);
    pace.refused(due, None, due);
    assert_eq!(pace.due(), Tick(due.0 + 20_000 * MS));
}

#[derive(Clone, Debug)]
enum Act {
    Ask,
    Answer(bool, Option<u64>),
    GiveBack,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Ask),
        3 => Just(Act::Answer(true, None)),
        2 => (any::<bool>(), proptest::option::of(any::<u64>()))
            .prop_map(|(taken, hint)| Act::Answer(taken, hint)),
        1 => Just(Act::GiveBack),
    ]
}

proptest! {
    /// Against a bucket that refills at the rate and holds what can be saved: between two answers there are never
    /// more turns than that, nor so few that a rate is not used.
    #[test]
    fn turns_come_at_the_rate(
        acts in proptest::collection::vec((act(), 0_u64..40, 0_u64..30), 1..400),
        start in prop_oneof![Just(0), Just(1_u64 << 50), Just(u64::MAX - (1 << 33)), Just(u64::MAX)],
    ) {
        let mut pace = Pace::new();
        let mut now = start;
        // Since then only turns were asked for: so many were given.
        let mut quiet: Option<(u64, f64, f64)> = None;
        for (act, passed, took) in acts {
            now = now.saturating_add(passed * MS);
            match act {
                Act::Ask => {
                    let given = pace.next(Tick(now)) <= Tick(now);
                    if given {
                        pace.take(Tick(now));
                    } else {
                        prop_assert!(pace.rate().is_some(), "held back without a rate");
                        pace.wait(Tick(now));
                    }
                    match pace.phase() {
                        Phase::Free | Phase::Measuring => prop_assert!(given),
                        Phase::Limiting => {
                            let rate = pace.rate().unwrap();
                            let (since, had, turns) = quiet.get_or_insert((now, rate, 0.0));
                            *turns += f64::from(u8::from(given));
                            #[expect(clippy::cast_precision_loss, reason = "a time")]
                            let passed = (now - *since + pace.saved.span()) as f64 / 1e9;
                            prop_assert!((rate - *had).abs() < 1e-9);
                            prop_assert!(*turns <= rate * passed * 1.001 + 2.0);
                        }
                        Phase::Stopped => {}
                    }
                }
                Act::Answer(taken, hint) => {
                    let sent = Tick(now.saturating_sub(took * MS));
                    if taken {
                        pace.taken(sent, Tick(now));
                    } else {
                        pace.refused(sent, hint.map(Duration::from_nanos), Tick(now));
                    }
                    quiet = None;
                }
                Act::GiveBack => {
                    pace.give_back(pace.change(), Tick(now));
                    quiet = None;
                }
            }
            if let Some(rate) = pace.rate() {
                prop_assert!((RATES.0..=RATES.1).contains(&rate), "{rate}");
            }
            // Nobody waits for longer than what is asked for and than the slowest rate.
            let wait = pace.next(Tick(now)).0.saturating_sub(now);
            let turns = u64::from(u32::MAX).min(400);
            prop_assert!(wait <= LONGEST.saturating_mul(turns), "{wait}");
        }
    }
}
