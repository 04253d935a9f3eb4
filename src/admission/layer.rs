use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use super::handle::Admission;
use super::service::AdmissionService;
use crate::classify::AnyError;
use crate::context::NoContext;
use crate::reject::AsError;
use crate::sync::Lease;

/// Puts an [`Admission`] in front of a service.
///
/// ```
/// use buttress::{Context, Criticality, Deadline, admission::{Admission, AdmissionLayer}};
/// struct Job { by: Deadline, urgent: bool }
/// let layer = AdmissionLayer::new(Admission::new("search")).context(|job: &Job| {
///     let class = if job.urgent { Criticality::Critical } else { Criticality::Sheddable };
///     Context::new().with_deadline(job.by).with_criticality(class)
/// });
/// ```
pub struct AdmissionLayer<C = AnyError, X = NoContext, R = AsError> {
    /// `None`: as if the layer were not there.
    admission: Option<Admission>,
    classify: C,
    context: X,
    reject: R,
    hands_down: bool,
    tells_end: bool,
}

pub(super) struct Parts<C, X, R> {
    pub(super) admission: Admission,
    pub(super) classify: C,
    pub(super) context: X,
    pub(super) reject: R,
    /// Who is inside takes over the reading of the clock at which a call is sent.
    pub(super) hands_down: bool,
    /// Who is inside finds in the context when the layers outside end the call.
    pub(super) tells_end: bool,
}

impl AdmissionLayer {
    /// Every error is a failure, requests carry no context, a refusal is an error.
    ///
    /// ```
    /// use buttress::admission::{Admission, AdmissionLayer};
    /// let layer = AdmissionLayer::new(Admission::bulkhead("db", 8)?);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn new(admission: Admission) -> Self {
        Self::maybe(Some(admission))
    }

    /// A layer that may be absent from its stack, in a type that is the same with it and without.
    pub(crate) const fn maybe(admission: Option<Admission>) -> Self {
        Self {
            admission,
            classify: AnyError,
            context: NoContext,
            reject: AsError,
            hands_down: false,
            tells_end: false,
        }
    }
}

impl<C, X, R> AdmissionLayer<C, X, R> {
    /// The service inside takes over a reading of the clock that it would make when it is called.
    pub(crate) fn hands_down(self, hands_down: bool) -> Self {
        Self { hands_down, ..self }
    }

    /// Writes into the context when the layers outside end a call, once it need not wait any more.
    pub(crate) fn tells_end(self) -> Self {
        Self { tells_end: true, ..self }
    }

    /// What counts as an answer, a failure, a throttle.
    ///
    /// ```
    /// use buttress::{admission::{Admission, AdmissionLayer}, error_chain, Typed};
    /// let layer = AdmissionLayer::new(Admission::new("db")).classify(error_chain::<Typed>());
    /// ```
    #[must_use]
    pub fn classify<T>(self, classify: T) -> AdmissionLayer<T, X, R> {
        let Self { admission, context, reject, hands_down, tells_end, .. } = self;
        AdmissionLayer { admission, classify, context, reject, hands_down, tells_end }
    }

    /// Where requests keep deadline and criticality.
    ///
    /// ```
    /// use buttress::{Context, admission::{Admission, AdmissionLayer}};
    /// let layer = AdmissionLayer::new(Admission::new("db")).context(|with: &Context| *with);
    /// ```
    #[must_use]
    pub fn context<T>(self, context: T) -> AdmissionLayer<C, T, R> {
        let Self { admission, classify, reject, hands_down, tells_end, .. } = self;
        AdmissionLayer { admission, classify, context, reject, hands_down, tells_end }
    }

    /// What becomes of a refused call.
    ///
    /// ```
    /// use buttress::{AsTyped, admission::{Admission, AdmissionLayer}};
    /// let layer = AdmissionLayer::new(Admission::new("db")).on_reject(AsTyped);
    /// ```
    #[must_use]
    pub fn on_reject<T>(self, reject: T) -> AdmissionLayer<C, X, T> {
        let Self { admission, classify, context, hands_down, tells_end, .. } = self;
        AdmissionLayer { admission, classify, context, reject, hands_down, tells_end }
    }
}

impl<C: Clone, X: Clone, R: Clone> Clone for AdmissionLayer<C, X, R> {
    fn clone(&self) -> Self {
        Self {
            admission: self.admission.clone(),
            classify: self.classify.clone(),
            context: self.context.clone(),
            reject: self.reject.clone(),
            hands_down: self.hands_down,
            tells_end: self.tells_end,
        }
    }
}

impl<C, X, R> fmt::Debug for AdmissionLayer<C, X, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionLayer").field("admission", &self.admission).finish_non_exhaustive()
    }
}

impl<S, C: Clone, X: Clone, R: Clone> Layer<S> for AdmissionLayer<C, X, R> {
    type Service = AdmissionService<S, C, X, R>;

    fn layer(&self, inner: S) -> Self::Service {
        let Self { admission, classify, context, reject, hands_down, tells_end } = self.clone();
        let parts = admission.map(|admission| Parts {
            admission,
            classify,
            context,
            reject,
            hands_down,
            tells_end,
        });
        let parts = parts.map(|parts| Lease::new(Arc::new(parts)));
        AdmissionService::new(inner, parts)
    }
}
