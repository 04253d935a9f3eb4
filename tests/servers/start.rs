//! Starts and stops the servers: also used by the benches, which know nothing of the rest.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// Runs the server given as arguments, tells its pid, and stops it when the input ends: also when the process
/// that holds the other end was killed.
const KEEPER: &str = r#"
trap '' INT TERM
"$@" </dev/null >"$FOLDER/log" 2>&1 &
pid=$!
echo $pid
read _
kill -CONT $pid 2>/dev/null
kill -$STOP $pid 2>/dev/null
(sleep 5; kill -9 $pid) >/dev/null 2>&1 &
late=$!
wait $pid
# It ignores what is ignored here; and must not outlive the server, whose number another process may get.
kill -9 $late 2>/dev/null
[ -e "$FOLDER/keep" ] || rm -rf "$FOLDER"
"#;

pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new(what: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("buttress-{what}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// By the shell: a small Debian has no program of that name.
fn kill(name: &str, pid: u32) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", "kill \"$@\"", "kill", name, &pid.to_string()]);
    command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

pub fn signal(name: &str, pid: u32) {
    assert!(kill(name, pid), "kill {name} {pid}");
}

/// Whether it still runs. One that has ended but whose end nobody has asked for does not: in a container
/// there may be nobody who does.
fn is_there(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ended = stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    !ended && kill("-0", pid)
}

/// The processes that this one has made: those of PostgreSQL outlive it for a moment, and go on serving.
fn children(pid: u32) -> Vec<u32> {
    let parent = |stat: String| -> Option<(u32, u32)> {
        let (pid, rest) = stat.split_once(' ')?;
        let rest = rest.rsplit(')').next()?;
        Some((pid.parse().ok()?, rest.split_whitespace().nth(1)?.parse().ok()?))
    };
    let listed: Vec<(u32, u32)> = if let Ok(all) = std::fs::read_dir("/proc") {
        let stat = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("stat"));
        all.flatten().filter_map(|entry| stat(entry).ok()).filter_map(parent).collect()
    } else {
        let listed = Command::new("ps").args(["-A", "-o", "pid=", "-o", "ppid="]).output().unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let numbers = |line: &str| {
            let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
            Some((numbers.next()??, numbers.next()??))
        };
        listed.lines().filter_map(numbers).collect()
    };
    listed.into_iter().filter(|(_, of)| *of == pid).map(|(child, _)| child).collect()
}

/// A running server.
struct Running {
    keeper: Child,
    pid: u32,
}

impl Running {
    fn start(command: &[String], folder: &Path, stop: &str) -> Self {
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args(command)
            .env("FOLDER", folder)
            .env("STOP", stop)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().expect("the keeper tells a pid");
        Self { keeper, pid }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

async fn until_open(port: u16, log: &Path) {
    let end = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if Instant::now() > end {
            panic!("the server did not come up: {}", read(log));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

fn read(log: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = std::fs::File::open(log) {
        let _ = file.read_to_string(&mut text);
    }
    text
}

/// A server that can be killed and started again.
pub struct Server {
    command: Vec<String>,
    /// The signal by which it stops at once.
    stop: &'static str,
    pub port: u16,
    running: Option<Running>,
    folder: Folder,
}

impl Server {
    async fn run(command: Vec<String>, stop: &'static str, port: u16, folder: Folder) -> Self {
        let mut server = Self { command, stop, port, running: None, folder };
        server.start().await;
        server
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().pid
    }

    /// As by `kill -9`. Its folder stays.
    pub fn kill(&mut self) {
        let running = self.running.take().unwrap();
        std::fs::write(self.folder.0.join("keep"), "").unwrap();
        let children = children(running.pid);
        signal("-KILL", running.pid);
        for child in &children {
            let _ = kill("-KILL", *child);
        }
        let since = Instant::now();
        while children.iter().any(|child| is_there(*child)) {
            assert!(since.elapsed() < Duration::from_secs(20), "they do not end: {children:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
        // Only the process that started it may wait for it, and that is the keeper.
        drop(running);
    }

    pub async fn start(&mut self) {
        let _ = std::fs::remove_file(self.folder.0.join("keep"));
        self.running = Some(Running::start(&self.command, &self.folder.0, self.stop));
        until_open(self.port, &self.folder.0.join("log")).await;
    }

    pub fn log(&self) -> String {
        read(&self.folder.0.join("log"))
    }
}

/// Redis, or Valkey where that is what there is. Its command begins with `before`.
pub async fn redis(before: &[String], options: &[&str]) -> Server {
    let folder = Folder::new("redis");
    let port = free_port();
    let program = redis_program().expect("redis-server is missing: bash tests/run.sh --install");
    let mut command = before.to_vec();
    let words = [program, "--port", &port.to_string(), "--bind", "127.0.0.1"];
    command.extend(words.map(ToOwned::to_owned));
    let folder_name = folder.0.to_str().unwrap().to_owned();
    command.extend(["--save", "", "--dir", &folder_name].map(ToOwned::to_owned));
    command.extend(options.iter().map(ToString::to_string));
    Server::run(command, "TERM", port, folder).await
}

pub fn redis_program() -> Option<&'static str> {
    ["redis-server", "valkey-server"].into_iter().find(|name| on_path(name))
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Where PostgreSQL's programs are: Debian keeps them off the path.
pub fn postgres_programs() -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = vec![];
    for parent in ["/usr/lib/postgresql", "/usr/pgsql"] {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let version = entry.file_name().to_string_lossy().parse().unwrap_or(0);
            let programs = entry.path().join("bin");
            if programs.join("initdb").is_file() {
                found.push((version, programs));
            }
        }
    }
    found.sort();
    if let Some((_, programs)) = found.pop() {
        return Some(programs);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).find(|folder| folder.join("initdb").is_file())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.starts_with(b"0\n")
}

/// PostgreSQL does not run as root.
fn as_postgres(root: bool) -> Vec<String> {
    if !root {
        return vec![];
    }
    let words = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];
    words.map(ToOwned::to_owned).to_vec()
}

/// PostgreSQL, once `answers` says so of a connection with these settings: it listens before it answers.
/// Its command begins with `before`.
pub async fn postgres(
    before: &[String],
    options: &[&str],
    answers: impl AsyncFn(&str) -> bool,
) -> Server {
    let folder = Folder::new("postgres");
    let (port, root) = (free_port(), is_root());
    if root {
        let chown = Command::new("chown").arg("postgres").arg(&folder.0).status().unwrap();
        assert!(chown.success(), "the package postgresql makes a user of that name");
    }
    let programs = postgres_programs().expect("initdb is missing: bash tests/run.sh --install");
    let data = folder.0.join("data").to_str().unwrap().to_owned();
    let mut words = as_postgres(root);
    words.push(programs.join("initdb").to_str().unwrap().to_owned());
    words.extend(
        ["-D", &data, "-U", "postgres", "--auth=trust", "--no-sync", "--locale=C", "-E", "UTF8"]
            .map(ToOwned::to_owned),
    );
    let made = Command::new(&words[0]).args(&words[1..]).current_dir("/").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let mut command = as_postgres(root);
    command.extend_from_slice(before);
    command.push(programs.join("postgres").to_str().unwrap().to_owned());
    command.extend(
        ["-D", &data, "-p", &port.to_string(), "-h", "127.0.0.1", "-k", ""].map(ToOwned::to_owned),
    );
    // Tests cut no power.
    for option in ["fsync=off", "max_connections=120"].iter().chain(options) {
        command.extend(["-c".to_owned(), (*option).to_owned()]);
    }
    let server = Server::run(command, "QUIT", port, folder).await;
    let config = format!("host=127.0.0.1 port={port} user=postgres");
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if answers(&config).await {
            return server;
        }
        assert!(Instant::now() < end, "{}", server.log());
        sleep(Duration::from_millis(20)).await;
    }
}
