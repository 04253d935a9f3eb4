//! The process that has to end: this binary, told by the environment what to be.

use std::io::Write;
use std::process::exit;
use std::time::Duration;

use buttress::supervise::{
    Phase,
    shutdown::{
        Budget, CleanupCallback, GracefulShutdown, OnSignal, ShutdownReport, Signal, Signals,
    },
};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::{seconds, sleep};

pub(super) const PROGRAM: &str = "BUTTRESS_SHUTDOWN_PROGRAM";

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
    live(&serde_json::from_str(&program).unwrap());
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn time(value: &Value, key: &str) -> Option<Duration> {
    value.get(key).and_then(Value::as_f64).map(seconds)
}

pub(super) fn number(signal: &str) -> Signal {
    match signal {
        "SIGTERM" => Signal::TERM,
        "SIGINT" => Signal::INT,
        "SIGUSR1" => Signal::USR1,
        "SIGUSR2" => Signal::USR2,
        "SIGHUP" => Signal::HUP,
        other => panic!("{other}?"),
    }
}

fn shutdown(program: &Value) -> GracefulShutdown {
    let mut builder = GracefulShutdown::builder("child");
    if let Some(total) = time(program, "timeout") {
        let mut budget = Budget::new(total);
        if let Some(wait) = time(program, "lame_duck") {
            budget = budget.lame_duck(wait);
        }
        builder = builder.budget(budget);
    }
    if let Some(code) = program.get("force_exit_code").and_then(Value::as_u64) {
        builder = builder.force_exit_code(u8::try_from(code).unwrap());
    }
    if let Some(handled) = program.get("signals_handled").and_then(Value::as_array) {
        let names = handled.iter().map(|name| number(name.as_str().unwrap()));
        builder = builder
            .signals(names.fold(Signals::none(), |all, name| all.on(name, OnSignal::Graceful)));
    }
    match text(program, "on_int") {
        Some("hurry") => {
            builder = builder.signals(Signals::default().on(Signal::INT, OnSignal::Hurry));
        }
        Some("exit") => {
            builder = builder.signals(Signals::default().on(Signal::INT, OnSignal::Exit));
        }
        Some("ignore") => {
            builder = builder.signals(Signals::default().on(Signal::INT, OnSignal::Ignore));
        }
        _ => {}
    }
    if program.get("exit_at_deadline").is_some() {
        builder = builder.exit_at_deadline();
    }
    builder.build().unwrap()
}

/// One of the callbacks of a program. `how` tells of its start and its end.
pub(super) fn callback(
    spec: &Value,
    how: impl Fn(&str, &str) + Clone + Send + 'static,
) -> CleanupCallback {
    let name = text(spec, "name").unwrap().to_owned();
    let kind = text(spec, "kind").unwrap();
    let length = time(spec, "duration").unwrap_or_default();
    let error = text(spec, "error").unwrap_or("RuntimeError").to_owned();
    let told = name.clone();
    let callback = match kind {
        "ok" => CleanupCallback::blocking(name, move || {
            how("start", &told);
            sleep(length);
            how("end", &told);
        }),
        // What is no ordinary exception there, is a panic here.
        "raise" if ["SystemExit", "KeyboardInterrupt"].contains(&&*error) => {
            CleanupCallback::blocking(name, move || -> () {
                how("start", &told);
                std::panic::panic_any::<String>(error)
            })
        }
        "sys_exit" => CleanupCallback::blocking(name, move || -> () {
            how("start", &told);
            std::panic::panic_any::<String>(error)
        }),
        "raise" => CleanupCallback::blocking(name, move || -> Result<(), String> {
            how("start", &told);
            Err(error)
        }),
        "async_ok" => CleanupCallback::new(name, async move || {
            how("start", &told);
            tokio::time::sleep(length).await;
            how("end", &told);
        }),
        "async_raise" => CleanupCallback::new(name, async move || -> Result<(), String> {
            how("start", &told);
            Err(error)
        }),
        "async_pending" => CleanupCallback::new(name, async move || {
            how("start", &told);
            std::future::pending::<()>().await;
        }),
        "async_block" => CleanupCallback::new(name, async move || {
            how("start", &told);
            sleep(HOUR);
        }),
        other => panic!("{other}?"),
    };
    let callback = match time(spec, "timeout") {
        Some(limit) => callback.timeout(limit),
        None => callback,
    };
    match spec.get("priority").and_then(Value::as_i64) {
        Some(priority) => callback.priority(i32::try_from(priority).unwrap()),
        None => callback,
    }
}

fn register(shutdown: &GracefulShutdown, program: &Value) {
    for spec in program["callbacks"].as_array().into_iter().flatten() {
        let how = |what: &str, name: &str| say(&format!("{what} {name}"));
        shutdown.register(callback(spec, how)).unwrap();
    }
}

/// What returning from `main` is for a program.
fn leave(report: Option<ShutdownReport>) -> ! {
    say("main done");
    exit(report.map_or(0, |report| i32::from(report.exit_code())));
}

fn blocked_runtime(workers: usize) -> Runtime {
    let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap();
    for _ in 0..workers {
        runtime.spawn(async { sleep(HOUR) });
    }
    // One that only runs when they do not: none is free.
    sleep(Duration::from_millis(100));
    let (tell, told) = std::sync::mpsc::channel();
    runtime.spawn(async move { tell.send(()) });
    assert!(told.recv_timeout(Duration::from_millis(200)).is_err(), "a worker is free");
    runtime
}

fn forbid_threads() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let kib: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
    let most = Some(kib * 1024 + (1 << 20));
    setrlimit(Resource::As, Rlimit { current: most, maximum: most }).unwrap();
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(|| ());
    assert!(thread.is_err(), "there is room for a thread");
}

fn live(program: &Value) {
    let shutdown = shutdown(program);
    let main = text(program, "main").unwrap();
    if program.get("ready").is_some() {
        shutdown.lifecycle().advance(Phase::Ready, None);
    }
    if program.get("tell").is_some() {
        let life = shutdown.lifecycle().clone();
        std::thread::spawn(move || {
            if life.wait_blocking(Phase::LameDuck, HOUR) {
                say("lame_duck");
            }
        });
    }
    let _hold = program.get("hold").map(|_| shutdown.lifecycle().hold("work"));
    match main {
        "wait_then_return" => {
            register(&shutdown, program);
            shutdown.install().unwrap();
            say("ready");
            let report = shutdown.wait_blocking(HOUR).unwrap();
            leave(Some(report));
        }
        "loop_2s" => {
            register(&shutdown, program);
            shutdown.install().unwrap();
            say("ready");
            sleep(seconds(2.0));
            leave(shutdown.report());
        }
        "loop_for_ever" => {
            register(&shutdown, program);
            shutdown.install().unwrap();
            say("ready");
            sleep(HOUR);
        }
        // As loop_for_ever, and begins the end itself.
        "triggers" => {
            register(&shutdown, program);
            if program.get("install").is_some() {
                shutdown.install().unwrap();
            }
            say("ready");
            shutdown.trigger_blocking();
            say("triggered");
            sleep(HOUR);
        }
        "with_block_returns" => {
            register(&shutdown, program);
            let ((), report) = shutdown.run_blocking(|| say("ready")).unwrap();
            leave(Some(report));
        }
        "with_block_raises" => {
            register(&shutdown, program);
            let _ = shutdown.run_blocking(|| {
                say("ready");
                panic!("the work failed");
            });
        }
        "asyncio_loop_2s" => {
            let report =
                Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                    register(&shutdown, program);
                    shutdown.install().unwrap();
                    say("ready");
                    tokio::time::timeout(seconds(2.0), shutdown.wait()).await.ok()
                });
            leave(report);
        }
        "async_run_raises" => {
            let runtime = Runtime::new().unwrap();
            let _ = runtime.block_on(async {
                register(&shutdown, program);
                shutdown
                    .run(async {
                        say("ready");
                        panic!("the work failed");
                    })
                    .await
            });
        }
        "not_installed_loop" => {
            register(&shutdown, program);
            say("ready");
            sleep(HOUR);
        }
        "uninstalled" => {
            register(&shutdown, program);
            for _ in 0..3 {
                shutdown.install().unwrap();
                assert!(shutdown.uninstall());
            }
            say("ready");
            sleep(HOUR);
        }
        // Not even a stack for one more thread.
        "no_threads" => {
            register(&shutdown, program);
            shutdown.install().unwrap();
            forbid_threads();
            say("ready");
            sleep(HOUR);
        }
        // The signal comes while the lock is held, on the thread that holds it.
        "registers" => {
            register(&shutdown, program);
            shutdown.install().unwrap();
            say("ready");
            while shutdown.register(CleanupCallback::blocking("again", || ())).is_ok() {
                shutdown.unregister("again");
            }
            let report = shutdown.wait_blocking(HOUR).unwrap();
            leave(Some(report));
        }
        // Another one in the same process has come and gone.
        "one_of_two" => {
            register(&shutdown, program);
            let other = GracefulShutdown::new("other");
            other.install().unwrap();
            shutdown.install().unwrap();
            assert!(other.uninstall());
            say("ready");
            let report = shutdown.wait_blocking(HOUR).unwrap();
            assert!(other.report().is_none());
            leave(Some(report));
        }
        "reinstalled" => {
            register(&shutdown, program);
            shutdown.install().unwrap();
            assert!(shutdown.uninstall());
            shutdown.install().unwrap();
            say("ready");
            let report = shutdown.wait_blocking(HOUR).unwrap();
            leave(Some(report));
        }
        // All workers of the program are blocked, and so is its main thread.
        "blocked" => {
            let runtime = blocked_runtime(2);
            runtime.block_on(async {
                register(&shutdown, program);
                shutdown.install().unwrap();
                say("ready");
                sleep(HOUR);
            });
        }
        // `#[tokio::main]`, which at the end waits for its blocking tasks.
        "spawn_blocking" => {
            let runtime = Runtime::new().unwrap();
            let report = runtime.block_on(async {
                register(&shutdown, program);
                shutdown.install().unwrap();
                tokio::task::spawn_blocking(|| sleep(HOUR));
                say("ready");
                shutdown.wait().await
            });
            if program.get("exit").is_some() {
                report.exit();
            }
            say("main returns");
            drop(runtime);
            leave(Some(report));
        }
        other => panic!("{other}?"),
    }
}
