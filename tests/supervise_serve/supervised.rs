//! From the signal to the exit code, with nothing of the test's own between.

use std::sync::atomic::Ordering;

use tokio::io::AsyncWriteExt;

use super::clients::{Habit, Load};
use super::server::Server;
use super::{alone, connect, get, ms};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervised_server_loses_nothing_and_ends_with_0() {
    let _alone = alone().await;
    for habit in [Habit::KeepAlive, Habit::Sticky, Habit::Connect] {
        let mut server = Server::start("server=supervised lame=700");
        let load = Load::start(server.address, habit, 64);
        load.answered(2_000).await;
        server.terminate();
        let ended = server.ended(ms(20_000)).await;
        let counts = load.finish().await;
        let lost = counts.lost.load(Ordering::Relaxed) + counts.refused.load(Ordering::Relaxed);
        assert_eq!((lost, ended.code), (0, Some(0)), "{habit:?}: {counts:?} {ended:?}");
        assert!(ended.after >= ms(650) && ended.report.contains(", 0 aborted"), "{ended:?}");
        let begun = format!("; {} begun", counts.answered.load(Ordering::Relaxed));
        assert!(ended.report.ends_with(&begun), "{habit:?}: {counts:?} {ended:?}");
    }
}

/// A request that is in the way of the end is cut when the drain is over, which is in time for the rest.
#[tokio::test]
async fn a_supervised_server_ends_in_time_over_a_request_that_does_not() {
    let _alone = alone().await;
    let mut server = Server::start("server=supervised drain=1000");
    let mut stream = connect(server.address).await;
    stream.write_all(b"GET /work?ms=60000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    while !get(server.address, "/count").await.ends_with("\r\n1") {
        tokio::time::sleep(ms(5)).await;
    }
    server.terminate();
    let ended = server.ended(ms(5_000)).await;
    assert!(ended.after >= ms(800) && ended.after < ms(2_000), "{ended:?}");
    assert!(ended.report.contains("1 aborted; 0 connections closed, 1 aborted"), "{ended:?}");
    // The server returned before its drain was over: nothing had to be forced.
    assert_eq!(ended.code, Some(0), "{ended:?}");
}
