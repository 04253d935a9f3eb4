//! The backend: a small service with few workers and a bad day.
//!
//! It models capacity honestly, or retries would look free. A request takes one of `WORKERS` for its
//! service time, behind a bounded first-come-first-served queue. A caller who hangs up does not free the
//! worker: a real server, too, finds out only when it writes the answer. So timeouts and retries
//! cost capacity here exactly when there is least of it.
//!
//! Each backend has a thread and a runtime of its own, so it is another process in spirit: the gateway
//! reaches it over HTTP only, and when it is down its port is closed.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use crate::load::{Rng, Tally};
use crate::script::{Day, Fault};

/// 10 workers of 25 ms serve 400 requests/s; the load is 280.
const WORKERS: usize = 10;
const SERVICE_TIME: f64 = 0.025;
/// One second of work at full capacity: enough to make every answer too late when capacity falls.
const QUEUE: usize = 400;
/// An error gives up half-way through the work.
const COST_OF_AN_ERROR: f64 = 0.5;

pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    /// Requests that reached it.
    pub(crate) arrived: Arc<Tally>,
}

impl Backend {
    /// Starts one on a port of its own. It lives until the process ends.
    pub(crate) fn start(day: &Arc<Day>) -> io::Result<Self> {
        let listener = bind_below_ephemeral()?;
        let addr = listener.local_addr()?;
        let arrived = Arc::new(Tally::new(day.length()));
        let (day, meter) = (day.clone(), arrived.clone());
        std::thread::Builder::new().name("backend".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(live(listener, addr, day, meter)),
                Err(error) => eprintln!("gateway: the backend has no runtime: {error}"),
            }
        })?;
        Ok(Self { addr, arrived })
    }
}

/// Ports from which the system does not take addresses for outgoing connections. While the backend is
/// down nobody holds its port; a client's socket could be given it, and even connect to itself.
fn bind_below_ephemeral() -> io::Result<std::net::TcpListener> {
    let first = 20_000 + u16::try_from(std::process::id() % 8_000).unwrap_or(0);
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in first..first + 2_000 {
        match std::net::TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return listener.set_nonblocking(true).map(|()| listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn live(
    listener: std::net::TcpListener,
    addr: SocketAddr,
    day: Arc<Day>,
    arrived: Arc<Tally>,
) {
    let (fault, now) = watch::channel(Fault::Nothing);
    let rng = Arc::new(Mutex::new(Rng::new(day.seed, "backend")));
    let mut running = None;
    let mut first = Some(listener);
    for phase in &day.phases {
        fault.send_replace(phase.fault);
        if phase.fault == Fault::Down {
            // Dropping the process closes its port and its connections.
            running = None;
        } else if running.is_none() {
            let listener = match first.take() {
                Some(listener) => TcpListener::from_std(listener),
                None => TcpListener::bind(addr).await,
            };
            match listener {
                Ok(listener) => {
                    let (rng, now) = (rng.clone(), now.clone());
                    let (day, arrived) = (day.clone(), arrived.clone());
                    let workers = Semaphore::new(WORKERS);
                    let process = Process { workers, inside: 0.into(), now, rng, day, arrived };
                    running = Some(Running::new(process, listener));
                }
                Err(error) => return eprintln!("gateway: the backend cannot come up: {error}"),
            }
        }
        let gone = match (&running, phase.fault) {
            (Some(running), Fault::HalfCapacity) => {
                running.process.workers.acquire_many((WORKERS / 2) as u32).await.ok()
            }
            _ => None,
        };
        sleep_until(day.at(phase.until)).await;
        drop(gone);
    }
    // Whoever came late in the last phase still gets an answer.
    sleep(Duration::from_secs(5)).await;
}

/// One life of the server, from coming up to going down.
struct Process {
    workers: Semaphore,
    inside: AtomicUsize,
    now: watch::Receiver<Fault>,
    rng: Arc<Mutex<Rng>>,
    day: Arc<Day>,
    arrived: Arc<Tally>,
}

struct Running {
    process: Arc<Process>,
    _tasks: JoinSet<()>,
}

impl Running {
    fn new(process: Process, listener: TcpListener) -> Self {
        let process = Arc::new(process);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(process.clone(), listener));
        Self { process, _tasks: tasks }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The queue dies with the process.
        self.process.workers.close();
    }
}

async fn accept(process: Arc<Process>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let process = process.clone();
        let service = service_fn(move |request| answer(process.clone(), request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move { drop(connection.await) });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    process: Arc<Process>,
    _: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    process.arrived.add(process.day.now());
    let status = if process.inside.load(Relaxed) >= WORKERS + QUEUE {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        process.inside.fetch_add(1, Relaxed);
        let (done, result) = oneshot::channel();
        // Detached on purpose: the work goes on when the caller has left.
        tokio::spawn(work(process, done));
        result.await.unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
    };
    let mut response = Response::new(Full::from("the answer\n"));
    *response.status_mut() = status;
    Ok(response)
}

async fn work(process: Arc<Process>, done: oneshot::Sender<StatusCode>) {
    if let Ok(_worker) = process.workers.acquire().await {
        let (mut seconds, coin) = {
            let mut rng = process.rng.lock().unwrap_or_else(PoisonError::into_inner);
            (SERVICE_TIME * rng.around_one(), rng.within(0.0, 1.0))
        };
        let mut status = StatusCode::OK;
        match *process.now.borrow() {
            Fault::Slow(factor) => seconds *= factor,
            Fault::Errors(share) if coin < share => {
                seconds *= COST_OF_AN_ERROR;
                status = StatusCode::INTERNAL_SERVER_ERROR;
            }
            _ => {}
        }
        sleep(Duration::from_secs_f64(seconds)).await;
        let _ = done.send(status);
    }
    process.inside.fetch_sub(1, Relaxed);
}
