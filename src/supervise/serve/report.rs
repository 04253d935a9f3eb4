use std::fmt;
use std::time::Duration;

/// What became of a server's connections and requests when it drained.
///
/// ```
/// let report = buttress::supervise::serve::ServeReport::default();
/// assert!(report.is_clean());
/// assert_eq!(report.to_string(), "drained in 0ns: 0 requests answered, 0 broken, 0 aborted; \
///     0 connections closed, 0 aborted (0 upgraded)");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServeReport {
    /// Connections accepted since the server began.
    pub accepted: u64,
    /// Of these, those that were taken out of the kernel's queue when it stopped listening.
    pub queued: u64,
    /// Connections there were when the drain began, those in the queue included.
    pub connections: u64,
    /// Requests answered to the end of their body while draining. Its last piece has been written to the socket if
    /// the body knows that it is the last; else (trailers come, or an end that is seen only when asked for) it has
    /// been made, and what of it is unwritten at the deadline is in [`connections_aborted`](Self::connections_aborted).
    pub requests_drained: u64,
    /// Requests that ended otherwise while draining: the client went away, or the service failed.
    pub requests_broken: u64,
    /// Requests in flight when the deadline passed.
    pub requests_aborted: u64,
    /// Connections that came to their end while draining.
    pub connections_closed: u64,
    /// Connections cut at the deadline.
    pub connections_aborted: u64,
    /// Of these, those that spoke another protocol (WebSocket, say).
    pub upgrades_aborted: u64,
    /// How long it took.
    pub took: Duration,
}

impl ServeReport {
    /// Whether nothing was cut at the deadline.
    ///
    /// ```
    /// assert!(buttress::supervise::serve::ServeReport::default().is_clean());
    /// ```
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.connections_aborted == 0 && self.requests_aborted == 0
    }
}

impl fmt::Display for ServeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "drained in {:?}: {} requests answered, {} broken, {} aborted; {} connections closed, \
             {} aborted ({} upgraded)",
            self.took,
            self.requests_drained,
            self.requests_broken,
            self.requests_aborted,
            self.connections_closed,
            self.connections_aborted,
            self.upgrades_aborted,
        )
    }
}
