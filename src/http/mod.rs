//! stub
pub(crate) mod ratelimit_headers;
