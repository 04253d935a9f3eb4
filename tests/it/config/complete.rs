//! A file with every key: it can be read, the schema accepts it, and neither accepts anything beside it.

use buttress::config::{Format, Loader};
use serde_json::{Value, json};

const TEXT: &str = include_str!("complete.yml");

/// As JSON, by way of the library that reads it.
fn complete() -> Value {
    let config = Loader::empty().text("complete.yml", Format::Yaml, TEXT).load().unwrap();
    serde_json::from_str(&config.print(Format::Json)).unwrap()
}

fn validator() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(&buttress::config::schema()).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

#[test]
fn it_has_every_key_of_the_documentation() {
    let keys = include_str!("../../../src/config/keys.md");
    let rows = keys.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() > 90, "{rows:?}");
    for path in rows {
        let key = path.rsplit(['.', ']']).find(|key| !key.is_empty()).unwrap();
        // Another name of `shutdown.timeout`: both together contradict each other.
        let there = key == "default_timeout" || TEXT.contains(&format!("{key}:"));
        assert!(there, "{path}");
    }
}

#[test]
fn the_schema_accepts_it() {
    let (validator, complete) = (validator(), complete());
    let errors: Vec<_> = validator.iter_errors(&complete).map(|e| e.to_string()).collect();
    assert_eq!(errors, Vec::<String>::new());
    // As it was written, too: with texts for times, shares and rates.
    let written = json!({
        "breakers": {"a": {"open_for": "1m 30s", "failure_rate": "50%", "cancelled_after": "never"}},
        "rate_limits": {"short": "5/10s", "long": {"rate": "100/s burst 20"}},
        "retries": {"like": "adaptive", "r": {"guarantee": "AT_LEAST_ONCE", "max_attempts": "unlimited"}},
        "clients": {"pay": {"retry": "r", "breaker": {"failure_rate": 0.5}, "backend": "learned", "hedge": "never"}, "db": {"backend": 25}},
        "servers": {"api": {"backend": 256}, "slow": {"backend": "learned"}},
    });
    let errors: Vec<_> = validator.iter_errors(&written).map(|e| e.to_string()).collect();
    assert_eq!(errors, Vec::<String>::new());
    let loaded = Loader::empty().text("a.json", Format::Json, written.to_string()).load();
    loaded.unwrap();
}

/// Calls `change` with each table below `value`, by its path.
fn tables(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(table) => {
            found.push(path.to_owned());
            table.iter().for_each(|(key, value)| tables(value, &format!("{path}/{key}"), found));
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(n, one)| tables(one, &format!("{path}/{n}"), found));
        }
        _ => {}
    }
}

#[test]
fn neither_accepts_an_unknown_key_or_another_type_anywhere() {
    let (validator, complete) = (validator(), complete());
    let mut all = Vec::new();
    tables(&complete, "", &mut all);
    assert!(all.len() > 30, "{all:?}");
    let refused = |changed: &Value| {
        let loaded = Loader::empty().text("a.json", Format::Json, changed.to_string()).load();
        (!validator.is_valid(changed), loaded.is_err())
    };
    for path in all {
        // Names of objects are anybody's, and this block means nothing.
        let names = path.matches('/').count() == 1 && path != "/resilience";
        if names || path.starts_with("/resilience/rate_limiter") {
            continue;
        }
        for value in [json!(1), json!({"a": 1})] {
            let mut changed = complete.clone();
            changed.pointer_mut(&path).unwrap()["no_such_key"] = value;
            assert_eq!(refused(&changed), (true, true), "an unknown key in {path}");
        }
    }
    for (path, value) in [
        ("/breakers/payments/open_for", json!(true)),
        ("/breakers/payments/failure_rate", json!(1.5)),
        ("/breakers/payments/shadow", json!("yes")),
        ("/breakers/payments/seed", json!(-1)),
        ("/retries/careful/guarantee", json!("maybe")),
        ("/retries/careful/max_attempts", json!(0)),
        ("/retry_budgets/shared/burst", json!(1.5)),
        ("/failure_budgets/rate/action", json!("panic")),
        ("/faults/drill/rules", json!({})),
        ("/faults/drill/rules/0/fault", json!("lightning")),
        ("/clients", json!([])),
        ("/servers/api/timeout", json!([5])),
    ] {
        let mut changed = complete.clone();
        *changed.pointer_mut(path).unwrap_or_else(|| panic!("no {path}")) = value.clone();
        assert_eq!(refused(&changed), (true, true), "{path}: {value}");
    }
}
