#![cfg(target_os = "linux")]

use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::follow::interval;
use super::*;
use crate::supervise::health::Health;
use crate::supervise::shutdown::{Budget, GracefulShutdown};
use crate::supervise::{Lifecycle, Phase, Pulse};

/// A socket as systemd's, in the abstract namespace: no file to remove.
struct Manager {
    socket: UnixDatagram,
    address: String,
}

impl Manager {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("buttress-test-{}-{next}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { socket, address: format!("@{name}") }
    }

    fn notify(&self) -> Notify {
        Notify::new(&self.address).unwrap()
    }

    fn next(&self) -> String {
        let mut bytes = [0; 1024];
        let length = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn nothing_for(&self, time: Duration) {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut bytes = [0; 1024];
        let got = self.socket.recv(&mut bytes);
        assert!(got.is_err(), "{:?}", String::from_utf8_lossy(&bytes));
        self.socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
}

#[test]
fn the_bytes_on_the_wire() {
    let manager = Manager::new();
    let notify = manager.notify();
    notify.ready().unwrap();
    assert_eq!(manager.next(), "READY=1\n");
    notify.extend_timeout(Duration::from_millis(1500)).unwrap();
    assert_eq!(manager.next(), "EXTEND_TIMEOUT_USEC=1500000\n");
    notify.watchdog_trigger().unwrap();
    assert_eq!(manager.next(), "WATCHDOG=trigger\n");
    // A line break in a value must not become another assignment.
    notify.send(&[("STOPPING", "1"), ("STATUS", "a\nWATCHDOG=trigger\r\0b")]).unwrap();
    assert_eq!(manager.next(), "STOPPING=1\nSTATUS=a WATCHDOG=trigger  b\n");
    let error = notify.send(&[("STATUS=x\nREADY", "1")]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn a_socket_by_its_path() {
    let path = std::env::temp_dir().join(format!("buttress-notify-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let manager = UnixDatagram::bind(&path).unwrap();
    let notify = Notify::new(path.to_str().unwrap()).unwrap();
    notify.stopping().unwrap();
    let mut bytes = [0; 64];
    let length = manager.recv(&mut bytes).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(&bytes[..length], b"STOPPING=1\n");
    assert!(notify.ready().is_err(), "nobody listens any more, and that is said");
}

#[test]
fn a_full_socket_is_an_error_and_no_wait() {
    let manager = Manager::new();
    let notify = manager.notify();
    let error = (0..100_000).find_map(|_| notify.watchdog().err());
    assert_eq!(error.unwrap().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn addresses_and_intervals_that_make_no_sense_are_named() {
    for address in ["relative", "vsock:2:1234", "", "@"] {
        let error = Notify::new(address).unwrap_err();
        assert_eq!(error.field(), "NOTIFY_SOCKET");
        assert!(error.value().contains(address));
    }
    let some = |text: &str| Some(text.to_owned());
    let second = Some(Duration::from_secs(1));
    for (usec, pid, expected) in [
        (None, None, None),
        (some(""), None, None),
        (some("0"), None, None), // would be a busy loop
        (some("1000000"), None, second),
        (some("1000000"), some("7"), second),
        (some("1000000"), some("8"), None), // another process's
    ] {
        assert_eq!(interval(usec, pid, 7).unwrap(), expected);
    }
    assert_eq!(interval(some("1s"), None, 7).unwrap_err().field(), "WATCHDOG_USEC");
    assert_eq!(interval(some("5"), some("x"), 7).unwrap_err().field(), "WATCHDOG_PID");
}

#[test]
fn phases_are_told_in_order_and_a_stop_is_prolonged_up_to_its_deadline() {
    let manager = Manager::new();
    let life = Lifecycle::new();
    let told = Systemd::new(manager.notify()).follow(&Health::new(life.clone())).unwrap();
    manager.nothing_for(Duration::from_millis(50));
    life.advance(Phase::Ready, None);
    assert_eq!(manager.next(), "READY=1\n");
    life.advance(Phase::Draining, Some(Instant::now() + Duration::from_secs(3)));
    assert_eq!(manager.next(), "STOPPING=1\n");
    let extension = manager.next();
    let usec = extension.strip_prefix("EXTEND_TIMEOUT_USEC=").unwrap().trim();
    let usec: u64 = usec.parse().unwrap();
    assert!(usec > 0 && usec <= 3_000_000, "never past our own deadline: {usec}");
    life.advance(Phase::Exited, None);
    drop(told);
    manager.nothing_for(Duration::from_millis(10));
}

/// It may be ready for less time than it takes to look.
#[test]
fn that_it_was_ready_is_told_though_it_stops_by_now() {
    let manager = Manager::new();
    let life = Lifecycle::new();
    life.advance(Phase::Ready, None);
    life.advance(Phase::Draining, None);
    let told = Systemd::new(manager.notify()).follow(&Health::new(life.clone())).unwrap();
    assert_eq!(manager.next(), "READY=1\n");
    assert_eq!(manager.next(), "STOPPING=1\n");
    drop(told);
    // And one that never was, does not say so.
    let life = Lifecycle::new();
    life.advance(Phase::Draining, None);
    let told = Systemd::new(manager.notify()).follow(&Health::new(life)).unwrap();
    assert_eq!(manager.next(), "STOPPING=1\n");
    drop(told);
}

#[test]
fn the_next_phase_prolongs_the_stop_before_the_last_one_is_over() {
    let manager = Manager::new();
    let life = Lifecycle::new();
    let told = Systemd::new(manager.notify()).follow(&Health::new(life.clone())).unwrap();
    let seconds = |secs| Instant::now() + Duration::from_secs(secs);
    let extension = || {
        let text = manager.next();
        let usec = text.strip_prefix("EXTEND_TIMEOUT_USEC=").unwrap_or_else(|| panic!("{text}"));
        Duration::from_micros(usec.trim().parse().unwrap())
    };
    life.advance(Phase::LameDuck, Some(seconds(1)));
    assert_eq!(manager.next(), "STOPPING=1\n");
    assert!(extension() <= Duration::from_secs(1));
    // systemd counts on nothing beyond the second that it was told of.
    manager.socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    life.advance(Phase::Draining, Some(seconds(30)));
    assert!(extension() > Duration::from_secs(5));
    life.advance(Phase::Exited, None);
    drop(told);
}

#[test]
fn who_knows_the_end_of_it_all_prolongs_across_the_phases() {
    let manager = Manager::new();
    let shutdown = GracefulShutdown::builder("a")
        .budget(Budget::new(Duration::from_secs(8)).lame_duck(Duration::from_millis(500)));
    let shutdown = shutdown.build().unwrap();
    let health = Health::new(shutdown.lifecycle().clone());
    let told = Systemd::new(manager.notify()).follow(&health).unwrap();
    shutdown.begin();
    assert_eq!(manager.next(), "STOPPING=1\n");
    let extension = manager.next();
    let usec: u64 = extension.strip_prefix("EXTEND_TIMEOUT_USEC=").unwrap().trim().parse().unwrap();
    // Not to the end of the lame duck: at that moment systemd and the next message would race.
    assert!(usec > 2_000_000 && usec <= 8_000_000, "{usec}");
    drop(told);
}

/// Takes all that has come, without waiting.
fn emptied(manager: &Manager) {
    manager.socket.set_nonblocking(true).unwrap();
    while manager.socket.recv(&mut [0; 64]).is_ok() {}
    manager.socket.set_nonblocking(false).unwrap();
}

#[test]
fn what_could_not_be_told_is_told_as_soon_as_it_can_be() {
    let manager = Manager::new();
    let notify = manager.notify();
    while notify.status("others are told a lot").is_ok() {}
    let life = Lifecycle::new();
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = log.clone();
    let told = Systemd::new(notify.clone())
        .observe(move |event: &crate::observe::Event<'_>| {
            sink.lock().unwrap().push(event.kind.as_str());
        })
        .follow(&Health::new(life.clone()))
        .unwrap();
    life.advance(Phase::Ready, None);
    std::thread::park_timeout(Duration::from_millis(800));
    assert_eq!(*log.lock().unwrap(), ["systemd_unsent"], "said once");
    emptied(&manager);
    assert_eq!(manager.next(), "READY=1\n");
    drop(told);
}

#[test]
fn a_watchdog_that_could_not_be_fed_is_fed_before_its_time_is_over() {
    let manager = Manager::new();
    let notify = manager.notify();
    while notify.status("others are told a lot").is_ok() {}
    let interval = Duration::from_secs(6);
    let told = Systemd::new(notify.clone()).watchdog(interval);
    let told = told.follow(&Health::new(Lifecycle::new())).unwrap();
    std::thread::park_timeout(Duration::from_millis(200));
    emptied(&manager);
    let from = Instant::now();
    assert_eq!(manager.next(), "WATCHDOG=1\n");
    assert!(from.elapsed() < interval / 3, "{:?}", from.elapsed());
    drop(told);
}

#[test]
fn a_source_that_panics_stands_still_and_the_stop_is_told_all_the_same() {
    let manager = Manager::new();
    let life = Lifecycle::new();
    let told = Systemd::new(manager.notify())
        .watchdog(Duration::from_millis(100))
        .progress(|| -> u64 { panic!("on purpose") })
        .follow(&Health::new(life.clone()))
        .unwrap();
    manager.nothing_for(Duration::from_millis(200));
    life.advance(Phase::LameDuck, None);
    assert_eq!(manager.next(), "STOPPING=1\n");
    drop(told);
}

#[test]
fn a_condition_that_hangs_does_not_hold_the_end() {
    let manager = Manager::new();
    let health = Health::new(Lifecycle::new());
    let (never, forever) = std::sync::mpsc::channel::<()>();
    let forever = Mutex::new(forever);
    let (asked, heard) = std::sync::mpsc::channel();
    health.live_while("wedged", move || {
        let _ = asked.send(());
        let _ = forever.lock().unwrap().recv_timeout(Duration::from_secs(20));
        true
    });
    let told = Systemd::new(manager.notify()).watchdog(Duration::from_secs(1)).follow(&health);
    heard.recv().unwrap();
    let from = Instant::now();
    drop(told.unwrap());
    assert!(from.elapsed() < Duration::from_secs(10), "{:?}", from.elapsed());
    drop(never);
}

#[test]
fn the_watchdog_is_fed_only_while_work_goes_on_and_the_process_is_live() {
    let manager = Manager::new();
    let health = Health::new(Lifecycle::new());
    let worker = Pulse::new();
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = log.clone();
    let told = Systemd::new(manager.notify())
        .watchdog(Duration::from_millis(100))
        .trigger_when_dead(true)
        .progress(worker.clone())
        .observe(move |event: &crate::observe::Event<'_>| {
            sink.lock().unwrap().push(event.kind.as_str())
        })
        .follow(&health)
        .unwrap();
    assert_eq!(manager.next(), "WATCHDOG=1\n"); // there was nothing to compare with
    manager.nothing_for(Duration::from_millis(300)); // six times the feeding interval
    for _ in 0..3 {
        worker.ping();
        assert_eq!(manager.next(), "WATCHDOG=1\n");
    }
    let gate = health.live("main");
    gate.fail("stuck");
    worker.ping();
    assert_eq!(manager.next(), "WATCHDOG=trigger\n");
    worker.ping();
    manager.nothing_for(Duration::from_millis(300));
    gate.ok();
    worker.ping();
    assert_eq!(manager.next(), "WATCHDOG=1\n");
    drop(told);
    assert_eq!(*log.lock().unwrap(), ["systemd_withheld"; 2]);
}

/// Not a test of its own: what the tests below run as another process.
#[test]
fn child() {
    match std::env::var("BUTTRESS_SYSTEMD_CHILD").as_deref() {
        Ok("notify") => {
            let systemd = Systemd::from_env().unwrap().unwrap();
            let health = Health::new(Lifecycle::new());
            health.lifecycle().advance(Phase::Ready, None);
            let told = systemd.follow(&health).unwrap();
            std::thread::park_timeout(Duration::from_millis(300));
            drop(told);
        }
        Ok("sockets") => {
            let mut sockets = Sockets::from_env();
            assert_eq!(sockets.names(), ["http", "admin"]);
            let listener = sockets.take_tcp("http").unwrap().unwrap();
            assert!(sockets.take_tcp("http").unwrap().is_none(), "taken");
            assert!(sockets.take_tcp("admin").is_err(), "that one is a datagram socket");
            assert!(sockets.take_tcp("other").unwrap().is_none());
            assert!(Sockets::from_env().names().is_empty(), "handed over once");
            answer(&listener);
        }
        Ok("sockets of one name") => {
            let mut sockets = Sockets::from_env();
            assert!(is_closed_on_exec(3) && is_closed_on_exec(4), "none has been taken yet");
            let listener = sockets.take_tcp("app.socket").unwrap().unwrap();
            assert!(sockets.take_tcp("app.socket").is_err(), "a datagram socket is left");
            answer(&listener);
        }
        _ => {}
    }
}

/// Whether a child of this one would not get it.
fn is_closed_on_exec(fd: u32) -> bool {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    u32::from_str_radix(flags.trim(), 8).unwrap() & 0o2_000_000 != 0
}

fn answer(listener: &std::net::TcpListener) {
    listener.set_nonblocking(false).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    std::io::Write::write_all(&mut stream, b"from the child").unwrap();
}

fn child_command(program: &str, what: &str) -> Command {
    let mut command = Command::new(program);
    command.env("BUTTRESS_SYSTEMD_CHILD", what).stdout(Stdio::null());
    command
}

const CHILD: &str = "supervise::systemd::tests::child";

#[test]
fn a_process_finds_its_manager_in_the_environment() {
    let manager = Manager::new();
    let this = std::env::current_exe().unwrap();
    let mut command = child_command(this.to_str().unwrap(), "notify");
    command.args(["--exact", CHILD]);
    command.env("NOTIFY_SOCKET", &manager.address).env("WATCHDOG_USEC", "100000");
    let mut child = command.spawn().unwrap();
    assert_eq!(manager.next(), "READY=1\n");
    assert_eq!(manager.next(), "WATCHDOG=1\n");
    assert_eq!(manager.next(), "WATCHDOG=1\n");
    assert!(child.wait().unwrap().success());
}

/// Starts the child with a TCP listener, to which somebody is connected already, and a datagram socket.
fn hands_over(what: &str, order: &str, names: &str) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // Connected before the process exists: that is the use of it.
    let mut client = std::net::TcpStream::connect(addr).unwrap();
    let other = UnixDatagram::unbound().unwrap();
    let this = std::env::current_exe().unwrap();
    // The shell moves what is 0 and 1 to 3 and 4 and stays the same process.
    let script =
        format!(r#"exec {order} 0</dev/null 1>/dev/null; LISTEN_PID=$$ exec "$0" --exact "$1""#);
    let mut command = child_command("sh", what);
    command.args(["-c", &script]).arg(this).arg(CHILD);
    command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", names);
    command.stdin(OwnedFd::from(listener)).stdout(OwnedFd::from(other));
    let mut child = command.spawn().unwrap();
    drop(command); // the only listener left is the child's
    let mut text = String::new();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    std::io::Read::read_to_string(&mut client, &mut text).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(text, "from the child");
}

#[test]
fn a_process_takes_the_sockets_that_were_opened_for_it() {
    hands_over("sockets", "3<&0 4<&1", "http:admin");
}

#[test]
fn a_listener_is_found_among_other_sockets_of_its_name() {
    hands_over("sockets of one name", "3<&1 4<&0", "app.socket:app.socket");
}
