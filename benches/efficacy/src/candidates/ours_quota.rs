//! The same with a backend that learns a quota from what it throttles. To one server this is the preset without hedges.

use buttress::Backend;

use super::layers::{admitted, paid, timed};
use super::{Candidate, Client, Known};
use crate::request::Endpoint;

pub(crate) struct Quota;

impl Candidate for Quota {
    fn name(&self) -> &'static str {
        "ours: + learned quota"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let backend = Backend::new(known.name());
        backend.learn_quota();
        let admitted = admitted(known, endpoints, &backend);
        timed(known, &backend, paid(known, &backend, admitted))
    }
}
