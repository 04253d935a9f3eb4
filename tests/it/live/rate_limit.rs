#![expect(clippy::disallowed_methods, reason = "callers are tasks")]
#![expect(clippy::cast_possible_truncation, reason = "counts are small")]
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use buttress::observe::{Event, EventKind};
use buttress::rate_limit::RateLimiterBuilder;
use buttress::rate_limit::{KeyedRateLimiter, RateLimiter, WhenFull};
use buttress::{Quota, Rejection, RejectionDetail, RejectionKind};
use tokio::time::{Instant, advance};

use super::{CALLS, under_load};

fn quota(text: &str) -> Quota {
    text.parse().unwrap()
}

fn limit_of(rejection: &Rejection) -> u64 {
    match rejection.detail() {
        RejectionDetail::Quota { limit, .. } => limit,
        other => panic!("{other:?}"),
    }
}

fn with(text: &str) -> RateLimiterBuilder {
    RateLimiter::builder("api").quota(quota(text))
}

#[tokio::test(start_paused = true)]
async fn the_bucket_the_counters_and_the_line_are_kept() {
    let limiter = with("1/s burst 10").max_waiting(1).build().unwrap();
    limiter.try_acquire_n(10).unwrap();
    let start = Instant::now();
    let mut first = tokio::spawn({
        let limiter = limiter.clone();
        async move { limiter.acquire().await }
    });
    tokio::task::yield_now().await;
    let kind = limiter.acquire().await.unwrap_err().kind();
    assert_eq!(kind, RejectionKind::Overloaded);

    // A new name, an observer and a number of tokens to begin with: not looked at.
    let other = RateLimiter::builder("other").quota(quota("10/s burst 10")).initial_tokens(10.0);
    limiter.reconfigure(other.max_waiting(2)).unwrap();
    assert_eq!((limiter.name(), limiter.waiting()), ("api", 1));
    let mut second = pin!(limiter.acquire());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(second.as_mut().poll(&mut cx).is_pending());
    assert_eq!(limiter.acquire().await.unwrap_err().kind(), RejectionKind::Overloaded);
    (&mut first).await.unwrap().unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(100), "at the new rate");
    second.await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(200));
    let stats = limiter.stats();
    assert_eq!((stats.acquired, stats.rejected, stats.waits), (3, 2, 2));
}

#[test]
fn a_bad_value_changes_nothing() {
    let limiter = with("1/d burst 5").shadow(true).build().unwrap();
    limiter.try_acquire_n(5).unwrap();
    for (builder, field) in [
        (RateLimiter::builder("api").shadow(false), "quota"),
        (with("1/s burst 2").shadow(false).initial_tokens(3.0), "initial_tokens"),
    ] {
        assert_eq!(limiter.reconfigure(builder).unwrap_err().field(), field);
        assert_eq!(limiter.quota().capacity(), 5);
        limiter.try_acquire().expect("still in shadow mode");
    }
    let keyed =
        KeyedRateLimiter::<u8>::builder("api").quota(quota("1/d")).capacity(8).build().unwrap();
    let builder = || KeyedRateLimiter::<u8>::builder("api").quota(quota("5/d"));
    assert_eq!(keyed.reconfigure(builder().capacity(9)).unwrap_err().field(), "capacity");
    assert_eq!(keyed.quota().capacity(), 1);
    keyed.reconfigure(builder().capacity(8)).unwrap();
    assert_eq!(keyed.quota().capacity(), 5);
}

/// Who waits when a limit that would refuse it comes on trial is let through, as everybody else.
#[tokio::test(start_paused = true)]
async fn a_limit_on_trial_refuses_nobody_who_waits() {
    let limiter = with("1/s burst 3").build().unwrap();
    limiter.try_acquire_n(3).unwrap();
    let mut three = pin!(limiter.acquire_n(3));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(three.as_mut().poll(&mut cx).is_pending());
    limiter.reconfigure(with("1/s burst 2").shadow(true)).unwrap();
    assert!(matches!(three.as_mut().poll(&mut cx), Poll::Ready(Ok(()))));
    assert_eq!((limiter.stats().rejected, limiter.stats().would_reject), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn shadow_mode_on_its_own_leaves_what_can_be_given_back() {
    let limiter = with("1/s burst 2").build().unwrap();
    let mut waits = Box::pin(limiter.acquire_n(2));
    limiter.try_acquire_n(2).unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(waits.as_mut().poll(&mut cx).is_pending());
    limiter.set_shadow(true);
    advance(Duration::from_secs(2)).await;
    drop(waits);
    assert!((limiter.tokens() - 2.0).abs() < 1e-6, "{}", limiter.tokens());
    limiter.set_shadow(false);
    limiter.try_acquire_n(2).unwrap();
    limiter.try_acquire().unwrap_err();
}

/// Three settings that differ in everything. What a call is told says which of them decided it.
#[test]
fn none_of_ten_thousand_calls_is_lost_or_torn_over_fifty_changes() {
    let (passed, torn) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let observer = {
        let (passed, torn) = (passed.clone(), torn.clone());
        move |event: &Event<'_>| match &event.kind {
            EventKind::WouldReject(why) => {
                passed.fetch_add(1, Ordering::Relaxed);
                torn.fetch_add(usize::from(limit_of(why) != 11), Ordering::Relaxed);
            }
            EventKind::Rejected(why) => {
                let torn_one = match why.kind() {
                    // Only the first lets nobody wait.
                    RejectionKind::Overloaded => limit_of(why) != 7,
                    _ => limit_of(why) == 11,
                };
                torn.fetch_add(usize::from(torn_one), Ordering::Relaxed);
            }
            _ => {}
        }
    };
    let settings = |number: usize| match number % 3 {
        0 => with("1/d burst 7").max_waiting(0),
        1 => with("1/d burst 11").max_waiting(0).shadow(true),
        _ => with("1/d burst 13").max_waiting(1000),
    };
    let limiter = settings(0).observe(observer).build().unwrap();
    let (granted, refused, left) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    // For the timers of those who wait.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let call = |number: usize| {
        let _entered = runtime.enter();
        let counter = if number.is_multiple_of(2) {
            if limiter.try_acquire().is_ok() { &granted } else { &refused }
        } else {
            let mut cx = Context::from_waker(Waker::noop());
            match pin!(limiter.acquire()).poll(&mut cx) {
                Poll::Ready(Ok(())) => &granted,
                Poll::Ready(Err(_)) => &refused,
                Poll::Pending => &left,
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    };
    under_load(call, |number| limiter.reconfigure(settings(number + 1)).unwrap());
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let stats = limiter.stats();
    assert_eq!(count(&torn), 0);
    assert_eq!(count(&granted) + count(&refused) + count(&left), CALLS, "none lost");
    assert_eq!(stats.rejected as usize, count(&refused));
    assert_eq!(stats.would_reject as usize, count(&passed));
    let turns = [&passed, &left, &refused].map(&count);
    assert!(!turns.contains(&0), "each has had its turn: {turns:?} {stats:?}");
    // Nothing was minted: those who were let through for a token took one of the first seven, or of what
    // came back within these seconds, which is less than one.
    assert!((7..=8).contains(&stats.acquired), "{stats:?}");
    assert_eq!((limiter.waiting(), stats.acquired as usize), (0, count(&granted) - count(&passed)));
}

/// The same with keys, more of them than there is room for.
#[test]
fn none_is_lost_or_torn_with_keys_and_a_full_table() {
    let torn = Arc::new(AtomicUsize::new(0));
    let observer = {
        let torn = torn.clone();
        move |event: &Event<'_>| {
            let torn_one = match &event.kind {
                EventKind::WouldReject(why) => limit_of(why) != 11,
                EventKind::Rejected(why) if why.kind() == RejectionKind::Overloaded => {
                    limit_of(why) != 7
                }
                EventKind::Rejected(why) => limit_of(why) == 11,
                _ => false,
            };
            torn.fetch_add(usize::from(torn_one), Ordering::Relaxed);
        }
    };
    let with = |text| KeyedRateLimiter::<usize>::builder("api").quota(quota(text));
    let settings = |number: usize| match number % 3 {
        0 => with("1/d burst 7"),
        1 => with("1/d burst 11").shadow(true).when_full(WhenFull::ShareOne),
        _ => with("1/d burst 13").when_full(WhenFull::Allow),
    };
    let limiter = settings(0).capacity(16).observe(observer).build().unwrap();
    let (granted, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let call = |number: usize| {
        let admitted = limiter.try_acquire(&(number % 64)).is_ok();
        (if admitted { &granted } else { &refused }).fetch_add(1, Ordering::Relaxed);
    };
    under_load(call, |number| limiter.reconfigure(settings(number + 1)).unwrap());
    let stats = limiter.stats();
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    assert_eq!(torn.load(Ordering::Relaxed), 0);
    assert_eq!(count(&granted) + count(&refused), CALLS);
    assert_eq!(stats.rejected as usize, count(&refused));
    assert_eq!((stats.acquired + stats.would_reject) as usize, count(&granted));
    assert!(stats.rejected > 0 && stats.would_reject > 0, "{stats:?}");
}
