//! What the handles share, and the thread that beats.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::caught::caught;
use crate::clock::{self, Tick};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers, Severity};

use super::super::alert::{Alert, Runner};
use super::super::identity::{ProcessIdentity, namespace};
use super::super::monitor::{self, Checked, Entry};
use super::super::progress::Progress;
use super::config::{HeartbeatBuilder, Hooks, Target};
use super::core::{Core, Round, Told};
use super::error::{HeartbeatError, MissedBeat};
use super::file::{self, Claim, Durability, NoClaim};
use super::place;
use super::state::{BeatState, HeartbeatState};

pub(super) struct Shared {
    pub(super) name: Name,
    pub(super) file: Option<PathBuf>,
    pub(super) interval: Duration,
    pub(super) late_after: Duration,
    pub(super) durability: Durability,
    pub(super) mode: u32,
    pub(super) sources: Vec<(Name, Arc<dyn Progress>)>,
    pub(super) target: Option<Target>,
    pub(super) hooks: Hooks,
    pub(super) runner: Runner,
    pub(super) observers: Observers,
    pub(super) hostname: String,
    pub(super) time_namespace: Option<u64>,
    /// One write at a time.
    pub(super) next: Mutex<Next>,
    /// Apart: a write may hang, and who says something else must not hang with it.
    pub(super) metadata: Mutex<String>,
    pub(super) run: Mutex<Run>,
    pub(super) changed: Condvar,
    pub(super) core: Mutex<Core>,
    pub(super) beats: AtomicU64,
    pub(super) missed: AtomicU64,
    /// When the last beat was made, 0 before the first.
    pub(super) last: AtomicU64,
    /// What is wrong with beats, until they are on time again.
    pub(super) trouble: Mutex<Option<String>>,
}

pub(super) struct Next {
    pub(super) identity: ProcessIdentity,
    pub(super) sequence: u64,
}

#[derive(Default)]
pub(super) struct Run {
    pub(super) phase: Phase,
    /// Tells a writer that hangs in a write of an earlier start.
    pub(super) generation: u64,
    pub(super) entry: Option<Entry>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Idle,
    Starting,
    Running,
    Stopping,
}

/// How long `stop` waits for a write that hangs.
const STOP_WAIT: Duration = Duration::from_secs(2);

pub(super) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(builder: HeartbeatBuilder) -> Self {
        let observers = builder.observers;
        let late_after = builder.late_after.unwrap_or(builder.interval / 2);
        let next = Next { identity: ProcessIdentity::own(), sequence: 0 };
        Self {
            name: builder.name,
            file: builder.file,
            interval: builder.interval,
            late_after,
            durability: builder.durability,
            mode: if builder.private { 0o600 } else { 0o644 },
            sources: builder.sources,
            target: builder.target,
            hooks: builder.hooks,
            runner: Runner::new(builder.name, builder.callback_timeout, observers.clone()),
            observers,
            hostname: place::hostname(),
            time_namespace: namespace("time"),
            next: Mutex::new(next),
            metadata: Mutex::new(builder.metadata.unwrap_or_default()),
            run: Mutex::default(),
            changed: Condvar::new(),
            core: Mutex::new(Core::new(Tick::default(), builder.interval, late_after)),
            beats: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            last: AtomicU64::new(0),
            trouble: Mutex::default(),
        }
    }

    fn claim(&self) -> Result<Option<Claim>, HeartbeatError> {
        let Some(path) = &self.file else { return Ok(None) };
        self.make_directory()?;
        let holder = format!("process {} on {}\n", std::process::id(), self.hostname);
        match Claim::of(path, &holder) {
            Ok(claim) => Ok(Some(claim)),
            Err(NoClaim::Held(holder)) => {
                let holder = if holder.is_empty() { "another heartbeat".into() } else { holder };
                Err(HeartbeatError::Held { path: path.clone(), holder })
            }
            Err(NoClaim::Failed(path, error)) => {
                Err(HeartbeatError::Lock { path, source: Arc::new(error) })
            }
        }
    }

    pub(super) fn make_directory(&self) -> Result<(), HeartbeatError> {
        let Some(path) = &self.file else { return Ok(()) };
        file::make_directory(path).map_err(|error| self.unwritten(error))
    }

    fn unwritten(&self, error: std::io::Error) -> HeartbeatError {
        let path = self.file.clone().unwrap_or_default();
        HeartbeatError::Write { path, source: Arc::new(error) }
    }

    pub(super) fn start(self: &Arc<Self>) -> Result<(), HeartbeatError> {
        let claim = self.claim()?;
        *hold(&self.core) = Core::new(clock::now(), self.interval, self.late_after);
        // What a program reads right after the start should be there.
        self.round()?;
        let mut run = hold(&self.run);
        let generation = run.generation + 1;
        let writer = Arc::clone(self);
        std::thread::Builder::new()
            .name(self.name.of_thread("heartbeat"))
            // The claim is the writer's: while a write hangs, nobody else may write.
            .spawn(move || writer.beat_on(generation, claim))
            .map_err(|error| HeartbeatError::Thread(Arc::new(error)))?;
        run.generation = generation;
        run.phase = Phase::Running;
        // If there is no thread to be had for it, nobody tells of a write that hangs; readers see it.
        let look = (self.late_after / 2).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let overdue = Overdue { shared: Arc::clone(self), generation, look };
        run.entry = monitor::enroll(Arc::new(overdue), look).ok();
        Ok(())
    }

    /// Makes one beat.
    pub(super) fn write(&self, state: BeatState) -> Result<HeartbeatState, HeartbeatError> {
        let mut next = hold(&self.next);
        let beat = HeartbeatState {
            timestamp: super::time::format(SystemTime::now()),
            pid: next.identity.pid,
            hostname: self.hostname.clone(),
            version: Some(1),
            state,
            sequence: Some(next.sequence + 1),
            interval: Some(self.interval),
            boot_id: next.identity.boot_id.clone(),
            boottime: place::boottime(),
            started: next.identity.started,
            pid_namespace: next.identity.pid_namespace,
            time_namespace: self.time_namespace,
            metadata: hold(&self.metadata).clone(),
        };
        if let Some(path) = &self.file {
            file::replace(path, beat.to_json().as_bytes(), self.mode, self.durability)
                .map_err(|error| self.unwritten(error))?;
        }
        next.sequence += 1;
        drop(next);
        if state == BeatState::Running {
            self.beats.fetch_add(1, Ordering::Relaxed);
            self.last.store(clock::now().0, Ordering::Relaxed);
        }
        Ok(beat)
    }

    /// The round that is due.
    fn round(&self) -> Result<(), HeartbeatError> {
        // User code, so outside of the lock. A source that panics makes no progress.
        let mut counts = Vec::with_capacity(self.sources.len());
        let mut panicked = None;
        for (index, (_, source)) in self.sources.iter().enumerate() {
            let count = caught(|| source.count());
            if count.is_none() {
                panicked = panicked.or(Some(index));
            }
            counts.push(count.unwrap_or_default());
        }
        let round = hold(&self.core).begin(clock::now(), counts);
        let round = panicked.map_or(round, Round::Withheld);
        let (beat, outcome) = match round {
            Round::Withheld(source) => (None, Err(Told::NoProgress(source))),
            Round::Beat => match self.write(BeatState::Running) {
                Ok(beat) => (Some(beat), Ok(())),
                Err(error) => (None, Err(Told::Failed(error))),
            },
        };
        let failure = match &outcome {
            Err(Told::Failed(error)) => Some(error.clone()),
            _ => None,
        };
        let told = hold(&self.core).end(clock::now(), outcome);
        for told in told {
            self.tell(told, beat.as_ref());
        }
        if let Some(target) = &self.target {
            // One that panics when asked does not work.
            let dead = caught(|| target.target.is_dead()).unwrap_or(true);
            let told = hold(&self.core).target(dead);
            if let Some(told) = told {
                self.tell(told, None);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn tell(&self, told: Told<HeartbeatError>, beat: Option<&HeartbeatState>) {
        let missed = match told {
            Told::Beat => {
                let job =
                    self.hooks.beat.as_ref().zip(beat).map(|(hook, beat)| hook.job(beat.clone()));
                if job.is_some() {
                    self.runner.submit(job);
                }
                return;
            }
            Told::Resumed => {
                *hold(&self.trouble) = None;
                self.event(Severity::Info, "beat_resumed", format_args!("on time again"));
                return;
            }
            Told::TargetBack => {
                self.event(Severity::Info, "target_back", format_args!("{}", self.target_name()));
                return;
            }
            Told::TargetDead => {
                let name = self.target_name();
                self.event(Severity::Error, "target_dead", format_args!("{name}"));
                let context = [("target", name.to_owned())];
                let alert = Alert::new("heartbeat", "Target is dead, triggering recovery", context);
                let jobs = [
                    self.hooks.alert.as_ref().map(|hook| hook.job(alert)),
                    self.hooks.target_dead.as_ref().map(|hook| hook.job(())),
                ];
                self.runner.submit(jobs.into_iter().flatten());
                return;
            }
            Told::Late(by) => MissedBeat::Late { by },
            Told::Failed(error) => MissedBeat::WriteFailed(error),
            Told::NoProgress(source) => MissedBeat::NoProgress { source: self.sources[source].0 },
        };
        self.missed.fetch_add(1, Ordering::Relaxed);
        *hold(&self.trouble) = Some(missed.to_string());
        let what = match &missed {
            MissedBeat::Late { .. } => "beat_late",
            MissedBeat::WriteFailed(_) => "beat_not_written",
            MissedBeat::NoProgress { .. } => "beat_withheld",
        };
        self.event(Severity::Warning, what, format_args!("{missed}"));
        self.runner.submit(self.hooks.missed.as_ref().map(|hook| hook.job(missed)));
    }

    fn target_name(&self) -> &str {
        self.target.as_ref().map_or("", |target| target.name.as_str())
    }

    fn event(&self, severity: Severity, what: &'static str, detail: fmt::Arguments<'_>) {
        let kind = EventKind::Supervised { severity, what, detail };
        self.observers.emit(LayerKind::Supervise, self.name, kind);
    }

    /// The writer's thread.
    fn beat_on(&self, generation: u64, claim: Option<Claim>) {
        let goes_on = |run: &Run| run.phase == Phase::Running && run.generation == generation;
        loop {
            let wait = hold(&self.core).wait(clock::now());
            let mut run = hold(&self.run);
            // `start` holds the lock until it has said that this runs.
            if goes_on(&run) && !wait.is_zero() {
                run =
                    self.changed.wait_timeout(run, wait).unwrap_or_else(PoisonError::into_inner).0;
            }
            if !goes_on(&run) {
                break;
            }
            drop(run);
            if hold(&self.core).wait(clock::now()).is_zero() {
                // A failure has been told.
                let _ = self.round();
            }
        }
        if let Err(error) = self.write(BeatState::Stopped) {
            self.event(Severity::Warning, "beat_not_stopped", format_args!("{error}"));
        }
        // Before anybody learns that it has stopped.
        drop(claim);
        let mut run = hold(&self.run);
        if run.generation == generation {
            run.phase = Phase::Idle;
        }
        drop(run);
        self.changed.notify_all();
    }

    pub(super) fn stop(&self) {
        let mut run = hold(&self.run);
        if run.phase != Phase::Running {
            return;
        }
        run.phase = Phase::Stopping;
        if let Some(entry) = run.entry.take() {
            monitor::withdraw(entry);
        }
        self.changed.notify_all();
        let stopping = |run: &mut Run| run.phase == Phase::Stopping;
        let (mut run, waited) = self
            .changed
            .wait_timeout_while(run, STOP_WAIT, stopping)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            // The writer says that it has stopped when it can, and keeps the claim until then.
            run.generation += 1;
            run.phase = Phase::Idle;
            drop(run);
            let detail =
                format_args!("a write hangs, so the file does not say yet that this is the end");
            self.event(Severity::Warning, "beat_not_stopped", detail);
        }
    }
}

/// Looked at by the monitor, for a writer that hangs.
struct Overdue {
    shared: Arc<Shared>,
    generation: u64,
    look: Duration,
}

impl Checked for Overdue {
    fn check(&self, now: Tick) -> Option<Duration> {
        let shared = &self.shared;
        {
            let run = hold(&shared.run);
            if run.phase != Phase::Running || run.generation != self.generation {
                return None;
            }
        }
        let late = hold(&shared.core).overdue(now);
        if let Some(by) = late {
            shared.tell(Told::Late(by), None);
        }
        Some(self.look)
    }
}
