//! What the machine itself costs: the inner service alone, and behind one primitive.

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::http::{Request, Response};
use tower::Service;

use crate::case::{Case, Expect, Hold, numbers};

/// The error of every inner service here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oops;

impl fmt::Display for Oops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("oops")
    }
}

impl std::error::Error for Oops {}

/// Ready at once, answers at once.
#[derive(Clone, Copy, Debug)]
pub struct Answer;

impl Service<u64> for Answer {
    type Response = u64;
    type Error = Oops;
    type Future = Ready<Result<u64, Oops>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Oops>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(Ok(request))
    }
}

impl Service<Request<()>> for Answer {
    type Response = Response<()>;
    type Error = Oops;
    type Future = Ready<Result<Response<()>, Oops>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Oops>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::new(())))
    }
}

/// Ready at once, answers when it is asked for the second time: as soon as what is behind a network could.
#[derive(Clone, Copy, Debug)]
pub struct Later;

impl Service<u64> for Later {
    type Response = u64;
    type Error = Oops;
    type Future = Second;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Oops>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Second {
        Second { request, asked: false }
    }
}

/// The answer of [`Later`].
#[derive(Debug)]
pub struct Second {
    request: u64,
    asked: bool,
}

impl Future for Second {
    type Output = Result<u64, Oops>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.asked {
            return Poll::Ready(Ok(self.request));
        }
        self.asked = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Ready at once, fails at once.
#[derive(Clone, Copy, Debug)]
pub struct Fail;

impl Service<u64> for Fail {
    type Response = u64;
    type Error = Oops;
    type Future = Ready<Result<u64, Oops>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Oops>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: u64) -> Self::Future {
        ready(Err(Oops))
    }
}

/// `Answer` behind one primitive, done in `call`.
#[derive(Clone)]
struct Behind<F>(F);

impl<F: FnMut()> Service<u64> for Behind<F> {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        (self.0)();
        ready(Ok(request))
    }
}

/// On a line of its own.
#[repr(align(128))]
struct Word(AtomicU64);

pub const CAS: &str = "floor/one CAS";
pub const NOW: &str = "floor/one clock read";

pub fn cases() -> Vec<Case> {
    let case = |name: &str, make: fn() -> crate::case::Callers| {
        Case::new(name, Expect::Allowed, make).no_alloc()
    };
    vec![
        case("floor/bare service", || numbers(Answer, Hold::Reuse)).scales(),
        case("floor/bare service, later", || numbers(Later, Hold::Reuse)),
        case(CAS, || {
            let word: &'static Word = Box::leak(Box::new(Word(AtomicU64::new(0))));
            numbers(
                Behind(move || {
                    let seen = word.0.load(Ordering::Relaxed);
                    let _ = word.0.compare_exchange(
                        seen,
                        seen.wrapping_add(1),
                        Ordering::AcqRel,
                        Ordering::Relaxed,
                    );
                }),
                Hold::Reuse,
            )
        })
        .scales(),
        case(NOW, || {
            numbers(
                Behind(|| {
                    std::hint::black_box(tokio::time::Instant::now());
                }),
                Hold::Reuse,
            )
        })
        .scales(),
        case("floor/Arc clone and drop", || {
            let shared = Arc::new(Word(AtomicU64::new(0)));
            numbers(
                Behind(move || {
                    std::hint::black_box(Arc::clone(&shared));
                }),
                Hold::Reuse,
            )
        })
        .scales(),
        Case::new("floor/malloc and free", Expect::Allowed, || {
            numbers(
                Behind(|| {
                    std::hint::black_box(Box::new([0_u64; 8]));
                }),
                Hold::Reuse,
            )
        }),
    ]
}
