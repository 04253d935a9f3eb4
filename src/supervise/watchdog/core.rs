//! When silence is a freeze. Knows no thread, no file and no clock.

use std::time::Duration;

use crate::clock::Tick;

use super::error::FreezeCause;

/// What was seen at a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// This, which changes with progress.
    Value(u64),
    /// This, and the process is stopped by a signal or a debugger.
    Halted(u64),
    /// Nothing that could change, and this is why.
    Nothing(FreezeCause),
    /// Nobody could say: as if nothing had changed.
    Same,
    /// It could not be looked at, which says nothing about it, unless that goes on for longer than the timeout.
    Unseen,
    /// It has ended on purpose.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Frozen {
        cause: FreezeCause,
        silent: Duration,
    },
    Recovered {
        after: Duration,
    },
    Ended,
    /// The checks themselves came late by this much.
    Gap(Duration),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) timeout: Duration,
    pub(super) check: Duration,
    /// How long nothing may be there after the start.
    pub(super) grace: Duration,
    /// A check that is later than this says nothing about the silence of others, nor do those before it.
    pub(super) gap: Duration,
    /// Silence of exactly the timeout is too much. Of a file it is not, as its age may be the maximum.
    pub(super) inclusive: bool,
}

/// How much of the time since the last check, which was to be `check`, says nothing about others.
///
/// Of a check that is late by more than a wake-up takes, nothing is known but that the process was there at
/// its end: a stop may have begun any time before.
pub(super) fn uncounted(passed: Duration, check: Duration) -> Duration {
    let late = passed.saturating_sub(check);
    if late > (check / 4).max(Duration::from_millis(5)) { passed } else { late }
}

#[derive(Debug)]
pub(super) struct Core {
    limits: Limits,
    /// The last check, and none after a start or a reset: then the next one only looks.
    last: Option<Tick>,
    value: Option<u64>,
    since: Tick,
    /// Since when it could not be looked at.
    blind: Option<Tick>,
    ended: bool,
    /// Since when, and what was told.
    frozen: Option<(Tick, FreezeCause)>,
}

impl Core {
    pub(super) const fn new(limits: Limits) -> Self {
        let (last, value, since, blind) = (None, None, Tick(0), None);
        Self { limits, last, value, since, blind, ended: false, frozen: None }
    }

    /// Forgets what was seen. The next check begins anew.
    pub(super) const fn reset(&mut self) {
        *self = Self::new(self.limits);
    }

    /// How long it has been silent at `now`, if the source has `value` now.
    pub(super) fn silent(&self, now: Tick, value: u64) -> Duration {
        if self.last.is_none() || self.value.is_some_and(|seen| seen != value) {
            return Duration::ZERO;
        }
        now.since(self.since)
    }

    /// How long it had been silent at `now`, as far as was seen.
    pub(super) fn silent_as_seen(&self, now: Tick) -> Duration {
        self.value.map_or(Duration::ZERO, |value| self.silent(now, value))
    }

    pub(super) const fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// One check. What there is to tell comes in pairs at most.
    pub(super) fn check(&mut self, now: Tick, seen: Seen) -> [Option<Told>; 2] {
        let first = self.last.is_none();
        let passed = self.last.map_or(Duration::ZERO, |last| now.since(last));
        let late = passed.saturating_sub(self.limits.check);
        self.last = Some(now);
        // The process was stopped, the machine slept, or there was no processor to be had: the watched
        // thread had none either, or has not had its turn since. After much of that its time starts again;
        // after a little the time since the last check does not count.
        let gap = late > self.limits.gap;
        let unseen = seen == Seen::Unseen;
        let uncounted = uncounted(passed, self.limits.check);
        let silent = if unseen { passed } else { uncounted };
        self.since = if first || gap { now } else { self.since.after(silent) };
        let blind = self.blind.filter(|_| !gap).map_or(now, |since| since.after(uncounted));
        self.blind = unseen.then_some(blind);
        let gap = gap.then_some(Told::Gap(late));
        let (value, cause) = match seen {
            Seen::Value(value) => (value, FreezeCause::Silent),
            Seen::Halted(value) => (value, FreezeCause::Stopped),
            Seen::Same => (self.value.unwrap_or_default(), FreezeCause::Silent),
            Seen::Unseen => return [gap, self.unseen(now, blind)],
            Seen::Nothing(cause) => return [gap, self.nothing(now, cause)],
            Seen::Ended => {
                let known = self.value.take().is_some();
                self.frozen = None;
                self.since = now;
                let again = std::mem::replace(&mut self.ended, true);
                return [gap, (known && !again).then_some(Told::Ended)];
            }
        };
        self.ended = false;
        if self.value.replace(value) != Some(value) {
            self.since = now;
            let after = self.frozen.take().map(|(begun, _)| now.since(begun));
            return [gap, after.map(|after| Told::Recovered { after })];
        }
        let silent = now.since(self.since);
        let frozen =
            if self.is_over(silent) { self.freeze(self.since, cause, silent) } else { None };
        [gap, frozen]
    }

    fn is_over(&self, silent: Duration) -> bool {
        if self.limits.inclusive {
            silent >= self.limits.timeout
        } else {
            silent > self.limits.timeout
        }
    }

    /// One that is never seen again would never be told of.
    fn unseen(&mut self, now: Tick, since: Tick) -> Option<Told> {
        let blind = now.since(since);
        let waiting = self.value.is_none() && (self.ended || blind <= self.limits.grace);
        if waiting || !self.is_over(blind) {
            return None;
        }
        self.freeze(since, FreezeCause::Unreadable, blind)
    }

    /// What was there has gone, or what should come has not.
    fn nothing(&mut self, now: Tick, cause: FreezeCause) -> Option<Told> {
        let silent = now.since(self.since);
        // Before the first beat, the file may be that of the process before this one.
        let waiting = self.value.is_none() && (self.ended || silent <= self.limits.grace);
        if waiting { None } else { self.freeze(self.since, cause, silent) }
    }

    fn freeze(&mut self, since: Tick, cause: FreezeCause, silent: Duration) -> Option<Told> {
        let begun = match self.frozen {
            None => since,
            // That nothing was known of it told nobody to do anything: what is known now does. And whoever starts again what
            // has gone has done nothing about one that was silent.
            Some((begun, before))
                if cause != before
                    && (before == FreezeCause::Unreadable || cause == FreezeCause::Dead) =>
            {
                begun
            }
            Some(_) => return None,
        };
        self.frozen = Some((begun, cause));
        Some(Told::Frozen { cause, silent })
    }
}
