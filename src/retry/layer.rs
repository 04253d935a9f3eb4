use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use super::keep::SparingLayer;
use super::managed::Tally;
use super::plan::Plan;
use super::service::{ABSENT, FIXED, Live, RetryService, Shared};
use super::{RetryOverride, RetryPolicy};
use crate::budget::RetryBudget;
use crate::classify::AnyError;
use crate::deadline::Deadline;
use crate::managed::Home;
use crate::name::Name;
use crate::observe::{Observe, Observers};
use crate::reject::AsError;
use crate::replay::{CloneRequest, WithDeadlines, WithOverrides};
use crate::slot::Slot;
use crate::sync::Lease;

/// Retries the calls of a tower service; see the [module](super).
///
/// All services made from one layer share its budget: the one it was given, or one of its own.
///
/// A registry shows it by its name as long as a service made from it lives; without a budget only a
/// registry that was there before it.
///
/// Each distinct pair of policy and name is kept for the life of the process (about 150 bytes, at most
/// 1024 of them), so that calls need not count references to it. Build layers when the program starts.
///
/// ```
/// use buttress::{RetryBudget, retry::{RetryLayer, RetryPolicy}};
/// use tower::{ServiceBuilder, service_fn};
///
/// let service = ServiceBuilder::new()
///     .layer(RetryLayer::new(RetryPolicy::default()).budget(RetryBudget::new("payments")))
///     .service(service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) }));
/// ```
#[derive(Clone)]
pub struct RetryLayer<C = AnyError, R = CloneRequest, J = AsError> {
    plan: Plan,
    /// Where the policy comes from, if it may change.
    slot: Option<Slot<RetryPolicy>>,
    classifier: C,
    replay: R,
    reject: J,
    budget: Option<RetryBudget>,
    observers: Observers,
    // What services share and a registry shows, made anew whenever the name or one of the two above changes. `None` if there is nothing to
    // share: then calls count no reference.
    shared: Option<Lease<Shared>>,
}

impl RetryLayer {
    /// Retries by this policy: errors judged by [`AnyError`], requests copied by `Clone`, a budget of its
    /// own.
    ///
    /// ```
    /// use buttress::retry::{RetryLayer, RetryPolicy};
    /// let layer = RetryLayer::new(RetryPolicy::default());
    /// ```
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        Self::with(policy, None)
    }

    /// Retries by whichever policy is in `slot` when a call is made; while it is empty, each call is made once
    /// ([`NO_RETRY`](RetryPolicy::NO_RETRY)). A call that has begun keeps its policy to its end, and the budget
    /// keeps its level.
    ///
    /// ```
    /// use buttress::Slot;
    /// use buttress::retry::{RetryLayer, RetryPolicy};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
    /// let slot = Slot::new();
    /// let down = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    /// let mut service = RetryLayer::from_slot(slot.clone())
    ///     .layer(service_fn(move |()| async move { Err::<(), _>(down()) }));
    /// assert!(service.ready().await.unwrap().call(()).await.is_err());
    /// slot.install(RetryPolicy::DEFAULT);
    /// assert!(service.ready().await.unwrap().call(()).await.is_err(), "after some attempts");
    /// # });
    /// ```
    #[must_use]
    pub fn from_slot(slot: Slot<RetryPolicy>) -> Self {
        Self::with(slot.get().unwrap_or(RetryPolicy::NO_RETRY), Some(slot))
    }

    /// A layer that is absent from its stack, in a type that is the same as with it. It takes no name.
    pub(crate) const fn absent() -> Self {
        Self {
            plan: Plan::Absent,
            slot: None,
            classifier: AnyError,
            replay: CloneRequest,
            reject: AsError,
            budget: None,
            observers: Observers::NONE,
            shared: None,
        }
    }

    fn with(policy: RetryPolicy, slot: Option<Slot<RetryPolicy>>) -> Self {
        let layer = Self {
            plan: Plan::new(policy, "retry".into()),
            slot,
            classifier: AnyError,
            replay: CloneRequest,
            reject: AsError,
            budget: Some(RetryBudget::new("retry")),
            observers: Observers::default(),
            shared: None,
        };
        layer.share()
    }
}

#[cfg(feature = "config")]
impl RetryLayer {
    /// Counts in a tally that is older than the layer, and registers nothing.
    pub(super) fn counting(
        tally: &Arc<Tally>,
        observers: &Observers,
        policy: RetryPolicy,
        budget: Option<RetryBudget>,
    ) -> Self {
        let (tally, observers) = (Arc::clone(tally), observers.clone());
        let plan = Plan::new(policy, tally.label());
        let shared =
            Shared { budget: budget.clone(), observers: observers.clone(), tally, live: None };
        Self {
            plan,
            slot: None,
            classifier: AnyError,
            replay: CloneRequest,
            reject: AsError,
            budget,
            observers,
            shared: Some(Lease::new(Arc::new(shared))),
        }
    }
}

impl<C, R, J> RetryLayer<C, R, J> {
    fn share(mut self) -> Self {
        let some = self.budget.is_some() || !self.observers.is_empty() || self.slot.is_some();
        self.shared = some.then(|| {
            let (budget, observers) = (self.budget.clone(), self.observers.clone());
            let policy = self.slot.clone().unwrap_or_else(|| Slot::with(self.plan.policy));
            let tally = Arc::new(Tally::new(self.plan.name, policy, budget.as_ref()));
            let live = self.slot.clone().map(Live::new);
            let shared = Arc::new(Shared { budget, observers, tally, live });
            self.observers.register(&shared);
            Lease::new(shared)
        });
        self
    }

    /// What its calls share, also if that is nothing; `None` if there are no retries.
    pub(super) fn shared_by_calls(&self) -> Option<Arc<Shared>> {
        if matches!(self.plan, Plan::Absent) {
            return None;
        }
        Some(self.shared.as_ref().map_or_else(
            || {
                let policy = Slot::with(self.plan.policy);
                let tally = Arc::new(Tally::new(self.plan.name, policy, None));
                Arc::new(Shared { budget: None, observers: Observers::NONE, tally, live: None })
            },
            |shared| Arc::clone(shared.shared()),
        ))
    }

    /// Calls that work keep no instance of the service inside: retries are made by clones of the one that the layer is
    /// put around.
    pub(crate) fn sparing(self) -> SparingLayer<C, R, J> {
        SparingLayer { layer: self }
    }

    pub(crate) fn move_to(mut self, home: Home) -> Self {
        self.observers.move_to(home);
        self.share()
    }

    /// Draws from this budget. Give the same one to everything that calls the same backend.
    ///
    /// ```
    /// use buttress::{RetryBudget, retry::{RetryLayer, RetryPolicy}};
    /// let layer = RetryLayer::new(RetryPolicy::default()).budget(RetryBudget::new("payments"));
    /// assert_eq!(layer.retry_budget().unwrap().name(), "payments");
    /// ```
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self.share()
    }

    /// Is bounded by the policy only. Sensible where the backend cannot be overloaded, or a budget sits
    /// elsewhere.
    ///
    /// ```
    /// use buttress::retry::{RetryLayer, RetryPolicy};
    /// assert!(RetryLayer::new(RetryPolicy::default()).without_budget().retry_budget().is_none());
    /// ```
    #[must_use]
    pub fn without_budget(mut self) -> Self {
        self.budget = None;
        self.share()
    }

    /// The budget it draws from.
    ///
    /// ```
    /// use buttress::retry::{RetryLayer, RetryPolicy};
    /// let layer = RetryLayer::new(RetryPolicy::default());
    /// assert_eq!(layer.retry_budget().unwrap().stats().tokens, 28);
    /// ```
    #[must_use]
    pub fn retry_budget(&self) -> Option<&RetryBudget> {
        self.budget.as_ref()
    }

    /// Judges results with this classifier. An `Ok` it calls a failure is retried like an `Err`.
    ///
    /// ```
    /// use buttress::{FailureClass, Verdict, classify_fn, retry::{RetryLayer, RetryPolicy}};
    /// let layer = RetryLayer::new(RetryPolicy::default()).classify(classify_fn(
    ///     |result: Result<&u16, &std::io::Error>| match result {
    ///         Ok(status) if *status < 500 => Verdict::success(),
    ///         _ => Verdict::failure(FailureClass::Transient),
    ///     },
    /// ));
    /// ```
    pub fn classify<C2>(self, classifier: C2) -> RetryLayer<C2, R, J> {
        let Self { plan, slot, replay, reject, budget, observers, shared, .. } = self;
        RetryLayer { plan, slot, classifier, replay, reject, budget, observers, shared }
    }

    /// Asks this function for exceptions to the policy, before what the [`Replay`](super::Replay) finds.
    ///
    /// ```
    /// use buttress::retry::{RetryLayer, RetryOverride, RetryPolicy};
    /// struct Job { urgent: bool }
    /// let layer = RetryLayer::new(RetryPolicy::default())
    ///     .overrides(|job: &Job| job.urgent.then(RetryOverride::never));
    /// ```
    pub fn overrides<Req, F>(self, f: F) -> RetryLayer<C, WithOverrides<R, F>, J>
    where
        F: Fn(&Req) -> Option<RetryOverride>,
    {
        let Self { plan, slot, classifier, replay, reject, budget, observers, shared } = self;
        let replay = WithOverrides { inner: replay, f };
        RetryLayer { plan, slot, classifier, replay, reject, budget, observers, shared }
    }

    /// Asks this function for the deadline a request carries.
    ///
    /// ```
    /// use buttress::{Deadline, retry::{RetryLayer, RetryPolicy}};
    /// struct Job { by: Deadline }
    /// let layer = RetryLayer::new(RetryPolicy::default()).deadlines(|job: &Job| Some(job.by));
    /// ```
    pub fn deadlines<Req, F>(self, f: F) -> RetryLayer<C, WithDeadlines<R, F>, J>
    where
        F: Fn(&Req) -> Option<Deadline>,
    {
        let Self { plan, slot, classifier, replay, reject, budget, observers, shared } = self;
        let replay = WithDeadlines { inner: replay, f };
        RetryLayer { plan, slot, classifier, replay, reject, budget, observers, shared }
    }

    /// What becomes of a call that ran out of time (`DeadlineExceeded`), or whose retry found the service not
    /// ready or could not be sent again after the response was given up for it (`Overloaded`; the latter
    /// with a source that says so). The request is gone by then, so the strategy gets `()` for it.
    ///
    /// ```
    /// use buttress::{AsTyped, retry::{RetryLayer, RetryPolicy}};
    /// let layer = RetryLayer::new(RetryPolicy::default()).on_reject(AsTyped);
    /// ```
    pub fn on_reject<J2>(self, reject: J2) -> RetryLayer<C, R, J2> {
        let Self { plan, slot, classifier, replay, budget, observers, shared, .. } = self;
        RetryLayer { plan, slot, classifier, replay, reject, budget, observers, shared }
    }

    /// The name in events and refusals; default `retry`.
    ///
    /// ```
    /// use buttress::retry::{RetryLayer, RetryPolicy};
    /// let layer = RetryLayer::new(RetryPolicy::default()).name("payments");
    /// ```
    #[must_use]
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.plan = Plan::new(self.plan.policy, name.into());
        self.share()
    }

    /// Adds an observer of its decisions: [`Retried`](crate::observe::EventKind::Retried) and
    /// [`RetryAbandoned`](crate::observe::EventKind::RetryAbandoned).
    ///
    /// ```
    /// use buttress::{observe::Event, retry::{RetryLayer, RetryPolicy}};
    /// let layer = RetryLayer::new(RetryPolicy::default()).observe(|event: &Event<'_>| {
    ///     eprintln!("{:?}", event.kind);
    /// });
    /// ```
    #[must_use]
    pub fn observe(mut self, observer: impl Observe) -> Self {
        self.observers.add(observer);
        self.share()
    }
}

impl<C, J> RetryLayer<C, CloneRequest, J> {
    /// How requests are sent again: a [`Replay`](super::Replay), or a closure that copies one if it can. Comes
    /// before [`overrides`](Self::overrides) and [`deadlines`](Self::deadlines), which add to it.
    ///
    /// ```
    /// use buttress::retry::{RetryLayer, RetryPolicy};
    /// /// Not `Clone`: it holds a file.
    /// struct Upload { name: String }
    /// let layer = RetryLayer::new(RetryPolicy::default())
    ///     .replay(|u: &Upload| Some(Upload { name: u.name.clone() }));
    /// ```
    pub fn replay<R2>(self, replay: R2) -> RetryLayer<C, R2, J> {
        let Self { plan, slot, classifier, reject, budget, observers, shared, .. } = self;
        RetryLayer { plan, slot, classifier, replay, reject, budget, observers, shared }
    }
}

impl<S, C: Clone, R: Clone, J: Clone> Layer<S> for RetryLayer<C, R, J> {
    type Service = RetryService<S, C, R, J>;

    fn layer(&self, inner: S) -> Self::Service {
        let live = self.shared.as_ref().and_then(|shared| shared.live.as_ref());
        let (seen, plan) = match live {
            Some(live) => live.look(self.plan.name),
            None if matches!(self.plan, Plan::Absent) => (ABSENT, Plan::Absent),
            None => (FIXED, self.plan.clone()),
        };
        RetryService {
            inner,
            plan,
            seen,
            classifier: self.classifier.clone(),
            replay: self.replay.clone(),
            reject: self.reject.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<C, R, J> fmt::Debug for RetryLayer<C, R, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("name", &self.plan.name)
            .field("policy", &self.plan.policy)
            .field("budget", &self.budget)
            .field("observers", &self.observers)
            .finish_non_exhaustive()
    }
}
