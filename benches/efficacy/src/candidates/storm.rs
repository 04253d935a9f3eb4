//! The stack of buttress with its defaults: retries paid from headroom, around admission, around the transport.

use buttress::{Backend, Context, ReadContext, RetryHint, Verdict, classify_fn};

use super::{Candidate, Client, Known};
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

#[derive(Clone)]
struct Carries;

impl ReadContext<Request> for Carries {
    fn context(&self, request: &Request) -> Context {
        request.context
    }

    fn set_context(&self, request: &mut Request, context: Context) {
        request.context = context;
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
        let pool = buttress::endpoints::Endpoints::<Endpoint>::builder("backend")
            .seed(known.seed)
            .build()
            .expect("a valid configuration");
        pool.extend(endpoints.into_iter().map(|one| (one.server.to_string(), one)));
        let stack: buttress::storm::PoolClient<_, _, _, Fault> =
            buttress::storm::pool(&backend, known.deadline, transport, Carries, &pool);
        Client::of(stack).saying(move || {
            let s = backend.stats();
            let all = pool.stats().into_iter().map(|one| {
                format!(" {}{}:{}x{:?}", if one.ejected { "-" } else { "" }, one.endpoint, one.in_flight, one.latency)
            });
            let all: String = all.collect();
            format!(
                "{:?} limit {} in {} wait {} lat {:?} base {:?} adm {} waited {} hopeless {} full {} probes {} downs {}{all}",
                s.state, s.limit, s.in_flight, s.waiting, s.latency, s.baseline, s.admitted, s.waited, s.hopeless,
                s.full, s.probes, s.downs
            )
        })
    }
}
