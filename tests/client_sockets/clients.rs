//! The stack as users put it around their clients.

use std::fmt::Debug;

use buttress::presets::{ClientPlan, client};
use buttress::{Backend, BoxError};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes};
use hyper::{Request, Response};
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::rt::TokioExecutor;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt};

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;
/// What a user keeps in a struct.
pub(crate) type Client = BoxCloneSyncService<Request<Full<Bytes>>, Answer, BoxError>;

/// A client with a stack of its own.
#[derive(Clone)]
pub(crate) struct Rig {
    pub(crate) name: &'static str,
    pub(crate) backend: Backend,
    pub(crate) client: Client,
}

impl Rig {
    /// All of them, with the same plan.
    pub(crate) fn all(plan: &ClientPlan) -> [Self; 2] {
        let stack = client(plan).unwrap().http();
        let hyper = Self::new("hyper", stack.backend().unwrap(), stack.layer(hyper()));
        let stack = client(plan).unwrap().http();
        let reqwest = Self::new("reqwest", stack.backend().unwrap(), stack.layer(reqwest()));
        [hyper, reqwest]
    }

    pub(crate) fn new<S, B>(name: &'static str, backend: &Backend, service: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError>,
        S: Clone + Debug + Send + Sync + 'static,
        S::Future: Send,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let whole = |answer: Response<B>| answer.map(|b| b.map_err(Into::into).boxed_unsync());
        let client = BoxCloneSyncService::new(service.map_response(whole));
        Self { name, backend: backend.clone(), client }
    }

    pub(crate) async fn get(&self, url: &str) -> Result<Answer, BoxError> {
        self.send("GET", url).await
    }

    pub(crate) async fn send(&self, method: &str, url: &str) -> Result<Answer, BoxError> {
        let request = Request::builder().method(method).uri(url).body(Full::default())?;
        self.client.clone().oneshot(request).await
    }

    /// For a task of its own.
    pub(crate) async fn owned(self, url: String) -> Result<String, BoxError> {
        self.text(&url).await
    }

    pub(crate) async fn text(&self, url: &str) -> Result<String, BoxError> {
        text(self.get(url).await?).await
    }
}

pub(crate) async fn text(answer: Answer) -> Result<String, BoxError> {
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}

pub(crate) fn hyper() -> Hyper<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>> {
    Hyper::builder(TokioExecutor::new()).build_http()
}

/// The adapter of the example.
pub(crate) fn reqwest()
-> impl Service<Request<Full<Bytes>>, Response = Response<reqwest::Body>, Error = BoxError, Future: Send>
+ Clone
+ Debug
+ Send
+ Sync {
    // Two kinds of retry would multiply, and proxies are not for tests.
    let client = reqwest::Client::builder().retry(reqwest::retry::never()).no_proxy();
    let client = client.build().unwrap();
    tower::service_fn(move |request: Request<Full<Bytes>>| {
        let client = client.clone();
        async move {
            let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap))?;
            Ok(client.execute(request).await?.into())
        }
    })
}
