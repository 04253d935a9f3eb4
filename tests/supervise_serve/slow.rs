//! Clients that do not go on, and very many that do.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::clients::ask;
use super::program::raise_descriptors;
use super::server::{Ended, Server};
use super::{alone, connect, get, ms};

/// Each of these holds a connection, if it is let.
const STUCK: [(&str, &[u8]); 5] = [
    ("half a head", b"GET /work HTTP/1.1\r\nhost:"),
    ("half a preface", b"PRI * HTTP/2.0\r\n"),
    ("half a body", b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n0123456789"),
    ("a reader that stops", b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n"),
    ("a request that takes long", b"GET /work?ms=60000 HTTP/1.1\r\nhost: x\r\n\r\n"),
];

async fn stuck(options: &str, sent: &[u8]) -> Ended {
    let mut server = Server::start(options);
    let mut stream = connect(server.address).await;
    stream.write_all(sent).await.unwrap();
    // It has been read, not only accepted.
    tokio::time::sleep(ms(50)).await;
    get(server.address, "/work").await;
    // That connection must be over for the server, too, or it is counted as one that the drain has closed.
    tokio::time::sleep(ms(250)).await;
    server.terminate();
    let ended = server.ended(ms(3_000)).await;
    drop(stream);
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_holds_the_exit_past_the_deadline() {
    let _alone = alone().await;
    for (what, sent) in STUCK {
        let ended = stuck("drain=1000", sent).await;
        assert_eq!(ended.code, Some(0), "{what}: {ended:?}");
        assert!(ended.after >= ms(900), "{what} was not given its time: {ended:?}");
        assert!(ended.after < ms(1_500), "{what}: {ended:?}");
        assert!(ended.report.contains("0 connections closed, 1 aborted"), "{what}: {ended:?}");
        let request = u8::from(!what.starts_with("half a head") && !what.starts_with("half a pre"));
        assert!(ended.report.contains(&format!(" {request} aborted; ")), "{what}: {ended:?}");
    }
    // The control: without a deadline they hold it.
    for (what, sent) in STUCK {
        let ended = stuck("server=axum", sent).await;
        // Its connection cancels a preface that is being read, which is well here and loses requests else.
        let held = ended.code.is_none();
        assert_eq!(held, what != "half a preface", "{what}, axum: {ended:?}");
    }
}

#[tokio::test]
async fn handlers_of_axum_see_the_peer() {
    let _alone = alone().await;
    let server = Server::start("");
    let mut stream = connect(server.address).await;
    let request = b"GET /peer HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let peer = stream.local_addr().unwrap().to_string();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with(&peer), "{answer}");
}

#[tokio::test]
async fn a_silent_connection_has_its_grace_and_no_more() {
    let _alone = alone().await;
    let mut server = Server::start("grace=300");
    let mut silent = connect(server.address).await;
    let mut served = connect(server.address).await;
    assert!(ask(&mut served, b"GET /work HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap());
    server.terminate();
    // One that is quick enough is served yet.
    tokio::time::sleep(ms(100)).await;
    let reusable = ask(&mut served, b"GET /work HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(!reusable, "it has to say that it ends");
    let ended = server.ended(ms(5_000)).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.after >= ms(250) && ended.after < ms(1_000), "{ended:?}");
    assert!(ended.report.contains("1 requests answered"), "{ended:?}");
    assert!(ended.report.contains("2 connections closed, 0 aborted"), "{ended:?}");
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "closed, not reset");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_in_flight_are_answered() {
    let _alone = alone().await;
    const COUNT: usize = 10_000;
    raise_descriptors();
    let mut server = Server::start("drain=60000");
    let address = server.address;
    let mut tasks = JoinSet::new();
    for number in 0..COUNT {
        tasks.spawn(async move {
            let mut stream = connect(address).await;
            // All of them are there before the first one ends.
            let time = 20_000 - number;
            let request = format!("GET /work?ms={time} HTTP/1.1\r\nhost: x\r\n\r\n");
            ask(&mut stream, request.as_bytes()).await.is_ok()
        });
        if number % 256 == 255 {
            // No more at once than the queue of the kernel holds.
            tokio::task::yield_now().await;
        }
    }
    let begin = Instant::now();
    while !get(address, "/count").await.ends_with(&format!("\r\n{COUNT}")) {
        assert!(begin.elapsed() < ms(10_000), "{}", get(address, "/count").await);
        tokio::time::sleep(ms(20)).await;
    }
    server.terminate();
    let answered = tasks.join_all().await.into_iter().filter(|answered| *answered).count();
    let ended = server.ended(ms(60_000)).await;
    assert_eq!(answered, COUNT, "{ended:?}");
    assert!(ended.report.contains("10000 requests answered, 0 broken, 0 aborted"), "{ended:?}");
}
