//! The contract kit against the breaker in its modes, and against a breaker per key.

use std::io;
use std::time::Duration;

use buttress::circuit_breaker::{CircuitBreaker, CircuitBreakerService, KeyedCircuitBreaker};
use buttress::testing::{Answer, Probe, Subject, check_all};
use futures_util::FutureExt;
use tower::{Service, ServiceExt};

type Guarded =
    CircuitBreakerService<Probe<u32, u32, io::Error>, buttress::AnyError, buttress::AsError>;

#[tokio::test(start_paused = true)]
async fn every_property_of_the_contract_holds() {
    let subject = Subject::new(
        || CircuitBreaker::builder("contract").consecutive_failures(100).build().unwrap().layer(),
        || 1_u32,
        |n: u32| Ok::<_, io::Error>(n + 1),
    )
    .ready_error(|| io::Error::other("inner broke"))
    .shared_state(|mut one: Guarded, mut two: Guarded, probe| async move {
        for _ in 0..100 {
            probe.next(Answer::Ready(Err(io::Error::other("down"))));
            let _ = one.ready().await.map_err(|e| e.to_string())?.call(1).await;
        }
        let refused = two.ready().await.map_err(|e| e.to_string())?.call(1).await;
        match refused {
            Err(e) if buttress::Rejection::find(&*e).is_some() => Ok(()),
            other => Err(format!("the second service answered {other:?}")),
        }
    });
    check_all(&subject).await.unwrap();
}

/// Where calls are timed, counted in a window, and readiness depends on the state.
#[tokio::test(start_paused = true)]
async fn every_property_holds_in_other_modes() {
    for unready in [false, true] {
        let layer = move || {
            let builder = CircuitBreaker::builder("contract").failure_rate(1.0).min_calls(100);
            let builder = builder.slow_calls(Duration::from_secs(1), 1.0);
            let layer = builder.ramp(Duration::from_secs(1)).build().unwrap().layer();
            if unready { layer.unready_while_open() } else { layer }
        };
        let subject = Subject::new(layer, || 1_u32, |n: u32| Ok::<_, io::Error>(n + 1))
            .ready_error(|| io::Error::other("inner broke"))
            .shared_state(move |mut one: Guarded, mut two: Guarded, probe| async move {
                for _ in 0..100 {
                    probe.next(Answer::Ready(Err(io::Error::other("down"))));
                    let _ = one.ready().await.map_err(|e| e.to_string())?.call(1).await;
                }
                if unready {
                    let waiting = two.ready().now_or_never().is_none();
                    return waiting.then_some(()).ok_or("the second service is ready".into());
                }
                match two.ready().await.map_err(|e| e.to_string())?.call(1).await {
                    Err(e) if buttress::Rejection::find(&*e).is_some() => Ok(()),
                    other => Err(format!("the second service answered {other:?}")),
                }
            });
        check_all(&subject).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_per_key_keeps_the_contract_too() {
    let subject = Subject::new(
        || {
            let keyed: KeyedCircuitBreaker<u32> =
                CircuitBreaker::builder("contract").build_keyed(8).unwrap();
            keyed.layer(buttress::key_fn(|n: &u32| *n))
        },
        || 1_u32,
        |n: u32| Ok::<_, io::Error>(n + 1),
    )
    .ready_error(|| io::Error::other("inner broke"))
    .shared_state(|mut one, mut two, probe| async move {
        for _ in 0..5 {
            probe.next(Answer::Ready(Err(io::Error::other("down"))));
            let _ = one.ready().await.map_err(|e| e.to_string())?.call(7).await;
        }
        match two.ready().await.map_err(|e| e.to_string())?.call(7).await {
            Err(e) if buttress::Rejection::find(&*e).is_some() => Ok(()),
            other => Err(format!("the second service answered {other:?}")),
        }
    });
    check_all(&subject).await.unwrap();
}
