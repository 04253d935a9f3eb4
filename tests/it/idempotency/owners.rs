//! Owners that go, sleep, or give back what they have claimed.

use std::cell::Cell;
use std::future::pending;
use std::time::Duration;

use buttress::RejectionKind;
use buttress::idempotency::{
    Begin, Earlier, Idempotency, IdempotencyBuilder, IdempotencyLayer, Identity, RunError, Scope,
    Status,
};
use buttress::store::{Fingerprint, Finish, MemoryStore, OnInterrupted, Outcome, Store};
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::{Instant, advance, sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::faulty::{Fault, Faulty, On};

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);
const A: Fingerprint = Fingerprint::from_bytes([1; 32]);

fn builder() -> IdempotencyBuilder<MemoryStore> {
    Idempotency::builder("orders", MemoryStore::default()).scope(Scope::global())
}

fn gate(policy: OnInterrupted) -> Idempotency<MemoryStore> {
    builder().on_interrupted(policy).build().unwrap()
}

/// A lease that ends says that the owner has gone, whatever the retention: not that it may run again.
#[tokio::test(start_paused = true)]
async fn a_retention_shorter_than_the_lease_lets_nothing_run_again() {
    for retention in [5 * SECOND, LEASE] {
        let gate = builder().lease(LEASE).retention(retention).build().unwrap();
        let Begin::Execute(permit) = gate.begin("k", A).await.unwrap() else { panic!() };
        // As by `kill -9`: nobody says anything any more.
        std::mem::forget(permit);
        sleep(LEASE + SECOND).await;
        let next = gate.begin("k", A).await.unwrap();
        assert!(matches!(next, Begin::Interrupted(_)), "{retention:?}: {next:?}");
    }
}

#[cfg(feature = "serde")]
#[tokio::test(start_paused = true)]
async fn an_effect_with_a_retention_shorter_than_its_lease_is_not_claimed_again() {
    use buttress::idempotency::{EffectError, EffectStore};
    let effects = EffectStore::in_memory().retention(60 * SECOND);
    effects.pending("a", "h").await.unwrap();
    sleep(301 * SECOND).await;
    let next = effects.pending("a", "h").await;
    assert!(matches!(next, Err(EffectError::Interrupted)), "{next:?}");
}

/// Nobody runs it again, and an effect that is stopped half-way helps nobody.
#[tokio::test(start_paused = true)]
async fn under_fail_a_run_goes_on_though_its_record_has_gone() {
    let gate = gate(OnInterrupted::Fail);
    let done = Cell::new(false);
    let long = gate.run("k", A, || async {
        sleep(100 * SECOND).await;
        done.set(true);
        Ok::<_, &str>(7)
    });
    let removed = async {
        sleep(SECOND).await;
        let record = gate.record("k").await.unwrap().unwrap();
        gate.store().release(&gate.id("k"), record.attempt).await.unwrap()
    };
    let (ran, finish) = tokio::join!(long, removed);
    assert_eq!(finish, Finish::Applied);
    let ran = ran.unwrap();
    assert_eq!((ran.value, ran.status, done.get()), (7, Status::Unconfirmed, true));
}

/// Somebody ran before, and nobody knows what came of it: that the one who took over did nothing changes nothing.
#[tokio::test(start_paused = true)]
async fn what_took_over_and_did_nothing_leaves_the_key_to_the_one_before() {
    let rerun = gate(OnInterrupted::Rerun(2));
    let strict = Idempotency::builder("orders", rerun.store().clone()).scope(Scope::global());
    let strict = strict.build().unwrap();
    drop(rerun.begin("k", A).await.unwrap());
    let Begin::Execute(permit) = rerun.begin("k", A).await.unwrap() else { panic!() };
    assert_eq!(permit.runs(), 2);
    permit.fail_before_effect().await.unwrap();
    let refused = rerun.run_with("k", A, |effect| async move {
        assert_eq!(effect.runs(), 2, "what was given back is no run");
        effect.not_applied();
        Err::<(), _>("out of stock")
    });
    assert!(matches!(refused.await, Err(RunError::Inner("out of stock"))));
    let next = strict.begin("k", A).await.unwrap();
    assert!(matches!(next, Begin::Interrupted(_)), "{next:?}");
}

/// The process stood still for longer than the lease. What wakes the work may be faster than the timers are, and
/// only the store knows whether somebody has taken over.
#[tokio::test(start_paused = true)]
async fn a_run_that_slept_through_its_lease_goes_on_if_the_store_lets_it() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Meanwhile {
        Nothing,
        TakenOver,
        NoAnswer,
    }
    use Meanwhile::{NoAnswer, Nothing, TakenOver};
    for (policy, meanwhile, goes_on) in [
        (OnInterrupted::Rerun(9), Nothing, true),
        (OnInterrupted::Rerun(9), TakenOver, false),
        (OnInterrupted::Rerun(9), NoAnswer, false),
        (OnInterrupted::Fail, NoAnswer, true),
    ] {
        let store = Faulty::default();
        let gate = Idempotency::builder("orders", store.clone()).scope(Scope::global());
        let gate = gate.on_interrupted(policy).lease(LEASE).build().unwrap();
        let (steps, answered) = (Cell::new(0), Notify::new());
        let mut run = Box::pin(gate.run("k", A, || async {
            steps.set(1);
            answered.notified().await;
            steps.set(2);
            Ok::<_, &str>(7)
        }));
        assert!(run.as_mut().now_or_never().is_none());
        answered.notify_one();
        advance(LEASE + SECOND).await;
        let mut other = None;
        match meanwhile {
            Nothing => {}
            TakenOver => other = Some(gate.begin("k", A).await.unwrap()),
            NoAnswer => store.always(On::Renew, Fault::Hang),
        }
        let since = Instant::now();
        let ran = run.await;
        let told = (steps.get(), ran.is_ok());
        assert_eq!(told, if goes_on { (2, true) } else { (1, false) }, "{policy:?} {meanwhile:?}");
        assert!(since.elapsed() <= 2 * SECOND, "{:?}", since.elapsed());
        if let Some(Begin::Execute(mut permit)) = other {
            assert_eq!(permit.complete(Outcome::new(0, [], [])).await.unwrap(), Finish::Applied);
        } else {
            assert_ne!(meanwhile, TakenOver);
        }
    }
}

/// The first answer was lost, and the second says that it was done before: without its body, all the same.
#[tokio::test(start_paused = true)]
async fn what_was_not_kept_is_told_as_such_also_when_the_answer_was_lost() {
    // For the gate, and for the store alone.
    for (gate_takes, store_takes) in [(10, 1_000), (1_000, 10)] {
        let mut store = Faulty::default();
        store.store = MemoryStore::builder().max_bytes(store_takes).build().unwrap();
        let gate = Idempotency::builder("orders", store.clone()).scope(Scope::global());
        let gate = gate.max_outcome(gate_takes).build().unwrap();
        store.next(On::Complete, &[Fault::LostAnswer]);
        let ran = gate.run("k", A, || async { Ok::<_, &str>("x".repeat(11)) }).await.unwrap();
        assert_eq!(ran.status, Status::NotRetained);
        let again = gate.run("k", A, || async { Ok::<_, &str>(String::new()) }).await;
        assert!(matches!(again, Err(RunError::Earlier(Earlier::NotRetained))), "{again:?}");
        // What was kept is told as such.
        store.next(On::Complete, &[Fault::LostAnswer]);
        let ran = gate.run("l", A, || async { Ok::<_, &str>(String::from("x")) }).await.unwrap();
        assert_eq!(ran.status, Status::Stored);
    }
}

/// Its lease is renewed for as long as it runs, and nobody else could ever do anything about the key.
#[tokio::test(start_paused = true)]
async fn a_run_that_never_ends_is_given_up_when_it_has_taken_as_long_as_it_may() {
    for policy in [OnInterrupted::Fail, OnInterrupted::Rerun(2)] {
        let gate = builder().on_interrupted(policy).max_run(100 * SECOND).build().unwrap();
        let start = Instant::now();
        let hangs = timeout(1_000 * SECOND, gate.run("k", A, pending::<Result<u8, &str>>));
        let other = async {
            sleep(99 * SECOND).await;
            gate.begin("k", A).await.unwrap()
        };
        let (ran, other) = tokio::join!(hangs, other);
        assert!(matches!(other, Begin::InFlight { .. }), "{policy:?}: {other:?}");
        let kind = ran.unwrap().unwrap_err().rejection().unwrap().kind();
        assert_eq!(kind, RejectionKind::IdempotencyOutcomeUnknown);
        assert_eq!(start.elapsed().as_secs(), 100);
        match gate.begin("k", A).await.unwrap() {
            Begin::Interrupted(_) => assert_eq!(policy, OnInterrupted::Fail),
            Begin::Execute(permit) => assert_eq!(permit.runs(), 2),
            other => panic!("{policy:?}: {other:?}"),
        }
    }
}

/// Also where nobody renews the lease any more.
#[tokio::test(start_paused = true)]
async fn a_run_whose_record_has_gone_is_given_up_in_time_too() {
    let gate = builder().max_run(100 * SECOND).build().unwrap();
    let start = Instant::now();
    let hangs = timeout(1_000 * SECOND, gate.run("k", A, pending::<Result<u8, &str>>));
    let removed = async {
        sleep(SECOND).await;
        let record = gate.record("k").await.unwrap().unwrap();
        gate.store().release(&gate.id("k"), record.attempt).await.unwrap()
    };
    let (ran, _) = tokio::join!(hangs, removed);
    assert!(ran.unwrap().is_err());
    assert_eq!(start.elapsed().as_secs(), 100);
}

tokio::task_local! {
    static USER: u8;
}

/// The call begins in the caller's task, and goes on in one of its own.
#[tokio::test(start_paused = true)]
async fn task_locals_of_the_caller_are_there_until_the_handler_waits() {
    let gate = gate(OnInterrupted::Fail);
    let once = IdempotencyLayer::new(gate, |order: &u64| {
        Some(Identity::new(&Scope::global(), order.to_le_bytes(), A))
    });
    let mut service = once.layer(service_fn(async |_: u64| {
        let before = USER.try_with(|user| *user).ok();
        sleep(SECOND).await;
        Ok::<_, std::io::Error>(format!("{before:?}, {:?}", USER.try_with(|user| *user).ok()))
    }));
    let call = USER.scope(7, async { service.ready().await?.call(1).await });
    assert_eq!(call.await.unwrap(), "Some(7), None");
}
