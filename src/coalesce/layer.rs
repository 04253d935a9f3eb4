use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use super::handle::Coalesce;
use super::service::CoalesceService;
use super::share::CloneResponse;
use crate::context::NoContext;
use crate::reject::AsError;
use crate::sync::Lease;

/// Puts a [`Coalesce`] around services: see the [module](super).
///
/// ```
/// use buttress::coalesce::{Coalesce, CoalesceLayer};
/// let layer: CoalesceLayer<u32, u32, (), _> = Coalesce::new("users").layer(|id: &u32| Some(*id));
/// ```
pub struct CoalesceLayer<K, V, O, X, P = CloneResponse, C = NoContext, R = AsError> {
    coalesce: Coalesce<K, V, O>,
    key: X,
    share: P,
    context: C,
    reject: R,
}

pub(super) struct Parts<K, V, O, X, P, C, R> {
    pub(super) coalesce: Coalesce<K, V, O>,
    pub(super) key: X,
    pub(super) share: P,
    pub(super) context: C,
    pub(super) reject: R,
}

impl<K, V, O, X> CoalesceLayer<K, V, O, X> {
    pub(super) fn new(coalesce: Coalesce<K, V, O>, key: X) -> Self {
        let share = CloneResponse::new();
        Self { coalesce, key, share, context: NoContext, reject: AsError }
    }
}

impl<K, V, O, X, P, C, R> CoalesceLayer<K, V, O, X, P, C, R> {
    /// How one answer is given to several, a [`Share`](super::Share); by default it is cloned, and an error becomes
    /// a [`BoxError`](crate::BoxError).
    ///
    /// ```
    /// use buttress::coalesce::{CloneResponse, Coalesce, CoalesceLayer};
    /// let layer: CoalesceLayer<u32, Result<u32, u8>, (), _, _> = Coalesce::new("users")
    ///     .layer(|id: &u32| Some(*id))
    ///     .share(CloneResponse::with_errors_cloned());
    /// ```
    #[must_use]
    pub fn share<P2>(self, share: P2) -> CoalesceLayer<K, V, O, X, P2, C, R> {
        let Self { coalesce, key, context, reject, .. } = self;
        CoalesceLayer { coalesce, key, share, context, reject }
    }

    /// Where requests carry their deadline, a [`ReadContext`](crate::ReadContext).
    ///
    /// ```
    /// use buttress::{Context, Deadline, coalesce::{Coalesce, CoalesceLayer}};
    /// struct Read { id: u32, by: Deadline }
    /// let layer: CoalesceLayer<u32, u32, (), _, _, _> = Coalesce::new("users")
    ///     .layer(|read: &Read| Some(read.id))
    ///     .context(|read: &Read| Context::new().with_deadline(read.by));
    /// ```
    #[must_use]
    pub fn context<C2>(self, context: C2) -> CoalesceLayer<K, V, O, X, P, C2, R> {
        let Self { coalesce, key, share, reject, .. } = self;
        CoalesceLayer { coalesce, key, share, context, reject }
    }

    /// What becomes of a call that is refused while it waits for that of another one. The strategy gets `()` for
    /// the request, which may be gone.
    ///
    /// ```
    /// use buttress::{AsTyped, coalesce::{Coalesce, CoalesceLayer}};
    /// let layer: CoalesceLayer<u32, u32, (), _, _, _, _> =
    ///     Coalesce::new("users").layer(|id: &u32| Some(*id)).on_reject(AsTyped);
    /// ```
    #[must_use]
    pub fn on_reject<R2>(self, reject: R2) -> CoalesceLayer<K, V, O, X, P, C, R2> {
        let Self { coalesce, key, share, context, .. } = self;
        CoalesceLayer { coalesce, key, share, context, reject }
    }
}

impl<K, V, O, X: Clone, P: Clone, C: Clone, R: Clone> Clone for CoalesceLayer<K, V, O, X, P, C, R> {
    fn clone(&self) -> Self {
        Self {
            coalesce: self.coalesce.clone(),
            key: self.key.clone(),
            share: self.share.clone(),
            context: self.context.clone(),
            reject: self.reject.clone(),
        }
    }
}

impl<K, V, O, X, P, C, R> fmt::Debug for CoalesceLayer<K, V, O, X, P, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoalesceLayer").field("coalesce", &self.coalesce).finish_non_exhaustive()
    }
}

impl<S, K, V, O, X: Clone, P: Clone, C: Clone, R: Clone> Layer<S>
    for CoalesceLayer<K, V, O, X, P, C, R>
{
    type Service = CoalesceService<S, K, V, O, X, P, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        let Self { coalesce, key, share, context, reject } = self.clone();
        let parts = Parts { coalesce, key, share, context, reject };
        CoalesceService { inner, parts: Lease::new(Arc::new(parts)) }
    }
}
