//! What the drain costs while nothing drains: a hello server under wrk, axum's `serve` and ours by turns.
//!
//! One worker thread serves, wrk has the other core. Ratios of neighbouring rounds only: two seconds on a
//! shared machine say nothing alone.

use std::net::SocketAddr;
use std::process::Command;

use axum::Router;
use axum::routing::get;
use buttress::supervise::serve::{DrainLayer, serve};
use buttress::supervise::{Lifecycle, Phase};
use tokio::net::TcpListener;

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

#[derive(Clone, Copy)]
enum Server {
    Axum,
    Ours,
    Layer,
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
        });
    });
    receive.recv().unwrap()
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

fn main() {
    let rounds = std::env::args().nth(1).map_or(15, |n| n.parse().unwrap());
    let [axum, again, ours, layer] =
        [Server::Axum, Server::Axum, Server::Ours, Server::Layer].map(start);
    for address in [axum, again, ours, layer] {
        wrk(address, 1);
    }
    let mut rows =
        [("axum again", again, vec![]), ("ours", ours, vec![]), ("our layer", layer, vec![])];
    for _ in 0..rounds {
        for (_, address, ratios) in &mut rows {
            // Between two of axum's, so that a machine that slows down evenly favours nobody.
            let before = wrk(axum, 1);
            let rate = wrk(*address, 1);
            let after = wrk(axum, 1);
            ratios.push(rate / before.midpoint(after));
        }
    }
    println!("requests per second, to axum's serve, {rounds} rounds: median (min to max)");
    for (name, _, mut ratios) in rows {
        ratios.sort_by(f64::total_cmp);
        let [min, median, max] = [0, ratios.len() / 2, ratios.len() - 1].map(|i| ratios[i]);
        println!("{name:>11}  {median:.3} ({min:.3} to {max:.3})");
    }
}
