//! Three attempts with exponential backoff and full jitter.

use std::sync::{Arc, Mutex};

use super::attempts::{PAUSE, retrying};
use super::{Candidate, Client, Known};
use crate::request::Endpoint;
use crate::rng::Rng;

pub(crate) struct Jittered;

impl Candidate for Jittered {
    fn name(&self) -> &'static str {
        "retry x3 exp+full jitter"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let rng = Arc::new(Mutex::new(Rng::new(known.seed, 78)));
        retrying(known, endpoints, move |attempt| {
            let unit = rng.lock().expect("no panic under the lock").unit();
            (PAUSE * 2_u32.pow(attempt - 1)).mul_f64(unit)
        })
    }
}
