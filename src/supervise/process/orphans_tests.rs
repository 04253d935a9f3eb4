//! The sweep on a machine of its own, and the recorded sweeps of the load tester on it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::supervise::{ProcessIdentity, ProcessStatus};

use super::kill::KillResult;
use super::orphans::OrphanSweep;
use super::table::Table;

const BOOT: &str = "59d72764-f738";
const OWN: u32 = 900;
const USER: u32 = 1_000;

#[derive(Clone)]
struct Entry {
    status: ProcessStatus,
    user: u32,
    environ: Result<String, io::ErrorKind>,
    command: String,
    survives: Vec<i32>,
    /// What a signal to it fails with.
    error: Option<i32>,
    foreign_namespace: bool,
    hidden: bool,
}

#[derive(Default)]
struct Machine {
    processes: RefCell<BTreeMap<u32, Entry>>,
    sent: RefCell<Vec<(u32, i32)>>,
    now: Cell<Duration>,
    /// Replaces a process with another between the search and the kill.
    on_open: RefCell<HashMap<u32, Option<Entry>>>,
    /// The same during the grace.
    on_wait: RefCell<HashMap<u32, Entry>>,
}

fn entry(started: u64, mark: Option<(&str, u32, u64)>) -> Entry {
    let environ = mark.map_or_else(String::new, |(app, pid, start)| {
        format!("PATH=/bin\0BUTTRESS_APP={app}\0BUTTRESS_OWNER={BOOT}:{pid}:{start}\0")
    });
    let status = ProcessStatus { state: 'S', parent: 1, group: 1, started };
    Entry {
        status,
        user: USER,
        environ: Ok(environ),
        command: "worker".into(),
        survives: Vec::new(),
        error: None,
        foreign_namespace: false,
        hidden: false,
    }
}

/// Left by process 40, which is gone.
fn orphan() -> Entry {
    entry(500, Some(("orders", 40, 7)))
}

impl Machine {
    fn new(processes: impl IntoIterator<Item = (u32, Entry)>) -> Self {
        let machine = Self::default();
        let mut all = machine.processes.borrow_mut();
        all.insert(1, entry(0, None));
        all.insert(30, Entry { command: "shell".into(), ..entry(3, None) });
        let mut own = entry(900, None);
        own.status.parent = 30;
        all.insert(OWN, own);
        all.extend(processes);
        drop(all);
        machine
    }

    fn found(&self) -> Vec<u32> {
        let found = OrphanSweep::new("orders").find_in(self).unwrap();
        found.orphans.iter().map(|orphan| orphan.process.pid).collect()
    }

    fn kill(&self) -> Vec<(u32, KillResult)> {
        let sweep = OrphanSweep::new("orders");
        let results = sweep.kill_in(self, sweep.find_in(self).unwrap().orphans);
        results.into_iter().map(|(orphan, result)| (orphan.process.pid, result)).collect()
    }

    fn sent_to(&self, signal: Signal) -> Vec<u32> {
        let sent = self.sent.borrow();
        sent.iter().filter(|(_, sent)| *sent == signal.as_raw()).map(|(pid, _)| *pid).collect()
    }
}

impl Table for Machine {
    type Handle = (u32, u64);

    fn own(&self) -> ProcessIdentity {
        let (started, boot_id) = (Some(900), Some(BOOT.into()));
        ProcessIdentity { pid: OWN, started, boot_id, pid_namespace: Some(4) }
    }

    fn own_user(&self) -> u32 {
        USER
    }

    fn pids(&self) -> io::Result<Vec<u32>> {
        let all = self.processes.borrow();
        Ok(all.iter().filter(|(_, entry)| !entry.hidden).map(|(pid, _)| *pid).rev().collect())
    }

    fn status(&self, pid: u32) -> Option<ProcessStatus> {
        let all = self.processes.borrow();
        all.get(&pid).filter(|entry| !entry.hidden).map(|entry| entry.status)
    }

    fn user(&self, pid: u32) -> Option<u32> {
        self.processes.borrow().get(&pid).map(|entry| entry.user)
    }

    fn environ(&self, pid: u32) -> io::Result<Vec<u8>> {
        let all = self.processes.borrow();
        let entry = all.get(&pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(entry.environ.clone()?.into_bytes())
    }

    fn shares_namespaces(&self, pid: u32) -> io::Result<bool> {
        Ok(!self.processes.borrow()[&pid].foreign_namespace)
    }

    fn exists(&self, pid: u32) -> bool {
        self.processes.borrow().contains_key(&pid)
    }

    fn command(&self, pid: u32) -> String {
        self.processes.borrow()[&pid].command.clone()
    }

    fn open(&self, pid: u32) -> io::Result<(u32, u64)> {
        if let Some(replaced) = self.on_open.borrow_mut().remove(&pid) {
            let mut all = self.processes.borrow_mut();
            match replaced {
                Some(entry) => all.insert(pid, entry),
                None => all.remove(&pid),
            };
        }
        let all = self.processes.borrow();
        let entry = all.get(&pid).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        Ok((pid, entry.status.started))
    }

    fn send(&self, process: &(u32, u64), signal: Signal) -> io::Result<()> {
        let mut all = self.processes.borrow_mut();
        let esrch = || io::Error::from_raw_os_error(libc::ESRCH);
        let entry = all.get(&process.0).ok_or_else(esrch)?;
        assert_eq!(entry.status.started, process.1, "a signal to another process");
        self.sent.borrow_mut().push((process.0, signal.as_raw()));
        if let Some(error) = entry.error {
            return Err(io::Error::from_raw_os_error(error));
        }
        if signal != Signal::CONT && !entry.survives.contains(&signal.as_raw()) {
            all.remove(&process.0);
        }
        Ok(())
    }

    fn ended(&self, process: &(u32, u64), timeout: Duration) -> bool {
        if let Some(entry) = self.on_wait.borrow_mut().remove(&process.0) {
            self.processes.borrow_mut().insert(process.0, entry);
        }
        let ended = self.status(process.0).is_none_or(|status| status.started != process.1);
        if !ended {
            self.now.set(self.now.get() + timeout);
        }
        ended
    }

    fn now(&self) -> Duration {
        self.now.get()
    }
}

#[test]
fn an_orphan_is_found_with_its_evidence_and_nothing_is_touched() {
    let machine = Machine::new([(77, orphan())]);
    let found = OrphanSweep::new("orders").find_in(&machine).unwrap();
    let orphan = &found.orphans[0];
    assert_eq!((orphan.process.pid, orphan.process.started), (77, Some(500)));
    assert_eq!((orphan.owner.pid, orphan.owner.started), (40, Some(7)));
    assert_eq!(orphan.to_string(), "77 (worker): left by process 40, which is gone");
    assert!(machine.sent.borrow().is_empty());
}

#[test]
fn the_innocent_are_not_found() {
    let zombie = |mut entry: Entry| {
        entry.status.state = 'Z';
        entry
    };
    let mut hidden_owner = entry(7, None);
    hidden_owner.hidden = true;
    hidden_owner.user = 0;
    let decoys = [
        (70, "its owner lives", entry(500, Some(("orders", 30, 3)))),
        (71, "our own child", entry(500, Some(("orders", OWN, 900)))),
        (72, "another app", entry(500, Some(("orders2", 40, 7)))),
        (73, "no mark, same name", Entry { command: "orders worker".into(), ..entry(500, None) }),
        (74, "another user", Entry { user: 0, ..orphan() }),
        (
            75,
            "another boot",
            Entry { environ: Ok(orphan().environ.unwrap().replace(BOOT, "another")), ..orphan() },
        ),
        (
            76,
            "a mark that is none",
            Entry {
                environ: Ok("BUTTRESS_APP=orders\0BUTTRESS_OWNER=nonsense\0".into()),
                ..orphan()
            },
        ),
        (77, "dead already", zombie(orphan())),
        (
            78,
            "another namespace, where 40 is somebody else",
            Entry { foreign_namespace: true, ..orphan() },
        ),
        (
            80,
            "its owner lives outside of our namespace, where we cannot see it",
            Entry { environ: Ok(orphan().environ.unwrap().replace(":7\0", ":7:9\0")), ..orphan() },
        ),
        (79, "its owner is hidden from us", entry(500, Some(("orders", 60, 7)))),
    ];
    let machine = Machine::new(decoys.iter().map(|(pid, _, entry)| (*pid, entry.clone())));
    machine.processes.borrow_mut().insert(60, hidden_owner);
    let what = |pid: &u32| decoys.iter().find(|decoy| decoy.0 == *pid).map(|decoy| decoy.1);
    let found: Vec<_> = machine.found().iter().map(what).collect();
    assert_eq!(found, []);
    // Each differs from one that is found in one thing only.
    assert_eq!(Machine::new([(70, orphan())]).found(), [70]);
    let same_namespace = orphan().environ.unwrap().replace(":7\0", ":7:4\0");
    let same_namespace = Entry { environ: Ok(same_namespace), ..orphan() };
    assert_eq!(Machine::new([(70, same_namespace)]).found(), [70]);
}

#[test]
fn an_owner_that_is_a_zombie_or_whose_number_was_given_away_is_gone() {
    let mut zombie = entry(7, None);
    zombie.status.state = 'Z';
    assert_eq!(Machine::new([(77, orphan()), (40, zombie)]).found(), [77]);
    assert_eq!(Machine::new([(77, orphan()), (40, entry(8, None))]).found(), [77]);
    assert!(Machine::new([(77, orphan()), (40, entry(7, None))]).found().is_empty());
}

#[test]
fn neither_self_nor_an_ancestor_nor_the_first_process_is_found_though_marked() {
    let machine = Machine::new([(77, orphan())]);
    for pid in [1, 30, OWN] {
        let mut all = machine.processes.borrow_mut();
        let entry = all.get_mut(&pid).unwrap();
        entry.environ = orphan().environ;
        entry.user = USER;
    }
    assert_eq!(machine.found(), [77]);
    // Not even when told to.
    let sweep = OrphanSweep::new("orders");
    let mut orphans = sweep.find_in(&machine).unwrap().orphans;
    orphans[0].process.pid = 30;
    orphans[0].process.started = Some(3);
    assert_eq!(sweep.kill_in(&machine, orphans)[0].1, KillResult::Denied);
    assert!(machine.sent.borrow().is_empty());
}

#[test]
fn one_that_is_not_shown_is_reported_and_left_alone() {
    let secret = Entry { environ: Err(io::ErrorKind::PermissionDenied), ..orphan() };
    let machine = Machine::new([(77, secret), (78, orphan())]);
    let found = OrphanSweep::new("orders").find_in(&machine).unwrap();
    assert_eq!(found.unreadable, [77]);
    assert_eq!(machine.kill(), [(78, KillResult::Terminated)]);
}

#[test]
fn each_result() {
    let stubborn = Entry { survives: vec![libc::SIGTERM], ..orphan() };
    let stuck = Entry { survives: vec![libc::SIGTERM, libc::SIGKILL], ..orphan() };
    let denied = Entry { error: Some(libc::EPERM), ..orphan() };
    let machine = Machine::new([
        (71, orphan()),
        (72, stubborn),
        (73, orphan()),
        (74, orphan()),
        (75, denied),
        (76, stuck),
        (77, orphan()),
        (78, orphan()),
    ]);
    let mut other_start = orphan();
    other_start.status.started = 501;
    let other_mark = entry(500, Some(("orders", OWN, 900)));
    machine.on_open.borrow_mut().extend([
        (73, None),
        (74, Some(other_start)),
        (77, Some(other_mark)),
    ]);
    assert_eq!(
        machine.kill(),
        [
            (71, KillResult::Terminated),
            (72, KillResult::Killed),
            (73, KillResult::Gone),
            (74, KillResult::IdentityChanged),
            (75, KillResult::Denied),
            (76, KillResult::Unkillable),
            (77, KillResult::IdentityChanged),
            (78, KillResult::Terminated),
        ]
    );
    assert_eq!(machine.sent_to(Signal::KILL), [72, 76], "only survivors are killed");
    for untouched in [73, 74, 77] {
        assert!(machine.sent.borrow().iter().all(|(pid, _)| *pid != untouched));
    }
}

#[test]
fn the_grace_is_for_all_together() {
    let stubborn = Entry { survives: vec![libc::SIGTERM], ..orphan() };
    let machine = Machine::new((100..200).map(|pid| (pid, stubborn.clone())));
    assert_eq!(machine.kill().len(), 100);
    assert!(machine.now.get() <= Duration::from_secs(2), "{:?}", machine.now.get());
}

/// What the load tester's `kill_orphans` did, case by case, and what is done here instead (its bugs J1 to
/// J5). It goes by names, here owners count: so each table is run twice, without marks, where nothing may
/// be touched, and with marks of a dead owner on those that it took for orphans.
#[test]
fn recorded_sweeps() {
    let golden: Value =
        serde_json::from_str(include_str!("../../../tests/golden/process_supervisor.json"))
            .unwrap();
    let cases = golden["cases"].as_array().unwrap();
    let differs: HashMap<&str, &str> = [
        (
            "matching is a substring test on lower-cased name or whole command line",
            "J1, J2: a name is no evidence; nobody is touched who does not carry the mark of a dead owner",
        ),
        (
            "custom substrings; upper-case ones never match",
            "the name of the app is compared exactly, as written",
        ),
        (
            "terminate raising psutil errors aborts the sweep",
            "J4: what is denied is its own result, and the sweep goes on",
        ),
    ]
    .into();
    let mut told = HashSet::new();
    for case in cases {
        let title = case["title"].as_str().unwrap();
        let is_bug = case["note"].as_str().is_some_and(|note| note.starts_with("BUG"));
        assert_eq!(is_bug, differs.contains_key(title), "{title}");
        told.extend(differs.get_key_value(title).map(|(title, _)| *title));
        let numbers = |field: &str| -> Vec<u32> {
            let list = case[field].as_array().into_iter().flatten();
            list.map(|pid| u32::try_from(pid.as_u64().unwrap()).unwrap()).collect()
        };
        let processes = || {
            let list = case["processes"].as_array().unwrap().iter();
            list.map(|process| {
                let pid = u32::try_from(process["pid"].as_u64().unwrap()).unwrap();
                let words = process["cmdline"].as_array().into_iter().flatten();
                let words: Vec<_> = words.filter_map(Value::as_str).collect();
                (pid, Entry { command: words.join(" "), ..entry(500, None) })
            })
        };
        let machine = Machine::new(processes());
        assert_eq!((machine.found(), machine.kill()), (vec![], vec![]), "{title}");
        assert!(machine.sent.borrow().is_empty());

        // Those that it took for orphans, were they ours.
        let mut taken: Vec<u32> = numbers("terminated");
        if case["raised"].as_str().is_some() {
            taken = processes().map(|(pid, _)| pid).collect();
        }
        let survive = numbers("survive_terminate");
        let errors = case["terminate_errors"].as_object().unwrap();
        let machine = Machine::new(processes().map(|(pid, mut entry)| {
            if taken.contains(&pid) {
                entry.environ = orphan().environ;
            }
            if survive.contains(&pid) {
                entry.survives = vec![libc::SIGTERM];
            }
            entry.error = errors.contains_key(&pid.to_string()).then_some(libc::EPERM);
            (pid, entry)
        }));
        let expected: Vec<_> = taken
            .iter()
            .map(|pid| {
                let result = match pid {
                    pid if errors.contains_key(&pid.to_string()) => KillResult::Denied,
                    // J5: it says "killed" of one that was merely asked to end.
                    pid if survive.contains(pid) => KillResult::Killed,
                    _ => KillResult::Terminated,
                };
                (*pid, result)
            })
            .collect();
        assert_eq!(machine.kill(), expected, "{title}");
        assert_eq!(machine.sent_to(Signal::KILL), numbers("killed_after_grace"), "{title}");
        if case["raised"].is_null() {
            let gone: Vec<_> = expected
                .iter()
                .filter(|(_, result)| result.is_gone())
                .map(|(pid, _)| *pid)
                .collect();
            assert_eq!(gone, numbers("returned"), "{title}");
        }
    }
    assert_eq!(told.len(), differs.len(), "a difference that is in no case");
}

/// J3: it looks for survivors by number, and kills whoever has the number by then.
#[test]
fn a_number_that_is_given_away_during_the_grace_is_not_killed() {
    let mut stubborn = orphan();
    stubborn.survives = vec![libc::SIGTERM];
    let machine = Machine::new([(77, stubborn.clone()), (78, stubborn)]);
    machine.on_wait.borrow_mut().insert(77, entry(2_000, None));
    assert_eq!(machine.kill(), [(77, KillResult::Terminated), (78, KillResult::Killed)]);
    assert_eq!(machine.sent_to(Signal::KILL), [78]);
    assert!(machine.exists(77), "the innocent one lives");
}
