use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use super::builder::Admin;
use crate::error::ConfigError;
use crate::supervise::Lifecycle;
use crate::supervise::beside::{Beside, OwnRuntime};
use crate::supervise::serve::Server;

/// For the head of a request, between two, and for a client that takes nothing.
const PATIENCE: Duration = Duration::from_secs(10);

impl Admin {
    /// Serves it on a listener of its own, from a thread of its own, until the guard is dropped: the page is
    /// answered while the program's runtime is busy or blocked.
    ///
    /// # Errors
    /// If the address is not a loopback address, unless [`allow_remote`](super::AdminBuilder::allow_remote) was
    /// called; if it cannot be bound; if no thread can be started.
    ///
    /// ```
    /// use buttress::{admin::Admin, control::Registry};
    /// let admin = Admin::builder(&Registry::new()).build()?;
    /// let page = admin.listen("127.0.0.1:0")?;
    /// println!("http://{}/", page.addr());
    ///
    /// let error = admin.listen("0.0.0.0:0").unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "invalid addr: 0.0.0.0:0, expected a loopback address, or `allow_remote()` in the builder"
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn listen(&self, addr: impl ToSocketAddrs) -> io::Result<AdminListener> {
        let addrs: Vec<SocketAddr> = addr.to_socket_addrs()?.collect();
        let local = |addr: &SocketAddr| addr.ip().to_canonical().is_loopback();
        if !self.shared.remote
            && let Some(addr) = addrs.iter().find(|addr| !local(addr))
        {
            let expected = "a loopback address, or `allow_remote()` in the builder";
            let error = ConfigError::new("addr", addr, expected);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        let listener = TcpListener::bind(&addrs[..])?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let server = Server::builder("admin")
            .header_timeout(PATIENCE)
            .keep_alive(6 * PATIENCE)
            .write_timeout(3 * PATIENCE)
            // Some for those who do not watch.
            .max_connections(self.shared.max_viewers.saturating_add(64))
            .build()
            .map_err(io::Error::other)?;
        let runtime =
            OwnRuntime::new(tokio::runtime::Builder::new_current_thread().enable_all().build()?);
        let app = Self { shared: self.shared.clone(), loopback: local(&addr) };
        let thread = Beside::start("buttress-admin-http", move |stopped| {
            runtime.block_on(async {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
                // Of its own: it serves to the very end of the process.
                let life = Lifecycle::new();
                tokio::select! {
                    _ = server.serve(listener, app, &life) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(AdminListener { addr, _thread: thread })
    }
}

/// Serves an [`Admin`] until it is dropped: see [`Admin::listen`].
///
/// ```
/// use buttress::{admin::{Admin, AdminListener}, control::Registry};
/// let page: AdminListener = Admin::builder(&Registry::new()).build()?.listen("localhost:0")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "it serves only as long as this lives"]
pub struct AdminListener {
    addr: SocketAddr,
    _thread: Beside,
}

impl AdminListener {
    /// Where it listens.
    ///
    /// ```
    /// # use buttress::{admin::Admin, control::Registry};
    /// let page = Admin::builder(&Registry::new()).build()?.listen("127.0.0.1:0")?;
    /// assert_ne!(page.addr().port(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl fmt::Debug for AdminListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminListener").field("addr", &self.addr).finish_non_exhaustive()
    }
}
