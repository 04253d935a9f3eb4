//! Atomics: the standard library's, or loom's in a model.

#[cfg(buttress_loom)]
pub(crate) use loom::sync::atomic;
#[cfg(buttress_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
use std::sync::{Arc, PoisonError};
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
    use std::sync::OnceLock;
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
    use std::sync::atomic::{AtomicUsize, Ordering};
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
/// on one word, that word alone holds both to the speed of one. A server clones its service for each
/// call and makes one call with it; a client keeps one clone and makes many calls. So: the first call
/// of an instance counts on the shared word, as any `Arc` does; from the second call on the instance
/// has a count of its own, made once, which no other thread touches.
pub(crate) struct Lease<T> {
    inner: Arc<Padded<Arc<T>>>,
    uses: u8,
}

impl<T> Lease<T> {
    pub(crate) fn new(shared: Arc<T>) -> Self {
        Self { inner: Arc::new(Padded(shared)), uses: 0 }
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
    /// The clone counts on the same word until it has shown that it makes many calls.
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), uses: 0 }
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
