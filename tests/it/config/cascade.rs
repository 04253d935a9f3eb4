//! Which source wins, and that its name stays with the value.
#![expect(clippy::float_cmp, reason = "numbers that are only read and kept")]

use std::path::PathBuf;

use buttress::FailureClass;
use buttress::config::{Format, Loader};

pub(super) fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("buttress-config-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// As the documentation of the other tool has it.
const SEED: &str = "\
resilience:
  circuit_breaker:
    max_failures: 5
    reset_timeout: 60
  shutdown:
    default_timeout: 30
  heartbeat:
    interval: 10
  watchdog:
    timeout: 30
";

#[test]
fn the_seeds_block_loads_as_it_stands() {
    for clamp in [false, true] {
        let loader = Loader::empty().text("kstlib.conf.yml", Format::Yaml, SEED).clamp(clamp);
        let config = loader.load().unwrap();
        assert_eq!(
            config.origin("resilience.circuit_breaker.max_failures"),
            Some("kstlib.conf.yml:3")
        );
        assert_eq!(config.limits().watchdog_timeout, 30.0);
        // It is the default of every breaker.
        assert!(config.circuit_breaker("anything").is_ok());
    }
    // Other sections of that tool's file are not ours to judge.
    let root = folder("seed");
    std::fs::write(root.join("kstlib.conf.yml"), format!("{SEED}cache:\n  ttl: 5\n")).unwrap();
    let config = Loader::empty().search([&root]).load().unwrap();
    assert_eq!(config.limits().circuit_max_failures, 5);
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn sources_are_merged_key_by_key() {
    let root = folder("merge");
    for place in ["weak", "strong"] {
        std::fs::create_dir_all(root.join(place)).unwrap();
    }
    let write = |path: &str, text: &str| std::fs::write(root.join(path), text).unwrap();
    write(
        "weak/buttress.toml",
        "[breakers.db]\nopen_for = 1\nramp = 1\nmin_calls = 1\nfailure_rate = 0.5\n",
    );
    write("strong/kstlib.conf.yml", "resilience: {watchdog: {timeout: 7}}");
    write("strong/buttress.json", "{\"breakers\":\n{\"db\":\n{\"ramp\": 2, \"min_calls\": 2}}}");
    let named = root.join("named.yml");
    std::fs::write(&named, "breakers:\n  db:\n    min_calls: 3\n    shadow: true\n").unwrap();
    let config = Loader::empty()
        .search([root.join("strong"), root.join("weak")])
        .file(&named)
        .env_from([("BUTTRESS__BREAKERS__DB__SHADOW", "false"), ("BUTTRESS_SMOKE", "1")])
        .set("breakers.db.seed", 4)
        .set_default("breakers.db.seed", 9)
        .set_default("breakers.db.half_open_calls", 2)
        .load()
        .unwrap();
    let at = |file: &str, line: u32| format!("{}:{line}", root.join(file).display());
    for (key, value, origin) in [
        ("open_for", "1.0", at("weak/buttress.toml", 2)),
        ("failure_rate", "0.5", at("weak/buttress.toml", 5)),
        ("ramp", "2.0", at("strong/buttress.json", 3)),
        ("min_calls", "3", at("named.yml", 3)),
        ("shadow", "false", "variable BUTTRESS__BREAKERS__DB__SHADOW".to_owned()),
        ("seed", "4", "argument".to_owned()),
        ("half_open_calls", "2", "default".to_owned()),
    ] {
        let key = format!("breakers.db.{key}");
        assert_eq!(config.value(&key).as_deref(), Some(value), "{key}");
        assert_eq!(config.origin(&key), Some(origin.as_str()), "{key}");
        let line = format!("{key} = {value}  ({origin})\n");
        assert!(config.explain().contains(&line), "{line} in {}", config.explain());
    }
    assert_eq!(config.limits().watchdog_timeout, 7.0);
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn variables_find_keys_whatever_their_case() {
    let config = Loader::empty()
        .text("a.yml", Format::Yaml, "rate_limits: {Pay-Ments: 5/s}")
        .env_from([
            ("BUTTRESS__RATE_LIMITS__PAY_MENTS", "7/s"),
            ("BUTTRESS__BREAKERS", "{\"db\": {\"open_for\": \"1m\"}}"),
        ])
        .load()
        .unwrap();
    assert_eq!(config.value("rate_limits.Pay-Ments.rate").as_deref(), Some("\"7/s\""));
    assert_eq!(config.value("breakers.db.open_for").as_deref(), Some("60.0"));
}

#[test]
fn null_gives_the_default_back() {
    let config = Loader::empty()
        .text("a.yml", Format::Yaml, "breakers: {db: {open_for: 5s}}")
        .text("b.yml", Format::Yaml, "breakers: {db: {open_for: }}")
        .load()
        .unwrap();
    assert_eq!(config.value("breakers.db.open_for"), None);
    assert!(config.circuit_breaker("db").is_ok());
}

#[test]
fn every_object_can_be_built() {
    let text = r#"
breakers:
  db: {failure_rate: 50%, slow_calls: {after: 1s, rate: 0.9}, window: 1m, cancelled_after: never}
rate_limits:
  api: {rate: 100/s burst 20, max_waiting: 10}
retries:
  task: {transient: 3, flaky: 1, base_delay: 0.2, jitter: 0}
  named: FLOW_NODE_DEFAULT
  wire: {max_attempts: unlimited, transient: 2, deadline: 1m, backoff: {base: 50ms, cap: 2s, jitter: equal}, max_retry_after: ignore}
retry_budgets:
  pay: {ratio: 10%, burst: 5}
failure_budgets:
  api: {threshold: 5%, action: reject}
  slo: {slo: {objective: 99.9%, period: 30d}}
faults:
  chaos:
    rules:
      - {fault: {latency: {pareto: {least: 5ms, shape: 1.5}}}, share: 10%, matching: {all: [{method: POST}, {not: {path: /health}}]}}
      - {fault: loss, share: 1%, during: {start: 1m, end: 2m}}
clients:
  pay: {total_timeout: 5s, retry: task, breaker: db, rate_limit: 5/s, faults: chaos}
"#;
    let config = Loader::empty().text("a.yml", Format::Yaml, text).load().unwrap();
    config.circuit_breaker("db").unwrap();
    config.rate_limiter("api").unwrap();
    config.retry_budget("pay").unwrap();
    config.failure_budget("api").unwrap();
    config.failure_budget("slo").unwrap();
    config.conditioner("chaos").unwrap();
    let task = config.retry_policy("task").unwrap();
    assert_eq!(task.class_budget(FailureClass::Transient), Some(3));
    assert_eq!(task.backoff().range(1).0.as_millis(), 200);
    let wire = config.retry_policy("wire").unwrap();
    assert_eq!((wire.max_attempts(), wire.deadline().unwrap().as_secs()), (None, 60));
    assert_eq!(wire.max_retry_after(), None);
    assert_eq!(
        config.retry_policy("named").unwrap(),
        buttress::retry::RetryPolicy::named("FLOW_NODE_DEFAULT").unwrap()
    );
}

#[test]
fn secrets_are_hidden() {
    let text = "faults: {x: {rules: [{fault: loss, matching: {token: {header: x-t, secret: hunter2-hunter2}}}]}}\n\
                app: {password: hunter2, tokens: {a: hunter2}}\n";
    let loader = Loader::empty()
        .text("a.yml", Format::Yaml, text)
        .env_from([("BUTTRESS__APP__API_KEY", "hunter2"), ("PASSWORD", "hunter2")])
        .section("app");
    let config = loader.load().unwrap();
    for text in [config.explain(), format!("{config:?}"), format!("{loader:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    let changed =
        loader.clone().set("faults.x.rules", serde_json::json!([])).set("faults.x.seed", 1);
    let error = changed.set("breakers.password.open_for", "hunter2").load().unwrap_err();
    assert!(
        error.to_string().contains("(hidden)") && !error.to_string().contains("hunter2"),
        "{error}"
    );
}

#[test]
fn plans_of_stacks() {
    let text = "
resilience: {circuit_breaker: {reset_timeout: 20}}
breakers: {db: {failure_rate: 50%, window: 20s}, slow: {failure_rate: 50%, ramp: 5s}}
failure_budgets: {api: {threshold: 1%}}
clients:
  pay: {total_timeout: 5s, retry: {transient: 2}, breaker: db, rate_limit: 5/s}
  other: {breaker: slow}
servers:
  api: {timeout: 2s, failure_budget: api}
";
    let config = Loader::empty().text("a.yml", Format::Yaml, text).load().unwrap();
    let pay = config.client("pay").unwrap();
    let breaker = pay.breaker.unwrap();
    assert_eq!(breaker.failure_rate, Some(0.5));
    assert_eq!((breaker.window.as_secs(), breaker.open_for.as_secs()), (20, 20));
    assert_eq!(pay.policy().unwrap().class_budget(FailureClass::Transient), Some(2));
    assert!(pay.retry_budget.is_none() && pay.attempt_timeout.is_none());
    let api = config.server("api").unwrap();
    assert_eq!(api.failure_budget.unwrap().threshold, 0.01);
    // A plan that leaves out what the file says would be another stack.
    assert_eq!(config.client("other").unwrap_err().field(), "breaker.ramp");
    assert_eq!(config.client("nobody").unwrap_err().expected(), "one of other, pay");
    let open_for = "breakers.db.open_for = 20.0  (a.yml:2)\n";
    assert!(config.explain().contains(open_for), "{}", config.explain());
}
