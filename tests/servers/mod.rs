//! Real servers for tests: each in a folder of its own, on a port that was free, stopped when it is dropped or
//! when this process ends, however that happens.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "several test programs use different parts of it"
)]
#![expect(clippy::cast_possible_truncation, reason = "times and rates of tests are small")]

#[cfg(target_os = "linux")]
pub mod clock;
pub mod limits;
pub mod processes;
pub mod proxy;
mod start;
pub mod suite;

use start::Folder;
pub use start::{Server, signal};

pub async fn postgres(options: &[&str]) -> Server {
    start::postgres(&[], options, tokio_postgres_connect).await
}

/// With a wall clock that can be set.
#[cfg(target_os = "linux")]
pub async fn postgres_with(clock: &clock::WallClock) -> Server {
    start::postgres(&clock.words(), &[], tokio_postgres_connect).await
}

pub async fn redis(options: &[&str]) -> Server {
    start::redis(&[], options).await
}

/// With a wall clock that can be set.
#[cfg(target_os = "linux")]
pub async fn redis_with(clock: &clock::WallClock) -> Server {
    start::redis(&clock.words(), &[]).await
}

#[cfg(feature = "store-postgres")]
async fn tokio_postgres_connect(config: &str) -> bool {
    tokio_postgres::connect(config, tokio_postgres::NoTls).await.is_ok()
}

#[cfg(not(feature = "store-postgres"))]
async fn tokio_postgres_connect(_: &str) -> bool {
    unreachable!("only tests of that store start it")
}

/// One server for all tests of this program that do it no harm, stopped when the program ends.
pub async fn shared_port(start: impl AsyncFnOnce() -> Server) -> u16 {
    static PORT: tokio::sync::OnceCell<u16> = tokio::sync::OnceCell::const_new();
    let forever = async || {
        let server = start().await;
        let port = server.port;
        // Statics are not dropped: its keeper stops it when this process is gone.
        std::mem::forget(server);
        port
    };
    *PORT.get_or_init(forever).await
}
