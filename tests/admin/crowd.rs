//! A thousand who look and never go.

use std::net::TcpStream;
use std::time::Duration;

use buttress::circuit_breaker::CircuitBreaker;

use super::*;

/// The memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn raise_descriptors(wanted: u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(limit.maximum.map_or(wanted, |most| most.min(wanted)));
        setrlimit(Resource::Nofile, limit).unwrap();
    }
    let now = getrlimit(Resource::Nofile).current;
    assert!(
        now.is_none_or(|now| now >= wanted),
        "the test needs {wanted} descriptors, there are {now:?}"
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_thousand_idle_viewers_cost_little_and_the_next_is_refused() {
    raise_descriptors(3000);
    let registry = Registry::new();
    let admin = Admin::builder(&registry).interval(Duration::from_millis(500)).build().unwrap();
    let page = admin.listen("127.0.0.1:0").unwrap();
    let at = page.addr();
    let before = resident();
    let look = || {
        let (status, head, reader) =
            send(at, &format!("GET /events HTTP/1.1\r\nHost: {at}\r\n\r\n"));
        (status, head, reader.into_inner())
    };
    let mut crowd: Vec<TcpStream> = Vec::new();
    for n in 0..1000 {
        let (status, _, stream) = look();
        assert_eq!(status, 200, "viewer {n}");
        crowd.push(stream);
    }
    let (status, head, _) = look();
    assert_eq!(status, 503);
    assert!(head.contains("retry-after: 10"), "{head}");
    // Many objects, so that a status is long: kept for each viewer, it would show. Only now: who is sent more than
    // the connection holds, and takes none of it, loses the seat, and on a busy machine the first would before
    // the last has come.
    let breakers: Vec<_> = (0..1000)
        .map(|n| {
            let breaker = CircuitBreaker::builder(format!("backend-{n}"));
            breaker.register_in(&registry).build().unwrap()
        })
        .collect();
    let (_, _, body) = get(at, "/status.json", "");
    assert!(body.len() > 1 << 20, "{} bytes", body.len());
    println!("a status has {} bytes", body.len());
    // They read nothing while statuses are made.
    let mut grown = 0;
    for _ in 0..10 {
        std::thread::park_timeout(Duration::from_millis(500));
        grown = grown.max(resident().saturating_sub(before));
        breakers.iter().for_each(|breaker| drop(breaker.try_acquire()));
        assert_eq!(get(at, "/metrics", "").0, 200, "others are answered");
    }
    println!("{} KiB for each viewer", grown / 1000 / 1024);
    assert!(grown < MOST, "{grown} bytes");
    // Who goes makes room.
    crowd.truncate(990);
    for _ in 0..200 {
        if let (200, ..) = look() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    panic!("nobody has left");
}

/// For all of them. What a connection needs, and for those who read nothing what the server has begun to write.
const MOST: u64 = 300 << 20;
