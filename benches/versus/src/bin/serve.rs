//! What the drain costs while nothing drains: a hello server under wrk, axum's `serve` and ours by turns.
//!
//! `versus-serve [ROUNDS]`: requests per second under wrk; one worker thread serves, wrk has the other core.
//! Only on a machine that does nothing else. `versus-serve cpu [ROUNDS]`: the time one thread runs for a
//! request, client and kernel included; others on the machine disturb that less. `versus-serve count SERVER N`
//! answers N requests and ends, for callgrind: the difference of two N.

use std::net::SocketAddr;
use std::process::Command;

use axum::Router;
use axum::routing::get;
use buttress::supervise::serve::{DrainLayer, serve};
use buttress::supervise::{Lifecycle, Phase};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

#[derive(Clone, Copy)]
enum Server {
    Axum,
    Ours,
    Layer,
}

async fn run(server: Server, listener: TcpListener) {
    let life = Lifecycle::new();
    life.advance(Phase::Ready, None);
    match server {
        Server::Axum => axum::serve(listener, hello()).await.unwrap(),
        Server::Ours => drop(serve(listener, hello(), &life).await),
        Server::Layer => {
            let layer = DrainLayer::new("http", &life);
            let app = hello().layer(layer.on_reject(buttress::http::problem()));
            axum::serve(listener, app).await.unwrap();
        }
    }
}

/// A server on a thread of its own.
fn start(server: Server) -> SocketAddr {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            send.send(listener.local_addr().unwrap()).unwrap();
            run(server, listener).await;
        });
    });
    receive.recv().unwrap()
}

/// As under load: the runtime has something to do when a request is done.
const CLIENTS: usize = 32;

/// A server and its clients on one thread.
struct Alone {
    runtime: tokio::runtime::Runtime,
    clients: Vec<TcpStream>,
}

impl Alone {
    fn new(server: Server) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let clients = runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(run(server, listener));
            let mut clients = Vec::new();
            for _ in 0..CLIENTS {
                clients.push(TcpStream::connect(address).await.unwrap());
            }
            clients
        });
        Self { runtime, clients }
    }

    fn ask(&mut self, count: usize) {
        let Self { runtime, clients } = self;
        runtime.block_on(async {
            let mut answer = [0; 1024];
            for _ in 0..count.div_ceil(CLIENTS) {
                for client in &mut *clients {
                    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
                }
                for client in &mut *clients {
                    let mut read = 0;
                    while !answer[..read].ends_with(b"hello") {
                        read += client.read(&mut answer[read..]).await.unwrap();
                    }
                }
            }
        });
    }

    /// Nanoseconds that this thread runs for a request.
    fn time(&mut self) -> f64 {
        const COUNT: usize = 3_200;
        let before = thread_time();
        self.ask(COUNT);
        (thread_time() - before) / COUNT as f64
    }
}

/// Nanoseconds that this thread has run.
fn thread_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to `time` only.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Requests per second.
fn wrk(address: SocketAddr, seconds: u32) -> f64 {
    let wrk = Command::new("wrk")
        .args(["-t1", "-c64", &format!("-d{seconds}s"), &format!("http://{address}/")])
        .output()
        .expect("wrk is installed");
    let text = String::from_utf8_lossy(&wrk.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let rate = text.split("Requests/sec:").nth(1).unwrap_or_else(|| panic!("{text}"));
    rate.split_whitespace().next().unwrap().parse().unwrap()
}

/// Each between two of axum's, so that a machine that slows down evenly favours nobody.
fn compare<T>(rounds: usize, servers: impl Fn(Server) -> T, measure: impl Fn(&mut T) -> f64) {
    let mut axum = servers(Server::Axum);
    let mut rows =
        [("axum again", Server::Axum), ("ours", Server::Ours), ("our layer", Server::Layer)]
            .map(|(name, server)| (name, servers(server), Vec::new()));
    // Warm.
    measure(&mut axum);
    for (_, server, _) in &mut rows {
        measure(server);
    }
    for _ in 0..rounds {
        for (_, server, ratios) in &mut rows {
            let before = measure(&mut axum);
            let value = measure(server);
            let after = measure(&mut axum);
            ratios.push(value / before.midpoint(after));
        }
    }
    for (name, _, mut ratios) in rows {
        ratios.sort_by(f64::total_cmp);
        let at = |part: f64| ratios[((ratios.len() - 1) as f64 * part) as usize];
        println!("{name:>11}  {:.3} (quartiles {:.3} to {:.3})", at(0.5), at(0.25), at(0.75));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).map(|n| n.parse::<usize>().unwrap());
    match arguments.first().map(String::as_str) {
        Some("count") => {
            let server = match arguments[1].as_str() {
                "axum" => Server::Axum,
                "ours" => Server::Ours,
                "layer" => Server::Layer,
                other => panic!("no server `{other}`"),
            };
            Alone::new(server).ask(number(2).unwrap());
        }
        Some("cpu") => {
            println!("time of one thread per request, to axum's serve: median");
            compare(number(1).unwrap_or(200), Alone::new, Alone::time);
        }
        _ => {
            println!("requests per second, to axum's serve: median");
            compare(number(0).unwrap_or(15), start, |address| wrk(*address, 1));
        }
    }
}
