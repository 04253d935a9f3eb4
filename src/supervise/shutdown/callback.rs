//! What runs at the end.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::error::{BoxError, ConfigError};
use crate::name::Name;
use crate::sync::{Mutex, lock};

type Cleanup = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Runs once; its future is made where it will run.
pub(super) enum Job {
    Blocking(Box<dyn FnOnce() -> Result<(), String> + Send>),
    Async(Box<dyn FnOnce() -> Cleanup + Send>),
}

/// One callback of a shutdown: what [`GracefulShutdown::register`](super::GracefulShutdown::register)
/// takes.
///
/// ```
/// use buttress::supervise::shutdown::{CleanupCallback, GracefulShutdown};
/// use std::time::Duration;
///
/// let shutdown = GracefulShutdown::new("orders");
/// shutdown.register(CleanupCallback::new("db", async || -> Result<(), std::io::Error> { Ok(()) }))?;
/// shutdown.register(
///     CleanupCallback::blocking("logs", || println!("flushed"))
///         .priority(900)
///         .timeout(Duration::from_secs(1)),
/// )?;
/// # Ok::<(), buttress::supervise::shutdown::RegisterError>(())
/// ```
#[must_use]
pub struct CleanupCallback {
    pub(super) name: Name,
    pub(super) priority: i32,
    pub(super) timeout: Option<Duration>,
    pub(super) runtime: Option<Handle>,
    /// In a lock nobody takes: it makes an error that hands the callback back `Sync`, so that `?` can box it.
    pub(super) job: Mutex<Job>,
}

impl CleanupCallback {
    /// An async one. It runs on the runtime in which it is registered; if there is none, or none of its
    /// workers gets to it, on a small runtime and a thread of its own. At its limit it is dropped.
    ///
    /// It returns `()` or a `Result<(), E>`.
    ///
    /// ```
    /// use buttress::supervise::shutdown::CleanupCallback;
    /// let callback = CleanupCallback::new("db", async || ());
    /// assert!(callback.is_async());
    /// ```
    pub fn new<F, Fut>(name: impl Into<Name>, callback: F) -> Self
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output: CleanupResult> + Send + 'static,
    {
        let start = move || -> Cleanup {
            let future = callback();
            Box::pin(async move { future.await.outcome() })
        };
        Self::of(name.into(), Job::Async(Box::new(start)))
    }

    /// A blocking one. It runs on a thread of its own, which at its limit is left behind: a thread cannot be
    /// stopped, but the end of the process does not wait for it.
    ///
    /// It returns `()` or a `Result<(), E>`.
    ///
    /// ```
    /// use buttress::supervise::shutdown::CleanupCallback;
    /// let callback = CleanupCallback::blocking("pid file", || std::fs::remove_file("/run/orders.pid"));
    /// assert!(!callback.is_async());
    /// ```
    pub fn blocking<F, R>(name: impl Into<Name>, callback: F) -> Self
    where
        F: FnOnce() -> R + Send + 'static,
        R: CleanupResult,
    {
        Self::of(name.into(), Job::Blocking(Box::new(move || callback().outcome())))
    }

    fn of(name: Name, job: Job) -> Self {
        Self { name, priority: 100, timeout: None, runtime: None, job: Mutex::new(job) }
    }

    /// When it runs: lower ones first, equal ones in the order of registration. 100 unless set.
    ///
    /// ```
    /// # use buttress::supervise::shutdown::CleanupCallback;
    /// assert_eq!(CleanupCallback::blocking("logs", || ()).priority(900).order(), 900);
    /// ```
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// How long it may take. Unless set, what is left, less a little for those after it.
    ///
    /// ```
    /// # use buttress::supervise::shutdown::CleanupCallback;
    /// # use std::time::Duration;
    /// let callback = CleanupCallback::blocking("logs", || ()).timeout(Duration::from_secs(1));
    /// assert_eq!(callback.limit(), Some(Duration::from_secs(1)));
    /// ```
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// The name it is known by.
    ///
    /// ```
    /// # use buttress::supervise::shutdown::CleanupCallback;
    /// assert_eq!(CleanupCallback::blocking("logs", || ()).name().as_str(), "logs");
    /// ```
    #[must_use]
    pub const fn name(&self) -> Name {
        self.name
    }

    /// Its [`priority`](Self::priority).
    ///
    /// ```
    /// # use buttress::supervise::shutdown::CleanupCallback;
    /// assert_eq!(CleanupCallback::blocking("logs", || ()).order(), 100);
    /// ```
    #[must_use]
    pub const fn order(&self) -> i32 {
        self.priority
    }

    /// Its own [`timeout`](Self::timeout), if it has one.
    ///
    /// ```
    /// # use buttress::supervise::shutdown::CleanupCallback;
    /// assert!(CleanupCallback::blocking("logs", || ()).limit().is_none());
    /// ```
    #[must_use]
    pub const fn limit(&self) -> Option<Duration> {
        self.timeout
    }

    /// Whether it is async.
    ///
    /// ```
    /// # use buttress::supervise::shutdown::CleanupCallback;
    /// assert!(!CleanupCallback::blocking("logs", || ()).is_async());
    /// ```
    #[must_use]
    pub fn is_async(&self) -> bool {
        matches!(*lock(&self.job), Job::Async(_))
    }
}

impl fmt::Debug for CleanupCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CleanupCallback")
            .field("name", &self.name)
            .field("priority", &self.priority)
            .field("timeout", &self.timeout)
            .field("is_async", &self.is_async())
            .finish_non_exhaustive()
    }
}

/// What a callback may return: nothing, or whether it failed.
///
/// ```
/// use buttress::supervise::shutdown::CleanupCallback;
/// CleanupCallback::blocking("nothing", || ());
/// CleanupCallback::blocking("a result", || std::fs::remove_file("/run/orders.pid"));
/// CleanupCallback::blocking("any error", || Err::<(), _>("it broke"));
/// ```
#[diagnostic::on_unimplemented(
    message = "a cleanup callback cannot return `{Self}`",
    note = "return `()` or `Result<(), E>` where `E: Into<BoxError>`"
)]
pub trait CleanupResult: sealed::Sealed {
    #[doc(hidden)]
    fn outcome(self) -> Result<(), String>;
}

impl CleanupResult for () {
    fn outcome(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Into<BoxError>> CleanupResult for Result<(), E> {
    fn outcome(self) -> Result<(), String> {
        self.map_err(|error| {
            let error: BoxError = error.into();
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        })
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl<E: Into<crate::error::BoxError>> Sealed for Result<(), E> {}
}

/// Why a callback was not taken.
///
/// ```
/// use buttress::supervise::shutdown::RegisterErrorKind;
/// assert_ne!(RegisterErrorKind::Duplicate, RegisterErrorKind::ShuttingDown);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegisterErrorKind {
    /// There is one with this name.
    Duplicate,
    /// The shutdown has begun: it would not run.
    ShuttingDown,
    /// It can never run as it is.
    Config(ConfigError),
}

/// A callback was not taken. Here it is again.
///
/// ```
/// use buttress::supervise::shutdown::{CleanupCallback, GracefulShutdown, RegisterErrorKind};
/// let shutdown = GracefulShutdown::new("orders");
/// shutdown.register(CleanupCallback::blocking("db", || ()))?;
/// let error = shutdown.register(CleanupCallback::blocking("db", || ())).unwrap_err();
/// assert_eq!(*error.kind(), RegisterErrorKind::Duplicate);
/// assert_eq!(error.to_string(), "the cleanup callback db is registered already");
/// assert_eq!(error.into_callback().name().as_str(), "db");
/// # Ok::<(), buttress::supervise::shutdown::RegisterError>(())
/// ```
pub struct RegisterError(pub(super) Box<(CleanupCallback, RegisterErrorKind)>);

impl RegisterError {
    pub(super) fn new(callback: CleanupCallback, kind: RegisterErrorKind) -> Self {
        Self(Box::new((callback, kind)))
    }

    /// Why.
    ///
    /// ```
    /// # use buttress::supervise::shutdown::{CleanupCallback, GracefulShutdown, RegisterErrorKind};
    /// let shutdown = GracefulShutdown::new("orders");
    /// shutdown.trigger_blocking();
    /// let error = shutdown.register(CleanupCallback::blocking("db", || ())).unwrap_err();
    /// assert_eq!(*error.kind(), RegisterErrorKind::ShuttingDown);
    /// ```
    #[must_use]
    pub const fn kind(&self) -> &RegisterErrorKind {
        &self.0.1
    }

    /// The callback, which has not run.
    ///
    /// ```
    /// # use buttress::supervise::shutdown::{CleanupCallback, GracefulShutdown};
    /// # use std::time::Duration;
    /// let shutdown = GracefulShutdown::new("orders");
    /// let never = CleanupCallback::blocking("db", || ()).timeout(Duration::ZERO);
    /// let callback = shutdown.register(never).unwrap_err().into_callback();
    /// shutdown.register(callback.timeout(Duration::from_secs(1)))?;
    /// # Ok::<(), buttress::supervise::shutdown::RegisterError>(())
    /// ```
    pub fn into_callback(self) -> CleanupCallback {
        self.0.0
    }
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.0.name;
        match &self.0.1 {
            RegisterErrorKind::Duplicate => {
                write!(f, "the cleanup callback {name} is registered already")
            }
            RegisterErrorKind::ShuttingDown => {
                write!(f, "the cleanup callback {name} came when the shutdown had begun")
            }
            RegisterErrorKind::Config(error) => {
                write!(f, "the cleanup callback {name} can never run: {error}")
            }
        }
    }
}

impl fmt::Debug for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterError")
            .field("kind", &self.0.1)
            .field("callback", &self.0.0)
            .finish()
    }
}

impl StdError for RegisterError {}
