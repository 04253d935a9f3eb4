//! Sliding windows: how many of the latest calls failed, at a cost that does not depend on how many
//! calls the window holds.

mod count;
mod ledger;
mod time;

pub(crate) use count::CountWindow;
pub(crate) use ledger::Ledger;
pub(crate) use time::TimeWindow;

/// What one call adds to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) failed: bool,
    pub(crate) slow: bool,
}

impl Mark {
    pub(crate) const SUCCESS: Self = Self { failed: false, slow: false };
}

/// What a window holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) calls: u64,
    pub(crate) failures: u64,
    pub(crate) slow: u64,
}

impl Totals {
    #[expect(clippy::cast_precision_loss, reason = "a share; counts stay far below 2^53")]
    fn share(self, part: u64) -> f64 {
        if self.calls == 0 { 0.0 } else { part as f64 / self.calls as f64 }
    }

    pub(crate) fn failure_rate(self) -> f64 {
        self.share(self.failures)
    }

    pub(crate) fn slow_rate(self) -> f64 {
        self.share(self.slow)
    }
}

#[cfg(all(test, buttress_loom))]
mod loom_tests;
#[cfg(all(test, not(buttress_loom)))]
mod tests;
