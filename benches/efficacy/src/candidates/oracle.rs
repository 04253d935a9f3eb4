//! The central scheduler of `crate::oracle`.

use super::attempts::Spread;
use super::{Candidate, Client, Known};
use crate::request::Endpoint;

pub(crate) struct Oracle;

impl Candidate for Oracle {
    fn name(&self) -> &'static str {
        "ORACLE"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        Client::of(Spread::new(known, endpoints))
    }

    fn central(&self) -> bool {
        true
    }
}
