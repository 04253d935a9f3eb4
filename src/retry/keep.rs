//! Which instance of the service inside makes a retry.

use std::fmt;
use std::mem;
use std::sync::Arc;

use tower_layer::Layer;

use super::layer::RetryLayer;
use super::service::{RetryService, Shared};
use super::spares::Spares;
use crate::sync::Lease;

/// Where the instance that makes a retry comes from: what the calls of a service share knows. Sealed.
pub trait Keep<S>: AsRef<Shared> + sealed::Sealed {
    /// What a call keeps of it.
    type Kept;

    /// For a call that is to be made by `inner`, which is ready.
    #[doc(hidden)]
    fn keep(inner: &mut S) -> Self::Kept
    where
        S: Clone;

    /// Who makes the first attempt.
    #[doc(hidden)]
    fn first<'a>(kept: &'a mut Self::Kept, inner: &'a mut S) -> &'a mut S;

    /// Who makes the next one. It need not be ready.
    #[doc(hidden)]
    fn next(kept: Self::Kept, shared: Option<&Self>) -> Option<S>;

    /// What is kept of one that has made a retry.
    #[doc(hidden)]
    fn done(inner: S) -> Self::Kept;
}

/// There is no first attempt, for which `inner` was found ready.
#[cold]
#[inline(never)]
pub(super) fn unused<S: Clone>(inner: &mut S) {
    // Readiness can hold a place that others wait for, and it would be held until the next call.
    *inner = inner.clone();
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Shared {}
    impl<S> Sealed for super::WithSpare<S> {}
}

impl AsRef<Self> for Shared {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// The instance that was found ready for the first attempt goes with the call, and makes its retries.
impl<S> Keep<S> for Shared {
    type Kept = S;

    #[inline(always)]
    fn keep(inner: &mut S) -> S
    where
        S: Clone,
    {
        // A clone of the ready instance need not be ready.
        let clone = inner.clone();
        mem::replace(inner, clone)
    }

    #[inline(always)]
    fn first<'a>(kept: &'a mut S, _: &'a mut S) -> &'a mut S {
        kept
    }

    fn next(kept: S, _: Option<&Self>) -> Option<S> {
        Some(kept)
    }

    fn done(inner: S) -> S {
        inner
    }
}

/// What the calls of a service share, and clones of the one that it was made around. The service makes all first
/// attempts itself; a retry is made by a new clone of one of those. Calls that work clone and keep nothing.
pub struct WithSpare<S> {
    shared: Arc<Shared>,
    spares: Spares<S>,
}

impl<S> fmt::Debug for WithSpare<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

impl<S> AsRef<Shared> for WithSpare<S> {
    fn as_ref(&self) -> &Shared {
        &self.shared
    }
}

impl<S> Keep<S> for WithSpare<S> {
    type Kept = ();

    #[inline(always)]
    fn keep(_: &mut S) {}

    #[inline(always)]
    fn first<'a>((): &'a mut (), inner: &'a mut S) -> &'a mut S {
        inner
    }

    fn next((): (), shared: Option<&Self>) -> Option<S> {
        shared?.spares.get()
    }

    fn done(_: S) {}
}

/// A [`RetryLayer`] whose retries are made by clones of a [spare](WithSpare).
#[derive(Clone, Debug)]
pub struct SparingLayer<C, R, J> {
    pub(super) layer: RetryLayer<C, R, J>,
}

impl<S: Clone, C: Clone, R: Clone, J: Clone> Layer<S> for SparingLayer<C, R, J> {
    type Service = RetryService<S, C, R, J, WithSpare<S>>;

    fn layer(&self, inner: S) -> Self::Service {
        let shared = self.layer.shared_by_calls().map(|shared| {
            let spares = Spares::new(inner.clone());
            Lease::new(Arc::new(WithSpare { shared, spares }))
        });
        let RetryService { inner, plan, seen, classifier, replay, reject, .. } =
            self.layer.layer(inner);
        RetryService { inner, plan, seen, classifier, replay, reject, shared }
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use std::future::{Ready, ready};
    use std::io::{Error, ErrorKind};
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
    use std::sync::{Mutex, OnceLock};
    use std::task::{Context, Poll};
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::sync::{OwnedSemaphorePermit, Semaphore};
    use tower::{Service, ServiceExt};

    use super::*;
    use crate::Deadline;
    use crate::backoff::Backoff;
    use crate::observe::{Event, EventKind};
    use crate::retry::RetryPolicy;

    /// As tower allows: only the instance that was found ready may be called, and only once.
    struct Strict {
        ready: bool,
        clones: Arc<AtomicU32>,
    }

    impl Clone for Strict {
        fn clone(&self) -> Self {
            self.clones.fetch_add(1, Relaxed);
            Self { ready: false, clones: Arc::clone(&self.clones) }
        }
    }

    impl Service<u32> for Strict {
        type Response = u32;
        type Error = Error;
        type Future = Ready<Result<u32, Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
            self.ready = true;
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, failures: u32) -> Self::Future {
            assert!(std::mem::take(&mut self.ready), "it was not asked");
            // The first one is the spare's clone of when the layer was put around it.
            let retries = self.clones.load(Relaxed) - 1;
            ready(if retries < failures {
                Err(ErrorKind::ConnectionReset.into())
            } else {
                Ok(retries)
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_work_clone_nothing_and_each_retry_one() {
        let pause = Backoff::constant(Duration::from_millis(1));
        for pause in [pause, Backoff::constant(Duration::ZERO)] {
            let policy = RetryPolicy::builder().max_attempts(4).backoff(pause).build().unwrap();
            let layer = RetryLayer::new(policy);
            for (layer, all) in [(layer.clone().without_budget(), 3), (layer, 1)] {
                let clones = Arc::<AtomicU32>::default();
                let inner = Strict { ready: false, clones: Arc::clone(&clones) };
                let mut service = layer.sparing().layer(inner);
                for _ in 0..9 {
                    assert_eq!(service.ready().await.unwrap().call(0).await.unwrap(), 0);
                }
                assert_eq!(service.ready().await.unwrap().call(2).await.unwrap(), 2);
                assert!(service.ready().await.unwrap().call(99).await.is_err());
                // The default budget has room for three.
                assert_eq!(clones.load(Relaxed), 1 + 2 + all);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_outlives_its_service_retries_with_it() {
        let clones = Arc::<AtomicU32>::default();
        let inner = Strict { ready: false, clones: Arc::clone(&clones) };
        let layer = RetryLayer::new(RetryPolicy::DEFAULT).sparing();
        let mut service = layer.layer(inner);
        let call = service.ready().await.unwrap().call(1);
        drop(service);
        assert_eq!(call.await.unwrap(), 1);
        assert_eq!(Arc::strong_count(&clones), 1, "nothing is kept of what is gone");
    }

    /// One place, which who is ready holds.
    struct Reserving {
        places: Arc<Semaphore>,
        place: Option<OwnedSemaphorePermit>,
    }

    impl Clone for Reserving {
        fn clone(&self) -> Self {
            Self { places: Arc::clone(&self.places), place: None }
        }
    }

    impl Service<Deadline> for Reserving {
        type Response = ();
        type Error = Error;
        type Future = Ready<Result<(), Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
            self.place = Arc::clone(&self.places).try_acquire_owned().ok();
            if self.place.is_some() { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn call(&mut self, _: Deadline) -> Self::Future {
            assert!(self.place.take().is_some(), "it was not asked");
            ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_comes_too_late_holds_no_place() {
        let places = Arc::new(Semaphore::new(1));
        let inner = Reserving { places: Arc::clone(&places), place: None };
        let layer = RetryLayer::new(RetryPolicy::DEFAULT).deadlines(|end: &Deadline| Some(*end));
        let mut service = layer.sparing().layer(inner);
        let end = Deadline::after(Duration::from_secs(1));
        assert!(service.ready().await.unwrap().call(end).await.is_ok());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let late = service.ready().await.unwrap().call(end);
        assert_eq!(places.available_permits(), 1, "nobody calls with it");
        assert!(late.await.is_err());
        let end = Deadline::after(Duration::from_secs(1));
        assert!(service.ready().await.unwrap().call(end).await.is_ok());
    }

    /// Fails as often as the request says. While it is cloned it calls the stack that it is in.
    struct Calls;

    type Nested = Box<dyn Fn() -> bool + Send + Sync>;
    static NESTED: OnceLock<Nested> = OnceLock::new();
    static ANSWERS: Mutex<Vec<bool>> = Mutex::new(Vec::new());

    impl Clone for Calls {
        fn clone(&self) -> Self {
            static NESTS: AtomicBool = AtomicBool::new(false);
            if let Some(call) = NESTED.get()
                && !NESTS.swap(true, Relaxed)
            {
                ANSWERS.lock().expect("nobody panics with it").push(call());
                NESTS.store(false, Relaxed);
            }
            Self
        }
    }

    impl Service<Arc<AtomicU32>> for Calls {
        type Response = ();
        type Error = Error;
        type Future = Ready<Result<(), Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, failures: Arc<AtomicU32>) -> Self::Future {
            let fails = failures.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok();
            ready(if fails { Err(ErrorKind::ConnectionReset.into()) } else { Ok(()) })
        }
    }

    /// The first such retry is not made, and it is said so; from then on there is an instance for it.
    #[tokio::test(start_paused = true)]
    async fn a_clone_that_calls_the_stack_loses_one_retry() {
        let told = Arc::<Mutex<Vec<&str>>>::default();
        let tells = Arc::clone(&told);
        let pause = Backoff::constant(Duration::ZERO);
        let policy = RetryPolicy::builder().max_attempts(2).backoff(pause).build().unwrap();
        let layer = RetryLayer::new(policy).without_budget().observe(move |event: &Event<'_>| {
            let kind = match event.kind {
                EventKind::Retried { .. } => "retried",
                EventKind::RetryAbandoned { reason: "not_ready", .. } => "not ready",
                _ => "something else",
            };
            tells.lock().unwrap().push(kind);
        });
        let service = layer.sparing().layer(Calls);
        let fails = || service.clone().oneshot(Arc::new(AtomicU32::new(1)));
        let nested = service.clone();
        let call = move || {
            let call = nested.clone().oneshot(Arc::new(AtomicU32::new(1)));
            call.now_or_never().expect("it waits for nothing").is_ok()
        };
        assert!(NESTED.set(Box::new(call)).is_ok());
        let mut all = Vec::new();
        for _ in 0..2 {
            // Not in the clone of the service, which is none of a retry.
            let call = fails();
            ANSWERS.lock().unwrap().clear();
            told.lock().unwrap().clear();
            call.await.unwrap();
            all.push((
                std::mem::take(&mut *ANSWERS.lock().unwrap()),
                std::mem::take(&mut *told.lock().unwrap()),
            ));
        }
        let first = vec!["retried", "retried", "not ready", "retried", "not ready"];
        assert_eq!(all[0], (vec![false, false], first));
        assert_eq!(all[1], (vec![true], vec!["retried"; 2]));
    }
}
