//! The settings of a heartbeat, checked.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::error::ConfigError;
use crate::name::Name;
use crate::observe::{Observe, Observers};

use super::super::alert::{Alert, Hook};
use super::super::progress::Progress;
use super::error::MissedBeat;
use super::file::{self, Durability};
use super::handle::Heartbeat;
use super::state::HeartbeatState;
use super::target::HeartbeatTarget;

const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(300);

pub(super) struct Target {
    pub(super) name: String,
    pub(super) target: Arc<dyn HeartbeatTarget>,
}

/// User code that a heartbeat calls.
#[derive(Default)]
pub(super) struct Hooks {
    pub(super) beat: Option<Hook<HeartbeatState>>,
    pub(super) missed: Option<Hook<MissedBeat>>,
    pub(super) alert: Option<Hook<Alert>>,
    pub(super) target_dead: Option<Hook<()>>,
}

/// Builds a [`Heartbeat`]; see [`Heartbeat::builder`].
///
/// | setting | default | range |
/// |---|---|---|
/// | [`file`](Self::file) | none: callbacks only | |
/// | [`interval`](Self::interval) | 10 s | 1 s to 300 s |
/// | [`late_after`](Self::late_after) | half an interval | above 0, at most 300 s |
/// | [`durability`](Self::durability) | rename | |
/// | [`private`](Self::private) | off: others may read | |
/// | [`callback_timeout`](Self::callback_timeout) | 10 s | 1 ms to 1 hour |
///
/// ```
/// use buttress::supervise::heartbeat::{Heartbeat, HeartbeatBuilder};
/// use std::time::Duration;
/// // What all hearts of a program have in common.
/// fn settings(heart: HeartbeatBuilder) -> HeartbeatBuilder {
///     heart.interval(Duration::from_secs(5)).late_after(Duration::from_secs(1))
/// }
/// let heart = settings(Heartbeat::builder("api").file("/run/api/heartbeat.json")).build()?;
/// # let _ = heart;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[must_use]
pub struct HeartbeatBuilder {
    pub(super) name: Name,
    pub(super) file: Option<PathBuf>,
    pub(super) interval: Duration,
    pub(super) late_after: Option<Duration>,
    pub(super) durability: Durability,
    pub(super) private: bool,
    pub(super) callback_timeout: Duration,
    pub(super) metadata: Result<String, String>,
    pub(super) sources: Vec<(Name, Arc<dyn Progress>)>,
    pub(super) target: Option<Target>,
    pub(super) hooks: Hooks,
    pub(crate) observers: Observers,
}

impl fmt::Debug for HeartbeatBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeartbeatBuilder")
            .field("name", &self.name)
            .field("file", &self.file)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

impl HeartbeatBuilder {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            file: None,
            interval: Duration::from_secs(10),
            late_after: None,
            durability: Durability::Rename,
            private: false,
            callback_timeout: Duration::from_secs(10),
            metadata: Ok("{}".into()),
            sources: Vec::new(),
            target: None,
            hooks: Hooks::default(),
            observers: Observers::default(),
        }
    }

    /// Writes each beat to this file. A path in memory (`/run`, `/dev/shm`) never waits for a disk.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// let heart = Heartbeat::builder("api").file("/run/api/beat.json").build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Beats this often. Readers should allow three times that.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// # use std::time::Duration;
    /// let error = Heartbeat::builder("api").interval(Duration::ZERO).build().unwrap_err();
    /// assert_eq!(error.to_string(), "invalid interval: 0ns, expected 1 s to 300 s");
    /// ```
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// A beat that is later than this counts as missed.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// # use std::time::Duration;
    /// let heart = Heartbeat::builder("api").late_after(Duration::from_secs(2)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn late_after(mut self, delay: Duration) -> Self {
        self.late_after = Some(delay);
        self
    }

    /// How much a write waits for the disk.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::{Durability, Heartbeat};
    /// let heart = Heartbeat::builder("api").durability(Durability::File).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Only the owner may read the file. Unix only; elsewhere it is an error.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// # if cfg!(unix) {
    /// let heart = Heartbeat::builder("api").private().build()?;
    /// # }
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// Says this, too, in each beat. The order of keys is kept.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// #[derive(serde::Serialize)]
    /// struct About { version: &'static str }
    /// let heart = Heartbeat::builder("api").metadata(&About { version: "1.0" }).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn metadata(mut self, metadata: &(impl Serialize + ?Sized)) -> Self {
        self.metadata = file::json(metadata).map_err(|error| error.to_string());
        self
    }

    /// Beats only if `source` made progress since the last beat that was written; all of them, if there are several.
    /// A beat that is due less than half an interval after a late one asks for none.
    /// Without one, a beat shows that the process is there, not that it does anything.
    ///
    /// ```
    /// # use buttress::supervise::{Pulse, heartbeat::Heartbeat};
    /// let worker = Pulse::new();
    /// let heart = Heartbeat::builder("api").requires("worker", worker.clone()).build()?;
    /// // In the worker's loop:
    /// worker.ping();
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn requires(mut self, name: impl Into<Name>, source: impl Progress) -> Self {
        self.sources.push((name.into(), Arc::new(source)));
        self
    }

    /// Looks at each beat whether `target` is dead.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// let heart = Heartbeat::builder("api")
    ///     .target("socket", || false)
    ///     .on_target_dead(|()| println!("reconnect"))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn target(mut self, name: impl Into<String>, target: impl HeartbeatTarget) -> Self {
        self.target = Some(Target { name: name.into(), target: Arc::new(target) });
        self
    }

    /// Called when the target has died: once, and again when it has come back and died again.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// let heart = Heartbeat::builder("api").target("s", || true).on_target_dead(|()| {}).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_target_dead(mut self, call: impl Fn(()) + Send + Sync + 'static) -> Self {
        self.hooks.target_dead = Some(Hook::plain(call));
        self
    }

    /// As [`on_target_dead`](Self::on_target_dead), async.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// let heart = Heartbeat::builder("api")
    ///     .target("socket", || true)
    ///     .on_target_dead_async(|()| async { println!("reconnect") })
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_target_dead_async<F>(mut self, call: impl Fn(()) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.hooks.target_dead = Some(Hook::pending(call));
        self
    }

    /// Called after each beat with what it said. Without a file, this is where a beat goes.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// let heart = Heartbeat::builder("api")
    ///     .on_beat(|beat| println!("{}", beat.to_json()))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_beat(mut self, call: impl Fn(HeartbeatState) + Send + Sync + 'static) -> Self {
        self.hooks.beat = Some(Hook::plain(call));
        self
    }

    /// As [`on_beat`](Self::on_beat), async.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// let heart = Heartbeat::builder("api").on_beat_async(|beat| async move { drop(beat) }).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_beat_async<F>(
        mut self,
        call: impl Fn(HeartbeatState) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.hooks.beat = Some(Hook::pending(call));
        self
    }

    /// Called when beats begin to be missed: late, not written, or withheld for want of progress. Once for
    /// each reason, and again after they have been on time.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// let heart = Heartbeat::builder("api").on_missed_beat(|missed| eprintln!("{missed}")).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_missed_beat(mut self, call: impl Fn(MissedBeat) + Send + Sync + 'static) -> Self {
        self.hooks.missed = Some(Hook::plain(call));
        self
    }

    /// As [`on_missed_beat`](Self::on_missed_beat), async.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// let heart =
    ///     Heartbeat::builder("api").on_missed_beat_async(|missed| async move { drop(missed) }).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_missed_beat_async<F>(
        mut self,
        call: impl Fn(MissedBeat) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.hooks.missed = Some(Hook::pending(call));
        self
    }

    /// Called when somebody should know: the target has died.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// let heart = Heartbeat::builder("api").on_alert(|alert| eprintln!("{}", alert.message)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_alert(mut self, call: impl Fn(Alert) + Send + Sync + 'static) -> Self {
        self.hooks.alert = Some(Hook::plain(call));
        self
    }

    /// As [`on_alert`](Self::on_alert), async.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// let heart = Heartbeat::builder("api").on_alert_async(|alert| async move { drop(alert) }).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn on_alert_async<F>(mut self, call: impl Fn(Alert) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.hooks.alert = Some(Hook::pending(call));
        self
    }

    /// How long one callback may take. Then an async one is dropped, and a blocking one left to itself.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// # use std::time::Duration;
    /// let heart = Heartbeat::builder("api").callback_timeout(Duration::from_secs(1)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn callback_timeout(mut self, limit: Duration) -> Self {
        self.callback_timeout = limit;
        self
    }

    /// Also tells `observer` what happens.
    ///
    /// ```
    /// # use buttress::supervise::heartbeat::Heartbeat;
    /// use buttress::observe::Event;
    /// let heart = Heartbeat::builder("api").observe(|event: &Event<'_>| drop(event.name)).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// Checks the settings. Nothing beats before [`Heartbeat::start`].
    ///
    /// # Errors
    /// A setting that cannot be used, by name.
    ///
    /// ```
    /// use buttress::supervise::heartbeat::Heartbeat;
    /// assert!(Heartbeat::builder("api").file("").build().is_err());
    /// ```
    pub fn build(self) -> Result<Heartbeat, ConfigError> {
        let shown = |duration: Duration| format!("{duration:?}");
        if !INTERVALS.contains(&self.interval) {
            return Err(ConfigError::new("interval", shown(self.interval), "1 s to 300 s"));
        }
        if let Some(delay) = self.late_after
            && (delay.is_zero() || delay > *INTERVALS.end())
        {
            return Err(ConfigError::new("late_after", shown(delay), "above 0, at most 300 s"));
        }
        let limit = self.callback_timeout;
        if limit < Duration::from_millis(1) || limit > Duration::from_secs(3600) {
            return Err(ConfigError::new("callback_timeout", shown(limit), "1 ms to 1 hour"));
        }
        if let Some(path) = &self.file
            && path.file_name().is_none()
        {
            return Err(ConfigError::new("file", path.display(), "a path that ends in a name"));
        }
        if let Err(why) = &self.metadata {
            return Err(ConfigError::new("metadata", why, "what can be written as JSON"));
        }
        if self.private && !cfg!(unix) {
            return Err(ConfigError::new("private", true, "a system with file modes"));
        }
        if self.hooks.target_dead.is_some() && self.target.is_none() {
            return Err(ConfigError::new("on_target_dead", "set", "a target to look at"));
        }
        Ok(Heartbeat::from_builder(self))
    }
}
