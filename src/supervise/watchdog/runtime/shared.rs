//! What the handles share, and what the looks do.

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor, RuntimeMetrics};
use tokio::sync::Notify;

use crate::clock::Tick;
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers, Severity};

use super::super::super::alert::{Alert, Job, Runner};
use super::super::super::monitor::{self, Checked, Entry};
use super::super::super::words::last_words;
use super::super::error::WatchdogError;
use super::config::{Hooks, RuntimeWatchdogBuilder};
use super::core::{Core, Sample, Told, Who};
use super::report::{RuntimeFreeze, RuntimeRecovery};
use super::threads::ThreadState;

pub(super) struct Shared {
    pub(super) name: Name,
    runtime: Handle,
    metrics: RuntimeMetrics,
    threshold: Duration,
    check: Duration,
    abort_after: Option<Duration>,
    hooks: Hooks,
    runner: Runner,
    observers: Observers,
    pub(super) state: Mutex<State>,
    pub(super) freezes: AtomicU64,
    pub(super) canary_freezes: AtomicU64,
    pub(super) gaps: AtomicU64,
    pub(super) healthy: AtomicU64,
}

pub(super) struct State {
    pub(super) core: Core,
    pub(super) running: bool,
    generation: u64,
    entry: Option<Entry>,
    canary: Option<Arc<Canary>>,
}

/// What the task and the monitor share.
#[derive(Default)]
struct Canary {
    asked: Notify,
    answered: AtomicBool,
    gone: AtomicBool,
    stopped: AtomicBool,
}

/// Says that the task has been dropped, as at the end of its runtime.
struct Gone(Arc<Canary>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Release);
    }
}

pub(super) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task: answers when it is asked.
async fn sing(canary: Gone) {
    loop {
        canary.0.asked.notified().await;
        if canary.0.stopped.load(Ordering::Relaxed) {
            return;
        }
        canary.0.answered.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn new(builder: RuntimeWatchdogBuilder, check: Duration) -> Self {
        let runner = Runner::new(builder.name, builder.callback_timeout, builder.observers.clone());
        let one_thread = builder.runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        let state = State {
            core: Core::new(builder.threshold, check, one_thread),
            running: false,
            generation: 0,
            entry: None,
            canary: None,
        };
        Self {
            name: builder.name,
            metrics: builder.runtime.metrics(),
            runtime: builder.runtime,
            threshold: builder.threshold,
            check,
            abort_after: builder.abort_after,
            hooks: builder.hooks,
            runner,
            observers: builder.observers,
            state: Mutex::new(state),
            freezes: AtomicU64::new(0),
            canary_freezes: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            healthy: AtomicU64::new(0),
        }
    }

    pub(super) fn start(self: &Arc<Self>) -> Result<(), WatchdogError> {
        let mut state = hold(&self.state);
        if state.running {
            return Err(WatchdogError::AlreadyRunning);
        }
        let generation = state.generation + 1;
        let looked = Looked { shared: Arc::clone(self), generation };
        let entry = monitor::enroll(Arc::new(looked), self.check).map_err(WatchdogError::thread)?;
        let canary = Arc::new(Canary::default());
        // Answered: it has not been asked yet.
        canary.answered.store(true, Ordering::Relaxed);
        self.runtime.spawn(sing(Gone(Arc::clone(&canary))));
        state.core.reset();
        state.running = true;
        state.generation = generation;
        state.entry = Some(entry);
        state.canary = Some(canary);
        Ok(())
    }

    pub(super) fn stop(&self) {
        let mut state = hold(&self.state);
        state.running = false;
        let (entry, canary) = (state.entry.take(), state.canary.take());
        drop(state);
        if let Some(entry) = entry {
            monitor::withdraw(entry);
        }
        if let Some(canary) = canary {
            canary.stopped.store(true, Ordering::Relaxed);
            canary.asked.notify_one();
        }
    }

    #[cfg(target_has_atomic = "64")]
    fn samples(&self) -> Vec<Sample> {
        let workers = 0..self.metrics.num_workers();
        let sample = |worker| Sample {
            parks: self.metrics.worker_park_unpark_count(worker),
            busy: self.metrics.worker_total_busy_duration(worker),
        };
        workers.map(sample).collect()
    }

    /// The runtime does not count here; the canary has to do.
    #[cfg(not(target_has_atomic = "64"))]
    fn samples(&self) -> Vec<Sample> {
        Vec::new()
    }

    fn look(self: &Arc<Self>, now: Tick, generation: u64) -> bool {
        let samples = self.samples();
        let mut state = hold(&self.state);
        let canary =
            state.canary.clone().filter(|_| state.running && state.generation == generation);
        let Some(canary) = canary else { return false };
        if canary.gone.load(Ordering::Acquire) {
            state.running = false;
            drop(state);
            self.event(Severity::Info, "runtime_gone", format_args!("the watch is over"));
            return false;
        }
        let answered = canary.answered.swap(false, Ordering::Relaxed);
        let told = state.core.check(now, &samples, answered);
        let longest = state.core.longest();
        drop(state);
        if answered {
            canary.asked.notify_one();
        }
        if longest.is_none() && !told.iter().any(|told| matches!(told, Told::Gap(_))) {
            self.healthy.fetch_add(1, Ordering::Relaxed);
        }
        if let (Some(longest), Some(delay)) = (longest, self.abort_after)
            && longest >= self.threshold + delay
        {
            self.abort(longest);
        }
        for told in told {
            self.tell(told);
        }
        true
    }

    fn tell(self: &Arc<Self>, told: Told) {
        match told {
            Told::Frozen { who, silent } => self.freeze(who, silent),
            Told::Recovered { who, after } => {
                let recovery =
                    RuntimeRecovery { watchdog: self.name, worker: index_of(who), after };
                self.runner.submit(self.hooks.recovered.as_ref().map(|hook| hook.job(recovery)));
                let detail = format!("{}, after {after:.3?}", name_of(who));
                self.event_beside(Severity::Info, "runtime_recovered", detail);
            }
            Told::Gap(by) => {
                self.gaps.fetch_add(1, Ordering::Relaxed);
                let detail = format!("the watchdog itself was late by {by:.3?}");
                self.event_beside(Severity::Info, "observer_gap", detail);
            }
        }
    }

    fn freeze(self: &Arc<Self>, who: Who, silent: Duration) {
        let counter = match who {
            Who::Worker(_) => &self.freezes,
            Who::Canary => &self.canary_freezes,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let message = format!("{} is blocked for {silent:.3?}", name_of(who));
        // The callbacks first: they wait for what observes.
        if self.hooks.alert.is_some() || self.hooks.frozen.is_some() {
            self.call_back(who, silent, message.clone());
        }
        self.event_beside(Severity::Error, "runtime_frozen", message);
    }

    fn call_back(&self, who: Who, silent: Duration, message: String) {
        let freeze = RuntimeFreeze {
            watchdog: self.name,
            worker: index_of(who),
            workers: self.metrics.num_workers(),
            silent,
            threads: ThreadState::all(),
        };
        let context = [
            ("worker", index_of(who).map_or("any".into(), |index| index.to_string())),
            ("silent", format!("{:.3}", silent.as_secs_f64())),
        ];
        let alert = Alert::new("runtime", message, context);
        let jobs = [
            self.hooks.alert.as_ref().map(|hook| hook.job(alert)),
            self.hooks.frozen.as_ref().map(|hook| hook.job(freeze)),
        ];
        self.runner.submit(jobs.into_iter().flatten());
    }

    fn abort(self: &Arc<Self>, frozen: Duration) -> ! {
        let mut text =
            format!("watchdog {}: frozen for {frozen:.3?}, aborting; threads:\n", self.name);
        for thread in ThreadState::all() {
            let ThreadState { id, name, state, waits_in, ticks } = thread;
            let place = waits_in.as_deref().unwrap_or("-");
            text += &format!("  {id} {name} {state} {place} {ticks}\n");
        }
        let shared = Arc::clone(self);
        last_words(move || {
            let _ = std::io::stderr().write_all(text.as_bytes());
            let detail = format_args!("frozen for {frozen:.3?}");
            shared.event(Severity::Error, "aborting", detail);
        });
        std::process::abort();
    }

    /// Where the callbacks are called: an observer may hang in the lock that is the matter, and the looks go on.
    fn event_beside(self: &Arc<Self>, severity: Severity, what: &'static str, detail: String) {
        let shared = Arc::clone(self);
        let tell = move || shared.event(severity, what, format_args!("{detail}"));
        self.runner.submit([Job::Plain(Box::new(tell))]);
    }

    fn event(&self, severity: Severity, what: &'static str, detail: fmt::Arguments<'_>) {
        let kind = EventKind::Supervised { severity, what, detail };
        self.observers.emit(LayerKind::Supervise, self.name, kind);
    }
}

const fn index_of(who: Who) -> Option<usize> {
    match who {
        Who::Worker(index) => Some(index),
        Who::Canary => None,
    }
}

fn name_of(who: Who) -> String {
    match who {
        Who::Worker(index) => format!("worker {index}"),
        Who::Canary => "the runtime".into(),
    }
}

struct Looked {
    shared: Arc<Shared>,
    generation: u64,
}

impl Checked for Looked {
    fn check(&self, now: Tick) -> Option<Duration> {
        self.shared.look(now, self.generation).then_some(self.shared.check)
    }
}
