use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::layer::Held;

/// Counts something as in flight until it is dropped.
pub(super) trait InFlight {
    /// It came to its end, and was not given up.
    fn complete(&mut self);
}

pin_project! {
    /// The body of an answer, whose request is in flight until this ends or is dropped.
    ///
    /// ```
    /// use buttress::supervise::Lifecycle;
    /// use buttress::supervise::serve::DrainLayer;
    /// use http::{Request, Response};
    /// use http_body_util::{BodyExt, Full};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// let layer = DrainLayer::new("http", &Lifecycle::new());
    /// let service = layer.layer(service_fn(async |_: Request<()>| {
    ///     Ok::<_, std::io::Error>(Response::new(Full::<bytes::Bytes>::from("hello")))
    /// }));
    /// let response = service.oneshot(Request::new(())).await?;
    /// assert_eq!(layer.in_flight(), 1);
    /// response.into_body().collect().await?;
    /// assert_eq!(layer.in_flight(), 0);
    /// # Ok(()) }
    /// ```
    pub struct DrainBody<B> {
        #[pin]
        inner: Counted<B, Held>,
    }
}

impl<B: Body> DrainBody<B> {
    #[inline]
    pub(super) fn new(inner: B, length: Option<u64>, held: Held) -> Self {
        Self { inner: Counted::new(inner, length, held) }
    }

    /// One that nobody counts.
    pub(super) fn uncounted(inner: B) -> Self {
        Self { inner: Counted { inner, left: None, guard: None } }
    }
}

impl<B: Body> Body for DrainBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let (frame, guard) = ready!(self.project().inner.poll_counted(cx));
        if let Some(mut guard) = guard {
            guard.complete();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> fmt::Debug for DrainBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = self.inner.guard.is_some();
        f.debug_struct("DrainBody").field("counted", &counted).finish_non_exhaustive()
    }
}

pin_project! {
    /// A body that knows when it is over, and has then no longer what is in flight.
    pub(super) struct Counted<B, G> {
        #[pin]
        inner: B,
        // What is to come yet, if the answer's head says so and the body does not.
        left: Option<u64>,
        guard: Option<G>,
    }
}

/// A frame, and the guard with the last one.
pub(super) type Given<B, G> =
    (Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>, Option<G>);

impl<B: Body, G: InFlight> Counted<B, G> {
    #[inline]
    pub(super) fn new(inner: B, length: Option<u64>, mut guard: G) -> Self {
        if length == Some(0) || inner.is_end_stream() {
            guard.complete();
        }
        Self { inner, left: length, guard: Some(guard) }
    }

    /// Until it is over.
    pub(super) const fn guard(&self) -> Option<&G> {
        self.guard.as_ref()
    }

    #[inline]
    pub(super) fn poll_counted(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Given<B, G>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        // Hyper does not ask again after a frame at whose end `is_end_stream` says that it was the last, after
        // trailers, and after as much as `Content-Length` says.
        let over = match &frame {
            None => true,
            Some(Ok(frame)) => {
                if let (Some(left), Some(data)) = (&mut *this.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.remaining() as u64);
                }
                frame.is_trailers() || *this.left == Some(0) || this.inner.is_end_stream()
            }
            Some(Err(_)) => {
                *this.guard = None;
                false
            }
        };
        let guard = if over { this.guard.take() } else { None };
        Poll::Ready((frame, guard))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
