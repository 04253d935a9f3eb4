//! A pool of endpoints: the contract, who is ejected and comes back, what is in flight.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use buttress::endpoints::Endpoints;
#[cfg(feature = "testing")]
use buttress::endpoints::EndpointsService;
use buttress::observe::{Event, EventKind};
use buttress::{AsTyped, Error, RejectionKind};
use futures_util::FutureExt;
use tower::{Service, ServiceExt, service_fn};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Says its number after 10 ms, or fails at once while `ill` is its number.
fn server(
    me: u32,
    ill: &Arc<AtomicU32>,
) -> impl Service<u32, Response = u32, Error = io::Error, Future: Send> + Clone + Send + Sync + use<>
{
    let ill = Arc::clone(ill);
    service_fn(move |_: u32| {
        let down = ill.load(Ordering::Relaxed) == me;
        async move {
            if down {
                return Err(io::Error::other("500"));
            }
            tokio::time::sleep(ms(10)).await;
            Ok(me)
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_failing_endpoint_is_ejected_told_and_returns() {
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let pool = Endpoints::<u8>::builder("search")
        .seed(7)
        .failures_in_row(1)
        .observe(move |event: &Event<'_>| {
            if let EventKind::StateChanged { to, reason, .. } = event.kind {
                sink.lock().unwrap().push(format!("{to} {reason}"));
            }
        })
        .build()
        .unwrap();
    let ill = Arc::new(AtomicU32::new(99));
    for me in 0..3 {
        pool.insert(me.to_string(), server(me, &ill));
    }
    let mut client = pool.service();
    for _ in 0..100 {
        client.ready().await.unwrap().call(1).await.unwrap();
    }
    ill.store(0, Ordering::Relaxed);
    let mut failed = 0;
    for _ in 0..3000 {
        failed += u32::from(client.ready().await.unwrap().call(1).await.is_err());
    }
    // Half a minute: the one that ejects it, and probes after 1, 3, 7 and 15 s.
    assert_eq!(failed, 5);
    assert!(pool.stats()[0].ejected);
    ill.store(99, Ordering::Relaxed);
    for _ in 0..3200 {
        client.ready().await.unwrap().call(1).await.unwrap();
    }
    assert!(!pool.stats()[0].ejected);
    let told = told.lock().unwrap();
    assert_eq!(*told, ["ejected 0: 1 failure in a row", "in 0: answered"]);
}

#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_calls_none_stays_in_flight() {
    let seed = u64::from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
    println!("seed {seed}");
    let mut random = seed | 1;
    let mut draw = move |below: usize| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % below
    };
    let ill = Arc::new(AtomicU32::new(1));
    let pool = Endpoints::new("search");
    for me in 0..4 {
        pool.insert(me.to_string(), server(me, &ill));
    }
    let mut client = pool.service();
    let mut calls = Vec::new();
    for n in 0..2000 {
        match draw(6) {
            0 if !calls.is_empty() => drop(calls.swap_remove(draw(calls.len()))),
            1 if !calls.is_empty() => {
                let call: std::pin::Pin<Box<_>> = calls.swap_remove(draw(calls.len()));
                let _: Result<u32, _> = call.await;
            }
            2 if !calls.is_empty() => {
                let place = draw(calls.len());
                if futures_util::poll!(&mut calls[place]).is_ready() {
                    drop(calls.swap_remove(place));
                }
            }
            3 if n % 50 == 0 => {
                pool.remove("2");
                pool.insert("2", server(2, &ill));
            }
            _ => calls.push(Box::pin(client.ready().await.unwrap().call(n))),
        }
        let in_flight: u32 = pool.stats().iter().map(|one| one.in_flight).sum();
        assert!(in_flight as usize <= calls.len());
    }
    drop(calls);
    assert!(pool.stats().iter().all(|one| one.in_flight == 0), "{:?}", pool.stats());
}

#[tokio::test(start_paused = true)]
async fn without_endpoints_calls_are_refused_and_changes_are_seen_by_clones() {
    let ill = Arc::new(AtomicU32::new(99));
    let pool = Endpoints::new("search");
    let client = pool.service().on_reject(AsTyped);
    match client.clone().oneshot(1).await {
        Err(Error::Rejected(why)) => assert_eq!(why.kind(), RejectionKind::Overloaded),
        other => panic!("{other:?}"),
    }
    pool.insert("a", server(1, &ill));
    assert_eq!(client.clone().oneshot(1).await.unwrap(), 1);
    assert!(pool.remove("a"));
    pool.insert("b", server(2, &ill));
    assert_eq!(client.oneshot(1).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_counts_as_failure_and_leaves_nothing_behind() {
    let pool = Endpoints::new("search");
    pool.insert(
        "a",
        service_fn(|n: u32| async move {
            assert!(n > 0, "zero");
            Ok::<_, io::Error>(n)
        }),
    );
    let client = pool.service();
    let call = AssertUnwindSafe(client.clone().oneshot(0)).catch_unwind();
    assert!(call.await.is_err());
    let stats = &pool.stats()[0];
    assert_eq!((stats.in_flight, stats.calls, stats.failed), (0, 1, 1));
    assert_eq!(client.oneshot(1).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_registry_shows_it_and_resets_it() {
    use buttress::control::Registry;
    let registry = Registry::new();
    let pool = Endpoints::<u8>::builder("search").register_in(&registry).build().unwrap();
    let ill = Arc::new(AtomicU32::new(0));
    for me in 0..2 {
        pool.insert(me.to_string(), server(me, &ill));
    }
    let mut client = pool.service();
    while !pool.stats()[0].ejected {
        let _ = client.ready().await.unwrap().call(1).await;
    }
    let status = registry.status();
    let row = &status.objects[0];
    assert_eq!((row.id.as_str(), row.state.as_str()), ("endpoints/search", "ejecting"));
    assert_eq!(row.why, "1 of 2 ejected; 0: 3 failures in a row, 0ns ago");
    pool.reset();
    assert!(!pool.stats()[0].ejected);
}

#[tokio::test(start_paused = true)]
async fn who_loses_to_a_hedge_has_not_failed_and_who_is_given_up_has() {
    use buttress::hedge::Hedge;
    use tower::Layer;
    let slow = Arc::new(AtomicU32::new(99));
    let pool = Endpoints::new("search");
    for me in 0..2 {
        let slow = Arc::clone(&slow);
        let server = service_fn(move |_: u32| {
            let takes = if slow.load(Ordering::Relaxed) == me { 1000 } else { 10 };
            async move {
                tokio::time::sleep(ms(takes)).await;
                Ok::<_, io::Error>(me)
            }
        });
        pool.insert(me.to_string(), server);
    }
    let hedge = Hedge::builder("search").min_delay(ms(45)).build().unwrap();
    let client = hedge.layer().layer(pool.service());
    for _ in 0..200 {
        client.clone().oneshot(1).await.unwrap();
    }
    slow.store(0, Ordering::Relaxed);
    // Each that goes there is let go after more than five typical answers.
    while hedge.stats().won < 2 {
        assert_eq!(client.clone().oneshot(1).await.unwrap(), 1);
    }
    let stats = &pool.stats()[0];
    assert_eq!((stats.ejected, stats.failed, stats.in_flight), (false, 0, 0));
    assert!(stats.latency >= ms(17), "{stats:?}");
    // Without a hedge its callers give up. One more of those, and it is out.
    while !pool.stats()[0].ejected {
        let call = tokio::time::timeout(ms(55), pool.service().oneshot(1));
        assert!(call.await.is_ok_and(|answer| answer.unwrap() == 1) || pool.stats()[0].ejected);
    }
    assert_eq!(pool.stats()[0].failed, 1);
}

#[cfg(feature = "tower")]
#[tokio::test(start_paused = true)]
async fn a_discovery_that_fails_leaves_the_endpoints_and_one_that_repeats_itself_makes_them_new() {
    use tower::discover::Change;
    let ill = Arc::new(AtomicU32::new(1));
    let pool = Endpoints::<u8>::builder("search").failures_in_row(1).build().unwrap();
    let insert = |me: u32| Ok(Change::Insert(me, server(me, &ill)));
    let found = [insert(1), insert(2), Ok(Change::Remove(7)), insert(3), Ok(Change::Remove(3))];
    let broken = found.into_iter().chain([Err(io::Error::other("the registry is down"))]);
    assert!(pool.follow(futures_util::stream::iter(broken)).await.is_err());
    let labels = || pool.stats().iter().map(|one| one.endpoint.to_string()).collect::<Vec<_>>();
    assert_eq!(labels(), ["1", "2"]);
    let mut failed = 0;
    for _ in 0..20 {
        failed += u32::from(pool.service().oneshot(1).await.is_err());
    }
    assert_eq!((failed, pool.stats()[0].ejected), (1, true));
    // Calls that have begun at the one before end there.
    let mut before = Box::pin(pool.service().oneshot(1));
    assert!(futures_util::poll!(&mut before).is_pending());
    pool.follow(futures_util::stream::iter([insert(1), insert(2)])).await.unwrap();
    assert_eq!(before.await.unwrap(), 2);
    assert!(pool.stats().iter().all(|one| !one.ejected && one.calls == 0 && one.in_flight == 0));
}

#[cfg(feature = "testing")]
#[tokio::test(start_paused = true)]
async fn every_property_of_the_contract_holds() {
    use buttress::testing::{Subject, check_all};
    use tower::layer::layer_fn;

    // A pool holds its endpoints, so each layer here has one of its own.
    let make = || {
        layer_fn(|inner| -> EndpointsService<_> {
            let pool = Endpoints::new("contract");
            pool.insert("only", inner);
            pool.service()
        })
    };
    let subject = Subject::new(make, || 7_u32, Ok::<u32, io::Error>)
        .ready_error(|| io::Error::other("inner broke"))
        .polls_inner_in_ready(false)
        .stateless();
    check_all(&subject).await.unwrap();
}
