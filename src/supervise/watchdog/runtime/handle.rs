//! The object that users hold.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::clock;
use crate::name::Name;

use super::super::super::progress::Progress;
use super::super::error::WatchdogError;
use super::config::RuntimeWatchdogBuilder;
use super::core::Who;
use super::report::RuntimeWatchdogStats;
use super::shared::{Shared, hold};

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
        Self(Arc::new(Owner(Arc::new(Shared::new(builder, check)))))
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
        self.0.0.start()
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

    /// The workers that are blocked, and for how long each. None if it does not watch.
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
        if !state.running {
            return Vec::new();
        }
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
