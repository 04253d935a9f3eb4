//! What the tests start: this binary, told by the environment what to be.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::LONG;

const ROLE: &str = "BUTTRESS_TEST_ROLE";
const ARGUMENT: &str = "BUTTRESS_TEST_ARGUMENT";

/// What it says begins with this, to tell it from what the test harness prints.
const MARK: char = '@';

pub(super) fn say(what: impl std::fmt::Display) {
    // One write, so that a kill does not leave half of it.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{MARK}{what}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Makes `command`, which runs this binary, be `role`.
pub(super) fn become_role(command: &mut Command, role: &str, argument: &str) {
    command
        .args(["--exact", "child::be_a_child", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(ARGUMENT, argument);
}

/// This binary as a child of a supervisor.
pub(super) fn own_child(
    name: &'static str,
    role: &str,
    argument: &str,
) -> buttress::supervise::process::Child {
    buttress::supervise::process::Child::new(name, std::env::current_exe().unwrap())
        .args(["--exact", "child::be_a_child", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(ARGUMENT, argument)
        .stdout(buttress::supervise::process::Output::Null)
}

/// A running one. Killed when dropped.
pub(super) struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
}

/// A program that has just been copied is busy as long as a process that another test has forked meanwhile has not yet begun
/// its own, since until then it has what was open for the copy.
fn spawn(command: &mut Command) -> Child {
    for _ in 0..1000 {
        match command.spawn() {
            Err(busy) if busy.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                crate::pause(std::time::Duration::from_millis(10));
            }
            other => return other.unwrap(),
        }
    }
    panic!("it is busy for ten seconds");
}

impl Process {
    pub(super) fn start(role: &str, argument: &str) -> Self {
        Self::start_by(&mut Command::new(std::env::current_exe().unwrap()), role, argument)
    }

    pub(super) fn start_by(command: &mut Command, role: &str, argument: &str) -> Self {
        become_role(command, role, argument);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = spawn(command);
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next thing it says, or `None` if it has ended.
    pub(super) fn hear(&mut self) -> Option<String> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if self.out.read_until(b'\n', &mut line).unwrap() == 0 {
                return None;
            }
            let text = String::from_utf8_lossy(&line);
            if let Some(said) = text.strip_prefix(MARK).and_then(|said| said.strip_suffix('\n')) {
                return Some(said.to_owned());
            }
        }
    }

    /// What it says after `word`, as numbers.
    pub(super) fn numbers(&mut self, word: &str) -> Vec<u32> {
        loop {
            let said = self.hear().unwrap_or_else(|| panic!("it ended before {word}"));
            let mut words = said.split(' ');
            if words.next() == Some(word) {
                return words.map(|number| number.parse().unwrap()).collect();
            }
        }
    }

    /// With SIGKILL. It stays a zombie until this is dropped.
    pub(super) fn kill(&self) {
        super::send(self.id(), rustix::process::Signal::KILL);
        super::within(LONG, "it dies", || super::state(self.id()) == 'Z');
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test but what the tests start, unless nobody has.
#[test]
fn be_a_child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let argument = std::env::var(ARGUMENT).unwrap();
    match role.as_str() {
        "family" => super::death::family(&argument, true),
        "leaving family" => super::death::family(&argument, false),
        "starts many" => super::death::starts_many(&argument),
        "from a thread" => super::death::from_a_thread(&argument),
        "lifeline" => super::death::holds_a_lifeline(&argument),
        "looks at lifeline" => super::death::looks_at_lifeline(),
        "environment" => super::restarts::environment(&argument),
        "in a small group" => super::restarts::in_a_small_group(&argument),
        "hog" => super::restarts::hog(),
        "thousand" => super::reaping::thousand(),
        "subreaper" => super::reaping::subreaper(),
        "often" => super::restarts::often(),
        "neighbours" => super::beside::neighbours(),
        "sweeps" => super::orphans::sweeps(&argument),
        "beats" => super::heartbeat::beats(&argument),
        role => panic!("{role}?"),
    }
}

/// Waits to be killed.
pub(super) fn stay() {
    super::pause(Duration::from_secs(300));
    panic!("nobody killed me");
}
