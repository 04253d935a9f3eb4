//! One property by value, or all of them.

use super::contract;
use super::rig::catch_panic;
use super::subject::{Subject, TestableLayer};
use super::violation::{ContractViolation, ContractViolations, Property};

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
        Property::CloneIsNotReady => contract::clone_is_not_ready(subject).await,
        Property::ReadyIsStableUntilCall => contract::ready_is_stable_until_call(subject).await,
        Property::ReadiedInstanceIsTheOneCalled => {
            contract::readied_instance_is_the_one_called(subject).await
        }
        Property::InnerReadyErrorIsPassedThrough => {
            contract::inner_ready_error_is_passed_through(subject).await
        }
        Property::NotCalledAfterReadyReleases => {
            contract::not_called_after_ready_releases(subject).await
        }
        Property::ReadyTakesNothingScarce => contract::ready_takes_nothing_scarce(subject).await,
        Property::ServiceDropReleases => contract::service_drop_releases(subject).await,
        Property::FutureDropBeforeFirstPollReleases => {
            contract::future_drop_before_first_poll_releases(subject).await
        }
        Property::FutureDropMidFlightReleases => {
            contract::future_drop_mid_flight_releases(subject).await
        }
        Property::ResponseReadyReleasesBeforeFutureDrop => {
            contract::response_ready_releases_before_future_drop(subject).await
        }
        Property::LayerTwiceSharesState => contract::layer_twice_shares_state(subject).await,
        Property::NoBusyWakeWhileWaiting => contract::no_busy_wake_while_waiting(subject).await,
        Property::EveryWaiterIsWoken => contract::every_waiter_is_woken(subject).await,
        Property::NoTimerNeededOnHappyPath => {
            contract::no_timer_needed_on_happy_path(subject).await
        }
        Property::PanickingInnerLeavesUsableState => {
            contract::panicking_inner_leaves_usable_state(subject).await
        }
    }
}
