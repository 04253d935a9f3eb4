//! Clients that take their time, through a stream that holds what they have not taken.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep, timeout};
use tower::service_fn;

use crate::supervise::Lifecycle;

use super::fakes::{ROOM, buffered};
use super::tests::{Memory, secs};
use super::{Looked, Server};

const TENTH: Duration = Duration::from_millis(100);
const WRITE_TIMEOUT: Duration = secs(10);

/// A client that has asked for `first` bytes at once, and then `count` pieces, one each tenth of a second, each made in so
/// many `steps` that the runtime counts. And what says that its connection has gone on the server's side.
async fn asks_for(
    tasks: &mut JoinSet<()>,
    first: usize,
    piece: usize,
    count: usize,
    steps: u32,
) -> (DuplexStream, mpsc::Receiver<()>) {
    let (connect, incoming) = mpsc::channel(1);
    let (gone, goes) = mpsc::channel::<()>(1);
    let app = move |_: Request<Incoming>| async move {
        let body = futures_util::stream::unfold(0, move |n| async move {
            if n > 0 {
                sleep(TENTH).await;
            }
            for _ in 0..steps {
                consume_budget().await;
            }
            let bytes = vec![b'x'; if n == 0 { first } else { piece }];
            (n <= count).then(|| (Ok::<_, Infallible>(Frame::data(Bytes::from(bytes))), n + 1))
        });
        Ok::<_, Infallible>(Response::new(StreamBody::new(body).boxed_unsync()))
    };
    let server = Server::builder("t").write_timeout(WRITE_TIMEOUT).build().unwrap();
    let life = Lifecycle::new();
    let served = server.serve(Memory(incoming), service_fn(app), &life);
    let served = served.handshake(move |stream: Looked<DuplexStream>| {
        let stream = buffered(stream, ROOM, gone.clone());
        async move { Ok(stream) }
    });
    tasks.spawn(async move {
        let _report = served.await;
    });
    let (mut stream, theirs) = duplex(256);
    connect.send(theirs).await.unwrap();
    // The listener waits for others.
    tasks.spawn(async move { connect.closed().await });
    stream.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    (stream, goes)
}

/// As fast as it comes, but always some seconds behind: what holds the rest is never empty.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_all_out_of_a_buffer_that_is_never_empty_is_not_cut() {
    let mut tasks = JoinSet::new();
    let (mut stream, _goes) = asks_for(&mut tasks, 30_000, 1_000, 600, 0).await;
    let begin = Instant::now();
    let (mut taken, mut piece) = (Vec::new(), [0; 1_000]);
    while !taken.ends_with(b"\r\n0\r\n\r\n") {
        let count = stream.read(&mut piece).await.unwrap();
        assert!(count > 0, "cut after {:?}", begin.elapsed());
        taken.extend(&piece[..count]);
        // A thousand bytes in a tenth of a second.
        sleep(TENTH * u32::try_from(count).unwrap() / 1_000).await;
    }
    assert!(begin.elapsed() > WRITE_TIMEOUT * 6, "{:?}", begin.elapsed());
    assert_eq!(taken.iter().filter(|byte| **byte == b'x').count(), 630_000);
}

async fn takes_nothing(steps: u32) {
    let mut tasks = JoinSet::new();
    let (mut stream, mut goes) = asks_for(&mut tasks, 1_000, 100, 6_000, steps).await;
    stream.read_exact(&mut [0; 200]).await.unwrap();
    let begin = Instant::now();
    assert!(timeout(secs(100), goes.recv()).await.is_ok(), "it is kept");
    let took = begin.elapsed();
    assert!(took >= WRITE_TIMEOUT && took < WRITE_TIMEOUT + secs(1), "{took:?}");
}

/// That it goes on to be written to is not that it takes anything.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_while_more_is_written_is_cut() {
    takes_nothing(0).await;
}

/// Each time the task has used up what the runtime lets it do in one turn, a write is refused and woken, by the runtime.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_a_busy_answer_is_cut() {
    takes_nothing(200).await;
}
