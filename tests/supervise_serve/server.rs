//! A server as a child process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::program::{MARK, OPTIONS};

pub(super) struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    pub(super) address: SocketAddr,
    asked: Option<Instant>,
}

/// How a server ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// `None`: it had not, and was killed.
    pub(super) code: Option<i32>,
    /// Since the signal.
    pub(super) after: Duration,
    /// What `ServeReport` said.
    pub(super) report: String,
}

impl Server {
    /// Options: see `program`.
    pub(super) fn start(options: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "program::be_a_server", "--nocapture", "--test-threads=1"])
            .env(OPTIONS, options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let address = hear(&mut out).expect("the server says where it listens").parse().unwrap();
        Self { child, out, address, asked: None }
    }

    /// Asks it to end.
    pub(super) fn terminate(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        self.asked = Some(Instant::now());
        kill_process(pid, Signal::TERM).unwrap();
    }

    /// Waits for its end, and kills it when it takes too long.
    pub(super) async fn ended(mut self, within: Duration) -> Ended {
        let asked = self.asked.expect("it was asked to end");
        let mut code = None;
        while code.is_none() && asked.elapsed() < within {
            code = self.child.try_wait().unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let after = asked.elapsed();
        if code.is_none() {
            self.child.kill().unwrap();
        }
        let report = hear(&mut self.out).unwrap_or_default();
        Ended { code: code.and_then(|status| status.code()), after, report }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next thing the child says.
fn hear(out: &mut BufReader<ChildStdout>) -> Option<String> {
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 {
        if let Some(said) = line.trim().strip_prefix(MARK) {
            return Some(said.to_owned());
        }
        line.clear();
    }
    None
}
