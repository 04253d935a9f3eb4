use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, CircuitState};
use buttress::testing::{Answer, Probe, Subject, check_all};
use buttress::{Rejection, Slot};
use futures_util::{FutureExt, poll};
use tokio::time::{advance, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::toggled::Toggled;
use super::{CALLS, under_load};

async fn ok(n: u32) -> io::Result<u32> {
    if n == 0 { Err(io::Error::other("down")) } else { Ok(n) }
}

fn strict(name: &'static str) -> CircuitBreaker {
    CircuitBreaker::builder(name).consecutive_failures(1).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn breakers_come_and_go_and_a_call_keeps_the_one_it_began_with() {
    let slot = Slot::new();
    let mut service = CircuitBreakerLayer::from_slot(slot.clone()).layer(service_fn(ok));
    assert!(service.ready().await.unwrap().call(0).await.is_err());
    let first = strict("first");
    slot.install(first.clone());
    assert!(service.ready().await.unwrap().call(0).await.is_err());
    assert_eq!(first.state(), CircuitState::Open, "the call before was not counted");
    let refused = service.ready().await.unwrap().call(1).await.unwrap_err();
    assert_eq!(Rejection::find(&*refused).unwrap().name(), "first");

    let second = strict("second");
    slot.install(second.clone());
    let call = service.ready().await.unwrap().call(0);
    assert!(slot.uninstall().is_some());
    assert!(call.await.is_err());
    assert_eq!((second.state(), second.stats().failed_calls), (CircuitState::Open, 1));
    assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 1);
    assert_eq!((first.stats().failed_calls, second.stats().total_calls), (1, 1));

    // Services of one layer, and clones that have never been called, look into the same slot.
    let third = strict("third");
    slot.install(third.clone());
    for _ in 0..3 {
        assert!(service.clone().oneshot(1).await.is_ok());
    }
    assert_eq!(third.stats().successful_calls, 3);
}

#[tokio::test(start_paused = true)]
async fn a_probe_gives_its_place_back_to_the_breaker_it_has_it_from() {
    for ends in [true, false] {
        let breaker = strict("probed");
        let slot = Slot::with(breaker.clone());
        let layer = CircuitBreakerLayer::from_slot(slot.clone());
        let mut hangs = layer.layer(service_fn(|n: u32| async move {
            if n > 1 {
                pending::<()>().await;
            }
            ok(n).await
        }));
        assert!(hangs.ready().await.unwrap().call(0).await.is_err());
        advance(Duration::from_secs(61)).await;
        let mut probe = Box::pin(hangs.ready().await.unwrap().call(if ends { 1 } else { 2 }));
        if !ends {
            assert!(poll!(&mut probe).is_pending());
        }
        assert_eq!(breaker.snapshot().probes_in_flight, 1);
        slot.install(strict("other"));
        assert!(hangs.ready().await.unwrap().call(1).await.is_ok(), "the other one is closed");
        slot.uninstall();
        if ends {
            assert_eq!(probe.await.unwrap(), 1);
            assert_eq!(breaker.state(), CircuitState::Closed);
        } else {
            drop(probe);
            assert_eq!(breaker.state(), CircuitState::HalfOpen);
        }
        assert_eq!(breaker.snapshot().probes_in_flight, 0);
        // And back in its place it goes on.
        slot.install(breaker.clone());
        assert!(hangs.ready().await.unwrap().call(1).await.is_ok());
        assert_eq!(breaker.state(), CircuitState::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_after_a_swap_counts_with_the_breaker_of_the_call() {
    let (first, second) = (strict("first"), strict("second"));
    let slot = Slot::with(first.clone());
    let service = CircuitBreakerLayer::from_slot(slot.clone())
        .layer(service_fn(|()| pending::<io::Result<()>>()));
    let call = service.oneshot(());
    let swap = async {
        slot.install(second.clone());
        pending::<()>().await;
    };
    let both = async { tokio::join!(call, swap) };
    assert!(timeout(Duration::from_secs(2), both).await.is_err());
    assert_eq!((first.state(), second.state()), (CircuitState::Open, CircuitState::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_promised_refusal_is_kept_by_the_breaker_that_has_promised_it() {
    let open = strict("open");
    open.force_open();
    for other in [None, Some(strict("other"))] {
        let slot = Slot::with(open.clone());
        let (probe, handle) = Probe::new(|n: u32| Ok::<_, io::Error>(n));
        let mut service = CircuitBreakerLayer::from_slot(slot.clone()).layer(probe);
        service.ready().await.unwrap();
        match &other {
            Some(other) => slot.install(other.clone()),
            None => slot.uninstall(),
        };
        service.ready().await.unwrap();
        let before = open.stats().rejected_calls;
        let refused = service.call(1).await.unwrap_err();
        assert_eq!(Rejection::find(&*refused).unwrap().name(), "open");
        assert_eq!((handle.counts().calls, open.stats().rejected_calls), (0, before + 1));
        // Once.
        assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 1);
        assert!(other.is_none_or(|other| other.stats().total_calls == 1));
    }
}

/// A breaker that is forced open wakes nobody when it is taken out.
#[tokio::test(start_paused = true)]
async fn who_waits_under_a_balancer_notices_that_the_breaker_has_gone() {
    let open = strict("open");
    open.force_open();
    let slot = Slot::with(open.clone());
    let layer = CircuitBreakerLayer::from_slot(slot.clone()).unready_while_open();
    let mut service = layer.layer(service_fn(ok));
    assert!(service.ready().now_or_never().is_none());
    let (ready, ()) = tokio::join!(timeout(Duration::from_secs(1), service.ready()), async {
        slot.uninstall();
    });
    assert_eq!(ready.unwrap().unwrap().call(1).await.unwrap(), 1);
    slot.install(open);
    let waits = timeout(Duration::from_secs(600), service.ready()).await;
    assert!(waits.is_err(), "a new one is asked anew");
}

#[tokio::test(start_paused = true)]
async fn every_property_of_the_contract_holds() {
    let stable = || CircuitBreaker::builder("stable").consecutive_failures(1000).build().unwrap();
    for unready in [false, true] {
        // Never, now and then, and each time.
        for every in [u64::MAX, 3, 1] {
            let layer = move || {
                let slot = Slot::new();
                let layer = CircuitBreakerLayer::from_slot(slot.clone());
                let layer = if unready { layer.unready_while_open() } else { layer };
                Toggled::new(layer, every, move |n| match n % 3 {
                    0 => drop(slot.uninstall()),
                    _ => drop(slot.install(stable())),
                })
            };
            let subject = Subject::new(layer, || 1_u32, |n: u32| Ok::<_, io::Error>(n + 1))
                .ready_error(|| io::Error::other("inner broke"))
                .stateless();
            check_all(&subject).await.unwrap();
        }
    }
    let subject = Subject::new(
        move || CircuitBreakerLayer::from_slot(stable().into()),
        || 1_u32,
        |n: u32| Ok::<_, io::Error>(n + 1),
    )
    .ready_error(|| io::Error::other("inner broke"))
    .shared_state(|mut one, mut two, probe| async move {
        for _ in 0..1000 {
            probe.next(Answer::Ready(Err(io::Error::other("down"))));
            let _ = one.ready().await.map_err(|e| e.to_string())?.call(1).await;
        }
        match two.ready().await.map_err(|e| e.to_string())?.call(1).await {
            Err(e) if Rejection::find(&*e).is_some() => Ok(()),
            other => Err(format!("the second service answered {other:?}")),
        }
    });
    check_all(&subject).await.unwrap();
}

/// Each call is counted by at most one breaker, and each breaker has an outcome for all that it has admitted.
#[test]
fn under_load_no_call_is_lost_and_no_permit_leaks() {
    let slot = Slot::new();
    let layer = CircuitBreakerLayer::from_slot(slot.clone());
    let service = layer.layer(service_fn(ok));
    let breakers = std::sync::Mutex::new(Vec::new());
    let answered = Arc::new(AtomicU64::new(0));
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    under_load(
        |number| {
            // Some keep an instance, most are clones of one that is never called.
            let fresh = layer.layer(service_fn(ok));
            let service = if number % 5 == 0 { fresh } else { service.clone() };
            assert_eq!(runtime().block_on(service.oneshot(1)).unwrap(), 1);
            answered.fetch_add(1, Ordering::Relaxed);
        },
        |number| match number % 4 {
            3 => drop(slot.uninstall()),
            _ => {
                let breaker = CircuitBreaker::new("under load");
                slot.install(breaker.clone());
                breakers.lock().unwrap().push(breaker);
            }
        },
    );
    assert_eq!(answered.load(Ordering::Relaxed), CALLS as u64);
    let mut counted = 0;
    for breaker in breakers.into_inner().unwrap() {
        let stats = breaker.stats();
        assert_eq!(stats.total_calls, stats.successful_calls, "{stats:?}");
        counted += stats.total_calls;
    }
    assert!(counted > 0 && counted < CALLS as u64, "{counted}");
}
