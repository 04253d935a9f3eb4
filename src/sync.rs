//! Atomics: the standard library's, or loom's in a model.

#[cfg(buttress_loom)]
pub(crate) use loom::sync::atomic;
#[cfg(buttress_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
use std::cell::Cell;
// Never loom's: what they guard outlives a model.
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
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

/// Counters that every call writes. A read-modify-write costs as much as all the rest of a call, so threads
/// with low numbers (no two that live have the same) each own a stripe, which they alone write with a plain
/// load and store. The others share a few and add atomically.
#[derive(Debug)]
pub(crate) struct Striped<T> {
    own: Box<[Padded<T>]>,
    shared: Box<[Padded<T>]>,
}

impl<T: Default> Striped<T> {
    /// `stripes`: a power of two. 1 takes little memory: one stripe that all share.
    pub(crate) fn new(stripes: usize) -> Self {
        let make = |count| (0..count).map(|_| Padded::default()).collect();
        Self { own: make(if stripes > 1 { stripes } else { 0 }), shared: make(stripes.min(4)) }
    }

    #[inline]
    pub(crate) fn add_one(&self, which: impl Fn(&T) -> &atomic::AtomicU64) {
        let thread = thread_number();
        if let Some(stripe) = self.own.get(thread) {
            let counter = which(stripe);
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        } else {
            let stripe = &self.shared[thread & (self.shared.len() - 1)];
            which(stripe).fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn sum(&self, which: impl Fn(&T) -> &atomic::AtomicU64) -> u64 {
        self.own
            .iter()
            .chain(&self.shared)
            .fold(0, |sum, stripe| sum.wrapping_add(which(stripe).load(Ordering::Relaxed)))
    }
}

/// Numbers below this are given out again when their thread has ended. More than there are stripes.
const REUSED: usize = u64::BITS as usize;

/// Which of those are taken, one bit each.
static TAKEN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    static GIVE_BACK: GiveBack = const { GiveBack };
}

/// The calling thread's number, for choosing a stripe: `thread_number() & (stripes - 1)`. The lowest that
/// is free, so a pool of workers spreads evenly.
///
/// Of two living threads at most one has a number below [`REUSED`], and who gets it next sees all
/// that the thread before has written: it may be the only one to write something.
#[inline]
pub(crate) fn thread_number() -> usize {
    NUMBER.with(|slot| match slot.get() {
        usize::MAX => assign(slot),
        number => number,
    })
}

#[cold]
fn assign(slot: &Cell<usize>) -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(REUSED);
    let lowest_free = |taken: u64| (taken != u64::MAX).then(|| taken | (taken + 1));
    // A thread that is already ending could not give it back.
    let taken = match GIVE_BACK.try_with(|_| ()) {
        Ok(()) => TAKEN.fetch_update(Ordering::Acquire, Ordering::Relaxed, lowest_free).ok(),
        Err(_) => None,
    };
    let number = match taken {
        Some(before) => before.trailing_ones() as usize,
        None => NEXT.fetch_add(1, Ordering::Relaxed) & (usize::MAX >> 1),
    };
    slot.set(number);
    number
}

struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        // Destructors that run after this one may still ask: they get another number.
        let number = NUMBER.replace(usize::MAX);
        if number < REUSED {
            TAKEN.fetch_and(!(1 << number), Ordering::Release);
        }
    }
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
    // No bytes: one lies in most futures, see `wide`.
    clones: AtomicU32,
    uses: u32,
}

/// More clones than one call makes on its way through a stack.
const OFTEN: u32 = 8;

/// The first instance has a count of its own from the start.
const FIRST: u32 = u32::MAX;

impl<T> Lease<T> {
    pub(crate) fn new(shared: Arc<T>) -> Self {
        Self::on(Arc::new(Padded(shared)), FIRST)
    }

    #[inline]
    fn on(inner: Arc<Padded<Arc<T>>>, clones: u32) -> Self {
        Self { inner, own: OnceLock::new(), clones: AtomicU32::new(clones), uses: 0 }
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

    /// The same of a lease that there need not be. It goes with the call, and need not be counted again, if that is the
    /// [last](LastCall) one.
    #[inline]
    pub(crate) fn of_call(lease: &mut Option<Self>) -> Option<Ref<T>> {
        match LAST.replace(false) {
            true => lease.take().map(|lease| Ref(lease.inner)),
            false => lease.as_mut().map(Self::for_call),
        }
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

thread_local!(static LAST: Cell<bool> = const { Cell::new(false) });

/// While it is there, the service that is called is dropped after the call. Only for who calls a service of ours that asks
/// whether this is so, and not one that another may have put in its place.
#[must_use]
pub(crate) struct LastCall(());

impl LastCall {
    #[inline]
    pub(crate) fn new(is_last: bool) -> Self {
        LAST.set(is_last);
        Self(())
    }
}

impl Drop for LastCall {
    #[inline]
    fn drop(&mut self) {
        LAST.set(false);
    }
}

/// What a response future holds of a [`Lease`].
pub(crate) struct Ref<T>(Arc<Padded<Arc<T>>>);

impl<T> Ref<T> {
    pub(crate) fn shared(&self) -> &Arc<T> {
        &self.0
    }
}

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
    fn no_count_is_lost_whoever_counts() {
        for stripes in [1, 2, 8] {
            let counters = Striped::<atomic::AtomicU64>::new(stripes);
            for _ in 0..3 {
                std::thread::scope(|scope| {
                    for _ in 0..100 {
                        scope.spawn(|| (0..100).for_each(|_| counters.add_one(|one| one)));
                    }
                });
            }
            assert_eq!(counters.sum(|one| one), 30_000);
        }
    }

    #[test]
    fn a_thread_gets_the_number_of_one_that_has_ended() {
        let number = || std::thread::spawn(thread_number).join().unwrap();
        let numbers: std::collections::HashSet<_> = (0..200).map(|_| number()).collect();
        // Not one: other tests run beside this one.
        assert!(numbers.len() < 100, "{numbers:?}");
    }

    #[test]
    fn living_threads_have_different_numbers() {
        let all = 100;
        let meet = std::sync::Barrier::new(all);
        let mut numbers: Vec<_> = std::thread::scope(|scope| {
            let number = || {
                let number = thread_number();
                meet.wait();
                assert_eq!(thread_number(), number);
                number
            };
            let threads: Vec<_> = (0..all).map(|_| scope.spawn(number)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all);
        assert!(numbers[all - 1] >= REUSED, "some had to do without a number that is reused");
    }

    #[test]
    fn a_destructor_of_a_thread_that_has_given_its_number_back_gets_another() {
        struct Ask(std::sync::mpsc::Sender<(usize, usize)>, usize);
        impl Drop for Ask {
            fn drop(&mut self) {
                let _ = self.0.send((self.1, thread_number()));
            }
        }
        thread_local!(static ASK: Cell<Option<Ask>> = const { Cell::new(None) });
        let (send, receive) = std::sync::mpsc::channel();
        let ask = move || {
            // Before the number is asked for, or after: destructors run in one order or the other.
            ASK.set(None);
            let number = thread_number();
            ASK.set(Some(Ask(send, number)));
        };
        std::thread::spawn(ask).join().unwrap();
        let (before, after) = receive.recv().unwrap();
        assert!(after == before || after >= REUSED, "{before}, then {after}");
    }

    #[test]
    fn an_instance_that_is_cloned_often_stops_counting_on_the_first_ones_word() {
        let shared = Arc::new(7);
        let first = Lease::new(Arc::clone(&shared));
        let connection = first.clone();
        let calls: Vec<_> = (0..100).map(|_| connection.clone()).collect();
        assert_eq!(Arc::strong_count(&first.inner), 2 + OFTEN as usize);
        let others: Vec<_> = (0..100).map(|_| first.clone()).collect();
        assert_eq!(Arc::strong_count(&first.inner), 102 + OFTEN as usize);
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

    #[test]
    fn the_last_call_of_an_instance_takes_its_reference_and_that_of_no_other() {
        let first = Lease::new(Arc::new(7));
        let mut once = Some(first.clone());
        let mut other = Some(first.clone());
        let counted = Arc::strong_count(&first.inner);
        let last = LastCall::new(true);
        let call = Lease::of_call(&mut once);
        assert!(once.is_none() && call.as_deref() == Some(&7));
        assert_eq!(Arc::strong_count(&first.inner), counted, "it is moved");
        // What is called inside of it may be called again.
        let inside = Lease::of_call(&mut other);
        assert!(other.is_some() && inside.as_deref() == Some(&7));
        drop((last, call, inside));
        assert!(Lease::of_call(&mut other).is_some() && other.is_some(), "it is over");
    }

    #[test]
    fn a_call_that_panics_was_no_last_call_of_the_next() {
        let caught = std::panic::catch_unwind(|| {
            let _last = LastCall::new(true);
            panic!("in the service");
        });
        assert!(caught.is_err());
        let mut next = Some(Lease::new(Arc::new(7)));
        assert!(Lease::of_call(&mut next).is_some() && next.is_some());
    }
}
