//! The graceful shutdown with real processes, real signals and real time. A binary of its own, because its
//! tests start this very binary again as the process that has to end.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod child;
mod deadline;
mod golden;
mod golden_processes;
mod process;
mod signals;

use std::sync::mpsc::channel;
use std::time::Duration;

/// Blocks the thread.
fn sleep(time: Duration) {
    let (_kept, never) = channel::<()>();
    let _ = never.recv_timeout(time);
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}
