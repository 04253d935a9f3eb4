//! How often first attempts fail, and so whether all that a call has met may be chance.

/// As many failures in a row as come by chance in one of so many calls.
const CHANCE: f64 = 1e-3;
/// One of so many calls is the weight of each in the mean.
const CALLS: f64 = 64.0;

#[derive(Debug, Default)]
pub(super) struct Luck {
    /// First attempts that fail for each call that ends.
    failing: f64,
    /// Successes that are not in that yet.
    succeeded: u32,
}

impl Luck {
    /// So many attempts have succeeded: each is the end of a call.
    #[inline]
    pub(super) const fn succeeded(&mut self, times: u32) {
        self.succeeded = self.succeeded.saturating_add(times);
    }

    /// The first attempt of a call has failed.
    pub(super) fn first_failed(&mut self) {
        self.catch_up();
        self.failing = (self.failing + 1.0 / CALLS).min(1.0);
    }

    /// A call is not tried again.
    pub(super) const fn given_up(&mut self) {
        self.succeeded(1);
    }

    /// Whether so many failures in a row may be chance. They are not where calls rarely fail, or only those that always do.
    pub(super) fn may_be_chance(&mut self, failed: u32) -> bool {
        self.catch_up();
        self.failing.powf(f64::from(failed)) >= CHANCE
    }

    fn catch_up(&mut self) {
        let ended = std::mem::take(&mut self.succeeded);
        self.failing *= (1.0 - 1.0 / CALLS).powf(f64::from(ended));
    }
}
