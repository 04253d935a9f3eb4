//! What the accept loop, the connections and their requests know of each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use tokio::sync::Notify;

use crate::clock::{self, Tick};
use crate::supervise::{Lifecycle, Phase};
use crate::sync::{Mutex, lock};

use super::body::InFlight;
use super::core::Doing;
use super::sent::Mark;
use super::server::Config;

/// One server while it runs.
pub(super) struct Shared {
    pub(super) life: Lifecycle,
    pub(super) config: Config,
    conns: Mutex<Conns>,
    live: AtomicUsize,
    /// A connection has gone.
    gone: Notify,
    pub(super) counts: Counts,
}

#[derive(Default)]
struct Conns {
    slots: Vec<Option<Arc<Conn>>>,
    free: Vec<usize>,
}

/// What the report is made of. Written only while draining, except by the accept loop.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) accepted: AtomicU64,
    pub(super) drained: AtomicU64,
    pub(super) broken: AtomicU64,
    pub(super) closed: AtomicU64,
}

/// What was left at the deadline.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Aborted {
    pub(super) connections: u64,
    pub(super) requests: u64,
    pub(super) upgrades: u64,
}

impl Shared {
    pub(super) fn new(life: &Lifecycle, config: Config) -> Arc<Self> {
        Arc::new(Self {
            life: life.clone(),
            config,
            conns: Mutex::default(),
            live: AtomicUsize::new(0),
            gone: Notify::new(),
            counts: Counts::default(),
        })
    }

    pub(super) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    pub(super) fn draining(&self) -> bool {
        self.life.phase() >= Phase::Draining
    }

    /// Returns when there are fewer than `count` connections.
    pub(super) async fn fewer_than(&self, count: usize) {
        while self.live() >= count {
            // Keeps one call that came before this: nothing is missed between the two lines.
            self.gone.notified().await;
        }
    }

    pub(super) fn connect(self: &Arc<Self>) -> Connection {
        self.live.fetch_add(1, Ordering::SeqCst);
        let mut conns = lock(&self.conns);
        let slot = conns.free.pop().unwrap_or_else(|| {
            conns.slots.push(None);
            conns.slots.len() - 1
        });
        let conn = Arc::new(Conn {
            shared: Arc::clone(self),
            slot,
            state: AtomicU32::new(0),
            idle_since: AtomicU64::new(clock::now().0),
            fresh: AtomicBool::new(true),
            head: AtomicBool::new(false),
            stalls: AtomicU32::new(0),
            stalled: AtomicBool::new(false),
            unflushed: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            tunnels: AtomicBool::new(false),
            http2: AtomicBool::new(false),
            look: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            pieces: Mark::default(),
            waker: Mutex::new(None),
        });
        conns.slots[slot] = Some(Arc::clone(&conn));
        Connection(conn)
    }

    /// Makes every connection look at the phase.
    pub(super) fn wake_all(&self) {
        for conn in self.all() {
            conn.wake();
        }
    }

    /// Cuts every connection, and says what that ended.
    pub(super) fn cut_all(&self) -> Aborted {
        let mut aborted = Aborted::default();
        for conn in self.all() {
            let before = conn.state.fetch_or(CUT, Ordering::SeqCst);
            if before & (CUT | ENDED) != 0 {
                continue;
            }
            conn.wake();
            let upgraded = conn.is_upgraded() || conn.has_tunnels();
            // Of HTTP/2 there is no telling what the last bytes were of: any frame.
            let in_a_head =
                conn.head.load(Ordering::Relaxed) && !conn.http2.load(Ordering::Relaxed);
            let taking = !conn.is_stalled() && !conn.sends();
            if before == 0 && !in_a_head && taking && !upgraded {
                // In its grace: nothing is taken from it.
                self.counts.closed.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            aborted.connections += 1;
            aborted.requests += u64::from(before);
            aborted.upgrades += u64::from(upgraded);
        }
        aborted
    }

    fn all(&self) -> Vec<Arc<Conn>> {
        lock(&self.conns).slots.iter().flatten().cloned().collect()
    }
}

/// Of a connection's state: it was cut at the deadline.
const CUT: u32 = 1 << 31;
/// It has ended.
const ENDED: u32 = 1 << 30;

/// What is known of one connection: written by its stream and its requests, read by whoever decides
/// whether it may end.
pub(super) struct Conn {
    pub(super) shared: Arc<Shared>,
    slot: usize,
    /// The requests in flight, with [`CUT`] and [`ENDED`]: in one, so that each is counted once.
    state: AtomicU32,
    /// A tick: the end of its last request, or its beginning.
    idle_since: AtomicU64,
    /// No request has come.
    fresh: AtomicBool,
    /// Bytes have been read since the last request ended.
    head: AtomicBool,
    stalls: AtomicU32,
    /// A write found no room.
    stalled: AtomicBool,
    /// A flush found that not all has been taken of what a stream with a buffer (TLS) holds.
    unflushed: AtomicBool,
    /// It speaks another protocol now.
    upgraded: AtomicBool,
    /// HTTP/2 streams carry other protocols.
    tunnels: AtomicBool,
    http2: AtomicBool,
    /// Whoever reads next is to look at unread bytes if there is nothing to read.
    look: AtomicBool,
    unread: AtomicBool,
    /// Each copy is a piece of an answer that has not been written.
    pieces: Mark,
    waker: Mutex<Option<Waker>>,
}

impl Conn {
    pub(super) fn doing(&self) -> Doing {
        if self.is_stalled() {
            Doing::Stalled(self.stalls.load(Ordering::Relaxed))
        } else if self.busy() {
            Doing::Serving
        } else if self.head.load(Ordering::Relaxed) {
            Doing::ReadingHead
        } else {
            Doing::Idle
        }
    }

    /// A request is in flight, or what is left of an answer.
    pub(super) fn busy(&self) -> bool {
        self.state.load(Ordering::Acquire) & !(CUT | ENDED) > 0 || self.sends()
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed) || self.unflushed.load(Ordering::Relaxed)
    }

    /// Whether hyper has pieces of answers that it has not written. Who drops one elsewhere than in the
    /// connection's task (with a stream that is reset) wakes that task.
    pub(super) fn sends(&self) -> bool {
        Arc::strong_count(&self.pieces) > 1
    }

    pub(super) fn mark(&self) -> Option<Mark> {
        self.http2.load(Ordering::Relaxed).then(|| Arc::clone(&self.pieces))
    }

    /// It has done something: its grace, and the time that it may be idle, begin again.
    pub(super) fn touch(&self) {
        self.idle_since.store(clock::now().0, Ordering::Relaxed);
    }

    pub(super) fn idle_since(&self) -> Tick {
        Tick(self.idle_since.load(Ordering::Relaxed))
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.fresh.load(Ordering::Relaxed)
    }

    pub(super) fn is_cut(&self) -> bool {
        self.state.load(Ordering::Relaxed) & CUT != 0
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    pub(super) fn has_tunnels(&self) -> bool {
        self.tunnels.load(Ordering::Relaxed)
    }

    pub(super) fn upgrade(&self) {
        self.upgraded.store(true, Ordering::SeqCst);
    }

    pub(super) fn tunnel(&self) {
        self.tunnels.store(true, Ordering::Relaxed);
    }

    pub(super) fn speaks_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    pub(super) fn read_some(&self) {
        self.head.store(true, Ordering::Relaxed);
    }

    /// A stop is counted when it begins: a write that is tried again in vain is the same one.
    #[inline]
    pub(super) fn write_stalled(&self, stalled: bool) {
        if self.stalled.load(Ordering::Relaxed) != stalled {
            let before = self.is_stalled();
            self.stalled.store(stalled, Ordering::Relaxed);
            self.stalls.fetch_add(u32::from(stalled && !before), Ordering::Relaxed);
            if !stalled {
                // There was no room, and is: something has been taken. A flush in vain after it is another stop.
                self.unflushed.store(false, Ordering::Relaxed);
                // An answer may have ended long before the client took it.
                self.touch();
            }
        }
    }

    /// A write may find room in a buffer that the peer takes nothing of: only a flush ends what a flush began.
    #[inline]
    pub(super) fn flush_stalled(&self, stalled: bool) {
        if self.unflushed.load(Ordering::Relaxed) != stalled {
            let before = self.is_stalled();
            self.unflushed.store(stalled, Ordering::Relaxed);
            self.stalls.fetch_add(u32::from(stalled && !before), Ordering::Relaxed);
            if !self.is_stalled() {
                self.touch();
            }
        }
    }

    /// The peer has taken something: if it has not taken all by then, that is another stop.
    pub(super) fn took_some(&self) {
        self.stalls.fetch_add(u32::from(self.is_stalled()), Ordering::Relaxed);
    }

    /// Asks the next read to look at unread bytes.
    pub(super) fn ask_to_look(&self) {
        self.unread.store(false, Ordering::Relaxed);
        self.look.store(true, Ordering::Relaxed);
    }

    /// Called by a read that found nothing.
    #[inline]
    pub(super) fn looked(&self, unread: impl FnOnce() -> bool) {
        if self.look.load(Ordering::Relaxed) {
            self.look.store(false, Ordering::Relaxed);
            self.unread.store(unread(), Ordering::Relaxed);
        }
    }

    /// Whether there were any. Nobody looked: none.
    pub(super) fn saw_unread(&self) -> bool {
        self.look.store(false, Ordering::Relaxed);
        self.unread.load(Ordering::Relaxed)
    }

    /// Whose task is woken when the phase changes.
    pub(super) fn register(&self, waker: &Waker) {
        let known = lock(&self.waker).as_ref().is_some_and(|known| known.will_wake(waker));
        if known {
            return;
        }
        // Cloned before the lock is taken, and dropped after: with a waker its task may go, and whatever that holds.
        let waker = Some(waker.clone());
        let before = std::mem::replace(&mut *lock(&self.waker), waker);
        drop(before);
    }

    fn wake(&self) {
        let waker = lock(&self.waker).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    #[inline]
    pub(super) fn begin(self: &Arc<Self>) -> Request {
        self.state.fetch_add(1, Ordering::AcqRel);
        if self.fresh.load(Ordering::Relaxed) {
            self.fresh.store(false, Ordering::Relaxed);
        }
        Request { conn: Arc::clone(self), complete: false, made: false, in_task: false }
    }
}

/// A connection is there until this is dropped. It is in the stream, so an upgraded connection counts
/// wherever its stream is moved.
pub(super) struct Connection(pub(super) Arc<Conn>);

impl Drop for Connection {
    fn drop(&mut self) {
        let conn = &self.0;
        let shared = &conn.shared;
        let mut conns = lock(&shared.conns);
        conns.slots[conn.slot] = None;
        conns.free.push(conn.slot);
        drop(conns);
        let before = conn.state.fetch_or(ENDED, Ordering::SeqCst);
        if shared.draining() && before & CUT == 0 {
            shared.counts.closed.fetch_add(1, Ordering::Relaxed);
        }
        shared.live.fetch_sub(1, Ordering::SeqCst);
        shared.gone.notify_one();
    }
}

/// A request is in flight until this is dropped.
pub(super) struct Request {
    pub(super) conn: Arc<Conn>,
    complete: bool,
    /// Its last piece has been made.
    made: bool,
    in_task: bool,
}

impl Request {
    /// What is read from now on is of the next one. `in_task`: it is dropped while the connection's task runs, which
    /// then looks by itself.
    #[inline]
    pub(super) fn last_piece(&mut self, in_task: bool) {
        self.conn.head.store(false, Ordering::Relaxed);
        self.made = true;
        self.in_task = in_task;
    }

    pub(super) const fn given_up(&mut self) {
        self.in_task = false;
    }
}

impl InFlight for Request {
    #[inline]
    fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for Request {
    #[inline]
    fn drop(&mut self) {
        let conn = &self.conn;
        conn.touch();
        if !self.made {
            conn.head.store(false, Ordering::Relaxed);
        }
        let before = conn.state.fetch_sub(1, Ordering::AcqRel);
        if before & !ENDED == 1 && !self.in_task && conn.http2.load(Ordering::Relaxed) {
            // Its task may have looked while another one was dropping this, and wait for nothing.
            conn.wake();
        }
        // What was cut has been counted.
        if conn.shared.draining() && before & CUT == 0 {
            let counts = &conn.shared.counts;
            let count = if self.complete { &counts.drained } else { &counts.broken };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::server::Server;
    use super::*;

    fn shared() -> Arc<Shared> {
        let life = Lifecycle::new();
        life.advance(Phase::Draining, None);
        Shared::new(&life, Server::new("t").0)
    }

    /// Its task may be gone to sleep over a request that another one is about to drop.
    #[test]
    fn the_last_request_of_an_http2_connection_wakes_its_task() {
        struct Woken(AtomicBool);
        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let shared = shared();
        let connection = shared.connect();
        connection.0.speaks_http2();
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        connection.0.register(&Arc::clone(&woken).into());
        let requests = [connection.0.begin(), connection.0.begin()];
        let mut seen = Vec::new();
        for request in requests {
            drop(request);
            seen.push(woken.0.load(Ordering::SeqCst));
        }
        assert_eq!(seen, [false, true]);
    }

    /// With the last waker its task goes, and that may wake the connection.
    #[test]
    fn a_waker_that_wakes_the_connection_when_it_is_dropped_does_not_hang() {
        struct Wakes(Arc<Conn>);
        impl std::task::Wake for Wakes {
            fn wake(self: Arc<Self>) {}
        }
        impl Drop for Wakes {
            fn drop(&mut self) {
                self.0.wake();
            }
        }
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let connection = shared().connect();
            connection.0.register(&Arc::new(Wakes(Arc::clone(&connection.0))).into());
            connection.0.register(Waker::noop());
            let _ = done.send(());
        });
        assert_eq!(is_done.recv_timeout(std::time::Duration::from_secs(20)), Ok(()));
    }

    /// Requests and connections end while they are cut: each is counted once.
    #[test]
    fn what_ends_while_it_is_cut_is_counted_once() {
        for round in 0..1_000 {
            let shared = shared();
            let all: Vec<_> = (0..4)
                .map(|_| {
                    let connection = shared.connect();
                    (connection.0.begin(), connection)
                })
                .collect();
            let ready = AtomicBool::new(false);
            let aborted = std::thread::scope(|threads| {
                threads.spawn(|| {
                    ready.store(true, Ordering::SeqCst);
                    for (mut request, connection) in all {
                        request.complete();
                        drop(request);
                        drop(connection);
                    }
                });
                while !ready.load(Ordering::SeqCst) {
                    std::hint::spin_loop();
                }
                shared.cut_all()
            });
            let drained = shared.counts.drained.load(Ordering::SeqCst);
            let closed = shared.counts.closed.load(Ordering::SeqCst);
            assert_eq!(drained + aborted.requests, 4, "requests, round {round}");
            assert_eq!(closed + aborted.connections, 4, "connections, round {round}");
        }
    }
}
