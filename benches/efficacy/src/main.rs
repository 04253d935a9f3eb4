//! How much goodput a resilience stack keeps while things break.

mod candidates;
mod oracle;
mod request;
mod rng;
mod run;
mod scenario;
mod score;
mod tally;
mod virtual_time;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use candidates::Candidate;
use scenario::{Scenario, Shape};

fn main() {
    if let Err(why) = virtual_time::simulate(1, async || {
        // buttress counts its time from the first reading: the same in every run.
        let _ = buttress::Deadline::after(std::time::Duration::ZERO);
        virtual_time::check().await
    }) {
        eprintln!("std's clock is not virtual here: {why}");
        std::process::exit(2);
    }
    let mut only_scenario = None;
    let mut only_candidate = None;
    let mut seeds = 1_u64;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--scenario" => only_scenario = args.next(),
            "--candidate" => only_candidate = args.next(),
            "--seeds" => seeds = args.next().and_then(|s| s.parse().ok()).expect("a number"),
            other => panic!("unknown option {other}"),
        }
    }
    let shape = Shape::a();
    let scenarios: Vec<Scenario> = Scenario::ALL
        .into_iter()
        .filter(|s| only_scenario.as_deref().is_none_or(|only| s.name() == only))
        .collect();
    let all: Vec<Box<dyn Candidate>> = candidates::all()
        .into_iter()
        .filter(|c| {
            only_candidate.as_deref().is_none_or(|only| {
                c.name().contains(only) || ["none", "ORACLE"].contains(&c.name())
            })
        })
        .collect();
    let jobs: Vec<(usize, usize, u64)> = (0..all.len())
        .flat_map(|c| {
            let n = scenarios.len();
            (0..n).flat_map(move |s| (1..=seeds).map(move |seed| (c, s, seed)))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<tally::Tally>>> = Mutex::new(vec![None; jobs.len()]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(c, s, seed)) = jobs.get(job) else { break };
                    let out = run::run(&scenarios[s].plan(&shape), &*all[c], seed);
                    if std::env::var_os("SAID").is_some() && !out.said.is_empty() {
                        for (second, line) in out.said.iter().enumerate() {
                            let one = out.tally.window((second, second + 1));
                            println!("{second} {one:?} {line}");
                        }
                    }
                    results.lock().expect("no panic")[job] = Some(out.tally);
                }
            });
        }
    });
    let results = results.into_inner().expect("no panic");
    let find = |c: usize, s: usize, seed: u64| {
        let job = jobs.iter().position(|j| *j == (c, s, seed)).expect("it ran");
        results[job].as_ref().expect("it ran")
    };
    let raw = all.iter().position(|c| c.name() == "none").expect("always there");
    let best = all.iter().position(|c| c.central()).expect("always there");
    print!("{:30}", "candidate");
    for s in &scenarios {
        print!("{:>7}", s.name());
    }
    println!("{:>7}{:>7}{:>7}{:>7}{:>7}", "mean", "worst", "att/rq", "peak", "waste");
    for (c, candidate) in all.iter().enumerate() {
        print!("{:30}", candidate.name());
        let (mut sum, mut worst, mut n) = (0.0, 100.0_f64, 0);
        let (mut attempts, mut offered, mut peak, mut waste) = (0, 0, 0.0_f64, 0.0);
        for (s, scenario) in scenarios.iter().enumerate() {
            let plan = scenario.plan(&shape);
            let mut mean = 0.0;
            for seed in 1..=seeds {
                let this = find(c, s, seed);
                mean += score::score(&plan, this, find(raw, s, seed), find(best, s, seed))
                    / seeds as f64;
                let all = this.window((0, plan.seconds));
                attempts += all.attempts;
                offered += all.offered;
                peak = peak.max(this.peak());
                waste += this.waste() / (seeds as f64 * scenarios.len() as f64);
            }
            print!("{mean:7.1}");
            if *scenario != Scenario::S0 {
                sum += mean;
                worst = worst.min(mean);
                n += 1;
            }
        }
        println!(
            "{:7.1}{worst:7.1}{:7.2}{peak:7.1}{:7.1}",
            sum / f64::from(n.max(1)),
            attempts as f64 / offered as f64,
            waste * 100.0
        );
    }
}
