//! Retries as people write them: three attempts with a fixed pause, or with exponential backoff and full jitter.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tower::Service;

use super::{Candidate, Client, Known, Spread, Timed};
use crate::request::Endpoint;
use crate::rng::Rng;

pub(crate) struct Naive;
pub(crate) struct Jittered;

const PAUSE: Duration = Duration::from_millis(50);

fn retrying(
    known: &Known,
    endpoints: Vec<Endpoint>,
    pause: impl Fn(u32) -> Duration + Clone + Send + Sync + 'static,
) -> Client {
    let service = Timed(Spread::new(known, endpoints), known.attempt_timeout);
    let attempts = known.attempts;
    Client::from_fn(move |request| {
        let (mut service, pause) = (service.clone(), pause.clone());
        Box::pin(async move {
            for attempt in 1..=attempts {
                if service.call(request.clone()).await.is_ok() {
                    return true;
                }
                if attempt < attempts {
                    tokio::time::sleep(pause(attempt)).await;
                }
            }
            false
        })
    })
}

impl Candidate for Naive {
    fn name(&self) -> &'static str {
        "naive retry x3 fixed 50ms"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        retrying(known, endpoints, |_| PAUSE)
    }
}

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
