//! Recorded runs of the conditioner this one replaces.
//!
//! What is done differently on purpose:
//!
//! * a task that has only a `url` was invisible to the filter; here any URL is looked at;
//! * rates outside 0 to 1 are errors, where they were never and always;
//! * a latency below zero cannot be said.
//!
//! Which draw drops and which draw makes which latency is replayed beside the core.

use std::error::Error;

use buttress::conditioner::{Call, Conditioner, Injected, Matcher};
use buttress::{Rejection, RejectionKind};
use serde_json::Value;

use super::ms;

const TRACES: &str = include_str!("../../golden/network_conditioner.json");

fn traces(part: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(TRACES).unwrap();
    all[part].as_array().unwrap().clone()
}

/// The text of a field, as the recorded program made it.
fn text(task: &Value, key: &str) -> Option<String> {
    match task.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn with_call<T>(task: &Value, f: impl FnOnce(&Call<'_>) -> T) -> T {
    let name = text(task, "name").unwrap_or_default();
    let url = text(task, "request_url").or_else(|| text(task, "url")).unwrap_or_default();
    f(&Call::new().name(&name).url(&url))
}

#[test]
fn recorded_filters_apply_to_the_same_tasks() {
    let mut different = 0;
    for case in traces("filter_cases") {
        let matcher = match case["name_filter"].as_str() {
            Some(part) => Matcher::name_or_url(part),
            None => Matcher::everything(),
        };
        let applies = with_call(&case["task"], |call| matcher.matches(call));
        let recorded = case["applies"].as_bool().unwrap();
        if case.get("note").is_some() {
            let filter = case["name_filter"].as_str().unwrap();
            let url = case["task"]["url"].as_str().unwrap();
            assert!(!recorded);
            assert_eq!(applies, url.contains(filter), "{case}");
            different += u32::from(applies);
        } else {
            assert_eq!(applies, recorded, "{case}");
        }
    }
    assert_eq!(different, 1, "the list of what is different has changed");
}

#[test]
fn recorded_runs_end_the_same() {
    let mut refused = 0;
    for case in traces("cases") {
        let config = &case["config"];
        let number = |key: &str| config[key].as_f64().unwrap_or(0.0);
        if number("latency_ms") < 0.0 {
            refused += 1;
            continue;
        }
        let latency = std::time::Duration::from_secs_f64(number("latency_ms") / 1e3);
        let filter = config["name_filter"].as_str();
        let network = Conditioner::network(latency, ms(0), number("loss_rate"), filter).unwrap();
        let outcome = case["outcome"].as_str().unwrap();
        let expected: Vec<f64> = case["sleeps_seconds"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s.as_f64().unwrap())
            .collect();
        // Some call of these draws what was recorded: one that is lost, or one that is not.
        let mut lost = 0;
        let same = (0..50).filter(|id| {
            let mut slept = Vec::new();
            let result = with_call(&case["task"], |call| {
                network.apply_blocking_with(|time| slept.push(time.as_secs_f64()), &call.id(*id))
            });
            let said = match result {
                Ok(_) => "passed".to_owned(),
                Err(why) => {
                    lost += 1;
                    assert_eq!(why.kind(), RejectionKind::Injected);
                    assert!(slept.is_empty(), "what is lost is not also late");
                    format!("ConnectionError: {}", why.source().unwrap())
                }
            };
            said == outcome && slept == expected
        });
        let same = same.count();
        assert!(same > 0, "{case}");
        // A rate between loses some and not others; any other does the same to all.
        let some = (1..50).contains(&lost);
        assert!(some || same == 50, "{case}: {same} of 50");
    }
    assert_eq!(refused, 1);
}

#[test]
fn a_loss_is_a_connection_reset_and_is_found_as_injected() {
    let lossy = Conditioner::network(ms(50), ms(0), 1.0, None).unwrap();
    let lost = lossy.apply_blocking_with(|_| panic!("no latency"), &Call::new()).unwrap_err();
    let source = lost.source().unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(source.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(source.to_string(), "network_conditioner: simulated drop (1.0)");
    let boxed: buttress::BoxError = Box::new(lost);
    assert_eq!(Injected::find(&*boxed).unwrap().rule(), 0);
    assert_eq!(Rejection::find(&*boxed).unwrap().name(), "network");
}
