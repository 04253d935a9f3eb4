//! The preset of buttress, whole or without its last parts: what those rows share.

use buttress::hedge::HedgeStats;
use buttress::presets::{self, ClientPlan};
use buttress::{
    Backend, Context, FailureClass, ReadContext, RetryHint, Verdict, classify_fn, downcast,
};
use tower::Layer;

use super::{Client, Counts, Known};
use crate::request::{Answer, Endpoint, Fault, Request};

/// The default, told nothing but how long callers wait.
pub(super) fn plan(known: &Known) -> ClientPlan {
    let mut plan = ClientPlan::new(known.name());
    plan.total_timeout = Some(known.deadline);
    plan
}

pub(super) fn judged(result: Result<&Answer, &Fault>) -> Verdict {
    match result {
        Ok(_) => Verdict::success(),
        Err(Fault::Refused | Fault::Error) => Verdict::failure(FailureClass::Transient),
        Err(Fault::Quota(after)) => Verdict::throttled(Some(*after)),
        Err(Fault::TimedOut) => {
            Verdict::failure(FailureClass::Transient).with_retry(RetryHint::Unknown { after: None })
        }
    }
}

#[derive(Clone)]
pub(super) struct Carries;

impl ReadContext<Request> for Carries {
    fn context(&self, request: &Request) -> Context {
        request.context
    }

    fn set_context(&self, request: &mut Request, context: Context) {
        request.context = context;
    }
}

/// The layers of `plan` around the one server, or around a pool of several.
pub(super) fn client(plan: &ClientPlan, known: &Known, mut endpoints: Vec<Endpoint>) -> Client {
    let stack = presets::client(plan).expect("a valid plan");
    let stack = stack.classify(downcast::<Fault, _>(classify_fn(judged))).context(Carries);
    let (counted, said) = (stack.clone(), stack.clone());
    let backend = |stack: &presets::ClientLayer<_, _, _>| {
        stack.backend().cloned().expect("the default has one")
    };
    let pool = buttress::endpoints::Endpoints::<Endpoint>::builder(known.name())
        .seed(known.seed)
        .build()
        .expect("a valid configuration");
    let client = match endpoints.pop() {
        Some(one) if endpoints.is_empty() => Client::of_ours(stack.layer(one)),
        last => {
            endpoints.extend(last);
            pool.extend(endpoints.into_iter().map(|one| (one.server.to_string(), one)));
            Client::of_ours(stack.pool(&pool))
        }
    };
    client
        .counting(move || counts(&backend(&counted), counted.hedge().map(|hedge| hedge.stats())))
        .saying(move || {
            let all = pool.stats().into_iter().map(|one| {
                let out = if one.ejected { "-" } else { "" };
                format!(" {out}{}:{}x{:?}", one.endpoint, one.in_flight, one.latency)
            });
            says(&backend(&said)) + &all.collect::<String>()
        })
}

/// What a client has done so far.
pub(super) fn counts(backend: &Backend, hedge: Option<HedgeStats>) -> Counts {
    let backend = backend.stats();
    let mut counts = vec![
        ("waited", backend.waited),
        ("hopeless", backend.hopeless),
        ("full", backend.full),
        ("throttled", backend.throttled),
        ("expired", backend.expired),
        ("probes", backend.probes),
        ("downs", backend.downs),
    ];
    if let Some(hedge) = hedge {
        counts.extend([("hedges", hedge.sent), ("won", hedge.won), ("withheld", hedge.withheld)]);
    }
    counts
}

/// How a backend is, in a line.
pub(super) fn says(backend: &Backend) -> String {
    let s = backend.stats();
    format!(
        "{:?} quota {:.1?} limit {} in {} wait {} lat {:?} base {:?} adm {}",
        s.state,
        backend.quota(),
        s.limit,
        s.in_flight,
        s.waiting,
        s.latency,
        s.baseline,
        s.admitted
    )
}
