//! Shared buckets in the stores of one process: the tests that those of several processes have, too.

use buttress::RejectionKind;
use buttress::rate_limit::{RateLimiter, WhenDown};
use buttress::store::{AnyStore, MemoryStore, RateStore, RecordId, StoreErrorKind};

#[path = "../../servers/limits.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    clippy::cast_possible_truncation,
    reason = "as it is for servers"
)]
mod limits;

async fn keeps_the_rule(store: impl RateStore + Clone) {
    let start = tokio::time::Instant::now();
    limits::agrees_by(|| start.elapsed().as_nanos() as i128, &store, 60).await;
    limits::grants_no_token_twice(&[store.clone(), store.clone()]).await;
    limits::asks_seldom(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_in_memory_keeps_buckets() {
    keeps_the_rule(MemoryStore::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_chosen_at_run_time_keeps_buckets() {
    keeps_the_rule(AnyStore::with_rates(MemoryStore::default())).await;
}

#[cfg(feature = "store-redb")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_in_a_file_keeps_buckets() {
    let path = std::env::temp_dir().join(format!("buttress-rates-{}", std::process::id()));
    let store = buttress::store::FileStore::open(&path).unwrap();
    keeps_the_rule(store.clone()).await;
    drop(store);
    std::fs::remove_file(path).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_wrapped_without_its_buckets_says_so() {
    let store = AnyStore::new(MemoryStore::default());
    let quota = "1/s".parse().unwrap();
    let error = store.take(&RecordId::of(b"", b"k"), &quota, 1, 1).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(why, "it was not made with `AnyStore::with_rates`");
}

#[tokio::test(start_paused = true)]
async fn limiters_on_one_store_share_what_there_is() {
    let store = MemoryStore::default();
    let limiter = || {
        RateLimiter::shared(store.clone(), "api", WhenDown::Deny)
            .quota("1/h burst 10".parse().unwrap())
            .build()
            .unwrap()
    };
    let limiters = [limiter(), limiter()];
    for n in 0..10 {
        limiters[n % 2].try_acquire().await.unwrap();
    }
    for limiter in &limiters {
        let refused = limiter.try_acquire().await.unwrap_err();
        assert_eq!(refused.kind(), RejectionKind::RateLimited);
    }
}
