//! A gateway that lives through an incident: `cargo run --release --example gateway`.
//!
//! With no arguments it starts a backend with a bad day in its script, sends it the same load twice
//! (through the gateway and straight), shows what happens and draws a chart. With `--backend URL` it is
//! a reverse proxy for a real service.
//!
//! The part to read is `policies.rs`: a limit for each caller in front, and the default client stack behind.
//! `proxy.rs` is a plain reverse proxy between the two. With `--features admin` and `--admin 127.0.0.1:9090` a status page
//! shows what they decide.

#![allow(clippy::disallowed_methods, reason = "an application spawns its tasks")]
#![allow(clippy::cast_possible_truncation, reason = "seconds, counts and pixels are small")]

mod admin;
mod args;
mod backend;
mod chart;
mod load;
mod policies;
mod proxy;
mod report;
mod script;
mod view;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use hyper::Uri;
use tokio::net::TcpListener;
use tower::BoxError;

use args::Command;
use backend::Backend;
use load::{Record, Tally};
use policies::{Normal, Policies};
use script::Day;

fn main() -> ExitCode {
    let smoke = std::env::var_os("BUTTRESS_SMOKE").is_some_and(|value| value == "1");
    let command = match args::parse(std::env::args_os().skip(1), smoke) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("gateway: {error}");
            return ExitCode::from(2);
        }
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gateway: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), BoxError> {
    let runtime = tokio::runtime::Runtime::new()?;
    match command {
        Command::Help => print!("{}", args::HELP),
        Command::Proxy { backend, listen, admin } => {
            let _page = admin::listen(admin)?;
            runtime.block_on(proxy::in_front_of(backend, listen))?;
        }
        Command::Incident { seed, seconds, svg, admin } => {
            let _page = admin::listen(admin)?;
            runtime.block_on(incident(seed, seconds, &svg))?;
        }
    }
    Ok(())
}

/// One of the two worlds: what its callers saw, and what its backend had to bear.
pub(crate) struct World {
    pub(crate) record: Arc<Record>,
    /// Attempts sent to the backend, refused connections included.
    pub(crate) attempts: Arc<Tally>,
    /// Those that reached it, by its own count.
    pub(crate) arrived: Arc<Tally>,
}

pub(crate) struct Worlds {
    pub(crate) gateway: World,
    pub(crate) straight: World,
}

async fn incident(seed: u64, seconds: u64, svg: &Path) -> Result<(), BoxError> {
    // An unwritable path is better known before the day than after it.
    std::fs::write(svg, "").map_err(|error| format!("cannot write {}: {error}", svg.display()))?;

    let day = Arc::new(Day::new(seed, seconds));
    let (guarded, bare) = (Backend::start(&day)?, Backend::start(&day)?);
    let (through, past) = (Record::new(&day), Record::new(&day));
    let straight_attempts = past.sent.clone();
    let worlds = Arc::new(Worlds {
        gateway: World {
            record: Arc::new(through),
            attempts: Arc::new(Tally::new(day.length())),
            arrived: guarded.arrived,
        },
        straight: World {
            record: Arc::new(past),
            attempts: straight_attempts,
            arrived: bare.arrived,
        },
    });

    // A caller sends 14 requests per second on average.
    let normal = Normal { patience: load::DEADLINE, rate: 40 };
    let policies = Policies::new(&normal, day.start)?;
    let count = {
        let (day, attempts) = (day.clone(), worlds.gateway.attempts.clone());
        move || attempts.add(day.now())
    };
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let front = listener.local_addr()?;
    // The load plays a balancer: one hop away from the callers.
    let app = proxy::app(&uri(guarded.addr)?, &policies, 1, count);
    let server = tokio::spawn(proxy::serve(listener, app, std::future::pending()));

    let targets = [
        (uri(front)?, worlds.gateway.record.clone()),
        (uri(bare.addr)?, worlds.straight.record.clone()),
    ];
    let load = start_load(day.clone(), targets)?;
    tokio::select! {
        () = view::watch(&day, &worlds, &policies, load) => {}
        () = proxy::told_to_stop() => {
            view::restore_terminal();
            return Err("interrupted before the day was over".into());
        }
    }
    server.abort();

    print!("{}", report::table(&day, &worlds));
    std::fs::write(svg, chart::svg(&day, &worlds))?;
    println!("\nchart: {}", svg.display());
    Ok(())
}

fn uri(addr: SocketAddr) -> Result<Uri, BoxError> {
    Ok(Uri::builder().scheme("http").authority(addr.to_string()).path_and_query("/").build()?)
}

/// The callers have a thread and a runtime of their own: they must not slow down with the gateway.
fn start_load(
    day: Arc<Day>,
    targets: [(Uri, Arc<Record>); 2],
) -> std::io::Result<tokio::sync::oneshot::Receiver<()>> {
    let (done, finished) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("load".into()).spawn(move || {
        runtime.block_on(load::generate(day, targets));
        let _ = done.send(());
    })?;
    Ok(finished)
}
