//! The limiter as an object: limits, waiting, changes at run time, keys, combinations, threads.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::observe::{Event, EventKind};
use buttress::rate_limit::{KeyedRateLimiter, Meter, RateLimiter, WhenFull};
use buttress::{ConfigError, Quota, RejectionDetail, RejectionKind};
use futures_util::{FutureExt, poll};
use tokio::time::{Instant, advance};

fn limiter(quota: &str) -> RateLimiter {
    RateLimiter::new(quota.parse().unwrap())
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn every_bad_value_names_field_value_and_expectation() {
    let second = Duration::from_secs(1);
    let quota = || Quota::per_second(5).unwrap();
    let keyed = |n| KeyedRateLimiter::<u8>::new(quota(), n).map(drop);
    let initial = |n| RateLimiter::builder("x").quota(quota()).initial_tokens(n).build().map(drop);
    let rate = |n, per| Quota::from_rate(n, per).map(drop);
    let table: Vec<(&str, &str, Result<(), ConfigError>)> = vec![
        ("rate", "0", Quota::per_second(0).map(drop)),
        ("rate", "0", Quota::per_minute(0).map(drop)),
        ("rate", "18446744073709551615", Quota::per_second(u64::MAX).map(drop)),
        ("rate", "1000000001/s", Quota::per_second(1_000_000_001).map(drop)),
        ("rate", "2/ns", Quota::new(2, Duration::from_nanos(1)).map(drop)),
        ("rate", "0", rate(0.0, second)),
        ("rate", "-0", rate(-0.0, second)),
        ("rate", "-1.5", rate(-1.5, second)),
        ("rate", "NaN", rate(f64::NAN, second)),
        ("rate", "inf", rate(f64::INFINITY, second)),
        ("rate", "-inf", rate(f64::NEG_INFINITY, second)),
        ("per", "0s", Quota::new(5, Duration::ZERO).map(drop)),
        ("per", "0s", rate(0.5, Duration::ZERO)),
        ("per", "1/4000d", Quota::new(1, Duration::from_secs(4000 * 86_400)).map(drop)),
        ("burst", "0", quota().burst(0).map(drop)),
        ("burst", "18446744073709551615", quota().burst(u64::MAX).map(drop)),
        ("burst", "10000000000", quota().burst(10_000_000_000).map(drop)),
        ("quota", "none", RateLimiter::builder("x").build().map(drop)),
        ("quota", "none", KeyedRateLimiter::<u8>::builder("x").capacity(1).build().map(drop)),
        ("quota", "\"\"", "".parse::<Quota>().map(drop)),
        ("quota", "\"5\"", "5".parse::<Quota>().map(drop)),
        ("quota", "\"five/s\"", "five/s".parse::<Quota>().map(drop)),
        ("quota", "\"5/s burst x\"", "5/s burst x".parse::<Quota>().map(drop)),
        ("quota", "\"5/s burst -1\"", "5/s burst -1".parse::<Quota>().map(drop)),
        ("rate", "NaN", "NaN/s".parse::<Quota>().map(drop)),
        ("per", "0s", "5/0s".parse::<Quota>().map(drop)),
        ("burst", "0", "5/s burst 0".parse::<Quota>().map(drop)),
        ("capacity", "0", keyed(0)),
        ("capacity", "18446744073709551615", keyed(usize::MAX)),
        ("capacity", "none", KeyedRateLimiter::<u8>::builder("x").quota(quota()).build().map(drop)),
        ("initial_tokens", "NaN", initial(f64::NAN)),
        ("initial_tokens", "inf", initial(f64::INFINITY)),
        ("initial_tokens", "-1", initial(-1.0)),
        ("initial_tokens", "5.5", initial(5.5)),
    ];
    for (field, value, result) in table {
        let error = result.expect_err(&format!("{field} {value} was accepted"));
        assert_eq!((error.field(), error.value()), (field, value), "{error}");
        assert!(!error.expected().is_empty(), "{error}");
    }
}

#[test]
fn good_values_at_the_edge_are_taken() {
    for text in ["1000000000/s", "1/ns", "1/3000d", "0.000001/s", "1/s burst 280000000", "1/36500h"]
    {
        let quota: Quota = text.parse().unwrap();
        assert_eq!(quota.to_string().parse::<Quota>().unwrap(), quota, "{text}");
        let limiter = RateLimiter::new(quota);
        limiter.try_acquire_n(quota.capacity()).unwrap();
    }
}

#[cfg(feature = "serde")]
#[test]
fn a_quota_is_its_text_in_configuration() {
    let quota: Quota = serde_json::from_str("\"100/s burst 20\"").unwrap();
    assert_eq!(serde_json::to_string(&quota).unwrap(), "\"100/s burst 20\"");
    let error = serde_json::from_str::<Quota>("\"100/s burst 0\"").unwrap_err();
    assert!(error.to_string().contains("invalid burst: 0, expected at least 1"), "{error}");
}

/// A third of a nanosecond lost per call would let 0.1 % too many through.
#[tokio::test(start_paused = true)]
async fn a_rate_that_is_no_whole_number_of_nanoseconds_is_kept_on_the_strict_side() {
    let limiter = limiter("3000000/s");
    limiter.try_acquire_n(3_000_000).unwrap();
    let mut admitted = 0_u64;
    for _ in 0..1000 {
        advance(MS).await;
        while limiter.try_acquire_n(100).is_ok() {
            admitted += 100;
        }
    }
    assert!((2_999_500..=3_000_000).contains(&admitted), "{admitted}");
}

#[tokio::test(start_paused = true)]
async fn a_rate_below_one_per_period_works() {
    let limiter = limiter("1/10s");
    assert!(limiter.try_acquire().is_ok());
    assert_eq!(limiter.try_acquire().unwrap_err().retry_after(), Some(Duration::from_secs(10)));
    advance(Duration::from_secs(10)).await;
    assert!(limiter.try_acquire().is_ok());
}

#[tokio::test(start_paused = true)]
async fn more_than_a_burst_is_refused_for_good_and_costs_nothing() {
    let limiter = limiter("10/s");
    let refused = limiter.try_acquire_n(11).unwrap_err();
    assert_eq!((refused.kind(), refused.retry_after()), (RejectionKind::ExceedsBurst, None));
    let refused = limiter.acquire_n(11).now_or_never().unwrap().unwrap_err();
    assert_eq!(refused.kind(), RejectionKind::ExceedsBurst);
    assert_eq!(
        limiter.acquire_n_blocking(11, None).unwrap_err().kind(),
        RejectionKind::ExceedsBurst
    );
    assert!(limiter.try_acquire_n(10).is_ok());
}

#[tokio::test(start_paused = true)]
async fn waiters_are_served_in_order_of_arrival_and_none_barges() {
    let limiter = limiter("1/100ms");
    limiter.try_acquire().unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    let start = Instant::now();
    for i in 0_u32..5 {
        let (limiter, order) = (limiter.clone(), Arc::clone(&order));
        tasks.spawn(async move {
            limiter.acquire().await.unwrap();
            order.lock().unwrap().push((i, start.elapsed().as_millis()));
        });
        tokio::task::yield_now().await;
    }
    assert_eq!(limiter.waiting(), 5);
    advance(150 * MS).await;
    // One has been served, and half a token has come in since: it belongs to the next in line.
    let refused = limiter.try_acquire().unwrap_err();
    assert_eq!(refused.retry_after(), Some(450 * MS));
    while tasks.join_next().await.is_some() {}
    let order: Vec<_> = order.lock().unwrap().clone();
    assert_eq!(order.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(order[4].1, 500);
    let stats = limiter.stats();
    assert_eq!((stats.acquired, stats.waits), (6, 5));
    assert!(stats.waited >= 1500 * MS, "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_cannot_succeed_fails_at_once_and_takes_no_place() {
    let limiter = limiter("1/s");
    limiter.try_acquire().unwrap();
    let start = Instant::now();
    let refused = limiter.acquire_timeout(999 * MS).await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(refused.kind(), RejectionKind::RateLimited);
    assert_eq!(refused.retry_after(), Some(1000 * MS));
    assert_eq!(limiter.waiting(), 0);
    limiter.acquire_timeout(1000 * MS).await.unwrap();
    assert_eq!(start.elapsed(), 1000 * MS);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded() {
    let limiter =
        RateLimiter::builder("q").quota("1/s".parse().unwrap()).max_waiting(2).build().unwrap();
    limiter.try_acquire().unwrap();
    let (mut a, mut b) = (pin!(limiter.acquire()), pin!(limiter.acquire()));
    assert!(poll!(&mut a).is_pending());
    assert!(poll!(&mut b).is_pending());
    let refused = limiter.acquire().await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.retry_after()),
        (RejectionKind::Overloaded, Some(3000 * MS))
    );
    a.await.unwrap();
    b.await.unwrap();
    assert_eq!(limiter.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_gives_its_place_to_those_behind() {
    let limiter = limiter("1/100ms burst 5");
    limiter.try_acquire_n(5).unwrap();
    let start = Instant::now();
    let mut first = Box::pin(limiter.acquire_n(2));
    let mut second = Box::pin(limiter.acquire_n(5));
    let mut third = Box::pin(limiter.acquire_n(1));
    assert!(poll!(&mut first).is_pending());
    assert!(poll!(&mut second).is_pending());
    assert!(poll!(&mut third).is_pending());
    assert_eq!(limiter.time_until_token(), 900 * MS);
    drop(second);
    assert_eq!(limiter.time_until_token(), 400 * MS);
    first.await.unwrap();
    assert_eq!(start.elapsed(), 200 * MS);
    third.await.unwrap();
    assert_eq!(start.elapsed(), 300 * MS);
}

#[tokio::test(start_paused = true)]
async fn the_head_leaving_wakes_the_next_in_time() {
    let limiter = limiter("1/100ms");
    limiter.try_acquire().unwrap();
    let start = Instant::now();
    let mut head = Box::pin(limiter.acquire());
    assert!(poll!(&mut head).is_pending());
    let mut tasks = tokio::task::JoinSet::new();
    let next = limiter.clone();
    tasks.spawn(async move { next.acquire().await });
    tokio::task::yield_now().await;
    advance(50 * MS).await;
    drop(head);
    tasks.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(start.elapsed(), 100 * MS);
}

/// A future that is not polled any more must not hold up those behind it.
#[tokio::test(start_paused = true)]
async fn nobody_depends_on_the_one_ahead_being_polled() {
    let limiter = limiter("1/100ms");
    limiter.try_acquire().unwrap();
    let start = Instant::now();
    let mut stuck = Box::pin(limiter.acquire());
    assert!(poll!(&mut stuck).is_pending());
    limiter.acquire().await.unwrap();
    assert_eq!(start.elapsed(), 200 * MS);
    // Its turn has come meanwhile; it finds it when it looks, or gives it back.
    assert!(poll!(&mut stuck).is_ready());
}

/// Behind a future that is kept and not polled, a change of the quota used to be noticed only at the time
/// that the old one had promised.
#[tokio::test(start_paused = true)]
async fn a_raised_quota_reaches_those_behind_one_that_is_not_polled() {
    let limiter = limiter("1/min");
    limiter.try_acquire().unwrap();
    let start = Instant::now();
    let mut stuck = Box::pin(limiter.acquire());
    assert!(poll!(&mut stuck).is_pending());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let limiter = limiter.clone();
        tasks.spawn(async move { limiter.acquire().await });
    }
    tokio::task::yield_now().await;
    limiter.set_quota("1/100ms".parse().unwrap());
    for turn in [200, 300] {
        tasks.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(start.elapsed(), turn * MS);
    }
    assert!(poll!(&mut stuck).is_ready());
}

/// A place that moves up behind such a future: served when somebody comes or goes, at the latest at the time
/// promised.
#[tokio::test(start_paused = true)]
async fn behind_one_that_is_not_polled_nobody_waits_longer_than_promised() {
    for somebody_comes in [false, true] {
        let limiter = limiter("1/100ms");
        limiter.try_acquire().unwrap();
        let start = Instant::now();
        let mut stuck = Box::pin(limiter.acquire());
        let mut leaves = Box::pin(limiter.acquire());
        assert!(poll!(&mut stuck).is_pending() && poll!(&mut leaves).is_pending());
        let mut tasks = tokio::task::JoinSet::new();
        let behind = limiter.clone();
        tasks.spawn(async move { behind.acquire().await });
        tokio::task::yield_now().await;
        drop(leaves);
        let mut expected = 300;
        if somebody_comes {
            advance(250 * MS).await;
            drop(limiter.acquire_timeout(Duration::ZERO).await);
            expected = 250;
        }
        tasks.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(start.elapsed(), expected * MS);
        assert!(poll!(&mut stuck).is_ready());
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_granted_but_not_taken_is_given_back() {
    let limiter = limiter("1/100ms burst 3");
    limiter.try_acquire_n(3).unwrap();
    let mut granted = Box::pin(limiter.acquire_n(2));
    assert!(poll!(&mut granted).is_pending());
    advance(200 * MS).await;
    // Due, but never polled again.
    drop(granted);
    assert!((limiter.tokens() - 2.0).abs() < 1e-9, "{}", limiter.tokens());
}

#[tokio::test(start_paused = true)]
async fn dropped_before_the_first_poll_nothing_is_taken() {
    let limiter = limiter("1/s");
    drop(limiter.acquire());
    assert!(near(limiter.tokens(), 1.0));
    limiter.acquire().await.unwrap();
    drop(limiter.acquire());
    assert_eq!((limiter.waiting(), limiter.time_until_token()), (0, Duration::from_secs(1)));
}

/// Each waiter is woken by its own timer, once; nobody spins.
#[tokio::test(start_paused = true)]
async fn no_busy_wake_while_waiting() {
    let limiter = limiter("1/100ms");
    limiter.try_acquire().unwrap();
    let polls = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (limiter, polls) = (limiter.clone(), Arc::clone(&polls));
        tasks.spawn(async move {
            let mut acquire = pin!(limiter.acquire());
            std::future::poll_fn(|cx: &mut Context<'_>| {
                polls.fetch_add(1, Ordering::Relaxed);
                acquire.as_mut().poll(cx)
            })
            .await
            .unwrap();
        });
    }
    while tasks.join_next().await.is_some() {}
    let polls = polls.load(Ordering::Relaxed);
    assert!(polls <= 3 * 20, "{polls} polls for 20 waiters");
}

#[tokio::test(start_paused = true)]
async fn a_changed_quota_keeps_the_level_and_moves_those_who_wait() {
    let limiter = limiter("1/s burst 4");
    limiter.try_acquire_n(4).unwrap();
    let start = Instant::now();
    let mut patient = Box::pin(limiter.acquire_n(2));
    let mut hurried = Box::pin(limiter.acquire_n_timeout(1, 3500 * MS));
    let mut large = Box::pin(limiter.acquire_n(4));
    for waiter in [&mut patient, &mut hurried, &mut large] {
        assert!(poll!(waiter).is_pending());
    }
    advance(Duration::from_secs(1)).await;
    // One token is there. The next comes in two seconds: 2 s for the first, 4 s for the second, whose
    // deadline is in 2.5 s; the third can never be served any more.
    limiter.set_quota("1/2s burst 3".parse().unwrap());
    let Poll::Ready(Err(refused)) = poll!(&mut hurried) else { panic!("still waits") };
    assert_eq!(
        (refused.kind(), refused.retry_after()),
        (RejectionKind::RateLimited, Some(4000 * MS))
    );
    let Poll::Ready(Err(refused)) = poll!(&mut large) else { panic!("still waits") };
    assert_eq!(refused.kind(), RejectionKind::ExceedsBurst);
    assert_eq!(limiter.waiting(), 1);
    patient.await.unwrap();
    assert_eq!(start.elapsed(), 3000 * MS);
    assert!(near(limiter.tokens(), 0.0));

    let mut waiter = Box::pin(limiter.acquire());
    assert!(poll!(&mut waiter).is_pending());
    limiter.set_quota("10/s".parse().unwrap());
    waiter.await.unwrap();
    assert_eq!(start.elapsed(), 3100 * MS);
    assert_eq!(limiter.quota().to_string(), "10/s");
}

#[tokio::test(start_paused = true)]
async fn reset_serves_those_who_wait_first() {
    let limiter = limiter("1/min burst 2");
    limiter.try_acquire_n(2).unwrap();
    let (mut a, mut b, mut c) =
        (Box::pin(limiter.acquire()), Box::pin(limiter.acquire()), Box::pin(limiter.acquire()));
    for waiter in [&mut a, &mut b, &mut c] {
        assert!(poll!(waiter).is_pending());
    }
    limiter.reset();
    assert!(poll!(&mut a).is_ready());
    assert!(poll!(&mut b).is_ready());
    assert!(poll!(&mut c).is_pending());
    assert_eq!(limiter.time_until_token(), Duration::from_secs(120));
}

#[tokio::test(start_paused = true)]
async fn shadow_mode_reports_and_never_refuses_or_waits() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let limiter = RateLimiter::builder("dark")
        .quota("1/h".parse().unwrap())
        .shadow(true)
        .observe(move |event: &Event<'_>| sink.lock().unwrap().push(event.kind.as_str()))
        .build()
        .unwrap();
    for _ in 0..3 {
        limiter.try_acquire().unwrap();
    }
    limiter.acquire().now_or_never().unwrap().unwrap();
    limiter.try_acquire_n(100).unwrap();
    let stats = limiter.stats();
    assert_eq!((stats.acquired, stats.rejected, stats.would_reject), (1, 0, 4));
    assert_eq!(*seen.lock().unwrap(), ["would_reject"; 4]);
    limiter.set_shadow(false);
    assert!(limiter.try_acquire().is_err());
}

#[tokio::test(start_paused = true)]
async fn observers_hear_of_refusals_and_waits_and_may_use_the_limiter() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let me: Arc<Mutex<Option<RateLimiter>>> = Arc::default();
    let inner = Arc::clone(&me);
    let limiter = RateLimiter::builder("loud")
        .quota("1/s".parse().unwrap())
        .observe(move |event: &Event<'_>| {
            let waiting = inner.lock().unwrap().as_ref().map(RateLimiter::waiting);
            sink.lock().unwrap().push(match event.kind {
                EventKind::Rejected(why) => format!("{} {waiting:?}", why.kind().as_str()),
                EventKind::Waited { waited } => format!("waited {waited:?}"),
                _ => "other".to_owned(),
            });
        })
        .build()
        .unwrap();
    *me.lock().unwrap() = Some(limiter.clone());
    limiter.try_acquire().unwrap();
    let _ = limiter.try_acquire();
    let _ = limiter.acquire_timeout(MS).await;
    limiter.acquire().await.unwrap();
    assert_eq!(
        *seen.lock().unwrap(),
        ["rate_limited Some(0)", "rate_limited Some(0)", "waited 1s"]
    );
}

#[test]
fn a_thread_that_waits_leaves_the_wake_ups_of_others_alone() {
    // Somebody has told this thread that there is something to do: it must not be lost in a wait for a token.
    std::thread::current().unpark();
    let limiter = RateLimiter::new(Quota::per_second(100).unwrap().burst(1).unwrap());
    limiter.acquire_blocking(None).unwrap();
    limiter.acquire_blocking(None).unwrap();
    let began = Instant::now();
    std::thread::park_timeout(Duration::from_secs(20));
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn blocking_needs_no_runtime_and_stands_in_the_same_queue() {
    let limiter = limiter("1/5ms");
    let start = Instant::now();
    limiter.try_acquire().unwrap();
    let served = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for i in 0..4 {
            let (limiter, served) = (&limiter, &served);
            scope.spawn(move || {
                limiter.acquire_blocking(None).unwrap();
                served.lock().unwrap().push((i, start.elapsed()));
            });
            while limiter.waiting() + served.lock().unwrap().len() <= i {
                std::thread::yield_now();
            }
        }
    });
    // A busy machine can let any of them run late, and so in any order; but none comes before its turn,
    // as one who overtook another would.
    for (i, after) in served.into_inner().unwrap() {
        let turn = 5 * MS * (u32::try_from(i).unwrap() + 1);
        assert!(after >= turn, "{i} after {after:?}");
    }
    let slow = self::limiter("1/h");
    slow.acquire_blocking(None).unwrap();
    let refused = slow.acquire_blocking(Some(Duration::from_secs(60))).unwrap_err();
    assert!(refused.retry_after().unwrap() > Duration::from_secs(3500));
}

#[tokio::test(start_paused = true)]
async fn a_key_has_its_own_bucket_and_a_full_one_is_forgotten() {
    let limiter = RateLimiter::keyed::<String>("2/s".parse().unwrap(), 10).unwrap();
    for key in ["a", "b"] {
        assert!(limiter.try_acquire(key).is_ok());
        assert!(limiter.try_acquire(key).is_ok());
        let refused = limiter.try_acquire(key).unwrap_err();
        assert_eq!(refused.retry_after(), Some(500 * MS));
        assert!(matches!(refused.detail(), RejectionDetail::Quota { limit: 2, remaining: 0, .. }));
    }
    assert_eq!(limiter.live_keys(), 2);
    advance(750 * MS).await;
    assert!(near(limiter.tokens("a"), 1.5));
    limiter.reset("b");
    assert_eq!((limiter.tokens("b"), limiter.live_keys()), (2.0, 1));
    advance(250 * MS).await;
    assert_eq!(limiter.live_keys(), 0);
    assert_eq!(limiter.stats().acquired, 4);
}

#[tokio::test(start_paused = true)]
async fn a_changed_quota_reaches_every_key() {
    let limiter = RateLimiter::keyed::<u32>("1/s burst 4".parse().unwrap(), 100).unwrap();
    for key in 0..50 {
        limiter.try_acquire_n(&key, 3).unwrap();
    }
    limiter.set_quota("1/min burst 2".parse().unwrap());
    for key in 0..50 {
        assert!((limiter.tokens(&key) - 1.0).abs() < 1e-6);
        assert!(limiter.try_acquire_n(&key, 2).is_err());
    }
    assert!(limiter.try_acquire_n(&1000, 2).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_full_table_is_reported_but_not_for_every_call() {
    let full = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&full);
    let limiter = KeyedRateLimiter::<u32>::builder("k")
        .quota("1/h".parse().unwrap())
        .capacity(4)
        .when_full(WhenFull::Allow)
        .observe(move |event: &Event<'_>| {
            if let EventKind::TableFull { capacity: 4 } = event.kind {
                count.fetch_add(1, Ordering::Relaxed);
            }
        })
        .build()
        .unwrap();
    for key in 0..100 {
        limiter.try_acquire(&key).unwrap();
    }
    assert_eq!(full.load(Ordering::Relaxed), 1);
    advance(Duration::from_secs(1)).await;
    limiter.try_acquire(&1000).unwrap();
    assert_eq!(full.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_combination_charges_all_or_none_and_tells_the_longest_wait() {
    let fast = limiter("10/s");
    let slow = limiter("5/min");
    let each = RateLimiter::keyed::<&str>("1/10s".parse().unwrap(), 10).unwrap();
    let call = |key| (&fast).and(&slow).and(each.bucket(&key)).try_acquire();
    call("a").unwrap();
    let refused = call("a").unwrap_err();
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(10)));
    assert_eq!((fast.tokens(), slow.tokens()), (9.0, 4.0), "a refused call was charged");
    for key in ["b", "c", "d", "e"] {
        call(key).unwrap();
    }
    // Both the slow limit (12 s) and the key (10 s) refuse: the longer wait is told, once.
    let refused = call("a").unwrap_err();
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(12)));
    assert_eq!((slow.stats().rejected, each.stats().rejected, fast.stats().rejected), (1, 1, 0));
    // Never beats any wait.
    let refused = (&slow).and(limiter("1/s")).try_acquire_n(2).unwrap_err();
    assert_eq!(refused.kind(), RejectionKind::ExceedsBurst);
    assert_eq!(fast.stats().acquired, 5);
}

/// Threads fight over two limits whose last tokens differ; whatever races are lost, no token is lost
/// and none is made.
#[test]
fn combinations_neither_lose_nor_make_tokens_under_threads() {
    let a = limiter("1/d burst 300");
    let b = limiter("1/d burst 200");
    let admitted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for i in 0..4 {
            let (a, b, admitted) = (&a, &b, &admitted);
            scope.spawn(move || {
                for _ in 0..400 {
                    let granted =
                        if i % 2 == 0 { a.and(b).try_acquire() } else { b.and(a).try_acquire() };
                    if granted.is_ok() {
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(admitted.load(Ordering::Relaxed), 200);
    assert!((100.0..100.1).contains(&a.tokens()), "{}", a.tokens());
    assert!((0.0..0.1).contains(&b.tokens()), "{}", b.tokens());
    assert_eq!((a.stats().acquired, b.stats().acquired), (200, 200));
}

/// Many threads, few slots, buckets that die all the time: no key ever gets more than its due.
#[test]
fn keys_keep_to_their_quota_under_threads() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        u64::from(std::time::SystemTime::now().elapsed().unwrap_or_default().subsec_nanos())
            ^ u64::from(std::process::id()) << 20
            ^ std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos() as u64
    });
    println!("SEED={seed}");
    const BURST: u64 = 3;
    const HOT: u64 = 8;
    let interval = Duration::from_millis(2);
    let quota = Quota::new(1, interval).unwrap().burst(BURST).unwrap();
    // Eight keys are hot at a time, and are called far more often than they may; then others are, and
    // take over the slots of those that have died.
    let limiter = RateLimiter::keyed::<u64>(quota, 16).unwrap();
    // Granted, before the first grant, after the last.
    let granted: Mutex<HashMap<u64, (u64, Instant, Instant)>> = Mutex::default();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (limiter, granted) = (&limiter, &granted);
            scope.spawn(move || {
                let mut random = seed ^ thread.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                for i in 0..60_000_u64 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let key = i / 3_000 * HOT + random % HOT;
                    let before = Instant::now();
                    if limiter.try_acquire(&key).is_ok() {
                        let after = Instant::now();
                        let mut granted = granted.lock().unwrap();
                        let (n, first, last) = granted.entry(key).or_insert((0, before, after));
                        (*n, *first, *last) = (*n + 1, before.min(*first), after.max(*last));
                    }
                }
            });
        }
    });
    let granted = granted.into_inner().unwrap();
    let mut total = 0;
    for (key, (n, first, last)) in &granted {
        let time = *last - *first;
        let due = u64::try_from(time.as_nanos() / interval.as_nanos()).unwrap() + BURST + 1;
        assert!(*n <= due, "key {key} got {n} of {due} in {time:?}, SEED={seed}");
        total += n;
    }
    let stats = limiter.stats();
    assert_eq!(stats.acquired, total, "SEED={seed}");
    assert!(granted.len() > 100 && stats.rejected > total, "{stats:?}");
}

/// Waiters that come and go on several threads: everybody who stays is served, in bounded time, and the
/// rate holds.
#[test]
fn waiters_on_threads_are_all_served() {
    let interval = Duration::from_micros(50);
    let limiter = RateLimiter::new(Quota::new(1, interval).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let served = AtomicU64::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (limiter, served, runtime) = (&limiter, &served, &runtime);
            scope.spawn(move || {
                let _timers = runtime.enter();
                for i in 0..200 {
                    if (i + thread) % 3 == 0 {
                        // Comes, waits and leaves.
                        drop(limiter.acquire().now_or_never());
                    } else {
                        limiter.acquire_blocking(None).unwrap();
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(served.load(Ordering::Relaxed), 800);
    assert_eq!(limiter.waiting(), 0);
    let due = start.elapsed().as_nanos() / interval.as_nanos() + 2;
    assert!(u128::from(limiter.stats().acquired) <= due);
}
