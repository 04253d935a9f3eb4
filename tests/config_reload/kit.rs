//! The tower contract of stacks that change while they are asked.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::BoxError;
use buttress::config::ClientStack;
use buttress::testing::{Subject, check_all};
use tower::limit::ConcurrencyLimitLayer;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::rig::{Boxed, Inner, Rig};

/// A stack that has other parts at every `every`th question whether it is ready.
#[derive(Clone)]
struct Changing {
    rig: Arc<Rig>,
    stack: ClientStack,
    asked: Arc<AtomicU64>,
    every: u64,
}

fn text(number: u64) -> String {
    let more = match number % 4 {
        0 => "",
        1 => ", attempt_timeout: 50s",
        2 => ", breaker: {consecutive_failures: 1000}",
        _ => ", attempt_timeout: 40s, breaker: {consecutive_failures: 1000}",
    };
    format!("clients: {{pay: {{total_timeout: {}s{more}}}}}", 100 + number)
}

impl Changing {
    fn new(every: u64) -> Self {
        let rig = Rig::new(&text(0));
        let stack = rig.stacks.client("pay").unwrap();
        Self { rig: Arc::new(rig), stack, asked: Arc::default(), every }
    }
}

impl<S> Layer<S> for Changing
where
    S: Service<u32, Response = u32, Error = io::Error> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    type Service = Boxed;

    fn layer(&self, inner: S) -> Boxed {
        // A box within the box, for the compiler.
        let service = Boxed::new(self.stack.layer(inner));
        BoxCloneSyncService::new(Asked { service, by: self.clone() })
    }
}

#[derive(Clone)]
struct Asked {
    service: Boxed,
    by: Changing,
}

impl Service<u32> for Asked {
    type Response = u32;
    type Error = BoxError;
    type Future = <Boxed as Service<u32>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let asked = self.by.asked.fetch_add(1, Ordering::Relaxed) + 1;
        if asked.is_multiple_of(self.by.every) {
            self.by.rig.reload(&text(asked));
        }
        self.service.poll_ready(cx)
    }

    fn call(&mut self, req: u32) -> Self::Future {
        self.service.call(req)
    }
}

#[tokio::test(start_paused = true)]
async fn every_property_of_the_contract_holds() {
    // Never, now and then, and each time.
    for every in [u64::MAX, 3, 1] {
        let subject = Subject::new(move || Changing::new(every), || 1_u32, |n: u32| Ok(n + 1));
        let subject = subject.ready_error(|| io::Error::other("inner broke")).stateless();
        check_all(&subject).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_reserved_is_given_back_and_reserved_anew() {
    let rig = Rig::new(&text(1));
    let inner = service_fn(|n: u32| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, io::Error>(n)
    });
    // One at a time.
    let inner = Inner::new(ConcurrencyLimitLayer::new(1).layer(inner));
    let mut service = Boxed::new(rig.stacks.client("pay").unwrap().layer(inner));
    service.ready().await.unwrap();
    let other = service.clone();
    // Between ready and call nothing is exchanged: the place is still that of the first.
    rig.reload(&text(2));
    service.ready().await.unwrap();
    assert!(futures_util::poll!(std::pin::pin!(other.clone().ready_oneshot())).is_pending());
    let call = tokio::spawn(service.call(1));
    assert_eq!(call.await.unwrap().unwrap(), 1);
    // Who waits while something changes waits again, and not twice.
    let held = other.clone().ready_oneshot().await.unwrap();
    let mut waits = other;
    for n in 3..10 {
        assert!(futures_util::poll!(std::pin::pin!(waits.ready())).is_pending());
        rig.reload(&text(n));
    }
    drop(held);
    waits.ready().await.unwrap();
    assert_eq!(waits.call(2).await.unwrap(), 2);
    assert_eq!(service.ready().await.unwrap().call(3).await.unwrap(), 3);
}
