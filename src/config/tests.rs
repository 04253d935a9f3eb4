//! The table of keys in the docs is the table that settings are read with.

use std::fmt::Write as _;

use super::Loader;
use super::fields::{BREAKER_FIELDS, ENDPOINTS, HEDGE, RATE_LIMIT_FIELDS, ROOT};
use super::schema::{Field, Kind};
use super::staged::Staged;
use crate::control::Registry;
use crate::presets::{EndpointsPlan, HedgePlan, Parts};

/// What a cell says of a value.
fn cell(kind: &Kind) -> String {
    match kind.plain() {
        Kind::Off(word, kind) => format!("{}, or `{word}`", cell(kind)),
        Kind::Named(map, _) => format!("a name in `{map}`, or its keys"),
        Kind::List(of) => format!("a list of: {}", cell(of)),
        Kind::Variant(of) => {
            let keys: Vec<_> = of.iter().map(|field| format!("`{}`", field.key)).collect();
            format!("one of {}", keys.join(", "))
        }
        Kind::Choice(words) => format!("`{}`", words.join("`, `")),
        Kind::Seconds { .. } => "a time".to_owned(),
        Kind::Legacy { min, max, whole: false } => format!("a time from {min}s to {max}s"),
        Kind::Number { min, max, percent: true } => format!("a share from {min} to {max}"),
        Kind::Count { min, max } if *max >= u64::from(u32::MAX) - 1 => {
            format!("a whole number from {min}")
        }
        Kind::Rate => "a rate".to_owned(),
        Kind::Table(_) => "keys".to_owned(),
        Kind::Short(key, _) => format!("keys, or its `{key}`"),
        kind => kind.expected(),
    }
}

fn rows(fields: &[Field], path: &str, out: &mut String) {
    for field in fields {
        let path = format!("{path}{}", field.key);
        let default = match field.default {
            "" => String::new(),
            default if default.contains(' ') => default.to_owned(),
            default => format!("`{default}`"),
        };
        match field.kind.plain() {
            Kind::Table(fields) => rows(fields, &format!("{path}."), out),
            kind => {
                _ = writeln!(out, "| `{path}` | {} | {default} | {} |", cell(kind), field.doc);
                if let Kind::List(of) = kind
                    && let Kind::Table(fields) = of.plain()
                {
                    rows(fields, &format!("{path}[]."), out);
                }
                let below = match kind {
                    Kind::Off(_, of) => of.plain(),
                    kind => kind,
                };
                if let Kind::Table(fields) | Kind::Short(_, fields) = below {
                    rows(fields, &format!("{path}."), out);
                }
            }
        }
    }
}

fn page() -> String {
    let mut out = String::new();
    for field in ROOT {
        let title = |name: &str, out: &mut String| {
            _ = writeln!(out, "\n## `{name}`\n\n{}", field.doc);
        };
        let head = "\n| key | value | default | meaning |\n|---|---|---|---|\n";
        match field.kind.plain() {
            Kind::Map(of) => match of.plain() {
                Kind::Table(fields) => {
                    title(&format!("{}.NAME", field.key), &mut out);
                    out.push_str(head);
                    rows(fields, "", &mut out);
                }
                Kind::Short(key, fields) => {
                    title(&format!("{}.NAME", field.key), &mut out);
                    _ = writeln!(out, "A text alone is its `{key}`.");
                    out.push_str(head);
                    rows(fields, "", &mut out);
                }
                _ => title(field.key, &mut out),
            },
            Kind::Table(fields) => {
                title(field.key, &mut out);
                out.push_str(head);
                rows(fields, "", &mut out);
            }
            _ => title(field.key, &mut out),
        }
    }
    out.trim_start().to_owned()
}

/// `BUTTRESS_PIN=1` writes the page anew.
#[test]
fn the_page_has_every_key() {
    let page = page();
    if std::env::var_os("BUTTRESS_PIN").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/keys.md"), &page).unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/keys.md");
    assert_eq!(std::fs::read_to_string(path).unwrap(), page);
}

/// The hedge's share was changed in its builder, and page and plan kept the old one.
#[test]
fn the_page_says_the_defaults_that_plans_have() {
    let said = |fields: &[Field]| -> Vec<f64> {
        let number = |field: &Field| field.default.parse().unwrap_or(f64::NAN);
        fields.iter().map(number).collect()
    };
    let hedge = HedgePlan::default();
    let min_delay = hedge.min_delay.as_secs_f64();
    assert_eq!(said(HEDGE), [hedge.percentile, min_delay, hedge.extra_load]);
    let pool = EndpointsPlan::default();
    let times = [pool.probe_after, pool.probe_after_max, pool.slow_start, pool.memory];
    let mut all = vec![pool.max_ejected, pool.failures_in_row.into()];
    all.extend(times.map(|time| time.as_secs_f64()));
    assert_eq!(said(ENDPOINTS), all);
}

/// A service that looks for its parts just before they are exchanged makes pools and hedges of those of before.
#[test]
fn what_is_made_while_a_configuration_comes_into_force_goes_by_it() {
    let load = |extra_load: &str, max_ejected: &str| {
        let loader = Loader::empty().set("clients.pay.backend", "learned");
        let loader = loader.set("clients.pay.hedge.extra_load", extra_load);
        loader.set("clients.pay.endpoints.max_ejected", max_ejected).load().unwrap()
    };
    let service = tower::service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) });
    let registry = Registry::new();
    let stacks = load("1%", "10%").stacks().register_in(&registry);
    let stack = stacks.client("pay").unwrap();
    let Some(Parts::Client(before)) = stack.parts_slot().get() else { panic!("no client") };
    let next = load("2%", "50%");
    let (parts, _, changes) = stacks.made().client_parts("pay", &next, Some(&before)).unwrap();
    changes.into_iter().for_each(|change| change());
    let pool = stack.endpoints();
    pool.extend([("one", service), ("two", service)]);
    let _service = stack.pool(&pool);
    stack.parts_slot().install(Parts::Client(Box::new(parts)));

    let other = next.stacks().register_in(&Registry::new()).client("pay").unwrap();
    let _service =
        other.pool(&other.endpoints::<tower::util::BoxCloneService<u32, u32, std::io::Error>>());
    let hedge = |limits: Option<crate::hedge::Hedge>| limits.unwrap().limits();
    assert_eq!(hedge(stack.hedge()), hedge(other.hedge()));
    let status = registry.status();
    let row = status.objects.iter().find(|row| row.id.starts_with("endpoints/")).unwrap();
    let ejected = row.gauges.iter().find(|gauge| gauge.id == "ejected").unwrap();
    assert_eq!(ejected.threshold, Some(1.0));
}

/// A command may come between the building of a configuration and its coming into force.
#[test]
fn what_is_counted_of_retries_is_shown_once_whatever_commands_do_meanwhile() {
    use crate::control::{Command, InstallRetryPolicy, Uninstall};

    let load =
        |timeout: &str| Loader::empty().set("clients.pay.total_timeout", timeout).load().unwrap();
    let install = Command::InstallRetryPolicy(InstallRetryPolicy::default());
    let uninstall = Command::UninstallRetryPolicy(Uninstall::default());
    let none: &[&Command] = &[];
    for (first, meanwhile) in [(none, vec![&install]), (&[&install], vec![&uninstall, &install])] {
        let registry = Registry::new();
        let stacks = load("60s").stacks().register_in(&registry);
        stacks.client("pay").unwrap();
        let run = |command: &&Command| assert!(registry.apply(command).is_ok());
        first.iter().for_each(run);
        let next = load("50s");
        let staged = {
            let made = stacks.made();
            Staged::new(&made, &next, &next.changes_since(&made.config)).unwrap()
        };
        meanwhile.iter().for_each(run);
        staged.changes.into_iter().for_each(|change| change());
        let mut made = stacks.made();
        let gone: Vec<_> = staged.stacks.into_iter().map(|it| made.exchange(it)).collect();
        drop(made);
        assert_eq!(gone.len(), 1);
        let shown = || -> Vec<_> {
            registry.status().objects.into_iter().map(|row| (row.id, row.state)).collect()
        };
        assert_eq!(shown(), [("retry/pay".to_owned(), "active".to_owned())]);
        registry.apply(&uninstall).unwrap();
        assert!(shown().is_empty());
    }
}

/// A key that the file's table knows and a command's reader does not would load, and then fail when the stack is made.
#[test]
fn commands_know_the_keys_of_the_file_and_each_of_them_counts() {
    use crate::control::{CircuitBreakerSettings, RateLimitSettings};
    use serde_json::{Map, Value, json};

    let keys = |fields: &[Field]| fields.iter().map(|field| field.key).collect::<Vec<_>>();
    let [breaker, limit] = crate::control::KEYS;
    assert_eq!((keys(BREAKER_FIELDS), keys(RATE_LIMIT_FIELDS)), (breaker.to_vec(), limit.to_vec()));

    let value = |key: &str| match key {
        "slow_calls" => json!({"after": 1.5, "rate": 0.5}),
        "failure_rate" => json!(0.25),
        "shadow" => json!(true),
        "rate" => json!("7/s"),
        "window" | "open_for" | "half_open_for" => json!(90.0),
        "open_for_max" | "ramp" | "probe_lease" | "cancelled_after" | "initial_tokens" => {
            json!(3.0)
        }
        _ => json!(4),
    };
    let block = |keys: &[&str]| -> Map<String, Value> {
        keys.iter().map(|&key| (key.to_owned(), value(key))).collect()
    };
    // Written again it is the same.
    let all = block(breaker);
    let read = CircuitBreakerSettings::from_json(&all).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), Value::Object(all));
    let all = block(limit);
    let read = RateLimitSettings::from_json(&all).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), Value::Object(all));
    // And what is built has each of them.
    let none = format!("{:?}", CircuitBreakerSettings::default().builder("db"));
    for &key in breaker {
        let built = CircuitBreakerSettings::from_json(&block(&[key])).unwrap().builder("db");
        assert_ne!(format!("{built:?}"), none, "{key}");
    }
    let none =
        format!("{:?}", RateLimitSettings::from_json(&block(&["rate"])).unwrap().builder("db"));
    for &key in limit.iter().filter(|key| **key != "rate") {
        let built = RateLimitSettings::from_json(&block(&["rate", key])).unwrap().builder("db");
        assert_ne!(format!("{built:?}"), none, "{key}");
    }
}
