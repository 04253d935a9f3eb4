/// For services of any kind: faults before the call, and lost replies.
///
/// ```
/// use buttress::AsError;
/// use buttress::conditioner::{Conditioner, ConditionerLayer, Plain, Unnamed};
/// use std::time::Duration;
/// // The layer as a field, with everything that need not be written.
/// struct Client {
///     faults: ConditionerLayer<Unnamed, AsError, Plain>,
/// }
/// let slow = Conditioner::network(Duration::from_millis(50), Duration::ZERO, 0.0, None)?;
/// let client = Client { faults: ConditionerLayer::new(slow) };
/// # let _ = client.faults;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Plain;

/// For HTTP: statuses are responses, bodies can be spoiled, everything is marked. See
/// [`ConditionerLayer::http`](super::ConditionerLayer::http).
///
/// ```
/// use buttress::AsError;
/// use buttress::conditioner::{Conditioner, ConditionerLayer, Http, HttpCalls};
/// use std::time::Duration;
/// struct Client {
///     faults: ConditionerLayer<HttpCalls, AsError, Http>,
/// }
/// let slow = Conditioner::network(Duration::from_millis(50), Duration::ZERO, 0.0, None)?;
/// let client = Client { faults: ConditionerLayer::new(slow).http() };
/// # let _ = client.faults;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[cfg(feature = "http")]
#[derive(Clone, Debug)]
pub struct Http {
    pub(super) header: Option<::http::HeaderName>,
}

pub(super) mod sealed {
    use crate::conditioner::fault::Cause;
    use crate::conditioner::injection::{Injection, Instead};
    use crate::injected::Injected;

    /// What a layer can do with requests and responses of a kind.
    pub trait Mode<Req, Res> {
        /// The response that leaves the layer.
        type Response;

        /// Whether there are bodies.
        const BODIES: bool;

        /// A response that nothing was done to.
        fn pass(response: Res) -> Self::Response;

        /// Marks a request that is made later or whose reply something will happen to.
        fn mark(&self, request: &mut Req, mark: Injected);

        /// The response that takes the place of a call, or the error.
        fn answer(request: &Req, instead: Instead) -> Result<Self::Response, (Injected, Cause)>;

        /// Marks a response that a responder made.
        fn stamp(response: &mut Self::Response, mark: Injected);

        /// A response that something is done to.
        fn spoil(response: Res, injection: Injection) -> Self::Response;
    }

    impl<Req, Res> Mode<Req, Res> for super::Plain {
        type Response = Res;

        const BODIES: bool = false;

        #[inline(always)]
        fn pass(response: Res) -> Res {
            response
        }

        fn mark(&self, _: &mut Req, _: Injected) {}

        fn answer(_: &Req, instead: Instead) -> Result<Res, (Injected, Cause)> {
            Err(instead.into_cause())
        }

        fn stamp(_: &mut Res, _: Injected) {}

        fn spoil(response: Res, _: Injection) -> Res {
            response
        }
    }
}

#[cfg(feature = "http")]
mod http {
    use ::http::{HeaderValue, Request, Response, StatusCode};
    use bytes::Bytes;
    use http_body::Body;

    use super::sealed::Mode;
    use crate::conditioner::body::FaultyBody;
    use crate::conditioner::fault::Cause;
    use crate::conditioner::injection::{Injection, Instead};
    use crate::injected::Injected;

    impl<B1, B2: Body<Data = Bytes>> Mode<Request<B1>, Response<B2>> for super::Http {
        type Response = Response<FaultyBody<B2>>;

        const BODIES: bool = true;

        #[inline]
        fn pass(response: Response<B2>) -> Self::Response {
            response.map(FaultyBody::whole)
        }

        fn mark(&self, request: &mut Request<B1>, mark: Injected) {
            if let Some(header) = &self.header {
                let fault = HeaderValue::from_static(mark.fault().as_str());
                request.headers_mut().insert(header.clone(), fault);
            }
        }

        fn answer(
            request: &Request<B1>,
            instead: Instead,
        ) -> Result<Self::Response, (Injected, Cause)> {
            let mut response = Response::new(FaultyBody::empty());
            let mark = match instead {
                Instead::Status(mark, status) => {
                    // Checked when the rule was made.
                    if let Ok(status) = StatusCode::from_u16(status) {
                        *response.status_mut() = status;
                    }
                    mark
                }
                Instead::Grpc(mark, code, message) => {
                    crate::http::trailers_only(request.headers(), code, &message, &mut response);
                    mark
                }
                instead @ (Instead::Fail(..) | Instead::Hang(..)) => {
                    return Err(instead.into_cause());
                }
            };
            response.extensions_mut().insert(mark);
            Ok(response)
        }

        fn stamp(response: &mut Self::Response, mark: Injected) {
            response.extensions_mut().insert(mark);
        }

        fn spoil(mut response: Response<B2>, injection: Injection) -> Self::Response {
            response.extensions_mut().insert(injection.mark);
            response.map(|body| FaultyBody::spoilt(body, injection))
        }
    }
}
