//! Counting what is folded, without the timeline's mutex: refusals come by the hundred thousand, when the
//! program has other things to do than to wait in line.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::{Padded, stripe_count, thread_number};

/// Counters of a stripe. Two that share one take turns, each through the mutex.
const COUNTERS: usize = 128;
/// The lower bits of a word are the count, the others the mark of the entry that it is for.
const COUNT: u64 = (1 << 24) - 1;

/// Some words for each of the threads. Made when the first event is folded.
#[derive(Default)]
pub(super) struct Folds(OnceLock<Box<[Padded<[AtomicU64; COUNTERS]>]>>);

impl Folds {
    /// The calling thread's counter for what happens to this object in this second.
    pub(super) fn counter(&self, layer: &str, name: &str, event: &str, second: u64) -> Counter<'_> {
        let stripes = self.0.get_or_init(|| {
            let words = || std::array::from_fn(|_| AtomicU64::new(0));
            (0..stripe_count()).map(|_| Padded(words())).collect()
        });
        // Where the words are, not what they are: names are kept for ever, each once.
        let key = [layer, name, event]
            .iter()
            .fold(0, |key, word| mix(mix(key, word.as_ptr().addr() as u64), word.len() as u64));
        #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
        let at = key as usize % COUNTERS;
        let mark = mix(key, second) & !COUNT;
        let mark = if mark == 0 { COUNT + 1 } else { mark };
        Counter { word: &stripes[thread_number() & (stripes.len() - 1)][at], mark }
    }

    /// Takes what has been counted: marks and counts.
    pub(super) fn take(&self, mut each: impl FnMut((u64, u64))) {
        let Some(stripes) = self.0.get() else { return };
        for word in stripes.iter().flat_map(|stripe| stripe.iter()) {
            if word.load(Ordering::Relaxed) & COUNT > 0 {
                each(split(word.fetch_and(!COUNT, Ordering::Relaxed)));
            }
        }
    }
}

/// A word, and the mark that it has to have to count.
#[derive(Debug)]
pub(super) struct Counter<'a> {
    word: &'a AtomicU64,
    mark: u64,
}

impl Counter<'_> {
    pub(super) const fn mark(&self) -> u64 {
        self.mark
    }

    /// Counts one. False if the word is for something else, or full.
    #[inline]
    pub(super) fn count(&self) -> bool {
        let mut now = self.word.load(Ordering::Relaxed);
        while now & !COUNT == self.mark && now & COUNT < COUNT {
            let more =
                self.word.compare_exchange_weak(now, now + 1, Ordering::Relaxed, Ordering::Relaxed);
            match more {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
        false
    }

    /// From now on the word is for this. Says what it has counted for another, or for this before.
    /// Under the ring's lock, so that there is an entry for whatever is counted.
    pub(super) fn begin(&self) -> (u64, u64) {
        split(self.word.swap(self.mark, Ordering::Relaxed))
    }
}

const fn split(word: u64) -> (u64, u64) {
    (word & !COUNT, word & COUNT)
}

const fn mix(a: u64, b: u64) -> u64 {
    let mixed = (a ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}
