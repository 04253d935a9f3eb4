//! The power fails at any write. What was answered must be there when it is back, and nothing runs twice.

use std::cell::RefCell;
use std::collections::HashMap;

use rand::{RngExt, SeedableRng};

use super::disk::{Random, Then};
use super::*;

/// What is known of a record from the answers that came.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Claims that were answered with "run", and were not released.
    runs: u32,
    claimed: Option<Attempt>,
    completed: Option<Arc<Outcome>>,
    /// Somebody asked to complete or release it, and no answer came.
    asked_to_complete: bool,
    asked_to_release: bool,
}

type World = RefCell<HashMap<usize, Known>>;

/// Does things until the power fails.
async fn work(store: &FileStore, world: &World, keys: std::ops::Range<usize>, seed: u64) {
    let mut random = Random::seed_from_u64(seed);
    loop {
        let key = random.random_range(keys.clone());
        let claim = claim();
        let Ok(begun) = store.begin(&id(key), &claim).await else { return };
        match begun {
            Begun::Run { .. } => {
                let mut world = world.borrow_mut();
                let known = world.entry(key).or_default();
                if known.asked_to_release {
                    // The answer to that is on its way, or was lost.
                    *known = Known::default();
                }
                known.runs += 1;
                assert!(
                    known.runs == 1 && known.completed.is_none(),
                    "{key} runs twice: {known:?}"
                );
                known.claimed = Some(claim.attempt);
            }
            Begun::Done(record) => {
                let world = world.borrow();
                let known = &world[&key];
                if let Some(completed) = &known.completed {
                    assert_eq!(record.state.outcome(), Some(completed));
                }
                continue;
            }
            _ => continue,
        }
        match random.random_range(0..10) {
            0 => {
                world.borrow_mut().get_mut(&key).unwrap().asked_to_release = true;
                let Ok(released) = store.release(&id(key), claim.attempt).await else { return };
                assert_eq!(released, Finish::Applied);
                let mut world = world.borrow_mut();
                let known = world.get_mut(&key).unwrap();
                if known.claimed == Some(claim.attempt) {
                    *known = Known::default();
                }
            }
            1 => {
                let renewed = store.renew(&id(key), claim.attempt, 9 * SECOND, SECOND * 100).await;
                if renewed.is_err() {
                    return;
                }
            }
            2 => {}
            _ => {
                let size = random.random_range(0..9_000);
                let outcome = Arc::new(Outcome::new(200, vec![1, 2], vec![7; size]));
                world.borrow_mut().get_mut(&key).unwrap().asked_to_complete = true;
                let done = store.complete(&id(key), claim.attempt, &outcome, SECOND * 10_000).await;
                let Ok(done) = done else { return };
                assert_eq!(done, Finish::Applied);
                world.borrow_mut().get_mut(&key).unwrap().completed = Some(outcome);
            }
        }
    }
}

/// What was lost or made up, if anything.
async fn compare(store: &FileStore, world: &World) -> Result<(), String> {
    let known: Vec<_> = world.borrow().iter().map(|(key, known)| (*key, known.clone())).collect();
    for (key, known) in known {
        let record = store.get(&id(key)).await.map_err(|error| format!("{key}: {error}"))?;
        let outcome = record.as_ref().and_then(|record| record.state.outcome());
        let wrong = if let Some(completed) = &known.completed {
            outcome != Some(completed)
        } else if outcome.is_some() {
            !known.asked_to_complete
        } else if known.claimed.is_some() && !known.asked_to_release {
            record.is_none()
        } else {
            false
        };
        if wrong {
            return Err(format!("{key} is {record:?}, but {known:?} was answered"));
        }
        if known.asked_to_release && record.is_none() {
            // It was, and may run.
            world.borrow_mut().insert(key, Known::default());
        }
    }
    Ok(())
}

/// Cuts the power `cuts` times on one disk. Returns how often, unless something was lost.
async fn cut(seed: u64, cuts: usize, lies: bool) -> Result<usize, String> {
    let mut random = Random::seed_from_u64(seed);
    let mut disk = Disk::new(random.random());
    let world = World::default();
    for done in 0..cuts {
        if lies {
            disk.lie();
        }
        // Sometimes while it is being made, opened or repaired.
        disk.after(random.random_range(0..120), Then::PowerCut);
        match open(&disk) {
            Ok(store) => {
                compare(&store, &world).await.or_else(|lost| {
                    // The power may fail while we look.
                    if disk.is_off() { Ok(()) } else { Err(lost) }
                })?;
                let (from, seeds) = (10 * done, [0; 6].map(|_: u64| random.random()));
                let keys = from..from + 20;
                let all = seeds.map(|seed| work(&store, &world, keys.clone(), seed));
                futures_util::future::join_all(all).await;
            }
            Err(_) if disk.is_off() => {}
            Err(kind) => return Err(format!("cannot be opened: {kind:?}")),
        }
        assert!(disk.is_off());
        disk = disk.after_power_cut();
    }
    let store = open(&disk).map_err(|kind| format!("cannot be opened: {kind:?}"))?;
    compare(&store, &world).await?;
    let answered = world.borrow().values().filter(|known| known.completed.is_some()).count();
    Ok(answered)
}

/// Not by reading all of it, as without `set_quick_repair`.
#[tokio::test]
async fn after_a_power_cut_a_large_file_opens_without_being_read() {
    let disk = Disk::new(1);
    // The writes are many, and other programs may have the processor.
    let store = open_with(FileStore::builder().timeout(SECOND * 60), &disk).unwrap();
    let body = Arc::new(Outcome::new(200, vec![], vec![7; 2_000]));
    let claims: Vec<_> = (0..4_000).map(|n| (id(n), claim())).collect();
    let all = claims.iter().map(async |(id, claim)| {
        store.begin(id, claim).await.unwrap();
        store.complete(id, claim.attempt, &body, SECOND * 1_000).await.unwrap();
    });
    futures_util::future::join_all(all).await;
    disk.after(5, Then::PowerCut);
    assert!(store.begin(&id(10_000), &claim()).await.is_err());
    let disk = disk.after_power_cut();
    let store = open(&disk).unwrap();
    let repaired =
        |store: &FileStore| store.0.0.health.repaired.load(std::sync::atomic::Ordering::Relaxed);
    assert!(!repaired(&store));
    assert_eq!(store.count().await.unwrap(), 4_000);
    assert!(matches!(store.begin(&id(3_999), &claim()).await.unwrap(), Begun::Done(_)));
    drop(store);
    let store = open_with(FileStore::builder().verify(true), &disk).unwrap();
    assert!(repaired(&store), "this is how it would be seen");
}

fn seed() -> u64 {
    let given = std::env::var("BUTTRESS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given
        .unwrap_or_else(|| u64::from_le_bytes(*Attempt::new().as_bytes().first_chunk().unwrap()));
    println!("BUTTRESS_SEED={seed}");
    seed
}

#[tokio::test]
async fn a_power_cut_loses_nothing_that_was_answered() {
    let seed = seed();
    let mut completions = 0;
    for disk in 0..100 {
        match cut(seed.wrapping_add(disk), 12, false).await {
            Ok(answered) => completions += answered,
            Err(lost) => panic!("BUTTRESS_SEED={} (disk {disk}): {lost}", seed.wrapping_add(disk)),
        }
    }
    println!("1,200 cuts, {completions} completions that were answered");
    assert!(completions > 1_000, "{completions}");
}

/// The test above must be able to fail: on a disk that only says that it has synced, it does.
#[tokio::test]
async fn on_a_disk_that_lies_a_power_cut_loses_something() {
    let seed = seed();
    let mut lost = 0;
    for disk in 0..20 {
        lost += usize::from(cut(seed.wrapping_add(disk), 12, true).await.is_err());
    }
    assert!(lost >= 15, "{lost} of 20");
}
