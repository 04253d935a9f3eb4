//! A real process that reads its settings again: on SIGHUP, and when the file changes; and requests while it does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![cfg(unix)]

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use buttress::config::{Loader, Reloader};
use buttress::control::Registry;

mod back;
mod beginnings;
mod commands;
mod installs;
mod kit;
mod live;
mod load;
mod places;
mod rig;
mod torn;

const FILE: &str = "BUTTRESS_RELOAD_FILE";
const EVERY: &str = "BUTTRESS_RELOAD_EVERY";
const MARK: &str = "@";

/// Not a test but what the tests start, unless nobody has.
#[test]
fn be_a_child() {
    let Ok(file) = std::env::var(FILE) else { return };
    let every = Duration::from_millis(std::env::var(EVERY).unwrap().parse().unwrap());
    let registry = Registry::new();
    let loader = Loader::empty().file(file);
    let stacks = loader.load().unwrap().stacks().register_in(&registry);
    let limiter = stacks.rate_limiter("api").unwrap();
    let _watch = Reloader::new(loader, &stacks).watch_every(every).unwrap();
    println!("\n{MARK}ready {}", limiter.quota());
    let mut seen = 0;
    loop {
        let news = registry.events_since(seen);
        for event in news.events {
            println!("\n{MARK}{} {}", event.event, limiter.quota());
            seen = event.seq;
        }
        #[allow(clippy::disallowed_methods, reason = "a process with real time")]
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    file: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Process {
    fn start(name: &str, every: Duration) -> Self {
        let name = format!("buttress-{name}-{}.yml", std::process::id());
        let file = std::env::temp_dir().join(name);
        write(&file, "5/s");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "be_a_child", "--nocapture"])
            .env(FILE, &file)
            .env(EVERY, every.as_millis().to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, file }
    }

    /// What the process says next. It ends with the test, whose harness says when it takes too long.
    fn says(&mut self) -> String {
        loop {
            let line = self.lines.next().unwrap().unwrap();
            if let Some(said) = line.strip_prefix(MARK) {
                return said.to_owned();
            }
        }
    }

    fn hangup(&self) {
        let status = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }
}

fn write(file: &Path, rate: &str) {
    // As editors do: never half a file.
    let new = file.with_extension("new");
    std::fs::write(&new, format!("rate_limits: {{api: {rate}}}\n")).unwrap();
    std::fs::rename(&new, file).unwrap();
}

#[test]
fn hangup() {
    // The files are not looked at again within the test.
    let mut process = Process::start("hangup", Duration::from_secs(3600));
    assert_eq!(process.says(), "ready 5/s");
    write(&process.file, "7/s");
    process.hangup();
    assert_eq!(process.says(), "reloaded 7/s");
    write(&process.file, "often");
    process.hangup();
    assert_eq!(process.says(), "reload_refused 7/s");
    write(&process.file, "9/s");
    process.hangup();
    assert_eq!(process.says(), "reloaded 9/s");
    process.hangup();
    assert_eq!(process.says(), "reloaded 9/s", "asked for: it says that nothing is new");
    assert!(process.child.try_wait().unwrap().is_none(), "it lives");
}

#[test]
fn a_file_that_changes() {
    let mut process = Process::start("changes", Duration::from_millis(50));
    assert_eq!(process.says(), "ready 5/s");
    // The same length, and perhaps the same time.
    for rate in ["7/s", "8/s", "9/s"] {
        write(&process.file, rate);
        assert_eq!(process.says(), format!("reloaded {rate}"));
    }
    write(&process.file, "often");
    assert_eq!(process.says(), "reload_refused 9/s");
}
