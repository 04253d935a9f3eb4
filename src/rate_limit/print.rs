//! A fast keyed hash for prints.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};

use super::table::Print;

/// Random numbers of one table. From the standard library's `RandomState`, so that nobody outside can
/// choose keys that collide.
#[derive(Clone, Copy)]
pub(crate) struct Seeds {
    start: u64,
    fold: u64,
    end: u64,
}

impl Seeds {
    pub(crate) fn random() -> Self {
        let random = RandomState::new();
        let number = |i: u64| random.hash_one(i);
        // Odd multipliers lose no low bits.
        Self { start: number(1), fold: number(2) | 1, end: number(3) | 1 }
    }

    #[inline]
    pub(crate) fn print<K: Hash + ?Sized>(&self, key: &K) -> Print {
        let mut hasher = Folding { state: self.start, fold: self.fold };
        key.hash(&mut hasher);
        Print::new(fold(hasher.state, self.end))
    }

    /// The print that requests without a key share: a hash of nothing else.
    pub(crate) fn nobody(&self) -> Print {
        Print::new(fold(self.end, self.fold))
    }
}

impl std::fmt::Debug for Seeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // They are secrets.
        f.write_str("Seeds")
    }
}

/// Both halves of the 128-bit product, one over the other: every bit of the result depends on every bit
/// of both numbers.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the halves of a product")]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

struct Folding {
    state: u64,
    fold: u64,
}

impl Folding {
    #[inline]
    fn mix(&mut self, word: u64) {
        // The rotation keeps the order of words: `a, b` and `b, a` differ.
        self.state = fold(self.state ^ word, self.fold).rotate_left(23);
    }
}

impl Hasher for Folding {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.mix(u64::from_le_bytes([
                word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7],
            ]));
        }
        let rest = words.remainder();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // The length tells a short rest from one with zeros at its end.
        self.mix(u64::from_le_bytes(last) ^ (bytes.len() as u64).rotate_right(8));
    }

    #[inline]
    fn write_u8(&mut self, n: u8) {
        self.mix(u64::from(n));
    }

    #[inline]
    fn write_u16(&mut self, n: u16) {
        self.mix(u64::from(n));
    }

    #[inline]
    fn write_u32(&mut self, n: u32) {
        self.mix(u64::from(n));
    }

    #[inline]
    fn write_u64(&mut self, n: u64) {
        self.mix(n);
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "both halves are mixed")]
    fn write_u128(&mut self, n: u128) {
        self.mix(n as u64);
        self.mix((n >> 64) as u64);
    }

    #[inline]
    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}
