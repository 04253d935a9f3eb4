//! The conditioner as a layer over services of any kind.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use buttress::conditioner::{
    Call, Conditioner, ConditionerLayer, Fault, FaultKind, Injected, Latency, Rule,
};
use buttress::{AsTyped, BoxError, Rejection, RejectionKind, Slot, respond_with};
use futures_util::{FutureExt, poll};
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{always, armed, ms};

/// Counts the calls that reach the callee.
fn callee(
    calls: &Arc<AtomicU32>,
) -> impl Service<
    u32,
    Response = u32,
    Error = io::Error,
    Future = impl Future<Output = io::Result<u32>> + use<>,
> + Clone
+ use<> {
    let calls = Arc::clone(calls);
    service_fn(move |n: u32| {
        calls.fetch_add(1, Ordering::Relaxed);
        async move { Ok(n + 1) }
    })
}

fn counter() -> Arc<AtomicU32> {
    Arc::new(AtomicU32::new(0))
}

#[tokio::test(start_paused = true)]
async fn each_fault_does_what_it_says() {
    let latency = Fault::latency(Latency::fixed(ms(500)).unwrap());
    use FaultKind as K;
    for (fault, answered, called, took) in [
        (latency, true, 1, 500),
        (Fault::loss(), false, 0, 0),
        (Fault::error(io::ErrorKind::Other, "no"), false, 0, 0),
        (Fault::error_with(|_| "no".into()), false, 0, 0),
        (Fault::status(503), false, 0, 0),
        (Fault::grpc(14, "no"), false, 0, 0),
        (Fault::hang_for(ms(700)), false, 0, 700),
        (Fault::reply_lost(), false, 1, 0),
        // Bodies are for HTTP.
        (Fault::truncate_body(0), true, 1, 0),
    ] {
        let kind = fault.kind();
        let (calls, conditioner) = (counter(), always(fault));
        let start = Instant::now();
        let result = conditioner.layer().layer(callee(&calls)).oneshot(1).await;
        assert_eq!(result.is_ok(), answered, "{kind:?}");
        assert_eq!(calls.load(Ordering::Relaxed), called, "{kind:?}");
        assert_eq!(start.elapsed(), ms(took), "{kind:?}");
        if let Err(error) = result {
            assert_eq!(Injected::find(&*error).unwrap().fault(), kind);
            assert_eq!(Rejection::find(&*error).unwrap().kind(), RejectionKind::Injected);
        }
        let rule = &conditioner.stats().rules[0];
        let injected = kind != K::TruncatedBody;
        assert_eq!((rule.injected, rule.unsupported), (u64::from(injected), u64::from(!injected)));
        assert_eq!(rule.active, 0, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hang_lasts_until_its_caller_gives_up() {
    let (calls, silent) = (counter(), armed(Rule::new(Fault::hang()).max_active(1)));
    let mut service = silent.layer().layer(callee(&calls));
    let mut call = Box::pin(service.ready().await.unwrap().call(1));
    assert!(poll!(&mut call).is_pending());
    advance(Duration::from_secs(3600)).await;
    assert!(poll!(&mut call).is_pending());
    assert_eq!(silent.stats().rules[0].active, 1);
    drop(call);
    assert_eq!(silent.stats().rules[0].active, 0);
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hang_ends_when_injection_is_turned_off() {
    let (calls, silent) = (counter(), always(Fault::hang()));
    let mut service = silent.layer().on_reject(AsTyped).layer(callee(&calls));
    let mut call = Box::pin(service.ready().await.unwrap().call(1));
    assert!(poll!(&mut call).is_pending());
    silent.disarm();
    let Poll::Ready(Err(error)) = poll!(&mut call) else { panic!("still hangs") };
    assert_eq!(error.rejection().unwrap().kind(), RejectionKind::Injected);
    assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 2);
}

/// A late call is made on the instance that was ready, after the wait; dropped before, it is never made.
#[tokio::test(start_paused = true)]
async fn a_late_call_is_made_late() {
    let calls = counter();
    let slow = always(Fault::latency(Latency::fixed(ms(100)).unwrap()));
    let mut service = slow.layer().layer(callee(&calls));
    let mut call = Box::pin(service.ready().await.unwrap().call(1));
    assert!(poll!(&mut call).is_pending());
    advance(ms(99)).await;
    assert!(poll!(&mut call).is_pending());
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    drop(call);
    advance(ms(10)).await;
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    assert_eq!(slow.stats().rules[0].active, 0);
    assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 2);
}

/// Who needs the request to answer cannot answer when it is gone; a network that says nothing, says
/// nothing.
#[tokio::test(start_paused = true)]
async fn a_responder_answers_losses_and_is_silent_about_lost_replies() {
    let respond = || {
        respond_with(|n: u32, why: Rejection| {
            n + u32::from(why.kind() == RejectionKind::Injected) * 100
        })
    };
    let calls = counter();
    let lost = always(Fault::loss()).layer().on_reject(respond()).layer(callee(&calls));
    assert_eq!(lost.oneshot(7).await.unwrap(), 107);
    let unheard = armed(Rule::new(Fault::reply_lost()).max_active(1));
    let mut service = unheard.layer().on_reject(respond()).layer(callee(&calls));
    let mut call = Box::pin(service.ready().await.unwrap().call(7));
    assert!(poll!(&mut call).is_pending());
    assert!(poll!(&mut call).is_pending());
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(unheard.stats().rules[0].active, 1);
    drop(call);
    assert_eq!(unheard.stats().rules[0].active, 0);
}

/// The reply is there and dropped before anything is said.
#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_dropped() {
    struct Reply(Arc<AtomicBool>);
    impl Drop for Reply {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let mark = Arc::clone(&dropped);
    let service = always(Fault::reply_lost()).layer().layer(service_fn(move |()| {
        let reply = Reply(Arc::clone(&mark));
        async move { Ok::<_, io::Error>(reply) }
    }));
    let error = service.oneshot(()).await.map(drop).unwrap_err();
    assert!(dropped.load(Ordering::Relaxed));
    assert_eq!(Injected::find(&*error).unwrap().fault(), FaultKind::ReplyLost);
    // An error of the callee is not a reply; it is handed on.
    let service = always(Fault::reply_lost())
        .layer()
        .layer(service_fn(|()| async { Err::<(), _>(io::Error::other("own")) }));
    let error = service.oneshot(()).await.unwrap_err();
    assert!(Injected::find(&*error).is_none());
    assert_eq!(error.to_string(), "own");
}

#[tokio::test(start_paused = true)]
async fn requests_are_described_only_while_injecting() {
    let described = counter();
    let seen = Arc::clone(&described);
    let lossy =
        Conditioner::builder("test").rule(Rule::new(Fault::loss()).share(0.5)).build().unwrap();
    let service = lossy
        .layer()
        .describe(move |n: &u32| {
            seen.fetch_add(1, Ordering::Relaxed);
            Call::new().id(u64::from(*n))
        })
        .layer(callee(&counter()));
    assert!(service.clone().oneshot(1).await.is_ok());
    assert_eq!(described.load(Ordering::Relaxed), 0);
    lossy.arm().unwrap();
    let mut again = Vec::new();
    for round in 0..3 {
        for n in 0..100 {
            let lost = service.clone().oneshot(n).await.is_err();
            if round == 0 {
                again.push(lost);
            } else {
                assert_eq!(lost, again[n as usize], "request {n}");
            }
        }
    }
    assert_eq!(described.load(Ordering::Relaxed), 300);
    assert!(again.contains(&true) && again.contains(&false));
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_user_code_leaves_all_usable() {
    let lossy = armed(
        Rule::new(Fault::loss())
            .matching(buttress::conditioner::Matcher::when(|call| match call.get_name() {
                Some("bad") => panic!("on purpose"),
                name => name == Some("lose"),
            }))
            .max_active(1),
    );
    let mut service = lossy
        .layer()
        .describe(|name: &&'static str| Call::new().name(name))
        .layer(service_fn(|name: &'static str| async move { Ok::<_, io::Error>(name) }));
    for _ in 0..3 {
        service.ready().await.unwrap();
        let call = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| service.call("bad")));
        assert!(call.is_err());
        assert!(service.ready().await.unwrap().call("lose").await.is_err());
        assert_eq!(service.ready().await.unwrap().call("fine").await.unwrap(), "fine");
    }
    assert_eq!(lossy.stats().rules[0].active, 0);
}

#[test]
fn a_call_that_nothing_is_done_to_costs_a_word_or_two() {
    type Inner = tower::util::ServiceFn<fn(()) -> std::future::Ready<Result<u64, io::Error>>>;
    fn size<S: Service<()>>(_: &S) -> usize {
        size_of::<S::Future>()
    }
    let inner: Inner = service_fn(|()| std::future::ready(Ok(1)));
    let own = size_of::<std::future::Ready<Result<u64, io::Error>>>();
    let layered = size(&ConditionerLayer::from_slot(Slot::new()).layer(inner));
    assert!(layered <= own + 8, "{layered} around {own}");
    // Nor does it need a runtime, on or off.
    let plain = armed(Rule::new(Fault::latency(Latency::fixed(ms(1)).unwrap())).share(0.0));
    let service = plain.layer().layer(service_fn(|()| std::future::ready(Ok::<_, io::Error>(1))));
    assert_eq!(service.oneshot(()).now_or_never().unwrap().unwrap(), 1);
}

/// Faults come and go under load: each call has one answer, and a faulty one has met a whole conditioner:
/// the seed, the rules and the errors of one and the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn faults_come_and_go_under_load() {
    fn make(n: u64) -> Conditioner {
        let fault = move |part: &'static str| {
            Fault::error_with(move |_| -> BoxError { format!("{n} {part}").into() })
        };
        let conditioner = Conditioner::builder("test")
            .rule(Rule::new(fault("first")).share(0.5))
            .rule(Rule::new(fault("second")))
            .seed(n)
            .build()
            .unwrap();
        conditioner.arm().unwrap();
        conditioner
    }
    fn said(error: &(dyn std::error::Error + 'static)) -> String {
        let why = Rejection::find(error).expect("a fault of ours");
        std::error::Error::source(why).unwrap().to_string()
    }

    let slot = Slot::new();
    let layer = ConditionerLayer::from_slot(slot.clone()).describe(|id: &u64| Call::new().id(*id));
    let (done, answered) = (Arc::new(AtomicBool::new(false)), counter());
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..4_u64 {
        let service = layer.layer(service_fn(|id: u64| async move { Ok::<_, io::Error>(id) }));
        let (done, answered) = (Arc::clone(&done), Arc::clone(&answered));
        workers.spawn(async move {
            let (mut answers, mut faults) = (0_u64, Vec::new());
            for id in (worker..).step_by(4) {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                match service.clone().oneshot(id).await {
                    Ok(echo) => assert_eq!(echo, id),
                    Err(error) => faults.push((id, said(&*error))),
                }
                answers += 1;
                answered.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
            (answers, faults)
        });
    }
    let some_calls = async || {
        let before = answered.load(Ordering::Relaxed);
        while answered.load(Ordering::Relaxed) - before < 10 {
            tokio::task::yield_now().await;
        }
    };
    for n in 0..200 {
        some_calls().await;
        slot.install(make(n));
        if n % 3 == 0 {
            some_calls().await;
            slot.uninstall();
        }
    }
    done.store(true, Ordering::Relaxed);
    let (mut answers, mut faults) = (0, Vec::new());
    while let Some(worker) = workers.join_next().await {
        let (some, faulty) = worker.unwrap();
        answers += some;
        faults.extend(faulty);
    }
    let seen: std::collections::HashSet<_> =
        faults.iter().map(|(_, text)| text.split_once(' ').unwrap().0.to_owned()).collect();
    assert!(seen.len() > 150, "only {} conditioners were seen by {answers} calls", seen.len());
    for (id, text) in faults {
        let alone = make(text.split_once(' ').unwrap().0.parse().unwrap());
        let expected = alone.apply_blocking(&Call::new().id(id)).unwrap_err();
        assert_eq!(text, said(&expected), "request {id}");
    }
}

/// A call keeps the conditioner that was there when it was made.
#[tokio::test(start_paused = true)]
async fn a_late_call_survives_the_uninstalling_of_its_conditioner() {
    let slot = Slot::with(always(Fault::latency(Latency::fixed(ms(100)).unwrap())));
    let calls = counter();
    let mut service = ConditionerLayer::from_slot(slot.clone()).layer(callee(&calls));
    let start = Instant::now();
    let late = service.ready().await.unwrap().call(1);
    slot.uninstall();
    assert_eq!(late.await.unwrap(), 2);
    assert_eq!(start.elapsed(), ms(100));
    assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 2);
    assert_eq!(start.elapsed(), ms(100));
}
