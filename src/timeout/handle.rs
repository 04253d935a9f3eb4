use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::layer::TimeoutLayer;
use crate::clock::{self, Tick};
use crate::context::Context;
use crate::deadline::Deadline;
use crate::error::{ConfigError, Error};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};
use crate::rejection::{Rejection, RejectionDetail, RejectionKind, last_words};

/// The longest that a call may take: see the [module](super).
///
/// ```
/// use buttress::timeout::Timeout;
/// use std::time::Duration;
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let timeout = Timeout::new("db", Duration::from_millis(50))?;
/// assert_eq!(timeout.run(async { Ok::<_, std::io::Error>(7) }).await.unwrap(), 7);
/// let late = timeout.run(std::future::pending::<Result<(), std::io::Error>>()).await;
/// assert!(late.unwrap_err().rejection().is_some());
/// # Ok::<(), buttress::ConfigError>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout {
    name: Name,
    after: Option<Duration>,
    of: Of,
}

/// What it bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// A word: a copy goes with each call.
#[repr(usize)]
enum Of {
    Calls,
    /// Calls, and who is inside reads the clock at the first poll, too. The deadline in their context stays their own; those
    /// inside of an admission are [told](crate::context::tell_end) of the end.
    CallsFromPoll,
    /// One attempt of several.
    Attempts,
}

impl Timeout {
    /// Bounds calls by `after` and by their own deadlines.
    ///
    /// # Errors
    /// If `after` is zero.
    ///
    /// ```
    /// use buttress::timeout::Timeout;
    /// let error = Timeout::new("db", std::time::Duration::ZERO).unwrap_err();
    /// assert_eq!(error.field(), "timeout");
    /// ```
    pub fn new(name: impl Into<Name>, after: Duration) -> Result<Self, ConfigError> {
        if after.is_zero() {
            return Err(ConfigError::new("timeout", "0s", "a time above 0"));
        }
        Ok(Self { name: name.into(), after: Some(after), of: Of::Calls })
    }

    /// Bounds calls by their own deadlines only.
    ///
    /// ```
    /// assert_eq!(buttress::timeout::Timeout::deadlines("db").duration(), None);
    /// ```
    #[must_use]
    pub fn deadlines(name: impl Into<Name>) -> Self {
        Self { name: name.into(), after: None, of: Of::Calls }
    }

    /// Bounds single attempts, and says so when it ends one: the retry outside of it may make another.
    pub(crate) const fn of_attempts(self) -> Self {
        Self { of: Of::Attempts, ..self }
    }

    /// Counted from the first poll and only handed down; who is inside and asks for the time then gets the same reading.
    pub(crate) const fn counted_from_poll(self) -> Self {
        Self { of: Of::CallsFromPoll, ..self }
    }

    /// A call without a deadline ends some time after its first poll.
    #[inline]
    pub(super) fn begins_later(&self, context: &Context) -> Option<Duration> {
        self.after.filter(|_| self.is_handed_down() && context.deadline().is_none())
    }

    /// As a layer.
    ///
    /// ```
    /// let layer = buttress::timeout::Timeout::deadlines("db").layer();
    /// ```
    #[must_use]
    pub fn layer(self) -> TimeoutLayer {
        TimeoutLayer::new(self)
    }

    /// The longest that a call may take.
    ///
    /// ```
    /// use std::time::Duration;
    /// let timeout = buttress::timeout::Timeout::new("db", Duration::from_secs(1))?;
    /// assert_eq!(timeout.duration(), Some(Duration::from_secs(1)));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub const fn duration(&self) -> Option<Duration> {
        self.after
    }

    /// The name in refusals.
    ///
    /// ```
    /// assert_eq!(buttress::timeout::Timeout::deadlines("db").name(), "db");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name.as_str()
    }

    /// Makes a call, and drops it when its time is over.
    ///
    /// # Errors
    /// The call's own, or `DeadlineExceeded`.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let timeout = buttress::timeout::Timeout::deadlines("db");
    /// assert!(timeout.run(async { Err::<(), _>("broken") }).await.is_err());
    /// # });
    /// ```
    pub async fn run<F, T, E>(&self, call: F) -> Result<T, Error<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.run_until(call, None).await
    }

    /// As [`run`](Self::run), bounded by a deadline too. Not started if that has passed.
    ///
    /// # Errors
    /// The call's own, or `DeadlineExceeded`.
    ///
    /// ```
    /// use buttress::{Deadline, timeout::Timeout};
    /// use std::time::Duration;
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let passed = Deadline::after(Duration::ZERO);
    /// let call = async { panic!("it is not started") };
    /// let answer: Result<(), buttress::Error<()>> = Timeout::deadlines("db").run_until(call, passed).await;
    /// assert!(answer.is_err());
    /// # });
    /// ```
    pub async fn run_until<F, T, E>(
        &self,
        call: F,
        deadline: impl Into<Option<Deadline>>,
    ) -> Result<T, Error<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let context = deadline.into().map_or(Context::new(), |at| Context::new().with_deadline(at));
        let Ok(end) = self.end(&context) else {
            return Err(refusal(self.name, self.is_of_attempts(), RejectionDetail::None).into());
        };
        let mut call = pin!(Some(call));
        let mut sleep = pin!(None);
        let result = poll_fn(|cx| {
            if let Some(call) = call.as_mut().as_pin_mut()
                && let Poll::Ready(result) = call.poll(cx)
            {
                return Poll::Ready(Some(result));
            }
            clock::poll_end(sleep.as_mut(), end, cx).map(|()| None)
        });
        match result.await {
            Some(result) => result.map_err(Error::Inner),
            None => {
                // The call is dropped before its refusal is made.
                let detail = last_words(|| call.set(None));
                Err(refusal(self.name, self.is_of_attempts(), detail).into())
            }
        }
    }

    const fn is_of_attempts(&self) -> bool {
        matches!(self.of, Of::Attempts)
    }

    /// The layers inside are told when it ends.
    #[inline]
    pub(super) const fn is_handed_down(&self) -> bool {
        matches!(self.of, Of::CallsFromPoll)
    }

    /// When a call that starts now has to end; `Err` if that has passed.
    #[inline]
    pub(super) fn end(&self, context: &Context) -> Result<Option<Tick>, ()> {
        let inherited = context.deadline().map(Deadline::tick);
        if inherited.is_none() && self.after.is_none() {
            return Ok(None);
        }
        // Only the layers of a stack hand something to their attempts.
        let now = if self.is_of_attempts() { clock::handed_down() } else { clock::now() };
        if inherited.is_some_and(|at| at <= now) {
            return Err(());
        }
        let own = self.after.map(|after| now.after(after));
        Ok(match (own, inherited) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        })
    }

    /// Whether a call that ends at `end` is one attempt: where that is the caller's own deadline there is no time for
    /// another either.
    #[inline]
    pub(super) fn cuts_attempt(&self, end: Option<Tick>, context: &Context) -> bool {
        self.is_of_attempts() && context.deadline().map(Deadline::tick) != end
    }

    #[inline]
    pub(super) const fn label(&self) -> Name {
        self.name
    }
}

#[cold]
pub(super) fn refusal(name: Name, of_attempt: bool, detail: RejectionDetail) -> Rejection {
    let why = Rejection::new(RejectionKind::DeadlineExceeded, LayerKind::Timeout, name);
    let why = why.with_detail(detail);
    // It keeps nothing of its own: whoever listens to the process's events sees it.
    if Observers::DEFAULT.see_refusals() {
        Observers::DEFAULT.emit(LayerKind::Timeout, name, EventKind::Rejected(&why));
    }
    if of_attempt { why.of_attempt() } else { why }
}
