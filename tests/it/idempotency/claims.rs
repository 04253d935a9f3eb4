//! Claims that nobody waits for any more, leases while the record is being made, and how many claims a scope may
//! hold.

use std::future::pending;
use std::time::Duration;

use buttress::RejectionKind;
use buttress::idempotency::{
    Begin, Idempotency, IdempotencyBuilder, InFlight, RunError, Scope, Status,
};
use buttress::store::{
    Fingerprint, Finish, MemoryStore, OnInterrupted, Outcome, State, Store, StoreErrorKind,
};
use tokio::time::{sleep, timeout};

use super::faulty::{Fault, Faulty, On};

const SECOND: Duration = Duration::from_secs(1);
const A: Fingerprint = Fingerprint::from_bytes([1; 32]);
const B: Fingerprint = Fingerprint::from_bytes([2; 32]);

fn builder<S: Store + Clone>(store: &S) -> IdempotencyBuilder<S> {
    Idempotency::builder("orders", store.clone()).scope(Scope::global())
}

fn outcome() -> Outcome {
    Outcome::new(200, [], *b"done")
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_caller_has_gone_is_taken_back() {
    for run in [false, true] {
        let store = Faulty::default();
        let gate = builder(&store).build().unwrap();
        store.next(On::Begin, &[Fault::HangAfter]);
        if run {
            let run = gate.run("k", A, || async { Ok::<_, &str>(1) });
            assert!(timeout(SECOND / 10, run).await.is_err());
        } else {
            assert!(timeout(SECOND / 10, gate.begin("k", A)).await.is_err());
        }
        sleep(SECOND).await;
        // As if it had never been claimed: for another payload, too.
        let next = gate.begin("k", B).await.unwrap();
        assert!(matches!(next, Begin::Execute(_)), "{next:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_never_came_is_taken_back() {
    let store = Faulty::default();
    let gate = builder(&store).build().unwrap();
    store.next(On::Begin, &[Fault::LostAnswer; 3]);
    assert!(gate.begin("k", A).await.is_err());
    sleep(SECOND).await;
    let next = gate.begin("k", A).await.unwrap();
    assert!(matches!(next, Begin::Execute(_)), "{next:?}");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_surely_not_made_is_not_looked_for() {
    let store = Faulty::default();
    let gate = builder(&store).build().unwrap();
    store.next(On::Begin, &[Fault::Error(StoreErrorKind::Unavailable)]);
    assert!(gate.begin("k", A).await.is_err());
    sleep(400 * SECOND).await;
    assert_eq!(store.asked(On::Release), 0);
}

/// It hangs in its commit, or in the buffer of a connection that died, while the store answers everybody else: who
/// takes it back finds nothing, and is told so at once.
#[tokio::test(start_paused = true)]
async fn a_claim_that_comes_late_to_a_store_that_answers_is_taken_back() {
    for late in [2 * SECOND, 20 * SECOND, 120 * SECOND] {
        let store = Faulty::default();
        let gate = builder(&store).build().unwrap();
        store.next(On::Begin, &[Fault::Late(late)]);
        assert!(timeout(SECOND / 10, gate.begin("k", A)).await.is_err());
        sleep(late + (late / 4).max(10 * SECOND)).await;
        assert!(gate.record("k").await.unwrap().is_none(), "{late:?}");
        let next = gate.begin("k", A).await.unwrap();
        assert!(matches!(next, Begin::Execute(_)), "{late:?}: {next:?}");
    }
}

/// Many are dropped on a busy server, and most of those that are not found never come.
#[tokio::test(start_paused = true)]
async fn a_claim_that_never_comes_is_looked_for_seldom_and_not_for_ever() {
    let store = Faulty::default();
    let gate = builder(&store).build().unwrap();
    store.next(On::Begin, &[Fault::Hang]);
    assert!(timeout(SECOND / 10, gate.begin("k", A)).await.is_err());
    sleep(400 * SECOND).await;
    let looks = store.asked(On::Release);
    assert!((10..=20).contains(&looks), "{looks}");
    sleep(4_000 * SECOND).await;
    assert_eq!(store.asked(On::Release), looks);
}

/// The store takes the claim up while it does not answer, and goes on not answering whoever takes it back: to ask
/// three times is soon over, and the key would be one that nobody executes and everybody is told to be unknown.
#[tokio::test(start_paused = true)]
async fn a_claim_is_taken_back_however_long_the_store_stalls() {
    for stall in [10 * SECOND, 20 * SECOND, 120 * SECOND] {
        let store = Faulty::default();
        let gate = builder(&store).build().unwrap();
        store.next(On::Begin, &[Fault::HangAfter; 3]);
        store.stalls_for(stall);
        assert!(gate.begin("k", A).await.is_err());
        sleep(stall + 15 * SECOND).await;
        let next = gate.begin("k", A).await.unwrap();
        assert!(matches!(next, Begin::Execute(_)), "{stall:?}: {next:?}");
    }
}

/// What was sent again may be executed after the first of them has been taken back.
#[tokio::test(start_paused = true)]
async fn a_claim_that_was_sent_again_is_taken_back_each_time_it_comes() {
    let store = Faulty::default();
    let gate = builder(&store).store_timeout(2 * SECOND).build().unwrap();
    let late = |millis| Fault::Late(Duration::from_millis(millis));
    // Sent at 0, 2 and 4 s and given up at 6 s.
    store.next(On::Begin, &[Fault::HangAfter, late(4_050), late(2_300)]);
    assert!(gate.begin("k", A).await.is_err());
    sleep(2 * SECOND).await;
    let next = gate.begin("k", A).await.unwrap();
    assert!(matches!(next, Begin::Execute(_)), "{next:?}");
    // All three have come: there is nothing to look for any more.
    sleep(400 * SECOND).await;
    assert_eq!(store.asked(On::Release), 3);
}

/// Each of those that a stall leaves behind, and that never come, was looked for for minutes, and had one of all the
/// places there are: whoever hung up after it was not taken back at all.
#[tokio::test(start_paused = true)]
async fn who_hangs_up_after_a_stall_is_taken_back() {
    let store = Faulty::default();
    let gate = builder(&store).build().unwrap();
    store.next(On::Begin, &[Fault::Hang; 10_001]);
    let all = (0..10_001).map(|n| timeout(SECOND, gate.begin(n.to_string(), A)));
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_err));
    sleep(10 * SECOND).await;
    store.next(On::Begin, &[Fault::HangAfter]);
    assert!(timeout(SECOND / 10, gate.begin("k", A)).await.is_err());
    sleep(SECOND).await;
    assert!(gate.record("k").await.unwrap().is_none());
    // So many at a time, and the oldest have made room.
    let before = store.asked(On::Release);
    sleep(80 * SECOND).await;
    let looks = store.asked(On::Release) - before;
    assert!((20_000..60_000).contains(&looks), "{looks}");
    sleep(400 * SECOND).await;
    let before = store.asked(On::Release);
    sleep(400 * SECOND).await;
    assert_eq!(store.asked(On::Release), before);
}

#[tokio::test(start_paused = true)]
async fn the_first_look_does_not_wait_for_those_who_have_looked_often() {
    let store = Faulty::default();
    let gate = builder(&store).store_timeout(2 * SECOND).build().unwrap();
    store.next(On::Begin, &[Fault::Hang; 100]);
    let all = (0..100).map(|n| timeout(SECOND, gate.begin(n.to_string(), A)));
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_err));
    sleep(8 * SECOND).await;
    assert_eq!(store.asked(On::Release), 300 + 100);
    store.always(On::Release, Fault::Hang);
    sleep(15 * SECOND).await;
    // Four at a time ask a store that does not answer them.
    let before = store.asked(On::Release);
    sleep(4 * SECOND).await;
    let asked = store.asked(On::Release) - before;
    assert!((4..=12).contains(&asked), "{asked}");
    store.next(On::Begin, &[Fault::HangAfter]);
    store.next(On::Release, &[Fault::Fine]);
    assert!(timeout(SECOND / 10, gate.begin("k", A)).await.is_err());
    sleep(SECOND / 100).await;
    assert!(gate.record("k").await.unwrap().is_none());
}

/// Duplicates that nobody waits for claim nothing: were they looked for for minutes, a few in a second would take up all
/// that can be looked for.
#[tokio::test(start_paused = true)]
async fn nothing_is_looked_for_that_would_find_the_record_decided() {
    let store = Faulty::default();
    let gate = builder(&store).build().unwrap();
    let Begin::Execute(mut permit) = gate.begin("k", A).await.unwrap() else { panic!() };
    store.next(On::Begin, &[Fault::HangAfter]);
    assert!(timeout(SECOND / 10, gate.begin("k", A)).await.is_err());
    sleep(5 * SECOND).await;
    // While it is being executed nobody knows: it may yet be released.
    let looks = store.asked(On::Release);
    assert!(looks > 1, "{looks}");
    permit.complete(outcome()).await.unwrap();
    sleep(10 * SECOND).await;
    let looks = store.asked(On::Release);
    sleep(400 * SECOND).await;
    assert_eq!(store.asked(On::Release), looks);
    // What is forgotten sooner than it may come does not hold it off.
    let gate = builder(&store).retention(100 * SECOND).build().unwrap();
    let Begin::Execute(mut permit) = gate.begin("l", A).await.unwrap() else { panic!() };
    permit.complete(outcome()).await.unwrap();
    store.next(On::Begin, &[Fault::Late(120 * SECOND)]);
    assert!(timeout(SECOND / 10, gate.begin("l", A)).await.is_err());
    sleep(160 * SECOND).await;
    assert!(gate.record("l").await.unwrap().is_none());
}

/// They must not keep the store from its other work, nor be forgotten.
#[tokio::test(start_paused = true)]
async fn thousands_of_claims_are_taken_back_a_few_at_a_time() {
    let store = Faulty::default();
    let gate = builder(&store).store_timeout(2 * SECOND).build().unwrap();
    store.next(On::Begin, &[Fault::HangAfter; 2_000]);
    store.stalls_for(2 * SECOND);
    let all = (0..2_000).map(|n| timeout(SECOND, gate.begin(n.to_string(), A)));
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_err));
    sleep(SECOND / 2).await;
    assert_eq!(store.asked(On::Release), 16);
    sleep(20 * SECOND).await;
    assert!(store.store.is_empty(), "{} are still taken", store.store.len());
}

/// Nor wait for their turn when nobody looks for them any more: behind a store that never answers that was for as long as
/// there are thousands of them.
#[tokio::test(start_paused = true)]
async fn a_claim_whose_turn_has_not_come_in_time_is_looked_for_no_more() {
    let store = Faulty::default();
    let gate = builder(&store).store_timeout(10 * SECOND).build().unwrap();
    store.next(On::Begin, &[Fault::Hang; 2_000]);
    store.always(On::Release, Fault::Hang);
    let all = (0..2_000).map(|n| timeout(SECOND, gate.begin(n.to_string(), A)));
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_err));
    sleep(320 * SECOND).await;
    let looks = store.asked(On::Release);
    assert!((400..=500).contains(&looks), "sixteen every ten seconds: {looks}");
    sleep(400 * SECOND).await;
    assert_eq!(store.asked(On::Release), looks);
}

/// What somebody before may have done must not be forgotten with the claim.
#[tokio::test(start_paused = true)]
async fn a_claim_that_took_over_is_given_up_and_not_taken_back() {
    let store = Faulty::default();
    let gate = builder(&store).on_interrupted(OnInterrupted::Probe).build().unwrap();
    drop(gate.begin("k", A).await.unwrap());
    store.next(On::Begin, &[Fault::HangAfter]);
    assert!(timeout(SECOND / 10, gate.begin("k", A)).await.is_err());
    sleep(SECOND).await;
    let record = gate.record("k").await.unwrap().unwrap();
    assert_eq!((record.runs, record.state), (1, State::Pending));
    assert!(record.lease_left.is_zero());
    assert!(matches!(gate.begin("k", A).await.unwrap(), Begin::Probe(_)));
}

/// A claim that somebody else has made meanwhile is left alone.
#[tokio::test(start_paused = true)]
async fn only_the_claim_of_the_caller_is_taken_back() {
    let store = Faulty::default();
    let gate = builder(&store).build().unwrap();
    let Begin::Execute(mut permit) = gate.begin("k", A).await.unwrap() else { panic!() };
    store.next(On::Begin, &[Fault::HangAfter]);
    assert!(timeout(SECOND / 10, gate.begin("k", A)).await.is_err());
    sleep(SECOND).await;
    let theirs = gate.record("k").await.unwrap().unwrap();
    assert_eq!((theirs.generation, theirs.runs), (permit.generation(), 1));
    assert!(!theirs.lease_left.is_zero());
    assert_eq!(permit.complete(outcome()).await.unwrap(), Finish::Applied);
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_kept_while_the_store_is_slow_to_take_the_outcome() {
    for policy in [OnInterrupted::Fail, OnInterrupted::Rerun(9)] {
        let store = Faulty::default();
        let gate = builder(&store).lease(3 * SECOND).store_timeout(3 * SECOND);
        let gate = gate.on_interrupted(policy).build().unwrap();
        let Begin::Execute(mut permit) = gate.begin("k", A).await.unwrap() else { panic!() };
        store.next(On::Complete, &[Fault::Hang, Fault::Hang]);
        let others = async {
            for _ in 0..11 {
                sleep(SECOND / 2).await;
                let met = gate.begin("k", A).await.unwrap();
                assert!(matches!(met, Begin::InFlight { .. }), "{policy:?}: {met:?}");
            }
        };
        let (finish, ()) = tokio::join!(permit.complete(outcome()), others);
        assert_eq!(finish.unwrap(), Finish::Applied);
        let renewed = store.asked(On::Renew);
        assert!((4..=10).contains(&renewed), "{renewed}");
        sleep(10 * SECOND).await;
        assert_eq!(store.asked(On::Renew), renewed, "not for longer than that");
        assert!(matches!(gate.begin("k", A).await.unwrap(), Begin::Replay(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_scope_holds_no_more_claims_than_it_may() {
    let store = MemoryStore::default();
    let gate = builder(&store).max_pending_per_scope(2).build().unwrap();
    let (ours, theirs) = (gate.in_scope(Scope::tenant("a")), gate.in_scope(Scope::tenant("b")));
    let begin =
        async |gate: &Idempotency<MemoryStore>, key: &str| gate.begin(key, A).await.unwrap();
    let Begin::Execute(mut first) = begin(&ours, "1").await else { panic!() };
    let Begin::Execute(second) = begin(&ours, "2").await else { panic!() };
    let Begin::Overloaded { retry_after } = begin(&ours, "3").await else { panic!() };
    assert_eq!(retry_after, SECOND);
    assert!(ours.record("3").await.unwrap().is_none());
    // Another tenant, and a clone.
    assert!(matches!(begin(&theirs, "3").await, Begin::Execute(_)));
    assert!(matches!(begin(&ours.clone(), "3").await, Begin::Overloaded { .. }));
    // What needs no claim is answered.
    assert!(matches!(begin(&ours, "1").await, Begin::InFlight { .. }));
    assert!(matches!(ours.begin("1", B).await.unwrap(), Begin::Mismatch));
    first.complete(outcome()).await.unwrap();
    assert!(matches!(begin(&ours, "1").await, Begin::Replay(_)));
    assert!(
        matches!(begin(&ours, "3").await, Begin::Overloaded { .. }),
        "the permit is still held"
    );
    drop(first);
    let Begin::Execute(third) = begin(&ours, "3").await else { panic!() };
    assert!(matches!(begin(&ours, "4").await, Begin::Overloaded { .. }));
    // However it ends.
    third.fail_before_effect().await.unwrap();
    let Begin::Execute(fourth) = begin(&ours, "4").await else { panic!() };
    fourth.interrupt().await.unwrap();
    drop(second);
    for key in ["5", "6"] {
        let Begin::Execute(permit) = begin(&ours, key).await else { panic!() };
        permit.settled();
    }
}

#[tokio::test(start_paused = true)]
async fn over_the_limit_a_run_is_refused_and_a_duplicate_still_waits() {
    let store = MemoryStore::default();
    let gate = builder(&store).max_pending_per_scope(1).in_flight(InFlight::Wait(10 * SECOND));
    let gate = gate.build().unwrap();
    let slow = || async {
        sleep(SECOND).await;
        Ok::<_, &str>(7)
    };
    let (first, (duplicate, other)) = tokio::join!(gate.run("k", A, slow), async {
        sleep(SECOND / 10).await;
        tokio::join!(gate.run("k", A, slow), gate.run("l", A, slow))
    });
    assert_eq!(first.unwrap().status, Status::Stored);
    assert_eq!(duplicate.unwrap().status, Status::Replayed);
    let Err(RunError::Rejected(why)) = other else { panic!("{other:?}") };
    assert_eq!((why.kind(), why.retry_after()), (RejectionKind::Overloaded, Some(SECOND)));
    assert_eq!(gate.run("l", A, slow).await.unwrap().status, Status::Stored);
}

/// Neither a claim that was not made nor one that nobody waits for keeps its place.
#[tokio::test(start_paused = true)]
async fn a_place_is_given_back_whatever_becomes_of_the_claim() {
    let store = Faulty::default();
    let gate = builder(&store).max_pending_per_scope(1).build().unwrap();
    store.next(On::Begin, &[Fault::Error(StoreErrorKind::Full)]);
    assert!(gate.begin("k", A).await.is_err());
    store.next(On::Begin, &[Fault::Hang]);
    assert!(timeout(SECOND / 10, gate.begin("k", A)).await.is_err());
    let run = gate.run("k", A, || async { pending::<Result<u8, &str>>().await });
    assert!(timeout(SECOND / 10, run).await.is_err());
    assert!(matches!(gate.begin("l", A).await.unwrap(), Begin::Execute(_)));
}

#[test]
fn a_limit_of_none_is_refused() {
    let error = builder(&MemoryStore::default()).max_pending_per_scope(0).build().unwrap_err();
    assert_eq!(error.to_string(), "invalid max_pending_per_scope: 0, expected at least 1 claim");
}

/// As the gate's.
#[cfg(feature = "serde")]
#[tokio::test(start_paused = true)]
async fn a_claim_of_an_effect_that_nobody_waits_for_is_taken_back() {
    use buttress::idempotency::{EffectClaim, EffectStore};
    for faults in [&[Fault::HangAfter][..], &[Fault::LostAnswer; 3]] {
        let store = Faulty::default();
        let effects = EffectStore::new(store.clone());
        store.next(On::Begin, faults);
        let claim = timeout(SECOND / 10, effects.claim::<u8>("a", "input")).await;
        assert!(!matches!(claim, Ok(Ok(_))), "{claim:?}");
        sleep(SECOND).await;
        let next = effects.claim::<u8>("a", "another input").await;
        assert!(matches!(next, Ok(EffectClaim::Yours(_))), "{faults:?}: {next:?}");
    }
}
