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
pub use super::waking::{
    every_waiter_is_woken, no_busy_wake_while_waiting, no_timer_needed_on_happy_path,
};

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
