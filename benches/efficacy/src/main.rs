//! How much goodput a resilience stack keeps while things break. See README.md.

mod args;
mod board;
mod candidates;
mod chart;
mod collapse;
mod constraints;
mod events;
mod golden;
mod healthy;
mod oracle;
mod request;
mod rng;
mod run;
mod scenario;
mod score;
mod smoke;
mod table;
mod tally;
mod timeline;
mod virtual_time;
mod world;

use std::time::{Duration, Instant};

use args::Args;
use board::Board;
use candidates::Candidate;
use collapse::Collapse;
use scenario::{Scenario, Shape};

fn main() {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(why) => fail(&why),
    };
    let checked = virtual_time::simulate(1, async || {
        // buttress counts its time from the first reading: the same in every run.
        let _ = buttress::Deadline::after(Duration::ZERO);
        virtual_time::check().await
    });
    if let Err(why) = checked {
        fail(&why);
    }
    if args.smoke {
        smoke::run(args.threads);
        return;
    }
    if let Err(why) = measure(&args) {
        fail(&why);
    }
}

fn fail(why: &str) -> ! {
    eprintln!("{why}");
    std::process::exit(2);
}

fn measure(args: &Args) -> Result<(), String> {
    let started = Instant::now();
    let candidates: Vec<Box<dyn Candidate>> = candidates::all()
        .into_iter()
        .filter(|one| {
            let wanted = args.candidate.as_ref().is_none_or(|part| match part.strip_prefix('=') {
                Some(name) => one.name() == name,
                None => one.name().contains(part),
            });
            wanted || one.name() == "none" || one.central()
        })
        .collect();
    if let Some(least) = args.healthy {
        let candidate = first(args)?;
        let healthy = healthy::run_all(&args.shape, &*candidate, least, args.threads);
        print!("{}", healthy.table(candidate.name()));
        return Ok(());
    }
    if let Some(name) = &args.timeline {
        print!("{}", timeline::timeline(args, name, &*first(args)?)?);
        return Ok(());
    }
    let scenarios = match &args.scenario {
        Some(name) => vec![Scenario::named(name)?],
        None => Scenario::ALL.to_vec(),
    };
    println!("{}", table::shape(&args.shape));
    let board = Board::run(&args.shape, &scenarios, &candidates, args.seeds, args.threads);
    println!("{}", board.table());
    if args.scenario.is_none() {
        println!("{}", table::details(&board));
    }
    println!("{}", table::harm(&board));
    // The link takes 400 s with 280 requests in each.
    let seeds = |one| if one == Collapse::Link { args.seeds.min(2) } else { args.seeds * 3 };
    let collapsed = (args.collapse && args.scenario.is_none())
        .then(|| board::collapses(&candidates, seeds, args.threads));
    if let Some(collapsed) = &collapsed {
        println!("{}", board::collapse_table(collapsed));
    }
    println!("{}", constraints::table(&board, collapsed.as_deref()));
    if args.random_shapes > 0 {
        print!("{}", table::random_shapes(args, &scenarios, &candidates));
    }
    if let Some(dir) = &args.csv {
        table::csv(dir, &board, collapsed.as_deref().unwrap_or_default())
            .map_err(|why| format!("{}: {why}", dir.display()))?;
    }
    if let Some(dir) = &args.svg {
        chart::write(dir, &board, collapsed.as_deref().unwrap_or_default())
            .map_err(|why| format!("{}: {why}", dir.display()))?;
    }
    eprintln!("{:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// The candidate that is called as `--candidate` says, else the first whose name contains it.
fn first(args: &Args) -> Result<Box<dyn Candidate>, String> {
    let part = args.candidate.as_deref().unwrap_or("ours");
    let part = part.strip_prefix('=').unwrap_or(part);
    let mut all = candidates::all();
    let at = all.iter().position(|one| one.name() == part);
    let at = at.or_else(|| all.iter().position(|one| one.name().contains(part)));
    at.map(|at| all.swap_remove(at)).ok_or_else(|| format!("no candidate {part:?}"))
}

/// A shape drawn at random, within what the goals name.
fn random_shape(n: u64) -> Shape {
    let mut rng = rng::Rng::new(0x5AFE, n);
    let mut log = |least: f64, most: f64| least * (most / least).powf(rng.unit());
    let (clients, service, sigma) = (log(1.0, 200.0), log(0.002, 0.2), log(0.3, 1.2));
    let (deadline, utilisation, burstiness) = (log(5.0, 40.0), log(0.40, 0.85), log(1.0, 4.0));
    Shape {
        clients: clients.round() as usize,
        // Near a thousand requests a second, but workers enough for five servers.
        workers: ((1000.0 * service).round() as usize).max(5),
        service: Duration::from_secs_f64(service),
        sigma,
        deadline: Duration::from_secs_f64(service * deadline),
        utilisation,
        burstiness,
        fail_beyond: None,
    }
}
