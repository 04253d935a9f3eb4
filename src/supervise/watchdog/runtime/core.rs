//! Which worker is blocked. Knows no runtime, no thread and no clock.

use std::time::Duration;

use crate::clock::Tick;

use super::super::core::uncounted;

/// What the runtime says of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// Counts parks and unparks: even while it is at work.
    pub(super) parks: u64,
    /// Grows with the work done, published now and then.
    pub(super) busy: Duration,
}

/// Who is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Worker(usize),
    /// The task that only has to answer.
    Canary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Frozen { who: Who, silent: Duration },
    Recovered { who: Who, after: Duration },
    Gap(Duration),
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    sample: Sample,
    since: Tick,
    frozen: bool,
    /// For how long it was seen to be frozen: without what cannot be counted.
    counted: Duration,
}

#[derive(Debug)]
pub(super) struct Core {
    threshold: Duration,
    check: Duration,
    gap: Duration,
    /// The runtime's worker is whoever drives it.
    one_thread: bool,
    last: Option<Tick>,
    workers: Vec<Seen>,
    /// When the canary was asked what it has not answered yet.
    asked: Option<Tick>,
    canary_frozen: Option<Tick>,
    canary_counted: Duration,
}

impl Core {
    pub(super) fn new(threshold: Duration, check: Duration, one_thread: bool) -> Self {
        // A look that is later than this says nothing about others, nor do those before it.
        let gap = (check / 2).max(threshold / 4).max(Duration::from_millis(20));
        Self {
            threshold,
            check,
            gap,
            one_thread,
            last: None,
            workers: Vec::new(),
            asked: None,
            canary_frozen: None,
            canary_counted: Duration::ZERO,
        }
    }

    /// Forgets what was seen.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.threshold, self.check, self.one_thread);
    }

    /// One look. `answered`: the canary has answered what it was asked at the last look; it is asked again
    /// then. A worker is blocked if it is at work and nothing has changed: neither has it parked, nor has it
    /// come to publish that it worked, as it does every few tasks.
    pub(super) fn check(&mut self, now: Tick, samples: &[Sample], answered: bool) -> Vec<Told> {
        let mut told = Vec::new();
        let passed = self.last.map_or(Duration::ZERO, |last| now.since(last));
        let late = passed.saturating_sub(self.check);
        let uncounted = uncounted(passed, self.check);
        let gap = late > self.gap;
        if gap {
            told.push(Told::Gap(late));
        }
        let first = self.last.replace(now).is_none();
        if self.workers.len() != samples.len() {
            let seen = |sample: &Sample| Seen {
                sample: *sample,
                since: now,
                frozen: false,
                counted: Duration::ZERO,
            };
            self.workers = samples.iter().map(seen).collect();
        }
        for (index, (seen, sample)) in self.workers.iter_mut().zip(samples).enumerate() {
            let who = Who::Worker(index);
            let parked = sample.parks % 2 == 1;
            // A runtime of one thread that nobody has driven yet looks as if it were at work.
            let begun = !self.one_thread || sample.parks > 0 || !sample.busy.is_zero();
            let changed = seen.sample != *sample;
            seen.sample = *sample;
            if changed || parked || !begun {
                if std::mem::take(&mut seen.frozen) {
                    told.push(Told::Recovered { who, after: now.since(seen.since) });
                }
                seen.since = now;
                continue;
            }
            if gap || first {
                // While it is frozen the time goes on: that it is, has been seen.
                if !seen.frozen {
                    seen.since = now;
                }
                continue;
            }
            // When the look was late, the worker may have waited for a processor as well.
            if seen.frozen {
                seen.counted = seen.counted.saturating_add(passed.saturating_sub(uncounted));
                continue;
            }
            seen.since = seen.since.after(uncounted);
            let silent = now.since(seen.since);
            if silent >= self.threshold {
                (seen.frozen, seen.counted) = (true, silent);
                told.push(Told::Frozen { who, silent });
            }
        }
        if !gap {
            let counted = passed.saturating_sub(uncounted);
            self.canary_counted = self.canary_counted.saturating_add(counted);
        }
        told.extend(self.canary(now, answered, uncounted, gap));
        told
    }

    fn canary(
        &mut self,
        now: Tick,
        answered: bool,
        uncounted: Duration,
        gap: bool,
    ) -> Option<Told> {
        let who = Who::Canary;
        let asked = self.asked.insert(self.asked.map_or(now, |asked| asked.after(uncounted)));
        let asked = *asked;
        if answered {
            self.asked = Some(now);
            return self
                .canary_frozen
                .take()
                .map(|since| Told::Recovered { who, after: now.since(since) });
        }
        if gap {
            self.asked = Some(now);
            return None;
        }
        let silent = now.since(asked);
        if silent >= self.threshold && self.canary_frozen.is_none() {
            (self.canary_frozen, self.canary_counted) = (Some(asked), silent);
            return Some(Told::Frozen { who, silent });
        }
        None
    }

    /// The workers that are frozen.
    pub(super) fn frozen(&self) -> impl Iterator<Item = (Who, Tick)> + '_ {
        let workers = self.workers.iter().enumerate().filter(|(_, seen)| seen.frozen);
        let workers = workers.map(|(index, seen)| (Who::Worker(index), seen.since));
        workers.chain(self.canary_frozen.map(|since| (Who::Canary, since)))
    }

    /// The longest time for which one that is frozen now was seen to be: time in which this process did not run is
    /// not in it.
    pub(super) fn longest(&self) -> Option<Duration> {
        let workers = self.workers.iter().filter(|seen| seen.frozen).map(|seen| seen.counted);
        workers.chain(self.canary_frozen.map(|_| self.canary_counted)).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Tick {
        Tick(1 << 50).after(Duration::from_millis(ms))
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const fn sample(parks: u64, busy: u64) -> Sample {
        Sample { parks, busy: Duration::from_millis(busy) }
    }

    /// Looks every 100 ms, with a threshold of 400.
    fn run(
        core: &mut Core,
        from: u64,
        to: u64,
        samples: &[Sample],
        answered: bool,
    ) -> Vec<(u64, Told)> {
        (from..to)
            .step_by(100)
            .flat_map(|t| {
                core.check(at(t), samples, answered).into_iter().map(move |told| (t, told))
            })
            .collect()
    }

    fn core() -> Core {
        Core::new(ms(400), ms(100), false)
    }

    #[test]
    fn the_worker_that_neither_parks_nor_publishes_is_named_once() {
        let mut core = core();
        let workers = [sample(5, 7), sample(8, 3), sample(1, 0)];
        let who = Who::Worker(1);
        let frozen = Told::Frozen { who, silent: ms(400) };
        assert_eq!(
            run(&mut core, 0, 2000, &workers, true),
            [(400, frozen)],
            "the others are parked"
        );
        assert_eq!(core.frozen().collect::<Vec<_>>(), [(who, at(0))]);
        let workers = [sample(5, 7), sample(9, 2003), sample(1, 0)];
        let recovered = Told::Recovered { who, after: ms(2000) };
        assert_eq!(run(&mut core, 2000, 4000, &workers, true), [(2000, recovered)]);
        assert_eq!(core.frozen().count(), 0);
    }

    #[test]
    fn a_worker_blocked_from_the_start_is_told_and_a_runtime_that_nobody_drives_is_not() {
        let new = [sample(0, 0)];
        assert_eq!(run(&mut core(), 0, 2000, &new, true).len(), 1);
        let mut one = Core::new(ms(400), ms(100), true);
        assert_eq!(run(&mut one, 0, 2000, &new, true), []);
        assert_eq!(run(&mut one, 2000, 4000, &[sample(2, 0)], true).len(), 1);
    }

    #[test]
    fn a_busy_worker_publishes_and_is_not_blocked() {
        let mut core = core();
        for t in (0..5000).step_by(100) {
            assert_eq!(
                core.check(at(t), &[sample(8, t)], true),
                [],
                "it yields, though it never parks"
            );
        }
        for t in (5000..9000).step_by(100) {
            assert_eq!(core.check(at(t), &[sample(8 + t / 50, 0)], true), []);
        }
    }

    #[test]
    fn the_canary_is_reported_apart() {
        let mut core = core();
        let parked = [sample(5, 7)];
        run(&mut core, 0, 200, &parked, true);
        let who = Who::Canary;
        let frozen = Told::Frozen { who, silent: ms(400) };
        assert_eq!(run(&mut core, 200, 1000, &parked, false), [(500, frozen)], "asked at 100");
        let recovered = Told::Recovered { who, after: ms(900) };
        assert_eq!(run(&mut core, 1000, 1300, &parked, true), [(1000, recovered)]);
    }

    #[test]
    fn a_little_lateness_does_not_count() {
        let working = [sample(8, 3)];
        let frozen = Told::Frozen { who: Who::Worker(0), silent: ms(400) };
        // By what a wake-up takes: that is not counted, the rest is.
        let mut core = self::core();
        for t in [0, 120, 240, 360] {
            assert_eq!(core.check(at(t), &working, true), []);
        }
        assert_eq!(core.check(at(480), &working, true), [frozen]);
        // By more: the whole time since the last look says nothing.
        let mut core = self::core();
        for t in [0, 190, 380, 570, 760, 950] {
            assert_eq!(core.check(at(t), &working, true), []);
        }
        assert_eq!(run(&mut core, 1050, 1400, &working, true), [(1350, frozen)]);
    }

    /// What aborts the process must not be that it was stopped while a worker was frozen.
    #[test]
    fn how_long_one_is_frozen_is_counted_only_while_somebody_looks() {
        let mut core = core();
        let working = [sample(8, 3)];
        run(&mut core, 0, 600, &working, false);
        assert_eq!(core.longest(), Some(ms(500)));
        core.check(at(60_000), &working, false);
        assert_eq!(core.longest(), Some(ms(500)), "it was stopped for a minute");
        run(&mut core, 60_100, 60_400, &working, false);
        assert_eq!(core.longest(), Some(ms(800)));
        run(&mut core, 60_400, 60_500, &[sample(9, 3)], true);
        assert_eq!(core.longest(), None);
    }

    #[test]
    fn a_late_look_blames_nobody() {
        let mut core = core();
        let working = [sample(8, 3)];
        run(&mut core, 0, 400, &working, false);
        assert_eq!(core.check(at(5000), &working, false), [Told::Gap(ms(4600))]);
        let told = run(&mut core, 5100, 6000, &working, false);
        let silent = ms(400);
        let worker = Told::Frozen { who: Who::Worker(0), silent };
        let canary = Told::Frozen { who: Who::Canary, silent };
        assert_eq!(told, [(5400, worker), (5400, canary)]);
        // Frozen all the while: the gap neither ends it nor tells it again.
        assert_eq!(core.check(at(9000), &working, false), [Told::Gap(ms(3000))]);
        assert_eq!(run(&mut core, 9100, 10_000, &working, false), []);
    }
}
