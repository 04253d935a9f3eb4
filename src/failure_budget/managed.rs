//! What a registry shows of a failure budget, and the orders it takes.

use super::shared::Shared;
use super::state::BudgetState;
use crate::clock;
use crate::error::ConfigError;
use crate::managed::{Level, Managed, ObjectStatus, Operation, unknown};
use crate::name::LayerKind;

const COMMANDS: &[&str] = &["engage", "reset"];

impl Managed for Shared {
    fn kind(&self) -> LayerKind {
        LayerKind::FailureBudget
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn describe(&self) -> ObjectStatus {
        let at = clock::now();
        // Time alone ends a breach: what is shown must not be older than what a call would see.
        self.tell(self.core.poll(at));
        let now = self.core.snapshot(at);
        let config = self.core.settings();
        let level = match now.state {
            BudgetState::Healthy | BudgetState::Retired => Level::Ok,
            BudgetState::Breached | BudgetState::Tripped => Level::Bad,
            _ => Level::Warn,
        };
        let why = match (&now.breach, now.state) {
            (Some(breach), _) => breach.to_string(),
            (None, BudgetState::Tripped) => "tripped by hand".to_owned(),
            (None, _) => String::new(),
        };
        let mut status = ObjectStatus::new(now.state.as_str())
            .level(level)
            .why(why)
            .since(now.in_state)
            .commands(COMMANDS);
        match &now.slo {
            None => {
                status = status
                    .gauge("failure_rate", "failed", now.failure_rate, "ratio", |gauge| {
                        (gauge.max, gauge.threshold) = (Some(1.0), Some(config.threshold));
                    })
                    .gauge("window_fill", "window", now.samples as f64, "calls", |gauge| {
                        gauge.threshold = Some(config.min_samples as f64);
                    });
            }
            Some(slo) => {
                let rate = slo.failures as f64 / slo.samples.max(1) as f64;
                let burn = rate / (1.0 - slo.objective).max(f64::MIN_POSITIVE);
                let left = slo.time_to_exhaustion.map_or(f64::NAN, |left| left.as_secs_f64());
                status = status
                    .gauge(
                        "budget_remaining",
                        "budget left",
                        slo.budget_remaining,
                        "ratio",
                        |gauge| {
                            (gauge.max, gauge.threshold) = (Some(1.0), Some(0.0));
                            gauge.below = true;
                        },
                    )
                    .gauge("burn_rate", "burn over the period", burn, "x", |gauge| {
                        gauge.threshold = Some(1.0);
                    })
                    .gauge("time_to_exhaustion", "exhausted in", left, "s", |_| {})
                    .fact("objective", format!("{} %", slo.objective * 100.0));
                if let Some(left) = slo.time_to_exhaustion {
                    status = status.next("exhausted", left);
                }
            }
        }
        status
            .gauge("refused_share", "refused", now.refused_share, "ratio", |gauge| {
                gauge.max = Some(1.0);
            })
            .counter("calls", now.stats.samples)
            .counter("failed", now.stats.failures)
            .counter("breaches", now.stats.breaches)
            .counter("recoveries", now.stats.recoveries)
            .reject("budget_exhausted", now.stats.rejected)
    }

    fn operate(&self, operation: &Operation) -> Result<(), ConfigError> {
        match operation {
            Operation::Engage => self.tell(self.core.trip(clock::now())),
            Operation::Reset => self.tell(self.core.reset(clock::now())),
            other => return Err(unknown(other, COMMANDS)),
        }
        Ok(())
    }
}
