//! The object that users hold.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor, RuntimeMetrics};
use tokio::sync::Notify;

use crate::clock::{self, Tick};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers, Severity};

use super::super::super::alert::{Alert, Runner};
use super::super::super::monitor::{self, Checked, Entry};
use super::super::super::progress::Progress;
use super::super::error::WatchdogError;
use super::config::{Hooks, RuntimeWatchdogBuilder};
use super::core::{Core, Sample, Told, Who};
use super::threads::ThreadState;

/// A worker of the runtime that is blocked, or the runtime as a whole.
///
/// ```
/// use buttress::supervise::watchdog::RuntimeFreeze;
/// fn one_of_many(freeze: &RuntimeFreeze) -> bool { freeze.worker.is_some() && freeze.workers > 1 }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeFreeze {
    /// Which watchdog.
    pub watchdog: Name,
    /// Which worker, from 0. `None`: a task that has only to answer has not, so no worker takes up new tasks.
    pub worker: Option<usize>,
    /// How many workers there are.
    pub workers: usize,
    /// For how long.
    pub silent: Duration,
    /// What the threads of the process were doing when it was seen; empty outside Linux. Which of them is the
    /// worker, the runtime does not say; a blocked one is not in the wait that idle ones share.
    pub threads: Vec<ThreadState>,
}

/// The end of a [`RuntimeFreeze`].
///
/// ```
/// use buttress::supervise::watchdog::RuntimeRecovery;
/// fn long(recovery: &RuntimeRecovery) -> bool { recovery.after.as_secs() > 5 }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeRecovery {
    /// Which watchdog.
    pub watchdog: Name,
    /// Which worker, or `None` for the runtime as a whole.
    pub worker: Option<usize>,
    /// How long it was frozen.
    pub after: Duration,
}

/// What a runtime watchdog has seen so far.
///
/// ```
/// # let runtime = tokio::runtime::Runtime::new().unwrap();
/// use buttress::supervise::watchdog::RuntimeWatchdog;
/// let dog = RuntimeWatchdog::builder("api", runtime.handle()).build()?;
/// assert_eq!(dog.stats().freezes, 0);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeWatchdogStats {
    /// How often a worker was blocked.
    pub freezes: u64,
    /// How often the runtime as a whole did not answer.
    pub canary_freezes: u64,
    /// How often the watchdog came too late itself to say anything.
    pub observer_gaps: u64,
    /// Looks at which all was well.
    pub healthy_checks: u64,
}

/// Names the worker of a tokio runtime that is blocked, while it is.
///
/// **What it prevents.** One task that blocks (a lock, a synchronous call, a loop without a yield) holds a
/// worker. The others go on, so nothing looks wrong from inside, but the tasks queued behind it wait, and
/// the driver of timers and sockets may be among them. A task that measures its own delay runs on the other
/// workers and sees nothing.
///
/// **Default.** A worker that is in one poll for 1 s is told once, and so is its end.
///
/// ```
/// # let runtime = tokio::runtime::Runtime::new().unwrap();
/// use buttress::supervise::watchdog::RuntimeWatchdog;
/// let dog = RuntimeWatchdog::builder("api", runtime.handle())
///     .on_frozen(|freeze| eprintln!("{freeze:?}"))
///     .build()?;
/// dog.start()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// **Customised.** With a heartbeat that stops when the runtime does, and an end by `SIGABRT`:
///
/// ```
/// # let runtime = tokio::runtime::Runtime::new().unwrap();
/// use buttress::supervise::{heartbeat::Heartbeat, watchdog::RuntimeWatchdog};
/// # use std::time::Duration;
/// let dog = RuntimeWatchdog::builder("api", runtime.handle())
///     .frozen_after(Duration::from_millis(250))
///     .abort_after(Duration::from_secs(60))
///     .build()?;
/// let heart = Heartbeat::builder("api").requires("runtime", dog.clone()).build()?;
/// dog.start()?;
/// heart.start()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// **How it decides.** A thread outside of the runtime reads two counters per worker that tokio publishes,
/// stable ones: how often it parked and unparked, and how long it was busy. A worker that is unparked and
/// changes neither is in one poll. Beside that a small task is asked to answer; if it does not, no worker
/// takes up new tasks. The two are reported apart. When a look comes late itself, the time since the one
/// before does not count; if by more than half an interval and a quarter of the threshold, it is an
/// `observer_gap`, and all starts again. So a processor that is not to be had is not taken for a blocked
/// worker, and a freeze is found later then.
///
/// # Semantics
/// - **What is legal stays legal.** `block_in_place` and `spawn_blocking` free the worker; a task that yields,
///   however busy, lets it publish. A computation for longer than the threshold without a yield is what this
///   is for.
/// - **Where it looks.** At workers. The future of `block_on` runs on the calling thread, which is none of
///   them in a runtime of several threads. A runtime of one thread is watched while somebody drives it; one
///   whose `block_on` has returned looks frozen, so stop the watch before.
/// - **Ladder.** Event, thread list, callbacks, and only if asked for an abort. By default it never ends
///   anything.
/// - **Limits.** Where there are no atomics of 64 bits tokio does not count, and only the small task remains.
///   The thread list needs Linux.
/// - **Sharing.** Clones share one watchdog; the last one that is dropped stops it, and so does the end of the
///   runtime.
/// - **Events.** `runtime_frozen`, `runtime_recovered`, `runtime_gone`, `observer_gap`, `aborting`.
#[derive(Clone)]
pub struct RuntimeWatchdog(Arc<Owner>);

struct Owner(Arc<Shared>);

struct Shared {
    name: Name,
    runtime: Handle,
    metrics: RuntimeMetrics,
    threshold: Duration,
    check: Duration,
    abort_after: Option<Duration>,
    hooks: Hooks,
    runner: Runner,
    observers: Observers,
    state: Mutex<State>,
    freezes: AtomicU64,
    canary_freezes: AtomicU64,
    gaps: AtomicU64,
    healthy: AtomicU64,
}

struct State {
    core: Core,
    running: bool,
    generation: u64,
    entry: Option<Entry>,
    canary: Option<Arc<Canary>>,
}

/// What the task and the monitor share.
#[derive(Default)]
struct Canary {
    asked: Notify,
    answered: AtomicBool,
    gone: AtomicBool,
    stopped: AtomicBool,
}

/// Says that the task has been dropped, as at the end of its runtime.
struct Gone(Arc<Canary>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Release);
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RuntimeWatchdog {
    /// A watchdog for this runtime.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// use buttress::supervise::watchdog::RuntimeWatchdog;
    /// let dog = RuntimeWatchdog::builder("api", &tokio::runtime::Handle::current()).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// # }).unwrap();
    /// ```
    pub fn builder(name: impl Into<Name>, runtime: &Handle) -> RuntimeWatchdogBuilder {
        RuntimeWatchdogBuilder::new(name.into(), runtime.clone())
    }

    pub(super) fn from_builder(builder: RuntimeWatchdogBuilder, check: Duration) -> Self {
        let runner = Runner::new(builder.name, builder.callback_timeout, builder.observers.clone());
        let one_thread = builder.runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        let state = State {
            core: Core::new(builder.threshold, check, one_thread),
            running: false,
            generation: 0,
            entry: None,
            canary: None,
        };
        Self(Arc::new(Owner(Arc::new(Shared {
            name: builder.name,
            metrics: builder.runtime.metrics(),
            runtime: builder.runtime,
            threshold: builder.threshold,
            check,
            abort_after: builder.abort_after,
            hooks: builder.hooks,
            runner,
            observers: builder.observers,
            state: Mutex::new(state),
            freezes: AtomicU64::new(0),
            canary_freezes: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            healthy: AtomicU64::new(0),
        }))))
    }

    /// Begins to watch. Puts one small task onto the runtime.
    ///
    /// # Errors
    /// If it runs already, or there is no thread to be had.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// use buttress::supervise::watchdog::RuntimeWatchdog;
    /// let dog = RuntimeWatchdog::builder("api", runtime.handle()).build()?;
    /// dog.start()?;
    /// assert!(dog.is_running() && !dog.is_frozen());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start(&self) -> Result<(), WatchdogError> {
        let shared = &self.0.0;
        let mut state = hold(&shared.state);
        if state.running {
            return Err(WatchdogError::AlreadyRunning);
        }
        let generation = state.generation + 1;
        let looked = Looked { shared: Arc::clone(shared), generation };
        let entry =
            monitor::enroll(Arc::new(looked), shared.check).map_err(WatchdogError::thread)?;
        let canary = Arc::new(Canary::default());
        // Answered: it has not been asked yet.
        canary.answered.store(true, Ordering::Relaxed);
        shared.runtime.spawn(sing(Gone(Arc::clone(&canary))));
        state.core.reset();
        state.running = true;
        state.generation = generation;
        state.entry = Some(entry);
        state.canary = Some(canary);
        Ok(())
    }

    /// Ends the watch. Nothing happens if it is not running.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # use buttress::supervise::watchdog::RuntimeWatchdog;
    /// RuntimeWatchdog::builder("api", runtime.handle()).build()?.stop();
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn stop(&self) {
        self.0.0.stop();
    }

    /// Whether it watches. It stops by itself when the runtime ends.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # use buttress::supervise::watchdog::RuntimeWatchdog;
    /// assert!(!RuntimeWatchdog::builder("api", runtime.handle()).build()?.is_running());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn is_running(&self) -> bool {
        hold(&self.0.0.state).running
    }

    /// Whether a worker, or the runtime as a whole, is frozen.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # use buttress::supervise::watchdog::RuntimeWatchdog;
    /// assert!(!RuntimeWatchdog::builder("api", runtime.handle()).build()?.is_frozen());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        let state = hold(&self.0.0.state);
        state.running && state.core.frozen().next().is_some()
    }

    /// The workers that are blocked, and for how long each.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # use buttress::supervise::watchdog::RuntimeWatchdog;
    /// assert!(RuntimeWatchdog::builder("api", runtime.handle()).build()?.frozen_workers().is_empty());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn frozen_workers(&self) -> Vec<(usize, Duration)> {
        let now = clock::now();
        let state = hold(&self.0.0.state);
        let workers = state.core.frozen().filter_map(|(who, since)| match who {
            Who::Worker(index) => Some((index, now.since(since))),
            Who::Canary => None,
        });
        workers.collect()
    }

    /// What it has seen so far.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new().unwrap();
    /// # use buttress::supervise::watchdog::RuntimeWatchdog;
    /// let dog = RuntimeWatchdog::builder("api", runtime.handle()).build()?;
    /// assert_eq!(dog.stats().healthy_checks, 0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> RuntimeWatchdogStats {
        let shared = &self.0.0;
        RuntimeWatchdogStats {
            freezes: shared.freezes.load(Ordering::Relaxed),
            canary_freezes: shared.canary_freezes.load(Ordering::Relaxed),
            observer_gaps: shared.gaps.load(Ordering::Relaxed),
            healthy_checks: shared.healthy.load(Ordering::Relaxed),
        }
    }
}

impl Progress for RuntimeWatchdog {
    fn count(&self) -> u64 {
        self.0.0.healthy.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for RuntimeWatchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeWatchdog")
            .field("name", &self.0.0.name)
            .field("running", &self.is_running())
            .field("frozen", &self.is_frozen())
            .finish_non_exhaustive()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// The task: answers when it is asked.
async fn sing(canary: Gone) {
    loop {
        canary.0.asked.notified().await;
        if canary.0.stopped.load(Ordering::Relaxed) {
            return;
        }
        canary.0.answered.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn stop(&self) {
        let mut state = hold(&self.state);
        state.running = false;
        let (entry, canary) = (state.entry.take(), state.canary.take());
        drop(state);
        if let Some(entry) = entry {
            monitor::withdraw(entry);
        }
        if let Some(canary) = canary {
            canary.stopped.store(true, Ordering::Relaxed);
            canary.asked.notify_one();
        }
    }

    #[cfg(target_has_atomic = "64")]
    fn samples(&self) -> Vec<Sample> {
        let workers = 0..self.metrics.num_workers();
        let sample = |worker| Sample {
            parks: self.metrics.worker_park_unpark_count(worker),
            busy: self.metrics.worker_total_busy_duration(worker),
        };
        workers.map(sample).collect()
    }

    /// The runtime does not count here; the canary has to do.
    #[cfg(not(target_has_atomic = "64"))]
    fn samples(&self) -> Vec<Sample> {
        Vec::new()
    }

    fn look(&self, now: Tick, generation: u64) -> bool {
        self.runner.tend(now);
        let samples = self.samples();
        let mut state = hold(&self.state);
        let canary =
            state.canary.clone().filter(|_| state.running && state.generation == generation);
        let Some(canary) = canary else { return false };
        if canary.gone.load(Ordering::Acquire) {
            state.running = false;
            drop(state);
            self.event(Severity::Info, "runtime_gone", format_args!("the watch is over"));
            return false;
        }
        let answered = canary.answered.swap(false, Ordering::Relaxed);
        let told = state.core.check(now, &samples, answered);
        let longest = state.core.frozen().map(|(_, since)| now.since(since)).max();
        drop(state);
        if answered {
            canary.asked.notify_one();
        }
        if longest.is_none() && !told.iter().any(|told| matches!(told, Told::Gap(_))) {
            self.healthy.fetch_add(1, Ordering::Relaxed);
        }
        for told in told {
            self.tell(told);
        }
        if let (Some(longest), Some(delay)) = (longest, self.abort_after)
            && longest >= self.threshold + delay
        {
            self.abort(longest);
        }
        true
    }

    fn tell(&self, told: Told) {
        match told {
            Told::Frozen { who, silent } => self.freeze(who, silent),
            Told::Recovered { who, after } => {
                let detail = format_args!("{}, after {after:.3?}", name_of(who));
                self.event(Severity::Info, "runtime_recovered", detail);
                let recovery =
                    RuntimeRecovery { watchdog: self.name, worker: index_of(who), after };
                self.runner.submit(self.hooks.recovered.as_ref().map(|hook| hook.job(recovery)));
            }
            Told::Gap(by) => {
                self.gaps.fetch_add(1, Ordering::Relaxed);
                let detail = format_args!("the watchdog itself was late by {by:.3?}");
                self.event(Severity::Info, "observer_gap", detail);
            }
        }
    }

    fn freeze(&self, who: Who, silent: Duration) {
        let counter = match who {
            Who::Worker(_) => &self.freezes,
            Who::Canary => &self.canary_freezes,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let message = format!("{} is blocked for {silent:.3?}", name_of(who));
        self.event(Severity::Error, "runtime_frozen", format_args!("{message}"));
        if self.hooks.alert.is_none() && self.hooks.frozen.is_none() {
            return;
        }
        let freeze = RuntimeFreeze {
            watchdog: self.name,
            worker: index_of(who),
            workers: self.metrics.num_workers(),
            silent,
            threads: ThreadState::all(),
        };
        let context = [
            ("worker", index_of(who).map_or("any".into(), |index| index.to_string())),
            ("silent", format!("{:.3}", silent.as_secs_f64())),
        ];
        let alert = Alert::new("runtime", message, context);
        let jobs = [
            self.hooks.alert.as_ref().map(|hook| hook.job(alert)),
            self.hooks.frozen.as_ref().map(|hook| hook.job(freeze)),
        ];
        self.runner.submit(jobs.into_iter().flatten());
    }

    fn abort(&self, frozen: Duration) -> ! {
        self.event(Severity::Error, "aborting", format_args!("frozen for {frozen:.3?}"));
        eprintln!("watchdog {}: frozen for {frozen:.3?}, aborting; threads:", self.name);
        for thread in ThreadState::all() {
            let place = thread.waits_in.as_deref().unwrap_or("-");
            eprintln!("  {} {} {} {place} {}", thread.id, thread.name, thread.state, thread.ticks);
        }
        std::process::abort();
    }

    fn event(&self, severity: Severity, what: &'static str, detail: fmt::Arguments<'_>) {
        let kind = EventKind::Supervised { severity, what, detail };
        self.observers.emit(LayerKind::Supervise, self.name, kind);
    }
}

const fn index_of(who: Who) -> Option<usize> {
    match who {
        Who::Worker(index) => Some(index),
        Who::Canary => None,
    }
}

fn name_of(who: Who) -> String {
    match who {
        Who::Worker(index) => format!("worker {index}"),
        Who::Canary => "the runtime".into(),
    }
}

struct Looked {
    shared: Arc<Shared>,
    generation: u64,
}

impl Checked for Looked {
    fn check(&self, now: Tick) -> Option<Duration> {
        self.shared.look(now, self.generation).then_some(self.shared.check)
    }
}
