//! Retries as people write them: three attempts with a fixed pause.

use super::attempts::{PAUSE, retrying};
use super::{Candidate, Client, Known};
use crate::request::Endpoint;

pub(crate) struct Naive;

impl Candidate for Naive {
    fn name(&self) -> &'static str {
        "naive retry x3 fixed 50ms"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        retrying(known, endpoints, |_| PAUSE)
    }
}
