//! `versus`: buttress and its peers in one process, one table. See `README.md`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use buttress_versus::report::Results;
use buttress_versus::{
    counted, filtered, goals, instructions, load, memory, report, scaling, smoke, stores, timing,
};

const USAGE: &str = "\
versus [--filter WORD]... [--rounds N] [--batch-us N] [--core N] [--only PASS]... [--smoke]
versus macro [--rounds N] [--seconds N]
versus stores [--filter WORD]... [--rounds N] [--folder PATH]
versus idempotency [--rounds N] [--seconds N] [--folder PATH]
versus list [--filter WORD]...

  --filter WORD   only cases whose name contains WORD (may be given several times)
  --rounds N      interleaved rounds of the timing pass, 41 by default
  --batch-us N    length of one batch in microseconds, 500 by default
  --core N        the core the timing pass stays on, the last by default
  --only PASS     time, counts, instructions, scaling or memory (may be given several times)
  --smoke         checks what the cases do, measures nothing; fails if something is wrong
  macro           axum on loopback under wrk
  --seconds N     length of one wrk run, 3 by default
  stores          durable stores: a file, Redis, PostgreSQL
  --folder PATH   where the file is, beside this program by default: not in memory, or nothing is durable
  idempotency     the cases of idempotency, its POSTs under wrk, and the stores, in one run
  list            prints the names of the cases";

#[derive(Default)]
struct Options {
    command: Option<String>,
    argument: Option<String>,
    filter: Vec<String>,
    only: Vec<String>,
    rounds: Option<usize>,
    batch_us: Option<u64>,
    seconds: Option<u64>,
    core: Option<usize>,
    folder: Option<PathBuf>,
    smoke: bool,
}

impl Options {
    fn folder(&self) -> PathBuf {
        self.folder.clone().unwrap_or_else(|| {
            let this = std::env::current_exe().ok();
            this.and_then(|this| Some(this.parent()?.to_owned())).unwrap_or_else(|| ".".into())
        })
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument}: expected a value"));
        fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
            text.parse().map_err(|_| format!("{name}: expected a whole number, got `{text}`"))
        }
        match argument.as_str() {
            "--filter" => options.filter.push(value()?),
            "--only" => options.only.push(value()?),
            "--rounds" => options.rounds = Some(number(&argument, &value()?)?),
            "--batch-us" => options.batch_us = Some(number(&argument, &value()?)?),
            "--seconds" => options.seconds = Some(number(&argument, &value()?)?),
            "--core" => options.core = Some(number(&argument, &value()?)?),
            "--folder" => options.folder = Some(value()?.into()),
            "--smoke" => options.smoke = true,
            "-h" | "--help" => return Err(String::new()),
            word if !word.starts_with('-') && options.command.is_none() => {
                options.command = Some(argument);
            }
            // The hidden commands: what this binary runs itself as.
            word if options.command.as_deref() == Some("serve") => {
                options.argument = Some(word.to_owned())
            }
            word if options.command.as_deref() == Some("under-valgrind") => {
                options.filter.push(word.to_owned())
            }
            other => return Err(format!("`{other}` is not an option here")),
        }
    }
    const PASSES: [&str; 5] = ["time", "counts", "instructions", "scaling", "memory"];
    if let Some(pass) = options.only.iter().find(|pass| !PASSES.contains(&pass.as_str())) {
        return Err(format!("--only: expected one of {PASSES:?}, got `{pass}`"));
    }
    if options.rounds == Some(0) || options.batch_us == Some(0) || options.seconds == Some(0) {
        return Err("a number of rounds, microseconds or seconds must be above 0".to_owned());
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            if !error.is_empty() {
                eprintln!("versus: {error}\n");
            }
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let cases = filtered(&options.filter);
    let named = stores::named(&options.filter);
    let known = match options.command.as_deref() {
        None if options.smoke => !cases.is_empty() || !named.is_empty(),
        Some("stores") => !named.is_empty(),
        Some("idempotency") => true,
        _ => !cases.is_empty(),
    };
    if !known {
        eprintln!(
            "versus: no case has {:?} in its name; `versus list` prints them",
            options.filter
        );
        return ExitCode::from(2);
    }
    match options.command.as_deref() {
        None if options.smoke => {
            let mut wrong =
                if cases.is_empty() { Vec::new() } else { smoke::run(&cases, &options.filter) };
            wrong.extend(stores::wrong(&named, &options.folder()));
            for line in &wrong {
                println!("{line}");
            }
            println!("{} cases, {} stores, {} wrong", cases.len(), named.len(), wrong.len());
            ExitCode::from(u8::from(!wrong.is_empty()))
        }
        None => {
            let results = measure(&options);
            report::print(&cases, &results);
            goals::print(&results);
            ExitCode::SUCCESS
        }
        Some("macro") => {
            let (rounds, seconds) = (options.rounds.unwrap_or(5), options.seconds.unwrap_or(3));
            let served = load::run(load::GETS, rounds, seconds);
            let posted = load::run(load::POSTS, rounds, seconds);
            let results = Results { served, posted, ..Results::default() };
            report::print_served(&results);
            goals::print(&results);
            ExitCode::SUCCESS
        }
        Some("stores") => {
            let stores = stores::run(&named, store_rounds(&options), &options.folder());
            let results = Results { stores, ..Results::default() };
            report::print_stores(&results.stores);
            goals::print(&results);
            ExitCode::SUCCESS
        }
        Some("idempotency") => {
            let filter = vec!["floor/".to_owned(), "idem/".to_owned()];
            let only = ["counts", "instructions", "scaling", "time"].map(str::to_owned).to_vec();
            let options = Options { filter, only, ..options };
            let mut results = measure(&options);
            let seconds = options.seconds.unwrap_or(2);
            results.posted = load::run(load::POSTS, options.rounds.unwrap_or(5), seconds);
            results.stores = stores::run(&stores::NAMES, store_rounds(&options), &options.folder());
            report::print(&filtered(&options.filter), &results);
            goals::print(&results);
            ExitCode::SUCCESS
        }
        Some("list") => {
            let mut out = std::io::stdout().lock();
            // A reader that has seen enough is no error.
            let mut names = cases.iter().map(|case| case.name.as_str()).chain(named);
            let _ = names.try_for_each(|name| writeln!(out, "{name}"));
            ExitCode::SUCCESS
        }
        Some("under-valgrind") => {
            instructions::under_valgrind(&cases);
            ExitCode::SUCCESS
        }
        Some("serve") => match load::serve(options.argument.as_deref().unwrap_or_default()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("versus serve: {error}");
                ExitCode::FAILURE
            }
        },
        Some(other) => {
            eprintln!("versus: `{other}` is not a command\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn store_rounds(options: &Options) -> stores::Rounds {
    stores::Rounds { rounds: options.rounds.unwrap_or(7), time: Duration::from_millis(400) }
}

fn measure(options: &Options) -> Results {
    let cases = filtered(&options.filter);
    let pass = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let mut results = Results::default();
    if pass("counts") {
        eprintln!("counting allocations and clock reads");
        results.counts = counted::run(&options.filter);
    }
    if pass("memory") {
        eprintln!("counting bytes a key");
        results.memory = memory::run();
    }
    if pass("instructions") {
        eprintln!("counting instructions");
        results.instructions = instructions::run(&cases, &options.filter);
    }
    if pass("scaling") {
        eprintln!("one against two");
        results.scaled = scaling::run(&cases, 9, Duration::from_millis(20));
    }
    if pass("time") {
        eprintln!("timing");
        let rounds = options.rounds.unwrap_or(41);
        let batch = Duration::from_micros(options.batch_us.unwrap_or(500));
        let core = options.core.unwrap_or(buttress_versus::cores() - 1);
        let filter = options.filter.clone();
        // On a thread of its own: the main thread, which other passes use, stays free.
        let timing = std::thread::spawn(move || {
            if !buttress_versus::pin(core) {
                eprintln!("  not pinned to a core: numbers will be noisier");
            }
            timing::run(&filtered(&filter), rounds, batch)
        });
        results.timed = timing.join().unwrap_or_default();
    }
    results
}
