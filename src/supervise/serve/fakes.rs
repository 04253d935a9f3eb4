//! Streams that behave as real ones rarely do: made of halves, of which one is as it should be.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Join, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::{Looked, Unread};

/// How many reads to come find nothing.
#[derive(Clone, Default)]
pub(super) struct Hidden(Arc<AtomicU32>);

impl Hidden {
    /// Is not used up.
    pub(super) const ALL: u32 = u32::MAX;

    pub(super) fn hide(&self, reads: u32) {
        self.0.store(reads, Ordering::SeqCst);
    }

    fn take(&self) -> bool {
        let left = self.0.load(Ordering::SeqCst);
        if left != Self::ALL {
            self.hide(left.saturating_sub(1));
        }
        left > 0
    }
}

/// Hides what has come from the next reads, as a runtime that does not know of it yet, or a client that has stopped
/// reading.
pub(super) struct Hiding<I> {
    stream: ReadHalf<I>,
    hidden: Hidden,
    hid: bool,
}

pub(super) fn hiding<I>(stream: I, hidden: &Hidden) -> Join<Hiding<I>, WriteHalf<I>>
where
    I: AsyncRead + AsyncWrite,
{
    let (stream, writes) = tokio::io::split(stream);
    tokio::io::join(Hiding { stream, hidden: hidden.clone(), hid: false }, writes)
}

impl<I: AsyncRead> AsyncRead for Hiding<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.hid = self.hidden.take();
        if self.hid {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

type Taken = Looked<DuplexStream>;

/// As much as rustls holds.
pub(super) const ROOM: usize = 65_536;

/// A server's end that sees what its reads do not.
pub(super) type Late = Looked<Join<Hiding<Taken>, WriteHalf<Taken>>>;

pub(super) fn late(stream: Taken, hidden: &Hidden) -> Late {
    Looked::new(hiding(stream, hidden), |stream| {
        if stream.reader().hid { Unread::Bytes } else { Unread::Nothing }
    })
}

/// The writes of a server's end as TLS makes one: it takes more than its peer does, and only a flush says so. That it
/// has made room when it found none, it says when it is asked again.
pub(super) struct Buffering {
    stream: WriteHalf<Taken>,
    held: Vec<u8>,
    room: usize,
    gone: mpsc::Sender<()>,
}

pub(super) type Buffered = Looked<Join<ReadHalf<Taken>, Buffering>>;

/// Holds `room` bytes; `gone` is told when the server lets go of it.
pub(super) fn buffered(stream: Taken, room: usize, gone: mpsc::Sender<()>) -> Buffered {
    let (reads, stream) = tokio::io::split(stream);
    Looked::blind(tokio::io::join(reads, Buffering { stream, held: Vec::new(), room, gone }))
}

impl Drop for Buffering {
    fn drop(&mut self) {
        let _ = self.gone.try_send(());
    }
}

impl Buffering {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let taken = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held))?;
            self.held.drain(..taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Buffering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.held.len() >= self.room {
            ready!(self.poll_drain(cx))?;
        }
        let taken = buf.len().min(self.room - self.held.len());
        self.held.extend(&buf[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
