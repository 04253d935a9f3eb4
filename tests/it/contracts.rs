//! The contract of layers without state of their own, which have no room of their own here either: context, timeout,
//! keys of requests, probes of a load balancer.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io;
use std::time::Duration;

use buttress::testing::{Subject, check_all};
use buttress::timeout::{Timeout, TimeoutLayer};
use buttress::{AsTyped, Context, Deadline};

const LONG: Duration = Duration::from_secs(3600);

fn broke() -> io::Error {
    io::Error::other("inner broke")
}

type Job = (Context, u32);

#[tokio::test(start_paused = true)]
async fn a_timeout_keeps_the_contract_whichever_end_comes_first() {
    let soon = || Context::new().with_deadline(Deadline::after(LONG / 2));
    let own = Timeout::new("contract", LONG).unwrap();
    for (timeout, context) in [
        (own, Context::new as fn() -> Context),
        (own, soon),
        (Timeout::deadlines("contract"), Context::new),
        (Timeout::deadlines("contract"), soon),
    ] {
        let layer =
            move || TimeoutLayer::new(timeout).context(|job: &Job| job.0).on_reject(AsTyped);
        let subject = Subject::new(layer, move || (context(), 7), |job: Job| Ok(job.1));
        check_all(&subject.ready_error(broke).stateless()).await.unwrap();
    }
}

#[cfg(feature = "http")]
mod over_http {
    use super::*;
    use axum::body::Bytes;
    use buttress::Criticality;
    use buttress::http::{ContextLayer, SendContextLayer};
    use buttress::idempotency::IdempotencyKeyLayer;
    use http::{Request, Response};

    fn ok(_: Request<()>) -> io::Result<Response<Bytes>> {
        Ok(Response::new(Bytes::from_static(b"hello")))
    }

    fn plain() -> Request<()> {
        Request::new(())
    }

    /// With all that the context layers read and write.
    fn told() -> Request<()> {
        let mut request = Request::new(());
        request.headers_mut().insert("x-request-timeout-ms", 60_000.into());
        request.headers_mut().insert("x-request-criticality", "sheddable".parse().unwrap());
        let context = Context::new().with_criticality(Criticality::CriticalPlus);
        context.with_deadline(Deadline::after(LONG)).put(request.extensions_mut());
        request
    }

    #[tokio::test(start_paused = true)]
    async fn what_reads_the_context_of_a_request_keeps_the_contract() {
        for request in [plain, told] {
            let bare = || ContextLayer::new("contract");
            let subject = Subject::new(bare, request, ok).ready_error(broke).stateless();
            check_all(&subject).await.unwrap();
            let capped = || ContextLayer::new("contract").max_deadline(LONG).unwrap();
            let subject = Subject::new(capped, request, ok).ready_error(broke).stateless();
            check_all(&subject).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_sends_the_context_of_a_request_keeps_the_contract() {
        for request in [plain, told] {
            let boxed = || SendContextLayer::new("contract");
            let subject = Subject::new(boxed, request, ok).ready_error(broke).stateless();
            check_all(&subject).await.unwrap();
            let typed = || SendContextLayer::new("contract").on_reject(AsTyped);
            let subject = Subject::new(typed, request, ok).ready_error(broke).stateless();
            check_all(&subject).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_gives_requests_a_key_keeps_the_contract() {
        let post = || Request::post("/").body(()).unwrap();
        let subject = Subject::new(IdempotencyKeyLayer::new, post, ok).ready_error(broke);
        check_all(&subject.stateless()).await.unwrap();
    }

    #[cfg(feature = "supervise")]
    #[tokio::test(start_paused = true)]
    async fn what_answers_the_probes_keeps_the_contract() {
        use buttress::supervise::{Lifecycle, health::Health};
        let layer = || Health::new(Lifecycle::new()).layer();
        let subject = Subject::new(layer, plain, ok).ready_error(broke).stateless();
        check_all(&subject).await.unwrap();
    }
}
