//! A case: one thing done many times. Every pass (time, counts, instructions, scaling) runs the same cases.

use std::future::{Future, poll_fn};
use std::hint::black_box;
use std::pin::Pin;

use axum::http::{Request, Response};
use tower::Service;

pub type Batch<'a> = Pin<Box<dyn Future<Output = u64> + Send + 'a>>;

/// One caller of the thing measured.
pub trait Runner: Send {
    /// Brings the state back to what the case's name says. Not timed.
    fn prepare(&mut self) -> Batch<'_> {
        Box::pin(async { 0 })
    }

    /// Makes `calls` calls one after the other; returns how many were let through and answered.
    fn run(&mut self, calls: u64) -> Batch<'_>;
}

/// Makes further callers of one shared object.
pub type Callers = Box<dyn Fn() -> Box<dyn Runner>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Every call is answered.
    Allowed,
    /// No call is answered: refused, or failed if the case is about failing.
    Refused,
}

pub struct Case {
    /// `area/what/who`
    pub name: String,
    pub expect: Expect,
    /// Whose time the last ratio is taken to.
    pub peer: Option<&'static str>,
    /// A call must not allocate; checked by `--smoke`.
    pub no_alloc: bool,
    /// More than one caller of the shared object makes sense.
    pub scales: bool,
    /// At most so many calls in one timed batch, where calls change what is measured.
    pub max_batch: u64,
    /// Calls per counting run; few where a call is long.
    pub counted_calls: u64,
    /// Can be made ready under an emulator in reasonable time.
    pub emulated: bool,
    /// Takes many seconds to be made ready: only where it is asked for by a word of its name.
    pub slow: bool,
    pub make: Box<dyn Fn() -> Callers>,
}

impl Case {
    pub fn new(
        name: impl Into<String>,
        expect: Expect,
        make: impl Fn() -> Callers + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            expect,
            peer: None,
            no_alloc: false,
            scales: false,
            max_batch: u64::MAX,
            counted_calls: 1024,
            emulated: true,
            slow: false,
            make: Box::new(make),
        }
    }

    pub fn against(mut self, peer: &'static str) -> Self {
        self.peer = Some(peer);
        self
    }

    pub fn no_alloc(mut self) -> Self {
        self.no_alloc = true;
        self
    }

    pub fn scales(mut self) -> Self {
        self.scales = true;
        self
    }

    pub fn max_batch(mut self, calls: u64) -> Self {
        self.max_batch = calls;
        self
    }

    pub fn counted_calls(mut self, calls: u64) -> Self {
        self.counted_calls = calls;
        self
    }

    pub fn not_emulated(mut self) -> Self {
        self.emulated = false;
        self
    }

    pub fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    /// One caller of a fresh object. Some peers ask for a runtime when they are made.
    pub fn caller(&self, runtime: &tokio::runtime::Runtime) -> Box<dyn Runner> {
        let callers = (self.make)();
        let _inside = runtime.enter();
        callers()
    }

    pub fn ours(&self) -> bool {
        self.name.rsplit('/').next().is_some_and(|who| who.starts_with("us"))
    }

    pub fn area(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }
}

/// One service value serves all calls of a caller, as a client holds one.
pub struct Reuse<S, M, J> {
    pub service: S,
    pub request: M,
    pub allowed: J,
}

impl<S, Req, M, J> Runner for Reuse<S, M, J>
where
    S: Service<Req> + Send,
    S::Future: Send,
    M: FnMut() -> Req + Send,
    J: Fn(Result<S::Response, S::Error>) -> bool + Send + Sync,
{
    fn run(&mut self, calls: u64) -> Batch<'_> {
        Box::pin(async move {
            let mut answered = 0;
            for _ in 0..calls {
                if poll_fn(|cx| self.service.poll_ready(cx)).await.is_err() {
                    continue;
                }
                let answer = self.service.call(black_box((self.request)())).await;
                answered += u64::from((self.allowed)(black_box(answer)));
            }
            answered
        })
    }
}

/// The service is cloned for each call, as axum and hyper-util do.
pub struct CloneEach<S, M, J> {
    pub service: S,
    pub request: M,
    pub allowed: J,
}

impl<S, Req, M, J> Runner for CloneEach<S, M, J>
where
    S: Service<Req> + Clone + Send,
    S::Future: Send,
    M: FnMut() -> Req + Send,
    J: Fn(Result<S::Response, S::Error>) -> bool + Send + Sync,
{
    fn run(&mut self, calls: u64) -> Batch<'_> {
        Box::pin(async move {
            let mut answered = 0;
            for _ in 0..calls {
                let mut service = self.service.clone();
                if poll_fn(|cx| service.poll_ready(cx)).await.is_err() {
                    continue;
                }
                let answer = service.call(black_box((self.request)())).await;
                answered += u64::from((self.allowed)(black_box(answer)));
            }
            answered
        })
    }
}

/// A call without tower.
pub struct Direct<F>(pub F);

impl<F: FnMut() -> bool + Send> Runner for Direct<F> {
    fn run(&mut self, calls: u64) -> Batch<'_> {
        Box::pin(async move {
            let mut answered = 0;
            for _ in 0..calls {
                answered += u64::from(black_box((self.0)()));
            }
            answered
        })
    }
}

/// How the callers of a service hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    Reuse,
    CloneEach,
}

/// Callers of clones of one service that takes and gives a number.
pub fn numbers<S>(service: S, hold: Hold) -> Callers
where
    S: Service<u64, Response = u64> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: 'static,
{
    Box::new(move || {
        let service = service.clone();
        let request = || 7_u64;
        let allowed = |answer: Result<u64, S::Error>| answer.is_ok();
        match hold {
            Hold::Reuse => Box::new(Reuse { service, request, allowed }),
            Hold::CloneEach => Box::new(CloneEach { service, request, allowed }),
        }
    })
}

/// The same of one that answers requests of HTTP, here the smallest that there are.
pub fn requests<S>(service: S) -> Callers
where
    S: Service<Request<()>, Response = Response<()>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: 'static,
{
    Box::new(move || {
        let service = service.clone();
        let allowed = |answer: Result<Response<()>, S::Error>| answer.is_ok();
        Box::new(Reuse { service, request: Request::<()>::default, allowed })
    })
}

/// Callers of a function on a shared object.
pub fn direct<T, F>(shared: T, call: impl Fn(&T) -> F + 'static) -> Callers
where
    T: 'static,
    F: FnMut() -> bool + Send + 'static,
{
    Box::new(move || Box::new(Direct(call(&shared))))
}

/// Makes a few calls ahead of each batch.
pub struct Warm<R> {
    pub runner: R,
    pub calls: u64,
}

impl<R: Runner> Runner for Warm<R> {
    fn prepare(&mut self) -> Batch<'_> {
        self.runner.run(self.calls)
    }

    fn run(&mut self, calls: u64) -> Batch<'_> {
        self.runner.run(calls)
    }
}

/// Calls a service so often before anybody measures it.
pub fn fill<S>(service: &S, calls: u64)
where
    S: Service<u64, Response = u64> + Clone + Send,
    S::Future: Send,
{
    fill_with(service, calls, || 7_u64);
}

/// The same of one that takes something else than numbers.
pub fn fill_with<S, Req>(service: &S, calls: u64, request: fn() -> Req)
where
    S: Service<Req> + Clone + Send,
    S::Future: Send,
{
    let mut caller = Reuse {
        service: service.clone(),
        request,
        allowed: |answer: Result<S::Response, S::Error>| answer.is_ok(),
    };
    crate::runtime().block_on(caller.run(calls));
}
