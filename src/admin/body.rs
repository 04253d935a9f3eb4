use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::builder::Shared;
use super::hub::Ticket;
use crate::clock::now;

/// The body of an answer: some bytes, or events without end.
///
/// ```
/// use buttress::admin::{Admin, AdminBody};
/// use buttress::control::Registry;
/// use http_body_util::BodyExt;
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let admin = Admin::builder(&Registry::new()).build().unwrap();
/// let request = http::Request::get("/config").body(String::new()).unwrap();
/// let body: AdminBody = admin.oneshot(request).await.unwrap().into_body();
/// assert_eq!(body.collect().await.unwrap().to_bytes(), "null");
/// # }
/// ```
pub struct AdminBody(Inner);

enum Inner {
    Bytes(Bytes),
    Viewer(Viewer),
}

struct Viewer {
    shared: Arc<Shared>,
    ticket: Ticket,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.shared.hub.leave(&self.ticket);
    }
}

impl AdminBody {
    pub(super) const fn bytes(bytes: Bytes) -> Self {
        Self(Inner::Bytes(bytes))
    }

    pub(super) const fn viewer(shared: Arc<Shared>, ticket: Ticket) -> Self {
        Self(Inner::Viewer(Viewer { shared, ticket }))
    }

    /// For `HEAD`: the length there would be; `None` without end.
    pub(super) fn empty(&mut self) -> Option<usize> {
        match std::mem::replace(&mut self.0, Inner::Bytes(Bytes::new())) {
            Inner::Bytes(bytes) => Some(bytes.len()),
            Inner::Viewer(_) => None,
        }
    }
}

impl Body for AdminBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut self.get_mut().0 {
            Inner::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then_some(bytes))
            }
            Inner::Viewer(viewer) => viewer.shared.hub.poll_next(&mut viewer.ticket, cx, now()),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.0, Inner::Bytes(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Viewer(_) => SizeHint::default(),
        }
    }
}

impl fmt::Debug for AdminBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Bytes(bytes) => f.debug_tuple("AdminBody").field(&bytes.len()).finish(),
            Inner::Viewer(_) => f.write_str("AdminBody(events)"),
        }
    }
}
