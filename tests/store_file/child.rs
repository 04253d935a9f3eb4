//! The process that is killed: this binary, told by the environment what to be.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use buttress::store::{Begun, FileStore, Store};

use super::{HOUR, claim, id, outcome};

const STEP: &str = "BUTTRESS_CHILD_STEP";
const DIRECTORY: &str = "BUTTRESS_CHILD_DIRECTORY";
const KEY: &str = "BUTTRESS_CHILD_KEY";

/// What the child tells begins with this, to tell it from what the test harness prints.
const MARK: char = '@';

fn say(what: &str) {
    // One write, so that a kill does not leave half of it.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{MARK}{what}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// The effect: a line in a file, written at once.
fn effect(directory: &Path, key: usize) {
    let log = OpenOptions::new().append(true).create(true).open(directory.join("effects"));
    log.unwrap().write_all(format!("{key}\n").as_bytes()).unwrap();
}

pub(super) fn effects(directory: &Path, key: usize) -> usize {
    let log = std::fs::read_to_string(directory.join("effects")).unwrap_or_default();
    log.lines().filter(|line| *line == key.to_string()).count()
}

/// A running child.
pub(super) struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Process {
    pub(super) fn command(program: &Path, step: &str, directory: &Path, key: usize) -> Command {
        let mut command = Command::new(program);
        command
            .args(["--exact", "child::be_a_child", "--nocapture", "--test-threads=1"])
            .env(STEP, step)
            .env(DIRECTORY, directory)
            .env(KEY, key.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }

    pub(super) fn start(step: &str, directory: &Path, key: usize) -> Self {
        let program = std::env::current_exe().unwrap();
        Self::of(Self::command(&program, step, directory, key).spawn().unwrap())
    }

    pub(super) fn of(mut child: Child) -> Self {
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// The next thing it says, or `None` if it has ended.
    pub(super) fn hear(&mut self) -> Option<String> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if self.out.read_until(b'\n', &mut line).unwrap() == 0 {
                return None;
            }
            // Half a line is nothing that was said.
            let text = String::from_utf8_lossy(&line);
            if let Some(said) = text.strip_prefix(MARK).and_then(|said| said.strip_suffix('\n')) {
                return Some(said.to_owned());
            }
        }
    }

    pub(super) fn wait_for(&mut self, what: &str) {
        loop {
            let said = self.hear().unwrap_or_else(|| panic!("it ended before {what}"));
            if said == what {
                return;
            }
        }
    }

    /// With SIGKILL. Returns what it had said.
    pub(super) fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::iter::from_fn(|| self.hear()).collect()
    }
}

/// Waits to be killed.
async fn stop(at: &str) {
    say(at);
    tokio::time::sleep(Duration::from_secs(60)).await;
    panic!("nobody killed me");
}

/// Not a test but what the tests start, unless nobody has.
#[test]
fn be_a_child() {
    let Ok(step) = std::env::var(STEP) else { return };
    let directory = std::env::var(DIRECTORY).unwrap();
    let key = std::env::var(KEY).unwrap().parse().unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(live(&step, Path::new(&directory), key));
}

async fn live(step: &str, directory: &Path, key: usize) {
    let path = directory.join("store");
    if step == "open" {
        say("opening");
    }
    let store = match FileStore::open(&path) {
        Ok(store) => store,
        Err(error) => return say(&format!("{:?} {error}", error.kind())),
    };
    let (id, claim) = (id(key), claim());
    match step {
        "hold" => return stop("held").await,
        "open" => {
            for number in 0.. {
                drop(store.begin(&super::id(key * 1_000_000 + number), &claim).await);
            }
        }
        "begin" => stop("before begin").await,
        "load" => return load(&store, directory, key).await,
        _ => {}
    }
    if step == "beginning" {
        say("beginning");
    }
    let Begun::Run { .. } = store.begin(&id, &claim).await.unwrap() else { panic!("{key} is new") };
    match step {
        "begun" => return stop("begun").await,
        "renew" => {
            say("renewing");
            loop {
                store.renew(&id, claim.attempt, HOUR, HOUR).await.unwrap();
            }
        }
        "release" => {
            store.release(&id, claim.attempt).await.unwrap();
            return stop("released").await;
        }
        "interrupt" => {
            store.interrupt(&id, claim.attempt, HOUR).await.unwrap();
            return stop("interrupted").await;
        }
        "abandon" => {
            store.abandon(&id, claim.attempt);
            return stop("abandoned").await;
        }
        _ => {}
    }
    effect(directory, key);
    match step {
        "effect" => return stop("effect").await,
        "completing" => say("completing"),
        _ => {}
    }
    store.complete(&id, claim.attempt, &outcome(key), HOUR).await.unwrap();
    if step == "purge" {
        say("purging");
        for number in 0.. {
            let other = super::id(key * 1_000_000 + number);
            let short = super::claim().lease(Duration::ZERO).retention(Duration::ZERO);
            store.begin(&other, &short).await.unwrap();
            store.purge(100).await.unwrap();
        }
    }
    stop("completed").await;
}

/// Executes the keys that are there to be executed, several at a time, and tells of each step.
async fn load(store: &FileStore, directory: &Path, from: usize) {
    let tasks = (0..8).map(|task| async move {
        for key in (from..from + 400).skip(task).step_by(4) {
            let (id, claim) = (id(key), claim());
            match store.begin(&id, &claim).await.unwrap() {
                Begun::Run { .. } => {
                    say(&format!("run {key}"));
                    effect(directory, key);
                    store.complete(&id, claim.attempt, &outcome(key), HOUR).await.unwrap();
                    say(&format!("done {key}"));
                }
                Begun::Done(record) => assert_eq!(record.state.outcome(), Some(&outcome(key))),
                Begun::Interrupted(_) | Begun::Busy { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    });
    futures_util::future::join_all(tasks).await;
    stop("all").await;
}
