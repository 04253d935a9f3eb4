//! The process that is stopped or killed: this binary, told by the environment what to be.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress::observe::{Event, Observe};
use buttress::supervise::{
    heartbeat::{Heartbeat, HeartbeatError},
    watchdog::{RuntimeWatchdog, Watchdog},
};
use rustix::process::{Pid, Signal, kill_process};

use tokio::time::Instant;

use super::{ms, rest, until};

const ROLE: &str = "BUTTRESS_CHILD_ROLE";
const FILE: &str = "BUTTRESS_CHILD_FILE";

/// What the child tells begins with this, to tell it from what the test harness prints.
const MARK: char = '@';

fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{MARK}{what}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Returns when the parent wants this to end.
fn told_to_end() {
    let mut rest = String::new();
    let _ = std::io::stdin().read_to_string(&mut rest);
}

pub(super) struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
    stdin: Option<ChildStdin>,
}

impl Process {
    pub(super) fn command(role: &str, file: &Path) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "child::be_a_child", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(FILE, file)
            .env("RUST_BACKTRACE", "0");
        command
    }

    pub(super) fn start(role: &str, file: &Path) -> Self {
        Self::of(Self::command(role, file))
    }

    pub(super) fn of(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let stdin = child.stdin.take();
        Self { child, out, stdin }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn hear(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.out.read_line(&mut line).unwrap() > 0, "the child has gone");
            if let Some(said) = line.trim_end().strip_prefix(MARK) {
                return said.to_owned();
            }
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Has it end by itself.
    pub(super) fn end(&mut self) {
        drop(self.stdin.take());
    }

    pub(super) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("the child ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub(super) fn close_stderr(&mut self) {
        drop(self.child.stderr.take());
    }

    pub(super) fn stderr(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn heart(file: PathBuf) -> Heartbeat {
    Heartbeat::builder("child").file(file).interval(Duration::from_secs(1)).build().unwrap()
}

/// Not a test of its own: does something only in a child.
#[test]
fn be_a_child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let file = PathBuf::from(std::env::var_os(FILE).unwrap());
    match role.as_str() {
        "beat" => {
            let heart = heart(file);
            match heart.start() {
                Ok(()) => say("started"),
                Err(error) => return say(&error.to_string()),
            }
            told_to_end();
        }
        "watch" => watch(),
        "freeze" | "freeze without a reader" => freeze(|_: &Event<'_>| ()),
        "freeze with a full pipe" => {
            fill_stderr();
            freeze(|_: &Event<'_>| ());
        }
        "freeze, and who hears of it hangs" => {
            freeze(|_: &Event<'_>| rest(Duration::from_secs(3600)));
        }
        "no room" => no_room(file),
        other => panic!("{other}"),
    }
}

/// Takes this much time of a processor. Time in which it was stopped is no work.
fn work(time: Duration) {
    let mut done = Duration::ZERO;
    let mut last = Instant::now();
    while done < time {
        std::hint::black_box((0..1000_u64).sum::<u64>());
        let now = Instant::now();
        done += (now - last).min(ms(1));
        last = now;
    }
}

/// Threads that work all the time, and what watches them. Says how many alarms there were.
fn watch() {
    let alarms = Arc::new(AtomicUsize::new(0));
    let count = |what: &'static str| {
        let alarms = Arc::clone(&alarms);
        move || {
            alarms.fetch_add(1, Ordering::Relaxed);
            say(what);
        }
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let frozen = count("runtime frozen");
    let dog = RuntimeWatchdog::builder("runtime", runtime.handle())
        .frozen_after(ms(500))
        .on_frozen(move |_| frozen())
        .build()
        .unwrap();
    let silent = count("watchdog fired");
    let pinged = Watchdog::builder("pinged")
        .timeout(Duration::from_secs(1))
        .on_timeout(move |_| silent())
        .build()
        .unwrap();
    // In the middle of a piece of work half of the time: what is stopped there needs a while to show that it
    // goes on, and whoever watches it is awake before that.
    let pulse = pinged.pulse();
    std::thread::spawn(move || {
        loop {
            work(ms(60));
            pulse.ping();
            rest(ms(60));
        }
    });
    runtime.spawn(async {
        loop {
            work(ms(60));
            tokio::time::sleep(ms(60)).await;
        }
    });
    dog.start().unwrap();
    pinged.start().unwrap();
    say("started");
    told_to_end();
    let gaps = pinged.stats().observer_gaps + dog.stats().observer_gaps;
    say(&format!("alarms {} gaps {gaps}", alarms.load(Ordering::Relaxed)));
}

/// A worker that never comes back, and a watchdog that ends the process for that.
fn freeze(hears: impl Observe) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let dog = RuntimeWatchdog::builder("aborts", runtime.handle())
        .frozen_after(ms(100))
        .abort_after(ms(200))
        .observe(hears)
        .build()
        .unwrap();
    dog.start().unwrap();
    runtime.spawn(async { rest(Duration::from_secs(3600)) });
    say("started");
    told_to_end();
}

/// With what nobody reads.
fn fill_stderr() {
    // Not by `stderr`, whose lock this would keep.
    let mut pipe = std::fs::OpenOptions::new().write(true).open("/proc/self/fd/2").unwrap();
    std::thread::spawn(move || while pipe.write_all(b"x").is_ok() {});
    rest(ms(300));
}

/// May not write a byte, and says what it hears of that.
fn no_room(file: PathBuf) {
    let heart =
        Heartbeat::builder("no room").file(file).interval(Duration::from_secs(1)).build().unwrap();
    let error = heart.beat().unwrap_err();
    assert!(matches!(error, HeartbeatError::Write { .. }));
    say(&error.to_string());
}
