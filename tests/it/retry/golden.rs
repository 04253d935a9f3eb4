//! Recorded behaviour of the two reference systems. Every case is replayed; where we answer differently
//! on purpose, the case is listed with the reason and our answer is asserted.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::observe::{Event, EventKind};
use buttress::retry::{
    ExecutionGuarantee, ResolvePolicy, Retry, RetryOverride, RetryPolicy, classify_error_name,
    is_retryable_error,
};
use buttress::{Backoff, FailureClass, Jitter, Outcome, Verdict, classify_fn};
use serde_json::{Value, json};

fn load(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn cases<'a>(file: &'a Value, list: &str) -> &'a [Value] {
    file[list].as_array().unwrap()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 + 1e-9 * b.abs()
}

fn all_close(ours: &[f64], recorded: &Value) -> bool {
    let recorded: Vec<f64> =
        recorded.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    ours.len() == recorded.len() && ours.iter().zip(recorded).all(|(a, b)| close(*a, b))
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|x| x.as_str().unwrap().to_owned()).collect()
}

/// Asserts that the cases we answer differently are those listed. The recordings come in two halves; the
/// lists name the cases of this one.
fn assert_listed(file: &Value, differing: &[String], listed: &[(&str, &str)]) {
    if file["split"] == "public" {
        let listed: Vec<&str> = listed.iter().map(|(id, _)| *id).collect();
        assert_eq!(differing, listed, "the list of intended differences is out of date");
    }
}

// ---- LoadDensity: adaptive retry -----------------------------------------------------------------

/// Names that we call transient and the reference permanent: subclasses and siblings of its own
/// transient errors, which it misses because it compares exact names.
const TRANSIENT_HERE: &[&str] = &[
    "BrokenPipeError",
    "ConnectionAbortedError",
    "gaierror",
    "IncompleteRead",
    "ChunkedEncodingError",
    "ProxyError",
    "NewConnectionError",
    "NameResolutionError",
    "MaxRetryError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "TimeoutException",
    "NetworkError",
    "TransportError",
    "ConnectError",
    "ReadError",
    "WriteError",
    "CloseError",
    "PoolTimeout",
    "WriteTimeout",
    "RemoteProtocolError",
    "ServerDisconnectedError",
    "ServerTimeoutError",
    "ClientConnectorError",
    "ClientConnectionError",
    "ClientOSError",
];

/// Not errors but orders to stop; in Rust a panic. Never caught, never retried.
const STOPS: &[&str] = &["KeyboardInterrupt", "SystemExit", "GeneratorExit"];

#[derive(Clone, Debug, PartialEq)]
struct Named(String);

#[derive(Debug, PartialEq)]
struct Ran {
    attempts: u32,
    outcome: Value,
    delays: Vec<f64>,
    consumed: BTreeMap<String, u64>,
    gave_up_after: Option<u32>,
}

/// Runs a script of error names under a policy and records what the retry did.
fn run_script(
    policy: RetryPolicy,
    errors: &[String],
    verdict: impl Fn(&str) -> Verdict + Send + Sync + 'static,
) -> Ran {
    let log = Arc::new(Mutex::new((vec![], BTreeMap::new(), None)));
    let sink = Arc::clone(&log);
    let retry = Retry::new(policy)
        .without_budget()
        .classify(classify_fn(move |result: Result<&String, &Named>| match result {
            Ok(_) => Verdict::success(),
            Err(Named(name)) => verdict(name),
        }))
        .observe(move |event: &Event<'_>| {
            let mut log = sink.lock().unwrap();
            match event.kind {
                EventKind::Retried { delay, outcome: Outcome::Failure(class), .. } => {
                    log.0.push(delay.as_secs_f64());
                    *log.1.entry(class.as_str().to_owned()).or_default() += 1;
                }
                EventKind::RetryAbandoned { attempts, .. } => log.2 = Some(attempts),
                _ => panic!("unexpected {event:?}"),
            }
        });
    let mut attempts = 0;
    let result = catch_unwind(AssertUnwindSafe(|| {
        retry.run_blocking_with(
            |_| {},
            |attempt| {
                attempts += 1;
                assert_eq!(attempt, attempts);
                match errors.get(attempts as usize - 1).map(String::as_str) {
                    None | Some("ok") => Ok(format!("value-{attempt}")),
                    Some(stop) if STOPS.contains(&stop) => resume_unwind(Box::new(stop.to_owned())),
                    Some(name) => Err(Named(name.to_owned())),
                }
            },
        )
    }));
    let outcome = match result {
        Ok(Ok(value)) => json!({ "ok": value }),
        Ok(Err(Named(name))) => json!({ "raised": name }),
        Err(stop) => json!({ "raised": *stop.downcast::<String>().unwrap() }),
    };
    let (delays, consumed, gave_up_after) = log.lock().unwrap().clone();
    Ran { attempts, outcome, delays, consumed, gave_up_after }
}

/// The reference's algorithm, to say what it would have done with our classes.
fn model(policy: &Value, errors: &[String], class: impl Fn(&str) -> Option<&'static str>) -> Ran {
    let number = |key: &str, default: f64| policy[key].as_f64().unwrap_or(default);
    let (base, cap) = (number("base_delay", 0.1), number("max_delay", 5.0));
    let factor = number("backoff_factor", 2.0);
    let mut ran = Ran {
        attempts: 0,
        outcome: Value::Null,
        delays: vec![],
        consumed: BTreeMap::new(),
        gave_up_after: None,
    };
    loop {
        ran.attempts += 1;
        let name = match errors.get(ran.attempts as usize - 1).map(String::as_str) {
            None | Some("ok") => {
                ran.outcome = json!({ "ok": format!("value-{}", ran.attempts) });
                return ran;
            }
            Some(name) => name,
        };
        ran.outcome = json!({ "raised": name });
        if STOPS.contains(&name) {
            return ran;
        }
        let (class, budget) = match class(name) {
            Some("transient") => ("transient", number("transient_budget", 5.0)),
            Some("flaky") => ("flaky", number("flaky_budget", 2.0)),
            Some(_) => ("permanent", number("permanent_budget", 0.0)),
            None => return ran,
        };
        let used = ran.consumed.get(class).copied().unwrap_or(0);
        if used as f64 >= budget {
            ran.gave_up_after = Some(ran.attempts);
            return ran;
        }
        ran.consumed.insert(class.to_owned(), used + 1);
        ran.delays.push((base * factor.powi(ran.attempts as i32 - 1)).min(cap));
    }
}

/// The keys of the policy object, as the per-task form spells them.
fn as_task(policy: &Value) -> Value {
    let renamed =
        policy.as_object().unwrap().iter().map(|(key, value)| {
            (key.strip_suffix("_budget").unwrap_or(key).to_owned(), value.clone())
        });
    Value::Object(renamed.collect())
}

fn class_of(word: &str) -> Option<FailureClass> {
    FailureClass::ALL.into_iter().find(|class| class.as_str() == word)
}

const ADAPTIVE: &[(&str, &str)] = &[
    ("ar-030", "a negative budget is an error that names it, not a silent zero"),
    ("ar-047", "ConnectionAbortedError is a ConnectionError: transient"),
    ("ar-049", "PoolTimeout is a timeout: transient"),
    ("ar-053", "gaierror is a failed name lookup: transient"),
    ("ar-057", "an order to stop is never swallowed, whatever the permanent budget"),
];

#[test]
fn adaptive_retry_runs_as_recorded() {
    let file = load(include_str!("../../golden/adaptive_retry.json"));
    let mut differing = vec![];
    for case in cases(&file, "cases") {
        let id = case["id"].as_str().unwrap();
        let errors = strings(&case["errors"]);
        let task = as_task(&case["policy"]);
        let negative = task.as_object().unwrap().iter().find(|(_, v)| v.as_f64().unwrap() < 0.0);
        if let Some((key, _)) = negative {
            let error = RetryOverride::from_json(&task).unwrap_err();
            assert_eq!(error.field(), format!("retry.{key}"), "{id}");
            differing.push(id.to_owned());
            continue;
        }
        let policy = RetryOverride::from_json(&task).unwrap().to_policy();
        let map = case.get("classifier_map").cloned();
        let ours = {
            let map = map.clone();
            move |name: &str| match &map {
                None => Verdict::failure(classify_error_name(name)),
                Some(map) => {
                    let word = map.get(name).unwrap_or(&map["*"]).as_str().unwrap();
                    class_of(word).map_or(Verdict::ignored(), Verdict::failure)
                }
            }
        };
        let ran = run_script(policy, &errors, ours.clone());

        let differs = map.is_none()
            && errors
                .iter()
                .take(usize::try_from(ran.attempts).unwrap())
                .any(|name| TRANSIENT_HERE.contains(&name.as_str()))
            || case["category"] == "base_exceptions_budget";
        if differs {
            let expected = model(&case["policy"], &errors, |name| Some(ours_as_word(name)));
            assert_eq!(ran.outcome, expected.outcome, "{id}");
            assert_eq!(ran.attempts, expected.attempts, "{id}");
            assert_eq!(ran.consumed, expected.consumed, "{id}");
            assert_eq!(ran.delays.len(), expected.delays.len(), "{id}");
            assert!(ran.delays.iter().zip(&expected.delays).all(|(a, b)| close(*a, *b)), "{id}");
            if json!(ran.attempts) != case["attempts"] || ran.outcome != case["outcome"] {
                differing.push(id.to_owned());
            }
            continue;
        }
        assert_recorded(id, &ran, case);
        if let Some(second) = case.get("second_run_same_policy") {
            // The same policy, the same script: the first run has not used anything up.
            let again = run_script(policy, &errors, ours);
            assert_recorded(id, &again, second);
        }
    }
    assert_listed(&file, &differing, ADAPTIVE);
}

fn ours_as_word(name: &str) -> &'static str {
    if TRANSIENT_HERE.contains(&name) {
        return "transient";
    }
    match name {
        "ConnectionError"
        | "ConnectTimeout"
        | "ReadTimeout"
        | "Timeout"
        | "ConnectionResetError"
        | "ConnectionRefusedError"
        | "TimeoutError"
        | "RemoteDisconnected"
        | "ProtocolError" => "transient",
        "AssertionError" | "JSONDecodeError" => "flaky",
        _ => "permanent",
    }
}

fn assert_recorded(id: &str, ran: &Ran, recorded: &Value) {
    assert_eq!(json!(ran.attempts), recorded["attempts"], "{id}");
    assert_eq!(ran.outcome, recorded["outcome"], "{id}");
    assert!(all_close(&ran.delays, &recorded["delays"]), "{id}: {:?}", ran.delays);
    assert!(close(ran.delays.iter().sum(), recorded["total_delay"].as_f64().unwrap()), "{id}");
    assert_eq!(json!(ran.consumed), recorded["consumed"], "{id}");
    for decision in recorded.get("decisions").and_then(Value::as_array).into_iter().flatten() {
        let attempt = decision["attempt"].as_u64().unwrap();
        let index = usize::try_from(attempt).unwrap() - 1;
        if decision["will_retry"] == true {
            assert!(close(ran.delays[index], decision["delay_seconds"].as_f64().unwrap()), "{id}");
        } else if ran.gave_up_after.is_some() {
            assert_eq!(ran.gave_up_after, Some(u32::try_from(attempt).unwrap()), "{id}");
        }
    }
}

#[test]
fn jitter_stays_where_recorded_except_above_the_cap() {
    let file = load(include_str!("../../golden/adaptive_retry.json"));
    for case in cases(&file, "jitter_cases") {
        let policy = as_task(&case["policy"]);
        if case["span_ms"].is_null() {
            // Difference: the reference takes a negative jitter for none.
            let error = RetryOverride::from_json(&policy).unwrap_err();
            assert_eq!(error.field(), "retry.jitter");
            continue;
        }
        let policy = RetryOverride::from_json(&policy).unwrap().to_policy();
        let attempt = u32::try_from(case["attempt"].as_u64().unwrap()).unwrap();
        let (low, high) = policy.backoff().range(attempt);
        let cap = policy.backoff().range(u32::MAX).1.as_secs_f64();
        let recorded = |key: &str| case[key].as_f64().unwrap();
        assert!(close(low.as_secs_f64(), recorded("min_delay").min(cap)), "{case}");
        // Difference, in the cases with a note: nothing exceeds the cap.
        let highest = recorded("max_delay_drawn").min(cap);
        // It draws whole milliseconds without the last, we draw nanoseconds.
        let over = high.as_secs_f64() - highest;
        assert!((-1e-9..=0.001 + 1e-9).contains(&over), "{case}: {high:?}");
        for delay in policy.backoff().delays().skip(attempt as usize - 1).take(1) {
            assert!(low <= delay && delay <= high);
        }
    }
}

#[test]
fn delays_saturate_where_the_reference_overflows() {
    let file = load(include_str!("../../golden/adaptive_retry.json"));
    for case in cases(&file, "overflow_cases") {
        let factor = case["backoff_factor"].as_f64().unwrap();
        let attempt = u32::try_from(case["attempt"].as_u64().unwrap()).unwrap();
        let policy = RetryOverride::from_json(&json!({ "backoff_factor": factor, "jitter": 0 }))
            .unwrap()
            .to_policy();
        let delay = policy.backoff().delay(attempt).as_secs_f64();
        // Difference: where it raises `OverflowError` we answer the cap, too.
        assert!(close(delay, case["delay"].as_f64().unwrap_or(5.0)), "{case}");
    }
}

#[test]
fn classes_of_names_are_as_recorded_except_for_missed_relatives() {
    let file = load(include_str!("../../golden/adaptive_retry.json"));
    let mut differing = vec![];
    for case in cases(&file, "classify_cases") {
        let name = case["class_name"].as_str().unwrap();
        let ours = classify_error_name(name).as_str();
        if TRANSIENT_HERE.contains(&name) {
            assert_eq!(ours, "transient", "{name}");
            differing.push(name.to_owned());
        } else {
            assert_eq!(ours, case["classification"], "{name}");
        }
    }
    let relative = "a broken connection or timeout by another name";
    let listed =
        ["BrokenPipeError", "ConnectError", "IncompleteRead", "NewConnectionError", "ReadError"]
            .map(|name| (name, relative));
    assert_listed(&file, &differing, &listed);
}

// ---- LoadDensity: the task's "retry" object ------------------------------------------------------

const PER_TASK: &[(&str, &str)] = &[
    ("tr-004", "`retry` that is not an object is an error, not ignored"),
    ("tr-006", "`retry` that is not an object is an error, not ignored"),
    ("tr-008", "`retry` that is not an object is an error, not ignored"),
    ("tr-025", "numbers in quotes are an error that names the key"),
    ("tr-027", "`true` is not a number"),
    ("tr-029", "a negative budget is an error that names it"),
    ("tr-032", "a bad value is an error, instead of a request that is never sent"),
    ("tr-034", "a bad value is an error, instead of a request that is never sent"),
];

/// What the rules of the reference's stricter engine say about a value, which we follow everywhere.
fn is_strictly_valid(retry: &Value) -> bool {
    let Value::Object(map) = retry else { return false };
    map.iter().all(|(key, value)| {
        let number = if value.is_number() { value.as_f64() } else { None };
        let whole = matches!(key.as_str(), "transient" | "flaky" | "permanent");
        let known = whole
            || matches!(key.as_str(), "base_delay" | "max_delay" | "backoff_factor" | "jitter");
        known && number.is_some_and(|n| n >= 0.0 && (!whole || n.fract() == 0.0))
    })
}

#[test]
fn per_task_retry_is_read_and_run_as_recorded() {
    let file = load(include_str!("../../golden/per_task_retry.json"));
    let mut differing = vec![];
    for case in cases(&file, "cases") {
        let id = case["id"].as_str().unwrap();
        let errors = strings(&case["errors"]);
        let retry = &case["task"]["retry"];
        let read = RetryOverride::from_task(&case["task"]);
        if !retry.is_null() && !is_strictly_valid(retry) {
            let error = read.unwrap_err();
            assert!(error.field().starts_with("retry"), "{id}: {error}");
            differing.push(id.to_owned());
            continue;
        }
        let Some(read) = read.unwrap() else {
            // Not retried: one call, and its error is the answer.
            assert!(case["parsed_policy"].is_null() && case["calls"] == 1, "{id}");
            continue;
        };
        let policy = read.to_policy();
        let parsed = &case["parsed_policy"];
        for class in FailureClass::ALL {
            let recorded = &parsed[format!("{}_budget", class.as_str())];
            assert_eq!(json!(policy.class_budget(class).unwrap()), *recorded, "{id}");
        }
        let steady = policy.backoff().jitter(Jitter::None);
        let number = |key: &str| parsed[key].as_f64().unwrap();
        assert!(close(
            steady.delay(1).as_secs_f64(),
            number("base_delay").min(number("max_delay"))
        ));
        assert!(close(steady.delay(u32::MAX).as_secs_f64(), number("max_delay")), "{id}");
        let second = (number("base_delay") * number("backoff_factor")).min(number("max_delay"));
        assert!(close(steady.delay(2).as_secs_f64(), second), "{id}");
        let (low, high) = policy.backoff().range(1);
        let spread = number("base_delay") * (1.0 + number("jitter"));
        assert!(close(low.as_secs_f64(), number("base_delay").min(number("max_delay"))), "{id}");
        assert!(close(high.as_secs_f64(), spread.min(number("max_delay"))), "{id}");

        let mut plain = retry.clone();
        plain["jitter"] = json!(0);
        let plain = RetryOverride::from_json(&plain).unwrap().to_policy();
        let ran = run_script(plain, &errors, |name| Verdict::failure(classify_error_name(name)));
        assert_eq!(json!(ran.attempts), case["calls"], "{id}");
        assert!(all_close(&ran.delays, &case["delays_without_jitter"]), "{id}: {:?}", ran.delays);
    }
    assert_listed(&file, &differing, PER_TASK);
}

#[test]
fn the_native_engines_validation_is_ours() {
    let file = load(include_str!("../../golden/per_task_retry.json"));
    for case in cases(&file, "native_engine_validation") {
        let retry = &case["retry"];
        // The one difference: it lets `null` pass and then crashes on it.
        let valid = case["valid"] == true && !retry.is_null();
        match RetryOverride::from_json(retry) {
            Ok(_) => assert!(valid, "{case}"),
            Err(error) => {
                assert!(!valid, "{case}: {error}");
                let named = case["message"].as_str().unwrap_or("retry").split(' ').next().unwrap();
                let expected = if named.starts_with("retry.") { named } else { "retry" };
                assert_eq!(error.field(), expected, "{case}");
            }
        }
    }
}

// ---- nodus-retry ---------------------------------------------------------------------------------

#[test]
fn texts_are_judged_as_recorded_except_for_its_bugs() {
    let file = load(include_str!("../../golden/nodus_is_retryable.json"));
    let mut differing = vec![];
    for case in cases(&file, "cases") {
        let ours = is_retryable_error(case["error"].as_str());
        let bug = case["note"].as_str().is_some_and(|note| note.starts_with("BUG"));
        let recorded = case["retryable"] == true;
        assert_eq!(ours, recorded != bug, "{case}");
        if bug {
            differing.push(case["error"].as_str().unwrap().to_owned());
        }
    }
    let permanent = "permission, authentication, validation or a programming error: final";
    let substring = "only a part of a word or number, or a name server's answer: retryable";
    let listed = [
        ("notfound", permanent),
        ("host not found", substring),
        ("400 Bad Request", permanent),
        ("HTTP 400", permanent),
        ("410 Gone", permanent),
        ("timeout after 4040 ms", substring),
        ("waited 1403 ms", substring),
        ("request id 9f403ab: upstream timeout", substring),
        ("order 40123 temporarily locked", substring),
        ("Authentication error", permanent),
        ("access denied", permanent),
        ("token expired", permanent),
        ("validation error", permanent),
        ("ValidationError: 1 error", permanent),
        ("TypeError: unsupported operand", permanent),
        ("KeyError: 'x'", permanent),
        ("UNAUTHENTICATED", permanent),
        ("SSL: CERTIFICATE_VERIFY_FAILED", permanent),
        ("service not founded", substring),
        ("unforbiddenly odd", substring),
    ];
    assert_listed(&file, &differing, &listed);
}

const FLOW: &str = "FLOW_NODE_DEFAULT starts at 500 ms, as documented, not at 200";
const JOB: &str = "ASYNC_JOB_DEFAULT is 5 attempts from 1000 ms, as documented, not 1 with 500";
const JOB_OVERRIDE: &str = "as ASYNC_JOB_DEFAULT, and job_max_retries counts for jobs, too";
const BY_NAME: &str = "policies resolve by name, as documented, not to NO_RETRY";

/// Execution type, risk, `node_max_retries`, `job_max_retries`: the cases have no other id.
const RESOLVED: &[(&str, &str)] = &[
    ("flow|low|-|-", FLOW),
    ("flow|high|-|-", FLOW),
    ("flow| High |-|-", FLOW),
    ("flow||-|-", FLOW),
    ("job|low|-|-", JOB),
    ("job|high|-|-", JOB),
    ("job| High |-|-", JOB),
    ("job||-|-", JOB),
    ("FLOW|low|-|-", FLOW),
    ("FLOW|high|-|-", FLOW),
    ("FLOW| High |-|-", FLOW),
    ("FLOW||-|-", FLOW),
    ("Job|low|-|-", JOB),
    ("Job|high|-|-", JOB),
    ("Job| High |-|-", JOB),
    ("Job||-|-", JOB),
    ("FLOW_NODE_DEFAULT|low|-|-", BY_NAME),
    ("FLOW_NODE_DEFAULT|high|-|-", BY_NAME),
    ("FLOW_NODE_DEFAULT| High |-|-", BY_NAME),
    ("FLOW_NODE_DEFAULT||-|-", BY_NAME),
    ("AGENT_HIGH_RISK|low|-|-", BY_NAME),
    ("AGENT_HIGH_RISK|high|-|-", BY_NAME),
    ("AGENT_HIGH_RISK| High |-|-", BY_NAME),
    ("AGENT_HIGH_RISK||-|-", BY_NAME),
    ("flow|low|-|0", FLOW),
    ("flow|low|-|7", FLOW),
    ("flow|low|0|-", FLOW),
    ("flow|low|0|1", FLOW),
    ("flow|low|0|-2", FLOW),
    ("flow|low|1|0", FLOW),
    ("flow|low|1|7", FLOW),
    ("flow|low|4|-", FLOW),
    ("flow|low|4|1", FLOW),
    ("flow|low|4|-2", FLOW),
    ("flow|low|-3|0", FLOW),
    ("flow|low|-3|7", FLOW),
    ("job|low|-|0", JOB_OVERRIDE),
    ("job|low|-|7", JOB_OVERRIDE),
    ("job|low|0|-", JOB),
    ("job|low|0|1", JOB_OVERRIDE),
    ("job|low|0|-2", JOB_OVERRIDE),
    ("job|low|1|0", JOB_OVERRIDE),
    ("job|low|1|7", JOB_OVERRIDE),
    ("job|low|4|-", JOB),
    ("job|low|4|1", JOB_OVERRIDE),
    ("job|low|4|-2", JOB_OVERRIDE),
    ("job|low|-3|0", JOB_OVERRIDE),
    ("job|low|-3|7", JOB_OVERRIDE),
];

fn resolve_id(case: &Value) -> String {
    ["execution_type", "risk_level", "node_max_retries", "job_max_retries"]
        .map(|key| match &case[key] {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            number => number.to_string(),
        })
        .join("|")
}

/// The fields of a policy by name, as documented.
fn documented(name: &str) -> Option<Value> {
    let (attempts, base, exactly_once) = match name {
        "FLOW_NODE_DEFAULT" => (3, 500, false),
        "AGENT_LOW_MEDIUM" => (3, 200, false),
        "AGENT_HIGH_RISK" => (1, 0, true),
        "ASYNC_JOB_DEFAULT" => (5, 1000, false),
        "NODUS_SCHEDULED_DEFAULT" => (3, 300, false),
        "NO_RETRY" => (1, 0, false),
        _ => return None,
    };
    Some(json!({
        "max_attempts": attempts,
        "backoff_ms": base,
        "exponential_backoff": base > 0,
        "high_risk_immediate_fail": exactly_once,
        "execution_guarantee": if exactly_once { "EXACTLY_ONCE" } else { "AT_LEAST_ONCE" },
    }))
}

/// What the documentation says where the recording says something else: fields of the policy.
fn documented_instead(case: &Value) -> Value {
    let word = case["execution_type"].as_str().unwrap_or_default();
    if let Some(fields) = documented(word) {
        return fields;
    }
    match word.trim().to_lowercase().as_str() {
        "flow" => json!({ "backoff_ms": 500 }),
        "job" => match case["job_max_retries"].as_i64() {
            None => json!({ "max_attempts": 5, "backoff_ms": 1000 }),
            Some(most) => json!({ "max_attempts": most.max(1), "backoff_ms": 1000 }),
        },
        _ => json!({}),
    }
}

#[test]
fn the_policies_resolved_are_those_recorded_except_where_documented_otherwise() {
    let file = load(include_str!("../../golden/nodus_resolve_policy.json"));
    let mut differing = vec![];
    for case in cases(&file, "cases") {
        let id = resolve_id(case);
        let text = |key: &str| case[key].as_str();
        let ours = ResolvePolicy {
            execution_type: text("execution_type").unwrap_or_default(),
            risk_level: text("risk_level"),
            node_max_retries: case["node_max_retries"].as_i64(),
            job_max_retries: case["job_max_retries"].as_i64(),
        }
        .resolve();
        // Every field is the recorded one, but for those the documentation settles.
        let mut expected = case["policy"].clone();
        for (field, value) in documented_instead(case).as_object().unwrap() {
            expected[field] = value.clone();
        }
        assert_eq!(Some(ours), nodus_policy(&expected), "{id}: {expected}");
        if expected != case["policy"] {
            differing.push(id);
        }
    }
    assert_listed(&file, &differing, RESOLVED);
}

/// A policy with the fields of the reference's. `None` for what cannot be written here.
fn nodus_policy(fields: &Value) -> Option<RetryPolicy> {
    let attempts = u32::try_from(fields["max_attempts"].as_i64().unwrap()).ok()?;
    let base = u64::try_from(fields["backoff_ms"].as_i64().unwrap()).ok()?;
    let base = Duration::from_millis(base);
    let cap = Duration::from_secs(10);
    let jitter = Jitter::Additive(Duration::from_millis(50));
    let backoff = if base.is_zero() {
        Backoff::none()
    } else if fields["exponential_backoff"] == true {
        Backoff::exponential(base.min(cap), cap).jitter(jitter)
    } else {
        Backoff::constant(base.min(cap)).cap(cap).jitter(jitter)
    };
    let guarantee = match fields["execution_guarantee"].as_str().unwrap() {
        "EXACTLY_ONCE" => ExecutionGuarantee::ExactlyOnce,
        _ => ExecutionGuarantee::AtLeastOnce,
    };
    RetryPolicy::builder()
        .max_attempts(attempts)
        .backoff(backoff)
        .fail_immediately(fields["high_risk_immediate_fail"] == true)
        .guarantee(guarantee)
        .build()
        .ok()
}

/// Delays without and with all of the jitter. Ours start at the backoff itself, as documented; the
/// reference's exponential ones start at twice of it.
fn documented_delays(fields: &Value, retries: usize) -> (Vec<f64>, Vec<f64>) {
    let base = fields["backoff_ms"].as_f64().unwrap();
    if base <= 0.0 {
        return (vec![], vec![]);
    }
    let exponential = fields["exponential_backoff"] == true;
    let at = |n: usize, jitter: f64| {
        let factor = if exponential { 2f64.powi(i32::try_from(n).unwrap()) } else { 1.0 };
        ((base * factor + jitter) / 1000.0).min(10.0)
    };
    ((0..retries).map(|n| at(n, 0.0)).collect(), (0..retries).map(|n| at(n, 50.0)).collect())
}

fn is_doubled(fields: &Value, retries: usize) -> bool {
    retries > 0
        && fields["backoff_ms"].as_f64().unwrap() > 0.0
        && fields["exponential_backoff"] == true
}

const SCHEDULES: &[(&str, &str)] = &[
    ("sch-002", "the first delay is the backoff, not twice of it"),
    ("sch-004", JOB),
    ("sch-007", FLOW),
    ("sch-011", "the first delay is the backoff, not twice of it"),
    ("sch-014", "the first delay is the backoff, not twice of it"),
    ("sch-016", "the first delay is the backoff, not twice of it"),
    ("sch-018", "the first delay is the backoff, not twice of it"),
    ("sch-020", "a negative backoff cannot be written"),
    ("sch-026", "the first delay is the backoff, not twice of it"),
    ("sch-028", "the first delay is the backoff, not twice of it"),
    ("sch-029", "no attempts at all is an error when the policy is built"),
    ("sch-031", "no attempts at all is an error when the policy is built"),
    ("sch-035", "exactly once is one attempt"),
];

/// The fields of the case's policy; where it is one with a name, the documented ones.
fn named_as_documented(case: &Value) -> Value {
    let recorded = case["policy"].clone();
    let more = match case["category"].as_str() {
        Some("named") => 0,
        Some("named_plus_two") => 2,
        _ => return recorded,
    };
    let name = case["title"].as_str().unwrap().rsplit(' ').next().unwrap();
    let mut fields = documented(name).unwrap();
    fields["max_attempts"] = json!(fields["max_attempts"].as_i64().unwrap() + more);
    fields
}

#[test]
fn schedules_are_as_recorded_except_for_the_first_delay() {
    let file = load(include_str!("../../golden/nodus_retry_schedules.json"));
    let mut differing = vec![];
    for case in cases(&file, "cases") {
        let id = case["id"].as_str().unwrap();
        let fields = &named_as_documented(case);
        let Some(policy) = nodus_policy(fields) else {
            let (attempts, backoff) = (&fields["max_attempts"], &fields["backoff_ms"]);
            assert!(attempts.as_i64().unwrap() < 1 || backoff.as_i64().unwrap() < 0, "{id}");
            differing.push(id.to_owned());
            continue;
        };
        let mut slept = vec![];
        let mut attempts = 0usize;
        let result: Result<(), String> = retry_of(policy, Some).run_blocking_with(
            |delay| slept.push(delay.as_secs_f64()),
            |_| {
                attempts += 1;
                Err("boom".to_owned())
            },
        );
        assert_eq!(result.unwrap_err(), "boom", "{id}");
        let once = policy.guarantee() == ExecutionGuarantee::ExactlyOnce;
        if case["category"] == "named" {
            assert_eq!(RetryPolicy::named(case["title"].as_str().unwrap()), Some(policy), "{id}");
        }
        let corrected = *fields != case["policy"];
        if once {
            assert_eq!(attempts, 1, "{id}");
        } else if corrected {
            assert_eq!(json!(attempts), fields["max_attempts"], "{id}");
        } else {
            assert_eq!(json!(attempts), case["attempts"], "{id}");
        }
        let doubled = is_doubled(fields, attempts - 1);
        if doubled || corrected || json!(attempts) != case["attempts"] {
            differing.push(id.to_owned());
        }
        let (low, high) = documented_delays(fields, attempts - 1);
        if !doubled && !corrected && !once {
            assert!(all_close(&low, &case["delays_min_jitter"]), "{id}");
            assert!(all_close(&high, &case["delays_max_jitter"]), "{id}");
        }
        assert_eq!(slept.len(), low.len(), "{id}");
        for (n, delay) in slept.iter().enumerate() {
            assert!(*delay >= low[n] - 1e-9 && *delay <= high[n] + 1e-9, "{id}: {delay}");
            let (least, most) = policy.backoff().range(u32::try_from(n).unwrap() + 1);
            assert!(
                close(least.as_secs_f64(), low[n]) && close(most.as_secs_f64(), high[n]),
                "{id}"
            );
        }

        let mut attempts = 0;
        let result: Result<(), String> = retry_of(policy, Some).run_blocking_with(
            |_| panic!("a final error is not waited for"),
            |_| {
                attempts += 1;
                Err("HTTP 403 forbidden".to_owned())
            },
        );
        assert!(result.is_err());
        assert_eq!(json!(attempts), case["terminal_error_attempts"], "{id}");
    }
    assert_listed(&file, &differing, SCHEDULES);
}

/// Judges texts with the checker a case names.
fn retry_of(
    policy: RetryPolicy,
    checker: impl Fn(&'static str) -> Option<&'static str>,
) -> Retry<impl buttress::Classify<(), (), String, Ticket = ()>> {
    with_checker(policy, checker("default").unwrap().to_owned())
}

fn with_checker<T: 'static>(
    policy: RetryPolicy,
    checker: String,
) -> Retry<impl buttress::Classify<(), T, String, Ticket = ()>> {
    let verdict = move |result: Result<&T, &String>| {
        let retryable = match (result, checker.as_str()) {
            (Ok(_), _) => return Verdict::success(),
            (Err(text), "default") => is_retryable_error(text.as_str()),
            (Err(_), "always") => true,
            (Err(_), "never") => false,
            (Err(text), "only_busy") => text.contains("busy"),
            (Err(_), other) => panic!("unknown checker {other}"),
        };
        Verdict::failure(if retryable { FailureClass::Transient } else { FailureClass::Permanent })
    };
    Retry::new(policy).without_budget().classify(classify_fn(verdict))
}

const SCRIPTED: &[(&str, &str)] = &[
    ("ex-003", "the first delay is the backoff, not twice of it"),
    ("ex-006", "the first delay is the backoff, not twice of it"),
    ("ex-007", "the first delay is the backoff, not twice of it"),
    ("ex-010", "the first delay is the backoff, not twice of it"),
    ("ex-011", "the first delay is the backoff, not twice of it"),
    ("ex-014", "the first delay is the backoff, not twice of it"),
    ("ex-018", "the first delay is the backoff, not twice of it"),
    ("ex-026", "the first delay is the backoff, not twice of it"),
];

#[tokio::test(start_paused = true)]
async fn scripts_run_as_recorded_blocking_and_not() {
    let file = load(include_str!("../../golden/nodus_retry_schedules.json"));
    let mut differing = vec![];
    for case in cases(&file, "scripted_cases") {
        let id = case["id"].as_str().unwrap();
        let errors = strings(&case["errors"]);
        let policy = nodus_policy(&case["policy"]).unwrap();
        let retry = with_checker(policy, case["checker"].as_str().unwrap().to_owned());
        let step = |attempt: u32| match errors.get(attempt as usize - 1).map(String::as_str) {
            None | Some("ok") => Ok(format!("value-{attempt}")),
            Some(error) => Err(error.to_owned()),
        };
        let mut starts = vec![];
        let result = if case["mode"] == "async" {
            let result = retry
                .run(|attempt| {
                    starts.push(tokio::time::Instant::now());
                    std::future::ready(step(attempt))
                })
                .await;
            result.map_err(|error| error.into_inner().unwrap())
        } else {
            let now = std::cell::Cell::new(tokio::time::Instant::now());
            retry.run_blocking_with(
                |delay| now.set(now.get() + delay),
                |attempt| {
                    starts.push(now.get());
                    step(attempt)
                },
            )
        };
        assert_eq!(json!(starts.len()), case["attempts"], "{id}");
        match &result {
            Ok(value) => assert_eq!(json!({ "ok": value }), case["outcome"], "{id}"),
            Err(text) => assert_eq!(json!(text), case["outcome"]["message"], "{id}"),
        }
        let (low, high) = documented_delays(&case["policy"], starts.len() - 1);
        for (n, pair) in starts.windows(2).enumerate() {
            let delay = (pair[1] - pair[0]).as_secs_f64();
            // Timers have whole milliseconds.
            assert!(delay >= low[n] - 1e-9 && delay <= high[n] + 0.0011, "{id}: {delay}");
        }
        if is_doubled(&case["policy"], starts.len() - 1) {
            differing.push(id.to_owned());
        } else {
            assert!(all_close(&low, &case["delays_min_jitter"]), "{id}");
        }
    }
    assert_listed(&file, &differing, SCRIPTED);
}
