use std::io;
use std::sync::Mutex;
use std::time::Duration;

use buttress::rate_limit::{RateLimitLayer, RateLimiter};
use buttress::testing::{Probe, Subject, check_all};
use buttress::{Rejection, RejectionKind, Slot};
use futures_util::poll;
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::toggled::Toggled;
use super::{CALLS, under_load};

async fn ok(n: u32) -> io::Result<u32> {
    Ok(n)
}

fn limiter(quota: &str) -> RateLimiter {
    RateLimiter::new(quota.parse().unwrap())
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn limits_come_and_go() {
    let slot = Slot::new();
    let mut service = RateLimitLayer::from_slot(slot.clone()).layer(service_fn(ok));
    assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 1);
    let first = limiter("1/h");
    slot.install(first.clone());
    assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 1);
    assert_eq!(first.stats().acquired, 1, "the call before was not charged");
    let refused = service.ready().await.unwrap().call(1).await.unwrap_err();
    assert_eq!(Rejection::find(&*refused).unwrap().kind(), RejectionKind::RateLimited);
    // An instance that has never been called sees it in its clones, too.
    assert!(service.clone().oneshot(1).await.is_err());
    let second = limiter("1/h");
    slot.install(second.clone());
    assert_eq!(service.clone().oneshot(1).await.unwrap(), 1);
    assert_eq!((first.stats().acquired, second.stats().acquired), (1, 1));
    slot.uninstall();
    for _ in 0..3 {
        assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 1);
    }
    assert_eq!((first.stats().rejected, second.stats().rejected), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn what_it_is_combined_with_goes_on_while_the_slot_is_empty() {
    let slot = Slot::new();
    let (always, price) = (limiter("10/h"), |n: &u32| u64::from(*n));
    let layer = RateLimitLayer::from_slot(slot.clone()).and(always.clone()).cost(price);
    let mut service = layer.layer(service_fn(ok));
    assert!(service.ready().await.unwrap().call(4).await.is_ok());
    slot.install(limiter("3/h"));
    assert!(service.ready().await.unwrap().call(4).await.is_err());
    assert_eq!(always.stats().acquired, 1, "all or none are charged");
    assert!(service.ready().await.unwrap().call(3).await.is_ok());
    slot.uninstall();
    assert!(service.ready().await.unwrap().call(3).await.is_ok());
    assert!(service.ready().await.unwrap().call(1).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_keeps_its_place_whatever_is_in_the_slot() {
    let (first, second) = (limiter("1/s"), limiter("1/h"));
    let slot = Slot::with(first.clone());
    let service = RateLimitLayer::from_slot(slot.clone()).wait(MINUTE).layer(service_fn(ok));
    first.try_acquire().unwrap();
    let start = Instant::now();
    let mut waits = Box::pin(service.clone().oneshot(1));
    let mut behind = Box::pin(service.clone().oneshot(2));
    assert!(poll!(&mut waits).is_pending() && poll!(&mut behind).is_pending());
    slot.install(second.clone());
    assert_eq!(service.clone().oneshot(3).await.unwrap(), 3, "there is room at the other");
    slot.uninstall();
    assert_eq!(service.clone().oneshot(4).await.unwrap(), 4, "and nothing holds this one");
    assert_eq!(waits.await.unwrap(), 1);
    assert_eq!((start.elapsed(), first.waiting()), (Duration::from_secs(1), 1));
    // And leaves it by itself.
    drop(behind);
    assert_eq!((first.waiting(), first.stats().acquired), (0, 2));
    assert_eq!(second.stats().acquired, 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_goes_on_at_once_when_it_is_released_and_leaves_no_trace() {
    let there = limiter("1/min");
    let slot = Slot::with(there.clone());
    let service = RateLimitLayer::from_slot(slot.clone()).wait(MINUTE * 60).layer(service_fn(ok));
    there.try_acquire().unwrap();
    let start = Instant::now();
    let mut waiting: Vec<_> = (0..3).map(|n| Box::pin(service.clone().oneshot(n))).collect();
    for call in &mut waiting {
        assert!(poll!(call).is_pending());
    }
    advance(Duration::from_secs(90)).await;
    assert_eq!(slot.uninstall().map(|it| it.release_waiting()), Some(()));
    for (call, n) in waiting.into_iter().zip(0..) {
        assert_eq!(call.await.unwrap(), n);
    }
    assert_eq!((start.elapsed().as_secs(), there.waiting()), (90, 0));
    // One was due and has a token; the others' places are free.
    assert_eq!(there.stats().acquired, 2);
    assert!(there.try_acquire().is_err());
    advance(Duration::from_secs(30)).await;
    there.try_acquire().unwrap();
    // Who comes later waits as before.
    let mut later = Box::pin(there.acquire());
    assert!(poll!(&mut later).is_pending());
    advance(MINUTE).await;
    later.await.unwrap();
}

/// A call is made and polled later: nobody has let it go, since it did not wait.
#[tokio::test(start_paused = true)]
async fn who_has_not_begun_to_wait_goes_by_what_is_in_the_slot_then() {
    let empty = limiter("1/h");
    empty.try_acquire().unwrap();
    let slot = Slot::with(empty.clone());
    let mut service =
        RateLimitLayer::from_slot(slot.clone()).wait(MINUTE * 60).layer(service_fn(ok));
    let start = Instant::now();
    let mut make = async || service.ready().await.unwrap().call(1);
    let (late, other, kept) = (make().await, make().await, make().await);
    slot.uninstall();
    late.await.unwrap();
    let minute = limiter("1/min");
    slot.install(minute.clone());
    other.await.unwrap();
    assert_eq!((start.elapsed(), minute.stats().acquired), (Duration::ZERO, 1));
    kept.await.unwrap();
    assert_eq!((start.elapsed(), minute.stats().acquired), (MINUTE, 2));
    assert_eq!((empty.stats().acquired, empty.stats().released, empty.waiting()), (1, 1, 0));
}

/// Nothing may be called that was not found ready, whenever the slot changes.
#[tokio::test(start_paused = true)]
async fn changes_between_ready_and_call() {
    for install in [false, true] {
        let slot = Slot::new();
        let (probe, handle) = Probe::new(|n: u32| Ok::<_, io::Error>(n));
        let mut service = RateLimitLayer::from_slot(slot.clone()).wait(MINUTE).layer(probe);
        if !install {
            slot.install(limiter("1/h"));
        }
        service.ready().await.unwrap();
        let there = limiter("1/h");
        match install {
            true => slot.install(there.clone()),
            false => slot.uninstall(),
        };
        service.ready().await.unwrap();
        assert_eq!(service.call(1).await.unwrap(), 1);
        // What was found ready while there was no limit has been promised to pass.
        assert_eq!(there.stats().acquired, 0);
        assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 1);
        assert_eq!(there.stats().acquired, u64::from(install));
        assert_eq!((handle.counts().calls, handle.violations().len()), (2, 0));
        assert!(handle.counts().reserved == 0, "{:?}", handle.counts());
    }
}

#[tokio::test(start_paused = true)]
async fn every_property_of_the_contract_holds() {
    let plenty = || limiter("1000000/s");
    // Never, now and then, and each time.
    for every in [u64::MAX, 3, 1] {
        let toggle = move |slot: Slot<RateLimiter>| {
            move |n: u64| match n % 3 {
                0 => drop(slot.uninstall()),
                _ => drop(slot.install(plenty())),
            }
        };
        let refusing = move || {
            let slot = Slot::new();
            Toggled::new(RateLimitLayer::from_slot(slot.clone()), every, toggle(slot))
        };
        let subject = Subject::new(refusing, || 1_u32, |n: u32| Ok::<_, io::Error>(n + 1))
            .ready_error(|| io::Error::other("inner broke"))
            .stateless();
        check_all(&subject).await.unwrap();
        // With none it is as ready as the inner service, with one always, one after the other.
        for there in [None, Some(plenty())] {
            let empty = there.is_none();
            let waiting = move || {
                let slot = there.clone().map_or_else(Slot::new, Slot::with);
                let layer = RateLimitLayer::from_slot(slot.clone()).wait(MINUTE);
                Toggled::new(layer, every, move |_| match empty {
                    true => drop(slot.uninstall()),
                    false => drop(slot.install(plenty())),
                })
            };
            let subject = Subject::new(waiting, || 1_u32, |n: u32| Ok::<_, io::Error>(n + 1))
                .polls_inner_in_ready(empty)
                .ready_error(|| io::Error::other("inner broke"))
                .stateless();
            check_all(&subject).await.unwrap();
        }
    }
}

/// Each call passes without a limit or is charged to one.
#[test]
fn under_load_no_call_is_lost() {
    let slot = Slot::new();
    let layer = RateLimitLayer::from_slot(slot.clone());
    let (refusing, waiting) =
        (layer.clone().layer(service_fn(ok)), layer.wait(MINUTE).layer(service_fn(ok)));
    let limiters = Mutex::new(Vec::new());
    let answered = std::sync::atomic::AtomicUsize::new(0);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    under_load(
        |number| {
            let answer = match number % 2 {
                0 => runtime().block_on(refusing.clone().oneshot(1)),
                _ => runtime().block_on(waiting.clone().oneshot(1)),
            };
            assert_eq!(answer.unwrap(), 1);
            answered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        },
        |number| match number % 4 {
            3 => drop(slot.uninstall()),
            _ => {
                let limiter = limiter("1000000/s");
                slot.install(limiter.clone());
                limiters.lock().unwrap().push(limiter);
            }
        },
    );
    assert_eq!(answered.into_inner(), CALLS);
    let charged: u64 = limiters.into_inner().unwrap().iter().map(|it| it.stats().acquired).sum();
    assert!(charged > 0 && charged < CALLS as u64, "{charged}");
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn header_fields_tell_of_what_is_there() {
    use http::{Request, Response};
    let slot = Slot::new();
    let inner = service_fn(|_: Request<()>| async { Ok::<_, io::Error>(Response::new(())) });
    let mut service = RateLimitLayer::from_slot(slot.clone()).headers().layer(inner);
    for there in [None, Some("10/h"), None] {
        match there {
            Some(quota) => slot.install(limiter(quota)),
            None => slot.uninstall(),
        };
        let call = service.ready().await.unwrap().call(Request::new(()));
        let fields = call.await.unwrap().headers().clone();
        assert_eq!(fields.contains_key("ratelimit"), there.is_some(), "{fields:?}");
    }
    // Of a limit that has let it go nothing is told.
    let there = limiter("1/h");
    let mut service = RateLimitLayer::from_slot(slot.clone()).wait(MINUTE).headers().layer(inner);
    slot.install(there.clone());
    let call = service.ready().await.unwrap().call(Request::new(()));
    assert!(call.await.unwrap().headers().contains_key("ratelimit"));
    there.set_quota("1/min".parse().unwrap());
    let mut call = Box::pin(service.ready().await.unwrap().call(Request::new(())));
    assert!(poll!(&mut call).is_pending());
    there.release_waiting();
    assert!(!call.await.unwrap().headers().contains_key("ratelimit"));
}
