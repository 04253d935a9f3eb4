//! Settings of running objects that are changed while calls are made: none is lost, and none is decided by
//! half of the old and half of the new.

mod rate_limit;

/// Runs `call` on three threads, `CALLS` times in all, while `change` is called `CHANGES` times, spread over
/// them. The numbers of changes and calls are given to both.
fn under_load(call: impl Fn(usize) + Sync, change: impl Fn(usize)) {
    const THREADS: usize = 3;
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= CALLS {
                        return;
                    }
                    call(number);
                }
            });
        }
        for number in 0..CHANGES {
            while next.load(Ordering::Relaxed) < number * CALLS / CHANGES {
                std::hint::spin_loop();
            }
            change(number);
        }
    });
}

const CALLS: usize = 10_000;
const CHANGES: usize = 50;

use std::sync::atomic::{AtomicUsize, Ordering};
