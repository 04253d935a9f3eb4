//! Heartbeat and watchdogs with real processes, signals, disks and runtimes. A binary of its own, because
//! its tests start this very binary again as the process that is stopped or killed.
//!
//! Times are bounds: the machine may be shared.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod child;
mod disk;
mod process;
mod runtime;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

/// Tests that measure times hold this for reading; one that takes all processors, for writing.
static QUIET: std::sync::RwLock<()> = std::sync::RwLock::new(());

fn quiet() -> std::sync::RwLockReadGuard<'static, ()> {
    QUIET.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A directory that is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("buttress-supervise-beat-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn beat(&self) -> PathBuf {
        self.0.join("beat.json")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Sleeps this thread.
fn rest(time: Duration) {
    let until = tokio::time::Instant::now() + time;
    while let Some(left) = until.checked_duration_since(tokio::time::Instant::now()) {
        std::thread::park_timeout(left.max(Duration::from_micros(100)));
    }
}

/// Waits until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = tokio::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LONG, "never: {what}");
        rest(ms(5));
    }
}
