use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::body::{Counted, InFlight};
use super::shared::Request;

pin_project! {
    /// The body of an answer, whose request is in flight until its last piece has been written to the socket:
    /// hyper takes pieces that it has no room for yet (of an HTTP/2 client's window, above all).
    pub(super) struct SentBody<B> {
        #[pin]
        inner: Counted<B, Request>,
    }
}

/// With each piece that is not known to be the last: copies of it count those of an HTTP/2 connection that have
/// not been written. Over HTTP/1, the writes see them.
pub(super) type Mark = Arc<()>;

impl<B: Body> SentBody<B> {
    #[inline]
    pub(super) fn new(inner: B, length: Option<u64>, request: Request) -> Self {
        Self { inner: Counted::new(inner, length, request) }
    }
}

impl<B: Body> Body for SentBody<B> {
    type Data = Piece<B::Data>;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut inner = self.project().inner;
        let (frame, mut request) = ready!(inner.as_mut().poll_counted(cx));
        let frame = frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|data| match request.take() {
                    Some(request) => Piece::last(data, request),
                    None => {
                        let mark = inner.guard().and_then(|request| request.conn.mark());
                        Piece { data, last: None, _mark: mark }
                    }
                })
            })
        });
        // After its end, or with trailers.
        if let Some(mut request) = request {
            request.complete();
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

/// A piece of a body, until it has been written or given up.
pub(super) struct Piece<D: Buf> {
    data: D,
    // With the last one.
    last: Option<Request>,
    _mark: Option<Mark>,
}

impl<D: Buf> Piece<D> {
    fn last(data: D, mut request: Request) -> Self {
        // What has no bytes may be dropped anywhere. Of the rest, the connection's task takes the last byte.
        request.last_piece(data.has_remaining());
        Self { data, last: Some(request), _mark: None }
    }
}

impl<D: Buf> Drop for Piece<D> {
    #[inline]
    fn drop(&mut self) {
        if let Some(request) = &mut self.last {
            if self.data.has_remaining() {
                request.given_up();
            } else {
                request.complete();
            }
        }
    }
}

impl<D: Buf> Buf for Piece<D> {
    #[inline]
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    #[inline]
    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(slices)
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }

    #[inline]
    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        self.data.copy_to_bytes(count)
    }
}
