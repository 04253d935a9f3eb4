//! Each part of the drain left out: something is lost, or hangs. With the part, the same steps lose nothing.

use std::sync::atomic::Ordering;

use tokio::io::AsyncWriteExt;

use super::clients::{Habit, Load, ask};
use super::server::Server;
use super::{alone, connect, get, ms};

const WORK: &[u8] = b"GET /work HTTP/1.1\r\nhost: x\r\n\r\n";

/// The one thread of the server is blocked while `during` runs and the drain begins, so that the kernel has
/// what the runtime does not know of yet: what is otherwise a matter of microseconds.
async fn blocked<T>(server: &mut Server, during: impl Future<Output = T>) -> T {
    let address = server.address;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { get(address, "/block?ms=400").await });
    tokio::time::sleep(ms(100)).await;
    let done = during.await;
    server.terminate();
    assert!(tasks.join_next().await.unwrap().unwrap().ends_with("blocked"));
    done
}

/// How many of five idle connections that send at the last moment are answered.
async fn answered_late(options: &str) -> usize {
    let mut server = Server::start(&format!("threads=1 grace=50 {options}"));
    let mut idle = Vec::new();
    for _ in 0..5 {
        let mut stream = connect(server.address).await;
        assert!(ask(&mut stream, WORK).await.unwrap());
        idle.push(stream);
    }
    // Past their grace.
    tokio::time::sleep(ms(100)).await;
    let send = async {
        for stream in &mut idle {
            stream.write_all(WORK).await.unwrap();
        }
    };
    blocked(&mut server, send).await;
    let mut answered = 0;
    for stream in &mut idle {
        answered += usize::from(ask(stream, b"").await.is_ok());
    }
    let ended = server.ended(ms(5_000)).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    answered
}

#[tokio::test]
async fn a_connection_is_looked_at_before_it_is_closed() {
    let _alone = alone().await;
    assert_eq!(answered_late("").await, 5);
    assert_eq!(answered_late("sabotage=peek").await, 0, "the mutant has to lose them");
}

/// How many of five that were connected by the kernel only are answered.
async fn answered_from_the_queue(options: &str) -> usize {
    let mut server = Server::start(&format!("threads=1 {options}"));
    let address = server.address;
    let send = async {
        let mut queued = Vec::new();
        for _ in 0..5 {
            let mut stream = connect(address).await;
            stream.write_all(WORK).await.unwrap();
            queued.push(stream);
        }
        queued
    };
    let mut queued = blocked(&mut server, send).await;
    let mut answered = 0;
    for stream in &mut queued {
        answered += usize::from(ask(stream, b"").await.is_ok());
    }
    let ended = server.ended(ms(5_000)).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    answered
}

#[tokio::test]
async fn the_queue_of_the_kernel_is_served() {
    let _alone = alone().await;
    assert_eq!(answered_from_the_queue("").await, 5);
    assert_eq!(answered_from_the_queue("sabotage=queue").await, 0, "the mutant has to lose them");
}

async fn refused_or_lost(options: &str) -> u64 {
    let mut server = Server::start(&format!("lame=700 {options}"));
    let load = Load::start(server.address, Habit::Connect, 32);
    load.answered(500).await;
    server.terminate();
    let ended = server.ended(ms(5_000)).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let counts = load.finish().await;
    counts.refused.load(Ordering::Relaxed) + counts.lost.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_fails_before_the_server_stops_listening() {
    let _alone = alone().await;
    assert_eq!(refused_or_lost("").await, 0);
    assert!(refused_or_lost("flip=no").await > 0, "the mutant has to refuse some");
}

#[tokio::test]
async fn there_is_a_deadline() {
    let _alone = alone().await;
    for (options, ends) in [("drain=500", true), ("drain=500 sabotage=deadline", false)] {
        let mut server = Server::start(options);
        let mut half = connect(server.address).await;
        half.write_all(b"GET /work HT").await.unwrap();
        // It has been read, not only accepted.
        get(server.address, "/work").await;
        server.terminate();
        let ended = server.ended(ms(2_500)).await;
        assert_eq!(ended.code.is_some(), ends, "{options}: {ended:?}");
    }
}
