use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::header::{ACCEPT, ALLOW, CONTENT_LENGTH, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use super::answer::{self, error};
use super::body::AdminBody;
use super::builder::{Admin, Shared};
use super::gate::{is_for_us, is_json, is_same_origin};
use super::metrics::{self, Format};
use crate::caught::caught;
use crate::clock::now;
use crate::control::execute;

/// What there is.
#[derive(Clone, Copy, PartialEq)]
enum Route {
    Page,
    Status,
    Events,
    Metrics,
    Config,
    Commands,
}

impl Route {
    /// Compared as it is: nothing is decoded, nothing is normalised.
    fn at(path: &str, prefix: &str) -> Option<Self> {
        let path = path.strip_prefix(prefix)?;
        Some(match path {
            "/" | "" => Self::Page,
            "/status.json" => Self::Status,
            "/events" => Self::Events,
            "/metrics" => Self::Metrics,
            "/config" => Self::Config,
            "/commands" => Self::Commands,
            _ => return None,
        })
    }
}

impl<B> Service<Request<B>> for Admin
where
    B: Body,
{
    type Response = Response<AdminBody>;
    type Error = Infallible;
    type Future = AdminFuture<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let head = *request.method() == Method::HEAD;
        match self.look(&request) {
            Ok(mut answer) => {
                if head {
                    empty(&mut answer);
                }
                AdminFuture { answer: Some(answer), reading: None }
            }
            Err(Accepted) => {
                let reading = Reading {
                    body: request.into_body(),
                    timeout: sleep(self.shared.body_timeout),
                    document: Vec::new(),
                    shared: Arc::clone(&self.shared),
                };
                AdminFuture { answer: None, reading: Some(reading) }
            }
        }
    }
}

/// A command of somebody who may send one: its body is still to be read.
struct Accepted;

impl Admin {
    fn look<B: Body>(&self, request: &Request<B>) -> Result<Response<AdminBody>, Accepted> {
        let shared = &self.shared;
        let headers = request.headers();
        if !is_for_us(headers, request.uri(), self.loopback, &shared.hosts) {
            let text = "this is not for the host in the request: name it in the builder";
            return Ok(error(StatusCode::MISDIRECTED_REQUEST, text));
        }
        let Some(route) = Route::at(request.uri().path(), &shared.prefix) else {
            return Ok(error(StatusCode::NOT_FOUND, "there is nothing here"));
        };
        let allow = if route == Route::Commands { "POST" } else { "GET, HEAD" };
        if !allow.split(", ").any(|method| request.method() == method) {
            let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "another method");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            return Ok(answer);
        }
        let failed =
            || error(StatusCode::INTERNAL_SERVER_ERROR, "a closure of the program has panicked");
        let status = || shared.status();
        Ok(match route {
            Route::Page => answer::page(),
            Route::Status => status().map_or_else(failed, |status| answer::value(&status)),
            Route::Config => {
                shared.configuration().map_or_else(failed, |config| answer::value(&config))
            }
            Route::Metrics => {
                let format = Format::asked_for(headers.get(ACCEPT));
                let render =
                    |status| answer::bytes(format.content_type(), metrics::render(&status, format));
                shared.raw_status().map_or_else(failed, render)
            }
            Route::Events if request.method() == Method::HEAD => {
                answer::bytes(answer::EVENTS, bytes::Bytes::new())
            }
            Route::Events => self.events(request),
            Route::Commands => return self.command(request),
        })
    }

    fn events<B>(&self, request: &Request<B>) -> Response<AdminBody> {
        let now = now();
        let last = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
        // First: the ids are then of this process.
        self.shared.refresh(now);
        match self.shared.hub.enter(last, now) {
            Some(ticket) => {
                let body = AdminBody::viewer(Arc::clone(&self.shared), ticket);
                let mut answer = answer::answer(StatusCode::OK, answer::EVENTS, body);
                // For nginx, which would keep them back.
                answer.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
                answer
            }
            None => {
                let mut answer = error(StatusCode::SERVICE_UNAVAILABLE, "too many are connected");
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
                answer
            }
        }
    }

    fn command<B: Body>(&self, request: &Request<B>) -> Result<Response<AdminBody>, Accepted> {
        let headers = request.headers();
        let Some(token) = &self.shared.token else {
            return Ok(error(StatusCode::FORBIDDEN, "read-only: the program has set no token"));
        };
        if !is_same_origin(headers, request.uri(), &self.shared.origins) {
            return Ok(error(StatusCode::FORBIDDEN, "not from a page of this origin"));
        }
        if !token.opens(headers) {
            let mut answer = error(StatusCode::UNAUTHORIZED, "commands need the token");
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return Ok(answer);
        }
        if !is_json(headers) {
            return Ok(error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "commands are application/json"));
        }
        if request.body().size_hint().lower() > self.shared.max_body as u64 {
            return Ok(too_large());
        }
        Err(Accepted)
    }
}

fn too_large() -> Response<AdminBody> {
    error(StatusCode::PAYLOAD_TOO_LARGE, "the document is too long")
}

fn too_late() -> Response<AdminBody> {
    error(StatusCode::REQUEST_TIMEOUT, "the body took too long")
}

/// Not left to the server: over HTTP/2 hyper sends what there is.
fn empty(answer: &mut Response<AdminBody>) {
    let length = answer.body_mut().empty();
    // Of a stream nobody knows it.
    if let Some(length) = length.filter(|length| *length > 0) {
        answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
}

pin_project! {
    /// The answer of an [`Admin`].
    ///
    /// ```
    /// use buttress::admin::{Admin, AdminFuture};
    /// use buttress::control::Registry;
    /// use tower::Service;
    /// let mut admin = Admin::builder(&Registry::new()).build()?;
    /// let answer: AdminFuture<String> = admin.call(http::Request::new(String::new()));
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct AdminFuture<B> {
        answer: Option<Response<AdminBody>>,
        #[pin]
        reading: Option<Reading<B>>,
    }
}

pin_project! {
    struct Reading<B> {
        #[pin]
        body: B,
        #[pin]
        timeout: Sleep,
        document: Vec<u8>,
        shared: Arc<Shared>,
    }
}

impl<B: Body> Future for AdminFuture<B> {
    type Output = Result<Response<AdminBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let answer = match this.reading.as_mut().as_pin_mut() {
            Some(reading) => ready!(reading.poll(cx)),
            None => this.answer.take().expect("polled after completion"),
        };
        // The body goes now, not with the future.
        this.reading.set(None);
        Poll::Ready(Ok(answer))
    }
}

impl<B: Body> Reading<B> {
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<AdminBody>> {
        let mut this = self.project();
        loop {
            match this.body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(mut data) = frame.into_data() else { continue };
                    if data.remaining() > this.shared.max_body - this.document.len() {
                        return Poll::Ready(too_large());
                    }
                    while data.has_remaining() {
                        let chunk = data.chunk();
                        let length = chunk.len();
                        this.document.extend_from_slice(chunk);
                        data.advance(length);
                    }
                }
                Poll::Ready(Some(Err(_))) => {
                    return Poll::Ready(error(StatusCode::BAD_REQUEST, "the body ended early"));
                }
                Poll::Ready(None) => return Poll::Ready(run(this.shared, this.document)),
                Poll::Pending => {
                    ready!(this.timeout.as_mut().poll(cx));
                    return Poll::Ready(too_late());
                }
            }
            // Also while something comes all the time, were it nothing.
            if this.timeout.as_mut().poll(cx).is_ready() {
                return Poll::Ready(too_late());
            }
        }
    }
}

fn run(shared: &Shared, document: &[u8]) -> Response<AdminBody> {
    let document = match serde_json::from_slice(document) {
        Ok(document) => document,
        Err(wrong) => return error(StatusCode::BAD_REQUEST, &format!("not JSON: {wrong}")),
    };
    let executed = || execute(&shared.registry, &document);
    match caught(executed) {
        Some(Ok(executed)) => {
            // Texts and JSON only: it cannot fail.
            let body = serde_json::to_vec(&executed).unwrap_or_default();
            answer::bytes(answer::JSON, body)
        }
        Some(Err(wrong)) => error(StatusCode::UNPROCESSABLE_ENTITY, &wrong.to_string()),
        None => error(StatusCode::INTERNAL_SERVER_ERROR, "a closure of the program has panicked"),
    }
}

impl<B> fmt::Debug for AdminFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminFuture").finish_non_exhaustive()
    }
}
