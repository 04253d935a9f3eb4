//! The stores on servers, beside the bare client's shortest question over the same kind of connection.

#[allow(dead_code, unreachable_pub, reason = "the tests use all of it")]
#[path = "../../../../tests/servers/start.rs"]
mod start;

use std::time::Duration;

use buttress::Quota;
use buttress::store::{PostgresStore, RateStore, RecordId, RedisStore};
use redis::AsyncCommands;

pub(super) use start::Server;

use super::{CALLERS, End, Line, Rounds, Table, load, phases, runtime};

const GET: &str = "bare client, GET";
const SELECT: &str = "bare client, SELECT 1";
const TAKE: &str = "take of a shared limit";
/// Longer than the default: a busy machine must not end a measurement.
const PATIENCE: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error>;

/// What one has to do to have the servers that are missing.
pub(super) fn redis_missing() -> Option<&'static str> {
    let there = start::redis_program().is_some();
    (!there).then_some("redis-server is missing: bash tests/run.sh --install")
}

pub(super) fn postgres_missing() -> Option<&'static str> {
    let there = start::postgres_programs().is_some();
    (!there).then_some("postgres is missing: bash tests/run.sh --install")
}

/// Writes its log, as the store's documentation advises; once a second it goes to the disk.
pub(super) async fn redis_server() -> Server {
    start::redis(&[], &["--appendonly", "yes", "--appendfsync", "everysec"]).await
}

pub(super) fn redis_client(server: &Server) -> redis::RedisResult<redis::Client> {
    redis::Client::open(format!("redis://127.0.0.1:{}/", server.port))
}

pub(super) fn redis_store(server: &Server) -> Result<RedisStore, Failure> {
    let builder = RedisStore::builder(redis_client(server)?);
    Ok(builder.timeout(PATIENCE).connect_timeout(PATIENCE).build()?)
}

/// As it comes, `fsync` and `synchronous_commit` on.
pub(super) async fn postgres_server() -> Server {
    let answers =
        async |config: &str| tokio_postgres::connect(config, tokio_postgres::NoTls).await.is_ok();
    start::postgres(&[], &["fsync=on", "synchronous_commit=on"], answers).await
}

pub(super) async fn postgres_store(server: &Server) -> Result<PostgresStore, Failure> {
    let config = format!("host=127.0.0.1 port={} user=postgres", server.port);
    let store = PostgresStore::builder(config.parse()?).timeout(PATIENCE).build()?;
    store.create_schema().await?;
    Ok(store)
}

fn unmeasured(store: &str, why: &dyn std::fmt::Display) -> Vec<Line> {
    eprintln!("  {store}: {why}; its rows stay empty");
    vec![Line { store: store.to_owned(), operation: "not measured", ..Line::default() }]
}

/// Takes from a bucket that is never empty.
async fn take<S: RateStore + Clone>(table: &mut Table, store: &S, callers: usize, time: Duration) {
    let quota = Quota::per_second(1_000_000_000).expect("a valid quota");
    let of = store.clone();
    let take = move |_| {
        let (store, quota) = (of.clone(), quota);
        async move {
            match store.take(&RecordId::of(b"versus", b"limit"), &quota, 1, 1).await {
                Ok(taken) if taken.granted == 1 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
    };
    table.add(TAKE, callers, load(callers, 0, End::After(time), take).await);
}

pub(super) fn redis(rounds: Rounds) -> Vec<Line> {
    if let Some(why) = redis_missing() {
        return unmeasured("redis", &why);
    }
    let measured = runtime().block_on(async {
        let server = redis_server().await;
        let store = redis_store(&server)?;
        let mut bare = redis_client(&server)?.get_multiplexed_async_connection().await?;
        let () = bare.set("versus", "a value").await?;
        let get = move |_| {
            let mut bare = bare.clone();
            async move {
                let value: Result<String, _> = bare.get("versus").await;
                value.map(drop).map_err(|error| error.to_string())
            }
        };
        let mut table = Table::new("redis");
        let mut first = 0;
        for round in 0..rounds.rounds {
            for callers in CALLERS {
                let half = End::After(rounds.time / 2);
                table.add(GET, callers, load(callers, 0, half, get.clone()).await);
                phases(&mut table, &store, callers, &mut first, rounds.time).await;
                take(&mut table, &store, callers, rounds.time / 2).await;
            }
            eprintln!("  round {} of {}", round + 1, rounds.rounds);
        }
        Ok::<_, Failure>(table.lines(|callers| (GET, callers)))
    });
    measured.unwrap_or_else(|error| unmeasured("redis", &error))
}

pub(super) fn postgres(rounds: Rounds) -> Vec<Line> {
    if let Some(why) = postgres_missing() {
        return unmeasured("postgres", &why);
    }
    let measured = runtime().block_on(async {
        let server = postgres_server().await;
        let store = postgres_store(&server).await?;
        // Of the store's own pool, eight connections.
        let pool = store.pool().clone();
        let select = move |_| {
            let pool = pool.clone();
            async move {
                let client = pool.get().await.map_err(|error| error.to_string())?;
                let asked = client.prepare_cached("SELECT 1").await;
                let asked = asked.map_err(|error| error.to_string())?;
                client.query_one(&asked, &[]).await.map(drop).map_err(|error| error.to_string())
            }
        };
        let mut table = Table::new("postgres");
        let mut first = 0;
        for round in 0..rounds.rounds {
            for callers in CALLERS {
                let half = End::After(rounds.time / 2);
                table.add(SELECT, callers, load(callers, 0, half, select.clone()).await);
                phases(&mut table, &store, callers, &mut first, rounds.time).await;
                take(&mut table, &store, callers, rounds.time / 2).await;
            }
            eprintln!("  round {} of {}", round + 1, rounds.rounds);
        }
        Ok::<_, Failure>(table.lines(|callers| (SELECT, callers)))
    });
    measured.unwrap_or_else(|error| unmeasured("postgres", &error))
}
