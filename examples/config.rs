//! Settings files from the command line.
//!
//! `cargo run --all-features --example config -- check FILE`: every problem, with line, what the linter says of the
//! stacks, and what a call can cost at worst; exit code 1 if there is a problem, or a part that can never do what it is for.
//! `… -- explain FILE`: what holds (with this process's environment), and where each value came from.
//! `… -- schema`: a JSON Schema for editors.
//!
//! `--clamp` after the command forces the numbers of a `resilience` block into their ranges.

use std::process::ExitCode;

use buttress::config::{self, Config, Format, Loader};
use buttress::presets::LintSeverity;

const USAGE: &str = "usage: config check [--clamp] FILE | explain [--clamp] FILE | schema";

const SHOWN: &str = "\
breakers:
  payments:
    failure_rate: 50%
    min_calls: 10
    open_for: 30s
rate_limits:
  api: 100/s burst 20
clients:
  payments: {total_timeout: 5s, attempt_timeout: 1s, breaker: payments, retry: adaptive}
";

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let clamp = arguments.iter().position(|word| word == "--clamp");
    if let Some(at) = clamp {
        arguments.remove(at);
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["check", file] => match Loader::empty().file(*file).clamp(clamp.is_some()).load() {
            Ok(config) => return checked(file, &config),
            Err(error) => Err(error),
        },
        ["explain", file] => {
            let loader = Loader::new().search::<&str>([]).file(*file).clamp(clamp.is_some());
            loader.load().map(|config| print!("{}", config.explain()))
        }
        ["schema"] => {
            print!("{}", config::schema());
            return ExitCode::SUCCESS;
        }
        [] => return shown(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn checked(file: &str, config: &Config) -> ExitCode {
    let found = config.lint();
    for finding in &found {
        println!("{finding}");
    }
    for (stack, mut report) in config.reports() {
        report.lints.clear();
        println!("{stack}: {report}");
    }
    let errors = found.iter().filter(|found| found.lint.severity == LintSeverity::Error).count();
    if errors > 0 {
        return ExitCode::FAILURE;
    }
    match found.len() {
        0 => println!("{file}: no problem"),
        1 => println!("{file}: 1 warning"),
        n => println!("{file}: {n} warnings"),
    }
    ExitCode::SUCCESS
}

/// Without arguments: a good text, and a bad one.
fn shown() -> ExitCode {
    println!("{USAGE}\n\nFor example, of\n\n{SHOWN}\nexplain prints\n");
    match Loader::empty().text("buttress.yml", Format::Yaml, SHOWN).load() {
        Ok(config) => print!("{}", config.explain()),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    let misspelt = SHOWN.replace("open_for: 30s", "open_fro: 30s").replace("50%", "500%");
    match Loader::empty().text("buttress.yml", Format::Yaml, misspelt).load() {
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("\nand check, of the same with two mistakes\n\n{error}");
            ExitCode::SUCCESS
        }
    }
}
