//! What has been taken out of a running stack is let go of.

use std::io::{Error, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use tower::{Layer, Service, ServiceExt, service_fn};

use super::{ClientPlan, client};
use crate::Slot;
use crate::conditioner::{Conditioner, Fault, Rule};
use crate::observe::Event;

type Answer = std::future::Ready<Result<u32, Error>>;

/// A transport, and whether it is still there.
fn transport(
    down: &Arc<AtomicBool>,
) -> (impl Service<u32, Response = u32, Error = Error, Future = Answer> + Clone + use<>, Weak<()>) {
    let (down, held) = (Arc::clone(down), Arc::new(()));
    let there = Arc::downgrade(&held);
    let service = service_fn(move |n: u32| {
        let _ = &held;
        // Once.
        std::future::ready(match down.swap(false, Relaxed) {
            true => Err(ErrorKind::ConnectionReset.into()),
            false => Ok(n),
        })
    });
    (service, there)
}

#[tokio::test(start_paused = true)]
async fn a_pool_keeps_no_transport_of_an_endpoint_that_is_gone() {
    let down = Arc::<AtomicBool>::default();
    let stack = client(&ClientPlan::new("db")).unwrap();
    let pool = stack.endpoints();
    let (service, first) = transport(&down);
    pool.insert("a", service);
    let mut calls = stack.pool(&pool);
    for retried in [false, true] {
        down.store(retried, Relaxed);
        assert_eq!(calls.ready().await.unwrap().call(1).await.unwrap(), 1);
        assert!(!down.load(Relaxed), "tried again");
    }
    let (service, second) = transport(&down);
    pool.insert("b", service);
    assert!(pool.remove("a"));
    down.store(true, Relaxed);
    assert_eq!(calls.ready().await.unwrap().call(2).await.unwrap(), 2);
    assert_eq!((first.strong_count(), second.strong_count()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stack_keeps_no_conditioner_that_was_taken_out() {
    let (down, held) = (Arc::<AtomicBool>::default(), Arc::new(()));
    let there = Arc::downgrade(&held);
    let faults = Conditioner::builder("faults").rule(Rule::new(Fault::loss())).observe(
        move |_: &Event<'_>| {
            let _ = &held;
        },
    );
    let slot = Slot::with(faults.build().unwrap());
    let stack = client(&ClientPlan::new("db")).unwrap().conditioner(slot.clone());
    let mut calls = stack.layer(transport(&down).0);
    assert_eq!(calls.ready().await.unwrap().call(1).await.unwrap(), 1);
    drop(slot.uninstall());
    assert_eq!(calls.ready().await.unwrap().call(1).await.unwrap(), 1);
    assert_eq!(there.strong_count(), 0);
}

#[cfg(feature = "config")]
#[tokio::test(start_paused = true)]
async fn a_stack_of_a_configuration_keeps_no_transport_of_an_endpoint_that_is_gone() {
    let down = Arc::<AtomicBool>::default();
    let stacks = crate::config::Loader::empty().set("clients.pay.total_timeout", "5s");
    let stacks = stacks.load().unwrap().stacks();
    let pool = crate::endpoints::Endpoints::new("pay");
    let (service, first) = transport(&down);
    pool.insert("a", service);
    let mut calls = stacks.client("pay").unwrap().layer(pool.service());
    assert_eq!(calls.ready().await.unwrap().call(1).await.unwrap(), 1);
    pool.insert("a", transport(&down).0);
    assert_eq!(calls.ready().await.unwrap().call(1).await.unwrap(), 1);
    assert_eq!(first.strong_count(), 0);
}
