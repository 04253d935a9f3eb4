//! What callers, services and observers do that nobody asked them for.

use std::cell::Cell;
use std::future::{pending, poll_fn, ready};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::task::{self, Poll, Waker};

use futures_util::FutureExt;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::error::Error;
use crate::name::LayerKind;
use crate::observe::Event;
use crate::rejection::{Rejection, RejectionKind};
use crate::{AnyError, Typed};

type Fails = Error<io::Error>;

fn refused() -> Fails {
    Rejection::new(RejectionKind::Overloaded, LayerKind::Admission, "db").into()
}

fn inner() -> impl Service<u32, Response = u32, Error = Fails, Future: Unpin> + Clone {
    service_fn(|n: u32| ready(if n == 0 { Err(refused()) } else { Ok(n) }))
}

/// In flight, answered, failed, dropped.
fn counts(fallback: &Fallback) -> (u32, u64, u64, u64) {
    let stats = fallback.stats();
    (stats.in_flight, stats.answered, stats.failed, stats.dropped)
}

#[test]
fn one_that_panics_while_it_is_polled_is_over_with_its_call() {
    let fallback = Fallback::builder("f").max_in_flight(1).build().unwrap();
    let service = fallback.layer::<Typed>().call(|_: u32, _: Cause| {
        poll_fn(|_| -> Poll<Result<u32, ()>> { panic!("the fallback's own") })
    });
    let service = service.layer(inner());
    let mut call = Box::pin(service.clone().oneshot(0));
    assert!(catch_unwind(AssertUnwindSafe(|| call.as_mut().now_or_never())).is_err());
    drop(call);
    assert_eq!(counts(&fallback), (0, 0, 0, 1));
    // The bound of one is not used up.
    let call = service.oneshot(0);
    assert!(catch_unwind(AssertUnwindSafe(|| call.now_or_never())).is_err());
    assert_eq!(fallback.stats().full, 0);
}

#[test]
fn a_value_whose_clone_panics_leaves_nothing_counted() {
    struct Answer(Arc<AtomicU32>);
    impl Clone for Answer {
        fn clone(&self) -> Self {
            assert!(self.0.load(SeqCst) == 0, "the value's own");
            Self(Arc::clone(&self.0))
        }
    }
    let fallback = Fallback::builder("f").max_in_flight(1).build().unwrap();
    let panics = Arc::new(AtomicU32::new(0));
    let refuses = service_fn(|_: u32| ready(Err::<Answer, _>(refused())));
    let service = fallback.layer::<Typed>().value(Answer(Arc::clone(&panics))).layer(refuses);
    panics.store(1, SeqCst);
    let call = service.clone().oneshot(0);
    assert!(catch_unwind(AssertUnwindSafe(|| call.now_or_never())).is_err());
    assert_eq!(counts(&fallback), (0, 0, 0, 1));
    panics.store(0, SeqCst);
    assert!(service.oneshot(0).now_or_never().unwrap().is_ok());
}

#[test]
fn who_leaves_before_the_inner_service_has_answered_is_nobodys_fallback() {
    let fallback = Fallback::new("f");
    let hangs = service_fn(|_: u32| pending::<Result<u32, Fails>>());
    let service = fallback.layer::<Typed>().value(9).layer(hangs);
    let mut unpolled = service.clone();
    drop(unpolled.call(0));
    assert!(service.oneshot(0).now_or_never().is_none());
    assert_eq!(counts(&fallback), (0, 0, 0, 0));
}

#[test]
fn a_panic_of_the_inner_service_is_not_answered() {
    let fallback = Fallback::new("f");
    let panics = service_fn(|_: u32| async { panic!("the service's own") });
    let service = fallback
        .layer::<Typed>()
        .failures(AnyError)
        .value(9_u32)
        .layer(panics.map_err(|never: std::convert::Infallible| match never {}));
    let call = service.map_err(|error: Fails| error).oneshot(0);
    assert!(catch_unwind(AssertUnwindSafe(|| call.now_or_never())).is_err());
    assert_eq!(counts(&fallback), (0, 0, 0, 0));
}

/// Ready after some polls, for one call.
struct Slow {
    polls: u32,
    ready: bool,
}

impl Clone for Slow {
    fn clone(&self) -> Self {
        Self { polls: self.polls, ready: false }
    }
}

impl Service<u32> for Slow {
    type Response = u32;
    type Error = Fails;
    type Future = std::future::Ready<Result<u32, Fails>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), Fails>> {
        if self.polls == u32::MAX {
            return Poll::Ready(Err(refused()));
        }
        if self.polls > 0 {
            self.polls -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u32) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been ready");
        ready(Ok(n + 100))
    }
}

#[test]
fn another_service_is_called_once_it_is_ready_with_an_instance_for_each_call() {
    let fallback = Fallback::new("f");
    let service = fallback.layer::<Typed>().service(Slow { polls: 2, ready: false }).layer(inner());
    for _ in 0..3 {
        let mut call = pin!(service.clone().oneshot(0));
        let mut cx = task::Context::from_waker(Waker::noop());
        assert!(
            call.as_mut().poll(&mut cx).is_pending() && call.as_mut().poll(&mut cx).is_pending()
        );
        assert_eq!(fallback.stats().in_flight, 1);
        assert!(matches!(call.as_mut().poll(&mut cx), Poll::Ready(Ok(100))));
    }
    assert_eq!(counts(&fallback), (0, 3, 0, 0));
}

#[test]
fn what_is_refused_while_it_gets_ready_is_not_answered_and_a_fallback_that_never_is_gives_the_original()
 {
    let broken = Slow { polls: u32::MAX, ready: false };
    let fallback = Fallback::new("f");
    // Nothing of a request is known then.
    let mut service = fallback.layer::<Typed>().value(9).layer(broken.clone());
    let ready = service.ready().now_or_never().unwrap();
    assert_eq!(ready.err().unwrap().rejection().unwrap().kind(), RejectionKind::Overloaded);
    assert_eq!(counts(&fallback), (0, 0, 0, 0));
    let service = fallback.layer::<Typed>().service(broken).layer(inner());
    let error = service.oneshot(0).now_or_never().unwrap().unwrap_err();
    assert_eq!(error.rejection().unwrap().layer(), LayerKind::Admission);
    assert_eq!(counts(&fallback), (0, 0, 1, 0));
}

#[test]
fn an_observer_that_panics_or_asks_changes_no_answer() {
    let known = Arc::new(std::sync::Mutex::new(None::<Fallback>));
    let asks = Arc::clone(&known);
    let fallback = Fallback::builder("f")
        .observe(|_: &Event<'_>| panic!("the observer's own"))
        .observe(move |_: &Event<'_>| {
            let fallback = asks.lock().unwrap().clone().unwrap();
            assert_eq!(fallback.stats().in_flight, 1, "its own is still there");
        })
        .build()
        .unwrap();
    *known.lock().unwrap() = Some(fallback.clone());
    let service = fallback.layer::<Typed>().value(9).layer(inner());
    assert_eq!(service.oneshot(0).now_or_never().unwrap().unwrap(), 9);
    assert_eq!(counts(&fallback), (0, 1, 0, 0));
    known.lock().unwrap().take();
}

/// What was kept of the request goes to the fallback, or goes with the call: no copy stays behind.
#[test]
fn what_is_kept_of_a_request_is_given_away_or_dropped() {
    let fallback = Fallback::new("f");
    let token = Arc::new(());
    let answers = service_fn(|_: Arc<()>| ready(Ok::<u32, Fails>(1)));
    let refuses = service_fn(|_: Arc<()>| ready(Err::<u32, _>(refused())));
    let hangs = |_: Arc<()>, _: Cause| pending::<Result<u32, ()>>();
    let call = fallback.layer::<Typed>().call(hangs).layer(answers);
    assert_eq!(call.oneshot(token.clone()).now_or_never().unwrap().unwrap(), 1);
    assert_eq!(Arc::strong_count(&token), 1);
    let held = Cell::new(0);
    let counts = |kept: Arc<()>, _: Cause| {
        held.set(Arc::strong_count(&kept));
        ready(Err::<u32, ()>(()))
    };
    let call = fallback.layer::<Typed>().call(counts).layer(refuses);
    call.oneshot(token.clone()).now_or_never().unwrap().unwrap_err();
    assert_eq!((held.get(), Arc::strong_count(&token)), (2, 1), "its own and ours");
    let call = fallback.layer::<Typed>().call(hangs).layer(refuses);
    assert!(call.oneshot(token.clone()).now_or_never().is_none());
    assert_eq!(Arc::strong_count(&token), 1);
}

/// Threads that answer, fail, leave and panic at once: never more than the bound, and all is counted once.
#[test]
fn the_bound_holds_among_threads_and_the_counts_add_up() {
    const CALLS: u32 = 500;
    let fallback = Fallback::builder("f").max_in_flight(3).build().unwrap();
    let (inside, most) = (&AtomicU32::new(0), &AtomicU32::new(0));
    struct Inside<'a>(&'a AtomicU32);
    impl Drop for Inside<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }
    let answer = |n: u32, _: Cause| {
        most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
        let held = Inside(inside);
        async move {
            let _held = held;
            for _ in 0..n % 3 {
                tokio::task::yield_now().await;
            }
            match n % 4 {
                0 => Ok(n),
                1 => Err(()),
                2 => pending().await,
                _ => std::panic::resume_unwind(Box::new("the fallback's own")),
            }
        }
    };
    let refuses = service_fn(|_: u32| ready(Err::<u32, _>(refused())));
    let layer = fallback.layer::<Typed>().call(answer);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let service = layer.clone().layer(refuses);
            scope.spawn(move || {
                for n in 0..CALLS {
                    let mut call = Box::pin(service.clone().oneshot(n));
                    let mut cx = task::Context::from_waker(Waker::noop());
                    for _ in 0..4 {
                        let poll = || call.as_mut().poll(&mut cx).is_pending();
                        match catch_unwind(AssertUnwindSafe(poll)) {
                            Ok(true) => std::thread::yield_now(),
                            _ => break,
                        }
                    }
                }
            });
        }
    });
    let stats = fallback.stats();
    assert!(most.load(SeqCst) <= 3, "{} at once", most.load(SeqCst));
    assert_eq!((stats.in_flight, inside.load(SeqCst)), (0, 0));
    let ended = stats.answered + stats.failed + stats.dropped + stats.full;
    assert_eq!(ended, u64::from(4 * CALLS), "{stats:?}");
    assert!(stats.answered > 0 && stats.failed > 0 && stats.dropped > 0, "{stats:?}");
}
