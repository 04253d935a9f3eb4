use std::io;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::observe::{Event, EventKind};
use buttress::retry::{
    Replay, RetryLayer, RetryOverride, RetryPolicy, RetryPolicyBuilder, RetryService,
};
use buttress::{
    AnyError, Backoff, BoxError, ClassifyFn, Deadline, FailureClass, LayerKind, Outcome, Rejection,
    RejectionKind, RetryBudget, RetryHint, Verdict, classify_fn,
};
use futures_util::FutureExt;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};

use super::script::{Answer, Step, boxed, reset, script};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A pause of 100 ms, without jitter.
fn steady() -> RetryPolicyBuilder {
    RetryPolicy::builder().backoff(Backoff::constant(ms(100)))
}

fn layer(policy: RetryPolicyBuilder) -> RetryLayer {
    RetryLayer::new(policy.build().unwrap())
}

type Status = ClassifyFn<fn(Result<&Answer, &BoxError>) -> Verdict>;

/// 503 is transient, 429 throttled, 500 flaky, 404 permanent; errors are transient, rejections too.
fn by_status() -> Status {
    classify_fn(|result: Result<&Answer, &BoxError>| match result.map(|answer| answer.status) {
        Ok(503) | Err(_) => Verdict::failure(FailureClass::Transient),
        Ok(500) => Verdict::failure(FailureClass::Flaky),
        Ok(404) => Verdict::failure(FailureClass::Permanent),
        Ok(429) => Verdict::throttled(None),
        Ok(_) => Verdict::success(),
    })
}

async fn call<S>(service: &mut S) -> Result<Answer, BoxError>
where
    S: Service<u32, Response = Answer, Error = BoxError>,
{
    service.ready().await?.call(7).await
}

fn kind(error: &BoxError) -> io::ErrorKind {
    error.downcast_ref::<io::Error>().unwrap().kind()
}

fn rejection(error: &BoxError) -> RejectionKind {
    Rejection::find(&**error).unwrap().kind()
}

#[tokio::test(start_paused = true)]
async fn a_response_is_dropped_before_the_pause_and_the_same_instance_is_asked_again() {
    let (inner, director) = script([Step::Ok(503), Step::Ok(503), Step::Ok(200)]);
    let mut service = layer(steady()).classify(by_status()).layer(inner);
    assert_eq!(call(&mut service).await.unwrap().status, 200);
    assert_eq!(
        director.log(),
        [
            "0 ready #0",
            "0 call #0",
            "0 drop 503",
            "100 ready #0",
            "100 call #0",
            "100 drop 503",
            "200 ready #0",
            "200 call #0",
            "200 drop 200",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn errors_and_error_responses_are_retried_until_the_attempts_are_used_up() {
    let (inner, director) = script([reset(), reset(), reset()]);
    let error = call(&mut layer(steady()).layer(inner)).await.unwrap_err();
    assert_eq!(kind(&error), io::ErrorKind::ConnectionReset);
    assert_eq!(director.calls(), 3);

    let (inner, director) = script([Step::Ok(503), Step::Ok(500), Step::Ok(503)]);
    let mut service = layer(steady()).classify(by_status()).layer(inner);
    assert_eq!(call(&mut service).await.unwrap().status, 503, "the last response itself");
    assert_eq!(director.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn permanent_failures_and_successes_are_not_retried() {
    for status in [200, 404] {
        let (inner, director) = script([Step::Ok(status)]);
        let mut service = layer(steady()).classify(by_status()).layer(inner);
        assert_eq!(call(&mut service).await.unwrap().status, status);
        assert_eq!(director.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn each_limit_holds_and_counters_are_per_call() {
    let policy = || {
        steady()
            .max_attempts(6)
            .class_budget(FailureClass::Transient, 3)
            .class_budget(FailureClass::Flaky, 1)
            .class_budget(FailureClass::Permanent, 1)
    };
    for (statuses, calls) in [
        (vec![503; 9], 4),
        (vec![500; 9], 2),
        (vec![404; 9], 2),
        (vec![503, 500, 503, 503, 404, 503], 6),
        (vec![503, 500, 500], 3),
    ] {
        let (inner, director) = script(statuses.iter().map(|status| Step::Ok(*status)));
        let mut service = layer(policy()).without_budget().classify(by_status()).layer(inner);
        call(&mut service).await.unwrap();
        assert_eq!(director.calls(), calls, "{statuses:?}");
    }

    // One policy used by many calls at once: none takes another's retries away.
    let (inner, director) = script((0..40).map(|_| Step::Ok(503)));
    let service = layer(policy()).without_budget().classify(by_status()).layer(inner);
    let calls = (0..10).map(|n| service.clone().oneshot(n));
    futures_util::future::join_all(calls).await;
    assert_eq!(director.calls(), 40);
}

#[tokio::test(start_paused = true)]
async fn calls_that_may_have_taken_effect_are_retried_only_if_told_to() {
    let unsure = || {
        classify_fn(|_: Result<&Answer, &BoxError>| {
            Verdict::failure(FailureClass::Transient).with_retry(RetryHint::Unknown { after: None })
        })
    };
    for (told, calls) in [(false, 1), (true, 3)] {
        let (inner, director) = script([]);
        let mut service = layer(steady().retry_unsafe(told)).classify(unsure()).layer(inner);
        call(&mut service).await.unwrap();
        assert_eq!(director.calls(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_retries_hold_their_budget() {
    let budget = RetryBudget::builder("b").floor(2).burst(2).ratio(1e-6).build().unwrap();
    let (inner, director) = script([reset(), reset(), reset()]);
    let service = layer(steady()).budget(budget.clone()).layer(inner);
    let mut calls = futures_util::future::join_all((0..3).map(|n| service.clone().oneshot(n)));
    assert!(tokio::time::timeout(ms(50), &mut calls).await.is_err());
    // Two wait in backoff and have sent nothing; the third was refused all the same.
    assert_eq!(director.calls(), 3);
    assert_eq!((budget.stats().allowed, budget.stats().denied), (2, 1));
    let ended = calls.await;
    assert_eq!(ended.iter().filter(|r| r.is_ok()).count(), 2);
    assert_eq!(budget.stats().succeeded, 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_before_its_retry_is_sent_gives_it_back_and_after_that_pays() {
    // Dropped after this many milliseconds: in backoff, while not ready, in flight.
    for (dropped_at, returned, tokens) in [(50, 1, 28), (105, 1, 28), (130, 0, 14)] {
        let budget = RetryBudget::new("b");
        let before = budget.stats();
        let (inner, director) = script([reset(), Step::Never]);
        let mut service = layer(steady()).budget(budget.clone()).layer(inner);
        let response = service.ready().await.unwrap().call(1);
        director.readiness([false, false]);
        assert!(tokio::time::timeout(ms(dropped_at), response).await.is_err());
        let stats = budget.stats();
        assert_eq!((stats.returned, stats.tokens), (returned, tokens), "at {dropped_at}");
        // The first attempt's deposit stays; the retry's credit comes back if it was not sent.
        let credit = before.credit + 0.2 - if returned == 1 { 0.0 } else { 1.0 };
        assert!((stats.credit - credit).abs() < 1e-9, "at {dropped_at}: {stats:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn panics_pass_through_and_leave_the_budget_whole() {
    // The retry's own call panics: it was not sent.
    let budget = RetryBudget::new("b");
    let (inner, director) = script([reset(), Step::Panic]);
    let mut service = layer(steady()).budget(budget.clone()).layer(inner);
    let ended = std::panic::AssertUnwindSafe(call(&mut service)).catch_unwind().await;
    assert!(ended.is_err());
    assert_eq!(
        (budget.stats().allowed, budget.stats().returned, budget.stats().tokens),
        (1, 1, 28)
    );
    director.then([reset()]);
    assert!(call(&mut service).await.is_ok(), "the service goes on");

    // The classifier panics at the second result.
    let budget = RetryBudget::new("b");
    let (inner, _director) = script([Step::Ok(503), Step::Ok(1)]);
    let moody = classify_fn(|result: Result<&Answer, &BoxError>| match result.unwrap().status {
        1 => std::panic::resume_unwind(Box::new("moody")),
        503 => Verdict::failure(FailureClass::Transient),
        _ => Verdict::success(),
    });
    let mut service = layer(steady()).budget(budget.clone()).classify(moody).layer(inner);
    let ended = std::panic::AssertUnwindSafe(call(&mut service)).catch_unwind().await;
    assert!(ended.is_err());
    // It was sent and nobody can tell how it ended: paid.
    assert_eq!((budget.stats().returned, budget.stats().tokens), (0, 14));
    assert!(call(&mut service).await.is_ok());

    // Copying the request for a third attempt panics.
    let budget = RetryBudget::new("b");
    let (inner, _director) = script([reset(), reset()]);
    let copies = Arc::new(Mutex::new(0));
    let mut service = layer(steady())
        .budget(budget.clone())
        .replay(move |n: &u32| {
            let mut copies = copies.lock().unwrap();
            *copies += 1;
            if *copies == 2 {
                drop(copies);
                std::panic::resume_unwind(Box::new("no more"));
            }
            Some(*n)
        })
        .layer(inner);
    let ended = std::panic::AssertUnwindSafe(call(&mut service)).catch_unwind().await;
    assert!(ended.is_err());
    assert_eq!((budget.stats().returned, budget.stats().tokens), (1, 28));

    // A panic in an observer is not the call's affair.
    let (inner, _director) = script([reset()]);
    let mut service = layer(steady())
        .observe(|_: &Event<'_>| std::panic::resume_unwind(Box::new("not my day")))
        .layer(inner);
    assert!(call(&mut service).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_classifier_panicked_is_over() {
    let polls = Arc::new(AtomicU32::new(0));
    for answer in [Ok(1), Err(io::ErrorKind::ConnectionReset)] {
        let bad = classify_fn(|_: Result<&u32, &io::Error>| -> Verdict {
            std::panic::resume_unwind(Box::new("classifier"))
        });
        let inner = tower::service_fn(|_: u32| {
            crate::support::counting_polls(&polls, move || answer.map_err(io::Error::from))
        });
        let mut service = layer(steady()).classify(bad).layer(inner);
        polls.store(0, Relaxed);
        crate::support::poll_twice_into_a_panic(service.call(7));
        assert_eq!(polls.load(Relaxed), 1, "the attempt had ended");
    }
}

#[tokio::test(start_paused = true)]
async fn no_attempt_is_started_that_could_not_finish_before_the_deadline() {
    let backoff = Backoff::constant(ms(100));
    for (deadline, expected, calls) in [
        (250, None, 3),
        (201, None, 3),
        (200, None, 2),
        (150, None, 2),
        (101, None, 2),
        (250, Some(50), 3),
        (249, Some(50), 2),
        (150, Some(51), 1),
    ] {
        let mut policy = RetryPolicy::builder().backoff(backoff).deadline(ms(deadline));
        if let Some(expected) = expected {
            policy = policy.expected_attempt_time(ms(expected));
        }
        let (inner, director) = script([reset(), reset(), reset()]);
        let start = Instant::now();
        let error = call(&mut layer(policy).layer(inner)).await.unwrap_err();
        assert_eq!(kind(&error), io::ErrorKind::ConnectionReset, "the last error itself");
        assert_eq!(director.calls(), calls, "deadline {deadline}, expected {expected:?}");
        let paused = 100 * (calls as u64 - 1);
        assert_eq!(start.elapsed(), ms(paused), "returned at once");
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_cuts_an_attempt_off_and_is_never_extended() {
    for steps in
        [vec![Step::Never], vec![reset().after(200), Step::Never], vec![Step::Ok(200).after(1001)]]
    {
        let budget = RetryBudget::new("b");
        let (inner, _) = script(steps);
        let start = Instant::now();
        let mut service =
            layer(steady().deadline(ms(1000))).name("shop").budget(budget.clone()).layer(inner);
        let error = call(&mut service).await.unwrap_err();
        let rejection = Rejection::find(&*error).unwrap();
        assert_eq!(rejection.kind(), RejectionKind::DeadlineExceeded);
        assert_eq!((rejection.layer(), rejection.name()), (LayerKind::Retry, "shop"));
        assert_eq!(start.elapsed(), ms(1000));
    }
}

#[tokio::test(start_paused = true)]
async fn the_earlier_of_two_deadlines_holds_and_one_that_has_passed_is_not_called() {
    for (own, inherited, cut) in [(1000, 300, 300), (300, 1000, 300)] {
        let (inner, _) = script([Step::Never]);
        let start = Instant::now();
        let by = Deadline::after(ms(inherited));
        let mut service =
            layer(steady().deadline(ms(own))).deadlines(move |_: &u32| Some(by)).layer(inner);
        assert_eq!(
            rejection(&call(&mut service).await.unwrap_err()),
            RejectionKind::DeadlineExceeded
        );
        assert_eq!(start.elapsed(), ms(cut));
    }
    let (inner, director) = script([]);
    let passed = Deadline::after(Duration::ZERO);
    let mut service = layer(steady()).deadlines(move |_: &u32| Some(passed)).layer(inner);
    assert_eq!(rejection(&call(&mut service).await.unwrap_err()), RejectionKind::DeadlineExceeded);
    assert_eq!(director.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn slow_attempts_are_cut_off_and_retried() {
    let (inner, director) = script([Step::Never, reset().after(200), Step::Ok(200).after(299)]);
    let start = Instant::now();
    let mut service = layer(steady().attempt_timeout(ms(300))).layer(inner);
    assert_eq!(call(&mut service).await.unwrap().status, 200);
    assert_eq!(start.elapsed(), ms(300 + 100 + 200 + 100 + 299));
    assert_eq!(director.calls(), 3);

    let (inner, director) = script([Step::Never, Step::Never, Step::Never]);
    let start = Instant::now();
    let mut service = layer(steady().attempt_timeout(ms(300))).layer(inner);
    assert_eq!(rejection(&call(&mut service).await.unwrap_err()), RejectionKind::DeadlineExceeded);
    assert_eq!((start.elapsed(), director.calls()), (ms(1100), 3));
}

fn asking_for(
    after: Duration,
) -> ClassifyFn<impl Fn(Result<&Answer, &BoxError>) -> Verdict + Clone> {
    classify_fn(move |result: Result<&Answer, &BoxError>| match result {
        Ok(answer) if answer.status == 429 => Verdict::throttled(Some(after)),
        _ => Verdict::success(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_wish_for_later_is_honoured_and_spread_but_parks_nobody() {
    // (wish, policy, calls, least wait, most wait) in milliseconds.
    let jittered = || RetryPolicy::builder().backoff(Backoff::exponential(ms(100), ms(1000)));
    let hour = 3_600_000;
    for (wish, policy, calls, least, most) in [
        (2000, steady(), 2, 2000, 2000),
        (10, steady(), 2, 100, 100),
        (2000, jittered(), 2, 2000, 2101),
        (0, jittered(), 2, 0, 101),
        (10_000, jittered(), 2, 10_000, 10_101),
        (10_001, jittered(), 1, 0, 0),
        (u64::MAX, jittered(), 1, 0, 0),
        (hour, jittered().max_retry_after(ms(2 * hour)), 2, hour, hour + 101),
        (hour, jittered().max_retry_after(ms(2 * hour)).deadline(ms(5000)), 1, 0, 0),
        (2000, steady().deadline(ms(2000)), 1, 0, 0),
        (2000, steady().deadline(ms(2001)), 2, 2000, 2000),
        (hour, steady().ignore_retry_after(), 2, 100, 100),
    ] {
        let (inner, director) = script([Step::Ok(429)]);
        let start = Instant::now();
        let wish = if wish == u64::MAX { Duration::MAX } else { ms(wish) };
        let mut service = layer(policy).classify(asking_for(wish)).layer(inner);
        let status = call(&mut service).await.unwrap().status;
        assert_eq!(director.calls(), calls, "{wish:?} {policy:?}");
        assert_eq!(status, if calls == 1 { 429 } else { 200 });
        let waited = start.elapsed();
        assert!(ms(least) <= waited && waited <= ms(most), "{wish:?} {policy:?}: {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn our_own_refusals_are_final_unless_they_say_when_to_come_back() {
    let refusal = |kind, after: Option<u64>| {
        let refusal = Rejection::new(kind, LayerKind::Custom("x"), "x");
        match after {
            Some(after) => refusal.with_retry_after(ms(after)),
            None => refusal,
        }
    };
    for (refusal, calls, waited) in [
        (refusal(RejectionKind::CircuitOpen, Some(10)), 1, 0),
        (refusal(RejectionKind::Overloaded, None), 1, 0),
        (refusal(RejectionKind::BudgetExhausted, Some(10)), 1, 0),
        (refusal(RejectionKind::RateLimited, None), 1, 0),
        (refusal(RejectionKind::RateLimited, Some(700)), 2, 700),
        (refusal(RejectionKind::RateLimited, Some(1000)), 1, 0),
        (refusal(RejectionKind::Draining, None), 2, 100),
        (refusal(RejectionKind::Injected, None), 2, 100),
    ] {
        // Whatever the classifier makes of it: `by_status` calls every error transient.
        for wrapped in [false, true] {
            let step = || {
                if wrapped {
                    boxed(io::Error::other(refusal.clone()))
                } else {
                    boxed(refusal.clone())
                }
            };
            for ours in [true, false] {
                let (inner, director) = script([step()]);
                let start = Instant::now();
                let layer = layer(steady().deadline(ms(1000)));
                if ours {
                    drop(call(&mut layer.layer(inner)).await);
                } else {
                    drop(call(&mut layer.classify(by_status()).layer(inner)).await);
                }
                assert_eq!(director.calls(), calls, "{refusal}, wrapped {wrapped}, ours {ours}");
                assert_eq!(start.elapsed(), ms(waited), "{refusal}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_a_layer_inside_refuses_is_not_paid() {
    use {LayerKind as L, RejectionKind as K};
    for (kind, by, returned) in [
        (K::CircuitOpen, L::CircuitBreaker, 1),
        (K::RateLimited, L::RateLimit, 1),
        (K::Overloaded, L::Custom("bulkhead"), 1),
        // It may have been reached, or is said to have been.
        (K::DeadlineExceeded, L::Custom("timeout"), 0),
        (K::Overloaded, L::Retry, 0),
        (K::Injected, L::Conditioner, 0),
    ] {
        for custom in [false, true] {
            let budget = RetryBudget::new("b");
            let (inner, director) = script([reset(), boxed(Rejection::new(kind, by, "x"))]);
            let layer = layer(steady().max_attempts(2)).budget(budget.clone());
            let ended = if custom {
                call(&mut layer.classify(by_status()).layer(inner)).await
            } else {
                call(&mut layer.layer(inner)).await
            };
            assert_eq!((rejection(&ended.unwrap_err()), director.calls()), (kind, 2));
            let stats = budget.stats();
            assert_eq!(stats.returned, returned, "{kind:?} by {by:?}, custom {custom}");
            assert_eq!(stats.tokens, if returned == 1 { 28 } else { 14 });
            let credit = if returned == 1 { 3.2 } else { 2.2 };
            assert!((stats.credit - credit).abs() < 1e-9, "{stats:?}");
        }
    }
    // One that can be tried again is asked for anew.
    let budget = RetryBudget::new("b");
    let full = Rejection::new(K::RateLimited, L::RateLimit, "x").with_retry_after(ms(200));
    let (inner, director) = script([reset(), boxed(full)]);
    call(&mut layer(steady()).budget(budget.clone()).layer(inner)).await.unwrap();
    let stats = budget.stats();
    assert_eq!((director.calls(), stats.allowed, stats.returned), (3, 2, 1));
    assert_eq!((stats.succeeded, stats.tokens), (1, 28));
}

#[tokio::test(start_paused = true)]
async fn deaf_to_the_callee_is_not_deaf_to_our_own_limiter() {
    let refused = |after| {
        let refusal = Rejection::new(RejectionKind::RateLimited, LayerKind::RateLimit, "x");
        boxed(refusal.with_retry_after(ms(after)))
    };
    for (after, deadline, calls, waited) in
        [(700, 1000, 2, 700), (700, 600, 1, 0), (10_000, 60_000, 2, 10_000), (10_001, 60_000, 1, 0)]
    {
        for custom in [false, true] {
            let (inner, director) = script([refused(after)]);
            let layer = layer(steady().deadline(ms(deadline)).ignore_retry_after());
            let start = Instant::now();
            if custom {
                // It calls the refusal a failure, and for at once.
                drop(call(&mut layer.classify(by_status()).layer(inner)).await);
            } else {
                drop(call(&mut layer.layer(inner)).await);
            }
            assert_eq!((director.calls(), start.elapsed()), (calls, ms(waited)), "{custom}");
        }
    }
    // A wish of the classifier's does not make it come sooner.
    let (inner, director) = script([refused(700)]);
    let hasty = classify_fn(|result: Result<&Answer, &BoxError>| match result {
        Ok(_) => Verdict::success(),
        Err(_) => Verdict::throttled(Some(ms(200))),
    });
    let start = Instant::now();
    call(&mut layer(steady()).classify(hasty).layer(inner)).await.unwrap();
    assert_eq!((director.calls(), start.elapsed()), (2, ms(700)));
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_readiness_as_long_as_the_deadline_or_not_at_all() {
    // Ready after 30 ms.
    let (inner, director) = script([reset()]);
    let mut service = layer(steady()).layer(inner);
    let response = service.ready().await.unwrap().call(1);
    director.readiness([false; 3]);
    let start = Instant::now();
    assert_eq!(response.await.unwrap().status, 200);
    assert_eq!(start.elapsed(), ms(130));

    // Not ready in time. The error of the attempt before, or a refusal where that was a response.
    for (step, in_time) in
        [(reset(), true), (Step::Ok(503), true), (reset(), false), (Step::Ok(503), false)]
    {
        let budget = RetryBudget::new("b");
        let was_response = matches!(step, Step::Ok(_));
        let (inner, director) = script([step]);
        let policy =
            if in_time { steady().deadline(ms(150)) } else { steady().give_up_if_not_ready(true) };
        let mut service = layer(policy).budget(budget.clone()).classify(by_status()).layer(inner);
        let response = service.ready().await.unwrap().call(1);
        director.readiness([false; 1000]);
        let start = Instant::now();
        let error = response.await.unwrap_err();
        assert_eq!(start.elapsed(), ms(if in_time { 150 } else { 100 }));
        match (was_response, in_time) {
            (false, _) => assert_eq!(kind(&error), io::ErrorKind::ConnectionReset),
            (true, true) => assert_eq!(rejection(&error), RejectionKind::DeadlineExceeded),
            (true, false) => assert_eq!(rejection(&error), RejectionKind::Overloaded),
        }
        assert_eq!((director.calls(), budget.stats().returned), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_readiness_no_longer_than_for_an_attempt() {
    for (step, deadline, waited) in [
        (reset(), None, 130),
        (Step::Ok(503), None, 130),
        (Step::Ok(503), Some(ms(500)), 130),
        (Step::Ok(503), Some(ms(120)), 120),
    ] {
        let budget = RetryBudget::new("b");
        let was_response = matches!(step, Step::Ok(_));
        let (inner, director) = script([step]);
        let mut policy = steady().attempt_timeout(ms(30));
        if let Some(deadline) = deadline {
            policy = policy.deadline(deadline);
        }
        let mut service = layer(policy).budget(budget.clone()).classify(by_status()).layer(inner);
        let response = service.ready().await.unwrap().call(1);
        director.readiness([false; 1000]);
        let start = Instant::now();
        let error = tokio::time::timeout(ms(5000), response).await.expect("bounded").unwrap_err();
        assert_eq!(start.elapsed(), ms(waited));
        if !was_response {
            assert_eq!(kind(&error), io::ErrorKind::ConnectionReset);
        } else if waited == 120 {
            assert_eq!(rejection(&error), RejectionKind::DeadlineExceeded);
        } else {
            assert_eq!(rejection(&error), RejectionKind::Overloaded);
        }
        assert_eq!((director.calls(), budget.stats().returned), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn services_of_one_layer_and_layers_with_one_budget_share_it() {
    async fn spend<S>(mut service: S)
    where
        S: Service<u32, Response = Answer, Error = BoxError>,
    {
        drop(call(&mut service).await);
    }
    let failing = || script((0..100).map(|_| reset()));
    let one = layer(steady());
    let own = one.retry_budget().unwrap().clone();
    spend(one.layer(failing().0)).await;
    spend(one.layer(failing().0).clone()).await;
    spend(one.clone().layer(failing().0)).await;
    assert_eq!((own.stats().allowed, own.stats().denied), (2, 2));

    let shared = RetryBudget::new("shared");
    for _ in 0..2 {
        spend(layer(steady()).budget(shared.clone()).layer(failing().0)).await;
    }
    assert_eq!((shared.stats().allowed, shared.stats().denied), (2, 1));
    // Another layer without a named budget has its own.
    let (inner, director) = failing();
    spend(layer(steady()).layer(inner)).await;
    assert_eq!(director.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_pays_in_and_a_retry_that_works_is_refunded() {
    let budget = RetryBudget::new("b");
    let (inner, _) =
        script([Step::Ok(200), Step::Ok(503), Step::Ok(200), Step::Ok(404), Step::Ok(429)]);
    let mut service = layer(steady()).budget(budget.clone()).classify(by_status()).layer(inner);
    let mut after = vec![];
    for _ in 0..4 {
        call(&mut service).await.unwrap();
        after.push(format!("{} {:.1}", budget.stats().tokens, budget.stats().credit));
    }
    // A success; a retry that worked; a permanent failure; a throttled call, retried.
    assert_eq!(after, ["29 3.2", "29 2.4", "29 2.6", "29 1.8"]);
}

#[test]
fn pauses_of_zero_and_answers_at_once_need_no_timer_and_no_runtime() {
    let start_in_runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (inner, director) = script([reset(), reset()]);
    drop(start_in_runtime);
    let policy = RetryPolicy::builder()
        .backoff(Backoff::none())
        .attempt_timeout(ms(10))
        .deadline(ms(60_000));
    let mut service = layer(policy).layer(inner);
    // Neither timers nor a reactor exist here.
    let answer = service.ready().now_or_never().unwrap().unwrap().call(1).now_or_never().unwrap();
    assert_eq!(answer.unwrap().status, 200);
    assert_eq!(director.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn endless_retries_without_pause_let_others_run() {
    let (inner, director) = script((0..10_000).map(|_| reset()));
    let policy = RetryPolicy::builder().max_attempts(10_000).backoff(Backoff::none());
    let mut service = layer(policy).without_budget().layer(inner);
    let mut response = service.ready().await.unwrap().call(1);
    assert!((&mut response).now_or_never().is_none());
    assert!((10..1000).contains(&director.calls()), "{}", director.calls());
    assert!(response.await.is_err());
    assert_eq!(director.calls(), 10_000);
}

#[tokio::test(start_paused = true)]
async fn a_request_can_bring_exceptions() {
    for (exception, calls) in [
        (RetryOverride::new(), 3),
        (RetryOverride::never(), 1),
        (RetryOverride::new().max_attempts(NonZeroU32::MIN), 1),
        (RetryOverride::new().max_attempts(NonZeroU32::new(5).unwrap()), 5),
        (RetryOverride::new().class_budget(FailureClass::Transient, 0), 1),
        (RetryOverride::new().class_budget(FailureClass::Transient, 6), 7),
        (RetryOverride::new().class_budget(FailureClass::Flaky, 0), 6),
    ] {
        let (inner, director) = script((0..20).map(|_| reset()));
        let mut service =
            layer(steady()).without_budget().overrides(move |_: &u32| Some(exception)).layer(inner);
        call(&mut service).await.unwrap_err();
        assert_eq!(director.calls(), calls, "{exception:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_copied_is_sent_once() {
    let (inner, director) = script([reset()]);
    let reasons = Arc::new(Mutex::new(vec![]));
    let sink = Arc::clone(&reasons);
    let mut service = layer(steady())
        .replay(|_: &u32| None)
        .observe(move |event: &Event<'_>| {
            if let EventKind::RetryAbandoned { reason, .. } = event.kind {
                sink.lock().unwrap().push(reason);
            }
        })
        .layer(inner);
    call(&mut service).await.unwrap_err();
    assert_eq!(director.calls(), 1);
    assert_eq!(*reasons.lock().unwrap(), ["not_replayable"]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_lost_in_the_pause_is_not_called_late() {
    /// Can be sent when the response is given up, and no more when the retry is due.
    #[derive(Clone)]
    struct Outgrown(Instant);
    impl Replay<u32> for Outgrown {
        fn try_replay(&self, n: &u32) -> Option<u32> {
            Some(*n)
        }
        fn can_send(&self, _: &u32) -> bool {
            self.0.elapsed() < ms(50)
        }
    }
    for (step, was_response) in [(Step::Ok(503), true), (reset(), false)] {
        let budget = RetryBudget::new("b");
        let (inner, director) = script([step]);
        let mut service = layer(steady())
            .budget(budget.clone())
            .classify(by_status())
            .replay(Outgrown(Instant::now()))
            .layer(inner);
        let error = call(&mut service).await.unwrap_err();
        if was_response {
            let refusal = Rejection::find(&*error).unwrap();
            assert_eq!(refusal.kind(), RejectionKind::Overloaded);
            let source = std::error::Error::source(refusal).unwrap().to_string();
            assert_eq!(source, "the request can no longer be sent again");
        } else {
            assert_eq!(kind(&error), io::ErrorKind::ConnectionReset);
        }
        assert_eq!((director.calls(), budget.stats().returned), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn copies_are_made_only_for_attempts_that_another_can_follow() {
    let copies = Arc::new(Mutex::new(0));
    for (policy, expected) in [(steady(), 2), (steady().max_attempts(1), 0)] {
        let count = Arc::clone(&copies);
        *copies.lock().unwrap() = 0;
        let (inner, director) = script([reset(), reset(), reset()]);
        let replay = move |n: &u32| {
            *count.lock().unwrap() += 1;
            Some(n + 1)
        };
        call(&mut layer(policy).replay(replay).layer(inner)).await.unwrap_err();
        assert_eq!(*copies.lock().unwrap(), expected);
        assert_eq!(director.requests(), (7..8 + expected).collect::<Vec<u32>>());
    }
}

/// The mark says that no third attempt may follow, not that the second cannot be sent.
#[tokio::test(start_paused = true)]
async fn a_closure_that_marks_its_copies_is_retried_once() {
    for step in [Step::Ok(503), reset()] {
        let (inner, director) = script([step, Step::Ok(503), Step::Ok(503)]);
        let once = |n: &u32| (*n < 100).then_some(n + 100);
        let _ = call(&mut layer(steady()).classify(by_status()).replay(once).layer(inner)).await;
        assert_eq!(director.requests(), [7, 107]);
    }
}

#[tokio::test(start_paused = true)]
async fn each_decision_is_told_with_its_reason() {
    type Told = Vec<(&'static str, u32, Option<u128>, &'static str)>;
    async fn told(
        steps: Vec<Step>,
        make: impl FnOnce(RetryLayer<Status>) -> RetryLayer<Status>,
        policy: RetryPolicyBuilder,
    ) -> Told {
        let log = Arc::new(Mutex::new(vec![]));
        let sink = Arc::clone(&log);
        let (inner, _) = script(steps);
        let layer = make(layer(policy).classify(by_status())).name("shop").observe(
            move |event: &Event<'_>| {
                assert_eq!((event.layer, event.name.as_str()), (LayerKind::Retry, "shop"));
                sink.lock().unwrap().push(match event.kind {
                    EventKind::Retried { attempt, delay, outcome } => {
                        (outcome.as_str(), attempt, Some(delay.as_millis()), "")
                    }
                    EventKind::RetryAbandoned { attempts, reason, outcome } => {
                        (outcome.as_str(), attempts, None, reason)
                    }
                    _ => panic!("{event:?}"),
                });
            },
        );
        let mut service = layer.layer(inner);
        drop(service.ready().await.unwrap().call(1).await);
        Arc::try_unwrap(log)
            .map_or_else(|log| log.lock().unwrap().clone(), |log| log.into_inner().unwrap())
    }
    let all = || vec![Step::Ok(503), Step::Ok(429), Step::Ok(503)];
    assert_eq!(told(vec![], |l| l, steady()).await, []);
    assert_eq!(
        told(all(), |l| l, steady()).await,
        [
            ("failure", 1, Some(100), ""),
            ("throttled", 2, Some(100), ""),
            ("failure", 3, None, "attempts"),
        ]
    );
    let once = |reason| [("failure", 1, None, reason)];
    assert_eq!(told(vec![Step::Ok(404)], |l| l, steady()).await, once("not_retryable"));
    let none_left = RetryBudget::builder("b").initial_tokens(0).build().unwrap();
    assert_eq!(told(all(), |l| l.budget(none_left), steady()).await, once("budget"));
    let budgets = steady().class_budget(FailureClass::Transient, 0);
    assert_eq!(told(all(), |l| l, budgets).await, once("class_budget"));
    let policy = steady().deadline(ms(150)).expected_attempt_time(ms(60));
    assert_eq!(told(all(), |l| l, policy).await, once("deadline"));
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_passes_through() {
    #[derive(Clone)]
    struct Broken(u32);
    impl Service<u32> for Broken {
        type Response = Answer;
        type Error = BoxError;
        type Future = std::future::Ready<Result<Answer, BoxError>>;
        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), BoxError>> {
            self.0 += 1;
            std::task::Poll::Ready(if self.0 == 1 { Ok(()) } else { Err("dead".into()) })
        }
        fn call(&mut self, _: u32) -> Self::Future {
            std::future::ready(Err(io::Error::from(io::ErrorKind::ConnectionReset).into()))
        }
    }
    let budget = RetryBudget::new("b");
    let told = Arc::new(Mutex::new(vec![]));
    let sink = Arc::clone(&told);
    let mut service = layer(steady())
        .budget(budget.clone())
        .observe(move |event: &Event<'_>| {
            sink.lock().unwrap().push(match event.kind {
                EventKind::Retried { attempt, .. } => (attempt, "retried"),
                EventKind::RetryAbandoned { attempts, reason, .. } => (attempts, reason),
                _ => panic!("{event:?}"),
            });
        })
        .layer(Broken(0));
    let error = call(&mut service).await.unwrap_err();
    assert_eq!(error.to_string(), "dead");
    assert_eq!(budget.stats().returned, 1);
    assert_eq!(*told.lock().unwrap(), [(1, "retried"), (1, "not_ready")]);
}

#[tokio::test(start_paused = true)]
async fn everything_is_let_go_when_the_answer_is_there() {
    let held = Arc::new(());
    #[derive(Clone)]
    struct Holding(#[expect(dead_code, reason = "held only")] Arc<()>);
    impl Service<u32> for Holding {
        type Response = ();
        type Error = BoxError;
        type Future = std::future::Ready<Result<(), BoxError>>;
        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), BoxError>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: u32) -> Self::Future {
            std::future::ready(Ok(()))
        }
    }
    let mut service = layer(steady()).layer(Holding(Arc::clone(&held)));
    let mut response = service.ready().await.unwrap().call(1);
    assert_eq!(Arc::strong_count(&held), 3);
    (&mut response).await.unwrap();
    assert_eq!(Arc::strong_count(&held), 2, "the finished future still holds the service");
}

#[test]
fn services_can_go_anywhere_and_futures_stay_small() {
    fn anywhere<T: Send + Sync + Clone + 'static>(_: &T) {}
    fn sendable<T: Send + 'static>(_: &T) -> usize {
        std::mem::size_of::<T>()
    }
    let service: RetryService<_> =
        layer(steady()).layer(tower::service_fn(|n: u32| std::future::ready(Ok::<_, BoxError>(n))));
    anywhere(&service);
    let size = sendable(&service.clone().call(1));
    assert!(size <= 288, "the response future has {size} bytes");
    assert!(std::mem::size_of::<RetryPolicy>() <= 112);
    anywhere(&layer(steady()).classify(AnyError));
}

#[tokio::test(start_paused = true)]
async fn bad_values_are_named() {
    let b = RetryPolicy::builder;
    let second = Duration::from_secs(1);
    for (builder, field) in [
        (b().max_attempts(0), "max_attempts"),
        (b().unlimited_attempts(), "max_attempts"),
        (b().unlimited_attempts().class_budget(FailureClass::Transient, 3), "max_attempts"),
        (b().deadline(Duration::ZERO), "deadline"),
        (b().deadline(Duration::MAX), "deadline"),
        (b().attempt_timeout(Duration::ZERO), "attempt_timeout"),
        (b().attempt_timeout(Duration::MAX), "attempt_timeout"),
        (b().attempt_timeout(second * 2).deadline(second), "attempt_timeout"),
        (b().expected_attempt_time(Duration::ZERO), "expected_attempt_time"),
        (b().expected_attempt_time(second * 2).deadline(second), "expected_attempt_time"),
        (b().max_retry_after(Duration::ZERO), "max_retry_after"),
        (b().max_retry_after(Duration::MAX), "max_retry_after"),
        (b().backoff(Backoff::constant(second)).deadline(second), "backoff"),
        (b().backoff(Backoff::constant(second).factor(0.5)), "backoff.factor"),
        (b().backoff(Backoff::constant(second).factor(f64::NAN)), "backoff.factor"),
        (b().backoff(Backoff::exponential(second * 2, second)), "backoff.base"),
        (b().backoff(Backoff::constant(Duration::MAX)), "backoff.base"),
        (
            b().backoff(Backoff::constant(second).jitter(buttress::Jitter::Proportional(-1.0))),
            "backoff.jitter",
        ),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.field(), field, "{builder:?}");
        assert!(!error.expected().is_empty());
    }
    // What is allowed: each of these once was not.
    b().attempt_timeout(second).deadline(second).build().unwrap();
    b().unlimited_attempts().deadline(second).build().unwrap();
    b().max_attempts(1).backoff(Backoff::constant(second)).deadline(second).build().unwrap();
    for policy in [
        RetryPolicy::DEFAULT,
        RetryPolicy::adaptive(),
        RetryPolicy::FLOW_NODE_DEFAULT,
        RetryPolicy::AGENT_LOW_MEDIUM,
        RetryPolicy::AGENT_HIGH_RISK,
        RetryPolicy::ASYNC_JOB_DEFAULT,
        RetryPolicy::NODUS_SCHEDULED_DEFAULT,
        RetryPolicy::NO_RETRY,
    ] {
        assert_eq!(policy.to_builder().build().unwrap(), policy);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_outcome_is_not_retried() {
    let (inner, director) = script([]);
    let gone = classify_fn(|_: Result<&Answer, &BoxError>| {
        Verdict::new(Outcome::Cancelled { elapsed: Duration::ZERO }, RetryHint::SAFE)
    });
    call(&mut layer(steady()).classify(gone).layer(inner)).await.unwrap();
    assert_eq!(director.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_budget_for_permanent_failures_does_not_retry_our_own_refusals() {
    let refusal = Rejection::new(RejectionKind::CircuitOpen, LayerKind::CircuitBreaker, "x");
    for class in FailureClass::ALL {
        let judge = classify_fn(move |result: Result<&Answer, &BoxError>| match result {
            Ok(_) => Verdict::success(),
            Err(_) => Verdict::failure(class),
        });
        let policy =
            RetryPolicy::builder().class_budget(FailureClass::Permanent, 2).build().unwrap();
        let (inner, director) = script([boxed(refusal.clone())]);
        let layer = RetryLayer::new(policy).classify(judge);
        let budget = layer.retry_budget().unwrap().clone();
        let before = budget.stats();
        layer.layer(inner).oneshot(1).await.unwrap_err();
        assert_eq!(director.calls(), 1, "{class:?}");
        assert_eq!(budget.stats(), before, "{class:?}: it costs nothing and pays nothing");
    }
}

#[test]
fn a_delay_a_request_asks_for_is_kept_where_the_policy_has_a_constant_one() {
    let asked = RetryOverride::new().class_budget(FailureClass::Transient, 3).base_delay(ms(200));
    let constant =
        |delay| RetryPolicy::builder().backoff(Backoff::constant(delay)).build().unwrap();
    for policy in [RetryPolicy::NO_RETRY, constant(ms(50)), constant(ms(900))] {
        assert_eq!(asked.apply(policy).backoff().range(1), (ms(200), ms(200)), "{policy:?}");
    }
    // Its own cap still holds.
    assert_eq!(asked.max_delay(ms(120)).apply(RetryPolicy::NO_RETRY).backoff().range(1).1, ms(120));
}

#[tokio::test(start_paused = true)]
async fn a_response_is_not_given_up_for_a_retry_that_a_late_timer_would_miss() {
    // Timers have whole milliseconds: one set now is up to a millisecond late.
    tokio::time::advance(Duration::from_micros(100)).await;
    let policy = RetryPolicy::builder()
        .backoff(Backoff::constant(ms(100)))
        .deadline(Duration::from_micros(100_500))
        .build()
        .unwrap();
    let judge = classify_fn(|result: Result<&Answer, &BoxError>| match result.unwrap().status {
        503 => Verdict::failure(FailureClass::Transient),
        _ => Verdict::success(),
    });
    let (inner, _) = script([Step::Ok(503)]);
    let answer = RetryLayer::new(policy).classify(judge).layer(inner).oneshot(1).await;
    assert_eq!(answer.unwrap().status, 503);
}
