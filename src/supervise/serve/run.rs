//! The accept loop, and the drain.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tower_service::Service;

use crate::error::BoxError;
use crate::name::LayerKind;
use crate::observe::{EventKind, Severity};
use crate::supervise::Phase;

use super::drive::drive;
use super::listener::{Handshake, Listener, is_the_peers};
use super::report::ServeReport;
use super::server::Serve;
use super::shared::{Aborted, Shared};

/// More than a kernel's queue holds: under constant load it is never empty.
const QUEUE: usize = 1 << 16;
/// After an error that is not about one connection: there are no descriptors or no memory left.
const PAUSE: Duration = Duration::from_millis(100);
/// As long as a timer of tokio's can be.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 86_400);
/// For cut connections to go, at most.
const LEAVE: Duration = Duration::from_millis(200);

/// Cuts everything if the server is dropped.
struct CutOnDrop(Arc<Shared>);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.cut_all();
    }
}

pub(super) async fn run<L, S, H, B>(serve: Serve<L, S, H>) -> ServeReport
where
    L: Listener,
    H: Handshake<L::Stream>,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let Serve { mut listener, app, life, config, peer, handshake } = serve;
    let _hold = life.hold(config.name);
    let shared = Shared::new(&life, config);
    let _cut = CutOnDrop(Arc::clone(&shared));
    let mut report = ServeReport::default();
    let connect = Arc::clone(&shared);
    let begin = move |stream: L::Stream, who: L::Peer| {
        connect.counts.accepted.fetch_add(1, Ordering::Relaxed);
        let connection = connect.connect();
        let (app, peer, handshake) = (app.clone(), peer.clone(), handshake.clone());
        let driven = async move {
            let peer = peer.map(|introduce| introduce(&who));
            drive(stream, handshake, connection, app, peer).await;
        };
        #[expect(clippy::disallowed_methods, reason = "each connection has a task, which is cut")]
        tokio::spawn(driven);
    };

    let mut phases = life.subscribe();
    let mut lame = false;
    let mut paused: Option<Instant> = None;
    loop {
        let phase = *phases.borrow_and_update();
        if phase >= Phase::Draining {
            break;
        }
        if phase >= Phase::LameDuck && !lame {
            lame = true;
            shared.wake_all();
        }
        let accept = async {
            if let Some(until) = paused {
                sleep_until(until).await;
            }
            shared.fewer_than(shared.config.max_connections).await;
            poll_fn(|cx| listener.poll_accept(cx)).await
        };
        tokio::select! {
            biased;
            // The sender is in `life`.
            _ = phases.changed() => {}
            accepted = accept => match accepted {
                Ok((stream, who)) => {
                    paused = None;
                    begin(stream, who);
                }
                Err(error) if is_the_peers(&error) => {}
                Err(error) => {
                    if paused.is_none() {
                        shared.accept_failed(&error);
                    }
                    paused = Some(Instant::now() + PAUSE);
                }
            }
        }
    }

    let began = Instant::now();
    // A limit beyond what a clock can show is none.
    let own = began.checked_add(shared.config.drain).unwrap_or(began + FOREVER);
    let deadline = life.deadline().unwrap_or(own);
    // A little earlier, so that cut connections are gone and the report is made when the phase ends.
    let leave = LEAVE.min(deadline.saturating_duration_since(began) / 10);
    let deadline = deadline - leave;
    if shared.config.sabotage.no_queue_drain {
        drop(listener);
    } else {
        let queued = listener.close(QUEUE);
        let count = queued.len();
        for (stream, who) in queued {
            begin(stream, who);
        }
        report.queued = count as u64;
    }
    shared.wake_all();

    let over = async {
        tokio::select! {
            () = shared.fewer_than(1) => {}
            // Whoever moved on will not wait.
            () = life.reached(Phase::Cleanup) => {}
        }
    };
    if shared.config.sabotage.no_deadline {
        shared.fewer_than(1).await;
    } else {
        let _ = timeout_at(deadline, over).await;
    }
    let mut aborted = Aborted::default();
    if shared.live() > 0 {
        aborted = shared.cut_all();
        // A task that blocks its thread cannot be cut, and is not waited for.
        let _ = timeout(LEAVE, shared.fewer_than(1)).await;
    }
    report.accepted = shared.counts.accepted.load(Ordering::Relaxed);
    report.requests_drained = shared.counts.drained.load(Ordering::Relaxed);
    report.requests_broken = shared.counts.broken.load(Ordering::Relaxed);
    report.connections_closed = shared.counts.closed.load(Ordering::Relaxed);
    report.requests_aborted = aborted.requests;
    report.connections_aborted = aborted.connections;
    report.upgrades_aborted = aborted.upgrades;
    report.connections = report.connections_closed + report.connections_aborted;
    report.took = began.elapsed();
    shared.tell(&report);
    report
}

impl Shared {
    fn accept_failed(&self, error: &io::Error) {
        self.emit(Severity::Warning, "accept_failed", format_args!("{error}"));
    }

    fn tell(&self, report: &ServeReport) {
        let (severity, what) = if report.is_clean() {
            (Severity::Info, "drained")
        } else {
            (Severity::Warning, "drain_cut")
        };
        self.emit(severity, what, format_args!("{report}"));
    }

    fn emit(&self, severity: Severity, what: &'static str, detail: std::fmt::Arguments<'_>) {
        let kind = EventKind::Supervised { severity, what, detail };
        self.config.observers.emit(LayerKind::Supervise, self.config.name, kind);
    }
}
