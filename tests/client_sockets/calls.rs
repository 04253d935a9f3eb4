//! What comes back: from a server that answers, is slow, throttles, refuses connections, dies in the middle.

use buttress::presets::ClientPlan;
use buttress::{Rejection, RejectionKind};
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::clients::{Rig, text};
use super::server::{Server, nobody};
use super::{is_empty, ms, sleep};

fn plan(total: u64) -> ClientPlan {
    let mut plan = ClientPlan::new("sockets");
    plan.total_timeout = Some(ms(total));
    plan
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_at_once_all_get_their_answers() {
    let server = Server::start();
    for rig in Rig::all(&ClientPlan::new("many")) {
        let mut calls = JoinSet::new();
        for _ in 0..300 {
            calls.spawn(rig.clone().owned(server.url("/slow/2")));
        }
        for answer in calls.join_all().await {
            assert_eq!(answer.unwrap(), "hello", "{}", rig.name);
        }
        assert!(rig.backend.stats().admitted >= 300);
        is_empty(&rig.backend);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_is_asked_again_if_it_may_be() {
    for rig in Rig::all(&plan(10_000)) {
        let name = rig.name;
        for path in ["/broken/2", "/dies/2"] {
            let server = Server::start();
            assert_eq!(rig.text(&server.url(path)).await.unwrap(), "hello", "{name} {path}");
            assert_eq!(server.seen.requests(), 3, "{name} {path}");
            // Nobody knows whether it was carried out.
            let server = Server::start();
            let answer = rig.send("POST", &server.url(path)).await;
            assert!(answer.map_or(true, |answer| answer.status() == 503), "{name} {path}");
            assert_eq!(server.seen.requests(), 1, "{name} {path}");
        }
        is_empty(&rig.backend);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_throttles_is_given_the_time_it_asks_for() {
    for rig in Rig::all(&plan(10_000)) {
        let server = Server::start();
        let began = Instant::now();
        assert_eq!(rig.text(&server.url("/busy/1")).await.unwrap(), "hello", "{}", rig.name);
        assert!(began.elapsed() >= ms(950), "{}: {:?}", rig.name, began.elapsed());
        assert_eq!(server.seen.requests(), 2, "{}", rig.name);
        is_empty(&rig.backend);
    }
    // Who cannot wait for so long is told at once, with what the server said.
    for rig in Rig::all(&plan(500)) {
        let server = Server::start();
        let answer = rig.get(&server.url("/busy/9")).await.unwrap();
        assert_eq!((answer.status().as_u16(), server.seen.requests()), (429, 1), "{}", rig.name);
        assert_eq!(answer.headers()["retry-after"], "1");
        is_empty(&rig.backend);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_hangs_ends_with_its_time_and_frees_the_server() {
    for rig in Rig::all(&plan(300)) {
        let server = Server::start();
        let began = Instant::now();
        let error = rig.get(&server.url("/hangs")).await.unwrap_err();
        let why = Rejection::find(&*error).unwrap();
        assert_eq!(why.kind(), RejectionKind::DeadlineExceeded, "{}", rig.name);
        assert!(began.elapsed() >= ms(290), "{}", rig.name);
        super::until("the server notices", || server.seen.open() == 0).await;
        // The next one works, and what was abandoned is not counted for ever.
        sleep(ms(400)).await;
        assert_eq!(rig.text(&server.url("/hello")).await.unwrap(), "hello", "{}", rig.name);
        is_empty(&rig.backend);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_listens_callers_wait_for_somebody_to() {
    for rig in Rig::all(&plan(600)) {
        let url = format!("http://{}/hello", nobody());
        let began = Instant::now();
        assert!(rig.get(&url).await.is_err(), "{}", rig.name);
        assert!(began.elapsed() < ms(5000), "{}: {:?}", rig.name, began.elapsed());
        is_empty(&rig.backend);
    }
    for rig in Rig::all(&plan(20_000)) {
        let addr = nobody();
        let url = format!("http://{addr}/hello");
        let calls = futures_util::future::join_all((0..40).map(|_| rig.text(&url)));
        let comes = async {
            sleep(ms(700)).await;
            Server::start_at(addr)
        };
        let (answers, server) = tokio::join!(calls, comes);
        let answered = answers.iter().filter(|answer| answer.is_ok()).count();
        // Until it is known to be down, failures are failures.
        assert!(answered >= 40 - 12, "{}: {answered}", rig.name);
        assert_eq!(rig.backend.stats().downs, 1, "{}", rig.name);
        drop(server);
        is_empty(&rig.backend);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_comes_back() {
    for rig in Rig::all(&plan(20_000)) {
        let mut server = Server::start();
        let url = server.url("/slow/20");
        for _ in 0..30 {
            rig.text(&url).await.unwrap();
        }
        let calls = futures_util::future::join_all((0..60).map(|n| {
            let (rig, url) = (&rig, &url);
            async move {
                sleep(ms(10 * n)).await;
                rig.text(url).await
            }
        }));
        let addr = server.addr;
        let dies = async move {
            sleep(ms(200)).await;
            server.kill();
            sleep(ms(500)).await;
            Server::start_at(addr)
        };
        let (answers, server) = tokio::join!(calls, dies);
        let failed: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert!(failed.len() <= 15, "{}: {} {failed:?}", rig.name, failed.len());
        drop(server);
        is_empty(&rig.backend);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_goes_on_when_the_call_is_over() {
    // 20 times 50 ms, and the call may take 400 ms: that ends with the head.
    for rig in Rig::all(&plan(400)) {
        let server = Server::start();
        let mut answer = rig.get(&server.url("/drips/20")).await.unwrap();
        assert_eq!(server.seen.open(), 1, "{}", rig.name);
        is_empty(&rig.backend);
        let first = answer.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(&**first.data_ref().unwrap(), b"word ");
        // Others are not kept waiting by it.
        assert_eq!(rig.text(&server.url("/hello")).await.unwrap(), "hello");
        let rest = text(answer).await.unwrap();
        assert_eq!(rest.split_whitespace().count(), 19, "{}", rig.name);
        super::until("the server is done", || server.seen.open() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_is_the_readers_affair() {
    for rig in Rig::all(&plan(10_000)) {
        let server = Server::start();
        let answer = rig.get(&server.url("/torn/3")).await.unwrap();
        assert!(text(answer).await.is_err(), "{}", rig.name);
        assert_eq!(server.seen.requests(), 1, "{}", rig.name);
        assert_eq!(rig.text(&server.url("/hello")).await.unwrap(), "hello");
        is_empty(&rig.backend);
    }
}
