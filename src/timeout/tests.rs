#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::*;
use crate::context::Context;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::name::LayerKind;
use crate::reject::{AsTyped, respond_with};
use crate::rejection::RejectionKind;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn timeout(n: u64) -> Timeout {
    Timeout::new("t", ms(n)).unwrap()
}

/// Counts how often it was dropped.
struct Dropped(Arc<AtomicU32>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_time_and_is_dropped_before_the_answer() {
    let drops = Arc::new(AtomicU32::new(0));
    let (inside, seen) = (Arc::clone(&drops), Arc::clone(&drops));
    let service = ServiceBuilder::new()
        .layer(timeout(100).layer().on_reject(respond_with(move |(), why| {
            assert_eq!(why.kind(), RejectionKind::DeadlineExceeded);
            assert_eq!(why.layer(), LayerKind::Timeout);
            seen.load(Ordering::Relaxed)
        })))
        .service(service_fn(move |()| {
            let held = Dropped(Arc::clone(&inside));
            async move {
                let _held = held;
                pending::<Result<u32, std::convert::Infallible>>().await
            }
        }));
    let start = Instant::now();
    let Ok(dropped) = service.oneshot(()).await;
    assert_eq!(dropped, 1);
    assert_eq!(start.elapsed(), ms(100));
}

#[tokio::test(start_paused = true)]
async fn the_earlier_of_duration_and_deadline_counts() {
    for (own, inherited, expected) in [(100, 50, 50), (50, 100, 50)] {
        let read = move |_: &()| Context::new().with_deadline(Deadline::after(ms(inherited)));
        let service = ServiceBuilder::new()
            .layer(timeout(own).layer().context(read).on_reject(AsTyped))
            .service(service_fn(|()| pending::<Result<(), ()>>()));
        let start = Instant::now();
        assert!(matches!(service.oneshot(()).await, Err(Error::Rejected(_))));
        assert_eq!(start.elapsed(), ms(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn expired_work_is_not_sent() {
    let read = |_: &()| Context::new().with_deadline(Deadline::after(ms(0)));
    let service = ServiceBuilder::new()
        .layer(Timeout::deadlines("t").layer().context(read).on_reject(AsTyped))
        .service(service_fn(|()| {
            #[expect(unreachable_code, reason = "it must not be called")]
            ready::<Result<(), ()>>(panic!("sent"))
        }));
    assert!(matches!(service.oneshot(()).await, Err(Error::Rejected(_))));
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_passes_and_without_a_bound_none_is_needed() {
    let slow = || {
        service_fn(|n: u32| async move {
            tokio::time::sleep(ms(99)).await;
            Ok::<_, ()>(n + 1)
        })
    };
    let bounded =
        ServiceBuilder::new().layer(timeout(100).layer().on_reject(AsTyped)).service(slow());
    assert_eq!(bounded.oneshot(1).await.unwrap(), 2);
    let free = Timeout::deadlines("t").layer().on_reject(AsTyped);
    assert_eq!(ServiceBuilder::new().layer(free).service(slow()).oneshot(1).await.unwrap(), 2);
    let forever = Timeout::new("t", Duration::MAX).unwrap();
    assert!(
        forever
            .run(async {
                tokio::task::yield_now().await;
                Ok::<_, ()>(1)
            })
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn a_future_dropped_drops_the_call() {
    let drops = Arc::new(AtomicU32::new(0));
    let held = Dropped(Arc::clone(&drops));
    let bound = timeout(1000);
    let run = bound.run(async move {
        let _held = held;
        pending::<Result<(), ()>>().await
    });
    assert!(tokio::time::timeout(ms(10), run).await.is_err());
    assert_eq!(drops.load(Ordering::Relaxed), 1);
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn layers_inside_see_the_deadline_and_infallible_stays() {
    use http::{Request, Response};

    use crate::http::{extensions, problem};

    let service = ServiceBuilder::new()
        .layer(timeout(100).layer().context(extensions()).on_reject(problem()))
        .service(service_fn(|req: Request<()>| async move {
            let left = Deadline::of(req.extensions()).unwrap().remaining();
            assert_eq!(left, ms(100));
            tokio::time::sleep(ms(200)).await;
            Ok::<_, std::convert::Infallible>(Response::new(axum::body::Body::empty()))
        }));
    let Ok(answer) = service.oneshot(Request::new(())).await;
    assert_eq!(answer.status(), 504);
}
