//! What is on its way to one of the store's threads: a bounded queue whose owner can be seen to be stuck.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::clock::Moment;
use super::shared::Watch;
use crate::store::{StoreError, StoreErrorKind};
use crate::sync::lock;

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Whose room in the queue an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Refused when the queue is full.
    New,
    /// Of somebody who has begun: there is as much room again, so that what has run is recorded even if
    /// nothing new gets in.
    Owner,
    /// The store's own.
    Own,
}

/// An operation that can be told that it will not be made.
pub(super) trait Operation {
    fn refuse(self, error: &StoreError);
}

pub(super) struct Lane<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
    capacity: usize,
    watch: Arc<Watch>,
    /// Told to everybody who waits when the thread is stuck or gone.
    stuck: Notify,
}

struct State<T> {
    queue: VecDeque<(Moment, T)>,
    /// When the thread took what it is busy with.
    since: Option<Moment>,
    /// The thread waits for work.
    idle: bool,
    stuck: bool,
    closed: bool,
    ended: bool,
}

impl<T: Operation> Lane<T> {
    pub(super) fn new(capacity: usize, watch: Arc<Watch>) -> Self {
        let state = State {
            queue: VecDeque::new(),
            since: None,
            idle: false,
            stuck: false,
            closed: false,
            ended: false,
        };
        let (state, ready, stuck) = (Mutex::new(state), Condvar::new(), Notify::new());
        Self { state, ready, capacity, watch, stuck }
    }

    pub(super) fn push(&self, operation: T, class: Class) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        let room = match class {
            Class::New => self.capacity,
            Class::Owner => self.capacity.saturating_mul(2),
            Class::Own => usize::MAX,
        };
        let why = if state.ended || (state.closed && class != Class::Own) {
            "the store is closed"
        } else if state.stuck {
            "the store's disk does not answer"
        } else if state.queue.len() >= room {
            "too many operations wait for the store"
        } else {
            state.queue.push_back((Moment::now(), operation));
            let idle = std::mem::take(&mut state.idle);
            drop(state);
            if idle {
                self.ready.notify_one();
            }
            self.watch.wake();
            return Ok(());
        };
        Err(StoreError::from(StoreErrorKind::Unavailable).with_source(why))
    }

    /// Ready when the thread is stuck, or gone.
    pub(super) async fn is_stuck(&self) {
        let stuck = self.stuck.notified();
        if !lock(&self.state).stuck {
            stuck.await;
        }
    }

    /// Puts an operation in and waits for the answer, but not for a thread that is stuck.
    pub(super) async fn call<A>(
        &self,
        class: Class,
        operation: impl FnOnce(Reply<A>) -> T,
    ) -> Result<A, StoreError> {
        // Made first: hears of everything from here on.
        let mut stuck = pin!(self.stuck.notified());
        let (reply, mut answer) = oneshot::channel();
        self.push(operation(reply), class)?;
        let unknown = |why| Err(StoreError::from(StoreErrorKind::Unknown).with_source(why));
        poll_fn(|cx| {
            if let Poll::Ready(answer) = Pin::new(&mut answer).poll(cx) {
                return Poll::Ready(
                    answer.unwrap_or_else(|_| unknown("the store's thread failed")),
                );
            }
            stuck.as_mut().poll(cx).map(|()| unknown("the store's disk did not answer in time"))
        })
        .await
    }

    /// For the thread: waits for operations and takes up to `most`. False when there will be no more.
    pub(super) fn take(&self, most: usize, into: &mut Vec<T>) -> bool {
        let mut state = lock(&self.state);
        (state.since, state.stuck) = (None, false);
        while state.queue.is_empty() {
            if state.closed {
                return false;
            }
            state.idle = true;
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle = false;
        }
        let taken = state.queue.len().min(most);
        into.extend(state.queue.drain(..taken).map(|(_, operation)| operation));
        state.since = Some(Moment::now());
        true
    }

    /// Nothing more comes in. What is in is still done.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.ready.notify_one();
    }

    /// The thread is gone, one way or another.
    pub(super) fn end(&self) {
        let left = {
            let mut state = lock(&self.state);
            (state.closed, state.ended, state.since) = (true, true, None);
            std::mem::take(&mut state.queue)
        };
        refuse(left, "the store is closed");
        self.stuck.notify_waiters();
    }

    /// For whoever watches: refuses what has waited for too long, and everything if the thread is stuck.
    /// Whether there is anything to watch.
    pub(super) fn check(&self, now: Moment, timeout: Duration) -> bool {
        let mut late = VecDeque::new();
        let (busy, newly_stuck) = {
            let mut state = lock(&self.state);
            let stuck = state.since.is_some_and(|since| since.age(now) >= timeout);
            let newly_stuck = stuck && !state.stuck;
            if stuck {
                state.stuck = true;
                late = std::mem::take(&mut state.queue);
            }
            while state.queue.front().is_some_and(|(since, _)| since.age(now) >= timeout) {
                late.extend(state.queue.pop_front());
            }
            (!state.ended && (state.since.is_some() || !state.queue.is_empty()), newly_stuck)
        };
        refuse(late, "the store's disk did not answer in time");
        if newly_stuck {
            self.stuck.notify_waiters();
        }
        busy
    }

    pub(super) fn has_ended(&self) -> bool {
        lock(&self.state).ended
    }
}

fn refuse<T: Operation>(operations: VecDeque<(Moment, T)>, why: &'static str) {
    if operations.is_empty() {
        return;
    }
    let error = StoreError::from(StoreErrorKind::Unavailable).with_source(why);
    operations.into_iter().for_each(|(_, operation)| operation.refuse(&error));
}
