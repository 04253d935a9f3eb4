//! Our throttle: where nothing is throttled, at a rate, and where nothing is taken.

use std::time::Duration;

use buttress::throttle::Throttle;
use buttress::{AsTyped, Verdict, classify_fn};
use tower::Layer;

use crate::case::{Case, Expect, Hold, fill, numbers};
use crate::floor::{Answer, Oops};

/// For every call that comes to it, an answer is told that asks for a pause of an hour.
fn stopped() -> Throttle {
    let throttle = Throttle::builder("api").max_wait(Duration::ZERO).build();
    let throttle = throttle.expect("a valid throttle");
    let busy =
        classify_fn(|_: Result<&(), &()>| Verdict::throttled(Some(Duration::from_secs(3600))));
    crate::runtime().block_on(async {
        while throttle.stats().state != "stopped" {
            // Refused here or there.
            let _ = throttle.run_with(async { Err::<(), ()>(()) }, &busy, None).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    throttle
}

pub(super) fn cases() -> Vec<Case> {
    const ADAPTIVE: &str = "throttle/success/tower-resilience adaptive";
    let free = |hold| {
        let service = Throttle::new("api").layer().on_reject(AsTyped).layer(Answer);
        fill(&service, 1000);
        numbers(service, hold)
    };
    vec![
        Case::new("throttle/success/us", Expect::Allowed, move || free(Hold::Reuse))
            .no_alloc()
            .scales()
            .against(ADAPTIVE),
        Case::new("throttle/success/us, cloned each call", Expect::Allowed, move || {
            free(Hold::CloneEach)
        })
        .no_alloc()
        .scales()
        .against(ADAPTIVE),
        Case::new("throttle/success/us direct", Expect::Allowed, || {
            let throttle = Throttle::new("api");
            Box::new(move || Box::new(Runs { throttle: throttle.clone() }))
        })
        .no_alloc()
        .scales()
        .against(ADAPTIVE),
        Case::new("throttle/refuse/us typed", Expect::Refused, || {
            numbers(stopped().layer().on_reject(AsTyped).layer(Answer), Hold::Reuse)
        })
        .no_alloc()
        .scales()
        .against("limit/layer refuse/tower-resilience fixed"),
    ]
}

/// Without tower.
struct Runs {
    throttle: Throttle,
}

impl crate::case::Runner for Runs {
    fn run(&mut self, calls: u64) -> crate::case::Batch<'_> {
        Box::pin(async move {
            let mut answered = 0;
            for _ in 0..calls {
                let call = async { Ok::<_, Oops>(7_u64) };
                answered += u64::from(self.throttle.run(call).await.is_ok());
            }
            answered
        })
    }
}
