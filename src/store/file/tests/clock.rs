use std::sync::atomic::{AtomicU64, Ordering};

use super::super::clock::Times;
use super::*;

const HOUR: Duration = Duration::from_secs(60 * 60);

pub(super) struct Fake {
    wall: AtomicU64,
    monotonic: AtomicU64,
}

impl Fake {
    pub(super) fn at(wall: u64) -> Self {
        Self { wall: AtomicU64::new(wall), monotonic: AtomicU64::new(5) }
    }

    pub(super) fn pass(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap();
        self.wall.fetch_add(micros, Ordering::SeqCst);
        self.monotonic.fetch_add(micros, Ordering::SeqCst);
    }

    fn step(&self, forth: bool, by: Duration) {
        let micros = u64::try_from(by.as_micros()).unwrap();
        if forth {
            self.wall.fetch_add(micros, Ordering::SeqCst);
        } else {
            self.wall.fetch_sub(micros, Ordering::SeqCst);
        }
    }
}

impl Times for Fake {
    fn wall(&self) -> u64 {
        self.wall.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> u64 {
        self.monotonic.load(Ordering::SeqCst)
    }
}

/// Ten hours after the origin.
fn fake() -> Arc<Fake> {
    Arc::new(Fake::at(36_000_000_000))
}

fn open(disk: &Disk, times: &Arc<Fake>) -> FileStore {
    open_with(FileStore::builder().times(times.clone()), disk).unwrap()
}

/// With time that only passes when it is told to.
#[cfg(feature = "testing")]
#[tokio::test]
async fn it_conforms_whatever_the_lease() {
    use crate::testing::store::{StoreSubject, check_store};
    for unit in [Duration::from_millis(1), SECOND, 24 * HOUR] {
        let times = fake();
        let made = times.clone();
        let subject = StoreSubject::new(move || {
            let store = open(&Disk::new(1), &made);
            async move { store }
        });
        let subject = subject.unit(unit).pass(move |_, time| {
            times.pass(time);
            std::future::ready(())
        });
        check_store(&subject).await.unwrap();
    }
}

#[tokio::test]
async fn a_step_of_the_wall_clock_moves_no_lease() {
    for forth in [true, false] {
        let times = fake();
        let store = open(&Disk::new(1), &times);
        let claim = claim().lease(30 * SECOND).retention(100 * SECOND);
        run(&store, &id(0), &claim).await;
        times.pass(10 * SECOND);
        times.step(forth, HOUR);
        let busy = store.begin(&id(0), &self::claim()).await.unwrap();
        assert!(
            matches!(busy, Begun::Busy { retry_in, .. } if retry_in == 20 * SECOND),
            "{busy:?}"
        );
        let renewed = store.renew(&id(0), claim.attempt, 30 * SECOND, 100 * SECOND).await;
        assert_eq!(renewed.unwrap(), Renewed::Held);
        assert_eq!(store.purge(10).await.unwrap(), 0);
        // And it ends when its time is over.
        times.pass(29 * SECOND);
        let busy = store.begin(&id(0), &self::claim()).await.unwrap();
        assert!(matches!(busy, Begun::Busy { .. }), "{busy:?}");
        times.pass(SECOND);
        let ended = store.begin(&id(0), &self::claim()).await.unwrap();
        assert!(matches!(ended, Begun::Interrupted(_)), "{ended:?}");
    }
}

#[tokio::test]
async fn a_clock_set_back_before_reopening_does_not_turn_time_back() {
    let (times, disk) = (fake(), Disk::new(1));
    let store = open(&disk, &times);
    let claim = claim().retention(2 * HOUR);
    let first = run(&store, &id(0), &claim).await;
    times.pass(HOUR / 2);
    store.complete(&id(0), claim.attempt, &outcome("x"), 2 * HOUR).await.unwrap();
    drop(store);

    times.step(false, HOUR);
    let store = open(&disk, &times);
    let record = store.get(&id(0)).await.unwrap().unwrap();
    // A microsecond later than the latest time in the file.
    let micro = Duration::from_micros(1);
    assert_eq!((record.age, record.expires_in), (HOUR / 2 + micro, 2 * HOUR - micro));
    assert!(run(&store, &id(1), &self::claim()).await > first);
    times.pass(HOUR);
    let record = store.get(&id(0)).await.unwrap().unwrap();
    assert_eq!(record.expires_in, HOUR - micro);
    times.pass(HOUR);
    assert_eq!(store.get(&id(0)).await.unwrap(), None, "it goes on");
}

#[tokio::test]
async fn a_clock_set_back_before_reopening_brings_nothing_back_and_runs_nothing_again() {
    let (times, disk) = (fake(), Disk::new(1));
    let store = open(&disk, &times);
    let short = || claim().lease(SECOND).retention(10 * SECOND);
    let complete = async |store: &FileStore, claim: &Claim, what: &str, retention| {
        store.complete(&id(0), claim.attempt, &outcome(what), retention).await.unwrap()
    };
    let (first, second, pending) = (short(), short(), short());
    let generation = run(&store, &id(0), &first).await;
    complete(&store, &first, "first", 10 * SECOND).await;
    run(&store, &id(1), &claim().lease(SECOND).retention(10 * SECOND)).await;
    times.pass(20 * SECOND);
    // One has expired and is run anew, the other is only forgotten.
    assert!(run(&store, &id(0), &second).await > generation);
    complete(&store, &second, "second", 3 * HOUR).await;
    assert_eq!(store.get(&id(1)).await.unwrap(), None);
    run(&store, &id(2), &pending.lease(HOUR).retention(3 * HOUR)).await;
    drop(store);

    for _ in 0..2 {
        times.step(false, HOUR);
        let store = open(&disk, &times);
        let begun = store.begin(&id(0), &claim()).await.unwrap();
        let Begun::Done(record) = begun else { panic!("{begun:?}") };
        assert_eq!(record.state.outcome(), Some(&outcome("second")));
        assert_eq!(complete(&store, &first, "zombie", HOUR).await, Finish::Fenced);
        assert_eq!(store.get(&id(1)).await.unwrap(), None);
        let begun = store.begin(&id(2), &claim()).await.unwrap();
        assert!(matches!(begun, Begun::Interrupted(_)), "{begun:?}");
    }
}

#[tokio::test]
async fn a_clock_set_forth_before_reopening_only_shortens_retention() {
    let (times, disk) = (fake(), Disk::new(1));
    let store = open(&disk, &times);
    let claims = [claim().retention(2 * HOUR), claim().retention(2 * HOUR)];
    run(&store, &id(0), &claims[0]).await;
    run(&store, &id(1), &claims[1]).await;
    store.complete(&id(0), claims[0].attempt, &outcome("x"), 2 * HOUR).await.unwrap();
    drop(store);
    times.step(true, HOUR);
    let store = open(&disk, &times);
    assert!(matches!(store.begin(&id(0), &claim()).await.unwrap(), Begun::Done(_)));
    assert!(matches!(store.begin(&id(1), &claim()).await.unwrap(), Begun::Interrupted(_)));
    let late = store.complete(&id(1), claims[1].attempt, &outcome("y"), HOUR).await.unwrap();
    assert_eq!(late, Finish::Applied);
}

/// A store that is opened again and again while the wall clock stands must not run ahead of it.
#[tokio::test]
async fn reopening_does_not_drive_the_clock() {
    let (times, disk) = (fake(), Disk::new(1));
    for round in 0..50 {
        let store = open(&disk, &times);
        run(&store, &id(round), &claim()).await;
        let ahead = store.0.0.clock.now().as_micros() - 36_000_000_000;
        assert!(ahead <= 3 * (round as u64 + 1), "{ahead} us in round {round}");
    }
}
