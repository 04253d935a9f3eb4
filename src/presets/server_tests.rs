//! A server whose requests wait for their handlers.

use std::io;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{BackendPlan, Plan, ServerPlan, lint, server};
use crate::rejection::{Rejection, RejectionKind};
use crate::{BackendState, BoxError, Context, Criticality, Deadline};

const MS: Duration = Duration::from_millis(1);

fn plan(change: impl FnOnce(&mut ServerPlan)) -> ServerPlan {
    let mut plan = ServerPlan::new("api");
    plan.backend = Some(BackendPlan::fixed(1));
    change(&mut plan);
    plan
}

fn kind(error: &BoxError) -> Option<RejectionKind> {
    Rejection::find(&**error).map(Rejection::kind)
}

/// A handler that hangs for ever, if asked to, and one that answers after 100 ms.
async fn handle(hangs: bool) -> Result<bool, io::Error> {
    if hangs {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(100 * MS).await;
    Ok(hangs)
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_waits_for_as_long_as_the_patience_or_the_timeout() {
    let both = |patience, timeout| {
        plan(|p| {
            p.timeout = timeout;
            p.backend = Some(BackendPlan { patience, ..BackendPlan::fixed(1) });
        })
    };
    for (plan, expected) in [
        (both(None, Some(2_000 * MS)), 2_000),
        (both(Some(300 * MS), Some(2_000 * MS)), 300),
        (both(Some(5_000 * MS), Some(2_000 * MS)), 2_000),
        (both(Some(300 * MS), None), 300),
        (both(None, None), 1_000),
    ] {
        let stack = server(&plan).unwrap();
        let mut service = stack.layer(service_fn(handle));
        let mut hangs = Box::pin(service.ready().await.unwrap().call(true));
        assert!((&mut hangs).now_or_never().is_none());
        let began = Instant::now();
        let error = service.oneshot(false).await.unwrap_err();
        assert_eq!(kind(&error), Some(RejectionKind::DeadlineExceeded));
        let (took, expected) = (began.elapsed(), expected * MS);
        assert!((expected..=expected + 5 * MS).contains(&took), "{took:?} of {plan:?}");
        assert_eq!(stack.failure_budget().unwrap().stats().samples, 0, "it was never sent");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_its_own_is_what_a_request_waits_by() {
    let plan = plan(|p| {
        p.timeout = Some(2_000 * MS);
        p.backend = Some(BackendPlan { patience: Some(300 * MS), ..BackendPlan::fixed(1) });
    });
    for (own, expected) in [(100, 100), (900, 900), (9_000, 2_000)] {
        let read = |job: &(Context, bool)| job.0;
        let stack = server(&plan).unwrap().context(read);
        let mut service = stack.layer(service_fn(|job: (Context, bool)| handle(job.1)));
        let mut hangs = Box::pin(service.ready().await.unwrap().call((Context::new(), true)));
        assert!((&mut hangs).now_or_never().is_none());
        let own = Context::new().with_deadline(Deadline::after(own * MS));
        let began = Instant::now();
        let error = service.oneshot((own, false)).await.unwrap_err();
        assert_eq!(kind(&error), Some(RejectionKind::DeadlineExceeded));
        let (took, expected) = (began.elapsed(), expected * MS);
        assert!((expected..=expected + 5 * MS).contains(&took), "{took:?} of {expected:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_important_go_first_whatever_carries_the_context() {
    let read = |job: &(Context, u32)| job.0;
    let stack = server(&plan(|_| ())).unwrap().context(read);
    let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
    let service = stack.layer(service_fn(move |job: (Context, u32)| {
        told.send(job.1).unwrap();
        handle(false)
    }));
    let low = Context::new().with_criticality(Criticality::Sheddable);
    let high = Context::new().with_criticality(Criticality::CriticalPlus);
    let jobs = [(Context::new(), 0), (low, 1), (Context::new(), 2), (high, 3)];
    futures_util::future::join_all(jobs.map(|job| service.clone().oneshot(job))).await;
    let came = std::iter::from_fn(|| order.try_recv().ok());
    assert_eq!(came.collect::<Vec<_>>(), [0, 3, 2, 1]);
}

/// Clients take a row of failures for an outage and wait. A server that did so would turn quick answers into late ones.
#[tokio::test(start_paused = true)]
async fn handlers_that_fail_are_no_reason_to_wait() {
    let plan = plan(|p| p.backend = Some(BackendPlan::default()));
    let stack = server(&plan).unwrap();
    let fails = stack.layer(service_fn(|()| async {
        tokio::time::sleep(MS).await;
        Err::<(), _>(io::Error::other("what it needs is down"))
    }));
    for _ in 0..200 {
        let began = Instant::now();
        let error = fails.clone().oneshot(()).await.unwrap_err();
        assert_eq!((kind(&error), began.elapsed()), (None, MS));
    }
    let backend = stack.backend().unwrap();
    assert_eq!((backend.state(), backend.stats().waited), (BackendState::Up, 0));
    assert!(stack.failure_budget().unwrap().stats().failures > 0, "which is who judges them");
}

/// A client whose calls are not answered for long waits with single probes.
#[tokio::test(start_paused = true)]
async fn handlers_that_are_all_slow_are_not_down() {
    let plan = plan(|p| {
        (p.timeout, p.backend) = (Some(60_000 * MS), Some(BackendPlan::default()));
    });
    let stack = server(&plan).unwrap();
    let handler = stack.layer(service_fn(|time: Duration| async move {
        tokio::time::sleep(time).await;
        Ok::<_, io::Error>(())
    }));
    for _ in 0..200 {
        handler.clone().oneshot(MS).await.unwrap();
    }
    let backend = stack.backend().unwrap();
    let mut out = Vec::new();
    for _ in 0..12 {
        let mut call = Box::pin(handler.clone().oneshot(15_000 * MS));
        assert!((&mut call).now_or_never().is_none());
        out.push(call);
        tokio::time::advance(1_000 * MS).await;
    }
    assert_eq!((backend.state(), backend.stats().downs), (BackendState::Up, 0));
    for answer in futures_util::future::join_all(out).await {
        answer.unwrap();
    }
    assert_eq!(backend.stats().downs, 0);
}

/// What handlers share is polled by one of them, and waits for as long as any of them does.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_call_is_none_of_what_its_handler_shares_with_others() {
    use crate::admission::{Admission, AdmissionLayer};

    let admission = Admission::bulkhead("db", 1).unwrap().patience(10_000 * MS);
    let mut db = AdmissionLayer::new(admission).layer(service_fn(|time: Duration| async move {
        tokio::time::sleep(time).await;
        Ok::<_, BoxError>(())
    }));
    let mut other = Box::pin(db.ready().await.unwrap().call(1_200 * MS));
    assert!((&mut other).now_or_never().is_none());
    let shared = db.ready().await.unwrap().call(MS).map(|it| it.map_err(|e| e.to_string())).boxed();
    let shared = shared.shared();

    let plan = plan(|p| (p.timeout, p.backend) = (Some(1_000 * MS), Some(BackendPlan::fixed(2))));
    let service = server(&plan).unwrap().layer(service_fn(move |()| {
        let shared = shared.clone();
        async move { shared.await.map_err(io::Error::other) }
    }));
    let second = async {
        tokio::time::sleep(500 * MS).await;
        service.clone().oneshot(()).await
    };
    let (first, second, _) = tokio::join!(service.clone().oneshot(()), second, other);
    assert_eq!(kind(&first.unwrap_err()), Some(RejectionKind::DeadlineExceeded));
    second.unwrap();
}

#[test]
fn a_patience_that_never_counts_is_told() {
    let rules = |patience| {
        let plan = plan(|p| {
            p.timeout = Some(2_000 * MS);
            p.backend = Some(BackendPlan { patience, ..BackendPlan::fixed(8) });
        });
        let found: Vec<_> = lint(&plan).iter().map(|lint| (lint.rule, lint.field)).collect();
        assert_eq!(plan.report().worst_latency, plan.timeout, "the wait is part of it");
        found
    };
    assert_eq!(rules(Some(2_001 * MS)), [("patience_above_total", "backend.patience")]);
    assert_eq!(rules(Some(2_000 * MS)), []);
    assert_eq!(rules(None), []);
    let none = plan(|p| p.backend = Some(BackendPlan::fixed(0)));
    assert_eq!(server(&none).unwrap_err().field(), "in_flight");
}

#[cfg(feature = "http")]
mod http {
    use ::http::{Request, Response};
    use axum::body::Body;
    use std::convert::Infallible;

    use super::*;

    fn with(deadline: Option<Duration>) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        if let Some(time) = deadline {
            Deadline::after(time).put(request.extensions_mut());
        }
        request
    }

    /// A timeout outside that wrote its end into the request would give every caller a deadline of its own.
    #[tokio::test(start_paused = true)]
    async fn the_timeout_is_no_deadline_of_the_callers() {
        let plan = plan(|p| {
            p.timeout = Some(2_000 * MS);
            p.backend = Some(BackendPlan { patience: Some(300 * MS), ..BackendPlan::fixed(1) });
        });
        let stack = server(&plan).unwrap().http();
        let hangs = service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, Infallible>>()
        });
        let mut service = stack.layer(hangs);
        let mut first = Box::pin(service.ready().await.unwrap().call(with(None)));
        assert!((&mut first).now_or_never().is_none());
        for (own, expected) in [(None, 300), (Some(900 * MS), 900)] {
            let began = Instant::now();
            let Ok(answer) = service.clone().oneshot(with(own)).await;
            assert_eq!(answer.status(), 504);
            let (took, expected) = (began.elapsed(), expected * MS);
            assert!((expected..=expected + 5 * MS).contains(&took), "{took:?} of {expected:?}");
        }
        drop(first);
        assert_eq!(stack.backend().unwrap().stats().in_flight, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_is_told_when_its_time_ends_whether_it_waited_or_not() {
        for backend in [None, Some(BackendPlan::fixed(1))] {
            let plan = plan(|p| (p.timeout, p.backend) = (Some(2_000 * MS), backend));
            let stack = server(&plan).unwrap().http();
            let service = stack.layer(service_fn(|request: Request<Body>| async move {
                let told = Deadline::of(request.extensions()).unwrap();
                tokio::time::sleep(500 * MS).await;
                Ok::<_, Infallible>(
                    Response::builder().extension(told).body(Body::empty()).unwrap(),
                )
            }));
            let left = |answer: &Response<Body>, at: Deadline| {
                let told = *answer.extensions().get::<Deadline>().unwrap();
                told.tick().since(at.tick())
            };
            for (own, expected) in
                [(None, 2_000), (Some(1_200 * MS), 1_200), (Some(9_000 * MS), 2_000)]
            {
                let began = Deadline::after(Duration::ZERO);
                let Ok(answer) = service.clone().oneshot(with(own)).await;
                assert_eq!(left(&answer, began), expected * MS, "{backend:?}");
            }
            // With one at a time the second waits for the first, and its time goes on.
            let now = Deadline::after(Duration::ZERO);
            let two = [service.clone().oneshot(with(None)), service.clone().oneshot(with(None))];
            for answer in futures_util::future::join_all(two).await {
                assert_eq!(left(&answer.unwrap(), now), 2_000 * MS, "{backend:?}");
            }
        }
    }
}
