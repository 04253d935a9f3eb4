//! Calls of a whole stack (shared, with a total timeout, retried, admitted, hedged, over a pool) that are made, polled,
//! dropped and forgotten in random order, while time passes and servers fail, hang, come and go: nothing is left of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::{self, Poll, Wake, Waker};
use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

use super::{ClientPlan, client};
use crate::backend::{Backend, BackendState};
use crate::coalesce::{Coalesce, CoalesceStats};
use crate::endpoints::Endpoints;
use crate::error::BoxError;
use crate::hedge::Hedge;

const MS: Duration = Duration::from_millis(1);

type Client = BoxCloneSyncService<Job, u64, BoxError>;

#[derive(Clone, Copy, Debug)]
enum How {
    Answers(u32),
    Fails(u32),
    Hangs,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    /// Those with the same one share a call.
    key: Option<u8>,
    how: How,
}

/// What came to the servers, and what is there.
#[derive(Default)]
struct Seen {
    sent: AtomicU64,
    out: AtomicU64,
}

struct Out(Arc<Seen>);

impl Drop for Out {
    fn drop(&mut self) {
        self.0.out.fetch_sub(1, SeqCst);
    }
}

fn server(seen: &Arc<Seen>) -> Client {
    let seen = Arc::clone(seen);
    Client::new(service_fn(move |job: Job| {
        let seen = Arc::clone(&seen);
        async move {
            seen.sent.fetch_add(1, SeqCst);
            seen.out.fetch_add(1, SeqCst);
            let _out = Out(seen);
            match job.how {
                How::Answers(ms) | How::Fails(ms) => tokio::time::sleep(ms * MS).await,
                How::Hangs => std::future::pending().await,
            }
            match job.how {
                How::Fails(_) => Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
                _ => Ok(7),
            }
        }
    }))
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// One that is polled when it was told to be, and at no other time.
struct Call {
    future: Pin<Box<dyn Future<Output = Result<u64, BoxError>>>>,
    flag: Arc<Flag>,
}

impl Call {
    fn new(client: &Client, job: Job) -> Self {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        Self { future: Box::pin(client.clone().oneshot(job)), flag }
    }

    fn is_told(&self) -> bool {
        self.flag.0.load(SeqCst)
    }

    fn poll(&mut self) -> Poll<Result<u64, BoxError>> {
        self.flag.0.store(false, SeqCst);
        let waker = Waker::from(Arc::clone(&self.flag));
        self.future.as_mut().poll(&mut task::Context::from_waker(&waker))
    }
}

struct World {
    random: SmallRng,
    seen: Arc<Seen>,
    backend: Backend,
    pool: Endpoints<Client>,
    hedge: Hedge,
    reads: Box<dyn Fn() -> CoalesceStats>,
    client: Client,
    calls: Vec<Call>,
    keyed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let seen = Arc::<Seen>::default();
        let mut plan = ClientPlan::new("random");
        plan.total_timeout = Some(1000 * MS);
        let stack = client(&plan).unwrap();
        let backend = stack.backend().unwrap().clone();
        let pool = stack.endpoints();
        for name in ["one", "two", "three"] {
            pool.insert(name, server(&seen));
        }
        let pooled = Client::new(stack.pool(&pool));
        let hedge = stack.hedge().unwrap().clone();
        let reads = Coalesce::new("random");
        let client = Client::new(reads.layer(|job: &Job| job.key).layer(pooled));
        let reads = Box::new(move || reads.stats());
        let (calls, keyed) = (Vec::new(), 0);
        let random = SmallRng::seed_from_u64(seed);
        Self { random, seen, backend, pool, hedge, reads, client, calls, keyed }
    }

    fn job(&mut self) -> Job {
        let key = self.random.random_ratio(1, 3).then(|| self.random.random_range(0..4));
        // Most are quick, so that the others are worth a hedge.
        let most = if self.random.random_ratio(1, 6) { 120 } else { 12 };
        let ms = self.random.random_range(0..most);
        let how = match self.random.random_range(0..12) {
            0 | 1 => How::Fails(ms),
            2 => How::Hangs,
            _ => How::Answers(ms),
        };
        Job { key, how }
    }

    /// One that was told to look, at random; whether there was one.
    fn poll_one(&mut self) -> bool {
        let told: Vec<_> = (0..self.calls.len()).filter(|&n| self.calls[n].is_told()).collect();
        if told.is_empty() {
            return false;
        }
        let n = told[self.random.random_range(0..told.len())];
        if self.calls[n].poll().is_ready() {
            self.calls.swap_remove(n);
        }
        true
    }

    async fn step(&mut self) {
        match self.random.random_range(0..20) {
            0..6 => {
                let job = self.job();
                let mut call = Call::new(&self.client, job);
                // Else it is dropped, or polled much later, without ever having been polled.
                if self.random.random_ratio(9, 10) {
                    self.keyed += u64::from(job.key.is_some());
                    if call.poll().is_ready() {
                        return;
                    }
                    self.calls.push(call);
                }
            }
            6..14 => {
                self.poll_one();
            }
            14 if !self.calls.is_empty() => {
                let n = self.random.random_range(0..self.calls.len());
                drop(self.calls.swap_remove(n));
            }
            15 => {
                if !self.pool.remove("three") {
                    self.pool.insert("three", server(&self.seen));
                }
            }
            _ => tokio::time::advance(self.random.random_range(0..30) * MS).await,
        }
    }

    /// Nobody leaves any more: each ends by itself, in its total timeout and what it may take to see it.
    async fn ends(&mut self) {
        for _ in 0..2000 {
            while self.poll_one() {}
            if self.calls.is_empty() {
                return;
            }
            tokio::time::advance(MS).await;
        }
        panic!("{} calls wait, and nobody tells them anything", self.calls.len());
    }

    fn nothing_is_left(&self) {
        assert_eq!(self.seen.out.load(SeqCst), 0, "a call is out");
        let stats = self.backend.stats();
        assert_eq!((stats.in_flight, stats.waiting), (0, 0), "{stats:?}");
        assert!(self.pool.stats().iter().all(|one| one.in_flight == 0), "{:?}", self.pool.stats());
        let (reads, hedges) = ((self.reads)(), self.hedge.stats());
        assert_eq!(reads.in_flight, 0, "{reads:?}");
        // Each that could be shared made the call, joined one, or was told that it cannot.
        let came = reads.led + reads.followed + reads.full + reads.crowded + reads.expired;
        assert_eq!(came, self.keyed, "{reads:?}");
        // A hedge goes with the place of its call; nothing else is sent without one.
        let sent = self.seen.sent.load(SeqCst);
        assert!(sent <= stats.admitted + hedges.sent, "{sent}: {stats:?}, {hedges:?}");
        assert!(hedges.won <= hedges.sent, "{hedges:?}");
    }

    /// As before all that: it is up, has room, and all retries to give.
    async fn is_well_again(&mut self) {
        for _ in 0..400 {
            // No slower than those before, which may have taken a millisecond: what is usual was learned of them.
            let ms = self.backend.stats().baseline.as_millis().min(2);
            let how = How::Answers(u32::try_from(ms).unwrap_or(2));
            let job = Job { key: None, how };
            self.calls.push(Call::new(&self.client, job));
            self.ends().await;
            let well = self.backend.state() == BackendState::Up && self.backend.has_headroom();
            if well && self.backend.retries() == Some((3, 3)) && !self.pool.uses_all() {
                return;
            }
        }
        panic!("{:?}, retries {:?}", self.backend.stats(), self.backend.retries());
    }
}

fn run(seed: u64, steps: u32) -> (u64, u64, u64) {
    println!("seed {seed}");
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed);
        for _ in 0..60 {
            world.calls.push(Call::new(&world.client, Job { key: None, how: How::Answers(10) }));
            world.ends().await;
        }
        for _ in 0..steps {
            world.step().await;
        }
        world.ends().await;
        // What was abandoned is taken to be worked on for as long again.
        tokio::time::advance(3000 * MS).await;
        world.nothing_is_left();
        world.is_well_again().await;
        world.nothing_is_left();
        let (reads, hedges) = ((world.reads)(), world.hedge.stats());
        (world.seen.sent.load(SeqCst), reads.followed, hedges.sent)
    })
}

#[test]
fn whatever_the_order_nothing_is_left_of_them() {
    let first: u64 = rand::random::<u64>() >> 8;
    let all: Vec<_> = (0..40).map(|n| run(first + n, 2000)).collect();
    let sums = all.iter().fold((0, 0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2));
    println!("{sums:?}");
    assert!(sums.0 > 4000 && sums.1 > 200 && sums.2 > 0, "the test does nothing: {sums:?}");
}
