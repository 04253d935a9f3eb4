//! The way past the lock for calls that nothing has to be decided about. While all is well, and far fewer are in
//! flight than may be, a call that comes and one that has been answered at once each change one word. The core
//! catches up with them when somebody takes the lock, at the latest for the next call that is measured.

use std::ops::{Deref, DerefMut};

use super::core::{Calm, Core, is_due};
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::{Mutex, MutexGuard, lock};

/// Open, unmeasured calls since the last that was measured, those of them that were not answered at once, the most in
/// flight, those in flight. Zero: closed.
#[derive(Debug)]
struct Lane(AtomicU64);

const OPEN: u64 = 1 << 63;
const UNMEASURED: u32 = 56;
const NOT_AT_ONCE: u32 = 49;
const FEW: u64 = 0x7f;
const MOST: u32 = 24;
const COUNT: u64 = (1 << MOST) - 1;

const fn word(calm: Calm) -> u64 {
    OPEN | (calm.unmeasured as u64) << UNMEASURED
        | (calm.not_at_once as u64) << NOT_AT_ONCE
        | (calm.most as u64) << MOST
        | calm.in_flight as u64
}

const fn in_flight(word: u64) -> u32 {
    (word & COUNT) as u32
}

const fn most(word: u64) -> u32 {
    (word >> MOST & COUNT) as u32
}

const fn unmeasured(word: u64) -> u32 {
    (word >> UNMEASURED & FEW) as u32
}

const fn not_at_once(word: u64) -> u32 {
    (word >> NOT_AT_ONCE & FEW) as u32
}

impl Lane {
    /// A call comes. `false` if it has to go the other way.
    #[inline]
    fn enter(&self) -> bool {
        let mut now = self.0.load(Relaxed);
        while in_flight(now) < most(now) && !is_due(unmeasured(now), not_at_once(now)) {
            let after = now + (1 << UNMEASURED) + 1;
            match self.0.compare_exchange_weak(now, after, Acquire, Relaxed) {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
        false
    }

    /// One has succeeded. `false` if somebody may have to be told.
    #[inline]
    fn leave(&self) -> bool {
        let mut now = self.0.load(Relaxed);
        while now & OPEN != 0 {
            match self.0.compare_exchange_weak(now, now - 1, Release, Relaxed) {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
        false
    }

    /// One is not answered at once. `false` if it has not been counted.
    fn wait(&self) -> bool {
        let mut now = self.0.load(Relaxed);
        while not_at_once(now) < unmeasured(now) {
            let after = now + (1 << NOT_AT_ONCE);
            match self.0.compare_exchange_weak(now, after, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
        false
    }

    /// Only with the lock, of which `core` is proof.
    fn close(&self, core: &mut Core) {
        // Only who has the lock opens it.
        if self.0.load(Relaxed) != 0 {
            let word = self.0.swap(0, AcqRel);
            core.catch_up(in_flight(word), unmeasured(word), not_at_once(word));
        }
    }

    fn open(&self, core: &Core) {
        if let Some(calm) = core.calm() {
            self.0.store(word(calm), Release);
        }
    }
}

/// A core behind its lock, and the way past that.
#[derive(Debug)]
pub(super) struct Guarded {
    lane: Lane,
    core: Mutex<Core>,
}

impl Guarded {
    pub(super) fn new(core: Core) -> Self {
        Self { lane: Lane(AtomicU64::new(0)), core: Mutex::new(core) }
    }

    /// With all that has happened until now.
    pub(super) fn lock(&self) -> Locked<'_> {
        let mut core = lock(&self.core);
        self.lane.close(&mut core);
        Locked { lane: &self.lane, core }
    }

    /// A call whose time has not passed, of the class of most, comes. `true`: it is admitted and need not be measured
    /// if it is answered in the poll in which it is sent.
    #[inline]
    pub(super) fn enter(&self) -> bool {
        self.lane.enter()
    }

    /// A call that need not be measured if it is answered at once is not.
    pub(super) fn not_at_once(&self) {
        if !self.lane.wait() {
            self.lock().not_at_once();
        }
    }

    /// A call that need not be measured has succeeded. `false`: somebody has to be told.
    #[inline]
    pub(super) fn leave(&self) -> bool {
        self.lane.leave()
    }
}

pub(super) struct Locked<'a> {
    lane: &'a Lane,
    core: MutexGuard<'a, Core>,
}

impl Deref for Locked<'_> {
    type Target = Core;

    #[inline]
    fn deref(&self) -> &Core {
        &self.core
    }
}

impl DerefMut for Locked<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Core {
        &mut self.core
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        self.lane.open(&self.core);
    }
}
