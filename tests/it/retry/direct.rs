//! Without tower: async and blocking.

use std::cell::{Cell, RefCell};
use std::io;
use std::time::Duration;

use buttress::retry::{Retry, RetryPolicy, RetryPolicyBuilder};
use buttress::{
    Backoff, Deadline, Error, FailureClass, LayerKind, Rejection, RejectionKind, RetryBudget,
    Verdict, classify_fn,
};
use futures_util::FutureExt;
use tokio::time::Instant;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn steady() -> RetryPolicyBuilder {
    RetryPolicy::builder().backoff(Backoff::constant(ms(100)))
}

fn retry(policy: RetryPolicyBuilder) -> Retry {
    Retry::new(policy.build().unwrap())
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

#[tokio::test(start_paused = true)]
async fn attempts_are_numbered_and_the_last_error_comes_back_itself() {
    let (start, seen) = (Instant::now(), RefCell::new(vec![]));
    let result = retry(steady())
        .run(|attempt| {
            seen.borrow_mut().push((attempt, start.elapsed()));
            async move {
                Err::<(), _>(io::Error::new(
                    io::ErrorKind::ConnectionReset,
                    format!("no {attempt}"),
                ))
            }
        })
        .await;
    assert_eq!(*seen.borrow(), [(1, ms(0)), (2, ms(100)), (3, ms(200))]);
    assert_eq!(result.unwrap_err().into_inner().unwrap().to_string(), "no 3");
}

#[tokio::test(start_paused = true)]
async fn a_slow_attempt_is_cut_off_and_a_deadline_kept() {
    let start = Instant::now();
    let result = retry(steady().attempt_timeout(ms(50)))
        .run(|attempt| async move {
            if attempt == 1 {
                std::future::pending::<()>().await;
            }
            Ok::<_, io::Error>(attempt)
        })
        .await;
    assert_eq!((result.unwrap(), start.elapsed()), (2, ms(150)));

    for (own, inherited, cut) in [(300, 900, 300), (900, 300, 300)] {
        let start = Instant::now();
        let error = retry(steady().deadline(ms(own)))
            .run_within(Deadline::after(ms(inherited)), |_| {
                std::future::pending::<Result<(), io::Error>>()
            })
            .await
            .unwrap_err();
        assert_eq!(error.rejection().unwrap().kind(), RejectionKind::DeadlineExceeded);
        assert_eq!(start.elapsed(), ms(cut));
    }

    let start = Instant::now();
    let error = retry(steady().deadline(ms(150))).run(|_| async { Err::<(), _>(reset()) }).await;
    assert!(matches!(error, Err(Error::Inner(_))));
    assert_eq!(start.elapsed(), ms(100), "the third attempt is not waited for");
}

#[test]
fn runs_can_be_spawned() {
    fn sendable(_: impl Send) {}
    let retry = retry(steady().attempt_timeout(ms(50)).deadline(ms(500)));
    sendable(retry.run(|_| async { Ok::<_, io::Error>(()) }));
    sendable(RetryPolicy::DEFAULT.run(|_| async { Ok::<_, io::Error>(()) }));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_run_gives_an_unsent_retry_back() {
    for (dropped_at, returned) in [(50, 1), (150, 0)] {
        let budget = RetryBudget::new("b");
        let run = retry(steady()).budget(budget.clone());
        let run = run.run(|attempt| async move {
            if attempt == 1 { Err::<(), _>(reset()) } else { std::future::pending().await }
        });
        assert!(tokio::time::timeout(ms(dropped_at), run).await.is_err());
        assert_eq!(budget.stats().returned, returned);
    }
}

#[tokio::test(start_paused = true)]
async fn runs_share_a_budget_and_nothing_else() {
    let shared = retry(steady());
    let failing = || shared.run(|_| async { Err::<(), _>(reset()) });
    let _ = futures_util::future::join(failing(), failing()).await;
    let budget = shared.retry_budget().unwrap();
    // Two tokens' worth at the start.
    assert_eq!((budget.stats().allowed, budget.stats().denied), (2, 2));
    let _ = shared.clone().run(|_| async { Err::<(), _>(reset()) }).await;
    assert_eq!(budget.stats().denied, 3);

    let policy = steady().unlimited_attempts().class_budget(FailureClass::Transient, 2);
    let unbounded = retry(policy.class_budget(FailureClass::Flaky, 0)).without_budget();
    let attempts = Cell::new(0);
    let count = |_| {
        attempts.set(attempts.get() + 1);
        async { Err::<(), _>(reset()) }
    };
    let _ = futures_util::future::join(unbounded.run(count), unbounded.run(count)).await;
    assert_eq!(attempts.get(), 6);
}

#[test]
fn blocking_runs_use_the_given_sleeper_and_the_policys_limits() {
    let slept = RefCell::new(vec![]);
    let backoff = Backoff::exponential(ms(10), ms(1000)).jitter(buttress::Jitter::None);
    let policy = RetryPolicy::builder().max_attempts(4).backoff(backoff).build().unwrap();
    let result = policy.run_blocking_with(
        |delay| slept.borrow_mut().push(delay),
        |n| Err::<(), _>(format!("no {n}")),
    );
    assert_eq!(result.unwrap_err(), "no 4");
    assert_eq!(*slept.borrow(), [ms(10), ms(20), ms(40)]);

    // `io::Error`s are looked into.
    let mut calls = 0;
    let denied = policy.run_blocking(|_| {
        calls += 1;
        Err::<(), _>(io::Error::from(io::ErrorKind::PermissionDenied))
    });
    assert_eq!((denied.unwrap_err().kind(), calls), (io::ErrorKind::PermissionDenied, 1));
}

#[test]
fn the_default_sleeper_really_waits() {
    let policy = RetryPolicy::builder().backoff(Backoff::constant(ms(3))).build().unwrap();
    // The clock of the runtime, as nothing here is paused.
    let start = Deadline::after(Duration::from_secs(60));
    let result = policy.run_blocking(|n| if n < 3 { Err(reset()) } else { Ok(n) });
    assert_eq!(result.unwrap(), 3);
    assert!(start.remaining() <= Duration::from_secs(60) - ms(6));
}

#[test]
fn a_panic_is_never_swallowed_even_with_a_budget_for_permanent_failures() {
    let policy = RetryPolicy::builder().class_budget(FailureClass::Permanent, 9).build().unwrap();
    let calls = Cell::new(0);
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        policy.run_blocking::<(), io::Error, _>(|_| {
            calls.set(calls.get() + 1);
            std::panic::resume_unwind(Box::new("stop"))
        })
    }));
    assert_eq!((ended.unwrap_err().downcast_ref::<&str>(), calls.get()), (Some(&"stop"), 1));
}

#[tokio::test(start_paused = true)]
async fn refusals_of_our_own_are_respected_here_too() {
    let everything = classify_fn(|result: Result<&(), &Rejection>| match result {
        Ok(()) => Verdict::success(),
        Err(_) => Verdict::failure(FailureClass::Transient),
    });
    let run = retry(steady()).classify(everything);
    let refuse =
        |kind| Rejection::new(kind, LayerKind::CircuitBreaker, "x").with_retry_after(ms(300));
    for (kind, calls, waited) in
        [(RejectionKind::CircuitOpen, 1, 0), (RejectionKind::RateLimited, 2, 300)]
    {
        let (start, count) = (Instant::now(), Cell::new(0));
        let _ = run
            .run(|attempt| {
                count.set(attempt);
                async move { if attempt == 1 { Err(refuse(kind)) } else { Ok(()) } }
            })
            .await;
        assert_eq!((count.get(), start.elapsed()), (calls, ms(waited)));
    }
}

#[tokio::test(start_paused = true)]
async fn seeded_jitter_repeats_itself() {
    let delays = |seed| async move {
        let backoff = Backoff::exponential(ms(1000), ms(10_000));
        let policy = RetryPolicy::builder().backoff(backoff).jitter_seed(seed).build().unwrap();
        let (start, at) = (Instant::now(), RefCell::new(vec![]));
        let _ = policy
            .run(|_| {
                at.borrow_mut().push(start.elapsed());
                async { Err::<(), _>(reset()) }
            })
            .await;
        at.into_inner()
    };
    assert_eq!(delays(1).await, delays(1).await);
    assert_ne!(delays(1).await, delays(2).await);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_overslept_its_deadline_makes_no_further_attempt() {
    let policy = RetryPolicy::builder()
        .backoff(Backoff::constant(ms(100)))
        .deadline(ms(200))
        .build()
        .unwrap();
    let calls = Cell::new(0);
    let run = policy.run(|n| {
        calls.set(n);
        async { Err::<(), _>(reset()) }
    });
    // The clock jumps while the run sleeps, as it does when the runtime was busy.
    let (ended, ()) = futures_util::future::join(run, tokio::time::advance(ms(500))).await;
    assert!(matches!(ended, Err(Error::Inner(_))));
    assert_eq!(calls.get(), 1);
}

#[test]
fn a_blocking_run_that_overslept_its_deadline_makes_no_further_attempt() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let policy = RetryPolicy::builder()
        .backoff(Backoff::constant(ms(100)))
        .deadline(ms(200))
        .build()
        .unwrap();
    let calls = Cell::new(0);
    let ended = policy.run_blocking_with(
        |delay| runtime.block_on(tokio::time::advance(delay + ms(500))),
        |n| {
            calls.set(n);
            Err::<(), _>(reset())
        },
    );
    assert!(ended.is_err());
    assert_eq!(calls.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn endless_runs_without_pause_let_others_run() {
    let policy =
        RetryPolicy::builder().max_attempts(10_000).backoff(Backoff::none()).build().unwrap();
    let calls = Cell::new(0);
    let mut run = std::pin::pin!(policy.run(|n| {
        calls.set(n);
        async { Err::<(), _>(reset()) }
    }));
    assert!(run.as_mut().now_or_never().is_none());
    assert!((10..1000).contains(&calls.get()), "{}", calls.get());
    assert!(run.await.is_err());
    assert_eq!(calls.get(), 10_000);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_inside_an_error_of_the_call_is_found_whatever_the_classifier_says() {
    let judge = classify_fn(|result: Result<&(), &Error<io::Error>>| match result {
        Ok(()) => Verdict::success(),
        Err(_) => Verdict::failure(FailureClass::Transient),
    });
    let open = || Rejection::new(RejectionKind::CircuitOpen, LayerKind::CircuitBreaker, "x");
    let calls = Cell::new(0);
    let retry = Retry::new(RetryPolicy::DEFAULT).classify(judge);
    let _ = retry
        .run(|n| {
            calls.set(n);
            async { Err::<(), _>(Error::Inner(io::Error::other(open()))) }
        })
        .await;
    assert_eq!(calls.get(), 1);
}
