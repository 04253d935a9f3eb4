mod clock;
mod disk;
mod failure;
mod open;
mod power;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::disk::Disk;
use super::*;
use crate::store::{Fingerprint, OnInterrupted, StoreErrorKind};

const SECOND: Duration = Duration::from_secs(1);

fn outcome(text: &str) -> Arc<Outcome> {
    Arc::new(Outcome::new(200, &b"head"[..], text.as_bytes()))
}

fn claim() -> Claim {
    Claim::new(Fingerprint::of(b"a"), Attempt::new())
}

fn id(number: usize) -> RecordId {
    RecordId::of(b"", &number.to_le_bytes())
}

/// A path that is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("buttress-{:x}", u128::from_le_bytes(*Attempt::new().as_bytes()));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

fn open(disk: &Disk) -> Result<FileStore, OpenErrorKind> {
    open_with(FileStore::builder(), disk)
}

fn open_with(builder: FileStoreBuilder, disk: &Disk) -> Result<FileStore, OpenErrorKind> {
    builder.open_on(Box::new(disk.clone()), "disk".as_ref()).map_err(|failure| failure.kind)
}

async fn run(store: &FileStore, id: &RecordId, claim: &Claim) -> u64 {
    match store.begin(id, claim).await.unwrap() {
        Begun::Run { generation, .. } => generation,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_was_answered_is_there_after_reopening() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch).unwrap();
    let claims: Vec<_> = (0..6).map(|_| claim().retention(1000 * SECOND)).collect();
    for (n, claim) in claims.iter().enumerate() {
        run(&store, &id(n), claim).await;
    }
    let done = store.complete(&id(0), claims[0].attempt, &outcome("x"), 1000 * SECOND).await;
    assert_eq!(done.unwrap(), Finish::Applied);
    store.release(&id(1), claims[1].attempt).await.unwrap();
    store.interrupt(&id(2), claims[2].attempt, 1000 * SECOND).await.unwrap();
    assert_eq!(store.count().await.unwrap(), 5);
    drop(store);

    let store = FileStore::open(&scratch).unwrap();
    assert_eq!(store.count().await.unwrap(), 5);
    let again = claim();
    let Begun::Done(record) = store.begin(&id(0), &again).await.unwrap() else { panic!() };
    assert_eq!(record.state.outcome(), Some(&outcome("x")));
    assert!(record.expires_in > 900 * SECOND);
    assert!(matches!(store.begin(&id(1), &again).await.unwrap(), Begun::Run { .. }));
    assert!(matches!(store.begin(&id(2), &again).await.unwrap(), Begun::Interrupted(_)));
    // Pending, of a process that is gone: no lease is waited for.
    assert!(matches!(store.begin(&id(3), &again).await.unwrap(), Begun::Interrupted(_)));
    let rerun = claim().on_interrupted(OnInterrupted::Rerun(2));
    let begun = store.begin(&id(4), &rerun).await.unwrap();
    assert!(matches!(begun, Begun::Run { runs: 2, .. }), "{begun:?}");
    let late = store.complete(&id(4), claims[4].attempt, &outcome("late"), SECOND).await.unwrap();
    assert_eq!(late, Finish::Fenced);
    // The owner lives after all, and nobody has run it again.
    let late = store.complete(&id(3), claims[3].attempt, &outcome("late"), SECOND).await.unwrap();
    assert_eq!(late, Finish::Applied);
    assert_eq!(store.get(&id(5)).await.unwrap().unwrap().lease_left, Duration::ZERO);
}

#[tokio::test]
async fn of_a_thousand_duplicates_one_runs() {
    let disk = Disk::new(1);
    let store = open(&disk).unwrap();
    let before = disk.syncs();
    let claims: Vec<_> = (0..1_000).map(|_| claim()).collect();
    let all =
        claims.iter().map(|claim| store.begin(const { &RecordId::from_bytes([7; 32]) }, claim));
    let begun = futures_util::future::join_all(all).await;
    let ran = begun.iter().filter(|b| matches!(b, Ok(Begun::Run { .. }))).count();
    let busy = begun.iter().filter(|b| matches!(b, Ok(Begun::Busy { .. }))).count();
    assert_eq!((ran, busy), (1, 999));
    assert!(disk.syncs() - before <= 4, "duplicates cost no commits: {}", disk.syncs() - before);
}

#[tokio::test]
async fn operations_that_wait_together_share_a_commit() {
    let disk = Disk::new(1);
    let store = open(&disk).unwrap();
    let before = disk.syncs();
    let claims: Vec<_> = (0..500).map(|n| (id(n), claim())).collect();
    let all = claims.iter().map(|(id, claim)| store.begin(id, claim));
    let begun = futures_util::future::join_all(all).await;
    assert!(begun.iter().all(|b| matches!(b, Ok(Begun::Run { .. }))));
    // Two syncs each. The first batch is what had come when the thread woke up.
    assert!(disk.syncs() - before <= 20, "{}", disk.syncs() - before);
}

#[tokio::test]
async fn no_answer_comes_before_the_sync() {
    let disk = Disk::new(1);
    let store = open(&disk).unwrap();
    // Has the file grown for a while: redb lets nobody read while it syncs that.
    for n in 1..20 {
        run(&store, &id(n), &self::claim()).await;
    }
    let claim = claim();
    run(&store, &id(0), &claim).await;
    disk.hang(true);
    let outcome = outcome("x");
    let id = id(0);
    let mut completing = pin!(store.complete(&id, claim.attempt, &outcome, SECOND));
    let early = tokio::time::timeout(Duration::from_millis(100), completing.as_mut()).await;
    assert!(early.is_err(), "{early:?}");
    // Readers do not wait for it, and do not see it.
    assert_eq!(store.get(&id).await.unwrap().unwrap().state, State::Pending);
    disk.hang(false);
    assert_eq!(completing.await.unwrap(), Finish::Applied);
}

#[tokio::test]
async fn expired_records_are_purged_in_batches_and_others_stay() {
    let disk = Disk::new(1);
    let times = Arc::new(clock::Fake::at(1_000_000));
    let store = open_with(FileStore::builder().times(times.clone()), &disk).unwrap();
    let claims: Vec<_> = (0..3_000).map(|n| (id(n), claim().lease(SECOND))).collect();
    let retained = |n: usize| if n < 2_000 { SECOND } else { 100 * SECOND };
    let all = claims.iter().enumerate().map(|(n, (id, claim))| {
        let (store, claim) = (&store, claim.retention(retained(n)));
        async move { store.begin(id, &claim).await }
    });
    futures_util::future::join_all(all).await;
    assert_eq!(store.purge(usize::MAX).await.unwrap(), 0);
    times.pass(2 * SECOND);
    assert_eq!(store.count().await.unwrap(), 3_000);
    assert_eq!(store.get(&id(0)).await.unwrap(), None, "expired though not removed");
    assert_eq!(store.purge(0).await.unwrap(), 0);
    assert_eq!(store.purge(10).await.unwrap(), 10);
    assert_eq!(store.purge(1_200).await.unwrap(), 1_200);
    assert_eq!(store.purge(usize::MAX).await.unwrap(), 790);
    assert_eq!(store.purge(usize::MAX).await.unwrap(), 0);
    assert_eq!(store.count().await.unwrap(), 1_000);
    assert!(store.get(&id(2_500)).await.unwrap().is_some());
}

#[tokio::test]
async fn claims_of_new_keys_remove_expired_records_on_their_way() {
    let disk = Disk::new(1);
    let times = Arc::new(clock::Fake::at(1_000_000));
    let store = open_with(FileStore::builder().times(times.clone()), &disk).unwrap();
    for n in 0..300 {
        run(&store, &id(n), &claim().lease(SECOND).retention(10 * SECOND)).await;
        times.pass(SECOND);
    }
    assert!(store.count().await.unwrap() < 15, "{}", store.count().await.unwrap());
}

#[tokio::test]
async fn a_record_is_not_forgotten_while_its_lease_is_renewed() {
    let disk = Disk::new(1);
    let times = Arc::new(clock::Fake::at(1_000_000));
    let store = open_with(FileStore::builder().times(times.clone()), &disk).unwrap();
    let claim = claim().lease(10 * SECOND).retention(SECOND);
    run(&store, &id(0), &claim).await;
    for _ in 0..10 {
        times.pass(9 * SECOND);
        assert_eq!(store.purge(10).await.unwrap(), 0);
        let renewed = store.renew(&id(0), claim.attempt, claim.lease, claim.retention).await;
        assert_eq!(renewed.unwrap(), Renewed::Held);
    }
    // A shorter life than was noted is noticed, too.
    let done = store.complete(&id(0), claim.attempt, &outcome("x"), SECOND).await.unwrap();
    assert_eq!(done, Finish::Applied);
    times.pass(SECOND);
    assert_eq!(store.purge(10).await.unwrap(), 1);
}

#[tokio::test]
async fn generations_grow_though_the_record_was_released_purged_or_the_file_reopened() {
    let disk = Disk::new(1);
    let times = Arc::new(clock::Fake::at(1_000_000));
    let open = || open_with(FileStore::builder().times(times.clone()), &disk).unwrap();
    let mut store = open();
    let mut last = 0;
    for round in 0..100 {
        let claim = claim().lease(SECOND).retention(SECOND);
        let generation = run(&store, &id(0), &claim).await;
        assert!(generation > last, "{generation} after {last}");
        last = generation;
        match round % 3 {
            0 => drop(store.release(&id(0), claim.attempt).await.unwrap()),
            1 => {
                times.pass(2 * SECOND);
                assert_eq!(store.purge(1).await.unwrap(), 1);
            }
            _ => {
                store.release(&id(0), claim.attempt).await.unwrap();
                drop(store);
                store = open();
            }
        }
    }
}

#[tokio::test]
async fn who_waits_for_a_change_is_told_of_each() {
    for change in ["complete", "release", "interrupt", "nothing"] {
        let store = open(&Disk::new(1)).unwrap();
        let claim = claim();
        let generation = run(&store, &id(0), &claim).await;
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let store = store.clone();
                #[expect(clippy::disallowed_methods, reason = "a test")]
                tokio::spawn(async move { store.changed(&id(0), generation).await })
            })
            .collect();
        while store.0.0.waiters.len() == 0 {
            tokio::task::yield_now().await;
        }
        match change {
            "complete" => drop(store.complete(&id(0), claim.attempt, &outcome("x"), SECOND).await),
            "release" => drop(store.release(&id(0), claim.attempt).await),
            "interrupt" => drop(store.interrupt(&id(0), claim.attempt, SECOND).await),
            _ => {
                drop(store.renew(&id(0), claim.attempt, SECOND, SECOND).await);
                tokio::time::sleep(Duration::from_millis(50)).await;
                assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
                waiting.iter().for_each(tokio::task::JoinHandle::abort);
                for waiting in waiting {
                    let _ = waiting.await;
                }
                assert_eq!(store.0.0.waiters.len(), 0, "who left is forgotten");
                continue;
            }
        }
        for waiting in waiting {
            waiting.await.unwrap();
        }
        assert_eq!(store.0.0.waiters.len(), 0);
        // Who comes late does not wait at all.
        store.changed(&id(0), generation).await;
    }
}

#[tokio::test]
async fn an_abandoned_lease_has_ended() {
    let store = open(&Disk::new(1)).unwrap();
    let first = claim();
    run(&store, &id(0), &first).await;
    store.abandon(&id(0), first.attempt);
    assert!(matches!(store.begin(&id(0), &claim()).await.unwrap(), Begun::Interrupted(_)));
}

#[tokio::test]
async fn a_closed_store_refuses_and_its_file_can_be_opened() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch).unwrap();
    let clone = store.clone();
    let claim = claim();
    let begun = id(0);
    let (begun, closed) = futures_util::join!(store.begin(&begun, &claim), clone.close());
    assert!(matches!(begun.unwrap(), Begun::Run { .. }), "it came before");
    closed.unwrap();
    let error = store.begin(&id(1), &claim).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(store.get(&id(0)).await.is_err());
    let store = FileStore::open(&scratch).unwrap();
    assert!(store.get(&id(0)).await.unwrap().is_some());
}

/// Futures that nobody waits for are done all the same, except claims, before the file is closed.
#[tokio::test]
async fn dropping_the_last_handle_writes_what_was_asked_for() {
    let disk = Disk::new(1);
    let store = open(&disk).unwrap();
    let claims: Vec<_> = (0..50).map(|n| (id(n), claim())).collect();
    for (id, claim) in &claims {
        run(&store, id, claim).await;
    }
    let outcome = outcome("x");
    for (id, claim) in &claims {
        let mut completing = Box::pin(store.complete(id, claim.attempt, &outcome, SECOND * 100));
        let _ = futures_util::poll!(completing.as_mut());
    }
    drop(store);
    let store = open(&disk).unwrap();
    for (id, _) in &claims {
        let record = store.get(id).await.unwrap().unwrap();
        assert_eq!(record.state.outcome(), Some(&outcome));
    }
}

#[tokio::test]
async fn a_full_queue_refuses_claims_before_completions() {
    let disk = Disk::new(1);
    let store = open_with(FileStore::builder().queue(10), &disk).unwrap();
    let claims: Vec<_> = (0..60).map(|n| (id(n), claim())).collect();
    let owned = claim();
    run(&store, &id(1_000), &owned).await;
    disk.hang(true);
    // The thread takes the first and hangs.
    let mut first = Box::pin(store.begin(&claims[0].0, &claims[0].1));
    let _ = futures_util::poll!(first.as_mut());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut all: Vec<_> =
        claims[1..].iter().map(|(id, claim)| Box::pin(store.begin(id, claim))).collect();
    let mut refused = 0;
    for begin in &mut all {
        if let std::task::Poll::Ready(answer) = futures_util::poll!(begin.as_mut()) {
            assert_eq!(answer.unwrap_err().kind(), StoreErrorKind::Unavailable);
            refused += 1;
        }
    }
    assert_eq!(refused, 59 - 10);
    let (outcome, last) = (outcome("x"), id(1_000));
    let mut completing = pin!(store.complete(&last, owned.attempt, &outcome, SECOND));
    assert!(futures_util::poll!(completing.as_mut()).is_pending());
    disk.hang(false);
    assert_eq!(completing.await.unwrap(), Finish::Applied);
}

#[tokio::test]
async fn too_large_an_outcome_is_recorded_without_its_body() {
    let store = open(&Disk::new(1)).unwrap();
    let claim = claim();
    run(&store, &id(0), &claim).await;
    let large = Arc::new(Outcome::new(200, vec![], vec![0; FileStore::MAX_OUTCOME + 1]));
    let done = store.complete(&id(0), claim.attempt, &large, SECOND).await.unwrap();
    assert_eq!(done, Finish::Trimmed);
    let kept = store.get(&id(0)).await.unwrap().unwrap();
    assert_eq!(**kept.state.outcome().unwrap(), large.without_body());
}
