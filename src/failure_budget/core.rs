//! The budget as a machine: no clock, no async, no user code.
//!
//! One word holds the state, the alerts that fire and a generation; whoever changes it by compare and
//! exchange has made the change and tells of it, so each is told once. A judgement that was made in
//! another generation changes nothing.

use std::time::Duration;

use crate::clock::{Tick, nanos};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, Padded, lock};
use crate::window::{Ledger, Totals};

use super::burn::Burn;
use super::config::{BreachAction, Config};
use super::saved::SavedState;
use super::slo::{AlertStatus, SloStatus};
use super::state::{
    ACTING, Breach, BreachReason, BudgetState, FailureBudgetSnapshot, FailureBudgetStats,
};

// The word: generation (45 bits) | firing alerts (16 bits) | state (3 bits).
const FIRING: u32 = 3;
const FIRING_MASK: u64 = 0xffff;
const GENERATION: u32 = 19;

/// The longest time between two looks at the window while there are calls.
const LONGEST: u64 = 10_000_000_000;

/// While there are failures among no more calls than this, every call is judged; among more, successes
/// only every so often: one of so many moves the rate little.
const FEW: u64 = 1000;

/// 2^64 through the golden ratio: multiples of it, modulo 2^64, are spread as evenly as can be.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

pub(super) struct Core {
    hot: Padded<Hot>,
    ledger: Ledger,
    burn: Option<Mutex<Burn>>,
    /// Between two judgements that no failure asks for.
    interval: u64,
    config: Config,
    heat: Padded<Heat>,
    refused: Padded<AtomicU64>,
    story: Mutex<Story>,
}

/// What every call reads, and almost none writes.
struct Hot {
    word: AtomicU64,
    /// The first call at or after this tick has more to do than to count. Zero where every call has.
    due: AtomicU64,
}

/// What refusals need to know; written by judgements.
struct Heat {
    /// The share of calls refused while breached, in 2^-64.
    share: AtomicU64,
    /// Numbers the calls of which a share is refused.
    drawn: AtomicU64,
    since: AtomicU64,
    /// How long what is measured now stays in its window.
    horizon: AtomicU64,
    measured: AtomicU64,
    threshold: AtomicU64,
    /// Whether the latest breach was made by hand, so that there is nothing measured.
    by_hand: AtomicBool,
}

#[derive(Clone, Copy, Default)]
struct Story {
    breach: Option<Breach>,
    breaches: u64,
    recoveries: u64,
}

/// A change that its finder has to tell.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) from: BudgetState,
    pub(super) to: BudgetState,
    /// If it begins to act.
    pub(super) breach: Option<Breach>,
    /// Not because of what was measured.
    pub(super) by_hand: bool,
    /// Alerts that begin or end.
    pub(super) alerts: Vec<AlertStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Refusal {
    /// Nanoseconds.
    pub(super) retry_after: Option<u64>,
    pub(super) what: BreachReason,
    pub(super) measured: f64,
    pub(super) threshold: f64,
}

fn state_of(word: u64) -> BudgetState {
    BudgetState::from_bits(word)
}

fn firing_of(word: u64) -> u64 {
    word >> FIRING & FIRING_MASK
}

fn word_after(word: u64, state: BudgetState, firing: u64) -> u64 {
    (word >> GENERATION).wrapping_add(1) << GENERATION | firing << FIRING | state.to_bits()
}

impl Core {
    /// `stripes` must be a power of two.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn new(config: Config, stripes: usize, now: Tick) -> Self {
        let burn = config
            .slo
            .clone()
            .map(|slo| Burn::new(slo, config.min_samples, config.recovery, stripes, now));
        let interval = match &burn {
            Some(burn) => burn.interval(),
            None => (nanos(config.window) / 100).clamp(1, LONGEST),
        };
        Self {
            hot: Padded(Hot { word: AtomicU64::new(0), due: AtomicU64::new(0) }),
            ledger: Ledger::new(config.window, stripes),
            burn: burn.map(Mutex::new),
            interval,
            heat: Padded(Heat {
                share: AtomicU64::new(0),
                drawn: AtomicU64::new(0),
                since: AtomicU64::new(now.0),
                horizon: AtomicU64::new(nanos(config.window)),
                measured: AtomicU64::new(0),
                threshold: AtomicU64::new(config.threshold.to_bits()),
                by_hand: AtomicBool::new(true),
            }),
            config,
            refused: Padded(AtomicU64::new(0)),
            story: Mutex::new(Story::default()),
        }
    }

    pub(super) fn cancelled_after(&self) -> Option<Duration> {
        self.config.cancelled_after
    }

    pub(super) fn has_slo(&self) -> bool {
        self.burn.is_some()
    }

    pub(super) fn state(&self) -> BudgetState {
        state_of(self.hot.word.load(Ordering::Acquire))
    }

    /// Counts a call. `by_layer`: what a tripped budget's layer sees is not counted.
    #[inline]
    pub(super) fn record(&self, now: Tick, failed: bool, by_layer: bool) -> Option<Change> {
        if failed || now.0 >= self.hot.due.load(Ordering::Relaxed) {
            return self.record_and_judge(now, failed, by_layer);
        }
        self.ledger.record(now, false);
        None
    }

    #[inline(never)]
    fn record_and_judge(&self, now: Tick, failed: bool, by_layer: bool) -> Option<Change> {
        let state = self.state();
        if state == BudgetState::Retired || by_layer && state == BudgetState::Tripped {
            return None;
        }
        if state == BudgetState::Tripped {
            // Nothing is judged, and whatever the layer sees must go on coming here.
            if let Some(burn) = &self.burn {
                lock(burn).bring(&self.ledger, now);
            }
            self.ledger.record(now, failed);
            return None;
        }
        let due = self.take_due(now);
        self.ledger.record(now, failed);
        // A failure makes no breach of what is one.
        let tips = failed && self.burn.is_none() && state == BudgetState::Healthy;
        if due || tips { self.judge(now) } else { None }
    }

    /// Whether a judgement is due; the first to ask has to make it.
    fn take_due(&self, now: Tick) -> bool {
        let due = self.hot.due.load(Ordering::Relaxed);
        if now.0 < due {
            return false;
        }
        let next = now.0.saturating_add(self.interval);
        let Some(burn) = &self.burn else {
            return self
                .hot
                .due
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        };
        // Nobody records past this before what lies further back has been brought in.
        let mut burn = lock(burn);
        if now.0 < self.hot.due.load(Ordering::Relaxed) {
            return false;
        }
        burn.bring(&self.ledger, now);
        self.hot.due.store(next, Ordering::Relaxed);
        true
    }

    /// Looks whether anything has changed.
    pub(super) fn judge(&self, now: Tick) -> Option<Change> {
        let word = self.hot.word.load(Ordering::Acquire);
        let state = state_of(word);
        match (state, &self.burn) {
            (BudgetState::Retired | BudgetState::Tripped, _) => None,
            (_, None) => self.judge_rate(now, word, state),
            (_, Some(burn)) => self.judge_burn(burn, now, word, state),
        }
    }

    fn exceeds(&self, totals: Totals) -> bool {
        totals.calls >= self.config.min_samples && totals.failure_rate() > self.config.threshold
    }

    fn judge_rate(&self, now: Tick, word: u64, state: BudgetState) -> Option<Change> {
        let totals = self.ledger.totals(now);
        if totals.failures > 0 && totals.calls <= FEW {
            self.hot.due.store(0, Ordering::Relaxed);
        }
        let rate = totals.failure_rate();
        let was = state == BudgetState::Breached;
        let is = if was { rate > self.config.recovery } else { self.exceeds(totals) };
        if !is {
            let recovered = || self.enter(word, BudgetState::Healthy, 0, now, None);
            return was.then(recovered).flatten();
        }
        let (threshold, window) = (self.config.threshold, self.config.window);
        self.set_heat(rate, threshold, window);
        if was {
            return None;
        }
        let breach = Breach {
            reason: BreachReason::FailureRate,
            measured: rate,
            threshold,
            samples: totals.calls,
            window,
        };
        self.enter(word, self.acting(), 0, now, Some(breach))
    }

    fn judge_burn(
        &self,
        burn: &Mutex<Burn>,
        now: Tick,
        word: u64,
        state: BudgetState,
    ) -> Option<Change> {
        let firing = firing_of(word);
        let found = lock(burn).judge(now, firing);
        let acting = found
            .alerts
            .iter()
            .filter(|alert| alert.firing && alert.alert.severity >= self.config.act_on);
        let hottest = acting.max_by(|a, b| {
            (a.short_burn / a.alert.factor).total_cmp(&(b.short_burn / b.alert.factor))
        });
        let to = match hottest {
            Some(hottest) => {
                self.set_heat(hottest.short_burn, hottest.alert.factor, hottest.alert.short);
                self.acting()
            }
            None if found.firing != 0 => BudgetState::Warned,
            None => BudgetState::Healthy,
        };
        if to == state && found.firing == firing {
            return None;
        }
        let breach = hottest.filter(|_| !state.is_acting()).map(|alert| Breach {
            reason: BreachReason::BurnRate,
            measured: alert.short_burn,
            threshold: alert.alert.factor,
            samples: alert.short_samples,
            window: alert.alert.short,
        });
        let mut change = self.enter(word, to, found.firing, now, breach)?;
        let turned = found.firing ^ firing;
        let alerts = found.alerts.iter().enumerate().filter(|(n, _)| turned >> n & 1 == 1);
        change.alerts = alerts.map(|(_, alert)| *alert).collect();
        Some(change)
    }

    fn acting(&self) -> BudgetState {
        if self.config.latch { BudgetState::Tripped } else { BudgetState::Breached }
    }

    /// What was measured changes the state, unless somebody else has since `word` was read.
    fn enter(
        &self,
        word: u64,
        to: BudgetState,
        firing: u64,
        now: Tick,
        breach: Option<Breach>,
    ) -> Option<Change> {
        self.change(word, to, firing, now, breach, false)
    }

    fn change(
        &self,
        word: u64,
        to: BudgetState,
        firing: u64,
        now: Tick,
        breach: Option<Breach>,
        by_hand: bool,
    ) -> Option<Change> {
        let from = state_of(word);
        // Held over the exchange: who reads both sees a story that fits the state.
        let mut story = lock(&self.story);
        self.hot
            .word
            .compare_exchange(
                word,
                word_after(word, to, firing),
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .ok()?;
        if from != to {
            self.heat.since.store(now.0, Ordering::Relaxed);
        }
        if matches!(to, BudgetState::Tripped | BudgetState::Retired) {
            self.hot.due.store(0, Ordering::Relaxed);
        }
        if breach.is_some() {
            self.heat.by_hand.store(by_hand, Ordering::Relaxed);
            story.breaches += 1;
            story.breach = breach;
        } else if !to.is_acting() {
            story.breach = None;
            story.recoveries += u64::from(from == BudgetState::Breached && !by_hand);
        }
        Some(Change { from, to, breach, by_hand, alerts: Vec::new() })
    }

    fn set_heat(&self, measured: f64, threshold: f64, horizon: Duration) {
        self.heat.measured.store(measured.to_bits(), Ordering::Relaxed);
        self.heat.threshold.store(threshold.to_bits(), Ordering::Relaxed);
        self.heat.horizon.store(nanos(horizon), Ordering::Relaxed);
        self.heat.share.store(fraction(self.share(measured / threshold)), Ordering::Relaxed);
    }

    /// The share of calls refused at a burn.
    fn share(&self, burn: f64) -> f64 {
        let most = 1.0 - self.config.probes;
        match self.config.action {
            BreachAction::Notify => 0.0,
            BreachAction::Reject => most,
            // Not a number: a threshold of zero and nothing failing.
            BreachAction::Shed if burn > 1.0 => (1.0 - 1.0 / burn).min(most),
            BreachAction::Shed => 0.0,
        }
    }

    /// Whether calls pass without being looked at: the way of all while all is well.
    #[inline]
    pub(super) fn passes(&self) -> bool {
        self.hot.word.load(Ordering::Acquire) & ACTING == 0
    }

    /// Decides about a call while the budget acts. Who refuses the call counts it.
    pub(super) fn admit(&self, now: Tick) -> (Result<(), Refusal>, Option<Change>) {
        if self.config.action == BreachAction::Notify {
            return (Ok(()), None);
        }
        let state = self.state();
        let change = if state == BudgetState::Breached && self.take_due(now) {
            self.judge(now)
        } else {
            None
        };
        let result = match self.state() {
            BudgetState::Breached => {
                let number = self.heat.drawn.fetch_add(1, Ordering::Relaxed);
                let share = self.heat.share.load(Ordering::Relaxed);
                if number.wrapping_mul(GOLDEN) < share { Err(self.refusal(now)) } else { Ok(()) }
            }
            BudgetState::Tripped => Err(Refusal { retry_after: None, ..self.refusal(now) }),
            BudgetState::Healthy | BudgetState::Warned | BudgetState::Retired => Ok(()),
        };
        (result, change)
    }

    fn refusal(&self, now: Tick) -> Refusal {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let wait = match self.config.action {
            // The share is looked at again then, and the next call may be one that passes anyway.
            BreachAction::Shed | BreachAction::Notify => self.interval,
            // When what failed before the breach has left the window; if it goes on, soon again.
            BreachAction::Reject => {
                let end = load(&self.heat.since).saturating_add(load(&self.heat.horizon));
                end.saturating_sub(now.0).max(self.interval)
            }
        };
        Refusal {
            retry_after: Some(wait),
            what: if self.heat.by_hand.load(Ordering::Relaxed) {
                BreachReason::Operator
            } else if self.burn.is_some() {
                BreachReason::BurnRate
            } else {
                BreachReason::FailureRate
            },
            measured: f64::from_bits(load(&self.heat.measured)),
            threshold: f64::from_bits(load(&self.heat.threshold)),
        }
    }

    pub(super) fn count_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Acts until it is reset.
    pub(super) fn trip(&self, now: Tick) -> Option<Change> {
        loop {
            let word = self.hot.word.load(Ordering::Acquire);
            let from = state_of(word);
            if matches!(from, BudgetState::Tripped | BudgetState::Retired) {
                return None;
            }
            let totals = self.ledger.totals(now);
            let breach = (!from.is_acting()).then(|| Breach {
                reason: BreachReason::Operator,
                measured: totals.failure_rate(),
                threshold: self.config.threshold,
                samples: totals.calls,
                window: self.config.window,
            });
            let to = BudgetState::Tripped;
            let change = self.change(word, to, firing_of(word), now, breach, true);
            if change.is_some() {
                return change;
            }
        }
    }

    /// Healthy, with nothing in the window.
    pub(super) fn reset(&self, now: Tick) -> Option<Change> {
        // Emptied first: who judges what was in it does so in the generation that ends below.
        self.ledger.clear(now);
        if let Some(burn) = &self.burn {
            lock(burn).clear(&self.ledger, now);
        }
        self.leave_for(BudgetState::Healthy, now)
    }

    /// Out of service until it is reset.
    pub(super) fn retire(&self, now: Tick) -> Option<Change> {
        self.leave_for(BudgetState::Retired, now)
    }

    fn leave_for(&self, to: BudgetState, now: Tick) -> Option<Change> {
        let change = loop {
            let word = self.hot.word.load(Ordering::Acquire);
            if let Some(change) = self.change(word, to, 0, now, None, true) {
                break change;
            }
        };
        self.hot.due.store(0, Ordering::Relaxed);
        (change.from != change.to).then_some(change)
    }

    pub(super) fn totals(&self, now: Tick) -> Totals {
        self.ledger.totals(now)
    }

    /// Whether the window is over the threshold now, whatever the state.
    pub(super) fn is_breached(&self, now: Tick) -> bool {
        match &self.burn {
            None => self.exceeds(self.ledger.totals(now)),
            Some(_) => self.state().is_acting(),
        }
    }

    pub(super) fn slo(&self, now: Tick) -> Option<SloStatus> {
        self.slo_of(self.hot.word.load(Ordering::Acquire), now)
    }

    fn slo_of(&self, word: u64, now: Tick) -> Option<SloStatus> {
        let mut burn = lock(self.burn.as_ref()?);
        burn.bring(&self.ledger, now);
        Some(burn.status(now, firing_of(word)))
    }

    /// Brings in what is outstanding, and judges.
    pub(super) fn poll(&self, now: Tick) -> Option<Change> {
        if let Some(burn) = &self.burn {
            lock(burn).bring(&self.ledger, now);
        }
        self.judge(now)
    }

    pub(super) fn stats(&self) -> FailureBudgetStats {
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

    pub(super) fn snapshot(&self, now: Tick) -> FailureBudgetSnapshot {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let (word, since, story) = {
            let story = lock(&self.story);
            (self.hot.word.load(Ordering::Acquire), load(&self.heat.since), *story)
        };
        let state = state_of(word);
        let totals = self.ledger.totals(now);
        let refused_share = match state {
            BudgetState::Tripped if self.config.action != BreachAction::Notify => 1.0,
            BudgetState::Breached => {
                let number = |word: &AtomicU64| f64::from_bits(load(word));
                self.share(number(&self.heat.measured) / number(&self.heat.threshold))
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

    pub(super) fn save(&self, now: Tick) -> SavedState {
        let slo = self.burn.as_ref().map(|burn| {
            let mut burn = lock(burn);
            burn.bring(&self.ledger, now);
            burn.saved(now)
        });
        let tripped = self.state() == BudgetState::Tripped;
        SavedState::new(tripped, self.ledger.pages(now), slo)
    }

    /// Before anybody else knows it. Tells whether it is tripped.
    pub(super) fn restore(&self, saved: &SavedState, now: Tick) -> bool {
        let older = saved.age();
        self.ledger.put(now, older, saved.window());
        if let Some(burn) = &self.burn {
            lock(burn).put(now, older, saved.slo());
        }
        saved.tripped() && self.change(0, BudgetState::Tripped, 0, now, None, true).is_some()
    }
}

/// A share in 2^-64.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share is neither negative nor above 1, and the cast saturates"
)]
fn fraction(share: f64) -> u64 {
    (share * 18_446_744_073_709_551_616.0) as u64
}
