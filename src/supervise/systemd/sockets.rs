use std::env;
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;

use super::super::process::close_on_exec;

/// Sockets that were opened before this process was: no connection is refused while it restarts.
///
/// ```no_run
/// use buttress::supervise::systemd::Sockets;
/// # async fn doc() -> std::io::Result<()> {
/// // First thing in `main`, before any thread.
/// let mut sockets = Sockets::from_env();
/// let listener = match sockets.take_tcp("http")? {
///     Some(listener) => tokio::net::TcpListener::from_std(listener)?,
///     None => tokio::net::TcpListener::bind("0.0.0.0:8080").await?,
/// };
/// # drop(listener); Ok(()) }
/// ```
pub struct Sockets {
    fds: ListenFd,
    names: Vec<String>,
}

impl Sockets {
    /// What `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` say was handed over, to this process or (without
    /// `LISTEN_PID`) to whoever looks. Empty if nothing was.
    ///
    /// No child inherits them. The first two are removed from the environment, so that none looks for them either:
    /// call it before other threads run, since changing the environment beside them is not safe. A second
    /// call finds nothing.
    ///
    /// ```
    /// # if std::env::var_os("LISTEN_FDS").is_none() {
    /// assert!(buttress::supervise::systemd::Sockets::from_env().names().is_empty());
    /// # }
    /// ```
    #[must_use]
    pub fn from_env() -> Self {
        let text = env::var_os("LISTEN_FDNAMES").map(|names| names.to_string_lossy().into_owned());
        let first = env::var("LISTEN_FDS_FIRST_FD").ok().and_then(|first| first.parse().ok());
        let first: RawFd = first.unwrap_or(3);
        let fds = ListenFd::from_env();
        // Also those that are never taken: a child would keep them open, and clients waiting.
        for (fd, _) in (first..).zip(0..fds.len()) {
            close_on_exec(fd);
        }
        let mut names: Vec<_> = text.iter().flat_map(|text| text.split(':')).collect();
        names.resize(fds.len(), "unknown"); // as systemd calls those without a name
        Self { names: names.into_iter().map(str::to_owned).collect(), fds }
    }

    /// Their names, in the order handed over: `FileDescriptorName=` of the socket unit, by default the
    /// unit's own name.
    ///
    /// ```
    /// for name in buttress::supervise::systemd::Sockets::from_env().names() {
    ///     println!("{name}");
    /// }
    /// ```
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Takes the first TCP listener of this name that has not been taken yet, non-blocking, as tokio wants
    /// it. Without names of their own, all sockets of a unit have the same one: what is none is passed over.
    ///
    /// # Errors
    /// If nothing is left with that name but what is not a TCP listener.
    ///
    /// ```
    /// # if std::env::var_os("LISTEN_FDS").is_none() {
    /// assert!(buttress::supervise::systemd::Sockets::from_env().take_tcp("http")?.is_none());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn take_tcp(&mut self, name: &str) -> io::Result<Option<TcpListener>> {
        let listener = self.take(name, ListenFd::take_tcp_listener)?;
        listener.map(|found| found.set_nonblocking(true).map(|()| found)).transpose()
    }

    /// As [`take_tcp`](Self::take_tcp), for a listener on a path.
    ///
    /// # Errors
    /// If nothing is left with that name but what is not such a listener.
    ///
    /// ```
    /// # if std::env::var_os("LISTEN_FDS").is_none() {
    /// assert!(buttress::supervise::systemd::Sockets::from_env().take_unix("admin")?.is_none());
    /// # }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn take_unix(&mut self, name: &str) -> io::Result<Option<UnixListener>> {
        let listener = self.take(name, ListenFd::take_unix_listener)?;
        listener.map(|found| found.set_nonblocking(true).map(|()| found)).transpose()
    }

    fn take<T>(
        &mut self,
        name: &str,
        take: impl Fn(&mut ListenFd, usize) -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        let mut nothing = Ok(None);
        for (index, _) in self.names.iter().enumerate().filter(|(_, known)| *known == name) {
            match take(&mut self.fds, index) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {} // this one has been taken
                Err(error) => nothing = Err(error),
            }
        }
        nothing
    }
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets").field("names", &self.names).finish_non_exhaustive()
    }
}
