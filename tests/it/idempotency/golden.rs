//! Recorded traces of nodus-retry, replayed through action ids and the effect store.
//!
//! What the effect store does differently on purpose is listed below; ids are the same wherever there is
//! something in Rust that corresponds to the recorded payload.

use std::collections::{BTreeMap, HashMap};

use buttress::idempotency::{EffectError, EffectStatus, EffectStore, compute_action_id};
use serde::Serialize;
use serde_json::{Value, json};

const IDS: &str = include_str!("../../golden/nodus_compute_action_id.json");
const EFFECTS: &str = include_str!("../../golden/nodus_effect_store.json");

/// Every case that ends differently here, and why.
const DIFFERENT_IDS: [(&str, &str); 6] = [
    ("cid-070", "NaN is no JSON: an error"),
    ("cid-072", "infinity is no JSON: an error"),
    ("cid-096", "half a character is no text: it cannot even be read"),
    ("cid-141", "a set of Rust has an order: it is a list, not an error"),
    ("cid-143", "a type is not a value: nothing corresponds to it"),
    ("cid-145", "nothing as a key is an error here, too, also where it could be sorted"),
];

const DIFFERENT_EFFECTS: [(&str, &str); 16] = [
    ("eff-006", "claimed again after a failure it is pending, with the new input hash"),
    ("eff-008", "completing what nobody has claimed is an error"),
    ("eff-010", "a list is a result"),
    ("eff-012", "a text, a number and null are results"),
    ("eff-014", "a success is final: a late failure is an error"),
    ("eff-016", "a success is final: a second one is an error"),
    ("eff-018", "another input hash is an error"),
    ("eff-020", "other words than success and failed are errors"),
    ("eff-031", "claimed again after a failure it is pending, with the new input hash"),
    ("eff-033", "completing what nobody has claimed is an error"),
    ("eff-035", "a list is a result"),
    ("eff-037", "a text, a number and null are results"),
    ("eff-039", "a success is final: a late failure is an error"),
    ("eff-041", "a success is final: a second one is an error"),
    ("eff-043", "another input hash is an error"),
    ("eff-045", "other words than success and failed are errors"),
];

fn cases(traces: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(traces).unwrap();
    let cases = all["cases"].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn id_of(case: &Value, payload: &impl Serialize) -> Result<String, String> {
    compute_action_id(case["action_type"].as_str().unwrap(), payload, &case["scope"])
        .map_err(|error| error.to_string())
}

/// Whole numbers beyond 64 bits, which `serde_json` would read as floating-point ones.
fn big(case: &Value) -> BTreeMap<&'static str, i128> {
    let text = case["payload_text"].as_str().unwrap();
    let digits = text.strip_prefix("{\"v\": ").and_then(|text| text.strip_suffix('}'));
    BTreeMap::from([("v", digits.unwrap().parse().unwrap())])
}

#[test]
fn every_id_is_the_recorded_one_or_listed() {
    let mut different = vec![];
    for case in cases(IDS) {
        let id = case["id"].as_str().unwrap();
        let recorded = case["action_id"].as_str();
        let computed = if case["needs_bigint"] == true {
            id_of(&case, &big(&case))
        } else if case["not_json"] != true {
            id_of(&case, &case["payload"])
        } else {
            different.push(id.to_owned());
            match case["payload_text"].as_str().or(case["payload_python"].as_str()).unwrap() {
                r#"{"v": NaN}"# => id_of(&case, &json_with(f64::NAN)),
                r#"{"v": -Infinity}"# => id_of(&case, &json_with(f64::NEG_INFINITY)),
                text @ r#"{"v": "\ud800"}"# => {
                    serde_json::from_str::<Value>(text).unwrap_err();
                    continue;
                }
                "{'a': {1, 2}}" => {
                    let set = std::collections::BTreeSet::from([1, 2]);
                    let as_list = id_of(&case, &json!({"a": [1, 2]}));
                    assert_eq!(id_of(&case, &BTreeMap::from([("a", set)])), as_list);
                    continue;
                }
                "{'a': <class 'object'>}" => continue,
                "{None: 1, 'a': 2}" => {
                    id_of(&case, &BTreeMap::from([(None, 1), (Some("a"), 2)])).unwrap_err();
                    id_of(&case, &BTreeMap::from([(None::<&str>, 1)]))
                }
                other => panic!("{id}: what corresponds to {other}?"),
            }
        };
        match (computed, different.last().is_some_and(|last| last == id)) {
            (Ok(computed), false) => assert_eq!(Some(computed.as_str()), recorded, "{case}"),
            (Err(error), true) => assert!(error.starts_with("no canonical JSON"), "{error}"),
            (seen, _) => panic!("{seen:?}: {case}"),
        }
    }
    let listed: Vec<_> = DIFFERENT_IDS.iter().map(|(id, _)| (*id).to_owned()).collect();
    assert_eq!(different, listed);
}

fn json_with(number: f64) -> BTreeMap<&'static str, f64> {
    BTreeMap::from([("v", number)])
}

/// What the recorded cases do not have: the rest of what Rust can serialise.
#[test]
fn everything_else_has_the_form_that_json_gives_it() {
    #[derive(Serialize)]
    struct Unit;
    #[derive(Serialize)]
    struct Wrapped(u8);
    #[derive(Serialize)]
    struct Pair(u8, char);
    #[derive(Serialize)]
    enum Kind {
        Plain,
        New(u8),
        Pair(u8, u8),
        Fields { b: u8, a: Option<u8> },
    }
    #[derive(Serialize)]
    struct All {
        z: Kind,
        y: [Kind; 3],
        x: (Unit, Wrapped, Pair),
        bytes: &'static [u8],
        by_number: BTreeMap<i8, bool>,
        float: f32,
    }
    let all = All {
        z: Kind::Plain,
        y: [Kind::New(1), Kind::Pair(1, 2), Kind::Fields { b: 1, a: None }],
        x: (Unit, Wrapped(3), Pair(4, 'ß')),
        bytes: &[1, 2],
        by_number: BTreeMap::from([(-1, true), (2, false)]),
        float: 0.5,
    };
    let id = |payload: &Value| compute_action_id("t", payload, "s").unwrap();
    let same = id(&serde_json::to_value(&all).unwrap());
    assert_eq!(compute_action_id("t", &all, "s").unwrap(), same);

    /// A map with a key twice, which no map of Rust has.
    struct Twice;
    impl Serialize for Twice {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map([("a", 1), ("a", 1)])
        }
    }
    let error = compute_action_id("t", &Twice, "s").unwrap_err();
    assert_eq!(error.to_string(), r#"no canonical JSON: the key "a" occurs twice"#);

    /// What `serde_json` hands on where a crate has turned on its `arbitrary_precision`.
    struct Digits(&'static str);
    impl Serialize for Digits {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeStruct;
            let mut raw = serializer.serialize_struct("$serde_json::private::Number", 1)?;
            raw.serialize_field("$serde_json::private::Number", self.0)?;
            raw.end()
        }
    }
    for (digits, number) in [("1", json!(1)), ("-7", json!(-7)), ("1.50", json!(1.5))] {
        assert_eq!(compute_action_id("t", &Digits(digits), "s").unwrap(), id(&number));
    }
    assert_eq!(compute_action_id("t", &Digits("1e3"), "s").unwrap(), id(&json!(1000.0)));
    let huge = format!("1{}", "0".repeat(40));
    assert_ne!(compute_action_id("t", &Digits(huge.leak()), "s").unwrap(), id(&json!(1e40)));
}

/// An effect, as one would explain ours.
#[derive(Clone)]
struct Line {
    input: String,
    status: EffectStatus,
    result: Option<Value>,
}

/// What ours comes to, in the words of the recording: `Err` for a refusal.
type Answer = Result<Value, &'static str>;

fn expected(lines: &mut HashMap<String, Line>, op: &Value) -> Answer {
    let id = op["id"].as_str().unwrap_or_default().to_owned();
    let line = lines.get_mut(&id);
    match op["op"].as_str().unwrap() {
        "resolve" => Ok(match line {
            Some(Line { status: EffectStatus::Success, result, .. }) => json!([true, result]),
            _ => json!([false, null]),
        }),
        "pending" => {
            let input = op["input_hash"].as_str().unwrap().to_owned();
            match line {
                Some(line) if line.status != EffectStatus::Failed => {
                    return Err(match line.status {
                        _ if line.input != input => "mismatch",
                        EffectStatus::Success => "done",
                        _ => "in flight",
                    });
                }
                _ => {}
            }
            lines.insert(id, Line { input, status: EffectStatus::Pending, result: None });
            Ok(Value::Null)
        }
        "complete" => {
            let Ok(status) = op["status"].as_str().unwrap().parse::<EffectStatus>() else {
                return Err("no such status");
            };
            let line = line.ok_or("not claimed")?;
            if line.status != EffectStatus::Pending {
                return Err("done");
            }
            (line.status, line.result) = (status, Some(op["result"].clone()));
            Ok(Value::Null)
        }
        "get" => {
            Ok(line
                .map_or(Value::Null, |line| json!([line.status.as_str(), line.input, line.result])))
        }
        "len" => Ok(json!(lines.len())),
        other => panic!("unknown operation {other}"),
    }
}

async fn seen(effects: &EffectStore, lines: &HashMap<String, Line>, op: &Value) -> Answer {
    let id = op["id"].as_str().unwrap_or_default();
    let refused = |error: EffectError| match error {
        EffectError::InFlight { .. } => "in flight",
        EffectError::Mismatch => "mismatch",
        EffectError::AlreadyDone => "done",
        EffectError::NotClaimed => "not claimed",
        other => panic!("{other:?}"),
    };
    match op["op"].as_str().unwrap() {
        "resolve" => {
            let result = effects.resolve::<Value>(id).await.map_err(refused)?;
            Ok(json!([result.is_some(), result]))
        }
        "pending" => {
            let input = op["input_hash"].as_str().unwrap();
            effects.pending(id, input).await.map_err(refused).map(|()| Value::Null)
        }
        "complete" => {
            let status = op["status"].as_str().unwrap().parse().map_err(|_| "no such status")?;
            let completed = effects.complete(id, status, &op["result"]).await;
            completed.map_err(refused).map(|()| Value::Null)
        }
        "get" => Ok(effects.get(id).await.map_err(refused)?.map_or(Value::Null, |record| {
            assert_eq!(record.action_id, id);
            // Only a hash of the input hash is kept.
            let input = &lines[id].input;
            let input = if record.is_input(input) { input.as_str() } else { "another" };
            json!([record.status.as_str(), input, record.result::<Value>().unwrap()])
        })),
        "len" => Ok(json!(effects.store().len())),
        other => panic!("unknown operation {other}"),
    }
}

fn recorded(op: &Value) -> Answer {
    Ok(match op["op"].as_str().unwrap() {
        "resolve" => json!([op["done"], op["cached"]]),
        "get" if op["record"].is_null() => Value::Null,
        "get" => {
            let record = &op["record"];
            assert_eq!(record["action_type"], "", "it was always empty, and is not there here");
            json!([record["status"], record["input_hash"], record["result_payload"]])
        }
        "len" => op["len"].clone(),
        _ => Value::Null,
    })
}

/// The recordings of the two stores are replayed on the one in memory. For those of the one on disk it is
/// kept where the recording opens the file again.
#[tokio::test(start_paused = true)]
async fn every_effect_trace_is_replayed_and_every_difference_is_listed() {
    let mut different = vec![];
    for case in cases(EFFECTS) {
        let id = case["id"].as_str().unwrap();
        let mut effects = EffectStore::in_memory();
        let mut lines = HashMap::new();
        let mut differs = false;
        for (n, op) in case["ops"].as_array().unwrap().iter().enumerate() {
            if op["op"] == "reopen" {
                if case["store"] == "memory" {
                    effects = EffectStore::in_memory();
                    lines.clear();
                }
                continue;
            }
            let expected = expected(&mut lines, op);
            let seen = seen(&effects, &lines, op).await;
            assert_eq!(seen, expected, "{id} step {n}: {op}");
            differs |= expected != recorded(op);
        }
        if differs {
            different.push(id.to_owned());
        }
    }
    let listed: Vec<_> = DIFFERENT_EFFECTS.iter().map(|(id, _)| (*id).to_owned()).collect();
    assert_eq!(different, listed);
}

/// The recorded stores let all of them execute.
#[test]
fn of_a_hundred_who_claim_one_effect_one_gets_it() {
    let effects = EffectStore::in_memory();
    let won = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let mine = runtime.block_on(effects.pending("a", "h")).is_ok();
                won.fetch_add(u32::from(mine), std::sync::atomic::Ordering::Relaxed);
            });
        }
    });
    assert_eq!(won.into_inner(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_died_is_noticed_and_one_that_was_slow_is_fenced_off() {
    use buttress::idempotency::EffectClaim;
    use buttress::store::OnInterrupted;
    use std::time::Duration;
    let lease = Duration::from_secs(10);
    let effects = EffectStore::in_memory().lease(lease);
    effects.pending("a", "h").await.unwrap();
    tokio::time::advance(lease).await;
    assert!(matches!(effects.pending("a", "h").await, Err(EffectError::Interrupted)));
    assert_eq!(effects.get("a").await.unwrap().unwrap().status, EffectStatus::Interrupted);
    // Whoever knows can still say so.
    effects.complete("a", EffectStatus::Success, &1).await.unwrap();
    assert_eq!(effects.resolve("a").await.unwrap(), Some(1));

    let effects = EffectStore::in_memory().lease(lease).on_interrupted(OnInterrupted::Rerun(2));
    let EffectClaim::Yours(slow) = effects.claim::<u8>("a", "h").await.unwrap() else { panic!() };
    tokio::time::advance(lease).await;
    effects.pending("a", "h").await.unwrap();
    let late = effects.complete_claim(&slow, EffectStatus::Success, &1).await;
    assert!(matches!(late, Err(EffectError::Fenced)));
    effects.complete("a", EffectStatus::Success, &2).await.unwrap();
    assert_eq!(effects.resolve("a").await.unwrap(), Some(2));
}
