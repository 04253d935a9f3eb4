//! Recorded processes that were sent signals.
//!
//! What is done differently on purpose:
//!
//! * a program returns the exit code of its report from `main`, so that a callback that was cut off shows;
//! * `SystemExit` in a callback is a panic here;
//! * and see [`INTENDED`].

use serde_json::{Value, json};
use tokio::time::Instant;

use super::process::Process;
use super::{seconds, sleep};

const TRACES: &str = include_str!("../golden/shutdown.json");

/// Fields of `expect` that are different here, and why.
const INTENDED: [(&str, &str, &str); 6] = [
    (
        "sp-006",
        r#"{"exit_code": 5, "seconds_after_ready": 0.4, "stdout":
        ["ready", "start slow", "start next", "end next", "start n2", "end n2", "main done"]}"#,
        "the exit code is used, and nobody waits for what was cut off",
    ),
    (
        "sp-007",
        r#"{"exit_code": 7, "hung": false, "seconds_after_ready": 0.5}"#,
        "a callback that hangs does not hold the exit",
    ),
    (
        "sp-010",
        r#"{"exit_code": 130, "stdout": ["ready", "start slow"], "seconds_after_ready": 0.3}"#,
        "SIGINT again ends the process",
    ),
    ("sp-014", r#"{"exit_code": 101}"#, "the exit code of a panic"),
    (
        "sp-015",
        r#"{"exit_code": 0, "killed_by_signal": null, "seconds_after_ready": 1.0, "stdout":
        ["ready", "start slow", "end slow", "start after", "end after", "main done"]}"#,
        "a signal does not kill a process that cleans up",
    ),
    (
        "sp-018",
        r#"{"stdout": ["ready", "start sync", "end sync", "start a1", "end a1", "start a2", "end a2",
        "main done"]}"#,
        "async callbacks run",
    ),
];

fn signal(name: &str) -> rustix::process::Signal {
    rustix::process::Signal::from_named_raw(super::child::number(name).number()).unwrap()
}

fn replay(case: &Value) {
    let id = case["id"].as_str().unwrap();
    let mut expect = case["expect"].clone();
    if let Some((_, fields, _)) = INTENDED.iter().find(|(other, ..)| *other == id) {
        let fields: Value = serde_json::from_str(fields).unwrap();
        for (field, value) in fields.as_object().unwrap() {
            assert_ne!(expect[field], *value, "{id}: {field} is what was recorded");
            expect[field] = value.clone();
        }
    }
    let program = &case["program"];
    let mut process = Process::start(program);
    process.hear("ready");
    let ready = Instant::now();
    for sent in program["signals"].as_array().unwrap() {
        let at = seconds(sent[0].as_f64().unwrap());
        sleep(at.saturating_sub(ready.elapsed()));
        process.signal(signal(sent[1].as_str().unwrap()));
    }
    // No process here lives for ever; the recorded ones were watched for 8 s.
    assert_eq!(expect["hung"], false, "{id}");
    let end = process.end_within(ready, seconds(8.0)).unwrap_or_else(|| panic!("{id} hangs"));
    assert_eq!(json!(end.said), expect["stdout"], "{id} {end:?}");
    assert_eq!(json!(end.code), expect["exit_code"], "{id} {end:?}");
    let killed = end.signal.map(|signal| if signal == 15 { "SIGTERM" } else { "another" });
    assert_eq!(json!(killed), expect["killed_by_signal"], "{id} {end:?}");
    let nominal = expect["seconds_after_ready"].as_f64().unwrap();
    let after = end.after.as_secs_f64();
    assert!((nominal - 0.3..nominal + 2.0).contains(&after), "{id}: {after}, not {nominal}");
}

#[test]
fn the_recorded_processes_end_the_same_way() {
    let file: Value = serde_json::from_str(TRACES).unwrap();
    let cases = file["process_cases"].as_array().unwrap();
    assert_eq!(cases.len(), 12, "the file has changed");
    for (id, _, why) in &INTENDED {
        assert!(cases.iter().any(|case| case["id"] == **id), "{id}, {why}, is no case");
    }
    for case in cases {
        replay(case);
    }
}
