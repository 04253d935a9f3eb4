//! Asks children whether they are ready, and whether they are alive. The questions are user code, and may look at a
//! slow disk: each process has a thread for those about it, and one more looks after all of them, which nothing
//! holds up.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::caught::caught;
use crate::clock::{self, Tick};
use crate::supervise::ProcessStatus;
use crate::sync::lock;

use super::child::{Child, ChildProcess, IsAlive, IsReady, Liveness};
use super::core::Seen;
use super::handle::Shared;

/// If the thread wakes up so much later than it wanted, it was not only the child that did not run. It wakes up at
/// least so often while an answer is awaited.
const GAP: Duration = Duration::from_millis(500);
/// At the earliest after so much time it is looked again whether somebody can ask.
const AGAIN: Duration = Duration::from_millis(10);
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
    answers: Vec<Answer>,
    /// By child: whether the latest thread that was started for it is in a question.
    asking: HashMap<usize, Arc<AtomicBool>>,
    finish: bool,
}

/// A thread for the questions about one process. It ends when this is dropped, and the question that it is at has
/// been answered.
struct Asker {
    questions: Sender<Question>,
    asking: Arc<AtomicBool>,
}

impl Asker {
    fn ask(&self, question: Question) -> bool {
        self.asking.store(true, Ordering::SeqCst);
        self.questions.send(question).is_ok()
    }
}

enum Question {
    Ready(IsReady),
    Alive(IsAlive),
}

enum Said {
    Ready(bool),
    Alive(Liveness),
}

struct Answer {
    index: usize,
    run: u64,
    said: Said,
}

impl Question {
    fn put(self, process: &ChildProcess) -> Said {
        match self {
            Self::Ready(ready) => {
                let ready = caught(|| ready(process));
                Said::Ready(ready.unwrap_or(false))
            }
            Self::Alive(alive) => {
                let alive = caught(|| alive(process));
                Said::Alive(alive.unwrap_or(Liveness::Unknown))
            }
        }
    }
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
        lock(&self.0.inner).new.push(Watch::new(index, process, clock::now()));
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
    fn run(self: &Arc<Self>, shared: &Shared) {
        let mut watches: Vec<Watch> = Vec::new();
        loop {
            let before = clock::now();
            let pauses = watches.iter().map(|watch| watch.pause(before));
            let pause = pauses.min().unwrap_or(Duration::from_secs(3600));
            let answers = {
                let nothing = |inner: &mut Inner| {
                    !inner.finish && inner.new.is_empty() && inner.answers.is_empty()
                };
                let inner = lock(&self.inner);
                let (mut inner, _) = self
                    .changed
                    .wait_timeout_while(inner, pause, nothing)
                    .unwrap_or_else(PoisonError::into_inner);
                if inner.finish {
                    return;
                }
                watches.append(&mut inner.new);
                std::mem::take(&mut inner.answers)
            };
            let passed = clock::now().since(before);
            let gap = passed > pause.saturating_add(GAP);
            for watch in &mut watches {
                watch.passed(passed, gap);
            }
            for answer in answers {
                // None: of one that has been given up.
                let of = |watch: &&mut Watch| watch.is(&answer);
                if let Some(watch) = watches.iter_mut().find(of) {
                    watch.hear(&answer.said, shared);
                }
            }
            watches.retain_mut(|watch| watch.go_on(self, shared));
        }
    }

    /// None while a question about an earlier run of the child hangs: there would be one more thread for each run.
    fn asker(self: &Arc<Self>, watch: &Watch) -> io::Result<Asker> {
        let (queue, index, process) = (Arc::clone(self), watch.index, watch.process.clone());
        if lock(&self.inner).asking.get(&index).is_some_and(|asking| asking.load(Ordering::SeqCst))
        {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (sender, questions): (_, Receiver<Question>) = channel();
        let asker = Asker { questions: sender, asking: Arc::default() };
        let asking = Arc::clone(&asker.asking);
        std::thread::Builder::new().name("buttress-probe".into()).spawn(move || {
            for question in questions {
                let said = question.put(&process);
                asking.store(false, Ordering::SeqCst);
                lock(&queue.inner).answers.push(Answer { index, run: process.run, said });
                queue.changed.notify_all();
            }
        })?;
        lock(&self.inner).asking.insert(index, Arc::clone(&asker.asking));
        Ok(asker)
    }
}

/// What is known of one process.
struct Watch {
    index: usize,
    process: ChildProcess,
    /// When the next question is.
    due: Tick,
    asker: Option<Asker>,
    /// Since when nobody could ask.
    unasked: Option<Tick>,
    /// An answer is awaited, for so long: time in which this process did not run is not counted.
    waits: Option<Duration>,
    strikes: u32,
    /// Neither the child nor this process may have run while it was, or will be, asked.
    doubtful: bool,
    over: bool,
}

impl Watch {
    const fn new(index: usize, process: ChildProcess, due: Tick) -> Self {
        let (asker, unasked, waits, strikes) = (None, None, None, 0);
        let (doubtful, over) = (false, false);
        Self { index, process, due, asker, unasked, waits, strikes, doubtful, over }
    }

    fn is(&self, answer: &Answer) -> bool {
        (self.index, self.process.run) == (answer.index, answer.run)
    }

    fn pause(&self, now: Tick) -> Duration {
        if self.waits.is_some() { GAP } else { self.due.since(now) }
    }

    fn passed(&mut self, time: Duration, gap: bool) {
        if gap {
            (self.strikes, self.doubtful) = (0, true);
        } else if let Some(waits) = &mut self.waits {
            *waits = waits.saturating_add(time);
        }
    }

    /// `None`: this process is no longer of interest.
    fn seen(&self, shared: &Shared) -> Option<Seen> {
        shared.with_core(|core, now| {
            let current =
                core.run(self.index) == self.process.run && core.pid(self.index).is_some();
            current.then(|| core.seen(self.index, now))
        })
    }

    /// A debugger holds it: that is no freeze.
    fn is_traced(&self) -> bool {
        ProcessStatus::of(self.process.pid).is_some_and(|status| status.state == 't')
    }

    fn hear(&mut self, said: &Said, shared: &Shared) {
        let run = self.process.run;
        let doubtful = std::mem::take(&mut self.doubtful);
        self.waits = None;
        self.due = clock::now().after(shared.settings.children[self.index].probe_every);
        match said {
            Said::Ready(false) => {}
            Said::Ready(true) => {
                shared.with_core(|core, now| core.ready(self.index, run, now));
                shared.waker.wake();
            }
            Said::Alive(alive) => {
                let frozen = *alive == Liveness::Frozen && !doubtful && !self.is_traced();
                self.strikes = if frozen { self.strikes + 1 } else { 0 };
                if self.strikes >= STRIKES {
                    self.over = true;
                    shared.with_core(|core, now| core.frozen(self.index, run, now));
                    shared.waker.wake();
                }
            }
        }
    }

    /// False: it is over.
    fn go_on(&mut self, queue: &Arc<Queue>, shared: &Shared) -> bool {
        let spec = &shared.settings.children[self.index];
        if self.over {
            return false;
        }
        match self.waits {
            None if clock::now() >= self.due => self.ask(spec, queue, shared),
            Some(waits) if waits >= spec.probe_timeout * STRIKES => self.unanswered(waits, shared),
            _ => true,
        }
    }

    fn ask(&mut self, spec: &Child, queue: &Arc<Queue>, shared: &Shared) -> bool {
        let question = match self.seen(shared) {
            Some(Seen::Starting) => spec.ready.clone().map(Question::Ready),
            Some(Seen::Up(_)) => spec.alive.clone().map(Question::Alive),
            _ => None,
        };
        let Some(question) = question else { return false };
        if self.asker.is_none() {
            self.asker = queue.asker(self).ok();
        }
        let (index, run) = (self.index, self.process.run);
        if self.asker.as_ref().is_some_and(|asker| asker.ask(question)) {
            (self.waits, self.unasked) = (Some(Duration::ZERO), None);
            if shared.with_core(|core, now| core.asked(index, run, now)) {
                shared.waker.wake();
            }
            return true;
        }
        // Perhaps somebody can later.
        let now = clock::now();
        self.due = now.after(spec.probe_every.clamp(AGAIN, GAP));
        let since = *self.unasked.get_or_insert(now);
        let long = now.since(since) >= spec.probe_timeout;
        let first = shared.with_core(|core, now| {
            if long {
                core.unasked(index);
            }
            core.not_asked(index, run, now)
        });
        if first || long {
            shared.waker.wake();
        }
        true
    }

    fn unanswered(&mut self, waits: Duration, shared: &Shared) -> bool {
        let run = self.process.run;
        match self.seen(shared) {
            // Not to be ready in time has a limit of its own.
            Some(Seen::Starting) => {}
            Some(Seen::Up(_)) if self.is_traced() => {}
            Some(Seen::Up(_)) => {
                shared.with_core(|core, now| core.unanswered(self.index, run, waits, now));
                shared.waker.wake();
                return false;
            }
            _ => return false,
        }
        self.waits = Some(Duration::ZERO);
        true
    }
}
