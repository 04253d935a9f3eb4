//! Who is calling, and who can pretend to be someone else.

use std::net::{IpAddr, SocketAddr};

use buttress::http::{PeerAddr, forwarded, forwarded_for, header, path, peer_ip};
use http::{HeaderName, HeaderValue, Request};
use proptest::prelude::*;

fn lines(name: &'static str, lines: &[&str]) -> Request<()> {
    let mut request = Request::new(());
    for line in lines {
        request.headers_mut().append(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
    }
    request
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn x_forwarded_for_is_counted_from_the_right() {
    let table: &[(usize, &[&str], Option<&str>)] = &[
        (1, &["203.0.113.9"], Some("203.0.113.9")),
        (1, &["1.1.1.1, 203.0.113.9"], Some("203.0.113.9")),
        (2, &["1.1.1.1, 203.0.113.9"], Some("1.1.1.1")),
        (2, &["6.6.6.6, 203.0.113.9, 10.0.0.1"], Some("203.0.113.9")),
        // The client's inventions are to the left, whatever they look like.
        (1, &["garbage, \", ;;, 203.0.113.9"], Some("203.0.113.9")),
        (1, &["\"1.1.1.1, 203.0.113.9"], Some("203.0.113.9")),
        (1, &["unknown, 203.0.113.9"], Some("203.0.113.9")),
        // Several lines are one list; proxies append lines or elements.
        (1, &["6.6.6.6", "203.0.113.9"], Some("203.0.113.9")),
        (2, &["6.6.6.6", "203.0.113.9", "10.0.0.1"], Some("203.0.113.9")),
        (2, &["6.6.6.6", "203.0.113.9, 10.0.0.1"], Some("203.0.113.9")),
        // Spellings.
        (1, &["203.0.113.9:4711"], Some("203.0.113.9")),
        (1, &["  203.0.113.9  "], Some("203.0.113.9")),
        (1, &["2001:db8::7"], Some("2001:db8::7")),
        (1, &["[2001:db8::7]"], Some("2001:db8::7")),
        (1, &["[2001:db8::7]:4711"], Some("2001:db8::7")),
        (1, &["::ffff:203.0.113.9"], Some("203.0.113.9")),
        // Empty elements do not count.
        (1, &["203.0.113.9,"], Some("203.0.113.9")),
        (1, &["203.0.113.9, , ,"], Some("203.0.113.9")),
        (1, &["203.0.113.9", ""], Some("203.0.113.9")),
        // Not enough entries, or not an address: the peer.
        (2, &["203.0.113.9"], None),
        (1, &[""], None),
        (1, &[",,,"], None),
        (1, &[], None),
        (1, &["1.1.1.1, unknown"], None),
        (1, &["1.1.1.1, _hidden"], None),
        (1, &["1.1.1.1, 300.1.1.1"], None),
        (1, &["1.1.1.1, 203.0.113.9 x"], None),
        (1, &["1.1.1.1, [2001:db8::7"], None),
        (1, &["1.1.1.1, [2001:db8::7]x"], None),
        (1, &["1.1.1.1, [203.0.113.9]"], None),
        (1, &["1.1.1.1, fe80::1%eth0"], None),
        (1, &["1.1.1.1, \u{e9}"], None),
        (usize::MAX, &["203.0.113.9"], None),
        // No proxies: the header is the client's.
        (0, &["203.0.113.9"], None),
    ];
    for (hops, values, expected) in table {
        let mut request = lines("x-forwarded-for", values);
        let key = forwarded_for(*hops).each_ipv6();
        assert_eq!(key.key(&request), expected.and_then(ip), "{hops} {values:?}");

        request.extensions_mut().insert(PeerAddr("192.0.2.1:1".parse().unwrap()));
        let or_peer = expected.and_then(ip).or(ip("192.0.2.1"));
        assert_eq!(key.key(&request), or_peer, "{hops} {values:?}");
    }
}

#[test]
fn forwarded_is_counted_from_the_right() {
    let table: &[(usize, &[&str], Option<&str>)] = &[
        (1, &["for=203.0.113.9"], Some("203.0.113.9")),
        (1, &["for=1.1.1.1, for=203.0.113.9"], Some("203.0.113.9")),
        (2, &["for=1.1.1.1, for=203.0.113.9"], Some("1.1.1.1")),
        (1, &["For=\"[2001:db8::7]:4711\";proto=https"], Some("2001:db8::7")),
        (1, &["by=10.0.0.1; FOR=\"203.0.113.9:_x\" ;host=a"], Some("203.0.113.9")),
        (1, &["host=\"a;for=1.1.1.1\";for=203.0.113.9"], Some("203.0.113.9")),
        (1, &["host=\"a,for=1.1.1.1\";for=203.0.113.9"], Some("203.0.113.9")),
        (1, &["host=\"a\\\",for=1.1.1.1\";for=203.0.113.9"], Some("203.0.113.9")),
        (1, &["host=\"a,b\\\"c\";for=203.0.113.9"], Some("203.0.113.9")),
        (1, &["host=\"a,b\\\\\";for=203.0.113.9"], Some("203.0.113.9")),
        (1, &["for=203.0.113.9;host=\"a,b\\\"c\""], Some("203.0.113.9")),
        (1, &["for=1.1.1.1, for=203.0.113.9;host=\"a;for=1.1.1.1,\\\"c\""], Some("203.0.113.9")),
        (1, &["host=\"\\\";for=1.1.1.1\";for=203.0.113.9"], Some("203.0.113.9")),
        // What a client left open does not swallow what a proxy added.
        (1, &["for=\"1.1.1.1, for=203.0.113.9"], Some("203.0.113.9")),
        (1, &["for=\"1.1.1.1, for=\"[2001:db8::7]\""], Some("2001:db8::7")),
        (1, &["for=1.1.1.1\\, for=\"[2001:db8::7]\""], Some("2001:db8::7")),
        (1, &["for=\"1.1.1.1", "for=203.0.113.9"], Some("203.0.113.9")),
        (1, &["for=1.1.1.1, for=unknown"], None),
        (1, &["for=1.1.1.1, for=_hidden"], None),
        (1, &["for=1.1.1.1, for=\"_hidden:80\""], None),
        (1, &["for=1.1.1.1, proto=https"], None),
        (1, &["for=1.1.1.1;for=203.0.113.9"], None),
        (1, &["for=\"203.0.113.9"], None),
        (1, &["for"], None),
        (1, &["for="], None),
        (1, &["for=\""], None),
        (1, &["=203.0.113.9"], None),
        (2, &["for=203.0.113.9"], None),
        (0, &["for=203.0.113.9"], None),
    ];
    for (hops, values, expected) in table {
        let request = lines("forwarded", values);
        let key = forwarded(*hops).each_ipv6();
        assert_eq!(key.key(&request), expected.and_then(ip), "{hops} {values:?}");
    }
}

#[test]
fn each_extractor_reads_its_own_header_only() {
    let request = lines("forwarded", &["for=1.1.1.1"]);
    assert_eq!(forwarded_for(1).key(&request), None);
    let request = lines("x-forwarded-for", &["1.1.1.1"]);
    assert_eq!(forwarded(1).key(&request), None);
}

#[test]
fn ipv6_is_grouped_by_network_unless_told() {
    let request = lines("x-forwarded-for", &["2001:db8:1:2:3:4:5:6"]);
    assert_eq!(forwarded_for(1).key(&request), ip("2001:db8:1:2::"));
    assert_eq!(forwarded_for(1).each_ipv6().key(&request), ip("2001:db8:1:2:3:4:5:6"));
}

#[test]
fn a_megabyte_of_forwarding_is_harmless() {
    // What counts is at the right end, and found there.
    for filler in ["1.1.1.1, ", ", ", "x", "\""] {
        let value = filler.repeat((1 << 20) / filler.len()) + ", 203.0.113.9";
        let request = lines("x-forwarded-for", &[&value]);
        assert_eq!(forwarded_for(1).key(&request), ip("203.0.113.9"), "{filler:?}");
        let value = filler.repeat((1 << 20) / filler.len()) + ", for=203.0.113.9";
        let request = lines("forwarded", &[&value]);
        assert_eq!(forwarded(1).key(&request), ip("203.0.113.9"), "{filler:?}");
    }
    // What is further away than the limit is not looked for.
    for filler in [",", "x", "\"", "1.1.1.1,"] {
        let value = "203.0.113.9,".to_owned() + &filler.repeat((1 << 20) / filler.len());
        for hops in [1, 100_000, usize::MAX] {
            let request = lines("x-forwarded-for", &[&value]);
            let found = forwarded_for(hops).key(&request);
            assert!(found.is_none() || found == ip("1.1.1.1"), "{filler:?} {hops} {found:?}");
            let request = lines("forwarded", &[&value]);
            assert_eq!(forwarded(hops).key(&request), None);
        }
    }
    let many = vec!["1.1.1.1"; 10_000];
    assert_eq!(forwarded_for(9_999).key(&lines("x-forwarded-for", &many)), None);
}

proptest! {
    /// Whatever a client sends, the entry that the proxy appended is the one that is found.
    #[test]
    fn nothing_to_the_left_changes_the_key(
        left in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4),
        own_line in any::<bool>(),
        v6 in any::<Option<u128>>(),
    ) {
        let client = match v6 {
            Some(bits) => IpAddr::from(bits.to_be_bytes()),
            None => IpAddr::from([203, 0, 113, 9]),
        };
        let expected = Some(client.to_canonical());
        for standard in [false, true] {
            let name = if standard { "forwarded" } else { "x-forwarded-for" };
            let entry = match client {
                _ if !standard => client.to_string(),
                IpAddr::V6(v6) => format!("for=\"[{v6}]:80\";proto=http"),
                IpAddr::V4(v4) => format!("for={v4};proto=http"),
            };
            let mut request = Request::new(());
            let mut last: Option<Vec<u8>> = None;
            let good = left.iter().filter(|l| HeaderValue::from_bytes(l).is_ok());
            for line in good {
                if let Some(line) = last.replace(line.clone()) {
                    request.headers_mut().append(name, HeaderValue::from_bytes(&line).unwrap());
                }
            }
            let line = match last {
                Some(line) if own_line => {
                    request.headers_mut().append(name, HeaderValue::from_bytes(&line).unwrap());
                    entry.into_bytes()
                }
                Some(line) => [&line, &b", "[..], entry.as_bytes()].concat(),
                None => entry.into_bytes(),
            };
            request.headers_mut().append(name, HeaderValue::from_bytes(&line).unwrap());
            let key = if standard { forwarded(1) } else { forwarded_for(1) };
            prop_assert_eq!(key.each_ipv6().key(&request), expected, "{:?}", request.headers());
        }
    }

    #[test]
    fn hostile_forwarding_never_panics(
        lines in prop::collection::vec(r#"[ -~]{0,30}|(for=|"|,|;|\\|=|\[|\]|:|1\.1\.1\.1|::1|[ \t]){0,20}"#, 0..5),
        hops in prop_oneof![0usize..6, Just(usize::MAX)],
    ) {
        let mut request = Request::new(());
        for line in &lines {
            request.headers_mut().append("forwarded", HeaderValue::from_bytes(line.as_bytes()).unwrap());
            request.headers_mut().append("x-forwarded-for", HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        let _ = forwarded(hops).key(&request);
        let _ = forwarded_for(hops).key(&request);
    }
}

#[test]
fn peer_ip_finds_our_extension_first_and_axums_when_told() {
    use axum::extract::ConnectInfo;
    let axums = peer_ip()
        .or_extension(|extensions| Some(extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip()));
    let mut request = Request::new(());
    assert_eq!(axums.key(&request), None);
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 8], 1))));
    assert_eq!(axums.key(&request), ip("192.0.2.8"));
    assert_eq!(peer_ip().key(&request), None);
    request.extensions_mut().insert(PeerAddr("[::ffff:192.0.2.7]:1".parse().unwrap()));
    assert_eq!(axums.key(&request), ip("192.0.2.7"));
}

#[test]
fn header_and_path_keys_are_bounded() {
    let by_key = header(HeaderName::from_static("x-api-key"));
    let key = |value: &[u8]| {
        let mut request = Request::new(());
        request.headers_mut().insert("x-api-key", HeaderValue::from_bytes(value).unwrap());
        by_key.key(&request)
    };
    assert_eq!(key(b"acme").as_deref(), Some("acme"));
    assert_eq!(key(b""), None);
    assert_eq!(by_key.key(&Request::new(())), None);
    assert_eq!(key(&[b'a'; 128]).unwrap().len(), 128);

    // Long ones are told apart by all of their bytes, and kept short.
    let mut long = vec![b'a'; 1 << 20];
    let one = key(&long).unwrap();
    assert!(one.len() <= 200, "{one}");
    assert_eq!(key(&long).unwrap(), one);
    *long.last_mut().unwrap() = b'b';
    assert_ne!(key(&long).unwrap(), one);

    // So are values that are not text.
    assert!(key(b"\xff\xfe").unwrap().is_ascii());
    assert_ne!(key(b"\xff\xfe"), key(b"\xff\xfd"));
    assert!(key(&[0xff; 200]).unwrap().len() <= 200);

    let long = format!("/{}?q", "a".repeat(5000));
    let request = Request::get(&long).body(()).unwrap();
    assert!(path().key(&request).unwrap().len() <= 200);
    assert_eq!(path().key(&Request::get("*").body(()).unwrap()).as_deref(), Some("*"));
}
