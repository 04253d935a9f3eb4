use std::sync::Arc;

use tower_layer::Layer;

use super::answer::{ByService, Call, Respond, Value};
use super::cause::{Failures, Refusals};
use super::handle::Fallback;
use super::keep::Nothing;
use super::service::FallbackService;
use crate::replay::CloneRequest;
use crate::sync::Lease;

/// Puts a [`Fallback`] around services: see the [module](super).
///
/// ```
/// use buttress::fallback::Fallback;
/// let layer = Fallback::new("names").layer::<buttress::Boxed>().value("anonymous");
/// ```
#[derive(Clone, Debug)]
pub struct FallbackLayer<A, V, K = CloneRequest> {
    fallback: Fallback,
    answer: A,
    covers: V,
    keep: K,
}

pub(super) struct Parts<A, V, K> {
    pub(super) fallback: Fallback,
    pub(super) answer: A,
    pub(super) covers: V,
    pub(super) keep: K,
}

impl<M> FallbackLayer<(), Refusals<M>, CloneRequest> {
    pub(super) fn new(fallback: Fallback) -> Self {
        Self { fallback, answer: (), covers: Refusals::NOT_NOW, keep: CloneRequest }
    }
}

impl<M, K> FallbackLayer<(), Refusals<M>, K> {
    /// Answers for failures, too, as this classifier judges results: transient and flaky failures and throttles.
    ///
    /// ```
    /// use buttress::{AnyError, Typed, fallback::Fallback};
    /// let layer = Fallback::new("names").layer::<Typed>().failures(AnyError).value("anonymous");
    /// ```
    #[must_use]
    pub fn failures<C>(self, classify: C) -> FallbackLayer<(), Failures<C, Refusals<M>>, K> {
        let covers = Failures::new(classify, self.covers);
        FallbackLayer { fallback: self.fallback, answer: (), covers, keep: self.keep }
    }

    /// Answers what a [`Reject`](crate::Reject) makes of the request and the refusal; an error of it counts as
    /// no answer.
    ///
    /// ```
    /// use buttress::{Typed, fallback::Fallback, respond_with};
    /// let stale = respond_with(|user: u32, _why| format!("cached answer for {user}"));
    /// let layer = Fallback::new("users").layer::<Typed>().respond(stale);
    /// ```
    #[must_use]
    pub fn respond<R>(self, reject: R) -> FallbackLayer<Respond<R>, Refusals<M>, K> {
        self.answer(Respond(reject))
    }
}

impl<V, K> FallbackLayer<(), V, K> {
    /// Answers for other results: a [`Covers`](super::Covers).
    ///
    /// ```
    /// use buttress::{RejectionKind, Typed, fallback::{Fallback, Refusals}};
    /// let only_open = Refusals::<Typed>::only(|why| why.kind() == RejectionKind::CircuitOpen);
    /// let layer = Fallback::new("names").layer::<Typed>().covers(only_open).value("anonymous");
    /// ```
    #[must_use]
    pub fn covers<V2>(self, covers: V2) -> FallbackLayer<(), V2, K> {
        FallbackLayer { fallback: self.fallback, answer: (), covers, keep: self.keep }
    }

    /// Answers a clone of this. Nothing is kept of requests.
    ///
    /// ```
    /// let layer = buttress::fallback::Fallback::new("names").layer::<buttress::Typed>().value("anonymous");
    /// ```
    #[must_use]
    pub fn value<T>(self, value: T) -> FallbackLayer<Value<T>, V, Nothing> {
        self.answer(Value(value)).keep(Nothing)
    }

    /// Answers what this function makes of what was kept of the request (by default a clone) and the
    /// [`Cause`](super::Cause): `async` and with any error, which counts as no answer.
    ///
    /// ```
    /// use buttress::{Typed, fallback::{Cause, Fallback}};
    /// let layer = Fallback::new("names").layer::<Typed>().call(|user: u32, _: Cause| async move {
    ///     if user == 0 { Err("nobody") } else { Ok(format!("user {user}")) }
    /// });
    /// ```
    #[must_use]
    pub fn call<F>(self, f: F) -> FallbackLayer<Call<F>, V, K> {
        self.answer(Call(f))
    }

    /// Answers what another service does, asked with what was kept of the request (by default a clone). An
    /// error of it counts as no answer. It has to be `Sync` to be used from several threads: where it is boxed,
    /// use tower's `BoxCloneSyncService`.
    ///
    /// ```
    /// use buttress::{Typed, fallback::Fallback};
    /// let cache = tower::service_fn(|user: u32| async move { Ok::<_, ()>(format!("user {user}")) });
    /// let layer = Fallback::new("names").layer::<Typed>().service(cache);
    /// ```
    #[must_use]
    pub fn service<S>(self, service: S) -> FallbackLayer<ByService<S>, V, K> {
        self.answer(ByService(service))
    }

    /// Answers with an [`Answer`](super::Answer) of yours.
    ///
    /// ```
    /// use buttress::fallback::{Answer, Cause, Fallback};
    /// # use std::future::{Ready, ready};
    /// struct Apology;
    /// impl<K, E> Answer<K, String, E> for Apology {
    ///     type Future = Ready<Option<String>>;
    ///     fn answer(&self, _: K, cause: Cause) -> Self::Future {
    ///         ready(Some(format!("sorry: {cause}")))
    ///     }
    /// }
    /// let layer = Fallback::new("names").layer::<buttress::Typed>().answer(Apology);
    /// ```
    #[must_use]
    pub fn answer<A>(self, answer: A) -> FallbackLayer<A, V, K> {
        FallbackLayer { fallback: self.fallback, answer, covers: self.covers, keep: self.keep }
    }
}

impl<A, V, K> FallbackLayer<A, V, K> {
    /// What is kept of each request for the fallback, a [`Keep`](super::Keep); by default a clone. Taking
    /// only an id or the address spares the clone of a large request, and works for those that cannot be
    /// cloned.
    ///
    /// ```
    /// use buttress::{Typed, fallback::{Cause, Fallback}};
    /// struct Upload { user: u32, data: Vec<u8> }
    /// let layer = Fallback::new("uploads")
    ///     .layer::<Typed>()
    ///     .call(|user: u32, _: Cause| async move { Ok::<_, ()>(user) })
    ///     .keep(|upload: &Upload| Some(upload.user));
    /// ```
    #[must_use]
    pub fn keep<K2>(self, keep: K2) -> FallbackLayer<A, V, K2> {
        FallbackLayer { fallback: self.fallback, answer: self.answer, covers: self.covers, keep }
    }
}

impl<S, A: Clone, V: Clone, K: Clone> Layer<S> for FallbackLayer<A, V, K> {
    type Service = FallbackService<S, A, V, K>;

    fn layer(&self, inner: S) -> Self::Service {
        let Self { fallback, answer, covers, keep } = self.clone();
        let parts = Lease::new(Arc::new(Parts { fallback, answer, covers, keep }));
        FallbackService { inner, parts }
    }
}
