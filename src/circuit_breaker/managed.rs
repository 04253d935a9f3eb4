//! What a registry shows of a breaker, and the orders it takes.

use std::sync::atomic::Ordering;

use super::keyed::Table;
use super::shared::Shared;
use super::state::CircuitState;
use crate::clock;
use crate::error::ConfigError;
use crate::managed::{Level, Managed, ObjectStatus, Operation, unknown};
use crate::name::LayerKind;

const COMMANDS: &[&str] = &["force_open", "force_closed", "reset", "enable", "disable"];

impl Managed for Shared {
    fn kind(&self) -> LayerKind {
        LayerKind::CircuitBreaker
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn describe(&self) -> ObjectStatus {
        let (now, config) = self.core.describe(clock::now());
        let level = match now.state {
            CircuitState::Closed => Level::Ok,
            CircuitState::Open | CircuitState::ForcedOpen if !self.is_shadow() => Level::Bad,
            _ => Level::Warn,
        };
        let mut status = ObjectStatus::new(now.state.as_str())
            .level(level)
            .why(now.reason.to_string())
            .since(now.in_state)
            .commands(COMMANDS);
        if let Some(within) = now.next_probe {
            status = status.next("probe", within);
        }
        if config.window.is_some() {
            let calls = now.window_calls as f64;
            status = status.gauge("window_fill", "window", calls, "calls", |gauge| {
                gauge.max = match config.window {
                    Some(super::config::Window::Calls(calls)) => Some(f64::from(calls)),
                    _ => None,
                };
                gauge.threshold = Some(f64::from(config.min_calls));
            });
        }
        if let Some(threshold) = config.failure_rate {
            status = status.gauge("failure_rate", "failed", now.failure_rate, "ratio", |gauge| {
                (gauge.max, gauge.threshold) = (Some(1.0), Some(threshold));
            });
        }
        if let Some(slow) = config.slow {
            status = status.gauge("slow_rate", "slow", now.slow_rate, "ratio", |gauge| {
                (gauge.max, gauge.threshold) = (Some(1.0), Some(slow.rate));
            });
        }
        let (failures, probes) = (f64::from(now.failure_count), f64::from(now.probes_in_flight));
        let stats = now.stats;
        status
            .gauge("consecutive_failures", "failures in a row", failures, "calls", |gauge| {
                gauge.threshold = config.consecutive.map(f64::from);
            })
            .gauge("probes_in_flight", "probes", probes, "calls", |gauge| {
                gauge.max = Some(f64::from(config.half_open_calls));
            })
            .counter("calls", stats.total_calls)
            .counter("succeeded", stats.successful_calls)
            .counter("failed", stats.failed_calls)
            .counter("neutral", stats.neutral_calls)
            .counter("slow", stats.slow_calls)
            .counter("state_changes", stats.state_changes)
            .reject("circuit_open", stats.rejected_calls)
            .fact("mode", if self.shadow.load(Ordering::Relaxed) { "shadow" } else { "enforcing" })
    }

    fn operate(&self, operation: &Operation) -> Result<(), ConfigError> {
        let to = match operation {
            Operation::ForceOpen => CircuitState::ForcedOpen,
            Operation::ForceClosed => CircuitState::ForcedClosed,
            Operation::Disable => CircuitState::Disabled,
            Operation::Reset => CircuitState::Closed,
            // A breaker that already decides keeps its state.
            Operation::Enable => match self.core.state() {
                CircuitState::ForcedOpen | CircuitState::ForcedClosed | CircuitState::Disabled => {
                    CircuitState::Closed
                }
                _ => return Ok(()),
            },
            other => return Err(unknown(other, COMMANDS)),
        };
        if let Some(change) = self.core.operate(to, clock::now()) {
            self.changed(change);
        }
        Ok(())
    }
}

impl<K: Send + 'static> Managed for Table<K> {
    fn kind(&self) -> LayerKind {
        LayerKind::CircuitBreaker
    }

    fn name(&self) -> &str {
        Self::name(self).as_str()
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn describe(&self) -> ObjectStatus {
        let (seen, capacity) = (self.census(), self.capacity());
        let unwell = seen.open + seen.half_open + seen.set;
        let full = seen.keys >= capacity;
        let why = match (unwell, full) {
            (0, false) => String::new(),
            (0, true) => format!("all {capacity} places for keys are taken"),
            (unwell, _) => format!("{unwell} of {} keys are not closed", seen.keys),
        };
        let mut status = ObjectStatus::new(if unwell > 0 { "partly_open" } else { "closed" })
            .level(if unwell > 0 || full { Level::Warn } else { Level::Ok })
            .why(why)
            .gauge("keys", "keys", seen.keys as f64, "keys", |gauge| {
                gauge.max = Some(capacity as f64);
            })
            .gauge("open", "keys open", seen.open as f64, "keys", |_| {})
            .gauge("half_open", "keys half-open", seen.half_open as f64, "keys", |_| {})
            .gauge("set", "keys set by an operator", seen.set as f64, "keys", |_| {})
            .counter("unguarded", self.unguarded_calls())
            .fact("mode", if self.is_shadow() { "shadow" } else { "enforcing" });
        if seen.is_partial {
            status = status.fact("counted", "some of the keys only: there are too many");
        }
        status
    }
}
