//! The object that users hold.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use crate::name::Name;

use super::config::HeartbeatBuilder;
use super::error::HeartbeatError;
use super::file;
use super::reader::{HeartbeatReader, HeartbeatVerdict};
use super::shared::{Phase, Shared, hold};
use super::state::{BeatState, HeartbeatState};

/// A file that says "I am here and I work", for whoever watches from outside.
///
/// **What it prevents.** A process that is there and does nothing, and one that is not there any more,
/// look the same from outside: no answer. A file that is written again and again tells them apart, for a
/// container's probe, a supervisor, a script.
///
/// **Default.** The first beat is made at once, then one every 10 s. Stopping, also by a drop, is written
/// down, so that an ended process is not taken for a live one.
///
/// ```
/// # let path = std::env::temp_dir().join(format!("beat-mod-{}", std::process::id()));
/// use buttress::supervise::heartbeat::Heartbeat;
/// # use std::time::Duration;
/// let heart = Heartbeat::builder("orders").file(&path).build()?;
/// heart.start()?;
/// assert!(Heartbeat::is_alive(&path, Duration::from_secs(30)));
/// drop(heart);
/// assert_eq!(Heartbeat::verdict(&path, Duration::from_secs(30)).as_str(), "stopped");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// **Customised.** A thread that beats proves that this thread runs. Name what has to make progress, and
/// it beats only if that did:
///
/// ```
/// # let path = std::env::temp_dir().join(format!("beat-cust-{}", std::process::id()));
/// use buttress::supervise::{Pulse, heartbeat::Heartbeat};
/// # use std::time::Duration;
/// let worker = Pulse::new();
/// let heart = Heartbeat::builder("orders")
///     .file(&path)
///     .interval(Duration::from_secs(5))
///     .requires("worker", worker.clone())
///     .on_missed_beat(|missed| eprintln!("{missed}"))
///     .build()?;
/// heart.start()?;
/// worker.ping(); // in the worker's loop
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// **How a reader decides.** In this order: a clean stop is [`Stopped`](HeartbeatVerdict::Stopped). A beat of
/// an earlier boot or another machine is just that. On the same machine the process is looked up by number
/// *and* start. Then the age counts: by the time since boot, which nobody can set, where writer and reader
/// share it; else by the wall clock, where a beat from the future is
/// [`ClockSkew`](HeartbeatVerdict::ClockSkew). A machine that was suspended counts that time: its beats are
/// stale until the next one.
///
/// Files of the original program, which has the first four fields only, are read, and it reads ours. They
/// know no boot and no start, so for them the host name, the process number and the wall clock have to do.
///
/// # Semantics
/// - **Threads.** One thread writes, with a fixed schedule; a slow disk delays nobody else. Callbacks run on
///   another, one after another, with a time limit, async ones on a runtime of their own; a panic in one
///   stops nothing. A writer that hangs in a write is reported by a third, which all objects share.
/// - **Files.** Each beat replaces the file in one step; a full disk leaves the old one. Directories are
///   made at the start only. A lock beside the file (`NAME.lock`, which stays) keeps a second writer out, also
///   one in another process; it goes with the process. Unix only: elsewhere a second writer is not noticed.
/// - **Sharing.** Clones share one heartbeat; the last one that is dropped stops it.
/// - **Events.** `beat_late`, `beat_not_written`, `beat_withheld`, `beat_resumed`, `beat_not_stopped`,
///   `target_dead`, `target_back`, and `callback_overran`, `callback_panicked`, `callback_dropped`.
///
/// Outside Linux a state file has no boot and no namespaces, and readers use the wall clock.
#[derive(Clone)]
pub struct Heartbeat(Arc<Owner>);

/// What the handles share. The writer's thread has only what is inside, so that this can be dropped.
struct Owner(Arc<Shared>);

/// What a heartbeat has done so far.
///
/// ```
/// let heart = buttress::supervise::heartbeat::Heartbeat::builder("api").build()?;
/// assert_eq!(heart.stats().beats, 0);
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeartbeatStats {
    /// Beats made.
    pub beats: u64,
    /// Times that beats began to be missed.
    pub missed: u64,
}

impl Heartbeat {
    /// A heartbeat of this name, with defaults.
    ///
    /// ```
    /// let heart = buttress::supervise::heartbeat::Heartbeat::builder("api").build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> HeartbeatBuilder {
        HeartbeatBuilder::new(name.into())
    }

    pub(super) fn from_builder(builder: HeartbeatBuilder) -> Self {
        Self(Arc::new(Owner(Arc::new(Shared::new(builder)))))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// As if a write were under way, and did not end.
    #[cfg(test)]
    pub(super) fn while_writing(&self) -> impl Drop {
        hold(&self.shared().next)
    }

    /// Makes the first beat, on this thread, and starts the thread that makes the others.
    ///
    /// # Errors
    /// If it runs already, if another heartbeat writes this file, or if the first beat cannot be written.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("beat-start-{}", std::process::id()));
    /// use buttress::supervise::heartbeat::Heartbeat;
    /// # use std::time::Duration;
    /// let heart = Heartbeat::builder("api").file(&path).build()?;
    /// heart.start()?;
    /// assert!(Heartbeat::is_alive(&path, Duration::from_secs(30)));
    /// heart.stop();
    /// assert!(!Heartbeat::is_alive(&path, Duration::from_secs(30)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start(&self) -> Result<(), HeartbeatError> {
        let shared = self.shared();
        {
            let mut run = hold(&shared.run);
            if run.phase != Phase::Idle {
                return Err(HeartbeatError::AlreadyRunning);
            }
            run.phase = Phase::Starting;
        }
        let started = shared.start();
        if started.is_err() {
            hold(&shared.run).phase = Phase::Idle;
        }
        started
    }

    /// Ends the beats and says in the file that this was on purpose. Waits at most 2 s for a write that
    /// hangs. Nothing happens if it is not running.
    ///
    /// ```
    /// let heart = buttress::supervise::heartbeat::Heartbeat::builder("api").build()?;
    /// heart.stop();
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn stop(&self) {
        self.shared().stop();
    }

    /// Beats now, on this thread, besides the schedule and whether it runs or not. Calls no callback.
    ///
    /// # Errors
    /// If the file cannot be written.
    ///
    /// ```
    /// let heart = buttress::supervise::heartbeat::Heartbeat::builder("api").build()?;
    /// heart.beat()?;
    /// assert_eq!(heart.stats().beats, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn beat(&self) -> Result<(), HeartbeatError> {
        self.shared().make_directory()?;
        self.shared().write(BeatState::Running).map(drop)
    }

    /// Says something else from the next beat on.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    ///
    /// ```
    /// let heart = buttress::supervise::heartbeat::Heartbeat::builder("api").build()?;
    /// heart.set_metadata(&[1, 2, 3])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_metadata(&self, metadata: &(impl Serialize + ?Sized)) -> Result<(), HeartbeatError> {
        let metadata =
            file::json(metadata).map_err(|error| HeartbeatError::Metadata(error.to_string()))?;
        *hold(&self.shared().metadata) = metadata;
        Ok(())
    }

    /// Whether it has been started and not been stopped.
    ///
    /// ```
    /// assert!(!buttress::supervise::heartbeat::Heartbeat::builder("api").build()?.is_running());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn is_running(&self) -> bool {
        hold(&self.shared().run).phase == Phase::Running
    }

    /// Its name.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::heartbeat::Heartbeat::builder("api").build()?.name().as_str(), "api");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn name(&self) -> Name {
        self.shared().name
    }

    /// How often it beats.
    ///
    /// ```
    /// let heart = buttress::supervise::heartbeat::Heartbeat::builder("api").build()?;
    /// assert_eq!(heart.interval().as_secs(), 10);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.shared().interval
    }

    /// What it has done so far.
    ///
    /// ```
    /// let heart = buttress::supervise::heartbeat::Heartbeat::builder("api").build()?;
    /// assert_eq!(heart.stats().missed, 0);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> HeartbeatStats {
        HeartbeatStats {
            beats: self.shared().beats.load(Ordering::Relaxed),
            missed: self.shared().missed.load(Ordering::Relaxed),
        }
    }

    /// Reads a state file. `None` if there is none, or none that can be read; [`verdict`](Self::verdict)
    /// tells the difference.
    ///
    /// ```
    /// assert!(buttress::supervise::heartbeat::Heartbeat::read_state("/nowhere/at/all").is_none());
    /// ```
    #[must_use]
    pub fn read_state(path: impl AsRef<Path>) -> Option<HeartbeatState> {
        HeartbeatState::read(path.as_ref()).ok()??.ok()
    }

    /// What a state file says about its writer, if a beat may be `max_age` old.
    ///
    /// ```
    /// use buttress::supervise::heartbeat::{Heartbeat, HeartbeatVerdict};
    /// # use std::time::Duration;
    /// let verdict = Heartbeat::verdict("/nowhere/at/all", Duration::from_secs(30));
    /// assert_eq!(verdict, HeartbeatVerdict::Missing);
    /// ```
    #[must_use]
    pub fn verdict(path: impl AsRef<Path>, max_age: Duration) -> HeartbeatVerdict {
        HeartbeatReader::here().verdict(path, max_age)
    }

    /// Whether the writer of a state file is alive. Whatever cannot be read is not; see
    /// [`verdict`](Self::verdict) for why.
    ///
    /// ```
    /// use buttress::supervise::heartbeat::Heartbeat;
    /// assert!(!Heartbeat::is_alive("/nowhere/at/all", std::time::Duration::from_secs(30)));
    /// ```
    #[must_use]
    pub fn is_alive(path: impl AsRef<Path>, max_age: Duration) -> bool {
        Self::verdict(path, max_age).is_alive()
    }
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heartbeat")
            .field("name", &self.name())
            .field("file", &self.shared().file)
            .field("running", &self.is_running())
            .finish_non_exhaustive()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.stop();
    }
}
