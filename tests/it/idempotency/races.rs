//! Many callers at a time, on real threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress::RejectionKind;
use buttress::idempotency::{Begin, Idempotency, InFlight, RunError, Scope, Status};
use buttress::store::{AnyStore, Fingerprint, MemoryStore, OnInterrupted, Outcome};
use tokio::task::{JoinSet, yield_now};

const A: Fingerprint = Fingerprint::from_bytes([1; 32]);
const B: Fingerprint = Fingerprint::from_bytes([2; 32]);

fn threads(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(4).enable_time().build().unwrap().block_on(test);
}

#[test]
fn of_a_thousand_duplicates_one_runs_and_all_get_its_answer() {
    threads(async {
        for round in 0..10 {
            let store = AnyStore::new(MemoryStore::default());
            let gate = Idempotency::builder("orders", store)
                .scope(Scope::global())
                .in_flight(InFlight::Wait(Duration::from_secs(60)))
                .build()
                .unwrap();
            let executed = Arc::new(AtomicUsize::new(0));
            let mut tasks = JoinSet::new();
            for n in 0..1_000_u32 {
                let (gate, executed) = (gate.clone(), Arc::clone(&executed));
                tasks.spawn(async move {
                    gate.run("k", A, || async move {
                        executed.fetch_add(1, Ordering::Relaxed);
                        for _ in 0..round * 10 {
                            yield_now().await;
                        }
                        Ok::<_, &str>(n)
                    })
                    .await
                    .unwrap()
                });
            }
            let all = tasks.join_all().await;
            assert_eq!(executed.load(Ordering::Relaxed), 1);
            assert!(all.iter().all(|ran| ran.value == all[0].value));
            let stored = all.iter().filter(|ran| ran.status == Status::Stored).count();
            assert_eq!(stored, 1);
        }
    });
}

#[test]
fn of_a_thousand_callers_with_two_payloads_those_of_one_are_all_told_of_the_mistake() {
    threads(async {
        let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
        let mut tasks = JoinSet::new();
        for n in 0..1_000 {
            let gate = gate.clone();
            let of = n % 2;
            tasks.spawn(async move {
                let payload = [A, B][of];
                let ran = gate.run("k", payload, || async {
                    yield_now().await;
                    Ok::<_, &str>(())
                });
                (of, ran.await)
            });
        }
        let all = tasks.join_all().await;
        let winner = all.iter().find(|(_, ran)| matches!(ran, Ok(r) if r.status == Status::Stored));
        let winner = winner.unwrap().0;
        for (of, ran) in all {
            match ran {
                Ok(_) => assert_eq!(of, winner),
                Err(RunError::Rejected(why)) if of == winner => {
                    assert_eq!(why.kind(), RejectionKind::IdempotencyInFlight);
                }
                Err(RunError::Rejected(why)) => {
                    assert_eq!(why.kind(), RejectionKind::IdempotencyMismatch);
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    });
}

/// A third of the callers go away at any time, the one that executes among them.
#[test]
fn callers_that_go_away_make_nothing_run_twice() {
    threads(async {
        for round in 0..50_u32 {
            let gate = Idempotency::builder("orders", MemoryStore::default())
                .scope(Scope::global())
                .in_flight(InFlight::Wait(Duration::from_secs(60)))
                .build()
                .unwrap();
            let executed = Arc::new(AtomicUsize::new(0));
            let mut tasks = JoinSet::new();
            let mut leaving = vec![];
            for n in 0..100 {
                let (gate, executed) = (gate.clone(), Arc::clone(&executed));
                let task = tasks.spawn(async move {
                    gate.run("k", A, || async move {
                        executed.fetch_add(1, Ordering::Relaxed);
                        for _ in 0..50 {
                            yield_now().await;
                        }
                        Ok::<_, &str>(())
                    })
                    .await
                });
                if (n + round) % 3 == 0 {
                    leaving.push(task);
                }
            }
            for task in leaving {
                yield_now().await;
                task.abort();
            }
            let mut answers = vec![];
            while let Some(ended) = tasks.join_next().await {
                answers.extend(ended.ok());
            }
            assert_eq!(executed.load(Ordering::Relaxed), 1, "round {round}");
            // All that stayed agree: it ran, or nobody knows.
            let ran = answers.iter().filter(|answer| answer.is_ok()).count();
            assert!(ran == 0 || ran == answers.len(), "{ran} of {}", answers.len());
        }
    });
}

/// Owners that go without a word, over and over: each run is one that was granted, and one is recorded.
#[test]
fn what_may_run_again_runs_as_often_as_granted_and_is_recorded_once() {
    threads(async {
        for _ in 0..20 {
            let gate = Idempotency::builder("orders", MemoryStore::default())
                .scope(Scope::global())
                .on_interrupted(OnInterrupted::Rerun(10))
                .build()
                .unwrap();
            let mut tasks = JoinSet::new();
            for _ in 0..200 {
                let gate = gate.clone();
                tasks.spawn(async move {
                    match gate.begin("k", A).await.unwrap() {
                        Begin::Execute(mut permit) if permit.runs() == 10 => {
                            let outcome = Outcome::new(permit.runs(), [], []);
                            permit.complete(outcome).await.unwrap();
                            Some(10)
                        }
                        Begin::Execute(permit) => Some(permit.runs()),
                        _ => None,
                    }
                });
            }
            let mut runs: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
            runs.sort_unstable();
            let expected: Vec<_> = (1..=10).take(runs.len()).collect();
            assert_eq!(runs, expected);
        }
    });
}
