//! A child's heartbeat file as the answer to whether it is ready and alive.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use crate::clock::{self, Tick};
use crate::supervise::{
    ProcessStatus,
    heartbeat::{Heartbeat, HeartbeatState},
};
use crate::sync::lock;

use super::child::{ChildProcess, Liveness};

pub(super) struct Beats {
    path: PathBuf,
    max_age: Duration,
    watched: Mutex<Option<Watched>>,
}

struct Watched {
    run: u64,
    last: Option<HeartbeatState>,
    /// For how long nothing new has come while somebody looked. Not by comparing clocks: time in which this
    /// process did not run itself, or the machine slept, is no silence of the child.
    silent: Duration,
    asked: Tick,
}

impl Beats {
    pub(super) const fn new(path: PathBuf, max_age: Duration) -> Self {
        Self { path, max_age, watched: Mutex::new(None) }
    }

    /// The file's state, if this process, or one in its group, has written it: an earlier run's may
    /// still be there.
    fn read(&self, process: &ChildProcess) -> Option<HeartbeatState> {
        let state = Heartbeat::read_state(&self.path)?;
        let status = ProcessStatus::of(state.pid)?;
        let same = state.started.is_none_or(|started| started == status.started);
        let own = state.pid == process.pid || status.group == process.pid;
        (same && own).then_some(state)
    }

    pub(super) fn ready(&self, process: &ChildProcess) -> bool {
        self.read(process).is_some()
    }

    pub(super) fn alive(&self, process: &ChildProcess) -> Liveness {
        let state = self.read(process);
        let traced = ProcessStatus::of(process.pid).is_some_and(|status| status.state == 't');
        self.judge(process, state, traced, clock::now())
    }

    fn judge(
        &self,
        process: &ChildProcess,
        state: Option<HeartbeatState>,
        traced: bool,
        now: Tick,
    ) -> Liveness {
        let mut watched = lock(&self.watched);
        let watched = watched.get_or_insert_with(|| Watched::new(process.run, now));
        if watched.run != process.run {
            *watched = Watched::new(process.run, now);
        }
        let mut passed = now.since(watched.asked).min(process.every * 2);
        if traced {
            // A debugger holds it. When that lets it go it has as long as it had before.
            passed = Duration::ZERO;
        }
        watched.asked = now;
        if state.is_some() && state != watched.last {
            watched.last = state;
            watched.silent = Duration::ZERO;
            return Liveness::Alive;
        }
        watched.silent = watched.silent.saturating_add(passed);
        if watched.silent > self.max_age { Liveness::Frozen } else { Liveness::Unknown }
    }
}

impl Watched {
    const fn new(run: u64, now: Tick) -> Self {
        Self { run, last: None, silent: Duration::ZERO, asked: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_a_debugger_is_no_silence_though_nothing_is_written_when_it_ends() {
        let second = Duration::from_secs(1);
        let beats = Beats::new("/nowhere".into(), second * 3);
        let process = ChildProcess { name: "a".into(), pid: 1, run: 1, every: second };
        let mut now = Tick(1);
        let mut ask = |traced| {
            now = now.after(second);
            beats.judge(&process, None, traced, now)
        };
        for _ in 0..100 {
            assert_eq!(ask(true), Liveness::Unknown);
        }
        for _ in 0..3 {
            assert_eq!(ask(false), Liveness::Unknown);
        }
        assert_eq!(ask(false), Liveness::Frozen);
    }
}
