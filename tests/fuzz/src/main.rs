//! Drives the targets without libFuzzer: seeds, and what a random mutator makes of them.
//!
//! `drive [--seconds N | --runs N] [--seed N] [--target NAME]`. A target that panics ends it; the seed and the
//! input are printed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use buttress_fuzz::{TARGETS, Target};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

struct Options {
    time: Duration,
    runs: u64,
    seed: u64,
    target: Option<String>,
}

fn options() -> Result<Options, String> {
    let mut options =
        Options { time: Duration::MAX, runs: 20_000, seed: rand::random(), target: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{name} {value}: {error}"));
        match name.as_str() {
            "--seconds" => {
                (options.time, options.runs) = (Duration::from_secs(number()?), u64::MAX)
            }
            "--runs" => options.runs = number()?,
            "--seed" => options.seed = number()?,
            "--target" => options.target = Some(value),
            _ => return Err(format!("no such option: {name}")),
        }
    }
    Ok(options)
}

/// Pieces that grammars are made of.
const PIECES: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b";",
    b"/",
    b" ",
    b"burst",
    b"null",
    b"true",
    b"-1",
    b"1e308",
    b"18446744073709551616",
    b"0.1",
    b"GMT",
    b"LD_",
    b"command",
    b"target",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\x01\x00",
    b"\xc3\xa9",
    b"\xff",
];

/// The first of the corpus are the seeds.
fn mutated(corpus: &[Vec<u8>], seeds: usize, random: &mut StdRng) -> Vec<u8> {
    // Half of them are near to what is valid.
    let near = if random.random() { seeds } else { corpus.len() };
    let mut bytes = corpus[random.random_range(0..near)].clone();
    for _ in 0..random.random_range(0..6_u32) {
        let at = random.random_range(0..=bytes.len());
        let end = random.random_range(at..=bytes.len().min(at + 16));
        match random.random_range(0..7_u32) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, random.random()),
            3 => {
                let piece = PIECES[random.random_range(0..PIECES.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            4 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            5 => {
                let other = &corpus[random.random_range(0..corpus.len())];
                let from = random.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8_u32);
                }
            }
        }
        bytes.truncate(4_096);
    }
    bytes
}

/// How many inputs it was given, or the one that it cannot bear.
fn drive(target: &Target, time: Duration, options: &Options) -> Result<u64, Vec<u8>> {
    let name = target.name.bytes().fold(0_u64, |hash, byte| hash.rotate_left(5) ^ u64::from(byte));
    let mut random = StdRng::seed_from_u64(options.seed ^ name);
    let mut corpus: Vec<Vec<u8>> = target.seeds.iter().map(|seed| seed.to_vec()).collect();
    let run = |bytes: &[u8]| catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_ok();
    for seed in &corpus {
        for end in 0..=seed.len() {
            if !run(&seed[..end]) {
                return Err(seed[..end].to_vec());
            }
        }
    }
    let since = Instant::now();
    let mut runs = 0;
    while runs < options.runs && (runs % 64 != 0 || since.elapsed() < time) {
        let bytes = mutated(&corpus, target.seeds.len(), &mut random);
        if !run(&bytes) {
            return Err(bytes);
        }
        runs += 1;
        // Without coverage to go by: now and then from where it came to.
        if runs % 16 == 0 {
            let first = target.seeds.len();
            if corpus.len() < first + 256 {
                corpus.push(bytes);
            } else {
                let at = random.random_range(first..corpus.len());
                corpus[at] = bytes;
            }
        }
    }
    Ok(runs)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    println!("seed {}", options.seed);
    let chosen = |target: &&Target| options.target.as_ref().is_none_or(|name| name == target.name);
    let count = TARGETS.iter().filter(chosen).count();
    if count == 0 {
        eprintln!("no such target");
        return ExitCode::FAILURE;
    }
    let time = options.time / u32::try_from(count).unwrap_or(1);
    for target in TARGETS.iter().filter(chosen) {
        match drive(target, time, &options) {
            Ok(runs) => println!("{}: {runs} inputs", target.name),
            Err(bytes) => {
                println!(
                    "{} fails, seed {}: b\"{}\"",
                    target.name,
                    options.seed,
                    bytes.escape_ascii()
                );
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
