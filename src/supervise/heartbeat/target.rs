//! Something else that can die while the process goes on.

/// A part of the program that can tell whether it is dead: a connection, a worker.
///
/// Closures `Fn() -> bool` implement it.
///
/// ```
/// use buttress::supervise::HeartbeatTarget;
/// struct Socket { closed: std::sync::atomic::AtomicBool }
/// impl HeartbeatTarget for Socket {
///     fn is_dead(&self) -> bool {
///         self.closed.load(std::sync::atomic::Ordering::Relaxed)
///     }
/// }
/// assert!(!Socket { closed: false.into() }.is_dead());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not tell whether it is dead",
    note = "implement `HeartbeatTarget`, or use a closure `|| -> bool`"
)]
pub trait HeartbeatTarget: Send + Sync + 'static {
    /// Whether it is. Called on the heartbeat's thread at each beat; must not block.
    fn is_dead(&self) -> bool;
}

impl<F> HeartbeatTarget for F
where
    F: Fn() -> bool + Send + Sync + 'static,
{
    fn is_dead(&self) -> bool {
        self()
    }
}
