//! What a failed property says.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

macro_rules! properties {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// A property of the contract. Each has a function of the same name in
        /// [`contract`](super::contract).
        ///
        /// ```
        /// use buttress::testing::Property;
        /// assert_eq!(Property::CloneIsNotReady.to_string(), "clone_is_not_ready");
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Property {
            $($(#[$doc])* $variant,)*
        }

        impl Property {
            /// All of them, in the order in which they are checked.
            ///
            /// ```
            /// use buttress::testing::Property;
            /// assert!(Property::ALL.contains(&Property::EveryWaiterIsWoken));
            /// ```
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name, as the function that checks it is called.
            ///
            /// ```
            /// use buttress::testing::Property;
            /// assert_eq!(Property::ServiceDropReleases.as_str(), "service_drop_releases");
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
    /// A clone does not inherit readiness.
    CloneIsNotReady => "clone_is_not_ready",
    /// Once ready, an instance does not go back to pending.
    ReadyIsStableUntilCall => "ready_is_stable_until_call",
    /// The inner instance that was polled ready is the one that is called.
    ReadiedInstanceIsTheOneCalled => "readied_instance_is_the_one_called",
    /// An error of the inner service's `poll_ready` reaches the caller.
    InnerReadyErrorIsPassedThrough => "inner_ready_error_is_passed_through",
    /// A ready instance dropped without a call gives everything back.
    NotCalledAfterReadyReleases => "not_called_after_ready_releases",
    /// A ready instance that waits for its call keeps nobody else out.
    ReadyTakesNothingScarce => "ready_takes_nothing_scarce",
    /// A service dropped while it waits or while its call is in flight gives everything back.
    ServiceDropReleases => "service_drop_releases",
    /// A response future dropped before its first poll gives everything back.
    FutureDropBeforeFirstPollReleases => "future_drop_before_first_poll_releases",
    /// A response future dropped in flight gives everything back.
    FutureDropMidFlightReleases => "future_drop_mid_flight_releases",
    /// A finished call holds nothing, even while its future still exists.
    ResponseReadyReleasesBeforeFutureDrop => "response_ready_releases_before_future_drop",
    /// Two services of one layer share its state.
    LayerTwiceSharesState => "layer_twice_shares_state",
    /// Nobody is woken over and over while nothing has changed.
    NoBusyWakeWhileWaiting => "no_busy_wake_while_waiting",
    /// Every instance that waits is woken, not only the last.
    EveryWaiterIsWoken => "every_waiter_is_woken",
    /// A call that goes well needs no runtime.
    NoTimerNeededOnHappyPath => "no_timer_needed_on_happy_path",
    /// A panic of the inner service leaves the layer usable and nothing held.
    PanickingInnerLeavesUsableState => "panicking_inner_leaves_usable_state",
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A property that does not hold: what was expected and what was seen.
///
/// ```
/// use buttress::testing::{ContractViolation, Property};
/// let v = ContractViolation::new(Property::CloneIsNotReady, "a pending clone", "a ready one");
/// assert_eq!(v.to_string(), "clone_is_not_ready: expected a pending clone, saw a ready one");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContractViolation {
    property: Property,
    expected: Cow<'static, str>,
    seen: Cow<'static, str>,
}

impl ContractViolation {
    /// For checks of your own.
    ///
    /// ```
    /// use buttress::testing::{ContractViolation, Property};
    /// let v = ContractViolation::new(Property::EveryWaiterIsWoken, "4 woken", "1 woken");
    /// assert_eq!(v.seen(), "1 woken");
    /// ```
    #[must_use]
    pub fn new(
        property: Property,
        expected: impl Into<Cow<'static, str>>,
        seen: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { property, expected: expected.into(), seen: seen.into() }
    }

    /// Which property.
    ///
    /// ```
    /// # use buttress::testing::{ContractViolation, Property};
    /// # let v = ContractViolation::new(Property::EveryWaiterIsWoken, "4 woken", "1 woken");
    /// assert_eq!(v.property(), Property::EveryWaiterIsWoken);
    /// ```
    #[must_use]
    pub fn property(&self) -> Property {
        self.property
    }

    /// What was expected.
    ///
    /// ```
    /// # use buttress::testing::{ContractViolation, Property};
    /// # let v = ContractViolation::new(Property::EveryWaiterIsWoken, "4 woken", "1 woken");
    /// assert_eq!(v.expected(), "4 woken");
    /// ```
    #[must_use]
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// What was seen instead.
    ///
    /// ```
    /// # use buttress::testing::{ContractViolation, Property};
    /// # let v = ContractViolation::new(Property::EveryWaiterIsWoken, "4 woken", "1 woken");
    /// assert_eq!(v.seen(), "1 woken");
    /// ```
    #[must_use]
    pub fn seen(&self) -> &str {
        &self.seen
    }
}

impl fmt::Display for ContractViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, saw {}", self.property, self.expected, self.seen)
    }
}

impl std::error::Error for ContractViolation {}

/// Everything [`check_all`](super::check_all) found, at least one. Both `Display` and `Debug` print
/// one line each, so that `check_all(&subject).await.unwrap()` reads well when it fails.
///
/// ```
/// use buttress::testing::{check_all, Property, Subject};
/// # use tower::layer::util::Identity;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let declares_nothing = Subject::new(Identity::new, || 1_u32, |n| Ok::<_, ()>(n));
/// let violations = check_all(&declares_nothing).await.unwrap_err();
/// assert_eq!(violations.len(), 2);
/// assert_eq!(violations[1].property(), Property::LayerTwiceSharesState);
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ContractViolations(pub(super) Vec<ContractViolation>);

impl Deref for ContractViolations {
    type Target = [ContractViolation];

    fn deref(&self) -> &[ContractViolation] {
        &self.0
    }
}

impl fmt::Display for ContractViolations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} properties do not hold", self.0.len(), Property::ALL.len())?;
        self.0.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

impl fmt::Debug for ContractViolations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ContractViolations {}
