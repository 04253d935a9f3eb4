//! Signals: what ends a process, when, and with which code.

use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::process::{End, Process};
use super::sleep;

const SHORT: Duration = Duration::from_millis(100);
/// Much less than the time a shutdown may take here, much more than it has to.
const SOON: Duration = Duration::from_secs(5);

/// A process that waits for its end, which may take 25 s.
fn program(callbacks: &Value) -> Value {
    json!({"main": "wait_then_return", "timeout": 25, "callbacks": callbacks})
}

fn slow(seconds: f64) -> Value {
    json!([{"name": "slow", "kind": "ok", "duration": seconds}, {"name": "next", "kind": "ok"}])
}

const CLEAN: [&str; 6] = ["ready", "start slow", "end slow", "start next", "end next", "main done"];

fn clean(end: &End) {
    assert_eq!((end.code, &*end.said), (Some(0), &CLEAN.map(String::from)[..]), "{end:?}");
    assert!(end.after < SOON, "{end:?}");
}

#[test]
fn sigterm_and_sigint_end_it_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut process = Process::start(&program(&slow(0.0)));
        process.hear("ready");
        let from = Instant::now();
        process.signal(signal);
        clean(&process.end(from));
    }
}

#[test]
fn sigterm_again_changes_nothing() {
    let mut process = Process::start(&program(&slow(0.5)));
    process.hear("ready");
    process.signal(Signal::TERM);
    // During a callback, and more than once.
    process.hear("start slow");
    for _ in 0..3 {
        process.signal(Signal::TERM);
        sleep(SHORT);
    }
    clean(&process.end(Instant::now()));
}

#[test]
fn the_first_sigint_after_a_sigterm_changes_nothing() {
    let mut process = Process::start(&program(&slow(0.5)));
    process.hear("ready");
    process.signal(Signal::TERM);
    process.hear("start slow");
    process.signal(Signal::INT);
    clean(&process.end(Instant::now()));
}

#[test]
fn sigint_again_ends_it_with_130_and_a_report() {
    let mut process = Process::start(&program(&slow(3600.0)));
    process.hear("ready");
    process.signal(Signal::INT);
    process.hear("start slow");
    let from = Instant::now();
    process.signal(Signal::INT);
    let end = process.end(from);
    assert_eq!((end.code, &*end.said), (Some(130), &["ready", "start slow"].map(String::from)[..]));
    assert!(end.after < SOON, "{end:?}");
    let report = "shutdown of child (SIGINT): forced exit (SIGINT again) after ";
    assert!(end.errors.contains(report), "{end:?}");
    for line in ["exit code 130\n", "  callback slow: running", "  callback next: skipped\n"] {
        assert!(end.errors.contains(line), "{line:?} {end:?}");
    }
}

#[test]
fn many_sigints_at_once_end_it_with_130() {
    let mut process = Process::start(&program(&slow(3600.0)));
    process.hear("ready");
    let end = hammer(process);
    assert_eq!(end.code, Some(130), "{end:?}");
    assert!(end.after < SOON, "{end:?}");
}

/// Sends SIGINT until it has ended: those that are pending together are one, so two may be too few.
fn hammer(mut process: Process) -> End {
    let from = Instant::now();
    while process.is_alive() && from.elapsed() < SOON {
        process.signal(Signal::INT);
        sleep(Duration::from_millis(5));
    }
    process.end(from)
}

#[test]
fn in_a_hurry_the_second_cuts_the_waits_and_the_third_ends_it() {
    let mut program = program(&slow(3600.0));
    program["lame_duck"] = json!(20);
    program["hold"] = json!(true);
    program["on_int"] = json!("hurry");
    program["tell"] = json!(true);
    let mut process = Process::start(&program);
    process.hear("ready");
    let from = Instant::now();
    process.signal(Signal::INT);
    process.hear("lame_duck");
    sleep(2 * SHORT);
    assert!(process.is_alive());
    process.signal(Signal::INT);
    process.hear("start slow");
    assert!(from.elapsed() < SOON, "it has waited for the lame duck");
    process.signal(Signal::INT);
    let end = process.end(from);
    assert_eq!((end.code, &*end.errors), (Some(130), ""), "from within the handler");
    assert!(end.after < SOON, "{end:?}");
}

#[test]
fn a_signal_may_end_it_at_once_or_do_nothing() {
    let mut now = program(&slow(0.0));
    now["on_int"] = json!("exit");
    let mut process = Process::start(&now);
    process.hear("ready");
    process.signal(Signal::INT);
    let end = process.end(Instant::now());
    assert_eq!((end.code, &*end.said), (Some(130), &["ready".to_owned()][..]), "{end:?}");
    assert_eq!(end.errors, "", "from within the handler");

    now["on_int"] = json!("ignore");
    let mut process = Process::start(&now);
    process.hear("ready");
    for _ in 0..3 {
        process.signal(Signal::INT);
        sleep(SHORT);
    }
    assert!(process.is_alive());
    process.signal(Signal::TERM);
    clean(&process.end(Instant::now()));
}

#[test]
fn it_does_not_matter_whether_it_was_ready() {
    for ready in [true, false] {
        let mut program = program(&slow(0.0));
        if ready {
            program["ready"] = json!(true);
        }
        program["lame_duck"] = json!(0.3);
        let mut process = Process::start(&program);
        process.hear("ready");
        let from = Instant::now();
        process.signal(Signal::TERM);
        let end = process.end(from);
        clean(&end);
        assert!(end.after >= 3 * SHORT, "{end:?}");
    }
}

#[test]
fn a_signal_may_come_while_callbacks_are_registered() {
    for _ in 0..5 {
        let mut process = Process::start(&json!({"main": "registers", "callbacks": slow(0.0)}));
        process.hear("ready");
        for _ in 0..5 {
            process.signal(Signal::TERM);
        }
        clean(&process.end(Instant::now()));
    }
}

#[test]
fn a_program_that_is_blocked_ends() {
    let callbacks = json!([
        {"name": "async", "kind": "async_ok"},
        {"name": "blocking", "kind": "ok"},
        {"name": "hangs", "kind": "ok", "duration": 3600},
    ]);
    let mut blocked = program(&callbacks);
    blocked["main"] = json!("blocked");
    let mut process = Process::start(&blocked);
    process.hear("ready");
    process.signal(Signal::INT);
    // Although no worker takes it up.
    process.hear("end async");
    process.hear("start hangs");
    let from = Instant::now();
    process.signal(Signal::INT);
    let end = process.end(from);
    assert_eq!(end.code, Some(130), "{end:?}");
    println!("blocked: left {:?} after the second signal", end.after);
    // Without a report that nobody reads it would be a few milliseconds. Others use this machine.
    assert!(end.after < Duration::from_secs(1), "{end:?}");

    // Both at once.
    let mut process = Process::start(&blocked);
    process.hear("ready");
    let end = hammer(process);
    assert_eq!(end.code, Some(130), "{end:?}");
    assert!(end.after < Duration::from_secs(1), "{end:?}");
}

#[test]
fn after_uninstall_signals_do_what_they_did() {
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2)] {
        let mut process = Process::start(&json!({"main": "uninstalled", "callbacks": slow(0.0)}));
        process.hear("ready");
        process.signal(signal);
        if signal == Signal::INT && sigint_is_ignored() {
            // The tests run in the background of a script, and what they start inherits that.
            sleep(2 * SHORT);
            assert!(process.is_alive());
            continue;
        }
        let end = process.end(Instant::now());
        assert_eq!((end.signal, &*end.said), (Some(number), &["ready".to_owned()][..]), "{end:?}");
    }
    for main in ["reinstalled", "one_of_two"] {
        let mut process = Process::start(&json!({"main": main, "callbacks": slow(0.0)}));
        process.hear("ready");
        process.signal(Signal::TERM);
        clean(&process.end(Instant::now()));
    }
}

fn sigint_is_ignored() -> bool {
    // Not on every system; then they are not started that way.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0");
    u64::from_str_radix(mask.trim(), 16).unwrap() & 0b10 != 0
}

#[test]
fn what_was_ignored_is_ignored_after_uninstall() {
    // The shell ignores it for those that it starts.
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap "" INT; exec "$0" "$@""#]).arg(std::env::current_exe().unwrap());
    Process::prepare(&mut command, &json!({"main": "uninstalled", "callbacks": []}));
    let mut process = Process::of(command.spawn().unwrap());
    process.hear("ready");
    process.signal(Signal::INT);
    sleep(2 * SHORT);
    assert!(process.is_alive());
    process.signal(Signal::TERM);
    assert_eq!(process.end(Instant::now()).signal, Some(15));
}

/// The only child of `parent`.
fn child_of(parent: Pid) -> Option<Pid> {
    let parent = parent.as_raw_nonzero();
    let children = format!("/proc/{parent}/task/{parent}/children");
    let children = std::fs::read_to_string(children).ok()?;
    Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
}

#[test]
fn the_first_process_of_a_container_ends_too() {
    let unshare = |command: &mut Command| {
        command.args(["--pid", "--fork", "--mount-proc"]);
    };
    let mut try_it = Command::new("unshare");
    unshare(&mut try_it);
    if !try_it.arg("true").status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: this system does not let us make a process 1");
        return;
    }
    for (main, escalated, expected) in
        [("wait_then_return", false, Some(0)), ("blocked", true, Some(130))]
    {
        let mut program = program(&slow(if escalated { 3600.0 } else { 0.0 }));
        program["main"] = json!(main);
        let mut command = Command::new("unshare");
        unshare(&mut command);
        command.arg(std::env::current_exe().unwrap());
        Process::prepare(&mut command, &program);
        let mut process = Process::of(command.spawn().unwrap());
        process.hear("ready");
        let first = child_of(process.pid()).expect("unshare has a child");
        process.redirect(first);
        let status = std::fs::read_to_string(format!("/proc/{}/status", first.as_raw_nonzero()));
        let is_first = |line: &str| line.starts_with("NSpid:") && line.ends_with("\t1");
        assert!(status.unwrap().lines().any(is_first), "it is not process 1");
        let from = Instant::now();
        if escalated {
            process.signal(Signal::INT);
            process.hear("start slow");
            process.signal(Signal::INT);
        } else {
            process.signal(Signal::TERM);
        }
        let end = process.end(from);
        assert_eq!(end.code, expected, "{end:?}");
        assert!(end.after < SOON, "{end:?}");
    }
}

#[test]
fn without_handlers_the_first_process_of_a_container_ignores_sigterm() {
    // The control: what makes the test above fail.
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]);
    if !Command::new("unshare")
        .args(["--pid", "--fork", "true"])
        .status()
        .is_ok_and(|status| status.success())
    {
        println!("SKIPPED: this system does not let us make a process 1");
        return;
    }
    command.arg(std::env::current_exe().unwrap());
    let program = json!({"main": "not_installed_loop", "callbacks": []});
    Process::prepare(&mut command, &program);
    let mut process = Process::of(command.spawn().unwrap());
    process.hear("ready");
    let first = child_of(process.pid()).unwrap();
    process.redirect(first);
    // A signal that its main thread has blocked, as it has for a moment when it starts another one, goes
    // to that, and there it is not ignored.
    let blocks_nothing =
        |line: &str| line.starts_with("SigBlk:") && line.ends_with("\t0000000000000000");
    let status = format!("/proc/{}/status", first.as_raw_nonzero());
    let from = Instant::now();
    while !std::fs::read_to_string(&status).unwrap().lines().any(blocks_nothing) {
        assert!(from.elapsed() < SOON, "it blocks signals for ever");
        sleep(Duration::from_millis(1));
    }
    process.signal(Signal::TERM);
    sleep(3 * SHORT);
    assert!(process.is_alive(), "{:?}", process.end(Instant::now()));
    process.signal(Signal::KILL);
    process.end(Instant::now());
}
