//! What is promised, and what a broken promise says.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

macro_rules! properties {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// A promise of [`Store`](crate::store::Store).
        ///
        /// ```
        /// use buttress::testing::store::StoreProperty;
        /// assert_eq!(StoreProperty::ZombieIsFencedOff.to_string(), "zombie_is_fenced_off");
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum StoreProperty {
            $($(#[$doc])* $variant,)*
        }

        impl StoreProperty {
            /// All of them, in the order in which they are checked.
            ///
            /// ```
            /// use buttress::testing::store::StoreProperty;
            /// assert!(StoreProperty::ALL.contains(&StoreProperty::RetentionEnds));
            /// ```
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name.
            ///
            /// ```
            /// use buttress::testing::store::StoreProperty;
            /// assert_eq!(StoreProperty::RetentionEnds.as_str(), "retention_ends");
            /// ```
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

properties! {
    /// Of claims that come together, one gets the key; the others are told that it is taken.
    OneOfManyClaimsWins => "one_of_many_claims_wins",
    /// A claim whose answer was lost can be made again.
    SameAttemptIsTheSameClaim => "same_attempt_is_the_same_claim",
    /// Another fingerprint is a mistake, whatever the state of the record.
    MismatchComesFirst => "mismatch_comes_first",
    /// What happens to one record does not touch another.
    RecordsDoNotMix => "records_do_not_mix",
    /// Each claim of a key has a greater generation, also when the record was gone in between.
    GenerationsGrow => "generations_grow",
    /// A claim whose future was dropped can be made again.
    CancelledClaimCanBeRepeated => "cancelled_claim_can_be_repeated",
    /// While a lease holds, others are told for how long.
    LeaseKeepsOthersOut => "lease_keeps_others_out",
    /// A lease that is renewed goes on holding.
    RenewalExtendsTheLease => "renewal_extends_the_lease",
    /// By default, a claim whose lease has ended is interrupted and stays so.
    EndedLeaseIsNotRunAgain => "ended_lease_is_not_run_again",
    /// An owner who was given up and whom nobody has followed can still complete.
    LateOwnerSetsItRight => "late_owner_sets_it_right",
    /// What may be run again is run as often as allowed and not more.
    RerunHasALimit => "rerun_has_a_limit",
    /// Of claims that come together when a lease has ended, one takes over.
    OneOfManyTakesOver => "one_of_many_takes_over",
    /// Who probes holds a lease like any owner.
    ProbeKeepsOthersOut => "probe_keeps_others_out",
    /// An owner who was followed by another changes nothing any more.
    ZombieIsFencedOff => "zombie_is_fenced_off",
    /// A claim whose owner has gone without a word is not run again by default, sooner or later.
    AbandonedIsNotRunAgain => "abandoned_is_not_run_again",
    /// What was recorded is given byte for byte, with or without a body.
    OutcomeIsGivenAsItWas => "outcome_is_given_as_it_was",
    /// A record that is completed stays as it is.
    FirstOutcomeStays => "first_outcome_stays",
    /// A released key is as if it had never been claimed; a completed one cannot be released.
    ReleaseFreesTheKey => "release_frees_the_key",
    /// What took over and is released leaves the key to the owner before, who may have had the effect.
    ReleaseLeavesTheFormerOwner => "release_leaves_the_former_owner",
    /// What its owner declared interrupted is not run again, whatever the policy.
    InterruptedStays => "interrupted_stays",
    /// Resolving works on the generation that was looked at, when nobody holds a lease, and fences the
    /// owner off.
    ResolveNeedsTheGeneration => "resolve_needs_the_generation",
    /// When its retention is over a completed record is gone.
    RetentionEnds => "retention_ends",
    /// A record is not forgotten while its lease holds, however short its retention.
    LeaseOutlivesRetention => "lease_outlives_retention",
    /// A record whose owner has gone is known for its retention after the lease, also if that is the shorter one.
    RetentionFollowsTheLease => "retention_follows_the_lease",
    /// Purging takes no record that has not expired.
    PurgeTakesOnlyTheExpired => "purge_takes_only_the_expired",
    /// Looking at a record leaves it as it is.
    GetChangesNothing => "get_changes_nothing",
    /// Nobody is told of a change that has not happened.
    ChangedIsNotEarly => "changed_is_not_early",
}

impl fmt::Display for StoreProperty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A promise that is not kept: what was expected and what was seen.
///
/// ```
/// use buttress::testing::store::{StoreProperty, StoreViolation};
/// let v = StoreViolation::new(StoreProperty::OneOfManyClaimsWins, "1 winner", "2 winners");
/// assert_eq!(v.to_string(), "one_of_many_claims_wins: expected 1 winner, saw 2 winners");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreViolation {
    property: StoreProperty,
    expected: Cow<'static, str>,
    seen: Cow<'static, str>,
}

impl StoreViolation {
    /// For checks of your own.
    ///
    /// ```
    /// use buttress::testing::store::{StoreProperty, StoreViolation};
    /// let v = StoreViolation::new(StoreProperty::RetentionEnds, "no record", "a record");
    /// assert_eq!(v.seen(), "a record");
    /// ```
    #[must_use]
    pub fn new(
        property: StoreProperty,
        expected: impl Into<Cow<'static, str>>,
        seen: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { property, expected: expected.into(), seen: seen.into() }
    }

    /// Which property.
    ///
    /// ```
    /// # use buttress::testing::store::{StoreProperty, StoreViolation};
    /// # let v = StoreViolation::new(StoreProperty::RetentionEnds, "no record", "a record");
    /// assert_eq!(v.property(), StoreProperty::RetentionEnds);
    /// ```
    #[must_use]
    pub fn property(&self) -> StoreProperty {
        self.property
    }

    /// What was expected.
    ///
    /// ```
    /// # use buttress::testing::store::{StoreProperty, StoreViolation};
    /// # let v = StoreViolation::new(StoreProperty::RetentionEnds, "no record", "a record");
    /// assert_eq!(v.expected(), "no record");
    /// ```
    #[must_use]
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// What was seen instead.
    ///
    /// ```
    /// # use buttress::testing::store::{StoreProperty, StoreViolation};
    /// # let v = StoreViolation::new(StoreProperty::RetentionEnds, "no record", "a record");
    /// assert_eq!(v.seen(), "a record");
    /// ```
    #[must_use]
    pub fn seen(&self) -> &str {
        &self.seen
    }
}

impl fmt::Display for StoreViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, saw {}", self.property, self.expected, self.seen)
    }
}

impl std::error::Error for StoreViolation {}

/// Everything [`check_store`](super::check_store) found, at least one. `Display` and `Debug` print one line
/// each.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// use buttress::store::MemoryStore;
/// use buttress::testing::store::{StoreSubject, check_store};
/// // No room for the second key of any property.
/// let subject =
///     StoreSubject::new(|| async { MemoryStore::builder().capacity(1).build().unwrap() });
/// let violations = check_store(&subject).await.unwrap_err();
/// assert!(violations[0].seen().contains("full"));
/// # });
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct StoreViolations(pub(super) Vec<StoreViolation>);

impl Deref for StoreViolations {
    type Target = [StoreViolation];

    fn deref(&self) -> &[StoreViolation] {
        &self.0
    }
}

impl fmt::Display for StoreViolations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} properties do not hold", self.0.len(), StoreProperty::ALL.len())?;
        self.0.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

impl fmt::Debug for StoreViolations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for StoreViolations {}
