//! The object that users hold.

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Wake;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::{self, Tick};
use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observers, Severity};
use crate::supervise::teller::Teller;
use crate::supervise::{Lifecycle, Phase};

use super::child::Child;
use super::config::ProcessSupervisorBuilder;
use super::core::{Core, Intensity, Seen};
use super::engine::Engine;
use super::status::{ChildState, ChildStatus, SupervisorEnd, SupervisorReport, SupervisorStats};
use super::sys::{self, Waker};

/// Starts child processes, keeps them running, and stops them in order.
///
/// A worker process that dies is gone until somebody looks; one that hangs is worse; one that crashes at every
/// start, restarted at once, takes the machine with it; and when the parent is killed, all of them stay, and
/// the next parent's workers get in their way. This prevents these four.
///
/// ```
/// use buttress::supervise::process::{Child, ProcessSupervisor, Restart, SupervisorEnd};
///
/// let job = Child::new("job", "sh").args(["-c", "exit 0"]).restart(Restart::Transient);
/// let supervisor = ProcessSupervisor::builder("orders").child(job).build()?;
/// supervisor.start()?;
/// let report = supervisor.wait_blocking(std::time::Duration::from_secs(60)).unwrap();
/// assert_eq!(report.end, SupervisorEnd::Finished);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A server's workers, frozen ones found by their heartbeat files, all stopped when the server drains:
///
/// ```
/// use buttress::Backoff;
/// use buttress::supervise::{Lifecycle, Phase, process::{Child, OrphanSweep, ProcessSupervisor, Strategy}};
/// use std::time::Duration;
///
/// # fn start() -> Result<(), Box<dyn std::error::Error>> {
/// OrphanSweep::new("orders").kill_blocking()?; // what an earlier one, killed, has left
///
/// let life = Lifecycle::new();
/// let supervisor = ProcessSupervisor::builder("orders")
///     .child(
///         Child::new("index", "orders-index")
///             .ready_when(|_| std::path::Path::new("/run/orders/index.sock").exists())
///             .on_line(|line| println!("{}: {}", line.child, line.text())),
///     )
///     .child(
///         Child::new("worker", "orders-worker")
///             .heartbeat("/run/orders/worker.json", Duration::from_secs(15))
///             .backoff(Backoff::exponential(Duration::from_millis(200), Duration::from_secs(5)))
///             .grace(Duration::from_secs(5)),
///     )
///     .strategy(Strategy::RestForOne)
///     .intensity(10, Duration::from_secs(300))
///     .lifecycle(&life, Phase::Draining)
///     .build()?;
/// supervisor.start()?;
/// # Ok(())
/// # }
/// ```
///
/// # How it decides
///
/// Children start in their order, each when the one before is ready. One that ends is judged by its
/// [`Restart`](super::Restart) and comes back after its [`backoff`](Child::backoff), alone or with others
/// ([`Strategy`](super::Strategy)); the backoff begins anew only after it has been ready for
/// [`stable_after`](Child::stable_after). More restarts than the
/// [`intensity`](ProcessSupervisorBuilder::intensity) allows stop all: whoever is above decides then.
/// To stop one, its group gets the [`stop_signal`](Child::stop_signal) and `SIGCONT`, and after its
/// [`grace`](Child::grace) `SIGKILL`; one that does not even die of that (it waits for a broken device) is
/// reported, and neither waited for nor replaced. When a child's process has ended, what it had
/// started in its group is killed.
///
/// # Semantics
///
/// - *Runtime*: none is needed. Processes are started, and their ends seen, by one thread that lives as long
///   as they do: on Linux the kernel takes the end of the *thread* that started a process for the parent's
///   death. The ends are seen at once there (`pidfd`, Linux 5.3), elsewhere within 20 ms. The
///   output of children has a thread, if there is any to read; so have the questions about each process, and one
///   more looks after these.
/// - *Other children*: of this process are left alone. Nothing here waits for "any child", so that tokio's
///   and the standard library's keep their statuses.
/// - *Sharing*: clones share it. When the last one is dropped the children are stopped, which goes on in the
///   background; use [`stop`](Self::stop) to wait for it.
/// - *Death of this process*: children get [`parent_death_signal`](Child::parent_death_signal) (Linux), those
///   with a [`lifeline`](Child::lifeline) see it anywhere. What is left then is found by
///   [`OrphanSweep`](super::OrphanSweep). A group is not a jail: a grandchild that has made a session of its
///   own is not in it; see also [`subreaper`](ProcessSupervisorBuilder::subreaper).
/// - *Platforms*: Unix. What only Linux can do says so, and asking for it elsewhere is an error.
///
/// # Events
///
/// [`Supervised`](crate::observe::EventKind::Supervised), each beginning with the child's name: `child_started`, `child_ready`,
/// `child_not_started`, `child_exited` (how, and what follows), `child_frozen`, `child_start_timeout`, `child_killed`,
/// `child_unkillable`, `child_not_asked`, `child_output_lost`, `escalated`; and `stopped` in the end. Observers run on a
/// thread of their own, one event after another. The supervisor waits for that, but no longer than a moment: one that
/// hangs holds nobody up, keeps that one thread, and misses events when very many wait (`callback_dropped`).
#[derive(Clone)]
pub struct ProcessSupervisor(Arc<Handle>);

struct Handle(Arc<Shared>);

pub(super) struct Settings {
    pub(super) name: Name,
    pub(super) children: Vec<Child>,
    pub(super) intensity: Option<Intensity>,
    pub(super) subreaper: bool,
    pub(super) lifecycle: Option<(Lifecycle, Phase)>,
    pub(super) observers: Observers,
}

pub(super) struct Shared {
    pub(super) settings: Settings,
    inner: Mutex<Inner>,
    changed: Condvar,
    told: watch::Sender<()>,
    teller: Teller,
    pub(super) waker: Waker,
}

struct Inner {
    core: Core,
    started: bool,
    report: Option<SupervisorReport>,
    orphans: u64,
}

impl ProcessSupervisor {
    /// A supervisor called `name`, which its children carry as `BUTTRESS_APP`: it is what
    /// [`OrphanSweep`](super::OrphanSweep) looks for, so it must be the same after a restart.
    ///
    /// ```
    /// let _ = buttress::supervise::process::ProcessSupervisor::builder("orders");
    /// ```
    pub fn builder(name: impl Into<Name>) -> ProcessSupervisorBuilder {
        ProcessSupervisorBuilder::new(name.into())
    }

    pub(super) fn new(settings: Settings, core: Core) -> Result<Self, ConfigError> {
        let waker = Waker::new().map_err(|error| {
            ConfigError::new("name", settings.name, format!("a free file descriptor: {error}"))
        })?;
        let inner = Inner { core, started: false, report: None, orphans: 0 };
        let teller = Teller::new(settings.name, settings.observers.clone());
        let shared = Arc::new(Shared {
            settings,
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            told: watch::Sender::new(()),
            teller,
            waker,
        });
        shared.settings.observers.register(&shared);
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// Starts the children, on a thread of its own that lives as long as they do. Returns at once; see
    /// [`ready`](Self::ready).
    ///
    /// # Errors
    /// If it has been started or stopped before, or if the system has no thread or descriptor left.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, ProcessSupervisor};
    /// let supervisor = ProcessSupervisor::builder("a").child(Child::new("b", "sleep").arg("60")).build()?;
    /// supervisor.start()?;
    /// assert!(supervisor.start().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start(&self) -> io::Result<()> {
        let shared = self.shared();
        let mut inner = shared.inner();
        if inner.started || inner.report.is_some() {
            let why = "the supervisor has been started or stopped before";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        Engine::start(shared)?;
        inner.started = true;
        Ok(())
    }

    /// Asks for all children to be stopped, in reverse order, and returns at once. Those that still run
    /// after `within` are killed then, whatever their own [`grace`](Child::grace) is.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, ProcessSupervisor};
    /// let supervisor = ProcessSupervisor::builder("a").child(Child::new("b", "sleep").arg("60")).build()?;
    /// supervisor.start()?;
    /// supervisor.request_stop(None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn request_stop(&self, within: Option<Duration>) {
        let shared = self.shared();
        let mut inner = shared.inner();
        if !inner.started && inner.report.is_none() {
            let end = SupervisorEnd::Stopped;
            let stats = SupervisorStats::default();
            inner.report = Some(SupervisorReport { end, unkillable: Vec::new(), stats });
            drop(inner);
            shared.tell();
        } else {
            inner.core.request_stop(within.map(|within| clock::now().after(within)));
            drop(inner);
            shared.waker.wake();
        }
    }

    /// [`request_stop`](Self::request_stop), then [`wait`](Self::wait). Dropping the future does not take
    /// the request back.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// use buttress::supervise::process::{Child, ProcessSupervisor, SupervisorEnd};
    /// let supervisor = ProcessSupervisor::builder("a").child(Child::new("b", "sleep").arg("60")).build()?;
    /// supervisor.start()?;
    /// assert_eq!(supervisor.stop(None).await.end, SupervisorEnd::Stopped);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap()
    /// ```
    pub async fn stop(&self, within: Option<Duration>) -> SupervisorReport {
        self.request_stop(within);
        self.wait().await
    }

    /// As [`stop`](Self::stop), blocking the thread until all have ended or cannot be killed.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, ProcessSupervisor, SupervisorEnd};
    /// let supervisor = ProcessSupervisor::builder("a").child(Child::new("b", "sleep").arg("60")).build()?;
    /// supervisor.start()?;
    /// assert_eq!(supervisor.stop_blocking(None).end, SupervisorEnd::Stopped);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[allow(clippy::must_use_candidate, reason = "the report is on top")]
    pub fn stop_blocking(&self, within: Option<Duration>) -> SupervisorReport {
        self.request_stop(within);
        loop {
            if let Some(report) = self.wait_blocking(Duration::from_secs(3600)) {
                return report;
            }
        }
    }

    /// Returns when it has ended: all children are gone, or could not be killed. Dropping the future has
    /// no effect.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// use buttress::supervise::process::{Child, ProcessSupervisor, Restart, SupervisorEnd};
    /// let job = Child::new("job", "true").restart(Restart::Temporary);
    /// let supervisor = ProcessSupervisor::builder("a").child(job).build()?;
    /// supervisor.start()?;
    /// assert_eq!(supervisor.wait().await.end, SupervisorEnd::Finished);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap()
    /// ```
    pub async fn wait(&self) -> SupervisorReport {
        let mut changes = self.shared().told.subscribe();
        loop {
            if let Some(report) = self.report() {
                return report;
            }
            // The sender is in `self`: it cannot be gone.
            let _ = changes.changed().await;
        }
    }

    /// As [`wait`](Self::wait), blocking the thread for at most `timeout`. `None` if it has not ended.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, ProcessSupervisor};
    /// let supervisor = ProcessSupervisor::builder("a").child(Child::new("b", "true")).build()?;
    /// assert!(supervisor.wait_blocking(std::time::Duration::ZERO).is_none());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn wait_blocking(&self, timeout: Duration) -> Option<SupervisorReport> {
        self.shared().wait_while(timeout, |inner| inner.report.is_none()).report.clone()
    }

    /// Returns when all children are ready (or finished): true; or when it has ended: false.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// use buttress::supervise::process::{Child, ProcessSupervisor};
    /// let supervisor = ProcessSupervisor::builder("a").child(Child::new("b", "sleep").arg("60")).build()?;
    /// supervisor.start()?;
    /// assert!(supervisor.ready().await);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap()
    /// ```
    pub async fn ready(&self) -> bool {
        let mut changes = self.shared().told.subscribe();
        loop {
            {
                let inner = self.shared().inner();
                if inner.report.is_some() || inner.core.all_ready() {
                    return inner.report.is_none();
                }
            }
            let _ = changes.changed().await;
        }
    }

    /// As [`ready`](Self::ready), blocking the thread for at most `timeout`.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, ProcessSupervisor};
    /// let supervisor = ProcessSupervisor::builder("a").child(Child::new("b", "sleep").arg("60")).build()?;
    /// supervisor.start()?;
    /// assert!(supervisor.ready_blocking(std::time::Duration::from_secs(60)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn ready_blocking(&self, timeout: Duration) -> bool {
        let waiting = |inner: &mut Inner| inner.report.is_none() && !inner.core.all_ready();
        let inner = self.shared().wait_while(timeout, waiting);
        inner.report.is_none() && inner.core.all_ready()
    }

    /// How it ended, if it has.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, ProcessSupervisor};
    /// let supervisor = ProcessSupervisor::builder("a").child(Child::new("b", "true")).build()?;
    /// assert!(supervisor.report().is_none());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn report(&self) -> Option<SupervisorReport> {
        self.shared().inner().report.clone()
    }

    /// Whether it has escalated (from that decision on, not only when the last child has stopped) or
    /// failed: nobody looks after the children any more. Makes a liveness check, if whoever is above
    /// restarts this process by that.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, health::Health, process::{Child, ProcessSupervisor}};
    ///
    /// let health = Health::new(Lifecycle::new());
    /// let supervisor = ProcessSupervisor::builder("a").child(Child::new("b", "true")).build()?;
    /// let watched = supervisor.clone();
    /// health.live_while("workers", move || !watched.has_given_up());
    /// assert!(health.is_live());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[doc(alias = "is_escalated")]
    #[must_use]
    pub fn has_given_up(&self) -> bool {
        let inner = self.shared().inner();
        let failed = |report: &SupervisorReport| report.end == SupervisorEnd::Failed;
        inner.core.has_escalated() || inner.report.as_ref().is_some_and(failed)
    }

    /// Stops a child and starts it again, which is no failure. False if there is none of that name or it does
    /// not run.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, ProcessSupervisor};
    /// let supervisor = ProcessSupervisor::builder("a").child(Child::new("b", "true")).build()?;
    /// assert!(!supervisor.restart("c"));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn restart(&self, child: impl Into<Name>) -> bool {
        let shared = self.shared();
        let restarts = shared
            .index(child.into())
            .is_some_and(|index| shared.inner().core.restart(index, clock::now()));
        shared.waker.wake();
        restarts
    }

    /// Sends a signal to a child's process: to it alone, not to its group.
    ///
    /// # Errors
    /// If there is no child of that name or no process of it (`NotFound`), if the number is not that of a
    /// signal (`InvalidInput`), or as the system says.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, ProcessSupervisor};
    /// let supervisor = ProcessSupervisor::builder("a").child(Child::new("b", "sleep").arg("60")).build()?;
    /// supervisor.start()?;
    /// assert!(supervisor.ready_blocking(std::time::Duration::from_secs(60)));
    /// supervisor.signal("b", libc::SIGHUP)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn signal(&self, child: impl Into<Name>, signal: i32) -> io::Result<()> {
        let signal = sys::signal(signal).ok_or(io::ErrorKind::InvalidInput)?;
        let shared = self.shared();
        let index = shared.index(child.into()).ok_or(io::ErrorKind::NotFound)?;
        // Under the lock: the process is collected only after the core has been told, so the number is
        // still its own, unless somebody else in this process has taken its status.
        let inner = shared.inner();
        let pid = inner.core.pid(index).and_then(sys::pid_of).ok_or(io::ErrorKind::NotFound)?;
        sys::has_ended(pid).map_err(|_| io::ErrorKind::NotFound)?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// All children as they are now, in their order.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, ProcessSupervisor};
    /// let supervisor = ProcessSupervisor::builder("a").child(Child::new("b", "true")).build()?;
    /// assert_eq!(supervisor.status().len(), 1);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn status(&self) -> Vec<ChildStatus> {
        let shared = self.shared();
        let (inner, now) = (shared.inner(), clock::now());
        let children = shared.settings.children.iter().enumerate();
        children.map(|(index, child)| inner.status(index, child.name(), now)).collect()
    }

    /// What has happened so far.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, ProcessSupervisor};
    /// let supervisor = ProcessSupervisor::builder("a").child(Child::new("b", "true")).build()?;
    /// assert_eq!(supervisor.stats().starts, 0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> SupervisorStats {
        self.shared().inner().stats()
    }

    /// The name.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, ProcessSupervisor};
    /// let supervisor = ProcessSupervisor::builder("a").child(Child::new("b", "true")).build()?;
    /// assert_eq!(supervisor.name().as_str(), "a");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn name(&self) -> Name {
        self.shared().settings.name
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }
}

impl fmt::Debug for ProcessSupervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessSupervisor")
            .field("name", &self.name())
            .field("report", &self.report())
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.inner().core.request_stop(None);
        self.0.waker.wake();
    }
}

impl Inner {
    fn stats(&self) -> SupervisorStats {
        let totals = self.core.totals();
        SupervisorStats {
            starts: totals.starts,
            restarts: totals.restarts,
            freezes: totals.freezes,
            start_timeouts: totals.start_timeouts,
            kills: totals.kills,
            orphans_collected: self.orphans,
        }
    }

    fn status(&self, index: usize, name: Name, now: Tick) -> ChildStatus {
        let state = match self.core.seen(index, now) {
            Seen::Waiting => ChildState::Waiting,
            Seen::Backoff(remaining) => ChildState::Backoff { remaining },
            Seen::Starting => ChildState::Starting,
            Seen::Up(since) => ChildState::Up { since },
            Seen::Stopping => ChildState::Stopping,
            Seen::Unkillable => ChildState::Unkillable,
            Seen::Stopped => ChildState::Stopped,
            Seen::Finished => ChildState::Finished,
        };
        ChildStatus {
            name,
            state,
            pid: self.core.pid(index),
            runs: self.core.run(index),
            restarts: self.core.restarts(index),
            last_exit: self.core.last_exit(index),
        }
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(
        &self,
        timeout: Duration,
        condition: impl FnMut(&mut Inner) -> bool,
    ) -> MutexGuard<'_, Inner> {
        let waited = self.changed.wait_timeout_while(self.inner(), timeout, condition);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn index(&self, child: Name) -> Option<usize> {
        self.settings.children.iter().position(|spec| spec.name() == child)
    }

    /// Something happened: those who wait look again.
    /// What a registry shows, at one moment; also whether it has given up.
    pub(super) fn seen(&self) -> (Vec<ChildStatus>, SupervisorStats, bool) {
        let (inner, now) = (self.inner(), clock::now());
        let children = self.settings.children.iter().enumerate();
        let children =
            children.map(|(index, child)| inner.status(index, child.name(), now)).collect();
        let failed = |report: &SupervisorReport| report.end == SupervisorEnd::Failed;
        let gave_up = inner.core.has_escalated() || inner.report.as_ref().is_some_and(failed);
        (children, inner.stats(), gave_up)
    }

    pub(super) fn tell(&self) {
        self.told.send_replace(());
        self.changed.notify_all();
    }

    pub(super) fn with_core<T>(&self, f: impl FnOnce(&mut Core, Tick) -> T) -> T {
        f(&mut self.inner().core, clock::now())
    }

    pub(super) fn collected_orphan(&self) {
        self.inner().orphans += 1;
    }

    pub(super) fn finish(&self, end: SupervisorEnd) {
        let mut inner = self.inner();
        let now = clock::now();
        let unkillable = self.settings.children.iter().enumerate().filter_map(|(index, child)| {
            Some((child.name(), inner.core.pid(index)?))
                .filter(|_| matches!(inner.core.seen(index, now), Seen::Unkillable))
        });
        let unkillable = unkillable.collect();
        let stats = inner.stats();
        inner.report.get_or_insert(SupervisorReport { end, unkillable, stats });
        drop(inner);
        self.tell();
    }

    pub(super) fn emit(&self, severity: Severity, what: &'static str, detail: fmt::Arguments<'_>) {
        self.teller.tell(severity, what, detail);
    }

    pub(super) fn emit_last(&self, severity: Severity, detail: fmt::Arguments<'_>) {
        let deadline = self.settings.lifecycle.as_ref().and_then(|(life, _)| life.deadline());
        let left = deadline
            .map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        self.teller.tell_last(left, severity, "stopped", detail);
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.waker.wake();
    }
}
