//! Instructions per call, by callgrind: this binary runs itself under valgrind once, for all cases,
//! and tells the tool when to start counting and when to write down.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::case::Case;

/// "CT" in the upper half is callgrind's name for its own requests.
const ZERO: usize = (0x4354 << 16) + 1;
const DUMP_AT: usize = (0x4354 << 16) + 3;

/// Asks valgrind for something; does nothing outside of it.
#[cfg(target_arch = "x86_64")]
fn request(code: usize, argument: usize) {
    let block = [code, argument, 0, 0, 0, 0];
    // SAFETY: the four rotations add up to 128 bits and leave `rdi` as it was, and exchanging a
    // register with itself does nothing. Valgrind recognises the sequence and reads the block.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") block.as_ptr(),
            inout("rdx") 0_usize => _,
            options(nostack),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn request(_: usize, _: usize) {}

/// What runs under valgrind: each case for two lengths, a note after each.
pub fn under_valgrind(cases: &[Case]) {
    let runtime = crate::runtime();
    for (index, case) in cases.iter().enumerate().filter(|(_, case)| case.emulated) {
        let mut runner = case.caller(&runtime);
        let (short, long) = lengths(case);
        runtime.block_on(runner.prepare());
        runtime.block_on(runner.run(short));
        for calls in [short, long] {
            runtime.block_on(runner.prepare());
            let batch = runner.run(calls);
            let note = format!("{index} {calls}\0");
            request(ZERO, 0);
            runtime.block_on(batch);
            request(DUMP_AT, note.as_ptr() as usize);
        }
    }
}

fn lengths(case: &Case) -> (u64, u64) {
    let long = case.counted_calls.max(2);
    ((long / 5).max(1), long)
}

/// Instructions per call by case; empty with a note where valgrind is missing.
pub fn run(cases: &[Case], filter: &[String]) -> BTreeMap<String, f64> {
    if !cfg!(target_arch = "x86_64") {
        eprintln!("instructions: only on x86-64; the column stays empty");
        return BTreeMap::new();
    }
    let directory = std::env::temp_dir().join(format!("versus-{}", std::process::id()));
    let result = std::fs::create_dir_all(&directory)
        .map_err(|error| error.to_string())
        .and_then(|()| measure(cases, filter, &directory));
    let _ = std::fs::remove_dir_all(&directory);
    result.unwrap_or_else(|error| {
        eprintln!("instructions: {error}; the column stays empty");
        BTreeMap::new()
    })
}

fn measure(
    cases: &[Case],
    filter: &[String],
    directory: &Path,
) -> Result<BTreeMap<String, f64>, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let out = directory.join("callgrind.out");
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "-q", "--dump-instr=no", "--compress-strings=yes"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(this)
        .arg("under-valgrind")
        .args(filter)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| format!("valgrind: {error}"))?;
    if !status.success() {
        return Err(format!("valgrind: {status}"));
    }
    let mut totals = BTreeMap::<(usize, u64), f64>::new();
    for entry in std::fs::read_dir(directory).map_err(|error| error.to_string())?.flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        if let Some((index, calls, total)) = parse(&text) {
            totals.insert((index, calls), total);
        }
    }
    let per_call = |(index, case): (usize, &Case)| {
        let (short, long) = lengths(case);
        let extra = totals.get(&(index, long))? - totals.get(&(index, short))?;
        Some((case.name.clone(), extra / (long - short) as f64))
    };
    Ok(cases.iter().enumerate().filter_map(per_call).collect())
}

/// A dump's note and its total.
fn parse(dump: &str) -> Option<(usize, u64, f64)> {
    let note =
        dump.lines().find_map(|line| line.strip_prefix("desc: Trigger: Client Request: "))?;
    let (index, calls) = note.trim().split_once(' ')?;
    let total = dump.lines().rev().find_map(|line| {
        line.strip_prefix("summary: ").or_else(|| line.strip_prefix("totals: "))
    })?;
    Some((index.parse().ok()?, calls.parse().ok()?, total.trim().parse().ok()?))
}
