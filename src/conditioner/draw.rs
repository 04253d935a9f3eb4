//! Random numbers that are a function of who asks, not of when.

/// The finaliser of `SplitMix64` (Steele, Lea, Flood 2014, the constants of Stafford's variant 13): a
/// bijection of 64 bits in which each bit of the input changes each bit of the output with probability
/// close to one half.
const fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// The odd integer nearest to 2^64 divided by the golden ratio: multiples of it are spread evenly.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// One step of `SplitMix64`.
const fn next(x: u64) -> u64 {
    mix(x.wrapping_add(GOLDEN))
}

/// The draws of one rule for one call: a `SplitMix64` generator whose start is a hash of the seed, the
/// rule and the call.
///
/// Each of the three goes through its own round of mixing, so that rules 0 and 1 at calls 1 and 0 do not
/// meet, nor do neighbouring seeds. No shared state: however calls are spread over threads, each gets the
/// same draws.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draws(u64);

impl Draws {
    pub(super) const fn of(seed: u64, rule: u32, call: u64) -> Self {
        Self(next(next(next(seed) ^ rule as u64) ^ call))
    }

    #[cfg(test)]
    pub(super) const fn from_state(state: u64) -> Self {
        Self(state)
    }

    /// The draw number `n`.
    pub(super) const fn bits(self, n: u64) -> u64 {
        mix(self.0.wrapping_add(GOLDEN.wrapping_mul(n + 1)))
    }

    /// Uniform in [0, 1), in steps of 2^-53, all that a float near 1 can tell apart.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub(super) const fn unit(self, n: u64) -> f64 {
        (self.bits(n) >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}

/// Which draw decides whether the fault is injected.
pub(super) const SHARE: u64 = 0;
/// Where the draws of the fault itself begin.
pub(super) const FAULT: u64 = 1;

/// Whether a draw hits a share. `share` 0 is never hit, 1 always.
pub(super) fn hits(draw: f64, share: f64) -> bool {
    draw < share
}

/// A number for a text: FNV-1a, mixed. Part of the recorded plans' format, so it must stay as it is.
pub(super) fn text(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(hash)
}

/// Joins two numbers into one; the order matters.
pub(super) const fn join(a: u64, b: u64) -> u64 {
    next(next(a) ^ b)
}
