//! For how long turns that nobody took can be taken later; without clock and timer.

use crate::clock::Tick;

/// At first, and at most.
const FIRST: u64 = 100_000_000;
const MOST: u64 = 1_000_000_000;
/// What was saved counts as spent if it was at least this part of a turn.
const PART: u64 = 16;
/// Less by so much, if the callee had not saved as much.
const DOWN: f64 = 0.7;
/// More by so much and by this part of a turn, if it had, and somebody wanted more.
const UP: f64 = 1.05;
const STEP: u64 = 8;

/// How long turns are saved, and when some were spent last.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    span: u64,
    /// Sent then, a call has shown what the callee had saved, and not how much it takes.
    spent: (Tick, Tick),
    /// It was throttled.
    too_many: bool,
    /// Somebody waited.
    too_few: bool,
}

impl Saved {
    pub(super) const fn new() -> Self {
        Self { span: FIRST, spent: (Tick(1), Tick(0)), too_many: false, too_few: false }
    }

    pub(super) const fn span(&self) -> u64 {
        self.span
    }

    /// A turn is taken so `late`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "at most a second"
    )]
    pub(super) fn spend(&mut self, late: u64, interval: u64, now: Tick) {
        if late < interval / PART || late < self.span / 2 || now <= self.spent.1 {
            return;
        }
        if self.too_few && !self.too_many {
            let more = self.span.saturating_add(interval / STEP).min(MOST);
            self.span = ((more as f64 * UP) as u64).min(MOST);
        }
        // After what was saved the next turn shows whether it was there.
        let until = now.0.saturating_add(late).saturating_add(interval);
        self.spent = (now, Tick(until));
        (self.too_many, self.too_few) = (false, false);
    }

    pub(super) fn wait(&mut self, now: Tick) {
        self.too_few |= now <= self.spent.1;
    }

    /// Whether a call that was throttled has to be laid to what was spent.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "at most a second"
    )]
    pub(super) fn throttled(&mut self, sent: Tick) -> bool {
        let spent = (self.spent.0..=self.spent.1).contains(&sent);
        if spent && !self.too_many {
            self.too_many = true;
            self.span = (self.span as f64 * DOWN) as u64;
        }
        spent
    }
}
