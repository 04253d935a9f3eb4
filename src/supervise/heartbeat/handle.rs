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

/// Writes a file that says "I am here and I work": see the [module](super).
///
/// ```
/// let heart = buttress::supervise::heartbeat::Heartbeat::builder("orders").build()?;
/// heart.beat()?;
/// assert_eq!(heart.stats().beats, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
        let shared = Arc::new(Shared::new(builder));
        shared.observers.register(&shared);
        Self(Arc::new(Owner(shared)))
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
