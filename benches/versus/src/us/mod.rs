//! buttress.

mod breaker;

use crate::Case;

pub fn cases() -> Vec<Case> {
    breaker::cases()
}

/// Our modes of [`crate::http::app`].
pub fn app(_mode: &str) -> Option<axum::Router> {
    None
}

/// Runs each maker of a keyed limiter through `live`, which says how many bytes it leaves behind.
pub fn live_bytes(
    _keys: u64,
    _live: &dyn Fn(&mut dyn FnMut() -> Box<dyn std::any::Any>) -> i64,
) -> Vec<(&'static str, i64)> {
    Vec::new()
}
