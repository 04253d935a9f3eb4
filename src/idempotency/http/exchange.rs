//! Requests and responses of HTTP.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use ::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use ::http::request::Parts;
use ::http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;

use super::config::{OverSize, Unsized};
use super::head::{KeptFields, decode, is_grpc};
use super::key::{KeyError, KeyRules};
use crate::error::BoxError;
use crate::http::{Buffered, Fill};
use crate::idempotency::context::EffectContext;
use crate::idempotency::exchange::sealed::{
    Asked, Exchange, Keep, Look, Record, Recorded, Refusal,
};
use crate::idempotency::pending::Tag;
use crate::idempotency::ran::{Earlier, Status};
use crate::idempotency::scope::Scope;
use crate::rejection::RejectionKind;
use crate::store::{Fingerprint, FingerprintBuilder, Outcome, RecordId};

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const STATUS: HeaderName = HeaderName::from_static("idempotency-status");
const JSON: &str = "application/json";
const BODY: HeaderName = HeaderName::from_static("idempotency-body");
const HEAD: HeaderName = HeaderName::from_static("idempotency-head");

/// An extension that a handler puts on its response to say that its effect surely did not happen. The
/// answer is then not recorded, and the key is given back: who comes with it next runs the handler, unless one
/// before this was interrupted, of which it says nothing
/// (see [`fail_before_effect`](super::super::Permit::fail_before_effect)).
///
/// For answers like "try again later" that are given before anything was done. A status alone never says
/// this.
///
/// ```
/// use axum::response::{IntoResponse, Response};
/// use axum::{Extension, http::StatusCode};
/// use buttress::idempotency::NotExecuted;
/// async fn pay() -> Response {
///     // The bank could not be reached, so no money has gone.
///     (StatusCode::SERVICE_UNAVAILABLE, Extension(NotExecuted)).into_response()
/// }
/// # let _ = pay;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "it says one thing")]
pub struct NotExecuted;

pub(super) type TenantOf = Arc<dyn Fn(&Parts) -> Option<Scope> + Send + Sync>;
pub(super) type KeyOf = Arc<dyn Fn(&Parts) -> Option<Vec<u8>> + Send + Sync>;

/// HTTP and gRPC calls; see [`IdempotencyLayer::http`](crate::idempotency::IdempotencyLayer::http).
///
/// ```
/// use buttress::http::Problem;
/// use buttress::idempotency::{HttpExchange, Idempotency, IdempotencyLayer, Scope};
/// use buttress::store::MemoryStore;
/// // The layer as a field.
/// struct Server {
///     once: IdempotencyLayer<MemoryStore, HttpExchange, Problem>,
/// }
/// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
/// let server = Server { once: IdempotencyLayer::http(gate).single_tenant().build()? };
/// # let _ = server.once;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct HttpExchange {
    pub(super) keys: KeyRules,
    pub(super) required: bool,
    pub(super) derived: Option<KeyOf>,
    pub(super) methods: Vec<Method>,
    pub(super) tenant: TenantOf,
    pub(super) fingerprinted: Vec<HeaderName>,
    pub(super) max_body: usize,
    pub(super) over_size: OverSize,
    pub(super) unsized_answers: Unsized,
    pub(super) kept: KeptFields,
    /// Whether the gate counts the claims of each scope.
    pub(super) counts_scopes: bool,
}

impl fmt::Debug for HttpExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpExchange")
            .field("keys", &self.keys)
            .field("required", &self.required)
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}

/// A request whose body has not been read yet.
#[derive(Debug)]
pub struct Held<B> {
    req: Box<Request<Buffered<B>>>,
    id: RecordId,
    tag: Tag,
}

/// Enough of a request to answer it in its own way.
#[derive(Debug)]
pub struct Spare {
    version: Version,
    content_type: Option<HeaderValue>,
}

fn refused(kind: RejectionKind) -> Refusal {
    Refusal { kind, source: None, advice: None }
}

/// Says what a key must be.
fn bad_key(why: KeyError, rules: &KeyRules) -> Refusal {
    let kind = RejectionKind::IdempotencyKeyInvalid;
    let advice = match why {
        // Whose it is, is not in the key.
        KeyError::NoTenant => None,
        // That is said by the rules, too.
        KeyError::Malformed => Some(rules.to_string()),
        _ => Some(format!("{why}, {rules}")),
    };
    Refusal { kind, source: Some(Arc::new(why)), advice }
}

/// A key that nobody can send.
fn derived_key(key: &[u8]) -> Vec<u8> {
    [b"\0derived\0", key].concat()
}

impl HttpExchange {
    fn identify(&self, parts: &Parts) -> Result<Option<(RecordId, Tag)>, Refusal> {
        let sent = self.keys.find(&parts.headers).map_err(|why| bad_key(why, &self.keys))?;
        let derived = match (&sent, &self.derived) {
            (None, Some(derive)) => derive(parts).map(|key| derived_key(&key)),
            _ => None,
        };
        let key = match (&sent, &derived) {
            (Some(key), _) => key.as_str().as_bytes(),
            (None, Some(key)) => key,
            (None, None) if self.required => {
                let kind = RejectionKind::IdempotencyKeyMissing;
                let advice = Some(self.keys.to_string());
                return Err(Refusal { kind, source: None, advice });
            }
            (None, None) => return Ok(None),
        };
        let scope = (self.tenant)(parts).ok_or_else(|| bad_key(KeyError::NoTenant, &self.keys))?;
        let tag = if self.counts_scopes { Tag::of(&scope) } else { Tag::default() };
        Ok(Some((RecordId::of(scope.as_bytes(), key), tag)))
    }

    fn fingerprint<B>(&self, req: &Request<B>) -> FingerprintBuilder {
        let path = req.uri().path_and_query().map_or("/", |path| path.as_str());
        let mut print = Fingerprint::builder();
        print.add(req.method().as_str().as_bytes());
        print.add(path.as_bytes());
        for name in [CONTENT_TYPE].iter().chain(&self.fingerprinted) {
            let values = req.headers().get_all(name);
            // No message has more.
            let count = u32::try_from(values.iter().count()).unwrap_or(u32::MAX);
            print.add(name.as_str().as_bytes());
            print.add(&count.to_le_bytes());
            for value in values {
                print.add(value.as_bytes());
            }
        }
        print
    }
}

impl<B> Exchange<Request<B>> for HttpExchange
where
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Inner = Request<Buffered<B>>;
    type Held = Held<B>;
    type Spare = Spare;

    fn look(&self, req: Request<B>) -> Look<Self::Inner, Held<B>> {
        let nothing_to_find = || {
            !self.required
                && self.derived.is_none()
                && !req.headers().contains_key(&self.keys.header)
        };
        if !self.methods.contains(req.method()) || nothing_to_find() {
            return Look::Pass(req.map(Buffered::passing));
        }
        let (parts, body) = req.into_parts();
        let (id, tag) = match self.identify(&parts) {
            Ok(Some(identity)) => identity,
            Ok(None) => return Look::Pass(Request::from_parts(parts, Buffered::passing(body))),
            Err(why) => {
                return Look::Refuse(Request::from_parts(parts, Buffered::passing(body)), why);
            }
        };
        // Told to be too long: nothing of it is read.
        if usize::try_from(body.size_hint().lower()).map_or(true, |least| least > self.max_body) {
            let req = Request::from_parts(parts, Buffered::passing(body));
            return match self.over_size {
                OverSize::Refuse => Look::Refuse(req, refused(RejectionKind::RequestTooLarge)),
                OverSize::Pass => Look::Pass(req),
            };
        }
        let req = Request::from_parts(parts, Buffered::passing(body));
        Look::Gate(Held { req: Box::new(req), id, tag })
    }

    async fn read(&self, held: Held<B>) -> Asked<Self::Inner> {
        let Held { mut req, id, tag } = held;
        let mut print = self.fingerprint(&req);
        // An empty body is a body, so that no way of sending none makes a difference.
        print.add_chunk(b"");
        let fill = req.body_mut().fill(self.max_body, |data| print.add_chunk(data)).await;
        match (fill, self.over_size) {
            (Fill::Whole, _) => Asked::Gate(id, tag, print.finish(), req),
            (Fill::TooLong, OverSize::Pass) => Asked::Pass(req),
            (Fill::TooLong, OverSize::Refuse) => {
                Asked::Refuse(req, refused(RejectionKind::RequestTooLarge))
            }
            (Fill::Failed, _) => {
                let why = unreadable(req.body_mut().take_error());
                *req.body_mut() = Buffered::default();
                Asked::Refuse(req, why)
            }
        }
    }

    fn tell(&self, req: &mut Self::Inner, effect: &EffectContext) {
        req.extensions_mut().insert(effect.clone());
    }

    fn spare(&self, req: &Self::Inner) -> Spare {
        let content_type = req.headers().get(CONTENT_TYPE).map(|value| {
            // The usual one need not be shared.
            if value == JSON { HeaderValue::from_static(JSON) } else { value.clone() }
        });
        Spare { version: req.version(), content_type }
    }

    fn revive(&self, spare: Spare) -> Self::Inner {
        let mut req = Request::new(Buffered::default());
        *req.version_mut() = spare.version;
        if let Some(content_type) = spare.content_type {
            req.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        req
    }

    fn is_grpc(&self, req: &Self::Inner) -> bool {
        is_grpc(req.headers())
    }
}

/// A limit further out that the body went over, or a client that has gone.
fn unreadable(error: Option<BoxError>) -> Refusal {
    let Some(error) = error else { return refused(RejectionKind::RequestIncomplete) };
    let mut link: Option<&(dyn StdError + 'static)> = Some(&*error);
    let mut kind = RejectionKind::RequestIncomplete;
    for _ in 0..32 {
        let Some(error) = link else { break };
        if error.is::<http_body_util::LengthLimitError>() {
            kind = RejectionKind::RequestTooLarge;
        }
        link = error.source();
    }
    Refusal { kind, source: Some(Arc::from(error)), advice: None }
}

impl<B, E> Record<Response<B>, E> for HttpExchange
where
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    E: Send + 'static,
{
    type Answer = Response<Buffered<B>>;

    #[inline]
    fn pass(res: Response<B>) -> Self::Answer {
        res.map(Buffered::passing)
    }

    fn record(
        &self,
        result: Result<Response<B>, E>,
        effect: &EffectContext,
        room: usize,
    ) -> impl Future<Output = Box<Recorded<Self::Answer, E>>> + Send {
        let not_applied = effect.is_not_applied();
        let is_kept = |response: &Response<B>| {
            let status = response.status();
            let failed = status.is_client_error() || status.is_server_error();
            response.extensions().get::<NotExecuted>().is_none() && !(failed && not_applied)
        };
        let (read, keep) = match &result {
            Ok(response) => (is_kept(response), Keep::Release),
            Err(_) if not_applied => (false, Keep::Release),
            Err(_) => (false, Keep::Interrupt),
        };
        // From here on it stays where it is.
        let result = result.map(|response| response.map(Buffered::passing));
        let mut recorded = Box::new(Recorded { result, keep });
        async move {
            if let Ok(response) = &mut recorded.result
                && read
            {
                let fill = self.collect(response.body_mut(), room).await;
                let (status, body) = (response.status().as_u16(), response.body());
                let data = (fill == Some(Fill::Whole)).then(|| body.data());
                let more = data.map_or(0, <[u8]>::len);
                let head = self.kept.encode(response.headers(), body.trailers(), more);
                recorded.keep = Keep::Complete(match data {
                    Some(data) => Outcome::joined(status, head, data),
                    None => Outcome::not_retained(status, head),
                });
            }
            recorded
        }
    }

    fn mark(&self, answer: &mut Self::Answer, status: Status) {
        let text = match status {
            Status::Stored => "stored",
            Status::NotRetained => "not-retained",
            Status::Replayed => "replayed",
            Status::Unconfirmed => "unconfirmed",
            Status::Ungated => "ungated",
        };
        answer.headers_mut().insert(STATUS, HeaderValue::from_static(text));
    }

    fn replay(&self, outcome: &Arc<Outcome>, grpc: bool) -> Result<Self::Answer, Earlier> {
        let unreadable = |what: &str| Earlier::Unreadable(format!("its {what} is none of HTTP"));
        let status = StatusCode::from_u16(outcome.status()).map_err(|_| unreadable("status"))?;
        let (mut head, trailers) = decode(outcome.head()).ok_or_else(|| unreadable("head"))?;
        let yes = HeaderValue::from_static("true");
        let body = if outcome.is_retained() {
            Buffered::whole(outcome.shared_body(), trailers)
        } else {
            // Not even a version: it was too large to be kept.
            if outcome.head().is_empty() {
                head.insert(HEAD, HeaderValue::from_static("omitted"));
                if grpc {
                    head.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                }
            }
            if is_grpc(&head) {
                without_answer(&mut head, trailers);
            }
            head.insert(BODY, HeaderValue::from_static("omitted"));
            Buffered::default()
        };
        head.insert(REPLAYED, yes);
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = head;
        Ok(response)
    }
}

impl HttpExchange {
    /// Reads a body that can be kept; `None` if it is not even tried.
    async fn collect<B>(&self, body: &mut Buffered<B>, room: usize) -> Option<Fill>
    where
        B: Body + Unpin + Send,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let hint = body.size_hint();
        let is_stream = hint.upper().is_none() && self.unsized_answers == Unsized::Stream;
        let fits = usize::try_from(hint.lower()).is_ok_and(|least| least <= room);
        if !body.is_end_stream() && (is_stream || !fits) {
            return None;
        }
        Some(body.fill(room, |_| ()).await)
    }
}

/// A gRPC call that was executed and whose answer was not kept: its status says that.
fn without_answer(head: &mut HeaderMap, trailers: Option<HeaderMap>) {
    const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
    const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
    // What failed without an answer is told as it was.
    let failed = |fields: &HeaderMap| fields.get(GRPC_STATUS).is_some_and(|code| code != "0");
    if failed(head) {
        return;
    }
    if let Some(trailers) = trailers.filter(failed) {
        head.extend(trailers);
        return;
    }
    // ALREADY_EXISTS.
    head.insert(GRPC_STATUS, HeaderValue::from_static("6"));
    let message = "executed before, its answer was not kept";
    head.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
}
