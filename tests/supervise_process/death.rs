//! The supervisor's process dies.

use std::time::Duration;

use buttress::supervise::process::{Lifeline, ProcessSupervisor};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::child::{Process, own_child, say, stay};
use super::{LONG, identity, pause, pid, runs, shell, sleeper, within};

/// Ten children, and one that the kernel is not asked to kill; or only such ones, of several kinds.
pub(super) fn family(app: &str, die_with_us: bool) {
    let mut builder = ProcessSupervisor::builder(app.to_owned()).unlimited_restarts();
    let names: Vec<&'static str> = if die_with_us {
        for name in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"] {
            builder = builder.child(sleeper(name));
        }
        builder = builder.child(sleeper("left").parent_death_signal(None));
        vec!["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "left"]
    } else {
        builder = builder
            .child(sleeper("plain").parent_death_signal(None))
            .child(shell("stubborn", "trap '' TERM; exec sleep 1000").parent_death_signal(None))
            .child(
                shell("parent", "setsid sleep 1001 & exec sleep 1000").parent_death_signal(None),
            );
        vec!["plain", "stubborn", "parent"]
    };
    let supervisor = builder.build().unwrap();
    supervisor.start().unwrap();
    assert!(supervisor.ready_blocking(LONG));
    let pids: Vec<_> = names.iter().map(|name| pid(&supervisor, name).to_string()).collect();
    say(format_args!("children {}", pids.join(" ")));
    stay();
}

#[cfg(target_os = "linux")]
#[test]
fn children_of_a_supervisor_that_is_killed_are_gone_within_a_second() {
    let app = super::unique("family");
    let mut family = Process::start("family", &app);
    let children: Vec<_> = family.numbers("children").into_iter().map(identity).collect();
    assert_eq!(children.len(), 11);
    assert!(children.iter().all(buttress::supervise::ProcessIdentity::is_running));
    family.kill();
    let limit = Duration::from_secs(1);
    within(limit, "all are gone", || !children[..10].iter().any(|child| child.is_running()));
    // The control: without the signal one lives on, and the sweep is what finds it.
    assert!(children[10].is_running());
    let killed = buttress::supervise::process::OrphanSweep::new(app).kill_blocking().unwrap();
    assert_eq!(killed.len(), 1);
    assert_eq!(killed[0].0.process, children[10]);
    assert!(!children[10].is_running());
}

pub(super) fn starts_many(app: &str) {
    let mut builder = ProcessSupervisor::builder(app.to_owned());
    for number in 0..300 {
        let name: &'static str = Box::leak(format!("many {number}").into_boxed_str());
        builder = builder.child(sleeper(name));
    }
    let supervisor = builder.build().unwrap();
    supervisor.start().unwrap();
    say("starting");
    stay();
}

/// Also between the birth of a child and its wish to die with its parent.
#[cfg(target_os = "linux")]
#[test]
fn a_supervisor_that_is_killed_while_it_starts_children_leaves_none() {
    let seed = std::env::var("BUTTRESS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("BUTTRESS_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    for _ in 0..40 {
        let app = super::unique("starting");
        let mut process = Process::start("starts many", &app);
        assert_eq!(process.hear().unwrap(), "starting");
        pause(Duration::from_micros(random.random_range(0..100_000)));
        process.kill();
        let left = || {
            let found = buttress::supervise::process::OrphanSweep::new(app.clone()).find().unwrap();
            found.orphans.len()
        };
        // One that is not yet the program does not show the mark.
        pause(Duration::from_millis(20));
        within(Duration::from_secs(1), "none is left", || left() == 0);
    }
}

pub(super) fn from_a_thread(app: &str) {
    let supervisor =
        ProcessSupervisor::builder(app.to_owned()).child(sleeper("a")).build().unwrap();
    let starter = supervisor.clone();
    std::thread::spawn(move || starter.start().unwrap()).join().unwrap();
    assert!(supervisor.ready_blocking(LONG));
    let child = pid(&supervisor, "a");
    // A child that this thread had started itself would be killed with it.
    pause(Duration::from_millis(500));
    assert_eq!(pid(&supervisor, "a"), child);
    assert!(runs(child));
    say(format_args!("children {child}"));
    stay();
}

#[cfg(target_os = "linux")]
#[test]
fn a_supervisor_that_was_started_by_a_short_lived_thread_keeps_its_children() {
    let mut process = Process::start("from a thread", &super::unique("thread"));
    let child = identity(process.numbers("children")[0]);
    process.kill();
    within(Duration::from_secs(1), "it is gone", || !child.is_running());
}

pub(super) fn holds_a_lifeline(app: &str) {
    let child = own_child("a", "looks at lifeline", "")
        .lifeline()
        .parent_death_signal(None)
        .ready_when(|process| {
            // It has opened the pipe: two descriptors of it.
            let fds = std::fs::read_dir(format!("/proc/{}/fd", process.pid)).unwrap();
            let pipes = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
            let mut pipes: Vec<_> =
                pipes.filter(|link| link.to_string_lossy().starts_with("pipe:")).collect();
            let all = pipes.len();
            pipes.sort();
            pipes.dedup();
            pipes.len() < all
        });
    let supervisor = ProcessSupervisor::builder(app.to_owned()).child(child).build().unwrap();
    supervisor.start().unwrap();
    assert!(supervisor.ready_blocking(LONG));
    say(format_args!("children {}", pid(&supervisor, "a")));
    stay();
}

pub(super) fn looks_at_lifeline() {
    Lifeline::from_env().unwrap().wait_blocking();
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_sees_the_end_of_its_lifeline() {
    let mut process = Process::start("lifeline", &super::unique("lifeline"));
    let child = identity(process.numbers("children")[0]);
    pause(Duration::from_millis(300));
    assert!(child.is_running(), "the line has not ended yet");
    process.kill();
    within(Duration::from_secs(5), "it has ended itself", || !child.is_running());
}
