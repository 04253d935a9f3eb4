//! What the handles, the driver and the guard of one shutdown share.

use std::fmt;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers, Severity};
use crate::sync::lock;

use super::super::teller::Teller;
use super::super::{Lifecycle, Phase};
use super::budget::Plan;
use super::callback::CleanupCallback;
use super::report::{CallbackOutcome, CallbackReport, Codes, ShutdownCause, ShutdownReport};
use super::signals::Signals;
use super::sys::Installed;
use super::{driver, guard};

pub(super) struct Shared {
    pub(super) name: Name,
    pub(super) life: Lifecycle,
    pub(super) plan: Plan,
    pub(super) signals: Signals,
    pub(super) codes: Codes,
    exit_at_deadline: bool,
    observers: Observers,
    teller: Teller,
    pub(super) run: Mutex<Run>,
    pub(super) installed: Mutex<Option<Installed>>,
    /// Tells the driver that waits to begin: when a signal comes there may be no thread to be had.
    pub(super) waiting: Mutex<Option<Sender<()>>>,
    /// Goes with `run`: it has ended. The phases are anybody's to move, and may be there before.
    over: Condvar,
    told: watch::Sender<bool>,
}

#[derive(Default)]
pub(super) struct Run {
    /// In the order of registration; from the beginning of the shutdown in that in which they run.
    pub(super) callbacks: Vec<CleanupCallback>,
    /// The runtime of the program, for callbacks that were registered outside it.
    pub(super) runtime: Option<Handle>,
    pub(super) begun: Option<Begun>,
}

pub(super) struct Begun {
    pub(super) at: Instant,
    /// Whoever began it blocks the runtime meanwhile: callbacks must not wait for it.
    pub(super) runtime_blocked: bool,
    pub(super) ended: bool,
    pub(super) report: ShutdownReport,
}

impl Run {
    pub(super) fn notice_runtime(&mut self) {
        if self.runtime.is_none() {
            self.runtime = Handle::try_current().ok();
        }
    }
}

impl Shared {
    pub(super) fn new(
        name: Name,
        life: Lifecycle,
        plan: Plan,
        signals: Signals,
        codes: Codes,
        exit_at_deadline: bool,
        observers: Observers,
    ) -> Self {
        Self {
            name,
            life,
            plan,
            signals,
            codes,
            exit_at_deadline,
            teller: Teller::new(name, observers.clone()),
            observers,
            run: Mutex::default(),
            installed: Mutex::new(None),
            waiting: Mutex::new(None),
            over: Condvar::new(),
            told: watch::Sender::new(false),
        }
    }

    /// Begins the shutdown if it has not begun. Whether it did.
    pub(super) fn begin(self: &Arc<Self>, cause: ShutdownCause, runtime_blocked: bool) -> bool {
        let mut run = lock(&self.run);
        if let Some(begun) = &run.begun {
            let at = begun.at;
            drop(run);
            // Nobody may find it begun and the process ready, and whoever began it may not have come so far.
            self.life.advance(Phase::LameDuck, Some(at + self.plan.lame_duck));
            return false;
        }
        run.notice_runtime();
        run.callbacks.sort_by_key(|callback| callback.priority);
        let skipped = |callback: &CleanupCallback| CallbackReport {
            name: callback.name,
            took: Duration::ZERO,
            outcome: CallbackOutcome::Skipped,
        };
        let report = ShutdownReport {
            name: self.name,
            cause,
            phases: Vec::new(),
            held_by: Vec::new(),
            callbacks: run.callbacks.iter().map(skipped).collect(),
            forced: None,
            took: Duration::ZERO,
            codes: self.codes,
        };
        let at = Instant::now();
        run.begun = Some(Begun { at, runtime_blocked, ended: false, report });
        self.life.end_by(at + self.plan.total);
        drop(run);
        // Without the lock: it wakes, and a waker may drop what takes the lock again.
        self.life.advance(Phase::LameDuck, Some(at + self.plan.lame_duck));
        if self.exit_at_deadline {
            guard::start(self);
        }
        let waiting = lock(&self.waiting).take();
        if waiting.is_none_or(|driver| driver.send(()).is_err()) {
            let shared = Arc::clone(self);
            let thread = thread::Builder::new().name("buttress-shutdown".into());
            if thread.spawn(move || driver::drive(&shared)).is_err() {
                // No thread to be had. Whoever began it has to do the work.
                driver::drive(self);
            }
        }
        true
    }

    /// Starts the driver, which waits until it is told to begin or nobody can tell it any more.
    pub(super) fn let_a_driver_wait(self: &Arc<Self>) -> io::Result<()> {
        if lock(&self.run).begun.is_some() {
            return Ok(()); // it drives already
        }
        let (tell, told) = channel();
        let shared = Arc::clone(self);
        start_thread("buttress-shutdown", move || {
            if told.recv().is_ok() {
                driver::drive(&shared);
            }
        })?;
        *lock(&self.waiting) = Some(tell);
        Ok(())
    }

    /// Nothing is to come. Nobody may find it ended and the process not.
    pub(super) fn end(&self) {
        self.life.advance(Phase::Exited, None);
        let mut run = lock(&self.run);
        if let Some(begun) = &mut run.begun {
            begun.report.took = begun.at.elapsed();
            begun.ended = true;
        }
        drop(run);
        self.over.notify_all();
        self.told.send_replace(true);
    }

    /// Returns when it has ended. Dropping the future has no effect.
    pub(super) async fn ended(&self) {
        // The sender is in `self`: it cannot be gone.
        let _ = self.told.subscribe().wait_for(|ended| *ended).await;
    }

    /// As [`ended`](Self::ended), for at most `timeout`. Whether it has.
    pub(super) fn ended_blocking(&self, timeout: Duration) -> bool {
        let lasts = |run: &mut Run| run.begun.as_ref().is_none_or(|begun| !begun.ended);
        let (mut run, _) = self
            .over
            .wait_timeout_while(lock(&self.run), timeout, lasts)
            .unwrap_or_else(PoisonError::into_inner);
        !lasts(&mut run)
    }

    /// When it has to be over, if it has begun.
    pub(super) fn deadline(&self) -> Option<Instant> {
        lock(&self.run).begun.as_ref().map(|begun| begun.at + self.plan.total)
    }

    pub(super) fn report(&self) -> Option<ShutdownReport> {
        lock(&self.run).begun.as_ref().map(|begun| {
            let mut report = begun.report.clone();
            if !begun.ended {
                report.took = begun.at.elapsed();
            }
            report
        })
    }

    /// Writes in the report. Nothing if it has not begun.
    pub(super) fn note(&self, write: impl FnOnce(&mut ShutdownReport)) {
        if let Some(begun) = &mut lock(&self.run).begun {
            write(&mut begun.report);
        }
    }

    /// What observers make of it does not hold up the shutdown.
    pub(super) fn tell(&self, severity: Severity, what: &'static str, detail: fmt::Arguments<'_>) {
        self.teller.tell(severity, what, detail);
    }

    pub(super) fn tell_last(&self, left: Duration, what: &'static str, detail: fmt::Arguments<'_>) {
        self.teller.tell_last(left, Severity::Info, what, detail);
    }

    /// On this thread.
    pub(super) fn emit(&self, severity: Severity, what: &'static str, detail: fmt::Arguments<'_>) {
        let kind = EventKind::Supervised { severity, what, detail };
        self.observers.emit(LayerKind::Supervise, self.name, kind);
    }
}

/// Returns when the thread runs: a new one still needs memory for itself, without which the process is ended.
pub(super) fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let (tell, runs) = channel::<()>();
    thread::Builder::new().name(name.into()).spawn(move || {
        drop(tell);
        run();
    })?;
    let _ = runs.recv();
    Ok(())
}
