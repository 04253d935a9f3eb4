//! Children that are frozen.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use buttress::Backoff;
use buttress::supervise::{
    heartbeat::Heartbeat,
    process::{
        Child, ChildProcess, ChildState, Exit, Liveness, ProcessSupervisor, Restart, SupervisorEnd,
    },
};
use rustix::process::Signal;

use super::child::{own_child, stay};
use super::{Events, LONG, Scratch, pause, pid, send, shell, sleeper, state, status, within};

pub(super) fn beats(file: &str) {
    let heartbeat =
        Heartbeat::builder("child").file(file).interval(Duration::from_secs(1)).build().unwrap();
    heartbeat.start().unwrap();
    stay();
}

#[cfg(target_os = "linux")]
#[test]
fn one_that_stops_beating_is_restarted_and_one_that_beats_is_not() {
    let scratch = Scratch::new();
    let child = |name, file: &str| {
        let path = scratch.path(file);
        own_child(name, "beats", path.to_str().unwrap())
            .heartbeat(&path, Duration::from_secs(3))
            .probe_every(Duration::from_millis(50))
            .grace(Duration::from_millis(500))
            .backoff(Backoff::none())
    };
    let events = Events::default();
    let supervisor = ProcessSupervisor::builder(super::unique("beats"))
        .child(child("a", "a.json"))
        .child(child("b", "b.json"))
        .observe(events.observer())
        .build()
        .unwrap();
    supervisor.start().unwrap();
    assert!(supervisor.ready_blocking(LONG));
    let (first, other) = (pid(&supervisor, "a"), pid(&supervisor, "b"));
    pause(Duration::from_secs(4));
    assert_eq!((pid(&supervisor, "a"), supervisor.stats().freezes), (first, 0));

    send(first, Signal::STOP);
    within(LONG, "a new one is up", || {
        let status = status(&supervisor, "a");
        status.runs == 2 && matches!(status.state, ChildState::Up { .. })
    });
    assert_eq!(status(&supervisor, "a").last_exit, Some(Exit::Frozen));
    // Stopped, it took the SIGTERM when it was told to go on.
    assert_eq!((supervisor.stats().freezes, supervisor.stats().kills), (1, 0));
    assert_eq!(pid(&supervisor, "b"), other);
    supervisor.stop_blocking(None);
    within(LONG, "all is told", || !events.of("stopped").is_empty());
    assert_eq!(events.of("child_frozen"), ["a"]);
}

#[test]
fn the_file_of_an_earlier_run_makes_nobody_ready() {
    let scratch = Scratch::new();
    let file = scratch.path("beat.json");
    let heartbeat = Heartbeat::builder("us").file(&file).build().unwrap();
    heartbeat.beat().unwrap();
    let child = sleeper("a")
        .heartbeat(&file, Duration::from_secs(5))
        .probe_every(Duration::from_millis(10))
        .ready_within(Duration::from_millis(300))
        .restart(Restart::Temporary);
    let supervisor = ProcessSupervisor::builder("a").child(child).build().unwrap();
    supervisor.start().unwrap();
    let report = super::ended(&supervisor);
    assert_eq!(status(&supervisor, "a").last_exit, Some(Exit::StartTimeout));
    assert_eq!(report.stats.start_timeouts, 1);
}

#[test]
fn a_closure_may_judge_and_one_panic_does_not() {
    let scratch = Scratch::new();
    let (ill, asked) = (scratch.path("ill"), scratch.path("asked"));
    let seen = ill.clone();
    let child = shell("a", "exec sleep 1000")
        .ready_when(move |_| {
            let first = !asked.exists();
            std::fs::write(&asked, "").unwrap();
            assert!(!first, "a question that panics");
            true
        })
        .alive_when(move |process| {
            assert_ne!(process.pid, 0);
            if process.run == 1 && seen.exists() { Liveness::Frozen } else { Liveness::Alive }
        })
        .probe_every(Duration::from_millis(20))
        .backoff(Backoff::none());
    let supervisor = ProcessSupervisor::builder("a").child(child).build().unwrap();
    supervisor.start().unwrap();
    assert!(supervisor.ready_blocking(LONG));
    pause(Duration::from_millis(200));
    assert_eq!(supervisor.stats().freezes, 0);
    std::fs::write(&ill, "").unwrap();
    within(LONG, "it is restarted", || status(&supervisor, "a").runs == 2);
    pause(Duration::from_millis(200));
    assert_eq!(supervisor.stats().freezes, 1);
    assert_ne!(state(pid(&supervisor, "a")), 'Z');
    supervisor.stop_blocking(None);
}

/// A question that is never answered is the fault of one child. Those about others are asked, and answered in time.
#[test]
fn a_question_that_hangs_is_about_one_child() {
    let hang = |_: &ChildProcess| {
        pause(LONG * 10);
        Liveness::Alive
    };
    let hangs = sleeper("hangs").alive_when(hang).probe_timeout(Duration::from_millis(300));
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let well = sleeper("well")
        .ready_when(|_| true)
        .ready_within(Duration::from_secs(10))
        .alive_when(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Liveness::Alive
        })
        .probe_every(Duration::from_millis(10));
    let supervisor = ProcessSupervisor::builder("a")
        .child(hangs.restart(Restart::Temporary).grace(Duration::ZERO))
        .child(well)
        .build()
        .unwrap();
    supervisor.start().unwrap();
    assert!(supervisor.ready_blocking(LONG));
    within(LONG, "the other one is asked", || asked.load(Ordering::SeqCst) > 10);
    let last = || status(&supervisor, "hangs").last_exit;
    within(LONG, "it is found frozen", || last() == Some(Exit::Frozen));
    let before = asked.load(Ordering::SeqCst);
    within(LONG, "the other one is asked", || asked.load(Ordering::SeqCst) > before + 10);
    assert_eq!((status(&supervisor, "well").runs, supervisor.stats().freezes), (1, 1));
    assert_eq!(supervisor.stats().start_timeouts, 0);
    supervisor.stop_blocking(None);
}

/// A child whose question about the first run hangs until the sender is dropped, and how often it was asked.
fn hangs_in_the_first_question() -> (Child, mpsc::Sender<()>, Arc<AtomicU32>) {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let ready = move |_: &ChildProcess| {
        count.fetch_add(1, Ordering::SeqCst);
        let _ = held.lock().unwrap().recv();
        true
    };
    let child = sleeper("a").ready_when(ready).probe_timeout(Duration::from_millis(50));
    (child.grace(Duration::ZERO).backoff(Backoff::none()), release, asked)
}

/// There would be a thread for each run in the end, each in the question about that run. Nor is a child blamed at once
/// for what nobody could ask.
#[test]
fn while_a_question_hangs_no_other_is_put() {
    let (hangs, release, asked) = hangs_in_the_first_question();
    let hangs = hangs.ready_within(Duration::from_secs(5));
    let events = Events::default();
    let supervisor =
        ProcessSupervisor::builder("a").child(hangs).observe(events.observer()).build().unwrap();
    supervisor.start().unwrap();
    within(LONG, "it is told", || !events.of("child_not_asked").is_empty());
    pause(Duration::from_millis(500));
    assert_eq!((asked.load(Ordering::SeqCst), status(&supervisor, "a").runs), (1, 2));
    assert_eq!(supervisor.stats().start_timeouts, 1);
    drop(release);
    assert!(supervisor.ready_blocking(LONG));
    assert!(asked.load(Ordering::SeqCst) > 1);
    supervisor.stop_blocking(None);
    within(LONG, "all is told", || !events.of("stopped").is_empty());
    assert_eq!(events.of("child_not_asked"), ["a"]);
}

/// All would wait for it for ever, and nobody be told.
#[test]
fn a_question_that_hangs_for_good_is_too_many_restarts_in_the_end() {
    let (hangs, _release, asked) = hangs_in_the_first_question();
    let supervisor = ProcessSupervisor::builder("a")
        .child(hangs.ready_within(Duration::from_millis(100)))
        .child(sleeper("b"))
        .intensity(3, Duration::from_secs(3600))
        .build()
        .unwrap();
    supervisor.start().unwrap();
    within(LONG, "it is asked", || asked.load(Ordering::SeqCst) == 1);
    let report = super::ended(&supervisor);
    assert!(matches!(report.end, SupervisorEnd::Escalated { .. }), "{:?}", report.end);
    assert_eq!((report.stats.start_timeouts, asked.load(Ordering::SeqCst)), (4, 1));
    assert_eq!(status(&supervisor, "b").runs, 0);
}
