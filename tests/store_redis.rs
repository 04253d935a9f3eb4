//! The store in Redis, against a real server.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "tests spawn; nothing here runs under paused time")]

mod servers;

use std::error::Error as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use buttress::store::{
    Begun, EvictionPolicyError, Finish, Outcome, RateStore, RecordId, RedisStore,
    RedisStoreBuilder, Renewed, State, Store, StoreError, StoreErrorKind,
};
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};

use servers::limits;
use servers::processes;
use servers::proxy::Proxy;
use servers::suite::{self, HOUR, claim, outcome};
use servers::{Server, shared_port};

async fn start() -> Server {
    servers::redis(&[]).await
}

fn client(port: u16) -> redis::Client {
    redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap()
}

async fn connection(port: u16) -> MultiplexedConnection {
    client(port).get_multiplexed_async_connection().await.unwrap()
}

/// On a machine that does other things, too: these are not the tests of the timeouts.
fn patient(port: u16) -> RedisStoreBuilder {
    let ten = Duration::from_secs(10);
    RedisStore::builder(client(port)).timeout(ten).connect_timeout(ten)
}

/// Keys of its own on the server that all tests share.
async fn store() -> RedisStore {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    patient(shared_port(start).await).key_prefix(format!("t{number}")).build().unwrap()
}

fn prefix(store: &RedisStore) -> String {
    format!("{store:?}").split('"').nth(1).unwrap().to_owned()
}

fn key(store: &RedisStore, id: &RecordId) -> String {
    format!("{}:r:{id}", prefix(store))
}

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
    suite::agrees_with_memory(&store, 100).await;
    suite::keeps_its_word(&store).await;
    suite::keeps_tenants_apart(&store).await;
}

#[cfg(feature = "testing")]
#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    suite::conforms(store().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_duplicates_through_two_clients_run_once() {
    let one = store().await;
    let other = patient(shared_port(start).await).key_prefix(prefix(&one)).build().unwrap();
    suite::runs_once(&[one.clone(), other.clone()], 1_000).await;
    suite::gates_run_once(&[one, other], 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_go_leave_nothing_behind() {
    let store = store().await;
    suite::forgets_who_has_gone(&store).await;
    suite::takes_claims_back(&store, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_may_be_dropped_anywhere() {
    suite::may_be_dropped(&store().await, 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgot_the_scripts_is_given_them() {
    let server = start().await;
    let store = patient(server.port).build().unwrap();
    let mut bare = connection(server.port).await;
    let (id, mine) = (RecordId::of(b"", b"k"), claim());
    for n in 0..3 {
        let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut bare).await.unwrap();
        let begun = store.begin(&id, &mine).await.unwrap();
        assert!(matches!(begun, Begun::Run { runs: 1, .. }), "{n}: {begun:?}");
        let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut bare).await.unwrap();
        assert!(store.get(&id).await.unwrap().is_some());
    }
    // Many at once meet it.
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut bare).await.unwrap();
    let all = futures_util::future::join_all(
        (0..100)
            .map(|_| async { store.begin(&RecordId::of(b"many", b"k"), &claim()).await.unwrap() }),
    );
    let run = all.await.iter().filter(|begun| matches!(begun, Begun::Run { .. })).count();
    assert_eq!(run, 1);
    // What was thrown away with everything else is not there: that is the grade.
    let _: () = redis::cmd("FLUSHALL").query_async(&mut bare).await.unwrap();
    assert!(store.get(&id).await.unwrap().is_none());
}

/// As at a provider that keeps its users from everything dangerous, of which `INFO` is.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_ask_for_the_eviction_policy_need_not() {
    let server = start().await;
    let mut bare = connection(server.port).await;
    let user = ["SETUSER", "app", "on", ">sesame", "~*", "&*", "+@all", "-info"];
    let _: () = redis::cmd("ACL").arg(&user).query_async(&mut bare).await.unwrap();
    let of_app = || {
        let url = format!("redis://app:sesame@127.0.0.1:{}/", server.port);
        let ten = Duration::from_secs(10);
        let client = redis::Client::open(url).unwrap();
        RedisStore::builder(client).timeout(ten).connect_timeout(ten)
    };
    let id = RecordId::of(b"", b"k");
    let error = of_app().build().unwrap().begin(&id, &claim()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    let trusting = of_app().check_eviction(false).build().unwrap();
    trusting.check().await.unwrap();
    assert!(matches!(trusting.begin(&id, &claim()).await.unwrap(), Begun::Run { .. }));
    // It does ask whether there is a server.
    servers::signal("-STOP", server.pid());
    let hasty = RedisStore::builder(client(server.port)).check_eviction(false).build().unwrap();
    assert_eq!(hasty.check().await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    servers::signal("-CONT", server.pid());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_evicts_is_refused() {
    let server = servers::redis(&["--maxmemory-policy", "allkeys-lru"]).await;
    let store = patient(server.port).build().unwrap();
    let id = RecordId::of(b"", b"k");
    for error in [store.check().await.unwrap_err(), store.begin(&id, &claim()).await.unwrap_err()] {
        assert_eq!(error.kind(), StoreErrorKind::Refused);
        let why = error.source().unwrap().downcast_ref::<EvictionPolicyError>().unwrap();
        assert_eq!(why.policy(), "allkeys-lru");
    }
    let trusting = patient(server.port).check_eviction(false).build().unwrap();
    assert!(trusting.begin(&id, &claim()).await.is_ok());
    // Put right, it is used.
    let mut bare = connection(server.port).await;
    let set = ["SET", "maxmemory-policy", "noeviction"];
    let _: () = redis::cmd("CONFIG").arg(&set).query_async(&mut bare).await.unwrap();
    assert!(matches!(store.begin(&id, &claim()).await.unwrap(), Begun::Busy { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_takes_no_new_keys_but_outcomes_of_those_it_has() {
    let server = start().await;
    let store = patient(server.port).build().unwrap();
    let (id, mine) = (RecordId::of(b"", b"first"), claim());
    store.begin(&id, &mine).await.unwrap();
    let mut bare = connection(server.port).await;
    let set = ["SET", "maxmemory", "1"];
    let _: () = redis::cmd("CONFIG").arg(&set).query_async(&mut bare).await.unwrap();
    let kind = store.begin(&RecordId::of(b"", b"other"), &claim()).await.unwrap_err().kind();
    assert_eq!(kind, StoreErrorKind::Full);
    assert!(store.get(&RecordId::of(b"", b"other")).await.unwrap().is_none());
    assert_eq!(store.renew(&id, mine.attempt, HOUR, HOUR).await.unwrap(), Renewed::Held);
    let finish = store.complete(&id, mine.attempt, &outcome("x"), HOUR).await.unwrap();
    assert_eq!(finish, Finish::Applied);
    assert!(matches!(store.begin(&id, &claim()).await.unwrap(), Begun::Done(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_not_taken_for_none() {
    let store = store().await;
    let mut bare = connection(shared_port(start).await).await;
    let id = RecordId::of(b"", b"k");
    let spoilers: [&[&str]; 8] = [
        &["HSET", "v", "2"],
        &["HDEL", "v"],
        &["HSET", "s", "7"],
        &["HSET", "a", "short"],
        &["HSET", "r", "-1"],
        &["HDEL", "g"],
        &["HDEL", "e"],
        &["HSET", "s", "1"],
    ];
    for spoil in spoilers {
        store.begin(&id, &claim()).await.unwrap();
        let mut command = redis::cmd(spoil[0]);
        let _: () =
            command.arg(key(&store, &id)).arg(&spoil[1..]).query_async(&mut bare).await.unwrap();
        for error in
            [store.get(&id).await.unwrap_err(), store.begin(&id, &claim()).await.unwrap_err()]
        {
            assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{spoil:?}: {error:?}");
        }
        let _: () = redis::cmd("DEL").arg(key(&store, &id)).query_async(&mut bare).await.unwrap();
    }
    // Another type altogether.
    let _: () =
        redis::cmd("SET").arg(key(&store, &id)).arg("x").query_async(&mut bare).await.unwrap();
    let error = store.begin(&id, &claim()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_when_their_retention_is_over_and_not_with_the_lease() {
    let store = store().await;
    let mut bare = connection(shared_port(start).await).await;
    let id = RecordId::of(b"", b"k");
    let mut left = async || -> i64 {
        redis::cmd("PTTL").arg(key(&store, &id)).query_async(&mut bare).await.unwrap()
    };
    let mine = claim().lease(Duration::from_millis(1)).retention(HOUR);
    store.begin(&id, &mine).await.unwrap();
    assert!((3_500_000..=3_600_010).contains(&left().await));
    store.renew(&id, mine.attempt, 2 * HOUR, HOUR).await.unwrap();
    assert!((10_700_000..=10_800_010).contains(&left().await), "from the end of the lease");
    let finish = store.complete(&id, mine.attempt, &outcome("x"), Duration::from_secs(60)).await;
    assert_eq!(finish.unwrap(), Finish::Applied);
    assert!((50_000..=60_010).contains(&left().await));
    assert_eq!(store.purge(10).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_kept_without_its_body() {
    let port = shared_port(start).await;
    let store = patient(port).key_prefix("large").max_outcome(100).build().unwrap();
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
async fn no_key_of_a_caller_is_in_the_server() {
    let server = start().await;
    let store = patient(server.port).build().unwrap();
    let id = RecordId::of(b"tenant-sesame", b"key-sesame");
    let mine = claim();
    store.begin(&id, &mine).await.unwrap();
    store.complete(&id, mine.attempt, &outcome("open"), HOUR).await.unwrap();
    let mut bare = connection(server.port).await;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut bare).await.unwrap();
    assert_eq!(keys, [key(&store, &id)]);
    let mut all: Vec<Vec<u8>> =
        redis::cmd("HVALS").arg(&keys[0]).query_async(&mut bare).await.unwrap();
    all.push(redis::cmd("DUMP").arg(&keys[0]).query_async(&mut bare).await.unwrap());
    all.push(keys[0].clone().into_bytes());
    let holds = |text: &[u8]| all.iter().any(|value| value.windows(text.len()).any(|w| w == text));
    assert!(!holds(b"sesame") && holds(b"open"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_unknown_and_the_same_again_is_no_second_claim() {
    let port = shared_port(start).await;
    let direct = store().await;
    let proxy = Proxy::to(port).await;
    let store = RedisStore::builder(client(proxy.port))
        .key_prefix(prefix(&direct))
        .timeout(Duration::from_secs(2))
        .connect_timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    let (id, second) = (RecordId::of(b"", b"k"), Duration::from_secs(1));
    // So that the scripts are known: what is lost is the answer to one that ran.
    let warm = claim();
    direct.begin(&id, &warm).await.unwrap();
    direct.complete(&id, warm.attempt, &outcome(""), Duration::ZERO).await.unwrap();
    direct.release(&id, warm.attempt).await.unwrap();
    store.get(&id).await.unwrap();

    let mine = claim();
    proxy.lose_answers();
    assert_eq!(fails_within(second, store.begin(&id, &mine)).await, StoreErrorKind::Unknown);
    proxy.pass();
    assert!(matches!(direct.begin(&id, &claim()).await.unwrap(), Begun::Busy { .. }));
    let begun = soon(async || store.begin(&id, &mine).await).await;
    assert!(matches!(begun, Begun::Run { runs: 1, .. }), "{begun:?}");

    proxy.lose_answers();
    let what = outcome("x");
    let lost = store.complete(&id, mine.attempt, &what, HOUR);
    assert_eq!(fails_within(second, lost).await, StoreErrorKind::Unknown);
    proxy.pass();
    let finish = soon(async || store.complete(&id, mine.attempt, &what, HOUR).await).await;
    assert_eq!(finish, Finish::Already);
}

/// When the connection has been made again. The client tries once each time it is asked.
async fn soon<T>(operation: impl AsyncFn() -> Result<T, StoreError>) -> T {
    let since = Instant::now();
    loop {
        match operation().await {
            Ok(done) => return done,
            Err(error) => assert!(since.elapsed() < Duration::from_secs(5), "{error:?}"),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_be_slow_stop_die_and_come_back() {
    let mut server = servers::redis(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    // With the timeouts that are the default.
    let store = RedisStore::builder(client(server.port)).build().unwrap();
    let (id, mine) = (RecordId::of(b"", b"k"), claim());
    let begun = soon(async || store.begin(&id, &mine).await).await;
    assert!(matches!(begun, Begun::Run { .. }));
    // 100 ms to connect, 50 ms for each of three messages; and a busy machine.
    let limit = Duration::from_millis(600);

    servers::signal("-STOP", server.pid());
    for _ in 0..3 {
        let renewal = store.renew(&id, mine.attempt, HOUR, HOUR);
        assert_eq!(fails_within(limit, renewal).await, StoreErrorKind::Unknown);
    }
    servers::signal("-CONT", server.pid());
    let renewed = soon(async || store.renew(&id, mine.attempt, HOUR, HOUR).await).await;
    assert_eq!(renewed, Renewed::Held);

    // While a script keeps it from answering.
    let mut bare = connection(server.port).await;
    let busy = "local t = redis.call('TIME') \
                local function now() local n = redis.call('TIME') return n[1] - t[1] + (n[2] - t[2]) / 1000000 end \
                while now() < 0.4 do end return 1";
    let slow = tokio::spawn(async move {
        let _: Result<i64, _> = redis::cmd("EVAL").arg(busy).arg(0).query_async(&mut bare).await;
    });
    sleep(Duration::from_millis(100)).await;
    let under_way = store.renew(&id, mine.attempt, HOUR, HOUR);
    assert_eq!(fails_within(limit, under_way).await, StoreErrorKind::Unknown);
    slow.await.unwrap();
    soon(async || store.renew(&id, mine.attempt, HOUR, HOUR).await).await;

    // Killed while an operation is under way.
    servers::signal("-STOP", server.pid());
    let under_way = tokio::spawn({
        let store = store.clone();
        async move { store.renew(&id, mine.attempt, HOUR, HOUR).await }
    });
    sleep(Duration::from_millis(20)).await;
    server.kill();
    let kind = fails_within(limit, async { under_way.await.unwrap() }).await;
    assert_eq!(kind, StoreErrorKind::Unknown);
    let mut kinds = vec![];
    for _ in 0..5 {
        kinds.push(fails_within(limit, store.get(&id)).await);
        sleep(Duration::from_millis(10)).await;
    }
    // Once the client has noticed, nothing is sent any more.
    assert_eq!(kinds[4], StoreErrorKind::Unavailable, "{kinds:?}");

    server.start().await;
    let record = soon(async || store.get(&id).await).await.unwrap();
    assert_eq!(record.attempt, mine.attempt, "the log was written before it answered");
    let finish = soon(async || store.complete(&id, mine.attempt, &outcome("x"), HOUR).await).await;
    assert_eq!(finish, Finish::Applied);
}

/// As when a machine or a line dies: nobody says that the connection is no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_falls_silent_is_replaced() {
    let direct = store().await;
    let proxy = Proxy::to(shared_port(start).await).await;
    let store = RedisStore::builder(client(proxy.port))
        .key_prefix(prefix(&direct))
        .timeout(Duration::from_millis(200))
        .connect_timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    let (id, mine) = (RecordId::of(b"", b"k"), claim());
    soon(async || store.begin(&id, &mine).await).await;
    for hurried in [false, true] {
        proxy.swallow();
        let since = Instant::now();
        let mut failed = 0;
        loop {
            let renewal = store.renew(&id, mine.attempt, HOUR, HOUR);
            // Callers may have less patience than the store.
            let patience = Duration::from_millis(if hurried { 100 } else { 10_000 });
            match tokio::time::timeout(patience, renewal).await {
                Ok(Ok(renewed)) => break assert_eq!(renewed, Renewed::Held),
                Ok(Err(error)) => assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error:?}"),
                Err(_) => assert!(hurried),
            }
            failed += 1;
            assert!(since.elapsed() < Duration::from_secs(20), "{failed} in vain");
        }
        assert!(failed >= 3, "it was not silent: {failed}");
    }
}

/// Far away, or behind a proxy that has to wake somebody first. It must not be thrown away half-made because callers
/// had less patience, or there is never one.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_takes_long_to_make_is_made() {
    let proxy = Proxy::to(shared_port(start).await).await;
    let store = patient(proxy.port).key_prefix("slowly").build().unwrap();
    let id = RecordId::of(b"", b"k");
    // The second time it is made again, after it broke.
    for times in 1..=2 {
        proxy.hang();
        proxy.cut();
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(2_500) {
            let found = tokio::time::timeout(Duration::from_millis(100), store.get(&id)).await;
            assert!(!matches!(found, Ok(Ok(_))), "{found:?}");
            // One that fails at once is not to keep a core busy.
            if found.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        proxy.pass();
        assert!(store.get(&id).await.unwrap().is_none());
        assert_eq!(proxy.opened(), times);
    }
}

/// Each store asks once for the eviction policy: whoever else comes first must not stand in line for it.
#[tokio::test(flavor = "multi_thread")]
async fn many_first_operations_on_a_stopped_server_are_errors_in_time() {
    let server = start().await;
    let store = RedisStore::builder(client(server.port)).build().unwrap();
    servers::signal("-STOP", server.pid());
    let (id, limit) = (RecordId::of(b"", b"k"), Duration::from_millis(1_500));
    let all = (0..40).map(|_| fails_within(limit, store.get(&id)));
    let kinds = futures_util::future::join_all(all).await;
    assert!(kinds.iter().all(|kind| *kind == StoreErrorKind::Unavailable), "{kinds:?}");
    servers::signal("-CONT", server.pid());
    assert!(soon(async || store.get(&id).await).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_refuses() {
    let primary = servers::redis(&["--repl-diskless-sync-delay", "0"]).await;
    let port = primary.port.to_string();
    let replica = servers::redis(&["--replicaof", "127.0.0.1", &port]).await;
    let store = patient(replica.port).build().unwrap();
    let id = RecordId::of(b"", b"k");
    let since = Instant::now();
    loop {
        // Until it has what its primary has, it is loading.
        let error = store.begin(&id, &claim()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error:?}");
        let why = error.source().unwrap().to_string();
        if why.to_lowercase().contains("read") {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(5), "{why}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Not a test but what the next one starts, unless nobody has.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_executes() {
    let Some(told) = processes::told() else { return };
    let (port, prefix) = told.split_once(' ').unwrap();
    processes::execute(patient(port.parse().unwrap()).key_prefix(prefix).build().unwrap()).await;
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
    let other = patient(shared_port(start).await).key_prefix(prefix(&one)).build().unwrap();
    limits::grants_no_token_twice(&[one.clone(), other]).await;
    limits::asks_seldom(one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_that_are_full_take_no_room() {
    let server = start().await;
    let store = patient(server.port).build().unwrap();
    let quota = "10/s burst 20".parse().unwrap();
    let id = RecordId::of(b"", b"k");
    assert_eq!(store.take(&id, &quota, 1, 5).await.unwrap().granted, 5);
    let mut bare = connection(server.port).await;
    let key = format!("buttress:l:{id}");
    let left: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut bare).await.unwrap();
    assert!((1..=501).contains(&left), "{left}");
    sleep(Duration::from_millis(510)).await;
    let there: bool = redis::cmd("EXISTS").arg(&key).query_async(&mut bare).await.unwrap();
    assert!(!there);
    // What cannot be read is an error.
    let _: () = redis::cmd("SET").arg(&key).arg("soon").query_async(&mut bare).await.unwrap();
    let error = store.take(&id, &quota, 1, 1).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
}

/// Alone, and as one of four processes.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_keeps_the_quota() {
    let told = limits::told();
    let (port, prefix) = match &told {
        Some(told) => told.split_once(' ').map(|(a, b)| (a.parse().unwrap(), b)).unwrap(),
        None => (shared_port(start).await, "alone"),
    };
    let store = patient(port).key_prefix(prefix).build().unwrap();
    let limiter = limits::limiter(store, "processes");
    let admitted = limits::load(&limiter).await;
    limits::keeps_the_quota(&"2000/s burst 400".parse().unwrap(), &admitted);
}

#[tokio::test(flavor = "multi_thread")]
async fn four_processes_keep_the_quota_together() {
    let port = shared_port(start).await;
    limits::four_processes("a_process_keeps_the_quota", &format!("{port} four")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_bear_an_outage() {
    let mut server = start().await;
    let store = RedisStore::builder(client(server.port)).build().unwrap();
    let limiter = limits::limiter(store.clone(), "back");
    limiter.try_acquire().await.unwrap();
    servers::signal("-STOP", server.pid());
    limits::bears_an_outage(store.clone()).await;
    server.kill();
    limits::bears_an_outage(store).await;
    // What was taken in advance is spent, then nothing is there.
    let mut refused = 0;
    for _ in 0..200 {
        refused += u32::from(limiter.try_acquire().await.is_err());
    }
    assert!(refused >= 100);
    server.start().await;
    limits::recovers(&limiter).await;
}
