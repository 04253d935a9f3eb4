use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// Counts something as in flight until it is dropped.
pub trait InFlight {
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
    pub struct DrainBody<B, G = super::layer::Held> {
        #[pin]
        inner: B,
        guard: Option<G>,
    }
}

impl<B: Body, G: InFlight> DrainBody<B, G> {
    #[inline]
    pub(super) fn new(inner: B, mut guard: G) -> Self {
        if inner.is_end_stream() {
            guard.complete();
        }
        Self { inner, guard: Some(guard) }
    }
}

impl<B, G> DrainBody<B, G> {
    /// One that nobody counts.
    pub(super) fn uncounted(inner: B) -> Self {
        Self { inner, guard: None }
    }
}

impl<B: Body, G: InFlight> Body for DrainBody<B, G> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        // Hyper does not ask again after a frame at whose end `is_end_stream` says that it was the last.
        let over = match &frame {
            None => true,
            Some(Ok(_)) => this.inner.is_end_stream(),
            Some(Err(_)) => {
                *this.guard = None;
                false
            }
        };
        if over && let Some(mut guard) = this.guard.take() {
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

impl<B, G> fmt::Debug for DrainBody<B, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainBody").field("counted", &self.guard.is_some()).finish_non_exhaustive()
    }
}
