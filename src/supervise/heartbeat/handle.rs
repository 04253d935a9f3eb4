//! The object that users hold, and the thread that beats.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;

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
use super::reader::{HeartbeatReader, HeartbeatVerdict};
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
/// use buttress::supervise::Heartbeat;
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
/// use buttress::supervise::{Heartbeat, Pulse};
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

struct Shared {
    name: Name,
    file: Option<PathBuf>,
    interval: Duration,
    late_after: Duration,
    durability: Durability,
    mode: u32,
    sources: Vec<(Name, Arc<dyn Progress>)>,
    target: Option<Target>,
    hooks: Hooks,
    runner: Runner,
    observers: Observers,
    hostname: String,
    time_namespace: Option<u64>,
    /// One write at a time, and what the next one says.
    next: Mutex<Next>,
    run: Mutex<Run>,
    changed: Condvar,
    core: Mutex<Core>,
    beats: AtomicU64,
    missed: AtomicU64,
}

struct Next {
    identity: ProcessIdentity,
    sequence: u64,
    metadata: String,
}

#[derive(Default)]
struct Run {
    phase: Phase,
    /// Tells a writer that hangs in a write of an earlier start.
    generation: u64,
    entry: Option<Entry>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    Starting,
    Running,
    Stopping,
}

/// What a heartbeat has done so far.
///
/// ```
/// let heart = buttress::supervise::Heartbeat::builder("api").build()?;
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

/// How long `stop` waits for a write that hangs.
const STOP_WAIT: Duration = Duration::from_secs(2);

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Heartbeat {
    /// A heartbeat of this name, with defaults.
    ///
    /// ```
    /// let heart = buttress::supervise::Heartbeat::builder("api").build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn builder(name: impl Into<Name>) -> HeartbeatBuilder {
        HeartbeatBuilder::new(name.into())
    }

    pub(super) fn from_builder(builder: HeartbeatBuilder) -> Self {
        let observers = builder.observers;
        let late_after = builder.late_after.unwrap_or(builder.interval / 2);
        let next = Next {
            identity: ProcessIdentity::own(),
            sequence: 0,
            metadata: builder.metadata.unwrap_or_default(),
        };
        Self(Arc::new(Owner(Arc::new(Shared {
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
            run: Mutex::default(),
            changed: Condvar::new(),
            core: Mutex::new(Core::new(Tick::default(), builder.interval, late_after)),
            beats: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        }))))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Makes the first beat, on this thread, and starts the thread that makes the others.
    ///
    /// # Errors
    /// If it runs already, if another heartbeat writes this file, or if the first beat cannot be written.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("beat-start-{}", std::process::id()));
    /// use buttress::supervise::Heartbeat;
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
    /// let heart = buttress::supervise::Heartbeat::builder("api").build()?;
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
    /// let heart = buttress::supervise::Heartbeat::builder("api").build()?;
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
    /// let heart = buttress::supervise::Heartbeat::builder("api").build()?;
    /// heart.set_metadata(&[1, 2, 3])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_metadata(&self, metadata: &(impl Serialize + ?Sized)) -> Result<(), HeartbeatError> {
        let metadata =
            file::json(metadata).map_err(|error| HeartbeatError::Metadata(error.to_string()))?;
        hold(&self.shared().next).metadata = metadata;
        Ok(())
    }

    /// Whether it has been started and not been stopped.
    ///
    /// ```
    /// assert!(!buttress::supervise::Heartbeat::builder("api").build()?.is_running());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn is_running(&self) -> bool {
        hold(&self.shared().run).phase == Phase::Running
    }

    /// Its name.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::Heartbeat::builder("api").build()?.name().as_str(), "api");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn name(&self) -> Name {
        self.shared().name
    }

    /// How often it beats.
    ///
    /// ```
    /// let heart = buttress::supervise::Heartbeat::builder("api").build()?;
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
    /// let heart = buttress::supervise::Heartbeat::builder("api").build()?;
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
    /// assert!(buttress::supervise::Heartbeat::read_state("/nowhere/at/all").is_none());
    /// ```
    #[must_use]
    pub fn read_state(path: impl AsRef<Path>) -> Option<HeartbeatState> {
        HeartbeatState::read(path.as_ref()).ok()??.ok()
    }

    /// What a state file says about its writer, if a beat may be `max_age` old.
    ///
    /// ```
    /// use buttress::supervise::{Heartbeat, HeartbeatVerdict};
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
    /// use buttress::supervise::Heartbeat;
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

impl Shared {
    fn claim(&self) -> Result<Option<Claim>, HeartbeatError> {
        let Some(path) = &self.file else { return Ok(None) };
        self.make_directory()?;
        let holder = format!("process {} on {}\n", std::process::id(), self.hostname);
        match Claim::of(path, self.mode, &holder) {
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

    fn make_directory(&self) -> Result<(), HeartbeatError> {
        let Some(path) = &self.file else { return Ok(()) };
        file::make_directory(path).map_err(|error| self.unwritten(error))
    }

    fn unwritten(&self, error: std::io::Error) -> HeartbeatError {
        let path = self.file.clone().unwrap_or_default();
        HeartbeatError::Write { path, source: Arc::new(error) }
    }

    fn start(self: &Arc<Self>) -> Result<(), HeartbeatError> {
        let claim = self.claim()?;
        *hold(&self.core) = Core::new(clock::now(), self.interval, self.late_after);
        // What a program reads right after the start should be there.
        self.round()?;
        let mut run = hold(&self.run);
        let generation = run.generation + 1;
        let writer = Arc::clone(self);
        std::thread::Builder::new()
            .name(format!("{}-heartbeat", self.name))
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
    fn write(&self, state: BeatState) -> Result<HeartbeatState, HeartbeatError> {
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
            metadata: next.metadata.clone(),
        };
        if let Some(path) = &self.file {
            file::replace(path, beat.to_json().as_bytes(), self.mode, self.durability)
                .map_err(|error| self.unwritten(error))?;
        }
        next.sequence += 1;
        drop(next);
        if state == BeatState::Running {
            self.beats.fetch_add(1, Ordering::Relaxed);
        }
        Ok(beat)
    }

    /// The round that is due.
    fn round(&self) -> Result<(), HeartbeatError> {
        // User code, so outside of the lock. A source that panics makes no progress.
        let mut counts = Vec::with_capacity(self.sources.len());
        let mut panicked = None;
        for (index, (_, source)) in self.sources.iter().enumerate() {
            let count = catch_unwind(AssertUnwindSafe(|| source.count()));
            if count.is_err() {
                panicked = panicked.or(Some(index));
            }
            counts.push(count.unwrap_or_default());
        }
        let round = hold(&self.core).begin(counts);
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
            let dead = catch_unwind(AssertUnwindSafe(|| target.target.is_dead())).unwrap_or(true);
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

    fn stop(&self) {
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
        shared.runner.tend(now);
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
