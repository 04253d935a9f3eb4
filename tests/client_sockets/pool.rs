//! Several servers behind one stack: one is slow, one dies, one comes back.

use buttress::endpoints::Endpoints;
use buttress::presets::{ClientPlan, client};
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::http::uri::{Authority, Scheme};
use tokio::task::JoinSet;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceExt};

use super::clients::{self, Rig};
use super::server::Server;
use super::{is_empty, ms, sleep, until};

type Endpoint =
    BoxCloneSyncService<Request<Full<Bytes>>, hyper::Response<hyper::body::Incoming>, BoxError>;

/// Sends all requests to one server, whatever their URI says.
fn only(server: &Server) -> Endpoint {
    let to = Authority::try_from(server.addr.to_string()).unwrap();
    let there = move |mut request: Request<Full<Bytes>>| {
        let mut uri = request.uri().clone().into_parts();
        (uri.scheme, uri.authority) = (Some(Scheme::HTTP), Some(to.clone()));
        *request.uri_mut() = uri.try_into().unwrap();
        request
    };
    BoxCloneSyncService::new(clients::hyper().map_request(there).map_err(BoxError::from))
}

struct Pool {
    servers: Vec<Server>,
    endpoints: Endpoints<Endpoint>,
    rig: Rig,
}

impl Pool {
    fn of(n: usize, plan: &ClientPlan) -> Self {
        let stack = client(plan).unwrap().http();
        let endpoints = stack.endpoints();
        let servers: Vec<_> = (0..n).map(|_| Server::start()).collect();
        for server in &servers {
            endpoints.insert(server.addr.to_string(), only(server));
        }
        let rig = Rig::new("pool", stack.backend().unwrap(), stack.pool(&endpoints));
        Self { servers, endpoints, rig }
    }

    fn is_empty(&self) {
        is_empty(&self.rig.backend);
        let stats = self.endpoints.stats();
        assert!(stats.iter().all(|one| one.in_flight == 0), "{stats:?}");
    }

    fn requests(&self) -> Vec<u32> {
        self.servers.iter().map(|server| server.seen.requests()).collect()
    }

    async fn many(&self, n: usize, path: &'static str) -> usize {
        let mut calls = JoinSet::new();
        for nth in 0..n {
            let rig = self.rig.clone();
            calls.spawn(async move {
                sleep(ms(2 * nth as u64)).await;
                rig.owned(format!("http://pool{path}")).await
            });
        }
        calls.join_all().await.iter().filter(|answer| answer.is_ok()).count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_them_get_their_part() {
    let pool = Pool::of(3, &ClientPlan::new("pool"));
    assert_eq!(pool.many(300, "/slow/5").await, 300);
    let requests = pool.requests();
    assert!(requests.iter().all(|n| *n >= 30), "{requests:?}");
    // At most 4 % are sent twice, and the first few.
    assert!(requests.iter().sum::<u32>() <= 300 + 12 + 3, "{requests:?}");
    until("the losers are dropped", || pool.servers.iter().all(|s| s.seen.open() == 0)).await;
    pool.is_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_dies_is_not_noticed_and_comes_back() {
    let mut pool = Pool::of(3, &ClientPlan::new("pool"));
    assert_eq!(pool.many(60, "/slow/5").await, 60);
    let addr = pool.servers[0].addr;
    pool.servers[0].kill();
    assert_eq!(pool.many(200, "/slow/5").await, 200, "{:?}", pool.endpoints.stats());
    pool.servers[0] = Server::start_at(addr);
    let back = async {
        while pool.servers[0].seen.requests() < 20 {
            // Many at once: where so many are at the others, one that was bad is tried again soon.
            let calls = (0..40).map(|_| pool.rig.text("http://pool/slow/2"));
            for answer in futures_util::future::join_all(calls).await {
                assert_eq!(answer.unwrap(), "hello");
            }
        }
    };
    tokio::time::timeout(ms(60_000), back).await.unwrap();
    pool.is_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_go_to_others_and_bodies_break_off_alone() {
    let pool = Pool::of(3, &ClientPlan::new("pool"));
    // Each server fails its first; three retries are paid for before anything was answered.
    assert_eq!(pool.many(30, "/dies/1").await, 30);
    pool.is_empty();
    let answer = pool.rig.get("http://pool/torn/2").await.unwrap();
    assert!(clients::text(answer).await.is_err());
    assert_eq!(pool.many(10, "/hello").await, 10);
    pool.is_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_dropped_leave_nothing_at_any_of_them() {
    let mut plan = ClientPlan::new("pool");
    plan.backend.as_mut().unwrap().in_flight = Some(9);
    let pool = Pool::of(3, &plan);
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        calls.spawn(pool.rig.clone().owned("http://pool/hangs".to_owned()));
    }
    let open = || pool.servers.iter().map(|server| server.seen.open()).sum::<u32>();
    until("nine are worked on, the others wait", || {
        open() == 9 && pool.rig.backend.stats().waiting == 11
    })
    .await;
    calls.shutdown().await;
    pool.is_empty();
    until("the servers notice", || open() == 0).await;
    assert_eq!(pool.many(20, "/hello").await, 20);
    pool.is_empty();
}
