use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ::http::request::Parts;
use ::http::{HeaderName, Method};

use super::exchange::{HttpExchange, KeyOf, TenantOf};
use super::head::KeptFields;
use super::key::{IDEMPOTENCY_KEY, KeyRules};
use crate::error::ConfigError;
use crate::http::{Problem, problem};
use crate::idempotency::handle::Idempotency;
use crate::idempotency::layer::{IdempotencyLayer, OnPanic};
use crate::idempotency::scope::Scope;

/// What happens to a request whose body is longer than [`max_body`](HttpIdempotencyBuilder::max_body).
///
/// ```
/// assert_eq!(buttress::idempotency::OverSize::default(), buttress::idempotency::OverSize::Refuse);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverSize {
    /// It is refused with 413 before anything is claimed. The default.
    #[default]
    Refuse,
    /// It is executed each time it comes, without a record.
    Pass,
}

/// What happens to an answer that does not say how long it is.
///
/// ```
/// assert_eq!(buttress::idempotency::Unsized::default(), buttress::idempotency::Unsized::Stream);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsized {
    /// It is recorded without its body and passed on as it comes. The default: it may never end.
    #[default]
    Stream,
    /// It is read to its end before the caller gets any of it, and kept. If it is longer than the gate keeps
    /// ([`max_outcome`](super::super::IdempotencyBuilder::max_outcome)), it is recorded without its body, and
    /// passed on from there. For unary gRPC, whose answers do not say how long they are.
    Buffer,
}

/// Makes an [`IdempotencyLayer`] for HTTP; see [`IdempotencyLayer::http`].
///
/// | setter | range | default |
/// |---|---|---|
/// | [`tenant`](Self::tenant) or [`single_tenant`](Self::single_tenant) | | none: must be given |
/// | [`required`](Self::required) | | requests without a key are passed through |
/// | [`derive_key`](Self::derive_key) | | not derived |
/// | [`methods`](Self::methods) | at least one | POST and PATCH |
/// | [`header`](Self::header) | | `Idempotency-Key` |
/// | [`key_length`](Self::key_length) | 1 to 1024 | 16 to 255 |
/// | [`quoted_keys_only`](Self::quoted_keys_only) | | both forms |
/// | [`fingerprint_header`](Self::fingerprint_header) | | method, path and query, `Content-Type`, body |
/// | [`max_body`](Self::max_body) | up to 64 MiB | 1 MiB |
/// | [`over_size`](Self::over_size) | | [`OverSize::Refuse`] |
/// | [`unsized_answers`](Self::unsized_answers) | | [`Unsized::Stream`] |
/// | [`replay_header`](Self::replay_header) | no fields of a connection, a caller or a moment | see there |
///
/// ```
/// use buttress::idempotency::{HttpIdempotencyBuilder, Idempotency, IdempotencyLayer, Scope};
/// use buttress::store::MemoryStore;
/// use http::Method;
/// // What all services of a program have in common.
/// fn settings<S>(layer: HttpIdempotencyBuilder<S>) -> HttpIdempotencyBuilder<S> {
///     layer.single_tenant().required().methods([Method::POST]).max_body(64 << 10)
/// }
/// let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
/// let layer = settings(IdempotencyLayer::http(gate)).build()?;
/// # let _ = layer;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct HttpIdempotencyBuilder<G> {
    gate: Idempotency<G>,
    tenant: Option<TenantOf>,
    derived: Option<KeyOf>,
    required: bool,
    methods: Vec<Method>,
    keys: KeyRules,
    fingerprinted: Vec<HeaderName>,
    max_body: usize,
    over_size: OverSize,
    unsized_answers: Unsized,
    replayed: Vec<HeaderName>,
}

impl<G> IdempotencyLayer<G, HttpExchange, Problem> {
    /// A layer for HTTP and gRPC servers that honours the `Idempotency-Key` header field.
    ///
    /// | the call | its answer |
    /// |---|---|
    /// | has no key | passed through; 400 if one is [required](HttpIdempotencyBuilder::required) |
    /// | has a bad key, several, or a key of nobody | 400 |
    /// | has a body that is too long | 413 |
    /// | breaks off in its body | 400 |
    /// | is the first with its key | executed, with `Idempotency-Status: stored` or `not-retained` |
    /// | has the key of another request, executed or not | 422 |
    /// | has a key that is being executed | 409 and `Retry-After`, or what the first gets if the gate [waits](super::super::InFlight::Wait) |
    /// | was executed | status, kept fields and body of then, with `Idempotency-Replayed: true` |
    /// | was executed, but its body was not kept | the same with an empty body and `Idempotency-Body: omitted`; in gRPC `ALREADY_EXISTS` |
    /// | was executed, but not even its header fields were kept | the status with an empty body, `Idempotency-Body: omitted` and `Idempotency-Head: omitted`; in gRPC `ALREADY_EXISTS` |
    /// | was interrupted, or its handler panicked or returned an error | 500: nobody knows |
    /// | comes while the store is down or full | 503; see [`Outage`](super::super::Outage) |
    /// | would be one claim of its tenant too many | 503 and `Retry-After`, if that is [limited](super::super::IdempotencyBuilder::max_pending_per_scope) |
    ///
    /// Refusals are problem documents, or gRPC's trailers if the call was gRPC. The error type of the service
    /// stays what it was.
    ///
    /// Every answer of the handler is recorded, whatever its status, since a 500 does not say that nothing
    /// happened; a handler that knows better says [`NotExecuted`](super::NotExecuted). Refusals of other
    /// layers must not come from inside, or they are recorded, too.
    ///
    /// The handler finds an [`EffectContext`](super::super::EffectContext) in the extensions of its request.
    ///
    /// ```
    /// use axum::Router;
    /// use axum::extract::Extension;
    /// use axum::routing::post;
    /// use buttress::idempotency::{EffectContext, Idempotency, IdempotencyLayer, Scope};
    /// use buttress::store::MemoryStore;
    ///
    /// #[derive(Clone)]
    /// struct Account(String); // put there by the layer that authenticates
    ///
    /// async fn pay(Extension(effect): Extension<EffectContext>) -> String {
    ///     // The bank drops duplicates by this key.
    ///     effect.derive_key("transfer")
    /// }
    ///
    /// let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// let layer = IdempotencyLayer::http(gate)
    ///     .tenant(|request| Some(Scope::tenant(&request.extensions.get::<Account>()?.0)))
    ///     .required()
    ///     .build()?;
    /// let app: Router = Router::new().route("/payments", post(pay)).layer(layer);
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn http(gate: Idempotency<G>) -> HttpIdempotencyBuilder<G> {
        HttpIdempotencyBuilder {
            gate,
            tenant: None,
            derived: None,
            required: false,
            methods: vec![Method::POST, Method::PATCH],
            keys: KeyRules { header: IDEMPOTENCY_KEY, length: 16..=255, quoted_only: false },
            fingerprinted: Vec::new(),
            max_body: 1 << 20,
            over_size: OverSize::default(),
            unsized_answers: Unsized::default(),
            replayed: Vec::new(),
        }
    }
}

impl<G> HttpIdempotencyBuilder<G> {
    /// Whose key it is. Take it from what authenticated the caller, further out, and never from what the
    /// request says of itself: whoever can choose the scope can read another's answers. With `None` the
    /// request is refused.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// # use buttress::store::MemoryStore;
    /// # let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// #[derive(Clone)]
    /// struct Account(u64);
    /// let layer = IdempotencyLayer::http(gate)
    ///     .tenant(|request| {
    ///         let account = request.extensions.get::<Account>()?;
    ///         Some(Scope::tenant(account.0.to_le_bytes()))
    ///     })
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn tenant<F>(mut self, tenant: F) -> Self
    where
        F: Fn(&Parts) -> Option<Scope> + Send + Sync + 'static,
    {
        self.tenant = Some(Arc::new(tenant));
        self
    }

    /// All callers share one space of keys: whoever knows a key can read its answer.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// # use buttress::store::MemoryStore;
    /// # let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// let layer = IdempotencyLayer::http(gate).single_tenant().build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn single_tenant(self) -> Self {
        self.tenant(|_| Some(Scope::global()))
    }

    /// Requests without a key are refused with 400.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// # use buttress::store::MemoryStore;
    /// # let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// let layer = IdempotencyLayer::http(gate).single_tenant().required().build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// The key of requests that bring none, for example the number that a webhook's sender gives each
    /// delivery. A derived key is never the same as a sent one. `None` is none.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// # use buttress::store::MemoryStore;
    /// # let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// let layer = IdempotencyLayer::http(gate)
    ///     .single_tenant()
    ///     .derive_key(|request| Some(request.headers.get("x-github-delivery")?.as_bytes().to_vec()))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn derive_key<F>(mut self, derive: F) -> Self
    where
        F: Fn(&Parts) -> Option<Vec<u8>> + Send + Sync + 'static,
    {
        self.derived = Some(Arc::new(derive));
        self
    }

    /// Which methods are covered; others pass through, key or not.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// # use buttress::store::MemoryStore;
    /// # let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// use http::Method;
    /// let layer = IdempotencyLayer::http(gate)
    ///     .single_tenant()
    ///     .methods([Method::POST, Method::PATCH, Method::DELETE])
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().collect();
        self
    }

    /// Another name for the header field. [`http::standard`](crate::http::standard) on the client's side knows
    /// only the usual one.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// # use buttress::store::MemoryStore;
    /// # let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// use http::HeaderName;
    /// let layer = IdempotencyLayer::http(gate)
    ///     .single_tenant()
    ///     .header(HeaderName::from_static("paypal-request-id"))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn header(mut self, name: HeaderName) -> Self {
        self.keys.header = name;
        self
    }

    /// How long keys are, in bytes without quotes. A short key is too easily drawn twice.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// # use buttress::store::MemoryStore;
    /// # let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// let layer = IdempotencyLayer::http(gate).single_tenant().key_length(1..=64).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn key_length(mut self, length: RangeInclusive<usize>) -> Self {
        self.keys.length = length;
        self
    }

    /// Keys must be structured-field strings, in quotes, as the IETF draft says.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// # use buttress::store::MemoryStore;
    /// # let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// let layer = IdempotencyLayer::http(gate).single_tenant().quoted_keys_only().build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn quoted_keys_only(mut self) -> Self {
        self.keys.quoted_only = true;
        self
    }

    /// A further header field that makes a request another one: the same key with another value of it is a
    /// mistake. Method, path and query, `Content-Type` and body always are.
    ///
    /// A router that shortens paths (axum's `nest`) must be inside the layer, or two of its routes look alike.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// # use buttress::store::MemoryStore;
    /// # let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// use http::HeaderName;
    /// let layer = IdempotencyLayer::http(gate)
    ///     .single_tenant()
    ///     .fingerprint_header(HeaderName::from_static("x-api-version"))
    ///     .build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn fingerprint_header(mut self, name: HeaderName) -> Self {
        self.fingerprinted.push(name);
        self
    }

    /// How long a request's body may be, in bytes. That much is held in memory for each call with a key
    /// until its handler has read it.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// # use buttress::store::MemoryStore;
    /// # let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// let layer = IdempotencyLayer::http(gate).single_tenant().max_body(64 * 1024).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// What happens to longer ones.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// # use buttress::store::MemoryStore;
    /// # let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// use buttress::idempotency::OverSize;
    /// let layer = IdempotencyLayer::http(gate).single_tenant().over_size(OverSize::Pass).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn over_size(mut self, policy: OverSize) -> Self {
        self.over_size = policy;
        self
    }

    /// What happens to answers that do not say how long they are.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// # use buttress::store::MemoryStore;
    /// # let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// use buttress::idempotency::Unsized;
    /// let grpc = IdempotencyLayer::http(gate).single_tenant().unsized_answers(Unsized::Buffer).build()?;
    /// # Ok::<(), buttress::ConfigError>(())
    /// ```
    pub fn unsized_answers(mut self, policy: Unsized) -> Self {
        self.unsized_answers = policy;
        self
    }

    /// A further field of answers that is kept and given again. These always are: `Content-Type`,
    /// `Content-Language`, `Content-Encoding`, `Content-Location`, `Location`, `ETag`, `Last-Modified`, `Link`,
    /// `Vary`, `Cache-Control`, `Retry-After`, and gRPC's own. `Set-Cookie` and others of one connection, one
    /// caller or one moment never are, and asking for them is an error.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// # use buttress::store::MemoryStore;
    /// # let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// use http::HeaderName;
    /// let builder = IdempotencyLayer::http(gate).single_tenant();
    /// let error = builder.replay_header(HeaderName::from_static("set-cookie")).build().unwrap_err();
    /// assert_eq!(error.field(), "replay_header");
    /// ```
    pub fn replay_header(mut self, name: HeaderName) -> Self {
        self.replayed.push(name);
        self
    }

    /// The layer. Its refusals are [problem documents](problem); change that with
    /// [`on_reject`](IdempotencyLayer::on_reject).
    ///
    /// # Errors
    /// No tenant, or a setting out of the range that the table above tells.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Scope};
    /// # use buttress::store::MemoryStore;
    /// let gate = Idempotency::new("payments", MemoryStore::default(), Scope::global());
    /// let error = IdempotencyLayer::http(gate).build().unwrap_err();
    /// assert_eq!(error.field(), "tenant");
    /// ```
    pub fn build(self) -> Result<IdempotencyLayer<G, HttpExchange, Problem>, ConfigError> {
        let tenant = self.tenant.ok_or_else(|| {
            let expected = "`tenant(|request| …)`, or `single_tenant()` written out";
            ConfigError::new("tenant", "none", expected)
        })?;
        let length = &self.keys.length;
        if length.is_empty() || *length.start() == 0 || *length.end() > 1024 {
            let value = format!("{length:?}");
            return Err(ConfigError::new("key_length", value, "a range within 1 to 1024"));
        }
        if self.methods.is_empty() {
            return Err(ConfigError::new("methods", "none", "at least one method"));
        }
        if self.max_body > 64 << 20 {
            return Err(ConfigError::new("max_body", self.max_body, "at most 64 MiB"));
        }
        let mut kept = KeptFields::default();
        for name in self.replayed {
            kept.add(name)?;
        }
        let exchange = HttpExchange {
            keys: self.keys,
            required: self.required,
            derived: self.derived,
            methods: self.methods,
            tenant,
            fingerprinted: self.fingerprinted,
            max_body: self.max_body,
            over_size: self.over_size,
            unsized_answers: self.unsized_answers,
            kept,
            counts_scopes: self.gate.counts_scopes(),
        };
        Ok(IdempotencyLayer::from_parts(self.gate, exchange, OnPanic::default(), problem()))
    }
}

impl<G> fmt::Debug for HttpIdempotencyBuilder<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpIdempotencyBuilder")
            .field("gate", &self.gate)
            .field("keys", &self.keys)
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}
