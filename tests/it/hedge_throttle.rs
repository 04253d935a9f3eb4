//! The contract kit against hedge and throttle.

use std::io;

use buttress::hedge::{Hedge, HedgeService};
use buttress::testing::{Answer, Probe, Subject, check_all};
use buttress::throttle::{Throttle, ThrottleService};
use buttress::{Verdict, classify_fn};
use tower::{Service, ServiceExt};

#[tokio::test(start_paused = true)]
async fn every_property_of_the_contract_holds_for_the_hedge() {
    type Hedged = HedgeService<Probe<u32, u32, io::Error>>;
    let subject = Subject::new(
        || Hedge::builder("contract").min_samples(10).build().unwrap().layer(),
        || 1_u32,
        |n: u32| Ok::<_, io::Error>(n + 1),
    )
    .ready_error(|| io::Error::other("inner broke"))
    // Warm, a call that has to wait makes a timer.
    .needs_runtime(true)
    .shared_state(|mut one: Hedged, mut two: Hedged, probe| async move {
        for _ in 0..20 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            let ready = one.ready().await.map_err(|e| e.to_string())?;
            ready.call(1).await.map_err(|e| e.to_string())?;
        }
        let before = probe.counts().calls;
        probe.next(Answer::Never);
        let answer = two.ready().await.map_err(|e| e.to_string())?.call(1).await;
        match (answer, probe.counts().calls - before) {
            (Ok(2), 2) => Ok(()),
            other => Err(format!("the second service knows nothing: {other:?}")),
        }
    });
    check_all(&subject).await.unwrap();
}

fn judge(result: Result<&u32, &io::Error>) -> Verdict {
    match result {
        Ok(_) => Verdict::success(),
        Err(_) => Verdict::throttled(None),
    }
}

#[tokio::test(start_paused = true)]
async fn every_property_of_the_contract_holds_for_the_throttle() {
    let subject = Subject::new(
        || Throttle::new("contract").layer().classify(classify_fn(judge)),
        || 1_u32,
        |n: u32| Ok::<_, io::Error>(n + 1),
    )
    .ready_error(|| io::Error::other("inner broke"))
    .shared_state(
        |mut one: ThrottleService<_, _>, mut two: ThrottleService<_, _>, probe| async move {
            for _ in 0..20 {
                probe.next(Answer::Ready(Err(io::Error::other("429"))));
                let _ =
                    one.ready().await.map_err(|e: buttress::BoxError| e.to_string())?.call(1).await;
            }
            let before = probe.counts().calls;
            let refused = two.ready().await.map_err(|e| e.to_string())?.call(1).await;
            match (refused, probe.counts().calls - before) {
                (Err(e), 0) if buttress::Rejection::find(&*e).is_some() => Ok(()),
                other => Err(format!("the second service answered {other:?}")),
            }
        },
    );
    check_all(&subject).await.unwrap();
}
