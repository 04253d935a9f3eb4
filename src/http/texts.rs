//! The texts of an answer, kept while the same refusal repeats.

use std::cell::RefCell;

use ::http::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use bytes::Bytes;

use super::headers::RateLimitFields;
use super::retry_after::seconds_up;
use super::sheet::{Number, Sheet};
use crate::name::LayerKind;
use crate::rejection::{Rejection, RejectionKind};

/// Enough for a document and the `RateLimit` fields if the name is not very long.
pub(super) type Paper = Sheet<368>;

/// What a refusal comes to in words. All of it lies in one piece of memory.
#[derive(Clone)]
pub(super) struct Texts {
    /// Empty if none was asked for.
    pub(super) document: Bytes,
    retry_after: Option<HeaderValue>,
    fields: Option<RateLimitFields>,
}

impl Texts {
    pub(super) fn insert(self, headers: &mut HeaderMap) -> Bytes {
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, wait);
        }
        if let Some(fields) = self.fields {
            fields.insert(headers);
        }
        self.document
    }
}

/// All that the texts are made of.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Facts {
    pub(super) with_document: bool,
    pub(super) with_detail: bool,
    pub(super) kind: RejectionKind,
    pub(super) layer: LayerKind,
    pub(super) name: &'static str,
    /// Seconds.
    pub(super) wait: Option<u64>,
    /// See [`RateLimitFields::numbers`].
    quota: Option<[u64; 4]>,
}

impl Facts {
    pub(super) fn of(why: &Rejection, with_document: bool, with_detail: bool) -> Self {
        let quota = if with_detail { RateLimitFields::numbers(why.detail()) } else { None };
        Self {
            with_document,
            with_detail,
            kind: why.kind(),
            layer: why.layer(),
            name: why.name(),
            wait: why.retry_after().map(seconds_up),
            quota,
        }
    }

    /// Their texts. Who refuses one call usually refuses the next ones for the same reason and, within a
    /// second, in the same words. So each thread keeps what it has written last, from the second time on:
    /// refusals that all differ cost nothing more.
    pub(super) fn texts(self) -> Texts {
        thread_local! {
            static LAST: RefCell<Option<(Facts, Option<Texts>)>> = const { RefCell::new(None) };
        }
        let kept = LAST.try_with(|last| {
            let last = &mut *last.try_borrow_mut().ok()?;
            match last {
                Some((facts, texts)) if *facts == self => {
                    Some(texts.get_or_insert_with(|| self.write(None)).clone())
                }
                _ => {
                    *last = Some((self, None));
                    None
                }
            }
        });
        kept.ok().flatten().unwrap_or_else(|| self.write(None))
    }

    pub(super) fn write(self, advice: Option<&str>) -> Texts {
        let mut sheet = Paper::new();
        let wait = if self.with_document {
            self.document(advice, &mut sheet)
        } else {
            self.wait.map(|seconds| Number::write(seconds, &mut sheet))
        };
        let end = sheet.len();
        let fields = self.quota.map(|quota| RateLimitFields::write(quota, self.name, &mut sheet));
        let sheet = sheet.finish();
        Texts {
            document: if self.with_document { sheet.slice(..end) } else { Bytes::new() },
            retry_after: wait.and_then(|wait| wait.value(&sheet)),
            fields: fields.and_then(|places| places.values(&sheet)),
        }
    }
}
