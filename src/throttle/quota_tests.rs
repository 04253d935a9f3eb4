//! Quotas of a callee that takes so many a second, each call that is held back waiting as a timer has it.

use std::time::Duration;

use super::core::{Answer, Core, End};
use super::line::Place;
use super::tests::{at, core};
use crate::clock::Tick;

/// Of so many calls a second, as many as are taken of them; each of the others waits for its turn as a timer has it.
struct Api {
    rate: f64,
    tokens: f64,
    /// Milliseconds until a call that is taken is answered, and one that is refused.
    took: (u64, u64),
    answers: Vec<(u64, u64, End)>,
    /// When it came, and when it asks again.
    waiting: Vec<(u64, Tick, Place)>,
    taken: u64,
    sent: u64,
    /// Refused after they had waited.
    in_vain: u64,
    /// So many come for each that is taken.
    load: f64,
    /// What those that are refused are told.
    hint: Option<Duration>,
}

impl Api {
    fn new(rate: f64, took: (u64, u64), tokens: f64) -> Self {
        let (answers, waiting) = (Vec::new(), Vec::new());
        let (load, hint) = (2.0, None);
        Self { rate, tokens, took, answers, waiting, taken: 0, sent: 0, in_vain: 0, load, hint }
    }

    fn send(&mut self, core: &mut Core, now: u64) {
        core.sent(at(now));
        self.sent += 1;
        let taken = self.tokens >= 1.0;
        let (end, took) = match taken {
            true => (End::Taken, self.took.0),
            false => (End::Refused(self.hint), self.took.1),
        };
        self.tokens -= f64::from(u8::from(taken));
        self.taken += u64::from(taken);
        self.answers.push((now + took, now, end));
    }

    /// Of what it takes `burst` can be at once. The part of it that is used, and what is sent for each that is taken.
    fn run(&mut self, core: &mut Core, burst: f64, from: u64, until: u64) -> (f64, f64) {
        (self.taken, self.sent, self.in_vain) = (0, 0, 0);
        let mut come = 0.0;
        for now in from..until {
            self.tokens = (self.tokens + self.rate / 1e3).min(burst);
            for (_, sent, end) in self.answers.extract_if(.., |(due, ..)| *due <= now) {
                core.finish(at(sent), end, at(now));
            }
            for (arrived, when, place) in std::mem::take(&mut self.waiting) {
                if when > at(now) {
                    self.waiting.push((arrived, when, place));
                    continue;
                }
                match core.again(place, None, at(now)) {
                    Answer::Go { .. } => self.send(core, now),
                    Answer::Wait(place) => {
                        self.waiting.push((arrived, place.asks(at(now)), place));
                    }
                    _ => self.in_vain += 1,
                }
            }
            come += self.rate * self.load / 1e3;
            while come >= 1.0 {
                come -= 1.0;
                match core.admit(None, at(now)) {
                    Answer::Go { .. } => self.send(core, now),
                    Answer::Wait(place) => {
                        self.waiting.push((now, place.asks(at(now)), place));
                    }
                    _ => {}
                }
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "counts")]
        let (taken, sent) = (self.taken as f64, self.sent as f64);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
        let seconds = (until - from) as f64 / 1e3;
        (taken / self.rate / seconds, sent / taken)
    }
}

/// Turns that had been given went on at the old rate, up to 200 ms after the rate had fallen, and each that was refused
/// made it fall further: of five thousand a second none was sent any more, for minutes.
#[test]
fn a_quota_of_many_a_second_is_used_without_a_time_to_come_again() {
    for rate in [100.0, 500.0, 1000.0, 5000.0] {
        for took in [(0, 0), (5, 1), (50, 10), (50, 0)] {
            for burst in [rate / 50.0, rate / 10.0, rate] {
                let mut core = core(None);
                let mut api = Api::new(rate, took, burst);
                let what = format!("{rate} a second, {burst} at once, in {took:?} ms");
                let (used, attempts) = api.run(&mut core, burst, 0, 2000);
                assert!(used >= 0.7 && attempts <= 1.5, "{what}, first: {used:.3} {attempts:.3}");
                let (used, attempts) = api.run(&mut core, burst, 2000, 6000);
                assert!(used >= 0.9 && attempts <= 1.1, "{what}: {used:.3} {attempts:.3}");
                assert_eq!(api.in_vain, 0, "{what}");
            }
        }
    }
}

/// What is taken was measured as no more than 6400 a second, and grew no further than a quarter above that.
#[test]
fn a_quota_of_more_than_can_be_counted_in_a_few_milliseconds_is_used() {
    let mut core = core(None);
    let mut api = Api::new(20_000.0, (5, 1), 2000.0);
    api.run(&mut core, 2000.0, 0, 2000);
    let (used, attempts) = api.run(&mut core, 2000.0, 2000, 4000);
    assert!(used >= 0.9 && attempts <= 1.1, "{used:.3} {attempts:.3}");
}

#[test]
fn who_waits_keeps_its_place_when_others_leave_or_come() {
    let mut core = core(None);
    let mut api = Api::new(100.0, (0, 0), 10.0);
    api.run(&mut core, 10.0, 0, 3000);
    let now = 4000;
    api.waiting.drain(..).for_each(|(.., place)| core.leave(place));
    let mut places = Vec::new();
    while places.len() < 4 {
        match core.admit(None, at(now)) {
            Answer::Wait(place) => places.push(place),
            Answer::Go { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(places.is_sorted_by_key(|place| place.turn), "{places:?}");
    core.leave(places[1]);
    // The next who comes has that turn, and the one after it the last.
    let next = [(); 2].map(|()| match core.admit(None, at(now)) {
        Answer::Wait(place) => place,
        other => panic!("{other:?}"),
    });
    assert_eq!(next[0].turn, places[1].turn);
    assert!(next[1].turn > places[3].turn, "{next:?} {places:?}");
    // If nobody comes for it, it is those behind who move up.
    core.leave(places[0]);
    core.leave(places[1]);
    let turn = places[2].turn;
    assert!(matches!(core.again(places[2], None, turn), Answer::Go { .. }));
    assert!(matches!(core.again(places[3], None, turn), Answer::Go { .. }));
}

/// Nothing that was sent had been answered yet: all but what was refused was taken for lost, and for as long as the first
/// refusal had said nothing was sent.
#[test]
fn who_takes_some_and_answers_late_is_not_taken_for_one_that_takes_nothing() {
    for hint in [None, Some(Duration::from_secs(5)), Some(Duration::from_secs(30))] {
        for late in [100, 200, 300, 500, 1000] {
            for load in [1.5, 1.8, 2.0, 2.5, 3.0, 4.0] {
                let mut core = core(None);
                let mut api = Api { load, hint, ..Api::new(100.0, (late, 1), 10.0) };
                let (used, attempts) = api.run(&mut core, 10.0, 0, 4000);
                let what = format!("{load} times what it takes, in {late} ms, {hint:?}");
                assert!(used >= 0.7 && attempts <= 1.7, "{what}: {used:.3} {attempts:.3}");
            }
        }
    }
}

/// At a rate a little above what it takes each second call comes too early. That was taken for a rate that is quite wrong,
/// however many were taken.
#[test]
fn who_saves_no_turns_is_used() {
    let few = [(2.0, (20, 1)), (5.0, (20, 1)), (10.0, (20, 1))];
    for (rate, took) in
        few.into_iter().chain([(100.0, (20, 1)), (100.0, (200, 1)), (500.0, (20, 1))])
    {
        let mut core = core(None);
        let mut api = Api { load: 1.5, ..Api::new(rate, took, 1.0) };
        api.run(&mut core, 1.0, 0, 20_000);
        let (used, attempts) = api.run(&mut core, 1.0, 20_000, 80_000);
        let what = format!("{rate} a second in {took:?} ms");
        assert!(used >= 0.65 && attempts <= 1.5, "{what}: {used:.3} {attempts:.3}");
    }
}
