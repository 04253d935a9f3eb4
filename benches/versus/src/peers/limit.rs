//! Rate limiters: governor direct and keyed, tower, tower-resilience.

use std::hash::BuildHasher;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::state::keyed::DashMapStateStore;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::DefaultClock};
use tower::Layer;
use tower_resilience::ratelimiter::{RateLimiterLayer, WindowType};

use crate::case::{Callers, Case, Direct, Expect, Hold, Runner, direct, numbers};
use crate::floor::Answer;

const HOUR: Duration = Duration::from_secs(3600);

/// So many that no call here is refused.
fn plenty() -> Quota {
    Quota::with_period(Duration::from_nanos(1))
        .expect("not zero")
        .allow_burst(NonZero::new(1_000_000_000).expect("not zero"))
}

/// One call, then none for an hour.
fn nothing() -> Quota {
    Quota::with_period(HOUR).expect("not zero").allow_burst(NonZero::<u32>::MIN)
}

pub type Keyed<S> = RateLimiter<u64, DashMapStateStore<u64, S>, DefaultClock>;

pub fn governor_keyed<S: BuildHasher + Clone + Default>(keys: u64, hasher: S) -> Arc<Keyed<S>> {
    let limiter = RateLimiter::dashmap_with_hasher(plenty(), hasher);
    for key in 0..keys {
        let _ = limiter.check_key(&key);
    }
    Arc::new(limiter)
}

/// Keys in no order a cache could guess: the same for every keyed case, others for each caller of a case.
/// (Two callers who begin with the same key soon walk in step: each waits for the line the other has just
/// written, and then follows it.)
pub struct AnyKey {
    keys: u64,
    callers: AtomicU64,
}

impl AnyKey {
    pub fn of(keys: u64) -> Self {
        Self { keys, callers: AtomicU64::new(0) }
    }

    pub fn caller(&self) -> impl FnMut() -> u64 + Send + use<> {
        let caller = self.callers.fetch_add(1, Ordering::Relaxed);
        let (keys, mut state) = (self.keys, (caller + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((u128::from(state >> 16) * u128::from(keys)) >> 48) as u64
        }
    }
}

fn keyed<S>(keys: u64, hasher: S) -> Callers
where
    S: BuildHasher + Clone + Default + Send + Sync + 'static,
{
    let any = AnyKey::of(keys);
    direct(governor_keyed(keys, hasher), move |limiter| {
        let (limiter, mut key) = (Arc::clone(limiter), any.caller());
        move || limiter.check_key(&key()).is_ok()
    })
}

pub fn cases() -> Vec<Case> {
    let mut all = vec![
        Case::new("limit/direct allow/governor", Expect::Allowed, || {
            direct(Arc::new(DefaultDirectRateLimiter::direct(plenty())), |limiter| {
                let limiter = Arc::clone(limiter);
                move || limiter.check().is_ok()
            })
        })
        .scales(),
        Case::new("limit/direct refuse/governor", Expect::Refused, || {
            let limiter = Arc::new(DefaultDirectRateLimiter::direct(nothing()));
            let _ = limiter.check();
            direct(limiter, |limiter| {
                let limiter = Arc::clone(limiter);
                move || limiter.check().is_ok()
            })
        })
        .scales(),
    ];
    for (label, keys) in [("1", 1), ("10k", 10_000), ("1M", 1_000_000)] {
        all.push(
            Case::new(format!("keyed/allow@{label}/governor"), Expect::Allowed, move || {
                keyed(keys, std::hash::RandomState::new())
            })
            .scales(),
        );
        all.push(
            Case::new(
                format!("keyed/allow@{label}/governor+foldhash"),
                Expect::Allowed,
                move || keyed(keys, foldhash::fast::RandomState::default()),
            )
            .scales(),
        );
    }
    all.push(Case::new("keyed/new key/governor", Expect::Allowed, || {
        Box::new(|| {
            let limiter = governor_keyed(0, std::hash::RandomState::new());
            let mut key = 0_u64;
            Box::new(Direct(move || {
                key += 1;
                limiter.check_key(&key.wrapping_mul(0x9e37_79b9_7f4a_7c15)).is_ok()
            })) as Box<dyn Runner>
        })
    }));
    all.extend(layers());
    all
}

fn layers() -> Vec<Case> {
    let resilient = |builder: tower_resilience::ratelimiter::RateLimiterConfigBuilder| {
        // `build_with_handle` is how its documentation shares one state between services.
        let (layer, _) = builder.name("api").build_with_handle().expect("a valid configuration");
        layer.layer(Answer)
    };
    vec![
        Case::new("limit/layer allow/tower RateLimit", Expect::Allowed, || {
            // Not `Clone`: each caller has its own.
            Box::new(|| {
                let service = tower::ServiceBuilder::new()
                    .rate_limit(u64::MAX, Duration::from_secs(1))
                    .service(Answer);
                let allowed = |answer: Result<u64, _>| answer.is_ok();
                Box::new(crate::case::Reuse { service, request: || 7_u64, allowed })
            })
        }),
        Case::new("limit/layer allow/tower-resilience fixed", Expect::Allowed, move || {
            let builder = RateLimiterLayer::builder()
                .limit_for_period(1_000_000_000)
                .refresh_period(Duration::from_secs(1));
            numbers(resilient(builder), Hold::Reuse)
        })
        .scales(),
        Case::new("limit/layer allow/tower-resilience sliding", Expect::Allowed, move || {
            let builder = RateLimiterLayer::builder()
                .limit_for_period(1_000_000_000)
                .refresh_period(Duration::from_secs(1))
                .window_type(WindowType::SlidingCounter);
            numbers(resilient(builder), Hold::Reuse)
        })
        .scales(),
        Case::new("limit/layer refuse/tower-resilience fixed", Expect::Refused, move || {
            let builder = RateLimiterLayer::builder()
                .limit_for_period(1)
                .refresh_period(HOUR)
                .timeout_duration(Duration::ZERO);
            let service = resilient(builder);
            crate::case::fill(&service, 1);
            numbers(service, Hold::Reuse)
        })
        .scales(),
    ]
}
