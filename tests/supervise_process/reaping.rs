//! Children of others in the same process keep their statuses, and no zombie is left.

use buttress::supervise::{
    ProcessStatus,
    process::{ChildStatus, Exit, ProcessSupervisor, Restart, SupervisorEnd},
};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::child::{Process, say};
use super::{LONG, shell, sleeper, within};

pub(super) fn children() -> Vec<u32> {
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
    let count = |wanted: fn(&ChildStatus) -> bool| {
        supervisor.status().iter().filter(|status| wanted(status)).count()
    };
    within(LONG, "those that go have gone", || count(|status| status.pid.is_some()) == 500);
    let gone = count(|status| status.last_exit == Some(Exit::Code(3)));
    let before = zombies();
    let report = supervisor.stop_blocking(None);
    assert_eq!(report.end, SupervisorEnd::Stopped);
    let after = zombies();
    say(format_args!("counts {wrong} {} {gone} {before} {after}", report.stats.starts));
    say(format_args!("left {}", children().len()));
}

#[test]
fn a_thousand_children_leave_no_zombie_and_take_nobodys_status() {
    let mut process = Process::start("thousand", "");
    let counts = process.numbers("counts");
    assert_eq!(counts, [0, 1_000, 500, 0, 0], "wrong, starts, gone, zombies, zombies");
    assert_eq!(process.numbers("left"), [0]);
}

pub(super) fn subreaper() {
    // What each leaves behind: two in sessions of their own, one of which ends soon, and one in its group.
    let script = "setsid sleep 3 & setsid sleep 120 & sleep 0.3; sleep 120 & exit 0";
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
    within(LONG, "those that ended are collected", || collected() >= 100 && zombies() == 0);
    // Those that sleep on are ours by now; so is the supervised one.
    let adopted = children().len() - 1;
    assert_eq!(supervisor.stop_blocking(None).end, SupervisorEnd::Stopped);
    say(format_args!("counts {wrong} {adopted} {} {}", collected(), children().len()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_subreaper_collects_what_is_left_behind_and_takes_nobodys_status() {
    let mut process = Process::start("subreaper", "");
    let counts = process.numbers("counts");
    // One of those in sessions of their own may have been killed before it was in one.
    assert!((1..=50).contains(&counts[1]), "{counts:?}");
    assert_eq!((counts[0], counts[2], counts[3]), (0, 150, 0), "wrong, collected, left");
}
