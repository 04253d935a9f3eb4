use std::env;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::super::beside::{Beside, OwnRuntime};
use super::super::health::{Health, Probe};
use super::super::{Phase, Progress};
use super::notify::Notify;
use crate::caught::caught;
use crate::error::ConfigError;
use crate::name::LayerKind;
use crate::observe::{EventKind, Observe, Observers, Severity};

/// The most that a stop is prolonged at a time: what it takes systemd to notice that we are stuck.
const EXTENSION: Duration = Duration::from_secs(10);
/// When what could not be sent is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// Tells systemd of a process's health and phases: see the [module](super).
///
/// ```no_run
/// use buttress::supervise::{Lifecycle, health::Health, systemd::Systemd};
/// let health = Health::new(Lifecycle::new());
/// if let Some(systemd) = Systemd::from_env()? {
///     let told = systemd.follow(&health)?;
/// #   drop(told);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Systemd {
    notify: Notify,
    watchdog: Option<Duration>,
    trigger: bool,
    progress: Vec<Box<dyn Progress>>,
    observers: Observers,
}

impl Systemd {
    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` say; `None` without the first. A watchdog
    /// interval of zero, or one that is meant for another process, is none.
    ///
    /// # Errors
    /// If one of them cannot be understood.
    ///
    /// ```
    /// # if std::env::var_os("NOTIFY_SOCKET").is_none() {
    /// assert!(buttress::supervise::systemd::Systemd::from_env()?.is_none());
    /// # }
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn from_env() -> Result<Option<Self>, ConfigError> {
        let Some(notify) = Notify::from_env()? else { return Ok(None) };
        let text = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let watchdog = interval(text("WATCHDOG_USEC"), text("WATCHDOG_PID"), std::process::id())?;
        Ok(Some(Self { watchdog, ..Self::new(notify) }))
    }

    /// On a socket that is known, without a watchdog.
    ///
    /// ```
    /// use buttress::supervise::systemd::{Notify, Systemd};
    /// let systemd = Systemd::new(Notify::new("/run/systemd/notify")?);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn new(notify: Notify) -> Self {
        let (progress, observers) = (Vec::new(), Observers::default());
        Self { notify, watchdog: None, trigger: false, progress, observers }
    }

    /// The interval in which the watchdog must be fed, instead of the environment's; zero for none. It is
    /// fed twice as often.
    ///
    /// ```
    /// # use buttress::supervise::systemd::{Notify, Systemd};
    /// # use std::time::Duration;
    /// let systemd = Systemd::new(Notify::new("/run/systemd/notify")?).watchdog(Duration::from_secs(20));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn watchdog(mut self, interval: Duration) -> Self {
        self.watchdog = (!interval.is_zero()).then_some(interval);
        self
    }

    /// Work that must have gone on since the watchdog was fed last, or it is not fed. Give what goes on
    /// even when nobody asks for anything: a loop with a timeout, not a count of requests.
    ///
    /// ```
    /// # use buttress::supervise::{Pulse, systemd::{Notify, Systemd}};
    /// let main_loop = Pulse::new();
    /// let systemd = Systemd::new(Notify::new("/run/systemd/notify")?).progress(main_loop.clone());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn progress(mut self, source: impl Progress) -> Self {
        self.progress.push(Box::new(source));
        self
    }

    /// Whether a process that is not live is reported at once (`WATCHDOG=trigger`) instead of when the
    /// interval has run out. Default: no.
    ///
    /// ```
    /// # use buttress::supervise::systemd::{Notify, Systemd};
    /// let systemd = Systemd::new(Notify::new("/run/systemd/notify")?).trigger_when_dead(true);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub const fn trigger_when_dead(mut self, trigger: bool) -> Self {
        self.trigger = trigger;
        self
    }

    /// Tells `observer` when the watchdog is not fed (`systemd_withheld`) and when a message could not be
    /// sent (`systemd_unsent`; it is tried again, and only the first failure in a row is told).
    ///
    /// ```
    /// # use buttress::supervise::systemd::{Notify, Systemd};
    /// let systemd = Systemd::new(Notify::new("/run/systemd/notify")?)
    ///     .observe(|event: &buttress::observe::Event<'_>| eprintln!("{event:?}"));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// Starts a thread that tells, until the guard is dropped or the process has
    /// [exited](Phase::Exited). Dropping it waits for the thread, but not for a closure that hangs.
    ///
    /// # Errors
    /// If no thread can be started.
    ///
    /// ```no_run
    /// # use buttress::supervise::{Lifecycle, health::Health, systemd::{Notify, Systemd}};
    /// # let health = Health::new(Lifecycle::new());
    /// let told = Systemd::new(Notify::new("/run/systemd/notify")?).follow(&health)?;
    /// # drop(told);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn follow(self, health: &Health) -> io::Result<SystemdGuard> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let runtime = OwnRuntime::new(runtime);
        let mut teller = Teller::new(self, health.clone());
        let life = health.lifecycle().clone();
        let thread = Beside::start("buttress-systemd", move |mut stopped| {
            runtime.block_on(async {
                loop {
                    let wait = teller.tell();
                    if teller.phase == Phase::Exited {
                        return;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = life.reached(teller.phase.next()) => {}
                        _ = &mut stopped => return,
                    }
                }
            });
        })?;
        Ok(SystemdGuard { _thread: thread })
    }
}

/// What has been told, and when.
struct Teller {
    systemd: Systemd,
    health: Health,
    phase: Phase,
    ready: bool,
    stopping: bool,
    fed: Option<Instant>,
    extended: Option<Instant>,
    counts: Vec<u64>,
    withheld: bool,
    triggered: bool,
    /// Whether something could not be sent, this time and the last time.
    failed: bool,
    unsent: bool,
}

impl Teller {
    fn new(systemd: Systemd, health: Health) -> Self {
        Self {
            systemd,
            health,
            phase: Phase::Starting,
            ready: false,
            stopping: false,
            fed: None,
            extended: None,
            counts: Vec::new(),
            withheld: false,
            triggered: false,
            failed: false,
            unsent: false,
        }
    }

    /// Says what is due; how long nothing will be.
    fn tell(&mut self) -> Duration {
        let now = Instant::now();
        let phase = self.health.lifecycle().phase();
        if phase != self.phase {
            // The next phase has a deadline of its own: it must not be heard of too late.
            (self.phase, self.extended) = (phase, None);
        }
        self.failed = false;
        let mut wait = Duration::from_secs(3600);
        // Also if that is over by now: a start that is never told to have ended is a failure for systemd.
        let was_ready = self.health.lifecycle().was_ready();
        if was_ready && !self.ready {
            self.ready = self.send(Notify::ready);
        }
        if self.phase > Phase::Ready && !self.stopping && self.ready == was_ready {
            self.stopping = self.send(Notify::stopping);
        }
        if self.phase > Phase::Ready {
            wait = wait.min(self.extend(now));
        }
        if let Some(interval) = self.systemd.watchdog {
            wait = wait.min(self.feed(now, interval / 2));
        }
        self.unsent = self.failed;
        if self.failed { wait.min(RETRY) } else { wait }
    }

    fn extend(&mut self, now: Instant) -> Duration {
        let due = self.extended.map_or(now, |last| last + EXTENSION / 2);
        if now < due {
            return due - now;
        }
        let end = self.health.lifecycle().end();
        let left = end.map_or(Duration::ZERO, |end| end.duration_since(now));
        if !left.is_zero() && self.send(|notify| notify.extend_timeout(left.min(EXTENSION))) {
            self.extended = Some(now);
        }
        EXTENSION / 2
    }

    fn feed(&mut self, now: Instant, every: Duration) -> Duration {
        let due = self.fed.map_or(now, |last| last + every);
        if now < due {
            return due - now;
        }
        let dead = self.health.look(Some(Probe::Live)).why_not(Probe::Live);
        let counts = || self.systemd.progress.iter().map(|source| source.count()).collect();
        // The user's code. One that panics does not go on.
        let counts: Option<Vec<u64>> = caught(counts);
        // The first time there is nothing to compare with.
        let went_on =
            counts.filter(|now| self.counts.iter().zip(now).all(|(before, now)| before != now));
        if let (None, Some(counts)) = (&dead, went_on) {
            self.withheld = false;
            self.triggered = false;
            if self.send(Notify::watchdog) {
                self.counts = counts;
                self.fed = Some(now);
            }
            return every;
        }
        if !self.withheld {
            self.withheld = true;
            let reason = dead.as_deref().unwrap_or("a source of progress stands still");
            self.event(Severity::Error, "systemd_withheld", format_args!("{reason}"));
        }
        if dead.is_some() && self.systemd.trigger && !self.triggered {
            self.triggered = self.send(Notify::watchdog_trigger);
        }
        // Looks again soon: it may recover before the interval is over.
        (every / 4).max(Duration::from_millis(1))
    }

    /// Whether it was sent. If not, it is tried again soon: the socket may be full, or systemd restarting.
    fn send(&mut self, message: impl FnOnce(&Notify) -> io::Result<()>) -> bool {
        let result = message(&self.systemd.notify);
        if let Err(error) = &result {
            if !self.unsent {
                self.event(Severity::Warning, "systemd_unsent", format_args!("{error}"));
            }
            (self.failed, self.unsent) = (true, true);
        }
        result.is_ok()
    }

    fn event(&self, severity: Severity, what: &'static str, detail: fmt::Arguments<'_>) {
        let kind = EventKind::Supervised { severity, what, detail };
        self.systemd.observers.emit(LayerKind::Supervise, "systemd".into(), kind);
    }
}

/// The interval of the watchdog, if it is meant for process `own`.
pub(super) fn interval(
    usec: Option<String>,
    pid: Option<String>,
    own: u32,
) -> Result<Option<Duration>, ConfigError> {
    let Some(usec) = usec.filter(|usec| !usec.is_empty()) else { return Ok(None) };
    if let Some(pid) = pid.filter(|pid| !pid.is_empty()) {
        match pid.parse::<u32>() {
            Ok(pid) if pid == own => {}
            Ok(_) => return Ok(None),
            Err(_) => return Err(ConfigError::new("WATCHDOG_PID", pid, "a process number")),
        }
    }
    match usec.parse::<u64>() {
        Ok(0) => Ok(None),
        Ok(usec) => Ok(Some(Duration::from_micros(usec))),
        Err(_) => Err(ConfigError::new("WATCHDOG_USEC", usec, "microseconds, a whole number")),
    }
}

impl fmt::Debug for Systemd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Systemd")
            .field("notify", &self.notify)
            .field("watchdog", &self.watchdog)
            .field("progress", &self.progress.len())
            .finish_non_exhaustive()
    }
}

/// Tells until it is dropped: see [`Systemd::follow`].
///
/// ```no_run
/// # use buttress::supervise::{Lifecycle, health::Health, systemd::{Notify, Systemd, SystemdGuard}};
/// # let health = Health::new(Lifecycle::new());
/// let told: SystemdGuard = Systemd::new(Notify::new("/run/systemd/notify")?).follow(&health)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "it tells only as long as this lives"]
pub struct SystemdGuard {
    _thread: Beside,
}

impl fmt::Debug for SystemdGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemdGuard").finish_non_exhaustive()
    }
}
