//! Where a new object is registered: one pair of methods for every builder.

use super::Registry;
use crate::managed::Home;

macro_rules! registered {
    ($([$($generic:tt)*] $builder:ty: $make:literal, |$it:ident, $home:ident| $move:expr;)*) => {$(
        impl<$($generic)*> $builder {
            /// Registers it in no [`Registry`]: no status shows it, no command finds it.
            ///
            /// ```
            #[doc = concat!("let builder = ", $make, ".unregistered();")]
            /// ```
            #[must_use = "a builder builds nothing before `build`"]
            pub fn unregistered(self) -> Self {
                let ($it, $home) = (self, Home::Nowhere);
                $move
            }

            /// Registers it in this registry instead of [`Registry::global`].
            ///
            /// ```
            /// let registry = buttress::control::Registry::new();
            #[doc = concat!("let builder = ", $make, ".register_in(&registry);")]
            /// ```
            #[must_use = "a builder builds nothing before `build`"]
            pub fn register_in(self, registry: &Registry) -> Self {
                let ($it, $home) = (self, registry.home());
                $move
            }
        }
    )*};
}

macro_rules! observed {
    ($it:ident, $home:ident) => {{
        let mut it = $it;
        it.observers.move_to($home);
        it
    }};
}

registered! {
    [C] crate::retry::Retry<C>:
        "buttress::retry::Retry::new(buttress::retry::RetryPolicy::default())",
        |it, home| it.move_to(home);
    [C, R, J] crate::retry::RetryLayer<C, R, J>:
        "buttress::retry::RetryLayer::new(buttress::retry::RetryPolicy::default())",
        |it, home| it.move_to(home);
    [] crate::circuit_breaker::CircuitBreakerBuilder:
        "buttress::circuit_breaker::CircuitBreaker::builder(\"db\")", |it, home| observed!(it, home);
    [] crate::rate_limit::RateLimiterBuilder:
        "buttress::rate_limit::RateLimiter::builder(\"api\")", |it, home| observed!(it, home);
    [K: ?Sized] crate::rate_limit::KeyedRateLimiterBuilder<K>:
        "buttress::rate_limit::KeyedRateLimiter::<u64>::builder(\"api\")", |it, home| observed!(it, home);
    [] crate::Backend: "buttress::Backend::new(\"db\")", |it, home| it.move_to(home);
    [] crate::admission::Admission:
        "buttress::admission::Admission::new(\"db\")", |it, home| it.move_to(home);
    [] crate::endpoints::EndpointsBuilder:
        "buttress::endpoints::Endpoints::<u8>::builder(\"api\")", |it, home| observed!(it, home);
    [] crate::hedge::HedgeBuilder:
        "buttress::hedge::Hedge::builder(\"db\")", |it, home| observed!(it, home);
    [] crate::throttle::ThrottleBuilder:
        "buttress::throttle::Throttle::builder(\"api\")", |it, home| observed!(it, home);
    [] crate::coalesce::CoalesceBuilder:
        "buttress::coalesce::Coalesce::builder(\"db\")", |it, home| observed!(it, home);
    [] crate::fallback::FallbackBuilder:
        "buttress::fallback::Fallback::builder(\"db\")", |it, home| observed!(it, home);
    [] crate::conditioner::ConditionerBuilder:
        "buttress::conditioner::Conditioner::builder(\"api\")", |it, home| observed!(it, home);
    [] crate::failure_budget::FailureBudgetBuilder:
        "buttress::failure_budget::FailureBudget::builder(\"api\")", |it, home| {
            let mut it = it;
            it.hooks.observers.move_to(home);
            it
        };
    [] crate::RetryBudgetBuilder: "buttress::RetryBudget::builder(\"db\")", |it, home| {
        let mut it = it;
        it.home = home;
        it
    };
    [S] crate::idempotency::IdempotencyBuilder<S>:
        "buttress::idempotency::Idempotency::builder(\"pay\", buttress::store::MemoryStore::new())",
        |it, home| observed!(it, home);
    [] crate::rate_limit::SharedRateLimiterBuilder:
        "buttress::rate_limit::RateLimiter::shared(buttress::store::MemoryStore::new(), \"api\", \
         buttress::rate_limit::WhenDown::Deny)", |it, home| observed!(it, home);
}

#[cfg(feature = "supervise")]
registered! {
    [] crate::supervise::heartbeat::HeartbeatBuilder:
        "buttress::supervise::heartbeat::Heartbeat::builder(\"worker\")", |it, home| observed!(it, home);
    [] crate::supervise::watchdog::WatchdogBuilder:
        "buttress::supervise::watchdog::Watchdog::builder(\"worker\")", |it, home| observed!(it, home);
}

#[cfg(all(feature = "supervise", unix))]
registered! {
    [] crate::supervise::process::ProcessSupervisorBuilder:
        "buttress::supervise::process::ProcessSupervisor::builder(\"workers\")",
        |it, home| observed!(it, home);
}
