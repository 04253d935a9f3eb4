//! A whole process under a supervisor, ended from outside. This binary starts itself again as that process.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod child;
mod ends;
#[path = "../supervise_shutdown/process.rs"]
#[allow(dead_code, reason = "shared with the tests of the shutdown alone")]
mod process;

use std::sync::mpsc::channel;
use std::time::Duration;

/// Blocks the thread.
fn sleep(time: Duration) {
    let (_kept, never) = channel::<()>();
    let _ = never.recv_timeout(time);
}
