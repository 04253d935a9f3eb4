//! The default stack, dropped after any number of polls: nothing is left of the call, in it and in the service
//! that it is around.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::presets::{BreakerPlan, ClientLayer, ClientPlan, RateLimitPlan, client};
use buttress::{Backend, BoxError, FailureClass, RetryHint, Verdict, classify_fn};
use futures_util::future::{BoxFuture, join};
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tower::limit::ConcurrencyLimit;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt};

const MS: Duration = Duration::from_millis(1);

/// Dropped after so many polls: at once, or when it is told that there is something for it.
struct Dropped<F> {
    future: Option<Pin<Box<F>>>,
    polls: u32,
    at_once: bool,
}

impl<F: Future> Future for Dropped<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let (Some(future), 1..) = (&mut this.future, this.polls) {
            this.polls -= 1;
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            if this.polls > 0 || !this.at_once {
                return Poll::Pending;
            }
        }
        this.future = None;
        Poll::Ready(None)
    }
}

/// What happens to the n-th call; those before are all good.
#[derive(Clone, Copy)]
enum Answer {
    Good(Duration),
    Bad,
    Busy,
}

/// Not ready at once, and not done at once.
#[derive(Clone)]
struct Script {
    asked: u32,
    calls: Arc<AtomicU32>,
    answer: fn(u32) -> Answer,
}

impl Service<u32> for Script {
    type Response = u32;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<u32, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.asked += 1;
        if self.asked.is_multiple_of(2) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, n: u32) -> Self::Future {
        let nth = self.calls.fetch_add(1, Ordering::Relaxed);
        let nth = nth.checked_sub(FROM_HERE);
        let answer = nth.map_or(Answer::Good(MS), self.answer);
        Box::pin(async move {
            yield_now().await;
            match answer {
                Answer::Good(takes) => {
                    sleep(takes).await;
                    return Ok(n);
                }
                Answer::Bad => sleep(3 * MS).await,
                Answer::Busy => return Err(io::Error::from(io::ErrorKind::WouldBlock).into()),
            }
            Err(io::Error::from(io::ErrorKind::ConnectionReset).into())
        })
    }
}

fn judge(result: Result<&u32, &BoxError>) -> Verdict {
    let Err(error) = result else { return Verdict::success() };
    match error.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::WouldBlock) => Verdict::throttled(Some(30 * MS)),
        Some(_) => {
            Verdict::failure(FailureClass::Transient).with_retry(RetryHint::Safe { after: None })
        }
        None => buttress::judge_error(&**error),
    }
}

/// Tower's: a place is taken by who is ready, for as long as it is, or its call.
type Inner = ConcurrencyLimit<Script>;
type Client = BoxCloneSyncService<u32, u32, BoxError>;

const PLACES: usize = 3;
/// The number of the first call after those before.
const FROM_HERE: u32 = 1_000_000;

struct Rig {
    backend: Option<Backend>,
    client: Client,
    places: Vec<Arc<Semaphore>>,
    calls: Arc<AtomicU32>,
}

impl Rig {
    fn new(plan: &ClientPlan, answer: fn(u32) -> Answer, pool: bool) -> Self {
        let stack: ClientLayer<_> = client(plan).unwrap().classify(classify_fn(judge));
        let calls = Arc::<AtomicU32>::default();
        let mut places = Vec::new();
        let mut inner = || -> Inner {
            let semaphore = Arc::new(Semaphore::new(PLACES));
            places.push(Arc::clone(&semaphore));
            let script = Script { asked: 0, calls: Arc::clone(&calls), answer };
            ConcurrencyLimit::with_semaphore(script, semaphore)
        };
        let client = if pool {
            let endpoints = stack.endpoints();
            endpoints.extend([("one", inner()), ("two", inner())]);
            Client::new(stack.pool(&endpoints))
        } else {
            Client::new(stack.layer(inner()))
        };
        Self { backend: stack.backend().cloned(), client, places, calls }
    }

    /// Nothing is out, and nothing waits.
    async fn is_empty(&self, what: &str) {
        if let Some(backend) = &self.backend {
            if backend.stats().in_flight > 0 {
                // What was abandoned may still be worked on.
                sleep(Duration::from_secs(30)).await;
            }
            let stats = backend.stats();
            assert_eq!((stats.in_flight, stats.waiting), (0, 0), "{what}: {stats:?}");
        }
        for places in &self.places {
            assert_eq!(places.available_permits(), PLACES, "{what}");
        }
    }
}

struct Scenario {
    name: &'static str,
    plan: ClientPlan,
    answer: fn(u32) -> Answer,
    /// So many calls before it, one after the other.
    before: u32,
    /// One that is there when it comes.
    beside: bool,
    pool: bool,
    /// So often it can at least be dropped.
    polls: u32,
    /// So often it is sent if it is not dropped, or the one beside it.
    sent: u32,
}

impl Scenario {
    fn new(name: &'static str, sent: u32, answer: fn(u32) -> Answer) -> Self {
        let plan = ClientPlan::new(name);
        Self { name, plan, answer, before: 0, beside: false, pool: false, polls: 2 * sent, sent }
    }

    async fn play(&self) {
        for at_once in [true, false] {
            let mut polls = 0;
            while self.dropped_after(polls, at_once).await {
                polls += 1;
                assert!(polls < 1000, "{}", self.name);
            }
            assert!(polls > self.polls, "{}: done after {polls}", self.name);
        }
    }

    /// Whether it was dropped before it was done.
    async fn dropped_after(&self, polls: u32, at_once: bool) -> bool {
        let what = format!("{}, dropped after {polls} polls, at once: {at_once}", self.name);
        let rig = Rig::new(&self.plan, self.answer, self.pool);
        for n in 0..self.before {
            rig.client.clone().oneshot(n).await.unwrap();
        }
        rig.calls.store(FROM_HERE, Ordering::Relaxed);
        let mut clone = rig.client.clone();
        clone.ready().await.unwrap();
        let beside = async {
            if self.beside {
                assert_eq!(rig.client.clone().oneshot(7).await.unwrap(), 7, "{what}");
            }
        };
        let future = Some(Box::pin(rig.client.clone().oneshot(8)));
        let ((), dropped) = join(beside, Dropped { future, polls, at_once }).await;
        let sent = rig.calls.load(Ordering::Relaxed) - FROM_HERE;
        // It was ready before, and still is.
        let call = timeout(Duration::from_secs(9), clone.call(9)).await;
        assert_eq!(call.expect(&what).expect(&what), 9, "{what}");
        drop(clone);
        rig.is_empty(&what).await;
        // All places can be had.
        let calls = (0..4).map(|n| rig.client.clone().oneshot(n));
        for answer in futures_util::future::join_all(calls).await {
            assert!(answer.is_ok(), "{what}: {answer:?}");
        }
        rig.is_empty(&what).await;
        let Some(answer) = dropped else { return true };
        assert_eq!((answer.unwrap(), sent), (8, self.sent), "{what}");
        false
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_answered() {
    Scenario::new("good", 1, |_| Answer::Good(MS)).play().await;
    let mut fixed = Scenario::new("fixed", 1, |_| Answer::Good(MS));
    fixed.plan.backend.as_mut().unwrap().in_flight = Some(2);
    fixed.play().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_tried_again() {
    let mut scenario = Scenario::new("retried", 3, |n| match n {
        0 | 1 => Answer::Bad,
        _ => Answer::Good(MS),
    });
    scenario.before = 5;
    scenario.play().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_place() {
    let mut scenario = Scenario::new("waits", 2, |_| Answer::Good(20 * MS));
    scenario.plan.backend.as_mut().unwrap().in_flight = Some(1);
    scenario.beside = true;
    scenario.play().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_the_quota() {
    let mut scenario = Scenario::new("throttled", 3, |n| match n {
        0 | 1 => Answer::Busy,
        _ => Answer::Good(MS),
    });
    scenario.before = 5;
    scenario.play().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_while_it_is_down() {
    // The twelfth failure takes it down, a probe that is answered up.
    let mut scenario = Scenario::new("down", 14, |n| match n {
        0..13 => Answer::Bad,
        _ => Answer::Good(MS),
    });
    scenario.before = 5;
    scenario.play().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_with_all_parts_around_it() {
    let mut scenario = Scenario::new("all", 3, |n| match n {
        0 => Answer::Bad,
        1 => Answer::Good(Duration::from_secs(3600)),
        _ => Answer::Good(MS),
    });
    scenario.plan.rate_limit = Some(RateLimitPlan::new("100/s burst 20".parse().unwrap()));
    scenario.plan.attempt_timeout = Some(500 * MS);
    scenario.plan.breaker = Some(BreakerPlan::default());
    scenario.before = 5;
    scenario.play().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_pool_and_its_hedge() {
    // Two hundred that are quick, then one that takes long, a second attempt that does, too, and a third.
    let mut scenario = Scenario::new("pool", 3, |n| match n {
        0 => Answer::Good(Duration::from_secs(5)),
        1 => Answer::Good(10 * MS),
        _ => Answer::Good(MS),
    });
    scenario.before = 200;
    scenario.pool = true;
    scenario.play().await;
}
