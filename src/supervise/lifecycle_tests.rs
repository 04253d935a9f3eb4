use super::*;

#[test]
fn phases_go_forward_only_and_keep_their_deadline() {
    let life = Lifecycle::new();
    let end = Instant::now() + Duration::from_secs(5);
    assert!(life.advance(Phase::LameDuck, Some(end)));
    assert!(!life.advance(Phase::LameDuck, None), "a second signal must not move the deadline");
    assert_eq!(life.deadline(), Some(end));
    assert!(life.advance(Phase::Exited, None));
    assert_eq!((life.phase(), life.deadline()), (Phase::Exited, None));
}

#[tokio::test]
async fn waits_end_for_phases_passed_over_and_for_the_last_hold() {
    let life = Lifecycle::new();
    let holds = [life.hold("a"), life.hold("b")];
    let waiter = life.clone();
    let waits = async { tokio::join!(waiter.reached(Phase::LameDuck), waiter.released()) };
    let moves = async {
        tokio::task::yield_now().await;
        life.advance(Phase::Draining, None);
        drop(holds);
    };
    tokio::join!(waits, moves);
    assert!(life.released_blocking(Duration::ZERO));
}

#[tokio::test]
async fn a_tally_holds_the_drain_while_something_is_in_flight() {
    let life = Lifecycle::new();
    let tally = life.tally("requests");
    tally.begin();
    tally.begin();
    life.advance(Phase::Draining, None);
    assert_eq!(life.held_by(), ["requests".into()]);
    tally.end();
    assert!(!life.released_blocking(Duration::ZERO));
    let waits = life.released();
    let ends = async {
        tokio::task::yield_now().await;
        tally.end();
    };
    tokio::join!(waits, ends);
    // What begins later holds again, and one that is gone does not.
    tally.begin();
    assert!(!life.released_blocking(Duration::ZERO));
    drop(tally);
    assert!(life.released_blocking(Duration::ZERO));
}

/// The last one ends while the phase changes: whoever comes second has to see the other.
#[test]
fn the_end_of_a_tally_is_not_missed() {
    for _ in 0..2_000 {
        let life = Lifecycle::new();
        let tally = life.tally("requests");
        tally.begin();
        std::thread::scope(|scope| {
            scope.spawn(|| tally.end());
            life.advance(Phase::Draining, None);
            assert!(life.released_blocking(Duration::from_secs(20)));
        });
        assert_eq!(*life.0.holds.borrow(), 0);
    }
}

#[test]
fn a_blocked_thread_is_woken() {
    let life = Lifecycle::new();
    let hold = life.hold("http");
    let waiter = life.clone();
    let thread = std::thread::spawn(move || {
        waiter.wait_blocking(Phase::Ready, Duration::from_secs(20))
            && waiter.released_blocking(Duration::from_secs(20))
    });
    life.advance(Phase::Ready, None);
    drop(hold);
    assert!(thread.join().unwrap());
}

#[test]
fn whoever_drives_the_phases_waits_for_what_is_in_flight() {
    let life = Lifecycle::new();
    let tally = life.tally("requests");
    tally.begin();
    life.advance(Phase::Draining, None);
    let driver = life.clone();
    let (told, ended) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        driver.drained_blocking(Duration::from_secs(20));
        told.send(driver.held_by()).unwrap();
    });
    let early = ended.recv_timeout(Duration::from_millis(100));
    assert!(early.is_err(), "gone on over {early:?}");
    tally.end();
    assert_eq!(ended.recv().unwrap(), []);
    thread.join().unwrap();
}

#[tokio::test]
async fn whoever_waits_before_the_drain_waits_for_tallies_too() {
    let life = Lifecycle::new();
    let tally = life.tally("requests");
    tally.begin();
    let mut waits = Box::pin(life.released());
    assert!(futures_util::poll!(waits.as_mut()).is_pending());
    let (waiter, from) = (life.clone(), Instant::now());
    let patience = Duration::from_secs(20);
    let thread = std::thread::spawn(move || waiter.released_blocking(patience));
    crate::clock::park(Duration::from_millis(100));
    tally.end();
    waits.await;
    assert!(thread.join().unwrap());
    assert!(from.elapsed() < patience, "nobody woke it");
}

/// Requests end and holds are dropped while the phases move: nobody may sleep through the last of them,
/// and none may be counted as over while it is in flight.
#[test]
fn the_last_one_to_leave_is_never_missed() {
    let patience = Duration::from_secs(20);
    for round in 0..2_000_u32 {
        let life = Lifecycle::new();
        let tally = Arc::new(life.tally("requests"));
        let hold = life.hold("worker");
        tally.begin();
        let open = AtomicUsize::new(2);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for _ in 0..round % 50 {
                    std::hint::spin_loop();
                }
                open.fetch_sub(1, Ordering::SeqCst);
                tally.end();
            });
            threads.spawn(|| {
                open.fetch_sub(1, Ordering::SeqCst);
                drop(hold);
            });
            threads.spawn(|| {
                let from = Instant::now();
                assert!(life.wait_blocking(Phase::Draining, patience));
                assert!(life.released_blocking(patience), "round {round}");
                assert!(from.elapsed() < patience, "round {round}: nobody woke it");
            });
            life.advance(Phase::Draining, None);
            life.drained_blocking(patience);
            assert_eq!(open.load(Ordering::SeqCst), 0, "round {round}");
            assert_eq!(life.held_by(), [], "round {round}");
        });
        // What is waited for asynchronously is told the same, a moment later.
        assert_eq!(*life.0.holds.borrow(), 0, "round {round}");
    }
}

#[test]
fn a_drain_ends_when_somebody_goes_on() {
    let life = Lifecycle::new();
    let _hold = life.hold("http");
    let driver = life.clone();
    let thread = std::thread::spawn(move || driver.drained_blocking(Duration::from_secs(3600)));
    life.advance(Phase::Cleanup, None);
    thread.join().unwrap();
    assert!(!life.released_blocking(Duration::ZERO));
}

/// An executor may drop a task that it is to wake, and with it what that task holds.
#[test]
fn a_waker_may_drop_a_hold() {
    use std::sync::mpsc;
    use std::task::{Context, Wake, Waker};

    struct Drops(Mutex<Option<Hold>>);
    impl Wake for Drops {
        fn wake(self: Arc<Self>) {
            let hold = self.0.lock().unwrap().take();
            drop(hold);
        }
    }
    for what in 0..3 {
        let life = Lifecycle::new();
        let drops = Arc::new(Drops(Mutex::new(Some(life.hold("task")))));
        let other = life.hold("other");
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let waker = Waker::from(drops);
            let mut cx = Context::from_waker(&waker);
            let mut phase = Box::pin(life.reached(Phase::Draining));
            let mut released = Box::pin(life.released());
            if what == 0 {
                assert!(phase.as_mut().poll(&mut cx).is_pending());
            } else {
                assert!(released.as_mut().poll(&mut cx).is_pending());
            }
            match what {
                0 => assert!(life.advance(Phase::Draining, None)),
                1 => drop(other),
                _ => drop(life.hold("a third")),
            }
            tell.send(life.held_by()).unwrap();
        });
        let left = told.recv_timeout(Duration::from_secs(5)).expect("a deadlock");
        assert!(!left.contains(&"task".into()), "{what}: {left:?}");
    }
}
