//! What a registry shows of a retry budget, and the orders it takes.

use super::{Ordering, Shared};
use crate::backend::Backend;
use crate::error::ConfigError;
use crate::managed::{Level, Managed, ObjectStatus, Operation, unknown};
use crate::name::LayerKind;

const COMMANDS: &[&str] = &["engage", "release", "reset"];

fn of_backend(backend: &Backend) -> (&'static str, Level, String) {
    let paid = format!("paid from the headroom of backend/{}", backend.name());
    match backend.retries() {
        Some((0, _)) => ("exhausted", Level::Warn, format!("{paid}, which has none")),
        Some(_) => ("granting", Level::Ok, paid),
        None => ("granting", Level::Ok, format!("{paid}, which is down: they wait there")),
    }
}

impl Managed for Shared {
    fn kind(&self) -> LayerKind {
        LayerKind::RetryBudget
    }

    fn name(&self) -> &str {
        self.limits.name.as_str()
    }

    fn describe(&self) -> ObjectStatus {
        let (stats, limits) = (self.stats(), &self.limits);
        let price = limits.terms.read().0.price;
        let engaged = limits.engaged.load(Ordering::Relaxed);
        let spent = !limits.unlimited && (u64::from(stats.tokens) < price || stats.credit < 1.0);
        let (state, level, why) = match () {
            () if engaged > 0 => {
                ("engaged", Level::Warn, format!("{engaged} hold it back: no retries"))
            }
            () if limits.unlimited => match &limits.backend {
                Some(backend) => of_backend(backend),
                None => ("unlimited", Level::Ok, String::new()),
            },
            () if spent => {
                let (tokens, credit) = (stats.tokens, stats.credit);
                let why = format!("{tokens} tokens and credit for {credit:.1} retries left");
                ("exhausted", Level::Warn, why)
            }
            () => ("granting", Level::Ok, String::new()),
        };
        let mut status = ObjectStatus::new(state).level(level).why(why).commands(COMMANDS);
        if !limits.unlimited {
            #[expect(clippy::cast_precision_loss, reason = "at most 2^32")]
            let price = price as f64;
            status = status
                .gauge("tokens", "tokens", f64::from(stats.tokens), "tokens", |gauge| {
                    (gauge.max, gauge.threshold) = (Some(f64::from(stats.max_tokens)), Some(price));
                    gauge.below = true;
                })
                .gauge("credit", "credit", stats.credit, "retries", |gauge| {
                    (gauge.max, gauge.threshold) = (Some(f64::from(stats.burst)), Some(1.0));
                    gauge.below = true;
                });
        }
        status
            .counter("allowed", stats.allowed)
            .counter("succeeded", stats.succeeded)
            .counter("returned", stats.returned)
            .reject("retry_budget", stats.denied)
    }

    fn operate(&self, operation: &Operation) -> Result<(), ConfigError> {
        match operation {
            Operation::Engage => self.engage(),
            Operation::Release => self.release(),
            Operation::Reset => self.reset(),
            other => return Err(unknown(other, COMMANDS)),
        }
        Ok(())
    }
}
