//! Where connections come from, and what can be known about their bytes.

use std::fmt;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// What is known about bytes that have arrived and were not read.
///
/// ```
/// use buttress::supervise::serve::Unread;
/// assert_ne!(Unread::Nothing, Unread::Unknown);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unread {
    /// There are some: the connection must not be closed over them.
    Bytes,
    /// There are none, or the peer has closed its side.
    Nothing,
    /// This kind of stream cannot tell.
    Unknown,
}

/// A byte stream that may know whether bytes have arrived that nobody has read yet.
///
/// A runtime learns of new bytes some time after the kernel has them. A connection that is closed in
/// between takes a request with it, so the server looks once more. Implemented for TCP and Unix sockets;
/// [`Looked`] makes one of any other stream.
///
/// ```
/// use buttress::supervise::serve::{Connected, Unread};
/// use std::io::Write;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let mut client = std::net::TcpStream::connect(listener.local_addr()?)?;
/// let (stream, _) = listener.accept().await?;
/// assert_eq!(stream.unread(), Unread::Nothing);
/// client.write_all(b"GET")?;
/// # while stream.unread() == Unread::Nothing {}
/// assert_eq!(stream.unread(), Unread::Bytes);
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be served",
    note = "wrap it: `buttress::supervise::serve::Looked::new(stream, |stream| ...)`, or `Looked::blind(stream)`"
)]
pub trait Connected: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Looks, without reading and without waiting.
    fn unread(&self) -> Unread;
}

/// Looks at a socket.
fn peek(socket: &socket2::SockRef<'_>) -> Unread {
    match socket.peek(&mut [MaybeUninit::uninit()]) {
        Ok(0) => Unread::Nothing,
        Ok(_) => Unread::Bytes,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Unread::Nothing,
        // Broken: nothing can come of it.
        Err(_) => Unread::Nothing,
    }
}

impl Connected for TcpStream {
    fn unread(&self) -> Unread {
        peek(&socket2::SockRef::from(self))
    }
}

#[cfg(unix)]
impl Connected for tokio::net::UnixStream {
    fn unread(&self) -> Unread {
        peek(&socket2::SockRef::from(self))
    }
}

/// Any stream, with a way to look at its unread bytes.
///
/// For TLS, look at the socket under it. Bytes there may turn out to be none of the application's, which
/// does no harm: the connection is looked at again.
///
/// ```
/// use buttress::supervise::serve::{Connected, Looked, Unread};
/// let (stream, _other) = tokio::io::duplex(64);
/// assert_eq!(Looked::blind(stream).unread(), Unread::Unknown);
/// ```
pub struct Looked<I, F = fn(&I) -> Unread> {
    stream: I,
    look: F,
}

impl<I, F: Fn(&I) -> Unread> Looked<I, F> {
    /// `look` must not wait.
    ///
    /// ```
    /// use buttress::supervise::serve::{Connected, Looked};
    /// use tokio::net::TcpStream;
    /// # struct TlsStream(TcpStream);
    /// # impl TlsStream { fn get_ref(&self) -> (&TcpStream, ()) { (&self.0, ()) } }
    /// fn served(stream: TlsStream) -> Looked<TlsStream, impl Fn(&TlsStream) -> buttress::supervise::serve::Unread> {
    ///     Looked::new(stream, |stream: &TlsStream| stream.get_ref().0.unread())
    /// }
    /// ```
    pub fn new(stream: I, look: F) -> Self {
        Self { stream, look }
    }
}

impl<I> Looked<I> {
    /// A stream that cannot tell. The server then goes by what it has read itself.
    ///
    /// ```
    /// let (stream, _other) = tokio::io::duplex(64);
    /// let stream = buttress::supervise::serve::Looked::blind(stream);
    /// ```
    pub fn blind(stream: I) -> Self {
        Self { stream, look: |_| Unread::Unknown }
    }
}

impl<I, F> fmt::Debug for Looked<I, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Looked")
    }
}

impl<I, F> Connected for Looked<I, F>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(&I) -> Unread + Unpin + Send + 'static,
{
    fn unread(&self) -> Unread {
        (self.look)(&self.stream)
    }
}

impl<I: AsyncRead + Unpin, F: Unpin> AsyncRead for Looked<I, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin, F: Unpin> AsyncWrite for Looked<I, F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Where a server's connections come from: a TCP or Unix listener, or your own.
///
/// ```
/// use buttress::supervise::serve::{Listener, Looked};
/// use std::io;
/// use std::task::{Context, Poll};
/// use tokio::io::DuplexStream;
/// use tokio::sync::mpsc::Receiver;
///
/// /// Connections made in memory, for tests.
/// struct Memory(Receiver<DuplexStream>);
///
/// impl Listener for Memory {
///     type Stream = Looked<DuplexStream>;
///     type Peer = ();
///
///     fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Stream, ())>> {
///         match self.0.poll_recv(cx) {
///             Poll::Ready(Some(stream)) => Poll::Ready(Ok((Looked::blind(stream), ()))),
///             // Nobody will connect any more: that is no error.
///             _ => Poll::Pending,
///         }
///     }
/// }
///
/// let (clients, listener) = tokio::sync::mpsc::channel(16);
/// clients.try_send(tokio::io::duplex(64).0).unwrap();
/// // What a server does in the end: who is connected already is served.
/// assert_eq!(Memory(listener).close(16).len(), 1);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a listener",
    note = "use tokio's `TcpListener` or `UnixListener`, or implement `buttress::supervise::serve::Listener`"
)]
pub trait Listener: Send + 'static {
    /// A connection.
    type Stream: Send + 'static;
    /// Who is at the other end.
    type Peer: Send + 'static;

    /// The next connection.
    fn poll_accept(&mut self, cx: &mut Context<'_>)
    -> Poll<io::Result<(Self::Stream, Self::Peer)>>;

    /// Stops listening, and gives what was in the queue until then: the kernel has told those clients
    /// that they are connected, and resets what is left in the queue. At most `most`, without waiting.
    ///
    /// Unless overridden: what [`poll_accept`](Self::poll_accept) gives without waiting. A runtime may
    /// learn of connections later than the kernel, so a socket should be asked itself.
    fn close(mut self, most: usize) -> Vec<(Self::Stream, Self::Peer)>
    where
        Self: Sized,
    {
        let mut cx = Context::from_waker(Waker::noop());
        let mut queued = Vec::new();
        while queued.len() < most {
            match self.poll_accept(&mut cx) {
                Poll::Ready(Ok(connection)) => queued.push(connection),
                Poll::Ready(Err(error)) if is_the_peers(&error) => {}
                _ => break,
            }
        }
        queued
    }
}

/// Takes from a non-blocking listener what is there.
fn take_queued<S>(most: usize, mut accept: impl FnMut() -> io::Result<S>) -> Vec<S> {
    let mut queued = Vec::new();
    while queued.len() < most {
        match accept() {
            Ok(connection) => queued.push(connection),
            Err(error) if is_the_peers(&error) => {}
            Err(_) => break,
        }
    }
    queued
}

/// Whether an error of `accept` is about one connection, which is gone, and not about the listener.
pub(super) fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::Interrupted
    )
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let (stream, peer) = ready!(Self::poll_accept(self, cx))?;
        // Answers are written in as few pieces as there are; to hold the last one back helps nobody.
        let _ = stream.set_nodelay(true);
        Poll::Ready(Ok((stream, peer)))
    }

    fn close(self, most: usize) -> Vec<(TcpStream, SocketAddr)> {
        // Out of the runtime, whose knowledge of the queue may be old.
        let Ok(listener) = self.into_std() else { return Vec::new() };
        take_queued(most, || {
            let (stream, peer) = listener.accept()?;
            stream.set_nonblocking(true)?;
            let _ = stream.set_nodelay(true);
            Ok((TcpStream::from_std(stream)?, peer))
        })
    }
}

#[cfg(unix)]
impl Listener for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;
    type Peer = tokio::net::unix::SocketAddr;

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Self::Stream, Self::Peer)>> {
        Self::poll_accept(self, cx)
    }

    fn close(self, most: usize) -> Vec<(Self::Stream, Self::Peer)> {
        let Ok(listener) = self.into_std() else { return Vec::new() };
        take_queued(most, || {
            let (stream, peer) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((tokio::net::UnixStream::from_std(stream)?, peer.into()))
        })
    }
}

/// What is done with a connection before it is served: nothing, or a handshake. Closures
/// `Fn(I) -> impl Future<Output = io::Result<O>>` implement it.
///
/// ```
/// use buttress::supervise::serve::{Connected, Handshake};
/// use tokio::net::TcpStream;
/// fn is_handshake(_: &impl Handshake<TcpStream, Stream = TcpStream>) {}
/// is_handshake(&|tcp: TcpStream| async move {
///     tcp.readable().await?;
///     Ok(tcp)
/// });
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handshake on `{I}`",
    note = "use a closure `|stream| async move {{ ... Ok(stream) }}` whose stream is `Connected`"
)]
pub trait Handshake<I>: Clone + Send + Sync + 'static {
    /// The stream that is served.
    type Stream: Connected;

    /// Runs in the connection's own task, under the limit for the first request's head.
    ///
    /// ```
    /// use buttress::supervise::serve::{Handshake, Looked};
    /// use tokio::io::DuplexStream;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let hello = |stream: Looked<DuplexStream>| async move { Ok(stream) };
    /// let (stream, _client) = tokio::io::duplex(64);
    /// assert!(hello.start(Looked::blind(stream)).await.is_ok());
    /// # });
    /// ```
    fn start(&self, stream: I) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// No handshake.
///
/// ```
/// use buttress::supervise::serve::{Handshake, NoHandshake};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use buttress::supervise::serve::Looked;
/// let (stream, _other) = tokio::io::duplex(64);
/// assert!(NoHandshake.start(Looked::blind(stream)).await.is_ok());
/// # })
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHandshake;

impl<I: Connected> Handshake<I> for NoHandshake {
    type Stream = I;

    async fn start(&self, stream: I) -> io::Result<I> {
        Ok(stream)
    }
}

impl<I, O, F, Fut> Handshake<I> for F
where
    I: Send,
    O: Connected,
    F: Fn(I) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = io::Result<O>> + Send,
{
    type Stream = O;

    fn start(&self, stream: I) -> impl Future<Output = io::Result<O>> + Send {
        self(stream)
    }
}
