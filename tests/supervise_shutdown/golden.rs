//! Recorded runs of the shutdown that this one replaces, replayed in this process and in real time.
//!
//! What is done differently on purpose: see [`INTENDED`]. What is no ordinary exception there (`SystemExit`,
//! `KeyboardInterrupt`) is a panic here. A message in the log is an event here. There, a closure that
//! returned a coroutine was taken for a blocking callback and never ran; here it has another type.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::observe::{Event, EventKind};
use buttress::supervise::shutdown::{Budget, GracefulShutdown, RegisterErrorKind, ShutdownReport};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::child::callback;
use super::seconds;

const TRACES: &str = include_str!("../golden/shutdown.json");

/// What is expected here instead of what was recorded, and why.
enum Instead {
    /// These fields of `expect`.
    Fields(&'static str),
    /// The time for everything cannot be that.
    Refused,
    /// As recorded; and the deadline holds for all together.
    Deadline,
    /// As recorded; and the time for everything is the one given.
    Unclamped,
}
use Instead::{Deadline, Fields, Refused, Unclamped};

/// Every case that ends differently here, what it comes to, and why.
const INTENDED: [(&str, Instead, &str); 13] = [
    (
        "sd-008",
        Fields(r#"{"told": ["failed boom"]}"#),
        "errors of blocking callbacks are told, too",
    ),
    ("sd-010", Fields(r#"{"told": ["failed exit"]}"#), "the same"),
    (
        "sd-014",
        Fields(r#"{"told": ["timed out slow"]}"#),
        "the same, and nobody waits for its thread",
    ),
    ("sd-017", Deadline, "the time for everything is a limit, not only the default for each"),
    (
        "sd-018",
        Fields(r#"{"refused": ["a", "b"], "started": ["c"], "told": []}"#),
        "a limit of zero is refused",
    ),
    (
        "sd-030",
        Fields(
            r#"{"outcome": "returned", "started": ["a", "exit", "c"], "finished_before_return": ["a", "c"],
            "told": ["failed exit"]}"#,
        ),
        "nothing escapes from a callback and stops those after it",
    ),
    ("sd-036", Deadline, "as sd-017"),
    ("sd-039", Fields(r#"{"refused": ["a", "b"], "started": ["c"], "told": []}"#), "as sd-018"),
    (
        "sd-043",
        Fields(
            r#"{"started": ["a0", "a1", "a2"], "finished_before_return": ["a0", "a1", "a2"], "told": []}"#,
        ),
        "async callbacks run wherever the shutdown is triggered",
    ),
    ("sd-048", Refused, "a time of zero is refused, not made 5 s"),
    ("sd-052", Unclamped, "301 s are 301 s, not 300"),
    (
        "sd-056",
        Fields(r#"{"told": ["failed c5", "failed c2", "failed c3", "failed c0"]}"#),
        "as sd-008",
    ),
    (
        "sd-064",
        Fields(
            r#"{"told": ["failed c0", "failed c3", "failed c8", "failed c7", "failed c2", "failed c6", "failed c1"]}"#,
        ),
        "as sd-008",
    ),
];

/// `Shutdown callback 'x' timed out` and `failed`, as the events say it.
fn told(expect: &Value) -> Value {
    let message = |text: &Value| {
        let (_, rest) = text.as_str().unwrap().split_once('\'').unwrap();
        let (name, what) = rest.split_once("' ").unwrap();
        format!("{what} {name}")
    };
    expect["log_messages"].as_array().unwrap().iter().map(message).collect()
}

#[derive(Default, Clone)]
struct Seen {
    started: Arc<Mutex<Vec<String>>>,
    finished: Arc<Mutex<Vec<String>>>,
    told: Arc<Mutex<Vec<String>>>,
    /// All has been told.
    over: Arc<AtomicBool>,
}

fn list(names: &Mutex<Vec<String>>) -> Value {
    json!(*names.lock().unwrap())
}

fn build(total: Duration, seen: &Seen) -> Result<GracefulShutdown, buttress::ConfigError> {
    let (sink, over) = (Arc::clone(&seen.told), Arc::clone(&seen.over));
    let listen = move |event: &Event<'_>| {
        let EventKind::Supervised { what, detail, .. } = event.kind else { return };
        let detail = detail.to_string();
        if what == "shutdown_phase_ended" && detail.starts_with("cleanup") {
            over.store(true, Ordering::SeqCst);
        }
        let what = match what {
            "callback_failed" | "callback_panicked" => "failed",
            "callback_timed_out" => "timed out",
            _ => return,
        };
        let name = detail.split(':').next().unwrap();
        sink.lock().unwrap().push(format!("{what} {name}"));
    };
    GracefulShutdown::builder("golden").budget(Budget::new(total)).observe(listen).build()
}

fn trigger(shutdown: &GracefulShutdown, mode: &str) -> ShutdownReport {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match mode {
        "trigger" => shutdown.trigger_blocking(),
        "atrigger" => runtime().block_on(shutdown.trigger()),
        "trigger_inside_running_loop" => runtime().block_on(async { shutdown.trigger_blocking() }),
        other => panic!("{other}?"),
    }
}

fn replay(case: &Value) {
    let id = case["id"].as_str().unwrap();
    let mut expect = case["expect"].clone();
    expect["told"] = told(&expect);
    expect["refused"] = json!([]);
    let intended = INTENDED.iter().find(|(other, ..)| *other == id).map(|(_, instead, _)| instead);
    let total = seconds(case["timeout"].as_f64().unwrap());
    let effective = seconds(case["effective_timeout"].as_f64().unwrap());
    let seen = Seen::default();
    match intended {
        Some(Refused) => {
            assert_eq!(build(total, &seen).unwrap_err().field(), "budget", "{id}");
            return;
        }
        Some(Fields(fields)) => {
            let fields: Value = serde_json::from_str(fields).unwrap();
            for (field, value) in fields.as_object().unwrap() {
                assert_ne!(expect[field], *value, "{id}: {field} is what was recorded");
                expect[field] = value.clone();
            }
        }
        Some(Deadline) => after_the_deadline(case),
        Some(Unclamped) | None => {}
    }
    let shutdown = build(total, &seen).unwrap();
    let mut refused = Vec::new();
    for (number, spec) in case["callbacks"].as_array().unwrap().iter().enumerate() {
        let name = spec["name"].as_str().unwrap();
        if spec["timeout"].as_f64().is_some_and(|limit| limit <= 0.0) {
            // Less than zero cannot be said.
            let mut zero = spec.clone();
            zero["timeout"] = json!(0);
            let error = shutdown.register(callback(&zero, |_, _| ())).unwrap_err();
            assert!(matches!(error.kind(), RegisterErrorKind::Config(_)), "{id} {error}");
            refused.push(name);
            continue;
        }
        let sinks = seen.clone();
        let how = move |what: &str, name: &str| {
            let sink = if what == "start" { &sinks.started } else { &sinks.finished };
            sink.lock().unwrap().push(name.to_owned());
        };
        let recorded = &case["registration"][number];
        match shutdown.register(callback(spec, how)) {
            Ok(()) => assert_eq!(recorded["ok"], true, "{id} {name}"),
            Err(error) => {
                assert_eq!(recorded["ok"], false, "{id} {error}");
                assert_eq!(*error.kind(), RegisterErrorKind::Duplicate, "{id}");
                assert_eq!(error.into_callback().name().as_str(), name, "{id}");
            }
        }
    }
    assert_eq!(json!(refused), expect["refused"], "{id}");
    assert_eq!(json!(shutdown.is_shutting_down()), expect["is_shutting_down_before"], "{id}");
    let from = Instant::now();
    let report = trigger(&shutdown, case["mode"].as_str().unwrap());
    let took = from.elapsed().as_secs_f64();
    assert_eq!(expect["outcome"], "returned", "{id}");
    // What the callbacks have: all of it but for the microseconds of the phases before.
    let given = if matches!(intended, Some(Unclamped)) { total } else { effective };
    let limit = report.phases.last().unwrap().limit;
    assert!(limit <= given && limit > given - Duration::from_secs(1), "{id} {report}");
    assert_eq!(list(&seen.started), expect["started"], "{id} {report}");
    assert_eq!(list(&seen.finished), expect["finished_before_return"], "{id} {report}");
    // Observers have a thread of their own.
    while !seen.over.load(Ordering::SeqCst) {
        assert!(from.elapsed() < Duration::from_secs(60), "{id}: the last was never told");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert_eq!(list(&seen.told), expect["told"], "{id} {report}");
    assert_eq!(json!(shutdown.is_shutting_down()), expect["is_shutting_down_after"], "{id}");
    // Others use this machine.
    let nominal = expect["elapsed_seconds_measured"].as_f64().unwrap();
    assert!((nominal - 0.1..nominal + 2.0).contains(&took), "{id}: {took} instead of {nominal}");
    let again = trigger(&shutdown, case["mode"].as_str().unwrap());
    assert_eq!(again, report, "{id}");
    assert_eq!(list(&seen.started), expect["started"], "{id}: they ran again");
    let late = json!({"name": "late", "kind": "ok"});
    let error = shutdown.register(callback(&late, |_, _| ())).unwrap_err();
    assert_eq!(*error.kind(), RegisterErrorKind::ShuttingDown, "{id}");
}

/// The callbacks together may take half of what they take one after the other.
fn after_the_deadline(case: &Value) {
    let id = case["id"].as_str().unwrap();
    let specs = case["callbacks"].as_array().unwrap();
    let sum: f64 = specs.iter().map(|spec| spec["timeout"].as_f64().unwrap()).sum();
    let shutdown = build(seconds(sum / 2.0), &Seen::default()).unwrap();
    for spec in specs {
        shutdown.register(callback(spec, |_, _| ())).unwrap();
    }
    let report = trigger(&shutdown, case["mode"].as_str().unwrap());
    assert!(report.took < seconds(sum * 0.9), "{id} {report}");
    assert_eq!(report.exit_code(), 124, "{id} {report}");
}

#[test]
fn the_recorded_runs_are_repeated() {
    let file: Value = serde_json::from_str(TRACES).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 32, "the file has changed");
    for (id, _, why) in &INTENDED {
        assert!(cases.iter().any(|case| case["id"] == **id), "{id}, {why}, is no case");
    }
    for case in cases {
        replay(case);
    }
}
