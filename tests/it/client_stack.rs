//! A client's stack at work: given up, down, with several endpoints, with what must not be repeated.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use buttress::presets::{ClientPlan, client};
use buttress::{Context, ReadContext};
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

fn broke() -> io::Error {
    io::Error::other("inner broke")
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_calls_that_are_given_up() {
    // Four are sent as long as it has learned nothing; with a limit of our own a call that is given up is over.
    for (in_flight, limit, after) in [(Some(2), 2, 0), (None, 4, 4)] {
        let mut plan = ClientPlan::new("db");
        plan.backend.as_mut().unwrap().in_flight = in_flight;
        let stack = client(&plan).unwrap();
        let hangs = service_fn(|_: u32| pending::<io::Result<u32>>());
        let service = stack.layer(hangs);
        let mut calls: Vec<_> =
            (0..limit + 3).map(|n| Box::pin(service.clone().oneshot(n))).collect();
        for call in &mut calls {
            assert!(futures_util::poll!(call).is_pending());
        }
        let backend = stack.backend().unwrap();
        let out = || (backend.stats().in_flight, backend.stats().waiting);
        assert_eq!(out(), (limit, 3));
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(calls);
        // What was sent may still be worked on for as long as it was waited for.
        assert_eq!(out(), (after, 0));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(out(), (0, 0), "also while nobody comes");
        assert!(backend.has_headroom());
        let mut next = Box::pin(service.oneshot(0));
        assert!(futures_util::poll!(&mut next).is_pending());
        assert_eq!(out(), (1, 0), "the next is sent");
    }
}

#[tokio::test(start_paused = true)]
async fn a_down_backend_is_waited_for_and_probed() {
    let sent = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&sent);
    let up_at = Instant::now() + Duration::from_secs(5);
    let stack = client(&ClientPlan::new("db")).unwrap();
    let service = stack.layer(service_fn(move |n: u32| {
        seen.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if Instant::now() < up_at { Err(broke()) } else { Ok(n) }
        }
    }));
    let calls = (0..50).map(|n| service.clone().oneshot(n));
    let answers = futures_util::future::join_all(calls).await;
    let failed = answers.iter().filter(|answer| answer.is_err()).count();
    // Until it is known to be down there is no headroom to pay more than three retries from.
    assert!(failed <= 12 - 3, "{failed} failed at once");
    for (n, answer) in answers.into_iter().enumerate() {
        assert!(answer.is_err() || answer.unwrap() as usize == n);
    }
    assert!(Instant::now() >= up_at, "the others waited");
    let stats = stack.backend().unwrap().stats();
    assert_eq!((stats.in_flight, stats.waiting, stats.downs), (0, 0, 1));
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 50 * 4, "{sent} attempts for 50 calls");
}

#[derive(Clone, Copy, Default)]
struct Job(Context);

#[derive(Clone, Copy)]
struct Carries;

impl ReadContext<Job> for Carries {
    fn context(&self, job: &Job) -> Context {
        job.0
    }

    fn set_context(&self, job: &mut Job, context: Context) {
        job.0 = context;
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_to_another_endpoint() {
    let stack = client(&ClientPlan::new("db")).unwrap().context(Carries);
    let pool = stack.endpoints();
    for me in ["bad", "good", "fine"] {
        let answer = move |_: Job| async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if me == "bad" { Err(broke()) } else { Ok(me) }
        };
        pool.insert(me, service_fn(answer));
    }
    let service = stack.pool(&pool);
    for _ in 0..200 {
        assert_ne!(service.clone().oneshot(Job::default()).await.unwrap(), "bad");
    }
    let stats = pool.stats();
    let bad = stats.iter().find(|one| &*one.endpoint == "bad").unwrap();
    assert!((1..=3).contains(&bad.failed), "{stats:?}");
    assert_eq!(stack.backend().unwrap().stats().admitted, 200 + bad.failed);
    assert_eq!(stack.hedge().unwrap().name(), "db");
}

/// Attempts under way at one server, and those that were let go before they had answered.
#[derive(Default)]
struct Desk {
    inside: AtomicU32,
    let_go: AtomicU32,
}

struct Visit {
    desk: Arc<Desk>,
    answered: bool,
}

impl Visit {
    fn of(desk: &Arc<Desk>) -> Self {
        desk.inside.fetch_add(1, Ordering::Relaxed);
        Self { desk: Arc::clone(desk), answered: false }
    }

    fn answer(mut self) {
        self.answered = true;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.desk.inside.fetch_sub(1, Ordering::Relaxed);
        self.desk.let_go.fetch_add(u32::from(!self.answered), Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hedge_goes_to_the_other_endpoint_and_who_loses_is_let_go() {
    let slow = Arc::new(AtomicU32::new(9));
    let went = Arc::new(std::sync::Mutex::new(Vec::new()));
    let desks = [Arc::<Desk>::default(), Arc::default()];
    let stack = client(&ClientPlan::new("db")).unwrap().context(Carries);
    let pool = stack.endpoints();
    for (me, desk) in (0..2).zip(desks.clone()) {
        let (slow, went) = (Arc::clone(&slow), Arc::clone(&went));
        let server = service_fn(move |job: Job| {
            went.lock().unwrap().push((me, job.0.attempt()));
            let visit = Visit::of(&desk);
            let takes = if slow.load(Ordering::Relaxed) == me { 900 } else { 10 };
            async move {
                tokio::time::sleep(Duration::from_millis(takes)).await;
                visit.answer();
                Ok::<_, io::Error>(me)
            }
        });
        pool.insert(me.to_string(), server);
    }
    let service = stack.pool(&pool);
    let hedge = stack.hedge().unwrap();
    for ill in [0, 1, 0, 1, 0, 1] {
        // All is well, until the one that was slow is used as the other.
        slow.store(9, Ordering::Relaxed);
        for _ in 0..200 {
            service.clone().oneshot(Job::default()).await.unwrap();
        }
        slow.store(ill, Ordering::Relaxed);
        let (sent, won) = (hedge.stats().sent, hedge.stats().won);
        let let_go = desks[ill as usize].let_go.load(Ordering::Relaxed);
        let other_let_go = desks[1 - ill as usize].let_go.load(Ordering::Relaxed);
        for calls in 0.. {
            assert!(calls < 200, "none went to the slow one, or none was hedged");
            went.lock().unwrap().clear();
            let start = Instant::now();
            assert_eq!(service.clone().oneshot(Job::default()).await.unwrap(), 1 - ill);
            assert!(start.elapsed() < Duration::from_millis(100));
            let others = desks[1 - ill as usize].let_go.load(Ordering::Relaxed);
            assert_eq!(others, other_let_go, "of those that answered");
            if hedge.stats().sent > sent {
                break;
            }
        }
        assert_eq!(*went.lock().unwrap(), [(ill, 1), (1 - ill, 2)]);
        assert_eq!((hedge.stats().sent, hedge.stats().won), (sent + 1, won + 1));
        assert_eq!(desks[ill as usize].let_go.load(Ordering::Relaxed), let_go + 1);
        for (desk, stats) in desks.iter().zip(pool.stats()) {
            assert_eq!(desk.inside.load(Ordering::Relaxed), 0);
            assert_eq!((stats.in_flight, stats.failed, stats.ejected), (0, 0, false));
        }
    }
}

#[cfg(feature = "http")]
mod http {
    use axum::http::{Request, Response};
    use buttress::Deadline;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_may_not_be_repeated_is_sent_once() {
        let sent = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&sent);
        let mut plan = ClientPlan::new("pay");
        plan.total_timeout = Some(Duration::from_secs(2));
        plan.attempt_timeout = Some(Duration::from_millis(300));
        let stack = client(&plan).unwrap().http();
        let inner = service_fn(move |request: Request<String>| {
            let first = seen.fetch_add(1, Ordering::Relaxed) == 0;
            let hangs = first && request.uri() == "/hangs";
            async move {
                if hangs {
                    pending::<()>().await;
                }
                let status = if first { 500 } else { 200 };
                Ok::<_, io::Error>(Response::builder().status(status).body(()).unwrap())
            }
        });
        let service = stack.layer(inner);
        let call = |method: &str, path: &str, key: bool| {
            let mut request = Request::builder().method(method).uri(path);
            if key {
                request = request.header("idempotency-key", "key-of-a-payment-0001");
            }
            service.clone().oneshot(request.body(String::new()).unwrap())
        };
        for path in ["/", "/hangs"] {
            for (method, key, times) in [("GET", false, 2), ("POST", false, 1), ("POST", true, 2)] {
                sent.store(0, Ordering::Relaxed);
                let answer = call(method, path, key).await;
                let what = format!("{method} {path} {key}");
                assert_eq!(sent.load(Ordering::Relaxed), times, "{what}");
                let good = answer.is_ok_and(|answer| answer.status().is_success());
                assert_eq!(good, times == 2, "{what}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_of_a_request_ends_it_while_it_waits_too() {
        let mut plan = ClientPlan::new("slow");
        plan.backend.as_mut().unwrap().in_flight = Some(1);
        let stack = client(&plan).unwrap().http();
        let hangs = service_fn(|_: Request<String>| pending::<io::Result<Response<()>>>());
        let service = stack.layer(hangs);
        let call = |left| {
            let mut request = Request::new(String::new());
            Deadline::after(Duration::from_millis(left)).put(request.extensions_mut());
            let call = service.clone().oneshot(request);
            async move {
                let start = Instant::now();
                assert!(call.await.is_err());
                start.elapsed().as_millis()
            }
        };
        assert_eq!(tokio::join!(call(200), call(70)), (200, 70));
        assert_eq!(stack.backend().unwrap().stats().waited, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_in_a_hurry_do_not_take_the_backend_down() {
        let mut plan = ClientPlan::new("db");
        plan.attempt_timeout = Some(Duration::from_secs(1));
        let stack = client(&plan).unwrap().http();
        let inner = service_fn(|_: Request<String>| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<_, io::Error>(Response::new(()))
        });
        let service = stack.layer(inner);
        for n in 0..40 {
            let mut request = Request::new(String::new());
            Deadline::after(Duration::from_millis(5)).put(request.extensions_mut());
            assert!(service.clone().oneshot(request).await.is_err(), "{n}");
        }
        assert_eq!(stack.backend().unwrap().stats().downs, 0);
        assert!(service.oneshot(Request::new(String::new())).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_that_take_too_long_take_the_backend_down() {
        let mut plan = ClientPlan::new("db");
        plan.attempt_timeout = Some(Duration::from_millis(100));
        let stack = client(&plan).unwrap().http();
        let hangs = service_fn(|_: Request<String>| pending::<io::Result<Response<()>>>());
        let service = stack.layer(hangs);
        assert!(service.oneshot(Request::new(String::new())).await.is_err());
        assert_eq!(stack.backend().unwrap().stats().downs, 1);
    }
}
