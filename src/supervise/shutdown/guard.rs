//! The end that does not depend on anybody.

use std::io::Write;
use std::sync::Arc;
use std::thread;

use tokio::time::Instant;

use crate::clock::park;
use crate::observe::Severity;

use super::super::words::last_words;
use super::report::ForcedExit;
use super::shared::Shared;

/// Ends the process at the deadline, on a thread of its own.
pub(super) fn start(shared: &Arc<Shared>) {
    let theirs = Arc::clone(shared);
    let thread = thread::Builder::new().name("buttress-exit".into());
    let watch = move || {
        while let Some(deadline) = theirs.deadline()
            && let left = deadline.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            park(left);
        }
        force(&theirs, ForcedExit::Deadline);
    };
    if let Err(error) = thread.spawn(watch) {
        let detail = format_args!("no thread that ends the process at the deadline: {error}");
        shared.tell(Severity::Error, "no_exit_guard", detail);
    }
}

/// Writes the report and ends the process, without `atexit` and without waiting for anybody.
pub(super) fn force(shared: &Arc<Shared>, why: ForcedExit) -> ! {
    let code = match why {
        ForcedExit::Deadline => shared.codes.forced,
        ForcedExit::Escalated(signal) => signal.exit_code(),
    };
    let shared = Arc::clone(shared);
    last_words(move || {
        shared.note(|report| report.forced = Some(why));
        if let Some(report) = shared.report() {
            let _ = std::io::stderr().write_all(format!("{report}\n").as_bytes());
        }
        shared.emit(Severity::Error, "forced_exit", format_args!("{why}"));
    });
    exit(code)
}

#[cfg(unix)]
fn exit(code: u8) -> ! {
    signal_hook::low_level::exit(i32::from(code))
}

#[cfg(not(unix))]
fn exit(code: u8) -> ! {
    std::process::exit(i32::from(code))
}
