//! The original body and what is kept of it, handed from one reader to the next.

use std::mem;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};

use ::http::HeaderMap;
use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use super::error::{ReplayError, ReplayErrorKind};
use crate::error::BoxError;
use crate::sync::{Mutex, lock};

/// Chunks below this size are copied together, so that a body of single bytes does not cost a
/// reference-counted handle each.
const SMALL: usize = 256;

pub(super) struct Shared<B> {
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

pub(super) struct Reading<B> {
    shared: Arc<Shared<B>>,
    source: Source<B>,
    /// How many of the chunks have been repeated.
    next: usize,
    /// Bytes still to be repeated.
    behind: usize,
    trailers_sent: bool,
}

impl<B> Shared<B> {
    pub(super) fn new(body: B, cap: usize, hint: SizeHint) -> Self {
        let source = Source {
            body: Some(Exclusive::new(body)),
            chunks: Vec::new(),
            tail: BytesMut::new(),
            len: 0,
            trailers: None,
        };
        Self { slot: Mutex::new(Slot::Free(source)), cap, hint }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        SizeHint::clone(&self.hint)
    }

    pub(super) fn is_free(&self) -> bool {
        matches!(*lock(&self.slot), Slot::Free(_))
    }

    pub(super) fn is_lost(&self) -> bool {
        matches!(*lock(&self.slot), Slot::Lost)
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

pub(super) enum Step<B> {
    Frame(Frame<Bytes>),
    TooLong(Bytes, Exclusive<B>),
    Failed(BoxError),
    Ended,
}

impl<B> Reading<B> {
    pub(super) fn start(shared: &Arc<Shared<B>>) -> Result<Self, ReplayError> {
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

    /// Lets the next reader have what there is; `ended` if there is no more to come.
    pub(super) fn hand_back(mut self, ended: bool) -> Arc<Shared<B>> {
        let original = if ended { self.source.body.take() } else { None };
        self.source.settle();
        // The slot holds `Taken`, so nothing of the user's is dropped under the lock.
        *lock(&self.shared.slot) = Slot::Free(self.source);
        drop(original);
        self.shared
    }

    /// No reader comes after this one.
    pub(super) fn lose(self) {
        *lock(&self.shared.slot) = Slot::Lost;
    }
}

impl<B> Reading<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step<B>> {
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

    pub(super) fn is_at_end(&self) -> bool {
        self.next >= self.source.chunks.len()
            && self.source.body.as_ref().is_none_or(|body| body.with(B::is_end_stream))
            && (self.trailers_sent || self.source.trailers.is_none())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
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
pub(super) struct Exclusive<B>(Mutex<B>);

impl<B> Exclusive<B> {
    pub(super) fn new(body: B) -> Self {
        Self(Mutex::new(body))
    }

    pub(super) fn get_mut(&mut self) -> &mut B {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&B) -> R) -> R {
        f(&lock(&self.0))
    }
}
