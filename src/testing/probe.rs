//! The inner service of a test: it reserves, counts and remembers.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tower_service::Service;

use super::handle::{Answer, Counts, ProbeEvent, ProbeHandle, Violation};
use crate::sync::{Mutex, lock};

const LOG_LIMIT: usize = 1024;

type AnswerFn<Req, Res, Err> = dyn Fn(Req) -> Result<Res, Err> + Send + Sync;

/// An inner service that makes breaches of the tower contract visible.
///
/// Readiness is a *reservation*: `poll_ready` takes one of the probe's slots, `call` moves it into
/// the response future, and it is free again when that future completes or is dropped, or when the
/// ready instance is dropped without a call. With all slots taken `poll_ready` is pending. So a layer
/// that forgets a ready instance, calls a clone of it, or keeps a finished call alive runs dry, which
/// a service that is always ready would hide.
///
/// Each clone is an instance of its own and starts un-ready. A call on an instance that holds no
/// reservation is recorded as a [`Violation`] and otherwise served, so that a test sees all of them.
/// What calls answer is decided by the closure given to [`Probe::new`] and steered by the
/// [`ProbeHandle`]: at once, when released, never, or with a panic.
///
/// Works outside any runtime. Scripted panics do not run the panic hook, so they print nothing.
///
/// ```
/// use buttress::testing::{ByHand, CountWaker, Probe, Violation};
/// use tower_service::Service;
///
/// let (mut probe, handle) = Probe::new(|n: u32| Ok::<_, std::io::Error>(n + 1));
/// assert!(CountWaker::new().poll_ready::<u32, _>(&mut probe).is_ready());
/// assert_eq!(handle.counts().reserved, 1);
///
/// // A clone is not ready, so this call is a violation:
/// let mut answer = ByHand::new(probe.clone().call(1));
/// assert!(answer.poll().is_ready());
/// assert!(matches!(handle.violations()[..], [Violation::CalledUnready { .. }]));
/// ```
pub struct Probe<Req, Res, Err> {
    shared: Arc<Shared<Res, Err>>,
    answer: Arc<AnswerFn<Req, Res, Err>>,
    instance: u64,
    /// Generation of the reservation this instance holds.
    reserved: Option<u64>,
    failed: bool,
}

pub(super) struct Shared<Res, Err> {
    state: Mutex<State<Res, Err>>,
}

pub(super) struct State<Res, Err> {
    pub(super) slots: usize,
    pub(super) hold_ready: bool,
    pub(super) hold_answers: bool,
    pub(super) panic_on_violation: bool,
    pub(super) ready_errors: VecDeque<Err>,
    pub(super) script: VecDeque<Answer<Res, Err>>,
    /// Instances waiting for readiness.
    waiting: BTreeMap<u64, Waker>,
    /// Calls waiting to be released, oldest first.
    held: BTreeMap<u64, Option<Waker>>,
    pub(super) counts: Counts,
    pub(super) log: VecDeque<ProbeEvent>,
    pub(super) violations: Vec<Violation>,
    last_instance: u64,
    last_generation: u64,
    last_call: u64,
}

impl<Res, Err> State<Res, Err> {
    pub(super) fn note(&mut self, event: ProbeEvent) {
        if self.log.len() == LOG_LIMIT {
            self.log.pop_front();
        }
        self.log.push_back(event);
    }

    fn is_full(&self) -> bool {
        self.counts.reserved + self.counts.in_flight >= self.slots
    }

    /// Everyone who waits for readiness, if there is any to be had. All of them: who of them is still
    /// interested is the layer's business, and the rest will wait again.
    pub(super) fn wake_waiting(&mut self) -> Vec<Waker> {
        if self.hold_ready || self.is_full() {
            return Vec::new();
        }
        self.counts.waiting = 0;
        std::mem::take(&mut self.waiting).into_values().collect()
    }

    pub(super) fn release(&mut self, calls: usize) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for _ in 0..calls {
            let Some((_, waker)) = self.held.pop_first() else { break };
            wakers.extend(waker);
        }
        wakers
    }

    fn violate(&mut self, violation: Violation) -> Option<Violation> {
        self.violations.push(violation.clone());
        self.panic_on_violation.then_some(violation)
    }
}

impl<Res, Err> Shared<Res, Err> {
    /// Changes the state, then wakes whoever the change concerns, outside the lock.
    pub(super) fn change<T>(&self, f: impl FnOnce(&mut State<Res, Err>) -> (T, Vec<Waker>)) -> T {
        let (value, wakers) = f(&mut lock(&self.state));
        wakers.into_iter().for_each(Waker::wake);
        value
    }

    pub(super) fn read<T>(&self, f: impl FnOnce(&mut State<Res, Err>) -> T) -> T {
        f(&mut lock(&self.state))
    }
}

impl<Req, Res, Err> Probe<Req, Res, Err> {
    /// A probe with unlimited slots whose calls answer with `answer(request)`, and the handle to
    /// inspect and steer it and all its clones.
    ///
    /// ```
    /// use buttress::testing::Probe;
    /// let (_probe, handle) = Probe::new(|path: String| Ok::<_, ()>(path.len()));
    /// assert_eq!(handle.counts().calls, 0);
    /// ```
    pub fn new<F>(answer: F) -> (Self, ProbeHandle<Res, Err>)
    where
        F: Fn(Req) -> Result<Res, Err> + Send + Sync + 'static,
    {
        Self::from_arc(Arc::new(answer))
    }

    pub(super) fn from_arc(answer: Arc<AnswerFn<Req, Res, Err>>) -> (Self, ProbeHandle<Res, Err>) {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                slots: usize::MAX,
                hold_ready: false,
                hold_answers: false,
                panic_on_violation: false,
                ready_errors: VecDeque::new(),
                script: VecDeque::new(),
                waiting: BTreeMap::new(),
                held: BTreeMap::new(),
                counts: Counts { instances: 1, ..Counts::default() },
                log: VecDeque::new(),
                violations: Vec::new(),
                last_instance: 0,
                last_generation: 0,
                last_call: 0,
            }),
        });
        let handle = ProbeHandle::new(Arc::clone(&shared));
        (Self { shared, answer, instance: 0, reserved: None, failed: false }, handle)
    }

    fn give_back(&mut self) {
        if self.reserved.take().is_some() {
            let instance = self.instance;
            self.shared.change(|state| {
                state.counts.reserved -= 1;
                state.counts.abandoned += 1;
                state.note(ProbeEvent::Abandoned { instance });
                ((), state.wake_waiting())
            });
        }
    }
}

impl<Req, Res, Err> Clone for Probe<Req, Res, Err> {
    /// Another instance, un-ready.
    fn clone(&self) -> Self {
        let instance = self.shared.read(|state| {
            state.counts.instances += 1;
            state.last_instance += 1;
            state.last_instance
        });
        Self {
            shared: Arc::clone(&self.shared),
            answer: Arc::clone(&self.answer),
            instance,
            reserved: None,
            failed: false,
        }
    }
}

impl<Req, Res, Err> Drop for Probe<Req, Res, Err> {
    fn drop(&mut self) {
        self.give_back();
        let instance = self.instance;
        // The waker is dropped outside the lock: it may own anything.
        let _waker = self.shared.read(|state| {
            state.counts.instances -= 1;
            let waker = state.waiting.remove(&instance);
            state.counts.waiting = state.waiting.len();
            waker
        });
    }
}

impl<Req, Res, Err> fmt::Debug for Probe<Req, Res, Err> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("instance", &self.instance)
            .field("ready", &self.reserved.is_some())
            .finish_non_exhaustive()
    }
}

impl<Req, Res, Err> Service<Req> for Probe<Req, Res, Err> {
    type Response = Res;
    type Error = Err;
    type Future = ProbeFuture<Req, Res, Err>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Err>> {
        let instance = self.instance;
        if self.failed {
            let panic = self.shared.read(|state| {
                state.counts.ready_polls += 1;
                state.violate(Violation::UsedAfterReadyError { instance })
            });
            panic_if(panic);
        }
        if let Some(error) = self.shared.read(|state| state.ready_errors.pop_front()) {
            self.failed = true;
            self.give_back();
            self.shared.read(|state| {
                state.counts.ready_polls += 1;
                state.note(ProbeEvent::ReadyFailed { instance });
            });
            return Poll::Ready(Err(error));
        }
        let generation = self.reserved;
        let (reserved, _old_waker) = self.shared.read(|state| {
            state.counts.ready_polls += 1;
            if generation.is_some() {
                return (generation, None);
            }
            if state.hold_ready || state.is_full() {
                let old = state.waiting.insert(instance, cx.waker().clone());
                state.counts.waiting = state.waiting.len();
                return (None, old);
            }
            let old = state.waiting.remove(&instance);
            state.counts.waiting = state.waiting.len();
            state.counts.reserved += 1;
            state.last_generation += 1;
            state.note(ProbeEvent::Ready { instance });
            (Some(state.last_generation), old)
        });
        self.reserved = reserved;
        if reserved.is_some() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let instance = self.instance;
        let reserved = self.reserved.take();
        let failed = self.failed;
        let (call, plan, panic) = self.shared.read(|state| {
            state.last_call += 1;
            let call = state.last_call;
            let mut panic = None;
            if reserved.is_some() {
                state.counts.reserved -= 1;
            } else if failed {
                panic = state.violate(Violation::UsedAfterReadyError { instance });
            } else {
                panic = state.violate(Violation::CalledUnready { instance });
            }
            state.counts.calls += 1;
            state.counts.in_flight += 1;
            state.counts.most_in_flight = state.counts.most_in_flight.max(state.counts.in_flight);
            state.note(ProbeEvent::Called { instance, call });
            let plan = match state.script.pop_front() {
                Some(answer) => answer,
                None if state.hold_answers => Answer::Held,
                None => Answer::Computed,
            };
            if matches!(plan, Answer::Held) {
                state.held.insert(call, None);
            }
            (call, plan, panic)
        });
        // Made before the panics below, so that its drop gives the slot back.
        let mut future = ProbeFuture {
            shared: Arc::clone(&self.shared),
            answer: Arc::clone(&self.answer),
            request: Some(req),
            plan,
            call,
            polled: false,
            done: false,
        };
        panic_if(panic);
        if matches!(future.plan, Answer::PanicInCall) {
            future.panicked();
            resume_unwind(Box::new("scripted panic in call"));
        }
        future
    }
}

/// Response future of [`Probe`]. Holds a slot until it completes or is dropped.
///
/// ```
/// use buttress::testing::{CountWaker, Probe};
/// use tower_service::Service;
///
/// let (mut probe, handle) = Probe::new(|n: u32| Ok::<_, ()>(n));
/// assert!(CountWaker::new().poll_ready::<u32, _>(&mut probe).is_ready());
/// let future = probe.call(1);
/// assert_eq!(handle.counts().in_flight, 1);
/// drop(future);
/// assert_eq!(handle.counts().dropped_before_poll, 1);
/// ```
#[must_use = "a future does nothing unless polled"]
pub struct ProbeFuture<Req, Res, Err> {
    shared: Arc<Shared<Res, Err>>,
    answer: Arc<AnswerFn<Req, Res, Err>>,
    request: Option<Req>,
    plan: Answer<Res, Err>,
    call: u64,
    polled: bool,
    done: bool,
}

// Nothing in it is ever pinned.
impl<Req, Res, Err> Unpin for ProbeFuture<Req, Res, Err> {}

impl<Req, Res, Err> ProbeFuture<Req, Res, Err> {
    fn compute(&mut self) -> Poll<Result<Res, Err>> {
        match self.request.take() {
            Some(request) => Poll::Ready((self.answer)(request)),
            None => Poll::Pending,
        }
    }

    fn panicked(&mut self) {
        self.done = true;
        self.shared.change(|state| {
            state.counts.in_flight -= 1;
            state.counts.panicked += 1;
            ((), state.wake_waiting())
        });
    }
}

impl<Req, Res, Err> Future for ProbeFuture<Req, Res, Err> {
    type Output = Result<Res, Err>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let call = self.call;
        if self.done {
            let panic =
                self.shared.read(|state| state.violate(Violation::PolledAfterCompletion { call }));
            panic_if(panic);
            return Poll::Pending;
        }
        self.polled = true;
        let answer = match std::mem::replace(&mut self.plan, Answer::Computed) {
            Answer::Computed => self.compute(),
            Answer::Ready(result) => Poll::Ready(result),
            Answer::Held => {
                let still_held = self.shared.read(|state| {
                    let slot = state.held.get_mut(&call)?;
                    Some(slot.replace(cx.waker().clone()))
                });
                match still_held {
                    Some(_old_waker) => {
                        self.plan = Answer::Held;
                        Poll::Pending
                    }
                    None => self.compute(),
                }
            }
            Answer::Never => {
                self.plan = Answer::Never;
                Poll::Pending
            }
            Answer::PanicInCall | Answer::PanicInPoll => {
                self.panicked();
                resume_unwind(Box::new("scripted panic in poll"));
            }
        };
        if answer.is_ready() {
            self.done = true;
            self.shared.change(|state| {
                state.counts.in_flight -= 1;
                state.counts.completed += 1;
                state.note(ProbeEvent::Completed { call });
                ((), state.wake_waiting())
            });
        }
        answer
    }
}

impl<Req, Res, Err> Drop for ProbeFuture<Req, Res, Err> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let (call, polled) = (self.call, self.polled);
        let _waker = self.shared.change(|state| {
            state.counts.in_flight -= 1;
            if polled {
                state.counts.dropped_mid_flight += 1;
            } else {
                state.counts.dropped_before_poll += 1;
            }
            state.note(ProbeEvent::Dropped { call, polled });
            (state.held.remove(&call), state.wake_waiting())
        });
    }
}

impl<Req, Res, Err> fmt::Debug for ProbeFuture<Req, Res, Err> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeFuture")
            .field("call", &self.call)
            .field("polled", &self.polled)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

fn panic_if(violation: Option<Violation>) {
    if let Some(violation) = violation {
        panic!("{violation}");
    }
}
