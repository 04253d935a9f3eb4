//! What a registry shows of a backend.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::core::Core;
use super::turn::State;
use super::{BackendState, Shared};
use crate::clock::{self, Tick};
use crate::managed::{Level, Managed, ObjectStatus};
use crate::name::LayerKind;

/// Why a backend is in its state, in numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Why {
    state: State,
    failures: u32,
    latency: Duration,
    baseline: Duration,
    limit: u32,
    /// It is below one: a call is followed by a pause.
    pauses: bool,
    /// The share that is given up at its deadline, if that is what the limit is for.
    late: Option<f64>,
    before: u32,
    /// Calls a second that its quota has room for, if it has said that there is one.
    rate: Option<f64>,
}

impl Why {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most a million"
    )]
    fn of(core: &Core) -> Self {
        Self {
            state: core.state,
            failures: core.failures,
            latency: Duration::from_nanos(core.latency.typical()),
            baseline: Duration::from_nanos(core.latency.baseline()),
            limit: core.limit(),
            pauses: core.pauses(),
            late: core.late(),
            before: core.before as u32,
            rate: core.pace.rate(),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { latency, baseline, before, .. } = self;
        let limit = if self.pauses { "1, then a pause".to_owned() } else { self.limit.to_string() };
        match self.state {
            State::Up => write!(f, "answers take {latency:.1?}, usually {baseline:.1?}"),
            State::Congested => match self.late {
                Some(late) => {
                    write!(f, "{:.0} % are given up at their deadline, limit {limit}", 100.0 * late)
                }
                None => {
                    write!(f, "answers take {latency:.1?} instead of {baseline:.1?}, limit {limit}")
                }
            },
            State::Down { silent: true, .. } => {
                write!(f, "no answer for longer than one takes, which is {latency:.1?}")
            }
            State::Down { silent: false, .. } => write!(f, "{} failures in a row", self.failures),
            State::Recovering => write!(f, "it answers again, limit {limit}, before {before}"),
        }
    }
}

impl Shared {
    /// Notes that the state is a new one, and why.
    #[cold]
    pub(super) fn changed(&self, core: &Core) -> Why {
        self.since.store(clock::now().0, Relaxed);
        Why::of(core)
    }
}

impl Managed for Shared {
    fn kind(&self) -> LayerKind {
        LayerKind::Backend
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn describe(&self) -> ObjectStatus {
        let (why, counts, in_flight, waiting, retries, vain, headroom, fixed) = {
            let (core, now) = self.core_now();
            let (retries, headroom) = (core.retries(), core.has_headroom(now));
            let vain = core.retries_are_vain();
            let fixed = core.fixed_limit().is_some();
            let (why, waiting) = (Why::of(&core), core.waiting());
            (why, core.counts, core.in_flight, waiting, retries, vain, headroom, fixed)
        };
        let now = clock::now();
        let state = BackendState::of(why.state);
        let level = match state {
            BackendState::Up => Level::Ok,
            BackendState::Congested | BackendState::Recovering => Level::Warn,
            BackendState::Down => Level::Bad,
        };
        let full = in_flight >= why.limit;
        let said = match (state, waiting) {
            (BackendState::Up, 0) if full => format!("all {} places are taken", why.limit),
            (BackendState::Up, 0) => String::new(),
            (BackendState::Up, n) if why.pauses => format!("a pause between calls, {n} wait"),
            (BackendState::Up, n) => format!("all {} places are taken, {n} wait", why.limit),
            _ => why.to_string(),
        };
        let (limit, since) = (f64::from(why.limit), now.since(Tick(self.since.load(Relaxed))));
        let mut status = ObjectStatus::new(state.as_str())
            .level(level)
            .why(said)
            .since(since)
            .gauge("in_flight", "in flight", f64::from(in_flight), "calls", |gauge| {
                gauge.max = Some(limit);
            })
            .gauge("limit", "limit", limit, "calls", |_| {})
            .gauge("waiting", "waiting", waiting as f64, "calls", |gauge| {
                gauge.max = Some(super::ROOM as f64);
            })
            .counter("calls", counts.admitted)
            .counter("waited", counts.waited)
            .counter("probes", counts.probes)
            .counter("downs", counts.downs)
            // Whose deadline had passed before, and those whose would have.
            .reject("deadline_exceeded", counts.expired + counts.hopeless)
            .reject("overloaded", counts.full)
            .reject("rate_limited", counts.throttled)
            .fact("limit", if fixed { "fixed" } else { "learned" })
            .fact("pause between calls", if why.pauses { "yes" } else { "no" })
            .fact("retries are in vain", if vain { "yes" } else { "no" })
            .fact("headroom", if headroom { "yes" } else { "no" });
        if !why.baseline.is_zero() {
            let (takes, usually) = (why.latency.as_secs_f64(), why.baseline.as_secs_f64());
            status = status.gauge("latency", "answers take", takes, "s", |_| {}).gauge(
                "baseline",
                "usually",
                usually,
                "s",
                |_| {},
            );
        }
        if let Some((retries, most)) = retries {
            let (retries, most) = (f64::from(retries), f64::from(most));
            status = status.gauge("retries", "retries to give", retries, "retries", |gauge| {
                gauge.max = Some(most);
            });
        }
        if let Some(rate) = why.rate {
            status = status.gauge("rate", "rate of its quota", rate, "1/s", |_| {});
        }
        if let State::Down { next, .. } = why.state {
            status = status.next("probe", next.since(now));
        }
        status
    }
}
