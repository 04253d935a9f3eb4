//! What a registry shows of a hedge, and the orders it takes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::handle::{HedgeStats, Shared, Withheld};
use crate::error::ConfigError;
use crate::managed::{Level, Managed, ObjectStatus, Operation, unknown};
use crate::name::LayerKind;

const COMMANDS: &[&str] = &["engage", "release"];

impl Shared {
    pub(super) fn stats(&self) -> HedgeStats {
        let Self { core, counts, .. } = self;
        HedgeStats {
            delay: core.delay().map(Duration::from_nanos),
            median: core.median().map(Duration::from_nanos),
            saved: core.saved(),
            won: counts.won.load(Ordering::Acquire),
            sent: counts.sent.load(Ordering::Relaxed),
            withheld: counts.withheld.iter().map(|n| n.load(Ordering::Relaxed)).sum(),
        }
    }

    pub(super) fn engage(&self) {
        self.engaged.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn release(&self) {
        let _ =
            self.engaged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }
}

impl Managed for Shared {
    fn kind(&self) -> LayerKind {
        LayerKind::Hedge
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn describe(&self) -> ObjectStatus {
        let stats = self.stats();
        let engaged = self.engaged.load(Ordering::Relaxed);
        let (state, level, why) = match stats.delay {
            _ if engaged > 0 => {
                ("engaged", Level::Warn, format!("{engaged} hold it back: no hedges"))
            }
            None => {
                let needed = self.core.limits.min_samples();
                ("learning", Level::Ok, format!("fewer than {needed} answers seen"))
            }
            Some(_) => ("hedging", Level::Ok, String::new()),
        };
        let burst = f64::from(self.core.limits.burst());
        let mut status = ObjectStatus::new(state).level(level).why(why).commands(COMMANDS).gauge(
            "saved",
            "saved",
            stats.saved,
            "hedges",
            |gauge| {
                (gauge.max, gauge.threshold) = (Some(burst), Some(1.0));
                gauge.below = true;
            },
        );
        if let Some(delay) = stats.delay {
            status = status.gauge("delay", "delay", delay.as_secs_f64(), "s", |_| {});
        }
        if let Some(median) = stats.median {
            status = status.gauge("median", "median", median.as_secs_f64(), "s", |_| {});
        }
        status = status.counter("sent", stats.sent).counter("won", stats.won);
        for why in Withheld::ALL {
            let n = self.counts.withheld[why as usize].load(Ordering::Relaxed);
            status = status.reject(why.as_str(), n);
        }
        status
    }

    fn operate(&self, operation: &Operation) -> Result<(), ConfigError> {
        match operation {
            Operation::Engage => self.engage(),
            Operation::Release => self.release(),
            other => return Err(unknown(other, COMMANDS)),
        }
        Ok(())
    }
}
