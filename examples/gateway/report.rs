//! The table at the end: per phase, what the callers got and what the backend had to bear.

use std::fmt::Write;

use crate::load::{End, Sample};
use crate::script::Day;
use crate::{World, Worlds};

/// One row: one world in one stretch of time.
pub(crate) struct Row {
    pub(crate) offered: usize,
    pub(crate) good: usize,
    /// Seconds until the caller knew: an answer of any kind, or its own deadline.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    sent: u32,
    attempts: u32,
    arrived: u32,
    seconds: f64,
}

impl Row {
    pub(crate) fn new(world: &World, from: f64, until: f64) -> Self {
        let samples = world.record.sent_between(from, until);
        let mut waits: Vec<f64> = samples.iter().map(Sample::wait).collect();
        waits.sort_by(f64::total_cmp);
        Self {
            offered: samples.len(),
            good: samples.iter().filter(|sample| sample.end == End::Good).count(),
            p50: quantile(&waits, 0.50),
            p99: quantile(&waits, 0.99),
            sent: world.record.sent.between(from, until),
            attempts: world.attempts.between(from, until),
            arrived: world.arrived.between(from, until),
            seconds: until - from,
        }
    }

    pub(crate) fn share(&self) -> f64 {
        self.good as f64 / (self.offered as f64).max(1.0)
    }

    fn amplification(&self) -> f64 {
        f64::from(self.attempts) / f64::from(self.sent.max(1))
    }
}

/// Of sorted values; 0 when there are none.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((last * q).round() as usize).copied().unwrap_or(0.0)
}

pub(crate) fn table(day: &Day, worlds: &Worlds) -> String {
    let mut out = String::from(
        "\n                             goodput   in time   wait p50   wait p99  backend  amplifi-\n\
         phase              caller         /s         %         ms         ms       /s    cation\n",
    );
    let mut section = |name: &str, from: f64, until: f64| {
        for (title, caller, world) in [
            (name, "gateway", &worlds.gateway),
            (&*format!("  {:.1} s", until - from), "straight", &worlds.straight),
        ] {
            let row = Row::new(world, from, until);
            let _ = writeln!(
                out,
                "{title:<18} {caller:<8} {:>8.1} {:>9.1} {:>10.1} {:>10.1} {:>8.0} {:>9.2}",
                row.good as f64 / row.seconds,
                100.0 * row.share(),
                1000.0 * row.p50,
                1000.0 * row.p99,
                f64::from(row.arrived) / row.seconds,
                row.amplification(),
            );
        }
    };
    for phase in &day.phases {
        section(phase.name, phase.from, phase.until);
    }
    section("the whole day", 0.0, day.length());

    let [with, without] =
        [&worlds.gateway, &worlds.straight].map(|world| Row::new(world, 0.0, day.length()));
    let lost = |row: &Row| row.offered - row.good;
    let _ = writeln!(
        out,
        "\nSame load, same day: {} of {} requests lost through the gateway, {} straight.",
        lost(&with),
        with.offered,
        lost(&without),
    );
    out.push_str(
        "in time: a 200 within the caller's deadline of 1 s. wait: until the caller had an answer of any\n\
         kind, or gave up. backend: requests that reached it. amplification: attempts per request offered.\n",
    );
    out
}
