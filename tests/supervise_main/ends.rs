//! How it ends.

use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use buttress::supervise::heartbeat::Heartbeat;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::process::{End, Process};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("buttress-main-{}-{name}", std::process::id()))
}

/// Starts it, signals it once `main` runs, waits for its end.
fn terminated(program: &Value) -> End {
    let mut process = Process::start(program);
    process.hear("main");
    process.signal(Signal::TERM);
    process.end(Instant::now())
}

fn runs(program: &Value) -> End {
    Process::start(program).end(Instant::now())
}

fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn probe(addr: &str, path: &str) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(MINUTE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: probe\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.get(9..12).unwrap_or_default().to_owned();
    Ok(status)
}

#[test]
fn a_signal_ends_it_in_order() {
    let end = terminated(&json!({ "does": "waits" }));
    assert_eq!(
        end.said,
        ["main", "stopping", "main returns", "callback in cleanup"],
        "the callback after `main`"
    );
    assert_eq!((end.code, &*end.errors), (Some(0), ""));
}

#[test]
fn probes_beat_and_systemd_say_the_same_at_each_step() {
    let beat = temporary("beat.json");
    let socket = temporary("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(MINUTE)).unwrap();
    let told = || {
        let mut bytes = [0; 256];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let addr = free_port();
    let program = json!({
        "does": "waits", "lame_duck": 2.0, "beat": beat.to_str().unwrap(), "probes": addr,
    });
    let mut command = Process::command(&program);
    command.env("NOTIFY_SOCKET", &socket);
    let mut process = Process::of(command.spawn().unwrap());
    process.hear("main");
    assert_eq!(told(), "READY=1\n");
    let probes = || ["/livez", "/readyz", "/startupz"].map(|path| probe(&addr, path).unwrap());
    assert_eq!(probes(), ["200", "200", "200"]);
    assert!(Heartbeat::is_alive(&beat, MINUTE));

    process.signal(Signal::TERM);
    assert_eq!(told(), "STOPPING=1\n");
    assert!(told().starts_with("EXTEND_TIMEOUT_USEC="));
    assert_eq!(probes(), ["200", "503", "200"], "a lame duck is alive, and gets no more traffic");
    let end = process.end(Instant::now());
    assert_eq!(end.code, Some(0), "{}", end.errors);
    assert_eq!(Heartbeat::verdict(&beat, MINUTE).as_str(), "stopped");
    assert!(probe(&addr, "/livez").is_err(), "nobody listens any more");
    for path in [&beat, &socket] {
        std::fs::remove_file(path).unwrap();
    }
    let _ = std::fs::remove_file(beat.with_extension("json.lock"));
}

#[test]
fn a_process_that_is_not_live_is_so_for_the_beat_as_well() {
    let beat = temporary("not-live.json");
    let program = json!({ "does": "is not live", "beat": beat.to_str().unwrap(), "interval": 1.0 });
    let mut process = Process::start(&program);
    process.hear("not live");
    let from = Instant::now();
    while Heartbeat::is_alive(&beat, 3 * SECOND) {
        assert!(from.elapsed() < MINUTE / 2, "it beats on");
        super::sleep(Duration::from_millis(20));
    }
    assert_eq!(Heartbeat::verdict(&beat, 3 * SECOND).as_str(), "stale");
    assert!(process.is_alive());
    process.signal(Signal::TERM);
    assert_eq!(process.end(Instant::now()).code, Some(0));
    std::fs::remove_file(&beat).unwrap();
    let _ = std::fs::remove_file(beat.with_extension("json.lock"));
}

#[test]
fn the_end_of_main_is_the_end() {
    let end = runs(&json!({ "does": "returns" }));
    assert_eq!(end.said, ["main", "main returns", "callback in cleanup"]);
    assert_eq!(end.code, Some(0));
}

#[test]
fn a_main_that_fails_or_panics_is_cleaned_up_after() {
    let end = runs(&json!({ "does": "fails" }));
    assert_eq!(end.said, ["main", "callback in cleanup"]);
    assert_eq!((end.code, &*end.errors), (Some(1), "child: no luck\n"));
    for does in ["panics", "panics, and again", "blocking, panics"] {
        let end = runs(&json!({ "does": does }));
        assert_eq!(end.said, ["main", "callback in cleanup"]);
        assert_eq!(end.code, Some(101));
        assert!(end.errors.contains("on purpose"), "{}", end.errors);
    }
}

#[test]
fn a_main_that_never_returns_is_left_when_the_drain_is_over() {
    let end = terminated(&json!({ "does": "never returns", "drain": 0.3 }));
    assert_eq!(end.said, ["main", "callback in cleanup"]);
    assert_eq!(end.code, Some(124), "not clean, and that shows");
    assert!(end.errors.contains("main"), "the report names who held it: {}", end.errors);
    assert!(end.after >= Duration::from_millis(300));
}

#[test]
fn a_blocked_worker_does_not_hold_the_end() {
    let end = terminated(&json!({ "does": "blocks its thread", "total": 1.5, "drain": 0.5 }));
    assert_eq!(end.said, ["main", "callback in cleanup"]);
    assert_eq!(end.code, Some(124));
    assert!(end.after < Duration::from_secs(10), "{:?}", end.after);
}

#[test]
fn a_blocking_task_does_not_hold_the_end() {
    let mut process = Process::start(&json!({ "does": "leaves a blocking task" }));
    process.hear("blocking");
    process.signal(Signal::TERM);
    let end = process.end(Instant::now());
    assert_eq!(end.code, Some(0));
    assert!(end.after < Duration::from_secs(10), "{:?}", end.after);
}

#[test]
fn a_main_that_is_over_or_broken_early_serves_nobody_and_waits_for_nobody() {
    for (does, code) in [("fails", 1), ("panics", 101), ("returns", 0)] {
        let end = runs(&json!({ "does": does, "lame_duck": 15.0 }));
        assert_eq!(end.code, Some(code));
        assert!(end.after < Duration::from_secs(10), "{does}: {:?}", end.after);
    }
}

#[test]
fn a_main_that_panics_before_its_first_await_is_cleaned_up_after() {
    let end = runs(&json!({ "does": "panics at once" }));
    assert_eq!(end.said, ["callback in cleanup"]);
    assert_eq!(end.code, Some(101), "{}", end.errors);
    assert!(end.after < Duration::from_secs(10), "{:?}", end.after);
}

#[test]
fn a_shutdown_that_comes_before_main_leaves_it_out() {
    for does in ["is over before", "is over before, blocking"] {
        let end = runs(&json!({ "does": does }));
        assert_eq!(end.said, ["callback in cleanup"], "{does}");
        assert_eq!(end.code, Some(0), "{does}");
    }
}

#[test]
fn within_a_runtime_it_panics_before_it_begins_anything() {
    let end = runs(&json!({ "does": "runs within a runtime" }));
    assert_eq!(end.said, ["panicked", "nothing begun"]);
    assert!(end.errors.contains("within a runtime"), "{}", end.errors);
}

#[test]
fn a_standard_error_that_nobody_reads_changes_no_exit_code() {
    for (program, code) in
        [(json!({ "does": "fails" }), 1), (json!({ "does": "never returns", "drain": 0.3 }), 124)]
    {
        // Closed, and full.
        for full in [false, true] {
            let (reader, mut writer) = std::io::pipe().unwrap();
            let mut kept = Some(reader);
            if full {
                rustix::io::ioctl_fionbio(&writer, true).unwrap();
                while writer.write(&[b'.'; 4096]).is_ok() {}
                rustix::io::ioctl_fionbio(&writer, false).unwrap();
            } else {
                kept = None;
            }
            let mut command = Process::command(&program);
            command.stderr(writer);
            let mut process = Process::of(command.spawn().unwrap());
            process.hear("main");
            process.signal(Signal::TERM);
            let end = process.end(Instant::now());
            drop(kept);
            assert_eq!(end.code, Some(code), "{program}, full: {full}");
            assert!(end.after < Duration::from_secs(10), "{program}: {:?}", end.after);
        }
    }
}

#[test]
fn a_closure_that_hangs_does_not_hold_the_end() {
    let socket = temporary("hangs");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let mut command = Process::command(&json!({ "does": "has a closure that hangs" }));
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "100000");
    let mut process = Process::of(command.spawn().unwrap());
    process.hear("asked");
    process.signal(Signal::TERM);
    let end = process.end(Instant::now());
    assert_eq!(end.code, Some(0), "{}", end.errors);
    assert!(end.after < Duration::from_secs(10), "{:?}", end.after);
    drop(manager);
    std::fs::remove_file(&socket).unwrap();
}

#[test]
fn a_second_one_is_told_who_has_the_heartbeat() {
    let beat = temporary("second.json");
    let program = json!({ "does": "waits", "beat": beat.to_str().unwrap() });
    let mut first = Process::start(&program);
    first.hear("main");
    let second = runs(&program);
    assert_eq!(second.code, Some(1));
    let holder = format!("process {}", first.pid().as_raw_nonzero());
    assert!(second.errors.starts_with("child: cannot beat: "), "{}", second.errors);
    assert!(second.errors.contains(&holder), "{}", second.errors);
    assert!(second.said.is_empty(), "{:?}", second.said);
    assert!(Heartbeat::is_alive(&beat, MINUTE), "the first one's file is as it was");
    first.signal(Signal::TERM);
    assert_eq!(first.end(Instant::now()).code, Some(0));
    std::fs::remove_file(&beat).unwrap();
    let _ = std::fs::remove_file(beat.with_extension("json.lock"));

    let end = runs(&json!({ "does": "waits", "beat": "/proc/nowhere/beat.json" }));
    assert_eq!(end.code, Some(1));
    assert!(end.errors.starts_with("child: cannot beat: "), "{}", end.errors);
    assert!(end.errors.contains("/proc/nowhere"), "{}", end.errors);
}

#[test]
fn without_a_runtime_it_is_the_same() {
    let end = terminated(&json!({ "does": "blocking, waits" }));
    assert_eq!(end.said, ["main", "main returns", "callback in cleanup"]);
    assert_eq!(end.code, Some(0));
    // Its thread cannot be left: the process is ended at the deadline.
    let end = terminated(&json!({ "does": "blocking, never returns", "total": 1.5, "drain": 0.3 }));
    assert_eq!(end.code, Some(124));
    assert!(end.after < Duration::from_secs(10), "{:?}", end.after);
}

#[test]
fn what_cannot_be_started_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let end = runs(&json!({ "does": "waits", "probes": addr }));
    assert_eq!(end.code, Some(1));
    assert!(end.errors.starts_with(&format!("child: cannot listen on {addr}: ")), "{}", end.errors);
    assert!(end.said.is_empty(), "`main` is not run without what was asked for");
}

#[test]
fn a_blocked_worker_is_no_life() {
    let addr = free_port();
    let mut process = Process::start(&json!({ "does": "blocks for a while", "probes": addr }));
    process.hear("blocking");
    let until = |status: &str| {
        let end = Instant::now() + MINUTE;
        while probe(&addr, "/livez").unwrap() != status {
            assert!(Instant::now() < end, "/livez never says {status}");
            super::sleep(Duration::from_millis(20));
        }
    };
    until("503");
    process.hear("free");
    until("200");
    process.signal(Signal::TERM);
    assert_eq!(process.end(Instant::now()).code, Some(0));
}
