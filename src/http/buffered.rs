//! A body that has been read, as far as it has.

use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::HeaderMap;
use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use crate::error::BoxError;

/// The body of requests and responses that the HTTP [`IdempotencyLayer`](crate::idempotency::IdempotencyLayer)
/// and [`Coalesce`](crate::coalesce::Coalesce) read: what was read of it, and then the rest.
///
/// axum and tonic take bodies of any kind. Where yours must be of one type, convert it, as
/// `request.map(axum::body::Body::new)` does. The original must be `Unpin` (wrap it in `Box::pin` if it is
/// not). Errors of the original are passed on as [`BoxError`].
///
/// ```
/// use buttress::http::Buffered;
/// use bytes::Bytes;
/// use http_body_util::{BodyExt, Full};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let body: Buffered<Full<Bytes>> = Bytes::from_static(b"hello").into();
/// assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
/// # });
/// ```
pub struct Buffered<B> {
    kept: Bytes,
    end: Option<Box<End>>,
    rest: Option<B>,
}

/// What came after the data.
enum End {
    Trailers(HeaderMap),
    Failed(BoxError),
}

impl<B> Buffered<B> {
    pub(crate) fn passing(body: B) -> Self {
        Self { kept: Bytes::new(), end: None, rest: Some(body) }
    }

    /// What was read, and then an error.
    pub(crate) fn broken(data: Bytes, error: BoxError) -> Self {
        Self { kept: data, end: Some(Box::new(End::Failed(error))), rest: None }
    }

    pub(crate) fn whole(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        let end = trailers.map(|trailers| Box::new(End::Trailers(trailers)));
        Self { kept: data, end, rest: None }
    }
}

impl<B> Buffered<B> {
    /// What was read.
    pub(crate) fn data(&self) -> &[u8] {
        &self.kept
    }

    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        match self.end.as_deref() {
            Some(End::Trailers(trailers)) => Some(trailers),
            Some(End::Failed(_)) | None => None,
        }
    }

    /// What was read, and how it ended.
    pub(crate) fn into_read(self) -> (Bytes, Option<HeaderMap>, Option<BoxError>) {
        match self.end.map(|end| *end) {
            Some(End::Trailers(trailers)) => (self.kept, Some(trailers), None),
            Some(End::Failed(error)) => (self.kept, None, Some(error)),
            None => (self.kept, None, None),
        }
    }

    /// The error that ended it.
    pub(crate) fn take_error(&mut self) -> Option<BoxError> {
        match self.end.take().map(|end| *end) {
            Some(End::Failed(error)) => Some(error),
            Some(End::Trailers(_)) | None => None,
        }
    }
}

impl<B> Default for Buffered<B> {
    fn default() -> Self {
        Self::whole(Bytes::new(), None)
    }
}

impl<B> From<Bytes> for Buffered<B> {
    fn from(data: Bytes) -> Self {
        Self::whole(data, None)
    }
}

impl<B> Body for Buffered<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.kept.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(mem::take(&mut self.kept)))));
        }
        if let Some(rest) = &mut self.rest {
            let frame = ready!(Pin::new(rest).poll_frame(cx));
            return Poll::Ready(frame.map(|frame| frame.map(as_bytes).map_err(Into::into)));
        }
        Poll::Ready(self.end.take().map(|end| match *end {
            End::Trailers(trailers) => Ok(Frame::trailers(trailers)),
            End::Failed(error) => Err(error),
        }))
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.kept.is_empty()
            && self.end.is_none()
            && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        let kept = self.kept.len() as u64;
        let rest = match (&self.rest, self.end.as_deref()) {
            (Some(rest), _) => rest.size_hint(),
            // Cut short: a server that announced this length would never come to the error.
            (None, Some(End::Failed(_))) => SizeHint::default(),
            (None, _) => SizeHint::with_exact(0),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(kept));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(kept)) {
            hint.set_upper(upper.max(hint.lower()));
        }
        hint
    }
}

fn as_bytes<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}

impl<B> fmt::Debug for Buffered<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffered")
            .field("kept", &self.kept.len())
            .field("passing", &self.rest.is_some())
            .finish_non_exhaustive()
    }
}

/// How reading a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    Whole,
    /// It is longer than was wanted.
    TooLong,
    Failed,
}

impl<B> Buffered<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Reads a [passing](Self::passing) body to its end, or until it turns out to be longer than `most`. Data
    /// that fits is shown to `see`, piece by piece.
    pub(crate) async fn fill(&mut self, most: usize, mut see: impl FnMut(&[u8]) + Send) -> Fill {
        let mut data = Pieces::default();
        let fill = loop {
            // Known without being asked for the frame after the last.
            let Some(body) = self.rest.as_mut().filter(|body| !body.is_end_stream()) else {
                break Fill::Whole;
            };
            match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
                None => break Fill::Whole,
                Some(Err(error)) => {
                    self.end = Some(Box::new(End::Failed(error.into())));
                    break Fill::Failed;
                }
                Some(Ok(frame)) => match as_bytes(frame).into_data() {
                    Ok(piece) => {
                        let fits = piece.len() <= most.saturating_sub(data.len());
                        if fits {
                            see(&piece);
                        }
                        data.push(piece);
                        if !fits {
                            break Fill::TooLong;
                        }
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.end = Some(Box::new(End::Trailers(trailers)));
                            break Fill::Whole;
                        }
                    }
                },
            }
        };
        self.kept = data.finish();
        if fill != Fill::TooLong {
            self.rest = None;
        }
        fill
    }
}

/// One piece as it is, several as one.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    all: BytesMut,
}

impl Pieces {
    fn len(&self) -> usize {
        if self.all.is_empty() { self.first.len() } else { self.all.len() }
    }

    fn push(&mut self, piece: Bytes) {
        if self.len() == 0 {
            self.first = piece;
            return;
        }
        if self.all.is_empty() {
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&piece);
    }

    fn finish(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}
