//! Whole stacks and what the linter says of them.

#![expect(clippy::float_cmp, reason = "they are copied, not computed")]

use buttress::config::{Format, Loader};
use buttress::control::Registry;
use buttress::presets::{HedgePlan, RetryPlan};

fn loader(text: &str) -> Loader {
    Loader::empty().text("a.yml", Format::Yaml, text)
}

#[test]
fn one_name_is_one_object() {
    let text = "
rate_limits: {shared: 5/h}
clients:
  pay: {rate_limit: shared, breaker: {consecutive_failures: 1}}
  ship: {rate_limit: shared, breaker: {consecutive_failures: 1, half_open_calls: 2}}
servers:
  api: {rate_limit: shared, failure_budget: {threshold: 10%}, faults: {rules: [{fault: loss}]}}
";
    let registry = Registry::new();
    let stacks = loader(text).load().unwrap().stacks().register_in(&registry);
    let (pay, ship) = (stacks.client("pay").unwrap(), stacks.client("ship").unwrap());
    let api = stacks.server("api").unwrap();
    pay.rate_limiter().unwrap().try_acquire_n(3).unwrap();
    for tokens in [
        ship.rate_limiter().unwrap().tokens(),
        api.rate_limiter().unwrap().tokens(),
        stacks.rate_limiter("shared").unwrap().tokens(),
    ] {
        assert!((2.0..2.1).contains(&tokens), "{tokens}");
    }
    // The second call for a name.
    pay.breaker().unwrap().force_open();
    let again = stacks.client("pay").unwrap();
    assert_eq!(again.breaker().unwrap().state().as_str(), "forced_open");
    assert_eq!(ship.breaker().unwrap().state().as_str(), "closed");

    let mut ids: Vec<_> = registry.status().objects.into_iter().map(|object| object.id).collect();
    ids.sort();
    assert_eq!(
        ids,
        [
            "circuit_breaker/pay",
            "circuit_breaker/ship",
            "conditioner/api",
            "failure_budget/api",
            "rate_limit/shared"
        ]
    );
    assert_eq!(registry.status().generation, 1);
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let text = "
clients:
  pay:
    total_timeout: 5s
    attempt_timeout: 6s
    retry: adaptive
    hedge: {min_delay: 7s}
    breaker: db
breakers:
  db:
    failure_rate: 50%
    window: 3s
    shadow: true
";
    let config = loader(text).load().unwrap();
    let found: Vec<_> = config.lint().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "a.yml:5: clients.pay.attempt_timeout: error [attempt_not_below_total] 6s for an attempt, 5s for the whole call",
            "a.yml:7: clients.pay.hedge.min_delay: error [hedge_above_attempt] not before 7s, when an attempt ends after 6s",
            "a.yml:3: clients.pay.retry_budget: warning [retry_without_budget] 8 attempts for each call while the backend is down",
            "a.yml:12: breakers.db.window: warning [breaker_window_short] 3s, an attempt takes up to 6s",
        ]
    );
    let registry = Registry::new();
    let stacks = config.stacks().register_in(&registry);
    let error = stacks.client("pay").unwrap_err();
    assert_eq!(error.field(), "clients.pay.attempt_timeout");
    assert!(stacks.circuit_breaker("db").is_ok());
    let lint = registry.status().lint;
    assert_eq!(lint.len(), 4);
    assert_eq!(lint[0].rule, "attempt_not_below_total");
    assert!(lint[0].text.starts_with("a.yml:5: "), "{}", lint[0].text);
}

#[test]
fn a_backend_brings_what_it_pays_for() {
    let text = "
clients:
  pay: {total_timeout: 2s, backend: learned, endpoints: {max_ejected: 30%}}
  db: {backend: {limit: 8, patience: 500ms}, hedge: never, retry: {fail_immediately: true}}
  plain: {total_timeout: 2s}
";
    let config = loader(text).load().unwrap();
    assert!(config.lint().is_empty(), "{:?}", config.lint());
    let plan = config.client("pay").unwrap();
    assert_eq!((plan.retry, plan.endpoints.max_ejected), (RetryPlan::Paced, 0.3));
    assert_eq!(plan.hedge, Some(HedgePlan::default()));
    let db = config.client("db").unwrap();
    assert_eq!((db.hedge, db.policy().unwrap().can_retry()), (None, false));

    let registry = Registry::new();
    let stacks = config.stacks().register_in(&registry);
    let db = stacks.client("db").unwrap();
    assert_eq!(db.backend().unwrap().stats().limit, 8);
    assert!(stacks.client("plain").unwrap().backend().is_none());
    let pay = stacks.client("pay").unwrap();
    let pool = pay.endpoints();
    pool.insert("one", tower::service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) }));
    let service = pay.pool(&pool);
    let ids: Vec<_> = registry.status().objects.into_iter().map(|object| object.id).collect();
    for id in ["hedge/pay", "endpoints/pay"] {
        assert!(ids.iter().any(|there| there == id), "{id} in {ids:?}");
    }
    drop(service);
}

#[test]
fn each_key_of_a_pool_is_in_its_plan() {
    let text = "
clients:
  pay:
    total_timeout: 2s
    endpoints:
      {max_ejected: 30%, failures_in_row: 4, probe_after: 5s, probe_after_max: 6s, slow_start: 7s, memory: 8s}
";
    let pool = loader(text).load().unwrap().client("pay").unwrap().endpoints;
    assert_eq!((pool.max_ejected, pool.failures_in_row), (0.3, 4));
    let times = [pool.probe_after, pool.probe_after_max, pool.slow_start, pool.memory];
    assert_eq!(times.map(|time| time.as_secs()), [5, 6, 7, 8]);
}

#[test]
fn the_other_name_of_the_timeout_is_ignored_with_clamp() {
    let loader = Loader::empty().set("resilience.shutdown.default_timeout", 20);
    assert_eq!(loader.load().unwrap().limits().shutdown_timeout, 20.0);
    let clamped = loader.clone().clamp(true);
    assert_eq!(clamped.load().unwrap().limits().shutdown_timeout, 30.0);
    let both = clamped.set("resilience.shutdown.timeout", 40);
    assert_eq!(both.load().unwrap().limits().shutdown_timeout, 40.0);
}

#[test]
fn a_server_has_a_backend_if_it_is_written_there() {
    let text = "
servers:
  set: {timeout: 2s, backend: 256}
  learned: {timeout: 2s, backend: learned}
  patient: {timeout: 2s, backend: {limit: 8, patience: 3s}}
  plain: {timeout: 2s}
";
    let config = loader(text).load().unwrap();
    let lint: Vec<_> = config.lint().iter().map(ToString::to_string).collect();
    let never = "waits up to 3s, 2s for the call";
    let key = "servers.patient.backend.patience";
    assert_eq!(lint, [format!("a.yml:5: {key}: warning [patience_above_total] {never}")]);
    let in_flight = |name| config.server(name).unwrap().backend.map(|backend| backend.in_flight);
    assert_eq!(in_flight("set"), Some(Some(256)));
    assert_eq!(in_flight("learned"), Some(None));
    assert_eq!(in_flight("plain"), None);

    let registry = Registry::new();
    let stacks = config.stacks().register_in(&registry);
    let made = ["set", "learned", "plain"].map(|name| stacks.server(name).unwrap());
    assert_eq!(made[0].backend().unwrap().stats().limit, 256);
    assert!(made[2].backend().is_none());
    let mut ids: Vec<_> = registry.status().objects.into_iter().map(|object| object.id).collect();
    ids.sort();
    assert_eq!(ids, ["backend/learned", "backend/set"]);
}
