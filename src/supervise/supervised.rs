//! What the `main` of a supervised process is given.

use std::future::IntoFuture;

use super::health::Health;
use super::serve::{Listener, Serve, ServeReport, serve};
use super::shutdown::{CleanupCallback, GracefulShutdown, RegisterError};
use super::{Lifecycle, Phase};

/// The process, as its `main` sees it under a [`Supervisor`](super::Supervisor). Clones are the same.
///
/// ```
/// use buttress::supervise::{Process, Supervisor};
/// let process: Process = Supervisor::builder("orders").build()?.process();
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Process {
    shutdown: GracefulShutdown,
    health: Health,
}

impl Process {
    pub(super) const fn new(shutdown: GracefulShutdown, health: Health) -> Self {
        Self { shutdown, health }
    }

    /// The phases.
    ///
    /// ```
    /// # use buttress::supervise::{Phase, Supervisor};
    /// let process = Supervisor::builder("orders").build()?.process();
    /// assert_eq!(process.lifecycle().phase(), Phase::Starting);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub fn lifecycle(&self) -> &Lifecycle {
        self.shutdown.lifecycle()
    }

    /// The shutdown, to begin it or to hang it on a failure budget. Do not wait for its end within `main`:
    /// it waits for the end of `main`.
    ///
    /// ```
    /// # use buttress::supervise::Supervisor;
    /// use buttress::failure_budget::FailureBudget;
    /// let process = Supervisor::builder("worker").build()?.process();
    /// let budget = FailureBudget::builder("jobs").lever(process.shutdown().clone()).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub const fn shutdown(&self) -> &GracefulShutdown {
        &self.shutdown
    }

    /// What probes, systemd and the heartbeat are told.
    ///
    /// ```
    /// # use buttress::supervise::Supervisor;
    /// let process = Supervisor::builder("orders").build()?.process();
    /// assert!(process.health().is_live());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[must_use]
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Start-up is over. Readiness may still wait for [gates](Health::gate). False if it was over before.
    ///
    /// ```
    /// # use buttress::supervise::Supervisor;
    /// let process = Supervisor::builder("worker").build()?.process();
    /// process.ready();
    /// assert!(process.health().is_ready());
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    #[allow(clippy::must_use_candidate, reason = "most callers do not care who was first")]
    pub fn ready(&self) -> bool {
        self.lifecycle().advance(Phase::Ready, None)
    }

    /// Start-up is over, and `app` is served on `listener` until a shutdown has begun and everything in flight is
    /// answered. For limits, or for TLS, see [`Server`](super::serve::Server).
    ///
    /// ```no_run
    /// # use buttress::supervise::Process;
    /// # async fn doc(process: Process, app: axum::Router) -> std::io::Result<()> {
    /// let listener = tokio::net::TcpListener::bind("0.0.0.0:8080").await?;
    /// let report = process.serve(listener, app).await;
    /// println!("{report}");
    /// # Ok(()) }
    /// ```
    pub async fn serve<L: Listener, S>(&self, listener: L, app: S) -> ServeReport
    where
        Serve<L, S>: IntoFuture<Output = ServeReport>,
    {
        let server = serve(listener, app, self.lifecycle());
        self.ready();
        server.await
    }

    /// Returns when a shutdown has begun: stop taking on work. Dropping the future has no effect.
    ///
    /// ```
    /// # use buttress::supervise::Supervisor;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let process = Supervisor::builder("worker").build()?.process();
    /// process.shutdown().begin();
    /// process.stopping().await;
    /// # Ok::<(), buttress::ConfigError>(())
    /// # }).unwrap()
    /// ```
    pub async fn stopping(&self) {
        self.lifecycle().reached(Phase::LameDuck).await;
    }

    /// Registers a callback for the end, as [`GracefulShutdown::register`].
    ///
    /// # Errors
    /// If there is one of this name, or the shutdown has begun; the error gives the callback back.
    ///
    /// ```
    /// # use buttress::supervise::{Supervisor, shutdown::CleanupCallback};
    /// let process = Supervisor::builder("orders").build()?.process();
    /// process.on_shutdown(CleanupCallback::blocking("flush", || ()))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_shutdown(&self, callback: CleanupCallback) -> Result<(), RegisterError> {
        self.shutdown.register(callback)
    }
}
