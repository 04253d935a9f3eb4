use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::RetryPolicy;
use super::core::Stop;
use super::future::TURN;
use super::managed::Tally;
use super::progress::{Progress, Terms, respect_refusal};
use crate::budget::RetryBudget;
use crate::classify::{AnyError, Classify};
use crate::clock::{Tick, now, park};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::managed::Home;
use crate::name::{LayerKind, Name};
use crate::observe::{LET_THROUGH, Observe, Observers, WaitSpan};
use crate::rejection::RejectionKind;
use crate::slot::Slot;

/// A policy with everything it needs to retry calls that are not tower services: how to judge errors,
/// which budget to draw from, who listens.
///
/// Cheap to clone; clones share the budget. It has a budget of its own unless given another or none.
///
/// ```
/// use buttress::{RetryBudget, retry::{Retry, RetryPolicy}};
/// use std::io;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let budget = RetryBudget::new("payments");
/// let retry = Retry::new(RetryPolicy::default()).budget(budget.clone());
/// let answer = retry
///     .run(|attempt| async move {
///         if attempt < 3 { Err(io::Error::from(io::ErrorKind::ConnectionReset)) } else { Ok(attempt) }
///     })
///     .await;
/// assert_eq!(answer.unwrap(), 3);
/// assert_eq!(budget.stats().succeeded, 1);
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct Retry<C = AnyError> {
    policy: Source,
    classifier: C,
    name: Name,
    budget: Option<RetryBudget>,
    observers: Observers,
    /// For the registry. `None` for a single run.
    tally: Option<Arc<Tally>>,
}

/// Where the policy of a run comes from.
#[derive(Clone, Debug)]
enum Source {
    Fixed(RetryPolicy),
    Live { slot: Slot<RetryPolicy>, claimed: bool },
}

impl Source {
    fn now(&self) -> RetryPolicy {
        match self {
            Self::Fixed(policy) => *policy,
            Self::Live { slot, claimed } => {
                let policy = slot.get().unwrap_or(RetryPolicy::NO_RETRY);
                if *claimed { policy.at_least_once() } else { policy }
            }
        }
    }
}

impl Retry {
    /// With this policy, [`AnyError`] as the judge, and a budget of its own.
    ///
    /// ```
    /// use buttress::retry::{Retry, RetryPolicy};
    /// let retry = Retry::new(RetryPolicy::default());
    /// assert_eq!(retry.retry_budget().unwrap().stats().allowed, 0);
    /// ```
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        Self { budget: Some(RetryBudget::new("retry")), ..Self::bare(policy) }.shown()
    }

    /// With whichever policy is in `slot` when a run begins; while it is empty, each call is made once. A run
    /// keeps its policy to its end.
    ///
    /// ```
    /// use buttress::Slot;
    /// use buttress::retry::{Retry, RetryPolicy};
    /// let slot = Slot::new();
    /// let retry = Retry::from_slot(slot.clone());
    /// assert_eq!(retry.policy(), RetryPolicy::NO_RETRY);
    /// slot.install(RetryPolicy::DEFAULT);
    /// assert_eq!(retry.policy(), RetryPolicy::DEFAULT);
    /// ```
    #[must_use]
    pub fn from_slot(slot: Slot<RetryPolicy>) -> Self {
        let policy = Source::Live { slot, claimed: false };
        let own = Self::bare(RetryPolicy::NO_RETRY);
        Self { policy, budget: Some(RetryBudget::new("retry")), ..own }.shown()
    }

    fn bare(policy: RetryPolicy) -> Self {
        let observers = Observers::default();
        let name = "retry".into();
        let policy = Source::Fixed(policy);
        Self { policy, classifier: AnyError, name, budget: None, observers, tally: None }
    }
}

impl<C> Retry<C> {
    /// Enters it anew, as it is now.
    fn shown(mut self) -> Self {
        let policy = match &self.policy {
            Source::Fixed(policy) => Slot::with(*policy),
            Source::Live { slot, .. } => slot.clone(),
        };
        let tally = Arc::new(Tally::new(self.name, policy, self.budget.as_ref()));
        self.observers.register(&tally);
        self.tally = Some(tally);
        self
    }

    pub(crate) fn move_to(mut self, home: Home) -> Self {
        self.observers.move_to(home);
        self.shown()
    }

    /// Judges results with this classifier. It sees `()` as the request.
    ///
    /// ```
    /// use buttress::{FailureClass, Verdict, classify_fn, retry::{Retry, RetryPolicy}};
    /// let retry = Retry::new(RetryPolicy::default()).classify(classify_fn(
    ///     |result: Result<&u16, &String>| match result {
    ///         Ok(status) if *status < 500 => Verdict::success(),
    ///         _ => Verdict::failure(FailureClass::Transient),
    ///     },
    /// ));
    /// ```
    pub fn classify<C2>(self, classifier: C2) -> Retry<C2> {
        let Self { policy, name, budget, observers, tally, .. } = self;
        Retry { policy, classifier, name, budget, observers, tally }
    }

    /// Draws from this budget.
    ///
    /// ```
    /// use buttress::{RetryBudget, retry::{Retry, RetryPolicy}};
    /// let retry = Retry::new(RetryPolicy::default()).budget(RetryBudget::new("payments"));
    /// assert_eq!(retry.retry_budget().unwrap().name(), "payments");
    /// ```
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self.shown()
    }

    /// Is bounded by the policy only.
    ///
    /// ```
    /// use buttress::retry::{Retry, RetryPolicy};
    /// assert!(Retry::new(RetryPolicy::default()).without_budget().retry_budget().is_none());
    /// ```
    #[must_use]
    pub fn without_budget(mut self) -> Self {
        self.budget = None;
        self.shown()
    }

    /// The name in events and refusals; default `retry`.
    ///
    /// ```
    /// use buttress::retry::{Retry, RetryPolicy};
    /// let retry = Retry::new(RetryPolicy::default()).name("payments");
    /// ```
    #[must_use]
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.name = name.into();
        self.shown()
    }

    /// Adds an observer of its decisions.
    ///
    /// ```
    /// use buttress::{observe::Event, retry::{Retry, RetryPolicy}};
    /// let retry = Retry::new(RetryPolicy::default()).observe(|event: &Event<'_>| {
    ///     eprintln!("{:?}", event.kind);
    /// });
    /// ```
    #[must_use]
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self
    }

    /// For attempts that are kept from taking effect twice by other means than by making only one.
    pub(crate) fn claimed(&self) -> Self
    where
        C: Clone,
    {
        let mut claimed = self.clone();
        match &mut claimed.policy {
            Source::Fixed(policy) => *policy = policy.at_least_once(),
            Source::Live { claimed, .. } => *claimed = true,
        }
        claimed
    }

    /// The policy that a run which begins now has.
    ///
    /// ```
    /// use buttress::retry::{Retry, RetryPolicy};
    /// assert_eq!(Retry::new(RetryPolicy::DEFAULT).policy(), RetryPolicy::DEFAULT);
    /// ```
    #[must_use]
    pub fn policy(&self) -> RetryPolicy {
        self.policy.now()
    }

    /// The budget it draws from.
    ///
    /// ```
    /// use buttress::retry::{Retry, RetryPolicy};
    /// assert!(Retry::new(RetryPolicy::default()).retry_budget().is_some());
    /// ```
    #[must_use]
    pub fn retry_budget(&self) -> Option<&RetryBudget> {
        self.budget.as_ref()
    }

    fn terms<'a>(&'a self, policy: &'a RetryPolicy, inherited: Option<Deadline>) -> Terms<'a> {
        Terms {
            policy,
            deadline: start_deadline(policy, inherited),
            name: self.name,
            budget: self.budget.as_ref(),
            observers: &self.observers,
            tally: self.tally.as_deref(),
        }
    }

    /// Calls `op` with the number of the attempt, from 1, until it works or the policy ends it. Its counters
    /// live in this run; any number of runs may go on at once.
    ///
    /// Dropping the future at any point stops the run; a retry that was granted but not yet sent goes back
    /// to the budget. A panic of `op` passes through.
    ///
    /// # Errors
    /// The error of the last attempt itself, as [`Error::Inner`]; [`Error::Rejected`] with
    /// `DeadlineExceeded` if the last attempt was cut off, or the deadline passed in the pause after an `Ok`
    /// that was called a failure. Both need an attempt timeout or a deadline.
    ///
    /// ```
    /// use buttress::{Error, retry::{Retry, RetryPolicy}};
    /// use std::io;
    /// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
    /// let retry = Retry::new(RetryPolicy::default());
    /// let denied = |_| async { Err::<(), _>(io::Error::from(io::ErrorKind::PermissionDenied)) };
    /// let error = retry.run(denied).await.unwrap_err();
    /// assert!(matches!(error, Error::Inner(e) if e.kind() == io::ErrorKind::PermissionDenied));
    /// # });
    /// ```
    pub async fn run<T, E, F, Fut>(&self, op: F) -> Result<T, Error<E>>
    where
        C: Classify<(), T, E>,
        E: 'static,
        F: FnMut(u32) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.run_within(None, op).await
    }

    /// As [`run`](Self::run), but not beyond `deadline`; `None` is no further bound.
    ///
    /// # Errors
    /// As [`run`](Self::run); `DeadlineExceeded` without a call if it has passed already.
    ///
    /// ```
    /// use buttress::{Deadline, retry::{Retry, RetryPolicy}};
    /// use std::time::Duration;
    /// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
    /// let retry = Retry::new(RetryPolicy::default());
    /// let passed = Deadline::after(Duration::ZERO);
    /// let result = retry.run_within(passed, |_| async { Ok::<_, std::io::Error>(()) }).await;
    /// assert!(result.unwrap_err().rejection().is_some());
    /// # });
    /// ```
    pub async fn run_within<T, E, F, Fut>(
        &self,
        deadline: impl Into<Option<Deadline>>,
        mut op: F,
    ) -> Result<T, Error<E>>
    where
        C: Classify<(), T, E>,
        E: 'static,
        F: FnMut(u32) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let policy = self.policy.now();
        let terms = self.terms(&policy, deadline.into());
        let mut progress = Progress::first();
        if terms.has_passed() {
            return Err(terms.rejection(RejectionKind::DeadlineExceeded).into());
        }
        loop {
            let ticket = self.classifier.start(&());
            let ended = until(op(progress.attempts()), &terms).await;
            let verdict = match &ended {
                Some(Ok(value)) => self.classifier.finish(ticket, Ok(value)),
                Some(Err(error)) => self.classifier.finish(ticket, Err(error)),
                None => self.classifier.expired(ticket),
            };
            let error = ended.as_ref().and_then(|result| result.as_ref().err());
            let judged = respect_refusal(verdict, error, terms.name);
            let Some(delay) = progress.settle(&terms, judged, || true) else {
                return match ended {
                    Some(result) => result.map_err(Error::Inner),
                    None => Err(terms.rejection(RejectionKind::DeadlineExceeded).into()),
                };
            };
            // A value may hold a connection: it does not outlive this line.
            let last = ended.and_then(Result::err);
            if !delay.is_zero() {
                let mut span = WaitSpan::begin(LayerKind::Retry, terms.name);
                tokio::time::sleep(delay).await;
                span.end(LET_THROUGH);
            } else if progress.attempts().is_multiple_of(TURN) {
                yield_once().await;
            }
            if terms.has_passed() {
                progress.give_up(&terms, Stop::Deadline);
                let late = || terms.rejection(RejectionKind::DeadlineExceeded).into();
                return Err(last.map_or_else(late, Error::Inner));
            }
            drop(last);
            progress.send();
        }
    }

    /// As [`run`](Self::run) for code without a runtime: delays block the calling thread. The deadline is
    /// looked at between attempts; an attempt cannot be cut off, so the attempt timeout has no effect.
    ///
    /// # Errors
    /// The error of the last attempt itself.
    ///
    /// ```
    /// use buttress::{Backoff, retry::{Retry, RetryPolicy}};
    /// let retry = Retry::new(RetryPolicy::builder().backoff(Backoff::none()).build()?);
    /// let mut left = vec!["late", "early"];
    /// let answer = retry.run_blocking(|_| {
    ///     let word = left.pop().unwrap();
    ///     if word == "late" { Ok(word) } else { Err(std::io::Error::other(word)) }
    /// });
    /// assert_eq!(answer.unwrap(), "late");
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn run_blocking<T, E, F>(&self, op: F) -> Result<T, E>
    where
        C: Classify<(), T, E>,
        E: 'static,
        F: FnMut(u32) -> Result<T, E>,
    {
        self.run_blocking_with(park, op)
    }

    /// As [`run_blocking`](Self::run_blocking) with another way to sleep. The sleeper is not called for
    /// delays of zero.
    ///
    /// # Errors
    /// The error of the last attempt itself.
    ///
    /// ```
    /// use buttress::{Backoff, retry::{Retry, RetryPolicy}};
    /// use std::time::Duration;
    /// let second = Duration::from_secs(1);
    /// let retry = Retry::new(RetryPolicy::builder().backoff(Backoff::constant(second)).build()?);
    /// let mut slept = vec![];
    /// let result: Result<(), _> =
    ///     retry.run_blocking_with(|delay| slept.push(delay), |_| Err(std::io::Error::other("no")));
    /// assert!(result.is_err());
    /// assert_eq!(slept, [second, second]);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn run_blocking_with<T, E, S, F>(&self, mut sleeper: S, mut op: F) -> Result<T, E>
    where
        C: Classify<(), T, E>,
        E: 'static,
        S: FnMut(Duration),
        F: FnMut(u32) -> Result<T, E>,
    {
        let policy = self.policy.now();
        let terms = self.terms(&policy, None);
        let mut progress = Progress::first();
        loop {
            let ticket = self.classifier.start(&());
            let result = op(progress.attempts());
            let verdict = self.classifier.finish(ticket, result.as_ref());
            let judged = respect_refusal(verdict, result.as_ref().err(), terms.name);
            let Some(delay) = progress.settle(&terms, judged, || true) else { return result };
            let last = result.err();
            if !delay.is_zero() {
                let mut span = WaitSpan::begin(LayerKind::Retry, terms.name);
                sleeper(delay);
                span.end(LET_THROUGH);
            }
            // Where the last result was a value there is nothing else to answer with than another attempt.
            if let Some(error) = last
                && terms.has_passed()
            {
                progress.give_up(&terms, Stop::Deadline);
                return Err(error);
            }
            progress.send();
        }
    }
}

impl RetryPolicy {
    /// Retries `op` with this policy alone: [`Retry::run`] with [`AnyError`] and no budget. Code that calls
    /// one backend from many places should share a [`Retry`] instead.
    ///
    /// # Errors
    /// As [`Retry::run`].
    ///
    /// ```
    /// use buttress::retry::RetryPolicy;
    /// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
    /// let policy = RetryPolicy::default();
    /// let answer = policy.run(|attempt| async move { Ok::<_, std::io::Error>(attempt) }).await;
    /// assert_eq!(answer.unwrap(), 1);
    /// # });
    /// ```
    pub async fn run<T, E, F, Fut>(&self, op: F) -> Result<T, Error<E>>
    where
        E: 'static,
        F: FnMut(u32) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        Retry::bare(*self).run(op).await
    }

    /// [`Retry::run_blocking`] with this policy alone.
    ///
    /// # Errors
    /// The error of the last attempt itself.
    ///
    /// ```
    /// let policy = buttress::retry::RetryPolicy::NO_RETRY;
    /// let result = policy.run_blocking(|_| Err::<(), _>("no"));
    /// assert_eq!(result, Err("no"));
    /// ```
    pub fn run_blocking<T, E, F>(&self, op: F) -> Result<T, E>
    where
        E: 'static,
        F: FnMut(u32) -> Result<T, E>,
    {
        Retry::bare(*self).run_blocking(op)
    }

    /// [`Retry::run_blocking_with`] with this policy alone.
    ///
    /// # Errors
    /// The error of the last attempt itself.
    ///
    /// ```
    /// use buttress::retry::RetryPolicy;
    /// let mut slept = vec![];
    /// let policy = RetryPolicy::FLOW_NODE_DEFAULT;
    /// let result = policy.run_blocking_with(|delay| slept.push(delay), |_| Err::<(), _>("no"));
    /// assert_eq!(slept.len(), 2);
    /// ```
    pub fn run_blocking_with<T, E, S, F>(&self, sleeper: S, op: F) -> Result<T, E>
    where
        E: 'static,
        S: FnMut(Duration),
        F: FnMut(u32) -> Result<T, E>,
    {
        Retry::bare(*self).run_blocking_with(sleeper, op)
    }
}

/// The earlier of the policy's deadline, counted from now, and the one that came along.
#[inline]
pub(super) fn start_deadline(policy: &RetryPolicy, inherited: Option<Deadline>) -> Option<Tick> {
    if policy.deadline().is_none() && inherited.is_none() {
        return None;
    }
    earlier_deadline(policy, inherited)
}

#[cold]
fn earlier_deadline(policy: &RetryPolicy, inherited: Option<Deadline>) -> Option<Tick> {
    let own = policy.deadline().map(|total| now().after(total));
    match (own, inherited.map(Deadline::tick)) {
        (Some(own), Some(inherited)) => Some(own.min(inherited)),
        (own, inherited) => own.or(inherited),
    }
}

/// `None` if the attempt took too long. The timer is made when the attempt first has to wait.
async fn until<F: Future>(attempt: F, terms: &Terms<'_>) -> Option<F::Output> {
    let mut attempt = pin!(attempt);
    let mut timer: Option<Option<Pin<Box<tokio::time::Sleep>>>> = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = attempt.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        let timer = timer.get_or_insert_with(|| {
            terms.attempt_limit().map(|limit| Box::pin(tokio::time::sleep(limit)))
        });
        match timer {
            Some(timer) => timer.as_mut().poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}

/// Lets other tasks run. Needs no runtime.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
