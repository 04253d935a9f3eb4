//! One connection, from its first byte to its end.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Extensions, Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use crate::clock::{self, Tick};
use crate::error::BoxError;
use crate::supervise::Phase;

use super::core::{Doing, Judgement, View, judge};
use super::listener::{Connected, Handshake};
use super::service::App;
use super::shared::{Conn, Connection};
use super::stream::Stream;

/// Serves one connection.
pub(super) async fn drive<I, H, S, B>(
    io: I,
    handshake: H,
    connection: Connection,
    service: S,
    peer: Option<Extensions>,
) where
    I: Send,
    H: Handshake<I>,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let conn = Arc::clone(&connection.0);
    let mut watch = pin!(Watch::new(&conn));
    let Some(io) = shake_hands(io, &handshake, watch.as_mut()).await else { return };
    conn.touch();
    let mut stream = Stream::new(io, connection);
    let Some(http2) = protocol(&mut stream, watch.as_mut()).await else { return };
    let app = App { service, conn: Arc::clone(&conn), peer };
    if http2 {
        conn.speaks_http2();
        let mut builder = http2::Builder::new(TokioExecutor::new());
        // WebSockets over HTTP/2 need it.
        builder.timer(TokioTimer::new()).enable_connect_protocol();
        let served = pin!(builder.serve_connection(TokioIo::new(stream), app));
        serve(Http2(served), watch).await;
    } else {
        let builder = http1::Builder::new();
        let served = pin!(builder.serve_connection(TokioIo::new(stream), app).with_upgrades());
        serve(Http1(served), watch).await;
    }
}

/// `None` if it failed or took too long.
async fn shake_hands<I: Send, H: Handshake<I>>(
    io: I,
    handshake: &H,
    mut watch: Pin<&mut Watch<'_>>,
) -> Option<H::Stream> {
    let mut shaking = pin!(handshake.start(io));
    poll_fn(|cx| {
        if let Poll::Ready(done) = shaking.as_mut().poll(cx) {
            return Poll::Ready(done.ok());
        }
        // Not closed for being idle: that a handshake is under way is all that is known.
        match watch.as_mut().poll(cx, Doing::ReadingHead) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Whether it is HTTP/2. `None` if nothing came of it.
async fn protocol<I: Connected>(
    stream: &mut Stream<I>,
    mut watch: Pin<&mut Watch<'_>>,
) -> Option<bool> {
    poll_fn(|cx| {
        if let Poll::Ready(known) = stream.poll_is_http2(cx) {
            return Poll::Ready(known.ok());
        }
        let doing = if stream.has_read() { Doing::ReadingHead } else { Doing::Idle };
        match watch.as_mut().poll(cx, doing) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(End::Cut) => return Poll::Ready(None),
            Poll::Ready(End::Close) => {}
        }
        let before = stream.has_read();
        stream.conn().ask_to_look();
        match stream.poll_is_http2(cx) {
            Poll::Ready(known) => Poll::Ready(known.ok()),
            Poll::Pending if stream.has_read() != before => {
                // The beginning of a head came with the look.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending if watch.as_mut().must_stay(cx) => Poll::Pending,
            Poll::Pending => Poll::Ready(None),
        }
    })
    .await
}

/// A connection of hyper's.
trait Served {
    const HTTP2: bool;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    fn graceful_shutdown(&mut self);
}

struct Http1<C>(C);

impl<I, S, B> Served for Http1<Pin<&mut http1::UpgradeableConnection<I, S>>>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    const HTTP2: bool = false;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // An error is the peer's or the service's, both of whom know.
        self.0.as_mut().poll(cx).map(drop)
    }

    fn graceful_shutdown(&mut self) {
        self.0.as_mut().graceful_shutdown();
    }
}

struct Http2<C>(C);

impl<I, S, B> Served for Http2<Pin<&mut http2::Connection<I, S, TokioExecutor>>>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    const HTTP2: bool = true;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx).map(drop)
    }

    fn graceful_shutdown(&mut self) {
        self.0.as_mut().graceful_shutdown();
    }
}

async fn serve<C: Served>(mut served: C, mut watch: Pin<&mut Watch<'_>>) {
    // Since when it has been asked to end.
    let mut ending: Option<Tick> = None;
    poll_fn(|cx| {
        loop {
            if served.poll(cx).is_ready() {
                return Poll::Ready(());
            }
            watch.as_mut().register(cx);
            let conn = watch.conn;
            if C::HTTP2 && ending.is_none() && watch.goaway_due() {
                // Not an end yet: streams that the client begins before it knows are served.
                served.graceful_shutdown();
                ending = Some(clock::now());
                continue;
            }
            if let Some(since) = ending {
                return watch.as_mut().poll_ending(cx, since, C::HTTP2);
            }
            let seen = conn.doing();
            let doing = match seen {
                // Any frame: there is no telling what its bytes are of.
                Doing::ReadingHead if C::HTTP2 => Doing::Idle,
                doing => doing,
            };
            match watch.as_mut().poll(cx, doing) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(End::Cut) => return Poll::Ready(()),
                Poll::Ready(End::Close) => {
                    conn.ask_to_look();
                    if served.poll(cx).is_ready() {
                        return Poll::Ready(());
                    }
                    if watch.as_mut().must_stay(cx) {
                        return Poll::Pending;
                    }
                    if conn.doing() != seen && !conn.shared.config.sabotage.no_peek {
                        // Bytes came with the look: a request, or the beginning of one.
                        continue;
                    }
                    served.graceful_shutdown();
                    ending = Some(clock::now());
                }
            }
        }
    })
    .await;
}

enum End {
    /// Nothing is expected: look once more, and close.
    Close,
    /// It is over, at once.
    Cut,
}

pin_project_lite::pin_project! {
    /// Watches over a connection: its limits, the phase, the deadline.
    struct Watch<'a> {
        conn: &'a Arc<Conn>,
        #[pin]
        sleep: Sleep,
        // For what it is set: an old one fires, is judged, and is set again.
        armed: Option<(Doing, bool)>,
        // Since when it has been doing that.
        since: Tick,
        // Whether pieces of answers had not been written at the last look.
        sent: bool,
        registered: bool,
    }
}

impl<'a> Watch<'a> {
    fn new(conn: &'a Arc<Conn>) -> Self {
        let sleep = tokio::time::sleep(Duration::ZERO);
        Self { conn, sleep, armed: None, since: conn.idle_since(), sent: true, registered: false }
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, doing: Doing) -> Poll<End> {
        self.as_mut().register(cx);
        self.as_mut().look_at_pieces();
        if self.conn.is_cut() {
            return Poll::Ready(End::Cut);
        }
        if doing == Doing::Serving {
            return Poll::Pending;
        }
        let draining = self.conn.shared.draining();
        if self.armed == Some((doing, draining)) && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        let now = clock::now();
        let before = self.armed.map(|(doing, _)| doing);
        let this = self.as_mut().project();
        match doing {
            Doing::Idle => *this.since = this.conn.idle_since(),
            _ if before != Some(doing) => *this.since = now,
            // Another head, if a request ended in between.
            _ => *this.since = (*this.since).max(this.conn.idle_since()),
        }
        let fresh = this.conn.is_fresh();
        let view = View { doing, since: *this.since, fresh, draining };
        match judge(view, this.conn.shared.config.limits, now) {
            Judgement::Close => Poll::Ready(End::Close),
            Judgement::Cut => Poll::Ready(End::Cut),
            Judgement::Wait(until) => {
                *this.armed = Some((doing, draining));
                if let Some(until) = until {
                    self.sleep_until(cx, until, now);
                }
                Poll::Pending
            }
        }
    }

    /// After it was asked to end: `Ready` when that takes too long.
    fn poll_ending(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        since: Tick,
        http2: bool,
    ) -> Poll<()> {
        let doing = self.conn.doing();
        if matches!(doing, Doing::Stalled(_)) {
            return self.poll(cx, doing).map(drop);
        }
        self.as_mut().register(cx);
        self.as_mut().look_at_pieces();
        if self.conn.is_cut() {
            return Poll::Ready(());
        }
        if self.conn.busy() || self.conn.has_tunnels() {
            return Poll::Pending;
        }
        let limits = self.conn.shared.config.limits;
        // An HTTP/2 client has been told and has nothing open: it acknowledges or is gone.
        let limit = if http2 { limits.grace.saturating_mul(2) } else { limits.write };
        let now = clock::now();
        let end = since.max(self.conn.idle_since()).after(limit);
        if now >= end {
            return Poll::Ready(());
        }
        *self.as_mut().project().armed = None;
        self.sleep_until(cx, end, now);
        Poll::Pending
    }

    /// What a client was long in taking does not end its grace in the moment in which it has all.
    fn look_at_pieces(self: Pin<&mut Self>) {
        let sent = !self.conn.sends();
        if sent && !self.sent {
            self.conn.touch();
        }
        *self.project().sent = sent;
    }

    /// After a look that read nothing: whether bytes have come that the runtime does not know of yet. It
    /// will, and wakes the task; should it not, there is another look soon.
    fn must_stay(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> bool {
        if !self.conn.saw_unread() || self.conn.shared.config.sabotage.no_peek {
            return false;
        }
        *self.as_mut().project().armed = None;
        let now = clock::now();
        self.sleep_until(cx, now.after(Duration::from_millis(10)), now);
        true
    }

    /// Whether an HTTP/2 client should be told now that the connection ends.
    fn goaway_due(&self) -> bool {
        let life = &self.conn.shared.life;
        life.phase() >= Phase::LameDuck
            // Told before its first request, a client would have connected for nothing.
            && !self.conn.is_fresh()
    }

    fn register(self: Pin<&mut Self>, cx: &Context<'_>) {
        if !self.registered {
            // Once: a task's waker stays the same.
            self.conn.register(cx.waker());
            *self.project().registered = true;
        }
    }

    fn sleep_until(self: Pin<&mut Self>, cx: &mut Context<'_>, until: Tick, now: Tick) {
        let mut sleep = self.project().sleep;
        sleep.as_mut().reset(Instant::now() + until.since(now));
        if sleep.poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}
