//! The thread that starts children, waits for their end and does what the core says.
//!
//! It is one thread for the life of the supervisor because the kernel takes the end of the *thread* that
//! started a process for its parent's death.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::process::{Child as Process, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker as TaskWaker};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal};
use tokio::time::Instant;

use crate::caught::caught;
use crate::clock;
use crate::observe::Severity;
use crate::supervise::{Hold, Phase, ProcessIdentity};

use super::adopted::Adopted;
use super::child::{Child, ChildProcess};
use super::core::{End, Out, Then};
use super::exit::{Exit, OomKills};
use super::handle::Shared;
use super::marks::{self, Owner};
use super::output::{Drain, Output, Stream};
use super::probe::Probes;
use super::status::SupervisorEnd;
use super::sys::{self, Birth};
use super::table::proc_is_ours;

/// How often to look where the kernel cannot tell.
const LOOK_EVERY: Duration = Duration::from_millis(20);

struct Running {
    process: Process,
    pid: Pid,
    /// Readable when it has ended. None on kernels (before Linux 5.3) and systems without.
    ended: Option<OwnedFd>,
    /// How often the kernel had killed for want of memory before.
    oom_kills: Option<u64>,
    killed: bool,
}

type Reached = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Engine {
    shared: Arc<Shared>,
    running: Vec<Option<Running>>,
    drain: Option<Drain>,
    probes: Option<Probes>,
    adopted: Option<Adopted>,
    oom_kills: OomKills,
    /// What children carry. None where a process cannot be told from a later one.
    owner: Option<String>,
    /// Which supervisor of this process this is.
    number: String,
    lifeline: Option<(PipeReader, PipeWriter)>,
    reached: Option<Reached>,
    hold: Option<Hold>,
    /// Who ended last by its own fault, for the report.
    failed: Option<(usize, Exit)>,
}

impl Engine {
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<()> {
        let settings = &shared.settings;
        let children = &settings.children;
        let wants = |wants: fn(&Child) -> bool| children.iter().any(wants);
        let piped = |output: &Output| !matches!(output, Output::Inherit | Output::Null);
        let drained = children.iter().any(|child| piped(&child.stdout) || piped(&child.stderr));
        let own = ProcessIdentity::own();
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let (reached, hold) = match &settings.lifecycle {
            None => (None, None),
            Some((life, at)) => {
                let (watched, at) = (life.clone(), *at);
                let reached: Reached = Box::pin(async move { watched.reached(at).await });
                (Some(reached), (at <= Phase::Draining).then(|| life.hold(settings.name)))
            }
        };
        let engine = Self {
            shared: Arc::clone(shared),
            running: children.iter().map(|_| None).collect(),
            drain: drained.then(Drain::start).transpose()?,
            probes: wants(Child::has_probes).then(|| Probes::start(shared)).transpose()?,
            adopted: settings.subreaper.then(|| Adopted::start(&number)).transpose()?,
            oom_kills: OomKills::of_own_group(),
            owner: Owner::of(&own).filter(|_| proc_is_ours()).map(|owner| owner.to_string()),
            number,
            lifeline: wants(|child| child.lifeline).then(io::pipe).transpose()?,
            reached,
            hold,
            failed: None,
        };
        std::thread::Builder::new()
            .name("buttress-processes".into())
            .spawn(move || engine.run())?;
        Ok(())
    }

    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let end = caught(|| self.work());
        let end = match end {
            Some(End::Finished) => SupervisorEnd::Finished,
            Some(End::Stopped) => SupervisorEnd::Stopped,
            Some(End::Escalated { child }) => SupervisorEnd::Escalated {
                child: shared.settings.children[child].name(),
                exit: self.failed.map_or(Exit::Unknown, |(_, exit)| exit),
            },
            None => SupervisorEnd::Failed,
        };
        // Those of a thread that panicked, and what the dead have left behind.
        let cleanup = caught(|| {
            if let Some(mut adopted) = self.adopted.take() {
                adopted.finish(&shared);
            }
            if let Some(drain) = self.drain.take() {
                drain.finish();
            }
        });
        let severity = match end {
            SupervisorEnd::Failed | SupervisorEnd::Escalated { .. } => Severity::Error,
            _ => Severity::Info,
        };
        let detail = format_args!("all children have ended: {}", end.as_str());
        shared.emit_last(severity, detail);
        shared.finish(if cleanup.is_none() { SupervisorEnd::Failed } else { end });
        drop(self.hold.take());
    }

    fn work(&mut self) -> End {
        let shared = Arc::clone(&self.shared);
        loop {
            self.look_at_lifecycle();
            let outs = shared.with_core(super::core::Core::advance);
            if !outs.is_empty() {
                for out in outs {
                    self.perform(out);
                }
                shared.tell();
                continue;
            }
            let (ended, deadline) = shared.with_core(|core, _| (core.ended(), core.deadline()));
            if let Some(end) = ended {
                return end;
            }
            self.wait(deadline.map(|deadline| deadline.since(clock::now())));
            self.collect();
        }
    }

    fn look_at_lifecycle(&mut self) {
        let Some(reached) = &mut self.reached else { return };
        let waker = TaskWaker::from(Arc::clone(&self.shared));
        if reached.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Pending {
            return;
        }
        self.reached = None;
        let deadline =
            self.shared.settings.lifecycle.as_ref().and_then(|(life, _)| life.deadline());
        // Somewhat before, so that what is killed has died by then.
        let within = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            left - (left / 10).min(Duration::from_secs(1))
        });
        self.shared
            .with_core(|core, now| core.request_stop(within.map(|within| now.after(within))));
    }

    /// Until a child ends, somebody wakes us, or `timeout` has passed.
    fn wait(&self, timeout: Option<Duration>) {
        let adopted = self.adopted.iter().flat_map(Adopted::fds);
        let running = || self.running.iter().flatten();
        let mut fds: Vec<_> = std::iter::once(self.shared.waker.fd())
            .chain(running().filter_map(|running| Some(running.ended.as_ref()?.as_fd())))
            .chain(adopted)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let blind = running().any(|running| running.ended.is_none()).then_some(LOOK_EVERY);
        let scan = self.adopted.as_ref().map(Adopted::look_again);
        let timeout = timeout.into_iter().chain(blind).chain(scan).min();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // An interruption, or whatever else it may fail with, is a round with nothing in it.
        if poll(&mut fds, timeout.as_ref()).is_err_and(|error| error != rustix::io::Errno::INTR) {
            clock::park(LOOK_EVERY);
        }
        self.shared.waker.clear();
    }

    /// Looks who has ended.
    fn collect(&mut self) {
        for index in 0..self.running.len() {
            let Some(running) = &mut self.running[index] else { continue };
            let ended = sys::has_ended(running.pid);
            if matches!(ended, Ok(false)) {
                continue;
            }
            // Under the lock, so that nobody signals the number once it is free.
            self.shared.with_core(|core, now| {
                let exit = match ended {
                    // Somebody took its status: neither its number nor its group's is ours any more.
                    Err(_) => Exit::Unknown,
                    Ok(_) => {
                        // Before it is collected, which frees the group's number.
                        let _ = rustix::process::kill_process_group(running.pid, Signal::KILL);
                        running.process.wait().map_or(Exit::Unknown, Exit::of)
                    }
                };
                let exit = running.judge(exit, &self.oom_kills);
                core.exited(index, exit, now);
            });
            self.running[index] = None;
        }
        if let Some(adopted) = &mut self.adopted {
            let own = self.running.iter().flatten().map(|running| running.process.id()).collect();
            adopted.collect(&own, &self.shared);
        }
    }

    fn perform(&mut self, out: Out) {
        match out {
            Out::Start(index) => self.begin(index),
            Out::Stop(index) => {
                let signal = sys::signal(self.shared.settings.children[index].stop_signal);
                self.send(index, signal.unwrap_or(Signal::TERM));
                // One that is stopped would not see it otherwise.
                self.send(index, Signal::CONT);
            }
            Out::Kill(index) => {
                if let Some(running) = &mut self.running[index] {
                    running.killed = true;
                }
                self.send(index, Signal::KILL);
                self.tell(index, Severity::Warning, "child_killed", format_args!("its group"));
            }
            Out::Ready(index) => {
                self.tell(index, Severity::Info, "child_ready", format_args!("it is ready"));
            }
            Out::Frozen(index) => {
                let why = format_args!("it shows no sign of life");
                self.tell(index, Severity::Error, "child_frozen", why);
            }
            Out::Unasked(index) => {
                let why = format_args!(
                    "a question about an earlier run of it hangs, or no thread is left"
                );
                self.tell(index, Severity::Error, "child_not_asked", why);
            }
            Out::StartTimeout(index) => {
                let why = format_args!("it is not ready in time");
                self.tell(index, Severity::Error, "child_start_timeout", why);
            }
            Out::Unkillable(index) => {
                let state = self.running[index].as_ref().and_then(Running::state).unwrap_or('?');
                let why = format_args!("it was killed and is still there, in state {state}");
                self.tell(index, Severity::Error, "child_unkillable", why);
            }
            Out::Exited(index, exit, then) => self.exited(index, exit, then),
            Out::Ended(_) => {}
        }
    }

    fn exited(&mut self, index: usize, exit: Exit, then: Then) {
        let tell = |severity, detail: std::fmt::Arguments<'_>| {
            self.tell(index, severity, "child_exited", detail);
        };
        match then {
            Then::Restarts(delay) => {
                tell(Severity::Warning, format_args!("{exit}; starts again in {delay:?}"));
            }
            Then::RestartsWithGroup => {
                tell(Severity::Info, format_args!("{exit}; starts again with its group"));
            }
            Then::Finished => tell(Severity::Info, format_args!("{exit}; that was all")),
            Then::Stays => tell(Severity::Info, format_args!("{exit}")),
            Then::Escalates => {
                tell(Severity::Error, format_args!("{exit}; one failure too many"));
                self.failed = Some((index, exit));
                if let Some(intensity) = self.shared.settings.intensity {
                    let (restarts, within) = (intensity.restarts, intensity.within);
                    let why = format_args!(
                        "more than {restarts} restarts in {within:?}, or in a row without being ready"
                    );
                    self.tell(index, Severity::Error, "escalated", why);
                }
            }
        }
    }

    fn tell(
        &self,
        index: usize,
        severity: Severity,
        what: &'static str,
        detail: std::fmt::Arguments<'_>,
    ) {
        let child = self.shared.settings.children[index].name();
        self.shared.emit(severity, what, format_args!("{child}: {detail}"));
    }

    /// To the whole group. Its leader has not been collected, by us or by somebody else in this process, so the
    /// number is its own.
    fn send(&self, index: usize, signal: Signal) {
        if let Some(running) = &self.running[index]
            && sys::has_ended(running.pid).is_ok()
            && rustix::process::kill_process_group(running.pid, signal).is_err()
        {
            let _ = rustix::process::kill_process(running.pid, signal);
        }
    }

    fn begin(&mut self, index: usize) {
        let run = self.shared.with_core(|core, _| core.run(index));
        match self.spawn(index) {
            Ok(pid) => {
                self.shared.with_core(|core, now| core.started(index, pid, now));
                let detail = format_args!("process {pid}, its run {run}");
                self.tell(index, Severity::Info, "child_started", detail);
                let child = &self.shared.settings.children[index];
                if let Some(probes) = self.probes.as_ref().filter(|_| child.has_probes()) {
                    let (name, every) = (child.name(), child.probe_every);
                    probes.watch(index, ChildProcess { name, pid, run, every });
                }
            }
            Err(error) => {
                let detail = format_args!("cannot be started: {error}");
                self.tell(index, Severity::Error, "child_not_started", detail);
                let kind = error.kind();
                self.shared.with_core(|core, now| core.not_started(index, kind, now));
            }
        }
    }

    fn spawn(&mut self, index: usize) -> io::Result<u32> {
        let shared = Arc::clone(&self.shared);
        let child = &shared.settings.children[index];
        let mut command = self.command(child)?;
        let lifeline = self.lifeline.as_ref().filter(|_| child.lifeline);
        let birth = Birth {
            death_signal: child.death_signal,
            lifeline: lifeline.map(|(reader, _)| sys::number_of(reader)),
        };
        let oom_kills = self.oom_kills.count();
        let mut process = sys::spawn(&mut command, birth)?;
        let number = process.id();
        let pid = Pid::from_child(&process);
        if let Some(adopted) = &mut self.adopted {
            adopted.started(number);
        }
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        self.running[index] =
            Some(Running { process, pid, ended: sys::end_of(pid), oom_kills, killed: false });
        if let Some(drain) = &self.drain {
            let name = child.name();
            let out =
                stdout.map(|from| drain.add(from, name, number, Stream::Stdout, &child.stdout));
            let err =
                stderr.map(|from| drain.add(from, name, number, Stream::Stderr, &child.stderr));
            for error in out.into_iter().chain(err).filter_map(Result::err) {
                let why = format_args!("its output cannot be read: {error}");
                self.tell(index, Severity::Error, "child_output_lost", why);
            }
        }
        Ok(number)
    }

    fn command(&self, child: &Child) -> io::Result<Command> {
        let mut command = Command::new(&child.program);
        command.args(&child.args).stdin(Stdio::null());
        command.stdout(child.stdout.stdio()).stderr(child.stderr.stdio());
        if child.env_clear {
            command.env_clear();
        }
        // One that used these would speak for us.
        for ours in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", marks::LIFELINE] {
            command.env_remove(ours);
        }
        for (key, value) in &child.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        if let Some(dir) = &child.dir {
            command.current_dir(dir);
        }
        command.env(marks::APP, self.shared.settings.name.as_str());
        match &self.owner {
            Some(owner) => command.env(marks::OWNER, owner),
            // Not somebody else's, who may have started us.
            None => command.env_remove(marks::OWNER),
        };
        command.env(marks::SUPERVISOR, &self.number);
        if let Some((reader, _)) = self.lifeline.as_ref().filter(|_| child.lifeline) {
            command.env(marks::LIFELINE, sys::number_of(reader).to_string());
        }
        if let Some(prepare) = &child.prepare {
            caught(|| prepare(&mut command))
                .ok_or_else(|| io::Error::other("the closure that prepares it panicked"))?;
        }
        Ok(command)
    }
}

impl Running {
    fn judge(&self, exit: Exit, oom_kills: &OomKills) -> Exit {
        let killed = matches!(exit, Exit::Signal { number: libc::SIGKILL, .. });
        let grown = || Some(oom_kills.count()? > self.oom_kills?);
        if killed && !self.killed && grown() == Some(true) { Exit::OutOfMemory } else { exit }
    }

    fn state(&self) -> Option<char> {
        let pid = u32::try_from(self.pid.as_raw_pid()).ok()?;
        Some(crate::supervise::ProcessStatus::of(pid)?.state)
    }
}
