use ::http::header::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::head::{KeptFields, decode};
use super::key::{IdempotencyKey, KeyError};
use crate::http::{Buffered, Fill};

/// The grammar of RFC 8941, section 3.3.3, and of bare keys, rule by rule and as slowly as one likes:
/// `None` is malformed.
fn slow_model(value: &[u8]) -> Option<String> {
    // Header fields are bytes; from here on they must be ASCII.
    let text: Vec<char> = value.iter().map(|byte| char::from(*byte)).collect();
    let start = text.iter().position(|c| *c != ' ').unwrap_or(text.len());
    let end = text.iter().rposition(|c| *c != ' ').map_or(start, |last| last + 1);
    let text = &text[start.min(end)..end];
    let is_printable = |c: char| ('\u{20}'..='\u{7e}').contains(&c);
    if text.first() != Some(&'"') {
        let bare = |c: &char| is_printable(*c) && !" \"\\,;".contains(*c);
        return text.iter().all(bare).then(|| text.iter().collect());
    }
    // DQUOTE *chr DQUOTE; chr = unescaped / escaped; unescaped = %x20-21 / %x23-5B / %x5D-7E;
    // escaped = "\" ( DQUOTE / "\" )
    let mut key = String::new();
    let mut at = 1;
    loop {
        let c = *text.get(at)?;
        if c == '"' {
            return (at + 1 == text.len()).then_some(key);
        }
        if c == '\\' {
            let escaped = *text.get(at + 1)?;
            if escaped != '"' && escaped != '\\' {
                return None;
            }
            key.push(escaped);
            at += 2;
            continue;
        }
        if !is_printable(c) {
            return None;
        }
        key.push(c);
        at += 1;
    }
}

fn agree(value: &[u8]) {
    let expected = match slow_model(value) {
        None => Err(KeyError::Malformed),
        Some(key) if key.is_empty() => Err(KeyError::Empty),
        Some(key) => Ok(key),
    };
    let found = IdempotencyKey::parse(value).map(|key| key.as_str().to_owned());
    assert_eq!(found, expected, "{}", value.escape_ascii());
}

/// All values of up to five of the characters that matter, and one that does not.
#[test]
fn short_keys_are_read_as_the_model_reads_them() {
    const LETTERS: &[u8] = b"a \"\\,;\t\x7f\xff";
    let mut values = vec![Vec::new()];
    for _ in 0..5 {
        let longer = values.iter().flat_map(|value: &Vec<u8>| {
            LETTERS.iter().map(|letter| [value.as_slice(), &[*letter]].concat())
        });
        let longer: Vec<_> = longer.collect();
        values.extend(longer);
        values.sort_unstable();
        values.dedup();
    }
    assert_eq!(values.len(), (0..=5).map(|n| 9_usize.pow(n)).sum::<usize>());
    for value in &values {
        agree(value);
    }
}

fn quote(key: &str) -> String {
    let escaped: String = key
        .chars()
        .flat_map(|c| {
            let escape = (c == '"' || c == '\\').then_some('\\');
            escape.into_iter().chain([c])
        })
        .collect();
    format!("\"{escaped}\"")
}

proptest! {
    #[test]
    fn any_bytes_are_read_as_the_model_reads_them(value in any::<Vec<u8>>()) {
        agree(&value);
    }

    #[test]
    fn quoted_bytes_are_read_as_the_model_reads_them(
        value in proptest::collection::vec(prop_oneof![
            4 => 0x20_u8..0x7f,
            1 => Just(b'"'),
            1 => Just(b'\\'),
            1 => any::<u8>(),
        ], 0..40),
        closed in any::<bool>(),
    ) {
        let end: &[u8] = if closed { b"\"" } else { b"" };
        agree(&[b"\"", value.as_slice(), end].concat());
    }

    #[test]
    fn a_quoted_key_is_read_as_it_was_meant(key in "[ -~]{1,60}") {
        let quoted = quote(&key);
        let read = IdempotencyKey::parse(quoted.as_bytes()).unwrap();
        prop_assert_eq!(read.as_str(), key);
    }

    #[test]
    fn no_bytes_make_the_reader_of_heads_panic(bytes in any::<Vec<u8>>(), ours in any::<bool>()) {
        let bytes = if ours { [&[1], bytes.as_slice()].concat() } else { bytes };
        let _ = decode(&bytes);
    }
}

fn head() -> (HeaderMap, HeaderMap) {
    let mut head = HeaderMap::new();
    let fields: [(&'static str, &[u8]); 6] = [
        ("content-type", b"text/plain"),
        ("link", b"</a>; rel=next"),
        ("link", b"</b>; rel=prev"),
        ("etag", b"\xff\xfe"),
        ("set-cookie", b"secret"),
        ("x-other", b"not asked for"),
    ];
    for (name, value) in fields {
        let value = HeaderValue::from_bytes(value).expect("they are values");
        head.append(HeaderName::from_static(name), value);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("set-cookie", HeaderValue::from_static("secret"));
    (head, trailers)
}

#[test]
fn kept_fields_come_back_as_they_were() {
    let (head, trailers) = head();
    let bytes = KeptFields::default().encode(&head, Some(&trailers), 0);
    let (read, read_trailers) = decode(&bytes).unwrap();
    assert_eq!(read.len(), 4);
    for name in ["content-type", "link", "etag"] {
        assert!(read.get_all(name).iter().eq(head.get_all(name)), "{name}");
    }
    let read_trailers = read_trailers.unwrap();
    assert_eq!((read_trailers.len(), &read_trailers["grpc-status"]), (1, &trailers["grpc-status"]));
}

/// What is cut short is either refused or is a shorter list of the same fields, and what is longer, or of
/// another version, is refused.
#[test]
fn a_truncated_head_is_never_read_as_something_else() {
    let (head, trailers) = head();
    let bytes = KeptFields::default().encode(&head, Some(&trailers), 0);
    let mut read_short = 0;
    for end in 0..bytes.len() {
        if let Some((fields, _)) = decode(&bytes[..end]) {
            read_short += 1;
            for (name, value) in &fields {
                assert!(head.get_all(name).iter().any(|known| known == value));
            }
        }
    }
    assert_eq!(
        read_short, 6,
        "after the version, after each field but the last, and nothing at all"
    );
    assert!(decode(&[bytes.as_slice(), &[0]].concat()).is_none());
    for version in (0..=u8::MAX).filter(|version| *version != 1) {
        assert!(decode(&[&[version], &bytes[1..]].concat()).is_none());
    }
}

#[tokio::test]
async fn a_body_is_read_up_to_its_bound_and_passed_on_whole() {
    use bytes::Bytes;
    use http_body::{Body, Frame};
    use http_body_util::{BodyExt, StreamBody};
    let body = |pieces: &[&'static str]| {
        let frames: Vec<_> = pieces
            .iter()
            .map(|piece| {
                Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(piece.as_bytes())))
            })
            .collect();
        StreamBody::new(futures_util::stream::iter(frames))
    };
    let cases: [(&[&str], usize, Fill); 7] = [
        (&[], 0, Fill::Whole),
        (&["", ""], 0, Fill::Whole),
        (&["abc"], 3, Fill::Whole),
        (&["a", "", "bc"], 3, Fill::Whole),
        (&["abc"], 2, Fill::TooLong),
        (&["a", "b", "c", "d"], 2, Fill::TooLong),
        (&["a"], 0, Fill::TooLong),
    ];
    for (pieces, most, expected) in cases {
        let mut seen = Vec::new();
        let mut read = Buffered::passing(body(pieces));
        let end = read.fill(most, |data| seen.extend_from_slice(data)).await;
        assert_eq!(end, expected, "{pieces:?} up to {most}");
        assert!(seen.len() <= most);
        if end == Fill::Whole {
            assert_eq!(read.size_hint().exact(), Some(seen.len() as u64));
            assert_eq!(read.is_end_stream(), seen.is_empty());
        }
        let whole = read.collect().await.unwrap().to_bytes();
        assert_eq!(whole, pieces.concat(), "{pieces:?} up to {most}");
    }
    assert!(Buffered::<http_body_util::Empty<Bytes>>::default().is_end_stream());
}
