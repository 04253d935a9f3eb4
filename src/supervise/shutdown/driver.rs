//! The course of a shutdown, on a thread of its own: neither a blocked runtime nor a caller that loses its
//! patience can stop it.

use std::time::Duration;

use tokio::time::Instant;

use crate::observe::Severity;
use crate::sync::lock;

use super::super::Phase;
use super::callback::CleanupCallback;
use super::job;
use super::report::{CallbackOutcome, PhaseReport};
use super::shared::Shared;

/// Ends it whatever happens: others wait for the end.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

pub(super) fn drive(shared: &Shared) {
    let _end = End(shared);
    let (at, cause) = {
        let mut run = lock(&shared.run);
        let Some(begun) = &mut run.begun else { return };
        // Whoever began it may have looked at a clock that a test has moved.
        begun.at = begun.at.min(Instant::now());
        (begun.at, begun.report.cause)
    };
    let (plan, life) = (&shared.plan, &shared.life);
    let deadline = at + plan.total;
    shared.tell(
        Severity::Info,
        "shutdown_begun",
        format_args!("{cause}, deadline in {:?}", plan.total),
    );

    phase(shared, Phase::LameDuck, at, plan.lame_duck, |end| {
        // Or until somebody is in a hurry.
        let _ = life.wait_blocking(Phase::Draining, left(end));
    });

    let now = Instant::now();
    let limit = plan.drain.min(left(deadline));
    phase(shared, Phase::Draining, now, limit, |end| {
        life.advance(Phase::Draining, Some(end));
        life.drained_blocking(left(end));
        let held_by = life.held_by();
        if !held_by.is_empty() {
            let detail = format_args!("held by {held_by:?}");
            shared.tell(Severity::Warning, "drain_cut_off", detail);
        }
        shared.note(|report| report.held_by = held_by);
    });

    let now = Instant::now();
    let limit = plan.cleanup.unwrap_or(plan.total).min(left(deadline));
    phase(shared, Phase::Cleanup, now, limit, |end| {
        life.advance(Phase::Cleanup, Some(end));
        clean_up(shared, limit, end);
    });
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

fn phase(shared: &Shared, phase: Phase, from: Instant, limit: Duration, act: impl FnOnce(Instant)) {
    shared.note(|report| report.phases.push(PhaseReport { phase, took: None, limit }));
    act(from + limit);
    let took = from.elapsed();
    shared.note(|report| {
        if let Some(last) = report.phases.last_mut() {
            last.took = Some(took);
        }
    });
    let last = phase == Phase::Cleanup;
    let (what, name) = ("shutdown_phase_ended", phase.as_str());
    let detail = format_args!("{name} took {took:?} of {limit:?}");
    if last {
        shared.tell_last(left(from + limit), what, detail);
    } else {
        shared.tell(Severity::Info, what, detail);
    }
}

fn clean_up(shared: &Shared, limit: Duration, end: Instant) {
    let (callbacks, ambient) = {
        let mut run = lock(&shared.run);
        let blocked = run.begun.as_ref().is_some_and(|begun| begun.runtime_blocked);
        let ambient = run.runtime.clone();
        let mut callbacks = std::mem::take(&mut run.callbacks);
        if blocked {
            callbacks.iter_mut().for_each(|callback| callback.runtime = None);
        }
        (callbacks, if blocked { None } else { ambient })
    };
    let count = callbacks.len();
    for (number, mut callback) in callbacks.into_iter().enumerate() {
        let name = callback.name;
        let granted = grant(&callback, limit, left(end), count - number - 1);
        if granted.is_zero() {
            shared.tell(Severity::Error, "callback_skipped", format_args!("{name}: no time left"));
            continue;
        }
        let from = Instant::now();
        shared.note(|report| report.callbacks[number].outcome = CallbackOutcome::Running);
        if callback.runtime.is_none() {
            callback.runtime.clone_from(&ambient);
        }
        let outcome = job::run(callback, granted);
        let took = from.elapsed();
        match &outcome {
            CallbackOutcome::Failed(error) => {
                shared.tell(Severity::Error, "callback_failed", format_args!("{name}: {error}"));
            }
            CallbackOutcome::Panicked(message) => {
                let detail = format_args!("{name}: {message}");
                shared.tell(Severity::Error, "callback_panicked", detail);
            }
            CallbackOutcome::TimedOut => {
                let detail = format_args!("{name}: left after {granted:?}");
                shared.tell(Severity::Error, "callback_timed_out", detail);
            }
            _ => {}
        }
        shared.note(|report| {
            let entry = &mut report.callbacks[number];
            (entry.took, entry.outcome) = (took, outcome);
        });
    }
}

/// How long a callback may take: its own limit, or what is left less a twentieth of the phase for each
/// of those after it, together at most half. So one that hangs leaves the others some time, and one that
/// is slow has nearly all of it.
fn grant(callback: &CleanupCallback, phase: Duration, left: Duration, later: usize) -> Duration {
    let later = u32::try_from(later).unwrap_or(u32::MAX);
    let kept = phase / 20 * later.min(10);
    let most = left.saturating_sub(kept).max(left / later.saturating_add(1));
    callback.timeout.map_or(most, |limit| limit.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_hangs_leaves_the_others_some_time() {
        let secs = Duration::from_secs;
        let callback = || CleanupCallback::blocking("a", || ());
        assert_eq!(grant(&callback(), secs(20), secs(20), 0), secs(20));
        assert_eq!(grant(&callback(), secs(20), secs(20), 3), secs(17));
        assert_eq!(grant(&callback(), secs(20), secs(3), 2), secs(1));
        assert_eq!(grant(&callback(), secs(20), secs(20), 1_000), secs(10));
        assert_eq!(grant(&callback(), secs(20), secs(2), usize::MAX), secs(2) / u32::MAX);
        assert_eq!(grant(&callback().timeout(secs(4)), secs(20), secs(20), 3), secs(4));
        assert_eq!(grant(&callback().timeout(secs(40)), secs(20), secs(20), 3), secs(17));
        assert_eq!(grant(&callback(), secs(20), Duration::ZERO, 3), Duration::ZERO);
    }
}
