//! Whether more attempts bring more answers.
//!
//! Where a backend fails by itself each attempt has its chance. Where it fails because of all that is sent to it, ten
//! attempts for each call bring no more than one does, and make all of them fail. What a caller sees is the same, and what it
//! does alone changes nothing. But when hardly any attempt succeeds all callers see it, and at about the same time: if all of
//! them send each call once then, for a while, many more succeed of it in the second case, and as many as before in the first.

use super::Core;
use crate::backend::latency::Latency;
use crate::backend::turn::State;
use crate::clock::Tick;

/// It is time to see when no more than this share of attempts succeeds...
const HARDLY: f64 = 0.25;
/// ... and there are so many for each call.
const MANY: f64 = 1.5;
/// From one look to the next so many calls have ended, and half as many attempts, ...
const CALLS: u64 = 32;
/// ... and so many times what an answer takes has passed: what was sent before the last has ended.
const PASSED: u64 = 4;
/// So many looks long each call is sent once. In the first half others may not do so yet.
const LOOKS: u32 = 12;
/// If attempts were worth it they are for so many looks.
const REST: u32 = 24;
/// So many times more succeed than did: others send each call once, and it is time to do so as well.
const JOIN: f64 = 1.5;
/// A mean takes so much of each look.
const NEW: f64 = 0.3;
/// Attempts are in vain: one is paid by so many successes...
const PAYS: u32 = 5;
/// ... and fewer calls are in flight while more than this share fails.
const TOO_MANY: f64 = 0.125;
/// In so many looks, by the end of which others have noticed as well, ...
const PATIENT: u32 = 96;
/// ... fewer in flight have to bring down what fails to this part of it.
const HELPED: f64 = 0.75;
/// If no more than this share fails what made them fail is over.
const FEW: f64 = 0.0625;
/// So many times what is chance.
const CERTAIN: f64 = 3.0;
/// From one look to the next the limit rises by this part of it, at least by a quarter, and at most by one.
const RISE: f64 = 0.0625;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// As many as headroom pays for.
    Free,
    /// Each call is sent once, to see what becomes of it.
    Trial { left: u32, succeeded: u32, ended: u32 },
    /// More of them succeeded. In the looks before, and since, so many have failed of so many.
    Vain { before: f64, looks: u32, failed: u32, ended: u32 },
}

/// What is to become of the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    None,
    /// What it is now may come back.
    Keep,
    /// This part of it is left.
    Lower(f64),
    Raise,
    /// Fewer in flight have not helped.
    Restore,
}

#[derive(Debug)]
pub(super) struct Worth {
    phase: Phase,
    /// Attempts that have ended since the last look, and retries that were paid for.
    succeeded: u32,
    failed: u32,
    retried: u32,
    /// Calls that ended while they waited.
    lost: u32,
    looked_at: Tick,
    /// Somebody has waited since then.
    crowded: bool,
    /// The share of attempts that succeeds, and how many there are for each call.
    succeeds: f64,
    attempts: f64,
    /// Looks until there may be another trial.
    rest: u32,
    /// Successes since the last that paid for an attempt.
    paying: u32,
    /// The limit when attempts began to be in vain.
    kept: f64,
}

impl Default for Worth {
    fn default() -> Self {
        Self {
            phase: Phase::Free,
            succeeded: 0,
            failed: 0,
            retried: 0,
            lost: 0,
            looked_at: Tick(0),
            crowded: false,
            succeeds: 1.0,
            attempts: 1.0,
            rest: 0,
            paying: 0,
            kept: 0.0,
        }
    }
}

impl Worth {
    /// Headroom pays for attempts.
    #[inline]
    pub(super) fn is_free(&self) -> bool {
        self.phase == Phase::Free
    }

    /// They are in vain.
    pub(super) fn is_vain(&self) -> bool {
        matches!(self.phase, Phase::Vain { .. })
    }

    /// One was paid for.
    pub(super) fn retry(&mut self) {
        self.retried = self.retried.saturating_add(1);
    }

    /// A call has waited in vain.
    pub(super) fn lost(&mut self) {
        self.lost = self.lost.saturating_add(1);
    }

    /// It was not sent.
    pub(super) fn give_back(&mut self) {
        self.retried = self.retried.saturating_sub(1);
    }

    /// Whether a success pays for an attempt where headroom does not.
    pub(super) fn pays(&mut self) -> bool {
        if !self.is_vain() {
            return false;
        }
        self.paying += 1;
        let pays = self.paying >= PAYS;
        if pays {
            self.paying = 0;
        }
        pays
    }

    /// So many have succeeded while nothing was wrong.
    #[inline]
    pub(super) fn all_succeeded(&mut self, many: u32) {
        self.succeeded = self.succeeded.saturating_add(many);
    }

    #[inline]
    pub(super) fn succeeded(&mut self, crowded: bool, latency: &Latency, now: Tick) -> Change {
        self.all_succeeded(1);
        if self.is_free() {
            return Change::None;
        }
        self.crowded |= crowded;
        self.look(latency, now)
    }

    pub(super) fn failed(&mut self, latency: &Latency, now: Tick) -> Change {
        self.failed = self.failed.saturating_add(1);
        self.look(latency, now)
    }

    fn look(&mut self, latency: &Latency, now: Tick) -> Change {
        let attempts = u64::from(self.succeeded) + u64::from(self.failed);
        let calls = (attempts + u64::from(self.lost)).saturating_sub(u64::from(self.retried));
        if calls < CALLS || attempts < CALLS / 2 {
            return Change::None;
        }
        let passed = now.0.saturating_sub(self.looked_at.0);
        if passed < latency.typical().saturating_mul(PASSED) {
            return Change::None;
        }
        self.looked_at = now;
        let change = self.judge(attempts, calls);
        (self.succeeded, self.failed, self.retried, self.lost) = (0, 0, 0, 0);
        self.crowded = false;
        change
    }

    #[expect(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
    fn judge(&mut self, attempts: u64, calls: u64) -> Change {
        let failing = f64::from(self.failed) / attempts as f64;
        match self.phase {
            Phase::Free => {
                let others_try = 1.0 - failing > self.succeeds * JOIN;
                self.succeeds += (1.0 - failing - self.succeeds) * NEW;
                self.attempts += (attempts as f64 / calls as f64 - self.attempts) * NEW;
                self.rest = self.rest.saturating_sub(1);
                let hardly_any = self.succeeds < HARDLY && self.attempts > MANY;
                if hardly_any && (self.rest == 0 || others_try) {
                    if others_try {
                        // Perhaps it is only better: more than that has to come.
                        self.succeeds = self.succeeds.max(1.0 - failing);
                    }
                    self.phase = Phase::Trial { left: LOOKS, succeeded: 0, ended: 0 };
                }
            }
            Phase::Trial { left, mut succeeded, mut ended } => {
                let left = left - 1;
                if left < LOOKS / 2 {
                    succeeded = succeeded.saturating_add(self.succeeded);
                    ended = ended.saturating_add(self.succeeded).saturating_add(self.failed);
                }
                if left > 0 {
                    self.phase = Phase::Trial { left, succeeded, ended };
                } else if failing > FEW && self.is_more(succeeded, ended) {
                    self.phase = Phase::Vain { before: 1.0, looks: 0, failed: 0, ended: 0 };
                    return Change::Keep;
                } else {
                    self.give_up();
                }
            }
            Phase::Vain { before, looks, failed, ended } => {
                let looks = looks + 1;
                let failed = failed.saturating_add(self.failed);
                let ended = ended.saturating_add(self.succeeded).saturating_add(self.failed);
                self.phase = Phase::Vain { before, looks, failed, ended };
                if looks >= PATIENT {
                    let share = f64::from(failed) / f64::from(ended);
                    if share > TOO_MANY && share > before * HELPED {
                        self.give_up();
                        return Change::Restore;
                    }
                    // It is not the limit that keeps them away.
                    if share <= FEW {
                        self.give_up();
                        return Change::None;
                    }
                    self.phase = Phase::Vain { before: share, looks: 0, failed: 0, ended: 0 };
                }
                if failing > TOO_MANY {
                    return Change::Lower(1.0 - failing / 2.0);
                }
                if self.crowded {
                    return Change::Raise;
                }
                // All that comes is sent.
                if failing <= FEW {
                    self.give_up();
                }
            }
        }
        Change::None
    }

    /// Headroom pays again, and at once there is no other trial.
    fn give_up(&mut self) {
        self.phase = Phase::Free;
        self.rest = REST;
        (self.succeeds, self.attempts) = (1.0, 1.0);
    }

    /// In vain, so many times more succeed of what is sent once as there were attempts; if not, as many. More than what is between
    /// them, and not by chance.
    fn is_more(&self, succeeded: u32, ended: u32) -> bool {
        let share = (self.succeeds * self.attempts.sqrt()).min(1.0);
        let expected = f64::from(ended) * share;
        let chance = CERTAIN * ((expected * (1.0 - share)).sqrt() + 1.0);
        f64::from(succeeded) > expected + chance
    }
}

impl Core {
    /// The limit, as far as what fails because of it is concerned.
    #[cold]
    pub(super) fn change_for_failures(&mut self, change: Change) {
        let holds = matches!(change, Change::Lower(_) | Change::Raise);
        if self.fixed || (self.is_down() && holds) {
            return;
        }
        match change {
            Change::None => {}
            Change::Keep if self.state == State::Up => self.worth.kept = self.limit,
            Change::Keep => self.worth.kept = self.before,
            Change::Restore => {
                let kept = self.worth.kept;
                self.before = self.before.max(kept);
                // Else it grows to that by itself.
                if self.state == State::Up {
                    self.limit = self.limit.max(kept);
                }
            }
            Change::Lower(part) => {
                self.starting = false;
                let used = self.limit.min(f64::from(self.peak.max(4)));
                self.peak = self.in_flight;
                // It answers, and quickly: what is below one is for queues.
                self.limit = (used * part).max(self.limit.min(1.0));
                self.before = self.limit;
            }
            Change::Raise => {
                let more = self.limit + (self.limit * RISE).clamp(0.25, 1.0);
                self.limit = more.min(self.most_used()).max(self.limit);
                if self.state == State::Recovering && self.limit >= self.before {
                    self.state = State::Up;
                }
            }
        }
    }
}

#[cfg(all(test, not(buttress_loom)))]
impl Core {
    /// A trial is on.
    pub(in crate::backend) fn is_trying_once(&self) -> bool {
        matches!(self.worth.phase, Phase::Trial { .. })
    }
}
