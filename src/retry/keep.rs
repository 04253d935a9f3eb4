//! Which instance of the service inside makes a retry.

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use tower_layer::Layer;

use super::layer::RetryLayer;
use super::service::{RetryService, Shared};
use crate::sync::Lease;

/// Where the instance that makes a retry comes from. Sealed.
pub trait Keep<S>: sealed::Sealed {
    /// What a call keeps of it.
    type Kept;
    /// What the calls of a service share.
    type Shared: AsRef<Shared>;

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
    fn next(kept: Self::Kept, shared: Option<&Self::Shared>) -> Option<S>;

    /// What is kept of one that has made a retry.
    #[doc(hidden)]
    fn done(inner: S) -> Self::Kept;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::TheSame {}
    impl Sealed for super::Spare {}
}

/// The instance that was found ready for the first attempt goes with the call, and makes its retries.
#[derive(Clone, Copy, Debug)]
pub struct TheSame;

impl AsRef<Self> for Shared {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl<S> Keep<S> for TheSame {
    type Kept = S;
    type Shared = Shared;

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

    fn next(kept: S, _: Option<&Shared>) -> Option<S> {
        Some(kept)
    }

    fn done(inner: S) -> S {
        inner
    }
}

/// The service makes all first attempts itself; a retry is made by a new clone of the one that it was made
/// around. Calls that work clone and keep nothing.
#[derive(Clone, Copy, Debug)]
pub struct Spare;

/// What the calls of a service share, and the one that it was made around.
pub struct WithSpare<S> {
    shared: Arc<Shared>,
    // Nothing but clones of it are made under this lock.
    spare: Mutex<S>,
    clone: fn(&S) -> S,
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

impl<S> Keep<S> for Spare {
    type Kept = ();
    type Shared = WithSpare<S>;

    #[inline(always)]
    fn keep(_: &mut S) {}

    #[inline(always)]
    fn first<'a>((): &'a mut (), inner: &'a mut S) -> &'a mut S {
        inner
    }

    fn next((): (), shared: Option<&WithSpare<S>>) -> Option<S> {
        let shared = shared?;
        Some((shared.clone)(&shared.spare.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn done(_: S) {}
}

/// A [`RetryLayer`] whose retries are made by a [`Spare`].
#[derive(Clone, Debug)]
pub struct SparingLayer<C, R, J> {
    pub(super) layer: RetryLayer<C, R, J>,
}

impl<S: Clone, C: Clone, R: Clone, J: Clone> Layer<S> for SparingLayer<C, R, J> {
    type Service = RetryService<S, C, R, J, Spare>;

    fn layer(&self, inner: S) -> Self::Service {
        let shared = self.layer.shared_by_calls().map(|shared| {
            let spare = Mutex::new(inner.clone());
            Lease::new(Arc::new(WithSpare { shared, spare, clone: S::clone }))
        });
        let RetryService { inner, plan, seen, classifier, replay, reject, .. } =
            self.layer.layer(inner);
        let keep = PhantomData;
        RetryService { inner, plan, seen, classifier, replay, reject, shared, keep }
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use std::future::{Ready, ready};
    use std::io::{Error, ErrorKind};
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::task::{Context, Poll};
    use std::time::Duration;

    use tower::{Service, ServiceExt};

    use super::*;
    use crate::backoff::Backoff;
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
}
