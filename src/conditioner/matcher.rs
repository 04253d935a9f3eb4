use std::fmt;
use std::hint::black_box;
use std::ops::Not;
use std::sync::Arc;

use crate::error::ConfigError;

use super::call::Call;

/// Which calls a rule is about.
///
/// ```
/// use buttress::conditioner::{Call, Matcher};
/// let slow_reads = Matcher::all([
///     Matcher::method("GET"),
///     Matcher::any_of([Matcher::path("/orders/*"), Matcher::path("/reports/**")]),
///     !Matcher::has_header("x-probe"),
/// ]);
/// assert!(slow_reads.matches(&Call::new().method("GET").path("/orders/7")));
/// assert!(!slow_reads.matches(&Call::new().method("GET").path("/orders/7/items")));
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(try_from = "super::wire::Matcher"))]
#[must_use]
pub struct Matcher(pub(super) Kind);

#[derive(Clone)]
pub(super) enum Kind {
    Everything,
    NameOrUrl(String),
    Method(String),
    Path(String),
    HasHeader(String),
    Header(String, String),
    Token(String, String),
    When(Predicate),
    All(Vec<Matcher>),
    Any(Vec<Matcher>),
    Not(Box<Matcher>),
}

type Predicate = Arc<dyn Fn(&Call<'_>) -> bool + Send + Sync>;

impl Matcher {
    /// Every call.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Matcher};
    /// assert!(Matcher::everything().matches(&Call::new()));
    /// ```
    pub const fn everything() -> Self {
        Self(Kind::Everything)
    }

    /// Calls whose name contains `part`, or, if they have no name, whose URL does. Upper and lower case
    /// differ. An empty `part` matches every call, one with something in it no call without both.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Matcher};
    /// let checkout = Matcher::name_or_url("/checkout");
    /// assert!(checkout.matches(&Call::new().url("http://shop/checkout/1")));
    /// assert!(!checkout.matches(&Call::new().name("/Checkout")));
    /// ```
    pub fn name_or_url(part: impl Into<String>) -> Self {
        Self(Kind::NameOrUrl(part.into()))
    }

    /// Calls with this method.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Matcher};
    /// assert!(!Matcher::method("GET").matches(&Call::new().method("POST")));
    /// ```
    pub fn method(method: impl Into<String>) -> Self {
        Self(Kind::Method(method.into()))
    }

    /// Calls with such a path. `*` is any one segment, `**` any number of them.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Matcher};
    /// let items = Matcher::path("/orders/*/items/**");
    /// assert!(items.matches(&Call::new().path("/orders/7/items")));
    /// assert!(items.matches(&Call::new().path("/orders/7/items/2/price")));
    /// assert!(!items.matches(&Call::new().path("/orders/items")));
    /// ```
    pub fn path(pattern: impl Into<String>) -> Self {
        Self(Kind::Path(pattern.into()))
    }

    /// Calls that have a header.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Matcher};
    /// assert!(Matcher::has_header("x-test").matches(&Call::new().headers(&[("X-Test", "")])));
    /// ```
    pub fn has_header(name: impl Into<String>) -> Self {
        Self(Kind::HasHeader(name.into()))
    }

    /// Calls whose header is just this.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Matcher};
    /// let canary = Matcher::header("x-version", "canary");
    /// assert!(canary.matches(&Call::new().headers(&[("x-version", "canary")])));
    /// ```
    pub fn header(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self(Kind::Header(name.into(), value.into()))
    }

    /// Calls that carry a secret in a header: test traffic that asks for faults. Compared in a time that
    /// does not depend on where the two differ, and never printed.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Matcher};
    /// let asked_for = Matcher::token("x-fault-token", "correct horse");
    /// assert!(!asked_for.matches(&Call::new().headers(&[("x-fault-token", "guess")])));
    /// assert!(!format!("{asked_for:?}").contains("correct horse"));
    /// ```
    pub fn token(header: impl Into<String>, secret: impl Into<String>) -> Self {
        Self(Kind::Token(header.into(), secret.into()))
    }

    /// Calls for which `f` says so.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Matcher};
    /// let short = Matcher::when(|call| call.get_path().is_some_and(|path| path.len() < 10));
    /// assert!(short.matches(&Call::new().path("/a")));
    /// ```
    pub fn when(f: impl Fn(&Call<'_>) -> bool + Send + Sync + 'static) -> Self {
        Self(Kind::When(Arc::new(f)))
    }

    /// Calls that all of them match.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Matcher};
    /// let m = Matcher::all([Matcher::method("GET"), Matcher::path("/a")]);
    /// assert!(!m.matches(&Call::new().method("GET")));
    /// ```
    pub fn all(matchers: impl IntoIterator<Item = Self>) -> Self {
        Self(Kind::All(matchers.into_iter().collect()))
    }

    /// Calls that one of them matches.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Matcher};
    /// let m = Matcher::any_of([Matcher::method("PUT"), Matcher::method("POST")]);
    /// assert!(m.matches(&Call::new().method("PUT")));
    /// ```
    pub fn any_of(matchers: impl IntoIterator<Item = Self>) -> Self {
        Self(Kind::Any(matchers.into_iter().collect()))
    }

    /// Whether it matches `call`.
    ///
    /// ```
    /// use buttress::conditioner::{Call, Matcher};
    /// assert!(!(!Matcher::everything()).matches(&Call::new()));
    /// ```
    #[must_use]
    pub fn matches(&self, call: &Call<'_>) -> bool {
        match &self.0 {
            Kind::Everything => true,
            Kind::NameOrUrl(part) => call.name_or_url_contains(part),
            Kind::Method(method) => call.get_method() == Some(method),
            Kind::Path(pattern) => call.get_path().is_some_and(|path| path_fits(pattern, path)),
            Kind::HasHeader(name) => call.get_header(name).is_some(),
            Kind::Header(name, value) => call.get_header(name) == Some(value.as_bytes()),
            Kind::Token(name, secret) => {
                call.get_header(name).is_some_and(|given| same(given, secret.as_bytes()))
            }
            Kind::When(f) => f(call),
            Kind::All(all) => all.iter().all(|matcher| matcher.matches(call)),
            Kind::Any(any) => any.iter().any(|matcher| matcher.matches(call)),
            Kind::Not(not) => !not.matches(call),
        }
    }

    /// Refuses what could never match, or would match what nobody meant.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let bad = |field, value: &str, expected: &'static str| {
            Err(ConfigError::new(field, format_args!("{value:?}"), expected))
        };
        match &self.0 {
            Kind::Everything | Kind::NameOrUrl(_) | Kind::When(_) => Ok(()),
            Kind::Method(method) if !is_token(method) => bad("method", method, "a method's name"),
            Kind::Path(pattern) if !pattern.starts_with('/') => {
                bad("path", pattern, "a pattern that begins with `/`")
            }
            Kind::Path(pattern) if pattern.contains(['?', '#']) => {
                bad("path", pattern, "a path without query")
            }
            Kind::HasHeader(name) | Kind::Header(name, _) | Kind::Token(name, _)
                if !is_token(name) =>
            {
                bad("header", name, "a header's name")
            }
            Kind::Token(_, secret) if secret.len() < 8 => {
                Err(ConfigError::new("token", "(not shown)", "at least 8 bytes"))
            }
            Kind::Method(_)
            | Kind::Path(_)
            | Kind::HasHeader(_)
            | Kind::Header(..)
            | Kind::Token(..) => Ok(()),
            Kind::All(several) | Kind::Any(several) => {
                if several.is_empty() {
                    return bad("matcher", "", "at least one matcher to combine");
                }
                several.iter().try_for_each(Self::check)
            }
            Kind::Not(not) => not.check(),
        }
    }
}

impl Default for Matcher {
    fn default() -> Self {
        Self::everything()
    }
}

impl Not for Matcher {
    type Output = Self;

    fn not(self) -> Self {
        match self.0 {
            Kind::Not(inner) => *inner,
            kind => Self(Kind::Not(Box::new(Self(kind)))),
        }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("everything"),
            Self::NameOrUrl(part) => write!(f, "name or URL has {part:?}"),
            Self::Method(method) => f.write_str(method),
            Self::Path(pattern) => f.write_str(pattern),
            Self::HasHeader(name) => write!(f, "has {name}"),
            // It may be a credential.
            Self::Header(name, _) => write!(f, "{name}: (value)"),
            Self::Token(name, _) => write!(f, "{name}: (secret)"),
            Self::When(_) => f.write_str("when(..)"),
            Self::All(all) => f.debug_tuple("all").field(all).finish(),
            Self::Any(any) => f.debug_tuple("any").field(any).finish(),
            Self::Not(not) => write!(f, "not {not:?}"),
        }
    }
}

/// The length is no secret.
fn same(given: &[u8], secret: &[u8]) -> bool {
    given.len() == secret.len()
        && black_box(given.iter().zip(secret).fold(0, |differ, (a, b)| differ | (a ^ b))) == 0
}

/// RFC 9110, section 5.6.2: the characters of a token.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn path_fits(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('/').peekable(), path.split('/'));
    // Where to go on after the last `**` has swallowed one segment more.
    let mut again = None;
    loop {
        let matched = match (pattern.next(), path.clone().next()) {
            (None, None) => return true,
            (Some("**"), _) if pattern.peek().is_none() => return true,
            (Some("**"), _) => {
                again = Some((pattern.clone(), path.clone()));
                continue;
            }
            (Some("*"), Some(segment)) => !segment.is_empty(),
            (Some(wanted), Some(segment)) => wanted == segment,
            (None, Some(_)) | (Some(_), None) => false,
        };
        if matched {
            path.next();
            continue;
        }
        let Some((pattern_again, path_again)) = &mut again else { return false };
        if path_again.next().is_none() {
            return false;
        }
        pattern = pattern_again.clone();
        path = path_again.clone();
    }
}
