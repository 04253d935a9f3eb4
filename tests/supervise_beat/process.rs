//! Other processes: killed, stopped, gone on with, ended.

use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use buttress::supervise::{
    heartbeat::{Heartbeat, HeartbeatVerdict},
    watchdog::{FreezeCause, Watchdog},
};
use rustix::process::Signal;
use tokio::time::Instant;

use super::child::Process;
use super::{LONG, Scratch, ms, quiet, rest};

const MAX_AGE: Duration = Duration::from_secs(30);

#[test]
fn a_killed_process_is_dead_and_an_ended_one_has_stopped() {
    let _quiet = quiet();
    let scratch = Scratch::new();
    let mut first = Process::start("beat", &scratch.beat());
    assert_eq!(first.hear(), "started");
    assert!(Heartbeat::is_alive(scratch.beat(), MAX_AGE));
    let own = Heartbeat::builder("second").file(scratch.beat()).build().unwrap();
    let refused = own.start().unwrap_err().to_string();
    assert!(refused.contains(&format!("process {}", first.id())), "{refused}");
    first.signal(Signal::KILL);
    first.wait();
    assert_eq!(Heartbeat::verdict(scratch.beat(), MAX_AGE), HeartbeatVerdict::DeadPid);
    // Its claim has gone with it.
    let mut second = Process::start("beat", &scratch.beat());
    assert_eq!(second.hear(), "started");
    assert!(Heartbeat::is_alive(scratch.beat(), MAX_AGE));
    second.end();
    assert!(second.wait().success());
    assert_eq!(Heartbeat::verdict(scratch.beat(), MAX_AGE), HeartbeatVerdict::Stopped);
}

/// What a watchdog tells of a file, and when.
fn watched(
    scratch: &Scratch,
    max_age: Duration,
    check: Duration,
) -> (Watchdog, Receiver<(String, Instant)>) {
    let (told, heard) = mpsc::channel();
    let recovered = told.clone();
    let dog = Watchdog::from_state_file("child", scratch.beat())
        .max_age(max_age)
        .check_interval(check)
        .on_timeout(move |freeze| {
            told.send((freeze.cause.as_str().to_owned(), Instant::now())).unwrap();
        })
        .on_recovered(move |_| recovered.send(("recovered".to_owned(), Instant::now())).unwrap())
        .build()
        .unwrap();
    dog.start().unwrap();
    (dog, heard)
}

#[test]
fn death_is_told_at_once_whatever_the_interval() {
    let _quiet = quiet();
    let scratch = Scratch::new();
    let mut child = Process::start("beat", &scratch.beat());
    assert_eq!(child.hear(), "started");
    let (dog, heard) = watched(&scratch, Duration::from_secs(60), Duration::from_secs(30));
    // It has looked once, and sleeps for half a minute.
    rest(ms(500));
    let killed = Instant::now();
    child.signal(Signal::KILL);
    let (cause, at) = heard.recv_timeout(LONG).unwrap();
    assert_eq!(cause, FreezeCause::Dead.as_str());
    assert!(at - killed < Duration::from_secs(5), "{:?}", at - killed);
    drop(child);
    // The next one: a new beat ends it.
    let mut child = Process::start("beat", &scratch.beat());
    assert_eq!(child.hear(), "started");
    drop(dog);
    let (dog, heard) = watched(&scratch, Duration::from_secs(3), ms(100));
    child.end();
    assert!(child.wait().success());
    rest(Duration::from_secs(4));
    assert!(heard.try_recv().is_err(), "a clean stop is no freeze");
    assert!(!dog.is_triggered());
}

#[test]
fn a_stopped_process_is_told_apart_and_goes_on() {
    let _quiet = quiet();
    let scratch = Scratch::new();
    let mut child = Process::start("beat", &scratch.beat());
    assert_eq!(child.hear(), "started");
    let (_dog, heard) = watched(&scratch, Duration::from_secs(3), ms(100));
    rest(Duration::from_secs(4));
    assert!(heard.try_recv().is_err(), "it beats");
    let stopped = Instant::now();
    child.signal(Signal::STOP);
    let (cause, at) = heard.recv_timeout(LONG).unwrap();
    assert_eq!(cause, FreezeCause::Stopped.as_str());
    // A beat may have come just before, or a second before.
    let after = at - stopped;
    assert!(after > ms(1900) && after < ms(4500), "{after:?}");
    child.signal(Signal::CONT);
    assert_eq!(heard.recv_timeout(LONG).unwrap().0, "recovered");
}

#[test]
fn a_whole_process_that_is_stopped_again_and_again_has_no_false_alarm() {
    let _quiet = quiet();
    let rounds = std::env::var("BUTTRESS_STOPS").map_or(40, |text| text.parse().unwrap());
    let scratch = Scratch::new();
    let mut child = Process::start("watch", &scratch.beat());
    assert_eq!(child.hear(), "started");
    for round in 0..rounds {
        child.signal(Signal::STOP);
        // Now and then for longer than every timeout in it, else around its check interval.
        rest(if round % 5 == 0 { ms(1600) } else { ms(37 * (round % 13)) });
        child.signal(Signal::CONT);
        rest(ms(11 * (round % 7)));
    }
    child.end();
    let said = child.hear();
    assert!(said.starts_with("alarms 0 "), "{said}");
    // The proof that it was stopped where it mattered.
    let gaps: u64 = said.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(gaps >= rounds / 5, "{said}");
}

#[test]
fn a_freeze_that_does_not_end_ends_the_process_if_told_to() {
    let _quiet = quiet();
    use std::os::unix::process::ExitStatusExt;
    let scratch = Scratch::new();
    let mut child = Process::start("freeze", &scratch.beat());
    assert_eq!(child.hear(), "started");
    let status = child.wait();
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
    let text = child.stderr();
    assert!(text.contains("aborting; threads:"), "{text}");
    assert!(text.contains("tokio-r"), "{text}");
}

#[test]
fn neither_a_standard_error_that_nobody_reads_nor_an_observer_that_hangs_holds_the_abort() {
    let _quiet = quiet();
    use std::os::unix::process::ExitStatusExt;
    let roles =
        ["freeze without a reader", "freeze with a full pipe", "freeze, and who hears of it hangs"];
    for role in roles {
        let scratch = Scratch::new();
        let mut child = Process::start(role, &scratch.beat());
        if role == "freeze without a reader" {
            child.close_stderr();
        }
        assert_eq!(child.hear(), "started");
        let status = child.wait();
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{role}");
    }
}
