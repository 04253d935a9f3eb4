//! The other end of a [`Probe`](super::Probe): look inside, decide what it does next.

use std::fmt;
use std::sync::Arc;

use super::probe::Shared;

/// What one call to a [`Probe`](super::Probe) does.
///
/// ```
/// use buttress::testing::{Answer, Probe};
/// let (_probe, handle) = Probe::new(|_: ()| Ok::<_, &str>(()));
/// handle.next(Answer::Ready(Err("first call fails")));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Answer<Res, Err> {
    /// The probe's closure, at the first poll.
    Computed,
    /// This result, at the first poll.
    Ready(Result<Res, Err>),
    /// The probe's closure, once [`ProbeHandle::release`] lets it go.
    Held,
    /// Pending until dropped.
    Never,
    /// Panics in `call`.
    PanicInCall,
    /// Panics at the first poll.
    PanicInPoll,
}

/// A breach of the contract by the caller of a [`Probe`](super::Probe).
///
/// ```
/// use buttress::testing::Violation;
/// let v = Violation::CalledUnready { instance: 2 };
/// assert_eq!(v.to_string(), "instance 2 was called without being ready");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// `call` without a `poll_ready` that said ready on this very instance since its last call.
    CalledUnready {
        /// Which instance; 0 is the original, clones count up.
        instance: u64,
    },
    /// `poll_ready` or `call` on an instance whose `poll_ready` had returned an error.
    UsedAfterReadyError {
        /// Which instance.
        instance: u64,
    },
    /// A response future was polled again after it had completed.
    PolledAfterCompletion {
        /// Which call, counted from 1.
        call: u64,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CalledUnready { instance } => {
                write!(f, "instance {instance} was called without being ready")
            }
            Self::UsedAfterReadyError { instance } => {
                write!(f, "instance {instance} was used after its poll_ready had failed")
            }
            Self::PolledAfterCompletion { call } => {
                write!(f, "the future of call {call} was polled after it had completed")
            }
        }
    }
}

impl std::error::Error for Violation {}

/// One thing that happened to a [`Probe`](super::Probe), for tests about order.
///
/// ```
/// use buttress::testing::{CountWaker, Probe, ProbeEvent};
/// let (mut probe, handle) = Probe::new(|_: ()| Ok::<_, ()>(()));
/// assert!(CountWaker::new().poll_ready::<(), _>(&mut probe).is_ready());
/// assert_eq!(handle.events(), [ProbeEvent::Ready { instance: 0 }]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeEvent {
    /// An instance took a slot.
    Ready {
        /// Which instance; 0 is the original, clones count up.
        instance: u64,
    },
    /// `poll_ready` returned a scripted error.
    ReadyFailed {
        /// Which instance.
        instance: u64,
    },
    /// A ready instance was dropped without a call.
    Abandoned {
        /// Which instance.
        instance: u64,
    },
    /// An instance was called.
    Called {
        /// Which instance.
        instance: u64,
        /// Which call, counted from 1.
        call: u64,
    },
    /// A call completed.
    Completed {
        /// Which call.
        call: u64,
    },
    /// A response future was dropped before it completed.
    Dropped {
        /// Which call.
        call: u64,
        /// Whether it had been polled.
        polled: bool,
    },
}

/// What a [`Probe`](super::Probe) and its clones counted.
///
/// ```
/// let (_probe, handle) = buttress::testing::Probe::new(|_: ()| Ok::<_, ()>(()));
/// assert_eq!(handle.counts().instances, 1);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Instances alive.
    pub instances: usize,
    /// Instances that wait for readiness.
    pub waiting: usize,
    /// Instances that are ready and not called yet.
    pub reserved: usize,
    /// Calls whose future is alive and has not completed.
    pub in_flight: usize,
    /// The highest `in_flight` so far.
    pub most_in_flight: usize,
    /// Calls to `poll_ready`.
    pub ready_polls: usize,
    /// Calls to `call`.
    pub calls: usize,
    /// Calls that answered, with a value or an error.
    pub completed: usize,
    /// Calls that panicked as told.
    pub panicked: usize,
    /// Ready instances given up without a call.
    pub abandoned: usize,
    /// Futures dropped before their first poll.
    pub dropped_before_poll: usize,
    /// Futures dropped after a poll and before completion.
    pub dropped_mid_flight: usize,
}

/// Inspects and steers a [`Probe`](super::Probe) and all its clones. Holds no instance alive.
///
/// ```
/// use buttress::testing::{Answer, ByHand, CountWaker, Probe};
/// use tower_service::Service;
///
/// let (mut probe, handle) = Probe::new(|n: u32| Ok::<_, ()>(n));
/// handle.next(Answer::Held);
/// assert!(CountWaker::new().poll_ready::<u32, _>(&mut probe).is_ready());
/// let mut call = ByHand::new(probe.call(1));
/// assert!(call.poll().is_pending());
/// handle.release(1);
/// assert!(call.is_woken() && call.poll().is_ready());
/// ```
pub struct ProbeHandle<Res, Err> {
    shared: Arc<Shared<Res, Err>>,
}

impl<Res, Err> ProbeHandle<Res, Err> {
    pub(super) fn new(shared: Arc<Shared<Res, Err>>) -> Self {
        Self { shared }
    }

    /// How many instances may be ready or in flight at a time (default: no limit). Lowering it takes
    /// nothing back.
    ///
    /// ```
    /// # let (_probe, handle) = buttress::testing::Probe::new(|_: ()| Ok::<_, ()>(()));
    /// handle.set_slots(1);
    /// ```
    pub fn set_slots(&self, slots: usize) {
        self.shared.change(|state| {
            state.slots = slots;
            ((), state.wake_waiting())
        });
    }

    /// While on, instances that are not ready yet stay pending, whatever the slots.
    ///
    /// ```
    /// # let (_probe, handle) = buttress::testing::Probe::new(|_: ()| Ok::<_, ()>(()));
    /// handle.hold_ready(true);
    /// ```
    pub fn hold_ready(&self, on: bool) {
        self.shared.change(|state| {
            state.hold_ready = on;
            ((), state.wake_waiting())
        });
    }

    /// The next `poll_ready` of any instance returns this error. Several queue up.
    ///
    /// ```
    /// # let (_probe, handle) = buttress::testing::Probe::new(|_: ()| Ok::<_, &str>(()));
    /// handle.fail_ready("connection lost");
    /// ```
    pub fn fail_ready(&self, error: Err) {
        self.shared.read(|state| state.ready_errors.push_back(error));
    }

    /// What the next call that has no script yet does. Several queue up.
    ///
    /// ```
    /// # use buttress::testing::Answer;
    /// # let (_probe, handle) = buttress::testing::Probe::new(|_: ()| Ok::<_, &str>(()));
    /// handle.next(Answer::PanicInPoll);
    /// handle.next(Answer::Never);
    /// ```
    pub fn next(&self, answer: Answer<Res, Err>) {
        self.shared.read(|state| state.script.push_back(answer));
    }

    /// While on, calls without a script are [`Answer::Held`]; else they are [`Answer::Computed`].
    ///
    /// ```
    /// # let (_probe, handle) = buttress::testing::Probe::new(|_: ()| Ok::<_, &str>(()));
    /// handle.hold_answers(true);
    /// ```
    pub fn hold_answers(&self, on: bool) {
        self.shared.read(|state| state.hold_answers = on);
    }

    /// Lets the oldest `calls` held calls answer.
    ///
    /// ```
    /// # let (_probe, handle) = buttress::testing::Probe::new(|_: ()| Ok::<_, &str>(()));
    /// handle.release(1);
    /// handle.release(usize::MAX);
    /// ```
    pub fn release(&self, calls: usize) {
        self.shared.change(|state| ((), state.release(calls)));
    }

    /// Panic at the moment of a [`Violation`] instead of only recording it, for a backtrace.
    ///
    /// ```
    /// # let (_probe, handle) = buttress::testing::Probe::new(|_: ()| Ok::<_, &str>(()));
    /// handle.panic_on_violation(true);
    /// ```
    pub fn panic_on_violation(&self, on: bool) {
        self.shared.read(|state| state.panic_on_violation = on);
    }

    /// The counters now.
    ///
    /// ```
    /// # let (_probe, handle) = buttress::testing::Probe::new(|_: ()| Ok::<_, &str>(()));
    /// assert_eq!(handle.counts().reserved, 0);
    /// ```
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.read(|state| state.counts)
    }

    /// Every violation so far, oldest first.
    ///
    /// ```
    /// # let (_probe, handle) = buttress::testing::Probe::new(|_: ()| Ok::<_, &str>(()));
    /// assert!(handle.violations().is_empty());
    /// ```
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.shared.read(|state| state.violations.clone())
    }

    /// What happened so far, oldest first; the last 1,024 events are kept.
    ///
    /// ```
    /// # let (_probe, handle) = buttress::testing::Probe::new(|_: ()| Ok::<_, &str>(()));
    /// assert!(handle.events().is_empty());
    /// ```
    #[must_use]
    pub fn events(&self) -> Vec<ProbeEvent> {
        self.shared.read(|state| state.log.iter().copied().collect())
    }
}

impl<Res, Err> Clone for ProbeHandle<Res, Err> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<Res, Err> fmt::Debug for ProbeHandle<Res, Err> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProbeHandle").field(&self.counts()).finish()
    }
}
