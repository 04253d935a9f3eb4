//! Where HTTP requests keep their context.

use ::http::Request;

use crate::context::{Context, ReadContext};

/// Reads and writes the [`Context`] in the extensions of an `http::Request`. A request that carries none has
/// the default; the first write into a request without extensions allocates.
///
/// ```
/// use buttress::{Context, ReadContext};
/// use buttress::http::extensions;
/// let mut request = http::Request::new(());
/// extensions().set_context(&mut request, Context::new().with_attempt(2));
/// assert_eq!(extensions().context(&request).attempt(), 2);
/// ```
#[must_use]
pub const fn extensions() -> Extensions {
    Extensions
}

/// See [`extensions`].
///
/// ```
/// use buttress::http::{Extensions, extensions};
/// use buttress::{Context, ReadContext};
/// struct Client {
///     contexts: Extensions,
/// }
/// let client = Client { contexts: extensions() };
/// let mut request = http::Request::new(());
/// client.contexts.set_context(&mut request, Context::new().with_attempt(1));
/// assert_eq!(Context::of(request.extensions()).attempt(), 1);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extensions;

impl<B> ReadContext<Request<B>> for Extensions {
    #[inline]
    fn context(&self, req: &Request<B>) -> Context {
        Context::of(req.extensions())
    }

    fn set_context(&self, req: &mut Request<B>, context: Context) {
        context.put(req.extensions_mut());
    }
}
