//! The layer around services of any kind: contract, duplicates, detached execution, panics.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use buttress::idempotency::{
    Earlier, EffectContext, Idempotency, IdempotencyLayer, Identity, InFlight, OnPanic, Scope,
};
use buttress::store::{Fingerprint, MemoryStore, OnInterrupted, State};
use buttress::{AsTyped, BoxError, Error, Rejection, RejectionKind};
use futures_util::{FutureExt, poll};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);

fn gate() -> Idempotency<MemoryStore> {
    Idempotency::new("orders", MemoryStore::default(), Scope::global())
}

/// The number is the key.
fn by_number(number: &u64) -> Option<Identity> {
    Some(Identity::new(&Scope::global(), number.to_le_bytes(), Fingerprint::NONE))
}

fn kind(error: &BoxError) -> RejectionKind {
    Rejection::find(&**error).unwrap().kind()
}

#[cfg(feature = "testing")]
mod contract {
    use super::*;
    use buttress::testing::{Property, Subject, TestableLayer, check};
    use std::sync::atomic::AtomicU64;

    /// Each request a key of its own, so that the layer lets it through.
    fn subject() -> Subject<u64, u64, io::Error, impl TestableLayer<u64, u64, io::Error>> {
        let number = AtomicU64::new(0);
        Subject::new(
            || IdempotencyLayer::new(gate(), by_number).on_reject(AsTyped),
            move || number.fetch_add(1, Ordering::Relaxed),
            |n: u64| Ok::<_, io::Error>(n + 1),
        )
        .ready_error(|| io::Error::other("inner broke"))
        .shared_state(|mut one, mut two, probe| async move {
            for service in [&mut one, &mut two] {
                let service = service.ready().await.map_err(|e| format!("{e:?}"))?;
                service.call(u64::MAX - 1).await.map_err(|e| format!("{e:?}"))?;
            }
            match probe.counts().calls {
                1 => Ok(()),
                calls => Err(format!("{calls} calls for two of the same key")),
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn every_property_holds_but_that_a_dropped_call_stops() {
        let subject = subject();
        let mut violations = Vec::new();
        for &property in Property::ALL {
            if let Err(violation) = check(&subject, property).await {
                violations.push(violation.property());
            }
        }
        // That is the whole point: a client that leaves must not leave its effect half done.
        assert_eq!(violations, [Property::FutureDropMidFlightReleases]);
    }
}

#[tokio::test]
async fn a_duplicate_is_answered_from_the_record() {
    let calls = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&calls);
    let service = IdempotencyLayer::new(gate(), by_number).layer(service_fn(move |n: u64| {
        seen.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, io::Error>(n * 2) }
    }));
    for _ in 0..3 {
        assert_eq!(service.clone().oneshot(7).await.unwrap(), 14);
    }
    assert_eq!(service.oneshot(8).await.unwrap(), 16);
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_has_no_identity_passes_each_time() {
    let calls = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&calls);
    let gate = gate();
    let layer = IdempotencyLayer::new(gate.clone(), |_: &u64| None::<Identity>);
    let service = layer.layer(service_fn(move |n: u64| {
        seen.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, io::Error>(n) }
    }));
    for _ in 0..3 {
        service.clone().oneshot(7).await.unwrap();
    }
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    assert!(gate.store().is_empty());
}

#[tokio::test]
async fn the_layer_and_the_gate_share_records() {
    let gate = gate();
    let service = IdempotencyLayer::new(gate.clone(), by_number)
        .layer(service_fn(|n: u64| async move { Ok::<_, io::Error>(n * 2) }));
    assert_eq!(service.oneshot(7).await.unwrap(), 14);
    let ran = gate
        .run(7_u64.to_le_bytes(), Fingerprint::NONE, || async { Err::<u64, _>("must not run") });
    assert_eq!(ran.await.unwrap().value, 14);
}

#[tokio::test]
async fn a_failure_is_recorded_and_told_to_duplicates() {
    let calls = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&calls);
    let service = IdempotencyLayer::new(gate(), by_number).layer(service_fn(move |_: u64| {
        seen.fetch_add(1, Ordering::Relaxed);
        async { Err::<u64, _>(io::Error::other("card declined")) }
    }));
    assert_eq!(service.clone().oneshot(7).await.unwrap_err().to_string(), "card declined");
    let error = service.oneshot(7).await.unwrap_err();
    let why = Rejection::find(&*error).unwrap();
    assert_eq!(why.kind(), RejectionKind::IdempotencyOutcomeUnknown);
    let source = std::error::Error::source(why).unwrap();
    let earlier = source.downcast_ref::<Earlier>().unwrap();
    assert_eq!(*earlier, Earlier::Failed("card declined".to_owned()));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_failure_that_says_it_had_no_effect_leaves_the_key_free() {
    let calls = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&calls);
    let gate = gate();
    let service =
        IdempotencyLayer::new(gate.clone(), by_number).layer(service_fn(move |n: u64| {
            let first = seen.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                let effect = EffectContext::current().unwrap();
                if first {
                    effect.not_applied();
                    return Err(io::Error::other("not now"));
                }
                Ok(n)
            }
        }));
    assert!(service.clone().oneshot(7).await.is_err());
    assert!(gate.store().is_empty());
    assert_eq!(service.oneshot(7).await.unwrap(), 7);
}

#[tokio::test]
async fn another_request_with_the_same_key_is_refused() {
    let identify = |&(key, cents): &(u64, u64)| {
        let print = Fingerprint::of(&cents.to_le_bytes());
        Some(Identity::new(&Scope::global(), key.to_le_bytes(), print))
    };
    let service = IdempotencyLayer::new(gate(), identify)
        .on_reject(AsTyped)
        .layer(service_fn(|(_, cents): (u64, u64)| async move { Ok::<_, io::Error>(cents) }));
    assert_eq!(service.clone().oneshot((7, 10)).await.unwrap(), 10);
    let Err(Error::Rejected(why)) = service.oneshot((7, 99)).await else { panic!() };
    assert_eq!(why.kind(), RejectionKind::IdempotencyMismatch);
}

/// A service whose calls wait until they are let go, and counts of started and finished ones.
fn held(
    go: &Arc<Semaphore>,
    started: &Arc<AtomicU32>,
    finished: &Arc<AtomicU32>,
) -> impl Service<u64, Response = u64, Error = io::Error, Future: Send + 'static> + Clone + Send + 'static
{
    let (go, started, finished) = (Arc::clone(go), Arc::clone(started), Arc::clone(finished));
    service_fn(move |n: u64| {
        let (go, finished) = (Arc::clone(&go), Arc::clone(&finished));
        started.fetch_add(1, Ordering::Relaxed);
        async move {
            go.acquire().await.unwrap().forget();
            finished.fetch_add(1, Ordering::Relaxed);
            Ok(n * 2)
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_does_not_stop_the_call() {
    let go = Arc::new(Semaphore::new(0));
    let (started, finished) = Default::default();
    let layer = IdempotencyLayer::new(gate(), by_number);
    let service = layer.layer(held(&go, &started, &finished));

    let mut first = Box::pin(service.clone().oneshot(7));
    assert!(poll!(&mut first).is_pending());
    drop(first);
    assert_eq!(layer.detached().count(), 1);
    let in_flight = service.clone().oneshot(7).await.unwrap_err();
    assert_eq!(kind(&in_flight), RejectionKind::IdempotencyInFlight);

    go.add_permits(1);
    layer.detached().idle().await;
    assert_eq!(service.oneshot(7).await.unwrap(), 14);
    assert_eq!((started.load(Ordering::Relaxed), finished.load(Ordering::Relaxed)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_before_it_was_polled_claims_nothing() {
    let gate = gate();
    let mut service = IdempotencyLayer::new(gate.clone(), by_number)
        .layer(service_fn(|n: u64| async move { Ok::<_, io::Error>(n) }));
    drop(service.ready().await.unwrap().call(7));
    assert!(gate.store().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_renewed_while_the_call_goes_on_without_its_caller() {
    let go = Arc::new(Semaphore::new(0));
    let (started, finished) = Default::default();
    let gate = Idempotency::builder("orders", MemoryStore::default())
        .scope(Scope::global())
        .lease(SECOND)
        .build()
        .unwrap();
    let layer = IdempotencyLayer::new(gate.clone(), by_number);
    let service = layer.layer(held(&go, &started, &finished));
    let mut first = Box::pin(service.clone().oneshot(7));
    assert!(poll!(&mut first).is_pending());
    drop(first);
    for _ in 0..20 {
        tokio::time::sleep(SECOND).await;
        let error = service.clone().oneshot(7).await.unwrap_err();
        assert_eq!(kind(&error), RejectionKind::IdempotencyInFlight);
    }
    go.add_permits(1);
    layer.detached().idle().await;
    assert_eq!(service.oneshot(7).await.unwrap(), 14);
    assert_eq!(started.load(Ordering::Relaxed), 1);
}

fn waiting(limit: Duration) -> Idempotency<MemoryStore> {
    Idempotency::builder("orders", MemoryStore::default())
        .scope(Scope::global())
        .in_flight(InFlight::Wait(limit))
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn duplicates_that_wait_share_the_answer_or_come_back_later() {
    let go = Arc::new(Semaphore::new(0));
    let (started, finished) = Default::default();
    let service =
        IdempotencyLayer::new(waiting(5 * SECOND), by_number).layer(held(&go, &started, &finished));
    let mut calls: Vec<_> = (0..10).map(|_| Box::pin(service.clone().oneshot(7))).collect();
    for call in &mut calls {
        assert!(poll!(call).is_pending());
    }
    let start = Instant::now();
    let late = service.clone().oneshot(7).await.unwrap_err();
    assert_eq!(kind(&late), RejectionKind::IdempotencyInFlight);
    assert!(start.elapsed() >= 5 * SECOND && start.elapsed() < 6 * SECOND);

    let mut fresh: Vec<_> = (0..10).map(|_| Box::pin(service.clone().oneshot(7))).collect();
    for call in &mut fresh {
        assert!(poll!(call).is_pending());
    }
    go.add_permits(1);
    for call in fresh {
        assert_eq!(call.await.unwrap(), 14);
    }
    assert_eq!(calls.remove(0).await.unwrap(), 14, "the first");
    assert_eq!(started.load(Ordering::Relaxed), 1);
}

/// A duplicate that waits would otherwise keep others out of a service with few places.
#[tokio::test(start_paused = true)]
async fn duplicates_that_wait_hold_no_place_of_the_service() {
    let go = Arc::new(Semaphore::new(0));
    let (started, finished) = Default::default();
    let service = ServiceBuilder::new()
        .layer(IdempotencyLayer::new(waiting(60 * SECOND), by_number))
        .concurrency_limit(2)
        .service(held(&go, &started, &finished));
    let mut calls: Vec<_> = (0..20).map(|_| Box::pin(service.clone().oneshot(7))).collect();
    for call in &mut calls {
        assert!(poll!(call).is_pending());
    }
    tokio::task::yield_now().await;
    let mut other = Box::pin(service.clone().oneshot(8));
    assert!(poll!(&mut other).is_pending());
    tokio::task::yield_now().await;
    assert_eq!(started.load(Ordering::Relaxed), 2, "the second place is free for another key");
    go.add_permits(2);
    assert_eq!(other.await.unwrap(), 16);
    for call in calls {
        assert_eq!(call.await.unwrap(), 14);
    }
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_whose_caller_goes_stops_waiting() {
    let go = Arc::new(Semaphore::new(0));
    let (started, finished) = Default::default();
    let service = IdempotencyLayer::new(waiting(600 * SECOND), by_number)
        .layer(held(&go, &started, &finished));
    let mut first = Box::pin(service.clone().oneshot(7));
    assert!(poll!(&mut first).is_pending());
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut second = Box::pin(service.clone().oneshot(7));
    assert!(poll!(&mut second).is_pending());
    drop(second);
    tokio::time::sleep(3 * SECOND).await;
    let after = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(after, before, "its task is gone");
    go.add_permits(1);
    assert_eq!(first.await.unwrap(), 14);
}

#[tokio::test(start_paused = true)]
async fn a_panic_reaches_the_caller_and_is_recorded() {
    for wait in [false, true] {
        for (policy, runs_again) in [(OnPanic::Interrupt, false), (OnPanic::Abandon, true)] {
            let calls = Arc::new(AtomicU32::new(0));
            let seen = Arc::clone(&calls);
            let gate = Idempotency::builder("orders", MemoryStore::default())
                .scope(Scope::global())
                .on_interrupted(OnInterrupted::Rerun(2))
                .build()
                .unwrap();
            let layer = IdempotencyLayer::new(gate.clone(), by_number).on_panic(policy);
            let service = layer.layer(service_fn(move |n: u64| {
                let first = seen.fetch_add(1, Ordering::Relaxed) == 0;
                async move {
                    if wait {
                        tokio::time::sleep(SECOND).await;
                    }
                    assert!(!first, "boom");
                    Ok::<_, io::Error>(n)
                }
            }));
            let call = service.clone().oneshot(7);
            let panic = std::panic::AssertUnwindSafe(call).catch_unwind().await.unwrap_err();
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"boom"));
            assert_eq!(layer.detached().count(), 0);
            let again = service.oneshot(7).await;
            if runs_again {
                assert_eq!(again.unwrap(), 7);
            } else {
                let error = again.unwrap_err();
                assert_eq!(kind(&error), RejectionKind::IdempotencyOutcomeUnknown);
                let record = gate.record(7_u64.to_le_bytes()).await.unwrap().unwrap();
                assert_eq!(record.state, State::Interrupted);
            }
            assert_eq!(calls.load(Ordering::Relaxed), 1 + u32::from(runs_again));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_call_without_a_caller_is_recorded_too() {
    let go = Arc::new(Notify::new());
    let let_go = Arc::clone(&go);
    let gate = gate();
    let layer = IdempotencyLayer::new(gate.clone(), by_number);
    let service = layer.layer(service_fn(move |_: u64| {
        let go = Arc::clone(&let_go);
        async move {
            go.notified().await;
            panic!("boom");
            #[expect(unreachable_code, reason = "for the type")]
            Ok::<u64, io::Error>(0)
        }
    }));
    let mut call = Box::pin(service.clone().oneshot(7));
    assert!(poll!(&mut call).is_pending());
    drop(call);
    tokio::task::yield_now().await;
    go.notify_one();
    layer.detached().idle().await;
    let error = service.oneshot(7).await.unwrap_err();
    assert_eq!(kind(&error), RejectionKind::IdempotencyOutcomeUnknown);
}

/// Nothing has been called, so nothing can have happened.
#[tokio::test(start_paused = true)]
async fn a_service_that_fails_before_it_is_called_leaves_the_key_free() {
    #[derive(Clone)]
    struct Breaks {
        broken: Arc<std::sync::atomic::AtomicBool>,
        first: Arc<Semaphore>,
    }
    impl Service<u64> for Breaks {
        type Response = u64;
        type Error = io::Error;
        type Future = std::pin::Pin<Box<dyn Future<Output = io::Result<u64>> + Send>>;
        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            let broken = self.broken.load(Ordering::Relaxed);
            std::task::Poll::Ready(if broken { Err(io::Error::other("gone")) } else { Ok(()) })
        }
        fn call(&mut self, n: u64) -> Self::Future {
            let first = Arc::clone(&self.first);
            Box::pin(async move {
                first.acquire().await.unwrap().forget();
                EffectContext::current().unwrap().not_applied();
                Err(io::Error::other(format!("{n} not done")))
            })
        }
    }
    let inner = Breaks { broken: Arc::default(), first: Arc::new(Semaphore::new(0)) };
    let gate = waiting(60 * SECOND);
    let service = IdempotencyLayer::new(gate.clone(), by_number).layer(inner.clone());
    let mut first = Box::pin(service.clone().oneshot(7));
    assert!(poll!(&mut first).is_pending());
    // Gives its ready instance back while it waits, and must make another ready.
    let mut second = Box::pin(service.clone().oneshot(7));
    assert!(poll!(&mut second).is_pending());
    tokio::task::yield_now().await;
    inner.broken.store(true, Ordering::Relaxed);
    inner.first.add_permits(1);
    assert_eq!(first.await.unwrap_err().to_string(), "7 not done");
    assert_eq!(second.await.unwrap_err().to_string(), "gone");
    assert!(gate.store().is_empty(), "claimed by the second, and given back");
}

/// Under `Rerun`, who has lost his lease must stop: somebody else may be running it.
#[tokio::test(start_paused = true)]
async fn a_call_whose_lease_is_lost_is_stopped_if_others_may_run_it() {
    let go = Arc::new(Semaphore::new(0));
    let (started, finished) = Default::default();
    let gate = Idempotency::builder("orders", MemoryStore::default())
        .scope(Scope::global())
        .lease(SECOND)
        .on_interrupted(OnInterrupted::Rerun(2))
        .build()
        .unwrap();
    let service =
        IdempotencyLayer::new(gate.clone(), by_number).layer(held(&go, &started, &finished));
    let mut first = Box::pin(service.clone().oneshot(7));
    assert!(poll!(&mut first).is_pending());
    // The process stands still for longer than the lease, and the second is there before the first wakes.
    assert!(advance(3 * SECOND).now_or_never().is_none());
    let mut second = Box::pin(service.clone().oneshot(7));
    assert!(poll!(&mut second).is_pending());
    assert_eq!(started.load(Ordering::Relaxed), 2);
    let error = first.await.unwrap_err();
    assert_eq!(kind(&error), RejectionKind::IdempotencyOutcomeUnknown);
    go.add_permits(1);
    assert_eq!(second.await.unwrap(), 14);
    assert_eq!(finished.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_need_not_wait_is_not_spawned() {
    let service = IdempotencyLayer::new(gate(), by_number)
        .layer(service_fn(|n: u64| async move { Ok::<_, io::Error>(n) }));
    // No runtime in this thread.
    let answers = std::thread::spawn(move || {
        [7, 7, 8].map(|n| service.clone().oneshot(n).now_or_never().unwrap().unwrap())
    });
    assert_eq!(answers.join().unwrap(), [7, 7, 8]);
}

/// What another layer further in says to its own caller is not taken for what this one says.
#[tokio::test(start_paused = true)]
async fn a_call_goes_on_without_its_caller_whatever_layers_it_calls() {
    static DONE: AtomicU32 = AtomicU32::new(0);
    let go_on = Arc::new(Notify::new());
    let further_in = IdempotencyLayer::new(gate(), by_number)
        .layer(service_fn(|n: u64| async move { Ok::<_, io::Error>(n) }));
    let handler = {
        let go_on = Arc::clone(&go_on);
        service_fn(move |n: u64| {
            let (further_in, go_on) = (further_in.clone(), Arc::clone(&go_on));
            async move {
                // Executed, then passed on from the record, both at once.
                for _ in 0..2 {
                    further_in.clone().oneshot(n).await.unwrap();
                }
                go_on.notified().await;
                DONE.fetch_add(1, Ordering::Relaxed);
                Ok::<_, io::Error>(n)
            }
        })
    };
    let layer = IdempotencyLayer::new(gate(), by_number);
    let mut call = Box::pin(layer.layer(handler).oneshot(7));
    assert!(poll!(&mut call).is_pending());
    drop(call);
    assert_eq!(layer.detached().count(), 1);
    go_on.notify_one();
    layer.detached().idle().await;
    assert_eq!(DONE.load(Ordering::Relaxed), 1, "it stopped with its caller");
}

/// Many that wait until there are none, against calls that end elsewhere: nobody waits for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(clippy::disallowed_methods, reason = "callers on other threads")]
async fn who_waits_for_the_last_call_is_told_of_it() {
    let layer = IdempotencyLayer::new(gate(), by_number);
    let service = layer.layer(service_fn(|n: u64| async move {
        tokio::task::yield_now().await;
        Ok::<_, io::Error>(n)
    }));
    for n in 0..2_000 {
        let call = tokio::spawn(service.clone().oneshot(n));
        let executions = layer.detached();
        let idle = tokio::spawn(async move { executions.idle().await });
        tokio::time::timeout(20 * SECOND, idle).await.expect("it was never told").unwrap();
        assert_eq!(call.await.unwrap().unwrap(), n);
    }
}

/// What the handler logs belongs to the request's span, also after its caller has gone.
#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn a_call_stays_in_the_span_that_it_began_in() {
    use std::sync::Mutex;
    use tracing::Instrument;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let layer = IdempotencyLayer::new(gate(), by_number);
    let service = layer.layer(service_fn(|n: u64| async move {
        tokio::time::sleep(SECOND).await;
        tracing::info!("the money has gone");
        Ok::<_, io::Error>(n)
    }));
    let span = tracing::info_span!("request", id = 4711);
    let mut call = Box::pin(service.oneshot(7).instrument(span));
    assert!(poll!(&mut call).is_pending());
    drop(call);
    layer.detached().idle().await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = log.lines().find(|line| line.contains("the money has gone")).unwrap();
    assert!(line.contains("request{id=4711}"), "{line}");
}

/// A process that stops in the middle of a claim would leave it behind.
#[tokio::test(start_paused = true)]
async fn a_claim_under_way_is_waited_for_too() {
    let gate = waiting(5 * SECOND);
    let held = gate.begin(7_u64.to_le_bytes(), Fingerprint::NONE).await.unwrap();
    let layer = IdempotencyLayer::new(gate, by_number);
    let service = layer.layer(service_fn(|n: u64| async move { Ok::<_, io::Error>(n) }));
    let mut call = Box::pin(service.oneshot(7));
    assert!(poll!(&mut call).is_pending());
    assert_eq!(layer.detached().count(), 1);
    drop(call);
    let start = Instant::now();
    layer.detached().idle().await;
    assert!(
        start.elapsed() <= 2 * SECOND,
        "its caller has gone, so it need not wait for the limit"
    );
    drop(held);
}
