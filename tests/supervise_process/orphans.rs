//! The sweep with real processes.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use buttress::supervise::{
    ProcessIdentity,
    process::{KillResult, OrphanSweep, kill_process, kill_process_blocking},
};

use super::child::{Process, become_role, say};
use super::{LONG, identity, is_root, runs, send, state, within};

/// A process of ours with marks, killed when dropped.
struct Decoy(Child);

impl Decoy {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    fn marked(app: &str, owner: &str) -> Self {
        Self::start(sleep().env("BUTTRESS_APP", app).env("BUTTRESS_OWNER", owner))
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sleep() -> Command {
    let mut command = Command::new("sleep");
    command.arg("1000");
    command
}

fn owner(process: &ProcessIdentity) -> String {
    format!("{}:{}:{}", process.boot_id.as_ref().unwrap(), process.pid, process.started.unwrap())
}

fn changed(
    process: &ProcessIdentity,
    change: impl FnOnce(&mut ProcessIdentity),
) -> ProcessIdentity {
    let mut process = process.clone();
    change(&mut process);
    process
}

/// The one that `parent` has put into a session of its own.
fn grandchild(pid: u32) -> u32 {
    let mut found = None;
    within(LONG, "the grandchild is there", || {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(path).unwrap();
        let child = children.split_ascii_whitespace().next().and_then(|pid| pid.parse().ok());
        found = child.filter(|pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default() == b"sleep\x001001\0"
        });
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn exactly_what_a_killed_supervisor_has_left_is_found_and_ended() {
    let app = super::unique("orders");
    let mut dead = Process::start("leaving family", &app);
    let mut alive = Process::start("leaving family", &app);
    let mut left = dead.numbers("children");
    let mut kept = alive.numbers("children");
    left.push(grandchild(left[2]));
    kept.push(grandchild(kept[2]));
    let former = identity(dead.id());
    let own = ProcessIdentity::own();

    let mut named = sleep();
    named.arg0(&app);
    let other_boot = changed(&former, |process| process.boot_id = Some("no-such-boot".into()));
    let mut decoys = vec![
        ("it lives and has no mark", Decoy::start(&mut named)),
        ("its owner is this process", Decoy::marked(&app, &owner(&own))),
        ("of another boot", Decoy::marked(&app, &owner(&other_boot))),
        ("of another app", Decoy::marked("another", &owner(&former))),
    ];
    if is_root() {
        let mut nobody = sleep();
        nobody.uid(65_534).env("BUTTRESS_APP", &app).env("BUTTRESS_OWNER", owner(&former));
        decoys.push(("another user's", Decoy::start(&mut nobody)));
    } else {
        println!("not root: no decoy of another user");
    }
    // Its owner's number is ours by now.
    let reused = changed(&own, |process| process.started = own.started.map(|start| start + 1));
    let forged = Decoy::marked(&app, &owner(&reused));
    left.push(forged.0.id());

    let sweep = OrphanSweep::new(app.clone()).grace(Duration::from_secs(1));
    let found = || -> BTreeSet<u32> {
        let orphans = sweep.find().unwrap().orphans;
        orphans.iter().map(|orphan| orphan.process.pid).collect()
    };
    assert_eq!(found(), [forged.0.id()].into(), "before its death nothing else is left");
    // It stays a zombie: this process has not waited for it.
    dead.kill();
    assert_eq!(found(), left.iter().copied().collect());
    let orphans = sweep.find().unwrap().orphans;
    let plain = orphans.iter().find(|orphan| orphan.process.pid == left[0]).unwrap();
    assert_eq!((plain.owner.pid, plain.command.as_str()), (former.pid, "sleep 1000"));
    // Looking has ended nobody.
    assert!(left.iter().all(|pid| runs(*pid)));

    let results = sweep.kill_blocking().unwrap();
    let of = |pid| results.iter().find(|(orphan, _)| orphan.process.pid == pid).unwrap().1;
    assert_eq!(results.len(), left.len());
    for (pid, expected) in left.iter().zip([
        KillResult::Terminated,
        KillResult::Killed,
        KillResult::Terminated,
        KillResult::Terminated,
        KillResult::Terminated,
    ]) {
        assert_eq!(of(*pid), expected, "{pid}");
        assert!(!runs(*pid));
    }
    for (what, decoy) in &mut decoys {
        assert!(decoy.lives(), "{what}");
    }
    assert!(kept.iter().all(|pid| runs(*pid)), "the other supervisor's");
    assert!(found().is_empty());

    // And when that is gone, too, its ones are next.
    alive.kill();
    assert_eq!(found(), kept.iter().copied().collect());
    assert!(sweep.kill_blocking().unwrap().iter().all(|(_, result)| result.is_gone()));
}

#[test]
fn a_stopped_orphan_ends_in_the_grace() {
    let app = super::unique("stopped");
    let reused = changed(&ProcessIdentity::own(), |process| process.started = Some(1));
    let decoy = Decoy::marked(&app, &owner(&reused));
    send(decoy.0.id(), rustix::process::Signal::STOP);
    within(LONG, "it is stopped", || state(decoy.0.id()) == 'T');
    let sweep = OrphanSweep::new(app).grace(LONG);
    let results = sweep.kill_blocking().unwrap();
    assert_eq!((results[0].0.state, results[0].1), ('T', KillResult::Terminated));
}

#[tokio::test]
async fn a_process_is_ended_by_its_identity_only() {
    let mut child = Decoy::start(&mut sleep());
    let real = identity(child.0.id());
    let other = changed(&real, |process| process.started = real.started.map(|start| start + 1));
    let unknown = changed(&real, |process| process.started = None);
    let elsewhere = changed(&real, |process| process.pid_namespace = Some(1));
    for wrong in [other, unknown, elsewhere] {
        assert_eq!(kill_process(&wrong, LONG).await.unwrap(), KillResult::IdentityChanged);
    }
    let rebooted = changed(&real, |process| process.boot_id = Some("another".into()));
    assert_eq!(kill_process_blocking(&rebooted, LONG), KillResult::Gone);
    assert!(child.lives());
    assert_eq!(kill_process(&real, LONG).await.unwrap(), KillResult::Terminated);
    assert_eq!(kill_process_blocking(&real, LONG), KillResult::Gone, "a zombie");
    child.0.wait().unwrap();
    assert_eq!(kill_process_blocking(&real, LONG), KillResult::Gone);
    let parent = rustix::process::getppid().unwrap().as_raw_pid();
    let parent = identity(u32::try_from(parent).unwrap());
    assert_eq!(kill_process_blocking(&parent, LONG), KillResult::Denied, "an ancestor");
}

#[test]
fn another_users_process_is_denied() {
    if !is_root() {
        // Process 1 would do, but is spared anyway.
        println!("not root: nobody else's process to be had");
        return;
    }
    let scratch = super::Scratch::new();
    let victim = Decoy::start(&mut sleep());
    // This binary as nobody, who may not get at where it is.
    let program = scratch.path("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new(&program);
    command.uid(65_534).gid(65_534).current_dir("/");
    let mut nobody = Process::start_by(&mut command, "sweeps", &format!("kill {}", victim.0.id()));
    assert_eq!(nobody.hear().unwrap(), "denied");
    assert!(runs(victim.0.id()));
}

pub(super) fn sweeps(argument: &str) {
    let (what, argument) = argument.split_once(' ').unwrap();
    match what {
        "kill" => {
            let process = ProcessIdentity::of(argument.parse().unwrap()).unwrap();
            say(kill_process_blocking(&process, Duration::ZERO).as_str());
        }
        "find" => match OrphanSweep::new(argument.to_owned()).find() {
            Ok(found) => say(format_args!("found {}", found.orphans.len())),
            Err(error) => say(format_args!("{:?}", error.kind())),
        },
        what => panic!("{what}?"),
    }
}

fn namespaced(extra: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).args(extra);
    command.arg(std::env::current_exe().unwrap());
    command
}

/// The numbers in the marks mean something else there: the owner would seem to be gone.
#[test]
fn what_runs_in_another_namespace_is_left_alone() {
    if !is_root() {
        println!("not root: no namespace of our own");
        return;
    }
    let app = super::unique("container");
    let mut inside = Process::start_by(&mut namespaced(&["--mount-proc"]), "leaving family", &app);
    assert_eq!(inside.numbers("children").len(), 3);
    // They can be seen from here.
    let marked = || {
        let pids = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse::<u32>().ok());
        let mark = format!("BUTTRESS_APP={app}");
        pids.filter(|pid| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        })
        .count()
    };
    assert!(marked() >= 3);
    let found = OrphanSweep::new(app.clone()).find().unwrap();
    assert_eq!(found.orphans, []);
}

#[test]
fn a_proc_of_another_namespace_is_not_believed() {
    if !is_root() {
        println!("not root: no namespace of our own");
        return;
    }
    let mut command = namespaced(&[]);
    become_role(&mut command, "sweeps", "find any");
    let said = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("@Unsupported"), "{said}");
}
