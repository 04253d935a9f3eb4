//! Wall clocks that are set by an hour, forth and back, while calls are under way: those of the servers that
//! keep the records, and those of the processes that serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress::idempotency::{Idempotency, Ran, RunError, Scope, Status};
use buttress::store::{
    AnyStore, Begun, Fingerprint, Finish, RateStore, RecordId, Renewed, State, Store,
};
use buttress::{Quota, RejectionKind};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::child::Orders;
use super::client::{Connection, post};
use super::servers::clock::WallClock;
use super::servers::suite::{HOUR, claim, outcome};
use super::servers::{self, Server};
use super::{Place, Scratch};

/// A server whose clock can be set.
struct Stage {
    clock: WallClock,
    _server: Server,
    place: Place,
}

impl Stage {
    async fn redis() -> Self {
        let clock = WallClock::new();
        let server = servers::redis_with(&clock).await;
        let place = Place::redis_at(server.port);
        Self { clock, _server: server, place }
    }

    async fn postgres() -> Self {
        let clock = WallClock::new();
        let server = servers::postgres_with(&clock).await;
        let place = Place::postgres_at(server.port).await;
        Self { clock, _server: server, place }
    }

    fn store(&self) -> AnyStore {
        self.place.open().unwrap()
    }

    fn set(&self, hours: i64) {
        self.clock.set_ahead(hours * 3_600);
    }
}

/// How a gate's run ended, if not as it should.
fn refused(ran: &Result<Ran<u64>, RunError<std::io::Error>>) -> Option<RejectionKind> {
    match ran {
        Err(RunError::Rejected(why)) => Some(why.kind()),
        _ => None,
    }
}

/// Calls whose server's clock is set while they execute. Under the default policy nothing is run again.
async fn calls_under_way(stage: &Stage, hours: i64) {
    const KEYS: usize = 20;
    let gate = Idempotency::builder("orders", stage.store())
        .scope(Scope::tenant(hours.to_le_bytes()))
        .lease(Duration::from_secs(6))
        .build()
        .unwrap();
    let (effects, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let run = |key: usize, is_owner: bool| {
        let (gate, effects, go) = (gate.clone(), Arc::clone(&effects), Arc::clone(&go));
        async move {
            let pay = || async {
                effects.fetch_add(1, Ordering::SeqCst);
                if is_owner {
                    go.acquire().await.unwrap().forget();
                }
                Ok::<_, std::io::Error>(key as u64)
            };
            gate.run(format!("order-{key}"), Fingerprint::of(b"10 EUR"), pay).await
        }
    };
    let owners: Vec<_> = (0..KEYS).map(|key| tokio::spawn(run(key, true))).collect();
    while effects.load(Ordering::SeqCst) < KEYS {
        sleep(Duration::from_millis(2)).await;
    }
    stage.set(hours);
    // Its leases have ended, and whoever asks is told that nobody knows; or they last an hour longer.
    let expected = match hours {
        1 => RejectionKind::IdempotencyOutcomeUnknown,
        _ => RejectionKind::IdempotencyInFlight,
    };
    for key in (0..KEYS).step_by(2) {
        assert_eq!(refused(&run(key, false).await), Some(expected), "{key}");
    }
    // Its owner renews it every two seconds, and then a lease is as long as it should be; of what has been
    // given up, it stays unknown until the owner says.
    for key in 0..KEYS {
        let given_up = hours == 1 && key % 2 == 0;
        let since = Instant::now();
        loop {
            let left = gate.record(format!("order-{key}")).await.unwrap().unwrap().lease_left;
            if left.is_zero() == given_up && left <= Duration::from_secs(6) {
                break;
            }
            assert!(since.elapsed() < Duration::from_secs(20), "{key}: {left:?}");
            sleep(Duration::from_millis(20)).await;
        }
        let expected = if given_up { expected } else { RejectionKind::IdempotencyInFlight };
        assert_eq!(refused(&run(key, false).await), Some(expected), "{key}");
    }
    go.add_permits(KEYS);
    for (key, owner) in owners.into_iter().enumerate() {
        let ran = owner.await.unwrap().unwrap();
        assert_eq!((ran.value, ran.status), (key as u64, Status::Stored));
    }
    for again in [hours, 0, -hours] {
        stage.set(again);
        for key in 0..KEYS {
            let ran = run(key, false).await.unwrap();
            assert_eq!((ran.value, ran.status), (key as u64, Status::Replayed));
        }
    }
    stage.set(0);
    assert_eq!(effects.load(Ordering::SeqCst), KEYS);
}

/// Owners that have gone, and a clock that is set.
async fn owners_that_have_gone(stage: &Stage) {
    let store = stage.store();
    let short = || claim().lease(Duration::from_millis(400));
    let id = |n: u32| RecordId::of(b"gone", &n.to_le_bytes());
    // Set forth, the lease ends early: unknown, and it stays so when the clock is set right.
    let mine = claim().lease(HOUR / 2);
    store.begin(&id(0), &mine).await.unwrap();
    assert!(matches!(store.begin(&id(0), &claim()).await.unwrap(), Begun::Busy { .. }));
    stage.set(1);
    assert!(matches!(store.begin(&id(0), &claim()).await.unwrap(), Begun::Interrupted(_)));
    stage.set(0);
    assert!(matches!(store.begin(&id(0), &claim()).await.unwrap(), Begun::Interrupted(_)));
    assert_eq!(store.renew(&id(0), mine.attempt, HOUR, HOUR).await.unwrap(), Renewed::Interrupted);
    // Its owner was only slow.
    let finish = store.complete(&id(0), mine.attempt, &outcome("late"), HOUR).await.unwrap();
    assert_eq!(finish, Finish::Applied);

    // Set back, it lasts an hour longer, and nobody runs it meanwhile.
    store.begin(&id(1), &short()).await.unwrap();
    stage.set(-1);
    sleep(Duration::from_millis(500)).await;
    let Begun::Busy { retry_in, .. } = store.begin(&id(1), &claim()).await.unwrap() else {
        panic!("it has ended")
    };
    assert!(retry_in > HOUR - Duration::from_secs(60) && retry_in < HOUR, "{retry_in:?}");
    stage.set(0);
    assert!(matches!(store.begin(&id(1), &claim()).await.unwrap(), Begun::Interrupted(_)));
}

/// Generations grow, also when the clock was set back and the record was gone in between.
async fn generations_grow(stage: &Stage) {
    let (store, id, mut last) = (stage.store(), RecordId::of(b"generations", b""), 0);
    for hours in [0, 1, 0, -1, 1, -1] {
        stage.set(hours);
        let mine = claim();
        let Begun::Run { generation, .. } = store.begin(&id, &mine).await.unwrap() else {
            panic!("it was given back")
        };
        assert!(generation > last, "{generation} after {last}");
        last = generation;
        assert_eq!(store.release(&id, mine.attempt).await.unwrap(), Finish::Applied);
    }
    stage.set(0);
}

/// What has been replaced or removed does not come back when the clock is set back.
async fn what_has_expired(stage: &Stage) {
    let store = stage.store();
    let id = |n: u32| RecordId::of(b"expired", &n.to_le_bytes());
    let short = Duration::from_millis(300);
    let complete = async |n: u32, what: &str, retention: Duration| {
        let mine = claim();
        let begun = store.begin(&id(n), &mine).await.unwrap();
        assert!(matches!(begun, Begun::Run { runs: 1, .. }), "{begun:?}");
        let finish = store.complete(&id(n), mine.attempt, &outcome(what), retention).await;
        assert_eq!(finish.unwrap(), Finish::Applied);
        mine.attempt
    };
    let state = async |n: u32| store.get(&id(n)).await.unwrap().map(|record| record.state);

    let first = complete(0, "first", short).await;
    for n in 1..4 {
        complete(n, "first", short).await;
    }
    complete(4, "lasting", 2 * HOUR).await;
    complete(5, "half an hour", HOUR / 2).await;
    sleep(short + Duration::from_millis(20)).await;
    assert_eq!(state(0).await, None);
    complete(0, "second", 4 * HOUR).await;
    let (other, lease) = (claim(), 2 * HOUR);
    let begun = store.begin(&id(1), &other.lease(lease)).await.unwrap();
    assert!(matches!(begun, Begun::Run { runs: 1, .. }));
    let released = claim();
    store.begin(&id(2), &released).await.unwrap();
    assert_eq!(store.release(&id(2), released.attempt).await.unwrap(), Finish::Applied);
    // Redis removes by itself what somebody looks at, PostgreSQL here.
    assert_eq!(state(3).await, None);
    store.purge(1_000).await.unwrap();
    complete(7, "first", short).await;
    sleep(short + Duration::from_millis(20)).await;

    stage.set(-1);
    assert_eq!(state(0).await, Some(State::Completed(outcome("second"))));
    let late = store.complete(&id(0), first, &outcome("zombie"), HOUR).await.unwrap();
    assert_eq!(late, Finish::Fenced);
    assert_eq!(state(1).await, Some(State::Pending));
    assert!(matches!(store.begin(&id(1), &claim()).await.unwrap(), Begun::Busy { .. }));
    assert_eq!((state(2).await, state(3).await), (None, None));
    // What nobody has replaced or removed may be there once more: the same as before, not another run.
    let left = state(7).await;
    assert!(left.is_none() || left == Some(State::Completed(outcome("first"))), "{left:?}");

    // Set forth, what is left of a retention is that much shorter: more than an hour is there.
    stage.set(1);
    assert_eq!(state(5).await, None);
    assert_eq!(state(0).await, Some(State::Completed(outcome("second"))));
    assert_eq!(state(4).await, Some(State::Completed(outcome("lasting"))));
    store.purge(1_000).await.unwrap();
    stage.set(0);
    assert_eq!(state(5).await, None);
    assert_eq!(state(4).await, Some(State::Completed(outcome("lasting"))));
}

/// At most what the quota says and a burst for each time the clock was set forth; and never shut for an hour.
async fn buckets(stage: &Stage, store: &impl RateStore) {
    let quota: Quota = "50/s burst 20".parse().unwrap();
    for round in 0..3_u32 {
        let id = RecordId::of(b"bucket", &round.to_le_bytes());
        let since = Instant::now();
        let (mut granted, mut forth, mut was) = (0, 0, 0);
        for hours in [0, 1, 0, -1, 0, 1, -1, 0] {
            stage.set(hours);
            forth += u64::from(hours > was);
            was = hours;
            let set = Instant::now();
            let mut here = 0;
            loop {
                let is_last = set.elapsed() > Duration::from_millis(150);
                here += store.take(&id, &quota, 1, 3).await.unwrap().granted;
                let most = 20 * (1 + forth) as u128 + since.elapsed().as_millis() / 20 + 1;
                assert!(u128::from(granted + here) <= most, "{granted} and {here} of {most}");
                if is_last {
                    break;
                }
                sleep(Duration::from_millis(3)).await;
            }
            // Seven or eight come back in that time.
            assert!(here >= 3, "{here} at {hours} h: it is shut");
            granted += here;
        }
        println!("{granted} granted in {:?}, {forth} times set forth", since.elapsed());
        assert!(granted >= 20 * (1 + forth), "a step forth fills the bucket: {granted}");
    }
    stage.set(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn set_while_calls_execute_postgres_runs_nothing_twice() {
    let stage = Stage::postgres().await;
    calls_under_way(&stage, 1).await;
    calls_under_way(&stage, -1).await;
    owners_that_have_gone(&stage).await;
    // It counts them. Redis takes them from its clock.
    generations_grow(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn set_while_calls_execute_redis_runs_nothing_twice() {
    let stage = Stage::redis().await;
    calls_under_way(&stage, 1).await;
    calls_under_way(&stage, -1).await;
    owners_that_have_gone(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn set_back_postgres_brings_nothing_back_that_is_over() {
    what_has_expired(&Stage::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn set_back_redis_brings_nothing_back_that_is_over() {
    what_has_expired(&Stage::redis().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn set_forth_and_back_buckets_in_postgres_give_a_burst_more_for_each_time() {
    let stage = Stage::postgres().await;
    buckets(&stage, &stage.place.open_postgres()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn set_forth_and_back_buckets_in_redis_give_a_burst_more_for_each_time() {
    let stage = Stage::redis().await;
    buckets(&stage, &stage.place.open_redis()).await;
}

/// What the clocks of those who serve do is nothing to any store: leases are kept by clocks that nobody sets,
/// or by that of the server.
async fn those_who_serve(place: Place) {
    let (scratch, clock) = (Scratch::new(), WallClock::new());
    let orders = Orders::new(&place, &scratch).takes(Duration::from_millis(1_500)).env(clock.env());
    let orders = orders.lease(Duration::from_secs(2));
    let server = orders.serve().await;
    for hours in [1, -1] {
        clock.set_ahead(0);
        let key = format!("order-{hours}");
        let owner = tokio::spawn({
            let (port, key) = (server.port, key.clone());
            async move { post(port, &key).await }
        });
        let mut caller = Connection::one(server.port).await;
        sleep(Duration::from_millis(150)).await;
        assert!(caller.post(&key).await.is_in_flight());
        clock.set_ahead(hours * 3_600);
        assert!(caller.post(&key).await.is_in_flight(), "{hours}");
        let answer = owner.await.unwrap();
        assert!(answer.is_executed());
        assert_eq!(caller.post(&key).await.kept(), answer.kept());
        clock.set_ahead(0);
        assert_eq!(caller.post(&key).await.kept(), answer.kept());
        assert_eq!(scratch.effects().of(&key), 1);
    }
    // One that is started when the clock is wrong finds what the others have left.
    if place.0 == "memory" {
        return;
    }
    server.kill().await;
    for hours in [1, -1] {
        clock.set_ahead(hours * 3_600);
        let server = orders.serve().await;
        for key in ["order-1", "order--1"] {
            assert!(post(server.port, key).await.is_replayed());
        }
        server.kill().await;
    }
    assert_eq!(scratch.effects().0.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn set_in_a_process_that_serves_nothing_runs_twice_in_any_store() {
    let files = Scratch::new();
    tokio::join!(
        those_who_serve(Place::memory()),
        those_who_serve(Place::file(&files)),
        those_who_serve(Place::postgres().await),
        those_who_serve(Place::redis().await),
    );
}
