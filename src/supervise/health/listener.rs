use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, oneshot};

use super::super::Phase;
use super::state::Health;

/// Connections at once. Probes are short; more than this is not a prober.
const CONNECTIONS: usize = 64;
/// For the head of a request, and for the whole answer.
const PATIENCE: Duration = Duration::from_secs(5);

impl Health {
    /// Serves the probes on a listener of its own, from a thread of its own: they are answered while the
    /// program's runtime is busy, blocked, or draining. That makes it answer "alive" for a program that is
    /// frozen, unless a watchdog is asked: see [`live_while`](Self::live_while).
    ///
    /// `?verbose` is answered. Serves until the guard is dropped or the phase is [`Phase::Exited`].
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let health = self.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("buttress-health".into()).spawn(move || {
            runtime.block_on(async {
                let life = health.lifecycle().clone();
                tokio::select! {
                    () = serve(listener, health) => {}
                    _ = stopped => {}
                    () = life.reached(Phase::Exited) => {}
                }
            });
        })?;
        Ok(HealthListener { addr, stop: Some(stop), thread: Some(thread) })
    }
}

async fn serve(listener: TcpListener, health: Health) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let service = TowerToHyperService::new(health.service().verbose(true));
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(permit) = free.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // A connection that has gone already, or no file descriptors left: those come back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let service = service.clone();
        connections.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(2 * PATIENCE, connection).await;
            drop(permit);
        });
        while connections.try_join_next().is_some() {}
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
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
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

impl Drop for HealthListener {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for HealthListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthListener").field("addr", &self.addr).finish_non_exhaustive()
    }
}
