//! Which fields of an answer are kept, and how they are written into its record.
//!
//! | bytes | |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | kind of field: 0 of the head, 1 of the trailers |
//! | 2, then as many | its name |
//! | 4, then as many | its value |
//! | | and so on |

use ::http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::error::ConfigError;

const VERSION: u8 = 1;
const HEAD: u8 = 0;
const TRAILER: u8 = 1;

/// Of the head of an answer these are kept.
const KEPT: [HeaderName; 11] = [
    header::CONTENT_TYPE,
    header::CONTENT_LANGUAGE,
    header::CONTENT_ENCODING,
    header::CONTENT_LOCATION,
    header::LOCATION,
    header::ETAG,
    header::LAST_MODIFIED,
    header::LINK,
    header::VARY,
    header::CACHE_CONTROL,
    header::RETRY_AFTER,
];

/// These are of one connection, one caller or one moment: never kept, whoever asks for it.
fn is_never_kept(name: &HeaderName) -> bool {
    const NAMES: [HeaderName; 19] = [
        header::SET_COOKIE,
        header::WWW_AUTHENTICATE,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::AUTHORIZATION,
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::DATE,
        header::AGE,
        header::VIA,
        header::ALT_SVC,
        HeaderName::from_static("set-cookie2"),
        HeaderName::from_static("authentication-info"),
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    const STARTS: [&str; 4] = ["access-control-", "ratelimit", "idempotency-", "traceparent"];
    NAMES.contains(name)
        || name == "server-timing"
        || STARTS.iter().any(|start| name.as_str().starts_with(start))
}

/// What a layer keeps.
#[derive(Clone, Debug, Default)]
pub(super) struct KeptFields {
    more: Vec<HeaderName>,
}

impl KeptFields {
    pub(super) fn add(&mut self, name: HeaderName) -> Result<(), ConfigError> {
        if is_never_kept(&name) {
            let expected = "a field that is neither of one connection, one caller nor one moment";
            return Err(ConfigError::new("replay_header", name, expected));
        }
        self.more.push(name);
        Ok(())
    }

    fn is_kept(&self, name: &HeaderName, grpc: bool) -> bool {
        KEPT.contains(name)
            || self.more.contains(name)
            || grpc && name.as_str().starts_with("grpc-")
    }

    /// Status and details of gRPC are in the head of an answer without a body, and in the trailers of
    /// others.
    ///
    /// There is room for `more` bytes after them.
    pub(super) fn encode(
        &self,
        head: &HeaderMap,
        trailers: Option<&HeaderMap>,
        more: usize,
    ) -> Vec<u8> {
        let grpc = is_grpc(head);
        let fields = || {
            let head = head.iter().filter(|(name, _)| self.is_kept(name, grpc));
            let trailers = trailers.into_iter().flatten().filter(|(name, _)| !is_never_kept(name));
            head.map(|field| (HEAD, field)).chain(trailers.map(|field| (TRAILER, field)))
        };
        // To the byte, since it is kept for long.
        let length = |(_, (name, value)): (u8, (&HeaderName, &HeaderValue))| {
            7 + name.as_str().len() + value.len()
        };
        let mut bytes = Vec::with_capacity(1 + fields().map(length).sum::<usize>() + more);
        bytes.push(VERSION);
        for (kind, (name, value)) in fields() {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            // The http crate takes no longer names, and no message has a longer value.
            let (Ok(name_len), Ok(value_len)) =
                (u16::try_from(name.len()), u32::try_from(value.len()))
            else {
                continue;
            };
            bytes.push(kind);
            bytes.extend_from_slice(&name_len.to_le_bytes());
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(&value_len.to_le_bytes());
            bytes.extend_from_slice(value);
        }
        bytes
    }
}

/// The fields of a record; `None` if it is not one of ours. Nothing at all, as an operator may write it, is no
/// fields.
pub(super) fn decode(bytes: &[u8]) -> Option<(HeaderMap, Option<HeaderMap>)> {
    let mut rest = match bytes {
        [] => &[],
        [VERSION, fields @ ..] => fields,
        _ => return None,
    };
    let mut head = HeaderMap::new();
    let mut trailers: Option<HeaderMap> = None;
    while let [kind, more @ ..] = rest {
        let (length, more) = more.split_first_chunk::<2>()?;
        let (name, more) = more.split_at_checked(u16::from_le_bytes(*length).into())?;
        let (length, more) = more.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (value, more) = more.split_at_checked(length)?;
        rest = more;
        let fields = match *kind {
            HEAD => &mut head,
            TRAILER => trailers.get_or_insert_default(),
            _ => return None,
        };
        let (name, value) =
            (HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        fields.try_append(name, value).ok()?;
    }
    Some((head, trailers))
}

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    crate::http::grpc_content_type(headers).is_some()
}
