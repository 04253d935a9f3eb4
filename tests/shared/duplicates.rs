//! The same requests through one and through several processes, over sockets.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Mutex, MutexGuard, Semaphore};
use tokio::time::sleep;

use super::child::Orders;
use super::client::{Answer, Connection};
use super::{Place, Scratch, servers};

/// A crowd has some hundred sockets: one at a time.
async fn alone() -> MutexGuard<'static, ()> {
    static CROWD: Mutex<()> = Mutex::const_new(());
    CROWD.lock().await
}

/// 200 connections with one caller each, and 8 with 100 callers each; on the servers in turn.
async fn thousand(ports: &[u16]) -> Vec<Connection> {
    let mut callers = vec![];
    for number in 0..200 {
        callers.push(Connection::one(ports[number % ports.len()]).await);
    }
    for number in 0..8 {
        let connection = Connection::two(ports[number % ports.len()]).await;
        callers.extend((0..99).filter_map(|_| connection.share()));
        callers.push(connection);
    }
    assert_eq!(callers.len(), 1_000);
    callers
}

/// All have the same answer, and one of them has got it first.
fn are_one(answers: &[Answer]) {
    let first = &answers[0];
    assert_eq!(first.status, 201, "{first:?}");
    assert!(answers.iter().all(|answer| answer.kept() == first.kept()));
    let executed = answers.iter().filter(|answer| answer.is_executed()).count();
    assert_eq!(executed, 1, "all others are told that it is a replay");
}

/// Asks for the same at the same time. How many were told that it is in flight.
async fn all_ask_for_one(ports: &[u16], key: &str) -> usize {
    let callers = thousand(ports).await;
    let tasks = callers.into_iter().map(|mut caller| {
        let key = key.to_owned();
        tokio::spawn(async move { caller.insist(&key).await })
    });
    let answers = join_all(tasks).await.into_iter().map(Result::unwrap);
    let (answers, told): (Vec<_>, Vec<_>) = answers.unzip();
    are_one(&answers);
    told.iter().filter(|told| **told > 0).count()
}

async fn one_process(place: Place) {
    let (_alone, scratch) = (alone().await, Scratch::new());
    let orders = Orders::new(&place, &scratch).takes(Duration::from_millis(400));
    let server = orders.serve().await;
    let told = all_ask_for_one(&[server.port], "order-1").await;
    println!("{told} were told that it is in flight");
    assert!(told > 100, "{told}");
    assert_eq!(scratch.effects().0, ["order-1"]);
    // And some that wait for the answer.
    if place.0 != "memory" {
        server.kill().await;
        let server = orders.wait(Duration::from_secs(30)).serve().await;
        let told = all_ask_for_one(&[server.port], "order-2").await;
        assert_eq!(told, 0);
        assert_eq!(scratch.effects().0, ["order-1", "order-2"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_duplicates_run_once_from_memory() {
    one_process(Place::memory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_duplicates_run_once_from_a_file() {
    let scratch = Scratch::new();
    one_process(Place::file(&scratch)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_duplicates_run_once_from_postgres() {
    one_process(Place::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_duplicates_run_once_from_redis() {
    one_process(Place::redis().await).await;
}

/// Many keys, each `times` at the same time through each server. All answers of each key.
async fn many_keys(ports: [u16; 2], keys: usize, times: usize) -> Vec<Vec<(Answer, usize)>> {
    let mut connections = vec![];
    for _ in 0..4 {
        connections.push([Connection::two(ports[0]).await, Connection::two(ports[1]).await]);
    }
    let room = Semaphore::new(120);
    let (room, connections) = (&room, &connections);
    let ask = |key: usize, server: usize, time: usize| async move {
        let _permit = room.acquire().await.unwrap();
        let mut caller = connections[(key + time) % 4][server].share().unwrap();
        caller.insist(&format!("key-{key:04}")).await
    };
    let all = (0..keys)
        .map(|key| join_all((0..2 * times).map(move |number| ask(key, number % 2, number / 2))));
    join_all(all).await
}

async fn two_processes(place: Place) {
    let (_alone, scratch) = (alone().await, Scratch::new());
    let orders = Orders::new(&place, &scratch).takes(Duration::from_millis(20));
    // One says that it is in flight, the other waits for it.
    let one = orders.serve().await;
    let other = orders.wait(Duration::from_secs(30)).serve().await;

    let answers = many_keys([one.port, other.port], 300, 2).await;
    let mut by_other = 0;
    for all in &answers {
        let (answers, told): (Vec<_>, Vec<_>) = all.iter().cloned().unzip();
        are_one(&answers);
        by_other += usize::from(answers[1].is_executed() || answers[3].is_executed());
        assert_eq!((told[1], told[3]), (0, 0), "it waits");
    }
    println!("{by_other} of 300 were executed by the other");
    assert!((1..300).contains(&by_other), "they do not meet");
    let effects = scratch.effects();
    assert_eq!(effects.0.len(), 300);
    assert!((0..300).all(|key| effects.of(&format!("key-{key:04}")) == 1));

    all_ask_for_one(&[one.port, other.port], "order-1").await;
    assert_eq!(scratch.effects().of("order-1"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_through_two_processes_run_once_from_postgres() {
    two_processes(Place::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_through_two_processes_run_once_from_redis() {
    two_processes(Place::redis().await).await;
}

/// The file is for one process at a time, and the other one says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_file_is_refused_while_the_first_serves() {
    let (files, scratch) = (Scratch::new(), Scratch::new());
    let orders = Orders::new(&Place::file(&files), &scratch);
    let server = orders.serve().await;
    let mut connection = Connection::one(server.port).await;
    for number in 0..3 {
        let said = orders.start().hear().await.unwrap();
        assert!(said.starts_with("Locked cannot open the store "), "{said}");
        assert!(connection.post(&format!("order-{number}")).await.is_executed());
    }
    let first = connection.post("order-0").await;
    server.kill().await;
    let second = orders.serve().await;
    let replay = Connection::one(second.port).await.post("order-0").await;
    assert!(replay.is_replayed());
    assert_eq!(replay.kept(), first.kept());
    assert_eq!(scratch.effects().0.len(), 3);
}

/// Calls that meet a server which does something bad to them over and over.
async fn two_processes_with(place: Place, trouble: impl Future<Output = ()>) -> usize {
    let (_alone, scratch) = (alone().await, Scratch::new());
    let orders = Orders::new(&place, &scratch);
    let one = orders.serve().await;
    let other = orders.wait(Duration::from_secs(30)).serve().await;
    let answers = tokio::select! {
        answers = many_keys([one.port, other.port], 300, 2) => answers,
        () = trouble => unreachable!("it does not end"),
    };
    let effects = scratch.effects();
    let mut unknown = 0;
    for (key, all) in answers.iter().enumerate() {
        let key = format!("key-{key:04}");
        let first = &all[0].0;
        assert!(all.iter().all(|(answer, _)| answer.kept() == first.kept()), "{key}: {all:?}");
        if first.status == 201 {
            assert_eq!(effects.of(&key), 1, "{key}");
        } else {
            assert!(first.is_unknown(), "{first:?}");
            assert!(effects.of(&key) <= 1, "{key}");
            unknown += 1;
        }
    }
    unknown
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_are_forgotten_in_between_are_nothing_that_is_seen() {
    let server = servers::redis(&[]).await;
    let client = redis::Client::open(format!("redis://127.0.0.1:{}/", server.port)).unwrap();
    let mut bare = client.get_multiplexed_async_connection().await.unwrap();
    let mut flushed = 0;
    let flush = async {
        loop {
            let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut bare).await.unwrap();
            flushed += 1;
            sleep(Duration::from_millis(1)).await;
        }
    };
    let unknown = two_processes_with(Place::redis_at(server.port), flush).await;
    println!("flushed {flushed} times");
    assert!(flushed > 10);
    assert_eq!(unknown, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_that_are_terminated_in_between_make_nothing_run_twice() {
    let server = servers::postgres(&[]).await;
    let place = Place::postgres_at(server.port).await;
    let config = format!("host=127.0.0.1 port={} user=postgres", server.port);
    let (client, connection) =
        tokio_postgres::connect(&config, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    // Those that are at it, or have just been.
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                     WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() \
                     AND random() < 0.2";
    let mut terminated = 0;
    let trouble = async {
        loop {
            let row = client.query_one(terminate, &[]).await.unwrap();
            terminated += row.get::<_, i64>(0);
            sleep(Duration::from_millis(15)).await;
        }
    };
    let unknown = two_processes_with(place, trouble).await;
    println!("{terminated} terminated, of {unknown} nobody knows");
    assert!(terminated > 10, "{terminated}");
    assert!(unknown < 30, "{unknown}");
}
