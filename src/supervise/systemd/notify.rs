use std::env;
use std::fmt;
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use crate::error::ConfigError;

/// The socket on which systemd listens. Clones share it.
///
/// ```no_run
/// use buttress::supervise::systemd::Notify;
/// if let Some(notify) = Notify::from_env()? {
///     notify.ready()?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Notify(Arc<Target>);

struct Target {
    socket: UnixDatagram,
    to: SocketAddr,
}

impl Notify {
    /// What `NOTIFY_SOCKET` names; `None` if it is not set or empty.
    ///
    /// # Errors
    /// If it names something that is not supported, or no socket can be made.
    ///
    /// ```
    /// use buttress::supervise::systemd::Notify;
    /// # if std::env::var_os("NOTIFY_SOCKET").is_none() {
    /// assert!(Notify::from_env()?.is_none());
    /// # }
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn from_env() -> Result<Option<Self>, ConfigError> {
        match env::var_os("NOTIFY_SOCKET") {
            None => Ok(None),
            Some(address) if address.is_empty() => Ok(None),
            Some(address) => match address.to_str() {
                Some(address) => Self::new(address).map(Some),
                None => Err(wrong(&address.to_string_lossy(), EXPECTED)),
            },
        }
    }

    /// A socket by its address: an absolute path, or `@` and a name in the abstract namespace.
    ///
    /// # Errors
    /// If it is neither, or no socket can be made.
    ///
    /// ```
    /// use buttress::supervise::systemd::Notify;
    /// assert!(Notify::new("/run/systemd/notify").is_ok());
    /// let error = Notify::new("vsock:2:1234").unwrap_err();
    /// assert_eq!(error.field(), "NOTIFY_SOCKET");
    /// ```
    pub fn new(address: &str) -> Result<Self, ConfigError> {
        let to = if address.starts_with('/') {
            SocketAddr::from_pathname(address).map_err(|error| wrong(address, error))?
        } else if let Some(name) = address.strip_prefix('@') {
            abstract_name(name).map_err(|error| wrong(address, error))?
        } else {
            return Err(wrong(address, EXPECTED));
        };
        let socket = UnixDatagram::unbound().map_err(|error| wrong(address, error))?;
        socket.set_nonblocking(true).map_err(|error| wrong(address, error))?;
        Ok(Self(Arc::new(Target { socket, to })))
    }

    /// `READY=1`: start-up has ended.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// ```no_run
    /// # let notify = buttress::supervise::systemd::Notify::new("/run/systemd/notify")?;
    /// notify.ready()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ready(&self) -> io::Result<()> {
        self.send(&[("READY", "1")])
    }

    /// `STOPPING=1`: the shutdown has begun, which cannot be taken back.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// ```no_run
    /// # let notify = buttress::supervise::systemd::Notify::new("/run/systemd/notify")?;
    /// notify.stopping()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stopping(&self) -> io::Result<()> {
        self.send(&[("STOPPING", "1")])
    }

    /// `STATUS=`: one line for whoever asks `systemctl status`.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// ```no_run
    /// # let notify = buttress::supervise::systemd::Notify::new("/run/systemd/notify")?;
    /// notify.status("loading: 3 of 7")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn status(&self, text: &str) -> io::Result<()> {
        self.send(&[("STATUS", text)])
    }

    /// `WATCHDOG=1`: alive. Only worth something if sent by what would stand still.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// ```no_run
    /// # let notify = buttress::supervise::systemd::Notify::new("/run/systemd/notify")?;
    /// notify.watchdog()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn watchdog(&self) -> io::Result<()> {
        self.send(&[("WATCHDOG", "1")])
    }

    /// `WATCHDOG=trigger`: not alive; systemd acts at once as if the watchdog had run out.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// ```no_run
    /// # let notify = buttress::supervise::systemd::Notify::new("/run/systemd/notify")?;
    /// notify.watchdog_trigger()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn watchdog_trigger(&self) -> io::Result<()> {
        self.send(&[("WATCHDOG", "trigger")])
    }

    /// `EXTEND_TIMEOUT_USEC=`: start-up or stop takes longer; the next such message, or the end, comes
    /// within `by`.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// ```no_run
    /// # let notify = buttress::supervise::systemd::Notify::new("/run/systemd/notify")?;
    /// notify.extend_timeout(std::time::Duration::from_secs(5))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn extend_timeout(&self, by: Duration) -> io::Result<()> {
        self.send(&[("EXTEND_TIMEOUT_USEC", &by.as_micros().to_string())])
    }

    /// Any assignments, in one message. Control characters in values become spaces: a line break would
    /// begin another assignment.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not capital letters, digits and underscores. What the system says
    /// if nobody listens, or `WouldBlock` if the socket is full: it never waits.
    ///
    /// ```no_run
    /// # let notify = buttress::supervise::systemd::Notify::new("/run/systemd/notify")?;
    /// notify.send(&[("READY", "1"), ("STATUS", "serving")])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send(&self, assignments: &[(&str, &str)]) -> io::Result<()> {
        let mut message = String::new();
        for (name, value) in assignments {
            let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            if name.is_empty() || !name.chars().all(plain) {
                let error = format!("{name:?} is no name of a notification");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
            }
            message.push_str(name);
            message.push('=');
            message.extend(value.chars().map(|c| if c.is_control() { ' ' } else { c }));
            message.push('\n');
        }
        // Datagrams arrive whole or not at all.
        self.0.socket.send_to_addr(message.as_bytes(), &self.0.to).map(drop)
    }
}

const EXPECTED: &str = "an absolute path, or '@' and a name";

fn wrong(address: &str, expected: impl fmt::Display) -> ConfigError {
    ConfigError::new("NOTIFY_SOCKET", format!("{address:?}"), expected.to_string())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn abstract_name(name: &str) -> io::Result<SocketAddr> {
    #[cfg(target_os = "android")]
    use std::os::android::net::SocketAddrExt as _;
    #[cfg(target_os = "linux")]
    use std::os::linux::net::SocketAddrExt as _;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn abstract_name(_: &str) -> io::Result<SocketAddr> {
    let why = "an absolute path: only Linux has names in an abstract namespace";
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Notify").field(&self.0.to).finish()
    }
}
