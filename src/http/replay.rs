//! Request bodies that can be sent again.

use std::error::Error as StdError;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use ::http::{HeaderMap, Request};
use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use crate::rejection::BoxError;
use crate::sync::lock;

/// Chunks below this size are copied together, so that a body of single bytes does not cost a
/// reference-counted handle each.
const SMALL: usize = 256;

/// A request body that can be read again from the start, for as long as it was not too long.
///
/// It keeps what it hands out, up to a cap in bytes, and its trailers. Nothing is read ahead: the
/// first reader is served as the original body produces its frames. [`try_clone`](Self::try_clone)
/// gives another reader; the frames it repeats may be cut differently, the bytes are the same.
///
/// It gives up quietly: a body that says from the start that it is longer than the cap, or turns out
/// to be, is passed through unbuffered to the reader it has and can then not be cloned any more.
///
/// One reader at a time. While one is under way (started, neither at its end nor dropped)
/// `try_clone` is `None`: the connection may still be sending the earlier attempt. A reader that is
/// started all the same ends with a [`ReplayError`]; it never blocks and never panics. A reader that
/// is dropped half-way hands the original body on, and the next one repeats what is buffered and then
/// continues with the original.
///
/// Memory: at most the cap per request, in the chunks the original body produced, plus trailers. A
/// chunk can keep a larger read buffer alive that it is a slice of. A body that is empty from the
/// start allocates nothing.
///
/// The original must be `Unpin` (wrap it in `Box::pin` if it is not). `ReplayBody<B>` is `Sync` even
/// if `B` is only `Send`, as reqwest asks. Errors of the original are passed on as [`BoxError`] and
/// make the body unrepeatable.
///
/// Usually made by [`replay_up_to`](super::replay_up_to).
///
/// ```
/// use buttress::http::ReplayBody;
/// use bytes::Bytes;
/// use http_body_util::{BodyExt, Full};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let first = ReplayBody::new(Full::<Bytes>::from("hello"), 64 * 1024);
/// let second = first.try_clone().unwrap();
/// assert_eq!(first.collect().await.unwrap().to_bytes(), "hello");
/// assert_eq!(second.collect().await.unwrap().to_bytes(), "hello");
///
/// let too_long = ReplayBody::new(Full::<Bytes>::from("hello"), 4);
/// assert!(too_long.try_clone().is_none());
/// assert_eq!(too_long.collect().await.unwrap().to_bytes(), "hello");
/// # });
/// ```
pub struct ReplayBody<B> {
    state: State<B>,
}

enum State<B> {
    /// The original had no frames.
    Empty,
    /// Not read yet.
    Waiting(Arc<Shared<B>>),
    /// Owns the original and the buffer until its end, or until it is dropped.
    Reading(Reading<B>),
    /// Too long to be kept: the original, as it is.
    Passing(Exclusive<B>),
    /// Read to the end; everything is buffered and back in `Shared`.
    Ended(Arc<Shared<B>>),
    /// The original or the taking over of it failed.
    Failed,
}

struct Shared<B> {
    slot: Mutex<Slot<B>>,
    cap: usize,
    /// Of the whole body, as the original gave it.
    hint: SizeHint,
}

enum Slot<B> {
    Free(Source<B>),
    Taken,
    Lost,
}

/// What goes from one reader to the next.
struct Source<B> {
    /// `None` once it has ended.
    body: Option<Exclusive<B>>,
    chunks: Vec<Bytes>,
    /// Small chunks not yet in `chunks`; empty while the source is in the slot.
    tail: BytesMut,
    /// Bytes in `chunks` and `tail`.
    len: usize,
    trailers: Option<HeaderMap>,
}

struct Reading<B> {
    shared: Arc<Shared<B>>,
    source: Source<B>,
    /// How many of the chunks have been repeated.
    next: usize,
    /// Bytes still to be repeated.
    behind: usize,
    trailers_sent: bool,
}

impl<B: Body> ReplayBody<B> {
    /// Wraps `body`, to be kept up to `cap` bytes of data. A cap of 0 keeps only empty bodies.
    ///
    /// ```
    /// # use buttress::http::ReplayBody;
    /// # use bytes::Bytes;
    /// # use http_body_util::Full;
    /// let body = ReplayBody::new(Full::<Bytes>::from("hello"), 1024);
    /// assert!(body.is_replayable());
    /// ```
    #[must_use]
    pub fn new(body: B, cap: usize) -> Self {
        let hint = body.size_hint();
        let state = if body.is_end_stream() {
            State::Empty
        } else if usize::try_from(hint.lower()).map_or(true, |least| least > cap) {
            State::Passing(Exclusive::new(body))
        } else {
            let source = Source {
                body: Some(Exclusive::new(body)),
                chunks: Vec::new(),
                tail: BytesMut::new(),
                len: 0,
                trailers: None,
            };
            let slot = Mutex::new(Slot::Free(source));
            State::Waiting(Arc::new(Shared { slot, cap, hint }))
        };
        Self { state }
    }
}

impl<B> ReplayBody<B> {
    /// Another reader of the same body from its start, or `None` if there can be none: the body is
    /// longer than the cap, has failed, or another reader (this one included) is under way.
    ///
    /// ```
    /// # use buttress::http::ReplayBody;
    /// # use bytes::Bytes;
    /// # use http_body_util::Full;
    /// let body = ReplayBody::new(Full::<Bytes>::from("hello"), 1024);
    /// assert!(body.try_clone().is_some());
    /// ```
    #[must_use]
    pub fn try_clone(&self) -> Option<Self> {
        let state = match &self.state {
            State::Empty => State::Empty,
            State::Waiting(shared) | State::Ended(shared) if shared.is_free() => {
                State::Waiting(Arc::clone(shared))
            }
            State::Waiting(_)
            | State::Ended(_)
            | State::Reading(_)
            | State::Passing(_)
            | State::Failed => return None,
        };
        Some(Self { state })
    }

    /// Whether [`try_clone`](Self::try_clone) would give one now.
    ///
    /// ```
    /// # use buttress::http::ReplayBody;
    /// # use bytes::Bytes;
    /// # use http_body_util::Full;
    /// assert!(!ReplayBody::new(Full::<Bytes>::from("hello"), 4).is_replayable());
    /// ```
    #[must_use]
    pub fn is_replayable(&self) -> bool {
        match &self.state {
            State::Empty => true,
            State::Waiting(shared) | State::Ended(shared) => shared.is_free(),
            State::Reading(_) | State::Passing(_) | State::Failed => false,
        }
    }
}

/// A copy of a request whose body can be sent again: head and extensions cloned, body by
/// [`ReplayBody::try_clone`].
///
/// ```
/// use buttress::http::{try_replay_request, ReplayBody};
/// use bytes::Bytes;
/// use http_body_util::Full;
/// let request = http::Request::put("/").body(ReplayBody::new(Full::<Bytes>::from("hello"), 1024)).unwrap();
/// let again = try_replay_request(&request).unwrap();
/// assert_eq!(again.method(), "PUT");
/// ```
#[must_use]
pub fn try_replay_request<B>(req: &Request<ReplayBody<B>>) -> Option<Request<ReplayBody<B>>> {
    let mut copy = Request::new(req.body().try_clone()?);
    *copy.method_mut() = req.method().clone();
    *copy.uri_mut() = req.uri().clone();
    *copy.version_mut() = req.version();
    *copy.headers_mut() = req.headers().clone();
    *copy.extensions_mut() = req.extensions().clone();
    Some(copy)
}

impl<B> Body for ReplayBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let State::Waiting(shared) = &this.state {
            match Reading::start(shared) {
                Ok(reading) => this.state = State::Reading(reading),
                Err(error) => {
                    this.state = State::Failed;
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
        match &mut this.state {
            State::Reading(reading) => {
                let step = ready!(reading.poll_step(cx));
                this.apply(step)
            }
            State::Passing(body) => {
                let frame = ready!(Pin::new(body.get_mut()).poll_frame(cx));
                Poll::Ready(frame.map(|frame| match frame {
                    Ok(frame) => {
                        Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
                    }
                    Err(error) => Err(error.into()),
                }))
            }
            State::Empty | State::Waiting(_) | State::Ended(_) | State::Failed => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Empty | State::Ended(_) => true,
            State::Waiting(_) | State::Failed => false,
            State::Reading(reading) => reading.is_at_end(),
            State::Passing(body) => body.with(B::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Empty | State::Ended(_) => SizeHint::with_exact(0),
            State::Waiting(shared) => SizeHint::clone(&shared.hint),
            State::Failed => SizeHint::new(),
            State::Reading(reading) => reading.size_hint(),
            State::Passing(body) => body.with(B::size_hint),
        }
    }
}

impl<B> ReplayBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    fn apply(&mut self, step: Step<B>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(match step {
            Step::Frame(frame) => {
                // Whoever reads us may not ask again once `is_end_stream` is true.
                if let State::Reading(reading) = &self.state
                    && reading.is_at_end()
                {
                    self.hand_back(true);
                }
                Some(Ok(frame))
            }
            Step::TooLong(data, body) => {
                self.lose(State::Passing(body));
                Some(Ok(Frame::data(data)))
            }
            Step::Failed(error) => {
                self.lose(State::Failed);
                Some(Err(error))
            }
            Step::Ended => {
                self.hand_back(true);
                None
            }
        })
    }

    fn lose(&mut self, next: State<B>) {
        if let State::Reading(reading) = mem::replace(&mut self.state, next) {
            *lock(&reading.shared.slot) = Slot::Lost;
        }
    }
}

impl<B> ReplayBody<B> {
    fn hand_back(&mut self, ended: bool) {
        if !matches!(self.state, State::Reading(_)) {
            return;
        }
        if let State::Reading(mut reading) = mem::replace(&mut self.state, State::Failed) {
            let original = if ended { reading.source.body.take() } else { None };
            reading.source.settle();
            // The slot holds `Taken`, so nothing of the user's is dropped under the lock.
            *lock(&reading.shared.slot) = Slot::Free(reading.source);
            self.state = State::Ended(reading.shared);
            drop(original);
        }
    }
}

impl<B> Drop for ReplayBody<B> {
    fn drop(&mut self) {
        self.hand_back(false);
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Empty => "empty",
            State::Waiting(_) => "waiting",
            State::Reading(_) => "reading",
            State::Passing(_) => "passing",
            State::Ended(_) => "ended",
            State::Failed => "failed",
        };
        f.debug_struct("ReplayBody").field("state", &state).finish_non_exhaustive()
    }
}

impl<B> Shared<B> {
    fn is_free(&self) -> bool {
        matches!(*lock(&self.slot), Slot::Free(_))
    }
}

impl<B> Source<B> {
    fn keep(&mut self, data: &Bytes) {
        self.len += data.len();
        if data.len() < SMALL {
            self.tail.extend_from_slice(data);
        } else {
            self.settle();
            self.chunks.push(data.clone());
        }
    }

    fn settle(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push(mem::take(&mut self.tail).freeze());
        }
    }
}

enum Step<B> {
    Frame(Frame<Bytes>),
    TooLong(Bytes, Exclusive<B>),
    Failed(BoxError),
    Ended,
}

impl<B> Reading<B> {
    fn start(shared: &Arc<Shared<B>>) -> Result<Self, ReplayError> {
        let mut slot = lock(&shared.slot);
        match mem::replace(&mut *slot, Slot::Taken) {
            Slot::Free(source) => {
                drop(slot);
                let behind = source.len;
                let shared = Arc::clone(shared);
                Ok(Self { shared, source, next: 0, behind, trailers_sent: false })
            }
            Slot::Taken => Err(ReplayError { kind: ReplayErrorKind::StillRead }),
            Slot::Lost => {
                *slot = Slot::Lost;
                Err(ReplayError { kind: ReplayErrorKind::Lost })
            }
        }
    }
}

impl<B> Reading<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step<B>> {
        if let Some(chunk) = self.source.chunks.get(self.next) {
            self.next += 1;
            self.behind -= chunk.len();
            return Poll::Ready(Step::Frame(Frame::data(chunk.clone())));
        }
        loop {
            let Some(body) = &mut self.source.body else {
                return Poll::Ready(match &self.source.trailers {
                    Some(trailers) if !self.trailers_sent => {
                        self.trailers_sent = true;
                        Step::Frame(Frame::trailers(trailers.clone()))
                    }
                    _ => Step::Ended,
                });
            };
            let frame = match ready!(Pin::new(body.get_mut()).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Step::Failed(error.into())),
                None => {
                    self.source.body = None;
                    continue;
                }
            };
            match frame.into_data().map_err(Frame::into_trailers) {
                Ok(mut data) => {
                    let data = data.copy_to_bytes(data.remaining());
                    if data.len() > self.shared.cap - self.source.len
                        && let Some(body) = self.source.body.take()
                    {
                        return Poll::Ready(Step::TooLong(data, body));
                    }
                    self.source.keep(&data);
                    // This reader has seen it.
                    self.next = self.source.chunks.len();
                    return Poll::Ready(Step::Frame(Frame::data(data)));
                }
                Err(Ok(trailers)) => {
                    self.source.body = None;
                    self.source.trailers = Some(trailers.clone());
                    self.trailers_sent = true;
                    return Poll::Ready(Step::Frame(Frame::trailers(trailers)));
                }
                // A kind of frame that does not exist yet; nobody downstream knows it either.
                Err(Err(_)) => {}
            }
        }
    }

    fn is_at_end(&self) -> bool {
        self.next >= self.source.chunks.len()
            && self.source.body.as_ref().is_none_or(|body| body.with(B::is_end_stream))
            && (self.trailers_sent || self.source.trailers.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        let behind = self.behind as u64;
        let rest = match &self.source.body {
            Some(body) => body.with(B::size_hint),
            None => SizeHint::with_exact(0),
        };
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(behind)) {
            hint.set_upper(upper);
        }
        hint.set_lower(rest.lower().saturating_add(behind));
        hint
    }
}

/// Makes a `Send` body `Sync`: it is polled through `get_mut`, which takes no lock; the lock is there
/// for `size_hint` and `is_end_stream`, and nobody competes for it.
struct Exclusive<B>(Mutex<B>);

impl<B> Exclusive<B> {
    fn new(body: B) -> Self {
        Self(Mutex::new(body))
    }

    fn get_mut(&mut self) -> &mut B {
        self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn with<R>(&self, f: impl FnOnce(&B) -> R) -> R {
        f(&lock(&self.0))
    }
}

/// A [`ReplayBody`] was read when it could not be. The request goes no further and is not retried.
///
/// ```
/// use buttress::http::{ReplayBody, ReplayError};
/// use bytes::Bytes;
/// use http_body_util::{BodyExt, Full};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let body = Full::<Bytes>::from("hello").with_trailers(async { None });
/// let mut first = ReplayBody::new(Box::pin(body), 1024);
/// let second = first.try_clone().unwrap();
/// first.frame().await; // under way, not dropped
/// let error = second.collect().await.unwrap_err();
/// assert!(error.is::<ReplayError>());
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct ReplayError {
    kind: ReplayErrorKind,
}

#[derive(Clone, Copy, Debug)]
enum ReplayErrorKind {
    StillRead,
    Lost,
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ReplayErrorKind::StillRead => "request body is still being read by an earlier attempt",
            ReplayErrorKind::Lost => "request body was not kept and cannot be sent again",
        })
    }
}

impl StdError for ReplayError {}
