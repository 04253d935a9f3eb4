//! The process ends at the deadline, whatever hangs.

use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::process::{End, Process};
use super::sleep;

/// What a shutdown may take here.
const TOTAL: f64 = 2.0;
/// Beyond it. Others use this machine.
const SLACK: Duration = Duration::from_millis(1500);

fn at_the_deadline(end: &End, code: i32) {
    assert_eq!(end.code, Some(code), "{end:?}");
    let total = super::seconds(TOTAL);
    assert!(end.after >= total - Duration::from_millis(50) && end.after < total + SLACK, "{end:?}");
}

fn run(program: &Value) -> End {
    let mut process = Process::start(program);
    process.hear("ready");
    let from = Instant::now();
    process.signal(Signal::TERM);
    process.end(from)
}

#[test]
fn what_hangs_holds_neither_the_next_nor_the_exit() {
    let end = run(&json!({
        "main": "wait_then_return", "timeout": 20, "force_exit_code": 9,
        "callbacks": [
            {"name": "hangs", "kind": "ok", "duration": 3600, "timeout": 0.1},
            {"name": "pending", "kind": "async_pending", "timeout": 0.1},
            {"name": "blocks", "kind": "async_block", "timeout": 0.1},
            {"name": "panics", "kind": "sys_exit"},
            {"name": "fails", "kind": "async_raise"},
            {"name": "next", "kind": "ok"},
        ],
    }));
    let said = ["start hangs", "start pending", "start blocks", "start panics", "start fails"];
    assert_eq!(end.said[1..6], said.map(String::from), "{end:?}");
    assert_eq!(end.said[6..], ["start next", "end next", "main done"].map(String::from), "{end:?}");
    assert_eq!(end.code, Some(9), "{end:?}");
    assert!(end.after < Duration::from_secs(10), "{end:?}");
}

#[test]
fn without_a_limit_of_its_own_what_hangs_leaves_some_time() {
    let check = |kind| {
        let end = run(&json!({
            "main": "wait_then_return", "timeout": 6, "callbacks": [
                {"name": "hangs", "kind": kind, "duration": 3600}, {"name": "next", "kind": "ok"},
            ],
        }));
        assert_eq!(end.said.last().map(|said| &**said), Some("main done"), "{kind} {end:?}");
        assert!(end.said.contains(&"end next".to_owned()), "{kind} {end:?}");
        assert_eq!(end.code, Some(124), "{end:?}");
    };
    std::thread::scope(|scope| {
        for kind in ["ok", "async_pending", "async_block"] {
            scope.spawn(move || check(kind));
        }
    });
}

#[test]
fn a_main_that_does_not_return_is_ended_with_the_report() {
    let end = run(&json!({
        "main": "loop_for_ever", "timeout": TOTAL, "force_exit_code": 7,
        "callbacks": [{"name": "a", "kind": "ok"}],
    }));
    at_the_deadline(&end, 7);
    assert_eq!(end.said, ["ready", "start a", "end a"], "{end:?}");
    for line in [
        "shutdown of child (SIGTERM): forced exit (deadline) after ",
        "exit code 7\n",
        "\n  draining took ",
        "\n  callback a: ok after ",
    ] {
        assert!(end.errors.contains(line), "{line:?} {end:?}");
    }
}

#[test]
fn a_hold_that_is_not_given_back_is_named() {
    let end = run(&json!({
        "main": "wait_then_return", "timeout": TOTAL, "hold": true,
        "callbacks": [{"name": "a", "kind": "ok"}],
    }));
    assert_eq!(end.code, Some(124), "{end:?}");
    assert_eq!(end.said, ["ready", "start a", "end a", "main done"], "the callbacks have a third");
    assert!(end.after >= super::seconds(TOTAL * 0.6), "{end:?}");
}

#[test]
fn a_runtime_that_is_blocked_is_ended() {
    let end = run(&json!({
        "main": "blocked", "timeout": TOTAL, "callbacks": [{"name": "a", "kind": "async_ok"}],
    }));
    at_the_deadline(&end, 124);
    assert_eq!(end.said, ["ready", "start a", "end a"], "{end:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_that_gets_no_more_threads_cleans_up_and_ends() {
    let end = run(&json!({
        "main": "no_threads", "timeout": TOTAL, "callbacks": [
            {"name": "a", "kind": "ok"}, {"name": "b", "kind": "async_ok"},
            {"name": "hangs", "kind": "ok", "duration": 3600},
        ],
    }));
    at_the_deadline(&end, 124);
    assert_eq!(end.said[1..], ["start a", "end a", "start b", "end b", "start hangs"], "{end:?}");
}

#[test]
fn a_blocking_task_does_not_hold_the_exit_beyond_the_deadline() {
    let mut program = json!({
        "main": "spawn_blocking", "timeout": TOTAL, "callbacks": [{"name": "a", "kind": "async_ok"}],
    });
    let end = run(&program);
    at_the_deadline(&end, 124);
    assert_eq!(end.said, ["ready", "start a", "end a", "main returns"], "{end:?}");

    // Nor at all, for those who leave by the report.
    program["timeout"] = json!(25);
    program["exit"] = json!(true);
    let end = run(&program);
    assert_eq!(end.code, Some(0), "{end:?}");
    assert!(end.after < Duration::from_secs(5), "{end:?}");
}

#[test]
fn a_standard_error_that_nobody_reads_does_not_hold_the_exit() {
    let (kept, full) = std::io::pipe().unwrap();
    fill(&full);
    let program = json!({"main": "loop_for_ever", "timeout": TOTAL, "callbacks": []});
    let mut command = Process::command(&program);
    command.stderr(Stdio::from(OwnedFd::from(full)));
    let mut process = Process::of(command.spawn().unwrap());
    process.hear("ready");
    let from = Instant::now();
    process.signal(Signal::TERM);
    at_the_deadline(&process.end(from), 124);
    drop(kept);
}

/// Leaves no room in a pipe.
fn fill(pipe: &std::io::PipeWriter) {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let flags = fcntl_getfl(pipe).unwrap();
    fcntl_setfl(pipe, flags | OFlags::NONBLOCK).unwrap();
    while rustix::io::write(pipe, &[0; 4096]).is_ok() {}
    fcntl_setfl(pipe, flags).unwrap();
}

#[test]
fn a_trigger_ends_the_process_only_if_asked_to() {
    let mut program = json!({
        "main": "triggers", "timeout": TOTAL, "callbacks": [{"name": "a", "kind": "ok"}],
    });
    let mut process = Process::start(&program);
    process.hear("triggered");
    sleep(super::seconds(TOTAL) + Duration::from_millis(300));
    assert!(process.is_alive());
    process.signal(Signal::KILL);
    assert_eq!(process.end(Instant::now()).code, None);

    program["exit_at_deadline"] = json!(true);
    let mut process = Process::start(&program);
    process.hear("ready");
    let from = Instant::now();
    let end = process.end(from);
    at_the_deadline(&end, 124);
    assert!(end.said.contains(&"triggered".to_owned()), "{end:?}");
}

#[test]
fn a_signal_after_a_trigger_does_not_move_the_deadline_but_it_holds_then() {
    let total = TOTAL + 2.0;
    let mut process = Process::start(&json!({
        "main": "triggers", "timeout": total, "install": true,
        "callbacks": [{"name": "a", "kind": "ok"}],
    }));
    process.hear("ready");
    let from = Instant::now();
    process.hear("triggered");
    // Were it moved, it would be beyond the slack.
    sleep(super::seconds(TOTAL).saturating_sub(from.elapsed()));
    process.signal(Signal::TERM);
    let mut end = process.end(from);
    end.after = end.after.saturating_sub(super::seconds(2.0));
    at_the_deadline(&end, 124);
    assert_eq!(end.said, ["ready", "start a", "end a", "triggered"], "{end:?}");
}

#[test]
fn a_panic_of_the_work_does_not_skip_the_cleanup() {
    let mut process = Process::start(&json!({
        "main": "async_run_raises", "callbacks": [
            {"name": "a", "kind": "ok"}, {"name": "b", "kind": "async_ok", "duration": 0.01},
        ],
    }));
    process.hear("ready");
    let end = process.end(Instant::now());
    assert_eq!(end.said, ["ready", "start a", "end a", "start b", "end b"], "{end:?}");
    assert_eq!(end.code, Some(101), "{end:?}");
}
