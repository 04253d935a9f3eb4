//! The same objects without tower, async and blocking: `cargo run --example direct`.
//!
//! A limiter, a retry and a breaker around any function, here a database that is sometimes away. The
//! objects are cheap to clone, and clones share their state: async tasks, plain threads and tower layers
//! may use one breaker together.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
use buttress::rate_limit::RateLimiter;
use buttress::retry::{Retry, RetryPolicy};
use buttress::{Backoff, BoxError, Error, Quota, RejectionKind, RetryBudget};

/// Every fourth query fails, until it is shut down: then all of them do.
#[derive(Default)]
struct Database {
    queries: AtomicU32,
    down: AtomicBool,
}

impl Database {
    fn query(&self) -> io::Result<u32> {
        match self.queries.fetch_add(1, Relaxed) {
            _ if self.down.load(Relaxed) => Err(io::ErrorKind::ConnectionRefused.into()),
            n if n % 4 == 1 => Err(io::ErrorKind::ConnectionReset.into()),
            n => Ok(n),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let database = Database::default();

    let limiter = RateLimiter::new(Quota::per_second(20)?.burst(2)?);
    let breaker = CircuitBreaker::builder("database").open_for(Duration::from_secs(30)).build()?;
    let policy = RetryPolicy::builder()
        .max_attempts(4)
        .backoff(Backoff::exponential(Duration::from_millis(10), Duration::from_millis(100)))
        .deadline(Duration::from_secs(2))
        .build()?;
    let retry = Retry::new(policy).budget(RetryBudget::new("database"));

    // Async. Queries fail, calls do not.
    for call in 1..=5 {
        limiter.acquire().await?;
        let answer = retry.run(|_attempt| breaker.call(async || database.query())).await;
        println!("async call {call}: {answer:?}");
        assert!(answer.is_ok());
    }

    // Blocking, with the same objects, from a thread that knows nothing of a runtime.
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| -> Result<u32, BoxError> {
            limiter.acquire_blocking(Some(Duration::from_secs(1)))?;
            Ok(retry.run_blocking(|_attempt| breaker.call_blocking(|| database.query()))?)
        });
        let answer = caller.join().map_err(|_| "the caller panicked")?;
        println!("blocking call: {answer:?}");
        answer
    })?;

    // The database goes away. Five failures in a row, then nobody asks any more.
    database.down.store(true, Relaxed);
    let before = database.queries.load(Relaxed);
    for _ in 0..100 {
        let _ = breaker.call(async || database.query()).await;
    }
    println!("100 calls to a dead database: {} queries", database.queries.load(Relaxed) - before);
    match breaker.call(async || database.query()).await {
        Err(Error::Rejected(why)) => {
            println!("refused: {why}");
            assert_eq!(why.kind(), RejectionKind::CircuitOpen);
        }
        other => return Err(format!("the circuit should be open, not {other:?}").into()),
    }
    println!("breaker: {}, {}", breaker.state(), breaker.snapshot().reason);
    println!("limiter: {:?}", limiter.stats());
    assert_eq!(breaker.state(), CircuitState::Open);
    assert_eq!(database.queries.load(Relaxed) - before, 5);
    Ok(())
}
