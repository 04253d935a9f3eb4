//! The budget as a machine: no clock, no async, no user code.
//!
//! One word holds the state, the alerts that fire and a generation; whoever changes it by compare and
//! exchange has made the change and tells of it, so each is told once. A judgement that was made in
//! another generation changes nothing.

use std::time::Duration;

use crate::clock::{Tick, nanos};
use crate::error::ConfigError;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, Padded, lock};
use crate::window::Ledger;

use super::burn::Burn;
use super::config::{BreachAction, Config};
use super::settings::{Measured, Settings, Words};
use super::slo::AlertStatus;
use super::state::{ACTING, Breach, BreachReason, BudgetState};

mod readings;

// The word: generation (45 bits) | firing alerts (16 bits) | state (3 bits).
const FIRING: u32 = 3;
const FIRING_MASK: u64 = 0xffff;
const GENERATION: u32 = 19;

/// While there are failures among no more calls than this, every call is judged; among more, successes
/// only every so often: one of so many moves the rate little.
const FEW: u64 = 1000;

/// 2^64 through the golden ratio: multiples of it, modulo 2^64, are spread as evenly as can be.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

pub(super) struct Core {
    hot: Padded<Hot>,
    ledger: Ledger,
    burn: Option<Mutex<Burn>>,
    settings: Words<8>,
    /// Held over all of a change of the settings.
    changing: Mutex<()>,
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
    /// Written under the story's lock.
    measured: Words<3>,
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

impl Refusal {
    /// The same, told that much later.
    pub(super) fn later_by(self, elapsed: Duration) -> Self {
        let passed = nanos(elapsed);
        Self { retry_after: self.retry_after.map(|wait| wait.saturating_sub(passed)), ..self }
    }
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
    /// All as it was before a change or all as it was after.
    pub(super) fn settings(&self) -> Settings {
        loop {
            if let Some(words) = self.settings.read() {
                return Settings::from_words(words);
            }
            // The writer holds it for longer than the settings cannot be read.
            drop(lock(&self.changing));
        }
    }

    fn measured(&self) -> Measured {
        loop {
            if let Some(words) = self.heat.measured.read() {
                return Measured::from_words(words);
            }
            drop(lock(&self.story));
        }
    }

    /// `stripes` must be a power of two.
    pub(super) fn new(config: Config, stripes: usize, now: Tick) -> Self {
        let mut settings = Settings::new(&config);
        let burn = config
            .slo
            .map(|slo| Burn::new(slo, settings.min_samples, settings.recovery, stripes, now));
        if let Some(burn) = &burn {
            settings.interval = burn.interval();
        }
        let horizon = nanos(config.window);
        let measured = Measured { value: 0.0, threshold: config.threshold, horizon };
        Self {
            hot: Padded(Hot { word: AtomicU64::new(0), due: AtomicU64::new(0) }),
            ledger: Ledger::new(config.window, stripes),
            burn: burn.map(Mutex::new),
            settings: Words::new(settings.to_words()),
            changing: Mutex::new(()),
            heat: Padded(Heat {
                share: AtomicU64::new(0),
                drawn: AtomicU64::new(0),
                since: AtomicU64::new(now.0),
                measured: Words::new(measured.to_words()),
                by_hand: AtomicBool::new(true),
            }),
            refused: Padded(AtomicU64::new(0)),
            story: Mutex::new(Story::default()),
        }
    }

    pub(super) fn cancelled_after(&self) -> Option<Duration> {
        self.settings().cancelled_after
    }

    /// Goes by other settings from now on, and judges by them at once.
    ///
    /// The generation ends only when all is in place: what is judged by the old settings until then
    /// changes nothing.
    pub(super) fn reconfigure(
        &self,
        config: Config,
        now: Tick,
    ) -> Result<Option<Change>, ConfigError> {
        {
            let _changing = lock(&self.changing);
            let old = self.settings();
            let mut new = Settings::new(&config);
            match (&self.burn, config.slo) {
                (Some(burn), Some(slo)) => {
                    let mut burn = lock(burn);
                    burn.reconfigure(slo, new.min_samples, new.recovery)?;
                    new.interval = burn.interval();
                }
                (None, None) => {}
                (Some(_), None) => {
                    return Err(ConfigError::new(
                        "slo",
                        "not set",
                        "an objective, as it was built",
                    ));
                }
                (None, Some(_)) => {
                    return Err(ConfigError::new("slo", "set", "no objective, as it was built"));
                }
            }
            if new.window != old.window {
                self.ledger.resize(new.window, now);
            }
            self.settings.write(new.to_words());
            let story = lock(&self.story);
            let another = |word| Some(word_after(word, state_of(word), firing_of(word)));
            let _ = self.hot.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, another);
            drop(story);
            self.hot.due.store(0, Ordering::Relaxed);
        }
        Ok(self.poll(now))
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
        let next = now.0.saturating_add(self.settings().interval);
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

    fn judge_rate(&self, now: Tick, word: u64, state: BudgetState) -> Option<Change> {
        let settings = self.settings();
        let totals = self.ledger.totals(now);
        if totals.failures > 0 && totals.calls <= FEW {
            self.hot.due.store(0, Ordering::Relaxed);
        }
        let rate = totals.failure_rate();
        let was = state == BudgetState::Breached;
        let is = if was { rate > settings.recovery } else { settings.exceeded_by(totals) };
        if !is {
            let recovered = || self.enter(word, BudgetState::Healthy, 0, now, None);
            return was.then(recovered).flatten();
        }
        let Settings { threshold, window, .. } = settings;
        self.set_heat(word, &settings, rate, threshold, window);
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
        self.enter(word, settings.acting(), 0, now, Some(breach))
    }

    fn judge_burn(
        &self,
        burn: &Mutex<Burn>,
        now: Tick,
        word: u64,
        state: BudgetState,
    ) -> Option<Change> {
        let firing = firing_of(word);
        let settings = self.settings();
        let found = lock(burn).judge(now, firing, settings.act_on);
        let hottest = found.hottest;
        let to = match hottest {
            Some(hottest) => {
                let alert = hottest.alert;
                self.set_heat(word, &settings, hottest.short_burn, alert.factor, alert.short);
                settings.acting()
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
        change.alerts = found.turned;
        Some(change)
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

    /// Keeps what was judged for those who are refused, unless the generation has ended since `word` was
    /// read.
    fn set_heat(
        &self,
        word: u64,
        settings: &Settings,
        value: f64,
        threshold: f64,
        horizon: Duration,
    ) {
        let _story = lock(&self.story);
        if self.hot.word.load(Ordering::Relaxed) != word {
            return;
        }
        let measured = Measured { value, threshold, horizon: nanos(horizon) };
        self.heat.measured.write(measured.to_words());
        let share = settings.refused_share(value / threshold);
        self.heat.share.store(fraction(share), Ordering::Relaxed);
    }

    /// Whether calls pass without being looked at: the way of all while all is well.
    #[inline]
    pub(super) fn passes(&self) -> bool {
        self.hot.word.load(Ordering::Acquire) & ACTING == 0
    }

    /// Decides about a call while the budget acts. Who refuses the call counts it.
    pub(super) fn admit(&self, now: Tick) -> (Result<(), Refusal>, Option<Change>) {
        let settings = self.settings();
        if settings.action == BreachAction::Notify {
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
                if number.wrapping_mul(GOLDEN) < share {
                    Err(self.refusal(&settings, now))
                } else {
                    Ok(())
                }
            }
            BudgetState::Tripped => {
                Err(Refusal { retry_after: None, ..self.refusal(&settings, now) })
            }
            BudgetState::Healthy | BudgetState::Warned | BudgetState::Retired => Ok(()),
        };
        (result, change)
    }

    fn refusal(&self, settings: &Settings, now: Tick) -> Refusal {
        let measured = self.measured();
        let wait = match settings.action {
            // The share is looked at again then, and the next call may be one that passes anyway.
            BreachAction::Shed | BreachAction::Notify => settings.interval,
            // When what failed before the breach has left the window; if it goes on, soon again.
            BreachAction::Reject => {
                let since = self.heat.since.load(Ordering::Relaxed);
                let end = since.saturating_add(measured.horizon);
                end.saturating_sub(now.0).max(settings.interval)
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
            measured: measured.value,
            threshold: measured.threshold,
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
            let (settings, totals) = (self.settings(), self.ledger.totals(now));
            let breach = (!from.is_acting()).then(|| Breach {
                reason: BreachReason::Operator,
                measured: totals.failure_rate(),
                threshold: settings.threshold,
                samples: totals.calls,
                window: settings.window,
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

    /// Brings in what is outstanding, and judges.
    pub(super) fn poll(&self, now: Tick) -> Option<Change> {
        if let Some(burn) = &self.burn {
            lock(burn).bring(&self.ledger, now);
        }
        self.judge(now)
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
