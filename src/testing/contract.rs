//! The properties, one function each.

use tower_service::Service;

pub use super::ready::{
    clone_is_not_ready, inner_ready_error_is_passed_through, layer_twice_shares_state,
    readied_instance_is_the_one_called, ready_is_stable_until_call, ready_takes_nothing_scarce,
};
pub use super::release::{
    future_drop_before_first_poll_releases, future_drop_mid_flight_releases,
    not_called_after_ready_releases, panicking_inner_leaves_usable_state,
    response_ready_releases_before_future_drop, service_drop_releases,
};
use super::rig::catch_panic;
use super::subject::{Subject, TestableLayer};
use super::violation::{ContractViolation, ContractViolations, Property};
pub use super::waking::{
    every_waiter_is_woken, no_busy_wake_while_waiting, no_timer_needed_on_happy_path,
};

/// Checks every property and returns all violations. A panic of the layer counts as one.
///
/// Runs on any executor. A subject that [needs a runtime](Subject::needs_runtime) wants tokio, best
/// with paused time: `#[tokio::test(start_paused = true)]`.
///
/// # Errors
/// Every property that does not hold.
///
/// ```
/// use buttress::testing::{check_all, Subject};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let subject = Subject::new(
///     || tower::util::MapResponseLayer::new(|n: u32| n + 1),
///     || 1,
///     |n: u32| Ok::<_, String>(n),
/// )
/// .ready_error(|| "connection lost".to_owned())
/// .stateless();
/// check_all(&subject).await.unwrap();
/// # }
/// ```
pub async fn check_all<Req, Res, Err, L>(
    subject: &Subject<Req, Res, Err, L>,
) -> Result<(), ContractViolations>
where
    L: TestableLayer<Req, Res, Err>,
{
    let mut found = Vec::new();
    for &property in Property::ALL {
        let result = catch_panic(check(subject, property)).await;
        found.extend(match result {
            Ok(result) => result.err(),
            Err(panic) => Some(ContractViolation::new(
                property,
                "no panic of the layer's own",
                format!("a panic: {panic}"),
            )),
        });
    }
    if found.is_empty() { Ok(()) } else { Err(ContractViolations(found)) }
}

/// Checks one property, chosen at run time.
///
/// # Errors
/// If it does not hold.
///
/// ```
/// use buttress::testing::{check, Property, Subject};
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let subject = Subject::new(tower::layer::util::Identity::new, || 1_u32, |n| Ok::<_, ()>(n));
/// check(&subject, Property::EveryWaiterIsWoken).await.unwrap();
/// # }
/// ```
pub async fn check<Req, Res, Err, L>(
    subject: &Subject<Req, Res, Err, L>,
    property: Property,
) -> Result<(), ContractViolation>
where
    L: TestableLayer<Req, Res, Err>,
{
    match property {
        Property::CloneIsNotReady => clone_is_not_ready(subject).await,
        Property::ReadyIsStableUntilCall => ready_is_stable_until_call(subject).await,
        Property::ReadiedInstanceIsTheOneCalled => {
            readied_instance_is_the_one_called(subject).await
        }
        Property::InnerReadyErrorIsPassedThrough => {
            inner_ready_error_is_passed_through(subject).await
        }
        Property::NotCalledAfterReadyReleases => not_called_after_ready_releases(subject).await,
        Property::ReadyTakesNothingScarce => ready_takes_nothing_scarce(subject).await,
        Property::ServiceDropReleases => service_drop_releases(subject).await,
        Property::FutureDropBeforeFirstPollReleases => {
            future_drop_before_first_poll_releases(subject).await
        }
        Property::FutureDropMidFlightReleases => future_drop_mid_flight_releases(subject).await,
        Property::ResponseReadyReleasesBeforeFutureDrop => {
            response_ready_releases_before_future_drop(subject).await
        }
        Property::LayerTwiceSharesState => layer_twice_shares_state(subject).await,
        Property::NoBusyWakeWhileWaiting => no_busy_wake_while_waiting(subject).await,
        Property::EveryWaiterIsWoken => every_waiter_is_woken(subject).await,
        Property::NoTimerNeededOnHappyPath => no_timer_needed_on_happy_path(subject).await,
        Property::PanickingInnerLeavesUsableState => {
            panicking_inner_leaves_usable_state(subject).await
        }
    }
}

/// Compiles if `S` can be used by axum, hyper-util and tonic servers: `Clone + Send + Sync +
/// 'static` with a `Send + 'static` future.
///
/// ```
/// use buttress::testing::{contract::send_sync_clone_static, Probe};
/// send_sync_clone_static::<u32, Probe<u32, u32, String>>();
/// ```
///
/// ```compile_fail
/// use buttress::testing::{contract::send_sync_clone_static, Probe};
/// // tower's boxed service is not `Clone`.
/// send_sync_clone_static::<u32, tower::util::BoxService<u32, u32, String>>();
/// ```
pub const fn send_sync_clone_static<Req, S>()
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
}
