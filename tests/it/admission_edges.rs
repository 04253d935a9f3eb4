//! Admission where something goes wrong: panics, cancellation, services that are not ready, no runtime.

use std::future::{Ready, pending, poll_fn, ready};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{self, Poll, Waker};
use std::time::Duration;

use buttress::admission::{Admission, AdmissionLayer};
use buttress::{
    AsTyped, Backend, BackendState, Classify, Context, Deadline, Error, FailureClass,
    RejectionKind, Verdict, classify_fn, respond_with,
};
use futures_util::FutureExt;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);

type Inner<Req, Res> = BoxCloneSyncService<Req, Res, io::Error>;
type Boxed<Req, Res> = BoxCloneSyncService<Req, Res, Error<io::Error>>;

fn plain(backend: &Backend) -> AdmissionLayer<buttress::AnyError, buttress::NoContext, AsTyped> {
    AdmissionLayer::new(Admission::of(backend)).on_reject(AsTyped)
}

fn kind<T>(result: &Result<T, Error<io::Error>>) -> Option<RejectionKind> {
    result.as_ref().err()?.rejection().map(buttress::Rejection::kind)
}

/// Nothing is out, nobody waits, and the next call goes through.
async fn is_as_new(backend: &Backend) {
    let stats = backend.stats();
    assert_eq!((stats.in_flight, stats.waiting), (0, 0));
    let good = Inner::new(service_fn(|n: u32| ready(Ok(n))));
    let service: Boxed<u32, u32> = Boxed::new(plain(backend).layer(good));
    assert_eq!(service.oneshot(7).await.unwrap(), 7);
    assert_eq!(backend.stats().in_flight, 0);
}

#[test]
fn without_a_runtime_a_waiter_panics_and_leaves_no_trace() {
    let backend = Backend::fixed("db", 1).unwrap();
    let hangs = Inner::new(service_fn(|()| pending::<io::Result<()>>()));
    let mut service = plain(&backend).layer(hangs);
    let mut cx = task::Context::from_waker(Waker::noop());
    let mut one = pin!(service.call(()));
    assert!(one.as_mut().poll(&mut cx).is_pending(), "who need not wait needs no timer");
    let mut two = Box::pin(service.call(()));
    assert!(catch_unwind(AssertUnwindSafe(|| two.as_mut().poll(&mut cx).is_ready())).is_err());
    drop(two);
    assert_eq!(backend.stats().waiting, 0);
}

/// Ready when it is told to be. Says how often it was called.
#[derive(Clone, Default)]
struct Gate {
    open: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
}

impl Service<Context> for Gate {
    type Response = ();
    type Error = io::Error;
    type Future = Ready<io::Result<()>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        if self.open.load(Ordering::Relaxed) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, _: Context) -> Self::Future {
        self.calls.fetch_add(1, Ordering::Relaxed);
        ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_inner_service_leaves_at_its_deadline_unsent() {
    let gate = Gate::default();
    let backend = Backend::new("db");
    let service: Boxed<Context, ()> =
        Boxed::new(plain(&backend).context(|with: &Context| *with).layer(gate.clone()));
    let by = |ms: u32| Context::new().with_deadline(Deadline::after(ms * MS));

    // Never ready: nobody wakes it but its own timer.
    let began = Instant::now();
    let result = service.clone().oneshot(by(50)).await;
    assert_eq!(kind(&result), Some(RejectionKind::DeadlineExceeded));
    assert!(began.elapsed() <= 52 * MS, "{:?}", began.elapsed());
    assert_eq!(backend.stats().in_flight, 0);

    // Ready when the deadline has passed and nothing has polled since.
    let mut call = service.clone().oneshot(by(50));
    assert!((&mut call).now_or_never().is_none());
    tokio::time::advance(60 * MS).await;
    gate.open.store(true, Ordering::Relaxed);
    assert_eq!(kind(&call.await), Some(RejectionKind::DeadlineExceeded));
    assert_eq!(gate.calls.load(Ordering::Relaxed), 0, "nobody waited for it any longer");

    service.oneshot(by(50)).await.unwrap();
    assert_eq!(gate.calls.load(Ordering::Relaxed), 1);
    is_as_new(&backend).await;
}

#[tokio::test(start_paused = true)]
async fn who_has_its_place_and_is_polled_after_its_deadline_leaves_unsent() {
    let gate = Gate::default();
    gate.open.store(true, Ordering::Relaxed);
    let backend = Backend::fixed("db", 1).unwrap();
    let with = |with: &Context| *with;
    let hangs = Inner::new(service_fn(|_: Context| pending::<io::Result<()>>()));
    let hanging: Boxed<Context, ()> = Boxed::new(plain(&backend).context(with).layer(hangs));
    let service: Boxed<Context, ()> = Boxed::new(plain(&backend).context(with).layer(gate.clone()));
    let by = |ms: u32| Context::new().with_deadline(Deadline::after(ms * MS));
    let mut first = Box::pin(hanging.oneshot(by(1000)));
    assert!(futures_util::poll!(&mut first).is_pending());
    let mut call = Box::pin(service.clone().oneshot(by(50)));
    assert!(futures_util::poll!(&mut call).is_pending());
    drop(first);
    assert_eq!((backend.stats().in_flight, backend.stats().waiting), (1, 0), "it is its place");
    // Whoever was to poll it was busy.
    tokio::time::advance(60 * MS).await;
    assert_eq!(kind(&call.await), Some(RejectionKind::DeadlineExceeded));
    assert_eq!(gate.calls.load(Ordering::Relaxed), 0, "nobody waited for it any longer");
    service.oneshot(by(50)).await.unwrap();
    is_as_new(&backend).await;
}

/// Panics where it is told to.
#[derive(Clone, Copy)]
struct Panics {
    at_start: bool,
    at_finish: bool,
}

impl Classify<(), (), io::Error> for Panics {
    type Ticket = ();

    fn start(&self, (): &()) {
        assert!(!self.at_start, "start");
    }

    fn finish(&self, (): (), _: Result<&(), &io::Error>) -> Verdict {
        assert!(!self.at_finish, "finish");
        Verdict::success()
    }
}

/// The call panics, and neither polled nor dropped does it keep its place.
async fn panics(mut service: Boxed<(), ()>, backend: &Backend) {
    let called = catch_unwind(AssertUnwindSafe(|| service.call(())));
    if let Ok(mut call) = called {
        assert!(AssertUnwindSafe(&mut call).catch_unwind().await.is_err());
        drop(call);
    }
    is_as_new(backend).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_callers_code_takes_no_place_with_it() {
    let backend = Backend::fixed("db", 1).unwrap();
    let good = || Inner::new(service_fn(|()| ready(Ok(()))));
    let never = |()| -> Context { panic!("context") };
    let context = plain(&backend).context(move |(): &()| never(())).layer(good());
    panics(Boxed::new(context), &backend).await;

    for (at_start, at_finish) in [(true, false), (false, true)] {
        let service = plain(&backend).classify(Panics { at_start, at_finish }).layer(good());
        panics(Boxed::new(service), &backend).await;
    }

    let call = service_fn(|()| -> Ready<io::Result<()>> { panic!("call") });
    panics(Boxed::new(plain(&backend).layer(Inner::new(call))), &backend).await;

    let poll = service_fn(|()| poll_fn(|_| -> Poll<io::Result<()>> { panic!("poll") }));
    panics(Boxed::new(plain(&backend).layer(Inner::new(poll))), &backend).await;

    let late = |(): &()| Context::new().with_deadline(Deadline::after(Duration::ZERO));
    let layer = AdmissionLayer::new(Admission::of(&backend)).context(late);
    let service = layer.on_reject(respond_with(|(), _| -> () { panic!("reject") })).layer(good());
    let mut call = Box::pin(service.oneshot(()));
    assert!(AssertUnwindSafe(&mut call).catch_unwind().await.is_err());
    drop(call);
    is_as_new(&backend).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_verdict_panics_is_no_abandoned_call() {
    // It has been answered: nothing works on it any more, whatever became of the verdict.
    let backend = Backend::new("db");
    let slow = Inner::new(service_fn(|()| async {
        tokio::time::sleep(50 * MS).await;
        Ok(())
    }));
    let layer = plain(&backend).classify(Panics { at_start: false, at_finish: true });
    let service: Boxed<(), ()> = Boxed::new(layer.layer(slow));
    assert!(AssertUnwindSafe(service.oneshot(())).catch_unwind().await.is_err());
    assert_eq!(backend.stats().in_flight, 0);
}

/// Of a backend that is down.
async fn down() -> Backend {
    let backend = Backend::new("db");
    let fails = Inner::new(service_fn(|()| ready(Err::<(), _>(io::Error::other("down")))));
    let service: Boxed<(), ()> = Boxed::new(plain(&backend).layer(fails));
    for _ in 0..20 {
        tokio::time::advance(MS).await;
        let _ = service.clone().oneshot(()).now_or_never();
    }
    assert_eq!(backend.state(), BackendState::Down);
    tokio::time::advance(1000 * MS).await;
    backend
}

/// It was a probe that was sent and answered: the next one is not due at once.
#[tokio::test(start_paused = true)]
async fn a_verdict_that_panics_does_not_make_the_call_one_that_was_not_sent() {
    let backend = down().await;
    let good = Inner::new(service_fn(|()| ready(Ok(()))));
    let layer = plain(&backend).classify(Panics { at_start: false, at_finish: true });
    let service: Boxed<(), ()> = Boxed::new(layer.layer(good));
    assert!(AssertUnwindSafe(service.clone().oneshot(())).catch_unwind().await.is_err());
    assert!(service.oneshot(()).now_or_never().is_none(), "it waits");
    // Nor alone.
    let backend = down().await;
    let admission = Admission::of(&backend);
    let classify = Panics { at_start: false, at_finish: true };
    let one = || async { Ok::<_, io::Error>(()) };
    let call = admission.run_with(Context::new(), &classify, one);
    assert!(AssertUnwindSafe(call).catch_unwind().await.is_err());
    assert!(admission.run_with(Context::new(), &classify, one).now_or_never().is_none());
}

/// Never ready again.
#[derive(Clone)]
struct Broken(Arc<AtomicU32>);

impl Service<()> for Broken {
    type Response = ();
    type Error = io::Error;
    type Future = Ready<io::Result<()>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Err(io::Error::other("broken")))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        unreachable!("it is not ready")
    }
}

/// All who wait until the backend is back would fail one after the other, at once.
#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_take_the_probe_lets_the_others_wait() {
    let backend = down().await;
    let asked = Arc::new(AtomicU32::new(0));
    let service: Boxed<(), ()> = Boxed::new(plain(&backend).layer(Broken(Arc::clone(&asked))));
    let mut calls: Vec<_> = (0..20).map(|_| service.clone().oneshot(())).collect();
    for _ in 0..3 {
        calls.retain_mut(|call| call.now_or_never().is_none());
    }
    assert_eq!((asked.load(Ordering::Relaxed), calls.len()), (1, 19));
    // They are not forgotten either.
    let results = futures_util::future::join_all(calls).await;
    assert!(asked.load(Ordering::Relaxed) > 2);
    assert!(results.iter().all(Result::is_err));
    assert_eq!((backend.stats().in_flight, backend.stats().waiting), (0, 0));
}

/// Ready and done only when polled the third time.
#[derive(Clone)]
struct Steps {
    polls: u32,
}

impl Service<u32> for Steps {
    type Response = u32;
    type Error = io::Error;
    type Future = futures_util::future::BoxFuture<'static, io::Result<u32>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        self.polls += 1;
        if self.polls.is_multiple_of(3) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, n: u32) -> Self::Future {
        Box::pin(async move {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            Ok(n)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_can_be_dropped_after_any_number_of_polls() {
    let backend = Backend::fixed("db", 1).unwrap();
    let service: Boxed<u32, u32> = Boxed::new(plain(&backend).layer(Steps { polls: 0 }));
    let mut done = 0;
    for polls in 0..12 {
        // Alone, behind one that ends after as many polls, and behind one that is dropped then.
        for behind in [None, Some(false), Some(true)] {
            let mut first = behind.map(|_| service.clone().oneshot(1));
            if let Some(first) = &mut first {
                assert!(first.now_or_never().is_none());
            }
            let mut call = service.clone().oneshot(2);
            for n in 0..polls {
                if (&mut call).now_or_never().is_some() {
                    done += 1;
                    break;
                }
                if n >= 2
                    && let Some(one) = &mut first
                    && (behind == Some(true) || one.now_or_never().is_some())
                {
                    first = None;
                }
            }
            drop(call);
            drop(first);
            is_as_new(&backend).await;
        }
    }
    assert!(done >= 10, "some were answered: {done}");
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_the_request_says_nothing_of_latency() {
    let backend = Backend::new("db");
    let verdict = |result: Result<&u32, &io::Error>| match result {
        Ok(404) => Verdict::failure(FailureClass::Permanent),
        _ => Verdict::success(),
    };
    let inner = Inner::new(service_fn(|code: u32| async move {
        tokio::time::sleep(if code == 404 { MS } else { 50 * MS }).await;
        Ok(code)
    }));
    let service: Boxed<u32, u32> =
        Boxed::new(plain(&backend).classify(classify_fn(verdict)).layer(inner));
    for _ in 0..50 {
        service.clone().oneshot(200).await.unwrap();
    }
    for _ in 0..500 {
        service.clone().oneshot(404).await.unwrap();
    }
    let baseline = backend.stats().baseline;
    assert!((49 * MS..=52 * MS).contains(&baseline), "{baseline:?}");
}

/// A waker of somebody else's that is broken.
struct Breaks;

impl task::Wake for Breaks {
    fn wake(self: Arc<Self>) {
        panic!("wake");
    }
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_is_nothing_to_who_hands_the_place_on() {
    let backend = Backend::fixed("db", 1).unwrap();
    let hangs = Inner::new(service_fn(|()| pending::<io::Result<()>>()));
    let mut service: Boxed<(), ()> = Boxed::new(plain(&backend).layer(hangs));
    let mut first = service.call(());
    assert!((&mut first).now_or_never().is_none());
    let mut waits = service.call(());
    let waker = Waker::from(Arc::new(Breaks));
    assert!(waits.as_mut().poll(&mut task::Context::from_waker(&waker)).is_pending());
    // In a drop, where a second panic would end the process.
    assert!(catch_unwind(AssertUnwindSafe(|| drop(first))).is_ok());
    drop(waits);
    is_as_new(&backend).await;
}
