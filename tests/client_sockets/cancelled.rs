//! Calls that are given up: before they were sent, while the server works, half-way through the body.

use std::pin::pin;

use buttress::presets::ClientPlan;
use futures_util::future::{Either, select};
use http_body_util::BodyExt;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::task::JoinSet;

use super::clients::Rig;
use super::server::Server;
use super::{is_empty, ms, sleep, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_dropped_leave_nothing_here_nor_there() {
    let mut plan = ClientPlan::new("dropped");
    plan.backend.as_mut().unwrap().in_flight = Some(8);
    for rig in Rig::all(&plan) {
        let server = Server::start();
        let url = server.url("/hangs");
        // In one task: nothing is polled while they are dropped one after the other.
        let all = (0..20).map(|_| rig.text(&url));
        let calls = Box::pin(futures_util::future::join_all(all));
        let worked_on = pin!(until("eight are worked on, the others wait", || {
            server.seen.open() == 8 && rig.backend.stats().waiting == 12
        }));
        match select(calls, worked_on).await {
            Either::Left((answers, _)) => panic!("{answers:?}"),
            Either::Right(((), calls)) => drop(calls),
        }
        is_empty(&rig.backend);
        until("the server notices", || server.seen.open() == 0).await;
        assert_eq!(server.seen.requests(), 8, "{}: no place was handed on and used", rig.name);
        assert_eq!(rig.text(&server.url("/hello")).await.unwrap(), "hello");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_dropped_half_way_is_not_sent_on() {
    for rig in Rig::all(&ClientPlan::new("half")) {
        let server = Server::start();
        let mut answer = rig.get(&server.url("/drips/100000")).await.unwrap();
        for _ in 0..2 {
            answer.body_mut().frame().await.unwrap().unwrap();
        }
        assert_eq!(server.seen.open(), 1);
        drop(answer);
        until("the server notices", || server.seen.open() == 0).await;
        assert_eq!(rig.text(&server.url("/hello")).await.unwrap(), "hello");
        is_empty(&rig.backend);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_dropped_at_any_time() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut plan = ClientPlan::new("any");
    plan.backend.as_mut().unwrap().in_flight = Some(4);
    for rig in Rig::all(&plan) {
        let server = Server::start();
        let mut calls = JoinSet::new();
        for _ in 0..300 {
            let path = ["/slow/3", "/hello", "/drips/1", "/broken/100"][random.random_range(0..4)];
            let (patience, starts) = (random.random_range(0..40), random.random_range(0..300));
            let (rig, url) = (rig.clone(), server.url(path));
            calls.spawn(async move {
                sleep(ms(starts)).await;
                let call = pin!(rig.owned(url));
                match select(call, pin!(sleep(ms(patience)))).await {
                    Either::Left(_) => 1,
                    Either::Right(_) => 0,
                }
            });
        }
        let ended: u32 = calls.join_all().await.into_iter().sum();
        assert!((1..300).contains(&ended), "{}: {ended}", rig.name);
        is_empty(&rig.backend);
        until("the server is done", || server.seen.open() == 0).await;
        let stats = rig.backend.stats();
        assert!(stats.admitted >= u64::from(server.seen.requests()), "{}: {stats:?}", rig.name);
        assert_eq!(rig.text(&server.url("/hello")).await.unwrap(), "hello");
    }
}
