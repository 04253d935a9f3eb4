//! All parts in one `main`.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::{self, Handle};

use super::health::{Health, HealthListener};
use super::heartbeat::HeartbeatBuilder;
use super::shutdown::{GracefulShutdown, GracefulShutdownBuilder, ShutdownReport};
use super::watchdog::{RuntimeWatchdog, RuntimeWatchdogBuilder};
use super::words::last_words;
use super::{Hold, Phase, Process, Progress};
use crate::caught::{caught, discard};
use crate::error::{BoxError, ConfigError};
use crate::name::Name;

/// What the runtime's blocking pool gets at the very end. Whatever still runs there has had the whole
/// shutdown.
const POOL: Duration = Duration::from_millis(200);

/// Runs a whole server process: signals, phases, heartbeat, watchdog, probes and systemd around a `main`
/// that only has to do its work and to return when that is over.
///
/// Prevents the shutdown that was tested by hand once: each part exists alone in this module, and this puts
/// them together in the order in which nothing is lost.
///
/// ```no_run
/// use axum::{Router, routing::get};
/// use buttress::supervise::Supervisor;
/// use std::process::ExitCode;
///
/// fn main() -> Result<ExitCode, buttress::ConfigError> {
///     let supervisor = Supervisor::builder("orders").probes("0.0.0.0:9090").build()?;
///     Ok(supervisor.run(async |process| {
///         let app = Router::new().route("/", get(|| async { "hello" }));
///         let listener = tokio::net::TcpListener::bind("0.0.0.0:8080").await?;
///         process.serve(listener, app).await; // ready until a signal, then drained
///         Ok(())
///     }))
/// }
/// ```
///
/// Customised:
///
/// ```no_run
/// # use buttress::supervise::Supervisor;
/// use buttress::supervise::{heartbeat::Heartbeat, shutdown::{Budget, CleanupCallback}};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), buttress::ConfigError> {
/// let grace = Duration::from_secs(60);
/// let supervisor = Supervisor::builder("orders")
///     .shutdown(|shutdown| shutdown.budget(Budget::kubernetes(grace).drain(grace / 2)))
///     .heartbeat(Heartbeat::builder("orders").file("/run/orders/beat.json"))
///     .probes("0.0.0.0:9090")
///     .build()?;
/// let exit = supervisor.run(async |process| {
///     process.on_shutdown(CleanupCallback::new("database", || async { /* close it */ }))?;
///     # Ok(())
/// });
/// # drop(exit); Ok(()) }
/// ```
///
/// # What happens, in order
///
/// 1. The signals are handled before anything slow is done. Probes are answered, the first beat is written,
///    systemd is told; the phase is [`Starting`](Phase::Starting).
/// 2. A runtime is made and [watched](SupervisorBuilder::watchdog), and `main` runs on it. [`serve`](Process::serve), or
///    [`ready`](Process::ready), makes the process [`Ready`](Phase::Ready).
/// 3. A signal, [`GracefulShutdown::begin`], or the end of `main` begins the shutdown. `main` itself holds the
///    drain, so callbacks run when it has returned, or when the drain's time is over. After a `main` that ended
///    by itself there is no lame duck, unless somebody else holds the drain; a shutdown that begins
///    before `main` leaves it out.
/// 4. The heartbeat says that it has stopped, the probes and systemd's thread end, then the runtime, without
///    waiting for its blocking pool.
///
/// The process ends with the [exit code of the report](ShutdownReport::exit_code). If that is 0: with 1 if
/// `main` returned an error (it is written to standard error), with 101 if it panicked. If something could not
/// be started, that is written to standard error, `main` is not run, and the code is 1. The process is ended
/// at the deadline whatever hangs, also without a signal.
pub struct Supervisor {
    name: Name,
    shutdown: GracefulShutdown,
    health: Health,
    heartbeat: Option<super::heartbeat::Heartbeat>,
    probes: Vec<String>,
    #[cfg(unix)]
    systemd: bool,
    workers: Option<usize>,
    watch: Option<Watch>,
}

/// How the runtime is to be watched.
type Watch = Box<dyn Fn(RuntimeWatchdogBuilder) -> RuntimeWatchdogBuilder + Send + Sync>;

/// See [`Supervisor`].
///
/// ```
/// use buttress::supervise::{Supervisor, SupervisorBuilder};
/// let builder: SupervisorBuilder = Supervisor::builder("orders");
/// ```
#[must_use]
pub struct SupervisorBuilder {
    name: Name,
    shutdown: GracefulShutdownBuilder,
    heartbeat: Option<HeartbeatBuilder>,
    probes: Vec<String>,
    systemd: bool,
    workers: Option<usize>,
    watch: Option<Watch>,
}

impl SupervisorBuilder {
    /// Customises the shutdown: its budget, its signals, its exit codes.
    ///
    /// ```
    /// # use buttress::supervise::{Supervisor, shutdown::Budget};
    /// # use std::time::Duration;
    /// let grace = Duration::from_secs(10);
    /// let builder = Supervisor::builder("orders")
    ///     .shutdown(|shutdown| shutdown.budget(Budget::kubernetes(grace)));
    /// ```
    pub fn shutdown(
        mut self,
        change: impl FnOnce(GracefulShutdownBuilder) -> GracefulShutdownBuilder,
    ) -> Self {
        self.shutdown = change(self.shutdown);
        self
    }

    /// Customises the watch over the runtime's workers; by default one that is in one poll for 1 s is told. It is
    /// called more than once.
    ///
    /// While the runtime is frozen the process is not [live](Health::is_live), and the heartbeat is withheld.
    /// Kubernetes restarts it only if several probes in a row say so.
    ///
    /// ```
    /// # use buttress::supervise::Supervisor;
    /// # use std::time::Duration;
    /// let builder = Supervisor::builder("orders")
    ///     .watchdog(|watchdog| watchdog.frozen_after(Duration::from_secs(5)));
    /// ```
    pub fn watchdog(
        mut self,
        change: impl Fn(RuntimeWatchdogBuilder) -> RuntimeWatchdogBuilder + Send + Sync + 'static,
    ) -> Self {
        self.watch = Some(Box::new(change));
        self
    }

    /// Does not watch the runtime.
    ///
    /// ```
    /// # use buttress::supervise::Supervisor;
    /// let builder = Supervisor::builder("crunch").without_watchdog();
    /// ```
    pub fn without_watchdog(mut self) -> Self {
        self.watch = None;
        self
    }

    /// Beats (default: not), as long as the process is [live](Health::is_live).
    ///
    /// ```
    /// # use buttress::supervise::{Supervisor, heartbeat::Heartbeat};
    /// let beat = Heartbeat::builder("orders").file("/run/orders/beat.json");
    /// let builder = Supervisor::builder("orders").heartbeat(beat);
    /// ```
    pub fn heartbeat(mut self, heartbeat: HeartbeatBuilder) -> Self {
        self.heartbeat = Some(heartbeat);
        self
    }

    /// Answers `/livez`, `/readyz` and `/startupz` at this address (default: nowhere): see
    /// [`Health::listen`]. An address or a name, and a port. May be given several times.
    ///
    /// ```
    /// # use buttress::supervise::Supervisor;
    /// let builder = Supervisor::builder("orders").probes("127.0.0.1:9090");
    /// let error = Supervisor::builder("orders").probes("127.0.0.1").build().unwrap_err();
    /// assert_eq!(error.field(), "probes");
    /// ```
    pub fn probes(mut self, addr: impl Into<String>) -> Self {
        self.probes.push(addr.into());
        self
    }

    /// Whether systemd is told if it asks (`NOTIFY_SOCKET`; default: yes). Does nothing off Unix.
    ///
    /// ```
    /// # use buttress::supervise::Supervisor;
    /// let builder = Supervisor::builder("orders").systemd(false);
    /// ```
    pub const fn systemd(mut self, tell: bool) -> Self {
        self.systemd = tell;
        self
    }

    /// Threads of the runtime, 1 or more (default: as many as the machine has processors).
    ///
    /// ```
    /// # use buttress::supervise::Supervisor;
    /// let error = Supervisor::builder("orders").worker_threads(0).build().unwrap_err();
    /// assert_eq!(error.field(), "worker_threads");
    /// ```
    pub const fn worker_threads(mut self, threads: usize) -> Self {
        self.workers = Some(threads);
        self
    }

    /// Checks everything; nothing is started yet.
    ///
    /// # Errors
    /// If a value of it or of one of its parts is out of range.
    ///
    /// ```
    /// assert!(buttress::supervise::Supervisor::builder("orders").build().is_ok());
    /// ```
    pub fn build(self) -> Result<Supervisor, ConfigError> {
        if self.workers == Some(0) {
            return Err(ConfigError::new("worker_threads", 0, "1 or more"));
        }
        // Whether a name means something is only known when it is looked up.
        let has_port = |addr: &&String| {
            addr.rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if let Some(addr) = self.probes.iter().find(|addr| !has_port(addr)) {
            return Err(ConfigError::new("probes", addr, "an address or a name, ':' and a port"));
        }
        let shutdown = self.shutdown.exit_at_deadline().build()?;
        let health = Health::new(shutdown.lifecycle().clone());
        if let Some(watch) = &self.watch {
            // It can only be checked by making one.
            let nothing = runtime::Builder::new_current_thread().build();
            let nothing = nothing.map_err(|error| {
                ConfigError::new("watchdog", error, "a system that can have one more runtime")
            })?;
            let checked = watch(RuntimeWatchdog::builder(self.name, nothing.handle())).build();
            nothing.shutdown_background(); // a drop would panic within another runtime
            checked?;
        }
        let live = goes_on_while_live(health.clone());
        let heartbeat = self.heartbeat.map(|heartbeat| heartbeat.requires("health", live).build());
        let heartbeat = heartbeat.transpose()?;
        Ok(Supervisor {
            name: self.name,
            shutdown,
            health,
            heartbeat,
            probes: self.probes,
            #[cfg(unix)]
            systemd: self.systemd,
            workers: self.workers,
            watch: self.watch,
        })
    }
}

impl Supervisor {
    /// To be customised.
    ///
    /// ```
    /// let builder = buttress::supervise::Supervisor::builder("orders");
    /// ```
    pub fn builder(name: impl Into<Name>) -> SupervisorBuilder {
        let name = name.into();
        SupervisorBuilder {
            name,
            shutdown: GracefulShutdown::builder(name),
            heartbeat: None,
            probes: Vec::new(),
            systemd: true,
            workers: None,
            watch: Some(Box::new(|watchdog| watchdog)),
        }
    }

    /// What `main` will be given: to make gates and register callbacks before it runs.
    ///
    /// ```
    /// use buttress::supervise::Supervisor;
    /// let supervisor = Supervisor::builder("orders").build()?;
    /// let cache = supervisor.process().health().gate("cache");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn process(&self) -> Process {
        Process::new(self.shutdown.clone(), self.health.clone())
    }

    /// Runs `main` on a multi-thread runtime of its own, and the whole shutdown. Call it as the last thing of
    /// the program's `main`, outside of any runtime.
    ///
    /// # Panics
    /// If it is called within a runtime.
    ///
    /// ```no_run
    /// # use buttress::supervise::Supervisor;
    /// # let supervisor = Supervisor::builder("orders").build()?;
    /// let exit = supervisor.run(async |process| {
    ///     process.ready();
    ///     process.stopping().await;
    ///     Ok(())
    /// });
    /// # drop(exit); Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn run<F, Fut>(self, main: F) -> ExitCode
    where
        F: FnOnce(Process) -> Fut,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        // Panics within a runtime, before anything is begun.
        if let Ok(attempt) = runtime::Builder::new_current_thread().build() {
            attempt.block_on(std::future::ready(()));
        }
        let mut runtime = runtime::Builder::new_multi_thread();
        runtime.enable_all();
        if let Some(workers) = self.workers {
            runtime.worker_threads(workers);
        }
        let (hold, around) = match self.start() {
            Ok(started) => started,
            Err(error) => return self.failed(&error),
        };
        let runtime = match runtime.build() {
            Ok(runtime) => runtime,
            Err(error) => return self.failed(&error),
        };
        let watchdog = match self.watch(runtime.handle()) {
            Ok(watchdog) => watchdog,
            Err(error) => return self.failed(&error),
        };
        let process = self.process();
        let (ended, report) = runtime.block_on(async {
            let ended = if self.shutdown.is_shutting_down() {
                Ended::Returned(Ok(()))
            } else if let Some(main) = caught(|| main(process)) {
                // On a worker, like everything else: this thread only waits.
                let main = runtime.spawn(main);
                // Biased: a `main` that has returned is not abandoned.
                tokio::select! {
                    biased;
                    ended = main => match ended {
                        Ok(returned) => Ended::Returned(returned),
                        Err(error) => {
                            let _ = error.try_into_panic().map(discard);
                            Ended::Panicked
                        }
                    },
                    _ = self.shutdown.wait() => Ended::Abandoned,
                }
            } else {
                Ended::Panicked
            };
            self.begin_after(hold);
            (ended, self.shutdown.wait().await)
        });
        let exit = self.finish(around, ended, &report);
        if let Some(watchdog) = watchdog {
            watchdog.stop(); // health has a clone
        }
        runtime.shutdown_timeout(POOL);
        exit
    }

    /// As [`run`](Self::run), for a `main` without a runtime, on this thread. Async callbacks get one of their
    /// own.
    ///
    /// A `main` that goes on when the drain's time is over delays the end up to the deadline, at which the
    /// process is ended.
    ///
    /// ```no_run
    /// # use buttress::supervise::{Phase, Supervisor};
    /// # use std::time::Duration;
    /// # let supervisor = Supervisor::builder("batch").build()?;
    /// let exit = supervisor.run_blocking(|process| {
    ///     process.ready();
    ///     while !process.lifecycle().wait_blocking(Phase::LameDuck, Duration::from_secs(1)) {
    ///         // a piece of work
    ///     }
    ///     Ok(())
    /// });
    /// # drop(exit); Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn run_blocking(self, main: impl FnOnce(Process) -> Result<(), BoxError>) -> ExitCode {
        let (hold, around) = match self.start() {
            Ok(started) => started,
            Err(error) => return self.failed(&error),
        };
        let process = self.process();
        let ended = if self.shutdown.is_shutting_down() {
            Ended::Returned(Ok(()))
        } else {
            let ended = caught(|| main(process));
            ended.map_or(Ended::Panicked, Ended::Returned)
        };
        self.begin_after(hold);
        let report = self.shutdown.trigger_blocking();
        self.finish(around, ended, &report)
    }

    /// The work is over. If nobody has asked for that, there is nobody left who serves, and nothing to wait for
    /// but who else holds the drain.
    fn begin_after(&self, hold: Hold) {
        drop(hold);
        let life = self.shutdown.lifecycle();
        if self.shutdown.begin() && life.held_by().is_empty() {
            life.advance(Phase::Draining, life.end());
        }
    }

    /// What is there before `main` and after it.
    fn start(&self) -> io::Result<(Hold, Around)> {
        let named =
            |what: &str, error: &dyn fmt::Display| io::Error::other(format!("{what}: {error}"));
        // Before the first signal: a shutdown must not pass by a `main` that it has let begin.
        let hold = self.shutdown.lifecycle().hold("main");
        self.shutdown.install().map_err(|error| named("cannot handle signals", &error))?;
        let mut probes = Vec::new();
        for addr in &self.probes {
            let listener = self.health.listen(addr);
            probes.push(
                listener.map_err(|error| named(&format!("cannot listen on {addr}"), &error))?,
            );
        }
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.start().map_err(|error| named("cannot beat", &error))?;
        }
        #[cfg(unix)]
        let systemd = match self.systemd {
            false => None,
            true => {
                let found = super::systemd::Systemd::from_env();
                let found = found.map_err(|error| named("cannot tell systemd", &error))?;
                found.map(|systemd| systemd.follow(&self.health)).transpose()?
            }
        };
        let around = Around {
            #[cfg(unix)]
            _systemd: systemd,
            _probes: probes,
        };
        Ok((hold, around))
    }

    /// From when there is a runtime, until it is dropped.
    fn watch(&self, runtime: &Handle) -> Result<Option<RuntimeWatchdog>, BoxError> {
        let Some(watch) = &self.watch else { return Ok(None) };
        let watchdog = watch(RuntimeWatchdog::builder(self.name, runtime)).build()?;
        watchdog.start()?;
        let seen = watchdog.clone();
        self.health.live_while("runtime", move || !seen.is_frozen());
        Ok(Some(watchdog))
    }

    fn failed(&self, error: &dyn fmt::Display) -> ExitCode {
        self.shutdown.uninstall();
        say(format!("{}: {error}\n", self.name));
        ExitCode::FAILURE
    }

    fn finish(&self, around: Around, ended: Ended, report: &ShutdownReport) -> ExitCode {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.stop();
        }
        if !report.is_clean() {
            say(format!("{report}\n"));
        }
        let own = match ended {
            Ended::Returned(Ok(())) | Ended::Abandoned => 0,
            Ended::Returned(Err(error)) => {
                say(format!("{}: {error}\n", self.name));
                1
            }
            Ended::Panicked => 101, // as std does; the message has been printed
        };
        drop(around);
        match report.exit_code() {
            0 => own.into(),
            code => code.into(),
        }
    }
}

fn goes_on_while_live(health: Health) -> impl Progress {
    let looks = AtomicU64::new(0);
    move || match health.is_live() {
        true => looks.fetch_add(1, Ordering::Relaxed) + 1,
        false => looks.load(Ordering::Relaxed),
    }
}

/// On standard error.
fn say(what: String) {
    last_words(move || drop(io::stderr().write_all(what.as_bytes())));
}

enum Ended {
    Returned(Result<(), BoxError>),
    Panicked,
    /// The shutdown was over first.
    Abandoned,
}

/// Dropped at the end, in this order.
struct Around {
    #[cfg(unix)]
    _systemd: Option<super::systemd::SystemdGuard>,
    _probes: Vec<HealthListener>,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for SupervisorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}
