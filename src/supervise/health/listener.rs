use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::task::{AbortHandle, JoinSet, yield_now};

use super::super::Phase;
use super::super::beside::{Beside, OwnRuntime};
use super::state::Health;

/// Connections at once. Probes are short: when there are more, it is the oldest that is none.
const CONNECTIONS: usize = 64;
/// For the head of a request, and for the whole answer.
const PATIENCE: Duration = Duration::from_secs(5);

impl Health {
    /// Serves the probes on a listener of its own, from a thread of its own: they are answered while the
    /// program's runtime is busy, blocked, or draining. That makes it answer "alive" for a program that is
    /// frozen, unless a watchdog is asked: see [`live_while`](Self::live_while).
    ///
    /// Reasons are told in full and `?verbose` is answered. Of more than 64 connections the oldest is closed, so
    /// that idle ones keep no prober out. Serves until the guard is dropped or the phase is [`Phase::Exited`].
    ///
    /// # Errors
    /// If the address cannot be bound, or no thread be started.
    ///
    /// ```no_run
    /// use buttress::supervise::{Lifecycle, health::Health};
    /// let health = Health::new(Lifecycle::new());
    /// let probes = health.listen("0.0.0.0:9090")?;
    /// println!("probes at http://{}/readyz", probes.addr());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn listen(&self, addr: impl ToSocketAddrs) -> io::Result<HealthListener> {
        let listener = TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .event_interval(8) // fewer new connections than `CONNECTIONS` between two looks at the old ones
            .build()?;
        let runtime = OwnRuntime::new(runtime);
        let health = self.clone();
        let thread = Beside::start("buttress-health", move |stopped| {
            runtime.block_on(async {
                let life = health.lifecycle().clone();
                tokio::select! {
                    () = serve(listener, health) => {}
                    _ = stopped => {}
                    () = life.reached(Phase::Exited) => {}
                }
            });
        })?;
        Ok(HealthListener { addr, _thread: thread })
    }
}

async fn serve(listener: TcpListener, health: Health) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let service = TowerToHyperService::new(health.service().verbose(true));
    let mut connections = JoinSet::new(); // ends them when this ends
    let mut open: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // A connection that has gone already, or no file descriptors left: those come back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        if open.len() >= CONNECTIONS {
            open.retain(|connection| !connection.is_finished());
        }
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let service = service.clone();
        open.push_back(connections.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(2 * PATIENCE, connection).await;
        }));
        yield_now().await; // a flood of connections must not keep those that are there from being served
    }
}

/// Serves the probes until it is dropped: see [`Health::listen`].
///
/// ```no_run
/// # use buttress::supervise::{Lifecycle, health::{Health, HealthListener}};
/// let probes: HealthListener = Health::new(Lifecycle::new()).listen("127.0.0.1:0")?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "it serves only as long as this lives"]
pub struct HealthListener {
    addr: SocketAddr,
    _thread: Beside,
}

impl HealthListener {
    /// Where it listens.
    ///
    /// ```
    /// # use buttress::supervise::{Lifecycle, health::Health};
    /// let probes = Health::new(Lifecycle::new()).listen("127.0.0.1:0")?;
    /// assert_ne!(probes.addr().port(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl fmt::Debug for HealthListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthListener").field("addr", &self.addr).finish_non_exhaustive()
    }
}
