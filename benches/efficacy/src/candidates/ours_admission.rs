//! The time limit of the whole call and admission, the first parts of the preset: a learned limit in flight and a
//! waiting room, without retries.

use buttress::Backend;

use super::layers::{admitted, timed};
use super::{Candidate, Client, Known};
use crate::request::Endpoint;

pub(crate) struct Admission;

impl Candidate for Admission {
    fn name(&self) -> &'static str {
        "ours: admission"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let backend = Backend::new(known.name());
        timed(known, &backend, admitted(known, endpoints, &backend))
    }
}
