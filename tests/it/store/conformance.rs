use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use buttress::store::{AnyStore, MemoryStore};
use buttress::testing::store::{StoreProperty, StoreSubject, check_store};

use super::broken::{Broken, Defect};

#[tokio::test(start_paused = true)]
async fn the_store_in_memory_conforms() {
    check_store(&StoreSubject::new(|| async { MemoryStore::default() })).await.unwrap();
}

/// Whatever the lease: nothing is tied to seconds.
#[tokio::test(start_paused = true)]
async fn it_conforms_with_leases_of_microseconds_and_of_days() {
    for unit in [Duration::from_micros(10), Duration::from_secs(86_400)] {
        let subject = StoreSubject::new(|| async { MemoryStore::default() });
        let subject = subject.unit(unit).pass(|_, time| tokio::time::advance(time));
        check_store(&subject).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn wrapping_a_store_changes_nothing() {
    check_store(&StoreSubject::new(|| async { AnyStore::new(MemoryStore::default()) }))
        .await
        .unwrap();
    check_store(&StoreSubject::new(|| async { Arc::new(MemoryStore::default()) })).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_defect_is_found_by_the_property_that_is_there_for_it() {
    let mut able_to_fail = BTreeSet::new();
    for (defect, property) in Defect::ALL {
        let subject = StoreSubject::new(move || async move { Broken::new(defect) });
        let found = check_store(&subject).await.expect_err(&format!("{defect:?} goes unseen"));
        assert!(found.iter().any(|v| v.property() == property), "{defect:?}: {found}");
        able_to_fail.extend(found.iter().map(|violation| violation.property()));
    }
    let all: BTreeSet<_> = StoreProperty::ALL.iter().copied().collect();
    assert_eq!(able_to_fail, all, "every property has failed at least once");
}

#[tokio::test(start_paused = true)]
async fn errors_and_panics_of_the_store_are_reported_and_not_raised() {
    let subject =
        StoreSubject::new(|| async { MemoryStore::builder().capacity(1).build().unwrap() });
    let found = check_store(&subject).await.unwrap_err();
    let full = "an error: the store is full";
    assert!(found.iter().any(|violation| violation.seen() == full), "{found}");

    let subject = StoreSubject::new(|| async {
        if true {
            panic!("no server");
        }
        MemoryStore::default()
    });
    let found = check_store(&subject).await.unwrap_err();
    assert_eq!(found.len(), StoreProperty::ALL.len());
    assert_eq!(found[0].seen(), "a panic: no server");
}
