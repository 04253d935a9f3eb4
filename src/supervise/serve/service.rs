use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::{CONNECTION, CONTENT_LENGTH, Entry, HeaderMap, HeaderValue};
use http::{Extensions, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::supervise::{Lifecycle, Phase};

use super::sent::SentBody;
use super::shared::{self, Conn};
use super::signal;

/// The user's service as a connection calls it.
pub(super) struct App<S> {
    pub(super) service: S,
    pub(super) conn: Arc<Conn>,
    pub(super) peer: Option<Extensions>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for App<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
    B: Body,
{
    type Response = Response<SentBody<B>>;
    type Error = S::Error;
    type Future = Answer<S>;

    #[inline]
    fn call(&self, mut request: Request<Incoming>) -> Answer<S> {
        let guard = self.conn.begin();
        if let Some(peer) = &self.peer {
            // Into an empty map, normally, which then costs what a clone costs.
            request.extensions_mut().extend(peer.clone());
        }
        let shared = &self.conn.shared;
        signal::insert(&mut request, &shared.life, shared.config.signal_everywhere);
        let kind = Kind::of(&request);
        let state = State::Waiting { service: self.service.clone(), request: Some(request) };
        Answer { state, guard: Some(guard), kind }
    }
}

/// What has to be known of a request when its answer comes.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    version: Version,
    connect: bool,
    head: bool,
}

impl Kind {
    #[inline]
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let (connect, head) = match *request.method() {
            Method::CONNECT => (true, false),
            Method::HEAD => (false, true),
            _ => (false, false),
        };
        Self { version: request.version(), connect, head }
    }

    /// Whether an answer with this status turns the connection, or the stream, into something else.
    #[inline]
    fn upgrades(self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || self.connect && status.is_success()
    }

    /// How much of the body there will be, if it does not say so itself: hyper asks for no more.
    #[inline]
    pub(super) fn length<B: Body>(self, response: &Response<B>) -> Option<u64> {
        let status = response.status();
        if self.head || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
            return Some(0);
        }
        if response.body().size_hint().exact().is_some() {
            return None;
        }
        response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// From the lame duck on, announces that the connection ends with this answer.
    #[inline]
    pub(super) fn announce<B>(self, response: &mut Response<B>, life: &Lifecycle) {
        if life.phase() >= Phase::LameDuck {
            self.announce_end(response);
        }
    }

    #[cold]
    fn announce_end<B>(self, response: &mut Response<B>) {
        match self.version {
            // A header that HTTP/2 and later forbid: there it is GOAWAY's business.
            Version::HTTP_2 | Version::HTTP_3 => {}
            _ if self.upgrades(response.status()) => {}
            // Hyper adds `keep-alive` to what it answers an older client; not to what is old itself.
            Version::HTTP_10 | Version::HTTP_09 => {
                *response.version_mut() = Version::HTTP_10;
                if response.headers().contains_key(CONNECTION) {
                    close(response.headers_mut());
                }
            }
            _ => close(response.headers_mut()),
        }
    }
}

fn close(headers: &mut HeaderMap) {
    let is_close = |value: &HeaderValue| {
        let mut tokens = value.as_bytes().split(|byte| *byte == b',');
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
    };
    match headers.entry(CONNECTION) {
        Entry::Vacant(entry) => {
            entry.insert(HeaderValue::from_static("close"));
        }
        Entry::Occupied(entry) if entry.iter().any(is_close) => {}
        // Whatever it says about keeping the connection is no longer true.
        Entry::Occupied(mut entry) => {
            entry.insert(HeaderValue::from_static("close"));
        }
    }
}

pin_project! {
    /// Waits until the service is ready, calls it, and has its answer counted to the end of its body.
    pub(super) struct Answer<S: Service<Request<Incoming>>> {
        #[pin]
        state: State<S, S::Future>,
        guard: Option<shared::Request>,
        kind: Kind,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F> {
        Waiting { service: S, request: Option<Request<Incoming>> },
        Called { #[pin] future: F },
    }
}

impl<S, B> Future for Answer<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    B: Body,
{
    type Output = Result<Response<SentBody<B>>, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Waiting { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    let request = request.take().expect("polled after completion");
                    let future = service.call(request);
                    this.state.set(State::Called { future });
                }
                StateProj::Called { future } => {
                    let mut response = ready!(future.poll(cx))?;
                    let guard = this.guard.take().expect("polled after completion");
                    let conn = &guard.conn;
                    this.kind.announce(&mut response, &conn.shared.life);
                    if this.kind.upgrades(response.status()) {
                        if this.kind.version < Version::HTTP_2 {
                            conn.upgrade()
                        } else {
                            conn.tunnel()
                        }
                    }
                    let length = this.kind.length(&response);
                    return Poll::Ready(
                        Ok(response.map(|body| SentBody::new(body, length, guard))),
                    );
                }
            }
        }
    }
}
