use std::env;
use std::fmt;
use std::io;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::health::Health;
use super::super::{Phase, Progress};
use super::notify::Notify;
use crate::error::ConfigError;
use crate::name::LayerKind;
use crate::observe::{EventKind, Observe, Observers, Severity};

/// The most that a stop is prolonged at a time: what it takes systemd to notice that we are stuck.
const EXTENSION: Duration = Duration::from_secs(10);

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
        let (progress, observers) = (Vec::new(), Observers::NONE);
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
    /// sent (`systemd_unsent`).
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
    /// [exited](Phase::Exited).
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
        let (stop, mut stopped) = oneshot::channel::<()>();
        let mut teller = Teller::new(self, health.clone());
        let life = health.lifecycle().clone();
        let thread = thread::Builder::new().name("buttress-systemd".into()).spawn(move || {
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
        Ok(SystemdGuard { stop: Some(stop), thread: Some(thread) })
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
        }
    }

    /// Says what is due; how long nothing will be.
    fn tell(&mut self) -> Duration {
        let now = Instant::now();
        self.phase = self.health.lifecycle().phase();
        if self.phase == Phase::Ready && !self.ready {
            self.ready = self.sent(&self.systemd.notify.ready());
        }
        if self.phase > Phase::Ready && !self.stopping {
            self.stopping = self.sent(&self.systemd.notify.stopping());
        }
        let mut wait = Duration::from_secs(3600);
        if self.phase > Phase::Ready {
            wait = wait.min(self.extend(now));
        }
        if let Some(interval) = self.systemd.watchdog {
            wait = wait.min(self.feed(now, interval / 2));
        }
        wait
    }

    fn extend(&mut self, now: Instant) -> Duration {
        let due = self.extended.map_or(now, |last| last + EXTENSION / 2);
        if now < due {
            return due - now;
        }
        let deadline = self.health.lifecycle().deadline();
        let left = deadline.map_or(Duration::ZERO, |deadline| deadline.duration_since(now));
        if !left.is_zero() {
            let sent = self.systemd.notify.extend_timeout(left.min(EXTENSION));
            self.sent(&sent);
            self.extended = Some(now);
        }
        EXTENSION / 2
    }

    fn feed(&mut self, now: Instant, every: Duration) -> Duration {
        let due = self.fed.map_or(now, |last| last + every);
        if now < due {
            return due - now;
        }
        let report = self.health.report();
        let counts: Vec<u64> = self.systemd.progress.iter().map(|source| source.count()).collect();
        // The first time there is nothing to compare with.
        let stuck = self.counts.iter().zip(&counts).any(|(before, now)| before == now);
        if report.live && !stuck {
            self.counts = counts;
            self.withheld = false;
            self.triggered = false;
            let sent = self.systemd.notify.watchdog();
            self.sent(&sent);
            self.fed = Some(now);
            return every;
        }
        if !self.withheld {
            self.withheld = true;
            let reason = report.reason.filter(|_| !report.live);
            let reason = reason.as_deref().unwrap_or("a source of progress stands still");
            self.event(Severity::Error, "systemd_withheld", format_args!("{reason}"));
        }
        if !report.live && self.systemd.trigger && !self.triggered {
            self.triggered = self.sent(&self.systemd.notify.watchdog_trigger());
        }
        // Looks again soon: it may recover before the interval is over.
        (every / 4).max(Duration::from_millis(1))
    }

    fn sent(&self, result: &io::Result<()>) -> bool {
        if let Err(error) = result {
            self.event(Severity::Warning, "systemd_unsent", format_args!("{error}"));
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
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for SystemdGuard {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for SystemdGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemdGuard").finish_non_exhaustive()
    }
}
