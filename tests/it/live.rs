//! Settings of running objects that are changed while calls are made: none is lost, and none is decided by
//! half of the old and half of the new.

mod budget;
#[cfg(feature = "testing")]
mod circuit_breaker;
mod rate_limit;
#[cfg(feature = "testing")]
mod rate_limit_slot;
mod retry;
#[cfg(feature = "testing")]
mod toggled;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::yield_now;

const CALLS: usize = 10_000;
const CHANGES: usize = 50;

/// Runs `call` on three threads, `CALLS` times in all, and `change` `CHANGES` times, each while the calls of
/// its turn are made. Both are given their number.
fn under_load(call: impl Fn(usize) + Sync, change: impl Fn(usize)) {
    const THREADS: usize = 3;
    const TURN: usize = CALLS / CHANGES;
    let (next, changed, ended) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    /// Also when a call panics: nobody may wait for it.
    struct Ended<'a>(&'a AtomicUsize);
    impl Drop for Ended<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let _ended = Ended(&ended);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= CALLS {
                        return;
                    }
                    while changed.load(Ordering::Relaxed) < number / TURN {
                        yield_now();
                    }
                    call(number);
                }
            });
        }
        for number in 0..CHANGES {
            // In the middle of the turn.
            while next.load(Ordering::Relaxed) < number * TURN + TURN / 2 {
                if ended.load(Ordering::Relaxed) == THREADS {
                    return;
                }
                yield_now();
            }
            change(number);
            changed.fetch_add(1, Ordering::Relaxed);
        }
    });
}
