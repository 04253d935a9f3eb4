//! Ten clients that send what fails again, and what becomes of the server that they all call.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::core::Core;
use super::tests::{arrive, finish, poll};
use super::turn::{Arrival, End, Key, Settled, State, Turn};

const CLIENTS: usize = 10;
const SECOND: u64 = 1000;
/// Milliseconds that callers wait.
const PATIENCE: u64 = 500;
/// The server's, each 20 ms for a request: five hundred in a second.
const WORKERS: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    client: usize,
    deadline: u64,
    /// Attempts that have failed.
    failed: u32,
}

/// When it ends, when it was sent, of which call, and whether it fails.
type Sent = Reverse<(u64, u64, Call, bool)>;

#[derive(Debug, Default)]
struct Seen {
    calls: u32,
    attempts: u32,
    answered: u32,
}

impl Seen {
    fn attempts(&self) -> f64 {
        f64::from(self.attempts) / f64::from(self.calls)
    }

    fn answered(&self) -> f64 {
        f64::from(self.answered) / f64::from(self.calls)
    }
}

struct World {
    random: StdRng,
    clients: Vec<Core>,
    room: Vec<(Key, Call)>,
    sent: BinaryHeap<Sent>,
    /// When each of its workers is free.
    workers: BinaryHeap<Reverse<u64>>,
    now: u64,
    seen: Seen,
    trials: u32,
    /// Of one call.
    most: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            clients: (0..CLIENTS).map(|_| Core::new(None, 1000)).collect(),
            room: Vec::new(),
            sent: BinaryHeap::new(),
            workers: (0..WORKERS).map(|_| Reverse(0)).collect(),
            now: 0,
            seen: Seen::default(),
            trials: 0,
            most: u32::MAX,
        }
    }

    /// So many seconds of so many calls each, of which `fails` says which attempts fail, with so many out.
    fn play(
        &mut self,
        seconds: u64,
        calls: u32,
        mut fails: impl FnMut(usize, &mut StdRng) -> bool,
    ) -> Seen {
        self.seen = Seen::default();
        for _ in 0..seconds * SECOND {
            self.now += 1;
            self.end(&mut fails);
            if self.now.is_multiple_of(4) {
                self.look(&mut fails);
            }
            for _ in 0..CLIENTS {
                if self.random.random_bool(f64::from(calls) / 1e4) {
                    self.seen.calls += 1;
                    let client = self.random.random_range(0..CLIENTS);
                    let deadline = self.now + PATIENCE;
                    self.ask(Call { client, deadline, failed: 0 }, &mut fails);
                }
            }
        }
        std::mem::take(&mut self.seen)
    }

    fn ask(&mut self, call: Call, fails: &mut impl FnMut(usize, &mut StdRng) -> bool) {
        let left = call.deadline - self.now;
        match arrive(&mut self.clients[call.client], self.now, left) {
            Arrival::Admitted => self.send(call, fails),
            Arrival::Wait(key) => self.room.push((key, call)),
            _ => {}
        }
    }

    fn send(&mut self, call: Call, fails: &mut impl FnMut(usize, &mut StdRng) -> bool) {
        self.seen.attempts += 1;
        let fails = fails(self.sent.len(), &mut self.random);
        let Some(Reverse(free)) = self.workers.pop() else { unreachable!() };
        // An error takes a fifth of what an answer does.
        let end = free.max(self.now) + if fails { 4 } else { self.random.random_range(10..=30) };
        self.workers.push(Reverse(end));
        self.sent.push(Reverse((end, self.now, call, fails)));
    }

    fn end(&mut self, fails: &mut impl FnMut(usize, &mut StdRng) -> bool) {
        while let Some(&Reverse((end, sent, call, failed))) = self.sent.peek() {
            if end > self.now {
                break;
            }
            self.sent.pop();
            let core = &mut self.clients[call.client];
            let before = core.is_trying_once();
            finish(core, sent, if failed { End::Failure } else { End::Success }, self.now);
            self.trials += u32::from(!before && core.is_trying_once());
            let call = Call { failed: call.failed + 1, ..call };
            if !failed {
                self.seen.answered += u32::from(self.now <= call.deadline);
            } else if call.deadline > self.now
                && call.failed < self.most
                && core.take_retry(Some(call.failed))
            {
                self.ask(call, fails);
            }
        }
    }

    fn look(&mut self, fails: &mut impl FnMut(usize, &mut StdRng) -> bool) {
        for (key, call) in std::mem::take(&mut self.room) {
            match poll(&mut self.clients[call.client], key, self.now) {
                Turn::Settled(Settled::Granted(_)) => self.send(call, fails),
                Turn::Settled(_) => {}
                Turn::At(_) => self.room.push((key, call)),
            }
        }
    }

    fn vain(&self) -> usize {
        self.clients.iter().filter(|core| core.retries_are_vain()).count()
    }
}

/// The server holds `n`, and fails beyond that.
fn holds(n: usize) -> impl FnMut(usize, &mut StdRng) -> bool {
    move |out, _| out >= n
}

/// All attempts fail with this chance, whatever is sent.
fn fail(share: f64) -> impl FnMut(usize, &mut StdRng) -> bool {
    move |_, random| random.random_bool(share)
}

/// Half as many again as it can answer came, and each call was sent seven times: five of six attempts failed, most of what was
/// answered was so by chance, and it worked on errors. Sent once, two of three are answered.
#[test]
fn what_is_too_much_is_not_sent_again() {
    for seed in 1..=2 {
        let mut world = World::new(seed);
        world.play(60, 750, holds(13));
        let vain = world.vain();
        let seen = world.play(10, 750, holds(13));
        assert!(vain >= 8, "seed {seed}: {vain} of {CLIENTS}, {seen:?}");
        assert!(seen.attempts() < 1.2, "seed {seed}: {:.2} {seen:?}", seen.attempts());
        assert!(seen.answered() > 0.55, "seed {seed}: {:.2} {seen:?}", seen.answered());
        // It is over: all that comes is answered, and what fails by chance is sent again.
        world.play(30, 250, holds(13));
        assert_eq!(world.vain(), 0, "seed {seed}");
        let seen = world.play(5, 250, fail(0.5));
        assert!(seen.answered() > 0.95, "seed {seed}: {:.2} {seen:?}", seen.answered());
    }
}

/// In a long overload each looks now and then whether fewer in flight have helped: that must not bring the storm back.
#[test]
fn what_is_too_much_for_long_is_not_sent_again_either() {
    let mut world = World::new(1);
    world.play(150, 750, holds(13));
    let (mut vain, mut seen) = (0, Seen::default());
    for _ in 0..5 {
        let more = world.play(20, 750, holds(13));
        vain += world.vain();
        seen.calls += more.calls;
        seen.attempts += more.attempts;
        seen.answered += more.answered;
    }
    assert!(vain >= 30, "{vain} of {}, {seen:?}", 5 * CLIENTS);
    assert!(seen.attempts() < 1.5, "{:.2} {seen:?}", seen.attempts());
    assert!(seen.answered() > 0.45, "{:.2} {seen:?}", seen.answered());
}

/// Hardly any attempt succeeds, but what is sent more often is answered more often: to send each once does not change that.
#[test]
fn what_fails_whatever_is_sent_is_sent_again() {
    for seed in 1..=2 {
        let mut world = World::new(seed);
        world.play(5, 150, fail(0.0));
        let mut seen = Seen::default();
        for _ in 0..6 {
            let more = world.play(10, 150, fail(0.85));
            assert_eq!(world.vain(), 0, "seed {seed}");
            seen.calls += more.calls;
            seen.attempts += more.attempts;
            seen.answered += more.answered;
        }
        assert!(world.trials > 5, "seed {seed}: {} trials", world.trials);
        assert!(seen.attempts() > 3.0, "seed {seed}: {:.2} {seen:?}", seen.attempts());
        assert!(seen.answered() > 0.4, "seed {seed}: {:.2} {seen:?}", seen.answered());
    }
}

/// With seven of ten attempts failing nearly all calls are answered, and there is nothing to try.
#[test]
fn where_retries_help_nothing_is_tried() {
    for seed in 1..=2 {
        let mut world = World::new(seed);
        world.play(5, 150, fail(0.0));
        let seen = world.play(20, 150, fail(0.65));
        assert_eq!((world.trials, world.vain()), (0, 0), "seed {seed}: {seen:?}");
        assert!(seen.answered() > 0.9, "seed {seed}: {:.2} {seen:?}", seen.answered());
    }
}

/// What fails while it is down says nothing of how many are sent.
#[test]
fn an_outage_is_no_reason_to_send_less_again() {
    for seed in 1..=2 {
        let mut world = World::new(seed);
        world.play(5, 250, fail(0.0));
        for _ in 0..3 {
            world.play(2, 250, fail(1.0));
            let down = world.clients.iter().all(|core| matches!(core.state, State::Down { .. }));
            assert!(down, "seed {seed}");
            world.play(2, 250, fail(0.0));
            assert_eq!(world.vain(), 0, "seed {seed}");
        }
        let seen = world.play(5, 250, fail(0.3));
        assert!(seen.answered() > 0.98, "seed {seed}: {:.2} {seen:?}", seen.answered());
    }
}

/// With few attempts for each call a little more that succeeds by chance looked like what there is if retries are in vain.
#[test]
fn what_succeeds_more_often_by_chance_says_nothing() {
    for (seed, most, share) in [(1, 2, 0.85), (2, 2, 0.9), (3, 3, 0.85), (4, 3, 0.9)] {
        let mut world = World::new(seed);
        world.most = most;
        world.play(5, 150, fail(0.0));
        for _ in 0..6 {
            world.play(20, 150, fail(share));
            assert_eq!(world.vain(), 0, "seed {seed}, {most} attempts, {share}");
        }
        assert!(world.trials > 0, "seed {seed}");
    }
}

/// The errors of an incident grew fewer while each call was sent once. That was taken for what fewer calls had brought, and for
/// good: as many as before failed, and fewer and fewer were sent.
#[test]
fn fewer_calls_that_do_not_help_are_not_for_ever() {
    let mut once = 0;
    for seed in 1..=4 {
        let mut world = World::new(seed);
        world.play(5, 250, fail(0.0));
        for _ in 0..40 {
            world.play(1, 250, fail(0.85));
            if world.clients.iter().filter(|core| core.is_trying_once()).count() >= 5 {
                break;
            }
        }
        for _ in 0..60 {
            world.play(5, 250, fail(0.2));
            once += world.vain();
            if world.vain() == 0 && world.now > 60 * SECOND {
                break;
            }
        }
        let seen = world.play(10, 250, fail(0.2));
        assert_eq!(world.vain(), 0, "seed {seed}: {seen:?}");
        assert!(seen.answered() > 0.97, "seed {seed}: {:.2} {seen:?}", seen.answered());
    }
    assert!(once > 0, "it was never taken for that");
}
