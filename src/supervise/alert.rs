//! Calls user code where it can do no harm: on a thread of its own, for a limited time.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::caught::caught;
use crate::clock::{self, Tick};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers, Severity};

use super::monitor::{self, Checked};

/// What an `on_alert` callback is told: for a pager, a chat, a log.
///
/// ```
/// use buttress::supervise::Alert;
/// let alert = Alert::new("heartbeat", "Target is dead", [("target", "socket".into())]);
/// assert_eq!(alert.get("target"), Some("socket"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Alert {
    /// Who tells it: `heartbeat`, `watchdog`, `runtime`.
    pub channel: &'static str,
    /// One line for a reader.
    pub message: String,
    /// The particulars.
    pub context: Vec<(&'static str, String)>,
}

impl Alert {
    /// One with these particulars.
    ///
    /// ```
    /// let alert = buttress::supervise::Alert::new("watchdog", "frozen", []);
    /// assert!(alert.context.is_empty());
    /// ```
    #[must_use]
    pub fn new(
        channel: &'static str,
        message: impl Into<String>,
        context: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Self {
        Self { channel, message: message.into(), context: context.into_iter().collect() }
    }

    /// One of the particulars.
    ///
    /// ```
    /// assert_eq!(buttress::supervise::Alert::new("watchdog", "frozen", []).get("worker"), None);
    /// ```
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.context.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_str())
    }
}

type Pending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A callback of the user, plain or async.
pub(crate) enum Hook<A> {
    Plain(Arc<dyn Fn(A) + Send + Sync>),
    Async(Arc<dyn Fn(A) -> Pending + Send + Sync>),
}

impl<A> Clone for Hook<A> {
    fn clone(&self) -> Self {
        match self {
            Self::Plain(call) => Self::Plain(Arc::clone(call)),
            Self::Async(call) => Self::Async(Arc::clone(call)),
        }
    }
}

impl<A> fmt::Debug for Hook<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Async(_) => "Async",
        })
    }
}

impl<A: Send + 'static> Hook<A> {
    pub(crate) fn plain(call: impl Fn(A) + Send + Sync + 'static) -> Self {
        Self::Plain(Arc::new(call))
    }

    pub(crate) fn pending<F>(call: impl Fn(A) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::Async(Arc::new(move |argument| Box::pin(call(argument))))
    }

    /// The call of it with `argument`.
    pub(crate) fn job(&self, argument: A) -> Job {
        match self {
            Self::Plain(call) => {
                let call = Arc::clone(call);
                Job::Plain(Box::new(move || call(argument)))
            }
            Self::Async(call) => {
                let call = Arc::clone(call);
                Job::Async(Box::new(move || call(argument)))
            }
        }
    }
}

/// One call that is to be made.
pub(crate) enum Job {
    Plain(Box<dyn FnOnce() + Send>),
    Async(Box<dyn FnOnce() -> Pending + Send>),
}

/// Calls wait here at most; more than that means that they hang, and the newest are dropped, but for the last one.
const BACKLOG: usize = 256;

/// An async call is ended by its own runtime at the limit; only one that blocks there is left behind.
const GRACE: Duration = Duration::from_millis(50);

/// Makes calls one after another, on a thread that starts with the first of them.
///
/// A call that exceeds the limit is left to itself, with its thread; the next ones get another. Without a limit there
/// is one thread for ever: whatever hangs on it is waited for.
pub(crate) struct Runner(Arc<Line>);

struct Line {
    this: Weak<Self>,
    name: Name,
    limit: Option<Duration>,
    observers: Observers,
    /// Tells what becomes of the calls, without a limit: an observer that hangs costs one thread, not one for each
    /// limit that passes.
    reports: Option<Runner>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Counts the threads: one that is not the latest has been left behind.
    generation: u64,
    has_thread: bool,
    running: Option<Tick>,
    notes: Notes,
    closed: bool,
    /// The monitor looks whether a call exceeds the limit.
    watched: bool,
}

/// What is to be told by the thread, before its next call: neither by who submits calls nor by the monitor, for whom
/// an observer may be what hangs.
#[derive(Default)]
struct Notes {
    /// How many there was no room for.
    dropped: u64,
    /// A call was left behind.
    overran: bool,
    /// Why there was no thread.
    delayed: Option<String>,
}

impl Notes {
    const fn is_empty(&self) -> bool {
        self.dropped == 0 && !self.overran && self.delayed.is_none()
    }
}

impl Queue {
    fn has_work(&self) -> bool {
        !self.jobs.is_empty() || !self.notes.is_empty()
    }
}

impl Runner {
    pub(crate) fn new(name: Name, limit: Duration, observers: Observers) -> Self {
        let reports = Self::patient(name, observers.clone());
        Self::of(name, Some(limit), observers, Some(reports))
    }

    /// One without a limit.
    pub(super) fn patient(name: Name, observers: Observers) -> Self {
        Self::of(name, None, observers, None)
    }

    fn of(
        name: Name,
        limit: Option<Duration>,
        observers: Observers,
        reports: Option<Self>,
    ) -> Self {
        let queue = Mutex::new(Queue::default());
        let changed = Condvar::new();
        Self(Arc::new_cyclic(|this| {
            let this = this.clone();
            Line { this, name, limit, observers, reports, queue, changed }
        }))
    }

    /// Has the calls made, in this order, after those that wait already.
    pub(crate) fn submit(&self, jobs: impl IntoIterator<Item = Job>) {
        let mut queue = self.0.queue();
        for job in jobs {
            if queue.jobs.len() < BACKLOG {
                queue.jobs.push_back(job);
            } else {
                queue.notes.dropped += 1;
            }
        }
        self.submitted(queue);
    }

    /// The same of one that no other comes after. If there is no room for it, the oldest that waits is dropped.
    pub(super) fn submit_last(&self, job: Job) {
        let mut queue = self.0.queue();
        let full = queue.jobs.len() >= BACKLOG;
        let oldest = if full { queue.jobs.pop_front() } else { None };
        queue.notes.dropped += u64::from(full);
        queue.jobs.push_back(job);
        self.submitted(queue);
        // Not with the lock: what a call holds may be anything.
        drop(oldest);
    }

    fn submitted(&self, mut queue: MutexGuard<'_, Queue>) {
        self.0.serve(&mut queue);
        self.0.have_watched(&mut queue);
        drop(queue);
        self.0.changed.notify_all();
    }

    #[cfg(test)]
    /// Waits until every call has been made. False if that takes longer than `timeout`.
    pub(crate) fn finish(&self, timeout: Duration) -> bool {
        let idle = |queue: &mut Queue| queue.running.is_some() || !queue.jobs.is_empty();
        let (_queue, waited) = self
            .0
            .changed
            .wait_timeout_while(self.0.queue(), timeout, idle)
            .unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.changed.notify_all();
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Runner({})", self.0.name)
    }
}

impl Line {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, what: &'static str, detail: fmt::Arguments<'_>) {
        let Some(reports) = &self.reports else {
            return emit(&self.observers, self.name, what, detail);
        };
        // Also when the line has ended by then.
        let (name, observers, detail) = (self.name, self.observers.clone(), detail.to_string());
        let tell = move || emit(&observers, name, what, format_args!("{detail}"));
        reports.submit([Job::Plain(Box::new(tell))]);
    }

    /// Sees to it that there is a thread if there are calls.
    fn serve(self: &Arc<Self>, queue: &mut Queue) {
        if queue.has_thread || !queue.has_work() {
            return;
        }
        let line = Arc::clone(self);
        let generation = queue.generation;
        let of = if self.limit.is_some() { "callbacks" } else { "events" };
        let started = std::thread::Builder::new()
            .name(self.name.of_thread(of))
            .spawn(move || line.work(generation));
        match started {
            Ok(_) => queue.has_thread = true,
            Err(error) => queue.notes.delayed = Some(error.to_string()),
        }
    }

    /// Sees to it that calls are watched while there are any: also when whoever submitted them has gone. Without
    /// a monitor (no thread to be had) one that hangs keeps the others.
    fn have_watched(self: &Arc<Self>, queue: &mut Queue) {
        if !queue.watched && self.is_to_be_watched(queue) {
            let watched = Arc::clone(self) as Arc<dyn Checked>;
            queue.watched = monitor::enroll(watched, self.look()).is_ok();
        }
    }

    /// Without a limit, only for a thread that could not be had.
    fn is_to_be_watched(&self, queue: &Queue) -> bool {
        let busy = queue.running.is_some() || queue.has_work();
        busy && (self.limit.is_some() || !queue.has_thread)
    }

    fn look(&self) -> Duration {
        let second = Duration::from_secs(1);
        self.limit.map_or(second, |limit| (limit.saturating_add(GRACE) / 2).min(second))
    }

    fn work(&self, generation: u64) {
        let mut runtime = None;
        while let Some(job) = self.next(generation) {
            let panicked = caught(|| self.call(job, &mut runtime)).is_none();
            if panicked {
                self.tell("callback_panicked", format_args!("it goes on"));
            }
        }
        if let Some(runtime) = runtime {
            // Dropping it would wait for blocking work of a callback.
            tokio::runtime::Runtime::shutdown_background(runtime);
        }
    }

    fn next(&self, generation: u64) -> Option<Job> {
        let mut queue = self.queue();
        if queue.generation == generation {
            queue.running = None;
            self.changed.notify_all();
        }
        loop {
            if queue.generation != generation {
                return None;
            }
            if let Some(job) = self.tells(&mut queue.notes).or_else(|| queue.jobs.pop_front()) {
                queue.running = Some(clock::now());
                return Some(job);
            }
            if queue.closed {
                queue.has_thread = false;
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn tells(&self, notes: &mut Notes) -> Option<Job> {
        if notes.is_empty() {
            return None;
        }
        let Notes { dropped, overran, delayed } = std::mem::take(notes);
        let line = self.this.clone();
        let tell = move || {
            let Some(line) = line.upgrade() else { return };
            if overran {
                let limit = line.limit.unwrap_or_default();
                line.tell("callback_overran", format_args!("limit {limit:?}; left behind"));
            }
            if let Some(error) = delayed {
                line.tell("callback_delayed", format_args!("no thread for it: {error}"));
            }
            if dropped > 0 {
                line.tell("callback_dropped", format_args!("{dropped}, too many wait"));
            }
        };
        Some(Job::Plain(Box::new(tell)))
    }

    /// Async calls get a runtime of their own: the one of the program may be what is frozen.
    fn call(&self, job: Job, runtime: &mut Option<tokio::runtime::Runtime>) {
        let call = match job {
            Job::Plain(call) => return call(),
            Job::Async(call) => call,
        };
        if runtime.is_none() {
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(built) => *runtime = Some(built),
                Err(error) => {
                    self.tell("callback_dropped", format_args!("no runtime for it: {error}"));
                    return;
                }
            }
        }
        let Some(runtime) = runtime else { return };
        let Some(limit) = self.limit else { return runtime.block_on(async { call().await }) };
        let limited = runtime.block_on(async { tokio::time::timeout(limit, call()).await });
        if limited.is_err() {
            self.tell("callback_overran", format_args!("limit {limit:?}; dropped"));
        }
    }
}

fn emit(observers: &Observers, name: Name, what: &'static str, detail: fmt::Arguments<'_>) {
    let kind = EventKind::Supervised { severity: Severity::Warning, what, detail };
    observers.emit(LayerKind::Supervise, name, kind);
}

impl Checked for Line {
    /// Leaves a call behind that exceeds the limit.
    fn check(&self, now: Tick) -> Option<Duration> {
        let mut queue = self.queue();
        let over = self.limit.is_some_and(|limit| {
            queue.running.is_some_and(|since| now.since(since) > limit.saturating_add(GRACE))
        });
        if over {
            queue.generation += 1;
            queue.has_thread = false;
            queue.running = None;
            queue.notes.overran = true;
        }
        // Also where no thread could be had before.
        if let Some(line) = self.this.upgrade() {
            line.serve(&mut queue);
        }
        queue.watched = self.is_to_be_watched(&queue);
        let watched = queue.watched;
        drop(queue);
        if over {
            self.changed.notify_all();
        }
        watched.then(|| self.look())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// An observer that hangs until its sender is dropped, however often it is told something; and what it is told.
    fn observer(hangs: mpsc::Receiver<()>) -> (Observers, mpsc::Receiver<&'static str>) {
        let (told, heard) = mpsc::channel();
        let hangs = Mutex::new(hangs);
        let mut observers = Observers::default();
        observers.add(move |event: &crate::observe::Event<'_>| {
            if let EventKind::Supervised { what, .. } = event.kind {
                let _ = told.send(what);
                let _ = hangs.lock().unwrap().recv();
            }
        });
        (observers, heard)
    }

    fn runner(limit: Duration) -> Runner {
        Runner::new("test".into(), limit, Observers::NONE)
    }

    #[test]
    fn calls_are_made_in_order_async_ones_too_and_a_panic_stops_nothing() {
        let (told, heard) = mpsc::channel();
        let plain = told.clone();
        let plain = Hook::plain(move |n: u32| plain.send(n).unwrap());
        let pending = Hook::pending(move |n: u32| {
            let told = told.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                told.send(n).unwrap();
            }
        });
        let panics = Hook::plain(|_: u32| panic!("expected in this test"));
        let runner = runner(LONG);
        runner.submit([pending.job(1), panics.job(2), plain.job(3), pending.job(4), plain.job(5)]);
        assert!(runner.finish(LONG));
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [1, 3, 4, 5]);
    }

    #[test]
    fn a_call_that_hangs_is_left_behind() {
        let (told, heard) = mpsc::channel();
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let hangs = Hook::plain(move |()| {
            let _ = held.lock().unwrap().recv_timeout(LONG);
        });
        let blocks = Hook::pending(|()| std::future::pending());
        let tells = Hook::plain(move |()| told.send(()).unwrap());
        let runner = runner(Duration::from_millis(20));
        runner.submit([hangs.job(()), blocks.job(()), tells.job(())]);
        drop(runner);
        heard.recv_timeout(LONG).expect("the last call was never made");
        let _ = release.send(());
    }

    #[test]
    fn a_limit_may_be_as_long_as_it_comes() {
        let (told, heard) = mpsc::channel();
        let tells = Hook::plain(move |()| told.send(()).unwrap());
        let runner = runner(Duration::MAX);
        runner.submit([tells.job(())]);
        heard.recv_timeout(LONG).expect("the call was never made");
    }

    /// It would be left behind, with a thread, after each limit: for each report that the one before has hung.
    #[test]
    fn an_observer_that_hangs_is_told_of_nothing_more_and_keeps_no_callback() {
        let (release, hangs) = mpsc::channel();
        let (observers, heard) = observer(hangs);
        let (done, calls) = mpsc::channel();
        let (_release_call, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let overruns = Hook::plain(move |()| {
            let _ = held.lock().unwrap().recv();
        });
        let panics = Hook::plain(|()| panic!("expected in this test"));
        let well = Hook::plain(move |()| done.send(()).unwrap());
        let limit = Duration::from_millis(20);
        let runner = Runner::new("test".into(), limit, observers);
        runner.submit([overruns.job(()), panics.job(()), well.job(())]);
        calls.recv_timeout(LONG).expect("the observer keeps the callbacks");
        assert_eq!(heard.recv_timeout(LONG), Ok("callback_overran"));
        // Many limits.
        clock::park(limit * 40);
        assert_eq!(heard.try_recv(), Err(mpsc::TryRecvError::Empty));
        runner.submit([well.job(())]);
        calls.recv_timeout(LONG).expect("the observer keeps the callbacks");
        drop(release);
        let told = |what: &str| heard.recv_timeout(LONG).expect("it was never told") == what;
        while !told("callback_panicked") {}
    }

    /// The observer may be busy with an earlier report until long after.
    #[test]
    fn a_report_is_told_although_the_line_that_it_is_of_has_ended() {
        let (release, hangs) = mpsc::channel();
        let (observers, heard) = observer(hangs);
        let panics = Hook::plain(|()| panic!("expected in this test"));
        let runner = Runner::new("test".into(), LONG, observers);
        let line = Arc::downgrade(&runner.0);
        runner.submit([panics.job(()), panics.job(())]);
        assert_eq!(heard.recv_timeout(LONG), Ok("callback_panicked"));
        drop(runner);
        let begun = clock::now();
        while line.strong_count() > 0 {
            assert!(clock::now().since(begun) < LONG, "it does not end");
            clock::park(Duration::from_millis(5));
        }
        drop(release);
        assert_eq!(heard.recv_timeout(LONG), Ok("callback_panicked"));
    }

    #[test]
    fn without_a_limit_there_is_one_thread() {
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let (told, heard) = mpsc::channel();
        let hangs = Hook::plain(move |n: u32| {
            told.send(n).unwrap();
            let _ = held.lock().unwrap().recv();
        });
        let runner = Runner::patient("test".into(), Observers::NONE);
        runner.submit([hangs.job(1), hangs.job(2)]);
        assert_eq!(heard.recv_timeout(LONG), Ok(1));
        let hour = Duration::from_secs(3600);
        assert_eq!(runner.0.check(clock::now().after(hour)), None);
        let queue = runner.0.queue();
        assert_eq!((queue.generation, queue.jobs.len(), queue.has_thread), (0, 1, true));
        drop(queue);
        drop(release);
        assert_eq!(heard.recv_timeout(LONG), Ok(2));
    }
}
