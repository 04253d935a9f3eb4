use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Sleep, sleep};

use crate::sync::{Mutex, lock};

use super::listener::{Connected, Unread};
use super::shared::{Conn, Connection};

pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection's stream: says what moves over it, and keeps it counted.
pub(super) struct Stream<I> {
    io: I,
    connection: Connection,
    /// What was read to find out the protocol.
    first: [u8; PREFACE.len()],
    /// Which part of it has been read, and has been handed on.
    read: u8,
    taken: u8,
    /// There as soon as the peer has not taken all at once.
    taking: Option<Arc<Taking>>,
    /// Nothing more is written.
    shut: bool,
    /// When a peer that does not close is no longer waited for.
    over: Option<Pin<Box<Sleep>>>,
}

/// Woken when the peer has taken something while a write or a flush waits for that. All else that wakes the task says
/// nothing about the peer.
struct Taking {
    conn: Arc<Conn>,
    task: Mutex<Waker>,
}

impl Wake for Taking {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.conn.took_some();
        let task = lock(&self.task).clone();
        task.wake();
    }
}

impl<I: Connected> Stream<I> {
    pub(super) fn new(io: I, connection: Connection) -> Self {
        let (taking, over) = (None, None);
        Self { io, connection, first: [0; 24], read: 0, taken: 0, taking, shut: false, over }
    }

    pub(super) fn conn(&self) -> &Arc<Conn> {
        &self.connection.0
    }

    pub(super) fn has_read(&self) -> bool {
        self.read > 0
    }

    /// Whether it is HTTP/2 with prior knowledge (or by ALPN): as soon as the bytes say so. `Err` if the
    /// peer has gone.
    pub(super) fn poll_is_http2(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            let read = usize::from(self.read);
            if self.first[..read] != PREFACE[..read] {
                return Poll::Ready(Ok(false));
            }
            if read == PREFACE.len() {
                return Poll::Ready(Ok(true));
            }
            let mut buf = ReadBuf::new(&mut self.first[read..]);
            let polled = Pin::new(&mut self.io).poll_read(cx, &mut buf);
            let more = buf.filled().len();
            if polled.is_pending() {
                self.connection.0.looked(|| self.io.unread() == Unread::Bytes);
            }
            ready!(polled)?;
            if more == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.connection.0.read_some();
            // At most the preface.
            self.read += u8::try_from(more).unwrap_or(0);
        }
    }

    /// Reads and forgets what comes until the peer has closed, too, or the grace is over. A socket closed over
    /// unread bytes is reset, and so is one that bytes come to after it was closed; a reset can take the last
    /// answer from a client that has not read it yet. HTTP/2 clients send all the time (windows,
    /// acknowledgements), those of HTTP/1 may be sending their next request (RFC 9112, 9.6).
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 1024];
        for _ in 0..64 {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.poll_over(cx),
            }
        }
        cx.waker().wake_by_ref();
        self.poll_over(cx)
    }

    /// Also of a peer that never stops sending.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let grace = self.connection.0.shared.config.limits.grace;
        let over = self.over.get_or_insert_with(|| Box::pin(sleep(grace)));
        over.as_mut().poll(cx)
    }

    fn cut() -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, "cut at the deadline of the drain")
    }
}

impl<I: Connected> AsyncRead for Stream<I> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.taken < this.read {
            let left = &this.first[usize::from(this.taken)..usize::from(this.read)];
            let count = left.len().min(buf.remaining());
            buf.put_slice(&left[..count]);
            this.taken += u8::try_from(count).unwrap_or(0);
            return Poll::Ready(Ok(()));
        }
        if this.connection.0.is_cut() {
            return Poll::Ready(Err(Self::cut()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        let conn = &this.connection.0;
        match polled {
            Poll::Ready(Ok(())) if buf.filled().len() > before => conn.read_some(),
            Poll::Ready(_) => {}
            Poll::Pending => {
                conn.looked(|| this.io.unread() == Unread::Bytes);
                // Nobody else wakes the one who reads what was upgraded.
                if conn.is_upgraded() {
                    conn.register(cx.waker());
                    // Between the look above and this.
                    if conn.is_cut() {
                        return Poll::Ready(Err(Self::cut()));
                    }
                }
            }
        }
        polled
    }
}

impl<I: Connected> Stream<I> {
    /// Polls what moves bytes to the peer so that it is known when that goes on.
    #[inline]
    fn poll_out<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(Pin<&mut I>, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let polled = poll(Pin::new(&mut self.io), cx);
        if polled.is_ready() {
            return polled;
        }
        // The runtime lets nobody write who has had his turn, and wakes whom it has refused: the peer has taken nothing
        // then. In the next turn it is asked again.
        if !has_budget_remaining() {
            cx.waker().wake_by_ref();
            return polled;
        }
        // Once more, to wait with another waker. And a stream with a buffer may have found no room, made some by writing, and
        // tell of that only when it is asked again (TLS by rustls does): asked later it would look as if its peer had taken
        // something then.
        let waker = self.taking(cx);
        poll(Pin::new(&mut self.io), &mut Context::from_waker(&waker))
    }

    #[cold]
    fn taking(&mut self, cx: &Context<'_>) -> Waker {
        let conn = &self.connection.0;
        let taking = self.taking.get_or_insert_with(|| {
            let task = Mutex::new(Waker::noop().clone());
            Arc::new(Taking { conn: Arc::clone(conn), task })
        });
        // Cloned before the lock is taken, and dropped after: with a waker its task may go, and whatever that holds.
        let task = cx.waker().clone();
        let before = std::mem::replace(&mut *lock(&taking.task), task);
        drop(before);
        Arc::clone(taking).into()
    }
}

impl<I: Connected> AsyncWrite for Stream<I> {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.connection.0.is_cut() {
            return Poll::Ready(Err(Self::cut()));
        }
        let polled = self.poll_out(cx, |io, cx| io.poll_write(cx, buf));
        self.connection.0.write_stalled(polled.is_pending());
        polled
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.connection.0.is_cut() {
            return Poll::Ready(Err(Self::cut()));
        }
        let polled = self.poll_out(cx, |io, cx| io.poll_write_vectored(cx, bufs));
        self.connection.0.write_stalled(polled.is_pending());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.poll_out(cx, I::poll_flush);
        self.connection.0.flush_stalled(polled.is_pending());
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            self.shut = true;
        }
        if !self.connection.0.is_upgraded() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
