//! Restarts of real programs, and how ends are told apart.

use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::Backoff;
use buttress::supervise::{
    ProcessIdentity,
    process::{Child, ChildState, Exit, ProcessSupervisor, Restart, Strategy, SupervisorEnd},
};
use rustix::process::Signal;

use super::child::{Process, own_child, say};
use super::{
    Events, LONG, ended, identity, is_root, pause, pid, runs, send, shell, sleeper, status, within,
};

const SHORT: Backoff = Backoff::constant(Duration::from_millis(10));

fn exit_of(child: Child) -> Exit {
    let supervisor = ProcessSupervisor::builder("exits")
        .child(child.restart(Restart::Temporary))
        .build()
        .unwrap();
    supervisor.start().unwrap();
    assert_eq!(ended(&supervisor).end, SupervisorEnd::Finished);
    supervisor.status()[0].last_exit.unwrap()
}

#[test]
fn a_program_that_always_fails_trips_the_limit_at_exactly_one_more() {
    let events = Events::default();
    let supervisor = ProcessSupervisor::builder("storm")
        .child(sleeper("bystander"))
        .child(Child::new("fails", "false").backoff(SHORT))
        .intensity(5, LONG)
        .observe(events.observer())
        .build()
        .unwrap();
    supervisor.start().unwrap();
    let report = ended(&supervisor);
    let child = "fails".into();
    assert_eq!(report.end, SupervisorEnd::Escalated { child, exit: Exit::Code(1) });
    assert_eq!(status(&supervisor, "fails").runs, 6);
    assert_eq!((report.stats.restarts, report.stats.starts), (5, 7));
    // All are stopped, not only the one that failed.
    assert_eq!(status(&supervisor, "bystander").state, ChildState::Stopped);
    within(LONG, "all is told", || !events.of("stopped").is_empty());
    assert_eq!(events.of("escalated"), ["fails"]);
    assert_eq!(events.of("child_exited").len(), 7);
}

#[test]
fn a_limit_that_the_backoff_keeps_from_being_reached_is_refused() {
    let second = Duration::from_secs(1);
    let build = |restarts, within, backoff| {
        ProcessSupervisor::builder("a")
            .child(sleeper("a").backoff(backoff))
            .intensity(restarts, within)
            .build()
            .map_err(|error| error.field().to_owned())
            .map(drop)
    };
    let constant = Backoff::constant(second);
    assert_eq!(build(5, second * 5, constant), Err("intensity".into()));
    assert_eq!(build(5, second * 5 + Duration::from_nanos(1), constant), Ok(()));
    let growing = Backoff::exponential(second, second * 60).jitter(buttress::Jitter::None);
    assert_eq!(build(5, second * 31, growing), Err("intensity".into()));
    assert_eq!(build(5, second * 32, growing), Ok(()));
    assert_eq!(build(u32::MAX, second, SHORT), Err("intensity".into()));
    assert_eq!(build(0, second, constant), Ok(()));
}

#[test]
fn policies_hold_for_real_programs() {
    for (restart, program, runs) in [
        (Restart::Transient, "true", 1),
        (Restart::Transient, "false", 4),
        (Restart::Temporary, "false", 1),
        (Restart::Permanent, "true", 4),
    ] {
        let child = Child::new("a", program).restart(restart).backoff(SHORT);
        let supervisor =
            ProcessSupervisor::builder("a").child(child).intensity(3, LONG).build().unwrap();
        supervisor.start().unwrap();
        let report = ended(&supervisor);
        let escalated = matches!(report.end, SupervisorEnd::Escalated { .. });
        assert_eq!(
            (supervisor.status()[0].runs, escalated),
            (runs, runs > 1),
            "{restart:?} {program}"
        );
    }
}

#[test]
fn ends_are_told_apart() {
    let signal = |number| Exit::Signal { number, core_dumped: false };
    assert_eq!(exit_of(shell("a", "exit 7")), Exit::Code(7));
    assert_eq!(exit_of(shell("a", "kill -KILL $$")), signal(9));
    assert_eq!(exit_of(shell("a", "ulimit -c 0; kill -SEGV $$")), signal(11));
    let missing = Exit::NotStarted(std::io::ErrorKind::NotFound);
    assert_eq!(exit_of(Child::new("a", "/no/such/program")), missing);
    assert_eq!(exit_of(sleeper("a").current_dir("/no/such/directory")), missing);
    let panics = sleeper("a").prepare(|_| panic!("a closure that panics"));
    assert_eq!(exit_of(panics), Exit::NotStarted(std::io::ErrorKind::Other));
    let never = sleeper("a").ready_when(|_| false).ready_within(Duration::from_millis(100));
    assert_eq!(exit_of(never), Exit::StartTimeout);
}

pub(super) fn hog() {
    let mut all = Vec::new();
    for _ in 0..1024 {
        // Not zero: the kernel would give the same page each time.
        all.push(vec![1_u8; 1024 * 1024]);
    }
    panic!("{} MiB were there", all.len());
}

/// Two lines: what became of one that took more memory than there is, and of one that was just killed.
pub(super) fn in_a_small_group(path: &str) {
    let procs = format!("{path}/cgroup.procs");
    std::fs::write(procs, std::process::id().to_string()).unwrap();
    say(exit_of(own_child("a", "hog", "")).as_str());
    say(exit_of(shell("a", "kill -KILL $$")).as_str());
}

#[cfg(target_os = "linux")]
#[test]
fn a_kill_for_want_of_memory_is_told_from_another() {
    let name = super::unique("buttress");
    let limit = |file: &str| std::fs::write(file, (64 * 1024 * 1024).to_string());
    let (old, new) = (format!("/sys/fs/cgroup/memory/{name}"), format!("/sys/fs/cgroup/{name}"));
    let path = if std::fs::create_dir(&old).is_ok() {
        limit(&format!("{old}/memory.limit_in_bytes")).map(|()| old)
    } else {
        std::fs::create_dir(&new)
            .and_then(|()| limit(&format!("{new}/memory.max")))
            .map(|()| new.clone())
    };
    let Ok(path) = path else {
        println!("no control group of our own: not root, or none is writable");
        let _ = std::fs::remove_dir(new);
        return;
    };
    let mut process = Process::start("in a small group", &path);
    let said = [process.hear(), process.hear()].map(Option::unwrap);
    while process.hear().is_some() {}
    drop(process);
    let _ = std::fs::remove_dir(&path);
    assert_eq!(said, ["out_of_memory", "signal"]);
}

#[test]
fn a_killed_one_comes_back_alone_or_with_its_group() {
    for (strategy, changed) in [
        (Strategy::OneForOne, [false, true, false]),
        (Strategy::OneForAll, [true, true, true]),
        (Strategy::RestForOne, [false, true, true]),
    ] {
        let names = ["0", "1", "2"];
        let children = names.map(|name| sleeper(name).backoff(SHORT));
        let builder = ProcessSupervisor::builder("a").strategy(strategy);
        let supervisor = children.into_iter().fold(builder, |all, child| all.child(child));
        let supervisor = supervisor.build().unwrap();
        supervisor.start().unwrap();
        assert!(supervisor.ready_blocking(LONG));
        let before = names.map(|name| pid(&supervisor, name));
        send(before[1], Signal::KILL);
        within(LONG, "it is back", || status(&supervisor, "1").runs == 2);
        assert!(supervisor.ready_blocking(LONG));
        let after = names.map(|name| pid(&supervisor, name));
        assert_eq!([0, 1, 2].map(|index| before[index] != after[index]), changed, "{strategy:?}");
        for (before, changed) in before.iter().zip(changed) {
            assert_eq!(runs(*before), !changed);
        }
        supervisor.stop_blocking(None);
    }
}

#[test]
fn what_a_child_started_in_its_group_ends_with_it() {
    let lines: Arc<Mutex<Vec<u32>>> = Arc::default();
    let seen = Arc::clone(&lines);
    let child = shell("a", "sleep 1000 & echo $!; sleep 0.3; exit 0")
        .restart(Restart::Temporary)
        .on_line(move |line| seen.lock().unwrap().push(line.text().parse().unwrap()));
    let supervisor = ProcessSupervisor::builder("a").child(child).build().unwrap();
    supervisor.start().unwrap();
    ended(&supervisor);
    let grandchild = lines.lock().unwrap()[0];
    within(LONG, "it has ended, too", || !runs(grandchild));
}

#[test]
fn a_restart_on_request_is_no_failure() {
    let supervisor =
        ProcessSupervisor::builder("a").child(sleeper("a")).intensity(0, LONG).build().unwrap();
    supervisor.start().unwrap();
    assert!(supervisor.ready_blocking(LONG));
    let before = pid(&supervisor, "a");
    assert!(supervisor.restart("a"));
    within(LONG, "a new one is up", || {
        status(&supervisor, "a").pid.is_some_and(|pid| pid != before)
    });
    assert_eq!(supervisor.stats().restarts, 0);
    assert_eq!(supervisor.stop_blocking(None).end, SupervisorEnd::Stopped);
}

/// How many descriptors this process would pass on to any program.
fn inheritable() -> usize {
    let all = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    let flags = all.filter_map(|fd| {
        let info = std::fs::read_to_string(fd.ok()?.path()).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        u32::from_str_radix(flags.trim(), 8).ok()
    });
    flags.filter(|flags| flags & 0o2_000_000 == 0).count()
}

/// Says what a child finds: its signals and its variables.
pub(super) fn environment(app: &str) {
    say(format_args!("self {} {}", std::process::id(), inheritable()));
    // Not by a shell, which might set its signals itself.
    let signals = Child::new("a", "grep").args(["-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
    let script = "echo app=$BUTTRESS_APP owner=$BUTTRESS_OWNER \
                  notify=$NOTIFY_SOCKET watchdog=$WATCHDOG_USEC line=$BUTTRESS_LIFELINE; \
                  ls /proc/self/fd | wc -l; cat /proc/self/stat | cut -d' ' -f1,5";
    for child in [signals, shell("a", script)] {
        let child = child.restart(Restart::Temporary).on_line(|line| say(line.text()));
        let supervisor = ProcessSupervisor::builder(app.to_owned()).child(child).build().unwrap();
        supervisor.start().unwrap();
        ended(&supervisor);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_starts_clean_and_marked() {
    let mut command = Command::new("env");
    command.args(["--ignore-signal=HUP,USR2", "--block-signal=USR1,TERM"]);
    command.arg(std::env::current_exe().unwrap());
    command.env("NOTIFY_SOCKET", "/run/x").env("WATCHDOG_USEC", "7").env("BUTTRESS_OWNER", "a:1:1");
    command.stderr(Stdio::inherit());
    let app = super::unique("environment");
    let mut process = Process::start_by(&mut command, "environment", &app);
    let [own, inheritable] = process.numbers("self")[..] else { panic!("two numbers") };
    let owner: ProcessIdentity = identity(own);
    let said: Vec<_> = std::iter::from_fn(|| process.hear()).collect();
    assert_eq!(said[0], "SigBlk:\t0000000000000000");
    // But for two that the C library keeps to itself, if those above us ignore them.
    let ignored = said[1].strip_prefix("SigIgn:\t").unwrap();
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & !(3 << 31), 0, "{ignored}");
    let (boot, started) = (owner.boot_id.unwrap(), owner.started.unwrap());
    let owner = format!("{boot}:{own}:{started}:{}", owner.pid_namespace.unwrap());
    let marks = format!("app={app} owner={owner} notify= watchdog= line=");
    assert_eq!(said[2], marks);
    // What any program would have, and the directory that is read: nothing of ours.
    assert_eq!(said[3].trim(), (inheritable + 1).to_string());
    let [_, group] = said[4].split(' ').collect::<Vec<_>>()[..] else { panic!("{said:?}") };
    assert_ne!(group, own.to_string());
}

#[test]
fn a_start_cannot_be_had_twice_nor_after_the_stop() {
    let supervisor = ProcessSupervisor::builder("a").child(sleeper("a")).build().unwrap();
    assert_eq!(supervisor.stop_blocking(None).end, SupervisorEnd::Stopped);
    assert!(supervisor.start().is_err());
    assert_eq!(supervisor.stats().starts, 0);
}

#[test]
fn the_last_handle_takes_the_children_with_it() {
    let supervisor = ProcessSupervisor::builder("a").child(sleeper("a")).build().unwrap();
    supervisor.start().unwrap();
    assert!(supervisor.ready_blocking(LONG));
    let child = pid(&supervisor, "a");
    let other = supervisor.clone();
    drop(supervisor);
    pause(Duration::from_millis(100));
    assert!(runs(child), "there is another handle");
    drop(other);
    within(LONG, "it is stopped", || !runs(child));
}

#[test]
fn a_child_may_become_another_user() {
    if !is_root() {
        println!("not root: cannot become anybody");
        return;
    }
    use std::os::unix::process::CommandExt;
    let child = shell("a", "[ $(id -u) = 65534 ]").prepare(|command| {
        command.uid(65_534).gid(65_534);
    });
    assert_eq!(exit_of(child), Exit::Code(0));
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Restarts one with all that costs descriptors, in groups, and says what has become more.
pub(super) fn often() {
    let child = |name, script| {
        shell(name, script)
            .backoff(Backoff::none())
            .lifeline()
            .ready_when(|_| true)
            .probe_every(Duration::from_millis(1))
            .on_line(|_| {})
    };
    let supervisor = ProcessSupervisor::builder("often")
        .child(child("fails", "sleep 60 & echo there; exit 1"))
        .child(child("stays", "exec sleep 1000"))
        .child(Child::new("none", "/there/is/no/such/program").backoff(Backoff::none()))
        .strategy(Strategy::OneForAll)
        .unlimited_restarts()
        .subreaper()
        .build()
        .unwrap();
    supervisor.start().unwrap();
    let most = |starts: u64| {
        within(LONG, "so many starts", || supervisor.stats().starts > starts);
        let mut most = 0;
        let until = supervisor.stats().starts + 50;
        within(LONG, "some more", || {
            most = most.max(open_descriptors());
            supervisor.stats().starts > until
        });
        most
    };
    let (early, late) = (most(20), most(600));
    supervisor.stop_blocking(None);
    say(format_args!("descriptors {early} {late} {}", super::reaping::children().len()));
}

#[cfg(target_os = "linux")]
#[test]
fn hundreds_of_restarts_leave_no_descriptor_and_no_process() {
    let mut process = Process::start("often", "");
    let [early, late, left] = process.numbers("descriptors")[..] else { panic!("three numbers") };
    // A few more or less are open at any moment.
    assert!(late <= early + 10, "{early} descriptors became {late}");
    assert_eq!(left, 0);
}

/// Also while those that take their time to stop still run.
#[test]
fn a_supervisor_that_gave_up_fails_liveness_at_once() {
    use buttress::supervise::{Lifecycle, health::Health};
    let health = Health::new(Lifecycle::new());
    let slow = shell("slow", "trap '' TERM; while :; do sleep 0.1; done");
    let supervisor = ProcessSupervisor::builder("a")
        .child(slow.grace(Duration::from_secs(3)))
        .child(shell("fails", "sleep 0.2; exit 1").backoff(SHORT))
        .intensity(2, Duration::from_secs(60))
        .build()
        .unwrap();
    let watched = supervisor.clone();
    health.live_while("workers", move || !watched.has_given_up());
    supervisor.start().unwrap();
    assert!(supervisor.ready_blocking(LONG) && health.is_live());
    within(LONG, "it gives up", || supervisor.has_given_up());
    assert!(!health.is_live() && supervisor.report().is_none(), "the slow one still runs");
    assert!(matches!(ended(&supervisor).end, SupervisorEnd::Escalated { .. }));
    assert!(!health.is_live());
}
