//! What is in force where nothing is written, for `explain`.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::build::{Block, policy};
use super::keys::join;
use super::settings::Config;
use super::value::shown;

/// Lines of `explain` that no table of defaults can have, because they hang on other keys: a breaker's numbers from the
/// block `resilience`, and what a policy takes from the one it is like.
pub(super) fn effective(config: &Config, lines: &mut BTreeMap<String, (String, String)>) {
    for (path, kind, json) in entries(config) {
        let block = Block::of(Some(json));
        let mut line = |key: &str, value: String, origin: &str| {
            lines.insert(format!("{path}.{key}"), (value, origin.to_owned()));
        };
        if kind == "breaker" {
            let rates = block.get("failure_rate").is_some() || block.get("slow_calls").is_some();
            let seed =
                |key: &str| config.settings.get(&format!("resilience.circuit_breaker.{key}"));
            for (key, from, alone, default) in [
                ("consecutive_failures", "max_failures", true, "5"),
                ("open_for", "reset_timeout", false, "60"),
                ("half_open_calls", "half_open_max_calls", false, "1"),
            ] {
                if block.get(key).is_some() || (alone && rates) {
                    continue;
                }
                match seed(from) {
                    Some(from) => line(key, from.value.to_string(), &from.origin),
                    None => line(key, default.to_owned(), "default"),
                }
            }
            if rates && block.get("window").is_none() && block.get("window_calls").is_none() {
                line("window", "10".to_owned(), "default");
            }
            if !rates {
                lines.remove(&format!("{path}.min_calls"));
            }
        } else if let Ok(Json::Object(wire)) =
            policy(block).map(|p| serde_json::to_value(p).unwrap_or_default())
        {
            let like = block.text("like").unwrap_or("adaptive");
            let short = ["base_delay", "max_delay", "backoff_factor", "jitter"];
            for (key, value) in wire {
                // The short keys are in force as parts of `backoff`, with an origin of their own.
                if block.get(&key).is_some() || value.is_null() {
                    continue;
                }
                if key == "backoff" && short.iter().any(|key| block.get(key).is_some()) {
                    line(&key, shown(&key, &value), &format!("from the keys beside it and {like}"));
                    continue;
                }
                line(&key, shown(&key, &value), &format!("default of {like}"));
            }
        }
    }
}

/// Every breaker and policy, named or inline, by its path.
fn entries(config: &Config) -> Vec<(String, &'static str, &Json)> {
    let mut all = Vec::new();
    for (map, kind) in [("breakers", "breaker"), ("retries", "retry")] {
        for (name, json) in Block::of(config.tree.get(map)).0.into_iter().flatten() {
            all.push((join(map, name), kind, json));
        }
    }
    for (name, json) in Block::of(config.tree.get("clients")).0.into_iter().flatten() {
        for kind in ["breaker", "retry"] {
            if let Some(json) = json.get(kind).filter(|json| json.is_object()) {
                all.push((join(&join("clients", name), kind), kind, json));
            }
        }
    }
    all
}
