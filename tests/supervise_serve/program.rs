//! The program that is the server: this binary, told by the environment what to be.

use std::convert::Infallible;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use buttress::supervise::serve::DrainSignal;
use buttress::supervise::shutdown::Budget;
use buttress::supervise::{Lifecycle, Phase, Supervisor};
use bytes::Bytes;
use futures_util::stream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::ms;

pub(super) const OPTIONS: &str = "BUTTRESS_SERVE_OPTIONS";
/// What the child tells begins with this, to tell it from what the test harness prints.
pub(super) const MARK: char = '@';

fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{MARK}{what}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

struct Options {
    /// `ours`, `axum` (its graceful shutdown), `layer` (the same with our layer), `supervised` (ours, with the
    /// signals, phases and exit code of a `Supervisor`).
    server: String,
    lame: Duration,
    drain: Duration,
    grace: Duration,
    /// Whether readiness fails when the process wants to end.
    flip: bool,
    sabotage: Option<String>,
    threads: usize,
}

impl Options {
    fn read(text: &str) -> Self {
        let find = |name: &str| {
            text.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        };
        let time = |name, default| find(name).map_or(default, |n| ms(n.parse().unwrap()));
        Self {
            server: find("server").unwrap_or("ours").to_owned(),
            lame: time("lame", ms(0)),
            drain: time("drain", ms(10_000)),
            grace: time("grace", ms(1_000)),
            flip: find("flip") != Some("no"),
            sabotage: find("sabotage").map(str::to_owned),
            threads: find("threads").map_or(2, |n| n.parse().unwrap()),
        }
    }
}

#[derive(Clone)]
struct App {
    life: Lifecycle,
    flip: bool,
    in_flight: Arc<AtomicUsize>,
    /// Work ever begun.
    begun: Arc<AtomicUsize>,
}

#[test]
fn be_a_server() {
    let Ok(options) = std::env::var(OPTIONS) else { return };
    let options = Options::read(&options);
    raise_descriptors();
    if options.server == "supervised" {
        return supervised(&options);
    }
    let mut builder = match options.threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if options.threads > 1 {
        builder.worker_threads(options.threads);
    }
    let runtime = builder.enable_all().build().unwrap();
    let life = Lifecycle::new();
    let app = App {
        life: life.clone(),
        flip: options.flip,
        in_flight: Arc::default(),
        begun: Arc::default(),
    };
    let terminated = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&terminated)).unwrap();
    let (lame, drain) = (options.lame, options.drain);
    let phases = life.clone();
    // What `GracefulShutdown` does, in the short: on a thread, because the runtime may be blocked.
    std::thread::spawn(move || {
        while !terminated.load(Ordering::SeqCst) {
            std::thread::park_timeout(ms(1));
        }
        phases.advance(Phase::LameDuck, Some(Instant::now() + lame));
        let end = Instant::now() + lame;
        while Instant::now() < end {
            std::thread::park_timeout(end - Instant::now());
        }
        phases.advance(Phase::Draining, Some(Instant::now() + drain));
    });
    let begun = Arc::clone(&app.begun);
    // In a task, as all the rest, and not in `block_on`, which comes last on a runtime of one thread.
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn_on(serve(options, app, life), runtime.handle());
    let report = runtime.block_on(tasks.join_next()).unwrap().unwrap();
    say(&format!("{report}; {} begun", begun.load(Ordering::SeqCst)));
    // Without waiting for tasks that were cut.
    runtime.shutdown_background();
}

/// What a program does: nothing here is about signals.
fn supervised(options: &Options) {
    let budget = Budget::new(options.lame + options.drain + ms(1_000));
    let budget = budget.lame_duck(options.lame).drain(options.drain);
    let builder = Supervisor::builder("http").shutdown(|shutdown| shutdown.budget(budget));
    let supervisor = builder.worker_threads(options.threads).build().unwrap();
    let flip = options.flip;
    let exit = supervisor.run(move |process| async move {
        let begun = Arc::<AtomicUsize>::default();
        let app = App {
            life: process.lifecycle().clone(),
            flip,
            in_flight: Arc::default(),
            begun: Arc::clone(&begun),
        };
        let listener = listen();
        say(&listener.local_addr()?.to_string());
        let report = process.serve(listener, routes(app)).await;
        say(&format!("{report}; {} begun", begun.load(Ordering::SeqCst)));
        Ok(())
    });
    // The harness would make it 0 or 101, and an exit code cannot be asked for its number.
    let code = (0..=255u8).find(|code| ExitCode::from(*code) == exit).unwrap();
    std::process::exit(code.into())
}

fn listen() -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(4096).unwrap()
}

/// One file per connection: as many as the system allows.
pub(super) fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).unwrap();
}

async fn serve(options: Options, app: App, life: Lifecycle) -> String {
    let listener = listen();
    let address = listener.local_addr().unwrap();
    let router = routes(app);
    life.advance(Phase::Ready, None);
    say(&address.to_string());
    let stop = {
        let life = life.clone();
        async move { life.reached(Phase::Draining).await }
    };
    match options.server.as_str() {
        "ours" => {
            let mut builder =
                buttress::supervise::serve::Server::builder("http").grace(options.grace);
            if let Some(part) = &options.sabotage {
                builder = builder.sabotage(part);
            }
            let server = builder.build().unwrap();
            let served = server.serve(listener, router, &life);
            served.peer(|peer: &std::net::SocketAddr| ConnectInfo(*peer)).await.to_string()
        }
        "axum" => {
            axum::serve(listener, router).with_graceful_shutdown(stop).await.unwrap();
            String::new()
        }
        "layer" => {
            let layer = buttress::supervise::serve::DrainLayer::new("http", &life);
            let router = router.layer(layer.on_reject(buttress::http::problem()));
            axum::serve(listener, router).with_graceful_shutdown(stop).await.unwrap();
            String::new()
        }
        other => panic!("no server `{other}`"),
    }
}

fn routes(app: App) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/work", get(work))
        .route("/echo", post(echo))
        .route("/block", get(block))
        .route("/count", get(count))
        .route("/big", get(big))
        .route("/peer", get(peer))
        .route("/events", get(events))
        .route("/chat", get(chat))
        .with_state(app)
}

async fn ready(State(app): State<App>) -> StatusCode {
    if app.flip && app.life.phase() != Phase::Ready {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    StatusCode::OK
}

#[derive(serde::Deserialize)]
struct For {
    ms: Option<u64>,
}

async fn work(State(app): State<App>, Query(time): Query<For>) -> &'static str {
    app.begun.fetch_add(1, Ordering::SeqCst);
    app.in_flight.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(ms(time.ms.unwrap_or(2))).await;
    app.in_flight.fetch_sub(1, Ordering::SeqCst);
    "done"
}

/// How many are at work.
async fn count(State(app): State<App>) -> String {
    app.in_flight.load(Ordering::SeqCst).to_string()
}

async fn echo(body: Bytes) -> Bytes {
    body
}

/// Blocks the thread.
async fn block(Query(time): Query<For>) -> &'static str {
    let end = Instant::now() + ms(time.ms.unwrap());
    while Instant::now() < end {
        std::thread::park_timeout(end - Instant::now());
    }
    "blocked"
}

/// Far more than any buffer holds.
async fn big() -> Body {
    let piece = Bytes::from(vec![b'x'; 1 << 20]);
    Body::from_stream(stream::iter((0..1024).map(move |_| Ok::<_, Infallible>(piece.clone()))))
}

async fn peer(ConnectInfo(peer): ConnectInfo<std::net::SocketAddr>) -> String {
    peer.to_string()
}

/// Events for ever. Told to end, it says so once, and goes on: the server has to cut it. A polite one ends.
async fn events(Query(kind): Query<Kind>, request: Request) -> Response {
    let signal =
        request.extensions().get::<DrainSignal>().expect("an event stream is told").clone();
    let (mut sender, body) = http_body_util::channel::Channel::<Bytes, Infallible>::new(4);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let _ = sender.send_data("data: hello\n\n".into()).await;
        signal.draining().await;
        let _ = sender.send_data("data: bye\n\n".into()).await;
        if !kind.polite {
            std::future::pending().await
        }
    });
    tasks.detach_all();
    ([("content-type", "text/event-stream")], Body::new(body)).into_response()
}

#[derive(serde::Deserialize)]
struct Kind {
    polite: bool,
}

/// Another protocol on the connection: echoes, and says `bye` when told to end.
async fn chat(Query(kind): Query<Kind>, mut request: Request) -> Response {
    let signal = request.extensions().get::<DrainSignal>().expect("an upgrade is told").clone();
    let upgrade = hyper::upgrade::on(&mut request);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        let mut line = [0; 64];
        let mut told = false;
        loop {
            tokio::select! {
                read = stream.read(&mut line) => match read {
                    Ok(n) if n > 0 => stream.write_all(&line[..n]).await.unwrap(),
                    _ => return,
                },
                () = signal.draining(), if !told => {
                    told = true;
                    stream.write_all(b"bye").await.unwrap();
                    if kind.polite {
                        return;
                    }
                }
            }
        }
    });
    tasks.detach_all();
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "upgrade")
        .header("upgrade", "chat")
        .body(Body::empty())
        .unwrap()
}
