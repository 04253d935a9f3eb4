//! A few calls never succeed, however often they are tried.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

use super::{ClientPlan, client};
use crate::{BoxError, FailureClass, Verdict, classify_fn};

const MS: Duration = Duration::from_millis(1);
const CALLS: u32 = 7000;

fn judged(result: Result<&u32, &BoxError>) -> Verdict {
    match result {
        Ok(_) => Verdict::success(),
        Err(_) => Verdict::failure(FailureClass::Transient),
    }
}

#[derive(Debug)]
struct Seen {
    /// Within which 99 of 100 calls that succeed do.
    late: Duration,
    /// Calls that do not, and could have.
    failed: u32,
    /// Of each call that never does.
    attempts: f64,
}

/// Calls that wait for ten seconds come for twenty-one, seven tenths of what ten workers can do. So many of a hundred never
/// succeed, and of all attempts so many of a hundred fail.
async fn play(never: u32, errors: u32) -> Seen {
    let (workers, in_vain) = (Arc::new(Semaphore::new(10)), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&in_vain);
    let random = Arc::new(Mutex::new(SmallRng::seed_from_u64(7)));
    let server = service_fn(move |n: u32| {
        let (workers, in_vain) = (Arc::clone(&workers), Arc::clone(&counted));
        let fails = random.lock().unwrap().random_ratio(errors, 100);
        async move {
            let _worker = workers.acquire().await?;
            sleep(21 * MS).await;
            if n % 100 < never {
                in_vain.fetch_add(1, Ordering::Relaxed);
            }
            if fails || n % 100 < never { Err(BoxError::from("no")) } else { Ok(n) }
        }
    });
    let mut plan = ClientPlan::new("db");
    plan.total_timeout = Some(10_000 * MS);
    let stack = client(&plan).unwrap().classify(classify_fn(judged));
    let service = BoxCloneSyncService::<u32, u32, BoxError>::new(stack.layer(server));
    let mut calls = tokio::task::JoinSet::new();
    for call in 0..CALLS {
        let service = service.clone();
        // Spread.
        let n = call * 37;
        calls.spawn(async move {
            let began = Instant::now();
            (n, service.oneshot(n).await.is_ok(), began.elapsed())
        });
        sleep(3 * MS).await;
    }
    let (mut took, mut failed) = (Vec::new(), 0);
    for (n, succeeded, after) in calls.join_all().await {
        if succeeded {
            took.push(after);
        } else if n % 100 >= never {
            failed += 1;
        }
    }
    took.sort_unstable();
    let late = took[took.len() * 99 / 100];
    let all = f64::from(never * CALLS / 100);
    let seen = Seen { late, failed, attempts: f64::from(in_vain.load(Ordering::Relaxed)) / all };
    println!("{never} never, {errors} fail: {seen:?}");
    seen
}

/// As the most urgent of all they went before the others, a hundred times each, and those waited for half of their time.
#[tokio::test(start_paused = true)]
async fn calls_that_never_succeed_keep_nobody_waiting() {
    for (never, errors) in [(3, 0), (3, 10), (10, 0)] {
        let seen = play(never, errors).await;
        assert!(seen.late <= 500 * MS && seen.failed <= CALLS / 1000, "{seen:?}");
        assert!(seen.attempts >= 3.0, "while nobody waits they are tried again: {seen:?}");
    }
}

/// Where a quarter of all attempts fail most of what fails again may still succeed.
#[tokio::test(start_paused = true)]
async fn what_chance_has_failed_is_tried_again_though_others_wait() {
    let seen = play(1, 25).await;
    assert!(seen.failed <= CALLS / 1000, "{seen:?}");
}
