//! The servers: workers, a queue, service times, faults, quotas, and the oracle that sees all of it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::oracle::Oracle;
use crate::request::{Answer, Backend, Fault, Reply, Request};
use crate::rng::Rng;
use crate::scenario::{Condition, Plan};
use crate::tally::Tally;

/// Microseconds since the run began. Servers keep exact time; only what callers see is rounded to tokio's
/// millisecond.
pub(crate) type Micros = u64;

pub(crate) enum To {
    Caller(oneshot::Sender<Reply>),
    Oracle(u64),
}

pub(crate) struct Job {
    pub(crate) over_quota: bool,
    /// The server had more than it can hold.
    pub(crate) beyond: bool,
    pub(crate) to: To,
}

struct Running {
    job: Job,
    cost: f64,
    reply: Reply,
}

pub(crate) struct Server {
    rng: Rng,
    queue: VecDeque<Job>,
    running: BinaryHeap<Reverse<(Micros, u64, usize)>>,
    slots: Vec<Option<Running>>,
    free_slots: Vec<usize>,
    busy: usize,
    quotas: Vec<Quota>,
    deferred: Vec<Job>,
}

struct Quota {
    tokens: f64,
    at: Micros,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    start: Instant,
    pub(crate) servers: Vec<Server>,
    seq: u64,
    pub(crate) tally: Tally,
    pub(crate) oracle: Option<Oracle>,
    in_work: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl World {
    pub(crate) fn new(plan: Plan, seed: u64, oracle: bool) -> Self {
        let server = |i| Server {
            rng: Rng::new(seed, 1_000_000 + i as u64),
            queue: VecDeque::new(),
            running: BinaryHeap::new(),
            slots: Vec::new(),
            free_slots: Vec::new(),
            busy: 0,
            quotas: (0..plan.shape.clients)
                .map(|_| Quota { tokens: plan.quota_burst, at: 0 })
                .collect(),
            deferred: Vec::new(),
        };
        Self {
            servers: (0..plan.servers).map(server).collect(),
            start: Instant::now(),
            seq: 0,
            tally: Tally::new(plan.seconds),
            oracle: oracle.then(|| Oracle::new(&plan)),
            in_work: std::sync::Arc::default(),
            plan,
        }
    }

    pub(crate) fn now(&self) -> Micros {
        self.start.elapsed().as_micros() as Micros
    }

    pub(crate) fn micros(&self, at: Instant) -> Micros {
        at.duration_since(self.start).as_micros() as Micros
    }

    pub(crate) fn condition(&self, server: usize, at: Micros) -> Condition {
        self.plan.condition(server, at as f64 / 1e6)
    }

    fn active(&self, server: usize, at: Micros) -> usize {
        let workers = self.plan.workers as f64 * self.condition(server, at).capacity;
        (workers.round() as usize).max(1)
    }

    /// Workers of `server` that could start something at `at`.
    pub(crate) fn free(&self, server: usize, at: Micros) -> usize {
        self.active(server, at).saturating_sub(self.servers[server].busy)
    }

    /// What `client` may still send to `server`, without taking it.
    pub(crate) fn quota_left(&mut self, server: usize, client: usize, at: Micros) -> bool {
        let Some(rate) = self.plan.quota_rate else { return true };
        let quota = &mut self.servers[server].quotas[client];
        let passed = at.saturating_sub(quota.at) as f64 / 1e6;
        quota.tokens = (quota.tokens + passed * rate).min(self.plan.quota_burst);
        quota.at = quota.at.max(at);
        quota.tokens >= 1.0
    }

    /// It holds more than it can, waiting or in work.
    fn is_beyond(&self, server: usize) -> bool {
        let this = &self.servers[server];
        let most = self.plan.shape.fail_beyond.map(|times| times * self.plan.workers as f64);
        most.is_some_and(|most| (this.queue.len() + this.busy) as f64 >= most)
    }

    fn take_quota(&mut self, server: usize, client: usize, at: Micros) -> bool {
        let there = self.quota_left(server, client, at);
        if there && self.plan.quota_rate.is_some() {
            self.servers[server].quotas[client].tokens -= 1.0;
        }
        there
    }

    /// Everything due until `now`, in order.
    pub(crate) fn tick(&mut self, now: Micros) {
        loop {
            let next = (0..self.servers.len())
                .filter_map(|s| self.servers[s].running.peek().map(|Reverse((at, ..))| (*at, s)))
                .min();
            match next {
                Some((at, server)) if at <= now => self.finish(server),
                _ => break,
            }
        }
        for server in 0..self.servers.len() {
            if !self.servers[server].deferred.is_empty() && !self.condition(server, now).deferred {
                let late = std::mem::take(&mut self.servers[server].deferred);
                self.servers[server].queue.extend(late);
            }
            self.fill(server, now);
        }
        self.ask_oracle(now);
        self.oracle_hedges(now);
    }

    fn finish(&mut self, server: usize) {
        let this = &mut self.servers[server];
        let Some(Reverse((at, _, slot))) = this.running.pop() else { return };
        let Some(Running { job, cost, reply }) = this.slots[slot].take() else { return };
        this.free_slots.push(slot);
        this.busy -= 1;
        let useful = match job.to {
            To::Caller(caller) => caller.send(reply).is_ok() && reply.is_ok(),
            To::Oracle(id) => self.oracle_reply(id, reply, at),
        };
        self.tally.work(cost, useful);
        self.fill(server, at);
        self.ask_oracle(at);
    }

    fn fill(&mut self, server: usize, at: Micros) {
        while self.free(server, at) > 0 {
            let Some(job) = self.servers[server].queue.pop_front() else { break };
            self.start(server, job, at);
        }
    }

    pub(crate) fn start(&mut self, server: usize, job: Job, at: Micros) {
        let condition = self.condition(server, at);
        let shape = &self.plan.shape;
        let mean = shape.service.as_secs_f64();
        let this = &mut self.servers[server];
        // Always the same number of draws.
        let mut cost = this.rng.lognormal(mean, shape.sigma) * condition.slow;
        let (error, tail) = (this.rng.unit(), this.rng.unit());
        let mut reply = Ok(Answer);
        if job.over_quota {
            reply = Err(Fault::Quota(self.plan.retry_after));
            cost = 0.2 * mean;
        } else if job.beyond || error < condition.errors {
            reply = Err(Fault::Error);
            cost *= 0.2;
        } else if tail < condition.tail {
            cost *= 50.0;
        }
        let slot = this.free_slots.pop().unwrap_or_else(|| {
            this.slots.push(None);
            this.slots.len() - 1
        });
        this.slots[slot] = Some(Running { job, cost, reply });
        this.busy += 1;
        self.seq += 1;
        this.running.push(Reverse((at + (cost * 1e6) as Micros, self.seq, slot)));
    }

    /// Sent by the oracle, who knows that it can start.
    pub(crate) fn start_for_oracle(&mut self, server: usize, id: u64, client: usize, at: Micros) {
        self.tally.attempt(at);
        let over_quota = !self.take_quota(server, client, at);
        self.start(server, Job { over_quota, beyond: false, to: To::Oracle(id) }, at);
    }

    /// Marc Brooker's server: slower the more it has in work, over a network of 100 ms each way.
    fn crowd(&mut self, server: usize, reply: oneshot::Sender<Reply>) {
        let rng = &mut self.servers[server].rng;
        let [there, back] = [(); 2].map(|()| Duration::from_secs_f64(rng.exponential(0.1)));
        let in_work = std::sync::Arc::clone(&self.in_work);
        tokio::spawn(async move {
            tokio::time::sleep(there).await;
            let now = in_work.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            tokio::time::sleep(Duration::from_secs_f64(1.0 + 0.01 * now as f64)).await;
            in_work.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(back).await;
            let _ = reply.send(Ok(Answer));
        });
    }

    /// Waiting and in work, for the time-line.
    pub(crate) fn load(&self) -> (usize, usize) {
        let sum = |f: fn(&Server) -> usize| self.servers.iter().map(f).sum();
        let crowd = self.in_work.load(std::sync::atomic::Ordering::Relaxed);
        (sum(|server| server.queue.len()), sum(|server| server.busy) + crowd)
    }
}

impl Backend for World {
    fn submit(&mut self, server: usize, request: &Request, reply: oneshot::Sender<Reply>) {
        let now = self.now();
        self.tally.attempt(now);
        if self.plan.crowded {
            return self.crowd(server, reply);
        }
        let condition = self.condition(server, now);
        let full = self.servers[server].queue.len() >= self.plan.queue;
        if condition.refused || (full && self.free(server, now) == 0) {
            self.tally.refused(now);
            let _ = reply.send(Err(Fault::Refused));
            return;
        }
        if condition.silent {
            return; // the reply is dropped: nobody ever answers
        }
        let over_quota = !self.take_quota(server, request.client, now);
        let beyond = self.is_beyond(server);
        let job = Job { over_quota, beyond, to: To::Caller(reply) };
        if condition.deferred {
            self.servers[server].deferred.push(job);
            return;
        }
        self.servers[server].queue.push_back(job);
        self.fill(server, now);
    }
}

pub(crate) const TICK: Duration = Duration::from_millis(1);
