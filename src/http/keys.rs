//! What tells callers apart: the key of a keyed limit or breaker.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

use ::http::{Extensions, HeaderName, Request};

/// The address of the peer of a connection, as a request extension. Insert it where connections are
/// accepted; [`peer_ip`] finds it.
///
/// ```
/// use buttress::http::{peer_ip, PeerAddr};
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(PeerAddr("192.0.2.7:4711".parse().unwrap()));
/// assert_eq!(peer_ip().key(&request), Some("192.0.2.7".parse().unwrap()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "an address and nothing else")]
pub struct PeerAddr(pub SocketAddr);

/// Keys requests by the address of the connection's peer: the extension [`PeerAddr`], or what
/// [`PeerIp::or_extension`] names. `None` if there is neither.
///
/// IPv6 peers are told apart by the first 64 bits of their address, because every subscriber has
/// 2^64 of them to choose from; see [`PeerIp::each_ipv6`]. An IPv4 address in IPv6 clothing
/// (`::ffff:192.0.2.7`) is the IPv4 address.
///
/// Behind a proxy every request has the proxy's address: use [`forwarded_for`](super::forwarded_for).
///
/// With axum, whose `ConnectInfo` is an extension too:
///
/// ```
/// use axum::extract::ConnectInfo;
/// use buttress::http::peer_ip;
/// use std::net::SocketAddr;
///
/// let by_peer = peer_ip().or_extension(|extensions| {
///     Some(extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip())
/// });
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 7], 4711))));
/// assert_eq!(by_peer.key(&request), Some("192.0.2.7".parse().unwrap()));
/// ```
///
/// With a tonic server:
///
/// ```
/// # use buttress::http::peer_ip;
/// use tonic::transport::server::TcpConnectInfo;
/// let by_peer = peer_ip().or_extension(|extensions| {
///     Some(extensions.get::<TcpConnectInfo>()?.remote_addr()?.ip())
/// });
/// # let _ = by_peer;
/// ```
#[must_use]
pub const fn peer_ip() -> PeerIp {
    PeerIp { other: None, each_ipv6: false }
}

/// See [`peer_ip`].
///
/// ```
/// use buttress::Quota;
/// use buttress::http::{PeerIp, peer_ip};
/// use buttress::rate_limit::{RateLimitLayer, RateLimiter};
/// use std::net::IpAddr;
/// struct Limits {
///     peer: PeerIp,
/// }
/// let limits = Limits { peer: peer_ip() };
/// let each = RateLimiter::keyed::<IpAddr>(Quota::per_second(10)?, 10_000)?;
/// let layer = RateLimitLayer::new(each).key(limits.peer);
/// # let _ = layer;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PeerIp {
    other: Option<fn(&Extensions) -> Option<IpAddr>>,
    each_ipv6: bool,
}

impl PeerIp {
    /// Where to look if there is no [`PeerAddr`].
    ///
    /// ```
    /// # use buttress::http::peer_ip;
    /// use std::net::IpAddr;
    /// let by_peer = peer_ip().or_extension(|extensions| extensions.get::<IpAddr>().copied());
    /// # let _ = by_peer;
    /// ```
    #[must_use]
    pub const fn or_extension(mut self, find: fn(&Extensions) -> Option<IpAddr>) -> Self {
        self.other = Some(find);
        self
    }

    /// Tells every single IPv6 address apart, instead of every /64 network.
    ///
    /// ```
    /// use buttress::http::{peer_ip, PeerAddr};
    /// let mut request = http::Request::new(());
    /// request.extensions_mut().insert(PeerAddr("[2001:db8::7]:4711".parse().unwrap()));
    /// assert_eq!(peer_ip().key(&request), Some("2001:db8::".parse().unwrap()));
    /// assert_eq!(peer_ip().each_ipv6().key(&request), Some("2001:db8::7".parse().unwrap()));
    /// ```
    #[must_use]
    pub const fn each_ipv6(mut self) -> Self {
        self.each_ipv6 = true;
        self
    }

    /// The key of a request.
    ///
    /// ```
    /// assert_eq!(buttress::http::peer_ip().key(&http::Request::new(())), None);
    /// ```
    #[must_use]
    pub fn key<B>(&self, req: &Request<B>) -> Option<IpAddr> {
        let extensions = req.extensions();
        let peer = match extensions.get::<PeerAddr>() {
            Some(PeerAddr(peer)) => peer.ip(),
            None => self.other?(extensions)?,
        };
        Some(self.group(peer))
    }

    pub(super) fn group(&self, address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V6(v6) if !self.each_ipv6 => {
                let network = v6.to_bits() >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            address => address,
        }
    }
}

/// Keys requests by the value of a header: an API key, a tenant. `None` if the header is missing or
/// empty; of several values the first counts.
///
/// A value longer than 128 bytes, or one that is not visible ASCII, is replaced by its beginning and
/// a 128-bit keyed hash, so a hostile client cannot fill a table with megabytes. The hash is
/// different in every process.
///
/// A header is whatever the client writes: a limit on it holds back only clients that cannot make up
/// values, for example because something further out has checked them.
///
/// ```
/// use http::{HeaderName, Request};
/// let by_tenant = buttress::http::header(HeaderName::from_static("x-tenant"));
/// let request = Request::builder().header("x-tenant", "acme").body(()).unwrap();
/// assert_eq!(by_tenant.key(&request).as_deref(), Some("acme"));
/// ```
#[must_use]
pub const fn header(name: HeaderName) -> HeaderText {
    HeaderText { name }
}

/// See [`header`].
///
/// ```
/// use buttress::Quota;
/// use buttress::http::{HeaderText, header};
/// use buttress::rate_limit::{RateLimitLayer, RateLimiter};
/// use http::HeaderName;
/// struct Limits {
///     tenant: HeaderText,
/// }
/// let limits = Limits { tenant: header(HeaderName::from_static("x-tenant")) };
/// let each = RateLimiter::keyed::<String>(Quota::per_second(10)?, 10_000)?;
/// let layer = RateLimitLayer::new(each).key(limits.tenant);
/// # let _ = layer;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderText {
    name: HeaderName,
}

impl HeaderText {
    /// The key of a request.
    ///
    /// ```
    /// # use http::{HeaderName, Request};
    /// let by_key = buttress::http::header(HeaderName::from_static("x-api-key"));
    /// assert_eq!(by_key.key(&Request::new(())), None);
    /// ```
    #[must_use]
    pub fn key<B>(&self, req: &Request<B>) -> Option<String> {
        let value = req.headers().get(&self.name)?.as_bytes();
        (!value.is_empty()).then(|| bounded(value))
    }
}

/// Keys requests by the path of their URI, without the query. Long paths are shortened as
/// [`header`] does.
///
/// Every distinct path is a key of its own; where paths contain identifiers, key by your router's
/// pattern with a closure instead.
///
/// ```
/// let request = http::Request::get("/users?page=2").body(()).unwrap();
/// assert_eq!(buttress::http::path().key(&request).as_deref(), Some("/users"));
/// ```
#[must_use]
pub const fn path() -> UriPath {
    UriPath { _private: () }
}

/// See [`path`].
///
/// ```
/// use buttress::Quota;
/// use buttress::http::{UriPath, path};
/// use buttress::rate_limit::{RateLimitLayer, RateLimiter};
/// struct Limits {
///     route: UriPath,
/// }
/// let limits = Limits { route: path() };
/// let each = RateLimiter::keyed::<String>(Quota::per_second(10)?, 100)?;
/// let layer = RateLimitLayer::new(each).key(limits.route);
/// # let _ = layer;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UriPath {
    _private: (),
}

impl UriPath {
    /// The key of a request: always there.
    ///
    /// ```
    /// assert_eq!(buttress::http::path().key(&http::Request::new(())).as_deref(), Some("/"));
    /// ```
    #[must_use]
    pub fn key<B>(&self, req: &Request<B>) -> Option<String> {
        Some(bounded(req.uri().path().as_bytes()))
    }
}

const LONGEST: usize = 128;

/// The text, or a beginning of it and a hash.
fn bounded(text: &[u8]) -> String {
    if text.len() <= LONGEST
        && text.iter().all(|byte| (b' '..=b'~').contains(byte))
        && let Ok(text) = std::str::from_utf8(text)
    {
        return text.to_owned();
    }
    // Two independent keys: a client that finds a collision of one has not found one of the other.
    static KEYS: OnceLock<[RandomState; 2]> = OnceLock::new();
    let [a, b] = KEYS.get_or_init(|| [RandomState::new(), RandomState::new()]);
    let start = text[..text.len().min(32)].escape_ascii();
    format!("{start}#{:016x}{:016x}", a.hash_one(text), b.hash_one(text))
}
