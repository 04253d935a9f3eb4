use crate::replay::CloneRequest;

/// What is kept of a request for a fallback that may be needed: the request itself is gone by then.
///
/// Closures `Fn(&Req) -> Option<T>` implement it (`None`: no fallback for this one), so does
/// [`CloneRequest`](crate::retry::CloneRequest), the default. It runs for every call, so it should be cheap.
///
/// ```
/// use buttress::fallback::Keep;
/// let user = |request: &(u32, String)| Some(request.0);
/// assert_eq!(user.keep(&(7, "body".into())), Some(7));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` keeps nothing of requests of type `{Req}`",
    note = "requests that are not `Clone` need `.keep(|request: &{Req}| Some(...))`"
)]
pub trait Keep<Req> {
    /// What is kept.
    type Kept;

    /// Takes it from the request. `None` if there can be no fallback for this one.
    fn keep(&self, req: &Req) -> Option<Self::Kept>;
}

impl<Req, T, F: Fn(&Req) -> Option<T>> Keep<Req> for F {
    type Kept = T;

    #[inline]
    fn keep(&self, req: &Req) -> Option<T> {
        self(req)
    }
}

impl<Req: Clone> Keep<Req> for CloneRequest {
    type Kept = Req;

    #[inline]
    fn keep(&self, req: &Req) -> Option<Req> {
        Some(req.clone())
    }
}

/// Keeps nothing of the request.
///
/// ```
/// use buttress::fallback::{Keep, Nothing};
/// assert_eq!(Nothing.keep(&7), Some(()));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a unit: it has nothing to grow")]
pub struct Nothing;

impl<Req> Keep<Req> for Nothing {
    type Kept = ();

    #[inline]
    fn keep(&self, _: &Req) -> Option<()> {
        Some(())
    }
}
