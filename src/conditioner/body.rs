use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::clock::{self, Tick};
use crate::error::BoxError;
use crate::injected::{Injected, InjectedError};

use super::draw;
use super::injection::{BodyActs, Held, Injection};
use super::shared::{Wait, wait};

pin_project! {
    /// The response body of a [`ConditionerLayer`](super::ConditionerLayer) for HTTP: as it was, or slow, cut
    /// or changed.
    ///
    /// ```
    /// use buttress::conditioner::FaultyBody;
    /// use http_body_util::Full;
    /// let body: FaultyBody<Full<bytes::Bytes>> = bytes::Bytes::from("made by a responder").into();
    /// ```
    #[derive(Debug)]
    pub struct FaultyBody<B> {
        #[pin]
        state: State<B>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<B> {
        Whole { #[pin] body: B },
        Own { bytes: Option<Bytes> },
        Spoilt { #[pin] body: B, spoiler: Box<Spoiler> },
    }
}

impl<B> FaultyBody<B> {
    #[inline]
    pub(super) fn whole(body: B) -> Self {
        Self { state: State::Whole { body } }
    }

    pub(super) fn empty() -> Self {
        Self { state: State::Own { bytes: None } }
    }

    pub(super) fn spoilt(body: B, injection: Injection) -> Self {
        if injection.body.is_empty() {
            return Self::whole(body);
        }
        let spoiler = Box::new(Spoiler {
            acts: injection.body,
            held: Some(injection.held),
            seen: 0,
            rest: Bytes::new(),
            ready: None,
            wait: None,
            due: None,
            broken: None,
            paused: false,
            over: false,
        });
        Self { state: State::Spoilt { body, spoiler } }
    }
}

impl<B> From<Bytes> for FaultyBody<B> {
    fn from(bytes: Bytes) -> Self {
        Self { state: State::Own { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()) } }
    }
}

impl<B> Default for FaultyBody<B> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<B> Body for FaultyBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().state.project() {
            StateProj::Whole { body } => {
                body.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            StateProj::Own { bytes } => Poll::Ready(bytes.take().map(|all| Ok(Frame::data(all)))),
            StateProj::Spoilt { body, spoiler } => spoiler.poll_frame(body, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Whole { body } => body.is_end_stream(),
            State::Own { bytes } => bytes.is_none(),
            State::Spoilt { body, spoiler } => {
                spoiler.over || (spoiler.has_nothing() && body.is_end_stream())
            }
        }
    }

    /// Of a body that will break off, what it would have been: so its reader notices.
    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Whole { body } => body.size_hint(),
            State::Own { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            State::Spoilt { body, spoiler } => spoiler.add_to(&body.size_hint()),
        }
    }
}

struct Spoiler {
    acts: BodyActs,
    /// Until the body has ended.
    held: Option<Held>,
    /// Bytes that came from the inner body.
    seen: u64,
    /// What came and has not been handed on, for want of bandwidth.
    rest: Bytes,
    /// What is handed on once the wait is over.
    ready: Option<Frame<Bytes>>,
    wait: Option<Wait>,
    /// When the last byte will have gone through the narrow line.
    due: Option<Tick>,
    /// The body breaks off after what is here.
    broken: Option<Injected>,
    paused: bool,
    over: bool,
}

/// A narrow line hands on so much at a time.
const PIECES_A_SECOND: u64 = 20;

/// Up to so much lateness of the timer is made up for. It can tell milliseconds apart.
const LATE: u64 = 5_000_000;

impl Spoiler {
    fn poll_frame<B>(
        &mut self,
        mut body: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            if let Some(frame) = self.ready.take() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if !self.rest.is_empty() {
                self.send_piece();
                continue;
            }
            if let Some(mark) = self.broken {
                // hyper sends what it has when a body pauses, and throws it away when one fails: without the
                // pause the reader would see neither these bytes nor the head.
                if !std::mem::replace(&mut self.paused, true) {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                self.end();
                let message = "the body was cut off on purpose".to_owned();
                let error = InjectedError::io(std::io::ErrorKind::ConnectionReset, mark, message);
                return Poll::Ready(Some(Err(error.into())));
            }
            match ready!(body.as_mut().poll_frame(cx)) {
                None => {
                    self.end();
                    return Poll::Ready(None);
                }
                Some(Err(error)) => {
                    self.end();
                    return Poll::Ready(Some(Err(error.into())));
                }
                Some(Ok(frame)) => self.receive(frame),
            }
        }
    }

    /// The place among the active calls is given back, even if the body is kept.
    fn end(&mut self) {
        self.over = true;
        self.held = None;
    }

    fn receive(&mut self, frame: Frame<Bytes>) {
        self.wait = self.acts.slow.and_then(|time| self.wait_for(time));
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => {
                self.ready = Some(trailers);
                return;
            }
        };
        if let Some((one_in, key)) = self.acts.corrupt {
            data = corrupt(&data, self.seen, one_in, key);
        }
        if let Some((mark, after)) = self.acts.truncate {
            let left = after.saturating_sub(self.seen);
            if (data.len() as u64) > left {
                data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                self.broken = Some(mark);
            }
        }
        self.seen = self.seen.saturating_add(data.len() as u64);
        if self.acts.bandwidth.is_some() {
            self.rest = data;
        } else if !data.is_empty() {
            self.ready = Some(Frame::data(data));
        }
    }

    /// Takes what goes through the line next, and waits until it is through.
    fn send_piece(&mut self) {
        let rate = self.acts.bandwidth.unwrap_or(u64::MAX);
        let most = usize::try_from((rate / PIECES_A_SECOND).max(1)).unwrap_or(usize::MAX);
        let piece = self.rest.split_to(most.min(self.rest.len()));
        let takes = u128::from(piece.len() as u64) * 1_000_000_000 / u128::from(rate);
        let takes = Duration::from_nanos(u64::try_from(takes).unwrap_or(u64::MAX));
        let now = clock::now();
        // Not later than now: what passed while injection was off has not gone through this line.
        let free = self.due.map_or(now, |due| due.clamp(Tick(now.0.saturating_sub(LATE)), now));
        let due = free.after(takes);
        self.due = Some(due);
        self.wait = self.wait_for(due.since(now));
        self.ready = Some(Frame::data(piece));
    }

    fn wait_for(&self, time: Duration) -> Option<Wait> {
        let held = self.held.as_ref()?;
        (!time.is_zero()).then(|| wait(&held.shared, Some(time)))
    }

    fn has_nothing(&self) -> bool {
        self.ready.is_none() && self.rest.is_empty() && self.broken.is_none()
    }

    fn add_to(&self, inner: &SizeHint) -> SizeHint {
        let ready = self.ready.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len);
        let here = (ready + self.rest.len()) as u64;
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(here));
        }
        hint.set_lower(inner.lower().saturating_add(here).min(hint.upper().unwrap_or(u64::MAX)));
        hint
    }
}

impl fmt::Debug for Spoiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spoiler").field("seen", &self.seen).finish_non_exhaustive()
    }
}

/// Changes one byte in each stretch of `one_in` bytes, counted from the beginning of the body, of which
/// `data` begins at `from`. How the body is cut into frames makes no difference.
fn corrupt(data: &Bytes, from: u64, one_in: u64, key: u64) -> Bytes {
    let mut bytes = data.to_vec();
    let end = from.saturating_add(bytes.len() as u64);
    let mut stretch = from / one_in;
    while stretch.saturating_mul(one_in) < end {
        let draw = draw::join(key, stretch);
        let victim = stretch.saturating_mul(one_in).saturating_add(draw % one_in);
        let at = victim.checked_sub(from).and_then(|at| usize::try_from(at).ok());
        if let Some(byte) = at.and_then(|at| bytes.get_mut(at)) {
            // Never by zero, which would change nothing.
            *byte ^= (draw >> 56) as u8 | 1;
        }
        stretch += 1;
    }
    bytes.into()
}
