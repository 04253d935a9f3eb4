//! The stack of buttress with its defaults: retries paid from headroom, around admission, around the transport.

use buttress::{Backend, RetryHint, Verdict, classify_fn};

use super::{Candidate, Client, Known, Spread};
use crate::request::{Answer, Endpoint, Fault, Request};

pub(crate) struct Storm;

fn judge(fault: &Fault) -> Verdict {
    match fault {
        Fault::Refused | Fault::Error => Verdict::failure(buttress::FailureClass::Transient),
        Fault::Quota(after) => Verdict::throttled(Some(*after)),
        Fault::TimedOut => Verdict::failure(buttress::FailureClass::Transient)
            .with_retry(RetryHint::Unknown { after: None }),
    }
}

impl Candidate for Storm {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn client(&self, known: &Known, endpoints: Vec<Endpoint>) -> Client {
        let backend = Backend::new("backend");
        let transport = classify_fn(|result: Result<&Answer, &Fault>| match result {
            Ok(_) => Verdict::success(),
            Err(fault) => judge(fault),
        });
        let stack = buttress::storm::client(
            &backend,
            known.deadline,
            transport,
            |request: &Request| request.context,
            Spread::new(known, endpoints),
        );
        Client::of(stack).saying(move || {
            let s = backend.stats();
            format!(
                "{:?} limit {} in {} wait {} lat {:?} base {:?} adm {} waited {} hopeless {} full {} probes {} downs {}",
                s.state, s.limit, s.in_flight, s.waiting, s.latency, s.baseline, s.admitted, s.waited, s.hopeless,
                s.full, s.probes, s.downs
            )
        })
    }
}
