//! The windows of the burn-rate alerts: no clock, no lock, no user code.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::{Tick, nanos};
use crate::error::ConfigError;
use crate::window::{Ledger, Totals};

use super::slo::{AlertStatus, Severity, Slo, SloStatus};

/// Whole buckets in a window.
const BUCKETS: u64 = ROOM as u64 - 2;

/// Buckets that there can be, with the one that is leaving and the one that is filling up.
const ROOM: usize = 62;

/// Calls and failures that lie some time back.
pub(super) type Aged = (Duration, u64, u64);

/// How many calls, of them failed, each of the alerts' windows and the period hold.
///
/// Calls come in from the ledger in batches, at least as often as the shortest bucket turns over, and are
/// put on the time at which they can have been made. A window has sixty buckets and covers its length and
/// up to a sixtieth more.
#[derive(Debug)]
pub(super) struct Burn {
    slo: Slo,
    min_samples: u64,
    /// An alert that fires goes on until its short window burns no faster than this times its factor.
    recovery: f64,
    interval: u64,
    brought: Tick,
    seen: Box<[u64]>,
    windows: Vec<Window>,
    /// Which windows are each alert's long and short one.
    of_alert: Vec<(usize, usize)>,
    period: usize,
}

#[derive(Debug)]
struct Window {
    span: Duration,
    width: u64,
    buckets: VecDeque<Bucket>,
    sum: Totals,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Of widths since long before the process began: what was restored may be older than that.
    number: u64,
    calls: u64,
    failures: u64,
}

impl Window {
    fn new(span: Duration) -> Self {
        let width = (nanos(span) / BUCKETS).max(1);
        // No call has to make more room.
        let buckets = VecDeque::with_capacity(ROOM);
        Self { span, width, buckets, sum: Totals::default() }
    }

    /// `at`: with the past.
    fn add(&mut self, at: u64, calls: u64, failures: u64) {
        let number = at / self.width;
        match self.buckets.back_mut() {
            // Also what is late: it counts with the newest.
            Some(bucket) if bucket.number >= number => {
                bucket.calls += calls;
                bucket.failures += failures;
            }
            _ => {
                // Here, too: nobody may ever ask what this window holds.
                self.forget(number);
                self.buckets.push_back(Bucket { number, calls, failures });
            }
        }
        self.sum.calls += calls;
        self.sum.failures += failures;
    }

    fn totals(&mut self, now: Tick) -> Totals {
        self.forget(now.with_past() / self.width);
        self.sum
    }

    /// Drops what has left the window when bucket `number` is the newest.
    fn forget(&mut self, number: u64) {
        while let Some(bucket) = self.buckets.front()
            && bucket.number.saturating_add(BUCKETS) < number
        {
            self.sum.calls -= bucket.calls;
            self.sum.failures -= bucket.failures;
            self.buckets.pop_front();
        }
    }

    fn saved(&self, now: Tick) -> Vec<Aged> {
        let age = |bucket: &Bucket| now.with_past().saturating_sub(bucket.number * self.width);
        let aged =
            |bucket: &Bucket| (Duration::from_nanos(age(bucket)), bucket.calls, bucket.failures);
        self.buckets.iter().map(aged).collect()
    }
}

/// What a judgement found.
pub(super) struct Findings {
    /// One bit for each alert that fires.
    pub(super) firing: u64,
    /// Of those that fire and are grave enough, the one whose factor is exceeded most.
    pub(super) hottest: Option<AlertStatus>,
    /// Those that begin or end.
    pub(super) turned: Vec<AlertStatus>,
}

impl Burn {
    pub(super) fn new(
        slo: Slo,
        min_samples: u64,
        recovery: f64,
        stripes: usize,
        now: Tick,
    ) -> Self {
        let mut windows: Vec<Window> = Vec::new();
        let mut place = |span: Duration| {
            windows.iter().position(|window| window.span == span).unwrap_or_else(|| {
                windows.push(Window::new(span));
                windows.len() - 1
            })
        };
        let of_alert = slo.alerts.iter().map(|a| (place(a.long), place(a.short))).collect();
        let period = place(slo.period);
        let shortest = windows.iter().map(|window| window.width).min().unwrap_or(1);
        let interval = shortest.min(10_000_000_000);
        Self {
            slo,
            min_samples,
            recovery,
            interval,
            brought: now,
            seen: vec![0; stripes].into(),
            windows,
            of_alert,
            period,
        }
    }

    /// The objective, factors and severities may change. The windows may not: alerts that fire are known by
    /// their places.
    pub(super) fn reconfigure(
        &mut self,
        slo: Slo,
        min_samples: u64,
        recovery: f64,
    ) -> Result<(), ConfigError> {
        if slo.period != self.slo.period {
            let (new, old) = (slo.period, self.slo.period);
            return Err(ConfigError::new(
                "slo.period",
                format_args!("{new:?}"),
                format!("{old:?}, as it was built"),
            ));
        }
        let spans = |slo: &Slo| slo.alerts.iter().map(|a| (a.long, a.short)).collect::<Vec<_>>();
        let (new, old) = (spans(&slo), spans(&self.slo));
        if new != old {
            return Err(ConfigError::new(
                "burn_alerts",
                format_args!("windows {new:?}"),
                format!("windows {old:?}, as it was built"),
            ));
        }
        self.slo = slo;
        self.min_samples = min_samples;
        self.recovery = recovery;
        Ok(())
    }

    /// How often [`bring`](Self::bring) must be called while there are calls, in nanoseconds.
    pub(super) fn interval(&self) -> u64 {
        self.interval
    }

    /// Brings in what the ledger has recorded since last time. Who records the first call after an
    /// interval calls this first: so what is brought in was made within one interval of last time, and
    /// not in the silence since.
    pub(super) fn bring(&mut self, ledger: &Ledger, now: Tick) {
        let news = ledger.news(&mut self.seen);
        let at = now.min(Tick(self.brought.0.saturating_add(self.interval)));
        if news.calls > 0 {
            for window in &mut self.windows {
                window.add(at.with_past(), news.calls, news.failures);
            }
        }
        self.brought = self.brought.max(now);
    }

    /// `firing`: one bit for each alert that has fired until now.
    pub(super) fn judge(&mut self, now: Tick, firing: u64, act_on: Severity) -> Findings {
        let mut found = Findings { firing: 0, hottest: None, turned: Vec::new() };
        let heat = |status: &AlertStatus| status.short_burn / status.alert.factor;
        for n in 0..self.of_alert.len() {
            let fired = firing >> n & 1 == 1;
            let status = self.alert(n, now, fired);
            found.firing |= u64::from(status.firing) << n;
            if status.firing != fired {
                found.turned.push(status);
            }
            let hotter = |than: AlertStatus| heat(&status).total_cmp(&heat(&than)).is_ge();
            if status.firing && status.alert.severity >= act_on && found.hottest.is_none_or(hotter)
            {
                found.hottest = Some(status);
            }
        }
        found
    }

    fn alert(&mut self, n: usize, now: Tick, fired: bool) -> AlertStatus {
        let allowed = self.slo.allowed();
        let (alert, (long, short)) = (self.slo.alerts[n], self.of_alert[n]);
        let long = self.windows[long].totals(now);
        let short = self.windows[short].totals(now);
        let (long_burn, short_burn) =
            (long.failure_rate() / allowed, short.failure_rate() / allowed);
        let firing = if fired {
            short_burn > alert.factor * self.recovery
        } else {
            long.calls >= self.min_samples
                && short.calls >= self.min_samples
                && long_burn > alert.factor
                && short_burn > alert.factor
        };
        AlertStatus {
            alert,
            firing,
            long_burn,
            short_burn,
            long_samples: long.calls,
            short_samples: short.calls,
        }
    }

    pub(super) fn status(&mut self, now: Tick, firing: u64) -> SloStatus {
        let alerts = self.of_alert.len();
        let told = |n: usize| {
            let fired = firing >> n & 1 == 1;
            AlertStatus { firing: fired, ..self.alert(n, now, fired) }
        };
        let alerts: Vec<_> = (0..alerts).map(told).collect();
        let period = self.windows[self.period].totals(now);
        let remaining = 1.0 - period.failure_rate() / self.slo.allowed();
        let latest = alerts.iter().min_by_key(|alert| alert.alert.long);
        let burn = latest.map_or(0.0, |alert| alert.long_burn);
        let left = remaining.max(0.0) * self.slo.period.as_secs_f64() / burn;
        SloStatus {
            objective: self.slo.objective,
            period: self.slo.period,
            budget_remaining: remaining,
            // Not a number, or too long for one: nothing burns.
            time_to_exhaustion: Duration::try_from_secs_f64(left).ok(),
            samples: period.calls,
            failures: period.failures,
            alerts,
        }
    }

    pub(super) fn clear(&mut self, ledger: &Ledger, now: Tick) {
        ledger.news(&mut self.seen);
        self.brought = now;
        for window in &mut self.windows {
            window.buckets.clear();
            window.sum = Totals::default();
        }
    }

    pub(super) fn saved(&self, now: Tick) -> Vec<(Duration, Vec<Aged>)> {
        self.windows.iter().map(|window| (window.span, window.saved(now))).collect()
    }

    /// Puts in what [`saved`](Self::saved) gave, `older` ago. For windows that nothing is in yet.
    pub(super) fn put(&mut self, now: Tick, older: Duration, saved: &[(Duration, Vec<Aged>)]) {
        for window in &mut self.windows {
            let span = window.span;
            let buckets = saved.iter().filter(|(saved, _)| *saved == span);
            for &(age, calls, failures) in buckets.flat_map(|(_, buckets)| buckets) {
                let age = nanos(age.saturating_add(older));
                if age <= nanos(window.span).saturating_add(window.width) {
                    window.add(now.with_past().saturating_sub(age), calls, failures);
                }
            }
        }
    }
}
