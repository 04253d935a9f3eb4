//! Atomics: the standard library's, or loom's in a model.

#[cfg(buttress_loom)]
pub(crate) use loom::sync::atomic;
#[cfg(buttress_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
#[cfg(not(buttress_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

/// A panic of user code can poison a lock but cannot leave our state half-written, since user code
/// never runs under one: go on with what is there.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value alone on its cache lines, so that two threads writing neighbours do not slow each other.
/// 128 bytes: current x86-64 prefetches lines in pairs, and Apple's are that long.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

impl<T> std::ops::Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// How many stripes a counter written by every call should have on this machine: a power of two.
pub(crate) fn stripe_count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        (threads * 2).next_power_of_two().clamp(4, 32)
    })
}

/// The calling thread's number, for choosing a stripe: `thread_number() & (stripes - 1)`. Threads get
/// consecutive numbers, so a pool of workers spreads evenly.
#[inline]
pub(crate) fn thread_number() -> usize {
    use std::cell::Cell;
    use std::sync::atomic::AtomicUsize;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    #[cold]
    fn assign(slot: &Cell<usize>) -> usize {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) & (usize::MAX >> 1);
        slot.set(number);
        number
    }
    NUMBER.with(|slot| match slot.get() {
        usize::MAX => assign(slot),
        number => number,
    })
}

/// Shared state as a service holds it: an `Arc` behind an `Arc`, so that the outer count can be private.
///
/// A response future must keep the state alive, which costs a reference count. When two threads count
/// on one word, that word alone holds both to the speed of one. A server holds one clone of its service
/// for each connection and clones that for each call; a client keeps one clone and makes many calls. So
/// an instance that has shown that it makes many calls, or that it is cloned often, gets a count of its
/// own, made once, which no other connection or client touches. Until then it counts on the word of the
/// instance that it was cloned from, as any `Arc` does.
pub(crate) struct Lease<T> {
    inner: Arc<Padded<Arc<T>>>,
    /// For clones, once there have been `OFTEN`.
    own: OnceLock<Arc<Padded<Arc<T>>>>,
    clones: AtomicU8,
    uses: u8,
}

/// More clones than one call makes on its way through a stack.
const OFTEN: u8 = 8;

/// The first instance has a count of its own from the start.
const FIRST: u8 = u8::MAX;

impl<T> Lease<T> {
    pub(crate) fn new(shared: Arc<T>) -> Self {
        Self::on(Arc::new(Padded(shared)), FIRST)
    }

    #[inline]
    fn on(inner: Arc<Padded<Arc<T>>>, clones: u8) -> Self {
        Self { inner, own: OnceLock::new(), clones: AtomicU8::new(clones), uses: 0 }
    }

    /// A reference for one call.
    #[inline]
    pub(crate) fn for_call(&mut self) -> Ref<T> {
        match self.uses {
            0 => self.uses = 1,
            1 => self.privatise(),
            _ => {}
        }
        Ref(Arc::clone(&self.inner))
    }

    #[cold]
    fn privatise(&mut self) {
        let shared = Arc::clone(self.shared());
        self.inner = Arc::new(Padded(shared));
        self.uses = 2;
    }

    pub(crate) fn shared(&self) -> &Arc<T> {
        &self.inner
    }
}

impl<T> Clone for Lease<T> {
    #[inline]
    fn clone(&self) -> Self {
        let inner = match self.own.get() {
            Some(own) => own,
            None => self.count_clone(),
        };
        Self::on(Arc::clone(inner), 0)
    }
}

impl<T> Lease<T> {
    #[inline(never)]
    fn count_clone(&self) -> &Arc<Padded<Arc<T>>> {
        // Not `fetch_add`: a clone that is not counted does no harm.
        match self.clones.load(Ordering::Relaxed) {
            FIRST => &self.inner,
            OFTEN => self.own.get_or_init(|| Arc::new(Padded(Arc::clone(self.shared())))),
            clones => {
                self.clones.store(clones + 1, Ordering::Relaxed);
                &self.inner
            }
        }
    }
}

impl<T> std::ops::Deref for Lease<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

/// What a response future holds of a [`Lease`].
pub(crate) struct Ref<T>(Arc<Padded<Arc<T>>>);

impl<T> std::ops::Deref for Ref<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_is_cloned_often_stops_counting_on_the_first_ones_word() {
        let shared = Arc::new(7);
        let first = Lease::new(Arc::clone(&shared));
        let connection = first.clone();
        let calls: Vec<_> = (0..100).map(|_| connection.clone()).collect();
        assert_eq!(Arc::strong_count(&first.inner), 2 + usize::from(OFTEN));
        let others: Vec<_> = (0..100).map(|_| first.clone()).collect();
        assert_eq!(Arc::strong_count(&first.inner), 102 + usize::from(OFTEN));
        drop((first, connection, others));
        assert!(calls.iter().all(|call| **call == 7), "a clone outlives what it was cloned from");
        drop(calls);
        assert_eq!(Arc::strong_count(&shared), 1);
    }

    #[test]
    fn an_instance_that_makes_a_second_call_stops_counting_on_the_first_ones_word() {
        let shared = Arc::new(7);
        let first = Lease::new(Arc::clone(&shared));
        let mut client = first.clone();
        let calls: Vec<_> = (0..100).map(|_| client.for_call()).collect();
        assert_eq!(Arc::strong_count(&first.inner), 2, "the first and one call");
        drop((first, client));
        assert!(calls.iter().all(|call| **call == 7));
        drop(calls);
        assert_eq!(Arc::strong_count(&shared), 1);
    }
}
