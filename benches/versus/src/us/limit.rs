//! Our rate limiters.

use std::time::Duration;

use buttress::rate_limit::{KeyedRateLimiter, RateLimitLayer, RateLimiter};
use buttress::{AsTyped, Quota, key_fn};
use tower::Layer;

use crate::case::{Callers, Case, Direct, Expect, Hold, Runner, direct, numbers};
use crate::floor::Answer;
use crate::peers::limit::AnyKey;

/// So many that no call here is refused.
pub(super) fn plenty() -> Quota {
    Quota::per_second(1_000_000_000).expect("a valid quota")
}

/// One call, then none for an hour.
pub(super) fn nothing() -> Quota {
    Quota::new(1, Duration::from_secs(3600))
        .and_then(|quota| quota.burst(1))
        .expect("a valid quota")
}

pub(super) fn exhausted() -> RateLimiter {
    let limiter = RateLimiter::new(nothing());
    limiter.try_acquire().expect("the one call");
    limiter
}

/// Promised to hold so many keys, and holding them.
pub(super) fn keyed(keys: u64) -> KeyedRateLimiter<u64> {
    let capacity = usize::try_from(keys).expect("fits");
    let limiter = KeyedRateLimiter::new(plenty(), capacity).expect("a valid capacity");
    for key in 0..keys {
        limiter.try_acquire(&key).expect("plenty");
    }
    limiter
}

fn acquire(limiter: RateLimiter) -> Callers {
    direct(limiter, |limiter| {
        let limiter = limiter.clone();
        move || limiter.try_acquire().is_ok()
    })
}

pub(super) fn cases() -> Vec<Case> {
    use Expect::{Allowed, Refused};
    let mut all = vec![
        Case::new("limit/direct allow/us", Allowed, || acquire(RateLimiter::new(plenty())))
            .no_alloc()
            .scales()
            .against("limit/direct allow/governor"),
        Case::new("limit/direct refuse/us", Refused, || acquire(exhausted()))
            .no_alloc()
            .scales()
            .against("limit/direct refuse/governor"),
        Case::new("limit/layer allow/us", Allowed, || {
            numbers(RateLimitLayer::new(RateLimiter::new(plenty())).layer(Answer), Hold::Reuse)
        })
        .no_alloc()
        .scales()
        .against("limit/layer allow/tower RateLimit"),
        Case::new("limit/layer allow/us, cloned each call", Allowed, || {
            numbers(RateLimitLayer::new(RateLimiter::new(plenty())).layer(Answer), Hold::CloneEach)
        })
        .no_alloc()
        .scales()
        .against("limit/layer allow/tower-resilience fixed"),
        Case::new("limit/layer refuse/us", Refused, || {
            numbers(RateLimitLayer::new(exhausted()).layer(Answer), Hold::Reuse)
        })
        .scales()
        .against("limit/layer refuse/tower-resilience fixed"),
        Case::new("limit/layer refuse/us typed", Refused, || {
            let layer = RateLimitLayer::new(exhausted()).on_reject(AsTyped);
            numbers(layer.layer(Answer), Hold::Reuse)
        })
        .no_alloc()
        .scales()
        .against("limit/layer refuse/tower-resilience fixed"),
        Case::new("keyed/layer allow@10k/us", Allowed, || {
            let layer = RateLimitLayer::new(keyed(10_000)).key(key_fn(|key: &u64| *key));
            let (service, any) = (layer.layer(Answer), AnyKey::of(10_000));
            Box::new(move || {
                let allowed = |answer: Result<u64, _>| answer.is_ok();
                let (service, request) = (service.clone(), any.caller());
                Box::new(crate::case::Reuse { service, request, allowed })
            })
        })
        .no_alloc()
        .scales(),
    ];
    for (label, keys, peer) in [
        ("1", 1, "keyed/allow@1/governor"),
        ("10k", 10_000, "keyed/allow@10k/governor"),
        ("1M", 1_000_000, "keyed/allow@1M/governor"),
    ] {
        all.push(
            Case::new(format!("keyed/allow@{label}/us"), Allowed, move || {
                let any = AnyKey::of(keys);
                direct(keyed(keys), move |limiter| {
                    let (limiter, mut key) = (limiter.clone(), any.caller());
                    move || limiter.try_acquire(&key()).is_ok()
                })
            })
            .no_alloc()
            .scales()
            .against(peer),
        );
    }
    all.push(
        // Each call a key never seen: the table is full, and idle keys make room.
        Case::new("keyed/new key/us, table full", Allowed, || {
            Box::new(|| {
                let limiter = keyed(10_000);
                let mut key = 0_u64;
                Box::new(Direct(move || {
                    key += 1;
                    limiter.try_acquire(&key.wrapping_mul(0x9e37_79b9_7f4a_7c15)).is_ok()
                })) as Box<dyn Runner>
            })
        })
        .no_alloc()
        .against("keyed/new key/governor"),
    );
    all
}
