use std::future::Future;
use std::time::Duration;

use super::layer::AdmissionLayer;
use super::permit::{Acquire, Come, Permit, come_at_once, come_blocking};
use super::place::{Held, Sent, end};
use crate::backend::Backend;
use crate::classify::{AnyError, Classify};
use crate::context::Context;
use crate::error::{ConfigError, Error};
use crate::managed::Home;
use crate::name::Name;
use crate::rejection::Rejection;

/// Decides who may call a [`Backend`] when. Clones share it.
///
/// Around a service it is a [layer](Self::layer). It works alone, too: async ([`run`](Self::run)), blocking
/// ([`run_blocking`](Self::run_blocking)), and by permit ([`acquire`](Self::acquire),
/// [`acquire_blocking`](Self::acquire_blocking), [`try_acquire`](Self::try_acquire)). All of them, and all layers in front of
/// the same backend, share its limit and its one waiting room.
///
/// ```
/// use buttress::admission::Admission;
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let admission = Admission::new("search");
/// let answer = admission.run(|| async { Ok::<_, std::io::Error>(7) }).await;
/// assert_eq!(answer.unwrap(), 7);
/// assert_eq!(admission.backend().stats().admitted, 1);
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct Admission {
    backend: Backend,
    patience: Duration,
}

impl Admission {
    /// In front of a backend of that name, with a limit that is learned.
    ///
    /// ```
    /// use buttress::admission::Admission;
    /// assert_eq!(Admission::new("search").backend().name(), "search");
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        Self::of(&Backend::new(name))
    }

    /// In front of a backend that others share.
    ///
    /// ```
    /// use buttress::{Backend, admission::Admission};
    /// let backend = Backend::new("search");
    /// let admission = Admission::of(&backend);
    /// ```
    #[must_use]
    pub fn of(backend: &Backend) -> Self {
        Self { backend: backend.clone(), patience: Duration::from_secs(1) }
    }

    /// At most `in_flight` at a time, whatever is observed.
    ///
    /// # Errors
    /// If `in_flight` is not from 1 to 1,000,000.
    ///
    /// ```
    /// use buttress::admission::Admission;
    /// assert_eq!(Admission::bulkhead("db", 8)?.backend().stats().limit, 8);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn bulkhead(name: impl Into<Name>, in_flight: u32) -> Result<Self, ConfigError> {
        Backend::fixed(name, in_flight).map(|backend| Self::of(&backend))
    }

    /// How long a request without a deadline waits at most, default 1 s; at least a millisecond. It is all that is known of how
    /// long its caller waits, so it stands for its deadline in all else, too: the place that it needs in time is one that
    /// leaves time for an answer, and what is given up after it was [too late](crate::admission#how-it-decides). It should be no
    /// less than answers take; an answer that comes after it is not late. In a stack of the
    /// [presets](crate::presets) no longer than the total timeout leaves it, also after a retry or a wait for a token.
    ///
    /// ```
    /// use buttress::admission::Admission;
    /// use std::time::Duration;
    /// let admission = Admission::new("search").patience(Duration::from_millis(200));
    /// ```
    #[must_use]
    pub fn patience(mut self, longest: Duration) -> Self {
        self.patience = longest.max(Duration::from_millis(1));
        self
    }

    /// The backend.
    ///
    /// ```
    /// use buttress::admission::Admission;
    /// assert!(Admission::new("search").backend().has_headroom());
    /// ```
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// As a layer. The same as `AdmissionLayer::new(self.clone())`.
    ///
    /// ```
    /// use buttress::admission::Admission;
    /// let stack = tower::ServiceBuilder::new().layer(Admission::new("search").layer());
    /// ```
    #[must_use]
    pub fn layer(&self) -> AdmissionLayer {
        AdmissionLayer::new(self.clone())
    }

    /// A place for one call, if there is one now. Never waits, needs no runtime, allocates nothing. Those who wait are
    /// first, unless the call is more important than all of them.
    ///
    /// # Errors
    /// `Overloaded` if it would have to wait, also while the backend is down and it is not the one that probes;
    /// `RateLimited`, with `retry_after`, if it is the quota that it would wait for; `DeadlineExceeded` if the deadline
    /// of the context has passed.
    ///
    /// ```
    /// use buttress::admission::Admission;
    /// use buttress::{Context, RejectionKind};
    /// let admission = Admission::bulkhead("db", 1)?;
    /// let permit = admission.try_acquire(Context::new())?;
    /// let refused = admission.try_acquire(Context::new()).unwrap_err();
    /// assert_eq!(refused.kind(), RejectionKind::Overloaded);
    /// permit.success();
    /// # Ok::<(), buttress::BoxError>(())
    /// ```
    pub fn try_acquire(&self, context: Context) -> Result<Permit, Rejection> {
        come_at_once(self, &context).map(Permit::sent)
    }

    /// Waits for a place for one call, as long as its deadline allows, or [`patience`](Self::patience) if it has none: the
    /// most important first, then the earliest deadline that can be met.
    ///
    /// Nothing happens before the first poll. Dropped while it waits, the future leaves no trace. Waiting needs a tokio
    /// runtime with time enabled and panics without; a place that is free does not.
    ///
    /// # Errors
    /// `DeadlineExceeded` if the deadline has passed, or as soon as no answer could come in time any more; `Overloaded` if
    /// the room is full of calls that are as important; `RateLimited`, with `retry_after`, if the quota has no room in time.
    ///
    /// ```
    /// use buttress::admission::Admission;
    /// use buttress::{Context, Criticality, Deadline};
    /// use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// let admission = Admission::new("db");
    /// let context = Context::new()
    ///     .with_deadline(Deadline::after(Duration::from_millis(300)))
    ///     .with_criticality(Criticality::Sheddable);
    /// let permit = admission.acquire(context).await?;
    /// // … make the call …
    /// permit.success();
    /// # Ok(())
    /// # }
    /// ```
    pub fn acquire(&self, context: Context) -> Acquire<'_> {
        Acquire::new(self, context)
    }

    /// As [`acquire`](Self::acquire) on a thread, which is blocked while it waits. Needs no runtime; waits in the same room. Not for a
    /// thread of a runtime: it may block those who hold the places.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    ///
    /// ```
    /// use buttress::Context;
    /// use buttress::admission::Admission;
    /// use std::{thread, time::Duration};
    /// let admission = Admission::bulkhead("db", 1)?;
    /// let first = admission.acquire_blocking(Context::new())?;
    /// thread::spawn(move || {
    ///     thread::sleep(Duration::from_millis(5));
    ///     first.success();
    /// });
    /// admission.acquire_blocking(Context::new())?.success();
    /// # Ok::<(), buttress::BoxError>(())
    /// ```
    pub fn acquire_blocking(&self, context: Context) -> Result<Permit, Rejection> {
        come_blocking(self, &context).map(Permit::sent)
    }

    /// Makes a call when it is its turn, or refuses it. Every error is a failure, and there is neither a deadline nor a
    /// criticality: [`run_with`](Self::run_with).
    ///
    /// Dropping the future while it waits leaves no trace; while the call is made it counts as abandoned, and so does a
    /// call that panics. It does not end the call at its deadline: that is a [timeout](crate::timeout)'s. As
    /// [`acquire`](Self::acquire), it needs a runtime only if it has to wait.
    ///
    /// # Errors
    /// [`Error::Rejected`] as of [`acquire`](Self::acquire) if the call was not made, [`Error::Inner`] with the call's own.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let admission = buttress::admission::Admission::new("db");
    /// assert!(admission.run(|| async { Err::<(), _>("broken") }).await.is_err());
    /// # }
    /// ```
    pub async fn run<F, Fut, T, E>(&self, f: F) -> Result<T, Error<E>>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: 'static,
    {
        self.run_with(Context::new(), &AnyError, f).await
    }

    /// As [`run`](Self::run) for a call with this deadline and criticality, judged by a classifier for the request `()`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// ```
    /// use buttress::admission::Admission;
    /// use buttress::{Context, Deadline, Error, Verdict, classify_fn};
    /// use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let admission = Admission::new("api");
    /// let classify = classify_fn(|result: Result<&(), &u16>| match result {
    ///     Err(429) => Verdict::throttled(None),
    ///     Err(_) => Verdict::failure(buttress::FailureClass::Transient),
    ///     Ok(()) => Verdict::success(),
    /// });
    /// let context = Context::new().with_deadline(Deadline::after(Duration::from_secs(1)));
    /// let answer = admission.run_with(context, &classify, || async { Err(429) }).await;
    /// assert!(matches!(answer, Err(Error::Inner(429))));
    /// # }
    /// ```
    pub async fn run_with<C, F, Fut, T, E>(
        &self,
        context: Context,
        classify: &C,
        f: F,
    ) -> Result<T, Error<E>>
    where
        C: Classify<(), T, E>,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut held = Come::new(self, context).await?;
        let ticket = classify.start(&());
        held.sent = Sent::Yes;
        let result = f().await;
        told(held, classify, ticket, result.as_ref());
        result.map_err(Error::Inner)
    }

    /// As [`run`](Self::run) on a thread, which is blocked while it waits and while the call is made. Needs no runtime.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// ```
    /// let admission = buttress::admission::Admission::new("db");
    /// assert_eq!(admission.run_blocking(|| Ok::<_, std::io::Error>(42)).unwrap(), 42);
    /// ```
    pub fn run_blocking<F, T, E>(&self, f: F) -> Result<T, Error<E>>
    where
        F: FnOnce() -> Result<T, E>,
        E: 'static,
    {
        self.run_blocking_with(Context::new(), &AnyError, f)
    }

    /// As [`run_with`](Self::run_with) on a thread, which is blocked while it waits and while the call is made.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// ```
    /// use buttress::admission::Admission;
    /// use buttress::{AnyError, Context, Deadline};
    /// use std::time::Duration;
    /// let admission = Admission::new("db");
    /// let passed = Context::new().with_deadline(Deadline::after(Duration::ZERO));
    /// let call = || -> std::io::Result<()> { panic!("it is not made") };
    /// let refused = admission.run_blocking_with(passed, &AnyError, call).unwrap_err();
    /// assert!(refused.rejection().is_some());
    /// ```
    pub fn run_blocking_with<C, F, T, E>(
        &self,
        context: Context,
        classify: &C,
        f: F,
    ) -> Result<T, Error<E>>
    where
        C: Classify<(), T, E>,
        F: FnOnce() -> Result<T, E>,
    {
        let mut held = come_blocking(self, &context)?;
        let ticket = classify.start(&());
        held.sent = Sent::Yes;
        let result = f();
        told(held, classify, ticket, result.as_ref());
        result.map_err(Error::Inner)
    }

    /// The same in front of another backend.
    #[cfg(feature = "config")]
    pub(crate) fn around(&self, backend: &Backend) -> Self {
        Self { backend: backend.clone(), ..*self }
    }

    /// With a backend of its own, in another registry.
    pub(crate) fn move_to(self, home: Home) -> Self {
        Self { backend: self.backend.move_to(home), ..self }
    }

    pub(super) fn longest(&self) -> Duration {
        self.patience
    }
}

/// It has answered.
fn told<C: Classify<(), T, E>, T, E>(
    mut held: Held<Backend>,
    classify: &C,
    ticket: C::Ticket,
    result: Result<&T, &E>,
) {
    held.sent = Sent::Answered;
    held.end(end(&classify.finish(ticket, result)), false);
}
