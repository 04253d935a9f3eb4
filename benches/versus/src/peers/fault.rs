//! Fault injection that injects nothing: a layer that is not there, tower-resilience's that is off.

use std::task::{Context, Poll};

use tower::{Layer, Service};
use tower_resilience::chaos::ChaosLayer;

use crate::case::{Case, Expect, Hold, numbers};
use crate::floor::{Answer, Oops};

/// What any layer costs: one more service around the inner one.
#[derive(Clone)]
struct PassThrough<S>(S);

impl<S: Service<u64>> Service<u64> for PassThrough<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: u64) -> S::Future {
        self.0.call(request)
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("fault/off/empty layer", Expect::Allowed, || {
            numbers(PassThrough(Answer), Hold::Reuse)
        })
        .scales(),
        Case::new("fault/off/tower-resilience", Expect::Allowed, || {
            let layer = ChaosLayer::builder()
                .name("api")
                .error_rate(0.0)
                .error_fn(|_: &u64| Oops)
                .latency_rate(0.0)
                .build();
            numbers(layer.layer(Answer), Hold::Reuse)
        })
        .scales()
        .against("fault/off/empty layer"),
    ]
}
