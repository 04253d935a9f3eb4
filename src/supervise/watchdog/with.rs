//! One piece of work with a time limit that holds even if it blocks.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::caught::{caught, discard};
use crate::clock::Tick;
use crate::name::LayerKind;
use crate::observe::{EventKind, Observers, Severity};

use super::super::alert::{Job, Runner};
use super::super::monitor::{self, Checked, Entry};

/// The work took too long.
///
/// ```
/// use buttress::supervise::watchdog::with_watchdog_blocking;
/// # use std::time::Duration;
/// let slow = || std::thread::park_timeout(Duration::from_secs(1));
/// let error = with_watchdog_blocking(slow, Duration::from_millis(50), || {}).unwrap_err();
/// assert_eq!(error.to_string(), "job exceeded 0.05s");
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimedOut<T> {
    /// What was allowed.
    pub limit: Duration,
    /// Its result, if it came after all before this was told: the work blocked and could not be ended.
    pub late: Option<T>,
}

impl<T> TimedOut<T> {
    /// The late result as good as one in time, for those who want it.
    ///
    /// # Errors
    /// If there is none.
    ///
    /// ```
    /// use buttress::supervise::watchdog::with_watchdog_blocking;
    /// # use std::time::Duration;
    /// let done = with_watchdog_blocking(|| 7, Duration::from_secs(5), || {});
    /// assert_eq!(done.or_else(|over| over.or_late()).unwrap(), 7);
    /// ```
    pub fn or_late(self) -> Result<T, Self> {
        match self.late {
            Some(late) => Ok(late),
            None => Err(self),
        }
    }
}

impl<T> fmt::Debug for TimedOut<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let late = self.late.is_some();
        f.debug_struct("TimedOut").field("limit", &self.limit).field("late", &late).finish()
    }
}

impl<T> fmt::Display for TimedOut<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job exceeded {}s", self.limit.as_secs_f64())
    }
}

impl<T> std::error::Error for TimedOut<T> {}

/// `on_timeout` may hold the error back for this long.
const CALLBACK_LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    /// It is too late, and `on_timeout` is being called.
    Fired(Tick),
    /// And has been.
    Told,
    /// The work was in time.
    Over,
}

struct Timer {
    state: Mutex<TimerState>,
    runner: Runner,
}

struct TimerState {
    phase: Phase,
    waker: Option<Waker>,
    on_timeout: Option<Box<dyn FnOnce() + Send>>,
}

impl Timer {
    fn state(&self) -> MutexGuard<'_, TimerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) {
        let mut state = self.state();
        state.phase = Phase::Told;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The work is done. False if it was too late.
    fn done(&self) -> bool {
        let mut state = self.state();
        if state.phase != Phase::Waiting {
            return false;
        }
        state.phase = Phase::Over;
        let unused = (state.on_timeout.take(), state.waker.take());
        drop(state);
        drop(unused);
        true
    }
}

/// What the monitor looks at.
struct Due(Arc<Timer>);

impl Checked for Due {
    fn check(&self, now: Tick) -> Option<Duration> {
        const LOOK: Duration = Duration::from_millis(20);
        let timer = &self.0;
        let mut state = timer.state();
        match state.phase {
            Phase::Waiting => {
                state.phase = Phase::Fired(now);
                let call = state.on_timeout.take();
                drop(state);
                let after = Arc::clone(timer);
                let call = call.map(Job::Plain);
                // The runner is the timer's, and would keep it for ever if this call never came.
                let told = Job::Plain(Box::new(move || after.told()));
                timer.runner.submit(call.into_iter().chain([told]));
                Some(LOOK)
            }
            Phase::Fired(since) => {
                drop(state);
                if now.since(since) > CALLBACK_LIMIT {
                    timer.told();
                    return None;
                }
                Some(LOOK)
            }
            Phase::Told | Phase::Over => None,
        }
    }
}

/// Runs `future`, but for no longer than `timeout`: then `on_timeout` is called, from another thread, and the
/// future is dropped.
///
/// Other than a timer of the runtime, this sees also that a poll *blocks*: `on_timeout` is called on time
/// whatever the runtime does. Such a poll cannot be ended. When it returns, so does this, with an error that
/// holds the [`late`](TimedOut::late) result if there is one. The time runs from the first poll.
///
/// The error comes after `on_timeout` has returned, or has taken 10 s.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use buttress::supervise::watchdog::with_watchdog;
/// # use std::time::Duration;
/// let done = with_watchdog(async { 7 }, Duration::from_secs(5), || eprintln!("too slow")).await;
/// assert_eq!(done, Ok(7));
/// let never = std::future::pending::<()>();
/// assert!(with_watchdog(never, Duration::from_millis(20), || {}).await.is_err());
/// # });
/// ```
pub fn with_watchdog<F: Future>(
    future: F,
    timeout: Duration,
    on_timeout: impl FnOnce() + Send + 'static,
) -> WithWatchdog<F> {
    let on_timeout: Box<dyn FnOnce() + Send> = Box::new(on_timeout);
    let state = TimerState { phase: Phase::Waiting, waker: None, on_timeout: Some(on_timeout) };
    let runner = Runner::new("with_watchdog".into(), CALLBACK_LIMIT, Observers::NONE);
    let timer = Arc::new(Timer { state: Mutex::new(state), runner });
    WithWatchdog {
        future: Some(future),
        running: Running { timer, entry: None },
        timeout,
        late: None,
    }
}

struct Running {
    timer: Arc<Timer>,
    entry: Option<Entry>,
}

impl Running {
    fn withdraw(&mut self) {
        if let Some(entry) = self.entry.take() {
            monitor::withdraw(entry);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Given up: nobody is to be told any more.
        if self.timer.done() {
            self.withdraw();
        }
    }
}

pin_project! {
    /// The future of [`with_watchdog`].
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// use buttress::supervise::watchdog::{WithWatchdog, with_watchdog};
    /// use std::time::Duration;
    /// // It has a name, so that a future around it can keep it without a box.
    /// let work: WithWatchdog<_> = with_watchdog(std::future::ready(7), Duration::from_secs(5), || {});
    /// assert_eq!(work.await, Ok(7));
    /// # });
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct WithWatchdog<F: Future> {
        #[pin]
        future: Option<F>,
        running: Running,
        timeout: Duration,
        late: Option<F::Output>,
    }
}

impl<F: Future> fmt::Debug for WithWatchdog<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithWatchdog").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl<F: Future> Future for WithWatchdog<F> {
    type Output = Result<F::Output, TimedOut<F::Output>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let timer = &this.running.timer;
        // A waker is the user's: cloned before the lock is taken, and dropped after.
        let waker = cx.waker().clone();
        let (phase, _old) = {
            let mut state = timer.state();
            (state.phase, state.waker.replace(waker))
        };
        if this.running.entry.is_none() && phase == Phase::Waiting {
            match monitor::enroll(Arc::new(Due(Arc::clone(timer))), *this.timeout) {
                Ok(entry) => this.running.entry = Some(entry),
                Err(error) => {
                    let detail = format_args!("{error}");
                    let (severity, what) = (Severity::Error, "watchdog_blind");
                    let kind = EventKind::Supervised { severity, what, detail };
                    let name = "with_watchdog".into();
                    Observers::NONE.emit(LayerKind::Supervise, name, kind);
                }
            }
        }
        // With no time at all it is not even begun.
        if phase == Phase::Waiting
            && !this.timeout.is_zero()
            && let Some(future) = this.future.as_mut().as_pin_mut()
            && let Poll::Ready(value) = future.poll(cx)
        {
            this.future.set(None);
            if this.running.timer.done() {
                this.running.withdraw();
                return Poll::Ready(Ok(value));
            }
            *this.late = Some(value);
        }
        let phase = this.running.timer.state().phase;
        if phase != Phase::Waiting {
            this.future.set(None);
        }
        if phase == Phase::Told {
            let late = this.late.take();
            return Poll::Ready(Err(TimedOut { limit: *this.timeout, late }));
        }
        Poll::Pending
    }
}

/// Runs `work` on a thread of its own and waits for at most `timeout`. Then `on_timeout` is called, here, and
/// the thread is left to itself: it cannot be ended.
///
/// A panic of `work` in time goes on here; one of `on_timeout` is dropped.
///
/// # Errors
/// If it took too long.
///
/// # Panics
/// If there is no thread to be had, and as `work` does.
///
/// ```
/// use buttress::supervise::watchdog::with_watchdog_blocking;
/// # use std::time::Duration;
/// let done = with_watchdog_blocking(|| 6 * 7, Duration::from_secs(5), || eprintln!("too slow"));
/// assert_eq!(done, Ok(42));
/// ```
#[expect(clippy::expect_used, reason = "as `std::thread::spawn`, and documented")]
pub fn with_watchdog_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    timeout: Duration,
    on_timeout: impl FnOnce(),
) -> Result<T, TimedOut<T>> {
    let (done, result) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("with-watchdog".into())
        .spawn(move || {
            // Nobody may be there to hear it.
            if let Err(mpsc::SendError(Err(panic))) =
                done.send(catch_unwind(AssertUnwindSafe(work)))
            {
                discard(panic);
            }
        })
        .expect("a thread for the work");
    let outcome = if timeout.is_zero() { None } else { result.recv_timeout(timeout).ok() };
    match outcome {
        Some(Ok(value)) => Ok(value),
        Some(Err(panic)) => resume_unwind(panic),
        None => {
            caught(on_timeout);
            let late = match result.try_recv() {
                Ok(Err(panic)) => {
                    discard(panic);
                    None
                }
                late => late.ok().and_then(Result::ok),
            };
            Err(TimedOut { limit: timeout, late })
        }
    }
}
