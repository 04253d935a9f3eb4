//! The stack of buttress with its defaults, told nothing but what callers wait.

use buttress::presets::{self, ClientPlan};
use buttress::{Context, ReadContext, RetryHint, Verdict, classify_fn, downcast};

use tower::Layer;

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
        let mut plan = ClientPlan::new("backend");
        plan.total_timeout = Some(known.deadline);
        let stack = presets::client(&plan).expect("a valid plan");
        let transport = classify_fn(|result: Result<&Answer, &Fault>| match result {
            Ok(_) => Verdict::success(),
            Err(fault) => judge(fault),
        });
        let stack = stack.classify(downcast::<Fault, _>(transport)).context(Carries);
        let pool = buttress::endpoints::Endpoints::<Endpoint>::builder("backend")
            .seed(known.seed)
            .build()
            .expect("a valid configuration");
        let client = match &endpoints[..] {
            [one] => Client::of(stack.layer(one.clone())),
            several => {
                pool.extend(several.iter().map(|one| (one.server.to_string(), one.clone())));
                Client::of(stack.pool(&pool))
            }
        };
        let shown = stack.clone();
        let client = client.counting(move || {
            let mut counts = Vec::new();
            if let Some(backend) = shown.backend().map(buttress::Backend::stats) {
                counts.push(("waited", backend.waited));
                counts.push(("hopeless", backend.hopeless));
                counts.push(("full", backend.full + backend.throttled));
                counts.push(("expired", backend.expired));
                counts.push(("probes", backend.probes));
                counts.push(("downs", backend.downs));
            }
            if let Some(hedge) = shown.hedge().map(buttress::hedge::Hedge::stats) {
                counts.push(("hedges", hedge.sent));
                counts.push(("won", hedge.won));
                counts.push(("withheld", hedge.withheld));
            }
            counts
        });
        client.saying(move || {
            let backend = stack.backend().expect("the default has one");
            let s = backend.stats();
            let all = pool.stats().into_iter().map(|one| {
                format!(" {}{}:{}x{:?}", if one.ejected { "-" } else { "" }, one.endpoint, one.in_flight, one.latency)
            });
            let all: String = all.collect();
            format!(
                "{:?} quota {:.1?} limit {} in {} wait {} lat {:?} base {:?} adm {} waited {} hopeless {} full {} probes {} downs {}{all}",
                s.state, backend.quota(), s.limit, s.in_flight, s.waiting, s.latency, s.baseline, s.admitted, s.waited, s.hopeless,
                s.full, s.probes, s.downs
            )
        })
    }
}
