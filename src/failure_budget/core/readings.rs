//! What a budget tells of itself, and what is kept of it over a restart.

use crate::clock::Tick;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::lock;
use crate::window::Totals;

use super::super::config::BreachAction;
use super::super::saved::SavedState;
use super::super::slo::SloStatus;
use super::super::state::{BudgetState, FailureBudgetSnapshot, FailureBudgetStats};
use super::{Core, Story, firing_of, state_of};

impl Core {
    pub(in crate::failure_budget) fn totals(&self, now: Tick) -> Totals {
        self.ledger.totals(now)
    }

    /// Whether the window is over the threshold now, whatever the state.
    pub(in crate::failure_budget) fn is_breached(&self, now: Tick) -> bool {
        match &self.burn {
            None => loop {
                let word = self.hot.word.load(Ordering::Acquire);
                let exceeded = self.settings().exceeded_by(self.ledger.totals(now));
                // Not settings and a window that do not belong together.
                if self.hot.word.load(Ordering::Acquire) == word {
                    return exceeded;
                }
            },
            Some(_) => self.state().is_acting(),
        }
    }

    pub(in crate::failure_budget) fn slo(&self, now: Tick) -> Option<SloStatus> {
        self.slo_of(self.hot.word.load(Ordering::Acquire), now)
    }

    fn slo_of(&self, word: u64, now: Tick) -> Option<SloStatus> {
        let mut burn = lock(self.burn.as_ref()?);
        burn.bring(&self.ledger, now);
        Some(burn.status(now, firing_of(word)))
    }

    pub(in crate::failure_budget) fn stats(&self) -> FailureBudgetStats {
        let story = *lock(&self.story);
        self.stats_of(story)
    }

    fn stats_of(&self, story: Story) -> FailureBudgetStats {
        let ever = self.ledger.ever();
        FailureBudgetStats {
            samples: ever.calls,
            failures: ever.failures,
            rejected: self.refused.load(Ordering::Relaxed),
            breaches: story.breaches,
            recoveries: story.recoveries,
        }
    }

    pub(in crate::failure_budget) fn snapshot(&self, now: Tick) -> FailureBudgetSnapshot {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let (word, since, story) = {
            let story = lock(&self.story);
            (self.hot.word.load(Ordering::Acquire), load(&self.heat.since), *story)
        };
        let state = state_of(word);
        let (settings, totals) = (self.settings(), self.ledger.totals(now));
        let refused_share = match state {
            BudgetState::Tripped if settings.action != BreachAction::Notify => 1.0,
            BudgetState::Breached => {
                let measured = self.measured();
                settings.refused_share(measured.value / measured.threshold)
            }
            _ => 0.0,
        };
        FailureBudgetSnapshot {
            state,
            in_state: now.since(Tick(since)),
            samples: totals.calls,
            failures: totals.failures,
            failure_rate: totals.failure_rate(),
            refused_share,
            breach: story.breach,
            stats: self.stats_of(story),
            slo: self.slo_of(word, now),
        }
    }

    pub(in crate::failure_budget) fn save(&self, now: Tick) -> SavedState {
        let slo = self.burn.as_ref().map(|burn| {
            let mut burn = lock(burn);
            burn.bring(&self.ledger, now);
            burn.saved(now)
        });
        let tripped = self.state() == BudgetState::Tripped;
        SavedState::new(tripped, self.ledger.pages(now), slo)
    }

    /// Before anybody else knows it. Tells whether it is tripped.
    pub(in crate::failure_budget) fn restore(&self, saved: &SavedState, now: Tick) -> bool {
        let older = saved.age();
        self.ledger.put(now, older, saved.window());
        if let Some(burn) = &self.burn {
            lock(burn).put(now, older, saved.slo());
        }
        saved.tripped() && self.change(0, BudgetState::Tripped, 0, now, None, true).is_some()
    }
}
