//! What adapts to answers: tower-resilience's limit of calls in flight. None of the peers learns a rate.

use std::time::Duration;

use tower::Layer;
use tower_resilience::adaptive::{AdaptiveLimiterLayer, Aimd};

use crate::case::{Case, Expect, Hold, fill, numbers};
use crate::floor::Answer;

pub fn cases() -> Vec<Case> {
    let case = |name: &str, hold| {
        Case::new(name, Expect::Allowed, move || {
            let aimd = Aimd::builder()
                .initial_limit(10)
                .min_limit(1)
                .max_limit(100)
                .latency_threshold(Duration::from_millis(100))
                .build()
                .expect("the numbers of its documentation");
            let service = AdaptiveLimiterLayer::new(aimd).layer(Answer);
            fill(&service, 1000);
            numbers(service, hold)
        })
        .scales()
    };
    vec![
        case("throttle/success/tower-resilience adaptive", Hold::Reuse),
        case("throttle/success/tower-resilience adaptive, cloned each call", Hold::CloneEach),
    ]
}
