//! What a reader is told that cannot read.

use std::error::Error as StdError;
use std::fmt;

/// A [`ReplayBody`](super::ReplayBody) was read when it could not be. The request goes no further and is not retried.
///
/// ```
/// use buttress::http::{ReplayBody, ReplayError};
/// use bytes::Bytes;
/// use http_body_util::{BodyExt, Full};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let body = Full::<Bytes>::from("hello").with_trailers(async { None });
/// let mut first = ReplayBody::new(Box::pin(body), 1024);
/// let second = first.try_clone().unwrap();
/// first.frame().await; // under way, not dropped
/// let error = second.collect().await.unwrap_err();
/// assert!(error.is::<ReplayError>());
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct ReplayError {
    pub(super) kind: ReplayErrorKind,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ReplayErrorKind {
    StillRead,
    Lost,
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ReplayErrorKind::StillRead => "request body is still being read by an earlier attempt",
            ReplayErrorKind::Lost => "request body was not kept and cannot be sent again",
        })
    }
}

impl StdError for ReplayError {}
