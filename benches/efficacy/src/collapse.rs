//! The three collapses: a spike and a ramp on a server that is slower the more it has to do (Marc Brooker's
//! `simple_collapse_sim`), and ten seconds of a dead link at 93 % load (HotOS '21).

use std::time::Duration;

use crate::scenario::{Condition, Plan, Score, Shape, WELL};
use crate::tally::Tally;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Collapse {
    Spike,
    Ramp,
    Link,
}

/// What a run shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    /// Share of requests that got an answer.
    pub(crate) ok: f64,
    /// Attempts for each request.
    pub(crate) load: f64,
    /// Seconds until all was well again; none within the run.
    pub(crate) recovery: Option<f64>,
}

impl Collapse {
    pub(crate) const ALL: [Self; 3] = [Self::Spike, Self::Ramp, Self::Link];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Spike => "S1 spike",
            Self::Ramp => "S2 ramp",
            Self::Link => "H1 link",
        }
    }

    /// As a word, for the command line and for files.
    pub(crate) fn word(self) -> String {
        self.name().replace(' ', "-")
    }

    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Spike => {
                "40 requests a second, 80 at 20-25 s, on a server that is slower the more it has to do"
            }
            Self::Ramp => {
                "40 requests a second, up to 80 at 25 s and down again, on the same server"
            }
            Self::Link => "280 requests a second on 300; nothing arrives 50-60 s, then all of it",
        }
    }

    /// At least this share, at most this load.
    pub(crate) fn bar(self) -> (f64, f64) {
        match self {
            Self::Spike => (0.95, 1.05),
            Self::Ramp => (0.90, 1.05),
            Self::Link => (0.97, 1.02),
        }
    }

    pub(crate) fn plan(self) -> Plan {
        let (attempts, timeout) = match self {
            Self::Spike | Self::Ramp => (3, Duration::from_secs(3)),
            Self::Link => (2, Duration::from_secs(1)),
        };
        let shape = Shape {
            clients: 1,
            workers: 1,
            service: Duration::from_secs_f64(1.0 / 300.0),
            sigma: 0.0,
            // All attempts in full and their pauses.
            deadline: timeout * attempts + Duration::from_millis(500),
            utilisation: 0.0,
            burstiness: 1.0,
            fail_beyond: None,
        };
        let seconds = if self == Self::Link { 400 } else { 80 };
        Plan {
            servers: 1,
            workers: 1,
            queue: usize::MAX,
            rate: if self == Self::Link { 280.0 } else { 40.0 },
            users: 0,
            think: Duration::ZERO,
            critical: 0.0,
            quota_rate: None,
            quota_burst: 1.0,
            retry_after: Duration::ZERO,
            seconds,
            goes_on: false,
            window: (0, seconds),
            score: Score::Goodput,
            script: if self == Self::Link {
                |_, t| Condition { deferred: (50.0..60.0).contains(&t), ..WELL }
            } else {
                |_, _| WELL
            },
            attempts,
            attempt_timeout: timeout,
            transport_timeout: Some(timeout),
            rate_at: match self {
                Self::Spike => Some(|t| if (20.0..25.0).contains(&t) { 80.0 } else { 40.0 }),
                Self::Ramp => Some(|t| 80.0 - 1.6 * (t - 25.0).abs()),
                Self::Link => None,
            },
            crowded: self != Self::Link,
            shape,
        }
    }

    pub(crate) fn shown(self, tally: &Tally) -> Shown {
        let plan = self.plan();
        let all = tally.window((0, plan.seconds));
        // What is sent after the last arrival counts, too.
        let attempts: u64 = tally.seconds.iter().map(|second| second.attempts).sum();
        let offered = all.offered.max(1) as f64;
        let share = |from: usize| {
            let five = tally.window((from, from + 5));
            if five.offered == 0 { 1.0 } else { five.good as f64 / five.offered as f64 }
        };
        let (from, last) = match self {
            Self::Spike => (25, 70),
            Self::Ramp => (70, 70),
            Self::Link => (60, plan.seconds - 6),
        };
        let recovery = (from..=last)
            .find(|&at| share(at) >= 0.95 && (at..=last).all(|later| share(later) >= 0.8))
            .map(|at| (at - from) as f64);
        Shown { ok: all.good as f64 / offered, load: attempts as f64 / offered, recovery }
    }
}
