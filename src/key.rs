use std::fmt;
use std::hash::Hash;

/// Finds the key of a request: the client address, the tenant, the host.
///
/// Keyed layers keep one state per key. Closures `Fn(&Req) -> Option<K>` implement it; for a closure
/// that always finds a key see [`key_fn`]; extractors for HTTP are in `buttress::http`.
///
/// It runs once per request, before anything is decided and outside all locks. `None` means that the
/// request has no key; each layer says what happens then.
///
/// ```
/// use buttress::Key;
/// struct Tenant;
/// impl Key<(u32, &str)> for Tenant {
///     type Key = u32;
///     fn key(&self, req: &(u32, &str)) -> Option<u32> {
///         (req.0 != 0).then_some(req.0)
///     }
/// }
/// assert_eq!(Tenant.key(&(7, "hello")), Some(7));
/// assert_eq!(Tenant.key(&(0, "hello")), None);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not find keys in requests of type `{Req}`",
    note = "use a closure `|request: &Request| -> Option<K>`, `buttress::key_fn(|request| k)` or an extractor of `buttress::http`"
)]
pub trait Key<Req> {
    /// What tells two callers apart. Cheap to make: an address, a number, a reference-counted text.
    type Key: Hash + Eq;

    /// The key, if the request has one.
    fn key(&self, req: &Req) -> Option<Self::Key>;
}

impl<Req, K, F> Key<Req> for F
where
    F: Fn(&Req) -> Option<K>,
    K: Hash + Eq,
{
    type Key = K;

    #[inline]
    fn key(&self, req: &Req) -> Option<K> {
        self(req)
    }
}

/// A [`Key`] from a closure that finds one in every request.
///
/// ```
/// use buttress::{key_fn, Key};
/// let length = key_fn(|text: &String| text.len());
/// assert_eq!(length.key(&"four".to_owned()), Some(4));
/// ```
pub fn key_fn<Req, K, F>(f: F) -> KeyFn<F>
where
    F: Fn(&Req) -> K,
{
    KeyFn { f }
}

/// See [`key_fn`].
///
/// ```
/// use buttress::{Key, KeyFn, key_fn};
/// // With a function instead of a closure the type can be written.
/// struct Limits {
///     tenant: KeyFn<fn(&(u32, String)) -> u32>,
/// }
/// let limits = Limits { tenant: key_fn(|request| request.0) };
/// assert_eq!(limits.tenant.key(&(7, "hello".to_owned())), Some(7));
/// ```
#[derive(Clone, Copy)]
pub struct KeyFn<F> {
    f: F,
}

impl<F> fmt::Debug for KeyFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyFn")
    }
}

impl<Req, K, F> Key<Req> for KeyFn<F>
where
    F: Fn(&Req) -> K,
    K: Hash + Eq,
{
    type Key = K;

    #[inline]
    fn key(&self, req: &Req) -> Option<K> {
        Some((self.f)(req))
    }
}

#[cfg(feature = "http")]
mod http {
    use std::net::IpAddr;

    use ::http::Request;

    use super::Key;
    use crate::http::{ForwardedFor, HeaderText, PeerIp, UriPath};

    macro_rules! extractor {
        ($($extractor:ty => $key:ty),*) => {
            $(impl<B> Key<Request<B>> for $extractor {
                type Key = $key;

                fn key(&self, req: &Request<B>) -> Option<$key> {
                    // The method of the type itself, not of this trait.
                    <$extractor>::key(self, req)
                }
            })*
        };
    }

    extractor!(PeerIp => IpAddr, ForwardedFor => IpAddr, HeaderText => String, UriPath => String);
}
