use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::handle::start_deadline;
use super::progress::{Progress, Terms, respect_refusal};
use super::{Attempt, CloneRequest, Replay, RetryPolicy};
use crate::budget::RetryBudget;
use crate::classify::{AnyError, Classify};
use crate::clock::Tick;
use crate::deadline::Deadline;
use crate::name::Name;
use crate::observe::Observers;

/// A policy for tower's own `Retry`, where that is already in place: our limits, classes and budget, its
/// service.
///
/// It does less than our layer, because tower's service does: no attempt timeout, no cut at the
/// deadline, no bound on waiting for readiness, and the response lives until the backoff is over. An
/// expired deadline and overrides are looked at after the first attempt.
///
/// ```
/// use buttress::retry::{RetryPolicy, TowerPolicy};
/// use tower::{ServiceBuilder, service_fn};
/// let service = ServiceBuilder::new()
///     .retry(TowerPolicy::new(RetryPolicy::default()))
///     .service(service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) }));
/// ```
#[derive(Debug)]
pub struct TowerPolicy<C = AnyError, R = CloneRequest> {
    policy: RetryPolicy,
    classifier: C,
    replay: R,
    name: Name,
    budget: Option<RetryBudget>,
    deadline: Option<Tick>,
    progress: Option<Progress>,
}

impl TowerPolicy {
    /// This policy with [`AnyError`], `Clone` and a budget of its own.
    ///
    /// ```
    /// use buttress::retry::{RetryPolicy, TowerPolicy};
    /// let policy = TowerPolicy::new(RetryPolicy::default());
    /// ```
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        let budget = Some(RetryBudget::new("retry"));
        let (classifier, replay) = (AnyError, CloneRequest);
        let name = "retry".into();
        Self { policy, classifier, replay, name, budget, deadline: None, progress: None }
    }
}

impl<C, R> TowerPolicy<C, R> {
    /// Draws from this budget.
    ///
    /// ```
    /// use buttress::{RetryBudget, retry::{RetryPolicy, TowerPolicy}};
    /// let policy = TowerPolicy::new(RetryPolicy::default()).budget(RetryBudget::new("payments"));
    /// ```
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Is bounded by the policy only.
    ///
    /// ```
    /// use buttress::retry::{RetryPolicy, TowerPolicy};
    /// let policy = TowerPolicy::new(RetryPolicy::default()).without_budget();
    /// ```
    #[must_use]
    pub fn without_budget(mut self) -> Self {
        self.budget = None;
        self
    }

    /// Judges results with this classifier.
    ///
    /// ```
    /// use buttress::{error_chain, retry::{RetryPolicy, TowerPolicy}};
    /// let policy = TowerPolicy::new(RetryPolicy::default()).classify(error_chain::<buttress::Typed>());
    /// ```
    pub fn classify<C2>(self, classifier: C2) -> TowerPolicy<C2, R> {
        let Self { policy, replay, name, budget, .. } = self;
        TowerPolicy { policy, classifier, replay, name, budget, deadline: None, progress: None }
    }

    /// How requests are sent again.
    ///
    /// ```
    /// use buttress::retry::{HttpRequest, RetryPolicy, TowerPolicy};
    /// let policy = TowerPolicy::new(RetryPolicy::default()).replay(HttpRequest::new());
    /// ```
    pub fn replay<R2>(self, replay: R2) -> TowerPolicy<C, R2> {
        let Self { policy, classifier, name, budget, .. } = self;
        TowerPolicy { policy, classifier, replay, name, budget, deadline: None, progress: None }
    }
}

/// The clone starts a run of its own.
impl<C: Clone, R: Clone> Clone for TowerPolicy<C, R> {
    fn clone(&self) -> Self {
        Self {
            policy: self.policy,
            classifier: self.classifier.clone(),
            replay: self.replay.clone(),
            name: self.name,
            budget: self.budget.clone(),
            // Tower copies the request first and clones its policy for the call then.
            deadline: self.deadline,
            progress: None,
        }
    }
}

static NOBODY: Observers = Observers::NONE;

impl<Req, Res, E, C, R> tower::retry::Policy<Req, Res, E> for TowerPolicy<C, R>
where
    E: 'static,
    C: Classify<Req, Res, E>,
    R: Replay<Req>,
{
    type Future = Pause;

    fn retry(&mut self, req: &mut Req, result: &mut Result<Res, E>) -> Option<Pause> {
        let policy = match self.replay.overrides(req) {
            None => self.policy,
            Some(overrides) => overrides.apply(self.policy),
        };
        let ticket = self.classifier.start(req);
        let verdict = self.classifier.finish(ticket, (*result).as_ref());
        let judged = respect_refusal(verdict, (*result).as_ref().err(), self.name);
        let progress = self.progress.get_or_insert_with(Progress::first);
        let inherited = self.replay.deadline(req).map(Deadline::tick);
        let deadline = match (self.deadline, inherited) {
            (Some(own), Some(inherited)) => Some(own.min(inherited)),
            (own, inherited) => own.or(inherited),
        };
        let budget = self.budget.as_ref();
        let (name, observers, tally) = (self.name, &NOBODY, None);
        let terms = Terms { policy: &policy, deadline, name, budget, observers, tally };
        let delay = progress.settle(&terms, judged, || self.replay.can_send(req))?;
        // Tower gives no sign when the pause is over and the request sent; dropping the call during
        // the pause pays for the retry.
        progress.send();
        self.replay.mark(req, Attempt(progress.attempts()));
        Some(Pause::new(delay))
    }

    fn clone_request(&mut self, req: &Req) -> Option<Req> {
        if !self.policy.can_retry() {
            return None;
        }
        if self.progress.is_none() {
            self.deadline = start_deadline(&self.policy, None);
        }
        self.replay.try_replay(req)
    }
}

/// The pause before a retry. Without a timer if the delay is zero.
///
/// ```
/// use buttress::retry::Pause;
/// fn is_a_future<F: Future<Output = ()>>() {}
/// is_a_future::<Pause>();
/// ```
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Pause {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pause {
    fn new(delay: Duration) -> Self {
        Self { timer: (!delay.is_zero()).then(|| Box::pin(tokio::time::sleep(delay))) }
    }
}

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}
