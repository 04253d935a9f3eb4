//! Clients that count what was asked and not answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ms;

/// What clients do, as `supervise` has to live with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// Keep their connections, and stop when the load balancer says so.
    KeepAlive,
    /// Go on with connections that are open, whatever the load balancer says.
    Sticky,
    /// Connect for each request, while the load balancer says so.
    Connect,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) answered: AtomicU64,
    /// Sent, and the connection ended without the whole answer.
    pub(super) lost: AtomicU64,
    /// Could not connect.
    pub(super) refused: AtomicU64,
    /// Seen closed before the next request.
    pub(super) closed: AtomicU64,
}

pub(super) struct Balancer {
    /// New requests go here.
    pub(super) up: AtomicBool,
    pub(super) stop: AtomicBool,
}

/// Looks at readiness every 50 ms, and spreads the news 300 ms later.
pub(super) async fn balance(address: SocketAddr, balancer: Arc<Balancer>) {
    while !balancer.stop.load(Ordering::SeqCst) {
        tokio::time::sleep(ms(50)).await;
        if !ready(address).await {
            tokio::time::sleep(ms(300)).await;
            balancer.up.store(false, Ordering::SeqCst);
            return;
        }
    }
}

async fn ready(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let request = b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut answer = Vec::new();
    stream.write_all(request).await.is_ok()
        && stream.read_to_end(&mut answer).await.is_ok()
        && answer.starts_with(b"HTTP/1.1 200")
}

/// Whether the connection is good for another request. `Err`: no whole answer came.
pub(super) async fn ask(stream: &mut TcpStream, request: &[u8]) -> std::io::Result<bool> {
    stream.write_all(request).await?;
    let mut answer = Vec::with_capacity(512);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.split("content-length: ").nth(1).expect("a length");
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        if body.len() == length {
            assert!(head.starts_with("http/1.1 200"), "{head}");
            return Ok(!head.contains("connection: close"));
        }
    }
}

/// A closed connection is readable.
fn is_closed(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0]) {
        Ok(n) => {
            assert_eq!(n, 0, "bytes that nobody asked for");
            true
        }
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

async fn client(address: SocketAddr, habit: Habit, balancer: Arc<Balancer>, counts: Arc<Counts>) {
    let request = b"GET /work HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut kept: Option<TcpStream> = None;
    let count = |counter: &AtomicU64| {
        counter.fetch_add(1, Ordering::Relaxed);
    };
    while !balancer.stop.load(Ordering::SeqCst) {
        if kept.as_ref().is_some_and(is_closed) {
            count(&counts.closed);
            kept = None;
        }
        let up = balancer.up.load(Ordering::SeqCst);
        let goes_on = habit == Habit::Sticky && kept.is_some();
        if !up && !goes_on {
            return;
        }
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => match TcpStream::connect(address).await {
                Ok(stream) => stream,
                Err(_) => {
                    count(&counts.refused);
                    tokio::time::sleep(ms(3)).await;
                    continue;
                }
            },
        };
        match ask(&mut stream, request).await {
            Ok(reusable) => {
                count(&counts.answered);
                if reusable && habit != Habit::Connect {
                    kept = Some(stream);
                }
            }
            Err(_) => count(&counts.lost),
        }
        if habit != Habit::Connect {
            tokio::time::sleep(ms(3)).await;
        }
    }
}

/// Clients at work. They stop by their habit, or when `stop` is set.
pub(super) struct Load {
    tasks: JoinSet<()>,
    pub(super) balancer: Arc<Balancer>,
    pub(super) counts: Arc<Counts>,
}

impl Load {
    pub(super) fn start(address: SocketAddr, habit: Habit, clients: usize) -> Self {
        let up = Balancer { up: AtomicBool::new(true), stop: AtomicBool::new(false) };
        let (balancer, counts) = (Arc::new(up), Arc::<Counts>::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(balance(address, Arc::clone(&balancer)));
        for _ in 0..clients {
            let (balancer, counts) = (Arc::clone(&balancer), Arc::clone(&counts));
            tasks.spawn(client(address, habit, balancer, counts));
        }
        Self { tasks, balancer, counts }
    }

    /// Until `count` requests have been answered.
    pub(super) async fn answered(&self, count: u64) {
        let begin = Instant::now();
        while self.counts.answered.load(Ordering::Relaxed) < count {
            assert!(begin.elapsed() < ms(30_000), "the server does not answer: {:?}", self.counts);
            tokio::time::sleep(ms(1)).await;
        }
    }

    /// Stops those that have not stopped, and lets them finish what they do.
    pub(super) async fn finish(self) -> Arc<Counts> {
        self.balancer.stop.store(true, Ordering::SeqCst);
        self.tasks.join_all().await;
        self.counts
    }
}
