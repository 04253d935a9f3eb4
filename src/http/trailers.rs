//! Judging a response when its body ends.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::classify::Ticket;
use super::grpc;
use crate::caught::caught;
use crate::classify::{AnyError, Classify};
use crate::clock::{self, Tick};
use crate::outcome::{FailureClass, Outcome, RetryHint, Verdict};

/// Judges `response` when its body ends instead of when its head arrives, and tells `report` once.
///
/// For gRPC, whose status comes in the trailers, and for responses that break off half-way. It
/// changes the body's type, so it is not part of any layer: use it where you wrap the response
/// yourself, for example beside a breaker's permit.
///
/// `report` is called
/// - at once, if the head already is a failure, says `grpc-status`, or if there is no body;
/// - at the end of the body: a gRPC call by its trailers (none of them, or none with a status, is
///   `UNKNOWN`), anything else as a success;
/// - when the body fails: by the error as [`AnyError`] judges it, retried [by method](super::standard);
/// - when the body is dropped early: [`Outcome::Cancelled`] with the time since this function was
///   called.
///
/// It runs on the task that reads the body, and in the last case inside a destructor, where a panic
/// of it is caught and dropped.
///
/// ```
/// use buttress::http::{until_end_of_body, Ticket};
/// use buttress::Outcome;
/// use http::{HeaderMap, Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use std::sync::mpsc::channel;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let request = Request::post("/pkg.Service/Method")
///     .header("content-type", "application/grpc")
///     .body(())
///     .unwrap();
/// let mut trailers = HeaderMap::new();
/// trailers.insert("grpc-status", "14".parse().unwrap());
/// let body = Full::new(&b"half an answer"[..]).with_trailers(async { Some(Ok(trailers)) });
///
/// let (tell, told) = channel();
/// let response = until_end_of_body(Ticket::of(&request), Response::new(body), move |verdict| {
///     tell.send(verdict.outcome).unwrap();
/// });
/// assert!(told.try_recv().is_err());
/// response.into_body().collect().await.unwrap();
/// assert_eq!(told.try_recv(), Ok(Outcome::FAILURE)); // UNAVAILABLE
/// # });
/// ```
pub fn until_end_of_body<B, F>(
    ticket: Ticket,
    response: Response<B>,
    report: F,
) -> Response<JudgedBody<B, F>>
where
    B: Body,
    F: FnOnce(Verdict),
{
    let verdict = ticket.judge_head(&response);
    let decided = verdict.outcome != Outcome::Success
        || response.body().is_end_stream()
        || (ticket.is_grpc() && grpc::status(response.headers()).is_some());
    let mut watch = Some(Watch { ticket, since: clock::now(), report });
    if decided {
        // A gRPC answer without body, trailers or a status in its head says nothing at all.
        let silent = verdict.outcome == Outcome::Success
            && ticket.is_grpc()
            && grpc::status(response.headers()).is_none();
        tell(&mut watch, |ticket| if silent { no_status(ticket) } else { verdict });
    }
    response.map(|body| JudgedBody { body, watch })
}

fn no_status(ticket: Ticket) -> Verdict {
    Verdict::failure(FailureClass::Flaky).with_retry(ticket.hint(None))
}

fn tell<F: FnOnce(Verdict)>(watch: &mut Option<Watch<F>>, judge: impl FnOnce(Ticket) -> Verdict) {
    if let Some(watch) = watch.take() {
        (watch.report)(judge(watch.ticket));
    }
}

struct Watch<F> {
    ticket: Ticket,
    since: Tick,
    report: F,
}

pin_project! {
    /// A body that reports how it ended: see [`until_end_of_body`].
    ///
    /// ```
    /// use buttress::Verdict;
    /// use buttress::http::{JudgedBody, Ticket, until_end_of_body};
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::Full;
    /// // With a function instead of a closure the type can be written, as in the answer of a service.
    /// type Body = JudgedBody<Full<Bytes>, fn(Verdict)>;
    /// fn judged(request: &Request<()>, response: Response<Full<Bytes>>) -> Response<Body> {
    ///     until_end_of_body(Ticket::of(request), response, |verdict| println!("{:?}", verdict.outcome))
    /// }
    /// let response = judged(&Request::new(()), Response::new(Full::from("text")));
    /// assert_eq!(response.status(), 200);
    /// ```
    #[must_use = "dropping the body counts as giving up the call"]
    pub struct JudgedBody<B, F>
    where
        F: FnOnce(Verdict),
    {
        #[pin]
        body: B,
        watch: Option<Watch<F>>,
    }

    impl<B, F> PinnedDrop for JudgedBody<B, F>
    where
        F: FnOnce(Verdict),
    {
        fn drop(this: Pin<&mut Self>) {
            let watch = this.project().watch;
            if let Some(Watch { since, .. }) = *watch {
                let elapsed = clock::now().since(since);
                let cancelled = Verdict::new(Outcome::Cancelled { elapsed }, RetryHint::Never);
                caught(|| tell(watch, |_| cancelled));
            }
        }
    }
}

impl<B: fmt::Debug, F: FnOnce(Verdict)> fmt::Debug for JudgedBody<B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JudgedBody")
            .field("body", &self.body)
            .field("reported", &self.watch.is_none())
            .finish_non_exhaustive()
    }
}

impl<B, F> Body for JudgedBody<B, F>
where
    B: Body,
    B::Error: 'static,
    F: FnOnce(Verdict),
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    tell(this.watch, |ticket| match grpc::status(trailers) {
                        _ if !ticket.is_grpc() => Verdict::success(),
                        Some(code) => grpc::judge(code, trailers, ticket),
                        None => no_status(ticket),
                    });
                } else if this.body.is_end_stream() {
                    // Whoever reads the body may not ask again.
                    tell(this.watch, at_end);
                }
            }
            Some(Err(error)) => tell(this.watch, |ticket| {
                let verdict = Classify::<(), (), B::Error>::finish(&AnyError, (), Err(error));
                match verdict.retry {
                    RetryHint::Safe { after } => verdict.with_retry(ticket.hint(after)),
                    RetryHint::Never | RetryHint::Unknown { .. } => verdict,
                }
            }),
            None => tell(this.watch, at_end),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn at_end(ticket: Ticket) -> Verdict {
    if ticket.is_grpc() { no_status(ticket) } else { Verdict::success() }
}
