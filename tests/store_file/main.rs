//! The store in a file with real files, real processes and real time. A binary of its own, because its
//! tests start this very binary again as the process that is killed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod child;
mod kill;
mod processes;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress::store::{
    Attempt, Begun, Claim, FileStore, Fingerprint, Outcome, RecordId, State, Store,
};

const HOUR: Duration = Duration::from_secs(60 * 60);

fn id(number: usize) -> RecordId {
    RecordId::of(b"", &number.to_le_bytes())
}

fn claim() -> Claim {
    Claim::new(Fingerprint::of(b"10 EUR"), Attempt::new())
}

/// What the execution of a key comes to.
fn outcome(number: usize) -> Arc<Outcome> {
    Arc::new(Outcome::new(200, &b"head"[..], format!("paid {number}").into_bytes()))
}

/// A directory that is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("buttress-{:x}", u128::from_le_bytes(*Attempt::new().as_bytes()));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn store(&self) -> PathBuf {
        self.0.join("store")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

#[cfg(feature = "testing")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_in_a_file_conforms() {
    use buttress::testing::store::{StoreSubject, check_store};
    let scratch = Arc::new(Scratch::new());
    let files = AtomicUsize::new(0);
    let directory = Arc::clone(&scratch);
    let subject = StoreSubject::new(move || {
        let path = directory.0.join(files.fetch_add(1, Ordering::Relaxed).to_string());
        async move { FileStore::open(path).unwrap() }
    });
    // A disk that others use, too, may take as long for a sync.
    check_store(&subject.unit(Duration::from_millis(200))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_duplicates_run_once_though_a_third_of_them_gives_up() {
    let scratch = Scratch::new();
    let store = FileStore::open(scratch.store()).unwrap();
    let effects = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..1_000 {
        let (store, effects) = (store.clone(), Arc::clone(&effects));
        let begun = Arc::clone(&effects);
        let one = async move {
            let id = id(7);
            loop {
                let claim = claim();
                match store.begin(&id, &claim).await.unwrap() {
                    Begun::Run { .. } => {
                        effects.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        store.complete(&id, claim.attempt, &outcome(7), HOUR).await.unwrap();
                        return;
                    }
                    Begun::Busy { generation, .. } => store.changed(&id, generation).await,
                    Begun::Done(record) => {
                        assert_eq!(record.state.outcome(), Some(&outcome(7)));
                        return;
                    }
                    other => panic!("{other:?}"),
                }
            }
        };
        tasks.spawn(async move {
            if number % 3 == 1 {
                // One that has begun goes on, as a handler behind the gate does: only those who come
                // later give up, at any moment.
                while begun.load(Ordering::SeqCst) == 0 {
                    tokio::task::yield_now().await;
                }
                let patience = Duration::from_micros(number * 20);
                let _ = tokio::time::timeout(patience, one).await;
            } else {
                one.await;
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(effects.load(Ordering::SeqCst), 1);
    let record = store.get(&id(7)).await.unwrap().unwrap();
    assert!(matches!(record.state, State::Completed(_)));
    assert_eq!(record.runs, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn behind_the_gate_a_thousand_duplicates_run_once_also_after_a_restart() {
    use buttress::idempotency::{Idempotency, InFlight, Scope, Status};

    let scratch = Scratch::new();
    let effects = Arc::new(AtomicUsize::new(0));
    for restart in 0..3 {
        let gate = Idempotency::builder("payments", FileStore::open(scratch.store()).unwrap())
            .scope(Scope::global())
            .in_flight(InFlight::Wait(Duration::from_secs(30)))
            .build()
            .unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..1_000 {
            let (gate, effects) = (gate.clone(), Arc::clone(&effects));
            tasks.spawn(async move {
                let pay = || async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let number = effects.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, std::io::Error>(format!("receipt {number}"))
                };
                gate.run("order-1", Fingerprint::of(b"10 EUR"), pay).await.unwrap()
            });
        }
        let ran = tasks.join_all().await;
        assert!(ran.iter().all(|ran| ran.value == "receipt 0"));
        let stored = ran.iter().filter(|ran| ran.status == Status::Stored).count();
        assert_eq!(stored, usize::from(restart == 0));
    }
    assert_eq!(effects.load(Ordering::SeqCst), 1);
}
