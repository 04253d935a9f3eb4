//! How a request is sent again, and what it says about it: the vocabulary of everything that makes extra attempts.

use std::num::NonZeroU32;
use std::time::Duration;

#[cfg(feature = "http")]
use crate::context::Context;
use crate::deadline::Deadline;
#[cfg(feature = "http")]
use crate::http::ReplayBody;

/// The number of an attempt, from 1. Retries (attempts from 2 on) carry it in the
/// [`Context`](crate::Context) of an `http::Request`; a request without it is a first attempt.
///
/// ```
/// # #[cfg(feature = "http")] {
/// use buttress::retry::Attempt;
/// let request = http::Request::new(());
/// assert_eq!(Attempt::of(request.extensions()), Attempt(1));
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a number with a name")]
pub struct Attempt(pub u32);

#[cfg(feature = "http")]
impl Attempt {
    /// The attempt a request belongs to.
    ///
    /// ```
    /// use buttress::retry::Attempt;
    /// let mut request = http::Request::new(());
    /// Attempt(2).put(request.extensions_mut());
    /// assert_eq!(Attempt::of(request.extensions()), Attempt(2));
    /// ```
    #[must_use]
    pub fn of(extensions: &http::Extensions) -> Self {
        Self(Context::of(extensions).attempt())
    }

    /// Writes the number into the [`Context`] of a request.
    ///
    /// ```
    /// use buttress::{Context, retry::Attempt};
    /// let mut request = http::Request::new(());
    /// Attempt(3).put(request.extensions_mut());
    /// assert_eq!(Context::of(request.extensions()).attempt(), 3);
    /// ```
    pub fn put(self, extensions: &mut http::Extensions) {
        Context::of(extensions).with_attempt(self.0).put(extensions);
    }
}

/// Exceptions to a policy for one request; what is not named stays as in the policy.
///
/// An `http::Request` carries it in its extensions (with `HttpRequest`), any other
/// request is asked by the function given to [`RetryLayer::overrides`](crate::retry::RetryLayer::overrides).
/// With the feature `serde` it is read from the `"retry"` object of a task.
///
/// A request that names budgets per class is bounded by them instead of by the policy's number of
/// attempts, unless it names that too.
///
/// ```
/// use buttress::{FailureClass, retry::{RetryOverride, RetryPolicy}};
/// let patient = RetryOverride::new().class_budget(FailureClass::Transient, 8);
/// let policy = patient.apply(RetryPolicy::default());
/// assert_eq!(policy.class_budget(FailureClass::Transient), Some(8));
/// assert_eq!(policy.max_attempts(), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "serde_json::Value"))]
pub struct RetryOverride {
    pub(crate) never: bool,
    pub(crate) retry_unsafe: Option<bool>,
    pub(crate) max_attempts: Option<NonZeroU32>,
    pub(crate) classes: [Option<u32>; 3],
    pub(crate) base: Option<Duration>,
    pub(crate) cap: Option<Duration>,
    pub(crate) factor: Option<f64>,
    pub(crate) jitter: Option<f64>,
}

impl RetryOverride {
    pub(crate) const fn is_never(&self) -> bool {
        self.never
    }
}

/// How a request can be sent again, and what it says about its retries.
///
/// `try_replay` runs before each attempt that another could follow, so it should be cheap; a body that
/// cannot be copied is not replayed (`None`) and its call is not retried. The other functions read
/// what a request carries along; by default it carries nothing.
///
/// Closures `Fn(&Req) -> Option<Req>` implement it: what they return must stay good to send, since nothing else is asked.
/// A copy that can turn out useless later needs a type with [`can_send`](Self::can_send). Closures know nothing of deadlines
/// and exceptions that a request carries. [`CloneRequest`] (the default) for requests that are
/// `Clone`, `HttpRequest` for `http::Request` with its extensions, and for bodies that are read and kept.
///
/// ```
/// use buttress::retry::Replay;
/// // Only small uploads are kept for another try.
/// let small = |upload: &Vec<u8>| (upload.len() <= 1024).then(|| upload.clone());
/// assert!(small.try_replay(&vec![0; 2000]).is_none());
/// ```
///
/// With all that a request can say:
///
/// ```
/// use buttress::Deadline;
/// use buttress::retry::{Attempt, Replay, RetryOverride};
/// #[derive(Clone, Copy, PartialEq)]
/// enum Upload { IsRead, IsKept, IsLost }
/// #[derive(Clone)]
/// struct Job { upload: Upload, by: Option<Deadline>, attempt: u32, once: bool, key: Option<String> }
///
/// struct Jobs;
/// impl Replay<Job> for Jobs {
///     fn try_replay(&self, job: &Job) -> Option<Job> {
///         Some(job.clone())
///     }
///     fn can_send(&self, copy: &Job) -> bool {
///         copy.upload == Upload::IsKept
///     }
///     fn is_lost(&self, copy: &Job) -> bool {
///         copy.upload == Upload::IsLost
///     }
///     fn deadline(&self, job: &Job) -> Option<Deadline> {
///         job.by
///     }
///     fn attempt(&self, job: &Job) -> Attempt {
///         Attempt(job.attempt)
///     }
///     fn overrides(&self, job: &Job) -> Option<RetryOverride> {
///         job.once.then(RetryOverride::never)
///     }
///     fn set_deadline(&self, job: &mut Job, deadline: Deadline) {
///         job.by = Some(deadline);
///     }
///     fn begin(&self, job: &mut Job) {
///         job.key.get_or_insert_with(|| "the same for all attempts".into());
///     }
///     fn mark(&self, job: &mut Job, attempt: Attempt) {
///         job.attempt = attempt.0;
///     }
/// }
/// let mut job = Job { upload: Upload::IsRead, by: None, attempt: 1, once: true, key: None };
/// Jobs.begin(&mut job);
/// assert!(!Jobs.can_send(&job) && !Jobs.is_lost(&job), "not yet");
/// assert_eq!(Jobs.overrides(&job), Some(RetryOverride::never()));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot replay requests of type `{Req}`",
    note = "requests that are not `Clone` need `.replay(|request: &{Req}| -> Option<{Req}> {{ ... }})`",
    note = "HTTP requests with a `buttress::http::ReplayBody` need `.replay(buttress::retry::HttpRequest::new())`"
)]
pub trait Replay<Req> {
    /// A copy to send later, or `None` if this request can be sent only once.
    fn try_replay(&self, req: &Req) -> Option<Req>;

    /// Whether a copy can still be sent: that of a streamed body cannot once the stream has turned out too
    /// long to be kept. Asked before a response is given up for a retry, and before the retry is sent.
    fn can_send(&self, copy: &Req) -> bool {
        let _ = copy;
        true
    }

    /// Whether a copy that [cannot be sent](Self::can_send) now never can. Asked before the pause after an attempt
    /// without a response: an upload that is still read by the connection may be free after it, one that was not kept is
    /// not.
    fn is_lost(&self, copy: &Req) -> bool {
        let _ = copy;
        false
    }

    /// By when the sender needs an answer.
    fn deadline(&self, req: &Req) -> Option<Deadline> {
        let _ = req;
        None
    }

    /// Which attempt this is already.
    fn attempt(&self, req: &Req) -> Attempt {
        let _ = req;
        Attempt(1)
    }

    /// Exceptions to the policy for this request.
    fn overrides(&self, req: &Req) -> Option<RetryOverride> {
        let _ = req;
        None
    }

    /// Tells the layers inside by when the whole call must be answered: the earlier of the policy's deadline
    /// and of what [`deadline`](Self::deadline) has found. Called once, before the first attempt is made
    /// and copied, if there is one.
    fn set_deadline(&self, req: &mut Req, deadline: Deadline) {
        let _ = (req, deadline);
    }

    /// Called once, before the first attempt is made and copied.
    fn begin(&self, req: &mut Req) {
        let _ = req;
    }

    /// Marks a retry with its number. Not called for first attempts.
    fn mark(&self, req: &mut Req, attempt: Attempt) {
        let _ = (req, attempt);
    }
}

impl<Req, F: Fn(&Req) -> Option<Req>> Replay<Req> for F {
    fn try_replay(&self, req: &Req) -> Option<Req> {
        self(req)
    }
}

/// Copies requests with `Clone`.
///
/// ```
/// use buttress::retry::{CloneRequest, Replay};
/// assert_eq!(CloneRequest.try_replay(&7), Some(7));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a unit: it has nothing to grow")]
pub struct CloneRequest;

impl<Req: Clone> Replay<Req> for CloneRequest {
    #[inline]
    fn try_replay(&self, req: &Req) -> Option<Req> {
        Some(req.clone())
    }
}

/// Copies an `http::Request` whose body is `Clone` or a [`ReplayBody`]; reads [`Deadline`] and
/// [`RetryOverride`] from its extensions and writes [`Attempt`] into them, if told to also into a header.
/// A deadline of the policy or of [`deadlines`](crate::retry::RetryLayer::deadlines) that is earlier than the
/// request's is written there, too, for the layers inside; that costs each call up to three allocations.
///
/// ```
/// use buttress::retry::{HttpRequest, RetryLayer, RetryPolicy};
/// use http::HeaderName;
/// let layer = RetryLayer::new(RetryPolicy::default())
///     .replay(HttpRequest::new().attempt_header(HeaderName::from_static("x-attempt")));
/// ```
#[cfg(feature = "http")]
#[derive(Clone, Debug, Default)]
pub struct HttpRequest {
    header: Option<http::HeaderName>,
}

#[cfg(feature = "http")]
impl HttpRequest {
    /// Without a header.
    ///
    /// ```
    /// let replay = buttress::retry::HttpRequest::new();
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self { header: None }
    }

    /// Also tells the callee: retries carry their number, from 2, in this header.
    ///
    /// ```
    /// use buttress::retry::{Attempt, HttpRequest, Replay};
    /// let replay = HttpRequest::new().attempt_header(http::HeaderName::from_static("x-attempt"));
    /// let mut request = http::Request::new(());
    /// replay.mark(&mut request, Attempt(2));
    /// assert_eq!(request.headers()["x-attempt"], "2");
    /// ```
    #[must_use]
    pub fn attempt_header(mut self, name: http::HeaderName) -> Self {
        self.header = Some(name);
        self
    }
}

#[cfg(feature = "http")]
impl<B: Clone> Replay<http::Request<B>> for HttpRequest {
    fn try_replay(&self, req: &http::Request<B>) -> Option<http::Request<B>> {
        Some(req.clone())
    }

    fn deadline(&self, req: &http::Request<B>) -> Option<Deadline> {
        Deadline::of(req.extensions())
    }

    fn attempt(&self, req: &http::Request<B>) -> Attempt {
        Attempt::of(req.extensions())
    }

    fn overrides(&self, req: &http::Request<B>) -> Option<RetryOverride> {
        req.extensions().get().copied()
    }

    fn set_deadline(&self, req: &mut http::Request<B>, deadline: Deadline) {
        deadline.put(req.extensions_mut());
    }

    fn mark(&self, req: &mut http::Request<B>, attempt: Attempt) {
        put_attempt(self.header.as_ref(), req, attempt);
    }
}

/// Bodies made repeatable by [`replay_up_to`](crate::http::replay_up_to): copied by [`ReplayBody::try_clone`], head and
/// extensions cloned.
#[cfg(feature = "http")]
impl<B> Replay<http::Request<ReplayBody<B>>> for HttpRequest
where
    B: http_body::Body,
{
    fn try_replay(
        &self,
        req: &http::Request<ReplayBody<B>>,
    ) -> Option<http::Request<ReplayBody<B>>> {
        let mut copy = http::Request::new(req.body().try_clone()?);
        *copy.method_mut() = req.method().clone();
        *copy.uri_mut() = req.uri().clone();
        *copy.version_mut() = req.version();
        *copy.headers_mut() = req.headers().clone();
        *copy.extensions_mut() = req.extensions().clone();
        Some(copy)
    }

    fn can_send(&self, copy: &http::Request<ReplayBody<B>>) -> bool {
        copy.body().is_replayable()
    }

    fn is_lost(&self, copy: &http::Request<ReplayBody<B>>) -> bool {
        copy.body().is_lost()
    }

    fn deadline(&self, req: &http::Request<ReplayBody<B>>) -> Option<Deadline> {
        Deadline::of(req.extensions())
    }

    fn attempt(&self, req: &http::Request<ReplayBody<B>>) -> Attempt {
        Attempt::of(req.extensions())
    }

    fn overrides(&self, req: &http::Request<ReplayBody<B>>) -> Option<RetryOverride> {
        req.extensions().get().copied()
    }

    fn set_deadline(&self, req: &mut http::Request<ReplayBody<B>>, deadline: Deadline) {
        deadline.put(req.extensions_mut());
    }

    fn mark(&self, req: &mut http::Request<ReplayBody<B>>, attempt: Attempt) {
        put_attempt(self.header.as_ref(), req, attempt);
    }
}

#[cfg(feature = "http")]
fn put_attempt<B>(header: Option<&http::HeaderName>, req: &mut http::Request<B>, attempt: Attempt) {
    attempt.put(req.extensions_mut());
    if let Some(name) = header {
        req.headers_mut().insert(name.clone(), attempt.0.into());
    }
}

/// A [`Replay`] whose overrides come from a function: see
/// [`RetryLayer::overrides`](crate::retry::RetryLayer::overrides).
///
/// ```
/// use buttress::AnyError;
/// use buttress::retry::{CloneRequest, RetryLayer, RetryOverride, RetryPolicy, WithOverrides};
/// struct Job {
///     urgent: bool,
/// }
/// // With a function instead of a closure the type can be written.
/// type Jobs = WithOverrides<CloneRequest, fn(&Job) -> Option<RetryOverride>>;
/// struct Client {
///     retry: RetryLayer<AnyError, Jobs>,
/// }
/// let retry = RetryLayer::new(RetryPolicy::default());
/// let client = Client { retry: retry.overrides(|job| job.urgent.then(RetryOverride::never)) };
/// # let _ = client.retry;
/// ```
#[derive(Clone, Copy)]
pub struct WithOverrides<R, F> {
    pub(crate) inner: R,
    pub(crate) f: F,
}

impl<R: std::fmt::Debug, F> std::fmt::Debug for WithOverrides<R, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WithOverrides").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<Req, R, F> Replay<Req> for WithOverrides<R, F>
where
    R: Replay<Req>,
    F: Fn(&Req) -> Option<RetryOverride>,
{
    fn try_replay(&self, req: &Req) -> Option<Req> {
        self.inner.try_replay(req)
    }

    fn can_send(&self, copy: &Req) -> bool {
        self.inner.can_send(copy)
    }

    fn is_lost(&self, copy: &Req) -> bool {
        self.inner.is_lost(copy)
    }

    fn deadline(&self, req: &Req) -> Option<Deadline> {
        self.inner.deadline(req)
    }

    fn attempt(&self, req: &Req) -> Attempt {
        self.inner.attempt(req)
    }

    fn overrides(&self, req: &Req) -> Option<RetryOverride> {
        (self.f)(req).or_else(|| self.inner.overrides(req))
    }

    fn set_deadline(&self, req: &mut Req, deadline: Deadline) {
        self.inner.set_deadline(req, deadline);
    }

    fn begin(&self, req: &mut Req) {
        self.inner.begin(req);
    }

    fn mark(&self, req: &mut Req, attempt: Attempt) {
        self.inner.mark(req, attempt);
    }
}

/// A [`Replay`] whose deadlines come from a function: see
/// [`RetryLayer::deadlines`](crate::retry::RetryLayer::deadlines).
///
/// ```
/// use buttress::retry::{CloneRequest, RetryLayer, RetryPolicy, WithDeadlines};
/// use buttress::{AnyError, Deadline};
/// struct Job {
///     by: Deadline,
/// }
/// // With a function instead of a closure the type can be written.
/// type Jobs = WithDeadlines<CloneRequest, fn(&Job) -> Option<Deadline>>;
/// struct Client {
///     retry: RetryLayer<AnyError, Jobs>,
/// }
/// let retry = RetryLayer::new(RetryPolicy::default());
/// let client = Client { retry: retry.deadlines(|job| Some(job.by)) };
/// # let _ = client.retry;
/// ```
#[derive(Clone, Copy)]
pub struct WithDeadlines<R, F> {
    pub(crate) inner: R,
    pub(crate) f: F,
}

impl<R: std::fmt::Debug, F> std::fmt::Debug for WithDeadlines<R, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WithDeadlines").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<Req, R, F> Replay<Req> for WithDeadlines<R, F>
where
    R: Replay<Req>,
    F: Fn(&Req) -> Option<Deadline>,
{
    fn try_replay(&self, req: &Req) -> Option<Req> {
        self.inner.try_replay(req)
    }

    fn can_send(&self, copy: &Req) -> bool {
        self.inner.can_send(copy)
    }

    fn is_lost(&self, copy: &Req) -> bool {
        self.inner.is_lost(copy)
    }

    fn deadline(&self, req: &Req) -> Option<Deadline> {
        match ((self.f)(req), self.inner.deadline(req)) {
            (Some(one), Some(other)) => Some(one.earliest(other)),
            (one, other) => one.or(other),
        }
    }

    fn attempt(&self, req: &Req) -> Attempt {
        self.inner.attempt(req)
    }

    fn overrides(&self, req: &Req) -> Option<RetryOverride> {
        self.inner.overrides(req)
    }

    fn set_deadline(&self, req: &mut Req, deadline: Deadline) {
        self.inner.set_deadline(req, deadline);
    }

    fn begin(&self, req: &mut Req) {
        self.inner.begin(req);
    }

    fn mark(&self, req: &mut Req, attempt: Attempt) {
        self.inner.mark(req, attempt);
    }
}
