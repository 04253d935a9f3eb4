//! What travels between a caller, a candidate's stack and the servers.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tower::Service;

pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Of the whole run.
    pub(crate) id: u64,
    /// The process that sends it.
    pub(crate) client: usize,
    /// When its caller gives up.
    pub(crate) deadline: Instant,
    /// The same and how much it matters, as buttress says it.
    pub(crate) context: buttress::Context,
    pub(crate) critical: bool,
}

/// A 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer;

/// Why an attempt failed, as an error: this is what the retries and breakers of peers look at by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nobody listens, or the queue is full: it was not worked on.
    Refused,
    /// A 500.
    Error,
    /// A 429 with its Retry-After.
    Quota(Duration),
    /// The attempt took longer than its client waits (only where the scenario says so, or a stack).
    TimedOut,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Error => f.write_str("500"),
            Self::Quota(wait) => write!(f, "429, retry after {wait:?}"),
            Self::TimedOut => f.write_str("timed out"),
        }
    }
}

impl std::error::Error for Fault {}

pub(crate) type Reply = Result<Answer, Fault>;

/// Where attempts go.
pub(crate) trait Backend: Send {
    /// An attempt arrives at server `server`; the reply goes to `reply`, which may be gone by then.
    fn submit(&mut self, server: usize, request: &Request, reply: oneshot::Sender<Reply>);
}

/// One server, as a client sees it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) backend: Arc<Mutex<dyn Backend>>,
    pub(crate) server: usize,
    /// A limit of the transport itself that every candidate has.
    pub(crate) timeout: Option<Duration>,
}

impl Service<Request> for Endpoint {
    type Response = Answer;
    type Error = Fault;
    type Future = Boxed<Reply>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let this = self.clone();
        // Sent when first polled: some stacks make the call's future before they know whether they will.
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            lock(&this.backend).submit(this.server, &request, reply);
            // A server that drops the reply never answers.
            let answer = async {
                match answer.await {
                    Ok(reply) => reply,
                    Err(_) => std::future::pending().await,
                }
            };
            match this.timeout {
                None => answer.await,
                Some(limit) => {
                    tokio::time::timeout(limit, answer).await.unwrap_or(Err(Fault::TimedOut))
                }
            }
        })
    }
}

fn lock(backend: &Mutex<dyn Backend>) -> std::sync::MutexGuard<'_, dyn Backend + 'static> {
    backend.lock().expect("no panic under the lock")
}
