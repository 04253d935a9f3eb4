//! What the handles share, and what the checks do.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker as TaskWaker;
use std::time::Duration;

use crate::caught::caught;
use crate::clock::{self, Tick};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers, Severity};

use super::super::alert::{Alert, Runner};
use super::super::monitor::{self, Checked, Entry};
use super::super::progress::{Progress, Pulse};
use super::config::{Hooks, Source, WatchdogBuilder};
use super::core::{Core, Limits, Seen, Told};
use super::error::{Freeze, FreezeCause, WatchdogError, WatchdogTimeoutError};
use super::file::{self, Process, Waker};

/// For so long at most a source that has panicked is not asked, unless it is asked more rarely anyway. Nor for more than a
/// quarter of the timeout: one that is well again would be found frozen before it is asked.
const MOST: Duration = Duration::from_secs(60);

pub(super) struct Shared {
    pub(super) name: Name,
    pub(super) limits: Limits,
    pub(super) pulse: Pulse,
    pub(super) source: Source,
    pub(super) hooks: Hooks,
    pub(super) runner: Runner,
    pub(super) observers: Observers,
    pub(super) state: Mutex<State>,
    pub(super) timeouts: AtomicU64,
    pub(super) gaps: AtomicU64,
    /// The last freeze, for whoever is guarded.
    pub(super) last: Mutex<Option<Freeze>>,
    pub(super) waiting: Mutex<Waiting>,
}

/// What one watch knows of its own sight. The next one has its own: what was wrong may have been mended meanwhile, and is
/// told if it has not; and a look of the watch before may come back long after its end.
#[derive(Default)]
pub(super) struct Sight {
    /// It has been told that it cannot see.
    blind: AtomicBool,
    /// When the source of progress panicked, and how long it is not asked after that: each time goes through the hook
    /// of the program, which may write a backtrace.
    panicked: Mutex<Option<(Tick, Duration)>>,
}

pub(super) struct State {
    pub(super) core: Core,
    pub(super) running: bool,
    pub(super) generation: u64,
    pub(super) started: Option<Tick>,
    pub(super) sight: Arc<Sight>,
    /// Of the shared monitor, or of the thread that watches a file.
    pub(super) entry: Option<Entry>,
    pub(super) waker: Option<Arc<Waker>>,
}

#[derive(Default)]
pub(super) struct Waiting {
    pub(super) next: u64,
    pub(super) tasks: Vec<(u64, TaskWaker)>,
}

pub(super) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sight {
    fn sees(&self) {
        if self.blind.load(Ordering::Relaxed) {
            self.blind.store(false, Ordering::Relaxed);
        }
    }
}

impl Shared {
    pub(super) fn new(builder: WatchdogBuilder, limits: Limits) -> Self {
        let pulse = Pulse::new();
        let runner = Runner::new(builder.name, builder.callback_timeout, builder.observers.clone());
        Self {
            name: builder.name,
            limits,
            pulse: pulse.clone(),
            source: builder.source,
            hooks: builder.hooks,
            runner,
            observers: builder.observers,
            state: Mutex::new(State {
                core: Core::new(limits),
                running: false,
                generation: 0,
                started: None,
                sight: Arc::default(),
                entry: None,
                waker: None,
            }),
            timeouts: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            last: Mutex::new(None),
            waiting: Mutex::default(),
        }
    }

    pub(super) fn start(self: &Arc<Self>) -> Result<(), WatchdogError> {
        let mut state = hold(&self.state);
        if state.running {
            return Err(WatchdogError::AlreadyRunning);
        }
        let generation = state.generation + 1;
        let sight = Arc::new(Sight::default());
        // The first look only sees what there is. It is taken on the monitor's clock.
        if let Source::File(path) = &self.source {
            let waker = Arc::new(Waker::new().map_err(WatchdogError::thread)?);
            let (shared, path, wakes) = (Arc::clone(self), path.clone(), Arc::clone(&waker));
            let sight = Arc::clone(&sight);
            // Of its own: a file may hang, and others must not wait for it.
            std::thread::Builder::new()
                .name(self.name.of_thread("watch"))
                .spawn(move || shared.watch(&path, &wakes, generation, &sight))
                .map_err(WatchdogError::thread)?;
            state.waker = Some(waker);
        } else {
            let (shared, sight) = (Arc::clone(self), Arc::clone(&sight));
            let watched = Arc::new(Watched { shared, generation, sight });
            let entry = monitor::enroll(watched, Duration::ZERO).map_err(WatchdogError::thread)?;
            state.entry = Some(entry);
        }
        state.core.reset();
        state.generation = generation;
        state.sight = sight;
        state.running = true;
        state.started = Some(clock::now());
        Ok(())
    }

    pub(super) fn stop(&self) {
        let mut state = hold(&self.state);
        if !state.running {
            return;
        }
        state.running = false;
        state.started = None;
        let (entry, waker) = (state.entry.take(), state.waker.take());
        drop(state);
        if let Some(entry) = entry {
            monitor::withdraw(entry);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// `None`: a file does not count, and a source that panics cannot say.
    pub(super) fn count(&self, sight: &Sight) -> Option<u64> {
        match &self.source {
            Source::Pings => Some(self.pulse.count()),
            Source::Progress(source) => {
                let asked = clock::now();
                let panicked = *hold(&sight.panicked);
                if panicked.is_some_and(|(at, pause)| asked.since(at) < pause) {
                    return None;
                }
                let count = caught(|| source.count());
                let again = count.is_none().then(|| {
                    let Limits { timeout, check, .. } = self.limits;
                    let pause = panicked.map_or(check, |(_, pause)| pause.saturating_mul(2));
                    (asked, pause.min(MOST).min(timeout / 4).max(check))
                });
                *hold(&sight.panicked) = again;
                match count {
                    Some(_) => sight.sees(),
                    None => self.cannot_see(sight, format_args!("the source of progress panics")),
                }
                count
            }
            Source::File(_) => None,
        }
    }

    /// Tells it once, until it sees again. Not of a watch that another one has followed.
    fn cannot_see(&self, sight: &Sight, why: fmt::Arguments<'_>) {
        let first = !sight.blind.swap(true, Ordering::Relaxed);
        if first && std::ptr::eq(&*hold(&self.state).sight, sight) {
            self.event(Severity::Error, "watchdog_blind", why);
        }
    }

    /// The thread that watches a file.
    fn watch(&self, path: &std::path::Path, waker: &Waker, generation: u64, sight: &Sight) {
        let mut process: Option<Process> = None;
        loop {
            let began = clock::now();
            let seen = match file::look(path) {
                Ok((seen, identity)) => {
                    sight.sees();
                    if process.as_ref().map(|process| &process.identity) != identity.as_ref() {
                        process = identity.and_then(Process::open);
                    }
                    seen
                }
                Err(error) => {
                    self.cannot_see(sight, format_args!("{}: {error}", path.display()));
                    // Its end is seen without the file; once, or the sleep would end at once.
                    match process.take_if(|process| process.has_ended()) {
                        Some(_) => Seen::Nothing(FreezeCause::Dead),
                        None => Seen::Unseen,
                    }
                }
            };
            if !self.check(began, generation, seen) {
                return;
            }
            let rest = self.limits.check.saturating_sub(clock::now().since(began));
            waker.sleep(rest, process.as_ref());
        }
    }

    /// False if this watch is over.
    fn check(&self, now: Tick, generation: u64, seen: Seen) -> bool {
        let mut state = hold(&self.state);
        if !state.running || state.generation != generation {
            return false;
        }
        let told = state.core.check(now, seen);
        if let Some(freeze) = told.into_iter().flatten().find_map(|told| self.freeze(told)) {
            *hold(&self.last) = Some(freeze);
            self.timeouts.fetch_add(1, Ordering::Release);
        }
        drop(state);
        for told in told.into_iter().flatten() {
            self.tell(told);
        }
        true
    }

    fn freeze(&self, told: Told) -> Option<Freeze> {
        match told {
            Told::Frozen { cause, silent } => Some(Freeze { watchdog: self.name, cause, silent }),
            _ => None,
        }
    }

    fn tell(&self, told: Told) {
        match told {
            Told::Frozen { cause, silent } => {
                let freeze = Freeze { watchdog: self.name, cause, silent };
                // The callbacks first: what observes may hang in the lock that is the matter.
                let jobs = [
                    self.hooks.alert.as_ref().map(|hook| hook.job(self.alert(freeze))),
                    self.hooks.timeout.as_ref().map(|hook| hook.job(freeze)),
                ];
                self.runner.submit(jobs.into_iter().flatten());
                // Not within the `for`, which would keep the lock: a waker may drop what waits.
                let waiting = std::mem::take(&mut hold(&self.waiting).tasks);
                for (_, waker) in waiting {
                    waker.wake();
                }
                let detail = format_args!("{} for {silent:.3?}", cause.as_str());
                self.event(Severity::Error, "frozen", detail);
            }
            Told::Recovered { after } => {
                self.runner.submit(self.hooks.recovered.as_ref().map(|hook| hook.job(after)));
                self.event(Severity::Info, "recovered", format_args!("after {after:.3?}"));
            }
            Told::Ended => {
                self.event(Severity::Info, "target_stopped", format_args!("on purpose"));
            }
            Told::Gap(by) => {
                self.gaps.fetch_add(1, Ordering::Relaxed);
                let detail = format_args!("the watchdog itself was late by {by:.3?}");
                self.event(Severity::Info, "observer_gap", detail);
            }
        }
    }

    fn alert(&self, freeze: Freeze) -> Alert {
        let cause = freeze.cause.as_str();
        let silent = format!("{:.3}", freeze.silent.as_secs_f64());
        let timeout = self.limits.timeout.as_secs_f64().to_string();
        if let Source::File(path) = &self.source {
            let path = path.display().to_string();
            let message = format!("Heartbeat state file is stale: {path}");
            let context = [
                ("state_file", path),
                ("max_age", timeout),
                ("cause", cause.into()),
                ("silent", silent),
            ];
            return Alert::new("watchdog", message, context);
        }
        let message = format!("Watchdog {} has seen nothing for {silent} s", self.name);
        let context = [("timeout", timeout), ("cause", cause.into()), ("silent", silent)];
        Alert::new("watchdog", message, context)
    }

    pub(super) fn event(&self, severity: Severity, what: &'static str, detail: fmt::Arguments<'_>) {
        let kind = EventKind::Supervised { severity, what, detail };
        self.observers.emit(LayerKind::Supervise, self.name, kind);
    }

    // ---- for what is guarded ---------------------------------------------------------------------

    pub(super) fn fired(&self) -> u64 {
        self.timeouts.load(Ordering::Acquire)
    }

    pub(super) fn fired_since(&self, before: u64) -> Option<WatchdogTimeoutError> {
        if self.fired() == before {
            return None;
        }
        hold(&self.last).map(WatchdogTimeoutError)
    }

    pub(super) fn triggered(&self) -> Result<(), WatchdogTimeoutError> {
        // The lock only if it ever fired.
        if self.fired() == 0 || !hold(&self.state).core.is_frozen() {
            return Ok(());
        }
        hold(&self.last).map_or(Ok(()), |freeze| Err(WatchdogTimeoutError(freeze)))
    }

    /// Has the task woken when it fires. `slot` is what the last call returned.
    pub(super) fn wait(&self, slot: Option<u64>, waker: &TaskWaker) -> u64 {
        // A waker is the user's: cloned before the lock is taken, and dropped after.
        let waker = waker.clone();
        let mut waiting = hold(&self.waiting);
        if let Some(slot) = slot
            && let Some((_, old)) = waiting.tasks.iter_mut().find(|(id, _)| *id == slot)
        {
            let old = std::mem::replace(old, waker);
            drop(waiting);
            drop(old);
            return slot;
        }
        let id = waiting.next;
        waiting.next += 1;
        waiting.tasks.push((id, waker));
        id
    }

    pub(super) fn leave(&self, slot: u64) {
        let mut waiting = hold(&self.waiting);
        let at = waiting.tasks.iter().position(|(id, _)| *id == slot);
        let gone = at.map(|at| waiting.tasks.swap_remove(at));
        // What a waker drops may be anything.
        drop(waiting);
        drop(gone);
    }
}

struct Watched {
    shared: Arc<Shared>,
    generation: u64,
    sight: Arc<Sight>,
}

impl Checked for Watched {
    fn check(&self, now: Tick) -> Option<Duration> {
        let seen = self.shared.count(&self.sight).map_or(Seen::Same, Seen::Value);
        self.shared.check(now, self.generation, seen).then_some(self.shared.limits.check)
    }
}
