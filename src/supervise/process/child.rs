//! What is to be run, and how it is looked after.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::name::Name;

use super::output::{Line, Output};
use super::policy::Restart;

mod check;
mod probes;

pub use probes::{ChildProcess, Liveness};
pub(super) use probes::{IsAlive, IsReady};

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
