use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::report::{HealthReport, Probe};
use super::state::Health;

impl Health {
    /// The probes as a service: any other path is a 404. It is always ready and never fails.
    ///
    /// ```
    /// use buttress::supervise::{Lifecycle, health::Health};
    /// use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let health = Health::new(Lifecycle::new());
    /// let answer = health.service().oneshot(http::Request::get("/readyz").body(()).unwrap()).await;
    /// let answer = answer.unwrap();
    /// assert_eq!(answer.status(), 503);
    /// assert_eq!(answer.headers()["x-health-reason"], "starting");
    /// # }
    /// ```
    #[must_use]
    pub fn service(&self) -> HealthService {
        HealthService { health: self.clone(), verbose: false }
    }

    /// The probes as a layer: answers them before the inner service is asked, passes everything else on.
    /// The response's body must be made `From<Bytes>`, as axum's and hyper's `Full` are.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use buttress::supervise::{Lifecycle, health::Health};
    /// let health = Health::new(Lifecycle::new());
    /// let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(health.layer());
    /// ```
    ///
    /// axum runs a router's layers only for its routes; the router above answers `/livez` with a 404. Put
    /// the layer around the router (`health.layer().layer(router)`), or merge a
    /// `route_service("/livez", health.service())` into it.
    #[must_use]
    pub fn layer(&self) -> HealthLayer {
        HealthLayer { health: self.clone(), verbose: false }
    }
}

/// Answers the probes: see [`Health::service`].
///
/// ```
/// use buttress::supervise::{Lifecycle, health::{Health, HealthService}};
/// let service: HealthService = Health::new(Lifecycle::new()).service();
/// ```
#[derive(Clone, Debug)]
pub struct HealthService {
    health: Health,
    verbose: bool,
}

impl HealthService {
    /// Whether `?verbose` gets the whole [`HealthReport`] as JSON (default: no). It tells names of
    /// dependencies and why they fail, so not on a port that everybody reaches.
    ///
    /// ```
    /// # use buttress::supervise::{Lifecycle, health::Health};
    /// let service = Health::new(Lifecycle::new()).service().verbose(true);
    /// ```
    #[must_use]
    pub const fn verbose(mut self, allowed: bool) -> Self {
        self.verbose = allowed;
        self
    }
}

impl<B> Service<Request<B>> for HealthService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answer = answer(&self.health, self.verbose, &request);
        ready(Ok(answer
            .unwrap_or_else(|| {
                let mut answer = Response::new(Bytes::new());
                *answer.status_mut() = StatusCode::NOT_FOUND;
                answer
            })
            .map(Full::new)))
    }
}

/// Answers the probes in front of a service: see [`Health::layer`].
///
/// ```
/// use buttress::supervise::{Lifecycle, health::{Health, HealthLayer}};
/// let layer: HealthLayer = Health::new(Lifecycle::new()).layer();
/// ```
#[derive(Clone, Debug)]
pub struct HealthLayer {
    health: Health,
    verbose: bool,
}

impl HealthLayer {
    /// As [`HealthService::verbose`].
    ///
    /// ```
    /// # use buttress::supervise::{Lifecycle, health::Health};
    /// let layer = Health::new(Lifecycle::new()).layer().verbose(true);
    /// ```
    #[must_use]
    pub const fn verbose(mut self, allowed: bool) -> Self {
        self.verbose = allowed;
        self
    }
}

impl<S> Layer<S> for HealthLayer {
    type Service = HealthLayered<S>;

    fn layer(&self, inner: S) -> Self::Service {
        HealthLayered { inner, health: self.health.clone(), verbose: self.verbose }
    }
}

/// A service behind the probes: see [`Health::layer`].
///
/// ```
/// use buttress::supervise::{Lifecycle, health::{Health, HealthLayered}};
/// use tower::Layer;
/// let service: HealthLayered<u8> = Health::new(Lifecycle::new()).layer().layer(7);
/// ```
#[derive(Clone, Debug)]
pub struct HealthLayered<S> {
    inner: S,
    health: Health,
    verbose: bool,
}

impl<S, B, RB> Service<Request<B>> for HealthLayered<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    RB: From<Bytes>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = HealthFuture<S::Future, RB>;

    // A probe is only known by its request, so it waits for the inner service to be ready like any other.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match answer(&self.health, self.verbose, &request) {
            Some(answer) => HealthFuture { inner: None, answer: Some(answer.map(RB::from)) },
            None => HealthFuture { inner: Some(self.inner.call(request)), answer: None },
        }
    }
}

pin_project! {
    /// The answer of a [`HealthLayered`] service.
    ///
    /// ```
    /// # fn doc<F>(_: buttress::supervise::health::HealthFuture<F, ()>) {}
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct HealthFuture<F, RB> {
        #[pin]
        inner: Option<F>,
        answer: Option<Response<RB>>,
    }
}

impl<F, RB, E> Future for HealthFuture<F, RB>
where
    F: Future<Output = Result<Response<RB>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.inner.as_pin_mut() {
            Some(inner) => inner.poll(cx),
            None => Poll::Ready(Ok(this.answer.take().expect("polled after completion"))),
        }
    }
}

impl<F, RB> fmt::Debug for HealthFuture<F, RB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthFuture").finish_non_exhaustive()
    }
}

/// The answer to a probe; `None` if it is none.
fn answer<B>(health: &Health, verbose: bool, request: &Request<B>) -> Option<Response<Bytes>> {
    let probe = Probe::at(request.uri().path())?;
    let mut answer = match *request.method() {
        Method::GET | Method::HEAD => {
            let verbose = verbose && asks_for_more(request.uri().query().unwrap_or_default());
            told(probe, &health.report(), verbose)
        }
        _ => {
            let mut refused = Response::new(Bytes::new());
            *refused.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refused
        }
    };
    // The length stays that of the body: hyper sends no body to HEAD.
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(answer)
}

fn asks_for_more(query: &str) -> bool {
    query
        .split('&')
        .any(|part| matches!(part, "verbose" | "verbose=" | "verbose=1" | "verbose=true"))
}

fn told(probe: Probe, report: &HealthReport, verbose: bool) -> Response<Bytes> {
    let ok = report.answer(probe);
    let reason = match (&report.reason, probe) {
        _ if ok => "",
        (_, Probe::Startup) => "starting",
        (Some(reason), _) => reason,
        (None, _) => "unknown",
    };
    let (kind, body) = match verbose {
        // Numbers and texts only: it cannot fail.
        true => ("application/json", serde_json::to_vec(report).unwrap_or_default()),
        false if ok => ("text/plain; charset=utf-8", b"ok\n".to_vec()),
        false => ("text/plain; charset=utf-8", format!("{reason}\n").into_bytes()),
    };
    let mut answer = Response::new(Bytes::from(body));
    if !ok {
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let text = reason.replace(|c: char| c.is_control(), " ");
        if let Ok(reason) = HeaderValue::from_str(&text) {
            answer.headers_mut().insert("x-health-reason", reason);
        }
    }
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
