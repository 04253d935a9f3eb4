//! The store's time: the machine's wall clock when the store was opened, or the latest time in the file if
//! that is later, and from there on the monotonic clock. So a wall clock that is set while the store is open
//! moves nothing, and one that was set back before it was opened does not turn the store's time back. Nor does a
//! file that had to be opened again, and in which another process has written meanwhile.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::store::StoreTime;

/// A reading of the monotonic clock.
///
/// Not tokio's clock: the threads of a store have no runtime, and a file outlives the paused clock of a
/// test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(std::time::Instant);

impl Moment {
    pub(super) fn now() -> Self {
        Self(std::time::Instant::now())
    }

    pub(super) fn age(self, now: Self) -> Duration {
        now.0.saturating_duration_since(self.0)
    }
}

/// Where time comes from. Tests put their own here.
pub(super) trait Times: Send + Sync + 'static {
    /// Microseconds since 1970, as the machine believes.
    fn wall(&self) -> u64;
    /// Microseconds since some moment, never less than before.
    fn monotonic(&self) -> u64;
}

pub(super) struct Machine(Moment);

impl Machine {
    pub(super) fn new() -> Self {
        Self(Moment::now())
    }
}

impl Times for Machine {
    fn wall(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        micros(since.unwrap_or_default())
    }

    fn monotonic(&self) -> u64 {
        micros(self.0.age(Moment::now()))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) struct Clock {
    times: Arc<dyn Times>,
    started: u64,
    opened: u64,
    /// By how much another process, which had the file meanwhile, was ahead.
    ahead: AtomicU64,
}

impl Clock {
    /// `latest` is the latest time in the file. The clock starts after it.
    pub(super) fn starting(times: Arc<dyn Times>, latest: u64) -> Self {
        let started = times.monotonic();
        let opened = times.wall().max(latest.saturating_add(1));
        Self { times, started, opened, ahead: AtomicU64::new(0) }
    }

    /// When the store was opened: later than anything that an earlier process wrote.
    pub(super) fn opened(&self) -> StoreTime {
        StoreTime::from_micros(self.opened)
    }

    pub(super) fn now(&self) -> StoreTime {
        let elapsed = self.times.monotonic().saturating_sub(self.started);
        let ahead = self.ahead.load(Ordering::Relaxed);
        StoreTime::from_micros(self.opened.saturating_add(elapsed).saturating_add(ahead))
    }

    /// Goes on after `latest`, where another process has come to meanwhile.
    pub(super) fn catch_up(&self, latest: u64) {
        let behind = latest.saturating_add(1).saturating_sub(self.now().as_micros());
        self.ahead.fetch_add(behind, Ordering::Relaxed);
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("opened", &self.opened).finish_non_exhaustive()
    }
}
