//! Recorded traces of the original heartbeat.
//!
//! What is done differently on purpose: whatever is no beat is `Corrupt`, not an exception; a beat from the
//! future is no life for ever; the first beat comes at once in every mode; a dead target and a failing write
//! are told once, not at every beat; async callbacks run; limits are errors.

use std::time::{Duration, SystemTime};

use serde::de::{Deserialize, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap};
use serde_json::Value;

use crate::clock::Tick;

use super::core::{Core, Round, Told};
use super::reader::Lookup;
use super::state::HeartbeatState;
use super::{Heartbeat, HeartbeatReader, HeartbeatVerdict, time};

const TRACES: &str = include_str!("../../../tests/golden/heartbeat.json");

/// Every case that ends differently here, and why.
const INTENDED: [(&str, &str); 18] = [
    ("hr-020", "5.5 hours in the future: clock skew, instead of alive until then"),
    ("hr-040", "a timestamp that is not text: no state, instead of one that nobody can use"),
    ("hr-042", "a timestamp that is not text: no state"),
    ("hr-044", "a timestamp that is not text: no state"),
    ("hr-053", "not an object: corrupt, instead of TypeError"),
    ("hr-055", "not an object: corrupt, instead of TypeError"),
    ("hr-057", "not an object: corrupt, instead of TypeError"),
    ("hr-060", "not UTF-8: corrupt, instead of UnicodeDecodeError"),
    ("hr-064", "-1 is no process number: corrupt, instead of alive"),
    ("ht-001", "the first beat comes at once"),
    ("ht-004", "the first beat comes at once; 1000 s is refused, not clamped"),
    ("ht-005", "the first beat comes at once; a dead target is told once and with an alert"),
    ("ht-008", "the first beat comes at once; a failing write is told once"),
    ("ht-009", "the first beat comes at once; the async callback runs"),
    ("ht-012", "the first beat comes at once"),
    ("ht-013", "the first beat comes at once"),
    ("ht-020", "a dead target is told once"),
    ("ht-021", "a failing write is told once"),
];

fn traces() -> Value {
    serde_json::from_str(TRACES).unwrap()
}

fn cases<'a>(traces: &'a Value, list: &str) -> &'a Vec<Value> {
    traces[list].as_array().unwrap()
}

fn at(text: &Value) -> SystemTime {
    time::parse(text.as_str().unwrap()).unwrap()
}

fn bytes(case: &Value) -> Option<Vec<u8>> {
    if let Some(text) = case["file_text"].as_str() {
        return Some(text.into());
    }
    let hex = case["file_hex"].as_str()?;
    Some(
        (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            .collect(),
    )
}

#[test]
fn state_files_are_read_as_recorded() {
    let scratch = super::tests::Scratch::new();
    let mut different = Vec::new();
    for case in cases(&traces(), "cases") {
        let id = case["id"].as_str().unwrap();
        let path = scratch.0.join(id);
        if let Some(bytes) = bytes(case) {
            std::fs::write(&path, bytes).unwrap();
        }
        // On the machine of the original, where its process runs.
        let reader = HeartbeatReader::here()
            .hostname("h")
            .wall_clock(at(&case["now"]))
            .processes(|_| Lookup::Running { started: 1 });
        let state = Heartbeat::read_state(&path);
        let expected = &case["read_state"]["state"];
        let same_state = match &state {
            None => case["read_state"]["raises"].is_null() && expected.is_null(),
            Some(state) => {
                expected["timestamp"] == state.timestamp.as_str()
                    && expected["pid"] == state.pid
                    && expected["hostname"] == state.hostname.as_str()
                    && expected["metadata"]
                        == serde_json::from_str::<Value>(state.metadata_json()).unwrap()
            }
        };
        let mut same = same_state;
        for question in case["is_alive"].as_array().unwrap() {
            let age = question["max_age_seconds"].as_f64().unwrap();
            let Ok(age) = Duration::try_from_secs_f64(age) else {
                continue; // less than no time cannot be asked
            };
            let verdict = reader.verdict(&path, age);
            same &= question["is_alive"].as_bool() == Some(verdict.is_alive());
            if INTENDED.iter().any(|(intended, _)| *intended == id) {
                let skew = matches!(verdict, HeartbeatVerdict::ClockSkew { .. });
                let corrupt = matches!(verdict, HeartbeatVerdict::Corrupt(_)) && state.is_none();
                assert!(if id == "hr-020" { skew } else { corrupt }, "{id}: {verdict:?}");
            }
        }
        if !same {
            different.push(id.to_owned());
        }
    }
    let intended: Vec<_> =
        INTENDED.iter().map(|(id, _)| *id).filter(|id| id.starts_with("hr-")).collect();
    assert_eq!(different, intended);
}

/// JSON with its keys in the order of the text.
enum Ordered {
    Plain(Value),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Ordered;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Ordered, E> {
                Ok(Ordered::Plain(Value::Null))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Ordered, E> {
                Ok(Ordered::Plain(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Ordered, E> {
                Ok(Ordered::Plain(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Ordered, E> {
                Ok(Ordered::Plain(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Ordered, E> {
                Ok(Ordered::Plain(value.into()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Ordered, E> {
                Ok(Ordered::Plain(value.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Ordered, A::Error> {
                let mut all = Vec::new();
                while let Some(value) = list.next_element()? {
                    all.push(value);
                }
                Ok(Ordered::List(all))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Ordered::Map(all))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl Serialize for Ordered {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(value) => value.serialize(serializer),
            Self::List(all) => serializer.collect_seq(all),
            Self::Map(all) => {
                let mut map = serializer.serialize_map(Some(all.len()))?;
                for (key, value) in all {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

/// What Python refuses to write.
struct NoJson;

impl Serialize for NoJson {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("Object of type set is not JSON serializable"))
    }
}

#[derive(serde::Deserialize)]
struct WriteCase {
    id: String,
    now: String,
    pid: u32,
    hostname: String,
    metadata: Option<Ordered>,
    metadata_python: String,
    state_file: String,
    existing_text: Option<String>,
    file_text: Option<String>,
    files_after: Vec<String>,
}

#[derive(serde::Deserialize)]
struct WriteCases {
    write_cases: Vec<WriteCase>,
}

fn files(directory: &std::path::Path, under: &str, all: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{under}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            files(&entry.path(), &format!("{name}/"), all);
        } else {
            all.push(name);
        }
    }
}

#[test]
fn state_files_begin_to_the_byte_as_recorded_and_leave_nothing_beside_them() {
    let traces: WriteCases = serde_json::from_str(TRACES).unwrap();
    assert!(!traces.write_cases.is_empty());
    for case in traces.write_cases {
        let id = &case.id;
        let scratch = super::tests::Scratch::new();
        let path = scratch.0.join(&case.state_file);
        if let Some(text) = &case.existing_text {
            std::fs::write(&path, text).unwrap();
        }
        let builder = Heartbeat::builder("golden").file(&path);
        // What the recording could not say in JSON: NaN, which we write as null since NaN is no JSON, and a
        // set, which is an error with a name when it is set, not a TypeError when it is written.
        let builder = match (&case.metadata, case.metadata_python.as_str()) {
            (Some(metadata), _) => builder.metadata(metadata),
            (None, "None") => builder,
            (None, python) if python.contains("nan") => {
                let map = [
                    ("x".into(), Ordered::Plain(Value::Null)),
                    ("n".into(), Ordered::Plain(0.into())),
                ];
                builder.metadata(&Ordered::Map(map.into()))
            }
            (None, _) => {
                let error = builder.metadata(&NoJson).build().unwrap_err();
                assert_eq!(error.field(), "metadata", "{id}");
                assert_eq!(case.file_text, None, "{id}");
                continue;
            }
        };
        let heart = builder.build().unwrap();
        heart.beat().unwrap();
        let mut left = Vec::new();
        files(&scratch.0, "", &mut left);
        assert_eq!(left, case.files_after, "{id}");
        let ours = std::fs::read_to_string(&path).unwrap();
        let mut state = Heartbeat::read_state(&path).unwrap();
        assert!(ours.is_ascii(), "{id}");
        // The clock, the process and the machine are those of the recording.
        let written = [
            (format!("{:?}", state.timestamp), format!("{:?}", case.now)),
            (format!("\"pid\": {}", state.pid), format!("\"pid\": {}", case.pid)),
        ];
        let mut text = ours.clone();
        for (from, to) in &written {
            assert!(text.contains(from), "{id}: {ours}");
            text = text.replace(from, to);
        }
        state.hostname.clone_from(&case.hostname);
        let hostname = super::file::json(&case.hostname).unwrap();
        let own = super::file::json(&super::place::hostname()).unwrap();
        let text =
            text.replace(&format!("\"hostname\": {own}"), &format!("\"hostname\": {hostname}"));
        let recorded = case.file_text.unwrap().replace("NaN", "null");
        let (recorded, _) = recorded.rsplit_once("\n}").unwrap();
        assert!(
            text.starts_with(&format!("{recorded},\n  \"version\": 1,\n")),
            "{id}:\n{text}\n{recorded}"
        );
        assert_eq!(time::format(at(&case.now.as_str().into())), case.now, "{id}");
    }
}

#[test]
fn a_recorded_file_with_nan_is_read() {
    let text = cases(&traces(), "write_cases")
        .iter()
        .filter_map(|case| case["file_text"].as_str())
        .find(|text| text.contains("NaN"))
        .unwrap()
        .to_owned();
    let state = HeartbeatState::parse(text.as_bytes()).unwrap();
    assert_eq!(state.metadata::<Value>().unwrap()["x"], Value::Null);
}

fn tick(seconds: f64) -> Tick {
    Tick(0).after(Duration::from_secs(1_000_000) + Duration::from_secs_f64(seconds))
}

fn within(intervals: &Value, t: f64) -> bool {
    intervals.as_array().is_some_and(|all| {
        all.iter().any(|pair| pair[0].as_f64().unwrap() <= t && t < pair[1].as_f64().unwrap())
    })
}

/// The events of ours, as `time:event`.
fn replay(case: &Value) -> Vec<String> {
    let number = |key: &str| case[key].as_f64().unwrap();
    let interval = Duration::from_secs_f64(number("effective_interval"));
    let mut core = Core::new(tick(0.0), interval, interval / 2);
    let mut events = Vec::new();
    let (mut t, until) = (0.0, number("run_until"));
    while t <= until {
        let now = tick(t);
        assert!(core.wait(now).is_zero());
        assert_eq!(core.begin(now, Vec::new()), Round::Beat);
        let fails = within(&case["beat_fails_intervals"], t);
        let outcome = if fails { Err(Told::Failed("disk")) } else { Ok(()) };
        let mut told = core.end(now, outcome);
        told.extend(core.target(within(&case["target_dead_intervals"], t)));
        if fails {
            events.push(format!("{t}:beat_failed"));
        }
        for told in told {
            let names: &[&str] = match told {
                Told::Beat => &["beat", "on_beat"],
                Told::Failed(_) => &["on_missed_beat"],
                Told::TargetDead => &["on_alert", "on_target_dead"],
                Told::Resumed | Told::TargetBack => &[],
                other => panic!("{other:?}"),
            };
            events.extend(names.iter().map(|name| format!("{t}:{name}")));
        }
        t += core.wait(now).as_secs_f64();
    }
    events
}

/// The recording, corrected: the first beat at once, edges instead of levels, callbacks in every mode.
fn corrected(case: &Value) -> Vec<String> {
    let mut events = Vec::new();
    let mut open: [Option<f64>; 2] = [None; 2];
    let step = case["effective_interval"].as_f64().unwrap();
    let sync = case["mode"] == "sync";
    if sync {
        events.extend(["0:beat".to_owned(), "0:on_beat".to_owned()]);
    }
    for event in case["events"].as_array().unwrap() {
        let (t, name) = (event["t"].as_f64().unwrap(), event["event"].as_str().unwrap());
        let edge = match name {
            "on_missed_beat" => Some(0),
            "on_target_dead" => Some(1),
            _ => None,
        };
        let again = edge.is_some_and(|edge| {
            let last = open[edge].replace(t);
            last.is_some_and(|last| (last - (t - step)).abs() < 1e-9)
        });
        if name == "beat" && case["on_beat"] == "async" && sync {
            events.extend([format!("{t}:beat"), format!("{t}:on_beat")]);
        } else if name == "on_alert" {
            // Told with its callback.
        } else if !again {
            if name == "on_target_dead" {
                events.push(format!("{t}:on_alert"));
            }
            events.push(format!("{t}:{name}"));
        }
    }
    events
}

#[test]
fn beats_come_as_recorded_but_for_the_known_faults() {
    let mut different = Vec::new();
    for case in cases(&traces(), "loop_cases") {
        let id = case["id"].as_str().unwrap();
        let ours = replay(case);
        assert_eq!(ours, corrected(case), "{id}");
        let recorded: Vec<_> = case["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| {
                format!("{}:{}", event["t"].as_f64().unwrap(), event["event"].as_str().unwrap())
            })
            .collect();
        if ours != recorded {
            different.push(id.to_owned());
        }
        let asked = Duration::from_secs_f64(case["interval"].as_f64().unwrap());
        let built = Heartbeat::builder("golden").interval(asked).build();
        if case["interval"].as_f64() == case["effective_interval"].as_f64() {
            assert!(built.is_ok(), "{id}");
        } else {
            assert_eq!(built.unwrap_err().field(), "interval", "{id}: not clamped but refused");
        }
    }
    let intended: Vec<_> =
        INTENDED.iter().map(|(id, _)| *id).filter(|id| id.starts_with("ht-")).collect();
    assert_eq!(different, intended);
}
