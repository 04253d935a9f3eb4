//! Settings of running objects that are changed while calls are made: none is lost, and none is decided by
//! half of the old and half of the new.

mod budget;
mod circuit_breaker;
mod rate_limit;
mod rate_limit_slot;
mod retry;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::yield_now;

use tower::{Layer, Service};

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

/// A layer around another whose services call `change` with a number, each time that they are asked whether they are ready
/// for the `every`th time.
#[derive(Clone)]
struct Toggled<L> {
    layer: L,
    every: u64,
    asked: Arc<AtomicU64>,
    change: Arc<dyn Fn(u64) + Send + Sync>,
}

impl<L> Toggled<L> {
    fn new(layer: L, every: u64, change: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { layer, every, asked: Arc::default(), change: Arc::new(change) }
    }
}

impl<S, L: Layer<S> + Clone> Layer<S> for Toggled<L> {
    type Service = ToggledService<L::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        let Self { layer, every, asked, change } = self.clone();
        ToggledService { inner: layer.layer(inner), every, asked, change }
    }
}

#[derive(Clone)]
struct ToggledService<S> {
    inner: S,
    every: u64,
    asked: Arc<AtomicU64>,
    change: Arc<dyn Fn(u64) + Send + Sync>,
}

impl<S: Service<Req>, Req> Service<Req> for ToggledService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        if asked.is_multiple_of(self.every) {
            (self.change)(asked);
        }
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> S::Future {
        self.inner.call(req)
    }
}
