//! What is to be run, and how it is looked after.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::error::ConfigError;
use crate::name::Name;

use super::beat::Beats;
use super::core::Rule;
use super::output::{Line, Output};
use super::policy::Restart;
use super::probe::STRIKES;

/// What a look at a running child came to.
///
/// ```
/// use buttress::supervise::process::Liveness;
/// assert_ne!(Liveness::Alive, Liveness::Frozen);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Liveness {
    /// Work goes on.
    Alive,
    /// It does not. Said twice in a row it has the child stopped and restarted.
    Frozen,
    /// Cannot be told, which changes nothing.
    Unknown,
}

/// The process of a child, for closures that look at it.
///
/// ```
/// # fn look(process: &buttress::supervise::process::ChildProcess) {
/// println!("{} is process {}, its {}th", process.name, process.pid, process.run);
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChildProcess {
    /// The child's name.
    pub name: Name,
    /// The process's number.
    pub pid: u32,
    /// Which process of this child it is, from 1.
    pub run: u64,
    pub(super) every: Duration,
}

pub(super) type IsReady = Arc<dyn Fn(&ChildProcess) -> bool + Send + Sync>;
pub(super) type IsAlive = Arc<dyn Fn(&ChildProcess) -> Liveness + Send + Sync>;
pub(super) type Prepare = Arc<dyn Fn(&mut Command) + Send + Sync>;

/// A program to run and how it is looked after.
///
/// Its process leads a group of its own, so that Ctrl-C in a terminal does not reach it before the
/// supervisor stops it; starts with no signal blocked or ignored; and dies with the supervisor, however that
/// dies (Linux). Its standard input is empty.
///
/// ```
/// use buttress::supervise::process::{Child, Restart};
/// use std::time::Duration;
///
/// let worker = Child::new("worker", "/usr/bin/worker")
///     .args(["--queue", "orders"])
///     .env("RUST_LOG", "info")
///     .restart(Restart::Permanent)
///     .grace(Duration::from_secs(5));
/// assert_eq!(worker.name().as_str(), "worker");
/// ```
#[derive(Clone)]
pub struct Child {
    pub(super) name: Name,
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(OsString, Option<OsString>)>,
    pub(super) env_clear: bool,
    pub(super) dir: Option<PathBuf>,
    pub(super) prepare: Option<Prepare>,
    restart: Restart,
    success: Vec<i32>,
    backoff: Backoff,
    stable_after: Duration,
    pub(super) ready: Option<IsReady>,
    ready_within: Duration,
    pub(super) alive: Option<IsAlive>,
    /// Of the heartbeat.
    max_age: Option<Duration>,
    pub(super) probe_every: Duration,
    pub(super) probe_timeout: Duration,
    pub(super) stop_signal: i32,
    grace: Duration,
    kill_wait: Duration,
    pub(super) death_signal: Option<i32>,
    pub(super) lifeline: bool,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
}

const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

impl Child {
    /// `program`, found as [`Command::new`] finds it.
    ///
    /// ```
    /// let _ = buttress::supervise::process::Child::new("true", "true");
    /// ```
    pub fn new(name: impl Into<Name>, program: impl AsRef<OsStr>) -> Self {
        Self {
            name: name.into(),
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            env_clear: false,
            dir: None,
            prepare: None,
            restart: Restart::Permanent,
            success: vec![0],
            backoff: Backoff::exponential(Duration::from_millis(100), Duration::from_secs(30)),
            stable_after: Duration::from_secs(10),
            ready: None,
            ready_within: Duration::from_secs(30),
            alive: None,
            max_age: None,
            probe_every: Duration::from_millis(250),
            probe_timeout: Duration::from_secs(30),
            stop_signal: libc::SIGTERM,
            grace: Duration::from_secs(10),
            kill_wait: Duration::from_secs(2),
            death_signal: cfg!(target_os = "linux").then_some(libc::SIGKILL),
            lifeline: false,
            stdout: Output::Inherit,
            stderr: Output::Inherit,
        }
    }

    /// Its name.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::process::Child::new("a", "true").name().as_str(), "a");
    /// ```
    #[must_use]
    pub const fn name(&self) -> Name {
        self.name
    }

    /// One more argument.
    ///
    /// ```
    /// let _ = buttress::supervise::process::Child::new("a", "sleep").arg("60");
    /// ```
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    ///
    /// ```
    /// let _ = buttress::supervise::process::Child::new("a", "sh").args(["-c", "exit 3"]);
    /// ```
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// A variable of its environment, on top of ours. `NOTIFY_SOCKET` and the `WATCHDOG_` ones of ours
    /// are not passed on, because a child that used them would speak for us; set them here if it shall.
    ///
    /// ```
    /// let _ = buttress::supervise::process::Child::new("a", "worker").env("QUEUE", "orders");
    /// ```
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// A variable of ours that it does not get.
    ///
    /// ```
    /// let _ = buttress::supervise::process::Child::new("a", "worker").env_remove("AWS_SECRET_ACCESS_KEY");
    /// ```
    #[must_use]
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), None));
        self
    }

    /// None of our variables but those given with [`env`](Self::env), and the marks by which
    /// [`OrphanSweep`](super::OrphanSweep) finds it.
    ///
    /// ```
    /// let _ = buttress::supervise::process::Child::new("a", "/bin/worker").env_clear();
    /// ```
    #[must_use]
    pub const fn env_clear(mut self) -> Self {
        self.env_clear = true;
        self
    }

    /// Its working directory.
    ///
    /// ```
    /// let _ = buttress::supervise::process::Child::new("a", "worker").current_dir("/var/lib/worker");
    /// ```
    #[must_use]
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Runs on the supervisor's thread before each start, for what is not here: user and group, limits,
    /// file descriptors. It must not change the process group, the standard streams or what
    /// `pre_exec` hooks of ours set. If it panics the start has failed.
    ///
    /// ```
    /// use std::os::unix::process::CommandExt;
    /// let _ = buttress::supervise::process::Child::new("a", "worker").prepare(|command| {
    ///     command.uid(65534).gid(65534);
    /// });
    /// ```
    #[must_use]
    pub fn prepare(mut self, prepare: impl Fn(&mut Command) + Send + Sync + 'static) -> Self {
        self.prepare = Some(Arc::new(prepare));
        self
    }

    /// When it is started again. Default [`Restart::Permanent`].
    ///
    /// ```
    /// use buttress::supervise::process::{Child, Restart};
    /// let _ = Child::new("migrate", "migrate").restart(Restart::Transient);
    /// ```
    #[must_use]
    pub const fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// The codes that are no failure. Default 0 alone.
    ///
    /// ```
    /// let _ = buttress::supervise::process::Child::new("a", "worker").success_codes([0, 143]);
    /// ```
    #[must_use]
    pub fn success_codes(mut self, codes: impl IntoIterator<Item = i32>) -> Self {
        self.success = codes.into_iter().collect();
        self
    }

    /// How long to wait before restart 1, 2, … in a row. Default 100 ms, doubled up to 30 s, full jitter.
    ///
    /// ```
    /// use buttress::Backoff;
    /// use std::time::Duration;
    /// let _ = buttress::supervise::process::Child::new("a", "worker")
    ///     .backoff(Backoff::constant(Duration::from_secs(1)));
    /// ```
    #[must_use]
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How long it must have been ready for the backoff to begin anew. Not the start: a child that crashes
    /// after two seconds every time would be restarted every two seconds for ever. Default 10 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _ = buttress::supervise::process::Child::new("a", "worker").stable_after(Duration::from_secs(60));
    /// ```
    #[must_use]
    pub const fn stable_after(mut self, time: Duration) -> Self {
        self.stable_after = time;
        self
    }

    /// It is ready when this says so; asked every [`probe_every`](Self::probe_every), on a thread for the questions
    /// about this process. Children after it start then. Without: as soon as it exists. No answer is not ready.
    ///
    /// ```
    /// use std::net::TcpStream;
    /// let _ = buttress::supervise::process::Child::new("db", "postgres")
    ///     .ready_when(|_| TcpStream::connect("127.0.0.1:5432").is_ok());
    /// ```
    #[must_use]
    pub fn ready_when(
        mut self,
        ready: impl Fn(&ChildProcess) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.ready = Some(Arc::new(ready));
        self
    }

    /// How long it may take to become ready, from the first question on, or it is stopped and has failed. Default 30 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _ = buttress::supervise::process::Child::new("a", "worker").ready_within(Duration::from_secs(5));
    /// ```
    #[must_use]
    pub const fn ready_within(mut self, time: Duration) -> Self {
        self.ready_within = time;
        self
    }

    /// Whether work goes on, asked every [`probe_every`](Self::probe_every) once it is ready, on a thread for
    /// the questions about this process. One that is [`Frozen`](Liveness::Frozen) twice in a row is stopped and has
    /// failed; so is one about which the question is not answered for twice the
    /// [`probe_timeout`](Self::probe_timeout). While a question about an earlier run of it hangs, no other is put
    /// (`child_not_asked` is told once): a thread stands in it. Answers given right after this process itself had not run for a while do
    /// not count, nor those about a process that a debugger holds.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, Liveness};
    /// let _ = Child::new("a", "worker").alive_when(|process| {
    ///     # let answers = |_pid: u32| true;
    ///     if answers(process.pid) { Liveness::Alive } else { Liveness::Frozen }
    /// });
    /// ```
    #[must_use]
    pub fn alive_when(
        mut self,
        alive: impl Fn(&ChildProcess) -> Liveness + Send + Sync + 'static,
    ) -> Self {
        self.alive = Some(Arc::new(alive));
        self
    }

    /// Both questions by its heartbeat file (see [`Heartbeat`](crate::supervise::heartbeat::Heartbeat)): it is ready with the
    /// first beat, and frozen when no new one has come for `max_age` while we looked. Two or three of its
    /// intervals are a good `max_age`. A beat counts if the child's process has written it, or one in its
    /// group; one that it runs in another namespace of process numbers cannot be told from an earlier one's.
    ///
    /// Replaces [`ready_when`](Self::ready_when) and [`alive_when`](Self::alive_when), and the other way round.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _ = buttress::supervise::process::Child::new("a", "worker")
    ///     .heartbeat("/run/worker.json", Duration::from_secs(15));
    /// ```
    #[must_use]
    pub fn heartbeat(mut self, file: impl Into<PathBuf>, max_age: Duration) -> Self {
        let beats = Arc::new(Beats::new(file.into(), max_age));
        let ready = Arc::clone(&beats);
        self.ready = Some(Arc::new(move |process| ready.ready(process)));
        self.alive = Some(Arc::new(move |process| beats.alive(process)));
        self.max_age = Some(max_age);
        self
    }

    /// How often the two questions are asked. Default 250 ms.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _ = buttress::supervise::process::Child::new("a", "worker").probe_every(Duration::from_secs(1));
    /// ```
    #[must_use]
    pub const fn probe_every(mut self, time: Duration) -> Self {
        self.probe_every = time;
        self
    }

    /// How long an answer to the second question may take. None after twice this time says that the child is frozen:
    /// it is stopped and has failed. A question that never ends keeps its thread. Default 30 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// # let child = buttress::supervise::process::Child::new("a", "true");
    /// let child = child.probe_timeout(Duration::from_secs(5));
    /// ```
    #[must_use]
    pub const fn probe_timeout(mut self, time: Duration) -> Self {
        self.probe_timeout = time;
        self
    }

    /// The signal that asks it to end, sent to its whole group. Default `SIGTERM`.
    ///
    /// ```
    /// let _ = buttress::supervise::process::Child::new("web", "unicorn").stop_signal(libc::SIGQUIT);
    /// ```
    #[must_use]
    pub const fn stop_signal(mut self, signal: i32) -> Self {
        self.stop_signal = signal;
        self
    }

    /// How long it has after that before its group is killed. Zero: it is not asked. Default 10 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _ = buttress::supervise::process::Child::new("a", "worker").grace(Duration::from_secs(3));
    /// ```
    #[must_use]
    pub const fn grace(mut self, time: Duration) -> Self {
        self.grace = time;
        self
    }

    /// How long a killed one is waited for before it is reported as unkillable (one that waits for a
    /// broken disk cannot die). Default 2 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _ = buttress::supervise::process::Child::new("a", "worker").kill_wait(Duration::from_secs(5));
    /// ```
    #[must_use]
    pub const fn kill_wait(mut self, time: Duration) -> Self {
        self.kill_wait = time;
        self
    }

    /// The signal that the kernel sends it when the supervisor's process dies. Linux only; default
    /// `SIGKILL`. It does not reach what the child itself has started: give one that has children
    /// `SIGTERM`, or find what is left with [`OrphanSweep`](super::OrphanSweep).
    ///
    /// ```
    /// # if cfg!(target_os = "linux") {
    /// let _ = buttress::supervise::process::Child::new("a", "worker").parent_death_signal(Some(libc::SIGTERM));
    /// # }
    /// ```
    #[must_use]
    pub const fn parent_death_signal(mut self, signal: Option<i32>) -> Self {
        self.death_signal = signal;
        self
    }

    /// Gives it the read end of a pipe that ends when the supervisor's process is gone, whatever the
    /// platform, for a child that looks at it: see [`Lifeline`](super::Lifeline). What it starts
    /// itself inherits it.
    ///
    /// ```
    /// let _ = buttress::supervise::process::Child::new("a", "worker").lifeline();
    /// ```
    #[must_use]
    pub const fn lifeline(mut self) -> Self {
        self.lifeline = true;
        self
    }

    /// Where its standard output goes. Default: where ours does.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, Output};
    /// let _ = Child::new("a", "worker").stdout(Output::Null);
    /// ```
    #[must_use]
    pub fn stdout(mut self, output: Output) -> Self {
        self.stdout = output;
        self
    }

    /// Where its standard error goes. Default: where ours does.
    ///
    /// ```
    /// use buttress::supervise::process::{Child, Output};
    /// let _ = Child::new("a", "worker").stderr(Output::lines(|line| print!("{}", line.text())));
    /// ```
    #[must_use]
    pub fn stderr(mut self, output: Output) -> Self {
        self.stderr = output;
        self
    }

    /// Both streams, line by line.
    ///
    /// ```
    /// let _ = buttress::supervise::process::Child::new("a", "worker").on_line(|line| {
    ///     println!("{} {}: {}", line.child, line.stream.as_str(), line.text());
    /// });
    /// ```
    #[must_use]
    pub fn on_line(self, sink: impl Fn(&Line<'_>) + Send + Sync + 'static) -> Self {
        let output = Output::lines(sink);
        self.stdout(output.clone()).stderr(output)
    }

    pub(super) const fn has_probes(&self) -> bool {
        self.ready.is_some() || self.alive.is_some()
    }

    pub(super) fn rule(&self) -> Rule {
        Rule {
            restart: self.restart,
            success: self.success.clone(),
            backoff: self.backoff,
            stable_after: self.stable_after,
            frozen_for: self.max_age.unwrap_or_default() + self.probe_every * STRIKES,
            ready_within: self.ready.is_some().then_some(self.ready_within),
            grace: self.grace,
            kill_wait: self.kill_wait,
        }
    }

    /// Checks every value.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let field = |field: &str| format!("{}.{field}", self.name);
        let text = |text: &OsStr| text.as_encoded_bytes().contains(&0);
        if self.program.is_empty() || text(&self.program) {
            let program = self.program.to_string_lossy();
            return Err(ConfigError::new(field("program"), format!("{program:?}"), "a program"));
        }
        if let Some(arg) = self.args.iter().find(|arg| text(arg)) {
            let arg = format!("{:?}", arg.to_string_lossy());
            return Err(ConfigError::new(field("args"), arg, "no zero byte"));
        }
        for (key, value) in &self.env {
            let bytes = key.as_encoded_bytes();
            if bytes.is_empty() || bytes.contains(&b'=') || bytes.contains(&0) {
                let key = format!("{:?}", key.to_string_lossy());
                return Err(ConfigError::new(field("env"), key, "a name without = or zero byte"));
            }
            if value.as_deref().is_some_and(text) {
                let key = key.to_string_lossy();
                return Err(ConfigError::new(field("env"), key, "a value without zero byte"));
            }
        }
        self.backoff.validate().map_err(|error| {
            let name = field(&format!("backoff.{}", error.field()));
            ConfigError::new(name, error.value(), error.expected().to_owned())
        })?;
        if self.success.iter().any(|code| !(0..256).contains(code)) {
            let codes = format!("{:?}", self.success);
            return Err(ConfigError::new(field("success_codes"), codes, "codes of 0 to 255"));
        }
        for (name, time, shortest) in [
            ("stable_after", self.stable_after, Duration::ZERO),
            ("ready_within", self.ready_within, Duration::from_millis(1)),
            ("probe_every", self.probe_every, Duration::from_millis(1)),
            ("probe_timeout", self.probe_timeout, Duration::from_millis(1)),
            ("grace", self.grace, Duration::ZERO),
            ("kill_wait", self.kill_wait, Duration::from_millis(1)),
        ] {
            if time < shortest || time > LONGEST {
                let expected = format!("{shortest:?} to a year");
                return Err(ConfigError::new(field(name), format!("{time:?}"), expected));
            }
        }
        if let Some(max_age) = self.max_age
            && (max_age <= self.probe_every || max_age > LONGEST)
        {
            let expected = format!("more than probe_every, {:?}", self.probe_every);
            return Err(ConfigError::new(field("heartbeat"), format!("{max_age:?}"), expected));
        }
        let signals =
            [("stop_signal", Some(self.stop_signal)), ("parent_death_signal", self.death_signal)];
        for (name, signal) in signals {
            let Some(signal) = signal else { continue };
            if super::sys::signal(signal).is_none() {
                return Err(ConfigError::new(field(name), signal, "the number of a signal"));
            }
        }
        if self.death_signal.is_some() && !cfg!(target_os = "linux") {
            let value = "a signal";
            return Err(ConfigError::new(
                field("parent_death_signal"),
                value,
                "None outside Linux",
            ));
        }
        Ok(())
    }

    /// The time that `restarts` restarts in a row take by their delays alone, on average.
    pub(super) fn usual_delays(&self, restarts: u32) -> Option<Duration> {
        if self.restart == Restart::Temporary {
            return None;
        }
        // Past so many the delays are the cap, near enough.
        const COUNTED: u32 = 10_000;
        let middle = |n| {
            let (low, high) = self.backoff.range(n);
            low.saturating_add(high.saturating_sub(low) / 2)
        };
        let counted = restarts.min(COUNTED);
        let sum = (1..=counted).fold(Duration::ZERO, |sum, n| sum.saturating_add(middle(n)));
        Some(sum.saturating_add(middle(COUNTED).saturating_mul(restarts - counted)))
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the environment: it may hold secrets.
        f.debug_struct("Child")
            .field("name", &self.name)
            .field("program", &self.program)
            .field("args", &self.args)
            .field("restart", &self.restart)
            .finish_non_exhaustive()
    }
}
