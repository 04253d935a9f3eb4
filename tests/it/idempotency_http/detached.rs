//! Real connections, and clients that leave them.

use super::*;
use crate::support::Server;
use axum::routing::post as to;
use buttress::idempotency::{Detached, InFlight};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A server whose handler waits to be let go.
struct Bank {
    runs: Runs,
    finished: Runs,
    go: Arc<Semaphore>,
    executions: Detached,
    router: Router,
}

impl Bank {
    fn new(gate: Idempotency<MemoryStore>) -> Self {
        let (runs, finished) = (Runs::default(), Runs::default());
        let go = Arc::new(Semaphore::new(0));
        let (run, end, wait) = (runs.clone(), finished.clone(), Arc::clone(&go));
        let handler = move |body: String| async move {
            let number = run.next();
            wait.acquire().await.unwrap().forget();
            end.next();
            format!("run {number}: {body}")
        };
        let layer = IdempotencyLayer::http(gate).single_tenant().required().build().unwrap();
        let executions = layer.detached();
        let router = Router::new().route("/payments", to(handler)).layer(layer);
        Self { runs, finished, go, executions, router }
    }

    async fn until_started(&self, runs: u32) {
        while self.runs.count() < runs {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

const RAW: &str = "POST /payments HTTP/1.1\r\nhost: localhost\r\ncontent-length: 6\r\n\
                   idempotency-key: 8e03978e-40d5-43dd-bc93-6894a57f9324\r\n\r\n10 EUR";

#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_its_payment() {
    let bank = Bank::new(gate());
    let mut server = Server::start(bank.router.clone()).await;
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(RAW.as_bytes()).await.unwrap();
    bank.until_started(1).await;
    // With something unread, or at once: both are a reset or an end for the server.
    stream.set_zero_linger().unwrap();
    drop(stream);
    let mut other = server.connect().await;
    assert_eq!(other.send(post(KEY, "10 EUR")).await.status(), 409);
    // The server has had its time to notice.
    tokio::time::sleep(Duration::from_millis(50)).await;
    bank.go.add_permits(1);
    bank.executions.idle().await;
    assert_eq!(bank.finished.count(), 1);
    let replay = other.send(post(KEY, "10 EUR")).await;
    assert_eq!(replay.body(), "run 1: 10 EUR");
    assert_eq!(replay.headers()["idempotency-replayed"], "true");
    assert_eq!(bank.runs.count(), 1);
}

#[tokio::test]
async fn a_client_that_closes_its_half_does_not_stop_its_payment() {
    let bank = Bank::new(gate());
    let mut server = Server::start(bank.router.clone()).await;
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(RAW.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    bank.until_started(1).await;
    // hyper drops the call when it reads the end, and closes the connection.
    let mut rest = Vec::new();
    tokio::time::timeout(10 * SECOND, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"");
    assert_eq!(bank.finished.count(), 0);
    bank.go.add_permits(1);
    bank.executions.idle().await;
    assert_eq!((bank.runs.count(), bank.finished.count()), (1, 1));
    let replay = server.connect().await.send(post(KEY, "10 EUR")).await;
    assert_eq!(replay.body(), "run 1: 10 EUR");
    assert_eq!(bank.runs.count(), 1);
}

#[tokio::test]
async fn a_request_that_breaks_off_in_its_body_runs_nothing() {
    let gate = gate();
    let bank = Bank::new(gate.clone());
    let mut server = Server::start(bank.router.clone()).await;
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(&RAW.as_bytes()[..RAW.len() - 3]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(gate.store().is_empty());
    bank.go.add_permits(1);
    let whole = server.connect().await.send(post(KEY, "10 EUR")).await;
    assert_eq!(whole.body(), "run 1: 10 EUR");
}

#[tokio::test]
async fn connections_share_the_records() {
    let bank = Bank::new(gate());
    bank.go.add_permits(100);
    let mut server = Server::start(bank.router.clone()).await;
    for _ in 0..5 {
        let answer = server.connect().await.send(post(KEY, "10 EUR")).await;
        assert_eq!(answer.body(), "run 1: 10 EUR");
    }
    assert_eq!(bank.runs.count(), 1);
}

/// HTTP/2 on a free port, for as long as this lives.
async fn serve_h2(router: Router) -> (std::net::SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(router.clone());
            connections.spawn(async move {
                let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                http.max_concurrent_streams(1_000);
                let _ended = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (addr, tasks)
}

async fn connect_h2(
    addr: std::net::SocketAddr,
    tasks: &mut JoinSet<()>,
) -> http2::SendRequest<Body> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tasks.spawn(async move {
        let _ended = connection.await;
    });
    sender
}

fn absolute(key: &str, body: &'static str) -> Request<Body> {
    let mut request = post(key, body);
    *request.uri_mut() = "http://localhost/payments".parse().unwrap();
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_concurrent_duplicates_run_once_and_get_the_same_answer() {
    let gate = Idempotency::builder("payments", MemoryStore::default())
        .scope(Scope::global())
        .in_flight(InFlight::Wait(60 * SECOND))
        .build()
        .unwrap();
    let bank = Bank::new(gate);
    let (addr, mut tasks) = serve_h2(bank.router.clone()).await;
    let mut calls = JoinSet::new();
    for connection in 0..20 {
        let sender = connect_h2(addr, &mut tasks).await;
        for n in 0..50 {
            let mut sender = sender.clone();
            // One in ten leaves before there is an answer.
            let leaves = (connection * 50 + n) % 10 == 3;
            calls.spawn(async move {
                sender.ready().await.unwrap();
                let call = sender.send_request(absolute(KEY, "10 EUR"));
                if leaves {
                    let limit = Duration::from_millis(5);
                    assert!(tokio::time::timeout(limit, call).await.is_err(), "nobody has it yet");
                    return None;
                }
                Some(Answer::of(call.await.unwrap()).await)
            });
        }
    }
    bank.until_started(1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    bank.go.add_permits(1_000);
    let answers: Vec<_> = calls.join_all().await.into_iter().flatten().collect();
    assert_eq!(answers.len(), 900);
    for answer in &answers {
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "run 1: 10 EUR"));
    }
    let first = answers.iter().filter(|answer| !answer.is_replayed()).count();
    assert!(first <= 1, "{first} say that they ran it");
    assert_eq!(bank.runs.count(), 1);
}

#[tokio::test]
async fn a_thousand_concurrent_duplicates_that_do_not_wait_are_told_to_come_back() {
    let bank = Bank::new(gate());
    let (addr, mut tasks) = serve_h2(bank.router.clone()).await;
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let sender = connect_h2(addr, &mut tasks).await;
        for _ in 0..50 {
            let mut sender = sender.clone();
            calls.spawn(async move {
                sender.ready().await.unwrap();
                Answer::of(sender.send_request(absolute(KEY, "10 EUR")).await.unwrap()).await
            });
        }
    }
    for _ in 0..999 {
        let answer = calls.join_next().await.unwrap().unwrap();
        assert_eq!(answer.status, 409);
    }
    bank.go.add_permits(1_000);
    assert_eq!(calls.join_next().await.unwrap().unwrap().text(), "run 1: 10 EUR");
    assert_eq!(bank.runs.count(), 1);
}

#[tokio::test]
async fn a_stream_that_the_client_resets_does_not_stop_its_payment() {
    let bank = Bank::new(gate());
    let (addr, mut tasks) = serve_h2(bank.router.clone()).await;
    let mut sender = connect_h2(addr, &mut tasks).await;
    let mut call = Box::pin(sender.send_request(absolute(KEY, "10 EUR")));
    tokio::select! {
        biased;
        _ = &mut call => panic!("the handler waits"),
        () = bank.until_started(1) => {}
    }
    drop(call);
    tokio::time::sleep(Duration::from_millis(50)).await;
    bank.go.add_permits(1);
    bank.executions.idle().await;
    let replay = Answer::of(sender.send_request(absolute(KEY, "10 EUR")).await.unwrap()).await;
    assert_eq!((replay.text(), replay.is_replayed()), ("run 1: 10 EUR", true));
    assert_eq!((bank.runs.count(), bank.finished.count()), (1, 1));
}
