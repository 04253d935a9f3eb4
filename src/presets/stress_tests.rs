//! Threads that call, wait and give up at the same time, while the limit is changed: every call is accounted for,
//! and nothing is left of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

use super::{ClientPlan, client};
use crate::admission::{Admission, AdmissionLayer};
use crate::backend::Backend;
use crate::classify::AnyError;
use crate::clock::park;
use crate::context::{Context, ReadContext};
use crate::deadline::Deadline;
use crate::error::BoxError;
use crate::rejection::Rejection;

type Client = BoxCloneSyncService<Job, u64, BoxError>;

/// What is asked, and by when it is needed.
#[derive(Clone, Copy)]
struct Job {
    takes: u32,
    fails: bool,
    context: Context,
}

/// How the calls ended for those who made them, and what came to the service.
#[derive(Default)]
struct Tally {
    made: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    given_up: AtomicU64,
    /// Calls that came to the service.
    sent: AtomicU64,
    /// At the same time.
    out: AtomicU64,
    most_out: AtomicU64,
}

fn add(to: &AtomicU64) {
    to.fetch_add(1, Ordering::Relaxed);
}

fn read(from: &AtomicU64) -> u64 {
    from.load(Ordering::Relaxed)
}

struct Out(Arc<Tally>);

impl Drop for Out {
    fn drop(&mut self) {
        self.0.out.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn work(tally: Arc<Tally>, job: Job) -> Result<u64, BoxError> {
    add(&tally.sent);
    let out = tally.out.fetch_add(1, Ordering::Relaxed) + 1;
    tally.most_out.fetch_max(out, Ordering::Relaxed);
    let _out = Out(tally);
    for _ in 0..job.takes {
        tokio::task::yield_now().await;
    }
    if job.takes.is_multiple_of(7) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if job.fails { Err(io::Error::from(io::ErrorKind::ConnectionReset).into()) } else { Ok(7) }
}

const THREADS: u64 = 4;
const TURNS: usize = 60;

/// In a runtime of its own, many beside each other; a quarter are given up.
fn calls(client: &Client, tally: &Tally, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(async {
        for _ in 0..TURNS {
            let some = (0..50).map(|_| one(client.clone(), tally, random.random()));
            futures_util::future::join_all(some.collect::<Vec<_>>()).await;
        }
    });
}

async fn one(client: Client, tally: &Tally, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut context = Context::new();
    if random.random_ratio(1, 3) {
        let left = Duration::from_millis(random.random_range(0..20));
        context = context.with_deadline(Deadline::after(left));
    }
    let fails = random.random_ratio(1, 20);
    let job = Job { takes: random.random_range(0..30), fails, context };
    let patience = match random.random_range(0..8) {
        0 => 0,
        1 => random.random_range(1..40),
        _ => u32::MAX,
    };
    add(&tally.made);
    let gives_up = pin!(async move {
        for _ in 0..patience {
            if patience == u32::MAX {
                std::future::pending::<()>().await;
            }
            tokio::task::yield_now().await;
        }
    });
    // Polled first, so that it has come at least.
    match select(Box::pin(client.oneshot(job)), gives_up).await {
        Either::Left((Ok(_), _)) => add(&tally.answered),
        Either::Left((Err(error), _)) if Rejection::find(&*error).is_some() => {
            add(&tally.refused);
        }
        Either::Left((Err(_), _)) => add(&tally.failed),
        Either::Right(_) => add(&tally.given_up),
    }
}

/// All that came was admitted, refused or given up; nothing is out, nobody waits.
fn are_accounted_for(backend: &Backend, tally: &Tally, retries: bool) {
    // What was abandoned is perhaps worked on for as long again.
    let late = Instant::now() + Duration::from_secs(20);
    while backend.stats().in_flight > 0 && Instant::now() < late {
        park(Duration::from_millis(1));
    }
    let stats = backend.stats();
    assert_eq!((stats.in_flight, stats.waiting), (0, 0), "{stats:?}");
    assert_eq!(read(&tally.out), 0);
    let ended = [&tally.answered, &tally.failed, &tally.refused, &tally.given_up].map(read);
    assert_eq!(ended.iter().sum::<u64>(), read(&tally.made));
    assert!(ended.iter().all(|&n| n > 0), "the test does nothing: {ended:?}");
    let (refused, given_up, sent) = (ended[2], ended[3], read(&tally.sent));
    let turned_away = stats.hopeless + stats.full + stats.expired + stats.throttled;
    let said = || format!("{ended:?}, {sent} sent, {turned_away} turned away: {stats:?}");
    assert!(sent <= stats.admitted, "{}", said());
    if retries {
        // A deadline ends calls from outside, too.
        assert!(stats.admitted - sent <= given_up + refused, "{}", said());
        return;
    }
    // The place or the refusal that it had, and did not see any more.
    // The first also where it got its place, and its deadline had passed until it saw that.
    assert!(refused <= turned_away + stats.admitted - sent, "{}", said());
    assert!(stats.admitted - sent + turned_away - refused <= given_up, "{}", said());
    // Who was not admitted and not turned away gave up while it waited.
    let accounted = stats.admitted + turned_away;
    assert!((accounted..=accounted + given_up).contains(&read(&tally.made)), "{}", said());
}

/// Calls on four threads, with `change` all the while on a fifth.
fn stress(client: &Client, tally: &Arc<Tally>, change: impl Fn(u64) + Sync) {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                change(n);
                park(Duration::from_micros(300));
            }
        });
        let callers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (client, tally) = (client.clone(), Arc::clone(tally));
                scope.spawn(move || calls(&client, &tally, seed ^ (thread << 32)))
            })
            .collect();
        let ended: Vec<_> = callers.into_iter().map(|caller| caller.join()).collect();
        over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
}

#[derive(Clone, Copy)]
struct OfJob;

impl ReadContext<Job> for OfJob {
    fn context(&self, job: &Job) -> Context {
        job.context
    }

    fn set_context(&self, job: &mut Job, context: Context) {
        job.context = context;
    }
}

fn inner(tally: &Arc<Tally>) -> BoxCloneSyncService<Job, u64, BoxError> {
    let tally = Arc::clone(tally);
    BoxCloneSyncService::new(service_fn(move |job| work(Arc::clone(&tally), job)))
}

#[test]
fn admission_with_a_limit_that_changes() {
    let tally = Arc::<Tally>::default();
    let backend = Backend::fixed("stress", 3).unwrap();
    let layer = AdmissionLayer::new(Admission::of(&backend)).classify(AnyError).context(OfJob);
    let client = Client::new(layer.layer(inner(&tally)));
    stress(&client, &tally, |n| backend.fix(Some([1, 2, 3, 8][(n % 4) as usize])));
    are_accounted_for(&backend, &tally, false);
    assert!((1..=8).contains(&read(&tally.most_out)), "{}", read(&tally.most_out));
}

#[test]
fn admission_with_a_limit_that_is_learned_and_fixed_in_turn() {
    let tally = Arc::<Tally>::default();
    let backend = Backend::new("stress");
    let layer = AdmissionLayer::new(Admission::of(&backend)).classify(AnyError).context(OfJob);
    let client = Client::new(layer.layer(inner(&tally)));
    stress(&client, &tally, |n| backend.fix([None, None, Some(4)][(n % 3) as usize]));
    are_accounted_for(&backend, &tally, false);
}

/// The default, with pauses that are a fifth as long.
fn plan() -> ClientPlan {
    let mut plan = ClientPlan::new("stress");
    plan.total_timeout = Some(Duration::from_secs(2));
    plan
}

#[test]
fn the_default_stack() {
    for changes in [false, true] {
        let tally = Arc::<Tally>::default();
        let stack = client(&plan()).unwrap().context(OfJob);
        let backend = stack.backend().unwrap().clone();
        let client = Client::new(stack.layer(inner(&tally)));
        stress(&client, &tally, |n| {
            if changes {
                backend.fix([None, None, Some(4)][(n % 3) as usize]);
            }
        });
        are_accounted_for(&backend, &tally, true);
    }
}

#[test]
fn a_pool() {
    let tally = Arc::<Tally>::default();
    let stack = client(&plan()).unwrap().context(OfJob);
    let backend = stack.backend().unwrap().clone();
    let pool = stack.endpoints();
    for name in ["one", "two", "three"] {
        pool.insert(name, inner(&tally));
    }
    let client = Client::new(stack.pool(&pool));
    // One of them comes and goes.
    stress(&client, &tally, |n| {
        if n % 2 == 0 {
            pool.remove("three");
        } else {
            pool.insert("three", inner(&tally));
        }
    });
    // Hedges are sent with the place of the call that they are for.
    assert_eq!(read(&tally.out), 0);
    assert_eq!(backend.stats().waiting, 0);
    assert!(pool.stats().iter().all(|one| one.in_flight == 0), "{:?}", pool.stats());
}
