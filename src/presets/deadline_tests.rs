//! The end of a stack's total timeout is known where a call waits for its backend, also if requests carry none.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::{Poll, Waker};
use std::time::Duration;

use tower::{Layer, Service, ServiceExt, service_fn};

use super::{ClientPlan, client};
use crate::BoxError;
use crate::admission::{Admission, AdmissionLayer};
use crate::backend::BackendState;
use crate::coalesce::Coalesce;
use crate::name::LayerKind;
use crate::rejection::{Rejection, RejectionKind};
use crate::timeout::{Timeout, TimeoutLayer};

const MS: Duration = Duration::from_millis(1);

type Boxed = tower::util::BoxCloneSyncService<u32, u32, BoxError>;

/// Answers zero after 200 ms and others never.
fn admitted(admission: &Admission) -> Boxed {
    let inner = service_fn(|n: u32| async move {
        if n > 0 {
            pending::<()>().await;
        }
        tokio::time::sleep(200 * MS).await;
        Ok::<_, BoxError>(n)
    });
    Boxed::new(AdmissionLayer::new(admission.clone()).layer(inner))
}

fn total(after: Duration, inner: Boxed) -> Boxed {
    let total = Timeout::new("total", after).unwrap().counted_from_poll();
    Boxed::new(TimeoutLayer::new(total).layer(inner))
}

/// One place, which is taken, and an answer is known to take 200 ms.
async fn full() -> (Admission, tokio::task::JoinSet<()>) {
    let admission = Admission::bulkhead("db", 1).unwrap().patience(10_000 * MS);
    for _ in 0..30 {
        admitted(&admission).oneshot(0).await.unwrap();
    }
    let mut holds = tokio::task::JoinSet::new();
    let call = admitted(&admission).oneshot(1);
    holds.spawn(async move { drop(call.await) });
    tokio::task::yield_now().await;
    assert_eq!(admission.backend().stats().in_flight, 1);
    (admission, holds)
}

/// A share of what callers wait that depends on how many queues there are.
#[tokio::test(start_paused = true)]
async fn answers_of_a_pool_may_take_longer_than_those_of_one_server() {
    let server = service_fn(|n: u32| async move {
        tokio::time::sleep(n * MS).await;
        Ok::<_, BoxError>(n)
    });
    let mut plan = ClientPlan::new("db");
    (plan.total_timeout, plan.hedge) = (Some(1000 * MS), None);
    for several in [false, true] {
        let stack = client(&plan).unwrap();
        let pool = stack.endpoints();
        pool.extend([("a", server), ("b", server)]);
        let service = match several {
            true => Boxed::new(stack.pool(&pool)),
            false => Boxed::new(stack.layer(server)),
        };
        for n in [100; 40].into_iter().chain([250; 20]) {
            service.clone().oneshot(n).await.unwrap();
        }
        let known = if several { BackendState::Up } else { BackendState::Congested };
        assert_eq!(stack.backend().unwrap().state(), known);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waited_outside_of_the_admission_is_not_kept_beyond_the_total_timeout() {
    let (admission, _holds) = full().await;
    let inner = admitted(&admission);
    // As a retry, or a wait for a token.
    let later = Boxed::new(service_fn(move |n: u32| {
        let mut inner = inner.clone();
        async move {
            tokio::time::sleep(600 * MS).await;
            inner.ready().await?.call(n).await
        }
    }));
    let began = tokio::time::Instant::now();
    let error = total(1000 * MS, later).oneshot(1).await.unwrap_err();
    let why = Rejection::find(&*error).unwrap();
    assert_eq!((why.kind(), why.layer()), (RejectionKind::DeadlineExceeded, LayerKind::Admission));
    // So long before the end that an answer cannot come in time.
    let took = began.elapsed();
    assert!((780 * MS..=810 * MS).contains(&took), "{took:?}");
    let stats = admission.backend().stats();
    assert_eq!((stats.hopeless, stats.waiting), (1, 0));
}

/// Of two stacks around each other the sooner end holds; what is called after both have none.
#[tokio::test(start_paused = true)]
async fn the_sooner_end_holds_as_long_as_its_stack_is_polled() {
    for (outer, inner) in [(1000, 5000), (5000, 1000)] {
        let (admission, _holds) = full().await;
        let began = tokio::time::Instant::now();
        let stack = total(outer * MS, total(inner * MS, admitted(&admission)));
        let beside = admitted(&admission);
        let (both, alone) = tokio::join!(stack.oneshot(1), beside.oneshot(1));
        both.unwrap_err();
        alone.unwrap_err();
        // The one without a timeout has waited as long as its admission lets it.
        let took = began.elapsed();
        assert!((9700 * MS..=10_010 * MS).contains(&took), "{took:?}");
        assert_eq!(admission.backend().stats().hopeless, 2);
    }
}

/// It belongs to all who wait for it, and the first of them may have the least time.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_shared_does_not_end_with_the_one_who_made_it() {
    let (admission, holds) = full().await;
    let reads = Coalesce::new("reads").layer(|n: &u32| Some(*n)).layer(admitted(&admission));
    let reads = Boxed::new(reads);
    let (hasty, patient) = (total(300 * MS, reads.clone()), total(5000 * MS, reads));
    let frees = async {
        tokio::time::sleep(1000 * MS).await;
        drop(holds);
    };
    let (hasty, patient, ()) = tokio::join!(hasty.oneshot(0), patient.oneshot(0), frees);
    hasty.unwrap_err();
    assert_eq!(patient.unwrap(), 0);
}

/// A call whose token comes after its time is over does not wait for it, in stacks of both kinds.
#[tokio::test(start_paused = true)]
async fn a_token_that_comes_too_late_is_waited_for_in_no_stack() {
    use super::{ClientPlan, RateLimitPlan, ServerPlan, client, server};
    use crate::{Context, Deadline};

    type Called = tower::util::BoxCloneService<Context, (), BoxError>;

    let limit = Some(RateLimitPlan { quota: "1/h".parse().unwrap(), max_wait: 7_200_000 * MS });
    let read = |with: &Context| *with;
    let answers = || service_fn(|_: Context| async { Ok::<_, BoxError>(()) });
    let mut plan = ClientPlan::new("db");
    (plan.rate_limit, plan.total_timeout) = (limit, Some(2_000 * MS));
    let one = client(&plan).unwrap();
    let other = client(&plan).unwrap().context(read);
    let mut plan = ServerPlan::new("api");
    plan.rate_limit = limit;
    let inner = server(&plan).unwrap().context(read);
    let limiters = [one.rate_limiter(), other.rate_limiter(), inner.rate_limiter()];
    let limiters = limiters.map(|limiter| limiter.unwrap().clone());
    let own = Context::new().with_deadline(Deadline::after(60_000 * MS));
    let stacks = [
        (Called::new(one.layer(answers())), Context::new()),
        (Called::new(other.layer(answers())), own),
        (Called::new(inner.layer(answers())), own),
    ];
    for ((service, context), limiter) in stacks.into_iter().zip(limiters) {
        service.clone().oneshot(context).await.unwrap();
        let began = tokio::time::Instant::now();
        let error = service.oneshot(context).await.unwrap_err();
        let why = Rejection::find(&*error).unwrap();
        assert_eq!((why.kind(), why.layer()), (RejectionKind::RateLimited, LayerKind::RateLimit));
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!((limiter.stats().acquired, limiter.waiting()), (1, 0));
    }
}

/// The time of such a call was that of the poll in which it was answered, for nobody had looked at the clock before: none.
#[tokio::test(start_paused = true)]
async fn a_call_that_panics_as_it_is_sent_and_is_polled_again_is_timed_and_keeps_no_place() {
    let admission = Admission::new("db");
    let inner = service_fn(|n: u32| {
        let (mut panics, mut sleep) = (n > 0, Box::pin(tokio::time::sleep(100 * MS * n)));
        poll_fn(move |cx| {
            if std::mem::take(&mut panics) {
                resume_unwind(Box::new("in the poll in which it is sent"));
            }
            if n == 0 { Poll::Ready(()) } else { sleep.as_mut().poll(cx) }
                .map(|()| Ok::<_, BoxError>(n))
        })
    });
    let service = Boxed::new(AdmissionLayer::new(admission.clone()).layer(inner));
    let service = total(10_000 * MS, service);
    // As quick as can be: such calls look at no clock.
    for _ in 0..100 {
        service.clone().oneshot(0).await.unwrap();
    }
    let backend = admission.backend();
    let quick = backend.stats().latency;
    for dropped in [true, false] {
        let mut call = Box::pin(service.clone().oneshot(1));
        let mut cx = std::task::Context::from_waker(Waker::noop());
        let panicked = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut cx)));
        assert!(panicked.is_err());
        assert_eq!(backend.stats().in_flight, 1);
        if dropped {
            drop(call);
            assert_eq!(backend.stats().latency, quick, "of none that was answered");
        } else {
            assert_eq!(call.await.unwrap(), 1);
        }
        assert_eq!(backend.stats().in_flight, 0);
    }
    let (slow, stats) = (backend.stats().latency, backend.stats());
    assert!(slow > quick, "{slow:?} {quick:?}");
    assert_eq!((stats.waiting, stats.admitted), (0, 102));
    service.oneshot(0).await.unwrap();
}

/// Whoever is inside of the hedge sees the earlier of the caller's deadline and the end of the call, in each attempt.
#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn each_attempt_over_http_is_told_the_end_of_its_call() {
    use http::{Request, Response, StatusCode};

    use super::{ClientPlan, RetryPlan, client};
    use crate::backoff::Backoff;
    use crate::retry::RetryPolicy;
    use crate::{Context, Deadline};

    let mut plan = ClientPlan::new("db");
    plan.total_timeout = Some(2_000 * MS);
    let pause = Backoff::constant(100 * MS);
    let policy = RetryPolicy::builder().max_attempts(2).backoff(pause).build().unwrap();
    plan.retry = RetryPlan::Policy(policy);
    let stack = client(&plan).unwrap().http();
    let service = stack.layer(service_fn(|request: Request<String>| async move {
        let context = Context::of(request.extensions());
        let mut answer = Response::new(context.deadline());
        if context.attempt() == 1 {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        Ok::<_, BoxError>(answer)
    }));
    for own in [None, Some(1_000), Some(5_000)] {
        let mut request = Request::new(String::new());
        let end = Deadline::after(own.unwrap_or(2_000).min(2_000) * MS);
        if let Some(own) = own {
            Deadline::after(own * MS).put(request.extensions_mut());
        }
        let answer = service.clone().oneshot(request).await.unwrap();
        assert_eq!((answer.status(), *answer.body()), (StatusCode::OK, Some(end)), "{own:?}");
    }
}

/// Whoever made requests without a deadline was told of a failure at the end of the total timeout, when a retry could not
/// have ended before.
#[tokio::test(start_paused = true)]
async fn a_failure_that_leaves_no_time_for_a_retry_is_told_at_once() {
    use super::{ClientPlan, RetryPlan, client};
    use crate::backoff::Backoff;
    use crate::retry::RetryPolicy;

    let mut plan = ClientPlan::new("db");
    plan.total_timeout = Some(1_000 * MS);
    let policy = RetryPolicy::builder().backoff(Backoff::constant(500 * MS)).build().unwrap();
    plan.retry = RetryPlan::Policy(policy);
    let service = client(&plan).unwrap().layer(service_fn(|_: u32| async {
        tokio::time::sleep(600 * MS).await;
        Err::<u32, _>(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    }));
    let began = tokio::time::Instant::now();
    let error = service.oneshot(1).await.unwrap_err();
    assert!(error.is::<std::io::Error>(), "{error:?}");
    assert_eq!(began.elapsed(), 600 * MS);
}

/// A hedge that would come too late goes out earlier, also if it is the total timeout that it would be too late for.
#[tokio::test(start_paused = true)]
async fn a_hedge_goes_by_the_end_of_the_total_timeout() {
    use super::{ClientPlan, client};

    let mut plan = ClientPlan::new("db");
    plan.total_timeout = Some(65 * MS);
    let stack = client(&plan).unwrap();
    let service = stack.layer(service_fn(|n: u32| async move {
        tokio::time::sleep(n * MS).await;
        Ok::<_, BoxError>(n)
    }));
    for n in 0..400 {
        let n = if n % 20 == 19 { 60 } else { 20 };
        assert_eq!(service.clone().oneshot(n).await.unwrap(), n);
    }
    let hedge = stack.hedge().unwrap();
    let (delay, sent) = (hedge.delay().unwrap(), hedge.stats().sent);
    assert!(delay > 55 * MS, "{delay:?}");
    let call = service.oneshot(60);
    assert!(tokio::time::timeout(50 * MS, call).await.is_err());
    assert_eq!(hedge.stats().sent, sent + 1, "{:?}", hedge.stats());
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_hedge_over_http_is_told_the_end_of_its_call() {
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};

    use super::{ClientPlan, client};
    use crate::{Context, Deadline};

    let mut plan = ClientPlan::new("db");
    plan.total_timeout = Some(65 * MS);
    let stack = client(&plan).unwrap().http();
    let ends = Arc::new(Mutex::new(Vec::new()));
    let told = ends.clone();
    let service = stack.layer(service_fn(move |request: Request<u32>| {
        told.lock().unwrap().push(Context::of(request.extensions()).deadline());
        async move {
            tokio::time::sleep(*request.body() * MS).await;
            Ok::<_, BoxError>(Response::new(()))
        }
    }));
    for n in 0..400 {
        let request = Request::new(if n % 20 == 19 { 60 } else { 20 });
        service.clone().oneshot(request).await.unwrap();
    }
    let sent = stack.hedge().unwrap().stats().sent;
    ends.lock().unwrap().clear();
    let end = Some(Deadline::after(65 * MS));
    let call = service.oneshot(Request::new(60));
    assert!(tokio::time::timeout(50 * MS, call).await.is_err());
    assert_eq!(stack.hedge().unwrap().stats().sent, sent + 1);
    assert_eq!(*ends.lock().unwrap(), [end, end]);
}

/// It may be another task that polls it.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_stack_is_none_of_what_its_service_only_begins() {
    use super::{ClientPlan, client};
    use crate::clock::end_handed_down;

    let audit = client(&ClientPlan::bare("audit")).unwrap();
    let audit = audit.layer(service_fn(|n: u32| {
        assert_eq!(end_handed_down(), None);
        std::future::ready(Ok::<_, BoxError>(n))
    }));
    let service = client(&ClientPlan::new("db")).unwrap().layer(service_fn(move |n: u32| {
        assert!(end_handed_down().is_some());
        audit.clone().call(n)
    }));
    assert_eq!(service.oneshot(7).await.unwrap(), 7);
}

/// A retry whose pause ends in time, but whose task is polled later than that, is not sent any more.
#[tokio::test(start_paused = true)]
async fn a_retry_that_is_polled_too_late_is_not_sent() {
    use super::{ClientPlan, RetryPlan, client};
    use crate::backoff::Backoff;
    use crate::retry::RetryPolicy;

    let mut plan = ClientPlan::new("db");
    plan.total_timeout = Some(1_000 * MS);
    let policy = RetryPolicy::builder().backoff(Backoff::constant(500 * MS)).build().unwrap();
    plan.retry = RetryPlan::Policy(policy);
    let stack = client(&plan).unwrap();
    let service = stack.layer(service_fn(|_: u32| async {
        Err::<u32, _>(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    }));
    let mut call = std::pin::pin!(service.oneshot(1));
    assert!(futures_util::poll!(call.as_mut()).is_pending());
    tokio::time::advance(1_001 * MS).await;
    let error = call.await.unwrap_err();
    assert!(error.is::<std::io::Error>(), "{error:?}");
    let stats = stack.backend().unwrap().stats();
    assert_eq!((stats.admitted, stats.expired), (1, 0), "{stats:?}");
}

/// Over HTTP as elsewhere; the total timeout ends the wait in any case.
#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn who_says_nothing_waits_for_a_backend_as_long_as_the_patience() {
    use http::{Request, Response};

    use super::{BackendPlan, ClientPlan, client};

    let mut plan = ClientPlan::new("db");
    plan.total_timeout = Some(2_000 * MS);
    plan.backend = Some(BackendPlan { patience: Some(300 * MS), ..BackendPlan::fixed(1) });
    let stack = client(&plan).unwrap().http();
    let service =
        stack.layer(service_fn(|_: Request<()>| pending::<Result<Response<()>, BoxError>>()));
    let mut hangs = Box::pin(service.clone().oneshot(Request::default()));
    assert!(futures_util::poll!(hangs.as_mut()).is_pending());
    let began = tokio::time::Instant::now();
    let error = service.oneshot(Request::default()).await.unwrap_err();
    let why = Rejection::find(&*error).unwrap();
    assert_eq!((why.kind(), why.layer()), (RejectionKind::DeadlineExceeded, LayerKind::Admission));
    let took = began.elapsed();
    assert!((300 * MS..=305 * MS).contains(&took), "{took:?}");
}
