//! The preset without hedges: where there are several servers, it chooses among them.

use super::{Candidate, Client, Known, preset};
use crate::request::Endpoint;

pub(crate) struct Endpoints;

impl Candidate for Endpoints {
    fn name(&self) -> &'static str {
        "ours: + endpoints"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let mut plan = preset::plan(known);
        plan.hedge = None;
        preset::client(&plan, known, endpoints)
    }
}
