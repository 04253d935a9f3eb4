//! Request bodies that can be sent again.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use crate::error::BoxError;

mod error;
mod layer;
mod source;

pub use error::ReplayError;
pub use layer::{ReplayBodyLayer, ReplayBodyService, replay_up_to};
use source::{Exclusive, Reading, Shared, Step};

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
            State::Waiting(Arc::new(Shared::new(body, cap, hint)))
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

    /// Whether it can be read neither now nor later.
    pub(crate) fn is_lost(&self) -> bool {
        match &self.state {
            State::Waiting(shared) => shared.is_lost(),
            State::Failed => true,
            State::Empty | State::Reading(_) | State::Passing(_) | State::Ended(_) => false,
        }
    }
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
            State::Waiting(shared) => shared.size_hint(),
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
            reading.lose();
        }
    }
}

impl<B> ReplayBody<B> {
    fn hand_back(&mut self, ended: bool) {
        if matches!(self.state, State::Reading(_))
            && let State::Reading(reading) = mem::replace(&mut self.state, State::Failed)
        {
            self.state = State::Ended(reading.hand_back(ended));
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
