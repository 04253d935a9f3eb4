//! Errors known only by their text or their name, as they come from logs, scripts and other languages.

use std::error::Error as StdError;

use crate::classify::judge_error;
use crate::outcome::{FailureClass, Outcome};

/// Whether an error, known only by its text, may go away by itself. An empty or missing text may.
///
/// Final are: texts that speak of permission, authentication, validation or a missing thing (whole
/// words and phrases, in any case, also inside names like `HTTPNotFound` and `PERMISSION_DENIED`), HTTP
/// status codes of that kind, and the names of programming errors. A number is a status code if it stands
/// alone and follows a word like "HTTP", "status" or "error", or begins or ends the text. "10.0.0.1:404
/// refused", "line 403: timeout", "took 404.5 ms", "invalidated cache" and "host not found" are not final.
///
/// A text is a poor witness; prefer a [`Classify`](crate::Classify) over the error itself.
///
/// ```
/// use buttress::retry::is_retryable_error;
/// assert!(is_retryable_error("connection timeout"));
/// assert!(is_retryable_error("rate limit exceeded"));
/// assert!(is_retryable_error(None));
/// assert!(!is_retryable_error("unauthorized"));
/// assert!(!is_retryable_error("invalid input"));
/// assert!(!is_retryable_error("HTTP 404"));
/// assert!(is_retryable_error("timeout after 4040 ms"));
/// ```
#[must_use]
pub fn is_retryable_error<'a>(error: impl Into<Option<&'a str>>) -> bool {
    error.into().is_none_or(|text| !is_final(text))
}

/// Texts longer than this are judged by their beginning: an error page can have megabytes.
const LONGEST: usize = 4096;

fn is_final(text: &str) -> bool {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text[..end];
    let words = Words::of(text);
    let has = |phrase: &str| words.find(phrase).is_some();
    FINAL_PHRASES.iter().any(|phrase| has(phrase)) || missing(&words) || words.has_final_status()
}

const FINAL_PHRASES: &[&str] = &[
    // Permission and authentication.
    "permission",
    "permissions",
    "unauthorized",
    "unauthorised",
    "unauthenticated",
    "forbidden",
    "access denied",
    "authentication error",
    "authentication failed",
    "authentication failure",
    "authentication required",
    "authorization error",
    "authorization failed",
    "authorization failure",
    "bad credentials",
    "token expired",
    "expired token",
    "token has expired",
    "certificate verify failed",
    "blocked by policy",
    // Validation.
    "invalid",
    "bad request",
    "unprocessable entity",
    "unprocessable content",
    "validation error",
    "validation errors",
    "validation failed",
    "validation failure",
    // Things that are not there.
    "notfound",
    "unimplemented",
    "not implemented",
    "method not allowed",
    // Programming errors by name, which a repetition does not mend.
    "type error",
    "key error",
    "value error",
    "index error",
    "attribute error",
    "name error",
    "syntax error",
];

/// "not found", except that of a name server: names come back.
fn missing(words: &Words) -> bool {
    let mut from = 0;
    while let Some(at) = words.find_from("not found", from) {
        let before = words.text[..at].trim_end();
        let before = before.rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        if !matches!(before, "host" | "hostname" | "domain" | "nameserver" | "dns") {
            return true;
        }
        from = at + 1;
    }
    false
}

/// A text in lower case, `_` and `-` as spaces and `CamelCase` taken apart.
struct Words {
    text: String,
}

impl Words {
    fn of(text: &str) -> Self {
        let mut out = String::with_capacity(text.len() + 8);
        let (mut before_lower, mut before_upper) = (false, false);
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '_' || c == '-' {
                out.push(' ');
            } else {
                // `NotFound`, and the end of the capitals in `HTTPNotFound`.
                let begins = c.is_ascii_uppercase()
                    && (before_lower
                        || before_upper && chars.peek().is_some_and(char::is_ascii_lowercase));
                if begins {
                    out.push(' ');
                }
                out.extend(c.to_lowercase());
            }
            (before_lower, before_upper) = (c.is_ascii_lowercase(), c.is_ascii_uppercase());
        }
        Self { text: out }
    }

    fn find(&self, phrase: &str) -> Option<usize> {
        self.find_from(phrase, 0)
    }

    /// Where `phrase` stands between word boundaries, at or after `from`.
    fn find_from(&self, phrase: &str, from: usize) -> Option<usize> {
        let text = &self.text;
        text.get(from..)?.match_indices(phrase).map(|(at, _)| from + at).find(|at| {
            let before = text[..*at].chars().next_back();
            let after = text[at + phrase.len()..].chars().next();
            !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
        })
    }

    /// Whether one of the numbers is an HTTP status that no repetition mends. Most numbers are not: a whole
    /// token is one if it follows a word like `status`, is followed by one like `error`, or stands at either
    /// end of the text, and nothing says that it counts something.
    fn has_final_status(&self) -> bool {
        let mut words: Vec<(usize, &str)> = vec![];
        for word in self.text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
            words.push((word.as_ptr().addr() - self.text.as_ptr().addr(), word));
        }
        (0..words.len()).any(|n| self.is_final_status(&words, n))
    }

    fn is_final_status(&self, words: &[(usize, &str)], n: usize) -> bool {
        let (at, word) = words[n];
        if let Some(status) = word.strip_prefix("http") {
            return FINAL_STATUS.contains(&status);
        }
        if !FINAL_STATUS.contains(&word) {
            return false;
        }
        let next = words.get(n + 1).map(|(_, word)| *word);
        if next.is_some_and(|unit| UNITS.contains(&unit)) {
            return false;
        }
        // 404.5, 404:12, 404%
        let mut after = self.text[at + word.len()..].chars();
        match after.next() {
            Some('%') => return false,
            Some('.' | ',' | ':' | '/') if after.next().is_some_and(char::is_alphanumeric) => {
                return false;
            }
            _ => {}
        }
        // `status code is 404`, `HTTP/1.1 404`
        let said = words[..n]
            .iter()
            .rev()
            .map(|(_, word)| *word)
            .find(|word| !FILLERS.contains(word) && !matches!(*word, "0" | "1" | "2" | "3"));
        if said.is_some_and(|word| BEFORE_STATUS.contains(&word)) {
            return true;
        }
        // 10.0.0.1:404, /items/404, #404
        if self.text[..at].ends_with(['.', ',', ':', '/', '#', '=', '@', '+', '$', '&']) {
            return false;
        }
        if next.is_some_and(|word| matches!(word, "error" | "response" | "status")) || n == 0 {
            return true;
        }
        next.is_none() && !COUNTED.contains(&words[n - 1].1)
    }
}

const FINAL_STATUS: &[&str] = &[
    "400", "401", "402", "403", "404", "405", "406", "410", "411", "413", "414", "415", "422",
    "451", "501", "505",
];

/// What comes between them and a status.
const FILLERS: &[&str] = &["is", "was", "of", "a", "an", "the", "with", "by"];

const BEFORE_STATUS: &[&str] = &[
    "http",
    "https",
    "status",
    "statuscode",
    "code",
    "error",
    "err",
    "exception",
    "response",
    "returned",
    "returns",
    "responded",
    "replied",
    "answered",
    "got",
    "received",
    "said",
    "failed",
];

/// Words before a number that is not a status.
const COUNTED: &[&str] = &[
    "line", "port", "row", "column", "page", "step", "offset", "id", "pid", "number", "no",
    "attempt", "retry", "order", "job", "task", "item", "in", "after", "took", "waited", "for",
    "at", "of", "until", "by", "to", "from", "than", "size", "length",
];

const UNITS: &[&str] = &[
    "ns",
    "us",
    "ms",
    "s",
    "sec",
    "secs",
    "second",
    "seconds",
    "millis",
    "milliseconds",
    "micros",
    "microseconds",
    "minutes",
    "bytes",
    "kb",
    "mb",
    "kib",
    "mib",
    "rows",
    "items",
    "times",
    "retries",
    "attempts",
    "requests",
    "connections",
];

/// The class of an error: that of the first error it knows in the `source()` chain (see
/// [`judge_error`]). An error it does not know, and a refusal of our own, is transient.
///
/// ```
/// use buttress::{FailureClass, retry::classify_error};
/// use std::io;
/// let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
/// assert_eq!(classify_error(&refused), FailureClass::Transient);
/// let denied = io::Error::from(io::ErrorKind::PermissionDenied);
/// assert_eq!(classify_error(&denied), FailureClass::Permanent);
/// ```
#[must_use]
pub fn classify_error(error: &(dyn StdError + 'static)) -> FailureClass {
    match judge_error(error).outcome {
        Outcome::Failure(class) => class,
        _ => FailureClass::Transient,
    }
}

/// The class of an error known only by the name of its type, as other languages report it. Module paths
/// are left out (`requests.exceptions.ReadTimeout`, `io::TimedOut`).
///
/// Transient are the names of broken connections and timeouts of the common Python clients and their
/// standard library, subclasses included; flaky are failed assertions and unreadable JSON; everything
/// else is permanent, because an unknown name is more often a bug than the network. (For errors with
/// more than a name see [`classify_error`].)
///
/// ```
/// use buttress::{FailureClass, retry::classify_error_name};
/// assert_eq!(classify_error_name("ReadTimeout"), FailureClass::Transient);
/// assert_eq!(classify_error_name("BrokenPipeError"), FailureClass::Transient);
/// assert_eq!(classify_error_name("JSONDecodeError"), FailureClass::Flaky);
/// assert_eq!(classify_error_name("ValueError"), FailureClass::Permanent);
/// ```
#[must_use]
pub fn classify_error_name(name: &str) -> FailureClass {
    let name = name.trim();
    let last = name.rsplit(['.', ':']).next().unwrap_or(name);
    if TRANSIENT_NAMES.contains(&last) {
        FailureClass::Transient
    } else if matches!(last, "AssertionError" | "JSONDecodeError") {
        FailureClass::Flaky
    } else {
        FailureClass::Permanent
    }
}

const TRANSIENT_NAMES: &[&str] = &[
    "ConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "Timeout",
    "ConnectionResetError",
    "ConnectionRefusedError",
    "TimeoutError",
    "RemoteDisconnected",
    "ProtocolError",
    // Subclasses of the above and their like in other clients.
    "BrokenPipeError",
    "ConnectionAbortedError",
    "gaierror",
    "IncompleteRead",
    "ChunkedEncodingError",
    "ProxyError",
    "NewConnectionError",
    "NameResolutionError",
    "MaxRetryError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "TimeoutException",
    "NetworkError",
    "TransportError",
    "ConnectError",
    "ReadError",
    "WriteError",
    "CloseError",
    "PoolTimeout",
    "WriteTimeout",
    "RemoteProtocolError",
    "ServerDisconnectedError",
    "ServerTimeoutError",
    "ClientConnectorError",
    "ClientConnectionError",
    "ClientOSError",
    // Rust's `io::ErrorKind`.
    "ConnectionRefused",
    "ConnectionReset",
    "ConnectionAborted",
    "NotConnected",
    "BrokenPipe",
    "TimedOut",
    "UnexpectedEof",
];
