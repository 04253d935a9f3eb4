//! The store in PostgreSQL, against a real server.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "tests spawn; nothing here runs under paused time")]

mod servers;

use std::error::Error as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use buttress::store::{
    Begun, Finish, Outcome, PostgresStore, PostgresStoreBuilder, RateStore, RecordId, Renewed,
    State, Store, StoreError, StoreErrorKind,
};
use tokio::time::{Instant, sleep};
use tokio_postgres::NoTls;

use servers::limits;
use servers::processes;
use servers::proxy::Proxy;
use servers::suite::{self, HOUR, claim, outcome};
use servers::{Server, shared_port};

async fn start() -> Server {
    servers::postgres(&[]).await
}

fn config(port: u16) -> tokio_postgres::Config {
    format!("host=127.0.0.1 port={port} user=postgres").parse().unwrap()
}

/// Tables of its own on the server that all tests share.
async fn builder() -> PostgresStoreBuilder {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let port = shared_port(start).await;
    PostgresStore::builder(config(port))
        .table_prefix(format!("t{number}"))
        .timeout(Duration::from_secs(10))
}

async fn store() -> PostgresStore {
    let store = builder().await.build().unwrap();
    store.create_schema().await.unwrap();
    store
}

/// How the tables of a store are called.
fn prefix(store: &PostgresStore) -> String {
    let shown = format!("{store:?}");
    shown.split('"').nth(1).unwrap().to_owned()
}

/// What is asked of an operation that cannot succeed: an error of that kind, in time.
async fn fails_within<T: std::fmt::Debug>(
    limit: Duration,
    operation: impl Future<Output = Result<T, StoreError>>,
) -> StoreErrorKind {
    let since = Instant::now();
    let error = operation.await.unwrap_err();
    assert!(since.elapsed() < limit, "{:?}: {error:?}", since.elapsed());
    error.kind()
}

#[tokio::test(flavor = "multi_thread")]
async fn does_what_every_store_does() {
    let store = store().await;
    suite::agrees_with_memory(&store, 60).await;
    suite::keeps_its_word(&store).await;
    suite::keeps_tenants_apart(&store).await;
    // The same without prepared statements, as behind a pooler.
    let plain = builder().await.behind_pooler(true).build().unwrap();
    plain.create_schema().await.unwrap();
    suite::agrees_with_memory(&plain, 20).await;
    suite::keeps_its_word(&plain).await;
}

#[cfg(feature = "testing")]
#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let store = builder().await.max_connections(20).build().unwrap();
    store.create_schema().await.unwrap();
    suite::conforms(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_duplicates_through_two_pools_run_once() {
    let one = builder().await.max_connections(20).build().unwrap();
    one.create_schema().await.unwrap();
    let other = PostgresStore::builder(config(shared_port(start).await))
        .table_prefix(prefix(&one))
        .timeout(Duration::from_secs(10))
        .max_connections(20)
        .build()
        .unwrap();
    suite::runs_once(&[one.clone(), other.clone()], 1_000).await;
    suite::gates_run_once(&[one, other], 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_go_leave_nothing_behind() {
    let store = store().await;
    suite::forgets_who_has_gone(&store).await;
    suite::takes_claims_back(&store, 200).await;
}

/// Also where the sequence has forgotten what it gave.
#[tokio::test(flavor = "multi_thread")]
async fn generations_do_not_go_back_with_the_sequence() {
    let store = store().await;
    let id = RecordId::of(b"", b"k");
    let mut last = 0;
    let client = store.pool().get().await.unwrap();
    let sequence = format!("{}_generation", prefix(&store));
    for round in 0..4 {
        let mine = claim();
        let Begun::Run { generation, .. } = store.begin(&id, &mine).await.unwrap() else {
            panic!()
        };
        assert!(generation > last, "{round}: {generation} after {last}");
        last = generation;
        store.release(&id, mine.attempt).await.unwrap();
        match round {
            // As after a backup was restored.
            1 => drop(
                client.execute("SELECT setval($1::text::regclass, 7)", &[&sequence]).await.unwrap(),
            ),
            // As in a logical replica.
            2 => client.batch_execute(&format!("ALTER SEQUENCE {sequence} RESTART")).await.unwrap(),
            _ => {}
        }
        store.create_schema().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_may_be_dropped_anywhere() {
    let store = store().await;
    suite::may_be_dropped(&store, 150).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_and_its_record_commit_together_or_not_at_all() {
    let store = store().await;
    let mut client = store.pool().get().await.unwrap();
    let effects = format!("{}_effects", prefix(&store));
    client.batch_execute(&format!("CREATE TABLE {effects} (n int)")).await.unwrap();
    let insert = format!("INSERT INTO {effects} VALUES (1)");
    let count = format!("SELECT count(*) FROM {effects}");
    let id = RecordId::of(b"", b"order");

    // The first owner is too slow: somebody takes over before it commits.
    let slow = claim().lease(Duration::ZERO);
    assert!(matches!(store.begin(&id, &slow).await.unwrap(), Begun::Run { .. }));
    let rerun = claim().on_interrupted(buttress::store::OnInterrupted::Rerun(3));
    let tx = client.transaction().await.unwrap();
    tx.execute(&insert, &[]).await.unwrap();
    assert!(matches!(store.begin(&id, &rerun).await.unwrap(), Begun::Run { runs: 2, .. }));
    let finish = store.complete_in(&tx, &id, slow.attempt, &outcome("slow"), HOUR).await.unwrap();
    assert_eq!(finish, Finish::Fenced);
    tx.rollback().await.unwrap();

    // Rolled back after it was recorded: neither has happened.
    let tx = client.transaction().await.unwrap();
    tx.execute(&insert, &[]).await.unwrap();
    let finish = store.complete_in(&tx, &id, rerun.attempt, &outcome("x"), HOUR).await.unwrap();
    assert_eq!(finish, Finish::Applied);
    assert_eq!(store.get(&id).await.unwrap().unwrap().state, State::Pending, "not committed yet");
    drop(tx);
    assert_eq!(store.renew(&id, rerun.attempt, HOUR, HOUR).await.unwrap(), Renewed::Held);

    let tx = client.transaction().await.unwrap();
    tx.execute(&insert, &[]).await.unwrap();
    let finish = store.complete_in(&tx, &id, rerun.attempt, &outcome("x"), HOUR).await.unwrap();
    assert_eq!(finish, Finish::Applied);
    tx.commit().await.unwrap();
    let row = client.query_one(&count, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    assert!(matches!(store.begin(&id, &claim()).await.unwrap(), Begun::Done(_)));
}

/// The answer to a commit was lost, so nobody knows, and everything is done once more.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_made_again_commits_its_effect_once() {
    let store = store().await;
    let mut client = store.pool().get().await.unwrap();
    let effects = format!("{}_effects", prefix(&store));
    client.batch_execute(&format!("CREATE TABLE {effects} (n int)")).await.unwrap();
    let (id, mine) = (RecordId::of(b"", b"order"), claim());
    store.begin(&id, &mine).await.unwrap();
    let mut finishes = vec![];
    for _ in 0..3 {
        let tx = client.transaction().await.unwrap();
        tx.execute(&format!("INSERT INTO {effects} VALUES (1)"), &[]).await.unwrap();
        let finish = store.complete_in(&tx, &id, mine.attempt, &outcome("paid"), HOUR).await;
        finishes.push(finish.unwrap());
        // As the documentation says.
        if finishes[finishes.len() - 1].is_applied() {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
    }
    assert_eq!(finishes, [Finish::Applied, Finish::Already, Finish::Already]);
    let row = client.query_one(&format!("SELECT count(*) FROM {effects}"), &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_made_once_and_only_those_of_a_known_version_are_used() {
    let none = builder().await.build().unwrap();
    let id = RecordId::of(b"", b"k");
    let error = none.begin(&id, &claim()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    assert!(error.source().unwrap().to_string().contains("create_schema"), "{error:?}");

    // Ten at once.
    let made = futures_util::future::join_all((0..10).map(|_| none.create_schema())).await;
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    none.check_schema().await.unwrap();
    assert!(none.begin(&id, &claim()).await.is_ok(), "the refusal was not for good");

    let client = none.pool().get().await.unwrap();
    let prefix = prefix(&none);
    client.batch_execute(&format!("UPDATE {prefix}_schema SET version = 99")).await.unwrap();
    let later = PostgresStore::over(none.pool().clone()).table_prefix(&prefix).build().unwrap();
    for error in [
        later.begin(&id, &claim()).await.unwrap_err(),
        later.check_schema().await.unwrap_err(),
        later.create_schema().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), StoreErrorKind::Refused);
        let why = error.source().unwrap().to_string();
        assert!(why.contains("version 99") && why.contains("version 1"), "{why}");
    }
    let left = client.query_one(&format!("SELECT count(*) FROM {prefix}_records"), &[]).await;
    assert_eq!(left.unwrap().get::<_, i64>(0), 1, "left as it was");
}

/// Making them may take longer than an operation: whoever is at it is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn who_makes_the_tables_waits_for_who_is_at_it() {
    let store = builder().await.timeout(Duration::from_millis(400)).build().unwrap();
    let port = shared_port(start).await;
    let (client, connection) = tokio_postgres::connect(&format_config(port), NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("SELECT pg_advisory_lock(7094142370837983091)").await.unwrap();
    let made = tokio::spawn({
        let store = store.clone();
        async move { store.create_schema().await }
    });
    sleep(Duration::from_millis(900)).await;
    assert!(!made.is_finished());
    client.batch_execute("SELECT pg_advisory_unlock(7094142370837983091)").await.unwrap();
    made.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_is_not_taken_for_none() {
    let store = store().await;
    let (id, prefix) = (RecordId::of(b"", b"k"), prefix(&store));
    store.begin(&id, &claim()).await.unwrap();
    let client = store.pool().get().await.unwrap();
    for (spoil, restore) in [
        ("state = 7", "state = 0"),
        ("attempt = 'x'", "attempt = '\\x00112233445566778899aabbccddeeff'"),
        ("runs = -1", "runs = 1"),
        ("generation = -1", "generation = 1"),
        ("state = 1, head = ''", "state = 0"),
    ] {
        client.batch_execute(&format!("UPDATE {prefix}_records SET {spoil}")).await.unwrap();
        assert_eq!(store.get(&id).await.unwrap_err().kind(), StoreErrorKind::Corrupt, "{spoil}");
        assert_eq!(
            store.begin(&id, &claim()).await.unwrap_err().kind(),
            StoreErrorKind::Corrupt,
            "{spoil}"
        );
        client.batch_execute(&format!("UPDATE {prefix}_records SET {restore}")).await.unwrap();
    }
    assert!(store.get(&id).await.unwrap().is_some());
}

/// As by a `DISCARD ALL` of a pooler or of whoever shares the pool.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_lost_its_prepared_statements_is_replaced() {
    let store = builder().await.max_connections(1).build().unwrap();
    store.create_schema().await.unwrap();
    let id = RecordId::of(b"", b"k");
    store.get(&id).await.unwrap();
    store.pool().get().await.unwrap().batch_execute("DEALLOCATE ALL").await.unwrap();
    assert_eq!(store.get(&id).await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert!(store.get(&id).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn purging_takes_what_has_expired_and_nothing_else() {
    let store = store().await;
    let id = |n: u32| RecordId::of(b"purge", &n.to_le_bytes());
    for n in 0..30 {
        let mine = claim();
        store.begin(&id(n), &mine).await.unwrap();
        let retention = if n % 2 == 0 { Duration::ZERO } else { HOUR };
        store.complete(&id(n), mine.attempt, &outcome("x"), retention).await.unwrap();
    }
    // Held, though nobody wants it kept.
    let held = claim().retention(Duration::ZERO);
    store.begin(&id(100), &held).await.unwrap();
    assert_eq!(store.purge(10).await.unwrap(), 10);
    assert_eq!(store.purge(10).await.unwrap(), 5);
    assert_eq!(store.purge(5_000).await.unwrap(), 0);
    for n in 0..30 {
        assert_eq!(store.get(&id(n)).await.unwrap().is_some(), n % 2 == 1);
    }
    assert!(store.get(&id(100)).await.unwrap().is_some());
}

/// Of a table that is mostly alive, which is what a purge each minute meets.
#[tokio::test(flavor = "multi_thread")]
async fn purging_reads_what_has_expired_and_not_the_whole_table() {
    let store = builder().await.max_connections(1).build().unwrap();
    store.create_schema().await.unwrap();
    let client = store.pool().get().await.unwrap();
    // Of all 20 000, 100 have expired.
    let fill = format!(
        "INSERT INTO {p}_records
         SELECT decode(lpad(to_hex(n), 64, '0'), 'hex'), 1, n, '\\x00112233445566778899aabbccddeeff',
                decode(repeat('00', 32), 'hex'), 1, 0,
                CASE WHEN n <= 100 THEN n ELSE 9000000000000000 + n END, 0, 200, '', ''
         FROM generate_series(1, 20000) n;
         ANALYZE {p}_records;",
        p = prefix(&store)
    );
    client.batch_execute(&fill).await.unwrap();
    drop(client);
    // So that the connection has the statement.
    assert_eq!(store.purge(10).await.unwrap(), 10);

    let client = store.pool().get().await.unwrap();
    let find = "SELECT name FROM pg_prepared_statements WHERE statement LIKE $1";
    let pattern = "%DELETE FROM%ORDER BY r.expires_at LIMIT%";
    let name: String = client.query_one(find, &[&pattern]).await.unwrap().get(0);
    let explain = format!("EXPLAIN (ANALYZE, TIMING OFF) EXECUTE \"{name}\"(1000)");
    let plan = client.simple_query(&explain).await.unwrap();
    let lines = plan.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(ToOwned::to_owned),
        _ => None,
    });
    let lines: Vec<String> = lines.collect();
    let plan = lines.join("\n");
    let by_index = |line: &String| line.contains("Index Cond") && line.contains("expires_at <=");
    assert!(lines.iter().any(by_index), "{plan}");
    assert!(!plan.contains("Rows Removed by Filter"), "{plan}");
    assert!(!plan.contains("Seq Scan"), "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_kept_without_its_body() {
    let store = builder().await.max_outcome(100).build().unwrap();
    store.create_schema().await.unwrap();
    let (id, mine) = (RecordId::of(b"", b"k"), claim());
    store.begin(&id, &mine).await.unwrap();
    let head = std::sync::Arc::new(Outcome::new(200, vec![0; 101], vec![]));
    let finish = store.complete(&id, mine.attempt, &head, HOUR).await.unwrap();
    assert_eq!(finish, Finish::Trimmed);
    let state = store.get(&id).await.unwrap().unwrap().state;
    assert_eq!(state, State::Completed(head.status_only().into()));

    let (id, mine) = (RecordId::of(b"", b"l"), claim());
    store.begin(&id, &mine).await.unwrap();
    let large = outcome(&"x".repeat(97));
    let finish = store.complete(&id, mine.attempt, &large, HOUR).await.unwrap();
    assert_eq!(finish, Finish::Trimmed);
    let state = store.get(&id).await.unwrap().unwrap().state;
    assert_eq!(state, State::Completed(large.without_body().into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_in_the_database() {
    let store = store().await;
    let id = RecordId::of(b"tenant-sesame", b"key-sesame");
    let mine = claim();
    store.begin(&id, &mine).await.unwrap();
    store.complete(&id, mine.attempt, &outcome("x"), HOUR).await.unwrap();
    let client = store.pool().get().await.unwrap();
    let all = format!("SELECT count(*) FROM {p}_records r WHERE r::text LIKE ", p = prefix(&store));
    let of = async |pattern: &str| {
        client.query_one(&format!("{all} '{pattern}'"), &[]).await.unwrap().get::<_, i64>(0)
    };
    assert_eq!(of("%736573616d65%").await, 0);
    assert_eq!(of("%sesame%").await, 0);
    // The search would find it: this is in the head.
    assert_eq!(of("%68656164%").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_unknown_and_the_same_again_is_no_second_claim() {
    let port = shared_port(start).await;
    let direct = store().await;
    let proxy = Proxy::to(port).await;
    let store = PostgresStore::builder(config(proxy.port))
        .table_prefix(prefix(&direct))
        .timeout(Duration::from_secs(5))
        // So that an operation is one message, and it is its answer that is lost.
        .behind_pooler(true)
        .build()
        .unwrap();
    // What is lost is told at once, not when the time is over.
    let (id, mine, second) = (RecordId::of(b"", b"k"), claim(), Duration::from_secs(4));
    store.get(&id).await.unwrap();
    proxy.lose_answers();
    assert_eq!(fails_within(second, store.begin(&id, &mine)).await, StoreErrorKind::Unknown);
    // The connection is gone, and a new one cannot be made: surely not applied.
    assert_eq!(fails_within(second, store.begin(&id, &mine)).await, StoreErrorKind::Unavailable);
    proxy.pass();
    assert!(matches!(direct.begin(&id, &claim()).await.unwrap(), Begun::Busy { .. }));
    let begun = store.begin(&id, &mine).await.unwrap();
    assert!(matches!(begun, Begun::Run { runs: 1, .. }), "{begun:?}");

    proxy.lose_answers();
    let what = outcome("x");
    let lost = store.complete(&id, mine.attempt, &what, HOUR);
    assert_eq!(fails_within(second, lost).await, StoreErrorKind::Unknown);
    proxy.pass();
    let finish = store.complete(&id, mine.attempt, &what, HOUR).await.unwrap();
    assert_eq!(finish, Finish::Already);

    let (other, mine) = (RecordId::of(b"", b"other"), claim());
    store.begin(&other, &mine).await.unwrap();
    proxy.lose_answers();
    let lost = store.release(&other, mine.attempt);
    assert_eq!(fails_within(second, lost).await, StoreErrorKind::Unknown);
    proxy.pass();
    assert_eq!(store.release(&other, mine.attempt).await.unwrap(), Finish::Already);

    // What breaks while the statement is prepared was not applied either.
    let prepared = PostgresStore::builder(config(proxy.port))
        .table_prefix(prefix(&direct))
        .timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    prepared.check_schema().await.unwrap();
    proxy.lose_answers();
    let kind = fails_within(second, prepared.begin(&other, &claim())).await;
    assert_eq!(kind, StoreErrorKind::Unavailable);
    assert!(direct.get(&other).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_terminated_leaves_it_open() {
    let store = store().await;
    let (id, prefix) = (RecordId::of(b"", b"k"), prefix(&store));
    let mine = claim();
    store.begin(&id, &mine).await.unwrap();
    let (client, connection) =
        tokio_postgres::connect(&format_config(shared_port(start).await), NoTls).await.unwrap();
    tokio::spawn(connection);
    // A row lock holds the statement between sending and answer.
    client
        .batch_execute(&format!("BEGIN; SELECT * FROM {prefix}_records FOR UPDATE"))
        .await
        .unwrap();
    let late = tokio::spawn({
        let store = store.clone();
        async move { store.complete(&id, mine.attempt, &outcome("x"), HOUR).await }
    });
    let terminate = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE wait_event_type = 'Lock' AND query LIKE '%{prefix}\\_records%'"
    );
    let since = Instant::now();
    while client.query(&terminate, &[]).await.unwrap().is_empty() {
        assert!(since.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(5)).await;
    }
    let error = late.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error:?}");
    client.batch_execute("COMMIT").await.unwrap();
    let finish = store.complete(&id, mine.attempt, &outcome("x"), HOUR).await.unwrap();
    assert_eq!(finish, Finish::Applied);
    let finish = store.complete(&id, mine.attempt, &outcome("x"), HOUR).await.unwrap();
    assert_eq!(finish, Finish::Already);
}

fn format_config(port: u16) -> String {
    format!("host=127.0.0.1 port={port} user=postgres")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_is_not_waited_for_for_ever_and_the_server_gives_up_too() {
    let direct = store().await;
    let port = shared_port(start).await;
    let store = PostgresStore::builder(config(port))
        .table_prefix(prefix(&direct))
        .timeout(Duration::from_millis(600))
        .build()
        .unwrap();
    let (id, mine) = (RecordId::of(b"", b"k"), claim());
    store.begin(&id, &mine).await.unwrap();
    let (client, connection) = tokio_postgres::connect(&format_config(port), NoTls).await.unwrap();
    tokio::spawn(connection);
    let lock = format!("BEGIN; SELECT * FROM {}_records FOR UPDATE", prefix(&direct));
    client.batch_execute(&lock).await.unwrap();
    let second = Duration::from_millis(1_500);
    let kind = fails_within(second, store.renew(&id, mine.attempt, HOUR, HOUR)).await;
    // Ours or the server's limit: whichever comes first.
    assert!(matches!(kind, StoreErrorKind::Unknown | StoreErrorKind::Unavailable), "{kind:?}");
    sleep(Duration::from_millis(800)).await;
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE wait_event_type = 'Lock' AND query LIKE '%{}\\_records%'",
        prefix(&direct)
    );
    assert_eq!(client.query_one(&waiting, &[]).await.unwrap().get::<_, i64>(0), 0);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(store.renew(&id, mine.attempt, HOUR, HOUR).await.unwrap(), Renewed::Held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_and_a_hung_server_are_errors_in_time() {
    let direct = store().await;
    let proxy = Proxy::to(shared_port(start).await).await;
    let store = PostgresStore::builder(config(proxy.port))
        .table_prefix(prefix(&direct))
        .timeout(Duration::from_secs(1))
        .max_connections(2)
        .build()
        .unwrap();
    let (id, limit) = (RecordId::of(b"", b"k"), Duration::from_millis(1_900));
    store.begin(&id, &claim()).await.unwrap();
    proxy.delay(Duration::from_millis(50));
    assert!(matches!(store.begin(&id, &claim()).await.unwrap(), Begun::Busy { .. }), "only slow");
    proxy.delay(Duration::from_secs(5));
    assert_eq!(fails_within(limit, store.begin(&id, &claim())).await, StoreErrorKind::Unknown);
    proxy.pass();
    store.get(&id).await.unwrap();

    proxy.hang();
    let (a, b, c) = tokio::join!(
        fails_within(limit, store.get(&id)),
        fails_within(limit, store.get(&id)),
        fails_within(limit, store.get(&id)),
    );
    // One connection was open; the others could not be made.
    let kinds = [a, b, c];
    assert!(kinds.contains(&StoreErrorKind::Unknown), "{kinds:?}");
    assert!(kinds.contains(&StoreErrorKind::Unavailable), "{kinds:?}");
    assert_eq!(fails_within(limit, store.get(&id)).await, StoreErrorKind::Unavailable);
    proxy.pass();
    assert!(store.get(&id).await.unwrap().is_some());
}

/// Each store asks once whether the tables are its own: whoever else comes first must not stand in line for it.
#[tokio::test(flavor = "multi_thread")]
async fn many_first_operations_on_a_hung_server_are_errors_in_time() {
    let direct = store().await;
    let proxy = Proxy::to(shared_port(start).await).await;
    let store = PostgresStore::builder(config(proxy.port))
        .table_prefix(prefix(&direct))
        .timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    proxy.hang();
    let (id, limit) = (RecordId::of(b"", b"k"), Duration::from_secs(2));
    let all = (0..12).map(|_| fails_within(limit, store.get(&id)));
    let kinds = futures_util::future::join_all(all).await;
    assert!(kinds.iter().all(|kind| *kind == StoreErrorKind::Unavailable), "{kinds:?}");
    proxy.pass();
    let patient = PostgresStore::builder(config(proxy.port)).table_prefix(prefix(&direct));
    let patient = patient.timeout(Duration::from_secs(10)).build().unwrap();
    assert!(patient.get(&id).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_stop_die_and_come_back() {
    let mut server = start().await;
    let store = PostgresStore::builder(config(server.port))
        .timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    store.create_schema().await.unwrap();
    let (id, mine, limit) = (RecordId::of(b"", b"k"), claim(), Duration::from_secs(1));
    store.begin(&id, &mine).await.unwrap();

    // Stopped, with the backends that serve us.
    let (client, connection) =
        tokio_postgres::connect(&format_config(server.port), NoTls).await.unwrap();
    tokio::spawn(connection);
    let backends = "SELECT pid FROM pg_stat_activity \
                    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let backends = client.query(backends, &[]).await.unwrap();
    let backends: Vec<_> = backends.iter().map(|row| row.get::<_, i32>(0) as u32).collect();
    let all = backends.iter().copied().chain([server.pid()]);
    all.clone().for_each(|pid| servers::signal("-STOP", pid));
    let kind = fails_within(limit, store.get(&id)).await;
    assert_eq!(kind, StoreErrorKind::Unknown);
    let kind = fails_within(limit, store.get(&id)).await;
    assert_eq!(kind, StoreErrorKind::Unavailable);
    all.for_each(|pid| servers::signal("-CONT", pid));
    assert!(store.get(&id).await.unwrap().is_some());

    // Killed while a statement is under way.
    client.batch_execute("BEGIN; SELECT * FROM buttress_records FOR UPDATE").await.unwrap();
    let under_way = tokio::spawn({
        let store = store.clone();
        async move { store.renew(&id, mine.attempt, HOUR, HOUR).await }
    });
    sleep(Duration::from_millis(100)).await;
    server.kill();
    let kind = fails_within(limit, async { under_way.await.unwrap() }).await;
    assert_eq!(kind, StoreErrorKind::Unknown);
    let kind = fails_within(limit, store.get(&id)).await;
    assert_eq!(kind, StoreErrorKind::Unavailable);

    server.start().await;
    let since = Instant::now();
    let record = loop {
        match store.get(&id).await {
            Ok(record) => break record.unwrap(),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{}", server.log());
    };
    assert_eq!(record.attempt, mine.attempt);
    let finish = store.complete(&id, mine.attempt, &outcome("x"), HOUR).await.unwrap();
    assert_eq!(finish, Finish::Applied);
}

/// Not a test but what the next one starts, unless nobody has.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_executes() {
    let Some(told) = processes::told() else { return };
    let (port, prefix) = told.split_once(' ').unwrap();
    let store = PostgresStore::builder(config(port.parse().unwrap()))
        .table_prefix(prefix)
        .timeout(Duration::from_secs(10))
        .max_connections(4)
        .build()
        .unwrap();
    processes::execute(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_execute_each_key_once_though_some_are_killed() {
    let (store, port) = (store().await, shared_port(start).await);
    let told = format!("{port} {}", prefix(&store));
    processes::share_keys("a_process_executes", &told, store).await;
}

// ---- shared rate limits ------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn buckets_decide_as_the_reference() {
    let one = store().await;
    limits::agrees_with_reference(&one, 60).await;
    let other = PostgresStore::builder(config(shared_port(start).await))
        .table_prefix(prefix(&one))
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap();
    limits::grants_no_token_twice(&[one.clone(), other]).await;
    limits::asks_seldom(one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_that_are_full_can_be_purged() {
    let store = store().await;
    let (quick, slow) = ("100/s burst 20".parse().unwrap(), "1/h".parse().unwrap());
    let id = |n: u32| RecordId::of(b"bucket", &n.to_le_bytes());
    for n in 0..20 {
        let quota = if n % 2 == 0 { &quick } else { &slow };
        assert_eq!(store.take(&id(n), quota, 1, 1).await.unwrap().granted, 1);
    }
    sleep(Duration::from_millis(20)).await;
    assert_eq!(store.purge_limits(7).await.unwrap(), 7);
    assert_eq!(store.purge_limits(1_000).await.unwrap(), 3);
    assert_eq!(store.take(&id(1), &slow, 1, 1).await.unwrap().granted, 0);
}

/// Alone, and as one of four processes.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_keeps_the_quota() {
    let store = match &limits::told() {
        Some(told) => {
            let (port, prefix) = told.split_once(' ').unwrap();
            PostgresStore::builder(config(port.parse().unwrap()))
                .table_prefix(prefix)
                .timeout(Duration::from_secs(10))
                .build()
                .unwrap()
        }
        None => store().await,
    };
    let limiter = limits::limiter(store, "processes");
    let admitted = limits::load(&limiter).await;
    limits::keeps_the_quota(&"2000/s burst 400".parse().unwrap(), &admitted);
}

#[tokio::test(flavor = "multi_thread")]
async fn four_processes_keep_the_quota_together() {
    let (store, port) = (store().await, shared_port(start).await);
    let told = format!("{port} {}", prefix(&store));
    limits::four_processes("a_process_keeps_the_quota", &told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_bear_an_outage() {
    let mut server = start().await;
    let store = PostgresStore::builder(config(server.port)).build().unwrap();
    store.create_schema().await.unwrap();
    let limiter = limits::limiter(store.clone(), "back");
    limiter.try_acquire().await.unwrap();
    server.kill();
    limits::bears_an_outage(store).await;
    server.start().await;
    limits::recovers(&limiter).await;
}
