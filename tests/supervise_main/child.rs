//! The process that has to end: this binary, told by the environment what its `main` does.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use buttress::supervise::heartbeat::Heartbeat;
use buttress::supervise::shutdown::{Budget, CleanupCallback};
use buttress::supervise::{Phase, Process, Supervisor};
use serde_json::Value;

use super::sleep;

pub(super) const PROGRAM: &str = "BUTTRESS_SUPERVISED_PROGRAM";
/// What the child tells begins with this, to tell it from what the test harness prints.
pub(super) const MARK: char = '@';

const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn say(what: &str) {
    // One write, so that an end does not leave half of it.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("\n{MARK}{what}\n").as_bytes());
    let _ = out.flush();
}

/// Not a test but what the tests start, unless nobody has.
#[test]
fn be_a_child() {
    let Ok(program) = std::env::var(PROGRAM) else { return };
    let code = live(&serde_json::from_str(&program).unwrap());
    // The harness would make it 0 or 101, and an exit code cannot be asked for its number.
    let number = (0..=255u8).find(|number| ExitCode::from(*number) == code).unwrap();
    std::process::exit(number.into())
}

fn live(program: &Value) -> ExitCode {
    let text = |key: &str| program.get(key).and_then(Value::as_str);
    let seconds = |key: &str| program.get(key).and_then(Value::as_f64).map(Duration::from_secs_f64);
    let total = seconds("total").unwrap_or(Duration::from_secs(20));
    let lame_duck = seconds("lame_duck").unwrap_or_default();
    let budget = Budget::new(total).lame_duck(lame_duck);
    let budget = match seconds("drain") {
        Some(limit) => budget.drain(limit),
        None => budget,
    };
    let mut builder = Supervisor::builder("child").shutdown(|shutdown| shutdown.budget(budget));
    if let Some(path) = text("beat") {
        let mut heartbeat = Heartbeat::builder("child").file(path);
        if let Some(interval) = seconds("interval") {
            heartbeat = heartbeat.interval(interval);
        }
        builder = builder.heartbeat(heartbeat);
    }
    if let Some(addr) = text("probes") {
        builder = builder.probes(addr);
    }
    let builder = builder.watchdog(|watchdog| watchdog.frozen_after(Duration::from_millis(300)));
    let supervisor = builder.worker_threads(2).build().unwrap();
    let process = supervisor.process();
    process
        .on_shutdown(CleanupCallback::new("tell", {
            let process = process.clone();
            async move || {
                say(&format!("callback in {}", process.lifecycle().phase().as_str()));
            }
        }))
        .unwrap();
    let does = text("does").unwrap().to_owned();
    match &*does {
        "is over before, blocking" => {
            process.shutdown().trigger_blocking();
            return supervisor.run_blocking(|_| {
                say("main");
                Ok(())
            });
        }
        "is over before" => {
            process.shutdown().trigger_blocking();
        }
        "runs within a runtime" => {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                runtime.block_on(async { supervisor.run(async |_| Ok(())) })
            }));
            say(if caught.is_err() { "panicked" } else { "ran" });
            say(if process.shutdown().is_installed() { "signals taken" } else { "nothing begun" });
            return ExitCode::SUCCESS;
        }
        "panics at once" => {
            return supervisor.run(|_| {
                drop(tokio::task::spawn_blocking(|| sleep(HOUR)));
                panic!("on purpose");
                #[expect(unreachable_code, reason = "what is to be run has to have a type")]
                std::future::ready(Ok(()))
            });
        }
        _ => {}
    }
    if does.starts_with("blocking") {
        return supervisor.run_blocking(|process| blocking(&does, &process));
    }
    supervisor.run(async move |process| {
        say("main");
        process.ready();
        match &*does {
            "waits" => {
                process.stopping().await;
                say("stopping");
                process.lifecycle().reached(Phase::Draining).await;
            }
            "returns" => {}
            "fails" => return Err("no luck".into()),
            "panics" => panic!("on purpose"),
            "panics, and again" => std::panic::panic_any(Again),
            "never returns" => std::future::pending().await,
            "is not live" => {
                let worker = process.health().live("worker");
                worker.fail("stuck");
                say("not live");
                process.stopping().await;
            }
            "has a closure that hangs" => {
                process.health().live_while("wedged", || {
                    say("asked");
                    sleep(HOUR);
                    true
                });
                process.stopping().await;
            }
            "blocks for a while" => {
                say("blocking");
                sleep(Duration::from_secs(3));
                say("free");
                process.stopping().await;
            }
            "blocks its thread" => sleep(HOUR),
            "leaves a blocking task" => {
                let task = tokio::task::spawn_blocking(|| {
                    say("blocking");
                    sleep(HOUR);
                });
                drop(task);
                process.stopping().await;
            }
            other => panic!("{other}?"),
        }
        say("main returns");
        Ok(())
    })
}

fn blocking(does: &str, process: &Process) -> Result<(), buttress::BoxError> {
    say("main");
    process.ready();
    match does {
        "blocking, waits" => while !process.lifecycle().wait_blocking(Phase::LameDuck, HOUR) {},
        "blocking, panics" => panic!("on purpose"),
        "blocking, never returns" => sleep(HOUR),
        other => panic!("{other}?"),
    }
    say("main returns");
    Ok(())
}

/// What is panicked with, and panics when it is dropped.
struct Again;

impl Drop for Again {
    fn drop(&mut self) {
        panic!("on purpose");
    }
}
