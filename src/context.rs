//! What a request carries along for the layers that it passes.

use std::fmt;
use std::num::NonZeroU64;

use crate::clock::end_handed_down;
use crate::deadline::Deadline;

/// How much a request matters, in the four classes of Google's SRE book (chapter 21, "Handling Overload").
/// Under overload the lowest class is refused first.
///
/// ```
/// use buttress::Criticality;
/// assert!(Criticality::CriticalPlus > Criticality::Critical);
/// assert_eq!(Criticality::default(), Criticality::Critical);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the four classes are the definition")]
pub enum Criticality {
    /// Refused first, and often; a retry much later is fine (batch jobs).
    Sheddable,
    /// Partial unavailability is expected.
    SheddablePlus,
    /// The default: users see it when it fails.
    #[default]
    Critical,
    /// Reserved for what hurts most.
    CriticalPlus,
}

impl Criticality {
    /// From the lowest to the highest.
    ///
    /// ```
    /// assert!(buttress::Criticality::ALL.is_sorted());
    /// ```
    pub const ALL: [Self; 4] =
        [Self::Sheddable, Self::SheddablePlus, Self::Critical, Self::CriticalPlus];

    /// Lower-case name with underscores, for labels and headers.
    ///
    /// ```
    /// assert_eq!(buttress::Criticality::SheddablePlus.as_str(), "sheddable_plus");
    /// assert_eq!(buttress::Criticality::SheddablePlus.to_string(), "sheddable_plus");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sheddable => "sheddable",
            Self::SheddablePlus => "sheddable_plus",
            Self::Critical => "critical",
            Self::CriticalPlus => "critical_plus",
        }
    }
}

impl fmt::Display for Criticality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// By when an answer is needed, how much the request matters, and which attempt this is. Small and `Copy`;
/// an `http::Request` carries it in its extensions.
///
/// Without it no layer knows who still waits and what matters more: under overload what matters is refused as soon as what
/// does not, work is done for callers who have gone, and a retry goes to the endpoint that has just failed it.
///
/// These layers read it, where their `context` (a [`ReadContext`]) or their [`Replay`](crate::retry::Replay) says that it
/// is, which by default is nowhere:
///
/// | layer | what it reads | what for | what it writes |
/// |---|---|---|---|
/// | [`timeout`](crate::timeout) | deadline | ends the call then | its own end, if that is earlier; around a backend of [presets](crate::presets) that is written further inside |
/// | [`admission`](crate::admission) | deadline, criticality | who waits, for how long, and who is next | in a [server](crate::presets::server), the end of the timeout outside; in a [client](crate::presets::client) that is written inside of the hedge |
/// | [`throttle`](crate::throttle) | deadline | no wait for a turn that comes later | |
/// | [`rate_limit`](crate::rate_limit), if it [waits](crate::rate_limit::RateLimitLayer::wait) | deadline | no wait for a token that comes later | |
/// | [`coalesce`](crate::coalesce) | deadline | ends the wait for the answer that is shared | |
/// | [`retry`](crate::retry) | deadline | no attempt that could not end before | the end of its policy, if that is earlier; which attempt it is |
/// | [`hedge`](crate::hedge) | deadline, attempt | when a second attempt still helps | which attempt it is |
/// | [`endpoints`](crate::endpoints) | attempt, call | another endpoint than that of the attempt before | |
/// | `http::ContextLayer` | deadline, criticality | both stay below what it allows | what the headers say |
/// | `http::SendContextLayer` | deadline, criticality, attempt | the callee is told; nothing is sent that is late already | |
///
/// Circuit breakers, failure budgets, conditioners, idempotency and fallbacks do not.
///
/// ```
/// use buttress::{Context, Criticality, Deadline};
/// use std::time::Duration;
/// let context = Context::new()
///     .with_deadline(Deadline::after(Duration::from_secs(1)))
///     .with_criticality(Criticality::Sheddable);
/// assert_eq!(context.attempt(), 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    deadline: Option<Deadline>,
    criticality: Criticality,
    attempt: u32,
    call: Option<NonZeroU64>,
}

impl Context {
    /// Without a deadline, [`Critical`](Criticality::Critical), the first attempt.
    ///
    /// ```
    /// assert_eq!(buttress::Context::new(), buttress::Context::default());
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self { deadline: None, criticality: Criticality::Critical, attempt: 1, call: None }
    }

    /// With this deadline, or the one it has if that is earlier: a deadline is never extended.
    ///
    /// ```
    /// use buttress::{Context, Deadline};
    /// use std::time::Duration;
    /// let soon = Deadline::after(Duration::from_secs(1));
    /// let context = Context::new().with_deadline(soon);
    /// assert_eq!(context.with_deadline(Deadline::after(Duration::from_secs(9))).deadline(), Some(soon));
    /// ```
    #[must_use]
    pub fn with_deadline(self, deadline: Deadline) -> Self {
        let deadline = self.deadline.map_or(deadline, |there| there.earliest(deadline));
        Self { deadline: Some(deadline), ..self }
    }

    /// With this criticality.
    ///
    /// ```
    /// use buttress::{Context, Criticality};
    /// let context = Context::new().with_criticality(Criticality::CriticalPlus);
    /// assert_eq!(context.criticality(), Criticality::CriticalPlus);
    /// ```
    #[must_use]
    pub const fn with_criticality(self, criticality: Criticality) -> Self {
        Self { criticality, ..self }
    }

    /// As this attempt, from 1.
    ///
    /// ```
    /// assert_eq!(buttress::Context::new().with_attempt(2).attempt(), 2);
    /// ```
    #[must_use]
    pub const fn with_attempt(self, attempt: u32) -> Self {
        Self { attempt, ..self }
    }

    /// As an attempt of this call. All attempts of one call carry the same number, so that one of them can go
    /// elsewhere than the one before. 0 is none.
    ///
    /// ```
    /// assert_eq!(buttress::Context::new().with_call(7).call(), Some(7));
    /// ```
    #[must_use]
    pub const fn with_call(self, call: u64) -> Self {
        Self { call: NonZeroU64::new(call), ..self }
    }

    /// By when the answer is needed.
    ///
    /// ```
    /// assert_eq!(buttress::Context::new().deadline(), None);
    /// ```
    #[must_use]
    pub const fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    /// How much it matters.
    ///
    /// ```
    /// assert_eq!(buttress::Context::new().criticality(), buttress::Criticality::Critical);
    /// ```
    #[must_use]
    pub const fn criticality(&self) -> Criticality {
        self.criticality
    }

    /// Which attempt this is, from 1.
    ///
    /// ```
    /// assert_eq!(buttress::Context::new().attempt(), 1);
    /// ```
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The number that all attempts of one call share, if they have one.
    ///
    /// ```
    /// assert_eq!(buttress::Context::new().call(), None);
    /// ```
    #[must_use]
    pub const fn call(&self) -> Option<u64> {
        match self.call {
            Some(call) => Some(call.get()),
            None => None,
        }
    }

    /// What a request carries in its extensions; the default if it carries nothing.
    ///
    /// ```
    /// use buttress::Context;
    /// assert_eq!(Context::of(http::Request::new(()).extensions()), Context::new());
    /// ```
    #[cfg(feature = "http")]
    #[must_use]
    pub fn of(extensions: &http::Extensions) -> Self {
        extensions.get().copied().unwrap_or_default()
    }

    /// Puts it into the extensions of a request, in place of the one there, of which an earlier deadline is
    /// kept.
    ///
    /// ```
    /// use buttress::{Context, Deadline};
    /// use std::time::Duration;
    /// let mut request = http::Request::new(());
    /// let soon = Deadline::after(Duration::from_secs(1));
    /// soon.put(request.extensions_mut());
    /// Context::new().with_attempt(2).put(request.extensions_mut());
    /// let context = Context::of(request.extensions());
    /// assert_eq!((context.deadline(), context.attempt()), (Some(soon), 2));
    /// ```
    #[cfg(feature = "http")]
    pub fn put(self, extensions: &mut http::Extensions) {
        match extensions.get_mut::<Self>() {
            Some(there) => {
                *there = there.deadline.map_or(self, |deadline| self.with_deadline(deadline));
            }
            None => {
                extensions.insert(self);
            }
        }
    }
}

/// A number for a call that no other call of this process has.
pub(crate) fn next_call() -> u64 {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering};

    static THREADS: AtomicU64 = AtomicU64::new(0);
    thread_local!(static NEXT: Cell<u64> = const { Cell::new(0) });
    NEXT.with(|next| {
        // Each thread counts on its own, from where nobody else does.
        if next.get() & 0xffff_ffff == 0 {
            next.set(THREADS.fetch_add(1, Ordering::Relaxed) << 32 | 1);
        }
        next.replace(next.get() + 1)
    })
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a request keeps its [`Context`].
///
/// Closures `Fn(&Req) -> Context` implement it, [`NoContext`] (the default of the layers) for every request,
/// `http::extensions()` for `http::Request`.
///
/// ```
/// use buttress::{Context, Criticality, ReadContext};
/// struct Job { urgent: bool }
/// let read = |job: &Job| Context::new().with_criticality(
///     if job.urgent { Criticality::CriticalPlus } else { Criticality::Sheddable },
/// );
/// assert_eq!(read.context(&Job { urgent: true }).criticality(), Criticality::CriticalPlus);
/// ```
///
/// A closure only reads. Where layers write it, too (an earlier deadline, the number of an attempt), it takes a type:
///
/// ```
/// use buttress::{Context, ReadContext};
/// struct Query { context: Context }
/// struct InQuery;
/// impl ReadContext<Query> for InQuery {
///     fn context(&self, query: &Query) -> Context {
///         query.context
///     }
///     fn set_context(&self, query: &mut Query, context: Context) {
///         query.context = context;
///     }
/// }
/// let mut query = Query { context: Context::new() };
/// InQuery.set_context(&mut query, Context::new().with_attempt(2));
/// assert_eq!(InQuery.context(&query).attempt(), 2);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not read the context of requests of type `{Req}`",
    note = "use a closure `|request: &Request| -> Context`, or `buttress::http::extensions()` for HTTP requests"
)]
pub trait ReadContext<Req> {
    /// What the request carries.
    fn context(&self, req: &Req) -> Context;

    /// Puts it back changed, for the layers inside. By default it goes nowhere.
    fn set_context(&self, req: &mut Req, context: Context) {
        let _ = (req, context);
    }

    /// Whether what is put back can be there when it is read again.
    #[doc(hidden)]
    fn keeps(&self) -> bool {
        true
    }
}

impl<Req, F: Fn(&Req) -> Context> ReadContext<Req> for F {
    #[inline]
    fn context(&self, req: &Req) -> Context {
        self(req)
    }

    #[inline]
    fn keeps(&self) -> bool {
        false
    }
}

/// The layers inside are told by the context of the end that those outside have handed down, where it can be read.
#[inline]
pub(crate) fn tell_end<Req>(context: &impl ReadContext<Req>, req: &mut Req) {
    if context.keeps() {
        tell(context, req);
    }
}

#[inline(never)]
fn tell<Req>(context: &impl ReadContext<Req>, req: &mut Req) {
    let Some(end) = end_handed_down() else { return };
    let known = context.context(req);
    if known.deadline().is_none_or(|by| by.tick() > end) {
        context.set_context(req, known.with_deadline(Deadline::at(end)));
    }
}

/// Requests carry no context: no deadline, [`Critical`](Criticality::Critical), the first attempt.
///
/// ```
/// use buttress::{Context, NoContext, ReadContext};
/// assert_eq!(NoContext.context(&7), Context::new());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a unit: it has nothing to grow")]
pub struct NoContext;

impl<Req> ReadContext<Req> for NoContext {
    #[inline]
    fn context(&self, _: &Req) -> Context {
        Context::new()
    }

    #[inline]
    fn keeps(&self) -> bool {
        false
    }
}
