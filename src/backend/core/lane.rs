//! What calls that go past the lock have changed.

use super::outcome::is_due;
use super::{Core, MAX_TOKENS};
use crate::backend::turn::State;
use crate::context::Criticality;
use crate::pace::Phase;

/// Nothing has to be decided about the next calls.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) struct Calm {
    pub(in crate::backend) in_flight: u32,
    /// So many may be in flight before it matters.
    pub(in crate::backend) most: u32,
    /// Since the last call that was measured.
    pub(in crate::backend) unmeasured: u32,
    pub(in crate::backend) not_at_once: u32,
}

impl Core {
    /// Answers come so quickly that not all of them are measured, and nothing is out of the ordinary.
    #[inline]
    pub(super) fn all_is_well(&self) -> bool {
        self.quick
            && self.state == State::Up
            && self.pace.phase() == Phase::Free
            && self.latency.is_near()
    }

    /// If so, a call that comes or succeeds changes nothing but counts and means.
    pub(in crate::backend) fn calm(&self) -> Option<Calm> {
        let calm = self.all_is_well()
            && self.failures == 0
            && self.throttled == 0
            && self.worth.is_free()
            && self.room.is_empty()
            && self.zombies.is_empty();
        if !calm {
            return None;
        }
        // Fewer than half of what may be: what they take is not our doing.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most a million"
        )]
        let most = (self.limit / 2.0).ceil() as u32;
        let most = most.saturating_sub(1);
        let Self { in_flight, unmeasured, not_at_once, .. } = *self;
        let calm = Calm { in_flight, most, unmeasured, not_at_once };
        (in_flight <= most && !is_due(unmeasured, not_at_once)).then_some(calm)
    }

    /// Calls have come, and those that were answered at once are gone, since it was calm: so many are in flight, and
    /// so many were not measured, of which some were not answered at once.
    pub(in crate::backend) fn catch_up(
        &mut self,
        in_flight: u32,
        unmeasured: u32,
        not_at_once: u32,
    ) {
        self.not_at_once = not_at_once;
        let came = unmeasured - self.unmeasured;
        let went = self.in_flight + came - in_flight;
        if came > 0 {
            self.counts.admitted += u64::from(came);
            self.unmeasured = unmeasured;
            self.unseen += came;
            // If none was out before, it is not since then that there has been no answer. That one more has come says
            // nothing of those that are out.
            self.heard |= self.in_flight == 0;
            self.see_class(Criticality::Critical, came);
        }
        self.in_flight = in_flight;
        self.peak = self.peak.max(in_flight);
        if went == 0 {
            return;
        }
        self.heard = true;
        if !self.fixed {
            self.floored = None;
            self.answered = self.answered.saturating_add(went);
        }
        self.luck.succeeded(went);
        self.worth.all_succeeded(went);
        self.tokens = (self.tokens + went).min(MAX_TOKENS);
        self.missed -= self.missed * share::<16>(went);
        self.failing -= self.failing * share::<64>(went);
        let many = f64::from(in_flight) + 1.0;
        if self.usual == 0.0 {
            self.usual = many;
        }
        self.usual += (many - self.usual) * share::<64>(went);
    }

    /// A call that was not to be measured if it was answered at once is not.
    pub(in crate::backend) fn not_at_once(&mut self) {
        self.not_at_once = self.unmeasured.min(self.not_at_once + 1);
    }

    /// So many calls of that class have come.
    #[inline]
    pub(super) fn see_class(&mut self, class: Criticality, times: u32) {
        let new = share::<64>(times);
        for (one, share) in Criticality::ALL.into_iter().zip(&mut self.shares) {
            *share += (if one == class { 1.0 } else { 0.0 } - *share) * new;
        }
    }
}

#[cfg(test)]
impl Core {
    /// As after a few calls that were answered at once.
    pub(in crate::backend) fn make_quick(&mut self, now: crate::clock::Tick) {
        (0..16).for_each(|_| self.latency.record(1000, true));
        (self.quick, self.quiet_since, self.last_arrival) = (true, now, now);
        self.patience = 1e9;
    }

    /// Since the last that was measured, and those of them that were not answered at once.
    pub(in crate::backend) fn unmeasured(&self) -> (u32, u32) {
        (self.unmeasured, self.not_at_once)
    }

    /// It has been seen that so many may be in flight.
    #[cfg(not(buttress_loom))]
    pub(in crate::backend) fn make_wide(&mut self, limit: u32) {
        self.limit = f64::from(limit);
    }

    #[cfg(not(buttress_loom))]
    pub(in crate::backend) fn whole(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let counts = (self.counts.admitted, self.counts.waited, self.counts.downs);
        let numbers = (self.in_flight, self.unmeasured(), self.tokens, self.failures);
        (counts, numbers, self.answered, self.state, self.limit.to_bits())
    }

    #[cfg(not(buttress_loom))]
    pub(in crate::backend) fn means(&self) -> [f64; 4] {
        [self.missed, self.failing, self.shares[2], self.gap]
    }
}

/// Of so many new values, one after the other, in a mean that takes one of `N` of each.
#[inline]
pub(super) fn share<const N: u32>(times: u32) -> f64 {
    let shares = const { shares(N as f64) };
    shares[(times as usize).min(MANY - 1)]
}

/// No more are counted: so many in flight end at once only if most of them had come by the lock.
const MANY: usize = 65;

const fn shares(of: f64) -> [f64; MANY] {
    let mut shares = [0.0; MANY];
    let mut times = 1;
    while times < MANY {
        shares[times] = shares[times - 1] + (1.0 - shares[times - 1]) / of;
        times += 1;
    }
    shares
}
