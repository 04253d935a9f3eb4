//! Who may ask, and from where.

use std::hint::black_box;
use std::net::IpAddr;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Uri};
use sha2::{Digest, Sha256};

use crate::error::ConfigError;

/// Shorter ones can be guessed.
const SHORTEST: usize = 16;

/// What a token was, without the token.
#[derive(Clone, Copy)]
pub(super) struct Token([u8; 32]);

impl Token {
    pub(super) fn new(token: &str) -> Result<Self, ConfigError> {
        let wrong =
            |value: &str, expected: &'static str| ConfigError::new("token", value, expected);
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("(hidden)", "visible ASCII characters without blanks"));
        }
        if token.len() < SHORTEST {
            let value = format!("{} characters", token.len());
            return Err(wrong(&value, "at least 16 characters"));
        }
        Ok(Self(Sha256::digest(token).into()))
    }

    /// Digests are compared, so the time tells nothing about the token, and how far they agree tells nothing
    /// that helps to find another.
    fn is(&self, given: &[u8]) -> bool {
        equal(&self.0, &Sha256::digest(given).into())
    }

    pub(super) fn opens(&self, headers: &HeaderMap) -> bool {
        let Some(given) = only(headers, &AUTHORIZATION) else { return false };
        let given = given.as_bytes();
        match given.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => self.is(token),
            _ => false,
        }
    }
}

/// Looks at every byte, whatever the others are.
pub(super) fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let differ = a.iter().zip(b).fold(0, |differ, (a, b)| black_box(differ | (a ^ b)));
    black_box(differ) == 0
}

/// The one header of this name: with two, two programs may each look at another.
fn only<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a HeaderValue> {
    let mut all = headers.get_all(name).iter();
    all.next().filter(|_| all.next().is_none())
}

pub(super) fn is_json(headers: &HeaderMap) -> bool {
    only(headers, &CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// The host a request is for, as the client spells it. With two that differ, two programs may each look at
/// another: over HTTP/2 there is one before the headers, too.
fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let authority = uri.authority().map(http::uri::Authority::as_str);
    if !headers.contains_key(HOST) {
        return authority;
    }
    let host = only(headers, &HOST)?.to_str().ok()?;
    authority.is_none_or(|authority| authority.eq_ignore_ascii_case(host)).then_some(host)
}

/// Without port and brackets.
pub(super) fn name_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// A name that resolves to a loopback address makes a web page's requests same-origin: only names are for
/// this service that the program knows.
pub(super) fn is_for_us(headers: &HeaderMap, uri: &Uri, loopback: bool, hosts: &[String]) -> bool {
    if !loopback && hosts.is_empty() {
        return true;
    }
    let Some(host) = host(headers, uri) else { return false };
    let name = name_of(host);
    let local = name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    loopback && local || hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether a browser's request comes from a page of the same origin. What says nothing is no browser: they all
/// send `Origin` with a `POST`.
pub(super) fn is_same_origin(headers: &HeaderMap, uri: &Uri, allowed: &[String]) -> bool {
    let mut sites = headers.get_all("sec-fetch-site").iter();
    if !sites.all(|site| site == "same-origin" || site == "none") {
        return false;
    }
    if !headers.contains_key(ORIGIN) {
        return true;
    }
    let Some(origin) = only(headers, &ORIGIN).and_then(|origin| origin.to_str().ok()) else {
        return false;
    };
    if allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let Some((scheme, theirs)) = origin.split_once("://") else { return false };
    let port = match scheme {
        "http" => "80",
        "https" => "443",
        _ => return false,
    };
    // Whether this was https is not known here; the default port is that of the origin's scheme.
    host(headers, uri)
        .is_some_and(|ours| split_port(ours, port).eq_ignore_ascii_case(&split_port(theirs, port)))
}

fn split_port(host: &str, default: &str) -> String {
    let name = name_of(host);
    let rest = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    let port = rest.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.is_empty());
    format!("{name} {}", port.unwrap_or(default))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_token_is_long_enough_and_can_be_sent() {
        for (bad, value) in [
            ("", "0 characters"),
            ("fifteen-letters", "15 characters"),
            ("sixteen letters and blanks", "(hidden)"),
            ("sechzehn-lettern-ä", "(hidden)"),
        ] {
            let error = Token::new(bad).err().unwrap();
            assert_eq!((error.field(), error.value()), ("token", value));
        }
        assert!(Token::new("sixteen-letters.").is_ok());
    }

    #[test]
    fn only_the_token_opens() {
        let token = Token::new("sixteen-letters.").unwrap();
        let opens = |value: &str| token.opens(&headers(&[("authorization", value)]));
        assert!(opens("Bearer sixteen-letters.") && opens("bearer sixteen-letters."));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer sixteen-letters",
            "Bearer sixteen-letters..",
            "Basic sixteen-letters.",
            "Bearer  sixteen-letters.",
            "sixteen-letters.",
            "Bearer SIXTEEN-LETTERS.",
        ] {
            assert!(!opens(wrong), "{wrong}");
        }
        assert!(!token.opens(&headers(&[])));
        let twice = headers(&[
            ("authorization", "Bearer sixteen-letters."),
            ("authorization", "Bearer sixteen-letters."),
        ]);
        assert!(!token.opens(&twice));
    }

    #[test]
    fn equal_sees_every_bit() {
        let a = [0xa5; 32];
        assert!(equal(&a, &a.clone()));
        for bit in 0..256 {
            let mut b = a;
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(!equal(&a, &b), "bit {bit}");
        }
    }

    /// So long that a comparison which stops at the first difference would take a hundred times as long for a
    /// token that is wrong at its end as for one that is wrong at its beginning. The least of many turns, taken
    /// in turn, so that what else the machine does is in both or in neither.
    #[test]
    fn how_long_it_takes_tells_nothing_of_the_token() {
        const LONG: usize = 1 << 16;
        let right = "x".repeat(LONG);
        let token = Token::new(&right).unwrap();
        let wrong = |at: usize| {
            let mut wrong = right.clone();
            wrong.replace_range(at..=at, "y");
            headers(&[("authorization", &format!("Bearer {wrong}"))])
        };
        let given = [wrong(0), wrong(LONG - 1)];
        let mut least = [f64::INFINITY; 2];
        for _ in 0..200 {
            for (least, given) in least.iter_mut().zip(&given) {
                let start = tokio::time::Instant::now();
                assert!(!token.opens(black_box(given)));
                *least = least.min(start.elapsed().as_secs_f64());
            }
        }
        let ratio = least[0] / least[1];
        assert!((0.5..2.0).contains(&ratio), "{least:?}");
    }

    #[test]
    fn origins() {
        let same = |lines: &[(&'static str, &str)]| {
            let allowed = ["https://admin.example.com".to_owned()];
            is_same_origin(&headers(lines), &Uri::from_static("/commands"), &allowed)
        };
        for good in [
            &[("host", "a:1")][..],
            &[("host", "a:1"), ("origin", "http://a:1"), ("sec-fetch-site", "same-origin")],
            &[("host", "A"), ("origin", "http://a:80")],
            &[("host", "a"), ("origin", "https://a")],
            &[("host", "a:443"), ("origin", "https://a")],
            &[("host", "[::1]:9"), ("origin", "http://[::1]:9")],
            &[("host", "inside"), ("origin", "https://admin.example.com")],
        ] {
            assert!(same(good), "{good:?}");
        }
        for bad in [
            &[("host", "a:1"), ("origin", "http://a:2")][..],
            &[("host", "a"), ("origin", "null")],
            &[("host", "a"), ("origin", "")],
            &[("host", "a"), ("origin", "http://b")],
            &[("host", "a"), ("origin", "http://a.b")],
            &[("host", "a"), ("origin", "file://a")],
            &[("host", "a:443"), ("origin", "http://a")],
            &[("host", "[::1]:9"), ("origin", "http://[::2]:9")],
            &[("host", "a"), ("origin", "http://a"), ("origin", "http://a")],
            &[("host", "a"), ("host", "b"), ("origin", "http://a")],
            &[("origin", "http://a")],
            &[("host", "a"), ("sec-fetch-site", "cross-site")],
            &[("host", "a"), ("sec-fetch-site", "same-site")],
            &[("host", "a"), ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
            &[("host", "a"), ("origin", "http://a"), ("sec-fetch-site", "x")],
        ] {
            assert!(!same(bad), "{bad:?}");
        }
    }

    #[test]
    fn hosts() {
        let ours = |host: &str, hosts: &[&str]| {
            let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
            is_for_us(&headers(&[("host", host)]), &Uri::from_static("/"), true, &hosts)
        };
        for good in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:9901",
            "127.1.2.3",
            "[::1]:1",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(ours(good, &[]), "{good}");
        }
        for bad in [
            "evil.example:9901",
            "localhost.evil.example",
            "10.0.0.1",
            "[::2]",
            "",
            "127.0.0.1.evil.example",
        ] {
            assert!(!ours(bad, &[]), "{bad}");
        }
        assert!(ours("admin.internal:80", &["admin.internal"]));
        assert!(!is_for_us(&HeaderMap::new(), &Uri::from_static("/"), true, &[]));
        assert!(is_for_us(&HeaderMap::new(), &Uri::from_static("/"), false, &[]));
        assert!(!is_for_us(
            &headers(&[("host", "localhost")]),
            &Uri::from_static("/"),
            false,
            &["a".into()]
        ));
    }

    #[test]
    fn types() {
        let json = |value: &str| is_json(&headers(&[("content-type", value)]));
        assert!(json("application/json") && json("Application/JSON; charset=utf-8"));
        for other in [
            "text/plain",
            "application/jsonp",
            "application/x-www-form-urlencoded",
            "text/plain; application/json",
            "",
        ] {
            assert!(!json(other), "{other}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
