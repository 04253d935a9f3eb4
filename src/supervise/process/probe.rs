//! Asks children whether they are ready, and whether they are alive, on a thread of its own: the questions are
//! user code, and may look at a slow disk.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{self, Tick};
use crate::supervise::ProcessStatus;
use crate::sync::lock;

use super::child::{ChildProcess, Liveness};
use super::core::Seen;
use super::handle::Shared;

/// If the thread wakes up so much later than it wanted, it was not only the child that did not run.
const GAP: Duration = Duration::from_millis(500);
/// How often in a row a child must be found frozen.
pub(super) const STRIKES: u32 = 2;

pub(super) struct Probes(Arc<Queue>);

#[derive(Default)]
struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    new: Vec<Watch>,
    finish: bool,
}

struct Watch {
    index: usize,
    process: ChildProcess,
    due: Tick,
    strikes: u32,
}

impl Probes {
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        std::thread::Builder::new().name("buttress-probes".into()).spawn({
            let (queue, shared) = (Arc::clone(&queue), Arc::clone(shared));
            move || queue.run(&shared)
        })?;
        Ok(Self(queue))
    }

    pub(super) fn watch(&self, index: usize, process: ChildProcess) {
        let watch = Watch { index, process, due: clock::now(), strikes: 0 };
        lock(&self.0.inner).new.push(watch);
        self.0.changed.notify_all();
    }
}

impl Drop for Probes {
    /// Does not wait: a question may never be answered.
    fn drop(&mut self) {
        lock(&self.0.inner).finish = true;
        self.0.changed.notify_all();
    }
}

impl Queue {
    fn run(&self, shared: &Shared) {
        let mut watches: Vec<Watch> = Vec::new();
        loop {
            let due = watches.iter().map(|watch| watch.due).min();
            let before = clock::now();
            let pause = due.map_or(Duration::from_secs(3600), |due| due.since(before));
            {
                let inner = lock(&self.inner);
                let (mut inner, _) = self
                    .changed
                    .wait_timeout_while(inner, pause, |inner| !inner.finish && inner.new.is_empty())
                    .unwrap_or_else(PoisonError::into_inner);
                if inner.finish {
                    return;
                }
                watches.append(&mut inner.new);
            }
            let now = clock::now();
            let gap = due.is_some_and(|due| now.since(due.max(before)) > GAP);
            if gap {
                watches.iter_mut().for_each(|watch| watch.strikes = 0);
            }
            watches.retain_mut(|watch| watch.due > now || watch.ask(shared, gap));
        }
    }
}

impl Watch {
    /// False: this process is no longer of interest.
    fn ask(&mut self, shared: &Shared, gap: bool) -> bool {
        let spec = &shared.settings.children[self.index];
        let run = self.process.run;
        let seen = shared.with_core(|core, now| {
            (core.run(self.index) == run && core.pid(self.index).is_some())
                .then(|| core.seen(self.index, now))
        });
        match seen {
            Some(Seen::Starting) => {
                let ready = spec.ready.as_ref().is_some_and(|ready| {
                    catch_unwind(AssertUnwindSafe(|| ready(&self.process))).unwrap_or(false)
                });
                if ready {
                    shared.with_core(|core, now| core.ready(self.index, run, now));
                    shared.waker.wake();
                }
            }
            Some(Seen::Up(_)) => {
                let Some(alive) = &spec.alive else { return false };
                let alive = catch_unwind(AssertUnwindSafe(|| alive(&self.process)));
                let frozen = matches!(alive, Ok(Liveness::Frozen));
                // A debugger holds it: that is no freeze.
                let traced = || {
                    ProcessStatus::of(self.process.pid).is_some_and(|status| status.state == 't')
                };
                self.strikes = if frozen && !gap && !traced() { self.strikes + 1 } else { 0 };
                if self.strikes >= STRIKES {
                    shared.with_core(|core, now| core.frozen(self.index, run, now));
                    shared.waker.wake();
                    return false;
                }
            }
            _ => return false,
        }
        self.due = clock::now().after(spec.probe_every);
        true
    }
}
