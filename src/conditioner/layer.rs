use std::fmt;

use tower_layer::Layer;

use crate::reject::AsError;
use crate::slot::{Seat, Slot};

use super::call::{Call, DescribeFn, Unnamed, WithId};
use super::handle::Conditioner;
use super::mode::Plain;
use super::service::ConditionerService;

/// Puts a [`Conditioner`] around services: see the [module](super).
///
/// All services it makes share the one conditioner, however often `layer` is called.
///
/// ```
/// use buttress::conditioner::{Call, Conditioner, ConditionerLayer};
/// use std::time::Duration;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let lossy = Conditioner::network(Duration::ZERO, Duration::ZERO, 1.0, Some("pay")).unwrap();
/// let service = ServiceBuilder::new()
///     .layer(ConditionerLayer::new(lossy).describe(|job: &String| Call::new().name(job)))
///     .service(service_fn(|job: String| async move { Ok::<_, std::io::Error>(job) }));
/// assert!(service.clone().oneshot("pay".to_owned()).await.is_err());
/// assert!(service.oneshot("ship".to_owned()).await.is_ok());
/// # }
/// ```
#[derive(Clone)]
pub struct ConditionerLayer<D = Unnamed, R = AsError, M = Plain> {
    slot: Slot<Conditioner>,
    describe: D,
    reject: R,
    mode: M,
}

impl ConditionerLayer {
    /// A view of `conditioner` as a layer. It knows nothing of the requests, and losses become a
    /// [`BoxError`](crate::BoxError).
    ///
    /// ```
    /// use buttress::conditioner::{Conditioner, ConditionerLayer, Fault, Rule};
    /// let flaky = Conditioner::builder("db").rule(Rule::new(Fault::loss()).share(0.1)).build()?;
    /// let layer = ConditionerLayer::new(flaky);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn new(conditioner: Conditioner) -> Self {
        Self::from_slot(Slot::with(conditioner))
    }

    /// A view of what is in `slot`, so that faults can be installed, replaced and uninstalled while the
    /// stack runs. A call keeps the faults of the conditioner that was there when it was made.
    ///
    /// ```
    /// use buttress::Slot;
    /// use buttress::conditioner::{Conditioner, ConditionerLayer};
    /// # use std::time::Duration;
    /// let slot = Slot::new();
    /// let layer = ConditionerLayer::from_slot(slot.clone());
    /// // Later:
    /// slot.install(Conditioner::network(Duration::from_millis(50), Duration::ZERO, 0.0, None)?);
    /// slot.uninstall();
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn from_slot(slot: Slot<Conditioner>) -> Self {
        Self { slot, describe: Unnamed, reject: AsError, mode: Plain }
    }
}

impl<D, R, M> ConditionerLayer<D, R, M> {
    fn with_describe<D2>(self, describe: impl FnOnce(D) -> D2) -> ConditionerLayer<D2, R, M> {
        ConditionerLayer {
            slot: self.slot,
            describe: describe(self.describe),
            reject: self.reject,
            mode: self.mode,
        }
    }

    /// What the rules see of a request.
    ///
    /// ```
    /// # use buttress::conditioner::{Call, Conditioner, ConditionerLayer, Fault, Rule};
    /// # let flaky = Conditioner::builder("db").rule(Rule::new(Fault::loss())).build().unwrap();
    /// struct Query { table: String, id: u64 }
    /// let layer = ConditionerLayer::new(flaky)
    ///     .describe(|query: &Query| Call::new().name(&query.table).id(query.id));
    /// ```
    #[must_use]
    pub fn describe<Req, F>(self, f: F) -> ConditionerLayer<DescribeFn<F>, R, M>
    where
        F: for<'a> Fn(&'a Req) -> Call<'a>,
    {
        self.with_describe(|_| DescribeFn(f))
    }

    /// Describes requests with something of yours that implements [`Describe`](super::Describe).
    ///
    /// ```
    /// # use buttress::conditioner::{Conditioner, ConditionerLayer, Fault, Rule, Unnamed};
    /// # let flaky = Conditioner::builder("db").rule(Rule::new(Fault::loss())).build().unwrap();
    /// let layer = ConditionerLayer::new(flaky).describe_with(Unnamed::default());
    /// ```
    #[must_use]
    pub fn describe_with<D2>(self, describe: D2) -> ConditionerLayer<D2, R, M> {
        self.with_describe(|_| describe)
    }

    /// The number by which a request is known, so that it meets the same faults whenever it comes. Goes
    /// after [`describe`](Self::describe) and `http`.
    ///
    /// Behind a retry let the attempt be part of it, or what was lost once is lost each time.
    ///
    /// ```
    /// # use buttress::conditioner::{Conditioner, ConditionerLayer, Fault, Rule};
    /// # let flaky = Conditioner::builder("db").rule(Rule::new(Fault::loss())).build().unwrap();
    /// # #[cfg(feature = "http")] {
    /// use buttress::conditioner::request_id;
    /// use buttress::retry::Attempt;
    /// use http::Request;
    /// let layer = ConditionerLayer::new(flaky).http().request_id(|request: &Request<String>| {
    ///     let id = request.headers().get("x-request-id")?;
    ///     let Attempt(attempt) = Attempt::of(request.extensions());
    ///     Some(request_id(id).wrapping_add(attempt.into()))
    /// });
    /// # }
    /// ```
    #[must_use]
    pub fn request_id<Req, F>(self, id: F) -> ConditionerLayer<WithId<D, F>, R, M>
    where
        F: Fn(&Req) -> Option<u64>,
    {
        self.with_describe(|describe| WithId { describe, id })
    }

    /// What a caller gets for a loss, an error, a hang that has ended, and a lost reply; see
    /// [`Reject`](crate::Reject). For a lost reply the request is gone: a responder that needs it
    /// ([`respond_with`](crate::respond_with)) cannot answer then, and the call hangs.
    ///
    /// ```
    /// # use buttress::conditioner::{Conditioner, ConditionerLayer, Fault, Rule};
    /// # let flaky = Conditioner::builder("db").rule(Rule::new(Fault::loss())).build().unwrap();
    /// let layer = ConditionerLayer::new(flaky).on_reject(buttress::AsTyped);
    /// ```
    #[must_use]
    pub fn on_reject<R2>(self, reject: R2) -> ConditionerLayer<D, R2, M> {
        ConditionerLayer { slot: self.slot, describe: self.describe, reject, mode: self.mode }
    }
}

#[cfg(feature = "http")]
impl<D, R> ConditionerLayer<D, R> {
    /// For `http::Request` and `http::Response`: rules see URL, method, path and headers; statuses are
    /// responses; bodies can be slow, cut and changed. The body type becomes a
    /// [`FaultyBody`](super::FaultyBody).
    ///
    /// What was touched is marked: responses carry an [`Injected`](super::Injected) in their extensions,
    /// requests that are let through with a fault the header `x-buttress-fault` with its kind; see
    /// [`request_header`](ConditionerLayer::request_header).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use buttress::conditioner::{Conditioner, Fault, Injected, Matcher, Rule};
    /// use http::{Request, Response};
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    ///
    /// let unavailable = Conditioner::builder("shop")
    ///     .rule(Rule::new(Fault::status(503)).matching(Matcher::path("/checkout")))
    ///     .build()
    ///     .unwrap();
    /// unavailable.arm().unwrap();
    /// let service = ServiceBuilder::new().layer(unavailable.layer().http()).service(service_fn(
    ///     |_: Request<()>| async { Ok::<_, std::io::Error>(Response::new(String::from("sold"))) },
    /// ));
    /// let answer = service.oneshot(Request::get("/checkout").body(()).unwrap()).await.unwrap();
    /// assert_eq!(answer.status(), 503);
    /// assert!(answer.extensions().get::<Injected>().is_some());
    /// # }
    /// ```
    #[must_use]
    pub fn http(self) -> ConditionerLayer<super::HttpCalls, R, super::mode::Http> {
        ConditionerLayer {
            slot: self.slot,
            describe: super::HttpCalls::default(),
            reject: self.reject,
            mode: super::mode::Http { header: Some(MARK) },
        }
    }
}

#[cfg(feature = "http")]
const MARK: ::http::HeaderName = ::http::HeaderName::from_static("x-buttress-fault");

#[cfg(feature = "http")]
impl<D, R> ConditionerLayer<D, R, super::mode::Http> {
    /// The header by which the callee sees that something was done to a request, or none.
    ///
    /// ```
    /// # use buttress::conditioner::{Conditioner, ConditionerLayer, Fault, Rule};
    /// # let flaky = Conditioner::builder("db").rule(Rule::new(Fault::loss())).build().unwrap();
    /// let unmarked = ConditionerLayer::new(flaky).http().request_header(None);
    /// ```
    #[must_use]
    pub fn request_header(mut self, header: Option<::http::HeaderName>) -> Self {
        self.mode.header = header;
        self
    }
}

impl<D, R: fmt::Debug, M: fmt::Debug> fmt::Debug for ConditionerLayer<D, R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConditionerLayer")
            .field("slot", &self.slot)
            .field("reject", &self.reject)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl<S, D: Clone, R: Clone, M: Clone> Layer<S> for ConditionerLayer<D, R, M> {
    type Service = ConditionerService<S, D, R, M>;

    fn layer(&self, inner: S) -> Self::Service {
        ConditionerService {
            inner,
            seat: Seat::new(self.slot.clone()),
            describe: self.describe.clone(),
            reject: self.reject.clone(),
            mode: self.mode.clone(),
        }
    }
}
