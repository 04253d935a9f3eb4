//! Whole stacks for a client: rate limit, limit in flight, timeout, retry with a budget, and what sheds or breaks.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use tower::retry::budget::TpsBudget;
use tower::{Layer, Service, ServiceBuilder};
use tower_resilience::bulkhead::BulkheadLayer;
use tower_resilience::circuitbreaker::CircuitBreakerLayer;
use tower_resilience::ratelimiter::RateLimiterLayer;
use tower_resilience::retry::{RetryBudgetBuilder, RetryLayer};
use tower_resilience::timelimiter::TimeLimiterLayer;

use super::retry::Attempts;
use crate::case::{Callers, Case, Expect, Hold, Reuse, numbers, requests};
use crate::floor::{Answer, Later, Oops};

pub const TOWER: &str = "stack/success/tower stack of 5";
pub const TOWER_HTTP: &str = "stack/success, http/tower stack of 5";
pub const TOWER_LATER: &str = "stack/success, later/tower stack of 5";

const LONG: Duration = Duration::from_secs(10);

/// Of one that cannot be cloned, as tower's rate limit: one caller.
fn alone<S, Req>(make: fn() -> S) -> Callers
where
    S: Service<Req, Response: 'static, Error: 'static, Future: Send> + Send + 'static,
    Req: Default + 'static,
{
    Box::new(move || {
        let allowed = |answer: Result<S::Response, S::Error>| answer.is_ok();
        Box::new(Reuse { service: make(), request: Req::default, allowed })
    })
}

/// tower's, of which only the rate limit cannot be cloned.
macro_rules! five {
    ($inner:expr) => {
        ServiceBuilder::new()
            .load_shed()
            .rate_limit(1_000_000_000, Duration::from_secs(1))
            .concurrency_limit(10_000)
            .layer(tower_retry())
            .timeout(LONG)
            .service($inner)
    };
}

fn tower_retry() -> tower::retry::RetryLayer<Attempts> {
    let budget = Some(Arc::new(TpsBudget::default()));
    tower::retry::RetryLayer::new(Attempts { left: 2, budget })
}

fn resilience<S, Req>(
    inner: S,
) -> impl Service<Req, Response = S::Response, Error: Send + 'static, Future: Send>
+ Clone
+ Send
+ 'static
where
    Req: Clone + Send + 'static,
    S: Service<Req, Error = Oops, Future: Send, Response: Send + 'static> + Clone + Send + 'static,
{
    let limiter = RateLimiterLayer::builder()
        .name("db")
        .limit_for_period(1_000_000_000)
        .refresh_period(Duration::from_secs(1))
        .timeout_duration(Duration::ZERO)
        .build_with_handle()
        .expect("a valid configuration")
        .0;
    let breaker = CircuitBreakerLayer::builder()
        .name("db")
        .sliding_window_size(100)
        .build_with_handle()
        .expect("a valid configuration")
        .0;
    let bulkhead = BulkheadLayer::builder()
        .name("db")
        .max_concurrent_calls(10_000)
        .build_with_handle()
        .expect("a valid configuration")
        .0;
    let budget = RetryBudgetBuilder::new()
        .token_bucket()
        .tokens_per_second(10.0)
        .max_tokens(100)
        .build()
        .expect("a valid configuration");
    let retry = RetryLayer::<Req, S::Response, Oops>::builder()
        .max_attempts(3)
        .exponential_backoff(Duration::from_millis(100))
        .budget(budget)
        .build();
    let timeout = TimeLimiterLayer::builder().timeout_duration(LONG).build();
    let service = timeout.layer(retry.layer(inner));
    limiter.layer(breaker.layer(bulkhead.layer(service)))
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new(TOWER, Expect::Allowed, || alone::<_, u64>(|| five!(Answer))),
        Case::new(TOWER_LATER, Expect::Allowed, || alone::<_, u64>(|| five!(Later))),
        Case::new(TOWER_HTTP, Expect::Allowed, || alone::<_, Request<()>>(|| five!(Answer))),
        Case::new("stack/success/tower stack of 4, no rate limit", Expect::Allowed, || {
            let service = ServiceBuilder::new()
                .load_shed()
                .concurrency_limit(10_000)
                .layer(tower_retry())
                .timeout(LONG)
                .service(Answer);
            numbers(service, Hold::Reuse)
        })
        .scales()
        .against(TOWER),
        Case::new("stack/success/tower-resilience stack of 5", Expect::Allowed, || {
            numbers(resilience(Answer), Hold::Reuse)
        })
        .scales()
        .against(TOWER),
        Case::new("stack/success, later/tower-resilience stack of 5", Expect::Allowed, || {
            numbers(resilience(Later), Hold::Reuse)
        })
        .scales()
        .against(TOWER_LATER),
        Case::new("stack/success, http/tower-resilience stack of 5", Expect::Allowed, || {
            requests(resilience(Answer))
        })
        .scales()
        .against(TOWER_HTTP),
    ]
}
