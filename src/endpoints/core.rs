//! Who is well and who gets the next call. Sans-IO: time comes in as a [`Tick`].
#![expect(clippy::cast_possible_truncation, reason = "places below a length, and estimates")]

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Tick, nanos};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::sync::{Mutex, lock};

use super::config::Config;

/// A failure is as slow as so many typical calls: it must not look like a quick answer.
const FAILURE: f64 = 20.0;
/// A call given up after so many times a typical call is a failure of its endpoint.
const GIVEN_UP: f64 = 4.0;
/// So is an answer that took so long.
const TOO_SLOW: f64 = 16.0;
/// But not below a millisecond (in nanoseconds): that is a pause of this process.
const PAUSE: f64 = 1e6;
/// Weight of one call in the latency of its endpoint, and in the pool's.
const OWN: f64 = 0.2;
const POOL: f64 = 0.02;
/// What an endpoint that has just returned gets at first, of its share.
const START: f64 = 0.1;
/// Standard deviations that chance does not explain.
const SURE: f64 = 4.0;
/// Loads nearer than this are equal: an estimate that is a hair lower must not take every draw.
const SAME: f64 = 0.99;
/// After so many times the memory nothing is known any more of an endpoint that got no call, and it is asked.
const FORGOTTEN: u32 = 3;
/// Draws before it looks at every endpoint.
const DRAWS: usize = 8;
/// Calls whose last endpoint is remembered.
const TRAILS: usize = 256;

const IN: u32 = 0;
const OUT: u32 = 1;

/// How a call came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Success,
    Failure,
    /// Dropped by its caller.
    Cancelled,
    /// Says nothing.
    Ignored,
}

/// Ejected or back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) out: bool,
    pub(super) why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Why {
    InRow(u32),
    Share { failed: f64, others: f64 },
    Answered,
    Operator,
}

/// What is known of one endpoint.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) label: Arc<str>,
    /// For the trails; never 0.
    id: u64,
    pub(super) in_flight: AtomicU32,
    /// Nanoseconds as `f64`; 0 while nothing is known.
    latency: AtomicU64,
    /// When `latency` was last learned.
    learned: AtomicU64,
    /// When it last answered, or got its first call after none; 0: it never had one.
    progress: AtomicU64,
    in_row: AtomicU32,
    /// Calls and failures that are remembered, together: `calls << 32 | failures`.
    counted: AtomicU64,
    state: AtomicU32,
    /// Since when it is back, for the slow start; 0: it never went.
    back: AtomicU64,
    pub(super) calls: AtomicU64,
    pub(super) failed: AtomicU64,
}

impl Health {
    pub(super) fn is_out(&self) -> bool {
        self.state.load(Relaxed) == OUT
    }

    /// Expected time of a call, in nanoseconds; a call that hangs counts for as long as it has.
    fn expects(&self, typical: f64, memory: f64, now: Tick) -> f64 {
        let known = f64::from_bits(self.latency.load(Relaxed));
        let expected = if known <= 0.0 {
            typical
        } else if typical > 0.0 {
            typical + (known - typical) * self.fresh(memory, now)
        } else {
            known
        };
        if self.in_flight.load(Relaxed) == 0 {
            return expected.max(1.0);
        }
        let stalled = now.since(Tick(self.progress.load(Relaxed))).as_nanos() as f64;
        expected.max(stalled).max(1.0)
    }

    /// What the next call would wait for: those that are there, and itself.
    fn load(&self, typical: f64, memory: f64, now: Tick) -> f64 {
        f64::from(self.in_flight.load(Relaxed) + 1) * self.expects(typical, memory, now)
    }

    pub(super) fn latency(&self) -> Duration {
        Duration::from_nanos(f64::from_bits(self.latency.load(Relaxed)) as u64)
    }

    /// What still counts of what was learned last.
    fn fresh(&self, memory: f64, now: Tick) -> f64 {
        let age = now.since(Tick(self.learned.load(Relaxed))).as_nanos() as f64;
        // Most calls find it fresh.
        if age < memory / 16.0 {
            1.0
        } else if age < f64::from(FORGOTTEN) * memory {
            (-age / memory).exp()
        } else {
            // A twentieth of ten seconds would still be dear beside microseconds.
            0.0
        }
    }

    /// A call weighs the more the longer it is since the one before it: after a long time it is all that is known.
    fn learn(&self, took: f64, memory: f64, now: Tick) {
        // Two at once may lose one of two: it is an estimate.
        let known = f64::from_bits(self.latency.load(Relaxed));
        let old = (1.0 - OWN) * self.fresh(memory, now);
        let latency = if known > 0.0 { took + old * (known - took) } else { took.max(1.0) };
        self.latency.store(latency.to_bits(), Relaxed);
        self.learned.store(now.0, Relaxed);
    }

    fn counts(&self) -> (f64, f64) {
        let both = self.counted.load(Relaxed);
        ((both >> 32) as f64, (both & 0xffff_ffff) as f64)
    }

    fn count(&self, failed: bool) {
        let both = self.counted.fetch_add(1 << 32 | u64::from(failed), Relaxed);
        if both >> 32 >= 1000 {
            self.halve();
        }
    }

    fn halve(&self) {
        let _ = self.counted.fetch_update(Relaxed, Relaxed, |both| {
            Some((both >> 33) << 32 | ((both & 0xffff_ffff) >> 1))
        });
    }
}

/// Of an endpoint that is out.
#[derive(Debug)]
struct Ejected {
    health: Arc<Health>,
    probe_at: Tick,
    interval: Duration,
}

#[derive(Debug)]
struct State {
    config: Config,
    all: Vec<Arc<Health>>,
    out: Vec<Ejected>,
    /// When to look for one that got no call; 0: at once.
    next_look: Tick,
    last_id: u64,
    halved: Tick,
}

impl State {
    fn next_probe(&self) -> Option<Tick> {
        self.out.iter().map(|out| out.probe_at).min()
    }

    /// The endpoint whose probe is due. The next one is due after twice the time, unless this one answers.
    fn probe(&mut self, now: Tick) -> Option<u64> {
        let due = self.out.iter_mut().filter(|out| out.probe_at <= now);
        let due = due.min_by_key(|out| out.probe_at)?;
        due.interval = due.interval.saturating_mul(2).min(self.config.probe_after_max);
        due.probe_at = now.after(due.interval);
        Some(due.health.id)
    }

    /// The place of the one that is without a call for longest, if that is too long. However dear it looks beside
    /// the others: that is a guess, and no call would ever correct it.
    fn unasked(&mut self, find: impl Fn(u64) -> Option<usize>, now: Tick) -> Option<usize> {
        let wait = self.config.memory.saturating_mul(FORGOTTEN);
        // Who has calls is asked, and who is out has probes.
        let idle = |one: &Health| one.in_flight.load(Relaxed) == 0 && !one.is_out();
        let due_at = |one: &Health| match one.progress.load(Relaxed) {
            0 => Tick(0),
            _ if !idle(one) => now.after(wait),
            last => Tick(last).after(wait),
        };
        let due = self.all.iter().filter(|one| due_at(one) <= now);
        let due = due.filter_map(|one| Some((one, find(one.id)?)));
        let due = due.min_by_key(|(one, _)| one.progress.load(Relaxed));
        let place = due.map(|(one, place)| {
            one.progress.store(now.0, Relaxed);
            place
        });
        let next = self.all.iter().map(|one| due_at(one)).min();
        self.next_look = next.unwrap_or(Tick(0));
        place
    }
}

/// One pool.
#[derive(Debug)]
pub(super) struct Core {
    /// Of the configuration, for picking without a lock: nanoseconds.
    memory: AtomicU64,
    slow_start: AtomicU64,
    /// Geometric mean of the answers' times: logarithm of nanoseconds as `f64`; 0: none yet.
    typical: AtomicU64,
    draws: AtomicU64,
    /// When the next call has to be a probe, or may have to go to one that gets no calls.
    due: AtomicU64,
    /// More have failed than may be ejected: all are used.
    panic: AtomicU32,
    trails: Box<[AtomicU64]>,
    pub(super) ejections: AtomicU64,
    pub(super) returns: AtomicU64,
    pub(super) probes: AtomicU64,
    state: Mutex<State>,
}

/// What is asked for a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) attempt: u32,
    pub(super) call: u64,
}

impl Core {
    pub(super) fn new(config: Config, seed: u64) -> Self {
        Self {
            memory: AtomicU64::new(nanos(config.memory)),
            slow_start: AtomicU64::new(nanos(config.slow_start)),
            typical: AtomicU64::new(0),
            draws: AtomicU64::new(seed),
            due: AtomicU64::new(0),
            panic: AtomicU32::new(0),
            trails: (0..TRAILS).map(|_| AtomicU64::new(0)).collect(),
            ejections: AtomicU64::new(0),
            returns: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            state: Mutex::new(State {
                config,
                all: Vec::new(),
                out: Vec::new(),
                next_look: Tick(0),
                last_id: 0,
                halved: Tick(0),
            }),
        }
    }

    pub(super) fn insert(&self, label: Arc<str>) -> Arc<Health> {
        let mut state = lock(&self.state);
        state.last_id += 1;
        let health = Arc::new(Health {
            label,
            id: state.last_id,
            in_flight: AtomicU32::new(0),
            latency: AtomicU64::new(0),
            learned: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            in_row: AtomicU32::new(0),
            counted: AtomicU64::new(0),
            state: AtomicU32::new(IN),
            back: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        state.all.push(Arc::clone(&health));
        state.next_look = Tick(0);
        self.settle(&state);
        health
    }

    pub(super) fn remove(&self, health: &Arc<Health>) {
        let mut state = lock(&self.state);
        state.all.retain(|one| one.id != health.id);
        state.out.retain(|one| one.health.id != health.id);
        self.settle(&state);
    }

    /// Other settings for the same endpoints. Who is out is asked no later than they say.
    pub(super) fn reconfigure(&self, config: Config, now: Tick) {
        let mut state = lock(&self.state);
        self.memory.store(nanos(config.memory), Relaxed);
        self.slow_start.store(nanos(config.slow_start), Relaxed);
        for out in &mut state.out {
            out.interval = out.interval.min(config.probe_after_max);
            out.probe_at = out.probe_at.min(now.after(out.interval));
        }
        state.config = config;
        state.next_look = Tick(0);
        self.settle(&state);
    }

    /// The share that may be ejected.
    pub(super) fn max_ejected(&self) -> f64 {
        lock(&self.state).config.max_ejected
    }

    /// What picking looks at, after a change.
    fn settle(&self, state: &State) {
        let most = (state.config.max_ejected * state.all.len() as f64).floor() as usize;
        let panic = state.out.len() > most;
        self.panic.store(u32::from(panic), Relaxed);
        // There are no probes while all are used.
        let probe = if panic { None } else { state.next_probe() };
        let due = probe.map_or(state.next_look, |at| at.min(state.next_look));
        self.due.store(due.0, Relaxed);
    }

    pub(super) fn in_panic(&self) -> bool {
        self.panic.load(Relaxed) != 0
    }

    pub(super) fn next_probe(&self) -> Option<Tick> {
        lock(&self.state).next_probe()
    }

    /// Of an answer, in nanoseconds; 0 while there was none.
    pub(super) fn typical(&self) -> f64 {
        match f64::from_bits(self.typical.load(Relaxed)) {
            0.0 => 0.0,
            log => log.exp(),
        }
    }

    fn draw(&self) -> u64 {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut x = self.draws.fetch_add(GOLDEN, Relaxed).wrapping_add(GOLDEN);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// The endpoint for a call, which counts as in flight from here on. `get` has one for each below `count`.
    pub(super) fn pick<'a>(
        &self,
        count: usize,
        get: impl Fn(usize) -> &'a Health,
        asked: Asked,
        now: Tick,
    ) -> Option<usize> {
        if count == 0 {
            return None;
        }
        let avoid = if asked.attempt > 1 { self.last_of(asked.call) } else { 0 };
        let chosen = self.choose(count, &get, avoid, asked.attempt <= 1, now);
        let health = get(chosen);
        if asked.call != 0 {
            self.trail(asked.call).store(trail(asked.call, health.id), Relaxed);
        }
        if health.in_flight.fetch_add(1, Relaxed) == 0 {
            health.progress.store(now.0, Relaxed);
        }
        Some(chosen)
    }

    fn trail(&self, call: u64) -> &AtomicU64 {
        &self.trails[(call % TRAILS as u64) as usize]
    }

    /// Where the call went last, as far as that is still known.
    fn last_of(&self, call: u64) -> u64 {
        let there = self.trail(call).load(Relaxed);
        if call != 0 && there >> 16 == trail(call, 0) >> 16 { there & 0xffff } else { 0 }
    }

    fn choose<'a>(
        &self,
        count: usize,
        get: &impl Fn(usize) -> &'a Health,
        avoid: u64,
        first: bool,
        now: Tick,
    ) -> usize {
        if count == 1 {
            return 0;
        }
        let all = self.in_panic();
        // Only with a first attempt: another can follow if it fails.
        if first
            && now.0 >= self.due.load(Relaxed)
            && let Some(place) = self.look(count, get, now)
        {
            return place;
        }
        let memory = self.memory.load(Relaxed) as f64;
        let usable = |place: usize| {
            let one = get(place);
            (all || !one.is_out()) && (avoid == 0 || one.id & 0xffff != avoid)
        };
        let bits = self.draw();
        let Some(one) = draw(count, bits, usable) else {
            // Only the one to avoid, or (while that changes) nobody.
            return (0..count)
                .find(|&place| !get(place).is_out())
                .unwrap_or((bits % count as u64) as usize);
        };
        let Some(other) = draw(count, self.draw(), |place| place != one && usable(place)) else {
            return one;
        };
        let typical = self.typical();
        let load = |place: usize| get(place).load(typical, memory, now);
        let (better, worse) =
            if load(other) < SAME * load(one) { (other, one) } else { (one, other) };
        if self.holds_back(get(better), now) { worse } else { better }
    }

    /// Whether an endpoint that has just returned lets this call pass by.
    fn holds_back(&self, health: &Health, now: Tick) -> bool {
        let back = health.back.load(Relaxed);
        if back == 0 {
            return false;
        }
        let since = now.since(Tick(back));
        let slow_start = Duration::from_nanos(self.slow_start.load(Relaxed));
        if since >= slow_start {
            health.back.store(0, Relaxed);
            return false;
        }
        let share = START + (1.0 - START) * since.as_secs_f64() / slow_start.as_secs_f64();
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64 >= share
    }

    /// Takes the probe that is due, or else one that never got a call, or none for long.
    #[cold]
    fn look<'a>(
        &self,
        count: usize,
        get: &impl Fn(usize) -> &'a Health,
        now: Tick,
    ) -> Option<usize> {
        let mut state = lock(&self.state);
        let find = |id| (0..count).find(|&place| get(place).id == id);
        let probe = if self.in_panic() { None } else { state.probe(now) };
        let place = if let Some(id) = probe {
            self.probes.fetch_add(1, Relaxed);
            find(id)
        } else {
            state.unasked(find, now)
        };
        self.settle(&state);
        place
    }

    /// A call that was picked is over.
    pub(super) fn end(
        &self,
        health: &Arc<Health>,
        started: Tick,
        end: End,
        now: Tick,
    ) -> Option<Change> {
        health.in_flight.fetch_sub(1, Relaxed);
        health.progress.store(now.0, Relaxed);
        let took = now.since(started).as_nanos() as f64;
        let typical = self.typical();
        let known = typical > 0.0;
        let failed = match end {
            End::Ignored => return None,
            End::Success => known && took > PAUSE.max(TOO_SLOW * typical),
            End::Failure => true,
            End::Cancelled if known && took > PAUSE.max(GIVEN_UP * typical) => true,
            End::Cancelled => return None,
        };
        health.calls.fetch_add(1, Relaxed);
        health.count(failed);
        let memory = self.memory.load(Relaxed) as f64;
        if end == End::Success {
            self.learn(took);
            health.learn(took, memory, now);
        } else {
            health.learn(took.max(FAILURE * typical), memory, now);
        }
        if failed {
            return self.fail(health, now);
        }
        if health.in_row.load(Relaxed) != 0 {
            health.in_row.store(0, Relaxed);
        }
        if health.is_out() { self.put_back(health, Why::Answered, now) } else { None }
    }

    fn learn(&self, took: f64) {
        let log = took.max(2.0).ln();
        let known = f64::from_bits(self.typical.load(Relaxed));
        let typical = if known > 0.0 { known + POOL * (log - known) } else { log };
        self.typical.store(typical.to_bits(), Relaxed);
    }

    #[cold]
    fn fail(&self, health: &Arc<Health>, now: Tick) -> Option<Change> {
        health.failed.fetch_add(1, Relaxed);
        let in_row = health.in_row.fetch_add(1, Relaxed).saturating_add(1);
        let mut state = lock(&self.state);
        self.forget(&mut state, now);
        if health.is_out() || !state.all.iter().any(|one| one.id == health.id) {
            return None;
        }
        let why = if in_row >= state.config.failures_in_row {
            Why::InRow(in_row)
        } else {
            unlikely(&state.all, health)?
        };
        health.state.store(OUT, Relaxed);
        let interval = state.config.probe_after;
        let probe_at = now.after(interval);
        state.out.push(Ejected { health: Arc::clone(health), probe_at, interval });
        self.settle(&state);
        self.ejections.fetch_add(1, Relaxed);
        Some(Change { out: true, why })
    }

    /// Halves what is remembered for each stretch of memory that has passed.
    fn forget(&self, state: &mut State, now: Tick) {
        let passed = now.since(state.halved).as_nanos() / state.config.memory.as_nanos().max(1);
        if passed > 0 {
            state.halved = now;
            for _ in 0..passed.min(32) {
                state.all.iter().for_each(|one| one.halve());
            }
        }
    }

    #[cold]
    pub(super) fn put_back(&self, health: &Arc<Health>, why: Why, now: Tick) -> Option<Change> {
        let mut state = lock(&self.state);
        let place = state.out.iter().position(|out| out.health.id == health.id)?;
        state.out.swap_remove(place);
        health.in_row.store(0, Relaxed);
        health.counted.store(0, Relaxed);
        // As quick as the others, until more is known.
        health.latency.store(0, Relaxed);
        // Not 0, which stands for "never".
        health.back.store(now.0.max(1), Relaxed);
        health.state.store(IN, Relaxed);
        self.settle(&state);
        self.returns.fetch_add(1, Relaxed);
        Some(Change { out: false, why })
    }

    /// Those that are there, in the order in which they came.
    pub(super) fn all(&self) -> Vec<Arc<Health>> {
        lock(&self.state).all.clone()
    }
}

/// 48 bits of the call, 16 of the endpoint.
fn trail(call: u64, id: u64) -> u64 {
    call << 16 | id & 0xffff
}

/// A place that is usable, at random: each as likely as the next, unless most are not usable.
fn draw(count: usize, mut bits: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
    for _ in 0..DRAWS {
        let place = ((u128::from(bits) * count as u128) >> 64) as usize;
        if usable(place) {
            return Some(place);
        }
        bits = bits.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1).rotate_left(29);
    }
    let start = (bits % count as u64) as usize;
    (start..count).chain(0..start).find(|&place| usable(place))
}

/// Whether `health` fails so much more often than the others that chance does not explain it.
fn unlikely(all: &[Arc<Health>], health: &Arc<Health>) -> Option<Why> {
    let (calls, failed) = health.counts();
    if failed < 5.0 || calls < 10.0 {
        return None;
    }
    let others = all.iter().filter(|one| one.id != health.id && !one.is_out());
    let (others_calls, others_failed) =
        others.map(|one| one.counts()).fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    // Two calls more, one of them failed: little is known of a quiet pool.
    let expected = ((others_failed + 1.0) / (others_calls + 2.0)).max(0.01);
    let share = failed / calls;
    let deviation = (calls * expected * (1.0 - expected).max(0.01)).sqrt();
    let sure = failed - calls * expected > SURE * deviation && share > 2.0 * expected;
    sure.then_some(Why::Share { failed: share, others: expected })
}
