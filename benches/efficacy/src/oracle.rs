//! One scheduler over all clients that sees free workers, queues, quotas and faults, but not the coins of an
//! attempt. It sends only what can start at once: critical first, then the earliest deadline that can still be
//! met; what probably cannot, newest first, with what is left over.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::sync::oneshot;

use crate::request::{Answer, Reply, Request};
use crate::scenario::Plan;
use crate::world::{Micros, World};

/// Not critical, deadline, id.
type Key = (bool, Micros, u64);

struct Entry {
    key: Key,
    client: usize,
    copies: u32,
    caller: oneshot::Sender<Reply>,
}

pub(crate) struct Oracle {
    /// One for all; one for each client where each has a quota.
    waiting: Vec<BTreeMap<Key, ()>>,
    entries: HashMap<u64, Entry>,
    /// When an attempt is later than 99 % of them, and whose it is.
    late: VecDeque<(Micros, u64)>,
}

impl Oracle {
    pub(crate) fn new(plan: &Plan) -> Self {
        let pools = if plan.quota_rate.is_some() { plan.shape.clients } else { 1 };
        Self {
            waiting: (0..pools).map(|_| BTreeMap::new()).collect(),
            entries: HashMap::new(),
            late: VecDeque::new(),
        }
    }

    fn pool(&mut self, client: usize) -> &mut BTreeMap<Key, ()> {
        let pools = self.waiting.len();
        &mut self.waiting[client % pools]
    }
}

impl World {
    pub(crate) fn ask(&mut self, request: &Request, caller: oneshot::Sender<Reply>) {
        let deadline = self.micros(request.deadline);
        let now = self.now();
        let Some(oracle) = &mut self.oracle else { return };
        let key = (!request.critical, deadline, request.id);
        oracle.pool(request.client).insert(key, ());
        oracle.entries.insert(request.id, Entry { key, client: request.client, copies: 0, caller });
        self.ask_oracle(now);
    }

    /// The time in which 99 % of the attempts at `server` are done.
    fn ninety_nine(&self, server: usize, at: Micros) -> Micros {
        let sigma = self.plan.shape.sigma;
        let median = self.plan.shape.service.as_secs_f64() * (-sigma * sigma / 2.0).exp();
        let slow = self.condition(server, at).slow;
        (median * slow * (2.326 * sigma).exp() * 1e6) as Micros
    }

    /// The server to send to: up, not failing everything, the least slow, with a free worker.
    fn best_server(&self, at: Micros, but_free: usize) -> Option<usize> {
        (0..self.servers.len())
            .filter(|&server| {
                let condition = self.condition(server, at);
                !condition.refused
                    && !condition.silent
                    && !condition.deferred
                    && condition.errors < 1.0
                    && self.free(server, at) > but_free
            })
            .map(|server| (server, self.condition(server, at).slow))
            .min_by(|a, b| a.1.total_cmp(&b.1).then(self.free(b.0, at).cmp(&self.free(a.0, at))))
            // A slow one is used only when all are.
            .filter(|(_, slow)| {
                (0..self.servers.len()).all(|server| self.condition(server, at).slow >= *slow)
            })
            .map(|(server, _)| server)
    }

    pub(crate) fn ask_oracle(&mut self, at: Micros) {
        if self.oracle.is_none() {
            return;
        }
        while let Some(server) = self.best_server(at, 0) {
            let enough = self.ninety_nine(server, at);
            let Some((pool, key)) = self.pick(server, at, enough) else { break };
            let Some(oracle) = &mut self.oracle else { return };
            oracle.waiting[pool].remove(&key);
            let Some(entry) = oracle.entries.get_mut(&key.2) else { continue };
            entry.copies += 1;
            let client = entry.client;
            oracle.late.push_back((at + enough, key.2));
            self.start_for_oracle(server, key.2, client, at);
        }
    }

    fn pick(&mut self, server: usize, at: Micros, enough: Micros) -> Option<(usize, Key)> {
        let pools = self.oracle.as_ref()?.waiting.len();
        let mut best: Option<(usize, Key)> = None;
        let mut rest: Option<(usize, Key)> = None;
        for pool in 0..pools {
            // A pool of one client, if there are quotas.
            if !self.quota_left(server, pool, at) {
                continue;
            }
            let oracle = self.oracle.as_mut()?;
            for normal in [false, true] {
                // Dead ones go.
                while let Some((&key, ())) = oracle.waiting[pool].range((normal, 0, 0)..).next() {
                    if key.0 != normal || key.1 > at {
                        break;
                    }
                    oracle.waiting[pool].remove(&key);
                    if oracle.entries.get(&key.2).is_some_and(|entry| entry.copies == 0) {
                        oracle.entries.remove(&key.2);
                    }
                }
                let waiting = &oracle.waiting[pool];
                let until = (normal, Micros::MAX, u64::MAX);
                if let Some((&key, ())) = waiting.range((normal, at + enough, 0)..=until).next() {
                    if best.is_none_or(|(_, other)| key < other) {
                        best = Some((pool, key));
                    }
                } else if let Some((&key, ())) = waiting.range((normal, 0, 0)..=until).next_back() {
                    let newer = |other: Key| (other.0, Reverse(other.1)) > (key.0, Reverse(key.1));
                    if rest.is_none_or(|(_, other)| newer(other)) {
                        rest = Some((pool, key));
                    }
                }
            }
        }
        best.or(rest)
    }

    /// Whether the answer was of use.
    pub(crate) fn oracle_reply(&mut self, id: u64, reply: Reply, at: Micros) -> bool {
        let Some(oracle) = &mut self.oracle else { return false };
        let Some(entry) = oracle.entries.get_mut(&id) else { return false };
        entry.copies -= 1;
        if reply == Ok(Answer) {
            return oracle
                .entries
                .remove(&id)
                .is_some_and(|entry| entry.caller.send(reply).is_ok());
        }
        if entry.key.1 <= at {
            oracle.entries.remove(&id);
        } else if entry.copies == 0 {
            let (key, client) = (entry.key, entry.client);
            oracle.pool(client).insert(key, ());
        }
        false
    }

    /// A second copy for attempts that are later than 99 % of all, while a tenth of the workers is free.
    pub(crate) fn oracle_hedges(&mut self, now: Micros) {
        let spare = self.plan.workers / 10;
        loop {
            let Some(oracle) = &mut self.oracle else { return };
            let Some(&(due, id)) = oracle.late.front() else { return };
            if due > now {
                return;
            }
            oracle.late.pop_front();
            let Some(entry) = oracle.entries.get(&id) else { continue };
            let (client, copies, deadline) = (entry.client, entry.copies, entry.key.1);
            if copies == 0 || copies > 2 || deadline <= now {
                continue;
            }
            let Some(server) = self.best_server(now, spare) else {
                // Looks again at the next tick.
                if let Some(oracle) = &mut self.oracle {
                    let at = oracle.late.partition_point(|(due, _)| *due <= now + 1000);
                    oracle.late.insert(at, (now + 1000, id));
                }
                continue;
            };
            if !self.quota_left(server, client, now) {
                continue;
            }
            if let Some(entry) = self.oracle.as_mut().and_then(|oracle| oracle.entries.get_mut(&id))
            {
                entry.copies += 1;
            }
            let again = now + self.ninety_nine(server, now);
            if let Some(oracle) = &mut self.oracle {
                let at = oracle.late.partition_point(|(due, _)| *due <= again);
                oracle.late.insert(at, (again, id));
            }
            self.start_for_oracle(server, id, client, now);
        }
    }
}
