//! Taking over the signals, and giving them back.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::observe::Severity;
use crate::sync::lock;

use super::handle::GracefulShutdown;
use super::sys;

impl GracefulShutdown {
    /// Handles the signals, until [`uninstall`](Self::uninstall). From the first of them on the process
    /// ends at the deadline at the latest, with the report on standard error.
    ///
    /// Do it before anything slow: until then SIGTERM kills the process at once, or, if it is the first
    /// of a container, does nothing at all.
    ///
    /// # Errors
    /// If they are handled already, or the system does not let us.
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// use buttress::supervise::shutdown::{GracefulShutdown, InstallError};
    /// let shutdown = GracefulShutdown::new("orders");
    /// shutdown.install()?;
    /// assert!(matches!(shutdown.install(), Err(InstallError::AlreadyInstalled)));
    /// # }
    /// # Ok::<(), buttress::supervise::shutdown::InstallError>(())
    /// ```
    pub fn install(&self) -> Result<(), InstallError> {
        lock(&self.0.run).notice_runtime();
        let mut installed = lock(&self.0.installed);
        if installed.is_some() {
            return Err(InstallError::AlreadyInstalled);
        }
        // Before the first signal, which may be there already.
        self.0.let_a_driver_wait().map_err(InstallError::Io)?;
        match sys::install(&self.0) {
            Ok(handlers) => *installed = Some(handlers),
            Err(error) => {
                drop(lock(&self.0.waiting).take());
                return Err(InstallError::Io(error));
            }
        }
        drop(installed);
        if std::process::id() == 1 {
            let detail = format_args!("process 1 has to wait for the orphans of its container");
            self.0.emit(Severity::Info, "is_process_1", detail);
        }
        Ok(())
    }

    /// Handles the signals no more, and ends the process no more at the deadline (unless
    /// [asked for](super::GracefulShutdownBuilder::exit_at_deadline)). Signals do again what they
    /// did before, as far as that can be known: what was ignored is, and what had its default effect
    /// has it, also for those who have come to listen for the signal meanwhile. False if it was
    /// not [installed](Self::install).
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// let shutdown = buttress::supervise::shutdown::GracefulShutdown::new("orders");
    /// shutdown.install()?;
    /// assert!(shutdown.uninstall());
    /// assert!(!shutdown.is_installed());
    /// # }
    /// # Ok::<(), buttress::supervise::shutdown::InstallError>(())
    /// ```
    #[allow(clippy::must_use_candidate, reason = "most callers want it gone")]
    pub fn uninstall(&self) -> bool {
        let installed = lock(&self.0.installed).take();
        // If it still waits, it ends.
        drop(lock(&self.0.waiting).take());
        installed.is_some()
    }

    /// Whether the signals are handled.
    ///
    /// ```
    /// assert!(!buttress::supervise::shutdown::GracefulShutdown::new("orders").is_installed());
    /// ```
    #[must_use]
    pub fn is_installed(&self) -> bool {
        lock(&self.0.installed).is_some()
    }
}

/// The signals could not be handled.
///
/// ```
/// use buttress::supervise::shutdown::InstallError;
/// assert_eq!(InstallError::AlreadyInstalled.to_string(), "the signals are handled already");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum InstallError {
    /// By this very object.
    AlreadyInstalled,
    /// The system does not let us.
    Io(io::Error),
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyInstalled => f.write_str("the signals are handled already"),
            Self::Io(error) => write!(f, "the signals cannot be handled: {error}"),
        }
    }
}

impl StdError for InstallError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::AlreadyInstalled => None,
            Self::Io(error) => Some(error),
        }
    }
}
