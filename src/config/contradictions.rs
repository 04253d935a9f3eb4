//! What only the builders can judge: numbers that do not go together.

use serde_json::{Map, Value as Json, json};

use super::build::{Block, conditioner, failure_budget, limiter, policy, retry_budget};
use super::keys::join;
use super::plans::endpoints_plan;
use super::problem::{Problem, ProblemKind};
use super::settings::Config;
use super::value::is_secret;
use crate::error::ConfigError;

/// What a builder says of a block: nothing, or the first thing.
type Check<'a> = &'a dyn Fn(&str, Block<'_>) -> Option<ConfigError>;

/// All that a builder says of a block: after each error it is asked again without the key that it has named.
fn contradictions(name: &str, block: Block<'_>, check: Check<'_>) -> Vec<ConfigError> {
    let mut block = block.0.cloned().unwrap_or_default();
    let mut found: Vec<ConfigError> = Vec::new();
    while let Some(error) = check(name, Block(Some(&block))) {
        let field = error.field();
        // Without the other one it may be an error only because that one is not there.
        let follows = |before: &ConfigError| {
            before.field() == field || error.expected().contains(last(before.field()))
        };
        if found.iter().any(follows) {
            break;
        }
        let there = take(&mut block, field);
        if !there && !found.is_empty() {
            // One that is missing: of those that were taken out.
            break;
        }
        found.push(error);
        if !there {
            break;
        }
    }
    found
}

fn last(field: &str) -> &str {
    field.rsplit('.').next().unwrap_or(field)
}

/// Takes a key out of a block. Says whether it was there. A rule stays in its place, and harmless.
fn take(block: &mut Map<String, Json>, field: &str) -> bool {
    let (key, rest) = field.split_once(['.', '[']).unwrap_or((field, ""));
    match block.get_mut(key) {
        Some(Json::Object(inner)) if !rest.is_empty() => take(inner, rest),
        Some(Json::Array(rules)) => {
            let number = rest.split(']').next().and_then(|number| number.parse::<usize>().ok());
            match number.and_then(|number| rules.get_mut(number)) {
                Some(rule) => {
                    *rule = json!({"fault": "loss"});
                    true
                }
                None => block.remove(key).is_some(),
            }
        }
        _ => block.remove(key).is_some(),
    }
}

/// Builds everything once, for what only the builders can judge. What has a problem already is left out: the
/// second would only be the first again.
pub(super) fn check(config: &Config, problems: &mut Vec<Problem>) {
    let known = problems.clone();
    let mut tell = |parts: &[&str], error: &ConfigError| {
        let path = parts.iter().fold(String::new(), |path, part| join(&path, part));
        let inside = |key: &str| {
            key.strip_prefix(&path).is_some_and(|k| k.is_empty() || k.starts_with(['.', '[']))
        };
        if known.iter().any(|problem| inside(&problem.key)) {
            return;
        }
        let key = format!("{path}.{}", error.field());
        let origin = config.near(parts, &key).to_owned();
        problems.push(Problem::new(
            ProblemKind::Contradiction,
            key.clone(),
            if is_secret(&key) { "(hidden)" } else { error.value() },
            origin,
            error.expected(),
        ));
    };
    let checks: [(&'static str, Check<'_>); 6] = [
        ("breakers", &|name, block| {
            config.breaker(name, block).and_then(|b| b.unregistered().build()).err()
        }),
        ("rate_limits", &|name, block| {
            limiter(name, block).and_then(|b| b.unregistered().build()).err()
        }),
        ("retries", &|_, block| policy(block).err()),
        ("retry_budgets", &|name, block| {
            retry_budget(name, block).and_then(|b| b.unregistered().build()).err()
        }),
        ("failure_budgets", &|name, block| {
            failure_budget(name, block).and_then(|b| b.unregistered().build()).err()
        }),
        ("faults", &|name, block| {
            conditioner(name, block).and_then(|b| b.unregistered().build()).err()
        }),
    ];
    for (map, check) in checks {
        for name in config.names(map) {
            let block = Block::of(config.tree.get(map).and_then(|map| map.get(name)));
            for error in contradictions(name, block, check) {
                tell(&[map, name], &error);
            }
        }
    }
    let inline = [
        ("breaker", 0),
        ("rate_limit", 1),
        ("retry", 2),
        ("retry_budget", 3),
        ("failure_budget", 4),
        ("faults", 5),
    ];
    for map in ["clients", "servers"] {
        for name in config.names(map) {
            for (key, n) in inline {
                let entry = config.tree.get(map).and_then(|map| map.get(name)?.get(key));
                if let Some(json) = entry.filter(|json| json.is_object())
                    && let Some((_, check)) = checks.get(n)
                {
                    for error in contradictions(name, Block::of(Some(json)), check) {
                        tell(&[map, name, key], &error);
                    }
                }
            }
        }
    }
    for name in config.names("clients") {
        let client = config.tree.get("clients").and_then(|map| map.get(name));
        let endpoints = Block::of(client).table("endpoints").unwrap_or(Block(None));
        let check = |name: &str, block: Block<'_>| endpoints_plan(block).check(name).err();
        for error in contradictions(name, endpoints, &check) {
            tell(&["clients", name, "endpoints"], &error);
        }
    }
    let seed = |key| config.legacy("shutdown", key);
    if let (Some(timeout), Some(other)) = (seed("timeout"), seed("default_timeout"))
        && (timeout - other).abs() > 0.0
    {
        let expected = format!("{timeout}, as timeout has it");
        let error = ConfigError::new("default_timeout", other, expected);
        tell(&["resilience", "shutdown"], &error);
    }
}
