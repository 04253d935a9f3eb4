//! The one table, and the smaller ones after it.

use std::collections::BTreeMap;

use crate::case::Case;
use crate::counted::Counts;
use crate::load::Served;
use crate::memory::Line;
use crate::scaling::Scaled;
use crate::stores;
use crate::timing::{Timed, ratio};

#[derive(Default)]
pub struct Results {
    pub timed: BTreeMap<String, Timed>,
    pub counts: BTreeMap<String, Counts>,
    pub instructions: BTreeMap<String, f64>,
    pub scaled: BTreeMap<String, Scaled>,
    pub memory: Vec<Line>,
    pub served: Vec<Served>,
    /// POSTs to what is idempotent; the first one is behind an identity layer.
    pub posted: Vec<Served>,
    pub stores: Vec<stores::Line>,
}

impl Results {
    /// How many times the time of `b` is the time of `a`.
    pub fn times(&self, a: &str, b: &str) -> Option<f64> {
        Some(ratio(self.timed.get(a)?, self.timed.get(b)?))
    }
}

/// Columns padded to their widest cell, in Markdown.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .chain([head[column].len()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).enumerate().map(|(column, (cell, width))| {
            // The first columns are words, the others numbers.
            if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
    };
    let mut text = line(&mut head.iter().copied());
    let rule = widths.iter().enumerate().map(|(column, width)| {
        if column < 2 { "-".repeat(*width) } else { format!("{}:", "-".repeat(width - 1)) }
    });
    text += &format!("| {} |\n", rule.collect::<Vec<_>>().join(" | "));
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

pub fn number(value: Option<f64>, digits: usize) -> String {
    match value {
        Some(value) if value.is_finite() && value >= 1000.0 => format!("{value:.0}"),
        Some(value) if value.is_finite() => format!("{value:.digits$}"),
        _ => String::new(),
    }
}

fn ratio_or_stuck(ratio: f64) -> String {
    if ratio.is_nan() { "stuck".to_owned() } else { number(Some(ratio), 2) }
}

fn short(name: &str) -> (String, String) {
    let mut parts = name.splitn(3, '/');
    let (area, what) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match parts.next() {
        Some(who) => (format!("{area}: {what}"), who.to_owned()),
        None => (area.to_owned(), what.to_owned()),
    }
}

pub fn print(cases: &[Case], results: &Results) {
    let mut rows = Vec::new();
    for case in cases {
        let name = &case.name;
        let timed = results.timed.get(name);
        let counts = results.counts.get(name);
        let (what, who) = short(name);
        let peer = case.peer.and_then(|peer| Some((peer, results.times(name, peer)?)));
        rows.push(vec![
            what,
            who,
            number(timed.map(|timed| timed.ns), 1),
            number(timed.map(|timed| timed.min_ns), 1),
            number(timed.map(|timed| timed.to_cas), 1),
            number(timed.map(|timed| timed.to_now), 2),
            number(results.instructions.get(name).copied(), 0),
            number(counts.map(|counts| counts.clock_reads), 1),
            number(counts.map(|counts| counts.counter_reads), 1),
            number(counts.map(|counts| counts.allocations), 2),
            number(counts.map(|counts| counts.bytes), 0),
            peer.map_or_else(String::new, |(peer, ratio)| {
                format!("{} of {}", number(Some(ratio), 2), short(peer).1)
            }),
        ]);
    }
    let head = [
        "what", "who", "ns", "min", "x CAS", "x now", "instr", "clock", "tsc", "allocs", "bytes",
        "x peer",
    ];
    println!("{}", table(&head, &rows));

    if !results.scaled.is_empty() {
        let rows: Vec<Vec<String>> = cases
            .iter()
            .filter_map(|case| {
                let scaled = results.scaled.get(&case.name)?;
                let (what, who) = short(&case.name);
                Some(vec![
                    what,
                    who,
                    number(Some(scaled.one_thread_ns), 1),
                    ratio_or_stuck(scaled.threads),
                    ratio_or_stuck(scaled.workers),
                ])
            })
            .collect();
        println!("One shared object, calls per second of two over one:\n");
        println!("{}", table(&["what", "who", "ns, one thread", "threads", "workers"], &rows));
    }

    if !results.memory.is_empty() {
        let rows: Vec<Vec<String>> = results
            .memory
            .iter()
            .map(|line| {
                vec![
                    line.name.clone(),
                    line.keys.to_string(),
                    line.bytes.to_string(),
                    number(Some(line.bytes as f64 / line.keys as f64), 1),
                ]
            })
            .collect();
        println!("Live bytes of a keyed limiter, u64 keys:\n");
        println!("{}", table(&["who", "keys", "bytes", "a key"], &rows));
    }

    print_served(results);
    print_stores(&results.stores);
}

pub fn print_served(results: &Results) {
    print_load("Requests per second over loopback:", "plain", &results.served);
    let title = "POSTs per second over loopback, idempotent and not:";
    print_load(title, "identity", &results.posted);
}

fn print_load(title: &str, floor: &str, served: &[Served]) {
    if served.is_empty() {
        return;
    }
    let rows: Vec<Vec<String>> = served
        .iter()
        .map(|served| {
            vec![
                served.mode.to_owned(),
                String::new(),
                number(Some(served.per_second), 0),
                number(Some(served.to_plain), 3),
                number(Some(served.cpu_us), 2),
                number(Some(served.cpu_to_plain), 3),
                number(Some(served.not_2xx), 2),
            ]
        })
        .collect();
    let of = format!("of {floor}");
    println!("{title}\n");
    println!("{}", table(&["mode", "", "requests/s", &of, "cpu us", &of, "not 2xx"], &rows));
}

pub fn print_stores(lines: &[stores::Line]) {
    if lines.is_empty() {
        return;
    }
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let measured = (line.callers > 0).then_some(());
            vec![
                line.store.clone(),
                line.operation.to_owned(),
                measured.map_or_else(String::new, |()| line.callers.to_string()),
                number(measured.map(|()| line.per_second), 0),
                number(measured.map(|()| line.p50_us), 0),
                number(measured.map(|()| line.p99_us), 0),
                number(measured.map(|()| line.to_bare), 2),
                measured.map_or_else(String::new, |()| line.failed.to_string()),
            ]
        })
        .collect();
    println!("Stores, operations per second:\n");
    let head = ["store", "operation", "callers", "ops/s", "p50 us", "p99 us", "of bare", "failed"];
    println!("{}", table(&head, &rows));
}
