//! No stack at all.

use super::attempts::Spread;
use super::{Candidate, Client, Known};
use crate::request::Endpoint;

pub(crate) struct None;

impl Candidate for None {
    fn name(&self) -> &'static str {
        "none"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        Client::of(Spread::new(known, endpoints))
    }
}
