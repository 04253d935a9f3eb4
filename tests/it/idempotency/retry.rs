//! A retry whose policy promises exactly once.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use buttress::idempotency::{Earlier, EffectContext, Idempotency, RunError, Scope, Status};
use buttress::retry::{ExecutionGuarantee, Retry, RetryPolicy, resolve_retry_policy};
use buttress::store::{Fingerprint, MemoryStore, OnInterrupted};
use buttress::{Backoff, RejectionKind};
use tokio::time::sleep;

const A: Fingerprint = Fingerprint::NONE;

fn gate() -> Idempotency<MemoryStore> {
    Idempotency::new("agent", MemoryStore::default(), Scope::global())
}

fn exactly_once(attempts: u32) -> Retry {
    let policy = RetryPolicy::builder()
        .max_attempts(attempts)
        .guarantee(ExecutionGuarantee::ExactlyOnce)
        .backoff(Backoff::constant(Duration::from_secs(40)))
        .build()
        .unwrap();
    Retry::new(policy)
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

#[tokio::test(start_paused = true)]
async fn the_key_is_claimed_once_around_all_attempts() {
    let gate = gate();
    let calls = Cell::new(0);
    let retry = exactly_once(3);
    let keys = std::cell::RefCell::new(vec![]);
    let run = || {
        gate.run_retry(&retry, "step", A, |attempt, effect| {
            calls.set(calls.get() + 1);
            keys.borrow_mut().push(effect.derive_key("order"));
            async move { if attempt < 3 { Err(reset()) } else { Ok(attempt) } }
        })
    };
    let other = async {
        // In the pauses between the attempts, and for longer than a lease.
        for _ in 0..3 {
            sleep(Duration::from_secs(20)).await;
            let error = gate.run("step", A, || async { Ok::<u32, &str>(9) }).await.unwrap_err();
            let why = error.rejection().unwrap();
            assert_eq!(why.kind(), RejectionKind::IdempotencyInFlight);
        }
    };
    let (ran, ()) = tokio::join!(run(), other);
    let ran = ran.unwrap();
    assert_eq!((ran.value, ran.status, calls.get()), (3, Status::Stored, 3));
    assert!(keys.borrow().iter().all(|key| *key == keys.borrow()[0]));
    let ran = run().await.unwrap();
    assert_eq!((ran.value, ran.status, calls.get()), (3, Status::Replayed, 3));
}

#[tokio::test(start_paused = true)]
async fn the_failure_of_the_last_attempt_is_final() {
    let (gate, retry) = (gate(), exactly_once(2));
    let calls = Cell::new(0);
    let run = || {
        gate.run_retry(&retry, "step", A, |_, _| {
            calls.set(calls.get() + 1);
            async { Err::<u32, _>(reset()) }
        })
    };
    assert!(matches!(run().await, Err(RunError::Inner(_))));
    assert!(matches!(run().await, Err(RunError::Earlier(Earlier::Failed(_)))));
    assert_eq!(calls.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_cut_off_by_its_deadline_is_final_too() {
    let gate = gate();
    let policy = exactly_once(2).policy().to_builder().deadline(Duration::from_secs(1)).build();
    let retry = Retry::new(policy.unwrap());
    let run = || {
        gate.run_retry(&retry, "step", A, |_, _| async {
            sleep(Duration::from_secs(5)).await;
            Ok::<u32, io::Error>(1)
        })
    };
    let error = run().await.unwrap_err();
    assert_eq!(error.rejection().unwrap().kind(), RejectionKind::DeadlineExceeded);
    assert!(matches!(run().await, Err(RunError::Earlier(Earlier::Failed(_)))));
}

/// What one attempt says of itself does not hold for the next, nor for one that was cut off.
#[tokio::test(start_paused = true)]
async fn a_key_is_free_again_only_if_no_attempt_can_have_had_its_effect() {
    let second = Duration::from_secs(1);
    // Each with a budget of its own.
    let retry = || {
        let policy = exactly_once(3).policy().to_builder().deadline(100 * second).build();
        Retry::new(policy.unwrap())
    };
    // Who says that nothing happened: each of the three attempts, or all but one; the last is cut off.
    for (says, cut_off) in [
        ([true, true, true], false),
        ([false, true, true], false),
        ([true, false, true], false),
        ([true, true, false], false),
        ([true, true, true], true),
    ] {
        let (gate, calls) = (gate(), Cell::new(0));
        let run = async || {
            let effect = |attempt: u32, effect: EffectContext| {
                calls.set(calls.get() + 1);
                async move {
                    if cut_off && attempt == 3 {
                        sleep(50 * second).await;
                    }
                    if says[attempt as usize - 1] {
                        effect.not_applied();
                    }
                    Err::<u32, _>(reset())
                }
            };
            gate.run_retry(&retry(), "step", A, effect).await
        };
        run().await.unwrap_err();
        assert_eq!(calls.get(), 3);
        run().await.unwrap_err();
        let free = says == [true; 3] && !cut_off;
        assert_eq!(calls.get(), if free { 6 } else { 3 }, "{says:?} {cut_off}");
    }
    for (says, free) in [([true, true], true), ([true, false], false)] {
        let policy = exactly_once(2).policy().to_builder();
        let policy = policy.backoff(Backoff::constant(second / 1_000)).build().unwrap();
        let (gate, mut calls) = (gate(), 0);
        for _ in 0..2 {
            let retry = Retry::new(policy);
            let ran = gate.run_retry_blocking(&retry, "step", A, |attempt, effect| {
                calls += 1;
                if says[attempt as usize - 1] {
                    effect.not_applied();
                }
                Err::<u32, _>(reset())
            });
            ran.unwrap_err();
        }
        assert_eq!(calls, if free { 4 } else { 2 }, "{says:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn at_least_once_claims_nothing() {
    let gate = gate();
    let retry = Retry::new(RetryPolicy::default());
    let calls = Cell::new(0);
    for _ in 0..2 {
        let ran = gate.run_retry(&retry, "step", A, |attempt, _| {
            calls.set(calls.get() + 1);
            async move { if attempt < 2 { Err(reset()) } else { Ok(attempt) } }
        });
        assert_eq!(ran.await.unwrap().status, Status::Ungated);
    }
    assert_eq!(calls.get(), 4);
    assert!(gate.store().is_empty());
}

/// The recorded program let all 16 execute.
#[test]
fn of_sixteen_agents_with_a_step_of_high_risk_one_executes() {
    let gate = gate();
    let retry = Retry::new(resolve_retry_policy("agent", Some("high")));
    assert_eq!(retry.policy(), RetryPolicy::AGENT_HIGH_RISK);
    let executed = AtomicU32::new(0);
    let barrier = std::sync::Barrier::new(16);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                barrier.wait();
                let _ = gate.run_retry_blocking(&retry, "step", A, |_, _| {
                    executed.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, io::Error>(7)
                });
            });
        }
    });
    assert_eq!(executed.into_inner(), 1);
    let late = gate.run_retry_blocking(&retry, "step", A, |_, _| Ok::<_, io::Error>(8)).unwrap();
    assert_eq!((late.value, late.status), (7, Status::Replayed));
}

/// The recorded executor made four attempts of it.
#[test]
fn a_step_of_high_risk_fails_once_and_for_all() {
    let gate = gate();
    let retry = Retry::new(RetryPolicy::AGENT_HIGH_RISK);
    let mut calls = 0;
    for _ in 0..4 {
        let ran = gate.run_retry_blocking(&retry, "step", A, |_, _| {
            calls += 1;
            Err::<u8, _>(reset())
        });
        assert!(ran.is_err());
    }
    assert_eq!(calls, 1);
}

/// Without a gate there is nothing that could tell a second attempt from the first.
#[test]
fn alone_such_a_policy_makes_one_attempt() {
    let mut calls = 0;
    let failed = exactly_once(5).run_blocking(|_| {
        calls += 1;
        Err::<u8, _>(reset())
    });
    assert!(failed.is_err());
    assert_eq!(calls, 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_died_is_noticed_and_its_step_left_to_the_policy() {
    for (policy, runs) in [(OnInterrupted::Fail, 0), (OnInterrupted::Rerun(2), 1)] {
        let gate = Idempotency::builder("agent", MemoryStore::default())
            .scope(Scope::global())
            .on_interrupted(policy)
            .build()
            .unwrap();
        let retry = exactly_once(1);
        let died = gate.run_retry(&retry, "step", A, |_, _| async {
            std::future::pending::<()>().await;
            Ok::<u8, io::Error>(1)
        });
        assert!(tokio::time::timeout(Duration::from_secs(1), died).await.is_err());
        let calls = Cell::new(0);
        let _ = gate
            .run_retry(&retry, "step", A, |_, _| {
                calls.set(calls.get() + 1);
                async { Ok::<u8, io::Error>(1) }
            })
            .await;
        assert_eq!(calls.get(), runs, "{policy:?}");
    }
}
