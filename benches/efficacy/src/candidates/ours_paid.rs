//! Admission inside of retries that the headroom of its backend pays for.

use buttress::Backend;

use super::layers::{admitted, paid, timed};
use super::{Candidate, Client, Known};
use crate::request::Endpoint;

pub(crate) struct Paid;

impl Candidate for Paid {
    fn name(&self) -> &'static str {
        "ours: + paid retries"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let backend = Backend::new(known.name());
        let admitted = admitted(known, endpoints, &backend);
        timed(known, &backend, paid(known, &backend, admitted))
    }
}
