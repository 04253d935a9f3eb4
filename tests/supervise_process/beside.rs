//! Two supervisors in one process leave each other's children alone.

use buttress::supervise::process::{Exit, ProcessSupervisor, Restart, SupervisorEnd};

use super::child::{Process, say};
use super::{LONG, pid, runs, shell, sleeper, status, within};

pub(super) fn neighbours() {
    let reaper = ProcessSupervisor::builder("same").subreaper().child(sleeper("a")).build();
    let reaper = reaper.unwrap();
    let ends = shell("ends", "sleep 3; exit 7").restart(Restart::Temporary);
    let other = ProcessSupervisor::builder("same").child(sleeper("b")).child(ends).build();
    let other = other.unwrap();
    reaper.start().unwrap();
    other.start().unwrap();
    assert!(reaper.ready_blocking(LONG) && other.ready_blocking(LONG));
    within(LONG, "one ends", || status(&other, "ends").last_exit.is_some());
    let kept = status(&other, "ends").last_exit == Some(Exit::Code(7));
    let stays = pid(&other, "b");
    assert_eq!(reaper.stop_blocking(None).end, SupervisorEnd::Stopped);
    let lives = runs(stays);
    assert_eq!(other.stop_blocking(None).end, SupervisorEnd::Stopped);
    say(format_args!("kept {} {}", u8::from(kept), u8::from(lives)));
}

#[cfg(target_os = "linux")]
#[test]
fn a_subreaper_neither_collects_nor_kills_the_children_of_another_supervisor() {
    let mut process = Process::start("neighbours", "");
    assert_eq!(process.numbers("kept"), [1, 1], "the status is kept, the other child lives");
}
