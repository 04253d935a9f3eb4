//! Whole processes that serve HTTP from one store: duplicates through all of them, kills at every step, clocks
//! that are set. A binary of its own, because its tests start this very binary again as such a process.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "tests spawn; nothing here runs under paused time")]

#[path = "../servers/mod.rs"]
mod servers;

mod child;
mod client;
#[cfg(target_os = "linux")]
mod clock;
mod duplicates;
mod kill;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use buttress::store::{
    AnyStore, Attempt, FileStore, MemoryStore, OpenError, PostgresStore, RedisStore,
};
use tokio::sync::OnceCell;

/// Where a store is, in words that fit into an environment variable.
#[derive(Clone, Debug)]
struct Place(String);

impl Place {
    fn memory() -> Self {
        Self("memory".to_owned())
    }

    fn file(scratch: &Scratch) -> Self {
        Self(format!("file {}", scratch.0.join("store").display()))
    }

    /// On the server that all tests share, with keys of its own.
    async fn redis() -> Self {
        static PORT: OnceCell<u16> = OnceCell::const_new();
        let start = async || forever(servers::redis(&[]).await);
        Self::redis_at(*PORT.get_or_init(start).await)
    }

    fn redis_at(port: u16) -> Self {
        Self(format!("redis {port} {}", unique()))
    }

    async fn postgres() -> Self {
        static PORT: OnceCell<u16> = OnceCell::const_new();
        let start = async || forever(servers::postgres(&[]).await);
        Self::postgres_at(*PORT.get_or_init(start).await).await
    }

    /// With tables of its own, which are made.
    async fn postgres_at(port: u16) -> Self {
        let place = Self(format!("postgres {port} {}", unique()));
        place.open_postgres().create_schema().await.unwrap();
        place
    }

    fn parts(&self) -> (&str, u16, &str) {
        let mut words = self.0.splitn(3, ' ');
        let what = words.next().unwrap();
        let port = words.next().and_then(|port| port.parse().ok()).unwrap_or(0);
        (what, port, words.next().unwrap_or(""))
    }

    fn open_postgres(&self) -> PostgresStore {
        let (_, port, prefix) = self.parts();
        let config = format!("host=127.0.0.1 port={port} user=postgres").parse().unwrap();
        PostgresStore::builder(config)
            .table_prefix(prefix)
            .timeout(Duration::from_secs(10))
            .max_connections(12)
            .build()
            .unwrap()
    }

    fn open_redis(&self) -> RedisStore {
        let (_, port, prefix) = self.parts();
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
        // On a machine that does other things, too: these are not the tests of the timeouts.
        let ten = Duration::from_secs(10);
        let builder = RedisStore::builder(client).key_prefix(prefix);
        builder.timeout(ten).connect_timeout(ten).build().unwrap()
    }

    fn open(&self) -> Result<AnyStore, OpenError> {
        Ok(match self.parts().0 {
            "memory" => AnyStore::new(MemoryStore::default()),
            "file" => AnyStore::new(FileStore::open(self.0.strip_prefix("file ").unwrap())?),
            "redis" => AnyStore::new(self.open_redis()),
            "postgres" => AnyStore::new(self.open_postgres()),
            other => panic!("{other}"),
        })
    }
}

/// Its keeper stops it when this process is gone.
fn forever(server: servers::Server) -> u16 {
    let port = server.port;
    std::mem::forget(server);
    port
}

fn unique() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A directory that is removed in the end. The effects are written down in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("buttress-{:x}", u128::from_le_bytes(*Attempt::new().as_bytes()));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn effects(&self) -> Effects {
        let log = std::fs::read_to_string(self.0.join("effects")).unwrap_or_default();
        Effects(log.lines().map(ToOwned::to_owned).collect())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The keys whose effects have happened, one for each time.
struct Effects(Vec<String>);

impl Effects {
    fn of(&self, key: &str) -> usize {
        self.0.iter().filter(|line| *line == key).count()
    }
}
