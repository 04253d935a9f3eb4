//! The supervisor of processes with real processes, signals and time. A binary of its own, because its tests
//! start this very binary again as the supervisor that is killed.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod beside;
mod child;
mod death;
mod heartbeat;
mod orphans;
mod output;
mod reaping;
mod restarts;
mod stopping;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress::observe::{Event, EventKind};
use buttress::supervise::{
    ProcessIdentity, ProcessStatus,
    process::{Child, ChildStatus, ProcessSupervisor, SupervisorReport},
};
use tokio::time::Instant;

/// Long enough for anything on a busy machine; nothing is shown by reaching it.
const LONG: Duration = Duration::from_secs(60);

fn pause(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    {
        std::thread::park_timeout(left);
    }
}

/// How long it took to become true.
#[track_caller]
fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        pause(Duration::from_millis(5));
    }
    start.elapsed()
}

fn runs(pid: u32) -> bool {
    ProcessStatus::of(pid).is_some_and(|status| !status.is_dead())
}

fn identity(pid: u32) -> ProcessIdentity {
    ProcessIdentity::of(pid).unwrap()
}

fn state(pid: u32) -> char {
    ProcessStatus::of(pid).map_or('-', |status| status.state)
}

fn send(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

fn sleeper(name: &'static str) -> Child {
    Child::new(name, "sleep").arg("1000")
}

fn shell(name: &'static str, script: &str) -> Child {
    Child::new(name, "sh").args(["-c", script])
}

fn status(supervisor: &ProcessSupervisor, name: &str) -> ChildStatus {
    supervisor.status().into_iter().find(|status| status.name.as_str() == name).unwrap()
}

fn pid(supervisor: &ProcessSupervisor, name: &str) -> u32 {
    status(supervisor, name).pid.unwrap()
}

fn ended(supervisor: &ProcessSupervisor) -> SupervisorReport {
    supervisor.wait_blocking(LONG).expect("it has not ended")
}

/// A name that no other test, and no earlier run of this one, has used.
fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let started = ProcessIdentity::own().started.unwrap_or_default();
    format!("{name}-{}-{started}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A directory that is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(unique("buttress"));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

/// What a supervisor told: what happened, and the particulars.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<(&'static str, String)>>>);

impl Events {
    fn observer(&self) -> impl Fn(&Event<'_>) + Send + Sync + 'static {
        let events = Arc::clone(&self.0);
        move |event: &Event<'_>| {
            if let EventKind::Supervised { what, detail, .. } = event.kind {
                events.lock().unwrap().push((what, detail.to_string()));
            }
        }
    }

    /// The children that this happened to, in order.
    fn of(&self, what: &str) -> Vec<String> {
        let events = self.0.lock().unwrap();
        let name = |detail: &str| detail.split(':').next().unwrap().to_owned();
        events.iter().filter(|(kind, _)| *kind == what).map(|(_, detail)| name(detail)).collect()
    }
}
