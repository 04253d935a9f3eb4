//! One caller at a time.

use std::cell::Cell;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::idempotency::{
    Begin, Earlier, Idempotency, IdempotencyBuilder, InFlight, Probed, RunError, Scope, Status,
};
use buttress::observe::Event;
use buttress::store::{Fingerprint, Finish, MemoryStore, OnInterrupted, Outcome, Renewed, State};
use buttress::{Rejection, RejectionKind};
use futures_util::FutureExt;
use tokio::time::{Instant, advance, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);
const A: Fingerprint = Fingerprint::from_bytes([1; 32]);
const B: Fingerprint = Fingerprint::from_bytes([2; 32]);

fn builder() -> IdempotencyBuilder<MemoryStore> {
    Idempotency::builder("orders", MemoryStore::default()).scope(Scope::global())
}

fn gate(policy: OnInterrupted) -> Idempotency<MemoryStore> {
    builder().on_interrupted(policy).build().unwrap()
}

fn kind<E>(error: &RunError<E>) -> Option<RejectionKind> {
    error.rejection().map(Rejection::kind)
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_gets_what_the_first_got_and_nothing_runs_twice() {
    let gate = gate(OnInterrupted::Fail);
    let runs = Cell::new(0);
    for expected in [Status::Stored, Status::Replayed, Status::Replayed] {
        let ran = gate
            .run("k", A, || async {
                runs.set(runs.get() + 1);
                Ok::<_, &str>(runs.get())
            })
            .await
            .unwrap();
        assert_eq!((ran.value, ran.status), (1, expected));
    }
}

#[tokio::test(start_paused = true)]
async fn when_its_retention_is_over_it_runs_again() {
    let gate = builder().retention(5 * SECOND).build().unwrap();
    let run = || gate.run("k", A, || async { Ok::<_, &str>(()) });
    assert_eq!(run().await.unwrap().status, Status::Stored);
    advance(5 * SECOND - Duration::from_millis(1)).await;
    assert_eq!(run().await.unwrap().status, Status::Replayed);
    advance(Duration::from_millis(1)).await;
    assert_eq!(run().await.unwrap().status, Status::Stored);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_recorded_unless_it_says_that_nothing_happened() {
    let gate = gate(OnInterrupted::Rerun(9));
    let first = gate.run("k", A, || async { Err::<u8, _>("declined") }).await;
    assert!(matches!(first, Err(RunError::Inner("declined"))));
    let second = gate.run("k", A, || async { Ok::<u8, &str>(1) }).await;
    let Err(RunError::Earlier(Earlier::Failed(text))) = second else { panic!("{second:?}") };
    assert_eq!(text, "declined");

    for runs in 0..3 {
        let not_yet = gate.run_with("l", A, |effect| async move {
            assert_eq!(effect.runs(), 1, "after {runs} released ones");
            effect.not_applied();
            Err::<u8, _>("not yet")
        });
        assert!(matches!(not_yet.await, Err(RunError::Inner("not yet"))));
    }
    // Said by a run that then works after all, it counts for nothing.
    let works = gate.run_with("l", A, |effect| async move {
        effect.not_applied();
        Ok::<_, &str>(1)
    });
    assert_eq!(works.await.unwrap().status, Status::Stored);
}

#[tokio::test(start_paused = true)]
async fn a_mistake_is_told_before_anything_else() {
    let gate = gate(OnInterrupted::Rerun(9));
    let mistake = || async {
        let direct = gate.begin("k", B).await.unwrap();
        assert!(matches!(direct, Begin::Mismatch), "{direct:?}");
        let run = gate.run("k", B, || async { Ok::<_, &str>(()) }).await.unwrap_err();
        assert_eq!(kind(&run), Some(RejectionKind::IdempotencyMismatch));
    };
    let Begin::Execute(mut permit) = gate.begin("k", A).await.unwrap() else { panic!() };
    mistake().await;
    advance(LEASE).await;
    mistake().await;
    permit.complete(Outcome::new(0, [], [])).await.unwrap();
    mistake().await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_permit_leaves_the_key_to_the_policy_at_once() {
    let failing = gate(OnInterrupted::Fail);
    drop(failing.begin("k", A).await.unwrap());
    for _ in 0..2 {
        let begun = failing.begin("k", A).await.unwrap();
        assert!(matches!(&begun, Begin::Interrupted(r) if r.runs == 1), "{begun:?}");
    }
    let run = failing.run("k", A, || async { Ok::<_, &str>(()) }).await.unwrap_err();
    assert_eq!(kind(&run), Some(RejectionKind::IdempotencyOutcomeUnknown));

    let again = gate(OnInterrupted::Rerun(3));
    let mut last = 0;
    for runs in 1..=3 {
        let Begin::Execute(permit) = again.begin("k", A).await.unwrap() else { panic!() };
        assert_eq!(permit.runs(), runs);
        assert!(permit.generation() > last);
        last = permit.generation();
    }
    assert!(matches!(again.begin("k", A).await.unwrap(), Begin::Interrupted(_)));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_run_and_a_panic_are_like_a_dropped_permit() {
    let gate = gate(OnInterrupted::Rerun(9));
    let unfinished = gate.run("k", A, || async {
        pending::<()>().await;
        Ok::<_, &str>(0)
    });
    assert!(timeout(100 * SECOND, unfinished).await.is_err());

    let panics = gate.run("k", A, || async {
        if true {
            panic!("in the effect");
        }
        Ok::<_, &str>(0)
    });
    assert!(AssertUnwindSafe(panics).catch_unwind().await.is_err());
    let panics = gate
        .run("k", A, || -> std::future::Ready<Result<u8, &str>> { panic!("before the effect") });
    assert!(AssertUnwindSafe(panics).catch_unwind().await.is_err());
    let panics = catch_unwind(AssertUnwindSafe(|| {
        gate.run_blocking("k", A, || -> Result<u8, &str> { panic!("in the blocking effect") })
    }));
    assert!(panics.is_err());

    let ran = gate.run_with("k", A, |effect| async move { Ok::<_, &str>(effect.runs()) }).await;
    assert_eq!(ran.unwrap().value, 5, "each of them was noticed at once");
}

#[tokio::test(start_paused = true)]
async fn under_fail_an_owner_who_comes_back_sets_the_record_right() {
    let gate = gate(OnInterrupted::Fail);
    let Begin::Execute(mut permit) = gate.begin("k", A).await.unwrap() else { panic!() };
    assert!(permit.lease_left() > 27 * SECOND);
    advance(LEASE).await;
    assert!(permit.lease_left().is_zero());
    assert!(matches!(gate.begin("k", A).await.unwrap(), Begin::Interrupted(_)));
    assert_eq!(permit.renew().await.unwrap(), Renewed::Interrupted);
    assert_eq!(permit.complete(Outcome::new(7, [], [])).await.unwrap(), Finish::Applied);
    assert!(matches!(gate.begin("k", A).await.unwrap(), Begin::Replay(_)));
}

#[tokio::test(start_paused = true)]
async fn under_rerun_an_owner_who_comes_back_is_fenced_off() {
    let gate = gate(OnInterrupted::Rerun(9));
    let Begin::Execute(mut zombie) = gate.begin("k", A).await.unwrap() else { panic!() };
    advance(LEASE).await;
    let Begin::Execute(mut owner) = gate.begin("k", A).await.unwrap() else { panic!() };
    assert_eq!(zombie.renew().await.unwrap(), Renewed::Fenced);
    assert_eq!(zombie.complete(Outcome::new(1, [], [])).await.unwrap(), Finish::Fenced);
    drop(zombie);
    assert!(matches!(gate.begin("k", A).await.unwrap(), Begin::InFlight { .. }));
    assert_eq!(owner.complete(Outcome::new(2, [], [])).await.unwrap(), Finish::Applied);
    let record = gate.record("k").await.unwrap().unwrap();
    assert_eq!(record.state.outcome().unwrap().status(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_long_run_keeps_its_lease() {
    for policy in [OnInterrupted::Fail, OnInterrupted::Rerun(9)] {
        let gate = gate(policy);
        let long = gate.run("k", A, || async {
            sleep(20 * LEASE).await;
            Ok::<_, &str>(1)
        });
        let others = async {
            for _ in 0..19 {
                sleep(LEASE).await;
                let begun = gate.begin("k", A).await.unwrap();
                assert!(matches!(begun, Begin::InFlight { .. }), "{begun:?}");
            }
        };
        let (ran, ()) = tokio::join!(long, others);
        assert_eq!(ran.unwrap().status, Status::Stored);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_is_kept_for_its_retention_from_its_completion() {
    let gate = builder().retention(5 * SECOND).build().unwrap();
    let long = gate.run("k", A, || async {
        sleep(100 * SECOND).await;
        Ok::<_, &str>(1)
    });
    assert_eq!(long.await.unwrap().status, Status::Stored);
    advance(4 * SECOND).await;
    assert!(gate.record("k").await.unwrap().is_some());
    advance(SECOND).await;
    assert!(gate.record("k").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_probe_finds_out_and_everybody_else_waits() {
    let probing = || gate(OnInterrupted::Probe);
    let run = |gate: &Idempotency<MemoryStore>, found: Probed<u8>| {
        let gate = gate.clone();
        async move {
            gate.run_or_probe(
                "k",
                A,
                |effect| async move {
                    assert_eq!(effect.runs(), 2);
                    found
                },
                |_| async { Ok::<u8, &str>(9) },
            )
            .await
        }
    };

    let gate = probing();
    let first =
        gate.run_or_probe("k", A, |_| pending::<Probed<u8>>(), |_| async { Ok::<_, &str>(1) });
    assert_eq!(first.await.unwrap().status, Status::Stored, "nobody was before: no probe");

    let gate = probing();
    drop(gate.begin("k", A).await.unwrap());
    let ran = run(&gate, Probed::Applied(5)).await.unwrap();
    assert_eq!((ran.value, ran.status), (5, Status::Replayed));
    assert_eq!(run(&gate, Probed::Unknown).await.unwrap().value, 5);

    let gate = probing();
    drop(gate.begin("k", A).await.unwrap());
    let ran = run(&gate, Probed::NotApplied).await.unwrap();
    assert_eq!((ran.value, ran.status), (9, Status::Stored));

    let gate = probing();
    drop(gate.begin("k", A).await.unwrap());
    for found in [Probed::Unknown, Probed::Applied(5)] {
        let error = run(&gate, found).await.unwrap_err();
        assert_eq!(kind(&error), Some(RejectionKind::IdempotencyOutcomeUnknown));
    }

    // While one probes, and for longer than a lease.
    let gate = probing();
    drop(gate.begin("k", A).await.unwrap());
    let slow = gate.run_or_probe(
        "k",
        A,
        |_| async {
            sleep(3 * LEASE).await;
            Probed::Applied(1_u8)
        },
        |_| async { Ok::<_, &str>(2) },
    );
    let other = async {
        sleep(2 * LEASE).await;
        gate.begin("k", A).await.unwrap()
    };
    let (ran, begun) = tokio::join!(slow, other);
    assert_eq!(ran.unwrap().value, 1);
    assert!(matches!(begun, Begin::InFlight { .. }), "{begun:?}");

    // Who cannot find out does as under `Fail`, so that the owner can still set it right.
    let gate = probing();
    let Begin::Execute(mut late) = gate.begin("k", A).await.unwrap() else { panic!() };
    advance(LEASE).await;
    let error = gate.run("k", A, || async { Ok::<_, &str>(()) }).await.unwrap_err();
    assert_eq!(kind(&error), Some(RejectionKind::IdempotencyOutcomeUnknown));
    assert_eq!(late.complete(Outcome::new(0, [], [])).await.unwrap(), Finish::Applied);
}

#[tokio::test(start_paused = true)]
async fn the_caller_can_give_the_key_back_before_the_effect() {
    let gate = gate(OnInterrupted::Fail);
    let Begin::Execute(permit) = gate.begin("k", A).await.unwrap() else { panic!() };
    assert_eq!(permit.fail_before_effect().await.unwrap(), Finish::Applied);
    // As if it had never been claimed: for another payload, too.
    assert!(matches!(gate.begin("k", B).await.unwrap(), Begin::Execute(_)));
}

#[tokio::test(start_paused = true)]
async fn tenants_do_not_see_each_others_records() {
    let gate = gate(OnInterrupted::Fail);
    for tenant in ["", "a", "b", "a\0", "ab"] {
        let theirs = gate.in_scope(Scope::tenant(tenant));
        let ran = theirs.run("k", A, || async { Ok::<_, &str>(tenant.to_owned()) }).await.unwrap();
        assert_eq!((ran.value.as_str(), ran.status), (tenant, Status::Stored));
    }
    assert!(gate.record("k").await.unwrap().is_none(), "nor does the global scope");
    // Scope and key cannot be cut differently.
    let (ab, a) = (gate.in_scope(Scope::tenant("ab")), gate.in_scope(Scope::tenant("a")));
    assert_ne!(ab.id("c"), a.id("bc"));
}

#[tokio::test(start_paused = true)]
async fn gates_of_other_names_have_other_records_on_one_store() {
    let store = MemoryStore::default();
    let gate = |name: &'static str| Idempotency::new(name, store.clone(), Scope::tenant("t"));
    let run = async |gate: Idempotency<MemoryStore>| {
        let value = gate.name().to_owned();
        let ran = gate.run("7", Fingerprint::NONE, || async { Ok::<_, &str>(value) }).await;
        let ran = ran.unwrap();
        (ran.value, ran.status)
    };
    assert_eq!(run(gate("orders")).await, ("orders".into(), Status::Stored));
    assert_eq!(run(gate("refunds")).await, ("refunds".into(), Status::Stored));
    // As two servers of one service do it.
    assert_eq!(run(gate("orders")).await, ("orders".into(), Status::Replayed));
    assert_eq!(store.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_too_large_leaves_the_number() {
    let gate = builder().max_outcome(10).build().unwrap();
    for (n, (head, body)) in [(10, 0), (10, 1), (11, 0), (11, 1)].into_iter().enumerate() {
        let outcome = Outcome::new(201, vec![0; head], vec![0; body]);
        let key = n.to_string();
        let Begin::Execute(mut permit) = gate.begin(&key, A).await.unwrap() else { panic!() };
        let (finish, kept) = match n {
            0 => (Finish::Applied, outcome.clone()),
            1 => (Finish::Trimmed, outcome.without_body()),
            _ => (Finish::Trimmed, Outcome::not_retained(201, [])),
        };
        assert_eq!(permit.complete(outcome).await.unwrap(), finish, "{head} {body}");
        drop(permit);
        let record = gate.record(&key).await.unwrap().unwrap();
        assert_eq!(**record.state.outcome().unwrap(), kept, "{head} {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_recorded_without_it() {
    let gate = builder().max_outcome(10).build().unwrap();
    let run = |length: usize| {
        let gate = gate.clone();
        async move {
            let key = length.to_string();
            gate.run(key, A, || async move { Ok::<_, &str>(vec![0_u8; length]) }).await
        }
    };
    assert_eq!(run(10).await.unwrap().status, Status::Stored);
    assert_eq!(run(10).await.unwrap().value.len(), 10);
    let ran = run(11).await.unwrap();
    assert_eq!((ran.value.len(), ran.status), (11, Status::NotRetained));
    assert!(matches!(run(11).await, Err(RunError::Earlier(Earlier::NotRetained))));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_says_something_else_is_not_taken_for_an_answer() {
    let gate = gate(OnInterrupted::Fail);
    gate.run("k", A, || async { Ok::<_, &str>(String::from("text")) }).await.unwrap();
    let number = gate.run("k", A, || async { Ok::<u8, &str>(1) }).await;
    assert!(matches!(number, Err(RunError::Earlier(Earlier::Unreadable(_)))), "{number:?}");

    let Begin::Execute(mut permit) = gate.begin("http", A).await.unwrap() else { panic!() };
    permit.complete(Outcome::new(200, [], [])).await.unwrap();
    let run = gate.run("http", A, || async { Ok::<_, &str>(String::new()) }).await;
    assert!(matches!(run, Err(RunError::Earlier(Earlier::Unreadable(_)))), "{run:?}");
}

#[tokio::test(start_paused = true)]
async fn a_derived_key_is_the_same_for_each_run_and_not_the_callers() {
    let gate = gate(OnInterrupted::Rerun(9));
    let mut keys = vec![];
    for _ in 0..2 {
        let Begin::Execute(permit) = gate.begin("client-key", A).await.unwrap() else { panic!() };
        keys.push(permit.context().derive_key("transfer"));
    }
    assert_eq!(keys[0], keys[1]);
    assert!(!keys[0].contains("client-key"));
    assert_ne!(keys[0], gate.id("client-key").to_string());
    let other = gate.in_scope(Scope::tenant("t"));
    let Begin::Execute(permit) = other.begin("client-key", A).await.unwrap() else { panic!() };
    assert_ne!(permit.context().derive_key("transfer"), keys[0]);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_duplicate_gets_the_answer_as_soon_as_there_is_one() {
    let gate = builder().in_flight(InFlight::Wait(10 * SECOND)).build().unwrap();
    let start = Instant::now();
    let first = gate.run("k", A, || async {
        sleep(3 * SECOND).await;
        Ok::<_, &str>(1)
    });
    let duplicate = async {
        sleep(SECOND).await;
        let ran = gate.run("k", A, || async { Ok::<_, &str>(2) }).await;
        (ran.unwrap(), start.elapsed())
    };
    let (_, (ran, after)) = tokio::join!(first, duplicate);
    assert_eq!((ran.value, ran.status), (1, Status::Replayed));
    // The store tells; looking again would have been up to a second late.
    assert!(after < 3 * SECOND + Duration::from_millis(5), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_duplicate_gives_up_in_time_and_is_told_when_to_come_back() {
    let gate = builder().in_flight(InFlight::Wait(4 * SECOND)).build().unwrap();
    let Begin::Execute(_permit) = gate.begin("k", A).await.unwrap() else { panic!() };
    let start = Instant::now();
    let error = gate.run("k", A, || async { Ok::<_, &str>(2) }).await.unwrap_err();
    assert_eq!(start.elapsed().as_secs(), 4);
    let why = error.rejection().unwrap();
    assert_eq!(why.kind(), RejectionKind::IdempotencyInFlight);
    assert_eq!(why.retry_after(), Some(5 * SECOND));
    assert!(why.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_duplicate_is_told_when_the_owner_goes() {
    for (policy, runs) in [(OnInterrupted::Fail, None), (OnInterrupted::Rerun(2), Some(2))] {
        let gate = builder()
            .in_flight(InFlight::Wait(600 * SECOND))
            .on_interrupted(policy)
            .build()
            .unwrap();
        let permit = gate.begin("k", A).await.unwrap();
        let waiting = gate.run_with("k", A, |effect| async move { Ok::<_, &str>(effect.runs()) });
        let going = async {
            sleep(SECOND).await;
            drop(permit);
        };
        let (ran, ()) = tokio::join!(waiting, going);
        assert_eq!(ran.ok().map(|ran| ran.value), runs);
    }
}

#[test]
fn blocking_code_needs_no_runtime() {
    let gate = builder().in_flight(InFlight::Wait(Duration::from_secs(60))).build().unwrap();
    let (begun, wait) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let first = &gate;
        scope.spawn(move || {
            let ran = first.run_blocking("k", A, || {
                begun.send(()).unwrap();
                gone.recv().unwrap();
                Ok::<_, &str>(1)
            });
            assert_eq!(ran.unwrap().status, Status::Stored);
        });
        wait.recv().unwrap();
        let second = scope.spawn(|| gate.run_blocking("k", A, || Ok::<_, &str>(2)).unwrap());
        go.send(()).unwrap();
        let ran = second.join().unwrap();
        assert_eq!((ran.value, ran.status), (1, Status::Replayed));
    });
    let failed = gate.run_blocking_with("l", A, |effect| {
        effect.not_applied();
        Err::<u8, _>("no")
    });
    assert!(matches!(failed, Err(RunError::Inner("no"))));
    assert!(gate.record_blocking("l").unwrap().is_none());
    let Begin::Execute(mut permit) = gate.begin_blocking("l", A).unwrap() else { panic!() };
    assert_eq!(permit.renew_blocking().unwrap(), Renewed::Held);
    permit.complete_blocking(Outcome::new(0, [], [])).unwrap();
    let record = gate.record_blocking("l").unwrap().unwrap();
    assert!(matches!(record.state, State::Completed(_)));
}

/// Neither a timer nor a runtime, where nothing has to wait.
#[test]
fn a_run_that_does_not_wait_needs_no_runtime() {
    let gate = gate(OnInterrupted::Fail);
    let run = || gate.run("k", A, || async { Ok::<_, &str>(1) }).now_or_never();
    assert_eq!(run().unwrap().unwrap().status, Status::Stored);
    assert_eq!(run().unwrap().unwrap().status, Status::Replayed);
}

#[tokio::test(start_paused = true)]
async fn what_it_does_is_told_to_those_who_listen() {
    let told = Arc::new(Mutex::new(vec![]));
    let sink = Arc::clone(&told);
    let gate = builder()
        .on_interrupted(OnInterrupted::Rerun(2))
        .observe(move |event: &Event<'_>| {
            sink.lock().unwrap().push(format!("{} {}", event.layer.as_str(), event.kind.as_str()));
        })
        .build()
        .unwrap();
    let expect = |all: &[&str]| {
        let told = std::mem::take(&mut *told.lock().unwrap());
        assert_eq!(told, all.iter().map(|what| format!("idempotency {what}")).collect::<Vec<_>>());
    };
    let run = |fingerprint| {
        let gate = gate.clone();
        async move { drop(gate.run("k", fingerprint, || async { Ok::<_, &str>(1) }).await) }
    };
    run(A).await;
    expect(&[]);
    run(A).await;
    expect(&["replayed"]);
    run(B).await;
    expect(&["rejected"]);
    drop(gate.begin("l", A).await.unwrap());
    expect(&[]);
    let Begin::Execute(mut zombie) = gate.begin("l", A).await.unwrap() else { panic!() };
    expect(&["taken_over"]);
    let generation = zombie.generation();
    advance(LEASE).await;
    let forget = gate.resolve("l", generation, buttress::store::Resolution::Forget);
    assert_eq!(forget.await.unwrap(), Finish::Applied);
    zombie.complete(Outcome::new(0, [], [])).await.unwrap();
    expect(&["unrecorded"]);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    type Made = Result<Idempotency<MemoryStore>, buttress::ConfigError>;
    let day = Duration::from_secs(86_400);
    let cases: [(&str, Made); 12] = [
        ("scope", Idempotency::builder("x", MemoryStore::default()).build()),
        ("lease", builder().lease(Duration::from_millis(9)).build()),
        ("lease", builder().lease(Duration::from_secs(3601)).build()),
        ("retention", builder().retention(SECOND / 2).build()),
        ("retention", builder().retention(367 * day).build()),
        ("store_timeout", builder().store_timeout(Duration::ZERO).build()),
        ("store_timeout", builder().store_timeout(31 * SECOND).build()),
        ("on_interrupted", builder().on_interrupted(OnInterrupted::Rerun(0)).build()),
        ("in_flight", builder().in_flight(InFlight::Wait(601 * SECOND)).build()),
        ("max_outcome", builder().max_outcome(usize::MAX).build()),
        ("max_run", builder().max_run(LEASE - SECOND).build()),
        ("max_run", builder().max_run(day + SECOND).build()),
    ];
    for (field, made) in cases {
        assert_eq!(made.unwrap_err().field(), field);
    }
}
