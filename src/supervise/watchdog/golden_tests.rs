//! Recorded traces of the original watchdog and of `with_watchdog`.
//!
//! What is done differently on purpose: it re-arms when it goes on; limits are errors; a state file has a
//! grace after the start, and only a *new* beat is life, whatever time it claims; what is no beat is told, it
//! does not end the monitor; the check interval is the one that was asked for; async callbacks run.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::clock::{self, Tick};
use crate::observe::Observers;
use crate::supervise::alert::{Hook, Runner};

use super::core::{Core, Limits, Seen, Told};
use super::error::{Freeze, FreezeCause};
use super::{Watchdog, with_watchdog, with_watchdog_blocking};

const TRACES: &str = include_str!("../../../tests/golden/watchdog.json");
const SUPERVISOR: &str = include_str!("../../../tests/golden/process_supervisor.json");

/// Every case that fires at other times here, and why.
const INTENDED: [(&str, &str); 14] = [
    ("wd-007", "re-armed by the ping after the freeze"),
    ("wd-026", "re-armed by the ping after the freeze"),
    ("wd-053", "a grace after the start: at 9 s, not at the first check"),
    ("wd-065", "not an object: told at 2 s, instead of the end of the monitor"),
    ("wd-067", "a beat from the future is one beat, not life until then"),
    ("wd-071", "the check interval is 16 s, as asked"),
    ("wd-073", "the async callback runs"),
    ("wd-076", "a grace after the start: at 21 s, not at the first check"),
    ("wd-088", "not an object: told at 2 s, instead of the end of the monitor"),
    ("wd-090", "a beat from the future is one beat, not life until then"),
    ("wd-094", "the check interval is 40 s, as asked"),
    ("wd-097", "re-armed by pings after the freeze"),
    ("wd-101", "re-armed by pings after the freeze"),
    ("wd-104", "re-armed by pings after the freeze"),
];

fn tick(seconds: f64) -> Tick {
    Tick(1 << 50).after(Duration::from_secs_f64(seconds))
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap()
}

struct Case<'a> {
    id: &'a str,
    file: bool,
    timeout: f64,
    check: f64,
    until: f64,
    ops: Vec<(f64, &'a Value)>,
    value: &'a Value,
}

impl<'a> Case<'a> {
    fn new(value: &'a Value) -> Self {
        let file = value["kind"] == "state_file";
        let asked = value["config"]["check_interval"].as_f64();
        Self {
            id: value["id"].as_str().unwrap(),
            file,
            timeout: number(value, if file { "max_age" } else { "effective_timeout" }),
            check: asked.unwrap_or(number(value, "check_interval")),
            until: number(value, "run_until"),
            ops: value["ops"].as_array().unwrap().iter().map(|op| (number(op, "t"), op)).collect(),
            value,
        }
    }

    fn checks(&self) -> Vec<f64> {
        let mut times = Vec::new();
        let mut k = 1;
        while f64::from(k) * self.check <= self.until + 1e-9 {
            times.push(f64::from(k) * self.check);
            k += 1;
        }
        times
    }
}

/// A file as the traces describe it: what is in it, if it is a beat.
fn seen_of(file: &Value) -> Seen {
    if let Some(beat) = file["beat_at"].as_f64() {
        return Seen::Value(beat.to_bits());
    }
    Seen::Nothing(if file.is_null() { FreezeCause::Missing } else { FreezeCause::Corrupt })
}

/// When ours fires, by the core; what it answers after each op is compared where nothing differs.
fn ours(case: &Case<'_>, compare: bool) -> Vec<f64> {
    let check = Duration::from_secs_f64(case.check);
    let timeout = Duration::from_secs_f64(case.timeout);
    let gap = (check / 2).max(Duration::from_millis(50));
    let limits = Limits { timeout, check, grace: timeout, gap, inclusive: !case.file };
    let mut core = Core::new(limits);
    let (mut pings, mut file) = (0_u64, Seen::Nothing(FreezeCause::Missing));
    let mut ops = case.ops.iter().peekable();
    let mut fired = Vec::new();
    let times = [0.0].into_iter().chain(case.checks());
    for now in times {
        while let Some((t, op)) = ops.next_if(|(t, _)| *t <= now + 1e-9) {
            match op["op"].as_str().unwrap() {
                "ping" => pings += 1,
                "reset" => core.reset(),
                "file" => file = seen_of(&op["file"]),
                other => panic!("{other}"),
            }
            assert_eq!(op["pings_total"], pings, "{} at {t}", case.id);
            if compare {
                assert_eq!(op["is_triggered"], core.is_frozen(), "{} at {t}", case.id);
            }
            if !case.file {
                let silent = core.silent(tick(*t), pings).as_secs_f64();
                assert!(
                    (silent - number(op, "seconds_since_ping")).abs() < 1e-6,
                    "{} at {t}",
                    case.id
                );
            }
        }
        let seen = if case.file { file } else { Seen::Value(pings) };
        for told in core.check(tick(now), seen).into_iter().flatten() {
            match told {
                Told::Frozen { .. } => fired.push(now),
                Told::Recovered { .. } => {}
                other => panic!("{}: {other:?} at {now}", case.id),
            }
        }
    }
    fired
}

/// The same in other words: exact times of pings, states instead of edges.
fn model(case: &Case<'_>) -> Vec<f64> {
    let mut fired = Vec::new();
    let (mut last, mut quiet) = (0.0, false);
    let (mut content, mut known) = (Value::Null, false);
    let mut ops = case.ops.iter().peekable();
    let mut at_start = true;
    for now in [0.0].into_iter().chain(case.checks()) {
        let mut bad = false;
        while let Some((t, op)) = ops.next_if(|(t, _)| *t <= now + 1e-9) {
            match op["op"].as_str().unwrap() {
                "ping" if !case.file => (last, quiet) = (*t, false),
                "reset" => (last, quiet) = (*t, false),
                "file" if op["file"] != content => {
                    content = op["file"].clone();
                    if content["beat_at"].is_f64() {
                        (last, quiet, known) = (now, false, true);
                    }
                }
                _ => {}
            }
        }
        if case.file && !content["beat_at"].is_f64() {
            bad = known;
        }
        let silent = now - last;
        let over = if case.file { silent > case.timeout } else { silent >= case.timeout - 1e-9 };
        if !at_start && !quiet && (bad || over) {
            fired.push(now);
            quiet = true;
        }
        at_start = false;
    }
    fired
}

#[test]
fn it_fires_as_recorded_but_for_the_known_faults() {
    let traces: Value = serde_json::from_str(TRACES).unwrap();
    assert_eq!(traces["cases"].as_array().unwrap().len(), 52, "the file has changed");
    let mut different = Vec::new();
    for value in traces["cases"].as_array().unwrap() {
        let case = Case::new(value);
        let intended = INTENDED.iter().any(|(id, _)| *id == case.id);
        let fired = ours(&case, !intended);
        assert_eq!(fired, model(&case), "{}", case.id);
        let recorded: Vec<f64> = value["timeouts_fired_at"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t.as_f64().unwrap())
            .collect();
        let silent = value["on_timeout"] == "none";
        if fired != recorded && !silent {
            different.push(case.id.to_owned());
        } else {
            assert_eq!(value["final"]["timeouts_triggered"], fired.len(), "{}", case.id);
        }
        callbacks(&case, fired.len());
        settings(&case);
    }
    let intended: Vec<_> = INTENDED.iter().map(|(id, _)| *id).filter(|id| !id.is_empty()).collect();
    assert_eq!(different, intended);
}

/// The callbacks of a case, whatever they do, are all called; async ones, too.
fn callbacks(case: &Case<'_>, fires: usize) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&calls);
    let hook: Option<Hook<Freeze>> = match case.value["on_timeout"].as_str().unwrap() {
        "ok" => Some(Hook::plain(move |_| {
            counts.fetch_add(1, Ordering::Relaxed);
        })),
        "raise" => Some(Hook::plain(move |_| {
            counts.fetch_add(1, Ordering::Relaxed);
            panic!("expected in this test");
        })),
        "async" => Some(Hook::pending(move |_| {
            let counts = Arc::clone(&counts);
            async move {
                tokio::task::yield_now().await;
                counts.fetch_add(1, Ordering::Relaxed);
            }
        })),
        "none" => None,
        other => panic!("{other}"),
    };
    let long = Duration::from_secs(20);
    let runner = Runner::new("golden".into(), long, Observers::NONE);
    let silent = Duration::from_secs(1);
    let freeze = Freeze { watchdog: "golden".into(), cause: FreezeCause::Silent, silent };
    for _ in 0..fires {
        runner.submit(hook.as_ref().map(|hook| hook.job(freeze)));
    }
    assert!(runner.finish(long), "{}", case.id);
    let expected = if hook.is_some() { fires } else { 0 };
    assert_eq!(calls.load(Ordering::Relaxed), expected, "{}", case.id);
}

/// What was clamped is refused; what was not is accepted.
fn settings(case: &Case<'_>) {
    if case.file {
        return;
    }
    let asked = number(&case.value["config"], "timeout");
    let built = Duration::try_from_secs_f64(asked)
        .map(|asked| Watchdog::builder("golden").timeout(asked).build());
    match built {
        Ok(built) if (asked - case.timeout).abs() < 1e-9 => {
            let check = built.unwrap().check_interval().as_secs_f64();
            assert!((check - case.check).abs() < 1e-9, "{}", case.id);
        }
        Ok(built) => assert_eq!(built.unwrap_err().field(), "timeout", "{}", case.id),
        // Less than no time is no duration.
        Err(_) => assert!(asked < 0.0, "{}", case.id),
    }
}

#[test]
fn one_piece_of_work_ends_as_recorded() {
    let traces: Value = serde_json::from_str(SUPERVISOR).unwrap();
    let cases = traces["with_watchdog_cases"].as_array().unwrap();
    assert_eq!(cases.len(), 8, "the file has changed");
    for case in cases {
        let title = case["title"].as_str().unwrap();
        let seconds = Duration::from_secs_f64(number(case, "callable_seconds"));
        // A negative timeout is none at all.
        let limit = number(case, "timeout_seconds");
        let timeout = Duration::try_from_secs_f64(limit).unwrap_or_default();
        let outcome = case["callable_outcome"].as_str().unwrap().to_owned();
        let (calls, began) = (Mutex::new(0), clock::now());
        // Longer than recorded if it is not waited for, so that nobody who shares the machine makes it look so.
        let longer = if case["raised"] == "TimeoutError" { 5 } else { 0 };
        let work = move || {
            clock::park(seconds + Duration::from_secs(longer));
            match outcome.as_str() {
                "value" => Ok(Some(42)),
                "none" => Ok(None),
                "ValueError" => Err("boom"),
                "SystemExit" => panic!("expected in this test"),
                other => panic!("{other}"),
            }
        };
        let on_timeout = || {
            if case["on_timeout"] != Value::Null {
                *calls.lock().unwrap() += 1;
            }
            assert!(case["on_timeout"] != "raise", "expected in this test");
        };
        let call = || with_watchdog_blocking(work, timeout, on_timeout);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
        let elapsed = clock::now().since(began).as_secs_f64();
        match result {
            // The one that differs: an end of the program within the work is not its success.
            Err(_) => assert_eq!(case["callable_outcome"], "SystemExit", "{title}"),
            Ok(Ok(Ok(value))) => assert_eq!(case["returned"], serde_json::json!(value), "{title}"),
            Ok(Ok(Err(error))) => {
                assert_eq!(case["raised"], "ValueError", "{title}");
                assert_eq!(case["message"], error, "{title}");
            }
            Ok(Err(late)) => {
                assert_eq!(case["raised"], "TimeoutError", "{title}");
                let recorded = case["message"].as_str().unwrap();
                let message = if limit < 0.0 { "job exceeded 0s" } else { recorded };
                assert_eq!(late.to_string(), message, "{title}");
            }
        }
        assert_eq!(case["on_timeout_calls"], *calls.lock().unwrap(), "{title}");
        // Later only, and not much: the machine is shared.
        let recorded = number(case, "elapsed_measured");
        assert!(elapsed > recorded - 0.05 && elapsed < recorded + 4.0, "{title}: {elapsed}");
    }
}

/// The same of a future, which is dropped at the limit.
#[test]
fn one_future_ends_as_recorded() {
    let traces: Value = serde_json::from_str(SUPERVISOR).unwrap();
    let cases = traces["with_watchdog_cases"].as_array().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for case in cases {
        let title = case["title"].as_str().unwrap();
        let raises = case["raised"] == "TimeoutError";
        let seconds = number(case, "callable_seconds") + if raises { 5.0 } else { 0.0 };
        let limit = number(case, "timeout_seconds");
        let timeout = Duration::try_from_secs_f64(limit).unwrap_or_default();
        let outcome = case["callable_outcome"].as_str().unwrap();
        let work = async {
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            match outcome {
                "value" => Ok(Some(42)),
                "none" => Ok(None),
                "ValueError" => Err("boom"),
                "SystemExit" => panic!("expected in this test"),
                other => panic!("{other}"),
            }
        };
        let calls = Arc::new(AtomicUsize::new(0));
        let (counts, how) = (Arc::clone(&calls), case["on_timeout"].clone());
        let on_timeout = move || {
            if how != Value::Null {
                counts.fetch_add(1, Ordering::Relaxed);
            }
            assert!(how != "raise", "expected in this test");
        };
        let began = clock::now();
        let call = || runtime.block_on(with_watchdog(work, timeout, on_timeout));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
        let elapsed = clock::now().since(began).as_secs_f64();
        match result {
            Err(_) => assert_eq!(case["callable_outcome"], "SystemExit", "{title}"),
            Ok(Ok(Ok(value))) => assert_eq!(case["returned"], serde_json::json!(value), "{title}"),
            Ok(Ok(Err(error))) => assert_eq!(case["message"], error, "{title}"),
            Ok(Err(late)) => {
                assert!(raises && late.late.is_none(), "{title}");
                let recorded = case["message"].as_str().unwrap();
                let message = if limit < 0.0 { "job exceeded 0s" } else { recorded };
                assert_eq!(late.to_string(), message, "{title}");
            }
        }
        assert_eq!(case["on_timeout_calls"], calls.load(Ordering::Relaxed), "{title}");
        let recorded = number(case, "elapsed_measured");
        assert!(elapsed > recorded - 0.05 && elapsed < recorded + 4.0, "{title}: {elapsed}");
    }
}
