//! One call of a service: readiness, then the answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

pin_project! {
    /// The service and the request are held until it is ready.
    #[project = SingleProj]
    pub(crate) enum Single<S, Req, F> {
        Readying { call: Option<(S, Req)> },
        Called { #[pin] future: F },
    }
}

impl<S, Req, F> Single<S, Req, F> {
    pub(crate) fn new(service: S, req: Req) -> Self {
        Self::Readying { call: Some((service, req)) }
    }
}

impl<S, Req> Future for Single<S, Req, S::Future>
where
    S: Service<Req>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match self.as_mut().project() {
                SingleProj::Readying { call } => {
                    let Some((service, _)) = call else { panic!("polled after completion") };
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        *call = None;
                        return Poll::Ready(Err(error));
                    }
                    let Some((mut service, req)) = call.take() else { return Poll::Pending };
                    let future = service.call(req);
                    self.set(Self::Called { future });
                }
                SingleProj::Called { future } => return future.poll(cx),
            }
        }
    }
}
