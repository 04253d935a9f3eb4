//! The client's address behind proxies, read so that the client cannot choose it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ::http::header::{FORWARDED, HeaderName, HeaderValue};
use ::http::{Extensions, Request};

use super::keys::{PeerIp, peer_ip};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// How many bytes are looked at, from the right. Enough for dozens of proxies; a megabyte of commas
/// costs no more than this.
const MOST: usize = 16 * 1024;

/// Keys requests by the client's address in `X-Forwarded-For`, behind `trusted_hops` proxies of yours.
///
/// Each proxy adds the address of *its* peer at the right end of the list. So with one proxy the last
/// address is the client's, with two the last but one, and everything further left was written by the
/// client itself and is not looked at. Count the proxies that every request passes through, and make
/// sure none of them replaces the list. Too low a number sees one of your proxies as the client; too
/// high a number lets the client choose.
///
/// With `trusted_hops` 0 no header is looked at and the key is the peer's, as with [`peer_ip`]. So it
/// is if the list is shorter than `trusted_hops` or its entry there is not an address (`unknown`, a
/// name, garbage): the request did not come the way it should have. If the peer is not known either
/// there is no key.
///
/// Entries may be `192.0.2.7`, `192.0.2.7:4711`, `2001:db8::7`, `[2001:db8::7]` and
/// `[2001:db8::7]:4711`. Several header lines are one list. IPv6 addresses are grouped as in
/// [`peer_ip`]. At most 16 KiB are read.
///
/// ```
/// use buttress::http::forwarded_for;
/// let request = http::Request::builder()
///     .header("x-forwarded-for", "1.1.1.1, 203.0.113.9")
///     .body(())
///     .unwrap();
/// assert_eq!(forwarded_for(1).key(&request), Some("203.0.113.9".parse().unwrap()));
/// ```
#[must_use]
pub const fn forwarded_for(trusted_hops: usize) -> ForwardedFor {
    ForwardedFor { trusted_hops, standard: false, peer: peer_ip() }
}

/// Keys requests by the client's address in `Forwarded` (RFC 7239): the `for` of the entry that the
/// outermost of `trusted_hops` proxies added. Everything else as [`forwarded_for`].
///
/// Choose the header that your proxies write. The other one is the client's to write, which is why
/// neither of these looks at both.
///
/// ```
/// use buttress::http::forwarded;
/// let request = http::Request::builder()
///     .header("forwarded", r#"for=1.1.1.1, for="[2001:db8::7]:4711";proto=https"#)
///     .body(())
///     .unwrap();
/// let key = forwarded(1).each_ipv6().key(&request);
/// assert_eq!(key, Some("2001:db8::7".parse().unwrap()));
/// ```
#[must_use]
pub const fn forwarded(trusted_hops: usize) -> ForwardedFor {
    ForwardedFor { trusted_hops, standard: true, peer: peer_ip() }
}

/// See [`forwarded_for`] and [`forwarded`].
///
/// ```
/// use buttress::Quota;
/// use buttress::http::{ForwardedFor, forwarded_for};
/// use buttress::rate_limit::{RateLimitLayer, RateLimiter};
/// use std::net::IpAddr;
/// struct Limits {
///     client: ForwardedFor,
/// }
/// let limits = Limits { client: forwarded_for(1) };
/// let each = RateLimiter::keyed::<IpAddr>(Quota::per_second(10)?, 10_000)?;
/// let layer = RateLimitLayer::new(each).key(limits.client);
/// # let _ = layer;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ForwardedFor {
    trusted_hops: usize,
    standard: bool,
    peer: PeerIp,
}

impl ForwardedFor {
    /// Where else to look for the peer's address: see [`PeerIp::or_extension`].
    ///
    /// ```
    /// # use buttress::http::forwarded_for;
    /// use std::net::IpAddr;
    /// let key = forwarded_for(1).or_extension(|extensions| extensions.get::<IpAddr>().copied());
    /// # let _ = key;
    /// ```
    #[must_use]
    pub const fn or_extension(mut self, find: fn(&Extensions) -> Option<IpAddr>) -> Self {
        self.peer = self.peer.or_extension(find);
        self
    }

    /// Tells every single IPv6 address apart, instead of every /64 network.
    ///
    /// ```
    /// let key = buttress::http::forwarded_for(1).each_ipv6();
    /// # let _ = key;
    /// ```
    #[must_use]
    pub const fn each_ipv6(mut self) -> Self {
        self.peer = self.peer.each_ipv6();
        self
    }

    /// The key of a request.
    ///
    /// ```
    /// assert_eq!(buttress::http::forwarded_for(1).key(&http::Request::new(())), None);
    /// ```
    #[must_use]
    pub fn key<B>(&self, req: &Request<B>) -> Option<IpAddr> {
        match self.client(req) {
            Some(client) => Some(self.peer.group(client)),
            None => self.peer.key(req),
        }
    }

    fn client<B>(&self, req: &Request<B>) -> Option<IpAddr> {
        let hop = self.trusted_hops.checked_sub(1)?;
        let name = if self.standard { &FORWARDED } else { &X_FORWARDED_FOR };
        let lines = req.headers().get_all(name).iter().rev().map(HeaderValue::as_bytes);
        let entry = entry_from_the_right(lines, hop, self.standard)?;
        if self.standard { address(node(entry)?) } else { address(entry) }
    }
}

/// The entry with `hop` entries to its right. Lines come last first.
fn entry_from_the_right<'a>(
    lines: impl Iterator<Item = &'a [u8]>,
    hop: usize,
    quotes: bool,
) -> Option<&'a [u8]> {
    let mut left = MOST;
    let mut hop = hop;
    for line in lines {
        let mut rest = line;
        loop {
            let window = &rest[rest.len().saturating_sub(left)..];
            let comma = last_comma(window, quotes);
            // Neither a comma nor the line's beginning within reach: give up.
            if comma.is_none() && window.len() < rest.len() {
                return None;
            }
            let start = comma.map_or(0, |at| rest.len() - window.len() + at + 1);
            let entry = rest[start..].trim_ascii();
            left -= rest.len() - start;
            // Empty list elements are to be ignored (RFC 9110, section 5.6.1).
            if !entry.is_empty() {
                if hop == 0 {
                    return Some(entry);
                }
                hop -= 1;
            }
            if comma.is_none() {
                break;
            }
            left = left.checked_sub(1)?;
            rest = &rest[..start - 1];
        }
        left = left.checked_sub(1)?;
    }
    None
}

/// The last comma that is not inside a quoted string, looking from the right: what a client left
/// unbalanced further left cannot swallow the entry a proxy added after it.
fn last_comma(text: &[u8], quotes: bool) -> Option<usize> {
    if !quotes {
        return text.iter().rposition(|&byte| byte == b',');
    }
    let mut inside = false;
    let mut at = text.len();
    while at > 0 {
        at -= 1;
        match text[at] {
            b'"' => {
                let slashes = text[..at].iter().rev().take_while(|&&b| b == b'\\').count();
                if slashes % 2 == 0 {
                    inside = !inside;
                } else {
                    at -= 1;
                }
            }
            b',' if !inside => return Some(at),
            _ => {}
        }
    }
    None
}

/// The value of `for` in one entry of `Forwarded`, without its quotes.
fn node(entry: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    let mut rest = entry;
    while !rest.is_empty() {
        let mut inside = false;
        let mut escaped = false;
        let end = rest.iter().position(|&byte| {
            let end = byte == b';' && !inside;
            inside ^= byte == b'"' && !escaped;
            escaped = byte == b'\\' && inside && !escaped;
            end
        });
        let pair = &rest[..end.unwrap_or(rest.len())];
        rest = end.map_or(&[], |end| &rest[end + 1..]);
        let Some(equals) = pair.iter().position(|&byte| byte == b'=') else { continue };
        if pair[..equals].trim_ascii().eq_ignore_ascii_case(b"for") {
            // "Each parameter MUST NOT occur more than once" (RFC 7239, section 4).
            if found.is_some() {
                return None;
            }
            found = Some(pair[equals + 1..].trim_ascii());
        }
    }
    let value = found?;
    match value.strip_prefix(b"\"") {
        Some(quoted) => quoted.strip_suffix(b"\""),
        None => Some(value),
    }
}

/// An address with or without a port, IPv6 with or without brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    // The longest, "[…]:65535" around an IPv6 address with an IPv4 tail, has 53 bytes.
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= 64)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    // Only the address matters: a port may also be obfuscated (`_a1`) in `Forwarded`.
    if let Some(bracketed) = text.strip_prefix('[') {
        let (inside, after) = bracketed.split_once(']')?;
        let plain = after.is_empty() || after.starts_with(':');
        return plain.then(|| inside.parse::<Ipv6Addr>().ok()).flatten().map(IpAddr::V6);
    }
    let (v4, _port) = text.split_once(':')?;
    v4.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4)
}
