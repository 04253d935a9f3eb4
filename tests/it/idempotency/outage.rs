//! A store that does not answer, answers late, or says no.

use std::cell::Cell;
use std::future::pending;
use std::time::Duration;

use buttress::RejectionKind;
use buttress::idempotency::{
    Begin, Idempotency, IdempotencyBuilder, InFlight, Outage, RunError, Scope, Status,
};
use buttress::store::{Fingerprint, Finish, OnInterrupted, Outcome, State, StoreErrorKind};
use tokio::time::{Instant, sleep};

use super::faulty::{Fault, Faulty, On};

const SECOND: Duration = Duration::from_secs(1);
const A: Fingerprint = Fingerprint::NONE;

fn builder(store: &Faulty) -> IdempotencyBuilder<Faulty> {
    Idempotency::builder("orders", store.clone()).scope(Scope::global())
}

async fn run(gate: &Idempotency<Faulty>) -> (Result<Status, RunError<&'static str>>, u32) {
    let runs = Cell::new(0);
    let ran = gate.run("k", A, || async {
        runs.set(runs.get() + 1);
        Ok(1)
    });
    (ran.await.map(|ran| ran.status), runs.get())
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_not_confirmed_is_not_run() {
    for (kind, expected) in [
        (StoreErrorKind::Unavailable, RejectionKind::StoreUnavailable),
        (StoreErrorKind::Unknown, RejectionKind::StoreUnavailable),
        (StoreErrorKind::Full, RejectionKind::StoreUnavailable),
        (StoreErrorKind::Refused, RejectionKind::StoreUnavailable),
        (StoreErrorKind::Corrupt, RejectionKind::IdempotencyOutcomeUnknown),
    ] {
        let store = Faulty::default();
        store.always(On::Begin, Fault::Error(kind));
        let (ran, runs) = run(&builder(&store).build().unwrap()).await;
        let error = ran.unwrap_err();
        let why = error.rejection().unwrap();
        assert_eq!((why.kind(), runs), (expected, 0));
        let source = std::error::Error::source(why).unwrap().to_string();
        assert!(source.contains("store") || source.contains("record"), "{source}");
    }
}

#[tokio::test(start_paused = true)]
async fn told_to_go_on_it_goes_on_without_the_store_but_not_against_it() {
    for (kind, goes_on) in [
        (StoreErrorKind::Unavailable, true),
        (StoreErrorKind::Unknown, true),
        (StoreErrorKind::Full, false),
        (StoreErrorKind::Corrupt, false),
        (StoreErrorKind::Refused, false),
    ] {
        let store = Faulty::default();
        store.always(On::Begin, Fault::Error(kind));
        let gate = builder(&store).on_outage(Outage::RunUngated).build().unwrap();
        let (ran, runs) = run(&gate).await;
        assert_eq!(ran.ok(), goes_on.then_some(Status::Ungated), "{kind:?}");
        assert_eq!(runs, u32::from(goes_on));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_a_claim_is_asked_for_again() {
    for faults in [
        &[Fault::LostAnswer][..],
        &[Fault::LostAnswer, Fault::LostAnswer],
        &[Fault::HangAfter, Fault::Hang],
        &[Fault::Error(StoreErrorKind::Unknown), Fault::LostAnswer],
        &[Fault::LostAnswer, Fault::Error(StoreErrorKind::Unavailable)],
    ] {
        let store = Faulty::default();
        store.next(On::Begin, faults);
        let gate = builder(&store).build().unwrap();
        assert_eq!(run(&gate).await.1, 1, "{faults:?}");
        let record = gate.record("k").await.unwrap().unwrap();
        assert_eq!(record.runs, 1, "{faults:?}: the same claim, not another one");
        assert_eq!(run(&gate).await.0.unwrap(), Status::Replayed);
    }
}

/// The first one may have been applied, whatever the second says of itself.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_stays_unknown_until_there_is_one() {
    let store = Faulty::default();
    let away = Fault::Error(StoreErrorKind::Unavailable);
    store.next(On::Begin, &[Fault::LostAnswer, away, away]);
    let error = builder(&store).build().unwrap().begin("k", A).await.unwrap_err();
    assert!(error.may_be_applied());

    store.next(On::Begin, &[away, Fault::Fine]);
    let error = builder(&store).build().unwrap().begin("l", A).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_costs_three_timeouts_and_no_more() {
    let store = Faulty::default();
    store.always(On::Begin, Fault::Hang);
    let gate = builder(&store).store_timeout(SECOND / 2).build().unwrap();
    let start = Instant::now();
    let (ran, runs) = run(&gate).await;
    assert_eq!((start.elapsed().as_millis(), runs), (1_500, 0));
    assert_eq!(ran.unwrap_err().rejection().unwrap().kind(), RejectionKind::StoreUnavailable);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_a_completion_is_asked_for_again() {
    for faults in [
        &[Fault::LostAnswer][..],
        &[Fault::HangAfter, Fault::Hang],
        &[Fault::Error(StoreErrorKind::Unavailable), Fault::Error(StoreErrorKind::Unavailable)],
    ] {
        let store = Faulty::default();
        store.next(On::Complete, faults);
        let gate = builder(&store).build().unwrap();
        assert_eq!(run(&gate).await.0.unwrap(), Status::Stored, "{faults:?}");
        assert_eq!(store.asked(On::Complete), faults.len() + 1);
        assert_eq!(run(&gate).await.0.unwrap(), Status::Replayed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_completion_that_cannot_be_confirmed_is_told_as_such_and_not_run_again() {
    let store = Faulty::default();
    store.always(On::Complete, Fault::Error(StoreErrorKind::Unavailable));
    let gate = builder(&store).build().unwrap();
    let (ran, runs) = run(&gate).await;
    assert_eq!((ran.unwrap(), runs), (Status::Unconfirmed, 1));
    let (ran, runs) = run(&gate).await;
    let kind = ran.unwrap_err().rejection().unwrap().kind();
    assert_eq!((kind, runs), (RejectionKind::IdempotencyOutcomeUnknown, 0));

    // By hand, it can be tried again.
    store.next(On::Complete, &[Fault::Error(StoreErrorKind::Refused), Fault::Fine]);
    let Begin::Execute(mut permit) = gate.begin("l", A).await.unwrap() else { panic!() };
    assert!(permit.complete(Outcome::new(0, [], [])).await.is_err());
    assert_eq!(permit.complete(Outcome::new(0, [], [])).await.unwrap(), Finish::Applied);
}

#[tokio::test(start_paused = true)]
async fn under_fail_a_run_goes_on_while_its_lease_cannot_be_renewed() {
    let store = Faulty::default();
    store.always(On::Renew, Fault::Hang);
    let gate = builder(&store).build().unwrap();
    let long = gate.run("k", A, || async {
        sleep(300 * SECOND).await;
        Ok::<_, &str>(1)
    });
    let other = async {
        sleep(200 * SECOND).await;
        gate.begin("k", A).await.unwrap()
    };
    let (ran, other) = tokio::join!(long, other);
    assert!(matches!(other, Begin::Interrupted(_)), "{other:?}");
    assert_eq!(ran.unwrap().status, Status::Stored, "and sets the record right");
    assert_eq!(run(&gate).await.0.unwrap(), Status::Replayed);
}

#[tokio::test(start_paused = true)]
async fn under_rerun_a_run_is_stopped_before_somebody_else_can_have_its_lease() {
    struct Stop<'a>(&'a Cell<bool>);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    for fault in [Fault::Error(StoreErrorKind::Unavailable), Fault::Hang] {
        // As long as a call to a store may take is longer than what is held back of a lease.
        for timeout in [2 * SECOND, 10 * SECOND] {
            let store = Faulty::default();
            store.always(On::Renew, fault);
            let gate = builder(&store)
                .on_interrupted(OnInterrupted::Rerun(9))
                .store_timeout(timeout)
                .build()
                .unwrap();
            let start = Instant::now();
            let stopped = Cell::new(false);
            let ran = gate.run("k", A, || async {
                let _stop = Stop(&stopped);
                pending::<()>().await;
                Ok::<_, &str>(1)
            });
            let kind = ran.await.unwrap_err().rejection().unwrap().kind();
            assert_eq!(kind, RejectionKind::IdempotencyOutcomeUnknown);
            assert!(stopped.get());
            // The lease is 30 s.
            let after = start.elapsed();
            assert!(after > 25 * SECOND && after < 29 * SECOND, "{fault:?} {timeout:?}: {after:?}");
            assert!(store.asked(On::Renew) > 1, "it was asked for more often when it failed");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_now_and_then_does_no_harm() {
    let store = Faulty::default();
    let broken = Fault::Error(StoreErrorKind::Unavailable);
    store.next(On::Renew, &[broken, Fault::Fine, broken, broken, Fault::HangAfter, Fault::Fine]);
    let gate = builder(&store).on_interrupted(OnInterrupted::Rerun(9)).build().unwrap();
    let long = gate.run("k", A, || async {
        sleep(300 * SECOND).await;
        Ok::<_, &str>(1)
    });
    assert_eq!(long.await.unwrap().status, Status::Stored);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_cannot_be_given_back_is_not_run_again() {
    let store = Faulty::default();
    store.next(On::Release, &[Fault::LostAnswer, Fault::Fine]);
    let gate = builder(&store).build().unwrap();
    let Begin::Execute(permit) = gate.begin("k", A).await.unwrap() else { panic!() };
    assert_eq!(permit.fail_before_effect().await.unwrap(), Finish::Already);

    store.always(On::Release, Fault::Error(StoreErrorKind::Unavailable));
    let Begin::Execute(permit) = gate.begin("k", A).await.unwrap() else { panic!() };
    permit.fail_before_effect().await.unwrap_err();
    assert!(matches!(gate.begin("k", A).await.unwrap(), Begin::Interrupted(_)));
}

/// This store does not say when something changes.
#[tokio::test(start_paused = true)]
async fn who_waits_looks_again_from_time_to_time() {
    let store = Faulty::default();
    let gate = builder(&store).in_flight(InFlight::Wait(60 * SECOND)).build().unwrap();
    let first = gate.run("k", A, || async {
        sleep(10 * SECOND).await;
        Ok::<_, &str>(1)
    });
    let start = Instant::now();
    let second = async {
        sleep(SECOND).await;
        (run(&gate).await, start.elapsed())
    };
    let (_, ((ran, runs), after)) = tokio::join!(first, second);
    assert_eq!((ran.unwrap(), runs), (Status::Replayed, 0));
    assert!(after >= 10 * SECOND && after <= 11 * SECOND, "{after:?}");
    let asked = store.asked(On::Begin);
    assert!((10..20).contains(&asked), "{asked} times");
}

#[test]
fn blocking_code_does_not_wait_for_ever_for_a_store_that_hangs() {
    let store = Faulty::default();
    store.always(On::Begin, Fault::Hang);
    let gate = builder(&store).store_timeout(Duration::from_millis(5)).build().unwrap();
    let ran = gate.run_blocking("k", A, || Ok::<_, &str>(1));
    assert_eq!(ran.unwrap_err().rejection().unwrap().kind(), RejectionKind::StoreUnavailable);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_cancelled_ends_with_its_lease() {
    let store = Faulty::default();
    store.next(On::Begin, &[Fault::HangAfter]);
    let gate = builder(&store).on_interrupted(OnInterrupted::Rerun(2)).build().unwrap();
    assert!(tokio::time::timeout(SECOND, gate.begin("k", A)).await.is_err());
    let record = gate.record("k").await.unwrap().unwrap();
    assert_eq!(record.state, State::Pending);
    sleep(30 * SECOND).await;
    assert!(matches!(gate.begin("k", A).await.unwrap(), Begin::Execute(_)));
}

#[cfg(feature = "serde")]
#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_a_claim_of_an_effect_is_asked_for_again() {
    use buttress::idempotency::{EffectClaim, EffectStore};
    let store = Faulty::default();
    store.next(On::Begin, &[Fault::LostAnswer, Fault::LostAnswer]);
    let effects = EffectStore::new(store);
    let claim = effects.claim::<u32>("a", "input").await;
    assert!(matches!(claim, Ok(EffectClaim::Yours(_))), "{claim:?}");
}

/// A store that takes no outcome with bytes in it.
#[tokio::test(start_paused = true)]
async fn what_is_too_large_for_the_store_is_recorded_as_its_number() {
    let store = Faulty::default();
    let gate = Idempotency::new("orders", store.clone(), Scope::global());
    let Begin::Execute(mut permit) = gate.begin("k", A).await.unwrap() else { panic!() };
    store.next(On::Complete, &[Fault::Error(StoreErrorKind::TooLarge)]);
    let finish = permit.complete(Outcome::new(201, [1; 9], [2; 9])).await.unwrap();
    assert_eq!(finish, Finish::Trimmed);
    drop(permit);
    let record = gate.record("k").await.unwrap().unwrap();
    assert_eq!(**record.state.outcome().unwrap(), Outcome::not_retained(201, []));
}
