use std::fmt;

use super::draw;

/// What the rules see of a call: borrowed, and only what is there.
///
/// ```
/// use buttress::conditioner::{Call, Matcher};
/// let call = Call::new().url("http://shop/checkout?x=1").method("POST");
/// assert!(Matcher::name_or_url("/checkout").matches(&call));
/// assert!(Matcher::path("/checkout").matches(&call));
/// // The name wins over the URL.
/// assert!(!Matcher::name_or_url("/checkout").matches(&call.name("pay")));
/// ```
#[derive(Clone, Copy, Default)]
#[must_use]
pub struct Call<'a> {
    name: Option<&'a str>,
    url: Option<Url<'a>>,
    method: Option<&'a str>,
    path: Option<&'a str>,
    headers: Headers<'a>,
    id: Option<u64>,
    attempt: u32,
}

#[derive(Clone, Copy)]
enum Url<'a> {
    Text(&'a str),
    #[cfg(feature = "http")]
    Uri(&'a ::http::Uri),
}

#[derive(Clone, Copy, Default)]
enum Headers<'a> {
    #[default]
    None,
    Pairs(&'a [(&'a str, &'a str)]),
    #[cfg(feature = "http")]
    Map(&'a ::http::HeaderMap),
}

impl<'a> Call<'a> {
    /// Nothing is known. Only rules that match everything, or by a closure, apply.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Matcher};
    /// assert!(Matcher::everything().matches(&Call::new()));
    /// ```
    pub const fn new() -> Self {
        Self {
            name: None,
            url: None,
            method: None,
            path: None,
            headers: Headers::None,
            id: None,
            attempt: 0,
        }
    }

    /// What the caller calls it. An empty name is none.
    ///
    /// ```
    /// use buttress::conditioner::Call;
    /// assert_eq!(Call::new().name("checkout").get_name(), Some("checkout"));
    /// ```
    pub const fn name(mut self, name: &'a str) -> Self {
        self.name = Some(name);
        self
    }

    /// The URL, whole or only from the path on.
    ///
    /// ```
    /// use buttress::conditioner::Call;
    /// assert_eq!(Call::new().url("http://shop/checkout?x=1").get_path(), Some("/checkout"));
    /// ```
    pub const fn url(mut self, url: &'a str) -> Self {
        self.url = Some(Url::Text(url));
        self
    }

    /// The method.
    ///
    /// ```
    /// use buttress::conditioner::Call;
    /// assert_eq!(Call::new().method("GET").get_method(), Some("GET"));
    /// ```
    pub const fn method(mut self, method: &'a str) -> Self {
        self.method = Some(method);
        self
    }

    /// The path, where it is not that of the URL.
    ///
    /// ```
    /// use buttress::conditioner::Call;
    /// assert_eq!(Call::new().path("/checkout").get_path(), Some("/checkout"));
    /// ```
    pub const fn path(mut self, path: &'a str) -> Self {
        self.path = Some(path);
        self
    }

    /// Headers, or what stands for them.
    ///
    /// ```
    /// use buttress::conditioner::Call;
    /// let call = Call::new().headers(&[("X-Test", "yes")]);
    /// assert_eq!(call.get_header("x-test"), Some(&b"yes"[..]));
    /// ```
    pub const fn headers(mut self, headers: &'a [(&'a str, &'a str)]) -> Self {
        self.headers = Headers::Pairs(headers);
        self
    }

    /// The number of the request. The same number always meets the same faults, whenever and on whichever
    /// thread it comes; without one the rules count calls. For ids that are text see [`request_id`].
    ///
    /// ```
    /// use buttress::conditioner::Call;
    /// let call = Call::new().id(4711);
    /// ```
    pub const fn id(mut self, id: u64) -> Self {
        self.id = Some(id);
        self
    }

    /// Which attempt of the request it is. Without it all attempts of a request meet the same faults.
    ///
    /// ```
    /// use buttress::conditioner::Call;
    /// let retried = Call::new().id(4711).attempt(2);
    /// ```
    pub const fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// The name, if there is one.
    ///
    /// ```
    /// use buttress::conditioner::Call;
    /// assert_eq!(Call::new().name("").get_name(), None);
    /// ```
    #[must_use]
    pub fn get_name(&self) -> Option<&'a str> {
        self.name.filter(|name| !name.is_empty())
    }

    /// The method, if it is known.
    ///
    /// ```
    /// assert_eq!(buttress::conditioner::Call::new().get_method(), None);
    /// ```
    #[must_use]
    pub const fn get_method(&self) -> Option<&'a str> {
        self.method
    }

    /// The path, given or found in the URL, without the query.
    ///
    /// ```
    /// use buttress::conditioner::Call;
    /// assert_eq!(Call::new().url("https://shop").get_path(), Some("/"));
    /// ```
    #[must_use]
    pub fn get_path(&self) -> Option<&'a str> {
        if self.path.is_some() {
            return self.path;
        }
        match self.url? {
            Url::Text(url) => Some(path_of(url)),
            #[cfg(feature = "http")]
            Url::Uri(uri) => Some(uri.path()),
        }
    }

    /// The first header of this name.
    ///
    /// ```
    /// assert_eq!(buttress::conditioner::Call::new().get_header("host"), None);
    /// ```
    #[must_use]
    pub fn get_header(&self, name: &str) -> Option<&'a [u8]> {
        match self.headers {
            Headers::None => None,
            Headers::Pairs(pairs) => pairs
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.as_bytes()),
            #[cfg(feature = "http")]
            Headers::Map(map) => map.get(name).map(::http::HeaderValue::as_bytes),
        }
    }

    /// What decisions about this call are keyed by, if not by a count.
    pub(super) const fn key(&self) -> Option<u64> {
        match (self.id, self.attempt) {
            (Some(id), 0) => Some(id),
            (Some(id), attempt) => Some(draw::join(id, attempt as u64)),
            (None, _) => None,
        }
    }

    /// Whether the name, or the URL if there is no name, contains `part`.
    pub(super) fn name_or_url_contains(&self, part: &str) -> bool {
        if let Some(name) = self.get_name() {
            return name.contains(part);
        }
        match self.url {
            None => part.is_empty(),
            Some(Url::Text(url)) => url.contains(part),
            #[cfg(feature = "http")]
            Some(Url::Uri(uri)) => uri_contains(uri, part),
        }
    }
}

#[cfg(feature = "http")]
impl<'a> Call<'a> {
    /// An HTTP request: URL, method, path and headers.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Matcher};
    /// let request = http::Request::get("http://shop/checkout").body(()).unwrap();
    /// assert!(Matcher::name_or_url("shop/check").matches(&Call::of(&request)));
    /// ```
    pub fn of<B>(request: &'a ::http::Request<B>) -> Self {
        Self {
            url: Some(Url::Uri(request.uri())),
            method: Some(request.method().as_str()),
            headers: Headers::Map(request.headers()),
            ..Self::new()
        }
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers may hold secrets.
        f.debug_struct("Call")
            .field("name", &self.name)
            .field("method", &self.method)
            .field("path", &self.get_path())
            .field("id", &self.id)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

fn path_of(url: &str) -> &str {
    let after = match url.split_once("://") {
        Some((_, rest)) => rest.find(['/', '?', '#']).map_or("", |at| &rest[at..]),
        None => url,
    };
    let path = after.split(['?', '#']).next().unwrap_or_default();
    if path.is_empty() { "/" } else { path }
}

/// A server's requests have a path and nothing else; others are written out, on the stack if they fit.
#[cfg(feature = "http")]
fn uri_contains(uri: &::http::Uri, part: &str) -> bool {
    use fmt::Write;

    struct Line {
        bytes: [u8; 512],
        len: usize,
    }
    impl Write for Line {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let end = self.len + text.len();
            self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
            self.len = end;
            Ok(())
        }
    }

    if uri.scheme().is_none()
        && uri.authority().is_none()
        && let Some(all) = uri.path_and_query()
    {
        return all.as_str().contains(part);
    }
    let mut line = Line { bytes: [0; 512], len: 0 };
    if write!(line, "{uri}").is_ok()
        && let Ok(text) = std::str::from_utf8(&line.bytes[..line.len])
    {
        return text.contains(part);
    }
    uri.to_string().contains(part)
}

/// The number of a request whose id is text; the same on every machine.
///
/// ```
/// use buttress::conditioner::request_id;
/// assert_ne!(request_id("a1"), request_id("a2"));
/// ```
#[must_use]
pub fn request_id(id: impl AsRef<[u8]>) -> u64 {
    draw::text(id.as_ref())
}

/// Tells the rules of a layer what they can see of a request.
///
/// Closures `for<'a> Fn(&'a Req) -> Call<'a>` are used through
/// [`ConditionerLayer::describe`](super::ConditionerLayer::describe). Nothing is described while nothing is
/// injected.
///
/// ```
/// use buttress::conditioner::{Call, Describe};
/// #[derive(Clone)]
/// struct ByQueue;
/// impl Describe<(String, Vec<u8>)> for ByQueue {
///     fn describe<'a>(&self, job: &'a (String, Vec<u8>)) -> Call<'a> {
///         Call::new().name(&job.0)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot describe requests of type `{Req}`",
    note = "use `.describe(|request: &{Req}| Call::new().name(...))`"
)]
pub trait Describe<Req> {
    /// What is known of `req`.
    fn describe<'a>(&self, req: &'a Req) -> Call<'a>;
}

/// Knows nothing of a request. The default.
///
/// ```
/// use buttress::conditioner::{Describe, Unnamed};
/// assert_eq!(Unnamed::default().describe(&7).get_name(), None);
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Unnamed;

impl<Req> Describe<Req> for Unnamed {
    #[inline]
    fn describe<'a>(&self, _: &'a Req) -> Call<'a> {
        Call::new()
    }
}

/// See [`ConditionerLayer::describe`](super::ConditionerLayer::describe).
///
/// ```
/// use buttress::conditioner::{Call, Conditioner, ConditionerLayer, DescribeFn};
/// use std::time::Duration;
/// // With a function instead of a closure the type can be written.
/// struct Client {
///     faults: ConditionerLayer<DescribeFn<for<'a> fn(&'a String) -> Call<'a>>>,
/// }
/// fn by_name(job: &String) -> Call<'_> {
///     Call::new().name(job)
/// }
/// let slow = Conditioner::network(Duration::from_millis(50), Duration::ZERO, 0.0, None)?;
/// let by_name: for<'a> fn(&'a String) -> Call<'a> = by_name;
/// let client = Client { faults: ConditionerLayer::new(slow).describe(by_name) };
/// # let _ = client.faults;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy)]
pub struct DescribeFn<F>(pub(super) F);

impl<F> fmt::Debug for DescribeFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DescribeFn")
    }
}

impl<Req, F> Describe<Req> for DescribeFn<F>
where
    F: for<'a> Fn(&'a Req) -> Call<'a>,
{
    fn describe<'a>(&self, req: &'a Req) -> Call<'a> {
        (self.0)(req)
    }
}

/// See [`ConditionerLayer::request_id`](super::ConditionerLayer::request_id).
///
/// ```
/// use buttress::conditioner::{Conditioner, ConditionerLayer, Unnamed, WithId};
/// use std::time::Duration;
/// // With a function instead of a closure the type can be written.
/// struct Client {
///     faults: ConditionerLayer<WithId<Unnamed, fn(&u64) -> Option<u64>>>,
/// }
/// let slow = Conditioner::network(Duration::from_millis(50), Duration::ZERO, 0.0, None)?;
/// let client = Client { faults: ConditionerLayer::new(slow).request_id(|job| Some(*job)) };
/// # let _ = client.faults;
/// # Ok::<(), buttress::ConfigError>(())
/// ```
#[derive(Clone, Copy)]
pub struct WithId<D, F> {
    pub(super) describe: D,
    pub(super) id: F,
}

impl<D: fmt::Debug, F> fmt::Debug for WithId<D, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithId").field("describe", &self.describe).finish_non_exhaustive()
    }
}

impl<Req, D, F> Describe<Req> for WithId<D, F>
where
    D: Describe<Req>,
    F: Fn(&Req) -> Option<u64>,
{
    fn describe<'a>(&self, req: &'a Req) -> Call<'a> {
        let call = self.describe.describe(req);
        match (self.id)(req) {
            Some(id) => call.id(id),
            None => call,
        }
    }
}

/// Describes HTTP requests by [`Call::of`]; see [`ConditionerLayer::http`](super::ConditionerLayer::http).
///
/// ```
/// use buttress::conditioner::{Describe, HttpCalls};
/// let request = http::Request::get("/orders").body(()).unwrap();
/// let call = HttpCalls::default().describe(&request);
/// ```
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct HttpCalls;

#[cfg(feature = "http")]
impl<B> Describe<::http::Request<B>> for HttpCalls {
    #[inline]
    fn describe<'a>(&self, req: &'a ::http::Request<B>) -> Call<'a> {
        Call::of(req)
    }
}
