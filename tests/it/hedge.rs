//! The contract kit against the hedge.

use std::io;

use buttress::hedge::{Hedge, HedgeService};
use buttress::testing::{Answer, Probe, Subject, check_all};
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
