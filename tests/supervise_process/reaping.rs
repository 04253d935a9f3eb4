//! Children of others in the same process keep their statuses, and no zombie is left.

use std::time::Duration;

use buttress::supervise::{ProcessStatus, ProcessSupervisor, Restart, SupervisorEnd};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::child::{Process, say};
use super::{LONG, ended, pause, shell, sleeper, within};

fn children() -> Vec<u32> {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let lists =
        threads.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    let lists: Vec<_> = lists.collect();
    let pids = lists.iter().flat_map(|list| list.split_ascii_whitespace());
    pids.map(|pid| pid.parse().unwrap()).collect()
}

fn zombies() -> usize {
    let dead = |pid: &u32| ProcessStatus::of(*pid).is_some_and(|status| status.is_dead());
    children().iter().filter(|pid| dead(pid)).count()
}

/// Starts many children as tokio does and waits for them as tokio does. How many statuses were wrong.
async fn foreigners(count: i32) -> usize {
    let mut tasks = JoinSet::new();
    for number in 0..count {
        let code = number % 7;
        let mut child = Command::new("sh").args(["-c", &format!("exit {code}")]).spawn().unwrap();
        tasks.spawn(
            async move { child.wait().await.is_ok_and(|status| status.code() == Some(code)) },
        );
        if number % 16 == 0 {
            tokio::task::yield_now().await;
        }
    }
    tasks.join_all().await.into_iter().filter(|right| !right).count()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub(super) fn thousand() {
    let mut builder = ProcessSupervisor::builder("thousand").stop_together().unlimited_restarts();
    for number in 0..500 {
        let name: &'static str = Box::leak(format!("stays {number}").into_boxed_str());
        builder = builder.child(sleeper(name));
        let name: &'static str = Box::leak(format!("goes {number}").into_boxed_str());
        builder = builder.child(shell(name, "exit 3").restart(Restart::Temporary));
    }
    let supervisor = builder.build().unwrap();
    supervisor.start().unwrap();
    let wrong = runtime().block_on(foreigners(300));
    assert!(supervisor.ready_blocking(LONG * 2));
    let up = supervisor.status().iter().filter(|status| status.pid.is_some()).count();
    let codes = supervisor.status();
    let codes =
        codes.iter().filter(|status| status.last_exit == Some(buttress::supervise::Exit::Code(3)));
    within(LONG, "those that go have gone", || {
        supervisor.status().iter().filter(|status| status.pid.is_some()).count() <= 500
    });
    let (gone, before) = (codes.count(), zombies());
    let report = supervisor.stop_blocking(None);
    assert_eq!(report.end, SupervisorEnd::Stopped);
    let after = zombies();
    say(format_args!(
        "counts {wrong} {} {before} {after} {} {}",
        report.stats.starts,
        up.min(500),
        gone.min(1)
    ));
    say(format_args!("left {}", children().len()));
}

#[test]
fn a_thousand_children_leave_no_zombie_and_take_nobodys_status() {
    let mut process = Process::start("thousand", "");
    let counts = process.numbers("counts");
    assert_eq!(counts, [0, 1_000, 0, 0, 500, 1], "wrong, starts, zombies, zombies, up, any code 3");
    assert_eq!(process.numbers("left"), [0]);
}

pub(super) fn subreaper() {
    // What it leaves behind: in a session of its own, dead soon or not; and a zombie in its group.
    let script = "setsid sleep 0.5 & setsid sleep 1000 & sleep 0.1 & exit 0";
    let mut builder = ProcessSupervisor::builder("reaper").subreaper();
    for number in 0..50 {
        let name: &'static str = Box::leak(format!("leaves {number}").into_boxed_str());
        builder = builder.child(shell(name, script).restart(Restart::Temporary));
    }
    let supervisor = builder.child(sleeper("stays")).build().unwrap();
    supervisor.start().unwrap();
    let wrong = runtime().block_on(foreigners(300));
    assert!(supervisor.ready_blocking(LONG));
    let collected = || supervisor.stats().orphans_collected;
    within(LONG, "those that ended are collected", || collected() >= 50 && zombies() == 0);
    // Those that sleep on are ours by now; the foreign ones and the supervised one are not among them.
    let adopted = children().len() - 1;
    let before = collected();
    supervisor.stop_blocking(None);
    ended(&supervisor);
    pause(Duration::from_millis(50));
    let (after, left) = (collected() - before, children().len());
    say(format_args!("counts {wrong} {adopted} {after} {left}"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_subreaper_collects_what_is_left_behind_and_takes_nobodys_status() {
    let mut process = Process::start("subreaper", "");
    assert_eq!(process.numbers("counts"), [0, 50, 50, 0], "wrong, adopted, collected, left");
}
