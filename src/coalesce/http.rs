//! What it takes to share HTTP responses.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use ::http::header::{CACHE_CONTROL, CONTENT_TYPE, SET_COOKIE, UPGRADE, VARY};
use ::http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, response};
use bytes::Bytes;
use http_body::Body;

use super::handle::Coalesce;
use super::layer::CoalesceLayer;
use super::share::{ErrorsCloned, ErrorsShared, Share, ShareError, SharedError};
use crate::error::BoxError;
use crate::http::{Buffered, CRITICALITY, Extensions, Fill, TIMEOUT_MS};
use crate::key::Key;

/// The layer of [`Coalesce::http`].
///
/// ```
/// use buttress::coalesce::{Coalesce, HttpCoalesceLayer, ReadKey, Reads};
/// use http::header::USER_AGENT;
/// // What is shared, `V` and `O`, the service inside decides.
/// fn for_browsers<V, O>(pages: &Coalesce<ReadKey, V, O>) -> HttpCoalesceLayer<V, O>
/// where
///     V: Send + Sync + 'static,
///     O: Send + 'static,
/// {
///     pages.http(Reads::new().ignoring(USER_AGENT))
/// }
/// ```
pub type HttpCoalesceLayer<V, O> = CoalesceLayer<ReadKey, V, O, Reads, BufferResponse, Extensions>;

impl<V, O> Coalesce<ReadKey, V, O>
where
    V: Send + Sync + 'static,
    O: Send + 'static,
{
    /// As a layer for HTTP: [`Reads`] share responses of up to 64 KiB; deadlines are in the extensions of
    /// requests.
    ///
    /// ```
    /// use buttress::coalesce::{Coalesce, Reads};
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::{BodyExt, Full};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let pages = Coalesce::new("pages");
    /// let service = pages.http(Reads::new()).layer(service_fn(|_: Request<Full<Bytes>>| async {
    ///     tokio::task::yield_now().await;
    ///     Ok::<_, std::io::Error>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    /// }));
    /// let get = || service.clone().oneshot(Request::new(Full::default()));
    /// let (one, two) = tokio::join!(get(), get());
    /// assert_eq!(one.unwrap().into_body().collect().await.unwrap().to_bytes(), "hello");
    /// assert_eq!(two.unwrap().into_body().collect().await.unwrap().to_bytes(), "hello");
    /// assert_eq!(pages.stats().led, 1);
    /// # });
    /// ```
    #[must_use]
    pub fn http(&self, reads: Reads) -> HttpCoalesceLayer<V, O> {
        self.layer(reads).share(BufferResponse::up_to(64 << 10)).context(crate::http::extensions())
    }
}

/// The key of a `GET` or `HEAD` without a body: method, URI and all headers, except those that only trace a
/// request or say by when it needs an answer. Other requests have none.
///
/// ```
/// use buttress::{Key, coalesce::Reads};
/// use http::Request;
/// let key = |user: &str| {
///     let request = Request::get("/basket").header("authorization", user);
///     Reads::new().key(&request.body(String::new()).unwrap())
/// };
/// assert!(key("one") == key("one") && key("one") != key("two"));
/// assert!(Reads::new().key(&Request::post("/basket").body(String::new()).unwrap()).is_none());
/// ```
#[derive(Clone, Debug)]
pub struct Reads {
    ignored: Arc<[HeaderName]>,
}

/// The key of a read: see [`Reads`].
///
/// ```
/// use buttress::Key;
/// use buttress::coalesce::{ReadKey, Reads};
/// use http::Request;
/// use std::collections::HashMap;
/// // Counts how often the same is read.
/// let mut counts: HashMap<ReadKey, u32> = HashMap::new();
/// for path in ["/a", "/b", "/a"] {
///     let request = Request::get(path).body(String::new()).unwrap();
///     if let Some(key) = Reads::new().key(&request) {
///         *counts.entry(key).or_default() += 1;
///     }
/// }
/// assert_eq!(counts.len(), 2);
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ReadKey(Box<[u8]>);

impl fmt::Debug for ReadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There are credentials in it.
        f.write_str("ReadKey")
    }
}

const TRACES: [HeaderName; 13] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("b3"),
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-b3-spanid"),
    HeaderName::from_static("x-b3-parentspanid"),
    HeaderName::from_static("x-b3-sampled"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-correlation-id"),
    HeaderName::from_static("x-amzn-trace-id"),
    HeaderName::from_static("x-cloud-trace-context"),
    TIMEOUT_MS,
    CRITICALITY,
];

impl Reads {
    /// All headers count, but those of tracing, the timeout and the criticality.
    ///
    /// ```
    /// let reads = buttress::coalesce::Reads::new();
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self { ignored: TRACES.into() }
    }

    /// Requests that differ in this header only share an answer. Only if the server does not look at it.
    ///
    /// ```
    /// use buttress::{Key, coalesce::Reads};
    /// use http::{Request, header::USER_AGENT};
    /// let reads = Reads::new().ignoring(USER_AGENT);
    /// let request = Request::get("/").header(USER_AGENT, "curl").body(String::new()).unwrap();
    /// assert!(reads.key(&request) == reads.key(&Request::new(String::new())));
    /// ```
    #[must_use]
    pub fn ignoring(mut self, header: HeaderName) -> Self {
        self.ignored = self.ignored.iter().cloned().chain([header]).collect();
        self
    }
}

impl Default for Reads {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Body> Key<Request<B>> for Reads {
    type Key = ReadKey;

    fn key(&self, req: &Request<B>) -> Option<ReadKey> {
        let read = matches!(*req.method(), Method::GET | Method::HEAD);
        if !read || !req.body().is_end_stream() || req.headers().contains_key(UPGRADE) {
            return None;
        }
        let counts = |name: &HeaderName| !self.ignored.contains(name);
        let mut headers: Vec<_> = req
            .headers()
            .iter()
            .filter(|(name, _)| counts(name))
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        // Stable: the order of the values of one name means something.
        headers.sort_by_key(|(name, _)| *name);
        let uri = req.uri().to_string();
        let mut key = Vec::with_capacity(64 + uri.len() + 32 * headers.len());
        let mut put = |part: &[u8]| {
            key.extend_from_slice(&part.len().to_le_bytes());
            key.extend_from_slice(part);
        };
        put(req.method().as_str().as_bytes());
        put(uri.as_bytes());
        for (name, value) in headers {
            put(name.as_bytes());
            put(value);
        }
        Some(ReadKey(key.into()))
    }
}

/// Reads HTTP responses to their end, so that several callers can have them. A response whose body is too long, and
/// one that is for one client, goes to one caller as it is.
///
/// ```
/// let share = buttress::coalesce::BufferResponse::up_to(1 << 20);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct BufferResponse<E = ErrorsShared> {
    most: usize,
    private: bool,
    edit: fn(&mut HeaderMap),
    errors: PhantomData<fn() -> E>,
}

impl BufferResponse {
    /// Bodies up to this many bytes; an error becomes a [`BoxError`].
    ///
    /// ```
    /// let share = buttress::coalesce::BufferResponse::up_to(1 << 20);
    /// ```
    #[must_use]
    pub const fn up_to(bytes: usize) -> Self {
        Self { most: bytes, private: false, edit: |_| (), errors: PhantomData }
    }
}

impl<E> BufferResponse<E> {
    /// Also shares responses that say by `Cache-Control: private` or `no-store` that they are for one client, which
    /// is right where the key tells all clients apart: where all that the server knows of one is in the headers.
    /// One with a `Set-Cookie` or `Vary: *` is still not shared.
    ///
    /// ```
    /// let share = buttress::coalesce::BufferResponse::up_to(1 << 20).even_private();
    /// ```
    #[must_use]
    pub fn even_private(mut self) -> Self {
        self.private = true;
        self
    }

    /// Changes the headers of each response that may be shared. As it comes it is an answer to the request of one
    /// caller, also where it says so: a request id that the server echoes is that caller's. Taken out here, a layer
    /// outside can give each its own.
    ///
    /// ```
    /// use buttress::coalesce::BufferResponse;
    /// let share = BufferResponse::up_to(1 << 20).edit_headers(|headers| {
    ///     headers.remove("x-request-id");
    /// });
    /// ```
    #[must_use]
    pub fn edit_headers(mut self, edit: fn(&mut HeaderMap)) -> Self {
        self.edit = edit;
        self
    }

    /// Errors are `Clone` and stay what they are.
    ///
    /// ```
    /// let share = buttress::coalesce::BufferResponse::up_to(1 << 20).with_errors_cloned();
    /// ```
    #[must_use]
    pub fn with_errors_cloned(self) -> BufferResponse<ErrorsCloned> {
        let Self { most, private, edit, .. } = self;
        BufferResponse { most, private, edit, errors: PhantomData }
    }

    /// Whether others than who asked may see it.
    fn for_several(&self, head: &response::Parts) -> bool {
        let headers = &head.headers;
        let says = |name: HeaderName, words: &[&str]| {
            headers.get_all(name).iter().any(|value| {
                let text = value.as_bytes().to_ascii_lowercase();
                text.split(|&b| b == b',').any(|part| {
                    words.iter().any(|word| part.trim_ascii().starts_with(word.as_bytes()))
                })
            })
        };
        head.status != StatusCode::SWITCHING_PROTOCOLS
            && !headers.contains_key(SET_COOKIE)
            && !says(VARY, &["*"])
            // It does not end.
            && !says(CONTENT_TYPE, &["text/event-stream"])
            && (self.private || !says(CACHE_CONTROL, &["private", "no-store"]))
    }
}

/// What is kept of a response.
///
/// ```
/// use buttress::coalesce::{Coalesce, HttpCoalesceLayer, Reads, SharedError, SharedResponse};
/// use buttress::http::Buffered;
/// use buttress::BoxError;
/// use bytes::Bytes;
/// use http::Response;
/// use http_body_util::Full;
/// // What is shared, and what each caller gets: they are part of the layer's type.
/// type Shared = Result<SharedResponse, SharedError>;
/// type Answer = Result<Response<Buffered<Full<Bytes>>>, BoxError>;
/// struct Client {
///     pages: HttpCoalesceLayer<Shared, Answer>,
/// }
/// let client = Client { pages: Coalesce::new("pages").http(Reads::new()) };
/// # let _ = client.pages;
/// ```
#[derive(Clone, Debug)]
pub struct SharedResponse {
    head: response::Parts,
    data: Bytes,
    trailers: Option<HeaderMap>,
    broken: Option<SharedError>,
}

type Shared<E> = Result<SharedResponse, E>;
type Alone<B, E> = Result<Response<Buffered<B>>, E>;

impl<B, Err, E> Share<Response<B>, Err> for BufferResponse<E>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + Unpin + 'static,
    E: ShareError<Err, Shared: Send + 'static, Error: Send + 'static>,
{
    type Shared = Shared<E::Shared>;
    type Response = Response<Buffered<B>>;
    type Error = E::Error;
    type Future =
        Pin<Box<dyn Future<Output = Result<Shared<E::Shared>, Alone<B, E::Error>>> + Send>>;

    fn share(&self, result: Result<Response<B>, Err>) -> Self::Future {
        let (most, edit) = (self.most, self.edit);
        let (mut head, body) = match result {
            Ok(response) => response.into_parts(),
            Err(error) => return Box::pin(std::future::ready(Ok(Err(E::share(error))))),
        };
        let long = body.size_hint().lower() > u64::try_from(most).unwrap_or(u64::MAX);
        let mut body = Buffered::passing(body);
        if long || !self.for_several(&head) {
            return Box::pin(std::future::ready(Err(Ok(Response::from_parts(head, body)))));
        }
        Box::pin(async move {
            if body.fill(most, |_| ()).await == Fill::TooLong {
                return Err(Ok(Response::from_parts(head, body)));
            }
            let (data, trailers, error) = body.into_read();
            let broken = error.map(<ErrorsShared as ShareError<BoxError>>::share);
            edit(&mut head.headers);
            Ok(Ok(SharedResponse { head, data, trailers, broken }))
        })
    }

    fn unshare(shared: Self::Shared) -> Alone<B, E::Error> {
        let SharedResponse { head, data, trailers, broken } = shared.map_err(E::unshare)?;
        let body = match broken {
            Some(error) => Buffered::broken(data, error.into()),
            None => Buffered::whole(data, trailers),
        };
        Ok(Response::from_parts(head, body))
    }

    fn pass(result: Result<Response<B>, Err>) -> Alone<B, E::Error> {
        result.map(|response| response.map(Buffered::passing)).map_err(E::pass)
    }
}
