//! A pool beside one that keeps everything that ever happened in lists and works out anew, from them, what it wants to know:
//! who is out and back and why, whose probe is due, who must be asked, and who has less to do than the one that was chosen.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::config::Config;
use super::core::{Asked, Change, Core, End, Why};
use super::draw::unlikely;
use super::health::Health;
use super::tests::{Pool, ms};
use crate::clock::Tick;
use crate::seed::seed;

/// One endpoint, by what has happened to it.
#[derive(Clone, Debug, Default)]
struct Slow {
    id: usize,
    gone: bool,
    out: Option<Out>,
    in_flight: u32,
    /// What its calls took since it last came back, in nanoseconds, and when they ended.
    took: Vec<(f64, Tick)>,
    /// When it last answered, or was called with nothing in flight.
    progress: Option<Tick>,
    in_row: u32,
    /// Calls and failures that are remembered.
    calls: u64,
    failures: u64,
    /// All that have said something, and those of them that failed.
    ever: (u64, u64),
    /// Since when it starts slowly.
    back: Option<Tick>,
}

#[derive(Clone, Copy, Debug)]
struct Out {
    since: Tick,
    probe_at: Tick,
    interval: Duration,
}

#[derive(Debug)]
struct Model {
    config: Config,
    all: Vec<Slow>,
    /// What answers took, of all endpoints.
    answers: Vec<f64>,
    halved: Tick,
    /// Until then one that was put back by command need not be asked although it got no call for long.
    lenient: Tick,
    counts: (u64, u64, u64),
}

fn nanos(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

impl Model {
    fn there(&self) -> impl Iterator<Item = &Slow> {
        self.all.iter().filter(|one| !one.gone)
    }

    /// More are out than may be.
    fn uses_all(&self) -> bool {
        let out = self.there().filter(|one| one.out.is_some()).count() as f64;
        out > (self.there().count() as f64 * self.config.max_ejected).floor()
    }

    /// The answers' geometric mean, of which each new one is a fiftieth.
    fn typical(&self) -> f64 {
        let mean = |mean: Option<f64>, took: &f64| {
            let log = took.max(2.0).ln();
            Some(mean.map_or(log, |mean| mean + 0.02 * (log - mean)))
        };
        self.answers.iter().fold(None, mean).map_or(0.0, f64::exp)
    }

    /// What is left of something learned then.
    fn fresh(&self, then: Tick, now: Tick) -> f64 {
        match nanos(now.since(then)) / nanos(self.config.memory) {
            age if age < 1.0 / 16.0 => 1.0,
            age if age < 3.0 => (-age).exp(),
            _ => 0.0,
        }
    }

    /// The mean of what its calls took, of which each new one is a twentieth or more.
    fn known(&self, one: &Slow, now: Tick) -> f64 {
        let mut known = None::<f64>;
        let mut before = Tick(0);
        for (took, at) in &one.took {
            known = Some(match known {
                Some(known) => took + 0.95 * self.fresh(before, *at) * (known - took),
                None => took.max(1.0),
            });
            before = *at;
        }
        let typical = self.typical();
        match known {
            None => typical,
            Some(known) if typical == 0.0 => known,
            Some(known) => typical + (known - typical) * self.fresh(before, now),
        }
    }

    fn load(&self, one: &Slow, now: Tick) -> f64 {
        let expected = self.known(one, now).max(1.0);
        let hangs = nanos(now.since(one.progress.unwrap_or(Tick(0))));
        match one.in_flight {
            0 => expected,
            n => f64::from(n + 1) * expected.max(hangs),
        }
    }

    /// What it gets of its share.
    fn part(&self, one: &Slow, now: Tick) -> f64 {
        let passed = |back| nanos(now.since(back)) / nanos(self.config.slow_start);
        one.back.map_or(1.0, |back| 0.1 + 0.9 * passed(back).min(1.0))
    }

    /// Whether the call may go to `to`, and what else happens.
    fn chosen(&mut self, to: usize, avoid: Option<usize>, first: bool, now: Tick) {
        let wait = self.config.memory * 3;
        if self.there().count() > 1 && !(first && self.asks(to, wait, now)) {
            self.is_cheap(to, avoid, now);
        }
        let one = &mut self.all[to];
        if one.in_flight == 0 {
            one.progress = Some(now);
        }
        one.in_flight += 1;
    }

    /// A call that goes to one for its own sake, whatever it costs.
    fn asks(&mut self, to: usize, wait: Duration, now: Tick) -> bool {
        let probes = self.there().filter_map(|one| Some(one.out?.probe_at));
        let due = probes.min().filter(|at| *at <= now && !self.uses_all());
        if let Some(due) = due {
            let most = self.config.probe_after_max;
            let out = self.all[to].out.as_mut().expect("a probe is due, and it did not go there");
            assert_eq!(out.probe_at, due, "another's probe is due");
            out.interval = (out.interval * 2).min(most);
            out.probe_at = now.after(out.interval);
            self.counts.2 += 1;
            return true;
        }
        let since = |one: &Slow| one.progress.unwrap_or(Tick(0));
        let asked = |one: &Slow| match one.progress {
            None => false,
            Some(last) => one.out.is_some() || last.after(wait) > now,
        };
        let longest = self.there().filter(|one| !asked(one)).map(since).min();
        let Some(longest) = longest else { return false };
        let there = since(&self.all[to]) == longest && !asked(&self.all[to]);
        assert!(there || now < self.lenient, "one is without a call for too long");
        if there {
            self.all[to].progress = Some(now);
        }
        there
    }

    /// Of those that can be used, at most four are drawn; none of these has clearly less to do, unless it starts slowly.
    fn is_cheap(&self, to: usize, avoid: Option<usize>, now: Tick) {
        let all = self.uses_all();
        let usable = |one: &&Slow| (all || one.out.is_none()) && Some(one.id) != avoid;
        let chosen = &self.all[to];
        if !self.there().any(|one| usable(&one)) {
            assert!(self.there().all(|one| one.out.is_some() || one.id == to));
            return;
        }
        assert!(usable(&chosen), "it is out, or the one to avoid");
        let (load, part) = (self.load(chosen, now), self.part(chosen, now));
        let drawn = self.there().filter(usable).count().min(if all { 2 } else { 4 });
        let others = self.there().filter(usable).filter(|one| one.id != to);
        let fair = |one: &&Slow| {
            let other = self.load(one, now);
            let held_back = self.part(one, now) < part && chosen.out.is_none();
            // A little below, for what is worked out in another order.
            other >= 0.9 * load * (1.0 - 1e-6) || held_back
        };
        assert!(others.filter(fair).count() >= drawn - 1, "others have less to do");
    }

    fn ended(&mut self, to: usize, started: Tick, end: End, now: Tick) -> Option<Change> {
        self.all[to].in_flight -= 1;
        let took = nanos(now.since(started));
        let typical = self.typical();
        let longer = |times: f64| typical > 0.0 && took > (times * typical).max(1e6);
        let dropped = matches!(end, End::Cancelled | End::Superseded);
        if !dropped {
            self.all[to].progress = Some(now);
        }
        let given_up = end == End::Cancelled && longer(4.0);
        if end == End::Ignored {
            return None;
        } else if dropped && !given_up {
            if took > self.known(&self.all[to], now) {
                self.learn(to, took, now);
            }
            return if end == End::Superseded && longer(4.0) { self.fails(to, now) } else { None };
        }
        let failed = end == End::Failure || given_up || longer(16.0);
        let one = &mut self.all[to];
        one.ever = (one.ever.0 + 1, one.ever.1 + u64::from(failed));
        (one.calls, one.failures) = (one.calls + 1, one.failures + u64::from(failed));
        if end == End::Success {
            self.answers.push(took);
            self.learn(to, took, now);
        } else {
            self.learn(to, took.max(20.0 * typical), now);
        }
        if failed {
            return self.fails(to, now);
        }
        self.all[to].in_row = 0;
        let since = self.all[to].out.filter(|_| !self.all[to].gone)?.since;
        if started > since { self.returns(to, Why::Answered, now) } else { None }
    }

    fn learn(&mut self, to: usize, took: f64, now: Tick) {
        self.all[to].took.push((took, now));
    }

    fn fails(&mut self, to: usize, now: Tick) -> Option<Change> {
        self.all[to].in_row += 1;
        let times = now.since(self.halved).as_nanos() / self.config.memory.as_nanos();
        if times > 0 {
            self.halved = now;
            for one in self.all.iter_mut().filter(|one| !one.gone) {
                let half =
                    |n: u64| n.checked_shr(u32::try_from(times).unwrap_or(u32::MAX)).unwrap_or(0);
                (one.calls, one.failures) = (half(one.calls), half(one.failures));
            }
        }
        let one = &self.all[to];
        if one.gone || one.out.is_some() {
            return None;
        }
        let why = if one.in_row >= self.config.failures_in_row {
            Why::InRow(one.in_row)
        } else {
            self.sticks_out(one)?
        };
        let interval = self.config.probe_after;
        self.all[to].out = Some(Out { since: now, probe_at: now.after(interval), interval });
        self.counts.0 += 1;
        Some(Change { out: true, why })
    }

    /// More than twice as many failures as the others', and four deviations more than expected.
    fn sticks_out(&self, one: &Slow) -> Option<Why> {
        let others = self.there().filter(|other| other.id != one.id && other.out.is_none());
        let (calls, failures) =
            others.fold((0, 0), |sum, one| (sum.0 + one.calls, sum.1 + one.failures));
        let others = ((failures + 1) as f64 / (calls + 2) as f64).max(0.01);
        let (calls, failures) = (one.calls as f64, one.failures as f64);
        let deviation = (calls * others * (1.0 - others).max(0.01)).sqrt();
        let enough = calls >= 10.0 && failures >= 5.0;
        let failed = failures / calls;
        // Two sums that are equal but for their rounding are compared as the pool does it: 11 of 44 beside none of 10.
        let sure = failures - calls * others > 4.0 * deviation && failed > 2.0 * others;
        (enough && sure).then_some(Why::Share { failed, others })
    }

    fn returns(&mut self, to: usize, why: Why, now: Tick) -> Option<Change> {
        let one = &mut self.all[to];
        one.out.take()?;
        (one.in_row, one.calls, one.failures) = (0, 0, 0);
        one.took.clear();
        one.back = Some(now);
        self.counts.1 += 1;
        Some(Change { out: false, why })
    }
}

struct World {
    core: Core,
    /// Those that are there, and where the model has them.
    members: Vec<(Arc<Health>, usize)>,
    model: Model,
    calls: Vec<Call>,
    random: SmallRng,
    now: Tick,
    /// Of each endpoint: how long it takes in microseconds, and how often it fails.
    servers: Vec<(u64, f64)>,
    numbers: u64,
    attempts_elsewhere: u32,
}

struct Call {
    health: Arc<Health>,
    to: usize,
    number: u64,
    started: Tick,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let config = Config {
            max_ejected: [0.0, 0.34, 0.5, 0.9][random.random_range(0..4)],
            failures_in_row: random.random_range(1..6),
            probe_after: ms(random.random_range(50..2000)),
            probe_after_max: Duration::from_secs(4),
            slow_start: ms(random.random_range(1..3000)),
            memory: Duration::from_secs(10),
            seed: None,
        };
        let now = Tick(1 << 50);
        let core = Core::new(config.clone(), seed);
        let (all, answers) = (Vec::new(), Vec::new());
        let (halved, lenient) = (Tick(0), Tick(0));
        let model = Model { config, all, answers, halved, lenient, counts: (0, 0, 0) };
        let (members, calls, servers) = (Vec::new(), Vec::new(), Vec::new());
        let (numbers, attempts_elsewhere) = (0, 0);
        Self { core, members, model, calls, random, now, servers, numbers, attempts_elsewhere }
    }

    fn insert(&mut self) {
        let id = self.model.all.len();
        let others = self.model.there().count() > 0 && !self.model.answers.is_empty();
        let back = others.then_some(self.now);
        self.model.all.push(Slow { id, back, ..Slow::default() });
        let server = (self.random.random_range(200..20_000), self.random.random::<f64>().powi(3));
        self.servers.push(server);
        self.members.push((self.core.insert(id.to_string().into(), self.now), id));
    }

    fn remove(&mut self) {
        let place = self.random.random_range(0..self.members.len());
        let (health, id) = self.members.remove(place);
        self.core.remove(&health);
        self.model.all[id].gone = true;
    }

    fn call(&mut self, before: Option<(u64, usize)>) {
        let attempt = if before.is_some() { 2 } else { 1 };
        let (number, avoid) = match before {
            Some((number, to)) => (number, Some(to)),
            None => {
                self.numbers += 1;
                (self.numbers, None)
            }
        };
        let asked = Asked { attempt, call: number };
        let members = &self.members;
        let place = self.core.pick(members.len(), |n| &*members[n].0, asked, self.now);
        let Some(place) = place else {
            assert!(members.is_empty());
            return;
        };
        let (health, to) = members[place].clone();
        self.attempts_elsewhere += u32::from(avoid.is_some_and(|avoid| avoid != to));
        self.model.chosen(to, avoid, attempt == 1, self.now);
        self.calls.push(Call { health, to, number, started: self.now });
    }

    fn end(&mut self, which: usize, end: End) {
        let Call { health, to, number, started } = self.calls.swap_remove(which);
        let told = self.core.end(&health, started, end, self.now);
        assert_eq!(told, self.model.ended(to, started, end, self.now), "{to}, {end:?}");
        if end == End::Failure && self.random.random::<bool>() {
            self.later(1);
            self.call(Some((number, to)));
        }
    }

    /// What takes so long has ended.
    fn end_those_that_are_done(&mut self) {
        while let Some(which) = self.calls.iter().position(|call| {
            call.started.after(Duration::from_micros(self.servers[call.to].0)) <= self.now
        }) {
            let fails = self.servers[self.calls[which].to].1;
            let end = match self.random.random::<f64>() {
                x if x < fails => End::Failure,
                x if x > 0.98 => End::Ignored,
                _ => End::Success,
            };
            self.end(which, end);
        }
    }

    fn later(&mut self, micros: u64) {
        self.now = self.now.after(Duration::from_micros(micros));
    }

    fn step(&mut self) {
        let pause = self.random.random_range(1..3_000);
        self.later(pause);
        match self.random.random_range(0..1000) {
            0..10 if self.members.len() < 7 => self.insert(),
            10..15 if self.members.len() > 1 => self.remove(),
            15..40 if !self.calls.is_empty() => {
                let which = self.random.random_range(0..self.calls.len());
                let end = [End::Cancelled, End::Superseded][self.random.random_range(0..2)];
                self.end(which, end);
            }
            40..60 => {
                // It gets well, or ill, or slow.
                let which = self.random.random_range(0..self.servers.len());
                let slower = [1, 1, 30][self.random.random_range(0..3)];
                let micros = self.random.random_range(200..20_000) * slower;
                self.servers[which] = (micros, self.random.random::<f64>().powi(3));
            }
            60..63 => {
                // Nobody calls for long; those that are out end first.
                self.later(1_000_000);
                self.end_those_that_are_done();
                let pause = self.random.random_range(0..40_000_000);
                self.later(pause);
            }
            63..65 => self.put_all_back(),
            65..70 => {
                self.model.config.max_ejected =
                    [0.0, 0.34, 0.5, 0.9][self.random.random_range(0..4)];
                self.core.reconfigure(self.model.config.clone(), self.now);
            }
            _ => self.call(None),
        }
        self.end_those_that_are_done();
        self.agrees();
    }

    fn put_all_back(&mut self) {
        for (health, to) in self.members.clone() {
            let told = self.core.put_back(&health, Why::Operator, self.now);
            assert_eq!(told, self.model.returns(to, Why::Operator, self.now));
        }
        self.model.lenient = self.now.after(self.model.config.memory);
    }

    fn agrees(&self) {
        for (health, to) in &self.members {
            let one = &self.model.all[*to];
            assert_eq!(health.is_out(), one.out.is_some(), "{to}");
            assert_eq!(health.in_flight.load(Relaxed), one.in_flight, "{to}");
            assert_eq!((health.calls.load(Relaxed), health.failed.load(Relaxed)), one.ever);
        }
        let probes = self.model.there().filter_map(|one| Some(one.out?.probe_at));
        assert_eq!(self.core.next_probe(), probes.min());
        assert_eq!(self.core.in_panic(), self.model.uses_all());
        let core = &self.core;
        let counts = (&core.ejections, &core.returns, &core.probes);
        let counts = (counts.0.load(Relaxed), counts.1.load(Relaxed), counts.2.load(Relaxed));
        assert_eq!(counts, self.model.counts);
    }
}

/// Once in many thousand runs as many failed as may at most, and the model, which rounded otherwise, let the endpoint in.
#[test]
fn the_model_rounds_as_the_pool_does() {
    let pool = Pool::new(2, Config::default());
    let mut model = World::new(1).model;
    model.all = vec![Slow::default(), Slow { id: 1, ..Slow::default() }];
    let mut ejected = 0;
    for (calls, others) in (10..=90).flat_map(|calls| (0..=30).map(move |others| (calls, others))) {
        for (failures, failed) in (5..=calls).flat_map(|n| [(n, 0), (n, n % (others + 1))]) {
            let counts = [(calls, failures), (others, failed)];
            for (at, (calls, failures)) in counts.into_iter().enumerate() {
                (model.all[at].calls, model.all[at].failures) = (calls, failures);
                pool.all[at].counted.store(calls << 32 | failures, Relaxed);
            }
            let told = unlikely(&pool.all, &pool.all[0]);
            assert_eq!(told, model.sticks_out(&model.all[0]), "{counts:?}");
            ejected += u32::from(told.is_some());
        }
    }
    assert!(ejected > 1000, "{ejected}");
}

#[test]
fn a_pool_does_what_the_slow_model_allows() {
    let seed = seed();
    let (mut ejected, mut returned, mut probes, mut elsewhere, mut all) = (0, 0, 0, 0, 0);
    for n in 0..300 {
        println!("seed {}", seed.wrapping_add(n));
        let mut world = World::new(seed.wrapping_add(n));
        (0..=n % 5).for_each(|_| world.insert());
        // Fewer calls than are remembered for their retries.
        while world.numbers < 240 {
            world.step();
            all += u32::from(world.model.uses_all());
        }
        world.later(1_000_000);
        world.end_those_that_are_done();
        world.agrees();
        let (out, back, asked) = world.model.counts;
        (ejected, returned, probes) = (ejected + out, returned + back, probes + asked);
        elsewhere += world.attempts_elsewhere;
    }
    // It has been tried.
    assert!(ejected > 30 && returned > 30 && probes > 20, "{ejected} {returned} {probes}");
    assert!(elsewhere > 50 && all > 50, "{elsewhere} {all}");
}
