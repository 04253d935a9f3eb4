//! Drawing lots, and what chance explains.
#![expect(clippy::cast_possible_truncation, reason = "places below a length")]

use std::sync::Arc;

use super::core::Why;
use super::health::Health;

/// Standard deviations that chance does not explain.
const SURE: f64 = 4.0;
/// Draws before it looks at every endpoint.
const DRAWS: usize = 8;
/// Calls whose last endpoint is remembered.
pub(super) const TRAILS: usize = if cfg!(buttress_loom) { 4 } else { 256 };

pub(super) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The bits of a number that is a multiple of `GOLDEN` more than another have nothing to do with those of that.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// 32 bits of the call beside those that say which trail, 32 of the endpoint.
pub(super) fn trail(call: u64, id: u64) -> u64 {
    // Those above the middle depend on all.
    let mixed = (call / TRAILS as u64).wrapping_mul(GOLDEN);
    mixed & 0xffff_ffff << 32 | id & 0xffff_ffff
}

/// A place that is usable, at random: each as likely as the next, unless most are not usable.
pub(super) fn draw(count: usize, mut bits: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
    for _ in 0..DRAWS {
        let place = ((u128::from(bits) * count as u128) >> 64) as usize;
        if usable(place) {
            return Some(place);
        }
        bits = bits.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1).rotate_left(29);
    }
    let start = (bits % count as u64) as usize;
    (start..count).chain(0..start).find(|&place| usable(place))
}

/// Whether `health` fails so much more often than the others that chance does not explain it.
pub(super) fn unlikely(all: &[Arc<Health>], health: &Arc<Health>) -> Option<Why> {
    let (calls, failed) = health.counts();
    if failed < 5.0 || calls < 10.0 {
        return None;
    }
    let others = all.iter().filter(|one| one.id != health.id && !one.is_out());
    let (others_calls, others_failed) =
        others.map(|one| one.counts()).fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    // Two calls more, one of them failed: little is known of a quiet pool.
    let expected = ((others_failed + 1.0) / (others_calls + 2.0)).max(0.01);
    let share = failed / calls;
    let deviation = (calls * expected * (1.0 - expected).max(0.01)).sqrt();
    let sure = failed - calls * expected > SURE * deviation && share > 2.0 * expected;
    sure.then_some(Why::Share { failed: share, others: expected })
}
