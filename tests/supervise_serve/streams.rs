//! Long answers, other protocols, HTTP/2.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::clients::{Balancer, Counts, balance};
use super::server::Server;
use super::{alone, connect, ms};

/// Reads until `end` has come.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(end) {
        let more = tokio::time::timeout(ms(5_000), stream.read_buf(&mut read)).await;
        assert!(more.unwrap().unwrap() > 0, "no `{end}`: {}", String::from_utf8_lossy(&read));
    }
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test]
async fn event_streams_are_told_and_then_cut() {
    let _alone = alone().await;
    for (polite, report) in [
        (true, "1 requests answered, 0 broken, 0 aborted; 1 connections closed, 0 aborted"),
        (false, "0 requests answered, 0 broken, 1 aborted; 0 connections closed, 1 aborted"),
    ] {
        let mut server = Server::start("drain=1000 grace=200");
        let mut stream = connect(server.address).await;
        let request = format!(
            "GET /events?polite={polite} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        until(&mut stream, "data: hello").await;
        server.terminate();
        let mut rest = until(&mut stream, "data: bye").await.into_bytes();
        let _ = stream.read_to_end(&mut rest).await;
        let whole = rest.ends_with(b"0\r\n\r\n");
        let ended = server.ended(ms(5_000)).await;
        assert_eq!((whole, ended.code), (polite, Some(0)), "{ended:?}");
        assert!(ended.report.contains(report), "{ended:?}");
        assert_eq!(ended.after < ms(850), polite, "{ended:?}");
    }
}

#[tokio::test]
async fn upgraded_connections_are_told_and_then_cut() {
    let _alone = alone().await;
    for (polite, report) in [
        (true, "1 connections closed, 0 aborted (0 upgraded)"),
        (false, "0 connections closed, 1 aborted (1 upgraded)"),
    ] {
        let mut server = Server::start("drain=1000");
        let mut stream = connect(server.address).await;
        let request = format!(
            "GET /chat?polite={polite} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n\
             upgrade: chat\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = until(&mut stream, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        stream.write_all(b"ping").await.unwrap();
        until(&mut stream, "ping").await;
        server.terminate();
        until(&mut stream, "bye").await;
        if !polite {
            // Still served: that it is told does not end it.
            stream.write_all(b"more").await.unwrap();
            until(&mut stream, "more").await;
        }
        let rest = tokio::time::timeout(ms(3_000), stream.read(&mut [0])).await;
        assert!(matches!(rest, Ok(Ok(0) | Err(_))), "{rest:?}");
        let ended = server.ended(ms(5_000)).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.report.contains(report), "{ended:?}");
        assert_eq!(ended.after < ms(850), polite, "{ended:?}");
    }
}

/// The next frame: its type, flags, stream and payload.
async fn frame(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.ok()?;
    let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], head[4], number, payload))
}

/// `GET /work` on stream `number`.
fn headers(number: u8) -> Vec<u8> {
    let block = [&[0x82, 0x86, 0x04, 5], b"/work".as_slice()].concat();
    let length = u8::try_from(block.len()).unwrap();
    [&[0, 0, length, 1, 0x5, 0, 0, 0, number], block.as_slice()].concat()
}

#[tokio::test]
async fn an_http2_client_sees_goaway_while_it_is_served_yet() {
    let _alone = alone().await;
    let mut server = Server::start("lame=1500");
    let mut stream = connect(server.address).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    stream.write_all(&headers(1)).await.unwrap();
    // Its answer: a frame of data that ends stream 1.
    while !matches!(frame(&mut stream).await.unwrap(), (0, 1, 1, _)) {}
    server.terminate();
    let (mut goaways, mut answered, mut ping) = (Vec::new(), false, None);
    while let Some((kind, flags, number, payload)) = frame(&mut stream).await {
        match kind {
            7 => {
                goaways.push(u32::from_be_bytes(payload[..4].try_into().unwrap()));
                if goaways.len() == 1 {
                    // Before the client knows: served yet.
                    stream.write_all(&headers(3)).await.unwrap();
                }
            }
            // Answered only when the last answer has come, as by a client far away.
            6 if flags == 0 => ping = Some(payload),
            0 if number == 3 && flags == 1 => {
                answered = true;
                let ping = ping.take().expect("a ping asks whether the client knows");
                let ack = [&[0, 0, 8, 6, 1, 0, 0, 0, 0], ping.as_slice()].concat();
                stream.write_all(&ack).await.unwrap();
            }
            _ => {}
        }
    }
    assert!(answered);
    assert_eq!(goaways, [(1 << 31) - 1, 3]);
    // In the lame duck, long before the drain.
    let ended = server.ended(ms(5_000)).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.report.contains("0 connections closed, 0 aborted"), "{ended:?}");
}

type Sender = http2::SendRequest<Empty<Bytes>>;

async fn connect2(address: SocketAddr, tasks: &mut JoinSet<()>) -> Option<Sender> {
    let stream = TcpStream::connect(address).await.ok()?;
    let io = TokioIo::new(stream);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.ok()?;
    tasks.spawn(async move {
        let _ = connection.await;
    });
    Some(sender)
}

/// Eight requests at a time on one connection; a new one when it ends, while the load balancer lets it.
async fn client2(address: SocketAddr, balancer: Arc<Balancer>, counts: Arc<Counts>) {
    let mut connections = JoinSet::new();
    while balancer.up.load(Ordering::SeqCst) {
        let Some(sender) = connect2(address, &mut connections).await else {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(ms(3)).await;
            continue;
        };
        let over = Arc::new(AtomicBool::new(false));
        let mut streams = JoinSet::new();
        for _ in 0..8 {
            let (mut sender, over) = (sender.clone(), Arc::clone(&over));
            let counts = Arc::clone(&counts);
            streams.spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let ready = sender.ready().await.is_ok();
                    if !ready || !once(&mut sender, &counts).await {
                        over.store(true, Ordering::SeqCst);
                    }
                    tokio::time::sleep(ms(3)).await;
                }
            });
        }
        drop(sender);
        streams.join_all().await;
    }
}

fn was_told(error: &hyper::Error) -> bool {
    let error = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    error.is_some_and(|e| {
        e.is_go_away() && e.is_remote() && e.reason() == Some(h2::Reason::NO_ERROR)
    })
}

/// Whether the connection is good for another.
async fn once(sender: &mut Sender, counts: &Counts) -> bool {
    let request = http::Request::get("http://x/work").body(Empty::new()).unwrap();
    let count = |counter: &AtomicU64| {
        counter.fetch_add(1, Ordering::Relaxed);
    };
    let response = match sender.try_send_request(request).await {
        Ok(response) => response,
        Err(mut error) => {
            // Given back: never sent. Or the server has said that it did not look at it, which the client
            // knows and can repeat (RFC 9113, 6.8): that it did not is checked with what it has begun.
            let unseen = error.take_message().is_some() || was_told(error.error());
            count(if unseen { &counts.closed } else { &counts.lost });
            if !unseen {
                println!("lost: {:?}", error.error());
            }
            return false;
        }
    };
    assert!(response.status().is_success() && !response.headers().contains_key("connection"));
    let body = response.into_body().collect().await.map(|body| body.to_bytes());
    let whole = body.as_ref().is_ok_and(|body| body == "done");
    if !whole {
        println!("not whole: {body:?}");
    }
    count(if whole { &counts.answered } else { &counts.lost });
    true
}

/// On one thread: on several, hyper's client may fail a request with a GOAWAY that came just after it was sent,
/// and that covers it.
#[tokio::test]
async fn http2_clients_lose_nothing() {
    let _alone = alone().await;
    let runs = std::env::var("BUTTRESS_DRAIN_RUNS").map_or(4, |n| n.parse().unwrap());
    for lame in [700, 0] {
        let total = Counts::default();
        for run in 0..runs {
            let mut server = Server::start(&format!("lame={lame}"));
            let up = Balancer { up: AtomicBool::new(true), stop: AtomicBool::new(false) };
            let (balancer, counts) = (Arc::new(up), Arc::<Counts>::default());
            let mut tasks = JoinSet::new();
            tasks.spawn(balance(server.address, Arc::clone(&balancer)));
            for _ in 0..32 {
                let (balancer, counts) = (Arc::clone(&balancer), Arc::clone(&counts));
                tasks.spawn(client2(server.address, balancer, counts));
            }
            while counts.answered.load(Ordering::Relaxed) < 3_000 + run * 37 {
                tokio::time::sleep(ms(1)).await;
            }
            server.terminate();
            let ended = server.ended(ms(10_000)).await;
            assert_eq!(ended.code, Some(0), "{ended:?}");
            tasks.join_all().await;
            let answered = counts.answered.load(Ordering::Relaxed);
            assert!(ended.report.ends_with(&format!("; {answered} begun")), "{counts:?} {ended:?}");
            for (sum, count) in [
                (&total.answered, &counts.answered),
                (&total.lost, &counts.lost),
                (&total.refused, &counts.refused),
                (&total.closed, &counts.closed),
            ] {
                sum.fetch_add(count.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        println!("HTTP/2, lame duck of {lame} ms, {runs} runs: {total:?}");
        assert_eq!(total.lost.load(Ordering::Relaxed), 0, "{total:?}");
        assert!(lame == 0 || total.refused.load(Ordering::Relaxed) == 0, "{total:?}");
    }
}
