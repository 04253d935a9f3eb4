//! The contract kit: off, on, and with nothing in the slot.

use std::io;
use std::time::Duration;

use buttress::Slot;
use buttress::conditioner::{Call, Conditioner, ConditionerLayer, Fault, Latency, Matcher, Rule};
use buttress::testing::{Subject, check_all};
use futures_util::FutureExt;
use tower::{Service, ServiceExt};

use super::{always, ms};

fn subject(
    layer: impl Fn() -> ConditionerLayer + Send + Sync + 'static,
) -> Subject<u32, u32, io::Error, ConditionerLayer> {
    Subject::new(layer, || 1_u32, |n: u32| Ok::<_, io::Error>(n + 1))
        .ready_error(|| io::Error::other("inner broke"))
}

#[tokio::test(start_paused = true)]
async fn every_property_holds_while_nothing_is_injected() {
    let disarmed =
        || Conditioner::builder("test").rule(Rule::new(Fault::loss())).build().unwrap().layer();
    check_all(&subject(disarmed).stateless()).await.unwrap();
    check_all(&subject(|| ConditionerLayer::from_slot(Slot::new())).stateless()).await.unwrap();
    // Armed, and no rule hits.
    let never = || super::armed(Rule::new(Fault::loss()).share(0.0)).layer();
    check_all(&subject(never).stateless()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_property_holds_for_late_calls() {
    let late = || always(Fault::latency(Latency::uniform(ms(3), ms(5)).unwrap())).layer();
    // A wait is a timer.
    check_all(&subject(late).needs_runtime(true).stateless()).await.unwrap();
}

/// One call is late and holds the only place; a service of another `layer()` finds it taken.
#[tokio::test(start_paused = true)]
async fn the_state_is_in_the_object() {
    let subject = Subject::new(
        || {
            let hour = Latency::fixed(Duration::from_secs(3600)).unwrap();
            let rule = Rule::new(Fault::latency(hour)).matching(Matcher::name_or_url("late"));
            super::armed(rule.max_active(1))
                .layer()
                .describe(|n: &u32| Call::new().name(if *n == 99 { "late" } else { "" }))
        },
        || 1_u32,
        |n: u32| Ok::<_, io::Error>(n + 1),
    )
    .ready_error(|| io::Error::other("inner broke"))
    .shared_state(|mut one, mut two, probe| async move {
        let mut late = Box::pin(one.ready().await.map_err(|e| e.to_string())?.call(99));
        if futures_util::poll!(&mut late).is_ready() {
            return Err("the first was not late".to_owned());
        }
        let spared = two.ready().await.map_err(|e| e.to_string())?.call(99);
        match spared.now_or_never() {
            Some(Ok(100)) if probe.counts().calls == 1 => Ok(()),
            other => Err(format!("the second was to be spared: {other:?}")),
        }
    });
    check_all(&subject).await.unwrap();
}

/// The form that changes the type of the body.
#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn every_property_holds_for_http() {
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    let rules = [
        // Off, on without a hit, and on with one that lets all through.
        (Rule::new(Fault::loss()), false),
        (Rule::new(Fault::loss()).share(0.0), true),
        (Rule::new(Fault::slow_body(ms(1))), true),
    ];
    for (rule, on) in rules {
        let make = move || {
            let conditioner = Conditioner::builder("test").rule(rule.clone()).build().unwrap();
            if on {
                conditioner.arm().unwrap();
            }
            conditioner.layer().http()
        };
        let subject = Subject::new(
            make,
            || Request::get("/").body(()).unwrap(),
            |_| Ok::<_, io::Error>(Response::new(Full::new(Bytes::from("pong")))),
        )
        .ready_error(|| io::Error::other("inner broke"))
        .stateless();
        check_all(&subject).await.unwrap();
    }
}
