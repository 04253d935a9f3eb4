//! The live view: redrawn in place on a terminal, one line per second anywhere else.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use tokio::sync::oneshot::Receiver;
use tokio::time::{MissedTickBehavior, interval};

use crate::load::{End, Sample};
use crate::policies::Policies;
use crate::report::quantile;
use crate::script::Day;
use crate::{World, Worlds};

/// Fits a terminal of 80 columns.
const WIDTH: usize = 78;
const HISTORY: usize = 52;

/// Shows the day until the load is done.
pub(crate) async fn watch(day: &Day, worlds: &Worlds, policies: &Policies, mut load: Receiver<()>) {
    let live = std::io::stdout().is_terminal();
    let paint = Paint(live && std::env::var_os("NO_COLOR").is_none());
    let mut ticks = interval(Duration::from_millis(if live { 100 } else { 1000 }));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut above = 0;
    let mut done = false;
    if live {
        // No cursor, and no wrapping: a wrapped line would spoil the count of lines to go back.
        print!("\x1b[?25l\x1b[?7l");
    } else {
        println!("seed {}, {:.0} s, {:.0} requests/s", day.seed, day.length(), crate::load::RATE);
    }
    while !done {
        tokio::select! {
            biased;
            _ = &mut load => done = true,
            _ = ticks.tick() => {}
        }
        let now = Now::new(day, worlds);
        if live {
            let frame = frame(day, worlds, policies, &now, paint);
            let mut text = if above > 0 { format!("\x1b[{above}A") } else { String::new() };
            for line in &frame {
                let _ = writeln!(text, "\x1b[2K{line}");
            }
            above = frame.len();
            print!("{text}");
            let _ = std::io::stdout().flush();
        } else if now.at > 0.5 && !done {
            println!("{}", line(day, policies, &now));
        }
    }
    if live {
        restore_terminal();
    }
}

pub(crate) fn restore_terminal() {
    if std::io::stdout().is_terminal() {
        print!("\x1b[?25h\x1b[?7h");
        let _ = std::io::stdout().flush();
    }
}

/// The last second.
struct Now {
    at: f64,
    phase: usize,
    gateway: Second,
    straight: Second,
}

struct Second {
    rate: u32,
    /// Including the greedy caller's.
    sent: u32,
    /// Share of good ends.
    good: f64,
    p50: f64,
    p99: f64,
    attempts: u32,
}

impl Now {
    fn new(day: &Day, worlds: &Worlds) -> Self {
        let at = day.now().min(day.length());
        let second = |world: &World| {
            let ended = world.record.ended_since(at - 1.0);
            let good = ended.iter().filter(|sample| sample.end == End::Good).count();
            let mut waits: Vec<f64> = ended.iter().map(Sample::wait).collect();
            waits.sort_by(f64::total_cmp);
            Second {
                rate: world.record.offered.between(at - 1.0, at),
                sent: world.record.sent.between(at - 1.0, at),
                good: good as f64 / (ended.len() as f64).max(1.0),
                p50: quantile(&waits, 0.5),
                p99: quantile(&waits, 0.99),
                attempts: world.attempts.between(at - 1.0, at),
            }
        };
        Self {
            at,
            phase: day.phase_at(at),
            gateway: second(&worlds.gateway),
            straight: second(&worlds.straight),
        }
    }
}

fn line(day: &Day, policies: &Policies, now: &Now) -> String {
    format!(
        "{:>4.0} s  {:<14} {:>4}/s  in time {:>5.1} % (straight {:>5.1} %)  backend {:>4}/s ({:>3}/s)  {}",
        now.at,
        day.phases[now.phase].name,
        now.gateway.rate,
        100.0 * now.gateway.good,
        100.0 * now.straight.good,
        now.gateway.attempts,
        now.straight.attempts,
        policies.in_short(),
    )
}

fn frame(day: &Day, worlds: &Worlds, policies: &Policies, now: &Now, paint: Paint) -> Vec<String> {
    let phase = &day.phases[now.phase];
    let title = format!("buttress gateway, seed {}", day.seed);
    let clock = format!("{:.1} of {:.0} s", now.at, day.length());
    let mut lines = vec![
        format!("{}{clock:>pad$}", paint.bold(&title), pad = WIDTH - title.len()),
        progress(day, now.at, paint),
        format!("{} {}", paint.dim("now:"), paint.bold(phase.sentence())),
        String::new(),
        paint.dim(&format!("{:<14}{:<32}{}", "", "through the gateway", "straight to the backend")),
    ];
    let both = |name: &str, cell: &dyn Fn(&Second) -> String| {
        // Bars carry colour codes, so the padding must be counted without them.
        let left = cell(&now.gateway);
        let pad = 32usize.saturating_sub(visible(&left));
        format!("{name:<14}{left}{:pad$}{}", "", cell(&now.straight))
    };
    lines.push(both("requests/s", &|s| s.rate.to_string()));
    lines.push(both("in time", &|s| {
        format!("{} {:>5.1} %", paint.share(&bar(s.good, 20), s.good), 100.0 * s.good)
    }));
    lines.push(both("wait p50, p99", &|s| {
        format!("{:.0} ms, {:.0} ms", 1000.0 * s.p50, 1000.0 * s.p99)
    }));
    lines.push(both("backend gets", &|s| {
        format!("{}/s ({:.2} per request)", s.attempts, ratio(s.attempts, s.sent))
    }));
    lines.push(String::new());
    lines.push(format!("{:<14}{}", "with", history(day, &worlds.gateway, now.at, paint)));
    lines.push(format!("{:<14}{}", "without", history(day, &worlds.straight, now.at, paint)));
    lines.push(String::new());
    lines.extend(policies.in_detail(paint));
    lines
}

fn ratio(a: u32, b: u32) -> f64 {
    f64::from(a) / f64::from(b.max(1))
}

/// The whole day as a bar; faults are shown ahead as shaded stretches.
fn progress(day: &Day, at: f64, paint: Paint) -> String {
    let cell = |n: usize| (n as f64 + 0.5) / WIDTH as f64 * day.length();
    let mut out = String::new();
    for n in 0..WIDTH {
        let faulty = !day.phases[day.phase_at(cell(n))].is_calm();
        let past = cell(n) < at;
        out.push_str(&match (past, faulty) {
            (true, true) => paint.red("█"),
            (true, false) => paint.green("█"),
            (false, true) => paint.dim("▒"),
            (false, false) => paint.dim("░"),
        });
    }
    out
}

/// One column per stretch of the day so far: how many of its requests were answered in time.
fn history(day: &Day, world: &World, at: f64, paint: Paint) -> String {
    const STEPS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
    let width = day.length() / HISTORY as f64;
    // A request has a second to be answered: younger stretches are not decided yet.
    let decided = ((at - 1.0) / width).max(0.0) as usize;
    let mut out = String::new();
    for n in 0..decided.min(HISTORY) {
        let (from, until) = (n as f64 * width, (n + 1) as f64 * width);
        let good = ratio(
            world.record.good.between(from, until),
            world.record.offered.between(from, until),
        );
        out.push_str(&paint.share(STEPS[((good * 8.0) as usize).min(7)], good));
    }
    out
}

pub(crate) fn bar(share: f64, width: usize) -> String {
    let full = ((share * width as f64).round() as usize).min(width);
    "█".repeat(full) + &"·".repeat(width - full)
}

/// Columns taken on the screen: characters without the colour codes.
fn visible(text: &str) -> usize {
    let mut inside = false;
    text.chars()
        .filter(|&c| {
            let counted = !inside && c != '\x1b';
            inside = c == '\x1b' || (inside && c != 'm');
            counted
        })
        .count()
}

/// Colours, or not. They only repeat what the text says.
#[derive(Clone, Copy)]
pub(crate) struct Paint(bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    fn share(self, text: &str, good: f64) -> String {
        if good >= 0.95 {
            self.green(text)
        } else if good >= 0.6 {
            self.yellow(text)
        } else {
            self.red(text)
        }
    }
}
