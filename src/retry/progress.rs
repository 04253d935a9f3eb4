//! The one place that settles an attempt: limits, budget, events. Used by the layer, by direct use and by
//! the adapter for tower's own retry.

use std::time::Duration;

use super::RetryPolicy;
use super::core::{Run, Stop};
use super::managed::Tally;
use crate::budget::{RetryBudget, RetryToken, SentRetry};
use crate::classify::as_std_error;
use crate::clock::{Tick, now};
use crate::name::{LayerKind, Name};
use crate::observe::{EventKind, Observers};
use crate::outcome::{Outcome, RetryHint, Verdict};
use crate::rejection::{Rejection, RejectionKind};

/// What an attempt is settled against.
pub(super) struct Terms<'a> {
    pub(super) policy: &'a RetryPolicy,
    pub(super) deadline: Option<Tick>,
    pub(super) name: Name,
    pub(super) budget: Option<&'a RetryBudget>,
    pub(super) observers: &'a Observers,
    pub(super) tally: Option<&'a Tally>,
}

impl Terms<'_> {
    pub(super) fn rejection(&self, kind: RejectionKind) -> Rejection {
        Rejection::new(kind, LayerKind::Retry, self.name)
    }

    /// How long the attempt in hand may still take. Reads the clock only if there is a deadline.
    pub(super) fn attempt_limit(&self) -> Option<Duration> {
        let remaining = self.deadline.map(|deadline| deadline.since(now()));
        match (self.policy.attempt_timeout(), remaining) {
            (Some(timeout), Some(remaining)) => Some(timeout.min(remaining)),
            (timeout, remaining) => timeout.or(remaining),
        }
    }

    pub(super) fn has_passed(&self) -> bool {
        self.deadline.is_some_and(|deadline| now() >= deadline)
    }

    fn abandoned(&self, attempts: u32, why: Stop, outcome: Outcome) {
        if outcome.is_failure() || outcome == Outcome::Throttled {
            if let Some(tally) = self.tally {
                tally.abandoned();
            }
            let kind = EventKind::RetryAbandoned { attempts, reason: why.as_str(), outcome };
            self.observers.emit(LayerKind::Retry, self.name, kind);
        }
    }
}

/// The state of a run: its counters, and the budget's token of the attempt to come or on its way.
#[derive(Debug)]
pub(super) struct Progress {
    run: Run,
    waiting: Option<RetryToken>,
    sent: Option<SentRetry>,
    last: Outcome,
}

impl Progress {
    pub(super) const fn first() -> Self {
        Self { run: Run::first(), waiting: None, sent: None, last: Outcome::Success }
    }

    pub(super) const fn attempts(&self) -> u32 {
        self.run.attempts()
    }

    /// Whether a copy of the request is of no use any more.
    pub(super) fn is_last(&self, policy: &RetryPolicy) -> bool {
        self.run.is_last(policy)
    }

    /// Settles the attempt in hand. `Some(delay)` if another is to be made; its token is held from now
    /// on, so that it counts while it waits. `replayable` is asked only where another would be.
    pub(super) fn settle(
        &mut self,
        terms: &Terms<'_>,
        judged: Judged,
        replayable: impl FnOnce() -> bool,
    ) -> Option<Duration> {
        let Judged { verdict, unsent } = judged;
        let Verdict { outcome, .. } = verdict;
        let sent = self.sent.take();
        let first = self.run.attempts() == 1;
        if outcome == Outcome::Success {
            match (sent, terms.budget) {
                (Some(sent), _) => sent.succeeded(),
                (None, Some(budget)) if first => budget.succeeded(),
                _ => {}
            }
            if let Some(tally) = terms.tally.filter(|_| !first) {
                tally.recovered();
            }
            return None;
        }
        // It was a retry and did not work: paid, if the callee has seen it.
        if let Some(sent) = sent.filter(|_| unsent) {
            sent.refused();
        }
        self.last = outcome;
        // A refusal of our own did not reach the callee, so it pays in nothing for it.
        let counts = first && outcome != Outcome::Ignored;
        let attempts = self.run.attempts();
        let remaining = terms.deadline.map(|deadline| deadline.since(now()));
        let again = terms
            .policy
            .with_random(attempts, |random| {
                self.run.decide(terms.policy, verdict, remaining, random)
            })
            .and_then(|again| if replayable() { Ok(again) } else { Err(Stop::NotReplayable) });
        let stop = match (again, terms.budget) {
            (Ok(again), None) => Ok(again),
            (Ok(again), Some(budget)) => {
                self.waiting = if counts {
                    budget.failed(again.cost)
                } else {
                    let ours = u32::from(outcome == Outcome::Ignored);
                    budget.withdraw_after(attempts - ours, again.cost)
                };
                if self.waiting.is_some() { Ok(again) } else { Err(Stop::Budget) }
            }
            (Err(stop), budget) => {
                if let Some(budget) = budget.filter(|_| counts) {
                    budget.failed_for_good();
                }
                Err(stop)
            }
        };
        match stop {
            Ok(again) => {
                self.run.go_on(again);
                if let Some(tally) = terms.tally {
                    tally.retried();
                }
                let kind = EventKind::Retried { attempt: attempts, delay: again.delay, outcome };
                terms.observers.emit(LayerKind::Retry, terms.name, kind);
                Some(again.delay)
            }
            Err(stop) => {
                terms.abandoned(attempts, stop, outcome);
                None
            }
        }
    }

    /// The retry that was waited for is being sent now.
    pub(super) fn send(&mut self) {
        self.sent = self.waiting.take().map(RetryToken::send);
    }

    /// The retry that was waited for cannot be sent: its token goes back.
    pub(super) fn give_up(&mut self, terms: &Terms<'_>, why: Stop) {
        self.waiting = None;
        terms.abandoned(self.run.attempts().saturating_sub(1), why, self.last);
    }
}

/// A refusal of our own, in an error that can be looked into, is final unless it says otherwise, whatever
/// a classifier makes of it: retrying what a breaker has just refused would only spin. Not even a budget for
/// permanent failures changes that, hence the whole verdict and not only its hint. One that can be retried
/// says nothing about the callee either, and is not granted sooner than it says.
///
/// An attempt of the stack called `name` that took too long is the callee's failure: the classifier's word counts.
pub(super) fn respect_refusal<E: 'static>(
    verdict: Verdict,
    error: Option<&E>,
    name: Name,
) -> Judged {
    let Some(refusal) = error.and_then(as_std_error).and_then(Rejection::find) else {
        return Judged { verdict, unsent: false };
    };
    if refusal.is_attempt_of(name) {
        return Judged { verdict, unsent: false };
    }
    let unsent = kept_from_callee(refusal);
    if !refusal.is_retryable() {
        return Judged { verdict: Verdict::ignored(), unsent };
    }
    let after = verdict.retry.after().max(refusal.retry_after());
    let retry = match verdict.retry {
        RetryHint::Never => RetryHint::Never,
        RetryHint::Unknown { .. } => RetryHint::Unknown { after },
        RetryHint::Safe { .. } => RetryHint::Safe { after },
    };
    // An injected fault plays the callee's.
    let injected = refusal.kind() == RejectionKind::Injected;
    let outcome = if injected { verdict.outcome } else { Outcome::Ignored };
    Judged { verdict: Verdict::new(outcome, retry), unsent }
}

/// An attempt, judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judged {
    pub(super) verdict: Verdict,
    /// It did not reach the callee, so it cost the callee nothing.
    pub(super) unsent: bool,
}

/// Whether a refusal says for sure that the call it answers was not made.
fn kept_from_callee(refusal: &Rejection) -> bool {
    match refusal.kind() {
        // Another retry further in has made attempts before it gave up.
        _ if refusal.layer() == LayerKind::Retry => false,
        RejectionKind::RateLimited
        | RejectionKind::ExceedsBurst
        | RejectionKind::CircuitOpen
        | RejectionKind::Overloaded
        | RejectionKind::BudgetExhausted
        | RejectionKind::IdempotencyInFlight
        | RejectionKind::IdempotencyMismatch
        | RejectionKind::IdempotencyKeyMissing
        | RejectionKind::IdempotencyKeyInvalid
        | RejectionKind::RequestTooLarge
        | RejectionKind::RequestIncomplete
        | RejectionKind::Draining => true,
        // The time may run out, and the store fail, after the call; an interrupted call may have taken
        // effect. An injected fault counts as one of the callee's.
        RejectionKind::DeadlineExceeded
        | RejectionKind::IdempotencyOutcomeUnknown
        | RejectionKind::StoreUnavailable
        | RejectionKind::CallPanicked
        | RejectionKind::Injected => false,
    }
}
