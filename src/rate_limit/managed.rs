//! What a registry shows of limiters, and the orders they take.

use super::keyed_shared::Keyed;
use super::ledger::RateLimitStats;
use super::shared::{Shared, now};
use crate::error::ConfigError;
use crate::managed::{Level, Managed, ObjectStatus, Operation, unknown};
use crate::name::LayerKind;
use crate::quota::Quota;

const COMMANDS: &[&str] = &["set_quota", "reset"];
const KEYED: &[&str] = &["set_quota"];

impl Managed for Shared {
    fn kind(&self) -> LayerKind {
        LayerKind::RateLimit
    }

    fn name(&self) -> &str {
        self.ledger.name.as_str()
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn describe(&self) -> ObjectStatus {
        let level = self.level(now());
        let (tokens, waiting, stats) =
            (level.rule.tokens(level.tat, level.now), self.waiting(), self.stats());
        let quota = self.quota();
        let limiting = tokens < 1.0;
        let status = ObjectStatus::new(if limiting { "limiting" } else { "admitting" })
            .level(if limiting || waiting > 0 { Level::Warn } else { Level::Ok })
            .why(if limiting {
                format!("less than 1 token left of {quota}")
            } else {
                String::new()
            })
            .gauge("tokens", "tokens", tokens, "calls", |gauge| {
                gauge.max = Some(quota.capacity() as f64);
            })
            .gauge("waiting", "waiting", waiting as f64, "calls", |_| {})
            .counter("waited", stats.waits)
            .counter("released", stats.released)
            .commands(COMMANDS);
        common(status, quota, stats, level.rule.shadow)
    }

    fn operate(&self, operation: &Operation) -> Result<(), ConfigError> {
        match operation {
            Operation::SetQuota(quota) => self.set_quota(*quota),
            Operation::Reset => self.reset(),
            other => return Err(unknown(other, COMMANDS)),
        }
        Ok(())
    }
}

impl Managed for Keyed {
    fn kind(&self) -> LayerKind {
        LayerKind::RateLimit
    }

    fn name(&self) -> &str {
        self.ledger().name.as_str()
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn describe(&self) -> ObjectStatus {
        let (live, capacity) = (self.live(), self.capacity());
        let full = live >= capacity;
        let status = ObjectStatus::new(if full { "full" } else { "admitting" })
            .level(if full { Level::Warn } else { Level::Ok })
            .why(if full {
                format!("all {capacity} places for keys are taken")
            } else {
                String::new()
            })
            .gauge("keys", "keys", live as f64, "keys", |gauge| gauge.max = Some(capacity as f64))
            .commands(KEYED);
        common(status, self.quota(), self.ledger().stats(), self.is_shadow())
    }

    fn operate(&self, operation: &Operation) -> Result<(), ConfigError> {
        match operation {
            Operation::SetQuota(quota) => self.set_quota(*quota),
            other => return Err(unknown(other, KEYED)),
        }
        Ok(())
    }
}

pub(super) fn common(
    status: ObjectStatus,
    quota: Quota,
    stats: RateLimitStats,
    shadow: bool,
) -> ObjectStatus {
    status
        .gauge("rate", "rate", quota.rate_per_second(), "1/s", |_| {})
        .counter("acquired", stats.acquired)
        .counter("would_reject", stats.would_reject)
        .reject("rate_limited", stats.rejected)
        .fact("quota", quota.to_string())
        .fact("mode", if shadow { "shadow" } else { "enforcing" })
}
