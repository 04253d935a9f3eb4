use std::future::{pending, ready};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::error::{BoxError, Error};
use crate::name::LayerKind;
use crate::outcome::{FailureClass, Outcome};
use crate::reject::respond_with;
use crate::rejection::{Rejection, RejectionKind};
use crate::{AnyError, Boxed, Typed};

fn refusal(kind: RejectionKind) -> Rejection {
    Rejection::new(kind, LayerKind::CircuitBreaker, "db")
}

type Res = Result<u32, Error<io::Error>>;

/// Answers with what the request says.
fn inner()
-> impl Service<fn() -> Res, Response = u32, Error = Error<io::Error>, Future: Unpin> + Clone {
    service_fn(|req: fn() -> Res| ready(req()))
}

fn ok() -> Res {
    Ok(1)
}

fn open() -> Res {
    Err(refusal(RejectionKind::CircuitOpen).into())
}

fn broken() -> Res {
    Err(Error::Inner(io::ErrorKind::ConnectionReset.into()))
}

#[test]
fn only_refusals_that_say_not_now_are_answered() {
    let answered: Vec<_> = RejectionKind::ALL
        .into_iter()
        .filter(|&kind| {
            let service = service_fn(move |()| ready(Err::<u32, BoxError>(refusal(kind).into())));
            let service = Fallback::new("f").layer().value(9).layer(service);
            matches!(service.oneshot(()).now_or_never(), Some(Ok(9)))
        })
        .map(RejectionKind::as_str)
        .collect();
    assert_eq!(
        answered,
        [
            "rate_limited",
            "circuit_open",
            "overloaded",
            "budget_exhausted",
            "deadline_exceeded",
            "store_unavailable"
        ]
    );
}

#[test]
fn what_it_was_not_told_to_answer_passes_and_is_not_counted() {
    let fallback = Fallback::new("f");
    let service = fallback.layer().value(9).layer(inner());
    let call = |req: fn() -> Res| service.clone().oneshot(req).now_or_never().unwrap();
    assert_eq!(call(ok).unwrap(), 1);
    assert!(matches!(call(broken), Err(Error::Inner(_))));
    assert_eq!(call(open).unwrap(), 9);
    let stats = fallback.stats();
    assert_eq!((stats.answered, stats.failed, stats.in_flight), (1, 0, 0));
}

#[test]
fn with_failures_it_answers_what_the_classifier_blames_on_the_callee() {
    fn denied() -> Res {
        Err(Error::Inner(io::ErrorKind::PermissionDenied.into()))
    }
    let service = Fallback::new("f").layer().failures(AnyError).value(9).layer(inner());
    let call = |req: fn() -> Res| service.clone().oneshot(req).now_or_never().unwrap();
    assert_eq!((call(broken).unwrap(), call(open).unwrap()), (9, 9));
    assert!(call(denied).is_err(), "the request is at fault");
    let judge = crate::classify_fn(|result: Result<&u32, &Error<io::Error>>| match result {
        Ok(1) => crate::Verdict::failure(FailureClass::Flaky),
        _ => crate::Verdict::success(),
    });
    let service = Fallback::new("f").layer().failures(judge).value(9).layer(inner());
    assert_eq!(service.oneshot(ok as fn() -> Res).now_or_never().unwrap().unwrap(), 9);
}

#[test]
fn a_reject_answers_with_the_request_and_the_refusal() {
    let respond =
        respond_with(|req: u32, why: Rejection| req + u32::try_from(why.name().len()).unwrap_or(0));
    let service = service_fn(|_: u32| {
        ready(Err::<u32, BoxError>(refusal(RejectionKind::CircuitOpen).into()))
    });
    let service = Fallback::new("f").layer().respond(respond).layer(service);
    assert_eq!(service.oneshot(40).now_or_never().unwrap().unwrap(), 42);
}

#[test]
fn a_fallback_that_fails_gives_the_original_result() {
    let fallback = Fallback::new("f");
    let service = fallback
        .layer()
        .call(|_: fn() -> Res, cause: Cause| ready(Err::<u32, _>(cause)))
        .layer(inner());
    let error = service.oneshot(open as fn() -> Res).now_or_never().unwrap().unwrap_err();
    assert_eq!(error.rejection().unwrap().kind(), RejectionKind::CircuitOpen);
    assert_eq!(fallback.stats().failed, 1);

    // Another service, which is not ready, or fails, or answers.
    let other = service_fn(|req: fn() -> Res| {
        ready(if let Err(Error::Rejected(_)) = req() { Ok(3) } else { Err(()) })
    });
    let service = fallback.layer().failures(AnyError).service(other).layer(inner());
    assert_eq!(service.clone().oneshot(open as fn() -> Res).now_or_never().unwrap().unwrap(), 3);
    assert!(service.oneshot(broken as fn() -> Res).now_or_never().unwrap().is_err());
    assert_eq!((fallback.stats().answered, fallback.stats().failed), (1, 2));
}

#[test]
fn fallbacks_of_fallbacks_end_with_the_first_error() {
    let failing = |_: fn() -> Res, _: Cause| ready(Err::<u32, _>(()));
    let inner_one = Fallback::new("inner").layer().call(failing).layer(inner());
    let deep = Fallback::new("deep").layer().call(failing).layer(service_fn(|_: fn() -> Res| {
        ready(Err::<u32, BoxError>(refusal(RejectionKind::Overloaded).into()))
    }));
    let service = Fallback::new("outer").layer().service(deep).layer(inner_one);
    let error = service.oneshot(open as fn() -> Res).now_or_never().unwrap().unwrap_err();
    assert_eq!(error.rejection().unwrap().kind(), RejectionKind::CircuitOpen);
}

#[test]
fn only_so_many_are_under_way_and_one_that_is_dropped_makes_room() {
    let fallback = Fallback::builder("f").max_in_flight(1).build().unwrap();
    let service = fallback
        .layer()
        .call(|_: fn() -> Res, _: Cause| pending::<Result<u32, ()>>())
        .layer(inner());
    let mut first = Box::pin(service.clone().oneshot(open as fn() -> Res));
    assert!(first.as_mut().now_or_never().is_none());
    assert_eq!(fallback.stats().in_flight, 1);
    let second = service.clone().oneshot(open as fn() -> Res).now_or_never();
    assert!(matches!(second, Some(Err(Error::Rejected(_)))), "the original");
    drop(first);
    let stats = fallback.stats();
    assert_eq!((stats.in_flight, stats.full, stats.dropped, stats.answered), (0, 1, 1, 0));
    assert!(service.oneshot(open as fn() -> Res).now_or_never().is_none(), "there is room again");
}

#[test]
fn a_fallback_that_panics_leaves_nothing_counted() {
    let fallback = Fallback::builder("f").max_in_flight(1).build().unwrap();
    let times = AtomicU64::new(0);
    let service = fallback
        .layer::<Typed>()
        .call(|_: fn() -> Res, _: Cause| {
            assert!(times.fetch_add(1, Ordering::Relaxed) > 0, "at first");
            async {
                tokio::task::yield_now().await;
                Ok::<_, ()>(5)
            }
        })
        .layer(inner());
    let mut call = service.clone().oneshot(open as fn() -> Res).boxed_local();
    assert!(catch_unwind(AssertUnwindSafe(|| call.as_mut().now_or_never())).is_err());
    let stats = fallback.stats();
    assert_eq!((stats.in_flight, stats.dropped), (0, 1));
    let mut call = service.oneshot(open as fn() -> Res).boxed_local();
    assert!(call.as_mut().now_or_never().is_none());
    assert_eq!(call.now_or_never().unwrap().unwrap(), 5);
}

#[test]
fn a_refusal_that_is_not_to_be_answered_is_no_failure_either() {
    let answered = |only: Option<fn(&Rejection) -> bool>, kind: RejectionKind| {
        let service = service_fn(move |()| ready(Err::<u32, BoxError>(refusal(kind).into())));
        let refusals = only.map_or_else(Refusals::default, Refusals::only);
        let layer = Fallback::new("f").layer::<Boxed>();
        let layer = layer.covers(refusals).failures(AnyError).value(9);
        matches!(layer.layer(service).oneshot(()).now_or_never(), Some(Ok(9)))
    };
    for kind in RejectionKind::ALL {
        let plain = service_fn(move |()| ready(Err::<u32, BoxError>(refusal(kind).into())));
        let plain = Fallback::new("f").layer().value(9).layer(plain);
        let plain = matches!(plain.oneshot(()).now_or_never(), Some(Ok(9)));
        // An injected connection error is a failure, as a real one is.
        let injected = kind == RejectionKind::Injected;
        assert_eq!(answered(None, kind), plain || injected, "{kind:?}");
        assert_eq!(answered(Some(|_| false), kind), injected, "{kind:?}");
    }
}

/// Counts itself while it lives.
struct Counted(std::sync::Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn the_original_is_held_while_the_fallback_runs_and_dropped_before_the_answer() {
    let alive = std::sync::Arc::new(AtomicU64::new(0));
    let made = std::sync::Arc::clone(&alive);
    let judge = crate::classify_fn(|_: Result<&Option<Counted>, &io::Error>| {
        crate::Verdict::failure(FailureClass::Transient)
    });
    let service = Fallback::new("f")
        .layer()
        .failures(judge)
        .call(|(): (), _: Cause| async {
            tokio::task::yield_now().await;
            Ok::<_, ()>(None)
        })
        .layer(service_fn(move |()| {
            made.fetch_add(1, Ordering::Relaxed);
            ready(Ok::<_, io::Error>(Some(Counted(std::sync::Arc::clone(&made)))))
        }));
    let mut call = Box::pin(service.oneshot(()));
    assert!(call.as_mut().now_or_never().is_none());
    assert_eq!(alive.load(Ordering::Relaxed), 1, "it may be needed");
    let Some(Ok(None)) = call.as_mut().now_or_never() else { panic!("an answer") };
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

#[test]
fn a_panic_of_what_judges_or_keeps_leaves_nothing_counted_and_the_next_call_is_answered() {
    let fallback = Fallback::builder("f").max_in_flight(1).build().unwrap();
    let times = AtomicU64::new(0);
    let at = |n: u64| assert!(times.fetch_add(1, Ordering::Relaxed) != n, "on purpose");
    let judge = crate::classify_fn(|_: Result<&u32, &Error<io::Error>>| {
        at(3);
        crate::Verdict::failure(FailureClass::Transient)
    });
    let mut service = fallback
        .layer()
        .failures(judge)
        .call(|(): (), _: Cause| {
            at(5);
            async {
                at(7);
                Ok::<_, ()>(5)
            }
        })
        .keep(|_: &fn() -> Res| {
            at(0);
            Some(())
        })
        .layer(inner());
    let mut call = |to: u64| {
        times.store(to, Ordering::Relaxed);
        catch_unwind(AssertUnwindSafe(|| service.call(broken as fn() -> Res).now_or_never()))
    };
    // Kept, judged, made, polled.
    for (start, counted) in [(0, 0), (2, 0), (3, 1), (4, 2)] {
        assert!(call(start).is_err(), "from {start}");
        let stats = fallback.stats();
        assert_eq!((stats.in_flight, stats.dropped), (0, counted), "from {start}");
    }
    assert_eq!(call(100).unwrap().unwrap().unwrap(), 5);
}

#[test]
fn a_request_of_which_nothing_is_kept_has_no_fallback() {
    let fallback = Fallback::new("f");
    let service = fallback
        .layer()
        .call(|n: u32, _: Cause| ready(Ok::<_, ()>(n)))
        .keep(|req: &String| u32::try_from(req.len()).ok().filter(|n| *n > 0))
        .layer(service_fn(|_: String| {
            ready(Err::<u32, BoxError>(refusal(RejectionKind::Overloaded).into()))
        }));
    assert_eq!(service.clone().oneshot("abc".into()).now_or_never().unwrap().unwrap(), 3);
    assert!(service.oneshot(String::new()).now_or_never().unwrap().is_err());
    assert_eq!(fallback.stats().not_kept, 1);
}

#[test]
fn a_cause_says_what_it_is() {
    let cause = Cause::refusal(refusal(RejectionKind::RateLimited));
    assert_eq!((cause.as_str(), cause.outcome()), ("rate_limited", Outcome::Ignored));
}
