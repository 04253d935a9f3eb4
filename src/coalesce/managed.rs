//! What a registry shows of a coalescing.

use std::hash::Hash;

use super::table::Table;
use crate::managed::{Level, Managed, ObjectStatus};
use crate::name::LayerKind;

impl<K, V, O> Managed for Table<K, V, O>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
    O: Send + 'static,
{
    fn kind(&self) -> LayerKind {
        LayerKind::Coalesce
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn describe(&self) -> ObjectStatus {
        let stats = self.stats();
        let most = self.limits.keys;
        let (state, level, why) = if stats.in_flight >= most {
            ("full", Level::Warn, format!("{most} keys: further calls are made each for itself"))
        } else {
            ("ok", Level::Ok, String::new())
        };
        ObjectStatus::new(state)
            .level(level)
            .why(why)
            .gauge("in_flight", "in flight", f64::from(stats.in_flight), "calls", |gauge| {
                gauge.max = Some(f64::from(most));
            })
            .counter("led", stats.led)
            .counter("followed", stats.followed)
            .counter("apart", stats.apart)
            .counter("full", stats.full)
            .counter("panicked", stats.panicked)
            .reject("overloaded", stats.crowded)
            .reject("deadline_exceeded", stats.expired)
    }
}
