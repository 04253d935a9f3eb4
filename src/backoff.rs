//! stub
#[derive(Debug)]
pub struct Backoff;
#[derive(Debug)]
pub struct Jitter;
