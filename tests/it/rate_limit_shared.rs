//! The limit that several processes keep together, on a store of buckets under our clock that can be made to
//! be slow, silent or wrong. With real servers: `tests/store_redis.rs`, `tests/store_postgres.rs`.

#![expect(clippy::cast_possible_truncation, reason = "times and rates of tests are small")]

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::observe::{Event, EventKind};
use buttress::rate_limit::{
    RateLimiter, SharedRateLimitLayer, SharedRateLimiter, SharedRateLimiterBuilder, WhenDown,
    WhenMissing,
};
use buttress::store::{RateStore, RecordId, StoreError, StoreErrorKind, Taken};
use buttress::{Quota, Rejection, RejectionDetail, RejectionKind, key_fn};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, advance, sleep, timeout};
use tower::{Layer, Service, ServiceExt};

const MS: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Works,
    Fails,
    Hangs,
}

/// Buckets in one place for all who have a clone.
#[derive(Clone)]
struct Fake {
    state: Arc<Mutex<State>>,
    questions: Arc<AtomicU64>,
}

struct State {
    buckets: HashMap<RecordId, Instant>,
    mode: Mode,
    latency: Duration,
    /// Leaves out the maximum, as a crate in use does.
    forgetful: bool,
    /// What was taken, by the store's clock.
    taken: Vec<(Instant, u64)>,
}

impl Fake {
    fn new() -> Self {
        let (mode, latency) = (Mode::Works, Duration::ZERO);
        let state =
            State { buckets: HashMap::new(), mode, latency, forgetful: false, taken: vec![] };
        Self { state: Arc::new(Mutex::new(state)), questions: Arc::default() }
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    fn questions(&self) -> u64 {
        self.questions.load(Ordering::SeqCst)
    }

    fn taken(&self) -> Vec<(Instant, u64)> {
        self.state.lock().unwrap().taken.clone()
    }

    fn limiter(&self, when_down: WhenDown, quota: &str) -> SharedRateLimiterBuilder {
        RateLimiter::shared(self.clone(), "api", when_down).quota(quota.parse().unwrap())
    }

    fn simple(&self, quota: &str) -> SharedRateLimiter {
        self.limiter(WhenDown::Deny, quota).build().unwrap()
    }
}

impl RateStore for Fake {
    async fn take(
        &self,
        bucket: &RecordId,
        quota: &Quota,
        at_least: u64,
        at_most: u64,
    ) -> Result<Taken, StoreError> {
        self.questions.fetch_add(1, Ordering::SeqCst);
        assert!(1 <= at_least && at_least <= at_most && at_most <= quota.capacity());
        let (mode, latency) = {
            let state = self.state.lock().unwrap();
            (state.mode, state.latency)
        };
        sleep(latency / 2).await;
        match mode {
            Mode::Works => {}
            Mode::Fails => return Err(StoreErrorKind::Unavailable.into()),
            Mode::Hangs => std::future::pending().await,
        }
        let taken = {
            let mut state = self.state.lock().unwrap();
            let now = Instant::now();
            let (interval, burst) = (quota.interval(), quota.capacity() as u32);
            let forgetful = state.forgetful;
            let tat = state.buckets.entry(*bucket).or_insert(now);
            if forgetful {
                // What it was meant to be. A bucket may be as much too full as it holds.
                *tat = (*tat).max(now - interval * burst);
            } else {
                *tat = (*tat).max(now);
            }
            let room = (now + interval * burst).saturating_duration_since(*tat);
            let there = (room.as_nanos() / interval.as_nanos()) as u64;
            let granted = if there < at_least { 0 } else { there.min(at_most) };
            *tat += interval * granted as u32;
            let debt = tat.saturating_duration_since(now);
            state.taken.push((now, granted));
            Taken::new(granted, debt)
        };
        sleep(latency / 2).await;
        Ok(taken)
    }
}

/// Whether these calls (when, how many tokens) keep the quota on every interval, in exact numbers: a bucket of
/// `burst` in units of `1 / amount` ns.
fn exceeds(quota: &Quota, since: Instant, admitted: &[(Instant, u64)]) -> Option<usize> {
    let (amount, period) = (quota.amount() as u128, quota.period().as_nanos());
    let full = u128::from(quota.capacity()) * period;
    let mut tat = 0;
    admitted.iter().position(|(at, n)| {
        let now = at.duration_since(since).as_nanos() * amount;
        tat = tat.max(now) + u128::from(*n) * period;
        tat > now + full
    })
}

#[test]
fn the_reference_is_exact() {
    let (quota, since) = ("10/s burst 3".parse().unwrap(), Instant::now());
    let at = |ms: &[u64]| {
        let call = |ms: &u64| (since + Duration::from_millis(*ms), 1);
        exceeds(&quota, since, &ms.iter().map(call).collect::<Vec<_>>())
    };
    assert_eq!(at(&[0, 0, 0, 100, 200]), None);
    assert_eq!(at(&[0, 0, 0, 99]), Some(3));
    assert_eq!(at(&[0, 5_000, 5_000, 5_000, 5_000]), Some(4));
}

/// Four processes under a load that rests and rushes; what was admitted, in order, by the callers' clock.
async fn rush(fake: &Fake, make: impl Fn() -> SharedRateLimiter, seed: u64) -> Vec<(Instant, u64)> {
    let admitted = Arc::new(Mutex::new(vec![]));
    let processes: Vec<_> = (0..4).map(|_| make()).collect();
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..40 {
        fake.set(|state| state.latency = Duration::from_micros(random.random_range(0..8_000)));
        let calls: Vec<_> = (0..random.random_range(1..60))
            .map(|_| {
                let (n, wait) = (random.random_range(1..4), random.random_range(0..30_000));
                (random.random_range(0..4), n, Duration::from_micros(wait))
            })
            .collect();
        futures_util::future::join_all(calls.into_iter().map(|(which, n, wait): (usize, _, _)| {
            let (limiter, admitted) = (&processes[which], &admitted);
            async move {
                sleep(wait).await;
                if limiter.try_acquire_n(n).await.is_ok() {
                    admitted.lock().unwrap().push((Instant::now(), n));
                }
            }
        }))
        .await;
        // Mostly shorter than anything, sometimes longer than the bucket takes to fill.
        let rest = if random.random_bool(0.3) { 400 } else { random.random_range(0..40) };
        sleep(rest * MS).await;
    }
    Arc::try_unwrap(admitted).unwrap().into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn no_interval_sees_more_than_the_quota_from_four_processes() {
    for round in 0..30 {
        let seed: u64 = rand::random();
        let (fake, since) = (Fake::new(), Instant::now());
        let quota: Quota = "200/s burst 40".parse().unwrap();
        let in_advance = round % 2 == 1;
        let make = || {
            let limiter = fake.limiter(WhenDown::Deny, "200/s burst 40");
            match in_advance {
                true => limiter.advance(10, 50 * MS).build().unwrap(),
                false => limiter.build().unwrap(),
            }
        };
        let admitted = rush(&fake, make, seed).await;
        // Answers travel for some time, so what is asked for each time is counted where it is taken. What is
        // taken in advance counts when it is spent.
        let beyond = match in_advance {
            true => exceeds(&quota, since, &admitted),
            false => exceeds(&quota, since, &fake.taken()),
        };
        assert_eq!(beyond, None, "seed {seed}, in advance: {in_advance}");
        // Nor is it a limit that lets nothing through.
        let (all, rate) = (admitted.iter().map(|(_, n)| n).sum::<u64>(), 200.0);
        let most = 40.0 + rate * since.elapsed().as_secs_f64();
        assert!(all as f64 > most * 0.1, "seed {seed}: {all} of {most}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_reference_catches_what_must_not_be() {
    let quota: Quota = "200/s burst 40".parse().unwrap();
    let mut caught = [0; 2];
    for _ in 0..20 {
        let seed: u64 = rand::random();
        // A store that lets a bucket that rested hold more than it can.
        let (fake, since) = (Fake::new(), Instant::now());
        fake.set(|state| state.forgetful = true);
        let make = || fake.simple("200/s burst 40");
        rush(&fake, make, seed).await;
        caught[0] += usize::from(exceeds(&quota, since, &fake.taken()).is_some());
        // Tokens taken in advance, out of a bucket that is not smaller by what can come late.
        let (fake, since) = (Fake::new(), Instant::now());
        let make = || {
            let limiter = fake.limiter(WhenDown::Deny, "200/s burst 50");
            limiter.advance(10, 50 * MS).build().unwrap()
        };
        assert_eq!(make().quota().capacity(), 40);
        let admitted = rush(&fake, make, seed).await;
        caught[1] += usize::from(exceeds(&quota, since, &admitted).is_some());
    }
    assert!(caught[0] >= 15 && caught[1] >= 5, "{caught:?}");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_checks_take_ten_questions() {
    let fake = Fake::new();
    fake.set(|state| state.latency = MS);
    let limiter = fake.limiter(WhenDown::Deny, "10000/s burst 2000");
    let limiter = limiter.advance(100, 50 * MS).build().unwrap();
    // All at once, and one after the other.
    let all = futures_util::future::join_all((0..1_000).map(|_| limiter.try_acquire())).await;
    assert!(all.iter().all(Result::is_ok));
    assert!(fake.questions() <= 10, "{}", fake.questions());
    sleep(Duration::from_secs(1)).await;
    let before = fake.questions();
    for _ in 0..1_000 {
        limiter.try_acquire().await.unwrap();
    }
    assert!(fake.questions() - before <= 10, "{}", fake.questions() - before);
    assert_eq!(limiter.stats().questions, fake.questions());
    assert_eq!(limiter.stats().acquired, 2_000);
    // Without, one each.
    let exact = fake.simple("10000/s burst 2000");
    let before = fake.questions();
    futures_util::future::join_all((0..100).map(|_| exact.try_acquire())).await;
    assert_eq!(fake.questions() - before, 100);
}

#[tokio::test(start_paused = true)]
async fn what_the_store_would_refuse_is_not_asked_again() {
    let fake = Fake::new();
    fake.set(|state| state.latency = 2 * MS);
    let limiter = fake.simple("10/s burst 2");
    limiter.try_acquire_n(2).await.unwrap();
    let why = limiter.try_acquire().await.unwrap_err();
    assert_eq!((why.kind(), why.name()), (RejectionKind::RateLimited, "api"));
    let RejectionDetail::Quota { limit: 2, remaining: 0, .. } = why.detail() else {
        panic!("{why:?}")
    };
    for _ in 0..100 {
        assert!(limiter.try_acquire().await.is_err());
    }
    assert_eq!(fake.questions(), 1, "it told how empty the bucket is");
    let wait = why.retry_after().unwrap();
    assert!((90 * MS..=102 * MS).contains(&wait), "{wait:?}");
    sleep(wait).await;
    limiter.try_acquire().await.unwrap();
    // Another process has taken it meanwhile: then it must be asked.
    sleep(100 * MS).await;
    fake.simple("10/s burst 2").try_acquire().await.unwrap();
    let before = fake.questions();
    let why = limiter.try_acquire().await.unwrap_err();
    assert_eq!(fake.questions(), before + 1);
    sleep(why.retry_after().unwrap()).await;
    limiter.try_acquire().await.unwrap();

    let never = limiter.try_acquire_n(3).await.unwrap_err();
    assert_eq!((never.kind(), never.retry_after()), (RejectionKind::ExceedsBurst, None));
    limiter.try_acquire_n(0).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn keys_and_names_have_buckets_of_their_own() {
    let fake = Fake::new();
    let (one, two) = (fake.simple("1/h"), fake.simple("1/h"));
    assert!(one.bucket("ada").try_acquire().await.is_ok());
    assert!(two.bucket("ada").try_acquire().await.is_err(), "another process, the same key");
    assert!(two.bucket(String::from("ada")).try_acquire().await.is_err(), "the same text");
    assert!(two.bucket("ad").try_acquire().await.is_ok());
    assert!(two.bucket("").try_acquire().await.is_ok());
    assert!(two.try_acquire().await.is_ok(), "the one for all is that of no key");
    let other = RateLimiter::shared(fake.clone(), "other", WhenDown::Deny);
    let other = other.quota("1/h".parse().unwrap()).build().unwrap();
    assert!(other.bucket("ada").try_acquire().await.is_ok());
}

fn down(kind: RejectionKind, why: &Rejection) -> bool {
    why.kind() == kind && std::error::Error::source(why).is_some()
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_a_deadline_a_second_and_ends_by_itself() {
    for mode in [Mode::Fails, Mode::Hangs] {
        let fake = Fake::new();
        let events = Arc::new(Mutex::new(vec![]));
        let heard = Arc::clone(&events);
        let limiter = fake
            .limiter(WhenDown::Deny, "1000/s")
            .observe(move |event: &Event<'_>| {
                if let EventKind::StateChanged { from, to, reason } = event.kind {
                    heard.lock().unwrap().push(format!("{from} {to}: {reason}"));
                }
            })
            .build()
            .unwrap();
        limiter.try_acquire().await.unwrap();
        fake.set(|state| state.mode = mode);
        for n in 0..5 {
            assert!(!limiter.is_store_down(), "{n}");
            let since = Instant::now();
            let why = limiter.try_acquire().await.unwrap_err();
            assert!(down(RejectionKind::StoreUnavailable, &why), "{why:?}");
            let waited = if mode == Mode::Hangs { 50 * MS } else { Duration::ZERO };
            assert_eq!(since.elapsed(), waited);
        }
        assert!(limiter.is_store_down());
        // For ten seconds, in which a call comes each 10 ms.
        let (before, since) = (fake.questions(), Instant::now());
        let mut longest = Duration::ZERO;
        while since.elapsed() < Duration::from_secs(10) {
            let asked = Instant::now();
            assert_eq!(
                limiter.try_acquire().await.unwrap_err().kind(),
                RejectionKind::StoreUnavailable
            );
            longest = longest.max(asked.elapsed());
            sleep(10 * MS).await;
        }
        assert!((9..=10).contains(&(fake.questions() - before)));
        assert!(longest <= 50 * MS, "{longest:?}");
        fake.set(|state| state.mode = Mode::Works);
        let back = async {
            while limiter.try_acquire().await.is_err() {
                sleep(MS).await
            }
        };
        timeout(Duration::from_secs(2), back).await.unwrap();
        assert!(!limiter.is_store_down());
        limiter.try_acquire().await.unwrap();
        let events = events.lock().unwrap();
        assert_eq!(events.len(), 2, "{events:?}");
        assert!(events[0].starts_with("shared deny: the store"), "{events:?}");
        assert_eq!(events[1], "deny shared: the store answers");
        let stats = limiter.stats();
        assert_eq!(stats.without_store, stats.rejected);
        assert!((14..=15).contains(&stats.errors), "{stats:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn some_errors_are_no_outage() {
    let fake = Fake::new();
    let limiter = fake.limiter(WhenDown::Allow, "1000/s").build().unwrap();
    for _ in 0..20 {
        fake.set(|state| state.mode = Mode::Fails);
        for _ in 0..4 {
            limiter.try_acquire().await.unwrap();
        }
        fake.set(|state| state.mode = Mode::Works);
        limiter.try_acquire().await.unwrap();
        assert!(!limiter.is_store_down());
    }
    assert_eq!(limiter.stats().errors, 80);
    // Callers who go away are none at all.
    fake.set(|state| state.mode = Mode::Hangs);
    for _ in 0..20 {
        assert!(timeout(20 * MS, limiter.try_acquire()).await.is_err());
    }
    assert_eq!((limiter.stats().errors, limiter.is_store_down()), (80, false));
}

#[tokio::test(start_paused = true)]
async fn each_policy_does_what_it_says() {
    let fake = Fake::new();
    fake.set(|state| state.mode = Mode::Fails);
    let allow = fake.limiter(WhenDown::Allow, "1/h").build().unwrap();
    let share = WhenDown::LocalShare { of: 4 };
    let make = || fake.limiter(share, "100/s burst 20").build().unwrap();
    for _ in 0..100 {
        allow.try_acquire().await.unwrap();
    }
    assert_eq!(allow.stats().without_store, 100);

    // Four processes with a fourth each are one.
    let (since, processes) = (Instant::now(), [make(), make(), make(), make()]);
    let mut admitted = vec![];
    for _ in 0..200 {
        for process in &processes {
            if process.try_acquire().await.is_ok() {
                admitted.push((Instant::now(), 1));
            }
        }
        advance(5 * MS).await;
    }
    let quota = "100/s burst 20".parse().unwrap();
    assert_eq!(exceeds(&quota, since, &admitted), None);
    assert!(admitted.len() >= 116, "{}", admitted.len());
    let why = processes[0].try_acquire_n(5).await.unwrap_err();
    assert_eq!(why.kind(), RejectionKind::RateLimited);
    sleep(why.retry_after().unwrap()).await;
    processes[0].try_acquire_n(5).await.unwrap();
    // More than the share ever holds, but not than the bucket does: not for good.
    let why = processes[0].try_acquire_n(6).await.unwrap_err();
    assert_eq!(why.kind(), RejectionKind::StoreUnavailable);
    // Keys have shares of their own.
    processes[0].bucket("ada").try_acquire_n(5).await.unwrap();
    assert!(processes[0].bucket("ada").try_acquire_n(5).await.is_err());
    processes[0].bucket("bob").try_acquire_n(5).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn shadow_mode_refuses_nothing() {
    let fake = Fake::new();
    let limiter = fake.limiter(WhenDown::Deny, "1/h").shadow(true).build().unwrap();
    for _ in 0..5 {
        limiter.try_acquire().await.unwrap();
    }
    fake.set(|state| state.mode = Mode::Fails);
    limiter.bucket("k").try_acquire().await.unwrap();
    let stats = limiter.stats();
    assert_eq!((stats.acquired, stats.would_reject, stats.rejected), (1, 5, 0));
    limiter.set_shadow(false);
    assert!(limiter.try_acquire().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn more_keys_than_there_is_room_for_are_limited_all_the_same() {
    let fake = Fake::new();
    let limiter = fake.limiter(WhenDown::LocalShare { of: 1 }, "2/h").max_keys(3).build().unwrap();
    for round in 0..3 {
        for key in 0..10 {
            assert_eq!(limiter.bucket(key).try_acquire().await.is_ok(), round < 2, "{key}");
        }
    }
    // 3 remembered ones were refused without a question.
    assert_eq!(fake.questions(), 27);
    // When the store is down the rest has one share.
    fake.set(|state| state.mode = Mode::Fails);
    let mut admitted = 0;
    for key in 100..120 {
        admitted += u32::from(limiter.bucket(key).try_acquire().await.is_ok());
    }
    assert_eq!(admitted, 2);
    // Room is made of those that are full again.
    fake.set(|state| state.mode = Mode::Works);
    sleep(Duration::from_secs(3 * 3600)).await;
    assert!(limiter.bucket("new").try_acquire_n(2).await.is_ok());
    let before = fake.questions();
    assert!(limiter.bucket("new").try_acquire().await.is_err());
    assert_eq!(fake.questions(), before);
}

#[test]
fn bad_values_are_named() {
    let make = || Fake::new().limiter(WhenDown::Deny, "100/s burst 20");
    let field = |builder: SharedRateLimiterBuilder| builder.build().unwrap_err().field().to_owned();
    assert_eq!(field(RateLimiter::shared(Fake::new(), "api", WhenDown::Deny)), "quota");
    assert_eq!(field(make().deadline(Duration::ZERO)), "deadline");
    assert_eq!(field(make().max_keys(0)), "max_keys");
    assert_eq!(field(make().advance(0, 10 * MS)), "tokens");
    // 50 ms are 5 tokens: 15 are left.
    assert_eq!(make().advance(15, 50 * MS).build().unwrap().quota().capacity(), 15);
    assert_eq!(field(make().advance(16, 50 * MS)), "tokens");
    assert_eq!(field(make().advance(1, 200 * MS)), "hold");
    assert_eq!(field(make().advance(1, Duration::ZERO)), "hold");
    let of = |of| Fake::new().limiter(WhenDown::LocalShare { of }, "1/1000d");
    assert_eq!(field(of(0)), "when_down");
    assert_eq!(field(of(1_000_000)), "when_down");
}

// ---- as a layer --------------------------------------------------------------------------------

#[cfg(feature = "testing")]
mod contract {
    use super::*;
    use buttress::testing::{Subject, check_all};

    async fn keeps_the_contract(tokens: Option<u64>) {
        const BURST: u64 = 1_000;
        let layer = move || {
            let limiter = Fake::new().limiter(WhenDown::Deny, "1/min burst 1000");
            let limiter = match tokens {
                Some(tokens) => limiter.advance(tokens, MS),
                None => limiter,
            };
            SharedRateLimitLayer::new(limiter.build().unwrap())
        };
        let subject = Subject::new(layer, || 1_u32, |n: u32| Ok::<_, io::Error>(n + 1))
            .ready_error(|| io::Error::other("inner broke"))
            .polls_inner_in_ready(false)
            .needs_runtime(true)
            .shared_state(|mut one, mut two, _probe| async move {
                for _ in 0..BURST - 1 {
                    let one = one.ready().await.map_err(|e| format!("{e:?}"))?;
                    one.call(1).await.map_err(|e| format!("{e:?}"))?;
                }
                let _ = one.ready().await.map_err(|e| format!("{e:?}"))?.call(1).await;
                match two.ready().await.map_err(|e| format!("{e:?}"))?.call(1).await {
                    Err(_) => Ok(()),
                    Ok(_) => Err("the second service had a quota of its own".to_owned()),
                }
            });
        check_all(&subject).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn every_property_holds() {
        keeps_the_contract(None).await;
    }

    #[tokio::test(start_paused = true)]
    async fn every_property_holds_with_tokens_in_advance() {
        keeps_the_contract(Some(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_charges_by_key_and_cost() {
    let fake = Fake::new();
    let layer = SharedRateLimitLayer::new(fake.simple("10/h"))
        .key(|req: &(Option<u32>, u64)| req.0)
        .cost(|req: &(Option<u32>, u64)| req.1);
    let service =
        layer.layer(tower::service_fn(async |req: (Option<u32>, u64)| Ok::<_, io::Error>(req.1)));
    let call = |req| service.clone().oneshot(req);
    assert_eq!(call((Some(1), 6)).await.unwrap(), 6);
    let error = call((Some(1), 6)).await.unwrap_err();
    assert_eq!(Rejection::find(&*error).unwrap().kind(), RejectionKind::RateLimited);
    assert!(call((Some(2), 10)).await.is_ok());
    assert!(call((Some(2), 0)).await.is_ok(), "free");
    // Those without share one.
    assert!(call((None, 6)).await.is_ok());
    assert!(call((None, 6)).await.is_err());
    let allow = SharedRateLimitLayer::new(fake.simple("10/h"))
        .key(|req: &Option<u32>| *req)
        .when_missing(WhenMissing::Allow)
        .layer(tower::service_fn(async |_: Option<u32>| Ok::<_, io::Error>(())));
    for _ in 0..20 {
        allow.clone().oneshot(None).await.unwrap();
    }
}

/// As at the layer of one process; the later price was the only one.
#[tokio::test(start_paused = true)]
async fn a_later_price_multiplies_with_the_earlier() {
    let fake = Fake::new();
    let service = SharedRateLimitLayer::new(fake.simple("10/h"))
        .cost(|n: &u64| *n)
        .cost(|_: &u64| 2)
        .layer(tower::service_fn(async |n: u64| Ok::<_, io::Error>(n)));
    assert!(service.clone().oneshot(3).await.is_ok());
    assert!(service.clone().oneshot(2).await.is_ok());
    assert!(service.clone().oneshot(1).await.is_err(), "6 and 4 of 10");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_while_it_asks_does_not_reach_the_service() {
    let fake = Fake::new();
    fake.set(|state| state.latency = 10 * MS);
    let calls = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&calls);
    let service = SharedRateLimitLayer::new(fake.simple("10/h")).key(key_fn(|n: &u32| *n)).layer(
        tower::service_fn(move |_: u32| {
            seen.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, io::Error>(()) }
        }),
    );
    assert!(timeout(5 * MS, service.clone().oneshot(1)).await.is_err());
    sleep(100 * MS).await;
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    service.clone().oneshot(1).await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    fn sendable<T: Send + Sync + Clone + 'static>(_: &T) {}
    sendable(&service);
    fn future<T: Send + 'static>(_: T) {}
    future(service.clone().call(1));
}

#[cfg(feature = "http")]
#[tokio::test]
async fn over_http_refusals_are_answers_with_header_fields() {
    use axum::http::StatusCode;
    use axum::{Router, routing::get};
    use buttress::http::problem;
    let fake = Fake::new();
    let layer = SharedRateLimitLayer::new(fake.simple("3/h")).on_reject(problem()).headers();
    let other = layer.clone();
    crate::support::state_shared_across_axum_connections(
        move |router| router.layer(other),
        StatusCode::OK,
        &[200, 200, 200, 429, 429],
    )
    .await
    .unwrap();
    let router = Router::new().route("/", get(|| async { "hello" })).layer(layer);
    let mut server = crate::support::Server::start(router).await;
    let refused = server.connect().await.get("/").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["ratelimit-policy"], "\"api\";q=3;w=3600");
    assert!(refused.headers().contains_key("retry-after"));
}
