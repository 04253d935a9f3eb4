//! Finds and ends what a dead supervisor has left running.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::name::Name;
use crate::supervise::ProcessIdentity;

use super::kill::{KillResult, end_all, on_thread, spared, supported};
use super::marks::{self, Owner};
use super::table::{System, Table};

/// A process whose supervisor is gone, and how that is known.
///
/// ```
/// # fn show(orphan: &buttress::supervise::process::Orphan) {
/// println!("{orphan}"); // 4711 (worker --queue orders): left by process 4700, which is gone
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Orphan {
    /// Which process.
    pub process: ProcessIdentity,
    /// Its command line.
    pub command: String,
    /// The kernel's letter for its state: see [`ProcessStatus`](crate::supervise::ProcessStatus).
    pub state: char,
    /// Who started it: no process with this number runs that started then.
    pub owner: ProcessIdentity,
    /// Its mark: the name of the supervisor.
    pub app: Name,
    mark: Owner,
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pid, owner) = (self.process.pid, self.owner.pid);
        write!(f, "{pid} ({}): left by process {owner}, which is gone", self.command)
    }
}

/// What a search found.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// let found = buttress::supervise::process::OrphanSweep::new("no-such-app").find()?;
/// assert!(found.orphans.is_empty());
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundOrphans {
    /// The orphans, by number.
    pub orphans: Vec<Orphan>,
    /// Processes of our user whose environment the system does not show: they may be orphans, and are not
    /// touched.
    pub unreadable: Vec<u32>,
}

/// Ends what a supervisor that was killed has left behind: at the next start, before new children get in
/// each other's way with the old.
///
/// Every child of a [`ProcessSupervisor`](super::ProcessSupervisor) carries in its environment who started it
/// (`BUTTRESS_OWNER`, as boot, number and start of the process, and namespace of the number) and the supervisor's name (`BUTTRESS_APP`), and so
/// does all that it starts itself, in whatever group or session. An orphan is a process of our own user,
/// with our name, of this boot of the machine, whose owner does not run: it has ended, is a zombie, or its
/// number belongs to another process by now. Neither a name that looks alike nor a parent that is process
/// 1 make an orphan, so nothing innocent is.
///
/// Each is signalled through a descriptor that stays its own (`pidfd`), after its identity and its marks have
/// been read again: `SIGTERM` and `SIGCONT`, then after the [`grace`](Self::grace) `SIGKILL`. Never this process, one of
/// its ancestors, or process 1. One that cannot be ended does not keep the others from it.
///
/// What it does not find: a process that was started with an emptied environment (`env -i`); one whose
/// environment the system does not show, because it has changed its user or is not dumpable; one that is, or
/// whose owner was, in another namespace of process numbers (or, itself, of time) than this process; and one whose owner has become another program by
/// `exec`, which keeps its number. Linux only; elsewhere it is an error.
///
/// ```
/// # if cfg!(target_os = "linux") {
/// use buttress::supervise::process::OrphanSweep;
/// use std::time::Duration;
///
/// let sweep = OrphanSweep::new("orders").grace(Duration::from_secs(3));
/// for orphan in sweep.find()?.orphans {
///     println!("would end {orphan}");
/// }
/// for (orphan, result) in sweep.kill_blocking()? {
///     println!("{orphan}: {}", result.as_str());
/// }
/// # }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct OrphanSweep {
    app: Name,
    grace: Duration,
    kill_wait: Duration,
}

impl OrphanSweep {
    /// Looks for what supervisors called `app` have left.
    ///
    /// ```
    /// let _ = buttress::supervise::process::OrphanSweep::new("orders");
    /// ```
    pub fn new(app: impl Into<Name>) -> Self {
        let (grace, kill_wait) = (Duration::from_secs(2), Duration::from_secs(2));
        Self { app: app.into(), grace, kill_wait }
    }

    /// How long they have after `SIGTERM`, all together. Zero: they are killed at once. Default 2 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _ = buttress::supervise::process::OrphanSweep::new("orders").grace(Duration::ZERO);
    /// ```
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How long they have to die of `SIGKILL`, all together. Default 2 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _ = buttress::supervise::process::OrphanSweep::new("orders").kill_wait(Duration::from_secs(10));
    /// ```
    pub const fn kill_wait(mut self, wait: Duration) -> Self {
        self.kill_wait = wait;
        self
    }

    /// Looks, and touches nothing.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// println!("{:?}", buttress::supervise::process::OrphanSweep::new("orders").find()?);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn find(&self) -> io::Result<FoundOrphans> {
        self.find_in(&supported()?)
    }

    /// Ends all that [`find`](Self::find) finds, blocking the thread for at most grace and kill wait.
    ///
    /// # Errors
    /// If `/proc` cannot be read. What becomes of a process is no error but its result.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let results = buttress::supervise::process::OrphanSweep::new("no-such-app").kill_blocking()?;
    /// assert!(results.is_empty());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "kill_orphans")]
    pub fn kill_blocking(&self) -> io::Result<Vec<(Orphan, KillResult)>> {
        Ok(self.kill_found_blocking(self.find()?.orphans))
    }

    /// As [`kill_blocking`](Self::kill_blocking), on a thread of its own. Dropping the future does not stop it.
    ///
    /// # Errors
    /// As there, or if there is no thread left.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let results = buttress::supervise::process::OrphanSweep::new("no-such-app").kill().await?;
    /// assert!(results.is_empty());
    /// # Ok::<(), std::io::Error>(())
    /// # }).unwrap()
    /// # }
    /// ```
    #[doc(alias = "kill_orphans")]
    pub async fn kill(&self) -> io::Result<Vec<(Orphan, KillResult)>> {
        let sweep = self.clone();
        on_thread(move || sweep.kill_blocking()).await?
    }

    /// Ends those of an earlier [`find`](Self::find) that were chosen. Each is looked at again before.
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let sweep = buttress::supervise::process::OrphanSweep::new("orders");
    /// let mut orphans = sweep.find()?.orphans;
    /// orphans.retain(|orphan| orphan.command.contains("worker"));
    /// let results = sweep.kill_found_blocking(orphans);
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn kill_found_blocking(&self, orphans: Vec<Orphan>) -> Vec<(Orphan, KillResult)> {
        self.kill_in(&System, orphans)
    }

    pub(super) fn find_in(&self, table: &impl Table) -> io::Result<FoundOrphans> {
        let own = table.own();
        let (user, spared) = (table.own_user(), spared(table, own.pid));
        let mut found = FoundOrphans::default();
        let mut pids = table.pids()?;
        pids.sort_unstable();
        for pid in pids {
            if spared.contains(&pid) || table.user(pid) != Some(user) {
                continue;
            }
            let Some(status) = table.status(pid).filter(|status| !status.is_dead()) else {
                continue;
            };
            let shown = table.environ(pid).and_then(|environ| {
                // The number of its owner means something else in another namespace.
                Ok(table.shares_namespaces(pid)?.then_some(environ))
            });
            let environ = match shown {
                Ok(Some(environ)) => environ,
                Ok(None) => continue,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    found.unreadable.push(pid);
                    continue;
                }
                // It has ended meanwhile.
                Err(_) => continue,
            };
            let Some(mark) = self.mark(&environ).filter(|mark| is_orphaned(table, &own, mark))
            else {
                continue;
            };
            found.orphans.push(Orphan {
                process: ProcessIdentity { pid, started: Some(status.started), ..own.clone() },
                command: table.command(pid),
                state: status.state,
                owner: ProcessIdentity {
                    pid: mark.pid,
                    started: Some(mark.started),
                    boot_id: Some(mark.boot_id.clone()),
                    pid_namespace: mark.namespace.or(own.pid_namespace),
                },
                app: self.app,
                mark,
            });
        }
        Ok(found)
    }

    pub(super) fn kill_in<T: Table>(
        &self,
        table: &T,
        orphans: Vec<Orphan>,
    ) -> Vec<(Orphan, KillResult)> {
        let own = table.own();
        let still = |index: usize| {
            let orphan: &Orphan = &orphans[index];
            let environ = table.environ(orphan.process.pid);
            environ.is_ok_and(|environ| self.mark(&environ).as_ref() == Some(&orphan.mark))
                && is_orphaned(table, &own, &orphan.mark)
        };
        let processes = orphans.iter().map(|orphan| &orphan.process);
        let results = end_all(table, processes, still, self.grace, self.kill_wait);
        orphans.into_iter().zip(results).collect()
    }

    /// The owner, if it is of our name.
    fn mark(&self, environ: &[u8]) -> Option<Owner> {
        (marks::variable(environ, marks::APP)? == self.app.as_str())
            .then(|| Owner::parse(marks::variable(environ, marks::OWNER)?))?
    }
}

/// Whether the owner is of this boot and does not run.
fn is_orphaned(table: &impl Table, own: &ProcessIdentity, mark: &Owner) -> bool {
    own.boot_id.as_ref() == Some(&mark.boot_id)
        // The number of one outside of our namespace says nothing here.
        && (mark.namespace.is_none() || mark.namespace == own.pid_namespace)
        && match table.status(mark.pid) {
            Some(status) => status.is_dead() || status.started != mark.started,
            // `/proc` may hide the processes of other users (`hidepid`).
            None => !table.exists(mark.pid),
        }
}
