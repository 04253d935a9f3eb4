//! What every answer has, and the page.

use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::body::AdminBody;

pub(super) static PAGE: &str = include_str!("page.html");

pub(super) const JSON: &str = "application/json";
pub(super) const HTML: &str = "text/html; charset=utf-8";
pub(super) const EVENTS: &str = "text/event-stream";

const STRICT: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

const ALWAYS: [(HeaderName, HeaderValue); 6] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// Its own script and style, known by their hashes, and connections to where it came from.
pub(super) static PAGE_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hashes = |tag: &str| {
        let parts =
            inline(PAGE, tag).map(|part| format!(" 'sha256-{}'", base64(&Sha256::digest(part))));
        let all: String = parts.collect();
        if all.is_empty() { " 'none'".to_owned() } else { all }
    };
    let policy = format!(
        "default-src 'none'; script-src{}; style-src{}; connect-src 'self'; img-src 'self' data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        hashes("script"),
        hashes("style"),
    );
    // Base64 and words: it cannot fail, and if it could, nothing would be allowed.
    HeaderValue::from_str(&policy).unwrap_or(STRICT)
});

/// What is between `<tag>` and `</tag>`, as a browser hashes it.
fn inline<'a>(page: &'a str, tag: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let mut rest = page;
    std::iter::from_fn(move || {
        let (part, after) = rest.split_once(&open)?.1.split_once(&close)?;
        rest = after;
        Some(part)
    })
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0_usize, |word, byte| word << 8 | usize::from(*byte))
            << (8 * (3 - three.len()));
        for at in 0..4 {
            let digit = if at > three.len() { b'=' } else { DIGITS[word >> (18 - 6 * at) & 63] };
            text.push(digit.into());
        }
    }
    text
}

pub(super) fn answer(
    status: StatusCode,
    kind: &'static str,
    body: AdminBody,
) -> Response<AdminBody> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.reserve(10);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.extend(ALWAYS);
    headers.insert(header::CONTENT_SECURITY_POLICY, STRICT);
    answer
}

pub(super) fn bytes(kind: &'static str, body: impl Into<Bytes>) -> Response<AdminBody> {
    answer(StatusCode::OK, kind, AdminBody::bytes(body.into()))
}

pub(super) fn value(value: &Value) -> Response<AdminBody> {
    bytes(JSON, value.to_string())
}

pub(super) fn error(status: StatusCode, text: &str) -> Response<AdminBody> {
    answer(status, JSON, AdminBody::bytes(json!({ "error": text }).to_string().into()))
}

pub(super) fn page() -> Response<AdminBody> {
    let mut page = bytes(HTML, Bytes::from_static(PAGE.as_bytes()));
    page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, PAGE_POLICY.clone());
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_the_rfc() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("\u{ff}>?", "w78+Pw=="),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn the_page_is_one_file_that_its_policy_allows() {
        let lower = PAGE.to_lowercase();
        for tag in ["script", "style"] {
            assert_eq!(inline(PAGE, tag).count(), 1, "{tag}");
            assert_eq!(
                lower.matches(&format!("<{tag}")).count(),
                1,
                "{tag} with attributes has no hash"
            );
            let hash = base64(&Sha256::digest(inline(PAGE, tag).next().unwrap()));
            assert!(PAGE_POLICY.to_str().unwrap().contains(&format!("{tag}-src 'sha256-{hash}'")));
        }
        assert!(PAGE.len() < 60_000);
        assert!(
            !lower.contains(" style=\"")
                && !lower.contains("src=\"http")
                && !lower.contains("href=\"http")
        );
    }
}
