//! Allocations and clock reads of one call, counted in a binary of their own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

use crate::case::Case;

#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub allocations: u64,
    pub bytes: u64,
    pub live: i64,
    /// Reads of the operating system's clock.
    pub clock_reads: u64,
    /// Reads of the processor's counter.
    pub counter_reads: u64,
}

thread_local! {
    static TALLY: Cell<Tally> = const { Cell::new(Tally {
        allocations: 0, bytes: 0, live: 0, clock_reads: 0, counter_reads: 0,
    }) };
}

pub fn update(change: impl FnOnce(&mut Tally)) {
    // Fails only while a thread is being torn down.
    let _ = TALLY.try_with(|cell| {
        let mut tally = cell.get();
        change(&mut tally);
        cell.set(tally);
    });
}

pub fn tally() -> Tally {
    TALLY.with(Cell::get)
}

/// The system's allocator, counting for the calling thread.
#[derive(Debug)]
pub struct Counting;

// SAFETY: every call is handed to `System` unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        update(|tally| {
            tally.allocations += 1;
            tally.bytes += layout.size() as u64;
            tally.live += layout.size() as i64;
        });
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        update(|tally| tally.live -= layout.size() as i64);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        update(|tally| {
            tally.allocations += 1;
            tally.bytes += size as u64;
            tally.live += size as i64 - layout.size() as i64;
        });
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    pub allocations: f64,
    pub bytes: f64,
    pub clock_reads: f64,
    pub counter_reads: f64,
    /// Share of the calls that were answered.
    pub answered: f64,
}

/// Counts one case. `trap` makes reads of the processor's counter visible while it is given `true`.
pub fn count(case: &Case, trap: fn(bool)) -> Counts {
    let runtime = crate::runtime();
    let mut runner = case.caller(&runtime);
    runtime.block_on(runner.prepare());
    runtime.block_on(runner.run(case.counted_calls.min(64)));

    runtime.block_on(runner.prepare());
    let batch = runner.run(case.counted_calls);
    let before = tally();
    let answered = runtime.block_on(batch);
    let after = tally();

    runtime.block_on(runner.prepare());
    let batch = runner.run(case.counted_calls);
    let counter_before = tally().counter_reads;
    trap(true);
    runtime.block_on(batch);
    trap(false);
    let counter_reads = tally().counter_reads - counter_before;

    let per_call = |count: u64| count as f64 / case.counted_calls as f64;
    Counts {
        allocations: per_call(after.allocations - before.allocations),
        bytes: per_call(after.bytes - before.bytes),
        clock_reads: per_call(after.clock_reads - before.clock_reads),
        counter_reads: per_call(counter_reads),
        answered: per_call(answered),
    }
}

/// One line for the other binary: name, counts.
pub fn to_line(name: &str, counts: &Counts) -> String {
    let Counts { allocations, bytes, clock_reads, counter_reads, answered } = counts;
    format!("{name}\t{allocations}\t{bytes}\t{clock_reads}\t{counter_reads}\t{answered}")
}

fn from_line(line: &str) -> Option<(String, Counts)> {
    let mut fields = line.split('\t');
    let name = fields.next()?.to_owned();
    let mut number = || fields.next()?.parse().ok();
    let counts = Counts {
        allocations: number()?,
        bytes: number()?,
        clock_reads: number()?,
        counter_reads: number()?,
        answered: number()?,
    };
    Some((name, counts))
}

/// What `versus-count` beside this binary says; nothing with a note if it is not there.
pub fn run(filter: &[String]) -> BTreeMap<String, Counts> {
    match ask("counts", filter) {
        Some(lines) => lines.lines().filter_map(from_line).collect(),
        None => BTreeMap::new(),
    }
}

pub fn ask(what: &str, filter: &[String]) -> Option<String> {
    let path = std::env::current_exe().ok()?.with_file_name("versus-count");
    let output = std::process::Command::new(&path)
        .arg(what)
        .args(filter)
        .stderr(std::process::Stdio::inherit())
        .output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout).ok(),
        Ok(output) => {
            eprintln!("versus-count: {}; its columns stay empty", output.status);
            None
        }
        Err(error) => {
            eprintln!(
                "versus-count: {error}; its columns stay empty (build all with `cargo build --release`)"
            );
            None
        }
    }
}
