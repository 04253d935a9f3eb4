//! Admission: the contract, who waits, who leaves.

use std::io;
use std::time::Duration;

use buttress::admission::{Admission, AdmissionLayer};
use buttress::testing::{Subject, check_all};
use buttress::{AsTyped, Context, Criticality, Deadline, Error, RejectionKind};
use futures_util::FutureExt;
use tokio::sync::oneshot;
use tower::{Layer, Service, ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn every_property_of_the_contract_holds() {
    let admission = Admission::new("contract");
    let seen = admission.backend().clone();
    let make = move || AdmissionLayer::new(admission.clone()).on_reject(AsTyped);
    let subject = Subject::new(make, || 7_u32, Ok::<u32, io::Error>)
        .ready_error(|| io::Error::other("inner broke"))
        .polls_inner_in_ready(false)
        .shared_state(move |one, two, _probe| {
            let seen = seen.clone();
            async move {
                let before = seen.stats().admitted;
                one.oneshot(1).await.map_err(|e| format!("{e:?}"))?;
                two.oneshot(1).await.map_err(|e| format!("{e:?}"))?;
                match seen.stats().admitted - before {
                    2 => Ok(()),
                    n => Err(format!("{n} of two calls were seen")),
                }
            }
        });
    check_all(&subject).await.unwrap();
}

type Job = (Context, oneshot::Receiver<u32>);

fn job(context: Context) -> (oneshot::Sender<u32>, Job) {
    let (done, wait) = oneshot::channel();
    (done, (context, wait))
}

fn bulkhead(
    n: u32,
) -> (Admission, impl Service<Job, Response = u32, Error = Error<io::Error>, Future: Unpin> + Clone)
{
    let admission = Admission::bulkhead("db", n).unwrap();
    let layer =
        AdmissionLayer::new(admission.clone()).context(|job: &Job| job.0).on_reject(AsTyped);
    let inner =
        service_fn(|(_, wait): Job| async move { wait.await.map_err(io::Error::other) }.boxed());
    (admission, tower::util::BoxCloneService::new(layer.layer(inner)))
}

#[tokio::test(start_paused = true)]
async fn a_bulkhead_lets_so_many_in_and_the_next_when_one_leaves() {
    let (admission, service) = bulkhead(1);
    let (first_done, first) = job(Context::new());
    let (second_done, second) = job(Context::new());
    let mut one = service.clone().oneshot(first);
    let mut two = service.oneshot(second);
    assert!((&mut one).now_or_never().is_none());
    assert!((&mut two).now_or_never().is_none());
    let stats = admission.backend().stats();
    assert_eq!((stats.in_flight, stats.waiting), (1, 1));
    second_done.send(2).unwrap();
    assert!((&mut two).now_or_never().is_none(), "it has not been sent");
    first_done.send(1).unwrap();
    assert_eq!(one.await.unwrap(), 1);
    assert_eq!(two.await.unwrap(), 2);
    assert_eq!(admission.backend().stats().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_cancelled_leaves_no_trace() {
    let (admission, service) = bulkhead(1);
    let (done, first) = job(Context::new());
    let mut one = service.clone().oneshot(first);
    assert!((&mut one).now_or_never().is_none());
    for granted in [false, true] {
        let (_done, second) = job(Context::new());
        let mut two = service.clone().oneshot(second);
        assert!((&mut two).now_or_never().is_none());
        if granted {
            // The place is already its own, and it has not seen it.
            drop(std::mem::replace(&mut one, service.clone().oneshot(job(Context::new()).1)));
        }
        drop(two);
        let stats = admission.backend().stats();
        assert_eq!((stats.in_flight, stats.waiting), (u32::from(!granted), 0));
    }
    drop(done);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_answered_at_its_deadline_at_the_latest() {
    let (admission, service) = bulkhead(1);
    let (_done, first) = job(Context::new());
    let mut one = service.clone().oneshot(first);
    assert!((&mut one).now_or_never().is_none());
    let context = Context::new().with_deadline(Deadline::after(200 * MS));
    let began = tokio::time::Instant::now();
    let error = service.clone().oneshot(job(context).1).await.unwrap_err();
    assert_eq!(error.rejection().unwrap().kind(), RejectionKind::DeadlineExceeded);
    assert!((195 * MS..=205 * MS).contains(&began.elapsed()), "{:?}", began.elapsed());
    let error = service.oneshot(job(context).1).await.unwrap_err();
    assert_eq!(error.rejection().unwrap().kind(), RejectionKind::DeadlineExceeded);
    let stats = admission.backend().stats();
    assert_eq!((stats.waiting, stats.hopeless, stats.expired), (0, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_important_go_first() {
    let (_, service) = bulkhead(1);
    let (done, first) = job(Context::new());
    let mut one = service.clone().oneshot(first);
    assert!((&mut one).now_or_never().is_none());
    let (batch_done, batch) = job(Context::new().with_criticality(Criticality::Sheddable));
    let (user_done, user) = job(Context::new().with_criticality(Criticality::CriticalPlus));
    let mut batch = service.clone().oneshot(batch);
    let mut user = service.oneshot(user);
    assert!((&mut batch).now_or_never().is_none() && (&mut user).now_or_never().is_none());
    batch_done.send(1).unwrap();
    user_done.send(2).unwrap();
    done.send(0).unwrap();
    one.await.unwrap();
    assert!((&mut batch).now_or_never().is_none());
    assert_eq!(user.await.unwrap(), 2);
    assert_eq!(batch.await.unwrap(), 1);
}

/// It says when to come again, and is well and known to be alive: single calls ask, and those that could not be answered in
/// time are told at once.
#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_backend_that_is_maintained_is_let_be_for_as_long_as_it_says() {
    use buttress::http::standard;
    use http::{Request, Response};
    let admission = Admission::new("maintained").patience(1000 * MS);
    let backend = admission.backend().clone();
    backend.learn_quota();
    let layer = AdmissionLayer::new(admission).classify(standard()).on_reject(AsTyped);
    let service = layer.layer(service_fn(|_: Request<()>| async {
        let answer = Response::builder().status(503).header("retry-after", "120").body(());
        Ok::<_, io::Error>(answer.expect("it is valid"))
    }));
    let mut told = 0;
    for n in 0..1000 {
        let start = tokio::time::Instant::now();
        match service.clone().oneshot(Request::get("/").body(()).unwrap()).await {
            Ok(answer) => assert_eq!(answer.status(), 503),
            Err(error) => {
                let why = error.rejection().expect("it is ours");
                assert_eq!(why.kind(), RejectionKind::RateLimited);
                if n >= 500 {
                    assert!(start.elapsed() < MS, "it waited in vain for {:?}", start.elapsed());
                    told += u32::from(why.retry_after().unwrap() > 1000 * MS);
                }
            }
        }
        tokio::time::sleep(10 * MS).await;
    }
    let stats = backend.stats();
    assert!(stats.admitted <= 40 && stats.downs == 0, "{stats:?}");
    assert!(told >= 400, "{told}");
}
