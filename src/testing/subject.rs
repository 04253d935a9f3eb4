//! What is tested, and which exceptions it claims.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tower_layer::Layer;
use tower_service::Service;

use super::handle::ProbeHandle;
use super::probe::Probe;

/// A layer the kit can test: around a [`Probe`] it makes a service that can be cloned and sent, with
/// futures that can be sent. Implemented for every such layer.
///
/// ```
/// fn testable<L: buttress::testing::TestableLayer<u32, u32, ()>>(_: L) {}
/// testable(tower::layer::util::Identity::new());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make a service of `{Req}` that the contract kit can test",
    note = "the service must be Clone + Send + Sync + 'static and its future Send + 'static"
)]
pub trait TestableLayer<Req, Res, Err>:
    Layer<
        Probe<Req, Res, Err>,
        Service: Service<Req, Future: Send + 'static> + Clone + Send + Sync + 'static,
    >
{
}

impl<L, Req, Res, Err> TestableLayer<Req, Res, Err> for L where
    L: Layer<
            Probe<Req, Res, Err>,
            Service: Service<Req, Future: Send + 'static> + Clone + Send + Sync + 'static,
        >
{
}

type Made<T> = Box<dyn Fn() -> T + Send + Sync>;
type Checked = Pin<Box<dyn Future<Output = Result<(), String>>>>;
type StateCheck<S, Res, Err> = Box<dyn Fn(S, S, ProbeHandle<Res, Err>) -> Checked + Send + Sync>;

pub(super) enum State<S, Res, Err> {
    Undeclared,
    Stateless,
    Shared(StateCheck<S, Res, Err>),
}

pub(super) enum ReadyError<Err> {
    Undeclared,
    Impossible,
    Some(Made<Err>),
}

/// A layer under test: how to make it, how to make a request, what the inner service answers, and
/// which exceptions from the contract it claims.
///
/// The layer must be configured to let everything through: each property makes a fresh layer and
/// sends it about [`rounds`](Self::rounds) + 20 requests, some of which are cancelled, and one of
/// which panics. A layer that refuses one of them fails the property.
///
/// Exceptions are claimed one by one, so that they stand in the test for a reader to see; every
/// property that is not excepted still holds. See each method for what it changes.
///
/// Two things cannot be guessed and must be declared: the inner error
/// ([`ready_error`](Self::ready_error) or [`infallible`](Self::infallible)) and the state
/// ([`shared_state`](Self::shared_state) or [`stateless`](Self::stateless)). Without them
/// [`check_all`](super::check_all) reports the property they belong to.
///
/// ```
/// use buttress::testing::Subject;
/// use std::io;
///
/// let subject = Subject::new(
///     || tower::util::MapRequestLayer::new(|n: u32| n + 1),
///     || 1,
///     |n: u32| Ok::<u32, io::Error>(n),
/// )
/// .ready_error(|| io::Error::other("not today"))
/// .stateless();
/// # let _ = subject;
/// ```
#[must_use = "a subject does nothing until a property is checked"]
pub struct Subject<Req, Res, Err, L: Layer<Probe<Req, Res, Err>>> {
    pub(super) layer: Made<L>,
    pub(super) request: Made<Req>,
    pub(super) answer: Arc<dyn Fn(Req) -> Result<Res, Err> + Send + Sync>,
    pub(super) ready_error: ReadyError<Err>,
    pub(super) state: State<L::Service, Res, Err>,
    pub(super) rounds: usize,
    pub(super) polls_inner_in_ready: bool,
    pub(super) reserves_in_ready: bool,
    pub(super) needs_runtime: bool,
}

impl<Req, Res, Err, L> Subject<Req, Res, Err, L>
where
    L: TestableLayer<Req, Res, Err>,
{
    /// `layer` makes a fresh layer with fresh state for each property, `request` a request, and
    /// `answer` is what the inner service does with it, normally an `Ok`.
    ///
    /// ```
    /// use buttress::testing::Subject;
    /// let subject = Subject::new(tower::layer::util::Identity::new, || 1_u32, |n| Ok::<_, ()>(n));
    /// # let _ = subject;
    /// ```
    pub fn new(
        layer: impl Fn() -> L + Send + Sync + 'static,
        request: impl Fn() -> Req + Send + Sync + 'static,
        answer: impl Fn(Req) -> Result<Res, Err> + Send + Sync + 'static,
    ) -> Self {
        Self {
            layer: Box::new(layer),
            request: Box::new(request),
            answer: Arc::new(answer),
            ready_error: ReadyError::Undeclared,
            state: State::Undeclared,
            rounds: 32,
            polls_inner_in_ready: true,
            reserves_in_ready: false,
            needs_runtime: false,
        }
    }

    /// Makes the error with which the inner service's `poll_ready` fails.
    ///
    /// ```
    /// # use buttress::testing::Subject;
    /// # let s = Subject::new(tower::layer::util::Identity::new, || 1_u32, |n| Ok::<_, String>(n));
    /// let s = s.ready_error(|| "connection lost".to_owned());
    /// # let _ = s;
    /// ```
    pub fn ready_error(mut self, error: impl Fn() -> Err + Send + Sync + 'static) -> Self {
        self.ready_error = ReadyError::Some(Box::new(error));
        self
    }

    /// The inner service cannot fail, as in an axum router: nothing to pass through.
    ///
    /// ```
    /// # use buttress::testing::Subject;
    /// # use std::convert::Infallible;
    /// # use tower::layer::util::Identity;
    /// # let s = Subject::new(Identity::new, || 1, |n: u8| Ok::<_, Infallible>(n));
    /// let s = s.infallible();
    /// # let _ = s;
    /// ```
    pub fn infallible(mut self) -> Self {
        self.ready_error = ReadyError::Impossible;
        self
    }

    /// The layer has state that all its services share. `check` gets two services made by two calls
    /// of one layer's `layer()` and the handle of their probe. It uses the state through the first,
    /// and says what was wrong if the second does not see it.
    ///
    /// ```
    /// # use tower::{limit::GlobalConcurrencyLimitLayer, ServiceExt};
    /// use buttress::testing::{CountWaker, Subject};
    ///
    /// let one_at_a_time = || GlobalConcurrencyLimitLayer::new(1);
    /// let s = Subject::new(one_at_a_time, || 1_u8, |n| Ok::<_, String>(n))
    ///     .shared_state(|mut one, mut two, _probe| async move {
    ///         let _ready = one.ready().await?;
    ///         if CountWaker::new().poll_ready(&mut two).is_ready() {
    ///             return Err("the limit of 1 let two through".to_owned());
    ///         }
    ///         Ok(())
    ///     });
    /// # let _ = s;
    /// ```
    pub fn shared_state<F, Fut>(mut self, check: F) -> Self
    where
        F: Fn(L::Service, L::Service, ProbeHandle<Res, Err>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + 'static,
    {
        self.state =
            State::Shared(Box::new(move |one, two, probe| Box::pin(check(one, two, probe))));
        self
    }

    /// The layer has no state that could be shared or lost.
    ///
    /// ```
    /// # use buttress::testing::Subject;
    /// # let s = Subject::new(tower::layer::util::Identity::new, || 1_u32, |n| Ok::<_, ()>(n));
    /// let s = s.stateless();
    /// # let _ = s;
    /// ```
    pub fn stateless(mut self) -> Self {
        self.state = State::Stateless;
        self
    }

    /// How often an action that could leak is repeated (default 32). Must be more than the layer's
    /// own capacity, or a leak of one permit a round goes unseen.
    ///
    /// ```
    /// # use buttress::testing::Subject;
    /// # let s = Subject::new(tower::layer::util::Identity::new, || 1_u32, |n| Ok::<_, ()>(n));
    /// let s = s.rounds(100);
    /// # let _ = s;
    /// ```
    pub fn rounds(mut self, rounds: usize) -> Self {
        self.rounds = rounds;
        self
    }

    /// Exception: `poll_ready` does not poll the inner service; the response future does, on an
    /// instance of its own. Right for layers that wait or act before the call (default `true`).
    ///
    /// The kit then expects that a ready instance holds *no* inner slot, and looks for the inner
    /// error in the response instead of in `poll_ready`.
    ///
    /// ```
    /// # use buttress::testing::Subject;
    /// # let s = Subject::new(tower::layer::util::Identity::new, || 1_u32, |n| Ok::<_, ()>(n));
    /// let s = s.polls_inner_in_ready(false);
    /// # let _ = s;
    /// ```
    pub fn polls_inner_in_ready(mut self, yes: bool) -> Self {
        self.polls_inner_in_ready = yes;
        self
    }

    /// Exception: the layer's `poll_ready` reserves something of its own that is scarce, as tower's
    /// `ConcurrencyLimit` does, so idle ready clones keep others out (default `false`).
    ///
    /// Excepts [`ready_takes_nothing_scarce`](super::contract::ready_takes_nothing_scarce).
    ///
    /// ```
    /// # use buttress::testing::Subject;
    /// # let s = Subject::new(tower::layer::util::Identity::new, || 1_u32, |n| Ok::<_, ()>(n));
    /// let s = s.reserves_in_ready(true);
    /// # let _ = s;
    /// ```
    pub fn reserves_in_ready(mut self, yes: bool) -> Self {
        self.reserves_in_ready = yes;
        self
    }

    /// Exception: even a call that goes well needs a running tokio runtime, for a timer or a worker
    /// task (default `false`).
    ///
    /// Excepts [`no_timer_needed_on_happy_path`](super::contract::no_timer_needed_on_happy_path), and
    /// lets the kit wait through the runtime, up to a minute, which paused time makes short.
    ///
    /// ```
    /// # use buttress::testing::Subject;
    /// # let s = Subject::new(tower::layer::util::Identity::new, || 1_u32, |n| Ok::<_, ()>(n));
    /// let s = s.needs_runtime(true);
    /// # let _ = s;
    /// ```
    pub fn needs_runtime(mut self, yes: bool) -> Self {
        self.needs_runtime = yes;
        self
    }
}

impl<Req, Res, Err, L: Layer<Probe<Req, Res, Err>>> fmt::Debug for Subject<Req, Res, Err, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("rounds", &self.rounds)
            .field("polls_inner_in_ready", &self.polls_inner_in_ready)
            .field("reserves_in_ready", &self.reserves_in_ready)
            .field("needs_runtime", &self.needs_runtime)
            .finish_non_exhaustive()
    }
}
