//! The preset of buttress with its defaults, told nothing but how long callers wait.

use super::{Candidate, Client, Known, preset};
use crate::request::Endpoint;

pub(crate) struct Ours;

impl Candidate for Ours {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        preset::client(&preset::plan(known), known, endpoints)
    }
}
