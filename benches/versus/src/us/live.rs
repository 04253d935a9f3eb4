//! What it costs that settings can be changed while calls go by: the same stacks made once, and live. The numbers
//! of single objects are those of their own cases, compared with a build whose settings are plain fields.

use buttress::Slot;
use buttress::config::{Config, Format, Loader};
use buttress::presets::{client, server};
use buttress::retry::{RetryLayer, RetryPolicy};
use tower::Layer;

use crate::case::{Callers, Case, Expect, Hold, fill, numbers};
use crate::floor::Answer;

const WARM: u64 = 1000;

const TEXT: &str = "
clients:
  db: {total_timeout: 30s, backend: learned, rate_limit: 1000000000/s, attempt_timeout: 2s, breaker: {}}
servers:
  api: {timeout: 30s, rate_limit: 1000000000/s, failure_budget: {}}
";

fn config() -> Config {
    Loader::empty().text("live.yml", Format::Yaml, TEXT).load().expect("a valid configuration")
}

macro_rules! caller {
    ($layer:expr, $hold:expr) => {{
        let service = $layer.layer(Answer);
        fill(&service, WARM);
        numbers(service, $hold)
    }};
}

pub(super) fn cases() -> Vec<Case> {
    let case =
        |name: &str, make: fn() -> Callers| Case::new(name, Expect::Allowed, make).no_alloc();
    vec![
        case("live/client/us made once", || {
            let plan = config().client("db").expect("a plan");
            caller!(client(&plan).expect("a valid plan"), Hold::Reuse)
        }),
        case("live/client/us", || {
            caller!(config().stacks().client("db").expect("a stack"), Hold::Reuse)
        }),
        case("live/client/us, cloned each call", || {
            caller!(config().stacks().client("db").expect("a stack"), Hold::CloneEach)
        }),
        case("live/client/us made once, cloned each call", || {
            let plan = config().client("db").expect("a plan");
            caller!(client(&plan).expect("a valid plan"), Hold::CloneEach)
        }),
        case("live/server/us made once", || {
            let plan = config().server("api").expect("a plan");
            caller!(server(&plan).expect("a valid plan"), Hold::Reuse)
        }),
        case("live/server/us", || {
            caller!(config().stacks().server("api").expect("a stack"), Hold::Reuse)
        }),
        case("live/server/us made once, cloned each call", || {
            let plan = config().server("api").expect("a plan");
            caller!(server(&plan).expect("a valid plan"), Hold::CloneEach)
        }),
        case("live/server/us, cloned each call", || {
            caller!(config().stacks().server("api").expect("a stack"), Hold::CloneEach)
        }),
        case("live/retry/us made once", || {
            caller!(RetryLayer::new(RetryPolicy::default()), Hold::Reuse)
        }),
        case("live/retry/us", || {
            caller!(RetryLayer::from_slot(Slot::with(RetryPolicy::default())), Hold::Reuse)
        }),
    ]
}
