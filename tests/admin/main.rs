//! The admin service over real sockets: alone, and mounted in axum.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use buttress::admin::{Admin, AdminListener};
use buttress::control::Registry;
use serde_json::{Value, json};

mod crowd;
#[cfg(unix)]
mod everything;
#[path = "../../src/admin/grammar.rs"]
mod grammar;
mod http2;
mod installs;
#[cfg(unix)]
mod kinds;
mod mounted;

const TOKEN: &str = "u4zQ0nPBJx5m2yGk";
const PATIENCE: Duration = Duration::from_secs(30);

fn alone() -> (Registry, AdminListener) {
    let registry = Registry::new();
    registry.conditioner("backend");
    let admin = Admin::builder(&registry)
        .token(TOKEN)
        .body_timeout(Duration::from_millis(300))
        .config(|| json!({"db": {"password": "hunter2", "pool": 8}}))
        .build()
        .unwrap();
    (registry, admin.listen("127.0.0.1:0").unwrap())
}

/// Sends bytes and reads the head of the answer; the rest is the body.
fn send(at: SocketAddr, request: &str) -> (u16, String, BufReader<TcpStream>) {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "ended after {head:?}");
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), reader)
}

fn get(at: SocketAddr, path: &str, more: &str) -> (u16, String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{more}\r\n");
    let (status, head, mut reader) = send(at, &request);
    let mut body = String::new();
    reader.read_to_string(&mut body).unwrap();
    (status, head, body)
}

fn post(at: SocketAddr, path: &str, headers: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n{headers}\r\n{body}"
    );
    let (status, _, mut reader) = send(at, &request);
    let mut body = String::new();
    reader.read_to_string(&mut body).unwrap();
    (status, body)
}

fn token() -> String {
    format!("Authorization: Bearer {TOKEN}\r\n")
}

/// Reads events until one is of this kind; its lines.
fn until(reader: &mut impl BufRead, kind: &str) -> String {
    let mut event = String::new();
    loop {
        let before = event.len();
        assert_ne!(reader.read_line(&mut event).unwrap(), 0, "the stream has ended");
        // Sizes of chunks are lines of their own, and none of ours.
        if event[before..].trim().is_empty() {
            if event.contains(&format!("event: {kind}\n")) {
                return event;
            }
            event.clear();
        }
    }
}

#[test]
fn alone_it_answers_everything() {
    let (registry, page) = alone();
    let at = page.addr();
    let (status, head, body) = get(at, "/", "");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/html") && body.starts_with("<!doctype html>"));
    let (status, _, body) = get(at, "/status.json", "");
    assert_eq!(status, 200);
    let document: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(document["admin"]["commands"], true);
    let (status, _, body) = get(at, "/config", "");
    assert_eq!((status, body.as_str()), (200, r#"{"db":{"password":"(hidden)","pool":8}}"#));
    let (_, head, body) = get(at, "/metrics", "");
    assert!(
        head.contains("text/plain; version=0.0.4") && body.contains("\nbuttress_info{"),
        "{body}"
    );
    let (_, head, body) =
        get(at, "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n");
    assert!(head.contains("application/openmetrics-text") && body.ends_with("# EOF\n"));

    let command = json!({"command": "install_network_conditioner", "latency_ms": 5}).to_string();
    let (status, body) = post(at, "/commands", &token(), &command);
    assert_eq!(status, 200, "{body}");
    assert!(registry.conditioner("backend").get().is_some());
}

#[test]
fn other_sites_cannot_read_or_change() {
    let (registry, page) = alone();
    let at = page.addr();
    let command = json!({"command": "install_network_conditioner", "latency_ms": 5}).to_string();
    for more in [
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
    ] {
        let (status, body) = post(at, "/commands", &(token() + more), &command);
        assert_eq!(status, 403, "{more} {body}");
    }
    for wrong in [
        "",
        "Authorization: Bearer u4zQ0nPBJx5m2yGj\r\n",
        "Authorization: Basic u4zQ0nPBJx5m2yGk\r\n",
    ] {
        assert_eq!(post(at, "/commands", wrong, &command).0, 401, "{wrong}");
    }
    // A name of theirs that resolves to this address.
    let rebound = format!("GET /status.json HTTP/1.1\r\nHost: evil.example:{}\r\n\r\n", at.port());
    assert_eq!(send(at, &rebound).0, 421);
    assert!(registry.conditioner("backend").get().is_none());
    let own = format!("{}Origin: http://{at}\r\nSec-Fetch-Site: same-origin\r\n", token());
    assert_eq!(post(at, "/commands", &own, &command).0, 200);
}

#[test]
fn bodies_are_short_and_in_time() {
    let (_registry, page) = alone();
    let at = page.addr();
    let head = |more: &str| {
        format!(
            "POST /commands HTTP/1.1\r\nHost: {at}\r\nContent-Type: application/json\r\n{}{more}\r\n",
            token()
        )
    };
    // Announced, and never sent.
    assert_eq!(send(at, &head("Content-Length: 1000000000000\r\n")).0, 413);
    // Not announced.
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    assert_eq!(send(at, &(head("Transfer-Encoding: chunked\r\n") + &chunk + "1\r\n \r\n")).0, 413);
    // Half of it.
    assert_eq!(send(at, &(head("Content-Length: 100\r\n") + "{")).0, 408);
    for malformed in ["", "{", "\u{0}", "[[[[", "{\"command\": 7}}"] {
        assert_eq!(post(at, "/commands", &token(), malformed).0, 400, "{malformed:?}");
    }
    assert_eq!(post(at, "/commands", &token(), &"[".repeat(60_000)).0, 400);
    // And it is well.
    assert_eq!(get(at, "/status.json", "").0, 200);
}

#[test]
fn no_path_leads_anywhere_else() {
    let (_registry, page) = alone();
    let at = page.addr();
    for path in [
        "/../../../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/./status.json",
        "/page.html",
        "/status.json%00",
        "/commands/..",
        "/.%2e/status.json",
        "/..;/status.json",
        "/status.json/../config",
    ] {
        assert_eq!(get(at, path, "").0, 404, "{path}");
    }
    let absolute = format!("GET http://{at}/status.json HTTP/1.1\r\nHost: {at}\r\n\r\n");
    assert_eq!(send(at, &absolute).0, 200);
    let nonsense = send(at, "GET \u{1}/ HTTP/9\r\n\r\n").0;
    assert_eq!(nonsense, 400);
}

/// A real breaker, seen through all of it: its row, its history, its events, a command, its metrics.
#[test]
fn a_breaker_is_seen_and_forced_open() {
    use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
    let registry = Registry::global();
    let breaker = CircuitBreaker::new("payments");
    let admin = Admin::builder(&registry)
        .token(TOKEN)
        .interval(Duration::from_millis(100))
        .build()
        .unwrap();
    let page = admin.listen("127.0.0.1:0").unwrap();
    let at = page.addr();
    let events =
        |more: &str| send(at, &format!("GET /events HTTP/1.1\r\nHost: {at}\r\n{more}\r\n"));
    let (_, _, mut reader) = events("");
    assert!(until(&mut reader, "status").contains("\"id\":\"circuit_breaker/payments\""));
    let order = json!({"command": "force_open", "target": "circuit_breaker/payments"}).to_string();
    let (status, body) = post(at, "/commands", &token(), &order);
    assert_eq!(status, 200, "{body}");
    assert!(!body.contains("error"), "{body}");
    assert_eq!(breaker.state(), CircuitState::ForcedOpen);
    let event = until(&mut reader, "event");
    let id = event.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    assert!(event.contains("payments"), "{event}");

    // Who comes back with that id has it, who comes back with another has not.
    let ids = |more: &str| {
        let (_, _, mut reader) = events(more);
        let (mut text, mut statuses) = (String::new(), 0);
        while statuses < 3 {
            let before = text.len();
            assert_ne!(reader.read_line(&mut text).unwrap(), 0);
            statuses += usize::from(&text[before..] == "event: status\n");
        }
        text.contains(&format!("id: {id}\n"))
    };
    assert!(!ids(&format!("Last-Event-ID: {id}\r\n")));
    assert!(ids("Last-Event-ID: 1-1:1\r\n"));
    assert!(ids(""));

    let (_, _, body) = get(at, "/status.json", "");
    let document: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(document["objects"][0]["state"], "forced_open", "{body}");
    assert_eq!(document["objects"][0]["spark"]["ok"].as_array().unwrap().len(), 60);
    assert_eq!(document["instance"], id.rsplit_once(':').unwrap().0);
    let (_, _, body) = get(at, "/metrics", "");
    let of = "{layer=\"circuit_breaker\",name=\"payments\",object=\"circuit_breaker/payments\",state=\"forced_open\"} 1";
    assert!(body.contains(&format!("buttress_object_state{of}")), "{body}");
}

#[test]
fn viewers_of_an_earlier_process_go_on_with_this_one() {
    let (_registry, page) = alone();
    let at = page.addr();
    let events = |id: &str| {
        send(at, &format!("GET /events HTTP/1.1\r\nHost: {at}\r\nLast-Event-ID: {id}\r\n\r\n"))
    };
    let (status, head, mut reader) = events("1-1:99");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/event-stream"));
    let first = until(&mut reader, "status");
    let second = until(&mut reader, "status");
    assert_ne!(first, second, "time goes on");
    // The process ends, and there is another at the same address.
    drop(page);
    let mut rest = String::new();
    let _ = reader.read_to_string(&mut rest);
    let admin = Admin::builder(&Registry::new()).build().unwrap();
    let page = admin.listen(at).unwrap();
    let (status, _, mut reader) = events("1-1:99");
    assert_eq!(status, 200);
    until(&mut reader, "status");
    drop(page);
}
