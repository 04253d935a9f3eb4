//! Every interleaving of records with each other, with a bucket's turn-over, with clearing and reading.
//! Loom's threads share one stripe.

use std::time::Duration;

use loom::sync::Arc;
use loom::thread;

use super::{CountWindow, Mark, TimeWindow, Totals};
use crate::clock::Tick;

const FAILED: Mark = Mark { failed: true, slow: false };

/// A nanosecond is a bucket: `THEN` and `NOW` share a slot, and `THEN` is just out of the window.
const THEN: Tick = Tick(1_000);
const NOW: Tick = Tick(1_011);

fn time() -> Arc<TimeWindow> {
    Arc::new(TimeWindow::new(Duration::from_nanos(10), 1))
}

fn totals(calls: u64, failures: u64) -> Totals {
    Totals { calls, failures, slow: 0 }
}

/// Whoever comes second must not empty what the first has counted.
#[test]
fn loom_two_turn_a_bucket_over_once() {
    loom::model(|| {
        let window = time();
        window.record(THEN, FAILED);
        window.record(THEN, Mark::SUCCESS);
        let other = Arc::clone(&window);
        let thread = thread::spawn(move || other.record(NOW, FAILED));
        window.record(NOW, Mark::SUCCESS);
        thread.join().unwrap();
        assert_eq!(window.totals(NOW), totals(2, 1));
        assert_eq!(window.successes_ever(), 2);
    });
}

/// A call whose clock was read long ago lands in the new interval or among those retired.
#[test]
fn loom_a_late_call_is_not_lost_when_its_bucket_turns_over() {
    loom::model(|| {
        let window = time();
        window.record(THEN, Mark::SUCCESS);
        let other = Arc::clone(&window);
        let late = thread::spawn(move || other.record(THEN, Mark::SUCCESS));
        window.record(NOW, FAILED);
        late.join().unwrap();
        let seen = window.totals(NOW);
        assert!(seen == totals(1, 1) || seen == totals(2, 1), "{seen:?}");
        assert_eq!(window.successes_ever(), 2);
    });
}

/// Who sees the new interval sees the emptied counts. The reader is the second thread: where the first one
/// only loads, loom does not try out the stores of others in between.
#[test]
fn loom_a_reader_never_takes_old_failures_for_new_ones() {
    loom::model(|| {
        let window = time();
        window.record(THEN, FAILED);
        let other = Arc::clone(&window);
        let reader = thread::spawn(move || {
            let seen = other.totals(NOW);
            assert!(seen == totals(0, 0) || seen == totals(1, 0), "{seen:?}");
        });
        window.record(NOW, Mark::SUCCESS);
        reader.join().unwrap();
        assert_eq!(window.totals(NOW), totals(1, 0));
    });
}

#[test]
fn loom_clearing_a_time_window_loses_no_call() {
    loom::model(|| {
        let window = time();
        window.record(NOW, FAILED);
        let other = Arc::clone(&window);
        let thread = thread::spawn(move || other.record(NOW, Mark::SUCCESS));
        window.clear();
        thread.join().unwrap();
        let seen = window.totals(NOW);
        assert!(seen == totals(0, 0) || seen == totals(1, 0), "{seen:?}");
        assert_eq!(window.successes_ever(), 1);
    });
}

/// Three calls, of which the last two are a success and a failure in either order.
#[test]
fn loom_a_count_window_holds_the_last_n() {
    loom::model(|| {
        let window = Arc::new(CountWindow::new(2));
        window.record(FAILED);
        let other = Arc::clone(&window);
        let thread = thread::spawn(move || other.record(FAILED));
        window.record(Mark::SUCCESS);
        thread.join().unwrap();
        assert_eq!(window.totals(), totals(2, 1));
        assert_eq!(window.successes_ever(), 1);
    });
}

/// Two calls for one place: either may be the one that stays, and the total is that of the ring.
#[test]
fn loom_a_count_windows_total_follows_its_ring() {
    loom::model(|| {
        let window = Arc::new(CountWindow::new(1));
        window.record(FAILED);
        let other = Arc::clone(&window);
        let thread = thread::spawn(move || other.record(FAILED));
        window.record(Mark::SUCCESS);
        thread.join().unwrap();
        let seen = window.totals();
        assert!(seen == totals(1, 0) || seen == totals(1, 1), "{seen:?}");
        window.record(Mark::SUCCESS);
        assert_eq!(window.totals(), totals(1, 0), "what was counted has been taken back");
        window.record(FAILED);
        assert_eq!(window.totals(), totals(1, 1));
    });
}

#[test]
fn loom_clearing_a_count_window_beside_a_success_leaves_no_failure() {
    loom::model(|| {
        let window = Arc::new(CountWindow::new(2));
        window.record(FAILED);
        window.record(FAILED);
        let other = Arc::clone(&window);
        let thread = thread::spawn(move || other.record(Mark::SUCCESS));
        window.clear();
        thread.join().unwrap();
        let seen = window.totals();
        assert!(seen == totals(0, 0) || seen == totals(1, 0), "{seen:?}");
        assert_eq!(window.successes_ever(), 1);
        for failures in 1..=2 {
            window.record(FAILED);
            assert_eq!(window.totals().failures, failures);
        }
        assert_eq!(window.totals(), totals(2, 2));
    });
}
