//! Tests of what is not public: parsers, field values, escaping.

use std::time::{Duration, SystemTime};

use ::http::header::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use proptest::prelude::*;

use super::headers::rate_limit_fields;
use super::retry_after::{Pushback, millis_up, pushback, retry_after_at, seconds_up};
use super::sheet::{Number, Sheet, decimal_digits};
use super::{MAX_RETRY_AFTER, retry_after};
use crate::{LayerKind, Reject, Rejection, RejectionDetail, RejectionKind};

fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
    }
    map
}

#[test]
fn retry_after_reads_both_forms_and_nothing_else() {
    let secs = |s| Some(Duration::from_secs(s));
    let now = || httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:00 GMT").unwrap();
    let table: &[(&[u8], Option<Duration>)] = &[
        (b"0", secs(0)),
        (b"7", secs(7)),
        (b"007", secs(7)),
        (b" 7 ", secs(7)),
        (b"86400", secs(86_400)),
        (b"86401", secs(86_400)),
        (b"18446744073709551615", secs(86_400)),
        (b"18446744073709551616", secs(86_400)),
        (b"1000000000000000000000000000000", secs(86_400)),
        (b"", None),
        (b"-1", None),
        (b"+1", None),
        (b"1.5", None),
        (b"1e3", None),
        (b"0x10", None),
        (b"1, 2", None),
        (b"soon", None),
        (b"NaN", None),
        (b"\xff\xfe", None),
        ("\u{0663}".as_bytes(), None),
        // RFC 9110's three spellings, 37 s ahead.
        (b"Sun, 06 Nov 1994 08:49:37 GMT", secs(37)),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", secs(37)),
        (b"Sun Nov  6 08:49:37 1994", secs(37)),
        (b"Sun, 06 Nov 1994 08:48:00 GMT", secs(0)),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", secs(0)),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", secs(86_400)),
        (b"Sun, 31 Feb 1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 25:49:37 GMT", None),
        (b"Sun, 06 Nov 99999 08:49:37 GMT", None),
    ];
    for (value, expected) in table {
        let map = headers(&[("retry-after", value)]);
        let shown = String::from_utf8_lossy(value);
        assert_eq!(retry_after_at(&map, now), *expected, "{shown:?}");
    }
}

#[test]
fn retry_after_date_is_relative_to_the_date_of_the_response() {
    let map = headers(&[
        ("date", b"Sun, 06 Nov 1994 08:49:00 GMT"),
        ("retry-after", b"Sun, 06 Nov 1994 08:49:37 GMT"),
    ]);
    let never = || -> SystemTime { panic!("the wall clock is not needed") };
    assert_eq!(retry_after_at(&map, never), Some(Duration::from_secs(37)));

    let map = headers(&[("date", b"yesterday"), ("retry-after", b"Sun, 06 Nov 1994 08:49:37 GMT")]);
    let now = || httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:30 GMT").unwrap();
    assert_eq!(retry_after_at(&map, now), Some(Duration::from_secs(7)));
}

#[test]
fn the_longest_of_several_retry_after_fields_counts() {
    let map = headers(&[("retry-after", b"3"), ("retry-after", b"x"), ("retry-after", b"9")]);
    assert_eq!(retry_after(&map), Some(Duration::from_secs(9)));
    assert_eq!(retry_after(&HeaderMap::new()), None);
}

#[test]
fn pushback_that_is_not_a_number_forbids_the_retry() {
    let table: &[(&[u8], Pushback)] = &[
        (b"0", Pushback::After(Duration::ZERO)),
        (b"1500", Pushback::After(Duration::from_millis(1500))),
        (b"99999999999999999999999", Pushback::After(MAX_RETRY_AFTER)),
        (b"-1", Pushback::Never),
        (b"", Pushback::Never),
        (b"soon", Pushback::Never),
        (b"1.5", Pushback::Never),
    ];
    for (value, expected) in table {
        assert_eq!(pushback(&headers(&[("grpc-retry-pushback-ms", value)])), *expected);
    }
    assert_eq!(pushback(&HeaderMap::new()), Pushback::None);
}

#[test]
fn times_are_rounded_up() {
    assert_eq!(seconds_up(Duration::ZERO), 0);
    assert_eq!(seconds_up(Duration::from_nanos(1)), 1);
    assert_eq!(seconds_up(Duration::from_secs(1)), 1);
    assert_eq!(seconds_up(Duration::from_millis(1001)), 2);
    assert_eq!(seconds_up(Duration::MAX), u64::MAX);
    assert_eq!(millis_up(Duration::from_nanos(1)), 1);
    assert_eq!(millis_up(Duration::from_millis(2)), 2);
    assert_eq!(millis_up(Duration::MAX), u64::MAX);
}

#[test]
fn numbers_are_written_as_the_standard_library_does() {
    for n in (0..2000).chain([u64::from(u32::MAX), 999_999_999_999_999, u64::MAX]) {
        let mut sheet = Sheet::<8>::new();
        sheet.put(b"-");
        let number = Number::write(n, &mut sheet);
        assert_eq!(number.value(&sheet.finish()).unwrap(), n.to_string().as_str());
        assert_eq!(decimal_digits(n, &mut [0; 20]), n.to_string().as_bytes());
    }
}

fn quota_fields(name: &str, detail: &RejectionDetail) -> (Option<String>, Option<String>) {
    let mut map = HeaderMap::new();
    rate_limit_fields(*detail, name, &mut map);
    let text = |field: &str| Some(map.get(field)?.to_str().unwrap().to_owned());
    (text("ratelimit-policy"), text("ratelimit"))
}

#[test]
fn rate_limit_fields_are_structured_fields() {
    let quota = RejectionDetail::Quota {
        limit: 100,
        remaining: 3,
        reset: Duration::from_millis(1200),
        window: Duration::from_secs(60),
    };
    let (policy, limit) = quota_fields("api", &quota);
    assert_eq!(policy.unwrap(), r#""api";q=100;w=60"#);
    assert_eq!(limit.unwrap(), r#""api";r=3;t=2"#);

    let (policy, _) = quota_fields("a\"b\\c\r\n\u{e9}", &quota);
    assert_eq!(policy.unwrap(), r#""a\"b\\c???";q=100;w=60"#);

    let endless = RejectionDetail::Quota {
        limit: u64::MAX,
        remaining: u64::MAX,
        reset: Duration::MAX,
        window: Duration::ZERO,
    };
    let (policy, limit) = quota_fields("api", &endless);
    assert_eq!(policy.unwrap(), r#""api";q=999999999999999"#);
    assert_eq!(limit.unwrap(), r#""api";r=999999999999999;t=999999999999999"#);

    assert_eq!(quota_fields("api", &RejectionDetail::None), (None, None));
}

fn refuse(name: &'static str, content_type: Option<&'static str>) -> ::http::Response<Bytes> {
    let mut request = ::http::Request::new(());
    if let Some(content_type) = content_type {
        request.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
    }
    let why = Rejection::new(RejectionKind::RateLimited, LayerKind::Custom(name), name)
        .with_retry_after(Duration::from_millis(20));
    Reject::<_, _, ()>::reject(&super::problem(), request, why).unwrap()
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let hex = std::str::from_utf8(&tail[..2]).unwrap();
            out.push(u8::from_str_radix(hex, 16).unwrap());
            rest = &tail[2..];
        } else {
            out.push(*first);
        }
    }
    out
}

proptest! {
    #[test]
    fn hostile_field_values_never_panic_and_never_park(
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..12),
    ) {
        let mut map = HeaderMap::new();
        for value in values.iter().filter_map(|v| HeaderValue::from_bytes(v).ok()) {
            map.append("retry-after", value.clone());
            map.append("date", value.clone());
            map.append("grpc-retry-pushback-ms", value.clone());
            map.append("grpc-status", value);
        }
        prop_assert!(retry_after(&map).is_none_or(|wait| wait <= MAX_RETRY_AFTER));
        if let Pushback::After(wait) = pushback(&map) {
            prop_assert!(wait <= MAX_RETRY_AFTER);
        }
        let _ = super::grpc::status(&map);
    }

    #[test]
    fn hostile_dates_never_panic(
        value in "(Sun|Sunday|Xyz),? [0-9]{1,3}[ -](Nov|Feb|Foo)[ -][0-9]{0,6} [0-9]{2}:[0-9]{2}:[0-9]{2}( GMT)?",
    ) {
        let map = headers(&[("retry-after", value.as_bytes())]);
        prop_assert!(retry_after(&map).is_none_or(|wait| wait <= MAX_RETRY_AFTER));
    }

    #[test]
    fn any_name_survives_json_and_percent_encoding(name in any::<String>()) {
        let name: &'static str = Box::leak(name.into_boxed_str());
        let answer = refuse(name, None);
        let document: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        prop_assert_eq!(document["name"].as_str().unwrap(), name);
        prop_assert_eq!(document["layer"].as_str().unwrap(), name);
        prop_assert_eq!(document["status"].as_u64(), Some(429));
        prop_assert_eq!(document["retry_after"].as_u64(), Some(1));

        let answer = refuse(name, Some("application/grpc"));
        let message = percent_decoded(answer.headers()["grpc-message"].as_bytes());
        let expected = format!("rate limit exceeded ({name} `{name}`)");
        prop_assert_eq!(String::from_utf8(message).unwrap(), expected);
        prop_assert!(answer.headers()["grpc-message"].as_bytes().iter().all(|b| (b' '..=b'~').contains(b)));
    }
}

#[test]
fn what_is_kept_of_an_answer_is_never_given_to_another_refusal() {
    let quota = |limit, remaining, reset, window| RejectionDetail::Quota {
        limit,
        remaining,
        reset: Duration::from_secs(reset),
        window: Duration::from_secs(window),
    };
    let (kind, layer) = (RejectionKind::RateLimited, LayerKind::RateLimit);
    let why = |name| Rejection::new(kind, layer, name).with_retry_after(Duration::from_secs(300));
    // Each differs from the one before it in one thing.
    let refusals = [
        why("a"),
        why("b"),
        why("b").with_retry_after(Duration::from_secs(301)),
        why("b").with_detail(quota(100, 0, 1, 60)),
        why("b").with_detail(quota(101, 0, 1, 60)),
        why("b").with_detail(quota(101, 1, 1, 60)),
        why("b").with_detail(quota(101, 1, 2, 60)),
        why("b").with_detail(quota(101, 1, 2, 61)),
        Rejection::new(RejectionKind::Overloaded, layer, "b"),
        Rejection::new(RejectionKind::Overloaded, LayerKind::CircuitBreaker, "b"),
    ];
    fn parts(answer: Result<::http::Response<Bytes>, ()>) -> (HeaderMap, Bytes) {
        let (head, body) = answer.unwrap().into_parts();
        (head.headers, body)
    }
    let answer = |style: usize, why: &Rejection| {
        let (request, why) = (::http::Request::new(()), why.clone());
        parts(match style {
            0 => super::problem().reject(request, why),
            1 => super::problem().detail(false).reject(request, why),
            2 => super::status_only().reject(request, why),
            _ => super::status_only().detail(false).reject(request, why),
        })
    };
    for style in 0..4 {
        // On a thread of its own nothing is kept.
        let fresh = |why| std::thread::scope(|scope| scope.spawn(|| answer(style, why)).join());
        let expected: Vec<_> = refusals.iter().map(|why| fresh(why).unwrap()).collect();
        for other in &refusals {
            for (why, expected) in refusals.iter().zip(&expected) {
                // The second time it is kept, the third time that is given out.
                for _ in 0..3 {
                    answer(style, other);
                }
                for _ in 0..3 {
                    assert_eq!(&answer(style, why), expected);
                }
            }
        }
        for (i, one) in expected.iter().enumerate().filter(|_| style == 0) {
            assert!(!expected[..i].contains(one), "the refusals differ: {one:?}");
        }
    }
}
