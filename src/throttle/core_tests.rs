use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

const MS: u64 = 1_000_000;
const START: u64 = 1 << 50;

/// A callee with a bucket of `burst` calls, refilled at `quota` a second.
struct Callee {
    quota: f64,
    burst: f64,
    tokens: f64,
    at: u64,
}

impl Callee {
    fn takes(&mut self, now: u64) -> bool {
        let refilled = (now - self.at) as f64 / SECOND * self.quota;
        self.tokens = (self.tokens + refilled).min(self.burst);
        self.at = now;
        let takes = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(takes));
        takes
    }
}

#[derive(Debug, Default)]
struct Seen {
    sent: f64,
    accepted: f64,
    longest: u64,
}

struct World {
    core: Core,
    callee: Callee,
    rng: SmallRng,
    now: f64,
    /// When it is sent, and when its answer comes: the callee's order is that of sending.
    sending: std::collections::BinaryHeap<std::cmp::Reverse<(u64, u8, u64, bool)>>,
}

impl World {
    fn new(seed: u64, quota: f64) -> Self {
        let burst = (quota / 7.0).max(1.0);
        let callee = Callee { quota, burst, tokens: burst, at: START };
        let rng = SmallRng::seed_from_u64(seed);
        Self { core: Core::new(), callee, rng, now: START as f64, sending: Default::default() }
    }

    fn run(&mut self, offered: f64, seconds: f64, hint: Duration) -> Seen {
        let (end, mut seen) = (self.now + seconds * SECOND, Seen::default());
        while self.now < end {
            self.now += -(1.0 - self.rng.random::<f64>()).ln() / offered * SECOND;
            let now = self.now as u64;
            while let Some(&std::cmp::Reverse((at, kind, sent, takes))) = self.sending.peek() {
                if at > now {
                    break;
                }
                self.sending.pop();
                if kind == 0 {
                    let takes = self.callee.takes(at);
                    seen.sent += 1.0;
                    seen.accepted += f64::from(u8::from(takes));
                    let answer = if takes { 50 * MS } else { 10 * MS };
                    self.sending.push(std::cmp::Reverse((at + answer, 1, at, takes)));
                } else if takes {
                    self.core.accepted(Tick(sent), Tick(at));
                } else {
                    self.core.throttled(Tick(sent), Some(hint), Tick(at));
                }
            }
            match self.core.admit(1000 * MS, 1000 * MS, Tick(now)) {
                Admit::After(wait) => {
                    assert!(wait <= 500 * MS);
                    self.sending.push(std::cmp::Reverse((now + wait, 0, 0, false)));
                }
                Admit::Refused(wait) => seen.longest = seen.longest.max(wait),
            }
        }
        seen
    }
}

const HINT: Duration = Duration::from_secs(1);

#[test]
#[ignore = "fails: a quota below ten a second is used to 80 %, one that falls is not followed"]
fn it_uses_the_quota_and_little_more() {
    for (seed, quota, load) in [(1, 70.0, 2.0), (2, 7.0, 2.0), (3, 700.0, 5.0), (4, 70.0, 1.2)] {
        let mut world = World::new(seed, quota);
        let seen = world.run(quota * load, 60.0, HINT);
        let used = seen.accepted / (quota * 60.0);
        assert!(used > 0.97, "seed {seed}, quota {quota}: {used} used, {seen:?}");
        let over = seen.sent / seen.accepted;
        assert!(over < 1.1, "seed {seed}, quota {quota}: {over} sent for one accepted");
    }
}

#[test]
#[ignore = "fails: a quota below ten a second is used to 80 %, one that falls is not followed"]
fn it_follows_a_quota_that_falls_or_rises() {
    for (seed, first, then) in [(1, 70.0, 10.0), (2, 70.0, 700.0), (3, 500.0, 50.0)] {
        let mut world = World::new(seed, first);
        world.run(1000.0, 20.0, HINT);
        world.callee.quota = then;
        let change = world.run(1000.0, 10.0, HINT);
        let after = world.run(1000.0, 20.0, HINT);
        assert!(change.sent < change.accepted + 10.0 * first, "seed {seed}: {change:?}");
        let used = after.accepted / (then * 20.0);
        let over = after.sent / after.accepted;
        assert!(used > 0.95 && over < 1.1, "seed {seed}: {used} used, {over} sent for one");
    }
}

/// The bucket of smithy-rs falls below zero when its rate falls, and calls then sleep for minutes (its issue 4632).
#[test]
fn no_wait_grows_when_the_rate_falls() {
    for seed in 0..5 {
        let mut world = World::new(seed, 1000.0);
        world.run(5000.0, 5.0, HINT);
        world.callee.quota = 1.0;
        let seen = world.run(5000.0, 20.0, HINT);
        // One interval of the lowest rate, or what the callee asked for.
        assert!(seen.longest <= LONGEST, "seed {seed}: {seen:?}");
        assert!(seen.longest <= 2_500 * MS, "seed {seed}: {seen:?}");
    }
}

#[test]
fn a_callee_that_takes_nothing_is_asked_when_it_said_and_believed_when_it_does_again() {
    let mut world = World::new(1, 100.0);
    world.run(200.0, 10.0, HINT);
    (world.callee.quota, world.callee.tokens) = (0.0, 0.0);
    let seen = world.run(200.0, 20.0, Duration::from_secs(5));
    assert!(seen.sent < 60.0, "{seen:?}");
    world.callee.quota = 100.0;
    world.run(200.0, 20.0, HINT);
    let seen = world.run(200.0, 10.0, HINT);
    assert!(seen.accepted > 850.0, "{seen:?}");
}

#[test]
fn when_nothing_has_to_wait_any_more_everything_passes() {
    let mut world = World::new(1, 100.0);
    world.run(200.0, 10.0, HINT);
    assert_eq!(world.core.phase, Phase::Limiting);
    world.run(20.0, 60.0, HINT);
    assert_eq!(world.core.phase, Phase::Free);
}

proptest! {
    /// Whatever is told, the next turn is never further away than one interval for each call that waits, or a
    /// pause that was asked for.
    #[test]
    fn waits_stay_bounded(
        steps in proptest::collection::vec((0..5_u8, 0..200_u64, 0..100_000_u64), 1..400),
    ) {
        let mut core = Core::new();
        let mut now = START;
        for (what, after, hint) in steps {
            now += after * MS;
            match what {
                0 => core.accepted(Tick(now), Tick(now)),
                1 => core.throttled(Tick(now), Some(Duration::from_millis(hint)), Tick(now)),
                2 => core.throttled(Tick(0), None, Tick(now)),
                3 => core.give_back(Tick(now)),
                _ => match core.admit(u64::MAX, 200 * MS, Tick(now)) {
                    Admit::After(wait) => prop_assert!(wait <= 200 * MS),
                    Admit::Refused(wait) => prop_assert!(wait <= 2 * LONGEST + 200 * MS, "{wait}"),
                },
            }
            prop_assert!(core.rate().is_finite() && core.rate() > 0.0);
        }
    }

    /// A place that is given back is there again.
    #[test]
    fn a_place_given_back_leaves_no_trace(rate in 1.0..1000.0_f64) {
        let mut core = Core::new();
        (core.phase, core.accepted_rate) = (Phase::Limiting, rate);
        (core.next, core.needed_at) = (START, Tick(START));
        let now = Tick(START);
        let before = core.next;
        prop_assert_eq!(core.admit(u64::MAX, u64::MAX, now), Admit::After(0));
        core.give_back(now);
        prop_assert_eq!(core.next, before);
    }
}
