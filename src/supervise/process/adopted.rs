//! What children leave behind, taken over by this process as a subreaper.
//!
//! Nothing here waits for "any child": the statuses of children that somebody else in this process has
//! started are theirs. Children are looked up one by one in `/proc`, and only what is known to be left
//! behind by a child of ours is collected: it carries our mark, or is in the group of one of our children.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
#[cfg(target_os = "linux")]
use std::path::Path;
use std::time::Duration;

use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};

use crate::clock::{self, Tick};
use crate::supervise::ProcessStatus;

use super::handle::Shared;
use super::marks;
use super::sys;

const EVERY: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_millis(10);
/// One that has shown nothing for so long has nothing to show.
const BLANK: Duration = Duration::from_secs(5);
/// How long what is left is waited for in the end.
const LAST_WAIT: Duration = Duration::from_secs(1);

pub(super) struct Adopted {
    /// Ours, by number, with something that is readable when it has ended.
    known: HashMap<u32, OwnedFd>,
    /// Seen alive without our mark, by number and start.
    foreign: HashMap<u32, u64>,
    /// The numbers of our children, which are those of their groups, as long as there is one in it: no
    /// other process gets the number until then.
    groups: HashSet<u32>,
    owner: String,
    /// Which supervisor of this process this is. The children of another one are not left behind.
    supervisor: String,
    /// Have shown nothing since: one that is just becoming another program does that.
    blank: HashMap<u32, Tick>,
}

impl Adopted {
    #[cfg(target_os = "linux")]
    pub(super) fn start(supervisor: &str) -> io::Result<Self> {
        if !are_children_listed(Path::new(TASKS)) {
            let why =
                "the kernel lists no children (CONFIG_PROC_CHILDREN), so none could be collected";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        subreaper::begin()?;
        let owner = marks::Owner::of(&crate::supervise::ProcessIdentity::own());
        Ok(Self {
            known: HashMap::new(),
            foreign: HashMap::new(),
            groups: HashSet::new(),
            owner: owner.map(|owner| owner.to_string()).unwrap_or_default(),
            supervisor: supervisor.to_owned(),
            blank: HashMap::new(),
        })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn start(_: &str) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.known.values().map(AsFd::as_fd)
    }

    /// When to look again, though nothing happens.
    pub(super) fn look_again(&self) -> Duration {
        if self.blank.is_empty() { EVERY } else { SOON }
    }

    /// A child has been started.
    pub(super) fn started(&mut self, pid: u32) {
        self.groups.insert(pid);
    }

    /// Looks for new ones, and collects those that have ended. `own`: our children that run.
    pub(super) fn collect(&mut self, own: &HashSet<u32>, shared: &Shared) {
        let mut seen = HashSet::new();
        for pid in children_of_this_process() {
            seen.insert(pid);
            if own.contains(&pid) {
                continue;
            }
            let Some(status) = ProcessStatus::of(pid) else { continue };
            if status.is_dead() {
                // Its environment is gone. A group's leader may be anybody's child, another member of
                // the group of a child of ours is what that has left behind.
                let left = self.groups.contains(&status.group) && status.group != pid;
                if self.known.remove(&pid).is_some() || left {
                    reap(pid, shared);
                }
            } else if !self.known.contains_key(&pid)
                && self.foreign.get(&pid) != Some(&status.started)
            {
                let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                let ours = !self.owner.is_empty()
                    && marks::variable(&environ, marks::OWNER) == Some(&self.owner)
                    && marks::variable(&environ, marks::SUPERVISOR) == Some(&self.supervisor);
                if let Some(fd) = sys::pid_of(pid).and_then(sys::end_of).filter(|_| ours) {
                    self.known.insert(pid, fd);
                } else {
                    let now = clock::now();
                    let since = *self.blank.entry(pid).or_insert(now);
                    if !environ.is_empty() || now.since(since) > BLANK {
                        self.blank.remove(&pid);
                        self.foreign.insert(pid, status.started);
                    }
                }
            }
        }
        self.forget_groups(own);
        self.foreign.retain(|pid, _| seen.contains(pid));
        self.blank.retain(|pid, _| seen.contains(pid) && !self.known.contains_key(pid));
        self.known.retain(|pid, _| seen.contains(pid));
    }

    /// The numbers that anybody may have by now.
    fn forget_groups(&mut self, own: &HashSet<u32>) {
        self.groups.retain(|group| own.contains(group) || has_members(*group));
    }

    /// Kills what is left, and collects it.
    pub(super) fn finish(&mut self, shared: &Shared) {
        let none = HashSet::new();
        let end = clock::now().after(LAST_WAIT);
        loop {
            self.collect(&none, shared);
            if self.known.is_empty() || clock::now() >= end {
                break;
            }
            for fd in self.known.values() {
                let _ = sys::send(fd, Signal::KILL);
            }
            clock::park(Duration::from_millis(5));
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for Adopted {
    fn drop(&mut self) {
        subreaper::end();
    }
}

/// The process is a subreaper as long as one of its supervisors wants that.
#[cfg(target_os = "linux")]
mod subreaper {
    use std::io;
    use std::sync::Mutex;

    use rustix::process::{child_subreaper, getpid, set_child_subreaper};

    use crate::sync::lock;

    /// How many want it, and whether it was one before.
    static WANTED: Mutex<(usize, bool)> = Mutex::new((0, false));

    pub(super) fn begin() -> io::Result<()> {
        let mut wanted = lock(&WANTED);
        if wanted.0 == 0 {
            wanted.1 = child_subreaper()?.is_some();
            set_child_subreaper(Some(getpid()))?;
        }
        wanted.0 += 1;
        Ok(())
    }

    pub(super) fn end() {
        let mut wanted = lock(&WANTED);
        wanted.0 -= 1;
        if *wanted == (0, false) {
            let _ = set_child_subreaper(None);
        }
    }
}

/// Whether anything, though it has ended, is in the group.
fn has_members(group: u32) -> bool {
    sys::pid_of(group).is_some_and(|group| {
        rustix::process::test_kill_process_group(group) != Err(rustix::io::Errno::SRCH)
    })
}

fn reap(pid: u32, shared: &Shared) {
    let Some(pid) = sys::pid_of(pid) else { return };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    if let Ok(Some(_)) = waitid(WaitId::Pid(pid), options) {
        shared.collected_orphan();
    }
}

/// This process's threads.
const TASKS: &str = "/proc/self/task";

/// Kernels may be built without these lists, and `/proc` may not be there.
#[cfg(target_os = "linux")]
fn are_children_listed(tasks: &Path) -> bool {
    let mut threads = fs::read_dir(tasks).into_iter().flatten().flatten();
    threads.any(|thread| fs::read_to_string(thread.path().join("children")).is_ok())
}

/// Children belong to threads, and the lists of all of them are those of the process. An adopted one goes
/// to any thread.
fn children_of_this_process() -> Vec<u32> {
    let Ok(threads) = fs::read_dir(TASKS) else { return Vec::new() };
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let mut all = Vec::new();
    for list in lists {
        all.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    all
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn without_lists_of_children_it_is_not_begun() {
        assert!(are_children_listed(Path::new(TASKS)));
        assert!(!are_children_listed(Path::new("/nowhere")));
        let tasks = std::env::temp_dir().join(format!("buttress-tasks-{}", std::process::id()));
        fs::create_dir_all(tasks.join("1")).unwrap();
        assert!(!are_children_listed(&tasks));
        fs::write(tasks.join("1/children"), "").unwrap();
        assert!(are_children_listed(&tasks));
        fs::remove_dir_all(&tasks).unwrap();
    }

    #[test]
    fn the_number_of_a_group_is_known_until_nobody_is_in_it() {
        use std::os::unix::process::CommandExt;
        let mut adopted = Adopted::start("1").unwrap();
        let mut sleeper = std::process::Command::new("sleep");
        let mut sleeper = sleeper.arg("60").process_group(0).spawn().unwrap();
        let number = sleeper.id();
        adopted.started(number);
        let none = HashSet::new();
        adopted.forget_groups(&none);
        assert!(adopted.groups.contains(&number), "it runs");
        sleeper.kill().unwrap();
        while !sys::has_ended(sys::pid_of(number).unwrap()).unwrap() {
            clock::park(Duration::from_millis(1));
        }
        adopted.forget_groups(&none);
        assert!(adopted.groups.contains(&number), "its status has not been taken");
        sleeper.wait().unwrap();
        adopted.forget_groups(&HashSet::from([number]));
        assert!(adopted.groups.contains(&number), "it is said to be ours");
        adopted.forget_groups(&none);
        assert!(adopted.groups.is_empty());
    }
}
