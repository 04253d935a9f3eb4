//! Our whole stacks for a client.

use std::time::Duration;

use axum::http::Request;
use buttress::presets::{BreakerPlan, ClientPlan, RateLimitPlan, client};
use tower::Layer;

use super::limit::plenty;
use crate::case::{Callers, Case, Expect, Hold, fill, fill_with, numbers, requests};
use crate::floor::{Answer, Later};
use crate::peers::stack::{TOWER, TOWER_HTTP, TOWER_LATER};

/// So many that the backend's limit, its latency and the hedge's are known.
const WARM: u64 = 1000;

/// The stack as it is by default.
fn stack(plan: &ClientPlan, hold: Hold) -> Callers {
    let service = client(plan).expect("a valid plan").layer(Answer);
    fill(&service, WARM);
    numbers(service, hold)
}

/// The same, of calls that are not answered in the poll in which they are sent.
fn later() -> Callers {
    let service = client(&ClientPlan::new("db")).expect("a valid plan").layer(Later);
    fill(&service, WARM);
    numbers(service, Hold::Reuse)
}

/// The same for requests of HTTP, each of which is told by when it has to be answered.
fn http() -> Callers {
    let stack = client(&ClientPlan::new("db")).expect("a valid plan").http();
    let service = stack.layer(Answer);
    fill_with(&service, WARM, Request::<()>::default);
    requests(service)
}

/// Around two endpoints, with hedges.
fn pool(hold: Hold) -> Callers {
    let stack = client(&ClientPlan::new("db")).expect("a valid plan");
    let pool = stack.endpoints();
    pool.extend([("one", Answer), ("two", Answer)]);
    let service = stack.pool(&pool);
    fill(&service, WARM);
    numbers(service, hold)
}

/// All that a plan for one service can have: the default, a rate limit, a timeout of each attempt, a breaker.
fn full() -> ClientPlan {
    let mut plan = ClientPlan::new("db");
    plan.rate_limit = Some(RateLimitPlan::new(plenty()));
    plan.attempt_timeout = Some(Duration::from_secs(2));
    plan.breaker = Some(BreakerPlan::default());
    plan
}

pub(super) fn cases() -> Vec<Case> {
    let case = |name: &str, make: fn() -> Callers| {
        Case::new(name, Expect::Allowed, make).no_alloc().scales().against(TOWER)
    };
    vec![
        case("stack/success/us", || stack(&ClientPlan::new("db"), Hold::Reuse)),
        case("stack/success/us, cloned each call", || {
            stack(&ClientPlan::new("db"), Hold::CloneEach)
        }),
        case("stack/success/us full", || stack(&full(), Hold::Reuse)),
        case("stack/success/us pool", || pool(Hold::Reuse)),
        Case::new("stack/success, later/us", Expect::Allowed, later)
            .no_alloc()
            .scales()
            .against(TOWER_LATER),
        Case::new("stack/success, http/us", Expect::Allowed, http).scales().against(TOWER_HTTP),
    ]
}
