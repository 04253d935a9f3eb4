//! Who is well and who gets the next call. Sans-IO: time comes in as a [`Tick`].
#![expect(clippy::cast_possible_truncation, reason = "places below a length, and estimates")]

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Tick, nanos};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::sync::{Mutex, lock};

use super::config::Config;
use super::draw::{GOLDEN, TRAILS, draw, mix, trail, unlikely};
use super::health::{FORGOTTEN, Health, IN, OUT};

/// A failure is as slow as so many typical calls: it must not look like a quick answer.
const FAILURE: f64 = 20.0;
/// A call given up after so many times a typical call is a failure of its endpoint.
const GIVEN_UP: f64 = 4.0;
/// So is an answer that took so long.
const TOO_SLOW: f64 = 16.0;
/// But not below a millisecond (in nanoseconds): that is a pause of this process.
const PAUSE: f64 = 1e6;
/// Weight of one call in the latency that is typical of the pool.
const POOL: f64 = 0.02;
/// So many endpoints are drawn for a call. While even those are used that have failed it is two: the first to answer again
/// must not get every call.
const DRAWN: usize = 4;
const DRAWN_OF_ALL: usize = 2;
/// What an endpoint that has just returned gets at first, of its share.
const START: f64 = 0.1;
/// Loads nearer than this are equal: an estimate that is a little lower must not take every draw.
const SAME: f64 = 0.9;

/// How a call came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Success,
    Failure,
    /// Dropped by its caller.
    Cancelled,
    /// Dropped because another attempt has answered.
    Superseded,
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

/// Of an endpoint that is out.
#[derive(Debug)]
struct Ejected {
    health: Arc<Health>,
    since: Tick,
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
        // Who is out has probes. Who has calls is not asked by that: perhaps one of them never ends.
        let due_at = |one: &Health| match one.progress.load(Relaxed) {
            0 => Tick(0),
            _ if one.is_out() => now.after(wait),
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
    /// When the next call has to be a probe, may have to go to one that gets no calls, or finds a check due.
    due: AtomicU64,
    /// When it was last noted what was in flight, and the time before.
    checked: AtomicU64,
    checked_before: AtomicU64,
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
            checked: AtomicU64::new(0),
            checked_before: AtomicU64::new(0),
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

    pub(super) fn insert(&self, label: Arc<str>, now: Tick) -> Arc<Health> {
        let mut state = lock(&self.state);
        state.last_id += 1;
        let health = Arc::new(Health::new(label, state.last_id));
        if self.typical() > 0.0 && !state.all.is_empty() {
            // Others have answered: they go on with most of it while this one gets warm.
            health.back.store(now.0.max(1), Relaxed);
        }
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
        self.due.store(due.min(self.next_check(state)).0, Relaxed);
    }

    fn next_check(&self, state: &State) -> Tick {
        Tick(self.checked.load(Relaxed)).after(state.config.memory)
    }

    /// Notes what is in flight, once in the time of the memory: what still is after twice that never ends, perhaps.
    fn check(&self, state: &State, now: Tick) {
        if self.next_check(state) <= now {
            self.checked_before.store(self.checked.swap(now.0, Relaxed), Relaxed);
            state.all.iter().for_each(|one| one.check());
        }
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
        mix(self.draws.fetch_add(GOLDEN, Relaxed).wrapping_add(GOLDEN))
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
        health.begin(Tick(self.checked_before.load(Relaxed)), now);
        Some(chosen)
    }

    fn trail(&self, call: u64) -> &AtomicU64 {
        &self.trails[(call % TRAILS as u64) as usize]
    }

    /// Where the call went last, as far as that is still known.
    fn last_of(&self, call: u64) -> u64 {
        let there = self.trail(call).load(Relaxed);
        if call != 0 && there >> 32 == trail(call, 0) >> 32 { there & 0xffff_ffff } else { 0 }
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
            (all || !one.is_out()) && (avoid == 0 || one.id & 0xffff_ffff != avoid)
        };
        let typical = self.typical();
        let last = Tick(self.checked_before.load(Relaxed));
        let mut bits = self.draw();
        // The least loaded of those that are drawn, and the next.
        let (mut best, mut next) = (None::<(usize, f64)>, None::<(usize, f64)>);
        let mut drawn = [0; DRAWN];
        let most = if all { DRAWN_OF_ALL } else { DRAWN };
        let mut draws = 0;
        for n in 0..most.min(count) {
            let there = |place| !drawn[..n].contains(&place) && usable(place);
            let Some(place) = draw(count, bits, there) else { break };
            drawn[n] = place;
            draws = n + 1;
            bits = mix(bits.wrapping_add(GOLDEN));
            let one = (place, get(place).load(typical, memory, last, now));
            if best.is_none_or(|(_, least)| one.1 < SAME * least) {
                next = best.replace(one);
            } else if next.is_none_or(|(_, load)| one.1 < load) {
                next = Some(one);
            }
        }
        let Some((better, least)) = best else {
            // Only the one to avoid, or (while that changes) nobody.
            return (0..count)
                .find(|&place| !get(place).is_out())
                .unwrap_or((bits % count as u64) as usize);
        };
        let Some((worse, most)) = next else { return better };
        // Not for the sake of one that is down, while all are used.
        let held = !get(worse).is_out()
            && self.holds_back((get(better), get(worse)), least / most, draws, now);
        if held { worse } else { better }
    }

    /// Whether an endpoint that has just returned or come lets this call pass by, to one that is there for longer. Not to
    /// one that has so much to do, or hangs for so long, that even for its part of the share this one has less.
    fn holds_back(
        &self,
        (health, other): (&Health, &Health),
        load: f64,
        draws: usize,
        now: Tick,
    ) -> bool {
        if health.back.load(Relaxed) == 0 {
            return false;
        }
        let part = self.share(health, now) / self.share(other, now);
        if load < part || part >= 1.0 {
            return false;
        }
        // With less to do than the others it wins whenever it is drawn: `draws` times its share. Among equals it wins when
        // it is the first to be drawn.
        let wins = if load < SAME { draws as f64 } else { 1.0 };
        let chance = part / (1.0 + (wins - 1.0) * (1.0 - part));
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64 >= chance
    }

    /// What it gets of its share in its slow start.
    fn share(&self, health: &Health, now: Tick) -> f64 {
        let back = health.back.load(Relaxed);
        if back == 0 {
            return 1.0;
        }
        let since = now.since(Tick(back));
        let slow_start = Duration::from_nanos(self.slow_start.load(Relaxed));
        if since >= slow_start {
            health.back.store(0, Relaxed);
            return 1.0;
        }
        START + (1.0 - START) * since.as_secs_f64() / slow_start.as_secs_f64()
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
        self.check(&state, now);
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
        // The call that makes a check begins after it. One that read the clock before a check and began after it was
        // not counted there and is taken off all the same: for as long as two checks take, one more call counts.
        if started.0 < self.checked.load(Relaxed) {
            health.was_checked(started.0 < self.checked_before.load(Relaxed));
        }
        let dropped = matches!(end, End::Cancelled | End::Superseded);
        if !dropped {
            health.progress.store(now.0, Relaxed);
        }
        let took = now.since(started).as_nanos() as f64;
        let typical = self.typical();
        let memory = self.memory.load(Relaxed) as f64;
        let longer = |times| typical > 0.0 && took > PAUSE.max(times * typical);
        let failed = match end {
            End::Ignored => return None,
            End::Success => longer(TOO_SLOW),
            End::Failure => true,
            End::Cancelled if longer(GIVEN_UP) => true,
            // Its answer takes at least so long: no failure, but not forgotten either.
            End::Cancelled | End::Superseded => {
                if took > health.known(typical, memory, now) {
                    health.learn(took, memory, now);
                }
                let late = end == End::Superseded && longer(GIVEN_UP);
                // As long as others give up after, once is chance. Again and again it is the endpoint.
                return if late { self.fail(health, now) } else { None };
            }
        };
        health.calls.fetch_add(1, Relaxed);
        health.count(failed);
        if end == End::Success {
            self.learn(took);
            health.learn(took, memory, now);
        } else {
            health.learn(took.max(FAILURE * typical), memory, now);
        }
        if failed {
            health.failed.fetch_add(1, Relaxed);
            return self.fail(health, now);
        }
        health.answered(started);
        if health.in_row.load(Relaxed) != 0 {
            health.in_row.store(0, Relaxed);
        }
        if health.is_out() { self.answered(health, started, now) } else { None }
    }

    fn learn(&self, took: f64) {
        let log = took.max(2.0).ln();
        let known = f64::from_bits(self.typical.load(Relaxed));
        let typical = if known > 0.0 { known + POOL * (log - known) } else { log };
        self.typical.store(typical.to_bits(), Relaxed);
    }

    #[cold]
    fn fail(&self, health: &Arc<Health>, now: Tick) -> Option<Change> {
        let mut state = lock(&self.state);
        // Under the lock: else one that comes back meanwhile would be ejected for those of before.
        let in_row = health.in_row.fetch_add(1, Relaxed).saturating_add(1);
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
        state.out.push(Ejected { health: Arc::clone(health), since: now, probe_at, interval });
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

    /// One that is out has answered well. If the call is from before it does not say how it is now.
    #[cold]
    fn answered(&self, health: &Arc<Health>, started: Tick, now: Tick) -> Option<Change> {
        let state = lock(&self.state);
        let out = state.out.iter().find(|out| out.health.id == health.id)?;
        let old = started <= out.since;
        drop(state);
        if old { None } else { self.put_back(health, Why::Answered, now) }
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
