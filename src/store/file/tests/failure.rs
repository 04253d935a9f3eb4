use std::io::ErrorKind;
use std::time::Duration;

use super::disk::Then;
use super::*;

/// At every write: what is said not to have been applied was not, what was answered stays, and the store
/// goes on, or says that it does not.
#[tokio::test]
async fn errors_of_the_disk_are_told_truly() {
    let (mut full, mut other, mut unknown, mut broken) = (0, 0, 0, 0);
    for at in 0..120 {
        for kind in [ErrorKind::StorageFull, ErrorKind::Other] {
            let disk = Disk::new(at as u64);
            let store = open(&disk).unwrap();
            disk.after(at, Then::Fail(kind));
            let mut answers = vec![];
            for n in 0..12 {
                answers.push(store.begin(&id(n), &claim()).await);
            }
            let failed: Vec<_> = (0..12).filter(|n| answers[*n].is_err()).collect();
            assert!(!failed.is_empty(), "{at}");
            // What is there, as the store says or as a new process finds it.
            let usable = store.get(&id(0)).await.is_ok();
            let again = if usable {
                assert_eq!(failed.len(), 1, "{at}: {answers:?}");
                None
            } else {
                broken += 1;
                assert!(failed.contains(&11));
                drop(store.clone());
                let error = store.begin(&id(100), &claim()).await.unwrap_err();
                assert_eq!(error.kind(), StoreErrorKind::Unavailable);
                Some(())
            };
            let store = match again {
                None => store,
                Some(()) => {
                    drop(store);
                    open(&disk).unwrap()
                }
            };
            for (n, answer) in answers.iter().enumerate() {
                let there = store.get(&id(n)).await.unwrap().is_some();
                match answer {
                    Ok(_) => assert!(there, "{at}: {n} was answered"),
                    Err(error) => match error.kind() {
                        StoreErrorKind::Unknown => unknown += 1,
                        StoreErrorKind::Full => {
                            assert_eq!(kind, ErrorKind::StorageFull);
                            assert!(!there, "{at}: {n} was refused");
                            full += 1;
                        }
                        StoreErrorKind::Unavailable => {
                            assert!(!there, "{at}: {n} was refused");
                            other += 1;
                        }
                        kind => panic!("{kind:?}"),
                    },
                }
            }
        }
    }
    println!("full {full}, unavailable {other}, unknown {unknown}, broken {broken}");
    assert!(full > 20 && other > 20 && unknown > 5 && broken > 5);
}

#[tokio::test]
async fn a_disk_that_hangs_is_noticed_and_one_that_comes_back_is_used() {
    let disk = Disk::new(1);
    let timeout = Duration::from_millis(200);
    let store = open_with(FileStore::builder().timeout(timeout), &disk).unwrap();
    run(&store, &id(0), &claim()).await;
    disk.hang(true);
    let stuck = claim();
    let patience = 50 * timeout;
    let answer = tokio::time::timeout(patience, store.begin(&id(1), &stuck)).await.unwrap();
    assert_eq!(answer.unwrap_err().kind(), StoreErrorKind::Unknown);
    for n in 2..100 {
        let begin = store.begin(&id(n), &claim()).await;
        assert_eq!(begin.unwrap_err().kind(), StoreErrorKind::Unavailable);
    }
    let closing = tokio::time::timeout(patience, store.clone().close()).await.unwrap();
    assert_eq!(closing.unwrap_err().kind(), StoreErrorKind::Unknown);
    disk.hang(false);
    drop(store);
    let store = open(&disk).unwrap();
    assert!(store.get(&id(1)).await.unwrap().is_some(), "it was on its way");
    assert!(store.get(&id(2)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_store_goes_on_when_the_disk_answers_again() {
    let disk = Disk::new(1);
    let timeout = Duration::from_millis(200);
    let store = open_with(FileStore::builder().timeout(timeout), &disk).unwrap();
    let mut refusals = 0;
    for round in 0..5 {
        disk.hang(true);
        let (one, other) = (id(10 * round), id(10 * round + 1));
        let (first, second) = (claim(), claim());
        let both = futures_util::future::join(store.begin(&one, &first), async {
            tokio::time::sleep(timeout / 4).await;
            store.begin(&other, &second).await
        });
        let (first_answer, second_answer) =
            tokio::time::timeout(100 * timeout, both).await.unwrap();
        assert_eq!(first_answer.unwrap_err().kind(), StoreErrorKind::Unknown);
        let refused = second_answer.unwrap_err().kind();
        disk.hang(false);
        // The answer was lost: the same claim again is the same claim.
        let again = loop {
            match store.begin(&one, &first).await {
                Ok(begun) => break begun,
                Err(error) => assert!(matches!(
                    error.kind(),
                    StoreErrorKind::Unavailable | StoreErrorKind::Unknown
                )),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(matches!(again, Begun::Run { runs: 1, .. }), "{again:?}");
        // It waited behind the other and is surely not made, unless a slow machine took both at once.
        if refused == StoreErrorKind::Unavailable {
            assert!(store.get(&other).await.unwrap().is_none());
            refusals += 1;
        }
    }
    assert!(refusals > 0);
}

#[tokio::test]
async fn dropping_a_store_on_a_disk_that_hangs_takes_no_longer_than_the_timeout() {
    let disk = Disk::new(1);
    let timeout = Duration::from_millis(200);
    let store = open_with(FileStore::builder().timeout(timeout), &disk).unwrap();
    disk.hang(true);
    let _ = store.begin(&id(0), &claim()).await;
    let started = super::super::clock::Moment::now();
    drop(store);
    assert!(started.age(super::super::clock::Moment::now()) < 50 * timeout);
    disk.hang(false);
}

/// A file that was replaced by an earlier copy of itself has forgotten what was answered.
#[tokio::test]
async fn a_file_that_was_put_back_is_not_gone_on_with() {
    let disk = Disk::new(1);
    let store = open(&disk).unwrap();
    run(&store, &id(0), &claim()).await;
    let earlier = disk.bytes();
    run(&store, &id(1), &claim()).await;
    disk.after(0, Then::Fail(ErrorKind::Other));
    assert!(store.begin(&id(2), &claim()).await.is_err());
    disk.put_back(earlier);
    for _ in 0..3 {
        let error = store.begin(&id(1), &claim()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    }
}

/// While a file that failed is closed another process may open it, with a clock that is ahead. What it gave out
/// and wrote is not fallen behind of.
#[tokio::test]
async fn what_another_process_wrote_before_the_file_was_opened_again_is_known() {
    let disk = Disk::new(1);
    let open_at = |micros| {
        let times = Arc::new(clock::Fake::at(micros));
        open_with(FileStore::builder().times(times), &disk).unwrap()
    };
    let store = open_at(1_000_000);
    run(&store, &id(0), &claim()).await;
    disk.after(0, Then::Fail(ErrorKind::Other));
    assert!(store.begin(&id(1), &claim()).await.is_err());

    let (other, theirs, ours) = (open_at(9_000_000), claim(), claim());
    let generation = run(&other, &id(1), &theirs).await;
    other.release(&id(1), theirs.attempt).await.unwrap();
    let latest = other.0.0.clock.now();
    drop(other);

    assert!(run(&store, &id(1), &ours).await > generation);
    assert!(store.0.0.clock.now() > latest);
    drop(store);
    // The file says so, too, to whoever opens it with a clock that was set back.
    let again = open_at(1_000_000);
    assert!(again.0.0.clock.now() > latest);
    assert_eq!(again.get(&id(1)).await.unwrap().unwrap().attempt, ours.attempt);
}
