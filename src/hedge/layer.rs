use tower_layer::Layer;

use super::handle::Hedge;
use super::service::HedgeService;
use crate::classify::AnyError;
use crate::replay::CloneRequest;

/// Puts a [`Hedge`] around services: see the [module](super).
///
/// ```
/// use buttress::hedge::{Hedge, HedgeLayer};
/// let layer = HedgeLayer::new(Hedge::new("db"));
/// ```
#[derive(Clone, Debug)]
pub struct HedgeLayer<C = AnyError, R = CloneRequest> {
    /// `None`: as if the layer were not there.
    hedge: Option<Hedge>,
    classifier: C,
    replay: R,
}

impl HedgeLayer {
    /// Requests copied by `Clone`, results judged by [`AnyError`].
    ///
    /// ```
    /// use buttress::hedge::{Hedge, HedgeLayer};
    /// let layer = HedgeLayer::new(Hedge::new("db"));
    /// ```
    #[must_use]
    pub fn new(hedge: Hedge) -> Self {
        Self::maybe(Some(hedge))
    }

    /// A layer that may be absent from its stack, in a type that is the same with it and without.
    pub(crate) const fn maybe(hedge: Option<Hedge>) -> Self {
        Self { hedge, classifier: AnyError, replay: CloneRequest }
    }
}

impl<C, R> HedgeLayer<C, R> {
    /// Judges results with this classifier, and requests: one that may not be sent twice, because its
    /// [`expired`](crate::Classify::expired) does not say safe (a POST), is not hedged.
    ///
    /// ```
    /// # #[cfg(feature = "http")] {
    /// let layer = buttress::hedge::Hedge::new("db").layer().classify(buttress::http::standard::<buttress::Typed>());
    /// # }
    /// ```
    pub fn classify<C2>(self, classifier: C2) -> HedgeLayer<C2, R> {
        HedgeLayer { hedge: self.hedge, classifier, replay: self.replay }
    }

    /// How a request is copied, and where it carries deadline and attempt: a
    /// [`Replay`](crate::retry::Replay), or a closure that copies it if it can.
    ///
    /// ```
    /// # #[cfg(feature = "http")] {
    /// use buttress::retry::HttpRequest;
    /// let layer = buttress::hedge::Hedge::new("db").layer().replay(HttpRequest::new());
    /// # }
    /// ```
    pub fn replay<R2>(self, replay: R2) -> HedgeLayer<C, R2> {
        HedgeLayer { hedge: self.hedge, classifier: self.classifier, replay }
    }
}

impl<S, C: Clone, R: Clone> Layer<S> for HedgeLayer<C, R> {
    type Service = HedgeService<S, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        HedgeService {
            inner,
            shared: self.hedge.as_ref().map(|hedge| hedge.shared.clone()),
            classifier: self.classifier.clone(),
            replay: self.replay.clone(),
        }
    }
}
