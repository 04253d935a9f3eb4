//! The default stack around hyper, reqwest and tonic, against servers that answer, hang, refuse and die. Over real
//! sockets and in real time: what is said of times are bounds.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "tests spawn what users spawn")]

mod calls;
mod cancelled;
mod clients;
mod grpc;
mod pool;
mod reqwest_plain;
mod server;

use std::time::Duration;

use buttress::Backend;
use tokio::time::{Instant, sleep};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What is awaited comes to be, sooner or later.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let late = Instant::now() + ms(20_000);
    while !holds() {
        assert!(Instant::now() < late, "not in 20 s: {what}");
        sleep(ms(2)).await;
    }
}

/// Neither a place nor a waiter is left.
fn is_empty(backend: &Backend) {
    let stats = backend.stats();
    assert_eq!((stats.in_flight, stats.waiting), (0, 0), "{stats:?}");
}
