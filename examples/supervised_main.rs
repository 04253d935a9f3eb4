//! A server process with everything around it: an axum server, one worker process that is watched, a heartbeat,
//! probes, callbacks, and an end in which nothing is lost.
//!
//! ```sh
//! cargo run --example supervised_main --features supervise
//! curl localhost:3000/orders; curl localhost:3001/readyz
//! kill -TERM $(pgrep -f supervised_main | head -1)     # or Ctrl-C, once
//! ```
//!
//! What a signal does is told as it happens. Kill the worker (`kill -9`) or stop it (`kill -STOP`): it is
//! started again. Stop the whole process with `kill -9`: the worker dies with it.
#![allow(clippy::disallowed_methods, reason = "an application spawns its tasks")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use axum::{Router, routing::get};
use buttress::supervise::heartbeat::Heartbeat;
use buttress::supervise::process::{Child, Liveness, OrphanSweep, ProcessSupervisor};
use buttress::supervise::shutdown::{Budget, CleanupCallback};
use buttress::supervise::{Phase, Process, Pulse, Supervisor};
use buttress::{BoxError, ConfigError};
use tokio::net::TcpListener;

const SECOND: Duration = Duration::from_secs(1);

fn main() -> Result<ExitCode, ConfigError> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, what, beat] = &arguments[..]
        && what == "worker"
    {
        return Ok(worker(Path::new(beat)));
    }
    tracing_subscriber::fmt().with_target(false).init();
    let smoke = std::env::var_os("BUTTRESS_SMOKE").is_some();

    // One at a time: a second one is told who has the file.
    let directory = std::env::temp_dir().join("buttress-supervised");
    // Kubernetes gives 30 seconds by default; a plan that does not fit is refused here.
    let budget = Budget::kubernetes(30 * SECOND).lame_duck(2 * SECOND).drain(15 * SECOND);
    let supervisor = Supervisor::builder("orders")
        .shutdown(|shutdown| shutdown.budget(budget))
        .heartbeat(
            Heartbeat::builder("orders").file(directory.join("orders.json")).interval(5 * SECOND),
        )
        .probes(if smoke { "127.0.0.1:0" } else { "127.0.0.1:3001" })
        .build()?;
    Ok(supervisor.run(move |process| serve(process, directory, smoke)))
}

async fn serve(process: Process, directory: PathBuf, smoke: bool) -> Result<(), BoxError> {
    // What a killed predecessor may have left: only processes that carry its mark, and only if it is dead.
    for (orphan, result) in OrphanSweep::new("orders-worker").kill().await? {
        println!("left over: {orphan}: {}", result.as_str());
    }

    let beat = directory.join("worker.json");
    let workers = ProcessSupervisor::builder("orders-worker")
        .child(
            Child::new("worker", std::env::current_exe()?)
                .args(["worker".as_ref(), beat.as_os_str()])
                .ready_when({
                    let beat = beat.clone();
                    move |_| Heartbeat::is_alive(&beat, 10 * SECOND)
                })
                .alive_when({
                    let beat = beat.clone();
                    move |_| match Heartbeat::is_alive(&beat, 10 * SECOND) {
                        true => Liveness::Alive,
                        false => Liveness::Frozen,
                    }
                })
                .grace(3 * SECOND),
        )
        .build()?;
    workers.start()?;
    // Requests in flight need it, so it is stopped after the drain; the database after that.
    process.on_shutdown(
        CleanupCallback::new("worker", async move || {
            println!("worker: {:?}", workers.stop(None).await.end);
        })
        .priority(10),
    )?;
    process.on_shutdown(CleanupCallback::blocking("database", || println!("database: closed")))?;

    let app = Router::new().route("/orders", get(orders));
    let listener = TcpListener::bind(if smoke { "127.0.0.1:0" } else { "127.0.0.1:3000" }).await?;
    let addr = listener.local_addr()?;
    println!("serving http://{addr}/orders, process {}", std::process::id());
    if smoke {
        tokio::spawn(client(process.clone(), format!("http://{addr}/orders")));
    }
    println!("{}", process.serve(listener, app).await);
    Ok(())
}

async fn orders() -> &'static str {
    tokio::time::sleep(SECOND / 2).await; // long enough to be in flight when a signal comes
    "one order\n"
}

/// A request that is in flight when the end begins, and is answered.
async fn client(process: Process, url: String) {
    let answer = tokio::spawn(async { reqwest::get(url).await?.text().await });
    tokio::time::sleep(SECOND / 4).await;
    process.shutdown().begin();
    println!("in flight: {:?}", answer.await);
}

/// The child: beats only while its loop goes round.
fn worker(beat: &Path) -> ExitCode {
    let work = Pulse::new();
    let heart =
        Heartbeat::builder("worker").file(beat).interval(SECOND).requires("loop", work.clone());
    let supervisor = Supervisor::builder("worker").heartbeat(heart).systemd(false).build();
    let supervisor = supervisor.expect("all values are in range");
    supervisor.run_blocking(|process| {
        process.ready();
        while !process.lifecycle().wait_blocking(Phase::LameDuck, SECOND / 10) {
            work.ping(); // a piece of work
        }
        Ok(())
    })
}
