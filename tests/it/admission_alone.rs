//! Admission without a service: permits, calls, threads. What the layer does, these do.

use std::future::{pending, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{self, Poll, Waker};
use std::time::Duration;

use buttress::admission::{Admission, AdmissionLayer, Permit};
use buttress::observe::{Event, EventKind};
use buttress::presets::{ClientPlan, client};
use buttress::timeout::Timeout;
use buttress::{
    AnyError, AsTyped, Backend, BackendState, Classify, Context, Criticality, Deadline, Error,
    FailureClass, LayerKind, Outcome, Rejection, RejectionDetail, RejectionKind, Verdict,
    classify_fn,
};
use futures_util::FutureExt;
use tokio::time::{Instant, advance, sleep};
use tower::{Layer, ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);

fn by(ms: u32) -> Context {
    Context::new().with_deadline(Deadline::after(ms * MS))
}

fn bulkhead(n: u32) -> Admission {
    Admission::bulkhead("db", n).unwrap()
}

fn taken(admission: &Admission) -> (u32, usize) {
    let stats = admission.backend().stats();
    (stats.in_flight, stats.waiting)
}

fn is_as_new(admission: &Admission) {
    assert_eq!(taken(admission), (0, 0));
    admission.try_acquire(Context::new()).unwrap().success();
    assert_eq!(taken(admission), (0, 0));
}

/// So many calls of 20 ms each.
async fn warm(admission: &Admission, calls: u32) {
    for _ in 0..calls {
        let call = || async {
            sleep(20 * MS).await;
            Ok::<_, io::Error>(())
        };
        admission.run(call).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_important_go_first_and_among_equals_those_who_wait_for_the_shortest_time() {
    let admission = bulkhead(1);
    let first = admission.try_acquire(Context::new()).unwrap();
    let order = Mutex::new(Vec::new());
    let go = async |name: &'static str, context: Context| {
        let permit = admission.acquire(context).await.unwrap();
        order.lock().unwrap().push(name);
        sleep(MS).await;
        permit.success();
    };
    let batch = |context: Context| context.with_criticality(Criticality::Sheddable);
    let free = async {
        assert_eq!(taken(&admission), (1, 5));
        first.success();
    };
    tokio::join!(
        go("batch", batch(by(100))),
        go("later", by(900)),
        go("soon", by(500)),
        go("first of all", by(900).with_criticality(Criticality::CriticalPlus)),
        go("without a deadline", Context::new()),
        free,
    );
    let order = order.into_inner().unwrap();
    assert_eq!(order, ["first of all", "soon", "later", "without a deadline", "batch"]);
    is_as_new(&admission);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_refused_at_its_deadline_and_sooner_if_no_answer_can_come_by_then() {
    let admission = bulkhead(1);
    let _first = admission.try_acquire(Context::new()).unwrap();
    let began = Instant::now();
    let refused = admission.acquire(by(200)).await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.layer()),
        (RejectionKind::DeadlineExceeded, LayerKind::Admission)
    );
    assert!((199 * MS..=202 * MS).contains(&began.elapsed()), "{:?}", began.elapsed());

    let began = Instant::now();
    let hurried = Admission::of(admission.backend()).patience(50 * MS);
    let refused = hurried.run(async || -> io::Result<()> { panic!() }).await.unwrap_err();
    assert_eq!(refused.rejection().unwrap().kind(), RejectionKind::DeadlineExceeded);
    assert!((49 * MS..=52 * MS).contains(&began.elapsed()), "{:?}", began.elapsed());

    let passed = Context::new().with_deadline(Deadline::after(Duration::ZERO));
    assert_eq!(admission.try_acquire(passed).unwrap_err().kind(), RejectionKind::DeadlineExceeded);
    assert_eq!(
        admission.acquire(passed).await.unwrap_err().kind(),
        RejectionKind::DeadlineExceeded
    );
    let stats = admission.backend().stats();
    assert_eq!((stats.waiting, stats.hopeless, stats.expired), (0, 2, 2));

    // An answer takes 20 ms: who has 15 left is told now, and not in 15.
    let admission = bulkhead(1);
    warm(&admission, 20).await;
    let _first = admission.try_acquire(Context::new()).unwrap();
    let began = Instant::now();
    let refused = admission.acquire(by(15)).await.unwrap_err();
    assert_eq!(
        (refused.kind(), began.elapsed()),
        (RejectionKind::DeadlineExceeded, Duration::ZERO)
    );
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_goes_behind_those_who_do() {
    let admission = bulkhead(2);
    let [one, two] = [0; 2].map(|_| admission.try_acquire(Context::new()).unwrap());
    let refused = admission.try_acquire(by(1000)).unwrap_err();
    assert_eq!(
        (refused.kind(), refused.layer()),
        (RejectionKind::Overloaded, LayerKind::Admission)
    );
    assert_eq!((admission.backend().stats().full, taken(&admission)), (1, (2, 0)));

    let mut waits = pin!(admission.acquire(by(1000)));
    assert!(futures_util::poll!(&mut waits).is_pending());
    one.success();
    assert_eq!(taken(&admission), (2, 0), "the place is that of who waited for it");
    assert!(admission.try_acquire(Context::new()).is_err());
    waits.await.unwrap().success();
    two.success();
    is_as_new(&admission);

    // It is down, and whoever waits sees first whether it is up again, polled since or not.
    let admission = Admission::new("db");
    while admission.backend().state() != BackendState::Down {
        admission.try_acquire(by(1000)).unwrap().failure();
    }
    admission.try_acquire(by(1000)).unwrap().failure();
    let mut waits = pin!(admission.acquire(by(3000)));
    assert!(futures_util::poll!(&mut waits).is_pending());
    advance(1500 * MS).await;
    assert!(admission.try_acquire(by(1000)).is_err());
    waits.await.unwrap().success();
}

#[tokio::test(start_paused = true)]
async fn the_most_important_passes_those_who_wait_where_it_may_go_further_than_they() {
    let admission = Admission::new("db");
    let with = |class| by(1000).with_criticality(class);
    // Half of what comes is batch work, so that what is more important reaches half as far again as the limit.
    for _ in 0..50 {
        admission.try_acquire(with(Criticality::Sheddable)).unwrap().record(Outcome::Ignored);
        admission.try_acquire(with(Criticality::CriticalPlus)).unwrap().record(Outcome::Ignored);
    }
    let limit = admission.backend().stats().limit;
    let all: Vec<_> =
        (0..limit).map(|_| admission.try_acquire(with(Criticality::Sheddable)).unwrap()).collect();
    let mut batch = pin!(admission.acquire(with(Criticality::Sheddable)));
    assert!(futures_util::poll!(&mut batch).is_pending());
    assert!(admission.try_acquire(with(Criticality::Sheddable)).is_err());
    let user = admission.try_acquire(with(Criticality::CriticalPlus)).unwrap();
    assert_eq!(taken(&admission), (limit + 1, 1));
    user.record(Outcome::Ignored);
    assert!(futures_util::poll!(&mut batch).is_pending());
    drop(all);
    batch.await.unwrap().success();
}

/// A waiter, and one that makes a call, dropped after any number of polls: alone, behind a call that ends then, and
/// behind one that is dropped then.
#[tokio::test(start_paused = true)]
async fn one_can_be_dropped_after_any_number_of_polls() {
    let admission = bulkhead(1);
    let steps = || async {
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        Ok::<_, io::Error>(())
    };
    let (mut acquired, mut answered) = (0, 0);
    for polls in 0..10 {
        for behind in [None, Some(false), Some(true)] {
            for calls in [false, true] {
                let mut first = behind.map(|_| admission.try_acquire(Context::new()).unwrap());
                let mut place = Box::pin(admission.acquire(Context::new()));
                let mut call = Box::pin(admission.run(steps));
                for n in 0..polls {
                    let done = if calls {
                        let answer = futures_util::poll!(&mut call);
                        answered += u32::from(answer.is_ready());
                        answer.is_ready()
                    } else {
                        // The permit is dropped: a bulkhead's place is free at once.
                        let place = futures_util::poll!(&mut place);
                        acquired += u32::from(place.is_ready());
                        place.is_ready()
                    };
                    if done {
                        break;
                    }
                    match (behind, first.take_if(|_| n >= 2)) {
                        (Some(true), Some(permit)) => drop(permit),
                        (_, Some(permit)) => permit.success(),
                        _ => {}
                    }
                }
                drop((place, call, first));
                is_as_new(&admission);
            }
        }
    }
    assert!(acquired >= 10 && answered >= 10, "some came to their end: {acquired}, {answered}");
}

/// What is in flight over time when a call of 20 ms usually is given up after `after`.
async fn given_up(
    admission: &Admission,
    give_up: impl AsyncFn(&Admission),
) -> Vec<(u32, BackendState)> {
    warm(admission, 40).await;
    give_up(admission).await;
    let mut seen = Vec::new();
    for _ in 0..60 {
        let stats = admission.backend().stats();
        seen.push((stats.in_flight, stats.state));
        advance(MS).await;
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn a_call_given_up_keeps_its_place_as_long_as_in_the_layer() {
    for after in [2, 30, 45] {
        let layer = async |admission: &Admission| {
            let hangs = service_fn(|()| pending::<Result<(), io::Error>>());
            let layer = AdmissionLayer::new(admission.clone()).on_reject(AsTyped);
            let call = layer.layer(hangs).oneshot(());
            assert!(tokio::time::timeout(after * MS, call).await.is_err());
        };
        let run = async |admission: &Admission| {
            let call = admission.run(pending::<Result<(), io::Error>>);
            assert!(tokio::time::timeout(after * MS, call).await.is_err());
        };
        let permit = async |admission: &Admission| {
            let permit = admission.acquire(Context::new()).await.unwrap();
            sleep(after * MS).await;
            drop(permit);
        };
        let at_once = async |admission: &Admission| {
            let permit = admission.try_acquire(Context::new()).unwrap();
            sleep(after * MS).await;
            drop(permit);
        };
        let of_layer = given_up(&Admission::new("layer"), layer).await;
        let kept = of_layer.iter().filter(|(in_flight, _)| *in_flight == 1).count();
        let expected = if after < 10 { 0..=0 } else { after as usize - 2..=after as usize + 2 };
        assert!(expected.contains(&kept), "{after} ms: kept for {kept}");
        assert_eq!(given_up(&Admission::new("run"), run).await, of_layer, "{after} ms");
        assert_eq!(given_up(&Admission::new("permit"), permit).await, of_layer, "{after} ms");
        assert_eq!(given_up(&Admission::new("at once"), at_once).await, of_layer, "{after} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_leaves_no_trace_and_what_is_forgotten_keeps_its_place() {
    let admission = Admission::new("db");
    warm(&admission, 40).await;
    let baseline = admission.backend().stats().baseline;
    let permit = admission.acquire(Context::new()).await.unwrap();
    sleep(500 * MS).await;
    permit.unsent();
    assert_eq!((taken(&admission), admission.backend().stats().baseline), ((0, 0), baseline));

    let admission = bulkhead(2);
    std::mem::forget(admission.try_acquire(Context::new()).unwrap());
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(taken(&admission), (1, 0));
    let _other = admission.try_acquire(Context::new()).unwrap();
    assert!(admission.try_acquire(Context::new()).is_err());
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_told_to_the_backend() {
    let down = |end: fn(Permit)| {
        let admission = Admission::new("db");
        for _ in 0..20 {
            match admission.try_acquire(Context::new()) {
                Ok(permit) => end(permit),
                Err(why) => assert_eq!(why.kind(), RejectionKind::Overloaded),
            }
        }
        admission.backend().state() == BackendState::Down
    };
    assert!(down(Permit::failure));
    assert!(!down(Permit::success));
    assert!(!down(|permit| permit.record(Outcome::Failure(FailureClass::Permanent))));
    assert!(!down(|permit| permit.record(Outcome::Ignored)));
    assert!(!down(|permit| permit.throttled(None)));

    let admission = Admission::new("db");
    let verdict = classify_fn(|result: Result<&(), &u16>| match result {
        Err(404) => Verdict::failure(FailureClass::Permanent),
        Err(_) => Verdict::failure(FailureClass::Transient),
        Ok(()) => Verdict::success(),
    });
    for _ in 0..20 {
        let answer = admission.run_with(by(100), &verdict, async || Err(404)).await;
        assert!(matches!(answer, Err(Error::Inner(404))));
    }
    assert_eq!(admission.backend().state(), BackendState::Up);
    for _ in 0..12 {
        let answer = admission.run_with(by(100), &verdict, async || Err(500)).await;
        assert!(matches!(answer, Err(Error::Inner(500))));
    }
    assert_eq!(admission.backend().state(), BackendState::Down);
    // One may see whether it is up again.
    let probe = admission.try_acquire(by(100)).unwrap();
    assert_eq!(admission.try_acquire(by(100)).unwrap_err().kind(), RejectionKind::Overloaded);
    probe.success();
    assert_eq!(admission.backend().state(), BackendState::Recovering);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_for_the_quota_is_told_when_there_is_a_turn() {
    let admission = Admission::new("api");
    admission.backend().learn_quota();
    let refused = loop {
        match admission.try_acquire(by(60_000)) {
            Ok(permit) => permit.throttled(Some(Duration::from_secs(5))),
            Err(why) => break why,
        }
    };
    assert_eq!(refused.kind(), RejectionKind::RateLimited);
    let after = refused.retry_after().unwrap();
    advance(after.checked_sub(MS).unwrap()).await;
    assert_eq!(admission.try_acquire(by(60_000)).unwrap_err().retry_after(), Some(MS));
    advance(MS).await;
    admission.try_acquire(by(60_000)).unwrap().success();
}

#[tokio::test(start_paused = true)]
async fn who_has_its_place_and_is_polled_after_its_deadline_does_not_get_it() {
    let admission = bulkhead(1);
    let first = admission.try_acquire(by(1000)).unwrap();
    let mut place = pin!(admission.acquire(by(50)));
    let mut call =
        pin!(admission.run_with(by(50), &AnyError, async || -> io::Result<()> { panic!() }));
    assert!(futures_util::poll!(&mut place).is_pending());
    assert!(futures_util::poll!(&mut call).is_pending());
    first.success();
    assert_eq!(taken(&admission), (1, 1), "it is its place");
    // Whoever was to poll it was busy.
    advance(60 * MS).await;
    assert_eq!(place.await.unwrap_err().kind(), RejectionKind::DeadlineExceeded);
    let refused = call.await.unwrap_err();
    assert_eq!(refused.rejection().unwrap().kind(), RejectionKind::DeadlineExceeded);
    is_as_new(&admission);
}

/// Panics where it is told to.
#[derive(Clone, Copy, Default)]
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

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_callers_code_takes_no_place_with_it() {
    let fixed = bulkhead(1);
    for (at_start, at_finish) in [(true, false), (false, true)] {
        // Not sent, or answered: nothing works on it any more.
        let admission = Admission::new("db");
        warm(&admission, 20).await;
        let classify = Panics { at_start, at_finish };
        let call = admission.run_with(Context::new(), &classify, async || {
            sleep(30 * MS).await;
            Ok(())
        });
        assert!(AssertUnwindSafe(call).catch_unwind().await.is_err());
        is_as_new(&admission);
        let call = || fixed.run_blocking_with(Context::new(), &classify, || Ok(())).is_ok();
        assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
        is_as_new(&fixed);
    }
    let made = fixed.run(|| -> std::future::Ready<io::Result<()>> { panic!("call") });
    assert!(AssertUnwindSafe(made).catch_unwind().await.is_err());
    is_as_new(&fixed);
    let polled = fixed.run(|| poll_fn(|_| -> Poll<io::Result<()>> { panic!("poll") }));
    assert!(AssertUnwindSafe(polled).catch_unwind().await.is_err());
    is_as_new(&fixed);
    let blocking = || fixed.run_blocking(|| -> io::Result<()> { panic!("call") }).is_ok();
    assert!(catch_unwind(AssertUnwindSafe(blocking)).is_err());
    is_as_new(&fixed);
}

#[test]
fn without_a_runtime_only_an_async_waiter_panics_and_it_leaves_no_trace() {
    let admission = bulkhead(1);
    let answer = admission.run(|| async { Ok::<_, io::Error>(7) });
    assert_eq!(answer.now_or_never().unwrap().unwrap(), 7);
    assert_eq!(admission.run_blocking(|| Ok::<_, io::Error>(7)).unwrap(), 7);
    let first = admission.acquire(Context::new()).now_or_never().unwrap().unwrap();

    let began = Instant::now();
    let refused = admission.acquire_blocking(by(40)).unwrap_err();
    assert_eq!(refused.kind(), RejectionKind::DeadlineExceeded);
    assert!(began.elapsed() >= 39 * MS, "{:?}", began.elapsed());

    let mut cx = task::Context::from_waker(Waker::noop());
    let mut waits = Box::pin(admission.acquire(Context::new()));
    assert!(catch_unwind(AssertUnwindSafe(|| waits.as_mut().poll(&mut cx).is_ready())).is_err());
    drop(waits);
    first.success();
    is_as_new(&admission);
}

#[test]
fn threads_and_tasks_wait_in_one_room() {
    let admission = bulkhead(2);
    let (out, most) = (AtomicU32::new(0), AtomicU32::new(0));
    let work = || {
        most.fetch_max(1 + out.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
        std::thread::yield_now();
        out.fetch_sub(1, Ordering::SeqCst);
        Ok::<_, io::Error>(())
    };
    let long = Admission::of(admission.backend()).patience(Duration::from_secs(600));
    std::thread::scope(|scope| {
        for n in 0..6_u32 {
            let (long, work) = (&long, &work);
            scope.spawn(move || {
                for i in 0..100 {
                    match (n + i) % 3 {
                        0 => long.run_blocking(work).unwrap(),
                        1 => {
                            let permit = long.acquire_blocking(Context::new()).unwrap();
                            work().unwrap();
                            permit.success();
                        }
                        _ => {
                            let permit = long.acquire_blocking(Context::new()).unwrap();
                            work().unwrap();
                            drop(permit);
                        }
                    }
                }
            });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let tasks = (0..4).map(|_| async {
                for _ in 0..100 {
                    long.run(async || work()).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
            futures_util::future::join_all(tasks).await;
        });
    });
    assert!(most.load(Ordering::SeqCst) <= 2, "{most:?} at once");
    assert_eq!(admission.backend().stats().admitted, 1000);
    is_as_new(&admission);
}

#[tokio::test(start_paused = true)]
async fn observers_hear_of_waits_and_refusals() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let backend = Backend::fixed("db", 1).unwrap().observe(move |event: &Event<'_>| {
        let what = match &event.kind {
            EventKind::Rejected(why) => format!("{} {}", event.layer.as_str(), why.kind()),
            EventKind::Waited { waited } => format!("{} waited {waited:?}", event.layer.as_str()),
            other => format!("{other:?}"),
        };
        log.lock().unwrap().push(what);
    });
    let admission = Admission::of(&backend);
    let first = admission.try_acquire(Context::new()).unwrap();
    let _ = admission.try_acquire(Context::new());
    let _ = admission.acquire(by(3)).await;
    let free = async {
        sleep(7 * MS).await;
        first.success();
    };
    let (permit, ()) = tokio::join!(admission.acquire(by(100)), free);
    permit.unwrap().success();
    assert_eq!(
        *seen.lock().unwrap(),
        ["admission overloaded", "admission deadline_exceeded", "admission waited 7ms"]
    );
}

fn seen(why: &Rejection) -> (RejectionKind, LayerKind, RejectionDetail) {
    (why.kind(), why.layer(), why.detail())
}

/// A backend that answers with errors only: who waited for it in vain is told that it is down, and not only that the
/// time is over.
#[tokio::test(start_paused = true)]
async fn who_waits_in_vain_for_a_backend_that_fails_is_told_so() {
    let mut plan = ClientPlan::new("db");
    plan.total_timeout = Some(1000 * MS);
    let stack = client(&plan).unwrap();
    let broken = service_fn(|_: u32| async { Err::<u32, _>(io::Error::other("500")) });
    let service = stack.layer(broken);
    let calls = (0..60).map(async |n| {
        sleep(20 * n * MS).await;
        service.clone().oneshot(n).await.unwrap_err()
    });
    let mut told = 0;
    for error in futures_util::future::join_all(calls).await {
        let Some(why) = Rejection::find(&*error) else { continue };
        assert_eq!(why.kind(), RejectionKind::DeadlineExceeded, "{why}");
        let RejectionDetail::Backend { state, failures } = why.detail() else { panic!("{why}") };
        assert!(state == BackendState::Down && failures >= 12, "{why}");
        assert!(why.to_string().contains("backend down, "), "{why}");
        told += 1;
    }
    assert!(told >= 20, "{told} waited for it");
}

/// A timeout drops its call before it refuses it. What that had a place for is in the refusal: of the layer and of direct
/// use, of calls that are made and of those that wait.
#[tokio::test(start_paused = true)]
async fn a_timeout_knows_how_the_backend_was_that_it_gave_up() {
    let admission = Admission::bulkhead("db", 1).unwrap().patience(10_000 * MS);
    for _ in 0..5 {
        admission.try_acquire(Context::new()).unwrap().failure();
    }
    let timeout = Timeout::new("total", 50 * MS).unwrap();
    let detail = RejectionDetail::Backend { state: BackendState::Up, failures: 5 };
    let expected = (RejectionKind::DeadlineExceeded, LayerKind::Timeout, detail);
    let hangs = service_fn(|()| pending::<Result<(), io::Error>>());
    let layers = (timeout.layer().on_reject(AsTyped), AdmissionLayer::new(admission.clone()));
    let service = tower::ServiceBuilder::new().layer(layers.0).layer(layers.1).service(hangs);
    let call = || admission.run(pending::<Result<(), io::Error>>);

    for held in [None, Some(())] {
        let held = held.map(|()| admission.try_acquire(Context::new()).unwrap());
        let refused = service.clone().oneshot(()).await.unwrap_err();
        assert_eq!(seen(refused.rejection().unwrap()), expected, "{}", held.is_some());
        let refused = timeout.run(call()).await.unwrap_err();
        assert_eq!(seen(refused.rejection().unwrap()), expected, "{}", held.is_some());
        drop(held);
    }
    let why = timeout.run(call()).await.unwrap_err();
    assert_eq!(why.to_string(), "deadline exceeded (timeout `total`), 5 failures in a row");

    // What others drop is not its business, and neither is what it has not called.
    drop(call().now_or_never());
    let refused = timeout.run(pending::<Result<(), io::Error>>()).await.unwrap_err();
    assert_eq!(refused.rejection().unwrap().detail(), RejectionDetail::None);
    let passed = Deadline::after(Duration::ZERO);
    let refused = timeout.run_until(call(), passed).await.unwrap_err();
    assert_eq!(refused.rejection().unwrap().detail(), RejectionDetail::None);
    is_as_new(&admission);
}
