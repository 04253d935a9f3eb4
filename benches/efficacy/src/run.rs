//! One run: one plan, one candidate, one seed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::time::{Instant, MissedTickBehavior};

use crate::candidates::{Candidate, Client, Counts, Known};
use crate::events::{Heard, listen};
use crate::request::{Backend, Endpoint, Request};
use crate::rng::Rng;
use crate::scenario::Plan;
use crate::tally::Tally;
use crate::virtual_time::simulate;
use crate::world::{Micros, TICK, World};

/// What a run shows.
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// What each second the first client's stack said of itself, if it says anything.
    pub(crate) said: Vec<String>,
    /// What the stacks of all clients have done.
    pub(crate) counts: Counts,
}

pub(crate) fn run(plan: &Plan, candidate: &dyn Candidate, seed: u64) -> Outcome {
    simulate(seed, async || inside(plan, candidate, seed).await)
}

/// The same with what the layers of all clients decided.
pub(crate) fn heard(plan: &Plan, candidate: &dyn Candidate, seed: u64) -> (Outcome, Vec<Heard>) {
    simulate(seed, async || listen(inside(plan, candidate, seed)).await)
}

struct Callers {
    world: Arc<Mutex<World>>,
    clients: Vec<Arc<Client>>,
    oracle: bool,
    in_flight: Arc<AtomicUsize>,
    rngs: Vec<Rng>,
    next: u64,
    critical: f64,
    mixed: bool,
}

impl Callers {
    /// A request arrives now; the future ends when its caller knows, or gives up.
    fn send(
        &mut self,
        client: usize,
        plan: &Plan,
        arrived: Micros,
    ) -> impl Future<Output = ()> + Send + use<> {
        let critical = self.rngs[client].chance(self.critical);
        let deadline = Instant::now() + plan.shape.deadline;
        let class = match (self.mixed, critical) {
            (false, _) => buttress::Criticality::Critical,
            (true, true) => buttress::Criticality::CriticalPlus,
            (true, false) => buttress::Criticality::Sheddable,
        };
        let context = buttress::Context::new()
            .with_deadline(buttress::Deadline::after(plan.shape.deadline))
            .with_criticality(class);
        self.next += 1;
        let request = Request { id: self.next, client, deadline, context, critical };
        let world = Arc::clone(&self.world);
        let in_flight = Arc::clone(&self.in_flight);
        let client = Arc::clone(&self.clients[client]);
        let oracle = self.oracle;
        lock(&world).tally.offered(arrived, critical);
        async move {
            in_flight.fetch_add(1, Ordering::Relaxed);
            let answered = async {
                if oracle {
                    let (caller, answer) = tokio::sync::oneshot::channel();
                    lock(&world).ask(&request, caller);
                    match answer.await {
                        Ok(reply) => reply.is_ok(),
                        Err(_) => false,
                    }
                } else {
                    client.call(request).await
                }
            };
            let good = tokio::time::timeout_at(deadline, answered).await.unwrap_or(false);
            in_flight.fetch_sub(1, Ordering::Relaxed);
            if good {
                lock(&world).tally.good(arrived, critical);
            }
        }
    }
}

fn lock(world: &Mutex<World>) -> std::sync::MutexGuard<'_, World> {
    world.lock().expect("no panic under the lock")
}

fn counts(clients: &[Arc<Client>]) -> Counts {
    let mut counts = Counts::new();
    for client in clients {
        for (at, (name, count)) in client.counts().into_iter().enumerate() {
            match counts.get_mut(at) {
                Some((_, sum)) => *sum += count,
                None => counts.push((name, count)),
            }
        }
    }
    counts
}

/// What the first client says of itself, and what all of them have done since `before`.
fn says(clients: &[Arc<Client>], before: &mut Counts) -> String {
    let counts = counts(clients);
    let mut said = String::new();
    for (at, (name, count)) in counts.iter().enumerate() {
        let more = count - before.get(at).map_or(0, |(_, before)| *before);
        if more > 0 {
            said += &format!("{name} {more} ");
        }
    }
    *before = counts;
    let one = clients[0].says();
    if said.is_empty() { one } else { format!("[all: {}] {one}", said.trim_end()) }
}

async fn inside(plan: &Plan, candidate: &dyn Candidate, seed: u64) -> Outcome {
    let start = Instant::now();
    let world = Arc::new(Mutex::new(World::new(plan.clone(), seed, candidate.central())));
    let backend: Arc<Mutex<dyn Backend>> = world.clone();
    let clients = (0..plan.shape.clients)
        .map(|client| {
            let endpoints = (0..plan.servers)
                .map(|server| Endpoint {
                    backend: Arc::clone(&backend),
                    server,
                    timeout: plan.transport_timeout,
                })
                .collect();
            let known = Known {
                client,
                seed: seed.wrapping_mul(1000).wrapping_add(client as u64),
                deadline: plan.shape.deadline,
                attempt_timeout: plan.attempt_timeout,
                attempts: plan.attempts,
            };
            Arc::new(candidate.client(&known, endpoints))
        })
        .collect();
    let mut callers = Callers {
        world: Arc::clone(&world),
        clients,
        oracle: candidate.central(),
        in_flight: Arc::default(),
        rngs: (0..plan.shape.clients).map(|client| Rng::new(seed, client as u64)).collect(),
        next: 0,
        critical: plan.critical,
        mixed: plan.score == crate::scenario::Score::Weighted,
    };
    let mut said = Vec::new();
    let mut counted = Counts::new();

    // Open loop: batches of a geometric size, exponential gaps.
    let mean_gap = plan.shape.clients as f64 * plan.shape.burstiness.max(1.0) / plan.rate * 1e6;
    let mut gaps: Vec<Rng> =
        (0..plan.shape.clients).map(|client| Rng::new(seed, 500_000 + client as u64)).collect();
    let mut next: Vec<f64> = gaps.iter_mut().map(|rng| rng.exponential(mean_gap)).collect();
    // Closed loop: a channel through which users come back.
    let (back, mut returned) = tokio::sync::mpsc::unbounded_channel::<usize>();
    let mut users = Rng::new(seed, 900_000);
    let mut waiting: std::collections::BinaryHeap<std::cmp::Reverse<(Micros, usize)>> = (0..plan
        .users)
        .map(|user| {
            // Spread over one round; then each thinks for the same time.
            let think = users.unit() * plan.think.as_micros() as f64;
            std::cmp::Reverse((think as Micros, user))
        })
        .collect();

    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let end = plan.seconds as Micros * 1_000_000;
    let mut second = 0;
    loop {
        ticks.tick().await;
        let now = start.elapsed().as_micros() as Micros;
        lock(&world).tick(now);
        if now / 1_000_000 > second {
            let in_flight = callers.in_flight.load(Ordering::Relaxed);
            let mut world = lock(&world);
            let load = world.load();
            world.tally.look(second as usize, load, in_flight);
            said.push(says(&callers.clients, &mut counted));
            second = now / 1_000_000;
        }
        if now >= end + plan.shape.deadline.as_micros() as Micros {
            break;
        }
        if now >= end && !plan.goes_on {
            continue;
        }
        if plan.users == 0 {
            for client in 0..plan.shape.clients {
                while next[client] <= now as f64 {
                    let arrived = next[client] as Micros;
                    loop {
                        tokio::spawn(callers.send(client, plan, arrived));
                        let more = 1.0 - 1.0 / plan.shape.burstiness.max(1.0);
                        if more == 0.0 || !gaps[client].chance(more) {
                            break;
                        }
                    }
                    let gap =
                        plan.rate_at.map_or(mean_gap, |rate| 1e6 / rate(now as f64 / 1e6).max(0.1));
                    next[client] += gaps[client].exponential(gap);
                }
            }
        } else {
            while let Ok(user) = returned.try_recv() {
                waiting.push(std::cmp::Reverse((now + plan.think.as_micros() as Micros, user)));
            }
            while let Some(std::cmp::Reverse((at, user))) = waiting.peek().copied() {
                if at > now {
                    break;
                }
                waiting.pop();
                let request = callers.send(user % plan.shape.clients, plan, at);
                let back = back.clone();
                tokio::spawn(async move {
                    request.await;
                    let _ = back.send(user);
                });
            }
        }
    }
    let tally = lock(&world).tally.clone();
    Outcome { tally, said, counts: counts(&callers.clients) }
}
