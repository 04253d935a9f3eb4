use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

pin_project! {
    /// The answer of a [`ContextService`](super::ContextService) or a
    /// [`SendContextService`](super::SendContextService). Dropping it drops the call.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::http::{ContextFuture, SendContextLayer};
    /// use http::{Request, Response};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// let answer = service_fn(|_: Request<()>| async { Ok::<_, std::io::Error>(Response::new(())) });
    /// let mut service = SendContextLayer::new("db").layer(answer);
    /// // It has a name, so that a service around this one can keep it without a box.
    /// let call: ContextFuture<_, _, _, _> = service.ready().await?.call(Request::new(()));
    /// assert_eq!(call.await?.status(), 200);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ContextFuture<F, T, E, E2> {
        #[pin]
        state: State<F, Result<T, E2>>,
        map: Option<fn(E) -> E2>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, A> {
        Called { #[pin] call: F },
        Refused { answer: Option<A> },
    }
}

impl<F, T, E, E2> ContextFuture<F, T, E, E2> {
    #[inline]
    pub(super) fn called(call: F, map: fn(E) -> E2) -> Self {
        Self { state: State::Called { call }, map: Some(map) }
    }

    #[cold]
    pub(super) fn refused(answer: Result<T, E2>) -> Self {
        Self { state: State::Refused { answer: Some(answer) }, map: None }
    }
}

impl<F, T, E, E2> Future for ContextFuture<F, T, E, E2>
where
    F: Future<Output = Result<T, E>>,
{
    type Output = Result<T, E2>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.state.project() {
            StateProj::Called { call } => {
                call.poll(cx).map(|result| match (result, this.map.take()) {
                    (Ok(answer), _) => Ok(answer),
                    (Err(error), Some(map)) => Err(map(error)),
                    (Err(_), None) => panic!("polled after completion"),
                })
            }
            StateProj::Refused { answer } => match answer.take() {
                Some(answer) => Poll::Ready(answer),
                None => panic!("polled after completion"),
            },
        }
    }
}

impl<F, T, E, E2> fmt::Debug for ContextFuture<F, T, E, E2> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextFuture").finish_non_exhaustive()
    }
}
