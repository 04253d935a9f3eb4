//! A conformance suite for stores: prove that yours keeps the promises of [`Store`].
//!
//! A store of executions that is almost right runs payments twice, and only sometimes. It lets two claims
//! through that come together, counts a renewal of somebody who has lost his lease, forgets a record that is
//! still in use, or changes what it was told once. [`check_store`] drives a store through every
//! [`StoreProperty`] and reports all that do not hold.
//!
//! ```
//! use buttress::store::MemoryStore;
//! use buttress::testing::store::{StoreSubject, check_store};
//!
//! // In yours: #[tokio::test(start_paused = true)]
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! let subject = StoreSubject::new(|| async { MemoryStore::default() });
//! check_store(&subject).await.unwrap();
//! # });
//! ```
//!
//! # Time
//!
//! Leases must end for most properties, by the store's clock. A store on tokio's clock is best checked with
//! paused time. One on another clock says how much time it needs with [`StoreSubject::unit`], and if it has a
//! clock that can be set, how to do that with [`StoreSubject::pass`].
//!
//! # What is not here
//!
//! That what was acknowledged survives a crash, a power cut or a failover, and what happens when the store
//! does not answer: that takes the store's own means. Claims of several processes are checked as far as
//! several handles are like them.

mod claims;
mod lab;
mod leases;
mod records;
mod subject;
mod violation;

pub use subject::StoreSubject;
pub use violation::{StoreProperty, StoreViolation, StoreViolations};

use self::lab::Lab;
use super::rig::catch_panic;
use crate::store::Store;

/// Checks every property and returns all violations. An error and a panic of the store count as one.
///
/// Needs tokio. On a runtime of several threads claims really come at the same time.
///
/// # Errors
/// Every property that does not hold.
///
/// ```
/// use buttress::store::{AnyStore, MemoryStore};
/// use buttress::testing::store::{StoreSubject, check_store};
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let subject = StoreSubject::new(|| async { AnyStore::new(MemoryStore::default()) });
/// check_store(&subject).await.unwrap();
/// # });
/// ```
pub async fn check_store<S: Store + Clone>(
    subject: &StoreSubject<S>,
) -> Result<(), StoreViolations> {
    let mut found = Vec::new();
    for &property in StoreProperty::ALL {
        match catch_panic(check_store_property(subject, property)).await {
            Ok(result) => found.extend(result.err()),
            Err(panic) => found.push(StoreViolation::new(
                property,
                "no panic of the store",
                format!("a panic: {panic}"),
            )),
        }
    }
    if found.is_empty() { Ok(()) } else { Err(StoreViolations(found)) }
}

/// Checks one property, chosen at run time.
///
/// # Errors
/// If it does not hold.
///
/// ```
/// use buttress::store::MemoryStore;
/// use buttress::testing::store::{StoreProperty, StoreSubject, check_store_property};
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let subject = StoreSubject::new(|| async { MemoryStore::default() });
/// check_store_property(&subject, StoreProperty::OneOfManyClaimsWins).await.unwrap();
/// # });
/// ```
pub async fn check_store_property<S: Store + Clone>(
    subject: &StoreSubject<S>,
    property: StoreProperty,
) -> Result<(), StoreViolation> {
    let lab = Lab::new(subject, property).await;
    match property {
        StoreProperty::OneOfManyClaimsWins => claims::one_of_many_wins(&lab).await,
        StoreProperty::SameAttemptIsTheSameClaim => claims::same_attempt(&lab).await,
        StoreProperty::MismatchComesFirst => claims::mismatch_comes_first(&lab).await,
        StoreProperty::RecordsDoNotMix => claims::records_do_not_mix(&lab).await,
        StoreProperty::GenerationsGrow => claims::generations_grow(&lab).await,
        StoreProperty::CancelledClaimCanBeRepeated => claims::cancelled(&lab).await,
        StoreProperty::LeaseKeepsOthersOut => leases::keeps_others_out(&lab).await,
        StoreProperty::RenewalExtendsTheLease => leases::renewal(&lab).await,
        StoreProperty::EndedLeaseIsNotRunAgain => leases::not_run_again(&lab).await,
        StoreProperty::LateOwnerSetsItRight => leases::late_owner(&lab).await,
        StoreProperty::RerunHasALimit => leases::rerun(&lab).await,
        StoreProperty::OneOfManyTakesOver => leases::one_takes_over(&lab).await,
        StoreProperty::ProbeKeepsOthersOut => leases::probe(&lab).await,
        StoreProperty::ZombieIsFencedOff => leases::zombie(&lab).await,
        StoreProperty::AbandonedIsNotRunAgain => leases::abandoned(&lab).await,
        StoreProperty::OutcomeIsGivenAsItWas => records::outcomes(&lab).await,
        StoreProperty::FirstOutcomeStays => records::first_stays(&lab).await,
        StoreProperty::ReleaseFreesTheKey => records::release(&lab).await,
        StoreProperty::ReleaseLeavesTheFormerOwner => records::released_take_over(&lab).await,
        StoreProperty::InterruptedStays => records::interrupted(&lab).await,
        StoreProperty::ResolveNeedsTheGeneration => records::resolve(&lab).await,
        StoreProperty::RetentionEnds => records::retention(&lab).await,
        StoreProperty::LeaseOutlivesRetention => records::lease_outlives(&lab).await,
        StoreProperty::RetentionFollowsTheLease => records::follows_the_lease(&lab).await,
        StoreProperty::PurgeTakesOnlyTheExpired => records::purge(&lab).await,
        StoreProperty::GetChangesNothing => records::get(&lab).await,
        StoreProperty::ChangedIsNotEarly => records::changed(&lab).await,
    }
}
