//! A process that was started to be ended.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::Instant;

use super::child::{MARK, PROGRAM};
use super::sleep;

/// Longer than anything here takes on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Process {
    child: Child,
    pid: Pid,
    said: Receiver<String>,
    errors: Option<JoinHandle<String>>,
    heard: Vec<String>,
}

/// How a process ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    /// Since `from`.
    pub(super) after: Duration,
    /// All that it said, from the beginning.
    pub(super) said: Vec<String>,
    /// Standard error.
    pub(super) errors: String,
}

impl Process {
    /// This binary, as the process that `program` describes.
    pub(super) fn command(program: &Value) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        Self::prepare(&mut command, program);
        command
    }

    pub(super) fn prepare(command: &mut Command, program: &Value) {
        command
            .args(["--exact", "child::be_a_child", "--nocapture", "--test-threads=1"])
            .env(PROGRAM, program.to_string())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }

    pub(super) fn start(program: &Value) -> Self {
        Self::of(Self::command(program).spawn().unwrap())
    }

    pub(super) fn of(mut child: Child) -> Self {
        let (tell, said) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in out.lines() {
                let Ok(line) = line else { return };
                if let Some(what) = line.strip_prefix(MARK) {
                    let _ = tell.send(what.to_owned());
                }
            }
        });
        let errors = child.stderr.take().map(|mut errors| {
            thread::spawn(move || {
                let mut text = Vec::new();
                let _ = errors.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        let pid = Pid::from_child(&child);
        Self { child, pid, said, errors, heard: Vec::new() }
    }

    /// Waits until it says so.
    pub(super) fn hear(&mut self, what: &str) {
        let from = Instant::now();
        while !self.heard.iter().any(|said| said == what) {
            let left = PATIENCE.saturating_sub(from.elapsed());
            match self.said.recv_timeout(left) {
                Ok(said) => self.heard.push(said),
                Err(_) => panic!("it never said {what}, but {:?}", self.heard),
            }
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Signals go to this one instead, which it started.
    pub(super) fn redirect(&mut self, pid: Pid) {
        self.pid = pid;
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    pub(super) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end, for at most `limit`; `None` if it still lives, and it is killed then.
    pub(super) fn end_within(mut self, from: Instant, limit: Duration) -> Option<End> {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if from.elapsed() >= limit {
                let _ = kill_process(self.pid, Signal::KILL);
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                return None;
            }
            sleep(Duration::from_millis(2));
        };
        let after = from.elapsed();
        let mut said = std::mem::take(&mut self.heard);
        while let Ok(more) = self.said.recv_timeout(PATIENCE) {
            said.push(more);
        }
        let errors = self.errors.take().map(|errors| errors.join().unwrap()).unwrap_or_default();
        Some(End { code: status.code(), signal: status.signal(), after, said, errors })
    }

    /// Waits for its end, which must come.
    pub(super) fn end(self, from: Instant) -> End {
        self.end_within(from, PATIENCE).expect("it does not end")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A test has failed. Nothing may be left behind; what has ended already does not mind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
