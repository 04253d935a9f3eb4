use std::time::Duration;

use proptest::prelude::*;

use super::core::{Run, Stop};
use super::{RetryOverride, RetryPolicy, classify_error, is_retryable_error};
use crate::backoff::{Backoff, Random};
use crate::name::LayerKind;
use crate::outcome::{FailureClass, Outcome, RetryHint, Verdict};
use crate::rejection::{Rejection, RejectionKind};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    let after = prop_oneof![
        3 => Just(None),
        1 => (0u64..20_000).prop_map(|n| Some(ms(n))),
        1 => Just(Some(Duration::MAX)),
    ];
    let outcome = prop_oneof![
        6 => Just(Outcome::Failure(FailureClass::Transient)),
        3 => Just(Outcome::Failure(FailureClass::Flaky)),
        2 => Just(Outcome::Failure(FailureClass::Permanent)),
        2 => Just(Outcome::Throttled),
        1 => Just(Outcome::Ignored),
    ];
    (outcome, after, 0u8..10).prop_map(|(outcome, after, hint)| {
        let hint = match hint {
            0 => RetryHint::Never,
            1 | 2 => RetryHint::Unknown { after },
            _ => RetryHint::Safe { after },
        };
        Verdict::new(outcome, hint)
    })
}

proptest! {
    /// Against what the documentation says, one sentence at a time.
    #[test]
    fn every_limit_holds_on_every_run(
        verdicts in prop::collection::vec(verdicts(), 1..40),
        attempts in 1u32..12,
        budgets in prop::array::uniform3(0u32..6),
        retry_unsafe: bool,
        deadline in prop::option::of(2u64..30_000),
        expected in 1u64..500,
        took in 0u64..400,
        seed: u64,
    ) {
        let mut builder = RetryPolicy::builder()
            .max_attempts(attempts)
            .retry_unsafe(retry_unsafe)
            .backoff(Backoff::exponential(ms(100), ms(3000)));
        for (class, most) in FailureClass::ALL.into_iter().zip(budgets) {
            builder = builder.class_budget(class, most);
        }
        if let Some(deadline) = deadline {
            builder = builder.deadline(ms(deadline)).expected_attempt_time(ms(expected.min(deadline)));
        }
        let policy = builder.build().unwrap();
        let mut random = Random::seeded(seed);
        let (mut run, mut used, mut clock) = (Run::first(), [0u32; 3], Duration::ZERO);
        for verdict in verdicts {
            clock += ms(took);
            let remaining = deadline.map(|deadline| ms(deadline).saturating_sub(clock));
            let class = match verdict.outcome {
                Outcome::Failure(class) => class,
                _ => FailureClass::Transient,
            };
            let permanent = class == FailureClass::Permanent;
            let index = FailureClass::ALL.iter().position(|c| *c == class).unwrap();
            let range = policy.backoff().range(run.attempts());
            match run.decide(&policy, verdict, remaining, &mut random) {
                Ok(again) => {
                    prop_assert!(run.attempts() < attempts);
                    prop_assert!(used[index] < budgets[index]);
                    prop_assert!(verdict.retry != RetryHint::Never || permanent);
                    let unsure = matches!(verdict.retry, RetryHint::Unknown { .. });
                    prop_assert!(retry_unsafe || !unsure);
                    match verdict.retry.after() {
                        Some(after) => {
                            prop_assert!(after <= ms(10_000));
                            prop_assert!(again.delay >= after && again.delay <= after + range.1);
                        }
                        None => prop_assert!(range.0 <= again.delay && again.delay <= range.1),
                    }
                    if let Some(remaining) = remaining {
                        let needed = again.delay + policy.expected_attempt_time().unwrap();
                        prop_assert!(needed <= remaining);
                    }
                    used[index] += 1;
                    clock += again.delay;
                    run.go_on(again);
                }
                Err(stop) => {
                    // Each reason is true.
                    let after = verdict.retry.after();
                    prop_assert!(match stop {
                        Stop::NotRetryable => verdict.retry == RetryHint::Never
                            && (!permanent || budgets[2] == 0),
                        Stop::Unsafe => !retry_unsafe,
                        Stop::Attempts => run.attempts() == attempts,
                        Stop::ClassBudget => used[index] == budgets[index],
                        Stop::RetryAfter => after.is_some_and(|after| after > ms(10_000)),
                        Stop::Deadline => {
                            let worst = after.unwrap_or(Duration::ZERO) + range.1 + ms(expected);
                            remaining.is_some_and(|remaining| remaining <= worst)
                        }
                        Stop::Budget | Stop::NotReplayable | Stop::NotReady => false,
                    }, "{:?} after {:?}", stop, verdict);
                    break;
                }
            }
        }
    }

    /// Whatever a request brings along, its run ends.
    #[test]
    fn no_exception_makes_a_policy_endless(
        transient in prop_oneof![any::<u32>(), Just(u32::MAX)],
        flaky in prop::option::of(0u32..9),
    ) {
        let mut exception = RetryOverride::new().class_budget(FailureClass::Transient, transient);
        if let Some(flaky) = flaky {
            exception = exception.class_budget(FailureClass::Flaky, flaky);
        }
        let policy = exception.apply(RetryPolicy::DEFAULT);
        prop_assert_eq!(policy.class_budget(FailureClass::Transient), Some(transient.min(u32::MAX - 1)));
        prop_assert_eq!(policy.class_budget(FailureClass::Flaky), Some(flaky.unwrap_or(2)));
        prop_assert_eq!(policy.class_budget(FailureClass::Permanent), Some(0));
    }
}

#[test]
fn counters_of_a_run_do_not_overflow() {
    let policy = RetryPolicy::builder()
        .unlimited_attempts()
        .deadline(Duration::from_secs(1))
        .backoff(Backoff::none())
        .build()
        .unwrap();
    let mut random = Random::seeded(1);
    let mut run = Run::first();
    let verdict = Verdict::failure(FailureClass::Transient);
    for _ in 0..100_000 {
        let again = run.decide(&policy, verdict, Some(ms(1)), &mut random).unwrap();
        run.go_on(again);
    }
    assert_eq!(run.attempts(), 100_001);
}

#[test]
fn numbers_in_a_text_are_a_status_only_where_they_are_said_to_be_one() {
    for text in [
        "10.0.0.1:404 refused",
        "cannot reach [::1]:403",
        "took 404.5 ms",
        "took 404 ms",
        "waited 404",
        "line 403: timeout",
        "timeout at line 403",
        "timeout on port 404",
        "timeout on /items/404",
        "worker #404",
        "403:12 passed",
        "404% of the quota",
        "404 retries left",
        "the pool of 404 was closed early",
        "reset after 1,404",
        "x404 went away",
        "HTTP 503 after 404 ms",
        "DNSNotFound",
    ] {
        assert!(is_retryable_error(text), "{text}");
    }
    for text in [
        "404",
        "[404]",
        "404: gone fishing",
        "HTTP/1.1 404",
        "http/2 403 for you",
        "status=404 url=x",
        "status:404 url=x",
        "status code is 404 for x",
        "got a 404 from upstream",
        "upstream returned 403.",
        "upstream sent a 404 error to us",
        "request failed with 422, sorry",
        "no such thing: 404",
        "error (404) in x",
        "Http404",
        "HTTPNotFound",
        "HTTPForbidden: no",
        "werkzeug.exceptions.NotFound",
        "urllib.error.HTTPError: 404 x",
        "JSONTypeError",
    ] {
        assert!(!is_retryable_error(text), "{text}");
    }
}

#[test]
fn an_error_has_the_class_of_the_first_one_it_knows() {
    use std::io;
    #[derive(Debug)]
    struct Wrapped(io::Error);
    impl std::fmt::Display for Wrapped {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("wrapped")
        }
    }
    impl std::error::Error for Wrapped {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    for (kind, class) in [
        (io::ErrorKind::ConnectionReset, FailureClass::Transient),
        (io::ErrorKind::TimedOut, FailureClass::Transient),
        (io::ErrorKind::NotFound, FailureClass::Permanent),
        (io::ErrorKind::InvalidInput, FailureClass::Permanent),
        (io::ErrorKind::Other, FailureClass::Transient),
    ] {
        assert_eq!(classify_error(&io::Error::from(kind)), class, "{kind:?}");
        assert_eq!(classify_error(&Wrapped(kind.into())), class, "{kind:?}");
        assert_eq!(classify_error(&io::Error::other(Wrapped(kind.into()))), class, "{kind:?}");
    }
    let refused = Rejection::new(RejectionKind::ExceedsBurst, LayerKind::RateLimit, "x");
    assert_eq!(classify_error(&refused), FailureClass::Transient);
    assert_eq!(classify_error(&std::fmt::Error), FailureClass::Transient);
}

#[cfg(feature = "serde")]
#[test]
fn policies_are_read_checked_and_written() {
    let text = r#"{"max_attempts": 4, "flaky": 1, "deadline": 2.5, "attempt_timeout": 0.5,
        "backoff": {"base": 0.1, "cap": 1}, "guarantee": "AT_LEAST_ONCE"}"#;
    let policy: RetryPolicy = serde_json::from_str(text).unwrap();
    assert_eq!(policy.max_attempts(), Some(4));
    assert_eq!(policy.class_budget(FailureClass::Flaky), Some(1));
    assert_eq!(policy.deadline(), Some(ms(2500)));
    assert_eq!(policy.backoff(), Backoff::exponential(ms(100), ms(1000)));
    assert_eq!(serde_json::from_str::<RetryPolicy>("{}").unwrap(), RetryPolicy::DEFAULT);
    for policy in [policy, RetryPolicy::adaptive(), RetryPolicy::ASYNC_JOB_DEFAULT] {
        let again = serde_json::from_value(serde_json::to_value(policy).unwrap()).unwrap();
        assert_eq!(policy, again);
    }
    for (bad, named) in [
        (r#"{"max_attempts": 0}"#, "max_attempts"),
        (r#"{"deadline": -1}"#, "deadline"),
        (r#"{"deadline": 1, "attempt_timeout": 2}"#, "attempt_timeout"),
        (r#"{"attempts": 3}"#, "attempts"),
        (r#"{"backoff": {"base": 2, "cap": 1}}"#, "base"),
        (r#"{"guarantee": "MAYBE"}"#, "MAYBE"),
    ] {
        let error = serde_json::from_str::<RetryPolicy>(bad).unwrap_err().to_string();
        assert!(error.contains(named), "{bad}: {error}");
    }
}

#[test]
fn a_registry_shows_the_policy_that_is_in_the_slot() {
    use crate::slot::Slot;
    let slot = Slot::with(RetryPolicy::DEFAULT);
    let tally = super::managed::Tally::new("db".into(), slot.clone(), None);
    assert_eq!(tally.describe().state, "active");
    slot.uninstall();
    assert_eq!(tally.describe().state, "off");
}
