//! The same over HTTP/2, with a client that speaks nothing else: the answers, the stream of events, the orders.

#![expect(clippy::disallowed_methods, reason = "a connection is driven by a task")]

use buttress::circuit_breaker::{CircuitBreaker, CircuitState};
use h2::client::{self, SendRequest};
use h2::{Reason, RecvStream};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Duration, PATIENCE, Registry, SocketAddr, TOKEN, Value, json};
use buttress::admin::{Admin, AdminListener};

/// A connection; its driver runs until the last handle is gone.
async fn connect(at: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(at).await.unwrap();
    let (handle, connection) = client::handshake(stream).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    handle.ready().await.unwrap()
}

async fn send(
    handle: &SendRequest<Bytes>,
    request: Request<()>,
    body: &str,
) -> Response<RecvStream> {
    let mut handle = handle.clone().ready().await.unwrap();
    let (answer, mut stream) = handle.send_request(request, body.is_empty()).unwrap();
    if !body.is_empty() {
        stream.send_data(Bytes::copy_from_slice(body.as_bytes()), true).unwrap();
    }
    timeout(PATIENCE, answer).await.unwrap().unwrap()
}

async fn more(body: &mut RecvStream) -> Option<String> {
    let data = timeout(PATIENCE, body.data()).await.unwrap()?.unwrap();
    body.flow_control().release_capacity(data.len()).unwrap();
    Some(String::from_utf8(data.to_vec()).unwrap())
}

async fn text(answer: Response<RecvStream>) -> (StatusCode, HeaderMap, String) {
    let (head, mut body) = answer.into_parts();
    let mut text = String::new();
    while let Some(part) = more(&mut body).await {
        text.push_str(&part);
    }
    (head.status, head.headers, text)
}

async fn get(
    handle: &SendRequest<Bytes>,
    at: SocketAddr,
    path: &str,
) -> (StatusCode, HeaderMap, String) {
    let request = Request::get(format!("http://{at}{path}")).body(()).unwrap();
    text(send(handle, request, "").await).await
}

fn post(at: SocketAddr) -> hyper::http::request::Builder {
    Request::post(format!("http://{at}/commands"))
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {TOKEN}"))
}

fn served() -> (Registry, CircuitBreaker, AdminListener) {
    let registry = Registry::new();
    let breaker = CircuitBreaker::builder("payments").register_in(&registry).build().unwrap();
    let admin = Admin::builder(&registry)
        .token(TOKEN)
        .interval(Duration::from_millis(100))
        .build()
        .unwrap();
    let listener = admin.listen("127.0.0.1:0").unwrap();
    (registry, breaker, listener)
}

/// Reads on until the stream has said this.
async fn until(body: &mut RecvStream, heard: &mut String, wanted: &str) {
    while !heard.contains(wanted) {
        heard.push_str(&more(body).await.unwrap_or_else(|| panic!("ended after {heard}")));
    }
}

#[tokio::test]
async fn one_connection_reads_watches_and_commands_at_once() {
    let (_registry, breaker, listener) = served();
    let at = listener.addr();
    let handle = connect(at).await;
    let (status, head, page) = get(&handle, at, "/").await;
    assert_eq!(status, 200);
    assert!(page.starts_with("<!doctype html>") && head["cache-control"] == "no-store");
    let (_, _, body) = get(&handle, at, "/metrics").await;
    assert!(body.contains("buttress_object_level{layer=\"circuit_breaker\""), "{body}");
    assert_eq!(get(&handle, at, "/etc/passwd").await.0, 404);

    let watch = Request::get(format!("http://{at}/events")).body(()).unwrap();
    let events = send(&handle, watch, "").await;
    assert_eq!(events.status(), 200);
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let (mut events, mut heard) = (events.into_body(), String::new());
    until(&mut events, &mut heard, "\"state\":\"closed\"").await;

    // While it goes on, on the same connection.
    let order = json!({"command": "force_open", "target": "circuit_breaker/payments"}).to_string();
    let (status, _, body) = text(send(&handle, post(at).body(()).unwrap(), &order).await).await;
    assert_eq!((status, body.contains("error")), (StatusCode::OK, false), "{body}");
    assert_eq!(breaker.state(), CircuitState::ForcedOpen);
    until(&mut events, &mut heard, "\"state\":\"forced_open\"").await;
    until(&mut events, &mut heard, "event: event").await;
    let viewers = async || {
        let (_, _, body) = get(&handle, at, "/status.json").await;
        serde_json::from_str::<Value>(&body).unwrap()["admin"]["viewers"].as_u64().unwrap()
    };
    assert_eq!(viewers().await, 1);
    // The stream is reset, the connection stays: nobody watches any more.
    drop(events);
    let begun = tokio::time::Instant::now();
    while viewers().await > 0 {
        assert!(begun.elapsed() < PATIENCE, "the viewer has gone");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn who_may_not_command_cannot_over_this_either() {
    let (_registry, breaker, listener) = served();
    let at = listener.addr();
    let handle = connect(at).await;
    let order = json!({"command": "force_open", "target": "circuit_breaker/payments"}).to_string();
    let ask = async |request: Request<()>| send(&handle, request, &order).await.status().as_u16();
    let bare = || Request::post(format!("http://{at}/commands"));
    let json = || bare().header("content-type", "application/json");
    assert_eq!(ask(json().body(()).unwrap()).await, 401);
    let wrong = json().header("authorization", "Bearer u4zQ0nPBJx5m2yGj");
    assert_eq!(ask(wrong.body(()).unwrap()).await, 401);
    let plain = bare().header("authorization", format!("Bearer {TOKEN}"));
    assert_eq!(ask(plain.body(()).unwrap()).await, 415);
    assert_eq!(ask(post(at).header("origin", "http://evil.example").body(()).unwrap()).await, 403);
    assert_eq!(ask(post(at).header("sec-fetch-site", "cross-site").body(()).unwrap()).await, 403);
    // A name of theirs that resolves to this address, and one beside a host that is ours.
    let theirs =
        || Request::post("http://evil.example/commands").header("content-type", "application/json");
    let theirs = || theirs().header("authorization", format!("Bearer {TOKEN}"));
    assert_eq!(ask(theirs().body(()).unwrap()).await, 421);
    assert_eq!(ask(theirs().header("host", at.to_string()).body(()).unwrap()).await, 421);
    assert_eq!(ask(post(at).header("host", "evil.example").body(()).unwrap()).await, 421);
    assert_eq!(breaker.state(), CircuitState::Closed);
    assert_eq!(ask(post(at).header("origin", format!("http://{at}")).body(()).unwrap()).await, 200);
    assert_eq!(breaker.state(), CircuitState::ForcedOpen);
}

#[tokio::test]
async fn giant_and_broken_off_bodies_end_their_stream_and_no_other() {
    let (_registry, _breaker, listener) = served();
    let at = listener.addr();
    let handle = connect(at).await;
    assert_eq!(send(&handle, post(at).body(()).unwrap(), "{").await.status(), 400);
    // Longer than is taken, in pieces.
    let mut ready = handle.clone().ready().await.unwrap();
    let (answer, mut stream) = ready.send_request(post(at).body(()).unwrap(), false).unwrap();
    for _ in 0..20 {
        let _ = stream.send_data(Bytes::from(vec![b' '; 8 << 10]), false);
    }
    assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().status(), 413);
    // One that is broken off in the middle.
    let mut ready = handle.clone().ready().await.unwrap();
    let (answer, mut stream) = ready.send_request(post(at).body(()).unwrap(), false).unwrap();
    stream.send_data(Bytes::from_static(b"{\"command\":"), false).unwrap();
    stream.send_reset(Reason::CANCEL);
    assert!(timeout(PATIENCE, answer).await.unwrap().is_err());
    assert_eq!(get(&handle, at, "/status.json").await.0, 200);
}
