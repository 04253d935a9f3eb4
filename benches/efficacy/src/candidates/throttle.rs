//! buttress: the throttle alone.

use buttress::throttle::Throttle;
use buttress::{Context, Verdict, classify_fn};
use tower::Layer;

use super::{Candidate, Client, Known, Spread};
use crate::request::{Answer, Endpoint, Fault, Request};

pub(crate) struct Throttled;

fn judge(result: Result<&Answer, &Fault>) -> Verdict {
    match result {
        Err(Fault::Quota(after)) => Verdict::throttled(Some(*after)),
        Err(_) => Verdict::failure(buttress::FailureClass::Transient),
        Ok(_) => Verdict::success(),
    }
}

fn context(request: &Request) -> Context {
    request.context
}

impl Candidate for Throttled {
    fn name(&self) -> &'static str {
        "ours: throttle alone"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let throttle = Throttle::new("backend");
        let layer = throttle.layer().classify(classify_fn(judge)).context(context);
        Client::of(layer.layer(Spread::new(known, endpoints))).saying(move || {
            let stats = throttle.stats();
            format!(
                "rate {:.1?}, throttled {}, refused {}",
                stats.rate, stats.throttled, stats.refused
            )
        })
    }
}
