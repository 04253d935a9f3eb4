//! The contract kit.

use std::io;

use buttress::retry::{RetryLayer, RetryPolicy, RetryService};
use buttress::testing::{Answer, Probe, Subject, check_all};
use buttress::{Backoff, Deadline};
use tower::{Service, ServiceExt};

#[tokio::test(start_paused = true)]
async fn every_property_of_the_contract_holds() {
    type Retried = RetryService<Probe<u32, u32, io::Error>>;
    let subject = Subject::new(
        || RetryLayer::new(RetryPolicy::builder().backoff(Backoff::none()).build().unwrap()),
        || 1_u32,
        |n: u32| Ok::<_, io::Error>(n + 1),
    )
    .ready_error(|| io::Error::other("inner broke"))
    .shared_state(|mut one: Retried, mut two: Retried, probe| async move {
        let calls = async |service: &mut Retried| {
            let before = probe.counts().calls;
            for _ in 0..3 {
                probe.next(Answer::Ready(Err(io::ErrorKind::ConnectionReset.into())));
            }
            let ready = service.ready().await.map_err(|e| e.to_string())?;
            drop(ready.call(1).await);
            Ok::<_, String>(probe.counts().calls - before)
        };
        // The first spends the budget, the second finds it spent.
        match (calls(&mut one).await?, calls(&mut two).await?) {
            (3, 1) => Ok(()),
            (first, second) => Err(format!("{first} and {second} calls instead of 3 and 1")),
        }
    });
    check_all(&subject).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn limits_and_observers_do_not_change_the_contract() {
    let subject = Subject::new(
        || {
            let policy = RetryPolicy::builder()
                .backoff(Backoff::none())
                .attempt_timeout(std::time::Duration::from_secs(3600))
                .build()
                .unwrap();
            RetryLayer::new(policy)
                .without_budget()
                .observe(|_: &buttress::observe::Event<'_>| {})
                .deadlines(|_: &u32| Some(Deadline::after(std::time::Duration::MAX)))
        },
        || 1_u32,
        |n: u32| Ok::<_, io::Error>(n + 1),
    )
    .ready_error(|| io::Error::other("inner broke"))
    // A call that has to wait against a limit makes a timer.
    .needs_runtime(true)
    .stateless();
    check_all(&subject).await.unwrap();
}
