//! The ladder, the order, the deadline.

use std::time::Duration;

use buttress::supervise::{
    Lifecycle, Phase,
    process::{Child, ChildState, Exit, ProcessSupervisor, SupervisorEnd},
};
use rustix::process::Signal;
use tokio::time::Instant;

use super::{Events, LONG, ended, pid, runs, send, shell, sleeper, state, status, within};

fn started(child: Child) -> ProcessSupervisor {
    let supervisor = ProcessSupervisor::builder("a").child(child).build().unwrap();
    supervisor.start().unwrap();
    assert!(supervisor.ready_blocking(LONG));
    supervisor
}

/// Ignores SIGTERM, and says so by a file.
fn stubborn(name: &'static str, scratch: &super::Scratch) -> Child {
    let told = scratch.path(name);
    let script = format!("trap '' TERM; : > {}; exec sleep 1000", told.display());
    shell(name, &script).ready_when(move |_| told.exists()).probe_every(Duration::from_millis(10))
}

fn signal(number: i32) -> Option<Exit> {
    Some(Exit::Signal { number, core_dumped: false })
}

#[test]
fn one_that_is_stopped_ends_by_the_first_signal() {
    let supervisor = started(sleeper("a").grace(LONG));
    let child = pid(&supervisor, "a");
    send(child, Signal::STOP);
    within(LONG, "it is stopped", || state(child) == 'T');
    let report = supervisor.stop_blocking(None);
    assert_eq!((report.end, report.stats.kills), (SupervisorEnd::Stopped, 0));
    assert_eq!(status(&supervisor, "a").last_exit, signal(15));
}

#[test]
fn one_that_ignores_the_signal_is_killed_after_its_grace() {
    let scratch = super::Scratch::new();
    let supervisor = started(stubborn("a", &scratch).grace(Duration::from_millis(400)));
    let child = pid(&supervisor, "a");
    let start = Instant::now();
    supervisor.request_stop(None);
    within(LONG, "it is asked", || status(&supervisor, "a").state == ChildState::Stopping);
    assert!(runs(child));
    let report = supervisor.stop_blocking(None);
    assert!(start.elapsed() >= Duration::from_millis(400));
    assert_eq!((report.stats.kills, report.unkillable), (1, vec![]));
    assert_eq!(status(&supervisor, "a").last_exit, signal(9));
    assert!(!runs(child));
}

#[test]
fn the_signal_is_the_one_that_was_chosen() {
    let scratch = super::Scratch::new();
    let told = scratch.path("told");
    let script =
        format!("trap 'exit 42' QUIT; : > {}; while :; do sleep 0.05; done", told.display());
    let child = shell("a", &script)
        .ready_when(move |_| told.exists())
        .stop_signal(libc::SIGQUIT)
        .grace(LONG);
    let supervisor = started(child);
    supervisor.stop_blocking(None);
    assert_eq!(status(&supervisor, "a").last_exit, Some(Exit::Code(42)));
}

#[test]
fn all_stop_in_the_reverse_of_the_order_they_started_in() {
    let events = Events::default();
    let names = ["a", "b", "c", "d", "e"];
    let builder = ProcessSupervisor::builder("a").observe(events.observer());
    // Those that start first end quickly, those that start last take their time.
    let children = names.iter().enumerate().map(|(index, name)| {
        let script = format!("trap 'sleep 0.{index}; exit 0' TERM; while :; do sleep 0.02; done");
        shell(name, &script)
    });
    let supervisor = children.fold(builder, |all, child| all.child(child)).build().unwrap();
    supervisor.start().unwrap();
    assert!(supervisor.ready_blocking(LONG));
    within(LONG, "all are told", || events.of("child_ready").len() == 5);
    assert_eq!(events.of("child_ready"), names);
    supervisor.stop_blocking(None);
    within(LONG, "all are told", || events.of("child_exited").len() == 5);
    assert_eq!(events.of("child_exited"), ["e", "d", "c", "b", "a"]);
}

#[test]
fn those_that_stop_together_need_the_time_of_one() {
    let scratch = super::Scratch::new();
    let grace = Duration::from_millis(500);
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let builder = ProcessSupervisor::builder("a").stop_together();
    let children = names.iter().map(|name| stubborn(name, &scratch).grace(grace));
    let supervisor = children.fold(builder, |all, child| all.child(child)).build().unwrap();
    supervisor.start().unwrap();
    assert!(supervisor.ready_blocking(LONG));
    let start = Instant::now();
    let report = supervisor.stop_blocking(None);
    assert_eq!(report.stats.kills, 8);
    assert!(start.elapsed() < grace * 7, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_drain_is_held_until_the_children_are_gone() {
    let life = Lifecycle::new();
    let supervisor = ProcessSupervisor::builder("workers")
        .child(shell("a", "trap 'sleep 0.3; exit 0' TERM; while :; do sleep 0.02; done"))
        .lifecycle(&life, Phase::Draining)
        .build()
        .unwrap();
    supervisor.start().unwrap();
    assert!(supervisor.ready().await);
    assert_eq!(life.held_by(), ["workers".into()]);
    let child = pid(&supervisor, "a");
    life.advance(Phase::LameDuck, None);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(runs(child), "not yet");
    life.advance(Phase::Draining, None);
    life.released().await;
    assert!(!runs(child));
    assert_eq!(supervisor.wait().await.end, SupervisorEnd::Stopped);
}

#[test]
fn a_drain_with_a_deadline_kills_those_that_would_miss_it() {
    let scratch = super::Scratch::new();
    let life = Lifecycle::new();
    let supervisor = ProcessSupervisor::builder("workers")
        .child(stubborn("a", &scratch).grace(LONG))
        .child(stubborn("b", &scratch).grace(LONG))
        .lifecycle(&life, Phase::Draining)
        .build()
        .unwrap();
    supervisor.start().unwrap();
    assert!(supervisor.ready_blocking(LONG));
    let start = Instant::now();
    life.advance(Phase::Draining, Some(start + Duration::from_secs(5)));
    assert!(life.released_blocking(LONG));
    let took = start.elapsed();
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(supervisor.stats().kills, 2);
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    let field = |child: Child| {
        ProcessSupervisor::builder("a").child(child).build().unwrap_err().field().to_owned()
    };
    assert_eq!(field(Child::new("a", "")), "a.program");
    assert_eq!(field(sleeper("a").arg("a\0b")), "a.args");
    assert_eq!(field(sleeper("a").env("A=B", "c")), "a.env");
    assert_eq!(field(sleeper("a").stop_signal(999)), "a.stop_signal");
    assert_eq!(field(sleeper("a").parent_death_signal(Some(0))), "a.parent_death_signal");
    assert_eq!(field(sleeper("a").grace(Duration::MAX)), "a.grace");
    assert_eq!(field(sleeper("a").kill_wait(Duration::ZERO)), "a.kill_wait");
    assert_eq!(field(sleeper("a").success_codes([256])), "a.success_codes");
    assert_eq!(field(sleeper("a").heartbeat("/x", Duration::from_millis(250))), "a.heartbeat");
    let backoff = buttress::Backoff::constant(LONG).factor(0.5);
    assert_eq!(field(sleeper("a").backoff(backoff)), "a.backoff.factor");
    let twice = ProcessSupervisor::builder("a").child(sleeper("a")).child(sleeper("a")).build();
    assert_eq!(twice.unwrap_err().field(), "children");
    let life = Lifecycle::new();
    let at = |at| ProcessSupervisor::builder("a").child(sleeper("a")).lifecycle(&life, at).build();
    assert_eq!(at(Phase::Ready).unwrap_err().field(), "lifecycle");
    assert!(at(Phase::Cleanup).is_ok());
}

/// A log may hang; the children are looked after, and stopped, even so.
#[test]
fn an_observer_that_hangs_holds_up_nothing() {
    let (release, hangs) = std::sync::mpsc::channel::<()>();
    let hangs = std::sync::Mutex::new(hangs);
    let supervisor = ProcessSupervisor::builder("a")
        .child(sleeper("a"))
        .observe(move |_: &buttress::observe::Event<'_>| {
            let _ = hangs.lock().unwrap().recv();
        })
        .build()
        .unwrap();
    supervisor.start().unwrap();
    assert!(supervisor.ready_blocking(LONG));
    supervisor.request_stop(None);
    assert_eq!(ended(&supervisor).end, SupervisorEnd::Stopped);
    drop(release);
}
