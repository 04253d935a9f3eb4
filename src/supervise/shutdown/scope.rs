//! A shutdown that begins when the work is done.

use std::future::Future;

use super::handle::GracefulShutdown;
use super::install::InstallError;
use super::report::{ShutdownCause, ShutdownReport};

impl GracefulShutdown {
    /// Shuts down when the guard is dropped, also by a panic, and waits for the end, blocking the thread.
    ///
    /// ```
    /// use buttress::supervise::{Phase, shutdown::{CleanupCallback, GracefulShutdown}};
    /// let shutdown = GracefulShutdown::new("orders");
    /// shutdown.register(CleanupCallback::blocking("db", || ()))?;
    /// {
    ///     let _scope = shutdown.scope();
    ///     // work
    /// }
    /// assert_eq!(shutdown.phase(), Phase::Exited);
    /// # Ok::<(), buttress::supervise::shutdown::RegisterError>(())
    /// ```
    pub fn scope(&self) -> ShutdownScope {
        ShutdownScope(self.clone())
    }

    /// Handles the signals, does `work`, shuts down when that has ended (if no signal began it before) and
    /// waits for the end. `work` is not stopped by a signal: it sees the [phase](Self::phase) and ends
    /// by itself, as a server does when it is drained.
    ///
    /// If `work` panics, the callbacks have run when the panic goes on. Dropping the future begins the
    /// shutdown.
    ///
    /// # Errors
    /// As [`install`](Self::install).
    ///
    /// ```
    /// # #[cfg(unix)]
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let shutdown = buttress::supervise::shutdown::GracefulShutdown::new("orders");
    /// let (answer, report) = shutdown.run(async { 42 }).await?;
    /// assert!(answer == 42 && report.is_clean());
    /// # Ok::<(), buttress::supervise::shutdown::InstallError>(())
    /// # }).unwrap()
    /// ```
    pub async fn run<F: Future>(
        &self,
        work: F,
    ) -> Result<(F::Output, ShutdownReport), InstallError> {
        self.install()?;
        let scope = AsyncScope(self);
        let result = work.await;
        drop(scope);
        Ok((result, self.wait().await))
    }

    /// As [`run`](Self::run), for work that blocks the thread.
    ///
    /// # Errors
    /// As [`install`](Self::install).
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// let shutdown = buttress::supervise::shutdown::GracefulShutdown::new("orders");
    /// let (answer, report) = shutdown.run_blocking(|| 42)?;
    /// assert!(answer == 42 && report.is_clean());
    /// # }
    /// # Ok::<(), buttress::supervise::shutdown::InstallError>(())
    /// ```
    pub fn run_blocking<T>(
        &self,
        work: impl FnOnce() -> T,
    ) -> Result<(T, ShutdownReport), InstallError> {
        self.install()?;
        let scope = self.scope();
        let result = work();
        drop(scope);
        Ok((result, self.finish_blocking(ShutdownCause::ScopeEnded)))
    }
}

/// Shuts down when dropped; see [`GracefulShutdown::scope`].
///
/// ```
/// use buttress::supervise::shutdown::{GracefulShutdown, ShutdownScope};
/// let shutdown = GracefulShutdown::new("orders");
/// let scope: ShutdownScope = shutdown.scope();
/// drop(scope);
/// assert!(shutdown.is_shutting_down());
/// ```
#[derive(Debug)]
#[must_use = "it shuts down as soon as it is dropped"]
pub struct ShutdownScope(GracefulShutdown);

impl Drop for ShutdownScope {
    fn drop(&mut self) {
        self.0.finish_blocking(ShutdownCause::ScopeEnded);
    }
}

/// Begins the shutdown when dropped. Waits only for a panic, after which nobody else would.
struct AsyncScope<'a>(&'a GracefulShutdown);

impl Drop for AsyncScope<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.finish_blocking(ShutdownCause::ScopeEnded);
        } else {
            self.0.0.begin(ShutdownCause::ScopeEnded, false);
        }
    }
}
